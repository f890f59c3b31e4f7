//! One conversation to read: what was said, the summaries beside it, and what is known about its
//! segments. Pure.

mod recording_section;

use std::ops::Range;

use maud::{Markup, html};

use super::super::elements::{display_value, local_time, path_with, time_of};
use super::ReadingParameters;
use crate::archive_reader::{DialogPhraseView, ReadingView, VersionView, format_offset};
use crate::clock::Time;
use crate::db::{ArtifactStatus, SegmentArtifact, SegmentRow};
use crate::export::{SegmentEntry, outcome_name, recording_of};
use crate::health::humanize::format_duration;
use crate::http::console::assets;
use crate::model::Artifact;
use crate::render::{Metadata, clean_line, clean_text};
use recording_section::{Playback, api_path, recording_section};

/// The most segments of a dialog that are listed.
const MAX_LISTED_SEGMENTS: usize = 100;
/// The most hits with a link of their own.
const MAX_LINKED_HITS: usize = 40;

/// Whether the reader may listen to the recording of a segment.
pub(super) type MayListen<'a> = &'a dyn Fn(&SegmentRow) -> bool;

/// Renders a conversation. `siblings` are the segments of its dialog, where one of them is shown. A page
/// plays the recording of one segment; of several, each part links to its own.
pub(super) fn render(
    reading: &ReadingView,
    parameters: &ReadingParameters,
    siblings: &[SegmentRow],
    may_listen: MayListen<'_>,
) -> Markup {
    let mut hits = HitNumbers::default();
    let audible = match reading.entries.as_slice() {
        [entry] if may_listen(&entry.segment) => Some(entry),
        _ => None,
    };
    let playback = audible.and_then(Playback::new);
    let conversation = phrases_section(reading, playback.as_ref(), may_listen, &mut hits);
    let summaries = summaries_section(reading, &mut hits);
    html! {
        script src=(assets::CONVERSATION_SCRIPT.url()) defer {}
        @if let Some(version) = older_version(parameters) {
            p.notice role="status" {
                "This is version " (version) " of the " (parameters.artifact.replace('_', " ")) ". "
                a href=(segment_path(reading.entries.first().map(|entry| &entry.segment), "")) { "Show the newest" }
            }
        }
        @if siblings.len() > 1 { (dialog_nav(reading, siblings)) }
        @if !parameters.q.trim().is_empty() { (hits_nav(reading.hits, parameters)) }
        div.reading {
            div {
                @if let Some(entry) = audible { (recording_section(playback.as_ref(), entry)) }
                (conversation)
            }
            aside {
                (summaries)
                @for entry in &reading.entries { (facts_section(entry, reading)) }
                @if !reading.versions.is_empty() { (versions_section(reading)) }
            }
        }
    }
}

/// Counts hits, so that each has an address.
#[derive(Default)]
struct HitNumbers(usize);

impl HitNumbers {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("hit{}", self.0)
    }
}

fn older_version(parameters: &ReadingParameters) -> Option<&str> {
    Some(parameters.version.as_str()).filter(|version| !version.is_empty())
}

/// The page of one segment.
fn segment_path(segment: Option<&SegmentRow>, words: &str) -> String {
    let Some(segment) = segment else { return "/conversations".to_owned() };
    let ids = [("account", &*segment.account.sub), ("segment", segment.segment_id.as_str()), ("q", words)];
    path_with("/conversation", ids)
}

/// The page of a whole dialog, in a format.
fn dialog_path(dialog: &str, ending: &str) -> String {
    let id: String = form_urlencoded::byte_serialize(dialog.as_bytes()).collect();
    format!("/dialogs/{}{ending}", id.replace('+', "%20"))
}

/// Renders a text with its matches marked; `id` names each mark.
pub(super) fn marked(
    text: &str,
    matches: &[Range<usize>],
    mut id: impl FnMut(&Range<usize>) -> Option<String>,
) -> Markup {
    let part = |range: Range<usize>| clean_text(text.get(range).unwrap_or_default());
    let mut at = 0;
    let mut parts = Vec::with_capacity(matches.len());
    for range in matches {
        parts.push((part(at..range.start), id(range), part(range.clone())));
        at = range.end;
    }
    html! {
        @for (before, id, matched) in &parts { (before) mark id=[id] { (matched) } }
        (part(at..text.len()))
    }
}

/// Links from hit to hit.
fn hits_nav(hits: usize, parameters: &ReadingParameters) -> Markup {
    html! {
        nav.hits aria-label="Hits" {
            span { (hits) @if hits == 1 { " hit" } @else { " hits" } " of " q { (clean_line(&parameters.q)) } }
            @for number in 1..=hits.min(MAX_LINKED_HITS) { " " a href={ "#hit" (number) } { (number) } }
            @if hits > MAX_LINKED_HITS { " …" }
        }
    }
}

