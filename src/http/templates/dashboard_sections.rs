//! The sections around the accounts. Above: the health with its findings and hints, and the main
//! figures. Below: the failures with their reasons, and the sinks.

use std::time::Duration;

use maud::{Markup, html};

use super::super::health_summary::{HealthLevel, HealthSummary};
use super::super::lag_history::LagSample;
use super::super::status_snapshot::StatusSnapshot;
use super::DashboardView;
use super::account_row::budget_bar;
use super::sparkline::sparkline;
use crate::clock::Time;
use crate::db::FailureRow;
use crate::health::humanize::{format_count, format_duration, format_number};
use crate::health::{AccountStatus, Finding, SinkState, SinkStatus};

/// The most findings listed below the headline.
const MAX_OTHER_FINDINGS: usize = 8;

/// The section above the accounts.
pub(in super::super) fn head(view: &DashboardView<'_>) -> Markup {
    html! {
        (health_section(view))
        @if let Some(snapshot) = view.snapshot {
            div.tiles { (tiles(snapshot, view)) }
        } @else {
            p { "There is nothing to show yet: the database has not answered since the daemon started." }
        }
    }
}

/// The section below the accounts.
pub(in super::super) fn rest(view: &DashboardView<'_>) -> Markup {
    html! {
        @if let Some(snapshot) = view.snapshot {
            (failures_section(&snapshot.failures))
            (sinks_section(&snapshot.status.sinks, &view.summary))
        }
    }
}

fn lag(sample: &LagSample) -> u64 {
    sample.lag.as_secs()
}

fn backlog(sample: &LagSample) -> u64 {
    sample.backlog
}

fn format_seconds(seconds: u64) -> String {
    format_duration(Duration::from_secs(seconds))
}

fn health_section(view: &DashboardView<'_>) -> Markup {
    let summary = &view.summary;
    // With a single account, findings need not name it.
    let is_only_account = view.snapshot.is_some_and(|snapshot| snapshot.status.accounts.len() == 1);
    let (first, others) = match summary.findings.split_first() {
        Some((first, others)) if first.sentence == summary.headline => (Some(first), others),
        _ => (None, summary.findings.as_slice()),
    };
    html! {
        section.health.(summary.level.css_class()) #health data-level=(summary.level.css_class()) data-name=(summary.level.display_name()) {
            p {
                span.level.(summary.level.css_class()) aria-hidden="true" { (summary.level.symbol()) }
                strong { (summary.level.display_name()) } ": " (summary.headline)
            }
            @if let Some(first) = first { p.todo { (finding_details(first, is_only_account)) } }
            @if !others.is_empty() {
                ul { @for finding in others.iter().take(MAX_OTHER_FINDINGS) { (finding_item(finding, is_only_account)) } }
                @if let Some(more) = others.len().checked_sub(MAX_OTHER_FINDINGS + 1) { p.todo { "and " (more + 1) " more" } }
            }
        }
    }
}

