//! The HTML pages. The dashboard is one page, rendered here and updated by its script. Pure.
//!
//! All external text passes through `maud`, which escapes it. The page loads nothing from
//! elsewhere: its style and script are inline, and its Content-Security-Policy allows only these
//! two, by hash. The dashboard shows accounts and figures, and nothing that a customer said.

mod account_row;
mod conversation_pages;
mod dashboard_sections;
mod sparkline;

use std::cmp::Reverse;
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

pub(super) use account_row::{AccountRowView, visible_range_label};
pub(super) use conversation_pages::{
    ConversationView, LoginView, SearchForm, SearchOutcome, conversation_page, login_page, not_found_page,
    provider_login_path, search_page,
};
pub(super) use dashboard_sections::{head, rest};

const STYLE: &str = include_str!("templates/style.css");
const SCRIPT: &str = include_str!("templates/script.js");
const PLAYER_SCRIPT: &str = include_str!("templates/player.js");
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect y='1' \
                    width='16' height='6' rx='1' fill='%232f6fdb'/%3E%3Crect y='9' width='11' height='6' rx='1' \
                    fill='%235b9dff'/%3E%3C/svg%3E";

/// The data of the dashboard.
pub(super) struct DashboardView<'a> {
    pub(super) summary: HealthSummary,
    pub(super) snapshot: Option<&'a StatusSnapshot>,
    pub(super) samples: Vec<LagSample>,
    pub(super) now: Time,
    pub(super) instance: &'a str,
    /// Whether conversations can be searched here.
    pub(super) has_search: bool,
}

/// The Content-Security-Policy of the dashboard.
pub(super) fn dashboard_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let script = csp_hash(SCRIPT);
        page_policy(&format!("script-src '{script}'; connect-src 'self'; form-action 'none'"))
    });
    &POLICY
}

/// The Content-Security-Policy of the page of a conversation: the player's script, and audio of this
/// server.
pub(super) fn player_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let script = csp_hash(PLAYER_SCRIPT);
        page_policy(&format!("script-src '{script}'; media-src 'self'; form-action 'self'"))
    });
    &POLICY
}

/// The Content-Security-Policy of the other pages with conversations: no script, and forms that go to
/// this server.
pub(super) fn conversation_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| page_policy("form-action 'self'"));
    &POLICY
}

/// The Content-Security-Policy of pages without script and forms.
pub(super) fn static_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| page_policy("form-action 'none'"));
    &POLICY
}

/// Renders a page without script.
pub(super) fn static_page(title: &str, body: &Markup) -> String {
    page_layout(title, &html! {}, body)
}

fn page_policy(rules: &str) -> String {
    let style = csp_hash(STYLE);
    format!("default-src 'none'; style-src '{style}'; img-src data:; base-uri 'none'; frame-ancestors 'none'; {rules}")
}

fn csp_hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// Renders a page; `head` is added to its head.
fn page_layout(title: &str, head: &Markup, body: &Markup) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · ringcx-extractor" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
                (head)
            }
            (body)
        }
    };
    markup.into_string()
}

/// The rows of the accounts, by sub-account id.
pub(super) fn account_rows<'a>(view: &'a DashboardView<'_>) -> impl Iterator<Item = AccountRowView<'a>> {
    let rows = view.snapshot.into_iter().flat_map(|snapshot| snapshot.status.accounts.iter().zip(&snapshot.timelines));
    rows.map(|(account, timeline)| {
        let level = view.summary.account_level(&account.sub_account_id);
        AccountRowView { account, timeline, level }
    })
}

/// Renders the dashboard. `seq` is the number of the state that it shows; the events continue from
/// there.
pub(super) fn render_dashboard(view: &DashboardView<'_>, seq: u64) -> String {
    let mut rows: Vec<AccountRowView<'_>> = account_rows(view).collect();
    // Those that need attention first, then those that are furthest behind.
    rows.sort_by_cached_key(|row| {
        (Reverse(row.level), Reverse(row.account.lag(view.now)), &row.account.sub_account_id)
    });
    let refresh = html! { noscript { meta http-equiv="refresh" content="10"; } };
    let body = html! {
        body data-now=(view.now.0) data-seq=(seq) {
            header {
                h1 { "ringcx-extractor" }
                span.instance { (view.instance) }
                @if view.has_search { nav { a href="/search" { "Search conversations" } } }
                span #stream role="status" { noscript { "reloads every 10 s" } }
            }
            main {
                (hatch_patterns())
                div #head { (head(view)) }
                (accounts_section(&rows, view))
                div #rest { (rest(view)) }
            }
            footer {
                "version " (env!("CARGO_PKG_VERSION")) " · as of " span #asof { (view.now.rfc3339_secs()) }
                " · " a href="/api/status" { "status" } " · " a href="/metrics" { "metrics" } " · "
                a href="/readyz" { "readiness" }
            }
            script { (PreEscaped(SCRIPT)) }
        }
    };
    page_layout(view.summary.level.display_name(), &refresh, &body)
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
                tbody #rows { @for row_view in row_views { (row_view.markup(Some(view.now))) } }
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
