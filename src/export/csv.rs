//! A segment as a row, quoted as RFC 4180 says.

use ::csv::{Terminator, WriterBuilder};

use super::{Entry, conversation_of, outcome_name, rfc3339, summary_of};
use crate::reading::Metadata;

const COLUMNS: [&str; 19] = [
    "rc_account_id",
    "sub_account_id",
    "dialog_id",
    "segment_id",
    "segment_end",
    "channel_class",
    "channel_type",
    "segment_type",
    "segment_start",
    "agent_disposition",
    "transcript_outcome",
    "transcript_fetched_at",
    "transcript",
    "agent_summary_outcome",
    "agent_summary_fetched_at",
    "agent_summary",
    "auto_summary_outcome",
    "auto_summary_fetched_at",
    "auto_summary",
];

/// Appends the names of the columns.
pub(super) fn header(out: &mut Vec<u8>) -> anyhow::Result<()> {
    record(COLUMNS.iter().map(|name| (*name).to_owned()), out)
}

/// Appends a segment's row.
pub(super) fn row(entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let Entry { segment, slots: [transcript, agent, auto] } = entry;
    let metadata = Metadata::read(&segment.metadata);
    let field = |name: &str| metadata.field(name);
    let cells = [
        Some(segment.account.rc.to_string()),
        Some(segment.account.sub.to_string()),
        segment.dialog_id.clone(),
        Some(segment.segment_id.clone()),
        rfc3339(segment.ended),
        field("channelClass"),
        field("channelType"),
        field("segmentType"),
        rfc3339(metadata.time("segmentStartTimeMs")),
        field("agentDisposition"),
        Some(outcome_name(&transcript.outcome).to_owned()),
        rfc3339(transcript.fetched),
        conversation_of(transcript, &metadata).map(|conversation| conversation.plain()),
        Some(outcome_name(&agent.outcome).to_owned()),
        rfc3339(agent.fetched),
        summary_of(agent),
        Some(outcome_name(&auto.outcome).to_owned()),
        rfc3339(auto.fetched),
        summary_of(auto),
    ];
    record(cells.into_iter().map(Option::unwrap_or_default), out)
}

fn record(cells: impl Iterator<Item = String>, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
    writer.write_record(cells.map(String::into_bytes))?;
    writer.flush()?;
    Ok(())
}