/// Renders text between backticks as code.
fn with_code(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn finding_item(finding: &Finding, is_only_account: bool) -> Markup {
    let level = HealthLevel::of_finding(finding);
    html! {
        li {
            span.level.(level.css_class()) title=(level.display_name()) { (level.symbol()) }
            span { (finding.sentence) small { (finding_details(finding, is_only_account)) } }
        }
    }
}

/// The accounts concerned, and the hint.
fn finding_details(finding: &Finding, is_only_account: bool) -> Markup {
    html! {
        @if let Some(subject) = finding.subject.as_ref().filter(|_| !is_only_account && !finding.accounts().is_empty()) {
            span.who { (subject) } " · "
        }
        (with_code(&finding.hint))
    }
}

fn tiles(snapshot: &StatusSnapshot, view: &DashboardView<'_>) -> Markup {
    let (rows, now) = (&snapshot.status.accounts, view.now);
    let total = |value: fn(&AccountStatus) -> u64| rows.iter().map(value).sum::<u64>();
    let most_behind = rows.iter().filter_map(|row| Some((row.lag(now)?, row))).max_by_key(|(lag, _)| *lag);
    let oldest = rows.iter().filter_map(|account| account.oldest_unfinished_seconds).max();
    let drain_seconds = rows.iter().map(|row| row.drain_seconds).max().unwrap_or_default();
    let (used, limit) = request_usage(snapshot);
    let unfinished = total(|row| row.work.unfinished());
    let (failed, unavailable) = (total(|row| row.work.failed), total(|row| row.work.unavailable));
    html! {
        (accounts_tile(rows.iter().map(|row| view.summary.account_level(&row.sub_account_id))))
        div.tile {
            h3 { "Furthest behind" }
            p { @if let Some((lag, _)) = most_behind { (format_duration(lag)) } @else { "–" } }
            small { (most_behind.map_or("nothing read yet", |(_, row)| row.title())) }
            @if let Some(spark) = sparkline(&view.samples, snapshot.visible_range, lag, format_seconds) { (spark) }
        }
        div.tile {
            h3 { "Unfinished" }
            p { (format_number(unfinished)) }
            small { @match oldest {
                Some(oldest) if unfinished > 0 => { "oldest " (format_seconds(oldest)) "; takes at least " (format_seconds(drain_seconds)) },
                _ => "nothing is waiting",
            } }
            @if let Some(spark) = sparkline(&view.samples, snapshot.visible_range, backlog, format_number) { (spark) }
        }
        (tile("Done", &format_number(total(|row| row.work.done)), "stored or known to be empty"))
        (tile("Given up", &format_number(failed + unavailable),
            &format!("{} failed, {} unavailable", format_number(failed), format_number(unavailable))))
        div.tile {
            h3 { "Requests in the last minute" }
            div.budget { (budget_bar(used, limit)) }
            small { @if snapshot.is_limit_shared { "one limit for the login" } @else { "of all accounts' limits" } }
        }
        @if !snapshot.status.sinks.is_empty() { (sinks_tile(&snapshot.status.sinks)) }
    }
}

/// The number of accounts, by level.
fn accounts_tile(levels: impl Iterator<Item = HealthLevel>) -> Markup {
    let mut counts = [0_u64; HealthLevel::ALL.len()];
    for level in levels {
        counts[level as usize] += 1;
    }
    let all: u64 = counts.iter().sum();
    let counts_worst_first = || HealthLevel::ALL.into_iter().rev().map(|level| (level, counts[level as usize]));
    let some = counts_worst_first().filter(|(_, count)| *count > 0);
    let description: Vec<String> = some
        .map(|(level, count)| match (level, count) {
            (level, 1) if all == 1 => level.display_name().to_lowercase(),
            (level, count) if count == all => format!("all {}", level.display_name().to_lowercase()),
            (level, count) => format!("{} {}", format_number(count), level.display_name().to_lowercase()),
        })
        .collect();
    // A level with few accounts stays visible.
    let share_of_width = |count: u64| if count == 0 { 0 } else { (count * 100).div_ceil(all.max(1)).max(2) };
    let mut left = 100;
    let segments: Vec<(HealthLevel, u64, u64)> = counts_worst_first()
        .map(|(level, count)| {
            let width = if level == HealthLevel::Healthy { left } else { share_of_width(count).min(left) };
            left -= width;
            (level, 100 - left - width, width)
        })
        .collect();
    html! {
        div.tile {
            h3 { "Accounts" }
            p { (format_number(all)) }
            @if all > 1 {
                svg.meter.levels viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
                    @for (level, from, width) in segments { @if width > 0 { rect.(level.css_class()) x=(from) width=(width) height="6" {} } }
                }
            }
            small { (description.join(", ")) }
        }
    }
}