/// The list of the dialog's segments, including this one.
fn dialog_nav(reading: &ReadingView, siblings: &[SegmentRow]) -> Markup {
    let own = reading.entries.first().map(|entry| entry.segment.key);
    let this = siblings.iter().position(|segment| Some(segment.key) == own).unwrap_or_default();
    let first = this.saturating_sub(MAX_LISTED_SEGMENTS / 2);
    let before = this.checked_sub(1).and_then(|before| siblings.get(before));
    html! {
        nav.dialog aria-label="The dialog's segments" {
            p {
                "Part " (this + 1) " of " (siblings.len()) " of this dialog"
                @if let Some(before) = before { " · " a rel="prev" href=(segment_path(Some(before), "")) { "← before" } }
                @if let Some(after) = siblings.get(this + 1) { " · " a rel="next" href=(segment_path(Some(after), "")) { "after →" } }
                @if let Some(dialog) = &reading.dialog_id { " · " a href=(dialog_path(dialog, "")) { "Read the whole dialog" } }
            }
            ol start=(first + 1) {
                @for segment in siblings.iter().skip(first).take(MAX_LISTED_SEGMENTS) {
                    li {
                        @if Some(segment.key) == own { strong aria-current="page" { (segment_label(segment)) } }
                        @else { a href=(segment_path(Some(segment), "")) { (segment_label(segment)) } }
                    }
                }
            }
        }
    }
}

fn segment_label(segment: &SegmentRow) -> Markup {
    html! { (local_time(segment.ended)) @if !segment.has_transcript { ", without transcript" } }
}

fn phrases_section(
    reading: &ReadingView,
    playback: Option<&Playback>,
    may_listen: MayListen<'_>,
    hits: &mut HitNumbers,
) -> Markup {
    let has_parts = reading.entries.len() > 1;
    let mut before: Option<&DialogPhraseView> = None;
    let mut rows = Vec::with_capacity(reading.phrases.len());
    for (number, one) in (1..).zip(&reading.phrases) {
        let is_new_part = has_parts && before.is_none_or(|before| before.segment_id != one.segment_id);
        let is_new_speaker = is_new_part || before.is_none_or(|before| before.phrase.speaker != one.phrase.speaker);
        let part = is_new_part.then(|| part_heading(reading, &one.segment_id, may_listen));
        rows.push((part, phrase_row(number, one, is_new_speaker, playback, hits)));
        before = Some(one);
    }
    html! {
        section.conversation #conversation {
            div.bar {
                h2 { "Conversation" }
                (downloads(reading, playback))
            }
            @if rows.is_empty() { (missing_texts(reading)) }
            div #phrases { @for (part, row) in &rows { @if let Some(part) = part { (part) } (row) } }
        }
    }
}

/// What is in place of phrases.
fn missing_texts(reading: &ReadingView) -> Markup {
    html! {
        @for entry in &reading.entries {
            @if let Some(slot) = entry.slots.first() {
                p.todo {
                    @match &slot.status {
                        ArtifactStatus::Stored(_) => "Nothing was said.",
                        _ => { "Transcript: " (slot_status(slot)) }
                    }
                }
            }
        }
    }
}

fn part_heading(reading: &ReadingView, segment_id: &str, may_listen: MayListen<'_>) -> Markup {
    let nth = reading.entries.iter().position(|entry| entry.segment.segment_id == segment_id);
    let entry = nth.and_then(|nth| reading.entries.get(nth));
    let segment = entry.map(|entry| &entry.segment);
    let has_audio = |SegmentEntry { segment, slots: [.., slot] }: &&SegmentEntry| {
        recording_of(slot).is_some() && may_listen(segment)
    };
    html! {
        p.part {
            a href=(segment_path(segment, "")) { "Part " (nth.map_or(0, |nth| nth + 1)) " of " (reading.entries.len()) }
            @if let Some(segment) = segment { ", ended " (local_time(segment.ended)) }
            @if entry.filter(has_audio).is_some() { " · " a href={ (segment_path(segment, "")) "#recording" } { "Listen" } }
        }
    }
}

/// A phrase. Its time links to it; with a recording, to its place there.
fn phrase_row(
    number: usize,
    one: &DialogPhraseView,
    is_new_speaker: bool,
    playback: Option<&Playback>,
    hits: &mut HitNumbers,
) -> Markup {
    let phrase = &one.phrase;
    let is_agent = phrase.role.as_deref().is_some_and(|role| role.trim().eq_ignore_ascii_case("agent"));
    let offset = phrase.offset_ms.map_or_else(|| "–".to_owned(), format_offset);
    let text = marked(&phrase.text, &one.matches, |_| Some(hits.next()));
    html! {
        div.phrase.agent[is_agent] id={ "p" (number) } {
            @if is_new_speaker { h3 { (clean_line(&phrase.speaker)) } }
            p {
                @if let Some(link) = playback.and_then(|playback| playback.time_link(one)) { (link) }
                @else { a.at href={ "#p" (number) } title=[&phrase.at] { (offset) } }
                span.text dir="auto" { (text) }
            }
        }
    }
}

