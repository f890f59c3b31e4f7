//! The page of an account. Pure.

use std::time::Duration;

use maud::{Markup, html};

use super::{AccountPage, Gap};
use crate::clock::Time;
use crate::health::EndpointPause;
use crate::health::humanize::{format_count, format_duration, format_number};
use crate::http::console::action::{button, form};
use crate::http::console::coverage_timeline::{CELLS, CoverageState, CoverageTimeline};
use crate::http::console::heat_map::short_time;
use crate::http::console::operator_forms::{Backfill, Resume};
use crate::http::console::viewer::Viewer;
use crate::http::console::{account_path, backfill_list, charts};
use crate::http::templates::{readable_time, with_code};

/// Labels below a timeline.
const TICKS: i64 = 6;

pub(super) fn render(page: &AccountPage, viewer: &Viewer) -> (String, Markup) {
    let status = &page.status;
    let may_operate = viewer.may_operate(&status.sub_account_id);
    let content = html! {
        (hatch_patterns())
        (head(page, viewer))
        (coverage(page, viewer, may_operate))
        @if !status.paused.is_empty() || status.holds_until.is_some() { (pauses(page, viewer, may_operate)) }
        (budget(page))
        @if !page.lateness.is_empty() { (lateness(page)) }
    };
    (status.title().to_owned(), content)
}

fn head(page: &AccountPage, viewer: &Viewer) -> Markup {
    let (status, level) = (&page.status, page.level);
    let counted = |value: u64| if page.shows_counts { format_number(value) } else { "–".to_owned() };
    html! {
        section.health.(level.css_class()) data-level=(level.css_class()) {
            h1 {
                span.level.(level.css_class()) aria-hidden="true" { (level.symbol()) } " "
                (status.title()) ": " (level.display_name().to_lowercase())
            }
            p.dim {
                "sub-account " (status.sub_account_id) " of account " (status.rc_account_id)
                " · " @match &status.owner { Some(owner) => { "owned by replica " (owner) }, None => "owned by no replica" }
            }
            @if !page.incidents.is_empty() { ol.incidents { @for incident in &page.incidents { (incident.markup(viewer, page.now, true)) } } }
        }
        div.tiles {
            (tile("Behind", &status.lag(page.now).map_or_else(|| "not read yet".to_owned(), format_duration), &status.watermark.map_or_else(String::new, |at| format!("read up to {}", readable_time(at)))))
            (tile("Held", &counted(status.work.done), "items stored or known to be empty"))
            (tile("Unfinished", &counted(status.work.unfinished()), &status.oldest_unfinished_seconds.map_or_else(|| "nothing is waiting".to_owned(), |oldest| format!("oldest {}", seconds(oldest)))))
            (tile("Given up", &counted(status.work.failed + status.work.unavailable), &format!("{} failed, {} unavailable", counted(status.work.failed), counted(status.work.unavailable))))
        }
    }
}

fn tile(label: &str, figure: &str, note: &str) -> Markup {
    html! { div.tile { h3 { (label) } p { (figure) } small { (note) } } }
}

fn seconds(seconds: u64) -> String {
    format_duration(Duration::from_secs(seconds))
}

fn coverage(page: &AccountPage, viewer: &Viewer, may_operate: bool) -> Markup {
    let sub = &page.status.sub_account_id;
    html! {
        section #coverage {
            div.bar { h2 { "What was read" } (charts::range_choice(&account_path(sub), page.range)) }
            (timeline(&page.timeline))
            (legend())
            @if page.gaps.is_empty() { p { "No gap: everything up to " (page.status.watermark.map_or_else(|| "now".to_owned(), readable_time)) " was read." } }
            @else {
                h3 { (format_count((page.gaps.len() + page.more_gaps) as u64, "gap", "gaps")) ", the newest first; they are read in this order" }
                table.stack {
                    thead { tr { th scope="col" { "From" } th scope="col" { "To" } th scope="col" { "Length" } th scope="col" { "Reason" } th scope="col" { "Read in about" } th scope="col" {} } }
                    tbody { @for gap in &page.gaps { (gap_row(gap, sub, viewer, may_operate)) } }
                }
                @if page.more_gaps > 0 { p.dim { "and " (page.more_gaps) " older ones; " code { "ringcx-extractor audit" } " lists all" } }
            }
            @if may_operate { (backfill_form(sub, viewer)) }
            (backfill_list::table(&page.backfills, viewer))
        }
    }
}

fn gap_row(gap: &Gap, sub: &str, viewer: &Viewer, may_operate: bool) -> Markup {
    html! {
        tr {
            td data-label="From" { (readable_time(gap.from)) }
            td data-label="To" { (readable_time(gap.to)) }
            td.number data-label="Length" { (seconds(gap.seconds)) }
            td.wide data-label="Reason" { (gap.reason) }
            td data-label="Read in about" { (gap.eta_seconds.map_or_else(|| "not before the cause is over".to_owned(), seconds)) }
            td { @if may_operate {
                (button::<Backfill>(viewer, &[("account", sub), ("from", &gap.from.rfc3339_secs()), ("to", &gap.to.rfc3339_secs())], "Backfill"))
            } }
        }
    }
}

fn backfill_form(sub: &str, viewer: &Viewer) -> Markup {
    let inputs = html! {
        label { "From (UTC)" input type="datetime-local" name="from" required; }
        label { "To (UTC)" input type="datetime-local" name="to" required; }
    };
    html! {
        details #backfill-form {
            summary { "Read another past range" }
            div #backfill-fields data-keep { (form::<Backfill>(viewer, &[("account", sub)], &inputs, "Queue a backfill")) }
        }
    }
}