/// A short summary of the sinks; details are below the accounts.
fn sinks_tile(sinks: &[SinkStatus]) -> Markup {
    let waiting: u64 = sinks.iter().map(|sink| sink.pending).sum();
    let problem = |sink: &SinkStatus| match sink.state {
        SinkState::Stopped => "stopped",
        _ if sink.failed > 0 => "refusing",
        SinkState::Resting => "resting",
        SinkState::Active | SinkState::New | SinkState::NotInTheSettings => "",
    };
    let count = |name: &str| {
        let count = sinks.iter().filter(|sink| problem(sink) == name).count();
        (count > 0).then(|| format!("{count} {name}"))
    };
    let problems: Vec<String> = ["stopped", "refusing", "resting"].into_iter().filter_map(count).collect();
    html! {
        a.tile href="#sinks" {
            h3 { "Sinks" }
            p { (format_number(sinks.len() as u64)) }
            small { @if problems.is_empty() { "all active" } @else { (problems.join(", ")) } "; " (format_count(waiting, "event waits", "events wait")) }
        }
    }
}

fn tile(label: &str, figure: &str, note: &str) -> Markup {
    html! { div.tile { h3 { (label) } p { (figure) } small { (note) } } }
}

/// Requests in the last minute, and the limit. If all accounts share one limit, each row shows all
/// of it.
fn request_usage(snapshot: &StatusSnapshot) -> (u64, u64) {
    let each = snapshot.status.accounts.iter().map(|row| (row.requests_last_minute, row.requests_per_minute.into()));
    if snapshot.is_limit_shared {
        each.max().unwrap_or_default()
    } else {
        each.fold((0, 0), |(used, limit), row| (used + row.0, limit + row.1))
    }
}

fn failures_section(failures: &[(String, FailureRow)]) -> Markup {
    html! {
        @if !failures.is_empty() {
            section.failures #failures {
                h2 { "Failures" }
                table {
                    thead { tr { th scope="col" { "Accounts" } th scope="col" { "Artifact" } th scope="col" { "Items" } th scope="col" { "Reason" } } }
                    tbody {
                        @for (accounts, failure) in failures {
                            tr {
                                td data-label="Accounts" { (accounts) }
                                td data-label="Artifact" { (failure.artifact.name().replace('_', " ")) }
                                td.number data-label="Items" { (format_number(failure.items)) }
                                td.wide data-label="Reason" { (failure.reason.as_deref().unwrap_or("no reason was recorded")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn sinks_section(sinks: &[SinkStatus], summary: &HealthSummary) -> Markup {
    html! {
        @if !sinks.is_empty() {
            section.sinks #sinks {
                h2 { "Sinks" }
                table {
                    thead { tr {
                        th scope="col" { "Sink" } th scope="col" { "State" } th scope="col" { "Pending" }
                        th scope="col" { "Delivered" } th scope="col" { "Refused" } th scope="col" { "Last delivered" }
                    } }
                    tbody { @for sink in sinks { (sink_row(sink, summary.sink_level(&sink.name))) } }
                }
            }
        }
    }
}

fn sink_row(sink: &SinkStatus, level: HealthLevel) -> Markup {
    html! {
        tr data-level=(level.css_class()) {
            td data-label="Sink" {
                (sink.name)
                @if let Some(kind) = sink.kind { small { (kind.replace('_', " ")) } }
            }
            td.wide data-label="State" {
                span.level.(level.css_class()) aria-hidden="true" { (level.symbol()) } " " (sink.state.display_name())
                @if let Some(since) = sink.since { " since " (readable_time(since)) }
                @if let Some(until) = sink.resting_until { ", next attempt at " (readable_time(until)) }
                @if let Some(reason) = &sink.reason { small.note { (reason) } }
                @if let Some(hint) = sink.hint() { small { (with_code(hint)) } }
            }
            td.number data-label="Pending" {
                (format_number(sink.pending))
                @if sink.waiting > 0 { small { (format_number(sink.waiting)) " waiting for a retry" } }
            }
            td.number data-label="Delivered" { (format_number(sink.delivered)) }
            td.number data-label="Refused" {
                @if sink.failed > 0 { strong { (format_number(sink.failed)) } } @else { "0" }
            }
            td data-label="Last delivered" { (sink.last_delivered.map_or_else(|| "never".to_owned(), readable_time)) }
        }
    }
}

/// Formats a time for people.
fn readable_time(time: Time) -> String {
    time.rfc3339_secs().replace('T', " ").replace('Z', " UTC")
}
