//! The pages for those who know the token: the door, the search, a conversation. Pure.
//!
//! Everything that came from outside passes through `maud`, which escapes it, and what customers wrote through
//! `reading::clean` too, so that no mark in it turns the direction of what follows.

use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Deserialize;

use super::{ICON, STYLE};
use crate::clock::Time;
use crate::db::{AccountRow, SegmentRow, SegmentSlot};
use crate::export::{conversation_of, outcome_name, summary_of};
use crate::reading::{Conversation, Metadata, Phrase, clean, one_line};
use crate::search::{Findings, Hit, LOOKED_AT};
use crate::status::words::{count, span};

/// So many segments of a dialog are listed.
const DIALOG: usize = 100;

/// What the search form asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct Asked {
    pub(in super::super) q: String,
    pub(in super::super) account: String,
    pub(in super::super) agent: String,
    pub(in super::super) channel: String,
    pub(in super::super) from: String,
    pub(in super::super) to: String,
    /// Anything for newest first.
    pub(in super::super) newest: String,
}

/// What came of it.
pub(in super::super) enum Result<'a> {
    /// Nothing was asked for.
    Nothing,
    Trouble(&'a str),
    Found {
        findings: &'a Findings,
        accounts: &'a [AccountRow],
        standing: Option<&'a str>,
        limit: usize,
    },
}

/// What a conversation's page is drawn from.
pub(in super::super) struct Reading<'a> {
    pub(in super::super) segment: &'a SegmentRow,
    pub(in super::super) slots: &'a [SegmentSlot; 3],
    /// All segments of its dialog, in order of time.
    pub(in super::super) dialog: &'a [SegmentRow],
    /// The account's name.
    pub(in super::super) account: Option<&'a str>,
    pub(in super::super) now: Time,
}

/// Why the door stays shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    None,
    Wrong,
    Wait(Duration),
}

fn shell(title: &str, inside: bool, content: &Markup) -> String {
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
            body.inside {
                header {
                    h1 { a href="/" { "ringcx-extractor" } }
                    nav { a href="/" { "Dashboard" } @if inside { a href="/search" { "Search" } } }
                    @if inside { form.leave method="post" action="/logout" { button type="submit" { "Log out" } } }
                }
                main { (content) }
            }
        }
    };
    markup.into_string()
}

/// The door; `wanted` is where to go on to.
pub(in super::super) fn login(wanted: &str, refusal: Refusal) -> String {
    let content = html! {
        section.door {
            h2 { "Conversations are shown to those who know the token" }
            @match refusal {
                Refusal::None => {}
                Refusal::Wrong => p.wrong role="alert" { "That is not the token." },
                Refusal::Wait(wait) => p.wrong role="alert" {
                    "Too many wrong tokens were given: none is heard for " (span(wait)) "."
                },
            }
            form method="post" action="/login" {
                input type="hidden" name="next" value=(wanted);
                label for="token" { "Token" }
                input #token type="password" name="token" required autofocus autocomplete="current-password";
                button type="submit" { "Enter" }
            }
            p.todo { "It is what " code { "http.token" } " says in the daemon's settings." }
        }
    };
    shell("Enter", false, &content)
}

/// The search, and what it found.
pub(in super::super) fn found(asked: &Asked, result: &Result<'_>) -> String {
    let content = html! {
        section.search { (form(asked)) }
        @match result {
            Result::Nothing => p.hint {
                "Words must all occur, in any order. " code { "\"charged twice\"" } " is a phrase, " code { "refund*" }
                " a beginning, " code { "-late" } " excludes, " code { "refund OR money" } " is a choice."
            },
            Result::Trouble(why) => section.wrong role="alert" { @for line in why.lines() { p { (line) } } },
            Result::Found { findings, accounts, standing, limit } => {
                @if let Some(standing) = standing { p.hint { (standing) } }
                (remarks(findings, *limit))
                ol.hits { @for found in &findings.hits { li { (hit(found, accounts)) } } }
            }
        }
    };
    shell("Search", true, &content)
}

