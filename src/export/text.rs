//! A segment as a passage to read; nothing in it can steer a terminal.

use super::{Entry, conversation_of, outcome_name, summary_of};
use crate::clock::Time;
use crate::db::SegmentSlot;
use crate::reading::{Metadata, clean, one_line};

/// Appends a segment's passage.
pub(super) fn page(entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let Entry { segment, slots: [transcript, agent, auto] } = entry;
    let metadata = Metadata::read(&segment.metadata);
    let ended = segment.ended.map_or_else(|| "at an unknown time".to_owned(), Time::rfc3339_secs);
    let mut text = format!("==== segment {} ended {ended}\n", one_line(&segment.segment_id));
    text.push_str(&format!(
        "account {}, dialog {}",
        segment.account,
        one_line(segment.dialog_id.as_deref().unwrap_or("-"))
    ));
    if let Some(channel) = metadata.field("channelClass") {
        text.push_str(&format!(", {}", one_line(&channel)));
    }
    text.push('\n');
    match conversation_of(transcript, &metadata) {
        Some(conversation) => text.push_str(&format!("\n{}", conversation.plain())),
        None => text.push_str(&format!("\n(transcript: {})\n", outcome_name(&transcript.outcome))),
    }
    summary("agent summary", agent, &mut text);
    summary("auto summary", auto, &mut text);
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn summary(name: &str, slot: &SegmentSlot, text: &mut String) {
    match summary_of(slot) {
        Some(summary) => text.push_str(&format!("\n{name}:\n{}\n", clean(summary.trim_end()))),
        None => text.push_str(&format!("({name}: {})\n", outcome_name(&slot.outcome))),
    }
}
