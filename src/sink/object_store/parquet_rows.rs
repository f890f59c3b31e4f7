//! Encodes events as rows of an Apache Parquet file.

use std::io;

use bytes::Bytes;

use super::SinkError;
use crate::event::{Event, EventKind};
use crate::model::Artifact;
use crate::parquet_writer::{CellValue, ColumnSpec, ParquetType, ParquetWriter};
use crate::render::{clean_cell, to_json_line};
use crate::ringcx::summary_text;

const COLUMNS: [ColumnSpec; 11] = [
    ("id", ParquetType::Text),
    ("rc_account_id", ParquetType::Word),
    ("sub_account_id", ParquetType::Word),
    ("dialog_id", ParquetType::Word),
    ("segment_id", ParquetType::Word),
    ("segment_end", ParquetType::Time),
    ("artifact", ParquetType::Word),
    ("version", ParquetType::Number),
    ("stored_at", ParquetType::Time),
    ("metadata", ParquetType::Text),
    ("body", ParquetType::Text),
];

/// Encodes the file on a blocking thread, since compression needs CPU time.
///
/// # Errors
/// None is expected: the file is built in memory.
pub(super) async fn write_parquet(events: &[Event]) -> Result<Vec<Bytes>, SinkError> {
    let rows: Vec<_> = events.iter().map(event_row).collect();
    let encoded = tokio::task::spawn_blocking(move || encode_table(rows)).await.map_err(io::Error::other);
    match encoded.and_then(|encoded| encoded) {
        Ok(file) => Ok(vec![Bytes::from(file)]),
        Err(error) => Err(SinkError::unavailable(format!("failed to write a Parquet file: {error}"))),
    }
}

/// A file of events that is built in memory, for the table `artifacts`.
pub(crate) struct EventFile {
    writer: ParquetWriter<Vec<u8>>,
    rows: u64,
}

impl EventFile {
    /// The names of the columns, and their types in a DuckLake catalog.
    pub(crate) fn columns() -> Vec<(&'static str, &'static str)> {
        COLUMNS.iter().map(|(name, kind)| (*name, kind.ducklake_name())).collect()
    }

    /// Starts a file.
    ///
    /// # Errors
    /// None is expected: the file is built in memory.
    pub(crate) fn new() -> io::Result<EventFile> {
        Ok(EventFile { writer: ParquetWriter::new(Vec::new(), "artifact", &COLUMNS)?, rows: 0 })
    }

    /// Adds the row of an event.
    ///
    /// # Errors
    /// As [`EventFile::new`].
    pub(crate) fn push(&mut self, event: &Event) -> io::Result<()> {
        self.rows += 1;
        self.writer.push(event_row(event))
    }

    /// The approximate size of the file so far.
    pub(crate) fn size(&self) -> u64 {
        self.writer.approximate_size()
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Ends the file.
    ///
    /// # Errors
    /// As [`EventFile::new`].
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        self.writer.into_inner()
    }
}

fn encode_table(rows: Vec<[CellValue; 11]>) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut table = ParquetWriter::new(&mut file, "event", &COLUMNS)?;
    for row in rows {
        table.push(row)?;
    }
    table.finish()?;
    Ok(file)
}

fn event_row(event: &Event) -> [CellValue; 11] {
    let body = event.kind.artifact().map(|artifact| match artifact {
        Artifact::Transcript => to_json_line(&event.body).get().to_owned(),
        Artifact::AgentSummary | Artifact::AutoSummary => clean_cell(&summary_text(&event.body)),
    });
    let has_metadata = !matches!(event.kind, EventKind::Erased(_));
    let metadata = has_metadata.then(|| to_json_line(event.metadata.as_bytes()).get().to_owned());
    [
        CellValue::Text(event.id().to_string()),
        CellValue::Text(event.account.rc.to_string()),
        CellValue::Text(event.account.sub.to_string()),
        CellValue::text(event.dialog_id.clone()),
        CellValue::Text(event.segment_id.clone()),
        CellValue::number(event.ended.map(|ended| ended.0)),
        CellValue::Text(event.kind.name().to_owned()),
        CellValue::Number(event.version),
        CellValue::Number(event.stored.0),
        CellValue::text(metadata),
        CellValue::text(body),
    ]
}
