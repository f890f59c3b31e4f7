//! The page of delivery. Pure.

use maud::{Markup, html};

use super::super::elements::utc_time;
use super::actions::{ReplayDeliveries, RetryDeliveries};
use super::{DeliveryPage, SinkLine};
use crate::health::humanize::{format_count, format_number};
use crate::health::{HealthLevel, STOPPED_SINK_HINT, SinkState};
use crate::http::console::action;
use crate::http::console::viewer::Viewer;
use crate::http::templates::with_code;
use crate::render::clean_line;
use crate::status::{ReplayView, SinkFailureView};

/// The state of a sink's circuit breaker.
pub(super) const fn circuit(state: SinkState) -> &'static str {
    match state {
        SinkState::Active => "closed",
        SinkState::Resting => "open",
        SinkState::Stopped => "stopped",
        SinkState::New => "not started",
        SinkState::NotInTheSettings => "not in the settings",
    }
}

const fn level(line: &SinkLine) -> HealthLevel {
    match line.details.status.state {
        SinkState::Stopped => HealthLevel::Trouble,
        _ if line.details.status.failed > 0 => HealthLevel::Incomplete,
        SinkState::Resting => HealthLevel::Behind,
        SinkState::Active | SinkState::New | SinkState::NotInTheSettings => HealthLevel::Healthy,
    }
}

pub(super) fn render(delivery: &DeliveryPage, viewer: &Viewer) -> Markup {
    html! {
        @match &delivery.sinks {
            None => section {
                h2 { "Delivery" }
                p.todo { "A sink has the events of all accounts and channels, and your role shows only some." }
            },
            Some(sinks) if sinks.is_empty() => section {
                h2 { "Delivery" }
                p { "The settings define no sinks." }
                p.todo { code { "[[sinks]]" } " sends what is stored to other systems: webhooks, files and object stores." }
            },
            Some(sinks) => { @for sink in sinks { (sink_section(sink, delivery.may_operate, viewer)) } },
        }
    }
}

fn sink_section(line: &SinkLine, may_operate: bool, viewer: &Viewer) -> Markup {
    let sink = &line.details.status;
    let level = level(line);
    html! {
        section.sink #{ "sink-" (sink.name) } {
            div.bar {
                h2 {
                    span.level.(level.css_class()) title=(level.display_name()) { (level.symbol()) } " "
                    (clean_line(&sink.name)) @if let Some(kind) = sink.kind { " " small { (kind.replace('_', " ")) } }
                }
            }
            dl.facts {
                div { dt { "Circuit" } dd { (circuit(sink.state)) } }
                div { dt { "Rate" } dd.number {
                    @match line.rate_per_minute {
                        Some(rate) => { (rate) " events a minute" },
                        None => "not known yet",
                    }
                } }
                div { dt { "Pending" } dd.number { (format_number(sink.pending)) } }
                div { dt { "Waiting for a retry" } dd.number { (format_number(sink.waiting)) } }
                div { dt { "Refused" } dd.number { (format_number(sink.failed)) } }
                div { dt { "Delivered" } dd.number { (format_number(sink.delivered)) } }
                div { dt { "Last delivered" } dd { (utc_time(sink.last_delivered)) } }
            }
            @if let Some(reason) = &sink.reason {
                p.note {
                    @match sink.state {
                        SinkState::Stopped => { "Stopped since " (utc_time(sink.since)) ": " (clean_line(reason)) },
                        _ => {
                            "Rests since " (utc_time(sink.since)) ", next attempt " (utc_time(sink.resting_until)) ": " (clean_line(reason))
                        }
                    }
                }
            }
            @if sink.state == SinkState::Stopped { p.todo { (with_code(STOPPED_SINK_HINT)) } }
            @if !line.details.failures.is_empty() { (failure_table(&line.details.failures)) }
            @for replay in &line.details.replays { (replay_note(replay)) }
            @if may_operate && viewer.form_token().is_some() { (actions(line, viewer)) }
            @if line.details.accounts.len() > 1 { (account_table(line)) }
        }
    }
}

fn failure_table(failures: &[SinkFailureView]) -> Markup {
    html! {
        table.stack {
            thead { tr { th { "Why" } th { "State" } th { "Events" } th { "Example" } } }
            tbody {
                @for failure in failures {
                    tr {
                        th scope="row" {
                            @if let Some(status) = failure.status { span.number { (status) } " " }
                            (clean_line(&failure.reason))
                        }
                        td data-label="State" { @if failure.state == "failed" { "refused" } @else { "waits" } }
                        td.number data-label="Events" { (format_number(failure.events)) }
                        td.wide data-label="Example" { @if let Some(id) = &failure.segment_id { code { (clean_line(id)) } } }
                    }
                }
            }
        }
    }
}

fn replay_note(replay: &ReplayView) -> Markup {
    html! {
        p.todo {
            "Replay of account " (replay.sub_account_id) ", stored " (replay.from) " to " (replay.to) ": "
            @if replay.finished.is_some() { "finished, " } @else { (replay.percent) " %, " }
            (format_count(replay.sent, "event", "events")) " sent"
        }
    }
}

fn actions(line: &SinkLine, viewer: &Viewer) -> Markup {
    let sink = &line.details.status;
    if matches!(sink.state, SinkState::NotInTheSettings | SinkState::New) {
        return html! {};
    }
    let name = sink.name.as_str();
    let range = html! {
        label { "Stored from (RFC 3339, a date, or 7d)" input type="text" name="from" required; }
        label { "to" input type="text" name="to" required value="now"; }
        label { "Account, by sub-account id" input type="text" name="account"; }
    };
    html! {
        div.actions {
            @if sink.failed > 0 || sink.state == SinkState::Stopped {
                (action::button::<RetryDeliveries>(viewer, &[("sink", name)], "Send refused events again"))
            }
            @if sink.waiting > 0 || sink.state == SinkState::Resting {
                (action::button::<RetryDeliveries>(viewer, &[("sink", name), ("waiting", "yes")], "Try now"))
            }
            @if line.can_replay {
                details {
                    summary { "Replay a past range" }
                    (action::form::<ReplayDeliveries>(viewer, &[("sink", name)], &range, "Replay …"))
                }
            }
        }
    }
}

fn account_table(line: &SinkLine) -> Markup {
    html! {
        details {
            summary { (format_count(line.details.accounts.len() as u64, "account", "accounts")) }
            table.stack {
                thead { tr { th { "Account" } th { "Pending" } th { "Waiting" } th { "Refused" } th { "Delivered" } th { "Last delivered" } } }
                tbody {
                    @for account in &line.details.accounts {
                        tr {
                            th scope="row" { (account.sub_account_id) }
                            td.number data-label="Pending" { (format_number(account.pending)) }
                            td.number data-label="Waiting" { (format_number(account.waiting)) }
                            td.number data-label="Refused" { (format_number(account.failed)) }
                            td.number data-label="Delivered" { (format_number(account.delivered)) }
                            td data-label="Last delivered" { (account.last_delivered.as_deref().unwrap_or("never")) }
                        }
                    }
                }
            }
        }
    }
}
