//! Events as rows of an Apache Parquet file.

use std::io;

use bytes::Bytes;

use super::{SinkError, failure};
use crate::event::Event;
use crate::model::Artifact;
use crate::reading::{json_line, printable};
use crate::ringcx::summary_text;
use crate::table::{Cell, Column, Kind, Table};

const COLUMNS: [Column; 11] = [
    ("id", Kind::Text),
    ("rc_account_id", Kind::Word),
    ("sub_account_id", Kind::Word),
    ("dialog_id", Kind::Word),
    ("segment_id", Kind::Word),
    ("segment_end", Kind::Time),
    ("artifact", Kind::Word),
    ("version", Kind::Number),
    ("stored_at", Kind::Time),
    ("metadata", Kind::Text),
    ("body", Kind::Text),
];

/// The file. Compressing keeps a processor busy: it is done where that holds up nobody.
///
/// # Errors
/// None is expected: it is made in memory.
pub(super) async fn parquet(events: &[Event]) -> Result<Vec<Bytes>, SinkError> {
    let rows: Vec<_> = events.iter().map(row).collect();
    let made = tokio::task::spawn_blocking(move || written(rows)).await.map_err(io::Error::other);
    match made.and_then(|made| made) {
        Ok(file) => Ok(vec![Bytes::from(file)]),
        Err(error) => Err(failure::away(format!("failed to make a Parquet file: {error}"), None)),
    }
}

fn written(rows: Vec<[Cell; 11]>) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut table = Table::new(&mut file, "event", &COLUMNS)?;
    for row in rows {
        table.push(row)?;
    }
    table.finish()?;
    Ok(file)
}

fn row(event: &Event) -> [Cell; 11] {
    let body = match event.artifact {
        Artifact::Transcript => json_line(&event.body).get().to_owned(),
        Artifact::AgentSummary | Artifact::AutoSummary => printable(&summary_text(&event.body)),
    };
    [
        Cell::Text(event.id().to_string()),
        Cell::Text(event.account.rc.to_string()),
        Cell::Text(event.account.sub.to_string()),
        Cell::text(event.dialog_id.clone()),
        Cell::Text(event.segment_id.clone()),
        Cell::number(event.ended.map(|ended| ended.0)),
        Cell::Text(event.artifact.name().to_owned()),
        Cell::Number(event.version),
        Cell::Number(event.stored.0),
        Cell::Text(json_line(event.metadata.as_bytes()).get().to_owned()),
        Cell::Text(body),
    ]
}
