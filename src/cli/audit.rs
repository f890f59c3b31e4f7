//! `audit`: whether anything is missing, and where everything else went.
//!
//! Reads the database; prints a verdict, what to do about each problem, and the ledger behind it.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{Context, terminal, words};
use crate::audit::{AccountAudit, ArtifactAudit, Audit, Question, audit};
use crate::config::Accounts;
use crate::db::Access;
use crate::health::Severity;
use crate::reading::clean;
use crate::status::{self, FindingStatus};

/// How many reads, items and records the table shows; `--json` has them all.
const SHOWN: usize = 20;

/// Options of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only what ended at or after: a time, a date, or a span back from now [default: each account's first read]
    #[arg(long, value_name = "T")]
    from: Option<String>,
    /// Only what ended before [default: what has been read]
    #[arg(long, value_name = "T")]
    to: Option<String>,
    /// Only this account: sub-account id or name
    #[arg(long, value_name = "SUB|NAME")]
    account: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Compares what was announced with what is held; exit status 0 only if nothing is missing and nothing unexplained.
///
/// # Errors
/// Where the range is none, or the settings or the database cannot be read.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let (from, to) = context.range(args.from.as_deref(), args.to.as_deref())?;
    let settings = context.settings()?;
    let db = context.open(Access::Existing).await?;
    let account = match &args.account {
        None => None,
        Some(wanted) => Some(context.account(&db, wanted).await?.id.sub.to_string()),
    };
    let configured = match &settings.accounts {
        Accounts::Listed(listed) => listed.iter().map(|account| (account.id.clone(), account.name.clone())).collect(),
        Accounts::Discovered(_) => Vec::new(),
    };
    let (offset, interval, now) = (settings.discovery.offset, settings.discovery.interval, context.clock.now());
    let question = Question { from, to, account, now, offset, interval, configured };
    let mut answer = audit(&db, &question).await?;
    let status = status::gather(&db, settings, &settings.database.instance, None, now).await?;
    let asked = |finding: &FindingStatus| match &question.account {
        Some(account) => finding.accounts.is_empty() || finding.accounts.contains(account),
        None => true,
    };
    answer.findings = status.findings.into_iter().filter(asked).collect();
    db.close().await;
    let text = if args.json { serde_json::to_string_pretty(&answer)? + "\n" } else { table(&answer) };
    terminal::print(&text)?;
    Ok(u8::from(!answer.complete))
}

/// The answer for people.
fn table(audit: &Audit) -> String {
    let mut text = format!("{}\n", audit.verdict);
    for problem in &audit.problems {
        let _ = writeln!(text, "\n  account {}: {}", plain(&problem.sub_account_id), plain(&problem.what));
        let _ = writeln!(text, "  hint: {}", plain(&problem.hint));
    }
    // What says that something is missing stands among the problems already.
    for finding in
        audit.findings.iter().filter(|finding| !finding.is_incompleteness() && finding.severity > Severity::Info)
    {
        let _ = write!(text, "\n{}", super::status::table::finding(finding));
    }
    for account in &audit.accounts {
        describe(&mut text, account);
    }
    text
}

fn describe(text: &mut String, account: &AccountAudit) {
    let name = account.name.as_deref().map(|name| format!(" ({})", plain(name))).unwrap_or_default();
    let _ = writeln!(text, "\naccount {}{name}", plain(&account.sub_account_id));
    let Some(range) = &account.range else {
        let _ = writeln!(text, "  nothing to look at: nothing that ended in that time can have been read yet");
        notes(text, account);
        return;
    };
    let _ = writeln!(text, "  range      {range}");
    if let Some(watermark) = account.watermark {
        let _ = writeln!(text, "  watermark  {watermark}: read without a gap from the first read up to there");
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
            "  gone       {} of them erased on request, {} past retention: `ringcx-extractor erase --journal` tells of it",
            segments.erased, segments.expired
        );
    }
    let ledger = &account.ledger;
    let verdict = if ledger.agrees { "agree in number and in ids" } else { "do NOT agree" };
    let _ = writeln!(
        text,
        "  ledger     {} announced and {} held{}, counted over {}: they {verdict}",
        ledger.announced,
        ledger.held,
        if ledger.gone > 0 { format!(" and {} gone", ledger.gone) } else { String::new() },
        words::count(ledger.days, "day")
    );
    if !account.artifacts.is_empty() {
        indented(text, &outcomes(&account.artifacts));
    }
    passes(text, account);
    last_looked(text, account);
    for gap in &account.gaps {
        let _ = writeln!(text, "  gap        {} to {}: {}", gap.from, gap.to, plain(&gap.why));
    }
    unfinished(text, account);
    asides(text, account);
    lateness(text, account);
    reads(text, account);
    notes(text, account);
}

fn notes(text: &mut String, account: &AccountAudit) {
    for note in &account.notes {
        let _ = writeln!(text, "  note: {}", plain(note));
    }
}

