//! `report`: writes the reconciliation report to standard output or into a file.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{CommandContext, terminal};
use crate::audit::AuditRequest;
use crate::config::ReportFormat;
use crate::db::OpenMode;
use crate::export::Target;
use crate::report;

#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// Only segments that ended at or after this time
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only segments that ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Output format [default: by the ending of the file's name, else text]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
    /// Do not verify the archive, which reads all of it
    #[arg(long)]
    no_verify: bool,
    /// Write to this file, atomically [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Writes the report; returns exit status 0 only if nothing is missing, unexplained or altered.
pub(crate) async fn run(args: ReportArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let (from, to) = context.parse_range(args.from.as_deref(), args.to.as_deref())?;
    let settings = context.settings()?;
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    let format = args.format.or_else(|| file.and_then(format_of)).unwrap_or_default();
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let account = context.find_account(&db, args.account.as_deref()).await?;
    let account = account.map(|account| account.id.sub.to_string());
    let request = AuditRequest::new(settings, from, to, account, context.clock.now());
    let report = report::build_report(&db, &request, !args.no_verify).await?;
    db.close().await;
    let text = report.render(format)?;
    match file {
        Some(path) => {
            let mut target = Target::file(path)?;
            target.write_all(text.as_bytes()).with_context(|| format!("failed to write {}", path.display()))?;
            target.finish()?;
            terminal::print_stderr(&format!("wrote the report to {}", path.display()));
        }
        None => terminal::print_stdout(&text)?,
    }
    Ok(u8::from(!report.complete))
}

/// The format that the ending of a file's name suggests.
fn format_of(path: &Path) -> Option<ReportFormat> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    [ReportFormat::Text, ReportFormat::Json, ReportFormat::Html].into_iter().find(|of| of.extension() == extension)
}
