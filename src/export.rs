//! The archive written out, in order of end time, page by page: memory does not grow with it, and no transaction stays
//! open meanwhile.
//!
//! Reads `db`, writes bytes to whoever asked. What is discovered or fetched while an export runs is in it or not, but each
//! segment is in it once and whole.

mod csv;
mod jsonl;
mod parquet;
mod target;
mod text;

#[cfg(test)]
mod tests;

use std::io::Write;

use anyhow::Context as _;

use crate::clock::Time;
use crate::db::{Db, DbError, ExportRange, Mark, SegmentRow, SegmentSlot, SlotOutcome};
use crate::model::Artifact;
use crate::reading::{Conversation, Metadata};
use crate::redact::Redactor;
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
    /// The same for spreadsheets: `--excel`
    #[value(skip)]
    CsvForExcel,
    /// A row a segment, in typed columns
    Parquet,
    /// To read
    Text,
}

impl Format {
    /// Whether it is for programs only, and compressed already.
    pub const fn is_packed(self) -> bool {
        matches!(self, Format::Parquet)
    }
}

/// What to write.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Which segments.
    pub range: ExportRange,
    /// Only what has changed since.
    pub since: Option<Mark>,
    /// What is taken out of it.
    pub redact: Redactor,
}

/// A segment and how each of its artifacts stands, in the order of [`crate::model::Artifact::ALL`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// The segment.
    pub segment: SegmentRow,
    /// Its artifacts.
    pub slots: [SegmentSlot; 3],
}

impl Entry {
    /// The same without what is to be taken out.
    #[must_use]
    pub fn redacted(mut self, redactor: &Redactor) -> Entry {
        if redactor.is_idle() {
            return self;
        }
        self.segment.metadata = redactor.metadata(&self.segment.metadata).into_owned();
        for (artifact, slot) in Artifact::ALL.into_iter().zip(&mut self.slots) {
            if let SlotOutcome::Stored(body) = &mut slot.outcome {
                *body = match artifact {
                    Artifact::Transcript => redactor.transcript(body).into_owned(),
                    Artifact::AgentSummary | Artifact::AutoSummary => redactor.summary(body).into_owned(),
                };
            }
        }
        self
    }
}

/// One way of writing segments.
trait Rows: Send {
    /// Writes one more, now or together with others.
    fn push(&mut self, entry: &Entry) -> anyhow::Result<()>;

    /// Writes what is left to write.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Segments one after the other, as text of any kind.
struct Passages<'o> {
    out: &'o mut (dyn Write + Send),
    render: fn(&Entry, &mut Vec<u8>) -> anyhow::Result<()>,
    buffer: Vec<u8>,
}

impl Rows for Passages<'_> {
    fn push(&mut self, entry: &Entry) -> anyhow::Result<()> {
        self.buffer.clear();
        (self.render)(entry, &mut self.buffer)?;
        Ok(self.out.write_all(&self.buffer)?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

fn rows<'o>(format: Format, out: &'o mut (dyn Write + Send)) -> anyhow::Result<Box<dyn Rows + 'o>> {
    let render = match format {
        Format::Jsonl => jsonl::line,
        Format::Csv | Format::CsvForExcel => {
            let mut header = Vec::new();
            csv::header(format == Format::CsvForExcel, &mut header)?;
            out.write_all(&header)?;
            if format == Format::CsvForExcel { csv::excel_row } else { csv::row }
        }
        Format::Parquet => return Ok(Box::new(parquet::Segments::new(out)?)),
        Format::Text => text::page,
    };
    Ok(Box::new(Passages { out, render, buffer: Vec::new() }))
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
    const FAILED: &str = "failed to write the export";
    let mut rows = rows(format, out).context(FAILED)?;
    let mut last: Option<SegmentRow> = None;
    let mut count = 0;
    loop {
        let page = page(db, selection, last.as_ref()).await.context("failed to read the archive")?;
        let Some(end) = page.last().cloned() else { break };
        for part in page.chunks(BODIES) {
            let slots = db.slots(part).await.context("failed to read the archive")?;
            for (segment, slots) in part.iter().zip(slots) {
                let entry = Entry { segment: segment.clone(), slots }.redacted(&selection.redact);
                rows.push(&entry).context(FAILED)?;
            }
        }
        count += page.len() as u64;
        progress(page.len() as u64);
        last = Some(end);
    }
    rows.finish().context(FAILED)?;
    Ok(count)
}

async fn page(db: &Db, selection: &Selection, last: Option<&SegmentRow>) -> Result<Vec<SegmentRow>, DbError> {
    match &selection.since {
        Some(mark) => db.segments_changed_after(selection.range, mark, last, PAGE).await,
        None => db.segments_after(selection.range, last, PAGE).await,
    }
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
        SlotOutcome::Stored(body) => Some(summary_text(body)),
        _ => None,
    }
}

/// A transcript's conversation, of a segment with this metadata; `None` where there is none.
pub fn conversation_of(slot: &SegmentSlot, metadata: &Metadata) -> Option<Conversation> {
    match &slot.outcome {
        SlotOutcome::Stored(body) => Conversation::read(body, metadata),
        _ => None,
    }
}

fn rfc3339(time: Option<Time>) -> Option<String> {
    time.map(Time::rfc3339)
}
