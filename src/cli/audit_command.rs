//! `audit`: checks whether anything is missing, and shows the outcome of everything else.
//!
//! Reads the database; prints a summary, a hint for each problem, and the details of each account.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{CommandContext, human_format, terminal};
use crate::audit::{AccountAudit, ArtifactAudit, AuditReport, AuditRequest, run_audit};
use crate::db::OpenMode;
use crate::health::{Finding, Severity};
use crate::render::clean_line;
use crate::status;

/// The number of reads, items and records that are shown; `--json` shows all.
const MAX_ROWS_SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// Only segments that ended at or after this time [default: the first read of each account]
    #[arg(long, value_name = "T")]
    from: Option<String>,
    /// Only segments that ended before this time [default: the newest read]
    #[arg(long, value_name = "T")]
    to: Option<String>,
    /// Only this account: sub-account id or name
    #[arg(long, value_name = "SUB|NAME")]
    account: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the audit; returns exit status 0 only if nothing is missing and nothing is unexplained.
pub(crate) async fn run(args: AuditArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let (from, to) = context.parse_range(args.from.as_deref(), args.to.as_deref())?;
    let settings = context.settings()?;
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let account = context.find_account(&db, args.account.as_deref()).await?;
    let account = account.map(|account| account.id.sub.to_string());
    let now = context.clock.now();
    let request = AuditRequest::new(settings, from, to, account, now);
    let mut report = run_audit(&db, &request).await?;
    let status = status::gather(&db, settings, &settings.database.instance, None, now).await?;
    let is_relevant = |finding: &Finding| match &request.account {
        Some(account) => finding.accounts().is_empty() || finding.accounts().contains(account),
        None => true,
    };
    report.findings = status.findings.into_iter().filter(is_relevant).collect();
    db.close().await;
    let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { format_report(&report) };
    terminal::print_stdout(&text)?;
    Ok(u8::from(!report.complete))
}

/// Formats the report as text.
fn format_report(audit: &AuditReport) -> String {
    let mut text = format!("{}\n", audit.verdict);
    for problem in &audit.problems {
        let _ = writeln!(text, "\n  account {}: {}", clean_line(&problem.sub_account_id), clean_line(&problem.what));
        let _ = writeln!(text, "  hint: {}", clean_line(&problem.hint));
    }
    // Findings about missing data are among the problems already.
    for finding in
        audit.findings.iter().filter(|finding| !finding.code.is_incompleteness() && finding.severity > Severity::Info)
    {
        let _ = write!(text, "\n{}", super::status_command::status_table::format_finding(finding));
    }
    for account in &audit.accounts {
        add_account(&mut text, account);
    }
    text
}

fn add_account(text: &mut String, account: &AccountAudit) {
    let name = account.name.as_deref().map(|name| format!(" ({})", clean_line(name))).unwrap_or_default();
    let _ = writeln!(text, "\naccount {}{name}", clean_line(&account.sub_account_id));
    let Some(range) = &account.range else {
        let _ = writeln!(text, "  nothing to check: no segment of this time can have been read yet");
        add_notes(text, account);
        return;
    };
    let _ = writeln!(text, "  range      {range}");
    if let Some(watermark) = account.watermark {
        let _ = writeln!(text, "  watermark  {watermark}: read without a gap since the first read");
    }
    let segments = &account.segments;
    let _ = writeln!(
        text,
        "  segments   {} announced, {} of them with a transcript",
        segments.announced, segments.with_transcript
    );
    if segments.erased + segments.expired > 0 {
        let _ = writeln!(
            text,
            "  removed    {} erased on request, {} by retention; see `ringcx-extractor erase --journal`",
            segments.erased, segments.expired
        );
    }
    let ledger = &account.ledger;
    let result = if ledger.agrees { "numbers and ids agree" } else { "they do NOT agree" };
    let _ = writeln!(
        text,
        "  ledger     {} announced and {} stored{}, over {}: {result}",
        ledger.announced,
        ledger.held,
        if ledger.gone > 0 { format!(" and {} removed", ledger.gone) } else { String::new() },
        human_format::format_count(ledger.days, "day")
    );
    if !account.artifacts.is_empty() {
        add_indented(text, &outcome_table(&account.artifacts));
    }
    add_coverage(text, account);
    add_last_reads(text, account);
    for gap in &account.gaps {
        let _ = writeln!(text, "  gap        {} to {}: {}", gap.from, gap.to, clean_line(&gap.why));
    }
    add_unfinished(text, account);
    add_quarantine(text, account);
    add_lateness(text, account);
    add_read_log(text, account);
    add_notes(text, account);
}

fn add_notes(text: &mut String, account: &AccountAudit) {
    for note in &account.notes {
        let _ = writeln!(text, "  note: {}", clean_line(note));
    }
}