type Column = (&'static str, fn(&ArtifactAudit) -> u64);

const COLUMNS: [Column; 10] = [
    ("asked for", |of| of.asked),
    ("stored", |of| of.stored),
    ("empty", |of| of.not_populated),
    ("pending", |of| of.pending),
    ("unavailable", |of| of.unavailable),
    ("failed", |of| of.failed),
    ("discarded", |of| of.discarded),
    ("erased", |of| of.erased),
    ("unexplained", |of| of.unexplained),
    ("not asked for", |of| of.not_requested),
];

/// Artifacts in rows, outcomes in columns.
fn outcomes(artifacts: &[ArtifactAudit]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(std::iter::once("").chain(COLUMNS.iter().map(|(name, _)| *name)));
    for artifact in artifacts {
        let counts = COLUMNS.iter().map(|(_, of)| Cell::new(of(artifact)).set_alignment(CellAlignment::Right));
        table.add_row(std::iter::once(Cell::new(artifact.artifact)).chain(counts));
    }
    table.to_string()
}

fn indented(text: &mut String, table: &str) {
    for line in table.lines() {
        let _ = writeln!(text, "  {}", line.trim_end());
    }
}

fn passes(text: &mut String, account: &AccountAudit) {
    for pass in &account.passes {
        let hidden = pass.stretches.len().saturating_sub(SHOWN);
        for stretch in pass.stretches.iter().skip(hidden) {
            let _ = writeln!(
                text,
                "  read       {:<14} {} to {} in {}, {} to {}",
                pass.pass,
                stretch.from,
                stretch.to,
                words::count(stretch.reads, "read"),
                stretch.first_read,
                stretch.last_read
            );
        }
        more(text, hidden, "earlier piece");
    }
}

fn last_looked(text: &mut String, account: &AccountAudit) {
    let hidden = account.last_looked.len().saturating_sub(SHOWN);
    for look in account.last_looked.iter().skip(hidden) {
        let _ = match look.recheck_seconds {
            Some(seconds) => {
                let delay = span(Duration::from_secs_f64(seconds).as_secs());
                writeln!(text, "  looked at  {} to {}: last {delay} after its end or later", look.from, look.to)
            }
            None => {
                writeln!(text, "  looked at  {} to {}: once, and not again since {}", look.from, look.to, look.since)
            }
        };
    }
    more(text, hidden, "earlier piece");
}

fn unfinished(text: &mut String, account: &AccountAudit) {
    for row in account.unfinished.iter().take(SHOWN) {
        // Most reasons name it themselves.
        let said = |status: &i64| row.reason.as_ref().is_some_and(|reason| reason.contains(&format!("({status}")));
        let status = row.status.filter(|status| !said(status)).map(|status| format!(" ({status})")).unwrap_or_default();
        let reason = match &row.reason {
            Some(reason) => format!(": {}{status}", plain(reason)),
            None => ": not tried yet".to_owned(),
        };
        let next = row.next_try.map(|at| format!("; next try {at}")).unwrap_or_default();
        let _ = writeln!(text, "  {:<10} {} {}{reason}{next}", row.outcome, row.count, row.artifact);
    }
    more(text, account.unfinished.len().saturating_sub(SHOWN), "other reason");
    let failed: Vec<_> = account.items.iter().filter(|item| item.outcome == "failed").collect();
    for item in failed.iter().take(SHOWN) {
        let ended = item.segment_end.map(|end| format!(", ended {end}")).unwrap_or_default();
        let _ = writeln!(text, "  failed     {} of segment {}{ended}", item.artifact, plain(&item.segment_id));
    }
    more(text, failed.len().saturating_sub(SHOWN), "other failed item");
}

fn asides(text: &mut String, account: &AccountAudit) {
    let aside = &account.aside;
    if aside.unresolved + aside.resolved > 0 {
        let _ = writeln!(
            text,
            "  set aside  {} not understood, {} more that a later read brought in good order",
            aside.unresolved, aside.resolved
        );
    }
    for record in aside.records.iter().take(SHOWN) {
        let segment = record.segment_id.as_deref().map(|id| format!(" segment {}", plain(id))).unwrap_or_default();
        let _ = writeln!(
            text,
            "  aside     {segment} {}: {}; received {}, to be read again {}",
            record.window,
            plain(&record.reason),
            words::count(record.times, "time"),
            record.next_read
        );
    }
    more(text, aside.records.len().saturating_sub(SHOWN), "other record");
}

fn lateness(text: &mut String, account: &AccountAudit) {
    let late = &account.late;
    if late.histogram.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "  late       {} appeared after their time had been read, {} got their transcript later",
        late.appeared, late.flipped
    );
    for (kind, what) in [("appear", "appeared"), ("flip", "hasTranscript"), ("fetchable", "transcript")] {
        let counts: Vec<String> = late
            .histogram
            .iter()
            .filter(|bucket| bucket.kind == kind)
            .map(|bucket| format!("{} under {}", bucket.count, span(bucket.to_seconds)))
            .collect();
        if !counts.is_empty() {
            let _ = writeln!(text, "             {what:<14} {} after the end", counts.join(", "));
        }
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn reads(text: &mut String, account: &AccountAudit) {
    let hidden = account.reads.len().saturating_sub(SHOWN);
    if account.reads.is_empty() {
        return;
    }
    let _ = writeln!(text, "  the last reads:");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["sent", "why", "window", "announced", "new", "changed", "flipped", "aside"]);
    for read in account.reads.iter().skip(hidden) {
        let counts = [read.announced, read.added, read.changed, read.flipped, read.aside];
        let counts = counts.map(|count| Cell::new(count).set_alignment(CellAlignment::Right));
        let words = [read.at.to_string(), read.lane.clone(), format!("{} to {}", read.from, read.to)].map(Cell::new);
        table.add_row(words.into_iter().chain(counts));
    }
    indented(text, &table.to_string());
    more(text, hidden, "earlier read");
}

fn more(text: &mut String, hidden: usize, what: &str) {
    if hidden > 0 {
        let _ = writeln!(text, "             and {}: see `--json`", words::count(hidden as u64, what));
    }
}

/// Text from elsewhere as one line of a terminal may show it.
fn plain(text: &str) -> String {
    clean(text).replace('\n', " ")
}
