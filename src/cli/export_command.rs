//! `export`: streams the archive to standard output or into a file.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::builder::TypedValueParser;
use indicatif::ProgressBar;
use regex::Regex;

use super::terminal::{self, Stdout};
use super::{CommandContext, human_format, named_values};
use crate::access::{AccessAction, AccessSubject};
use crate::config::RedactionRule;
use crate::db::{Db, ExportRange, OpenMode};
use crate::error::UserError;
use crate::export::{self, ExportFormat, Selection, Target};
use crate::redact::Redactor;

/// The progress bar's template.
const PROGRESS_TEMPLATE: &str = "{spinner} {wide_bar} {human_pos}/{human_len} segments, {per_sec}, {eta} left";

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Output format
    #[arg(long, value_enum, default_value = "jsonl")]
    pub(crate) format: ExportFormat,
    /// With `--format csv`: make all cells safe for Excel and other spreadsheets: no formulas, and
    /// no cell too long
    #[arg(long)]
    pub(crate) excel: bool,
    /// Segments that ended at or after this time
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Segments that ended before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
    /// Only segments that changed since an earlier export, given by the number that it printed last
    /// on standard error
    #[arg(long, value_name = "NUMBER")]
    pub(crate) changed_since: Option<i64>,
    /// Redact these in texts, metadata and summaries; the archive is not changed
    #[arg(long, value_parser = redaction_rules(), value_name = "KIND", value_delimiter = ',')]
    pub(crate) redact: Vec<RedactionRule>,
    #[arg(long, value_name = "NAME=REGEX", help = "Replace every match of a regular expression by [NAME]")]
    pub(crate) redact_pattern: Vec<String>,
    /// Write to this file, atomically, and compressed if its name ends in .zst [default: standard
    /// output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

fn redaction_rules() -> impl TypedValueParser<Value = RedactionRule> {
    named_values([
        ("card", "Payment card numbers", RedactionRule::Card),
        ("email", "E-mail addresses", RedactionRule::Email),
        ("phone", "Telephone numbers", RedactionRule::Phone),
    ])
}

pub(crate) async fn run(args: ExportArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let (from, to) = context.parse_range(args.from.as_deref(), args.to.as_deref())?;
    let redactor = build_redactor(&args.redact, &args.redact_pattern)?;
    let format = match (args.format, args.excel) {
        (ExportFormat::Csv, true) => ExportFormat::CsvForExcel,
        (_, true) => {
            let error = UserError::usage("failed to export: --excel requires CSV");
            bail!(error.with_hint("add `--format csv`, or remove --excel"));
        }
        (format, false) => format,
    };
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if format.is_precompressed() && file.is_none() && terminal::is_terminal() {
        let error = UserError::usage("refusing to write Parquet to a terminal");
        bail!(error.with_hint("name a file with --output, or redirect standard output"));
    }
    let db = context.open_database(OpenMode::Existing).await?;
    let account = context.find_account(&db, args.account.as_deref()).await?;
    let range = ExportRange { from, to, account: account.as_ref().map(|account| account.key) };
    let total = db.count_segments(range).await?;
    let sub = account.as_ref().map(|account| &*account.id.sub);
    let subject = AccessSubject::Query { text: &describe_export(&args), sub, hits: total };
    context.record_access(&db, AccessAction::Export, subject).await?;
    let selection = Selection { range, since: find_export_cursor(&db, args.changed_since).await?, redactor };
    let target = match file {
        Some(path) if format.is_precompressed() => Target::precompressed_file(path)?,
        Some(path) => Target::file(path)?,
        None => Target::stream(Stdout),
    };
    // Taken before the first read, so that the next export includes all later changes.
    let cursor = db.create_export_cursor(context.clock.now()).await;
    let bar = match file {
        Some(_) => terminal::progress_bar(total, PROGRESS_TEMPLATE),
        None => ProgressBar::hidden(),
    };
    // An interrupt must not leave an incomplete file.
    let count = tokio::select! {
        count = write_target(&db, &selection, format, target, &bar) => match file {
            Some(path) => count.map_err(|error| Target::explain_error(error, path))?,
            None => count?,
        },
        _ = tokio::signal::ctrl_c() => bail!("interrupted: the export is not complete"),
    };
    bar.finish_and_clear();
    db.close().await;
    if let Some(path) = file {
        terminal::print_stderr(&format!(
            "exported {} to {}",
            human_format::format_count(count, "segment"),
            path.display()
        ));
    }
    match cursor {
        Ok(number) => terminal::print_stderr(&format!("for later changes use --changed-since {number}")),
        Err(error) => terminal::print_stderr(&format!("warning: no number for --changed-since is available: {error}")),
    }
    Ok(0)
}

/// The selection, for the access log.
fn describe_export(args: &ExportArgs) -> String {
    let mut text = "export".to_owned();
    for (name, value) in [("from", &args.from), ("to", &args.to)] {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    if let Some(number) = args.changed_since {
        text.push_str(&format!(" changed_since={number}"));
    }
    if !args.redact.is_empty() || !args.redact_pattern.is_empty() {
        text.push_str(" redacted");
    }
    text
}

async fn write_target(
    db: &Db,
    selection: &Selection,
    format: ExportFormat,
    mut target: Target,
    bar: &ProgressBar,
) -> anyhow::Result<u64> {
    let count = export::write_export(db, selection, format, &mut target, &mut |written| bar.inc(written)).await?;
    target.finish()?;
    Ok(count)
}

async fn find_export_cursor(db: &Db, number: Option<i64>) -> anyhow::Result<Option<crate::db::ExportCursor>> {
    let Some(number) = number else { return Ok(None) };
    match db.export_cursor(number).await? {
        Some(mark) => Ok(Some(mark)),
        None => {
            let what = "is not a number of a recent export from this database";
            let error = UserError::usage(format!("invalid --changed-since: {number} {what}"));
            bail!(error.with_hint(
                "export without it once, and use the number that is printed last; 0 stands for the beginning"
            ))
        }
    }
}

fn build_redactor(kinds: &[RedactionRule], patterns: &[String]) -> Result<Redactor, UserError> {
    let mut rules = kinds.to_vec();
    for argument in patterns {
        let failed = |why: &str| {
            UserError::usage(format!("invalid --redact-pattern {argument}: {why}"))
                .with_hint("give a name and a regular expression, such as 'order=ORD-\\d+'")
        };
        let Some((name, pattern)) = argument.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            return Err(failed("it has no name"));
        };
        match Regex::new(pattern) {
            Ok(pattern) if pattern.is_match("") => {
                return Err(failed("it matches the empty string, which occurs everywhere"));
            }
            Ok(pattern) => rules.push(RedactionRule::Pattern { name: name.trim().to_owned(), pattern }),
            Err(error) => {
                let text = error.to_string();
                let why =
                    text.lines().rev().find_map(|line| line.trim().strip_prefix("error: ")).unwrap_or("too large");
                return Err(failed(&format!("it is not a regular expression: {why}")));
            }
        }
    }
    Ok(Redactor::new(&rules))
}
