//! `verify`: verifies the integrity of the archive and reports alterations.
//!
//! Reads the database, and writes only the files of `--manifests` and a note of the result.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{CommandContext, human_format, terminal};
use crate::db::OpenMode;
use crate::error::UserError;
use crate::manifest_export::{self, SigningKey};
use crate::proof::ExportedLine;
use crate::recordings::RecordingStore;
use crate::render::clean_line;
use crate::verify::{self, AccountReport, IntegrityProblem, RecordingCheck, VerifyReport, VerifyRequest};

/// The number of problems that the table shows; `--json` shows more.
const MAX_PROBLEMS_SHOWN: usize = 50;

/// The progress bar's template.
const PROGRESS_TEMPLATE: &str =
    "{spinner} {wide_bar} {human_pos}/{human_len} entries and segments, {per_sec}, {eta} left";

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Only this account: sub-account id or name
    #[arg(long, value_name = "SUB|NAME")]
    pub(crate) account: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write all daily manifests and the current heads of each account to this file, as JSON lines;
    /// store it where nobody who can write to the database can change it
    #[arg(long, value_name = "FILE")]
    pub(crate) manifests: Option<PathBuf>,
    /// Sign the file of --manifests with this Ed25519 key (PEM): the signature is in FILE.sig, for
    /// `openssl pkeyutl`
    #[arg(long, value_name = "KEY", requires = "manifests")]
    pub(crate) sign: Option<PathBuf>,
    /// Have the time-stamp authority at this URL (RFC 3161) date the file of --manifests: the answer is
    /// in FILE.tsr, for `openssl ts`
    #[arg(long, value_name = "URL", requires = "manifests", value_parser = manifest_export::parse_authority)]
    pub(crate) timestamp: Option<reqwest::Url>,
    /// Compare with an earlier file of --manifests: the archive must still match its heads
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Read only this share of the recordings, in per cent; other ones each day. 0 reads none
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) sample: u8,
    /// Read only the manifests, not the archive, for a fast daily export
    #[arg(long, requires = "manifests")]
    pub(crate) manifests_only: bool,
}

/// Runs the verification; returns exit status 0 only if there is no problem.
pub(crate) async fn run(args: VerifyArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let recorded = match &args.against {
        Some(path) => read_lines(path)?,
        None => Vec::new(),
    };
    let key = args.sign.as_deref().map(SigningKey::read).transpose()?;
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let account = context.find_account(&db, args.account.as_deref()).await?;
    let recorded = match &account {
        Some(account) => recorded.into_iter().filter(|line| line.sub() == &*account.id.sub).collect(),
        None => recorded,
    };
    // Manifests need no store, and who exports them may not be able to read its secrets.
    let recordings = if args.manifests_only {
        None
    } else {
        let store = RecordingStore::new(&context.settings()?.recordings)?;
        Some(RecordingCheck { store, sample_percent: args.sample })
    };
    let request =
        VerifyRequest { account: account.map(|account| account.key), now: context.clock.now(), recorded, recordings };
    let chains = verify::load_chains(&db, request.account).await?;
    if let Some(path) = &args.manifests {
        let count = manifest_export::write_manifests(path, &chains, request.now)?;
        terminal::print_stderr(&format!("wrote {} to {}", human_format::format_count(count, "line"), path.display()));
        if let Some(key) = key {
            let signature = key.sign_file(path)?;
            terminal::print_stderr(&format!("wrote the signature to {}", signature.display()));
        }
        if let Some(authority) = &args.timestamp {
            let answer = manifest_export::time_stamp_file(authority, path).await?;
            terminal::print_stderr(&format!("wrote the time stamp to {}", answer.display()));
        }
    }
    let report = if args.manifests_only {
        verify::verify_manifests(&chains, &request)
    } else {
        let bar = terminal::progress_bar(verify::count_steps(&db, &chains, request.account).await?, PROGRESS_TEMPLATE);
        let report = verify::verify_archive(&db, &chains, &request, &mut |read| bar.inc(read)).await;
        bar.finish_and_clear();
        let report = report?;
        verify::record_result(&db, &request, &report).await;
        report
    };
    db.close().await;
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        format_report(&report, args.manifests_only, terminal::width())
    };
    terminal::print_stdout(&text)?;
    Ok(u8::from(!report.intact))
}