type OutcomeColumn = (&'static str, fn(&ArtifactAudit) -> u64);

const OUTCOME_COLUMNS: [OutcomeColumn; 10] = [
    ("requested", |of| of.asked),
    ("stored", |of| of.stored),
    ("empty", |of| of.not_populated),
    ("pending", |of| of.pending),
    ("unavailable", |of| of.unavailable),
    ("failed", |of| of.failed),
    ("discarded", |of| of.discarded),
    ("erased", |of| of.erased),
    ("unexplained", |of| of.unexplained),
    ("not requested", |of| of.not_requested),
];

/// A table with artifacts in rows and outcomes in columns.
fn outcome_table(artifacts: &[ArtifactAudit]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(std::iter::once("").chain(OUTCOME_COLUMNS.iter().map(|(name, _)| *name)));
    for artifact in artifacts {
        let counts = OUTCOME_COLUMNS.iter().map(|(_, of)| Cell::new(of(artifact)).set_alignment(CellAlignment::Right));
        table.add_row(std::iter::once(Cell::new(artifact.artifact)).chain(counts));
    }
    table.to_string()
}

fn add_indented(text: &mut String, table: &str) {
    for line in table.lines() {
        let _ = writeln!(text, "  {}", line.trim_end());
    }
}

fn add_coverage(text: &mut String, account: &AccountAudit) {
    for purpose in &account.passes {
        let hidden = purpose.stretches.len().saturating_sub(MAX_ROWS_SHOWN);
        for range in purpose.stretches.iter().skip(hidden) {
            let _ = writeln!(
                text,
                "  read       {:<14} {} to {} in {}, {} to {}",
                purpose.pass,
                range.from,
                range.to,
                human_format::format_count(range.reads, "read"),
                range.first_read,
                range.last_read
            );
        }
        add_hidden_count(text, hidden, "earlier range");
    }
}

fn add_last_reads(text: &mut String, account: &AccountAudit) {
    let hidden = account.last_looked.len().saturating_sub(MAX_ROWS_SHOWN);
    for range in account.last_looked.iter().skip(hidden) {
        let _ = match range.recheck_seconds {
            Some(seconds) => {
                let delay = format_seconds(Duration::from_secs_f64(seconds).as_secs());
                writeln!(text, "  last read  {} to {}: {delay} after its end or later", range.from, range.to)
            }
            None => {
                writeln!(text, "  last read  {} to {}: once, and not again since {}", range.from, range.to, range.since)
            }
        };
    }
    add_hidden_count(text, hidden, "earlier range");
}

fn add_unfinished(text: &mut String, account: &AccountAudit) {
    for row in account.unfinished.iter().take(MAX_ROWS_SHOWN) {
        // Most reasons contain the status already.
        let is_in_reason =
            |status: &i64| row.reason.as_ref().is_some_and(|reason| reason.contains(&format!("({status}")));
        let status =
            row.status.filter(|status| !is_in_reason(status)).map(|status| format!(" ({status})")).unwrap_or_default();
        let reason = match &row.reason {
            Some(reason) => format!(": {}{status}", clean_line(reason)),
            None => ": no attempt yet".to_owned(),
        };
        let next = row.next_try.map(|at| format!("; next attempt {at}")).unwrap_or_default();
        let _ = writeln!(text, "  {:<10} {} {}{reason}{next}", row.outcome, row.count, row.artifact);
    }
    add_hidden_count(text, account.unfinished.len().saturating_sub(MAX_ROWS_SHOWN), "other reason");
    let failed: Vec<_> = account.items.iter().filter(|item| item.outcome == "failed").collect();
    for item in failed.iter().take(MAX_ROWS_SHOWN) {
        let ended = item.segment_end.map(|end| format!(", ended {end}")).unwrap_or_default();
        let _ = writeln!(text, "  failed     {} of segment {}{ended}", item.artifact, clean_line(&item.segment_id));
    }
    add_hidden_count(text, failed.len().saturating_sub(MAX_ROWS_SHOWN), "other failed item");
}

fn add_quarantine(text: &mut String, account: &AccountAudit) {
    let aside = &account.aside;
    if aside.unresolved + aside.resolved > 0 {
        let _ = writeln!(
            text,
            "  set aside  {} that could not be parsed, {} resolved by a later read",
            aside.unresolved, aside.resolved
        );
    }
    for record in aside.records.iter().take(MAX_ROWS_SHOWN) {
        let segment = record.segment_id.as_deref().map(|id| format!(" segment {}", clean_line(id))).unwrap_or_default();
        let _ = writeln!(
            text,
            "  aside     {segment} {}: {}; received {}, next read {}",
            record.window,
            clean_line(&record.reason),
            human_format::format_count(record.times, "time"),
            record.next_read
        );
    }
    add_hidden_count(text, aside.records.len().saturating_sub(MAX_ROWS_SHOWN), "other record");
}

fn add_lateness(text: &mut String, account: &AccountAudit) {
    let late = &account.late;
    if late.histogram.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "  late       {} appeared after their time had been read, {} received their transcript later",
        late.appeared, late.flipped
    );
    for (kind, what) in [("appear", "appeared"), ("flip", "hasTranscript"), ("fetchable", "transcript")] {
        let counts: Vec<String> = late
            .histogram
            .iter()
            .filter(|bucket| bucket.kind == kind)
            .map(|bucket| format!("{} under {}", bucket.count, format_seconds(bucket.to_seconds)))
            .collect();
        if !counts.is_empty() {
            let _ = writeln!(text, "             {what:<14} {} after the end", counts.join(", "));
        }
    }
}

fn format_seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn add_read_log(text: &mut String, account: &AccountAudit) {
    let hidden = account.reads.len().saturating_sub(MAX_ROWS_SHOWN);
    if account.reads.is_empty() {
        return;
    }
    let _ = writeln!(text, "  the last reads:");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["sent", "lane", "window", "announced", "new", "changed", "flipped", "aside"]);
    for read in account.reads.iter().skip(hidden) {
        let counts = [read.announced, read.added, read.changed, read.flipped, read.aside];
        let counts = counts.map(|count| Cell::new(count).set_alignment(CellAlignment::Right));
        let texts = [read.at.to_string(), read.lane.clone(), format!("{} to {}", read.from, read.to)].map(Cell::new);
        table.add_row(texts.into_iter().chain(counts));
    }
    add_indented(text, &table.to_string());
    add_hidden_count(text, hidden, "earlier read");
}

fn add_hidden_count(text: &mut String, hidden: usize, what: &str) {
    if hidden > 0 {
        let _ = writeln!(text, "             and {}: see `--json`", human_format::format_count(hidden as u64, what));
    }
}
