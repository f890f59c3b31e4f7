//! The table row of an account.

use std::time::Duration;

use maud::{Markup, html};

use super::super::coverage_timeline::{CELLS, CoverageState, CoverageTimeline};
use super::super::health_summary::HealthLevel;
use crate::clock::Time;
use crate::health::humanize::{format_count, format_duration, format_number};
use crate::health::{AccountStatus, EndpointPause};
use crate::model::TimeRange;

/// What the row of an account shows.
pub(in super::super) struct AccountRowView<'a> {
    pub(in super::super) account: &'a AccountStatus,
    pub(in super::super) timeline: &'a CoverageTimeline,
    pub(in super::super) level: HealthLevel,
}

/// A shorter time for the unfinished items is not shown.
const MIN_SHOWN_DRAIN_TIME: Duration = Duration::from_secs(60);

impl AccountRowView<'_> {
    /// Renders the table row. Without `now` it leaves the lag to the script, so that two rows that
    /// differ only by the passing of time are equal.
    pub(in super::super) fn markup(&self, now: Option<Time>) -> Markup {
        let row = self.account;
        let (unfinished, given_up) = (row.work.unfinished(), row.work.failed + row.work.unavailable);
        let watermark = row.watermark;
        html! {
            tr data-key=(row.sub_account_id) data-level=(self.level.css_class()) data-rank=(self.level as u8) data-name=(row.title())
                data-watermark=[watermark.map(|watermark| watermark.0)] data-todo=(unfinished) data-done=(row.work.done)
                data-bad=(given_up) data-used=(row.requests_last_minute) {
                th scope="row" {
                    div {
                        span.level.(self.level.css_class()) title=(self.level.display_name()) { (self.level.symbol()) }
                        span.name {
                            (row.title())
                            @if row.name.is_some() { small { (row.sub_account_id) } }
                            @for note in notes(row) { small.note { (note) } }
                            @for pause in &row.paused { (pause_note(pause)) }
                        }
                    }
                }
                td.lag data-label="Behind" {
                    @match (watermark, now) {
                        (None, _) => "not read yet",
                        (Some(watermark), Some(now)) => (format_duration(now.since(watermark))),
                        (Some(_), None) => {}
                    }
                }
                td.coverage data-label="Read" { (timeline_svg(self.timeline)) }
                td.number.todo data-label="Unfinished" {
                    (format_number(unfinished))
                    @if unfinished > 0 { small { (unfinished_by_state(row)) } }
                }
                td.number data-label="Done" { (format_number(row.work.done)) }
                td.number data-label="Given up" {
                    (format_number(given_up))
                    @if row.work.failed > 0 { small.note { (format_number(row.work.failed)) " failed" } }
                }
                td.budget data-label="Requests a minute" { (budget_bar(row.requests_last_minute, row.requests_per_minute.into())) }
            }
        }
    }
}

fn notes(row: &AccountStatus) -> impl Iterator<Item = String> {
    let missing = row.missing_since.is_some().then(|| "no longer seen by the login".to_owned());
    let gap = (!row.gaps.is_empty()).then(|| format!("gap of {}", format_duration(row.gap())));
    let set_aside =
        (row.set_aside > 0).then(|| format!("{} set aside", format_count(row.set_aside, "record", "records")));
    missing.into_iter().chain(gap).chain(set_aside)
}

fn pause_note(pause: &EndpointPause) -> Markup {
    html! {
        small.note title=(pause.hint()) {
            (pause.endpoint.name().replace('_', " ")) " paused until " (time_of_day(pause.until)) ": " (pause.reason)
        }
    }
}

/// The unfinished items by state, and the time that they need.
fn unfinished_by_state(row: &AccountStatus) -> String {
    let states = [(row.work.ready, "due"), (row.work.running, "running"), (row.work.waiting, "backing off")];
    let some = states.into_iter().filter(|(items, _)| *items > 0);
    let states: Vec<String> = some.map(|(items, state)| format!("{} {state}", format_number(items))).collect();
    let mut description = states.join(", ");
    let drain_time = Duration::from_secs(row.drain_seconds);
    if drain_time > MIN_SHOWN_DRAIN_TIME {
        description.push_str(&format!("; takes at least {}", format_duration(drain_time)));
    }
    description
}

fn timeline_svg(timeline: &CoverageTimeline) -> Markup {
    html! {
        svg.timeline viewBox={ "0 0 " (CELLS) " 10" } preserveAspectRatio="none" role="img" aria-label=(timeline.description) {
            title { (timeline.description) }
            @for range in &timeline.ranges {
                rect.(css_class(range.state)) x=(range.from) width=(range.to - range.from) height="10" {}
            }
        }
    }
}

const fn css_class(state: CoverageState) -> &'static str {
    match state {
        CoverageState::Read => "read",
        CoverageState::Reread => "reread",
        CoverageState::Backfill => "backfill",
        CoverageState::Gap => "gap",
    }
}

/// The heading of the timeline column.
pub(in super::super) fn visible_range_label(range: TimeRange) -> String {
    format!("Read in the last {} h, to {} UTC", range.width().as_secs() / 3600, time_of_day(range.to))
}

pub(super) fn time_of_day(time: Time) -> String {
    time.rfc3339_secs().get(11..16).unwrap_or_default().to_owned()
}

/// A bar and the numbers of used and allowed requests.
pub(in super::super) fn budget_bar(used: u64, limit: u64) -> Markup {
    let filled = (used * 100).checked_div(limit).unwrap_or(0).min(100);
    html! {
        svg.meter viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
            rect.track width="100" height="6" {}
            rect.fill width=(filled) height="6" {}
        }
        span { (format_number(used)) " / " (format_number(limit)) }
    }
}
