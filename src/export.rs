//! The archive written out, in order of end time, page by page: memory does not grow with it, and no transaction stays
//! open meanwhile.
//!
//! Reads `db`, writes bytes to whoever asked. What is discovered or fetched while an export runs is in it or not, but each
//! segment is in it once and whole.

mod csv;
mod jsonl;
mod target;
mod text;

#[cfg(test)]
mod tests;

use std::io::Write;

use anyhow::Context as _;

use crate::clock::Time;
use crate::db::{Db, DbError, ExportRange, Mark, SegmentRow, SegmentSlot, SlotOutcome};
use crate::reading::Conversation;
use crate::ringcx::summary_text;

pub use jsonl::{Line, Part};
pub use target::Target;

/// Segments whose metadata is held at a time.
const PAGE: usize = 500;
/// Segments whose bodies are held at a time; transcripts may be large.
const BODIES: usize = 50;

/// How the archive is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A JSON object a line, with everything as the API sent it
    Jsonl,
    /// A row a segment, transcripts as plain text
    Csv,
    /// To read
    Text,
}

/// What to write.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Which segments.
    pub range: ExportRange,
    /// Only what has changed since.
    pub since: Option<Mark>,
}

/// A segment and how each of its artifacts stands, in the order of [`crate::model::Artifact::ALL`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// The segment.
    pub segment: SegmentRow,
    /// Its artifacts.
    pub slots: [SegmentSlot; 3],
}

/// Writes what is selected; returns how many segments there were. `progress` is told of each page.
///
/// # Errors
/// Where the database cannot be read or `out` not be written.
pub async fn write(
    db: &Db,
    selection: &Selection,
    format: Format,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> anyhow::Result<u64> {
    let mut last: Option<SegmentRow> = None;
    let mut count = 0;
    let mut buffer = Vec::new();
    if format == Format::Csv {
        csv::header(&mut buffer)?;
    }
    loop {
        let page = page(db, selection, last.as_ref()).await.context("failed to read the archive")?;
        let Some(end) = page.last().cloned() else { break };
        for part in page.chunks(BODIES) {
            let slots = db.slots(part).await.context("failed to read the archive")?;
            for (segment, slots) in part.iter().zip(slots) {
                render(&Entry { segment: segment.clone(), slots }, format, &mut buffer)?;
                out.write_all(&buffer).context("failed to write the export")?;
                buffer.clear();
            }
        }
        count += page.len() as u64;
        progress(page.len() as u64);
        last = Some(end);
    }
    out.write_all(&buffer).and_then(|()| out.flush()).context("failed to write the export")?;
    Ok(count)
}

async fn page(db: &Db, selection: &Selection, last: Option<&SegmentRow>) -> Result<Vec<SegmentRow>, DbError> {
    match &selection.since {
        Some(mark) => db.segments_changed_after(selection.range, mark, last, PAGE).await,
        None => db.segments_after(selection.range, last, PAGE).await,
    }
}

fn render(entry: &Entry, format: Format, out: &mut Vec<u8>) -> anyhow::Result<()> {
    match format {
        Format::Jsonl => {
            serde_json::to_writer(&mut *out, &Line::of(entry))?;
            out.push(b'\n');
        }
        Format::Csv => csv::row(entry, out)?,
        Format::Text => text::page(entry, out),
    }
    Ok(())
}

/// The outcome's name in exports.
pub fn outcome_name(outcome: &SlotOutcome) -> &'static str {
    match outcome {
        SlotOutcome::Stored(_) => "stored",
        SlotOutcome::NotPopulated => "not_populated",
        SlotOutcome::Pending => "pending",
        SlotOutcome::Unavailable => "unavailable",
        SlotOutcome::Failed => "failed",
        SlotOutcome::Discarded => "discarded",
        SlotOutcome::NotRequested => "not_requested",
    }
}

/// A summary's text, whatever its bytes; `None` where there is none.
pub fn summary_of(slot: &SegmentSlot) -> Option<String> {
    match &slot.outcome {
        SlotOutcome::Stored(body) => {
            Some(summary_text(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()))
        }
        _ => None,
    }
}

/// A transcript's conversation; `None` where there is none.
pub fn conversation_of(slot: &SegmentSlot) -> Option<Conversation> {
    match &slot.outcome {
        SlotOutcome::Stored(body) => Conversation::parse(body),
        _ => None,
    }
}

fn rfc3339(time: Option<Time>) -> Option<String> {
    time.map(Time::rfc3339)
}
