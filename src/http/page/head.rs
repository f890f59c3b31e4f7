//! What stands above the accounts: the verdict, the figures that matter, what is wrong and what to do, sinks.

use std::time::Duration;

use maud::{Markup, html};

use super::super::history::Sample;
use super::super::picture::{Failure, Picture, Row};
use super::super::verdict::{self, Finding, Verdict};
use super::super::words::{count, number, span};
use super::{View, chart, row};
use crate::clock::Time;
use crate::status::SinkStatus;

/// So many findings are shown; the rest would not help.
const FINDINGS: usize = 12;

pub(super) fn head(view: &View<'_>) -> Markup {
    html! {
        (standing(view.verdict))
        @if let Some(picture) = view.picture {
            div.tiles { (tiles(picture, view.now)) }
            // Two points make a line; until then there is nothing to see.
            @if view.samples.len() > 1 {
                div.charts {
                    (chart::chart("Furthest behind", view.samples, picture.frame, lag, in_words))
                    (chart::chart("Unfinished", view.samples, picture.frame, backlog, number))
                }
            }
            (failures(&picture.failures))
            (sinks(&picture.status.sinks))
        } @else {
            p { "There is nothing to show yet: the database has not answered since the start." }
        }
    }
}

fn lag(sample: &Sample) -> u64 {
    sample.lag.as_secs()
}

fn backlog(sample: &Sample) -> u64 {
    sample.backlog
}

fn in_words(seconds: u64) -> String {
    span(Duration::from_secs(seconds))
}

fn standing(verdict: &Verdict) -> Markup {
    let (first, others) = match verdict.findings.split_first() {
        Some((first, others)) if first.what == verdict.line => (Some(first), others),
        _ => (None, verdict.findings.as_slice()),
    };
    html! {
        section.verdict.(verdict.level.name()) #verdict data-level=(verdict.level.name()) data-words=(verdict.level.words()) {
            p {
                span.level.(verdict.level.name()) aria-hidden="true" { (verdict.level.sign()) }
                strong { (verdict.level.words()) } ": " (verdict.line)
            }
            @if let Some(first) = first { p.todo { (text(&first.todo)) } }
            @if !others.is_empty() {
                ul { @for finding in others.iter().take(FINDINGS) { (other(finding)) } }
                @if let Some(more) = others.len().checked_sub(FINDINGS + 1) { p.todo { "and " (more + 1) " more" } }
            }
        }
    }
}

/// Commands stand between backticks.
fn text(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn other(finding: &Finding) -> Markup {
    html! {
        li {
            span.level.(finding.level.name()) title=(finding.level.words()) { (finding.level.sign()) }
            span { (finding.what) small { (text(&finding.todo)) } }
        }
    }
}

fn tiles(picture: &Picture, now: Time) -> Markup {
    let rows = &picture.rows;
    let total = |figure: fn(&Row) -> u64| rows.iter().map(figure).sum::<u64>();
    let paused = rows.iter().filter(|row| row.missing || !row.paused.is_empty()).count();
    let furthest = rows.iter().max_by_key(|row| row.lag(now));
    let oldest = picture.status.accounts.iter().filter_map(|account| account.oldest_unfinished_seconds).max();
    let drain = rows.iter().map(|row| row.drain).max().unwrap_or_default();
    let (used, limit) = used(picture);
    let todo = total(|row| row.work.unfinished());
    html! {
        (tile("Accounts", &number(rows.len() as u64), &if paused > 0 { count(paused as u64, "paused", "paused") } else { "none paused".to_owned() }))
        @match furthest.and_then(|row| Some((row, row.lag(now)?))) {
            Some((row, lag)) => (tile("Furthest behind", &span(lag), row.title())),
            None => (tile("Furthest behind", "–", "nothing read yet")),
        }
        (tile("Unfinished", &number(todo), &match oldest {
            Some(oldest) if todo > 0 => format!("oldest {}; takes {} at least", in_words(oldest), span(drain)),
            _ => "nothing waits".to_owned(),
        }))
        (tile("Done", &number(total(|row| row.work.done)), "stored or known to be empty"))
        (tile("Gave up", &number(total(|row| row.work.failed + row.work.unavailable)),
            &format!("{} failed, {} unavailable", number(total(|row| row.work.failed)), number(total(|row| row.work.unavailable)))))
        div.tile {
            h3 { "Requests in the last minute" }
            div.budget { (row::budget(used, limit)) }
            small { @if picture.one_budget { "one budget for the login" } @else { "of all accounts' budgets" } }
        }
    }
}

fn tile(label: &str, figure: &str, note: &str) -> Markup {
    html! { div.tile { h3 { (label) } p { (figure) } small { (note) } } }
}

/// Of the budget; where all accounts share one, each of them shows all of it.
fn used(picture: &Picture) -> (u64, u64) {
    let each = picture.rows.iter().map(|row| (row.used, row.limit));
    if picture.one_budget {
        each.max().unwrap_or_default()
    } else {
        each.fold((0, 0), |(used, limit), row| (used + row.0, limit + row.1))
    }
}

fn failures(failures: &[Failure]) -> Markup {
    html! {
        @if !failures.is_empty() {
            section.failures {
                h2 { "What failed, and why" }
                table {
                    thead { tr { th scope="col" { "Accounts" } th scope="col" { "Artifact" } th scope="col" { "Items" } th scope="col" { "Reason" } } }
                    tbody {
                        @for failure in failures {
                            tr {
                                td data-label="Accounts" { (failure.accounts) }
                                td data-label="Artifact" { (failure.artifact.replace('_', " ")) }
                                td.number data-label="Items" { (number(failure.items)) }
                                td.wide data-label="Reason" { (failure.reason) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn sinks(sinks: &[SinkStatus]) -> Markup {
    html! {
        @if !sinks.is_empty() {
            section.sinks {
                h2 { "Sinks" }
                table {
                    thead { tr {
                        th scope="col" { "Sink" } th scope="col" { "State" } th scope="col" { "Pending" }
                        th scope="col" { "Delivered" } th scope="col" { "Refused" } th scope="col" { "Last delivered" }
                    } }
                    tbody { @for sink in sinks { (sink_row(sink)) } }
                }
            }
        }
    }
}

fn sink_row(sink: &SinkStatus) -> Markup {
    let level = verdict::of_sink(sink);
    html! {
        tr data-level=(level.name()) {
            td data-label="Sink" {
                (sink.name)
                @if let Some(kind) = sink.kind { small { (kind.replace('_', " ")) } }
            }
            td.wide data-label="State" {
                span.level.(level.name()) aria-hidden="true" { (level.sign()) } " " (sink.state.words())
                @if let Some(since) = &sink.since { " since " (moment(since)) }
                @if let Some(until) = &sink.resting_until { ", tried again at " (moment(until)) }
                @if let Some(reason) = &sink.reason { small.note { (reason) } }
                @if let Some(todo) = verdict::todo_of_sink(sink) { small { (text(todo)) } }
            }
            td.number data-label="Pending" {
                (number(sink.pending))
                @if sink.waiting > 0 { small { (number(sink.waiting)) " to be tried again" } }
            }
            td.number data-label="Delivered" { (number(sink.delivered)) }
            td.number data-label="Refused" {
                @if sink.failed > 0 { strong { (number(sink.failed)) } } @else { "0" }
            }
            td data-label="Last delivered" { (sink.last_delivered.as_deref().map_or_else(|| "never".to_owned(), moment)) }
        }
    }
}

/// A moment in RFC 3339, as people read it.
fn moment(time: &str) -> String {
    time.replace('T', " ").replace('Z', " UTC")
}
