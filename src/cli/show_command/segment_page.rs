//! Renders a segment for a terminal. All external text passes through `render::clean_text`.

use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use super::segment_history::SegmentHistory;
use crate::cli::human_format::{format_bytes, format_count, format_duration, format_relative};
use crate::clock::Time;
use crate::db::{ArtifactStatus, SegmentArtifact, SegmentRow};
use crate::export::{SegmentEntry, conversation_of, outcome_name, recording_of, summary_text_of};
use crate::model::Artifact;
use crate::render::{Conversation, Metadata, clean_line, clean_text, wrap_text};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The minimum width of a label in the header.
const MIN_LABEL_COLUMNS: usize = 13;

/// Renders the whole segment.
pub(super) fn render(entry: &SegmentEntry, history: &SegmentHistory, now: Time, width: usize) -> String {
    let mut page = Page { text: String::new(), width };
    let metadata = Metadata::parse(&entry.segment.metadata);
    add_header(entry, &metadata, now, &mut page);
    let [transcript, agent, auto, recording] = &entry.slots;
    page.heading("Conversation");
    match conversation_of(transcript, &metadata) {
        Some(conversation) => add_phrases(&conversation, &mut page),
        None => page.paragraph("", &format_placeholder(transcript, now)),
    }
    for (name, slot) in [("Agent summary", agent), ("Auto summary", auto)] {
        page.heading(name);
        page.paragraph(
            "",
            &summary_text_of(slot).map_or_else(|| format_placeholder(slot, now), |text| clean_text(&text)),
        );
    }
    if let Some(recording) = recording_of(recording) {
        page.heading("Recording");
        let lasts = recording.duration_ms.map(|millis| format_duration(Duration::from_millis(millis)));
        let facts: Vec<String> =
            lasts.into_iter().chain([recording.media_type, format_bytes(recording.bytes)]).collect();
        let id = clean_line(&entry.segment.segment_id);
        page.paragraph("", &format!("{}; `recording {id} -o FILE` saves it", facts.join(", ")));
    }
    page.heading("History");
    let is_shown = |(artifact, slot): &(Artifact, &SegmentArtifact)| {
        artifact.is_text() || !matches!(slot.status, ArtifactStatus::NotRequested)
    };
    for (artifact, slot) in Artifact::ALL.into_iter().zip(&entry.slots).filter(is_shown) {
        page.labelled(artifact.name(), &format_status(slot, now));
    }
    page.text.push('\n');
    for (at, what) in history.to_lines() {
        page.paragraph(&format!("{at}  "), &clean_line(&what));
    }
    page.text
}

/// Renders the header of a dialog with several segments.
pub(super) fn render_dialog_header(dialog_id: &str, segments: &[SegmentRow]) -> String {
    let time = |segment: Option<&SegmentRow>| {
        segment.and_then(|segment| segment.ended).map_or_else(|| "an unknown time".to_owned(), Time::rfc3339_secs)
    };
    format!(
        "{BOLD}Dialog {}{RESET}\n{}, the first ended at {}, the last at {}\n\n\n",
        clean_line(dialog_id),
        format_count(segments.len() as u64, "segment"),
        time(segments.first()),
        time(segments.last()),
    )
}

struct Page {
    text: String,
    width: usize,
}

impl Page {
    fn heading(&mut self, text: &str) {
        self.text.push_str(&format!("\n{BOLD}{text}{RESET}\n"));
    }

    /// Adds a paragraph whose first line starts with `lead`; the other lines are indented by its
    /// width.
    fn paragraph(&mut self, lead: &str, text: &str) {
        // A very wide lead indents by at most half of the width.
        let indent = lead.width().min(self.width / 2);
        for (i, line) in wrap_text(text, self.width.saturating_sub(lead.width()).max(self.width / 2)).iter().enumerate()
        {
            let lead = if i == 0 { lead.to_owned() } else { " ".repeat(indent) };
            self.text.push_str(format!("{lead}{line}").trim_end());
            self.text.push('\n');
        }
    }

    fn labelled(&mut self, label: &str, text: &str) {
        let wide = MIN_LABEL_COLUMNS.max(label.width());
        self.paragraph(&format!("{label}{}  ", " ".repeat(wide - label.width())), text);
    }
}

fn add_header(entry: &SegmentEntry, metadata: &Metadata, now: Time, page: &mut Page) {
    let segment = &entry.segment;
    page.text.push_str(&format!("{BOLD}Segment {}{RESET}\n", clean_line(&segment.segment_id)));
    page.labelled("dialog", &segment.dialog_id.as_deref().map_or_else(|| "none".to_owned(), clean_line));
    page.labelled("account", &segment.account.to_string());
    page.labelled(
        "ended",
        &segment.ended.map_or_else(
            || "at an unknown time".to_owned(),
            |ended| format!("{} ({})", ended.rfc3339(), format_relative(ended, now)),
        ),
    );
    for (label, value) in metadata.displayed_fields() {
        page.labelled(label, &clean_text(&value));
    }
    if let Some(lasted) = metadata.duration() {
        page.labelled("lasted", &format_duration(lasted));
    }
    let transcript = if segment.has_transcript { "announced" } else { "not announced" };
    page.labelled("transcript", transcript);
}