fn form(asked: &Asked) -> Markup {
    let field = |name: &str, label: &str, kind: &str, value: &str| {
        html! { label { span { (label) } input type=(kind) name=(name) value=(value); } }
    };
    html! {
        form method="get" action="/search" role="search" {
            div.query {
                input type="search" name="q" value=(asked.q) placeholder="Search what was said, summaries and notes"
                    aria-label="What to look for" autofocus[asked.q.is_empty()];
                button type="submit" { "Search" }
            }
            div.filters {
                (field("account", "Account, by id or name", "text", &asked.account))
                (field("agent", "Agent, by id or name", "text", &asked.agent))
                (field("channel", "Channel", "text", &asked.channel))
                (field("from", "Ended from (UTC)", "date", &asked.from))
                (field("to", "to", "date", &asked.to))
                label.check { input type="checkbox" name="newest" value="1" checked[!asked.newest.is_empty()]; " newest first" }
            }
        }
    }
}

fn remarks(findings: &Findings, limit: usize) -> Markup {
    html! {
        p.hint role="status" {
            @match findings.hits.len() {
                0 => "Nothing was found.",
                found if findings.more => {
                    "The first " (limit.min(found))
                    @if findings.only_newest { ", the best of the newest matches" }
                    "; there are more: narrow it down by time, account or another word."
                }
                found => { (count(found as u64, "match", "matches")) "." }
            }
            @if findings.gave_up {
                " Only the newest " (LOOKED_AT) " matches were compared with the filters; choose a time to see others."
            }
        }
    }
}

fn hit(hit: &Hit, accounts: &[AccountRow]) -> Markup {
    let (segment, judged) = (&hit.segment, &hit.judged);
    let account = accounts.iter().find(|account| account.key == segment.account_key);
    let name = account.and_then(|account| account.name.as_deref()).unwrap_or(&segment.account.sub);
    let place = judged.offset.as_deref().map(|offset| format!("#t{offset}")).unwrap_or_default();
    html! {
        a href={ (link(segment)) (place) } {
            strong { (time(segment.ended)) }
            " · " (name) " · " (hit.source.name().replace('_', " "))
            @if let Some(offset) = &judged.offset { " at " (offset) }
        }
        p dir="auto" {
            @if let Some(speaker) = &judged.speaker { span.speaker { (one_line(speaker)) ": " } }
            (passage(&judged.passage.text, &judged.passage.matches))
        }
    }
}

