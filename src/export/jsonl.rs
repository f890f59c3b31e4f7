//! A segment as a line of JSON, keys in their documented order, metadata and transcript as the API sent them.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Entry, outcome_name, rfc3339, summary_of};
use crate::db::{SegmentSlot, SlotOutcome};
use crate::reading::json_line;

/// A line of the export.
#[derive(Debug, Serialize)]
pub struct Line {
    rc_account_id: String,
    sub_account_id: String,
    dialog_id: Option<String>,
    segment_id: String,
    segment_end: Option<String>,
    metadata: Box<RawValue>,
    transcript: Part,
    agent_summary: Part,
    auto_summary: Part,
}

/// An artifact in a line.
#[derive(Debug, Serialize)]
pub struct Part {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Appends a segment's line.
pub(super) fn line(entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, &Line::of(entry))?;
    out.push(b'\n');
    Ok(())
}

impl Line {
    /// The line for a segment.
    pub fn of(entry: &Entry) -> Line {
        let Entry { segment, slots: [transcript, agent, auto] } = entry;
        Line {
            rc_account_id: segment.account.rc.to_string(),
            sub_account_id: segment.account.sub.to_string(),
            dialog_id: segment.dialog_id.clone(),
            segment_id: segment.segment_id.clone(),
            segment_end: rfc3339(segment.ended),
            metadata: json_line(segment.metadata.as_bytes()),
            transcript: Part::transcript(transcript),
            agent_summary: Part::summary(agent),
            auto_summary: Part::summary(auto),
        }
    }
}

impl Part {
    fn bare(slot: &SegmentSlot) -> Part {
        Part { outcome: outcome_name(&slot.outcome), fetched_at: rfc3339(slot.fetched), body: None, text: None }
    }

    /// A transcript: its body as it came.
    pub fn transcript(slot: &SegmentSlot) -> Part {
        let body = match &slot.outcome {
            SlotOutcome::Stored(body) => Some(json_line(body)),
            _ => None,
        };
        Part { body, ..Part::bare(slot) }
    }

    /// A summary: its text.
    pub fn summary(slot: &SegmentSlot) -> Part {
        Part { text: summary_of(slot), ..Part::bare(slot) }
    }
}
