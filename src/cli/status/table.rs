//! The status as a table for people, and below it what is wrong, with what to do about it.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Row};

use crate::cli::terminal;
use crate::cli::words::{relative, span};
use crate::clock::Time;
use crate::health::Severity;
use crate::reading::one_line;
use crate::status::{AccountStatus, FindingStatus, Status};

/// All of it, for a terminal so many columns wide.
pub(super) fn render(status: &Status, width: usize) -> String {
    let now = Time::parse(&status.now).unwrap_or_default();
    let mut text = format!("ringcx-extractor {}, {}, {}\n\n", status.version, status.instance, status.now);
    text.push_str(&accounts(status, now, width));
    for finding in status.findings.iter().filter(|finding| finding.severity > Severity::Info) {
        text.push_str(&format!("\n{}", self::finding(finding)));
    }
    for sink in &status.sinks {
        let last = sink.last_delivered.as_deref().and_then(Time::parse);
        let last = last.map_or_else(
            || "nothing delivered yet".to_owned(),
            |last| format!("last delivered {}", relative(last, now)),
        );
        let (state, name) = (sink.state.words(), &sink.name);
        text.push_str(&format!("\nsink {name}: {state}, {} pending, {} failed, {last}\n", sink.pending, sink.failed));
    }
    replicas(status, now, &mut text);
    text
}

/// A finding and what to do about it.
pub(in crate::cli) fn finding(finding: &FindingStatus) -> String {
    let severity = match finding.severity {
        Severity::Trouble => "trouble",
        Severity::Warning => "warning",
        Severity::Info => "note",
    };
    // Accounts are named; a sink's name is in the sentence.
    let about = finding.subject.as_deref().filter(|_| !finding.accounts.is_empty());
    let about = about.map(|about| format!(" ({})", one_line(about))).unwrap_or_default();
    format!("{severity}: {}{about}\n  hint: {}\n", one_line(&finding.sentence), one_line(&finding.hint))
}

fn accounts(status: &Status, now: Time, width: usize) -> String {
    if status.accounts.is_empty() {
        return "no accounts yet\n".to_owned();
    }
    let header = [
        "account",
        "owner",
        "read up to",
        "behind",
        "ready",
        "waiting",
        "running",
        "done",
        "unavail.",
        "failed",
        "budget",
        "drain",
    ];
    let mut table = terminal::table(header, 0, width);
    for account in &status.accounts {
        table.add_row(row(account, now));
    }
    for index in 3..12 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

fn row(account: &AccountStatus, now: Time) -> Row {
    let secs = |secs: u64| span(Duration::from_secs(secs));
    let read = account.watermark.as_deref().and_then(Time::parse);
    let read = read.map(|time| brief(time, now)).unwrap_or_else(|| "nothing yet".to_owned());
    let work = account.work;
    Row::from(
        [
            title(account),
            account.owner.as_deref().map_or_else(|| "-".to_owned(), one_line),
            read,
            account.lag_seconds.map_or_else(|| "-".to_owned(), secs),
            work.ready.to_string(),
            work.waiting.to_string(),
            work.running.to_string(),
            work.done.to_string(),
            work.unavailable.to_string(),
            work.failed.to_string(),
            format!("{}/{}", account.requests_last_minute, account.requests_per_minute),
            secs(account.drain_seconds),
        ]
        .map(Cell::new),
    )
}

/// The time alone where it is of today, else with its day.
fn brief(time: Time, now: Time) -> String {
    let text = time.rfc3339_secs();
    let (day, rest) = text.split_once('T').unwrap_or(("", &text));
    let clock = rest.trim_end_matches('Z');
    if now.rfc3339_secs().starts_with(day) { clock.to_owned() } else { format!("{day} {clock}") }
}

fn title(account: &AccountStatus) -> String {
    one_line(account.name.as_deref().unwrap_or(&account.sub_account_id))
}

fn replicas(status: &Status, now: Time, text: &mut String) {
    text.push('\n');
    for replica in status.replicas.iter().filter(|replica| replica.alive) {
        let since = Time::parse(&replica.started).map(|started| span(now.since(started))).unwrap_or_default();
        text.push_str(&format!("{}: version {}, running for {since}\n", one_line(&replica.name), replica.version));
    }
}
