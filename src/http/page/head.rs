//! What stands above the accounts: the verdict with what is wrong and what to do, and the figures that matter. Below them:
//! why items failed, and the sinks.

use std::time::Duration;

use maud::{Markup, html};

use super::super::history::Sample;
use super::super::picture::{Failure, Picture, Row};
use super::super::verdict::{self, Level, Verdict};
use super::{View, chart, row};
use crate::status::words::{count, number, span};
use crate::status::{FindingStatus, SinkStatus};

/// So many findings are shown; the rest would not help.
const FINDINGS: usize = 8;

/// What is above the accounts.
pub(super) fn head(view: &View<'_>) -> Markup {
    html! {
        (standing(view))
        @if let Some(picture) = view.picture {
            div.tiles { (tiles(picture, view)) }
        } @else {
            p { "There is nothing to show yet: the database has not answered since the start." }
        }
    }
}

/// What is below them: the particulars of what the verdict has named.
pub(super) fn rest(view: &View<'_>) -> Markup {
    html! {
        @if let Some(picture) = view.picture {
            (failures(&picture.failures))
            (sinks(&picture.status.sinks))
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

fn standing(view: &View<'_>) -> Markup {
    let verdict: &Verdict = view.verdict;
    // Where there is only one account, nobody asks which.
    let one = view.picture.is_some_and(|picture| picture.rows.len() == 1);
    let (first, others) = match verdict.findings.split_first() {
        Some((first, others)) if first.sentence == verdict.line => (Some(first), others),
        _ => (None, verdict.findings.as_slice()),
    };
    html! {
        section.verdict.(verdict.level.name()) #verdict data-level=(verdict.level.name()) data-words=(verdict.level.words()) {
            p {
                span.level.(verdict.level.name()) aria-hidden="true" { (verdict.level.sign()) }
                strong { (verdict.level.words()) } ": " (verdict.line)
            }
            @if let Some(first) = first { p.todo { (particulars(first, one)) } }
            @if !others.is_empty() {
                ul { @for finding in others.iter().take(FINDINGS) { (other(finding, one)) } }
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

fn other(finding: &FindingStatus, one: bool) -> Markup {
    let level = Level::of(finding);
    html! {
        li {
            span.level.(level.name()) title=(level.words()) { (level.sign()) }
            span { (finding.sentence) small { (particulars(finding, one)) } }
        }
    }
}

/// Which accounts, and what to do.
fn particulars(finding: &FindingStatus, one: bool) -> Markup {
    html! {
        @if let Some(subject) = finding.subject.as_ref().filter(|_| !one && !finding.accounts.is_empty()) {
            span.who { (subject) } " · "
        }
        (text(&finding.hint))
    }
}

fn tiles(picture: &Picture, view: &View<'_>) -> Markup {
    let (rows, now) = (&picture.rows, view.now);
    let total = |figure: fn(&Row) -> u64| rows.iter().map(figure).sum::<u64>();
    let furthest = rows.iter().filter_map(|row| Some((row.lag(now)?, row))).max_by_key(|(lag, _)| *lag);
    let oldest = picture.status.accounts.iter().filter_map(|account| account.oldest_unfinished_seconds).max();
    let drain = rows.iter().map(|row| row.drain).max().unwrap_or_default();
    let (used, limit) = used(picture);
    let todo = total(|row| row.work.unfinished());
    let (failed, unavailable) = (total(|row| row.work.failed), total(|row| row.work.unavailable));
    html! {
        (fleet(rows.iter().map(|row| view.verdict.of_account(&row.sub))))
        div.tile {
            h3 { "Furthest behind" }
            p { @if let Some((lag, _)) = furthest { (span(lag)) } @else { "–" } }
            small { (furthest.map_or("nothing read yet", |(_, row)| row.title())) }
            @if let Some(spark) = chart::spark(view.samples, picture.frame, lag, in_words) { (spark) }
        }
        div.tile {
            h3 { "Unfinished" }
            p { (number(todo)) }
            small { @match oldest {
                Some(oldest) if todo > 0 => { "oldest " (in_words(oldest)) "; takes " (span(drain)) " at least" },
                _ => "nothing waits",
            } }
            @if let Some(spark) = chart::spark(view.samples, picture.frame, backlog, number) { (spark) }
        }
        (tile("Done", &number(total(|row| row.work.done)), "stored or known to be empty"))
        (tile("Gave up", &number(failed + unavailable),
            &format!("{} failed, {} unavailable", number(failed), number(unavailable))))
        div.tile {
            h3 { "Requests in the last minute" }
            div.budget { (row::budget(used, limit)) }
            small { @if picture.one_budget { "one budget for the login" } @else { "of all accounts' budgets" } }
        }
        @if !picture.status.sinks.is_empty() { (passed_on(&picture.status.sinks)) }
    }
}

/// How many accounts there are, and how they stand.
fn fleet(levels: impl Iterator<Item = Level>) -> Markup {
    let mut counts = [0_u64; Level::ALL.len()];
    for level in levels {
        counts[level as usize] += 1;
    }
    let all: u64 = counts.iter().sum();
    let worst_first = || Level::ALL.into_iter().rev().map(|level| (level, counts[level as usize]));
    let some = worst_first().filter(|(_, count)| *count > 0);
    let words: Vec<String> = some
        .map(|(level, count)| match (level, count) {
            (level, 1) if all == 1 => level.words().to_lowercase(),
            (level, count) if count == all => format!("all {}", level.words().to_lowercase()),
            (level, count) => format!("{} {}", number(count), level.words().to_lowercase()),
        })
        .collect();
    // However few they are among many, they are seen.
    let width = |count: u64| if count == 0 { 0 } else { (count * 100).div_ceil(all.max(1)).max(2) };
    let mut left = 100;
    let bands: Vec<(Level, u64, u64)> = worst_first()
        .map(|(level, count)| {
            let wide = if level == Level::Healthy { left } else { width(count).min(left) };
            left -= wide;
            (level, 100 - left - wide, wide)
        })
        .collect();
    html! {
        div.tile {
            h3 { "Accounts" }
            p { (number(all)) }
            @if all > 1 {
                svg.meter.levels viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
                    @for (level, from, wide) in bands { @if wide > 0 { rect.(level.name()) x=(from) width=(wide) height="6" {} } }
                }
            }
            small { (words.join(", ")) }
        }
    }
}

/// How the sinks stand, in a few words; their particulars are below.
fn passed_on(sinks: &[SinkStatus]) -> Markup {
    let waiting: u64 = sinks.iter().map(|sink| sink.pending).sum();
    let named = |level: Level, words: &str| {
        let count = sinks.iter().filter(|sink| verdict::of_sink(sink) == level).count();
        (count > 0).then(|| format!("{count} {words}"))
    };
    let wrong =
        [named(Level::Trouble, "stopped"), named(Level::Incomplete, "refusing"), named(Level::Behind, "resting")];
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    html! {
        a.tile href="#sinks" {
            h3 { "Sinks" }
            p { (number(sinks.len() as u64)) }
            small { @if wrong.is_empty() { "all well" } @else { (wrong.join(", ")) } "; " (count(waiting, "event waits", "events wait")) }
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
            section.failures #failures {
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
            section.sinks #sinks {
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
                @if let Some(todo) = sink.hint() { small { (text(todo)) } }
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
