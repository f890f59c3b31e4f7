//! The page of the overview. Pure.

use std::time::Duration;

use maud::{Markup, html};

use super::{AccountLine, LevelEvent, Overview};
use crate::clock::Time;
use crate::health::HealthLevel;
use crate::health::humanize::{format_count, format_duration, format_number};
use crate::http::console::viewer::Viewer;
use crate::http::console::{account_path, charts, heat_map};

/// Incidents that are open at first.
const FIRST_INCIDENTS: usize = 3;

pub(super) fn render(overview: &Overview, viewer: &Viewer) -> (String, Markup) {
    let content = html! {
        (incidents(overview, viewer))
        (figures(overview))
        (accounts(overview))
        (charts_section(overview))
        (events(&overview.events))
    };
    (overview.level.display_name().to_owned(), content)
}

fn incidents(overview: &Overview, viewer: &Viewer) -> Markup {
    let (level, incidents) = (overview.level, &overview.incidents);
    let (first, others) = incidents.split_at(incidents.len().min(FIRST_INCIDENTS));
    html! {
        section.health.(level.css_class()) data-level=(level.css_class()) {
            h1 {
                span.level.(level.css_class()) aria-hidden="true" { (level.symbol()) } " "
                strong { (level.display_name()) }
                @if incidents.is_empty() { ": " (overview.headline) }
                @else if incidents.len() > 1 { ": " (format_count(incidents.len() as u64, "cause", "causes")) }
            }
            @if !first.is_empty() { ol.incidents { @for (place, incident) in first.iter().enumerate() { (incident.markup(viewer, overview.now, place == 0)) } } }
            @if !others.is_empty() {
                details #more-incidents {
                    summary { "and " (format_count(others.len() as u64, "more cause", "more causes")) }
                    ol.incidents { @for incident in others { (incident.markup(viewer, overview.now, false)) } }
                }
            }
        }
    }
}

