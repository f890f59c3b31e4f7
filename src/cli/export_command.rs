//! `export`: streams the archive to standard output or into a file.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::builder::TypedValueParser;
use indicatif::ProgressBar;
use regex::Regex;

use super::filter_args::{FilterArgs, account_names};
use super::terminal::{self, Stdout};
use super::{CommandContext, human_format, named_values};
use crate::access::{AccessAction, AccessSubject};
use crate::config::RedactionRule;
use crate::db::{Db, EXPORT_ERASURE_RETENTION, OpenMode};
use crate::error::UserError;
use crate::export::{self, ExportFormat, ExportSummary, Selection, Table, Target};
use crate::redact::Redactor;

/// The progress bar's template.
const PROGRESS_TEMPLATE: &str = "{spinner} {wide_bar} {human_pos}/{human_len} segments, {per_sec}, {eta} left";

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Output format
    #[arg(long, value_enum, default_value = "jsonl")]
    pub(crate) format: ExportFormat,
    /// What one row is; docs/tables.md lists the columns
    #[arg(long, value_enum, default_value = "segments")]
    pub(crate) table: Table,
    /// With `--format csv`: make all cells safe for Excel and other spreadsheets: no formulas, and
    /// no cell too long
    #[arg(long)]
    pub(crate) excel: bool,
    /// Only what changed since an earlier export, given by the number that it printed last on
    /// standard error; also tells which segments were erased
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
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
}

fn redaction_rules() -> impl TypedValueParser<Value = RedactionRule> {
    named_values([
        ("card", "Payment card numbers", RedactionRule::Card),
        ("email", "E-mail addresses", RedactionRule::Email),
        ("phone", "Telephone numbers", RedactionRule::Phone),
    ])
}

pub(crate) async fn run(args: ExportArgs, context: &CommandContext) -> anyhow::Result<u8> {
    args.filters.time_range(context)?;
    let redactor = build_redactor(&args.redact, &args.redact_pattern)?;
    let format = match (args.format, args.excel) {
        (ExportFormat::Csv, true) => ExportFormat::CsvForExcel,
        (_, true) => {
            let error = UserError::usage("failed to export: --excel requires CSV");
            bail!(error.with_hint("add `--format csv`, or remove --excel"));
        }
        (format, false) => format,
    };
    if !format.supports(args.table) {
        let error = UserError::usage("failed to export: --format text has no table of phrases");
        bail!(error.with_hint("use `--format csv`, `jsonl` or `parquet`; text shows segments or dialogs"));
    }
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if format.is_precompressed() && file.is_none() && terminal::is_terminal() {
        let error = UserError::usage("refusing to write Parquet to a terminal");
        bail!(error.with_hint("name a file with --output, or redirect standard output"));
    }
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let since = find_export_cursor(&db, args.changed_since).await?;
    warn_about_old_cursor(since.as_ref(), context);
    // Taken before the first read, so that the next export includes all later changes.
    let cursor = match db.is_read_only() {
        true => None,
        false => Some(db.create_export_cursor(context.clock.now()).await),
    };
    let selected = args.filters.resolve(&db, context).await?;
    let subject: Option<Vec<i64>> = selected.subject.map(|found| found.iter().map(|segment| segment.key).collect());
    let total = match (&subject, &since) {
        (Some(keys), None) => keys.len() as u64,
        _ => db.count_segments(selected.range).await?,
    };
    let text = describe_export(&args);
    let subject_of_access = AccessSubject::Query { text: &text, sub: selected.sub.as_deref(), hits: total };
    context.record_access(&db, AccessAction::Export, subject_of_access).await?;
    let selection = Selection {
        table: args.table,
        range: selected.range,
        filter: selected.filter,
        subject,
        since,
        redactor,
        account_names: account_names(&db, context).await?,
    };
    let target = match file {
        Some(path) if format.is_precompressed() => Target::precompressed_file(path)?,
        Some(path) => Target::file(path)?,
        None => Target::stream(Stdout),
    };
    let bar = match file {
        Some(_) => terminal::progress_bar(total, PROGRESS_TEMPLATE),
        None => ProgressBar::hidden(),
    };
    // An interrupt must not leave an incomplete file.
    let summary = tokio::select! {
        written = write_target(&db, &selection, format, target, &bar) => match file {
            Some(path) => written.map_err(|error| Target::explain_error(error, path))?,
            None => written?,
        },
        _ = tokio::signal::ctrl_c() => bail!("interrupted: the export is not complete"),
    };
    bar.finish_and_clear();
    db.close().await;
    if let Some(path) = file {
        let mut what = human_format::format_count(summary.rows, args.table.noun());
        if summary.erased > 0 {
            what += &format!(" and {}", human_format::format_count(summary.erased, "erasure"));
        }
        terminal::print_stderr(&format!("exported {what} to {}", path.display()));
    }
    match cursor {
        Some(Ok(number)) => terminal::print_stderr(&format!("for later changes use --changed-since {number}")),
        Some(Err(error)) => {
            terminal::print_stderr(&format!("warning: no number for --changed-since is available: {error}"))
        }
        None => terminal::print_stderr("note: the database is read-only, so there is no number for --changed-since"),
    }
    Ok(0)
}

/// The selection, for the access log.
fn describe_export(args: &ExportArgs) -> String {
    let mut text = "export".to_owned();
    text.push_str(&args.filters.describe());
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
) -> anyhow::Result<ExportSummary> {
    let summary = export::write_export(db, selection, format, &mut target, &mut |read| bar.inc(read)).await?;
    target.finish()?;
    Ok(summary)
}

/// Ids of erased segments are kept for a time only.
fn warn_about_old_cursor(cursor: Option<&crate::db::ExportCursor>, context: &CommandContext) {
    let created = cursor.and_then(|cursor| cursor.created().known());
    let oldest = context.clock.now() - EXPORT_ERASURE_RETENTION;
    if let Some(created) = created.filter(|created| *created < oldest) {
        terminal::print_stderr(&format!(
            "warning: the number is of {}; erasures before {} are not told any more: export everything again",
            created.rfc3339_secs(),
            oldest.rfc3339_secs()
        ));
    }
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
