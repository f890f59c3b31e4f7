//! The pages behind the token: login, search, conversation. Pure.
//!
//! All external text passes through `maud`, which escapes it. What customers wrote also passes
//! through `render::clean_text`, so that no control character reverses the direction of the text
//! after it.

mod recording_section;

use maud::{Markup, PreEscaped, html};
use serde::Deserialize;

use super::{PLAYER_SCRIPT, page_layout};
use crate::access::{AuthRefusal, LoginError};
use crate::clock::Time;
use crate::db::{AccountRow, SegmentArtifact, SegmentRow};
use crate::export::{conversation_of, outcome_name, summary_text_of};
use crate::health::humanize::{format_count, format_duration};
use crate::model::Artifact;
use crate::render::{Conversation, Metadata, Phrase, clean_line, clean_text};
use crate::search::{MAX_SCANNED_MATCHES, SearchHit, SearchResults};
use recording_section::{Playback, download_links, recording_section};

/// The most segments of a dialog that are listed.
const MAX_DIALOG_SEGMENTS: usize = 100;

/// The fields of the search form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct SearchForm {
    pub(in super::super) q: String,
    pub(in super::super) account: String,
    pub(in super::super) agent: String,
    pub(in super::super) channel: String,
    pub(in super::super) from: String,
    pub(in super::super) to: String,
    /// Not empty for newest first.
    pub(in super::super) newest: String,
}

/// The outcome of a search.
pub(in super::super) enum SearchOutcome<'a> {
    /// The query is empty.
    NoQuery,
    Error(&'a str),
    Results {
        results: &'a SearchResults,
        accounts: &'a [AccountRow],
        /// Whether the search index contains everything that is stored.
        index_is_current: bool,
        limit: usize,
    },
}

/// The data of a conversation page.
pub(in super::super) struct ConversationView<'a> {
    pub(in super::super) segment: &'a SegmentRow,
    pub(in super::super) slots: &'a [SegmentArtifact; Artifact::ALL.len()],
    /// All segments of its dialog, by time.
    pub(in super::super) dialog: &'a [SegmentRow],
    /// The account's display name.
    pub(in super::super) account: Option<&'a str>,
    /// Whether the reader may listen to the recording.
    pub(in super::super) may_listen: bool,
    pub(in super::super) now: Time,
}