fn figures(overview: &Overview) -> Markup {
    let Some(figures) = &overview.figures else {
        return html! { section { p { "There is nothing to show yet: the database has not answered since the daemon started." } } };
    };
    let ago =
        |time: Option<Time>| time.map_or_else(|| "–".to_owned(), |time| format_duration(overview.now.since(time)));
    let missing = figures.announced.saturating_sub(figures.held);
    html! {
        div.tiles {
            (tile("Held", &format_number(figures.held), &format!("of {} announced items; {} missing", format_number(figures.announced), format_number(missing))))
            (tile("Age of the newest", &ago(figures.newest), "of the account furthest ahead"))
            (tile("Furthest behind", &ago(figures.furthest_behind), &format!("of {}", format_count(figures.accounts, "account", "accounts"))))
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

/// The address of this page with these parameters changed.
fn link(overview: &Overview, changed: &[(&str, &str)]) -> String {
    let query = &overview.query;
    let mut parameters =
        vec![("range", overview.range.name()), ("level", &*query.level), ("q", query.q.trim()), ("all", &*query.all)];
    for (name, value) in changed {
        parameters.retain(|(known, _)| known != name);
        parameters.push((name, value));
    }
    parameters.retain(|(name, value)| !value.is_empty() && (*name, *value) != ("range", "24h"));
    if parameters.is_empty() {
        return "/".to_owned();
    }
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("/?{query}")
}

fn accounts(overview: &Overview) -> Markup {
    let total: u64 = overview.levels.iter().sum();
    html! {
        section.accounts #accounts {
            div.bar {
                h2 { "Accounts" }
                @if total > 1 { (level_choice(overview, total)) (filter(overview)) }
                (charts::range_choice(&link(overview, &[("range", "")]), overview.range))
            }
            @if overview.accounts.is_empty() { p.dim { "No account to show." } }
            @else {
                table.stack.heat-map {
                    thead { tr {
                        th scope="col" { "Account" }
                        th scope="col" { (heat_map::scale(overview.range, overview.first_cell)) }
                        th.number scope="col" { "Behind" } th.number scope="col" { "Unfinished" } th.number scope="col" { "Given up" }
                    } }
                    tbody { @for account in &overview.accounts { (account_row(overview, account)) } }
                }
                div.bar {
                    @if overview.accounts.len() < overview.matching_accounts {
                        a.more href={ (link(overview, &[("all", "1")])) "#accounts" } { "Show all " (format_number(overview.matching_accounts as u64)) }
                    }
                    (heat_map::legend())
                }
            }
        }
    }
}

/// Links that filter the accounts by level.
fn level_choice(overview: &Overview, total: u64) -> Markup {
    let present = HealthLevel::ALL.into_iter().rev().filter(|level| overview.levels[*level as usize] > 0);
    let chosen = |name: &str| (overview.query.level == name).then_some("true");
    html! {
        nav.choice aria-label="Accounts by health" {
            a href={ (link(overview, &[("level", "")])) "#accounts" } aria-current=[chosen("")] { "All " (format_number(total)) }
            @for level in present {
                a href={ (link(overview, &[("level", level.css_class())])) "#accounts" } aria-current=[chosen(level.css_class())] {
                    span aria-hidden="true" { (level.symbol()) } " " span.long { (level.display_name()) } " " (format_number(overview.levels[level as usize]))
                }
            }
        }
    }
}

fn filter(overview: &Overview) -> Markup {
    html! {
        form.filter method="get" action="/#accounts" role="search" {
            @for (name, value) in [("range", overview.query.range.as_deref().unwrap_or_default()), ("level", &*overview.query.level)] {
                @if !value.is_empty() { input type="hidden" name=(name) value=(value); }
            }
            input #filter type="search" name="q" value=(overview.query.q) placeholder="Name or id" aria-label="Filter accounts by name or id";
            button type="submit" { "Filter" }
        }
    }
}

fn account_row(overview: &Overview, account: &AccountLine) -> Markup {
    let count = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), format_number);
    let title = account.name.as_deref().unwrap_or(&account.sub_account_id);
    html! {
        tr #{ "account-" (account.sub_account_id) } data-key=(account.sub_account_id) data-level=(account.level.css_class()) {
            th scope="row" {
                span.level.(account.level.css_class()) title=(account.level.display_name()) { (account.level.symbol()) } " "
                a href=(account_path(&account.sub_account_id)) { (title) }
                @if account.name.is_some() { " " small.id { (account.sub_account_id) } }
                @for note in notes(account) { small.note { (note) } }
            }
            td.wide { (heat_map::row(&account.cells, overview.range, overview.first_cell)) }
            td.number data-label="Behind" { (account.lag_seconds.map_or_else(|| "not read yet".to_owned(), |lag| format_duration(Duration::from_secs(lag)))) }
            td.number data-label="Unfinished" { (count(account.unfinished)) }
            td.number data-label="Given up" { (count(account.given_up)) }
        }
    }
}

fn notes(account: &AccountLine) -> impl Iterator<Item = String> {
    let gap = (account.gap_seconds > 0)
        .then(|| format!("gap of {}", format_duration(Duration::from_secs(account.gap_seconds))));
    let paused = (!account.paused.is_empty()).then(|| format!("{} paused", account.paused.join(", ")));
    gap.into_iter().chain(paused)
}

fn charts_section(overview: &Overview) -> Markup {
    html! {
        @if !overview.charts.is_empty() {
            section {
                div.bar { h2 { "The last " (overview.range.name()) } (charts::range_choice(&link(overview, &[("range", "")]), overview.range)) }
                div.charts { @for chart in &overview.charts { (chart.markup()) } }
            }
        }
    }
}

fn events(events: &[LevelEvent]) -> Markup {
    html! {
        @if !events.is_empty() {
            section.events {
                h2 { "Events" }
                ol {
                    @for event in events {
                        li {
                            time { (heat_map::short_time(event.at)) } " "
                            a href=(account_path(&event.sub_account_id)) { (event.name.as_deref().unwrap_or(&event.sub_account_id)) } ": "
                            (event.before.display_name().to_lowercase()) " → "
                            span.level.(event.after.css_class()) aria-hidden="true" { (event.after.symbol()) } " "
                            (event.after.display_name().to_lowercase())
                        }
                    }
                }
            }
        }
    }
}
