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
        Artifact::Recording => String::from_utf8_lossy(&event.body).into_owned(),
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
