//! A segment as a row of an Apache Parquet file, with what JSON lines hold in columns.

use std::io::{self, Write};

use super::{Entry, Rows, conversation_of, outcome_name, summary_of};
use crate::clock::Time;
use crate::db::{SegmentSlot, SlotOutcome};
use crate::reading::{Metadata, json_line, printable};
use crate::table::{Cell, Column, Kind, Table};

const COLUMNS: [Column; 21] = [
    ("rc_account_id", Kind::Word),
    ("sub_account_id", Kind::Word),
    ("dialog_id", Kind::Word),
    ("segment_id", Kind::Word),
    ("segment_end", Kind::Time),
    ("channel_class", Kind::Word),
    ("channel_type", Kind::Word),
    ("segment_type", Kind::Word),
    ("segment_start", Kind::Time),
    ("agent_disposition", Kind::Word),
    ("metadata", Kind::Text),
    ("transcript_outcome", Kind::Word),
    ("transcript_fetched_at", Kind::Time),
    ("transcript", Kind::Text),
    ("transcript_text", Kind::Text),
    ("agent_summary_outcome", Kind::Word),
    ("agent_summary_fetched_at", Kind::Time),
    ("agent_summary", Kind::Text),
    ("auto_summary_outcome", Kind::Word),
    ("auto_summary_fetched_at", Kind::Time),
    ("auto_summary", Kind::Text),
];

/// Rows on their way into a file.
pub(super) struct Segments<'o>(Table<&'o mut (dyn Write + Send)>);

impl<'o> Segments<'o> {
    /// Begins the file.
    pub(super) fn new(out: &'o mut (dyn Write + Send)) -> io::Result<Segments<'o>> {
        Ok(Segments(Table::new(out, "segment", &COLUMNS)?))
    }
}

impl Rows for Segments<'_> {
    fn push(&mut self, entry: &Entry) -> anyhow::Result<()> {
        Ok(self.0.push(row(entry))?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.0.finish()?)
    }
}

fn row(entry: &Entry) -> [Cell; 21] {
    let Entry { segment, slots: [transcript, agent, auto] } = entry;
    let metadata = Metadata::read(&segment.metadata);
    let field = |name: &str| printed(metadata.field(name));
    [
        Cell::Text(segment.account.rc.to_string()),
        Cell::Text(segment.account.sub.to_string()),
        Cell::text(segment.dialog_id.clone()),
        Cell::Text(segment.segment_id.clone()),
        time(segment.ended),
        field("channelClass"),
        field("channelType"),
        field("segmentType"),
        time(metadata.time("segmentStartTimeMs")),
        field("agentDisposition"),
        Cell::Text(json(segment.metadata.as_bytes())),
        outcome(transcript),
        time(transcript.fetched),
        Cell::text(body(transcript).map(json)),
        Cell::text(conversation_of(transcript, &metadata).map(|conversation| conversation.plain())),
        outcome(agent),
        time(agent.fetched),
        printed(summary_of(agent)),
        outcome(auto),
        time(auto.fetched),
        printed(summary_of(auto)),
    ]
}

fn printed(text: Option<String>) -> Cell {
    Cell::text(text.map(|text| printable(&text)))
}

/// The same text as in a line of JSON: whatever came, it can be read as JSON.
fn json(bytes: &[u8]) -> String {
    Box::<str>::from(json_line(bytes)).into_string()
}

fn body(slot: &SegmentSlot) -> Option<&[u8]> {
    match &slot.outcome {
        SlotOutcome::Stored(body) => Some(body),
        _ => None,
    }
}

fn time(time: Option<Time>) -> Cell {
    Cell::number(time.map(|time| time.0))
}

fn outcome(slot: &SegmentSlot) -> Cell {
    Cell::Text(outcome_name(&slot.outcome).to_owned())
}
