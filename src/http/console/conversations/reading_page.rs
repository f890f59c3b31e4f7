//! One conversation to read: what was said, the summaries beside it, and what is known about its
//! segments. Pure.

use std::ops::Range;

use maud::{Markup, html};

use super::super::elements::{display_value, local_time, path_with, time_of};
use super::ReadingParameters;
use crate::archive_reader::{DialogPhraseView, ReadingView, VersionView, format_offset};
use crate::clock::Time;
use crate::db::{ArtifactStatus, SegmentArtifact, SegmentRow};
use crate::export::{SegmentEntry, outcome_name};
use crate::health::humanize::format_duration;
use crate::http::console::assets;
use crate::model::Artifact;
use crate::render::{Metadata, clean_line, clean_text};

/// The most segments of a dialog that are listed.
const MAX_LISTED_SEGMENTS: usize = 100;
/// The most hits with a link of their own.
const MAX_LINKED_HITS: usize = 40;

/// Renders a conversation. `siblings` are the segments of its dialog, where one of them is shown.
pub(super) fn render(reading: &ReadingView, parameters: &ReadingParameters, siblings: &[SegmentRow]) -> Markup {
    let mut hits = HitNumbers::default();
    let conversation = phrases_section(reading, &mut hits);
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
            (conversation)
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

fn phrases_section(reading: &ReadingView, hits: &mut HitNumbers) -> Markup {
    let has_parts = reading.entries.len() > 1;
    let mut before: Option<&DialogPhraseView> = None;
    let mut rows = Vec::with_capacity(reading.phrases.len());
    for (number, one) in (1..).zip(&reading.phrases) {
        let is_new_part = has_parts && before.is_none_or(|before| before.segment_id != one.segment_id);
        let is_new_speaker = is_new_part || before.is_none_or(|before| before.phrase.speaker != one.phrase.speaker);
        let part = is_new_part.then(|| part_heading(reading, &one.segment_id));
        rows.push((part, phrase_row(number, one, is_new_speaker, hits)));
        before = Some(one);
    }
    html! {
        section.conversation #conversation {
            div.bar {
                h2 { "Conversation" }
                (downloads(reading))
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

fn part_heading(reading: &ReadingView, segment_id: &str) -> Markup {
    let nth = reading.entries.iter().position(|entry| entry.segment.segment_id == segment_id);
    let segment = nth.and_then(|nth| reading.entries.get(nth)).map(|entry| &entry.segment);
    html! {
        p.part {
            a href=(segment_path(segment, "")) { "Part " (nth.map_or(0, |nth| nth + 1)) " of " (reading.entries.len()) }
            @if let Some(segment) = segment { ", ended " (local_time(segment.ended)) }
        }
    }
}

/// A phrase. Its time links to it.
fn phrase_row(number: usize, one: &DialogPhraseView, is_new_speaker: bool, hits: &mut HitNumbers) -> Markup {
    let phrase = &one.phrase;
    let is_agent = phrase.role.as_deref().is_some_and(|role| role.trim().eq_ignore_ascii_case("agent"));
    let offset = phrase.offset_ms.map_or_else(|| "–".to_owned(), format_offset);
    let text = marked(&phrase.text, &one.matches, |_| Some(hits.next()));
    html! {
        div.phrase.agent[is_agent] id={ "p" (number) } {
            @if is_new_speaker { h3 { (clean_line(&phrase.speaker)) } }
            p {
                a.at href={ "#p" (number) } title=[&phrase.at] { (offset) }
                span.text dir="auto" { (text) }
            }
        }
    }
}

/// Links to the conversation as a file.
fn downloads(reading: &ReadingView) -> Markup {
    let files: Vec<(&str, String)> = match (&reading.dialog_id, reading.entries.as_slice()) {
        (Some(dialog), [_, _, ..]) => [("text", ".txt"), ("JSON", ".json"), ("SRT", ".srt"), ("WebVTT", ".vtt")]
            .map(|(label, ending)| (label, dialog_path(dialog, ending)))
            .into(),
        (_, [entry]) => [("text", "text"), ("JSON", "json"), ("SRT", "srt"), ("WebVTT", "vtt")]
            .map(|(label, format)| (label, transcript_path(&entry.segment, format)))
            .into(),
        _ => Vec::new(),
    };
    html! {
        p.downloads {
            button type="button" data-copy="#phrases" hidden { "Copy" }
            @if !reading.phrases.is_empty() {
                " Download: "
                @for (label, path) in &files { a href=(path) download { (label) } " " }
            }
        }
    }
}

/// The transcript of a segment in the API.
fn transcript_path(segment: &SegmentRow, format: &str) -> String {
    let id: String = form_urlencoded::byte_serialize(segment.segment_id.as_bytes()).collect();
    let path = format!("/api/v1/segments/{}/transcript", id.replace('+', "%20"));
    path_with(&path, [("account", &*segment.account.sub), ("format", format)])
}

fn summaries_section(reading: &ReadingView, hits: &mut HitNumbers) -> Markup {
    let mut shown = Vec::new();
    for entry in &reading.entries {
        for (artifact, slot) in Artifact::ALL.into_iter().zip(&entry.slots).skip(1) {
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
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_in_addresses() {
        assert_eq!(dialog_path("a b/c+d", ".srt"), "/dialogs/a%20b%2Fc%2Bd.srt");
    }

    #[test]
    fn marks_have_numbers_and_texts_are_escaped() {
        let mut hits = HitNumbers::default();
        let shown = marked("a <refund> refund", &[3..9, 11..17], |_| Some(hits.next())).into_string();
        assert_eq!(shown, "a &lt;<mark id=\"hit1\">refund</mark>&gt; <mark id=\"hit2\">refund</mark>");
    }

    const HOSTILE: &str =
        "</p></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" autofocus onfocus=\"alert(3)";

    fn entry(key: i64, id: &str, transcript: &str) -> SegmentEntry {
        let slot = |status| SegmentArtifact {
            status,
            fetched: Some(Time(0)),
            version: 1,
            due: None,
            tries: 0,
            reason: Some(HOSTILE.to_owned()),
        };
        let metadata =
            serde_json::json!({ "agentNotes": HOSTILE, "channelClass": HOSTILE, "dialogOrigination": "INBOUND" });
        SegmentEntry {
            segment: SegmentRow {
                key,
                account: crate::model::AccountId::new("1", HOSTILE),
                account_key: crate::db::AccountKey(1),
                segment_id: id.to_owned(),
                dialog_id: Some(HOSTILE.to_owned()),
                ended: Some(Time(key * 1000)),
                has_transcript: true,
                first_seen: Time(0),
                metadata: metadata.to_string(),
            },
            slots: [
                slot(ArtifactStatus::Stored(transcript.into())),
                slot(ArtifactStatus::Stored(HOSTILE.into())),
                slot(ArtifactStatus::Failed),
            ],
        }
    }

    fn assert_harmless(page: &str) {
        let own = "<script src=\"/assets/";
        assert_eq!(page.matches("<script").count(), page.matches(own).count(), "{page}");
        assert!(
            !page.contains("<img") && !page.contains("\" autofocus onfocus") && !page.contains(" style="),
            "{page}"
        );
    }

    #[test]
    fn customer_text_is_rendered_as_text_in_a_segment_and_in_a_whole_dialog() {
        let transcript = serde_json::json!({ "transcript": [
            { "participantName": HOSTILE, "participantType": "agent", "timestamp": "1000", "message": HOSTILE },
            { "participantType": HOSTILE, "timestamp": 67_000, "message": "<b>bold</b> & \u{202e}more refund" },
        ]});
        let entries = vec![entry(1, "a&b/../c?d", &transcript.to_string()), entry(2, HOSTILE, "{}")];
        let siblings: Vec<SegmentRow> = entries.iter().map(|entry| entry.segment.clone()).collect();
        let parameters = ReadingParameters { q: "refund alert".to_owned(), ..ReadingParameters::default() };
        let page = |entries: Vec<SegmentEntry>, siblings: &[SegmentRow]| {
            let reading = ReadingView::new(Some(HOSTILE), entries, Vec::new(), Some(&parameters.q)).unwrap();
            render(&reading, &parameters, siblings).into_string()
        };
        let whole = page(entries.clone(), &[]);
        assert_harmless(&whole);
        assert!(whole.contains("&lt;b&gt;bold&lt;/b&gt; &amp; more <mark id=\"hit2\">refund</mark>"), "{whole}");
        assert!(
            whole.contains("id=\"p2\"")
                && whole.contains("href=\"#p2\"")
                && whole.contains("<dd dir=\"auto\">inbound</dd>"),
            "{whole}"
        );
        let part = page(entries.into_iter().take(1).collect(), &siblings);
        assert_harmless(&part);
        assert!(part.contains("Part 1 of 2") && part.contains("/segments/a%26b%2F..%2Fc%3Fd/transcript?"), "{part}");
    }
}
