//! The login page. Pure. All external text passes through `maud`, which escapes it.

use maud::{Markup, html};

use super::page_layout;
use crate::access::{AuthRefusal, LoginError};
use crate::health::humanize::format_duration;

fn login_layout(content: &Markup) -> String {
    let body = html! {
        body.conversations {
            header {
                h1 { a href="/" { "ringcx-extractor" } }
                nav { a href="/" { "Overview" } }
            }
            main { (content) }
        }
    };
    page_layout("Log in", &body)
}

/// What the login page shows.
#[derive(Clone, Copy)]
pub(in super::super) struct LoginView<'a> {
    /// Where to go after the login.
    pub(in super::super) next_path: &'a str,
    /// Why a token was refused.
    pub(in super::super) refusal: Option<&'a AuthRefusal>,
    /// Why the login at the provider failed.
    pub(in super::super) failed: Option<&'a LoginError>,
    pub(in super::super) has_token: bool,
    pub(in super::super) has_provider: bool,
}

/// The login page.
pub(in super::super) fn login_page(view: &LoginView<'_>) -> String {
    let content = html! {
        section.login {
            h2 { "Log in to read conversations" }
            @if let Some(refusal) = view.refusal { p.wrong role="alert" { (refusal_text(refusal)) } }
            @if let Some(error) = view.failed {
                div.wrong role="alert" { p { (capitalized(&error.message)) "." } p { (capitalized(&error.hint)) "." } }
            }
            @if view.has_provider {
                // A link: browsers would not let a form leave this site, which the provider's redirect does.
                p { a.button href=(provider_login_path(view.next_path)) { "Log in with your company account" } }
            }
            @if view.has_token {
                form method="post" action="/login" {
                    input type="hidden" name="next" value=(view.next_path);
                    label for="token" { "Token" }
                    input #token type="password" name="token" required autofocus
                        autocomplete="current-password";
                    button type="submit" { "Log in" }
                }
                p.todo { "The token is the value of " code { "http.token" } " in the daemon's settings." }
            }
            @if !view.has_token && !view.has_provider {
                p.todo { "Only programs with a key of " code { "[[access.keys]]" } " may read conversations here." }
            }
        }
    };
    login_layout(&content)
}

/// The path that starts a login at the provider.
pub(in super::super) fn provider_login_path(next_path: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", next_path).finish();
    format!("/auth/login?{query}")
}

fn refusal_text(refusal: &AuthRefusal) -> String {
    match refusal {
        AuthRefusal::RateLimited(wait) => format!("Too many wrong tokens. Try again in {}.", format_duration(*wait)),
        AuthRefusal::Expired { name, at } => format!(
            "The key {name} has expired at {}. Create a new one with `ringcx-extractor access new-key`.",
            at.rfc3339_secs()
        ),
        AuthRefusal::Missing | AuthRefusal::Wrong | AuthRefusal::Unavailable(_) => "Wrong token.".to_owned(),
    }
}

/// A sentence of an error as people write it. The name of a setting at its start stays as it is.
fn capitalized(text: &str) -> String {
    if text.split(' ').next().is_some_and(|word| word.contains(['.', '_'])) {
        return text.to_owned();
    }
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests;