/// Links to the conversation as a file.
fn downloads(reading: &ReadingView, playback: Option<&Playback>) -> Markup {
    let files: Vec<(&str, String)> = match (&reading.dialog_id, reading.entries.as_slice()) {
        (Some(dialog), [_, _, ..]) => [("text", ".txt"), ("JSON", ".json"), ("SRT", ".srt"), ("WebVTT", ".vtt")]
            .map(|(label, ending)| (label, dialog_path(dialog, ending)))
            .into(),
        (_, [entry]) => [("text", "text"), ("JSON", "json"), ("SRT", "srt"), ("WebVTT", "vtt")]
            .map(|(label, format)| (label, api_path(&entry.segment, "transcript", format)))
            .into(),
        _ => Vec::new(),
    };
    html! {
        p.downloads {
            button type="button" data-copy="#phrases" hidden { "Copy" }
            @if !reading.phrases.is_empty() || playback.is_some() { " Download: " }
            @if !reading.phrases.is_empty() { @for (label, path) in &files { a href=(path) download { (label) } " " } }
            @if let Some(playback) = playback { (playback.download_link()) }
        }
    }
}

fn summaries_section(reading: &ReadingView, hits: &mut HitNumbers) -> Markup {
    let mut shown = Vec::new();
    for entry in &reading.entries {
        let slots = Artifact::ALL.into_iter().zip(&entry.slots);
        for (artifact, slot) in slots.filter(|(artifact, _)| ReadingView::SUMMARIES.contains(artifact)) {
            let summary = reading
                .summaries
                .iter()
                .find(|one| one.artifact == artifact.name() && one.segment_id == entry.segment.segment_id);
            let text = match summary {
                Some(summary) => Ok(marked(&summary.text, &summary.matches, |_| Some(hits.next()))),
                None => Err(slot_status(slot)),
            };
            // Of several segments only the summaries that exist are shown.
            if text.is_ok() || reading.entries.len() == 1 {
                shown.push((artifact.name().replace('_', " "), text));
            }
        }
    }
    html! {
        @for (name, text) in &shown {
            section.summary {
                h2 { (capitalized(name)) }
                @match text {
                    Ok(text) => p.text dir="auto" { (text) },
                    Err(status) => p.todo { (status) },
                }
            }
        }
    }
}

fn facts_section(entry: &SegmentEntry, reading: &ReadingView) -> Markup {
    let segment = &entry.segment;
    let metadata = Metadata::parse(&segment.metadata);
    html! {
        section.facts {
            h2 { "Ended " (local_time(segment.ended)) }
            dl {
                div { dt { "account" } dd { (clean_line(&segment.account.to_string())) } }
                @if let Some(duration) = metadata.duration() { div { dt { "duration" } dd { (format_duration(duration)) } } }
                @for (label, value) in metadata.displayed_fields() {
                    div {
                        dt { (if label.is_empty() { "channel type" } else { label }) }
                        dd dir="auto" {
                            @if let Some(time) = Time::parse(&value) { (local_time(Some(time))) }
                            @else { (display_value(&clean_text(&value))) }
                        }
                    }
                }
                div {
                    dt { "segment" }
                    dd {
                        @if reading.entries.len() > 1 { a href=(segment_path(Some(segment), "")) { code { (clean_line(&segment.segment_id)) } } }
                        @else { code { (clean_line(&segment.segment_id)) } }
                    }
                }
                @if let Some(dialog) = &segment.dialog_id { div { dt { "dialog" } dd { code { (clean_line(dialog)) } } } }
            }
        }
    }
}

/// The versions of the artifacts of a segment, where one has several.
fn versions_section(reading: &ReadingView) -> Markup {
    let Some(segment) = reading.entries.first().map(|entry| &entry.segment) else { return html! {} };
    let path = |version: &VersionView| {
        let number = version.version.to_string();
        let parameters = [
            ("account", &*segment.account.sub),
            ("segment", &segment.segment_id),
            ("artifact", version.artifact),
            ("version", &number),
        ];
        path_with("/conversation", parameters)
    };
    html! {
        section.versions {
            h2 { "Versions" }
            ul {
                @for version in &reading.versions {
                    li {
                        a href=(path(version)) { (version.artifact.replace('_', " ")) " " (version.version) }
                        ", fetched " (local_time(time_of(Some(&version.fetched_at))))
                    }
                }
            }
        }
    }
}

/// The text in place of a missing artifact.
fn slot_status(slot: &SegmentArtifact) -> String {
    let mut status = outcome_name(&slot.status).replace('_', " ");
    if let Some(due) = slot.due {
        status.push_str(&format!(", next attempt at {}", super::super::elements::format_utc(due)));
    }
    if let Some(reason) = &slot.reason {
        status.push_str(&format!(": {}", clean_line(reason)));
    }
    status
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests;