fn conversations_layout(title: &str, is_logged_in: bool, content: &Markup) -> String {
    let body = html! {
        body.conversations {
            header {
                h1 { a href="/" { "ringcx-extractor" } }
                nav { a href="/" { "Dashboard" } @if is_logged_in { a href="/search" { "Search" } } }
                @if is_logged_in { form.logout method="post" action="/logout" { button type="submit" { "Log out" } } }
            }
            main { (content) }
        }
    };
    page_layout(title, &html! {}, &body)
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
    conversations_layout("Log in", false, &content)
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

/// The search page, with results.
pub(in super::super) fn search_page(form: &SearchForm, outcome: &SearchOutcome<'_>) -> String {
    let content = html! {
        section.search { (search_form(form)) }
        @match outcome {
            SearchOutcome::NoQuery => p.hint {
                "All words must occur, in any order. " code { "\"charged twice\"" } " finds a phrase, " code { "refund*" }
                " a prefix, " code { "refund OR money" } " either word; " code { "-late" } " excludes a word."
            },
            SearchOutcome::Error(why) => section.wrong role="alert" { @for line in why.lines() { p { (line) } } },
            SearchOutcome::Results { results, accounts, index_is_current, limit } => {
                @if !index_is_current {
                    p.hint { "The archive is not indexed yet up to its newest changes; the daemon is indexing them." }
                }
                (result_summary(results, *limit))
                ol.hits { @for hit in &results.hits { li { (hit_item(hit, accounts)) } } }
            }
        }
    };
    conversations_layout("Search", true, &content)
}

fn search_form(form: &SearchForm) -> Markup {
    let field = |name: &str, label: &str, kind: &str, value: &str| {
        html! { label { span { (label) } input type=(kind) name=(name) value=(value); } }
    };
    html! {
        form method="get" action="/search" role="search" {
            div.query {
                input type="search" name="q" value=(form.q) placeholder="Search what was said, summaries and notes"
                    aria-label="Search terms" autofocus[form.q.is_empty()];
                button type="submit" { "Search" }
            }
            div.filters {
                (field("account", "Account, by id or name", "text", &form.account))
                (field("agent", "Agent, by id or name", "text", &form.agent))
                (field("channel", "Channel", "text", &form.channel))
                (field("from", "Ended from (UTC)", "date", &form.from))
                (field("to", "to", "date", &form.to))
                label.check { input type="checkbox" name="newest" value="1" checked[!form.newest.is_empty()]; " newest first" }
            }
        }
    }
}

fn result_summary(results: &SearchResults, limit: usize) -> Markup {
    html! {
        p.hint role="status" {
            @match results.hits.len() {
                0 => "Nothing was found.",
                found if results.has_more => {
                    "The first " (limit.min(found))
                    @if results.ranking_truncated { ", the best of the newest matches" }
                    "; there are more: narrow the search by time, account or another word."
                }
                found => { (format_count(found as u64, "match", "matches")) "." }
            }
            @if results.scan_limit_reached {
                " Only the newest " (MAX_SCANNED_MATCHES) " matches were compared with the filters; choose a time to see others."
            }
        }
    }
}

fn hit_item(hit: &SearchHit, accounts: &[AccountRow]) -> Markup {
    let (segment, judged) = (&hit.segment, &hit.best_match);
    let account = accounts.iter().find(|account| account.key == segment.account_key);
    let name = account.and_then(|account| account.name.as_deref()).unwrap_or(&segment.account.sub);
    let fragment = judged.offset.as_deref().map(|offset| format!("#t{offset}")).unwrap_or_default();
    html! {
        a href={ (conversation_path(segment)) (fragment) } {
            strong { (format_time(segment.ended)) }
            " · " (name) " · " (hit.source.name().replace('_', " "))
            @if let Some(offset) = &judged.offset { " at " (offset) }
        }
        p dir="auto" {
            @if let Some(speaker) = &judged.speaker { span.speaker { (clean_line(speaker)) ": " } }
            (highlighted(&judged.passage.text, &judged.passage.matches))
        }
    }
}

/// Renders a text with its matches marked.
fn highlighted(text: &str, matches: &[std::ops::Range<usize>]) -> Markup {
    let part = |range: std::ops::Range<usize>| clean_text(text.get(range).unwrap_or_default());
    let mut at = 0;
    let mut parts = Vec::with_capacity(matches.len() * 2);
    for range in matches {
        parts.push((part(at..range.start), part(range.clone())));
        at = range.end;
    }
    html! {
        @for (before, matched) in &parts { (before) mark { (matched) } }
        (part(at..text.len()))
    }
}

/// The path of a segment's conversation page.
fn conversation_path(segment: &SegmentRow) -> String {
    let query = [("account", &*segment.account.sub), ("segment", segment.segment_id.as_str())];
    let url = reqwest::Url::parse_with_params("http://localhost/conversation", query);
    let query = url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
    format!("/conversation?{query}")
}

fn format_time(time: Option<Time>) -> String {
    time.map_or_else(
        || "at an unknown time".to_owned(),
        |time| time.rfc3339_secs().replace('T', " ").replace('Z', " UTC"),
    )
}

/// The page in place of a conversation that cannot be shown.
pub(in super::super) fn not_found_page(why: &str) -> String {
    let content = html! {
        section.wrong role="alert" { @for line in why.lines() { p { (line) } } }
        p { a href="/search" { "Search" } }
    };
    conversations_layout("Not found", true, &content)
}

/// The page of a segment's conversation.
pub(in super::super) fn conversation_page(view: &ConversationView<'_>) -> String {
    let [transcript, agent, auto, recording] = view.slots;
    let metadata = Metadata::parse(&view.segment.metadata);
    let conversation = conversation_of(transcript, &metadata);
    let playback = Playback::new(view.segment, recording, &metadata, conversation.as_ref());
    let playback = playback.filter(|_| view.may_listen);
    let content = html! {
        (facts_section(view, &metadata))
        @if view.dialog.len() > 1 { (dialog_nav(view)) }
        @if view.may_listen { (recording_section(playback.as_ref(), recording, view.now)) }
        section.conversation {
            h2 { "Conversation" }
            @match &conversation {
                Some(conversation) => (phrase_list(conversation, playback.as_ref())),
                None => p.todo { (slot_status(transcript, view.now)) },
            }
            (download_links(view.segment, conversation.is_some(), playback.as_ref()))
        }
        @for (name, slot) in [("Agent summary", agent), ("Auto summary", auto)] {
            section.summary {
                h2 { (name) }
                @match summary_text_of(slot) {
                    Some(text) => p.text dir="auto" { (clean_text(&text)) },
                    None => p.todo { (slot_status(slot, view.now)) },
                }
            }
        }
        @if playback.is_some() { script { (PreEscaped(PLAYER_SCRIPT)) } }
    };
    conversations_layout("Conversation", true, &content)
}

fn facts_section(view: &ConversationView<'_>, metadata: &Metadata) -> Markup {
    let segment = view.segment;
    html! {
        section.facts {
            h2 { "Ended " (format_time(segment.ended)) }
            dl {
                div { dt { "account" } dd { @if let Some(name) = view.account { (name) " · " } (clean_line(&segment.account.to_string())) } }
                @if let Some(lasted) = metadata.duration() { div { dt { "lasted" } dd { (format_duration(lasted)) } } }
                @for (label, value) in metadata.displayed_fields() {
                    div { dt { (if label.is_empty() { "channel type" } else { label }) } dd dir="auto" { (clean_text(&value)) } }
                }
                div { dt { "segment" } dd { code { (clean_line(&segment.segment_id)) } } }
                @if let Some(dialog) = &segment.dialog_id { div { dt { "dialog" } dd { code { (clean_line(dialog)) } } } }
            }
        }
    }
}

/// The list of the dialog's segments, including this one.
fn dialog_nav(view: &ConversationView<'_>) -> Markup {
    let this = view.dialog.iter().position(|segment| segment.key == view.segment.key).unwrap_or_default();
    let first = this.saturating_sub(MAX_DIALOG_SEGMENTS / 2);
    let before = this.checked_sub(1).and_then(|before| view.dialog.get(before));
    html! {
        nav.dialog aria-label="The dialog's segments" {
            p {
                "Part " (this + 1) " of " (view.dialog.len()) " of this dialog"
                @if let Some(before) = before { " · " a rel="prev" href=(conversation_path(before)) { "← before" } }
                @if let Some(after) = view.dialog.get(this + 1) { " · " a rel="next" href=(conversation_path(after)) { "after →" } }
            }
            ol start=(first + 1) {
                @for segment in view.dialog.iter().skip(first).take(MAX_DIALOG_SEGMENTS) {
                    li {
                        @if segment.key == view.segment.key { strong aria-current="page" { (segment_label(segment)) } }
                        @else { a href=(conversation_path(segment)) { (segment_label(segment)) } }
                    }
                }
            }
        }
    }
}

fn segment_label(segment: &SegmentRow) -> String {
    let transcript = if segment.has_transcript { "" } else { ", without transcript" };
    format!("{}{transcript}", format_time(segment.ended))
}

/// The speaker's name stands once above consecutive phrases. The first phrase at an offset gets an
/// anchor, which hits link to. With a recording, times are those of the recording, and links to it.
fn phrase_list(conversation: &Conversation, playback: Option<&Playback>) -> Markup {
    let start = conversation.start();
    let place = |phrase: &Phrase| (Some(phrase.speaker()), phrase.offset(start));
    let places: Vec<_> = std::iter::once((None, None)).chain(conversation.phrases.iter().map(place)).collect();
    html! {
        @if conversation.phrases.is_empty() { p.todo { "Nothing was said." } }
        @for (phrase, (before, (speaker, offset))) in conversation.phrases.iter().zip(places.iter().zip(places.iter().skip(1))) {
            @let anchor = offset.as_ref().filter(|_| *offset != before.1).map(|offset| format!("t{offset}"));
            div.phrase.agent[phrase.kind.as_deref() == Some("agent")] id=[anchor] {
                @if let Some(name) = speaker.as_ref().filter(|_| *speaker != before.0) { h3 { (name) } }
                p {
                    @if let Some(link) = playback.and_then(|playback| playback.time_link(phrase)) { (link) }
                    @else { time { (offset.as_deref().unwrap_or("–")) } }
                    span.text dir="auto" { (clean_text(&phrase.text)) }
                }
            }
        }
    }
}

/// The text in place of a missing artifact.
fn slot_status(slot: &SegmentArtifact, now: Time) -> String {
    let mut status = outcome_name(&slot.status).replace('_', " ");
    if let Some(fetched) = slot.fetched {
        status.push_str(&format!(", fetched {} ago", format_duration(now.since(fetched))));
    }
    if let Some(due) = slot.due {
        let due = due.since(now);
        status.push_str(&if due.is_zero() {
            ", due now".to_owned()
        } else {
            format!(", next attempt in {}", format_duration(due))
        });
    }
    if let Some(reason) = &slot.reason {
        status.push_str(&format!(": {}", clean_line(reason)));
    }
    status
}

#[cfg(test)]
mod tests;
