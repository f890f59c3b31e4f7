//! What all pages of the console have: navigation, health, who is signed in and what they see, and
//! the notice of a completed action. Pure.
//!
//! Conventions of the content: one `section` for each subject with an `h2`; a table gets the class
//! `stack` if it becomes cards on a phone, and its cells `data-label`; levels are `span.level` with a
//! symbol, never a colour alone; a person reads times in UTC. Live updates replace what differs and
//! keep focus, selection and open details; an element with `data-keep` and an `id` is left as it is.

use maud::{DOCTYPE, Markup, html};

use super::assets;
use super::viewer::Viewer;
use crate::access::Permission;
use crate::clock::Time;
use crate::health::HealthLevel;
use crate::http::login;

const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect y='1' \
                    width='16' height='6' rx='1' fill='%232f6fdb'/%3E%3Crect y='9' width='11' height='6' rx='1' \
                    fill='%235b9dff'/%3E%3C/svg%3E";

/// The views of the console, in the order of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum View {
    Overview,
    /// One account; reached from the overview.
    Account,
    Conversations,
    Queue,
    Delivery,
    Completeness,
    System,
    /// A part of the system that is never read again by itself.
    AccessLog,
}

/// The views of the navigation.
const NAVIGATION: [View; 6] =
    [View::Overview, View::Conversations, View::Queue, View::Delivery, View::Completeness, View::System];

impl View {
    const fn path(self) -> &'static str {
        match self {
            View::Overview | View::Account => "/",
            View::Conversations => "/conversations",
            View::Queue => "/queue",
            View::Delivery => "/delivery",
            View::Completeness => "/completeness",
            View::System | View::AccessLog => "/system",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            View::Overview => "Overview",
            View::Account => "Account",
            View::Conversations => "Conversations",
            View::Queue => "Queue",
            View::Delivery => "Delivery",
            View::Completeness => "Completeness",
            View::System => "System",
            View::AccessLog => "Access log",
        }
    }

    /// Whether the view changes by itself, and may be read again without an entry in the access log.
    pub(in crate::http) const fn is_live(self) -> bool {
        matches!(self, View::Overview | View::Account | View::Queue | View::Delivery | View::System)
    }

    /// Whether people fill in forms or mark items there, which a reload without scripts would empty.
    const fn has_forms(self) -> bool {
        !matches!(self, View::Overview | View::System)
    }

    /// Whether the viewer can use it.
    fn is_offered(self, viewer: &Viewer) -> bool {
        match self {
            View::Queue | View::Delivery => match viewer.caller() {
                Some(caller) => caller.may(Permission::Read) || caller.may(Permission::Operate),
                None => viewer.can_log_in(),
            },
            View::Conversations | View::Completeness => match viewer.caller() {
                Some(caller) => caller.may(Permission::Read),
                None => viewer.can_log_in(),
            },
            View::Overview | View::Account | View::System | View::AccessLog => true,
        }
    }
}

/// The frame of one page.
pub(in crate::http) struct Frame<'a> {
    pub(in crate::http) viewer: &'a Viewer,
    pub(in crate::http) view: View,
    /// The health of what the viewer sees.
    pub(in crate::http) level: HealthLevel,
    pub(in crate::http) instance: &'a str,
    pub(in crate::http) now: Time,
    /// The number of accounts that the viewer sees.
    pub(in crate::http) visible_accounts: usize,
    pub(in crate::http) is_live: bool,
}

impl<'a> Frame<'a> {
    /// For a page that must stay as it is, such as a confirmation.
    pub(in crate::http) fn without_updates(self) -> Frame<'a> {
        Frame { is_live: false, ..self }
    }

    /// Renders the page.
    pub(in crate::http) fn render(&self, title: &str, content: &Markup) -> String {
        let level = self.level;
        let markup = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (level.symbol()) " " (title) " · ringcx-extractor" }
                    link rel="icon" href=(ICON);
                    link rel="stylesheet" href=(assets::CONSOLE_STYLE.url());
                    link rel="stylesheet" href=(assets::VIEWS_STYLE.url());
                    link rel="stylesheet" href=(assets::UPLOT_STYLE.url());
                    @if self.is_live {
                        @if !self.view.has_forms() { noscript { meta http-equiv="refresh" content="30"; } }
                        script src=(assets::IDIOMORPH.url()) defer {}
                        script src=(assets::UPLOT.url()) defer {}
                        script src=(assets::CONSOLE_SCRIPT.url()) defer {}
                    }
                }
                body data-live[self.is_live] {
                    a.skip href="#main" { "Skip to the content" }
                    (self.header())
                    main #main {
                        @if let Some(notice) = self.viewer.notice() {
                            p.notice #notice role="status" data-keep { (notice) }
                        }
                        (content)
                    }
                    footer #footer {
                        "ringcx-extractor " (env!("CARGO_PKG_VERSION")) " on " (self.instance)
                        " · as of " (self.now.rfc3339_secs())
                    }
                }
            }
        };
        markup.into_string()
    }

    fn header(&self) -> Markup {
        let level = self.level;
        html! {
            header.top #top {
                a.brand href="/" { "ringcx-extractor" }
                a.pill.(level.css_class()) #health href="/" data-level=(level.css_class()) {
                    span aria-hidden="true" { (level.symbol()) } " " (level.display_name())
                }
                nav aria-label="Views" {
                    @for view in NAVIGATION.into_iter().filter(|view| view.is_offered(self.viewer)) {
                        a href=(view.path()) aria-current=[(view.path() == self.view.path()).then_some("page")] { (view.label()) }
                    }
                }
                span.stream #stream role="status" data-keep {}
                (self.reader())
            }
        }
    }

    /// Who is signed in, and what they see.
    fn reader(&self) -> Markup {
        let Some(caller) = self.viewer.caller() else {
            return html! {
                @if self.viewer.can_log_in() { a.login-link href=(login::login_path(self.viewer.path())) { "Log in" } }
            };
        };
        let roles = caller.role_names().collect::<Vec<_>>().join(", ");
        html! {
            div.reader {
                span title={ "roles: " (roles) } { (caller.reader.name()) }
                @if !self.viewer.sees_everything() {
                    small { "sees " (crate::health::humanize::format_count(self.visible_accounts as u64, "account", "accounts")) }
                }
                @if self.viewer.session().is_some() {
                    form method="post" action="/logout" { button.link type="submit" { "Log out" } }
                }
            }
        }
    }
}