fn timeline(timeline: &CoverageTimeline) -> Markup {
    let (from, width_ms) = (timeline.visible.from, timeline.visible.to.0 - timeline.visible.from.0);
    let at = |cell: i64| Time(from.0 + width_ms * cell / CELLS);
    html! {
        svg.timeline viewBox={ "0 0 " (CELLS) " 10" } preserveAspectRatio="none" role="img" aria-label=(timeline.description) {
            @for range in &timeline.ranges {
                @let (class, name) = range.state.texts();
                rect.(class) x=(range.from) width=(range.to - range.from) height="10" {
                    title { (name) ", " (short_time(at(range.from))) " to " (short_time(at(range.to))) " UTC" }
                }
            }
            @for tick in 1..TICKS { rect.tick x=(CELLS * tick / TICKS) y="7" width="0.4" height="3" {} }
        }
        div.scale aria-hidden="true" { @for tick in 0..=TICKS { span { (short_time(at(CELLS * tick / TICKS))) } } }
    }
}

fn legend() -> Markup {
    let states = [CoverageState::Read, CoverageState::Reread, CoverageState::Backfill, CoverageState::Gap];
    html! {
        ul.legend aria-label="Legend of the timeline" {
            @for state in states {
                @let (class, name) = state.texts();
                li { svg.swatch viewBox="0 0 14 10" aria-hidden="true" { rect.(class) width="14" height="10" {} } (name) }
            }
            li { svg.swatch viewBox="0 0 14 10" aria-hidden="true" { rect.none width="14" height="10" {} } "not read yet, or not requested" }
        }
    }
}

/// Hatch patterns for the timeline, so that states can be distinguished without colour.
fn hatch_patterns() -> Markup {
    html! {
        svg.definitions width="0" height="0" aria-hidden="true" {
            defs {
                pattern #hatch-gap width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect.gap-ground width="4" height="4" {}
                    rect.gap-line width="1.6" height="4" {}
                }
                pattern #hatch-backfill width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)" {
                    rect.backfill-ground width="4" height="4" {}
                    rect.backfill-line width="1.2" height="4" {}
                }
            }
        }
    }
}

fn pauses(page: &AccountPage, viewer: &Viewer, may_operate: bool) -> Markup {
    let status = &page.status;
    html! {
        section #pauses {
            div.bar {
                h2 { "Pauses" }
                @if may_operate { (button::<Resume>(viewer, &[("accounts", &status.sub_account_id)], "Try now")) }
            }
            @if let Some(until) = &status.holds_until { p { "No requests are sent until " (until.replace('T', " ").replace('Z', " UTC")) ", because RingCX answered 429 or the daemon has just started." } }
            @if !status.paused.is_empty() {
                table.stack {
                    thead { tr { th scope="col" { "Endpoint" } th scope="col" { "Since" } th scope="col" { "Next try" } th scope="col" { "Reason" } } }
                    tbody { @for pause in &status.paused { (pause_row(pause)) } }
                }
            }
        }
    }
}

fn pause_row(pause: &EndpointPause) -> Markup {
    html! {
        tr {
            th scope="row" { (pause.endpoint.name().replace('_', " ")) }
            td data-label="Since" { (readable_time(pause.since)) }
            td data-label="Next try" { (readable_time(pause.until)) }
            td.wide data-label="Reason" { (pause.reason) small { (with_code(pause.hint())) } }
        }
    }
}

fn budget(page: &AccountPage) -> Markup {
    let status = &page.status;
    let (used, limit) = (status.requests_last_minute, u64::from(status.requests_per_minute));
    let filled = (used * 100).checked_div(limit).unwrap_or(0).min(100);
    html! {
        section #budget {
            h2 { "Request budget" }
            svg.meter viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
                rect.track width="100" height="6" {}
                rect.fill width=(filled) height="6" {}
            }
            dl.facts {
                div { dt { "Last minute" } dd { (format_number(used)) " of " (format_number(limit)) " requests" } }
                @for (lane, requests) in &status.requests_by_lane {
                    div { dt { "of them " (format!("{lane:?}").to_lowercase()) } dd { (format_number(*requests)) } }
                }
                div { dt { "Refused with 429" } dd { (format_number(status.refused)) " since the daemon started" } }
                @if page.shows_counts { div { dt { "Takes at least" } dd { (seconds(status.drain_seconds)) " for all unfinished items" } } }
            }
        }
    }
}

fn lateness(page: &AccountPage) -> Markup {
    let kind = |kind: &str| match kind {
        "appear" => "until a segment was announced",
        _ => "until it had a transcript",
    };
    html! {
        section #lateness {
            h2 { "Lateness" }
            p.dim { "The time from the end of a segment, of those that were late." }
            table.stack {
                thead { tr { th scope="col" { "Time" } th.number scope="col" { "Segments" } th.number scope="col" { "Half within" } th.number scope="col" { "95 % within" } } }
                tbody { @for line in &page.lateness {
                    tr {
                        th scope="row" { (kind(&line.kind)) }
                        td.number data-label="Segments" { (format_number(line.segments)) }
                        td.number data-label="Half within" { (seconds(line.half_within_seconds)) }
                        td.number data-label="95 % within" { (seconds(line.most_within_seconds)) }
                    }
                } }
            }
        }
    }
}
