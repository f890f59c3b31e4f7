//! The dashboard: one page, drawn here and kept up to date by its script. Pure.
//!
//! Everything that comes from outside passes through `maud`, which escapes it. The page needs nothing from anywhere
//! else: its style and script are in it, and its Content-Security-Policy allows just these two, by hash. It shows
//! accounts and figures, and nothing that a customer said.

mod chart;
mod head;
mod inside;
mod row;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::clock::Time;
use crate::status::words::number;

use super::history::Sample;
use super::picture::Picture;
use super::verdict::{Level, Verdict};

pub(super) use inside::{Asked, Reading, Refusal, Result, conversation, found, login, no_conversation};
pub(super) use row::{Drawn, frame, order};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect y='1' \
                    width='16' height='6' rx='1' fill='%232f6fdb'/%3E%3Crect y='9' width='11' height='6' rx='1' \
                    fill='%235b9dff'/%3E%3C/svg%3E";

/// What the page is drawn from.
pub(super) struct View<'a> {
    pub(super) verdict: &'a Verdict,
    pub(super) picture: Option<&'a Picture>,
    pub(super) samples: &'a [Sample],
    pub(super) now: Time,
    pub(super) instance: &'a str,
    /// Whether conversations can be looked for here.
    pub(super) search: bool,
}

/// The page's Content-Security-Policy.
pub(super) fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(SCRIPT),
            hash(STYLE)
        )
    });
    &POLICY
}

/// That of the pages with conversations: no script at all, and forms that go to this server.
pub(super) fn inside_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        format!(
            "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'self'; \
             frame-ancestors 'none'",
            hash(STYLE)
        )
    });
    &POLICY
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text.as_bytes()))
}

/// The whole page; `seq` is the number of the state that it shows, from which the events go on.
pub(super) fn page(view: &View<'_>, seq: u64) -> String {
    let rows = view.picture.map(|picture| picture.rows.as_slice()).unwrap_or_default();
    let mut drawn: Vec<Drawn<'_>> =
        rows.iter().map(|row| Drawn { row, level: view.verdict.of_account(&row.sub) }).collect();
    drawn.sort_by(|a, b| order(a, b, view.now));
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (view.verdict.level.words()) " · ringcx-extractor" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
                noscript { meta http-equiv="refresh" content="10"; }
            }
            body data-now=(view.now.0) data-seq=(seq) {
                header {
                    h1 { "ringcx-extractor" }
                    span.instance { (view.instance) }
                    @if view.search { nav { a href="/search" { "Search conversations" } } }
                    span #stream role="status" { noscript { "reloads every 10 s" } }
                }
                main {
                    (definitions())
                    div #head { (head::head(view)) }
                    (accounts(&drawn, view))
                    div #rest { (head::rest(view)) }
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

/// What is above the accounts, as the events carry it.
pub(super) fn head(view: &View<'_>) -> String {
    head::head(view).into_string()
}

/// What is below the accounts, as the events carry it.
pub(super) fn rest(view: &View<'_>) -> String {
    head::rest(view).into_string()
}

/// Hatchings for the strips: what they mark is told apart without colour too.
fn definitions() -> Markup {
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

fn accounts(drawn: &[Drawn<'_>], view: &View<'_>) -> Markup {
    let column = |key: &str, label: &str, title: &str| {
        html! { th scope="col" aria-sort="none" { button type="button" data-sort=(key) title=(title) { (label) } } }
    };
    html! {
        section.accounts {
            div.bar {
                h2 { "Accounts" }
                (states(drawn))
                input #filter type="search" placeholder="Filter by name, id or reason" aria-label="Filter accounts by name, id or reason";
            }
            table {
                thead {
                    tr {
                        (column("name", "Account", "sort by name"))
                        (column("lag", "Behind", "sort by how far the account is behind"))
                        th scope="col" #frame { @if let Some(picture) = view.picture { (row::frame(picture.frame)) } }
                        (column("todo", "Unfinished", "sort by items that are due or backing off"))
                        (column("done", "Done", "sort by items stored or known to be empty"))
                        (column("bad", "Gave up", "sort by items failed or unavailable"))
                        (column("used", "Requests a minute", "sort by the budget used"))
                    }
                }
                tbody #rows { @for row in drawn { (row.markup(view.now)) } }
            }
            p #nothing hidden[!drawn.is_empty()] { "No account to show." }
            div.below {
                button #more type="button" hidden {}
                (legend())
            }
        }
    }
}

/// Buttons that show only the accounts that stand so. The script counts on.
fn states(drawn: &[Drawn<'_>]) -> Markup {
    let button = |name: &str, label: Markup, count: usize| {
        html! {
            button type="button" data-state=(name) aria-pressed=(name == "all") hidden[(count == 0 || count == drawn.len()) && name != "all"] {
                (label) " " span.count { (number(count as u64)) }
            }
        }
    };
    html! {
        div.states role="group" aria-label="Show accounts by how they stand" {
            (button("all", html! { "All" }, drawn.len()))
            @for level in Level::ALL.into_iter().rev() {
                (button(
                    level.name(),
                    html! { span.level.(level.name()) aria-hidden="true" { (level.sign()) } " " (level.words()) },
                    drawn.iter().filter(|drawn| drawn.level == level).count(),
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
        ul.legend aria-label="What the strips show" {
            (swatch("read", "read"))
            (swatch("reread", "read again"))
            (swatch("backfill", "to be backfilled"))
            (swatch("gap", "gap"))
            (swatch("none", "not yet, or not asked for"))
        }
    }
}

#[cfg(test)]
mod tests;
