//! `verify`: reads the archive again and finds whatever was altered.
//!
//! Reads the database; writes nothing but the file that `--manifests` names.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Context, terminal, words};
use crate::clock::Time;
use crate::db::{Access, Chain};
use crate::export::Target;
use crate::proof::Line;
use crate::reading::one_line;
use crate::verify::{self, AccountReport, Problem, Question, Report};

/// How many problems the table shows; `--json` has more.
const SHOWN: usize = 50;

/// Options of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this account: sub-account id or name
    #[arg(long, value_name = "SUB|NAME")]
    pub account: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Write all daily manifests and where each account stands to this file, as JSON lines; keep it where whoever can
    /// write the database cannot
    #[arg(long, value_name = "FILE")]
    pub manifests: Option<PathBuf>,
    /// Compare with a file that --manifests wrote earlier: its heads must still be what the archive leads to
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// Do not read the archive, only the manifests: to export them daily in no time
    #[arg(long, requires = "manifests")]
    pub manifests_only: bool,
}

/// Reads everything again; exit status 0 only if nothing is wrong.
///
/// # Errors
/// Where the settings, the database or the file to compare with cannot be read, or the file for the manifests not be written.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let recorded = match &args.against {
        Some(path) => read_lines(path)?,
        None => Vec::new(),
    };
    let db = context.open(Access::Existing).await?;
    let account = match &args.account {
        Some(wanted) => Some(context.account(&db, wanted).await?),
        None => None,
    };
    let recorded = match &account {
        Some(account) => recorded.into_iter().filter(|line| line.sub() == &*account.id.sub).collect(),
        None => recorded,
    };
    let question = Question { account: account.map(|account| account.key), now: context.clock.now(), recorded };
    let chains = verify::chains(&db, question.account).await?;
    if let Some(path) = &args.manifests {
        let count = write_lines(path, &chains, question.now)?;
        terminal::remark(&format!("wrote {} to {}", words::count(count, "line"), path.display()));
    }
    let report = if args.manifests_only {
        verify::look(&chains, &question)
    } else {
        let bar = bar(verify::extent(&db, &chains, question.account).await?);
        let report = verify::verify(&db, &chains, &question, &mut |read| bar.inc(read)).await;
        bar.finish_and_clear();
        report?
    };
    db.close().await;
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        table(&report, args.manifests_only, terminal::width())
    };
    terminal::print(&text)?;
    Ok(u8::from(!report.intact))
}

fn write_lines(path: &Path, chains: &[Chain], now: Time) -> anyhow::Result<u64> {
    let mut target = Target::file(path)?;
    let mut count = 0;
    for line in chains.iter().flat_map(|chain| verify::lines(chain, now)) {
        let text = serde_json::to_string(&line)?;
        writeln!(target, "{text}").with_context(|| format!("failed to write {}", path.display()))?;
        count += 1;
    }
    target.finish()?;
    Ok(count)
}

fn read_lines(path: &Path) -> anyhow::Result<Vec<Line>> {
    let failed = || format!("failed to read {}\nhint: --against takes a file that --manifests wrote", path.display());
    let file = File::open(path).with_context(failed)?;
    let file: Box<dyn BufRead> = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst")) {
        Box::new(BufReader::new(zstd::stream::read::Decoder::new(file).with_context(failed)?))
    } else {
        Box::new(BufReader::new(file))
    };
    let mut lines = Vec::new();
    for (index, text) in file.lines().enumerate() {
        let text = text.with_context(failed)?;
        if !text.trim().is_empty() {
            let line = Line::parse(&text).with_context(|| format!("line {}", index + 1)).with_context(failed)?;
            lines.push(line);
        }
    }
    if lines.is_empty() {
        bail!("failed to read {}: it is empty\nhint: --against takes a file that --manifests wrote", path.display());
    }
    Ok(lines)
}

