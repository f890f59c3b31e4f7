//! A segment as a passage to read; nothing in it can steer a terminal.

use serde_json::Value;

use super::{Entry, conversation_of, outcome_name, summary_of};
use crate::clock::Time;
use crate::db::SegmentSlot;
use crate::reading::{clean, one_line, word};

/// Appends a segment's passage.
pub(super) fn page(entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let Entry { segment, slots: [transcript, agent, auto] } = entry;
    let metadata: Value = serde_json::from_str(&segment.metadata).unwrap_or_default();
    let ended = segment.ended.map_or_else(|| "at an unknown time".to_owned(), Time::rfc3339_secs);
    let mut text = format!("==== segment {} ended {ended}\n", one_line(&segment.segment_id));
    text.push_str(&format!(
        "account {}, dialog {}",
        segment.account,
        one_line(segment.dialog_id.as_deref().unwrap_or("-"))
    ));
    if let Some(channel) = metadata.get("channelClass").and_then(word) {
        text.push_str(&format!(", {}", one_line(&channel)));
    }
    text.push('\n');
    match conversation_of(transcript) {
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