fn add_phrases(conversation: &Conversation, page: &mut Page) {
    if conversation.phrases.is_empty() {
        page.paragraph("", "nothing was said");
    }
    let start = conversation.start();
    let mut before: Option<String> = None;
    for phrase in &conversation.phrases {
        let speaker = phrase.speaker();
        // Consecutive phrases of one speaker have one heading.
        if before.as_deref() != Some(&speaker) {
            page.text.push_str(&format!("{DIM}{speaker}{RESET}\n"));
        }
        let offset = phrase.offset(start).unwrap_or_else(|| "--:--".to_owned());
        page.paragraph(&format!("  {offset:>7}  "), &clean_text(&phrase.text));
        before = Some(speaker);
    }
}

/// The placeholder of a missing text.
fn format_placeholder(slot: &SegmentArtifact, now: Time) -> String {
    format!("({})", format_status(slot, now))
}

fn format_status(slot: &SegmentArtifact, now: Time) -> String {
    let mut text = outcome_name(&slot.status).replace('_', " ");
    if slot.version > 1 {
        text.push_str(&format!(", version {}", slot.version));
    }
    if let Some(fetched) = slot.fetched {
        text.push_str(&format!(", fetched {}", format_relative(fetched, now)));
    }
    if let Some(due) = slot.due {
        text.push_str(&if due > now {
            format!(", next attempt {}", format_relative(due, now))
        } else {
            ", due now".to_owned()
        });
    }
    if slot.tries > 0 {
        text.push_str(&format!(", {} so far", format_count(slot.tries.unsigned_abs(), "failed attempt")));
    }
    if let Some(reason) = &slot.reason {
        text.push_str(&format!(": {}", clean_line(reason)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AccountId;

    fn slot(outcome: ArtifactStatus) -> SegmentArtifact {
        SegmentArtifact { status: outcome, fetched: None, version: 1, due: None, tries: 0, reason: None }
    }

    fn entry(transcript: &str) -> SegmentEntry {
        let segment = SegmentRow {
            key: 1,
            account: AccountId::new("980634004", "99999999"),
            account_key: crate::db::AccountKey(1),
            segment_id: "seg-1".to_owned(),
            dialog_id: Some("dia-1".to_owned()),
            ended: Time::parse("2026-11-20T09:00:00Z"),
            has_transcript: true,
            first_seen: Time::from_secs(1_790_000_000),
            metadata: r#"{"channelClass":"VOICE","agentNotes":"bad\u001b[2Jnote","agentDisposition":null,"segmentDurationMs":61000}"#
                .to_owned(),
        };
        let waiting = SegmentArtifact {
            due: Time::parse("2026-11-20T10:05:00Z"),
            tries: 2,
            reason: Some("failed to fetch: 404".to_owned()),
            ..slot(ArtifactStatus::Pending)
        };
        SegmentEntry {
            segment,
            slots: [
                slot(ArtifactStatus::Stored(transcript.into())),
                slot(ArtifactStatus::NotPopulated),
                waiting,
                slot(ArtifactStatus::NotRequested),
            ],
        }
    }

    fn page(transcript: &str) -> String {
        page_of(&entry(transcript))
    }

    fn page_of(entry: &SegmentEntry) -> String {
        let history = SegmentHistory {
            first_seen: "2026-11-20T09:06:00.000Z".to_owned(),
            metadata_changes: Vec::new(),
            versions: Vec::new(),
            attempts: Vec::new(),
        };
        let now = Time::parse("2026-11-20T10:00:00Z").unwrap();
        let text = render(entry, &history, now, 40);
        text.replace(BOLD, "").replace(DIM, "").replace(RESET, "")
    }

    #[test]
    fn a_segment_reads_from_top_to_bottom() {
        let transcript = r#"{"transcript":[
            {"participantName":"Jane","participantType":"agent","timestamp":"1000","message":"Hello, this is a sentence that does not fit."},
            {"participantType":"contact","timestamp":"66000","message":"\u001b]0;owned\u0007Hi"}]}"#;
        insta::assert_snapshot!(page(transcript), @r#"
    Segment seg-1
    dialog         dia-1
    account        980634004/99999999
    ended          2026-11-20T09:00:00.000Z
                   (1h ago)
    channel        VOICE
    agent notes    badnote
    lasted         1m 1s
    transcript     announced

    Conversation
    Jane (agent)
        00:00  Hello, this is a sentence
               that does not fit.
    contact
        01:05  Hi

    Agent summary
    (not populated)

    Auto summary
    (pending, next attempt in 5m, 2 failed
    attempts so far: failed to fetch: 404)

    History
    transcript     stored
    agent_summary  not populated
    auto_summary   pending, next attempt in
                   5m, 2 failed attempts so
                   far: failed to fetch: 404

    2026-11-20T09:06:00.000Z  first seen
    "#);
    }

    #[test]
    fn a_recording_is_mentioned_with_how_to_save_it() {
        let mut entry = entry("{}");
        let reference = br#"{"object":"a/a.wav","sha256":"a","bytes":2048,"type":"audio/wav","duration_ms":61000}"#;
        entry.slots[3] = slot(ArtifactStatus::Stored(reference.to_vec()));
        let page = page_of(&entry);
        assert!(
            page.contains("Recording\n1m 1s, audio/wav, 2.00 KiB;") && page.contains("recording      stored"),
            "{page}"
        );
    }

    #[test]
    fn a_body_that_is_no_transcript_does_no_harm() {
        assert!(page("oops").contains("(stored)"));
        assert!(page(r#"{"transcript":null}"#).contains("nothing was said"));
    }
}