/// On standard error, and only where that is a terminal.
fn bar(total: u64) -> ProgressBar {
    let template = "{spinner} {wide_bar} {human_pos}/{human_len} entries and segments, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The answer for people.
fn table(report: &Report, manifests_only: bool, width: usize) -> String {
    let mut text = if manifests_only {
        format!("{} (manifests only: the archive was not read)\n", report.verdict)
    } else {
        format!("{}\n", report.verdict)
    };
    text.push_str(&format!("  checked: {}\n", report.covers.join(", ")));
    text.push_str(&format!("  not proven: {}\n", report.not_covered.join("; ")));
    for problem in report.problems.iter().take(SHOWN) {
        text.push_str(&format!("\n  {}\n", described(problem)));
    }
    let hidden = report.problem_count.saturating_sub(SHOWN as u64);
    if hidden > 0 {
        text.push_str(&format!("\n  and {} more: see `--json`\n", words::count(hidden, "problem")));
    }
    let header = [
        "account",
        "name",
        "entries",
        "erased",
        "before the chain",
        "segments",
        "records",
        "manifests",
        "newest",
        "head",
    ];
    let mut table = terminal::table(header, 1, width);
    for account in &report.accounts {
        table.add_row(row(account));
    }
    let lines: String = table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect();
    format!("{text}\n{lines}")
}

fn row(account: &AccountReport) -> Vec<String> {
    vec![
        one_line(&account.sub_account_id),
        account.name.as_deref().map(one_line).unwrap_or_default(),
        account.entries.to_string(),
        account.erased.to_string(),
        account.chain_from.to_string(),
        account.segments.to_string(),
        account.records.to_string(),
        account.manifests.to_string(),
        account.feed.to_string(),
        account.head.chars().take(16).collect(),
    ]
}

/// Where, then what.
fn described(problem: &Problem) -> String {
    let mut place = Vec::new();
    if !problem.sub_account_id.is_empty() {
        place.push(format!("account {}", problem.sub_account_id));
    }
    place.extend(problem.day.clone());
    place.extend(problem.segment_id.as_ref().map(|id| format!("segment {id}")));
    if let Some(artifact) = problem.artifact {
        let version = problem.version.filter(|version| *version != 1);
        place.push(match version {
            Some(version) => format!("{artifact} version {version}"),
            None => artifact.to_owned(),
        });
    }
    if let Some(feed) = problem.feed {
        place.push(match problem.to_feed {
            Some(to) => format!("numbers {feed} to {to}"),
            None => format!("number {feed}"),
        });
    }
    let place = if place.is_empty() { String::new() } else { format!("{}: ", place.join(", ")) };
    one_line(&format!("{place}{}", problem.what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::ProblemKind;

    fn problem() -> Problem {
        Problem {
            kind: ProblemKind::Body,
            sub_account_id: "7".to_owned(),
            segment_id: Some("a\u{1b}[2J-1".to_owned()),
            artifact: Some("transcript"),
            version: Some(2),
            feed: Some(12),
            to_feed: None,
            day: None,
            what: "the body is not the one whose SHA-256 is kept with it".to_owned(),
        }
    }

    #[test]
    fn a_problem_says_where_it_is_and_moves_no_cursor() {
        assert_eq!(
            described(&problem()),
            "account 7, segment a-1, transcript version 2, number 12: the body is not the one whose SHA-256 is kept with it"
        );
        let range = Problem { segment_id: None, artifact: None, to_feed: Some(20), ..problem() };
        assert!(described(&range).starts_with("account 7, numbers 12 to 20: "));
    }

    #[test]
    fn a_file_to_compare_with_is_refused_whole_where_a_line_of_it_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifests.jsonl");
        std::fs::write(&path, "\n{\"type\":\"other\"}\n").unwrap();
        let error = format!("{:#}", read_lines(&path).unwrap_err());
        assert!(error.contains("manifests.jsonl") && error.contains("line 2"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(read_lines(&path).is_err());
    }
}
