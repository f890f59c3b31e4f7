//! One account's row.

use std::cmp::Ordering;
use std::time::Duration;

use maud::{Markup, html};

use super::super::picture::Row;
use super::super::strip::{CELLS, Kind, Strip};
use super::super::verdict::Level;
use crate::clock::Time;
use crate::model::Stretch;
use crate::status::Pause;
use crate::status::words::{count, number, span};

/// An account and how it stands; two that are equal look the same, but for what the script counts on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Drawn<'a> {
    pub(in super::super) row: &'a Row,
    pub(in super::super) level: Level,
}

/// Work that takes no longer is just work.
const NOTABLE: Duration = Duration::from_secs(60);

/// Those that need attention first, then those that are furthest behind, then by id.
pub(in super::super) fn order(a: &Drawn<'_>, b: &Drawn<'_>, now: Time) -> Ordering {
    let by_level = b.level.cmp(&a.level);
    by_level.then_with(|| b.row.lag(now).cmp(&a.row.lag(now))).then_with(|| a.row.sub.cmp(&b.row.sub))
}

impl Drawn<'_> {
    /// As a row of the table. What changes with time alone is marked, for the script to keep up to date.
    pub(in super::super) fn markup(&self, now: Time) -> Markup {
        let row = self.row;
        let (todo, bad) = (row.work.unfinished(), row.work.failed + row.work.unavailable);
        html! {
            tr data-key=(row.sub) data-level=(self.level.name()) data-rank=(self.level as u8) data-name=(row.title())
                data-watermark=[row.watermark.map(|watermark| watermark.0)] data-todo=(todo) data-done=(row.work.done)
                data-bad=(bad) data-used=(row.used) {
                th scope="row" {
                    div {
                        span.level.(self.level.name()) title=(self.level.words()) { (self.level.sign()) }
                        span.name {
                            (row.title())
                            @if row.name.is_some() { small { (row.sub) } }
                            @for note in notes(row) { small.note { (note) } }
                            @for pause in &row.paused { (paused(pause)) }
                        }
                    }
                }
                td.lag data-label="Behind" { (row.lag(now).map_or_else(|| "not read yet".to_owned(), span)) }
                td.coverage data-label="Read" { (strip(&row.strip)) }
                td.number.todo data-label="Unfinished" {
                    (number(todo))
                    @if todo > 0 { small { (unfinished(row)) } }
                }
                td.number data-label="Done" { (number(row.work.done)) }
                td.number data-label="Gave up" {
                    (number(bad))
                    @if row.work.failed > 0 { small.note { (number(row.work.failed)) " failed" } }
                }
                td.budget data-label="Requests a minute" { (budget(row.used, row.limit)) }
            }
        }
    }
}

fn notes(row: &Row) -> impl Iterator<Item = String> {
    let missing = row.missing.then(|| "no longer seen by the login".to_owned());
    let gap = (!row.gaps.is_zero()).then(|| format!("gap of {}", span(row.gaps)));
    let aside = (row.aside > 0).then(|| format!("{} set aside", count(row.aside, "record", "records")));
    missing.into_iter().chain(gap).chain(aside)
}

fn paused(pause: &Pause) -> Markup {
    html! {
        small.note title=(pause.hint()) {
            (pause.endpoint.replace('_', " ")) " paused"
            @if let Some(until) = Time::parse(&pause.until) { " until " (clock(until)) }
            ": " (pause.reason)
        }
    }
}

/// By state, and how long it takes.
fn unfinished(row: &Row) -> String {
    let states = [(row.work.ready, "due"), (row.work.running, "running"), (row.work.waiting, "backing off")];
    let some = states.into_iter().filter(|(items, _)| *items > 0);
    let states: Vec<String> = some.map(|(items, state)| format!("{} {state}", number(items))).collect();
    let mut words = states.join(", ");
    // What a moment settles needs no saying.
    if row.drain > NOTABLE {
        words.push_str(&format!("; takes {} at least", span(row.drain)));
    }
    words
}

fn strip(strip: &Strip) -> Markup {
    html! {
        svg.strip viewBox={ "0 0 " (CELLS) " 10" } preserveAspectRatio="none" role="img" aria-label=(strip.words) {
            title { (strip.words) }
            @for band in &strip.bands {
                rect.(class(band.kind)) x=(band.from) width=(band.to - band.from) height="10" {}
            }
        }
    }
}

const fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "read",
        Kind::Reread => "reread",
        Kind::Backfill => "backfill",
        Kind::Gap => "gap",
    }
}

/// What the strips show, at the head of their column.
pub(in super::super) fn frame(frame: Stretch) -> String {
    format!("Read in the last {} h, to {} UTC", frame.width().as_secs() / 3600, clock(frame.to))
}

/// The time of day.
pub(super) fn clock(time: Time) -> String {
    time.rfc3339_secs().get(11..16).unwrap_or_default().to_owned()
}

/// How much of the budget is used: a bar and the two numbers.
pub(in super::super) fn budget(used: u64, limit: u64) -> Markup {
    let filled = (used * 100).checked_div(limit).unwrap_or(0).min(100);
    html! {
        svg.meter viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
            rect.track width="100" height="6" {}
            rect.fill width=(filled) height="6" {}
        }
        span { (number(used)) " / " (number(limit)) }
    }
}