/// With its matches marked.
fn passage(text: &str, matches: &[std::ops::Range<usize>]) -> Markup {
    let part = |range: std::ops::Range<usize>| clean(text.get(range).unwrap_or_default());
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

/// The path of a segment's page.
fn link(segment: &SegmentRow) -> String {
    let query = [("account", &*segment.account.sub), ("segment", segment.segment_id.as_str())];
    let url = reqwest::Url::parse_with_params("http://localhost/conversation", query);
    let query = url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
    format!("/conversation?{query}")
}

fn time(time: Option<Time>) -> String {
    time.map_or_else(
        || "at an unknown time".to_owned(),
        |time| time.rfc3339_secs().replace('T', " ").replace('Z', " UTC"),
    )
}

/// In place of a conversation.
pub(in super::super) fn no_conversation(why: &str) -> String {
    let content = html! {
        section.wrong role="alert" { @for line in why.lines() { p { (line) } } }
        p { a href="/search" { "Search" } }
    };
    shell("Not found", true, &content)
}

/// A segment, to be read.
pub(in super::super) fn conversation(reading: &Reading<'_>) -> String {
    let [transcript, agent, auto] = reading.slots;
    let metadata = Metadata::read(&reading.segment.metadata);
    let content = html! {
        (facts(reading, &metadata))
        @if reading.dialog.len() > 1 { (dialog(reading)) }
        section.conversation {
            h2 { "Conversation" }
            @match conversation_of(transcript, &metadata) {
                Some(conversation) => (phrases(&conversation)),
                None => p.todo { (standing(transcript, reading.now)) },
            }
        }
        @for (name, slot) in [("Agent summary", agent), ("Auto summary", auto)] {
            section.summary {
                h2 { (name) }
                @match summary_of(slot) {
                    Some(text) => p.text dir="auto" { (clean(&text)) },
                    None => p.todo { (standing(slot, reading.now)) },
                }
            }
        }
    };
    shell("Conversation", true, &content)
}

fn facts(reading: &Reading<'_>, metadata: &Metadata) -> Markup {
    let segment = reading.segment;
    html! {
        section.facts {
            h2 { "Ended " (time(segment.ended)) }
            dl {
                div { dt { "account" } dd { @if let Some(name) = reading.account { (name) " · " } (one_line(&segment.account.to_string())) } }
                @if let Some(lasted) = metadata.duration() { div { dt { "lasted" } dd { (span(lasted)) } } }
                @for (label, value) in metadata.shown() {
                    div { dt { (if label.is_empty() { "channel type" } else { label }) } dd dir="auto" { (clean(&value)) } }
                }
                div { dt { "segment" } dd { code { (one_line(&segment.segment_id)) } } }
                @if let Some(dialog) = &segment.dialog_id { div { dt { "dialog" } dd { code { (one_line(dialog)) } } } }
            }
        }
    }
}

/// The dialog's segments, this one among them.
fn dialog(reading: &Reading<'_>) -> Markup {
    let this = reading.dialog.iter().position(|segment| segment.key == reading.segment.key).unwrap_or_default();
    let first = this.saturating_sub(DIALOG / 2);
    let before = this.checked_sub(1).and_then(|before| reading.dialog.get(before));
    html! {
        nav.dialog aria-label="The dialog's segments" {
            p {
                "Part " (this + 1) " of " (reading.dialog.len()) " of this dialog"
                @if let Some(before) = before { " · " a rel="prev" href=(link(before)) { "← before" } }
                @if let Some(after) = reading.dialog.get(this + 1) { " · " a rel="next" href=(link(after)) { "after →" } }
            }
            ol start=(first + 1) {
                @for segment in reading.dialog.iter().skip(first).take(DIALOG) {
                    li {
                        @if segment.key == reading.segment.key { strong aria-current="page" { (about(segment)) } }
                        @else { a href=(link(segment)) { (about(segment)) } }
                    }
                }
            }
        }
    }
}

fn about(segment: &SegmentRow) -> String {
    let transcript = if segment.has_transcript { "" } else { ", without transcript" };
    format!("{}{transcript}", time(segment.ended))
}

/// A phrase as it is laid out: a name stands above what its bearer says, once; a hit leads to the first of a moment.
struct Laid<'a> {
    phrase: &'a Phrase,
    name: Option<String>,
    offset: Option<String>,
    place: Option<String>,
}

fn laid(conversation: &Conversation) -> Vec<Laid<'_>> {
    let start = conversation.start();
    let (mut speaking, mut moment) = (None, None);
    let lay = |phrase| {
        let (speaker, offset) = (Phrase::speaker(phrase), phrase.offset(start));
        let name = (speaking.as_ref() != Some(&speaker)).then(|| speaker.clone());
        let place =
            offset.as_ref().filter(|offset| moment.as_ref() != Some(*offset)).map(|offset| format!("t{offset}"));
        speaking = Some(speaker);
        moment.clone_from(&offset);
        Laid { phrase, name, offset, place }
    };
    conversation.phrases.iter().map(lay).collect()
}

fn phrases(conversation: &Conversation) -> Markup {
    html! {
        @if conversation.phrases.is_empty() { p.todo { "Nothing was said." } }
        @for laid in laid(conversation) {
            div.phrase.agent[laid.phrase.kind.as_deref() == Some("agent")] id=[laid.place] {
                @if let Some(name) = laid.name { h3 { (name) } }
                p {
                    time { (laid.offset.as_deref().unwrap_or("–")) }
                    span.text dir="auto" { (clean(&laid.phrase.text)) }
                }
            }
        }
    }
}

/// In place of a text that is not there.
fn standing(slot: &SegmentSlot, now: Time) -> String {
    let mut said = outcome_name(&slot.outcome).replace('_', " ");
    if let Some(fetched) = slot.fetched {
        said.push_str(&format!(", fetched {} ago", span(now.since(fetched))));
    }
    if let Some(due) = slot.due {
        let due = due.since(now);
        said.push_str(&if due.is_zero() { ", due now".to_owned() } else { format!(", tried again in {}", span(due)) });
    }
    if let Some(reason) = &slot.reason {
        said.push_str(&format!(": {}", one_line(reason)));
    }
    said
}

#[cfg(test)]
mod tests;
