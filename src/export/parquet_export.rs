//! Writes segments as rows of an Apache Parquet file, with the fields of the JSON lines in columns.

use std::io::{self, Write};

use super::{SegmentEntry, SegmentWriter, conversation_of, outcome_name, summary_text_of};
use crate::clock::Time;
use crate::db::{ArtifactStatus, SegmentArtifact};
use crate::parquet_writer::{CellValue, ColumnSpec, ParquetType, ParquetWriter};
use crate::render::{Metadata, clean_cell, to_json_line};

const COLUMNS: [ColumnSpec; 21] = [
    ("rc_account_id", ParquetType::Word),
    ("sub_account_id", ParquetType::Word),
    ("dialog_id", ParquetType::Word),
    ("segment_id", ParquetType::Word),
    ("segment_end", ParquetType::Time),
    ("channel_class", ParquetType::Word),
    ("channel_type", ParquetType::Word),
    ("segment_type", ParquetType::Word),
    ("segment_start", ParquetType::Time),
    ("agent_disposition", ParquetType::Word),
    ("metadata", ParquetType::Text),
    ("transcript_outcome", ParquetType::Word),
    ("transcript_fetched_at", ParquetType::Time),
    ("transcript", ParquetType::Text),
    ("transcript_text", ParquetType::Text),
    ("agent_summary_outcome", ParquetType::Word),
    ("agent_summary_fetched_at", ParquetType::Time),
    ("agent_summary", ParquetType::Text),
    ("auto_summary_outcome", ParquetType::Word),
    ("auto_summary_fetched_at", ParquetType::Time),
    ("auto_summary", ParquetType::Text),
];

/// Writes the rows of segments to a Parquet file.
pub(super) struct ParquetSegmentWriter<'o>(ParquetWriter<&'o mut (dyn Write + Send)>);

impl<'o> ParquetSegmentWriter<'o> {
    /// Starts the file.
    pub(super) fn new(out: &'o mut (dyn Write + Send)) -> io::Result<ParquetSegmentWriter<'o>> {
        Ok(ParquetSegmentWriter(ParquetWriter::new(out, "segment", &COLUMNS)?))
    }
}

impl SegmentWriter for ParquetSegmentWriter<'_> {
    fn push(&mut self, entry: &SegmentEntry) -> anyhow::Result<()> {
        Ok(self.0.push(row(entry))?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.0.finish()?)
    }
}

fn row(entry: &SegmentEntry) -> [CellValue; 21] {
    let SegmentEntry { segment, slots: [transcript, agent, auto] } = entry;
    let metadata = Metadata::parse(&segment.metadata);
    let field = |name: &str| text_cell(metadata.field(name));
    [
        CellValue::Text(segment.account.rc.to_string()),
        CellValue::Text(segment.account.sub.to_string()),
        CellValue::text(segment.dialog_id.clone()),
        CellValue::Text(segment.segment_id.clone()),
        time_cell(segment.ended),
        field("channelClass"),
        field("channelType"),
        field("segmentType"),
        time_cell(metadata.time("segmentStartTimeMs")),
        field("agentDisposition"),
        CellValue::Text(json_text(segment.metadata.as_bytes())),
        outcome_cell(transcript),
        time_cell(transcript.fetched),
        CellValue::text(stored_body(transcript).map(json_text)),
        CellValue::text(conversation_of(transcript, &metadata).map(|conversation| conversation.to_plain_text())),
        outcome_cell(agent),
        time_cell(agent.fetched),
        text_cell(summary_text_of(agent)),
        outcome_cell(auto),
        time_cell(auto.fetched),
        text_cell(summary_text_of(auto)),
    ]
}

fn text_cell(text: Option<String>) -> CellValue {
    CellValue::text(text.map(|text| clean_cell(&text)))
}

/// The text of a JSON line: valid JSON, whatever was received.
fn json_text(bytes: &[u8]) -> String {
    Box::<str>::from(to_json_line(bytes)).into_string()
}

fn stored_body(slot: &SegmentArtifact) -> Option<&[u8]> {
    match &slot.status {
        ArtifactStatus::Stored(body) => Some(body),
        _ => None,
    }
}

fn time_cell(time: Option<Time>) -> CellValue {
    CellValue::number(time.map(|time| time.0))
}

fn outcome_cell(slot: &SegmentArtifact) -> CellValue {
    CellValue::Text(outcome_name(&slot.status).to_owned())
}
