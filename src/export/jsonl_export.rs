//! Writes segments as lines of JSON with the documented order of keys, and metadata and transcripts
//! as the API sent them.

use serde::Serialize;
use serde_json::value::RawValue;

use super::table::erased_reason;
use super::{SegmentEntry, format_time, outcome_name};
use crate::db::{ArtifactStatus, ErasedSegment, SegmentArtifact};
pub use crate::event::ArtifactPayload;
use crate::event::RecordingPayload;
use crate::model::Artifact;
use crate::render::{escape_line_separators, to_json_line};

/// One line of the export.
#[derive(Debug, Serialize)]
pub struct ExportLine {
    rc_account_id: String,
    sub_account_id: String,
    dialog_id: Option<String>,
    segment_id: String,
    segment_end: Option<String>,
    metadata: Box<RawValue>,
    transcript: ArtifactPayload,
    agent_summary: ArtifactPayload,
    auto_summary: ArtifactPayload,
    /// Only where a recording was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<RecordingPayload>,
}

/// Appends the line of a segment.
pub(super) fn write_line(entry: &SegmentEntry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let start = out.len();
    serde_json::to_writer(&mut *out, &ExportLine::from_entry(entry))?;
    escape_line_separators(out, start);
    out.push(b'\n');
    Ok(())
}

/// The line of an erased segment, in an export of changes.
#[derive(Serialize)]
struct ErasedLine<'a> {
    rc_account_id: &'a str,
    sub_account_id: &'a str,
    dialog_id: Option<&'a str>,
    segment_id: &'a str,
    erased_at: String,
    erased_reason: &'static str,
}

/// Appends the line of an erased segment.
pub(super) fn write_erased(erased: &ErasedSegment, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let line = ErasedLine {
        rc_account_id: &erased.account.rc,
        sub_account_id: &erased.account.sub,
        dialog_id: erased.dialog_id.as_deref(),
        segment_id: &erased.segment_id,
        erased_at: erased.at.rfc3339(),
        erased_reason: erased_reason(erased.reason),
    };
    let start = out.len();
    serde_json::to_writer(&mut *out, &line)?;
    escape_line_separators(out, start);
    out.push(b'\n');
    Ok(())
}

impl ExportLine {
    /// The line of a segment.
    pub(crate) fn from_entry(entry: &SegmentEntry) -> ExportLine {
        let SegmentEntry { segment, slots: [transcript, agent, auto, recording] } = entry;
        ExportLine {
            rc_account_id: segment.account.rc.to_string(),
            sub_account_id: segment.account.sub.to_string(),
            dialog_id: segment.dialog_id.clone(),
            segment_id: segment.segment_id.clone(),
            segment_end: format_time(segment.ended),
            metadata: to_json_line(segment.metadata.as_bytes()),
            transcript: artifact_payload(Artifact::Transcript, transcript),
            agent_summary: artifact_payload(Artifact::AgentSummary, agent),
            auto_summary: artifact_payload(Artifact::AutoSummary, auto),
            recording: recording_payload(recording),
        }
    }
}

/// The outcome of a recording, with its reference if one is stored; `None` if none was requested.
pub(crate) fn recording_payload(slot: &SegmentArtifact) -> Option<RecordingPayload> {
    match &slot.status {
        ArtifactStatus::NotRequested => None,
        ArtifactStatus::Stored(body) => Some(RecordingPayload::new("stored", slot.fetched, body)),
        outcome => Some(RecordingPayload::new(outcome_name(outcome), slot.fetched, b"")),
    }
}

/// The outcome of an artifact, with its body if one is stored.
pub(crate) fn artifact_payload(artifact: Artifact, slot: &SegmentArtifact) -> ArtifactPayload {
    match &slot.status {
        ArtifactStatus::Stored(body) => ArtifactPayload::from_body(artifact, slot.fetched, body),
        outcome => ArtifactPayload::without_content(outcome_name(outcome), slot.fetched),
    }
}
