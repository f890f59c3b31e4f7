//! The HTML pages. The dashboard is one page, rendered here and updated by its script. Pure.
//!
//! All external text passes through `maud`, which escapes it. The page loads nothing from
//! elsewhere: its style and script are inline, and its Content-Security-Policy allows only these
//! two, by hash. The dashboard shows accounts and figures, and nothing that a customer said.

mod account_row;
mod conversation_pages;
mod dashboard_sections;
mod sparkline;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::clock::Time;
use crate::health::humanize::format_number;

use super::health_summary::{HealthLevel, HealthSummary};
use super::lag_history::LagSample;
use super::status_snapshot::StatusSnapshot;

pub(super) use account_row::{AccountRowView, compare_rows, visible_range_label};
pub(super) use conversation_pages::{
    ConversationView, LoginError, SearchForm, SearchOutcome, conversation_page, login_page, not_found_page, search_page,
};

const STYLE: &str = include_str!("templates/style.css");
const SCRIPT: &str = include_str!("templates/script.js");
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect y='1' \
                    width='16' height='6' rx='1' fill='%232f6fdb'/%3E%3Crect y='9' width='11' height='6' rx='1' \
                    fill='%235b9dff'/%3E%3C/svg%3E";

/// The data of the dashboard.
pub(super) struct DashboardView<'a> {
    pub(super) summary: &'a HealthSummary,
    pub(super) snapshot: Option<&'a StatusSnapshot>,
    pub(super) samples: &'a [LagSample],
    pub(super) now: Time,
    pub(super) instance: &'a str,
    /// Whether conversations can be searched here.
    pub(super) has_search: bool,
}

/// The Content-Security-Policy of the dashboard.
pub(super) fn dashboard_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            csp_hash(SCRIPT),
            csp_hash(STYLE)
        )
    });
    &POLICY
}

/// The Content-Security-Policy of the pages with conversations: no script, and forms that go to
/// this server.
pub(super) fn conversation_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        format!(
            "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'self'; \
             frame-ancestors 'none'",
            csp_hash(STYLE)
        )
    });
    &POLICY
}

fn csp_hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text.as_bytes()))
}

/// Renders the dashboard. `seq` is the number of the state that it shows; the events continue from
/// there.
pub(super) fn render_dashboard(view: &DashboardView<'_>, seq: u64) -> String {
    let rows = view.snapshot.map(|snapshot| snapshot.rows.as_slice()).unwrap_or_default();
    let mut row_views: Vec<AccountRowView<'_>> =
        rows.iter().map(|row| AccountRowView { row, level: view.summary.account_level(&row.sub) }).collect();
    row_views.sort_by(|a, b| compare_rows(a, b, view.now));
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (view.summary.level.display_name()) " · ringcx-extractor" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
                noscript { meta http-equiv="refresh" content="10"; }
            }
            body data-now=(view.now.0) data-seq=(seq) {
                header {
                    h1 { "ringcx-extractor" }
                    span.instance { (view.instance) }
                    @if view.has_search { nav { a href="/search" { "Search conversations" } } }
                    span #stream role="status" { noscript { "reloads every 10 s" } }
                }
                main {
                    (hatch_patterns())
                    div #head { (dashboard_sections::head(view)) }
                    (accounts_section(&row_views, view))
                    div #rest { (dashboard_sections::rest(view)) }
                }
                footer {
                    "version " (env!("CARGO_PKG_VERSION")) " · as of " span #asof { (view.now.rfc3339_secs()) }
                    " · " a href="/api/status" { "status" } " · " a href="/metrics" { "metrics" } " · "
                    a href="/readyz" { "readiness" }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

/// Renders the section above the accounts, as the events carry it.
pub(super) fn render_head(view: &DashboardView<'_>) -> String {
    dashboard_sections::head(view).into_string()
}

/// Renders the section below the accounts, as the events carry it.
pub(super) fn render_rest(view: &DashboardView<'_>) -> String {
    dashboard_sections::rest(view).into_string()
}

/// Hatch patterns for the timelines, so that states can be distinguished without colour.
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

fn accounts_section(row_views: &[AccountRowView<'_>], view: &DashboardView<'_>) -> Markup {
    let column = |key: &str, label: &str, title: &str| {
        html! { th scope="col" aria-sort="none" { button type="button" data-sort=(key) title=(title) { (label) } } }
    };
    html! {
        section.accounts {
            div.bar {
                h2 { "Accounts" }
                (level_filter(row_views))
                input #filter type="search" placeholder="Filter by name, id or reason" aria-label="Filter accounts by name, id or reason";
            }
            table {
                thead {
                    tr {
                        (column("name", "Account", "sort by name"))
                        (column("lag", "Behind", "sort by how far the account is behind"))
                        th scope="col" #frame { @if let Some(snapshot) = view.snapshot { (visible_range_label(snapshot.visible_range)) } }
                        (column("todo", "Unfinished", "sort by items that are due or backing off"))
                        (column("done", "Done", "sort by items that are stored or known to be empty"))
                        (column("bad", "Given up", "sort by failed and unavailable items"))
                        (column("used", "Requests a minute", "sort by requests in the last minute"))
                    }
                }
                tbody #rows { @for row_view in row_views { (row_view.markup(view.now)) } }
            }
            p #nothing hidden[!row_views.is_empty()] { "No account to show." }
            div.below {
                button #more type="button" hidden {}
                (legend())
            }
        }
    }
}

/// Buttons that filter the accounts by level. The script updates their counts.
fn level_filter(row_views: &[AccountRowView<'_>]) -> Markup {
    let button = |name: &str, label: Markup, count: usize| {
        html! {
            button type="button" data-state=(name) aria-pressed=(name == "all") hidden[(count == 0 || count == row_views.len()) && name != "all"] {
                (label) " " span.count { (format_number(count as u64)) }
            }
        }
    };
    html! {
        div.states role="group" aria-label="Show accounts by health level" {
            (button("all", html! { "All" }, row_views.len()))
            @for level in HealthLevel::ALL.into_iter().rev() {
                (button(
                    level.css_class(),
                    html! { span.level.(level.css_class()) aria-hidden="true" { (level.symbol()) } " " (level.display_name()) },
                    row_views.iter().filter(|row_view| row_view.level == level).count(),
                ))
            }
        }
    }
}

fn legend() -> Markup {
    let swatch = |kind: &str, label: &str| {
        html! { li { svg.swatch viewBox="0 0 14 10" aria-hidden="true" { rect.(kind) width="14" height="10" {} } (label) } }
    };
    html! {
        ul.legend aria-label="Legend of the coverage timelines" {
            (swatch("read", "read"))
            (swatch("reread", "read again"))
            (swatch("backfill", "to be backfilled"))
            (swatch("gap", "gap"))
            (swatch("none", "not read yet, or not requested"))
        }
    }
}

#[cfg(test)]
mod tests;
