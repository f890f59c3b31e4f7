//! The page of the overview. Pure.

use std::time::Duration;

use maud::{Markup, html};

use super::incidents::{AtRisk, Incident};
use super::{AccountLine, Overview};
use crate::clock::Time;
use crate::health::humanize::{format_count, format_duration, format_number};
use crate::http::console::viewer::Viewer;
use crate::http::templates::{readable_time, with_code};

pub(super) fn render(overview: &Overview, viewer: &Viewer) -> (String, Markup) {
    let content = html! {
        (incidents(overview))
        (figures(overview))
        (accounts(overview, viewer))
    };
    (overview.level.display_name().to_owned(), content)
}

fn incidents(overview: &Overview) -> Markup {
    let level = overview.level;
    html! {
        section.health.(level.css_class()) aria-labelledby="incidents" {
            h1 #incidents {
                span.level.(level.css_class()) aria-hidden="true" { (level.symbol()) } " "
                strong { (level.display_name()) }
                @if overview.incidents.is_empty() { ": " (overview.headline) }
            }
            @if !overview.incidents.is_empty() {
                ol.incidents { @for one in &overview.incidents { li #{ "incident-" (one.code) "-" (one.subject.as_deref().unwrap_or_default()) } { (incident(one, overview.now)) } } }
            }
        }
    }
}

fn incident(incident: &Incident, now: Time) -> Markup {
    html! {
        h2 {
            span.level.(incident.level.css_class()) title=(incident.level.display_name()) { (incident.level.symbol()) } " "
            (incident.sentence)
        }
        p.when {
            "since " (readable_time(incident.since)) " (" (format_duration(now.since(incident.since))) ")"
            @if let Some(risk) = at_risk(incident.at_risk) { " · at risk: " strong { (risk) } }
            @if let Some(last) = incident.last_success { " · last success " (readable_time(last)) }
            @if let Some(next) = incident.next_try { " · next try " (readable_time(next)) }
        }
        p.todo {
            @if let Some(subject) = incident.subject.as_deref().filter(|_| !incident.accounts.is_empty()) { strong { (subject) } " · " }
            (with_code(&incident.hint))
        }
    }
}

fn at_risk(risk: AtRisk) -> Option<String> {
    let parts = [
        (risk.unread_seconds > 0)
            .then(|| format!("{} not read", format_duration(Duration::from_secs(risk.unread_seconds)))),
        (risk.items > 0).then(|| format_count(risk.items, "item", "items")),
        (risk.events > 0).then(|| format_count(risk.events, "event", "events")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn figures(overview: &Overview) -> Markup {
    let Some(figures) = &overview.figures else {
        return html! { p { "There is nothing to show yet: the database has not answered since the daemon started." } };
    };
    let ago =
        |time: Option<Time>| time.map_or_else(|| "–".to_owned(), |time| format_duration(overview.now.since(time)));
    html! {
        div.tiles {
            (tile("Held of announced", &format_number(figures.held), &format!("of {} announced items", format_number(figures.announced))))
            (tile("Newest", &ago(figures.newest), "old, of the account furthest ahead"))
            (tile("Furthest behind", &ago(figures.furthest_behind), &format_count(figures.accounts, "account", "accounts")))
            (tile("Unfinished", &format_number(figures.unfinished), &format!("{} failed, {} unavailable", format_number(figures.failed), format_number(figures.unavailable))))
            @if let Some(sinks) = &figures.sinks {
                (tile("Delivered", &format_number(sinks.delivered), &format!("{} pending, {} refused", format_number(sinks.pending), format_number(sinks.refused))))
            }
        }
    }
}

fn tile(label: &str, figure: &str, note: &str) -> Markup {
    html! { div.tile { h3 { (label) } p { (figure) } small { (note) } } }
}

fn accounts(overview: &Overview, _viewer: &Viewer) -> Markup {
    html! {
        section {
            h2 { "Accounts" }
            table.stack {
                thead { tr { th scope="col" { "Account" } th scope="col" { "Behind" } th scope="col" { "Unfinished" } th scope="col" { "Given up" } } }
                tbody { @for account in &overview.accounts { (account_row(account)) } }
            }
        }
    }
}

fn account_row(account: &AccountLine) -> Markup {
    let count = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), format_number);
    html! {
        tr data-key=(account.sub_account_id) data-level=(account.level.css_class()) {
            th scope="row" {
                span.level.(account.level.css_class()) title=(account.level.display_name()) { (account.level.symbol()) } " "
                (account.name.as_deref().unwrap_or(&account.sub_account_id))
            }
            td data-label="Behind" { (account.lag_seconds.map_or_else(|| "not read yet".to_owned(), |lag| format_duration(Duration::from_secs(lag)))) }
            td.number data-label="Unfinished" { (count(account.unfinished)) }
            td.number data-label="Given up" { (count(account.given_up)) }
        }
    }
}
