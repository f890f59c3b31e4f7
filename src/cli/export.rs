//! `export`: the archive, streamed to standard output or into a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use regex::Regex;

use super::terminal::{self, Stdout};
use super::{Context, UsageError, words};
use crate::config::Redact;
use crate::db::{Access, Db, ExportRange};
use crate::export::{self, Format, Selection, Target};
use crate::redact::Redactor;

/// Options of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to write it
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: Format,
    /// With `--format csv`: for Excel and other spreadsheets, so that no cell is taken for a formula or for too long
    #[arg(long)]
    pub excel: bool,
    /// Segments that ended at or after this time
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Segments that ended before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Only what has changed since an earlier export: the number that it printed last, on standard error
    #[arg(long, value_name = "NUMBER")]
    pub changed_since: Option<i64>,
    /// Take these out of texts, metadata and summaries; the archive keeps them
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub redact: Vec<Kind>,
    /// Take out what a regular expression matches, and put [NAME] in its place
    #[arg(long, value_name = "NAME=REGEX")]
    pub redact_pattern: Vec<String>,
    /// Write to this file, whole or not at all, compressed if its name ends in .zst [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What `--redact` takes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Numbers of payment cards
    Card,
    /// E-mail addresses
    Email,
    /// Telephone numbers
    Phone,
}

/// Writes the archive.
///
/// # Errors
/// Where the database cannot be read, or the output not be written.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let (from, to) = context.range(args.from.as_deref(), args.to.as_deref())?;
    let redact = redactor(&args.redact, &args.redact_pattern)?;
    let format = match (args.format, args.excel) {
        (Format::Csv, true) => Format::CsvForExcel,
        (_, true) => {
            let text = "failed to export: --excel changes CSV only\nhint: add `--format csv`, or leave --excel off";
            return Err(UsageError(text.to_owned()).into());
        }
        (format, false) => format,
    };
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if format.is_packed() && file.is_none() && terminal::is_terminal() {
        return Err(UsageError(
            "failed to export: Parquet is nothing for a terminal\nhint: name a file with --output, or redirect"
                .to_owned(),
        )
        .into());
    }
    let db = context.open(Access::Existing).await?;
    let account = match &args.account {
        Some(account) => Some(context.account(&db, account).await?.key),
        None => None,
    };
    let range = ExportRange { from, to, account };
    let selection = Selection { range, since: since(&db, args.changed_since).await?, redact };
    let target = match file {
        Some(path) if format.is_packed() => Target::packed_file(path)?,
        Some(path) => Target::file(path)?,
        None => Target::stream(Stdout),
    };
    // Before anything is read: what changes from here on is for the next export.
    let mark = db.mark(context.clock.now()).await;
    let bar = match file {
        Some(_) => bar(db.count_segments(range).await?),
        None => ProgressBar::hidden(),
    };
    // An interrupt must not leave half a file behind.
    let count = tokio::select! {
        count = fill(&db, &selection, format, target, &bar) => match file {
            Some(path) => count.map_err(|error| Target::failed(error, path))?,
            None => count?,
        },
        _ = tokio::signal::ctrl_c() => bail!("interrupted: the export is not complete"),
    };
    bar.finish_and_clear();
    db.close().await;
    if let Some(path) = file {
        terminal::remark(&format!("exported {} to {}", words::count(count, "segment"), path.display()));
    }
    match mark {
        Ok(number) => terminal::remark(&format!("for what changes from here on: --changed-since {number}")),
        Err(error) => terminal::remark(&format!("warning: no number for --changed-since this time: {error}")),
    }
    Ok(0)
}

async fn fill(
    db: &Db,
    selection: &Selection,
    format: Format,
    mut target: Target,
    bar: &ProgressBar,
) -> anyhow::Result<u64> {
    let count = export::write(db, selection, format, &mut target, &mut |written| bar.inc(written)).await?;
    target.finish()?;
    Ok(count)
}

async fn since(db: &Db, number: Option<i64>) -> anyhow::Result<Option<crate::db::Mark>> {
    let Some(number) = number else { return Ok(None) };
    match db.marked(number).await? {
        Some(mark) => Ok(Some(mark)),
        None => Err(UsageError(format!(
            "failed to read --changed-since: {number} is not a number that an export from this database printed lately\n\
             hint: export without it once, and keep the number that is printed last; 0 stands for the beginning"
        ))
        .into()),
    }
}

fn redactor(kinds: &[Kind], patterns: &[String]) -> Result<Redactor, UsageError> {
    let mut rules: Vec<Redact> = kinds
        .iter()
        .map(|kind| match kind {
            Kind::Card => Redact::Card,
            Kind::Email => Redact::Email,
            Kind::Phone => Redact::Phone,
        })
        .collect();
    for given in patterns {
        let failed = |why: &str| {
            UsageError(format!(
                "failed to read --redact-pattern {given}: {why}\nhint: give a name and what to match, such as 'order=ORD-\\d+'"
            ))
        };
        let Some((name, pattern)) = given.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            return Err(failed("it has no name"));
        };
        match Regex::new(pattern) {
            Ok(pattern) if pattern.is_match("") => return Err(failed("it matches the empty string, so everywhere")),
            Ok(pattern) => rules.push(Redact::Pattern { name: name.trim().to_owned(), pattern }),
            Err(error) => {
                let text = error.to_string();
                let why =
                    text.lines().rev().find_map(|line| line.trim().strip_prefix("error: ")).unwrap_or("too large");
                return Err(failed(&format!("it is no regular expression: {why}")));
            }
        }
    }
    Ok(Redactor::new(&rules))
}

/// On standard error, and only where that is a terminal.
fn bar(total: u64) -> ProgressBar {
    let template = "{spinner} {wide_bar} {human_pos}/{human_len} segments, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