const AGAINST_HINT: &str = "--against needs a file that --manifests has written";

fn read_lines(path: &Path) -> anyhow::Result<Vec<ExportedLine>> {
    let failed = |source: anyhow::Error| {
        UserError::failed(format!("failed to read {}", path.display())).with_hint(AGAINST_HINT).with_source(source)
    };
    let file = File::open(path).map_err(|error| failed(error.into()))?;
    let file: Box<dyn BufRead> = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst")) {
        Box::new(BufReader::new(zstd::stream::read::Decoder::new(file).map_err(|error| failed(error.into()))?))
    } else {
        Box::new(BufReader::new(file))
    };
    let mut lines = Vec::new();
    for (index, text) in file.lines().enumerate() {
        let text = text.map_err(|error| failed(error.into()))?;
        if !text.trim().is_empty() {
            let line = ExportedLine::parse(&text).with_context(|| format!("line {}", index + 1)).map_err(failed)?;
            lines.push(line);
        }
    }
    if lines.is_empty() {
        let error = UserError::failed(format!("failed to read {}: it is empty", path.display()));
        bail!(error.with_hint(AGAINST_HINT));
    }
    Ok(lines)
}

/// Formats the report as text.
fn format_report(report: &VerifyReport, manifests_only: bool, width: usize) -> String {
    let mut text = if manifests_only {
        format!("{} (manifests only: the archive was not read)\n", report.verdict)
    } else {
        format!("{}\n", report.verdict)
    };
    text.push_str(&format!("  checked: {}\n", report.covers.join(", ")));
    text.push_str(&format!("  not proven: {}\n", report.not_covered.join("; ")));
    for problem in report.problems.iter().take(MAX_PROBLEMS_SHOWN) {
        text.push_str(&format!("\n  {}\n", describe_problem(problem)));
    }
    let hidden = report.problem_count.saturating_sub(MAX_PROBLEMS_SHOWN as u64);
    if hidden > 0 {
        text.push_str(&format!("\n  and {} more: see `--json`\n", human_format::format_count(hidden, "problem")));
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
    let table = terminal::format_table(header, 1, 0..0, width, report.accounts.iter().map(account_row));
    format!("{text}\n{table}")
}

fn account_row(account: &AccountReport) -> [String; 10] {
    [
        clean_line(&account.sub_account_id),
        account.name.as_deref().map(clean_line).unwrap_or_default(),
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

/// Describes the place of a problem, then the problem.
fn describe_problem(problem: &IntegrityProblem) -> String {
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
    clean_line(&format!("{place}{}", problem.what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::IntegrityProblemKind;

    fn problem() -> IntegrityProblem {
        IntegrityProblem {
            kind: IntegrityProblemKind::Body,
            sub_account_id: "7".to_owned(),
            segment_id: Some("a\u{1b}[2J-1".to_owned()),
            artifact: Some("transcript"),
            version: Some(2),
            feed: Some(12),
            to_feed: None,
            day: None,
            what: "the body does not match its stored SHA-256".to_owned(),
        }
    }

    #[test]
    fn a_problem_says_where_it_is_and_moves_no_cursor() {
        assert_eq!(
            describe_problem(&problem()),
            "account 7, segment a-1, transcript version 2, number 12: the body does not match its stored SHA-256"
        );
        let range = IntegrityProblem { segment_id: None, artifact: None, to_feed: Some(20), ..problem() };
        assert!(describe_problem(&range).starts_with("account 7, numbers 12 to 20: "));
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
