//! Writes segments as plain text without control characters, so that it is safe for a terminal.

use super::table::erased_reason;
use super::{SegmentEntry, conversation_of, outcome_name, summary_text_of};
use crate::clock::Time;
use crate::db::{ErasedSegment, SegmentArtifact};
use crate::render::{Metadata, clean_line, clean_text};

/// Appends the text of a segment.
pub(super) fn write_segment(entry: &SegmentEntry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let SegmentEntry { segment, slots: [transcript, agent, auto, _] } = entry;
    let metadata = Metadata::parse(&segment.metadata);
    let ended = segment.ended.map_or_else(|| "at an unknown time".to_owned(), Time::rfc3339_secs);
    let mut text = format!("==== segment {} ended {ended}\n", clean_line(&segment.segment_id));
    text.push_str(&format!(
        "account {}, dialog {}",
        segment.account,
        clean_line(segment.dialog_id.as_deref().unwrap_or("-"))
    ));
    if let Some(channel) = metadata.field("channelClass") {
        text.push_str(&format!(", {}", clean_line(&channel)));
    }
    text.push('\n');
    match conversation_of(transcript, &metadata) {
        Some(conversation) => text.push_str(&format!("\n{}", conversation.to_plain_text())),
        None => text.push_str(&format!("\n(transcript: {})\n", outcome_name(&transcript.status))),
    }
    write_summary("agent summary", agent, &mut text);
    write_summary("auto summary", auto, &mut text);
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Appends the header of a dialog, before its segments.
pub(super) fn write_dialog_header(segments: &[SegmentEntry], out: &mut Vec<u8>) {
    if let Some(dialog) = segments.first().and_then(|entry| entry.segment.dialog_id.as_deref()) {
        let plural = if segments.len() == 1 { "" } else { "s" };
        let text = format!("######## dialog {}, {} segment{plural}\n\n", clean_line(dialog), segments.len());
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends a line about an erased segment.
pub(super) fn write_erased(erased: &ErasedSegment, out: &mut Vec<u8>) {
    let (id, at) = (clean_line(&erased.segment_id), erased.at.rfc3339_secs());
    let text =
        format!("==== segment {id} erased {at} ({})\naccount {}\n\n", erased_reason(erased.reason), erased.account);
    out.extend_from_slice(text.as_bytes());
}

fn write_summary(name: &str, slot: &SegmentArtifact, text: &mut String) {
    match summary_text_of(slot) {
        Some(summary) => text.push_str(&format!("\n{name}:\n{}\n", clean_text(summary.trim_end()))),
        None => text.push_str(&format!("({name}: {})\n", outcome_name(&slot.status))),
    }
}
