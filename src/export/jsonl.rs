//! A segment as a line of JSON, keys in their documented order, metadata and transcript as the API sent them.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Entry, outcome_name, rfc3339};
use crate::db::{SegmentSlot, SlotOutcome};
pub use crate::event::Part;
use crate::model::Artifact;
use crate::reading::{json_line, unbroken};

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

/// Appends a segment's line.
pub(super) fn line(entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let start = out.len();
    serde_json::to_writer(&mut *out, &Line::of(entry))?;
    unbroken(out, start);
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
            transcript: part(Artifact::Transcript, transcript),
            agent_summary: part(Artifact::AgentSummary, agent),
            auto_summary: part(Artifact::AutoSummary, auto),
        }
    }
}

/// How an artifact stands; its body, where there is one.
fn part(artifact: Artifact, slot: &SegmentSlot) -> Part {
    match &slot.outcome {
        SlotOutcome::Stored(body) => Part::stored(artifact, slot.fetched, body),
        outcome => Part::bare(outcome_name(outcome), slot.fetched),
    }
}
