//! Renders the status as a table, with findings and hints below it.

use std::time::Duration;

use crate::cli::human_format::{format_duration, format_relative};
use crate::cli::terminal;
use crate::clock::Time;
use crate::health::{AccountStatus, Finding, Severity, Snapshot};
use crate::render::clean_line;

/// Renders the status for a terminal of this width.
pub(super) fn render(status: &Snapshot, width: usize) -> String {
    let now = status.now;
    let mut text = format!("ringcx-extractor {}, {}, {}\n\n", status.version, status.instance, now.rfc3339_secs());
    text.push_str(&account_table(status, now, width));
    for finding in status.findings.iter().filter(|finding| finding.severity > Severity::Info) {
        text.push_str(&format!("\n{}", format_finding(finding)));
    }
    for sink in &status.sinks {
        let last = sink.last_delivered.map_or_else(
            || "nothing delivered yet".to_owned(),
            |last| format!("last delivered {}", format_relative(last, now)),
        );
        let (state, name) = (sink.state.display_name(), &sink.name);
        text.push_str(&format!("\nsink {name}: {state}, {} pending, {} failed, {last}\n", sink.pending, sink.failed));
    }
    add_replicas(status, now, &mut text);
    text
}

/// Formats a finding with its hint.
pub(in crate::cli) fn format_finding(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Trouble => "trouble",
        Severity::Warning => "warning",
        Severity::Info => "note",
    };
    // The subject is shown for accounts only; the sentence contains the name of a sink.
    let about = finding.subject.as_deref().filter(|_| !finding.accounts().is_empty());
    let about = about.map(|about| format!(" ({})", clean_line(about))).unwrap_or_default();
    format!("{severity}: {}{about}\n  hint: {}\n", clean_line(&finding.sentence), clean_line(&finding.hint))
}

fn account_table(status: &Snapshot, now: Time, width: usize) -> String {
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
    terminal::format_table(header, 0, 3..12, width, status.accounts.iter().map(|account| account_row(account, now)))
}

fn account_row(account: &AccountStatus, now: Time) -> [String; 12] {
    let duration = |secs: u64| format_duration(Duration::from_secs(secs));
    let read = account.watermark.map_or_else(|| "nothing yet".to_owned(), |time| brief_time(time, now));
    let work = account.work;
    [
        account_title(account),
        account.owner.as_deref().map_or_else(|| "-".to_owned(), clean_line),
        read,
        account.lag_seconds.map_or_else(|| "-".to_owned(), duration),
        work.ready.to_string(),
        work.waiting.to_string(),
        work.running.to_string(),
        work.done.to_string(),
        work.unavailable.to_string(),
        work.failed.to_string(),
        format!("{}/{}", account.requests_last_minute, account.requests_per_minute),
        duration(account.drain_seconds),
    ]
}

/// Formats a time, with its date unless that is today.
fn brief_time(time: Time, now: Time) -> String {
    let text = time.rfc3339_secs();
    let (day, rest) = text.split_once('T').unwrap_or(("", &text));
    let clock = rest.trim_end_matches('Z');
    if now.rfc3339_secs().starts_with(day) { clock.to_owned() } else { format!("{day} {clock}") }
}

fn account_title(account: &AccountStatus) -> String {
    clean_line(account.name.as_deref().unwrap_or(&account.sub_account_id))
}

fn add_replicas(status: &Snapshot, now: Time, text: &mut String) {
    text.push('\n');
    for replica in status.replicas.iter().filter(|replica| replica.alive) {
        let since = format_duration(now.since(replica.started));
        text.push_str(&format!("{}: version {}, running for {since}\n", clean_line(&replica.name), replica.version));
    }
}
