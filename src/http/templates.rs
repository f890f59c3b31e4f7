//! HTML pages without scripts. Pure.
//!
//! All external text passes through `maud`, which escapes it. The pages load nothing: their style is
//! inline, and their Content-Security-Policy allows only it, by hash.

mod login_page;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::clock::Time;

pub(super) use login_page::{LoginView, login_page, provider_login_path};

const STYLE: &str = include_str!("templates/style.css");
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect y='1' \
                    width='16' height='6' rx='1' fill='%232f6fdb'/%3E%3Crect y='9' width='11' height='6' rx='1' \
                    fill='%235b9dff'/%3E%3C/svg%3E";

/// The Content-Security-Policy of the login: no script, and forms that go to this server.
pub(super) fn login_policy() -> &'static str {
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
    page_layout(title, body)
}

fn page_policy(rules: &str) -> String {
    let style = csp_hash(STYLE);
    format!("default-src 'none'; style-src '{style}'; img-src data:; base-uri 'none'; frame-ancestors 'none'; {rules}")
}

fn csp_hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// Renders a page.
fn page_layout(title: &str, body: &Markup) -> String {
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
            }
            (body)
        }
    };
    markup.into_string()
}

/// Renders text between backticks as code.
pub(super) fn with_code(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// Formats a time for people.
pub(super) fn readable_time(time: Time) -> String {
    time.rfc3339_secs().replace('T', " ").replace('Z', " UTC")
}
