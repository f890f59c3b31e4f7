//! Exports the archive in order of end time, page by page: memory does not grow with the archive,
//! and no transaction stays open.
//!
//! Reads `db` and writes bytes to the caller's output. The export may or may not include segments
//! that are discovered or fetched while it runs, but it contains each segment once and complete.

mod csv_export;
mod jsonl_export;
mod parquet_export;
mod target;
mod text_export;

#[cfg(test)]
mod tests;

use std::io::Write;

use anyhow::Context as _;

use crate::clock::Time;
use crate::db::{ArtifactStatus, Db, DbError, ExportCursor, ExportRange, SegmentArtifact, SegmentRow};
use crate::model::Artifact;
use crate::redact::Redactor;
use crate::render::{Conversation, Metadata};
use crate::ringcx::summary_text;

pub(crate) use jsonl_export::artifact_payload;
pub use jsonl_export::{ArtifactPayload, ExportLine};
pub use target::Target;

/// The number of segments per page, whose metadata is held in memory together.
const SEGMENTS_PER_PAGE: usize = 500;
/// The number of segments whose bodies are held in memory together; transcripts may be large.
const SEGMENTS_PER_BODY_BATCH: usize = 50;

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// One JSON object per line, with everything as the API sent it
    Jsonl,
    /// One row per segment, with transcripts as plain text
    Csv,
    /// CSV for spreadsheets: `--excel`
    #[value(skip)]
    CsvForExcel,
    /// One row per segment, in typed columns
    Parquet,
    /// Plain text for reading
    Text,
}

impl ExportFormat {
    /// Whether the format is binary and already compressed.
    pub(crate) const fn is_precompressed(self) -> bool {
        matches!(self, ExportFormat::Parquet)
    }
}

/// The content of an export.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The range of segments.
    pub range: ExportRange,
    /// Only segments that changed since this export cursor.
    pub since: Option<ExportCursor>,
    /// The redaction rules.
    pub redactor: Redactor,
}

/// A segment and its artifacts, in the order of [`crate::model::Artifact::ALL`].
#[derive(Debug, Clone)]
pub(crate) struct SegmentEntry {
    /// The segment.
    pub(crate) segment: SegmentRow,
    /// Its artifacts.
    pub(crate) slots: [SegmentArtifact; 3],
}

impl SegmentEntry {
    /// Redacts the metadata and the texts.
    #[must_use]
    pub(crate) fn redact(mut self, redactor: &Redactor) -> SegmentEntry {
        if redactor.is_noop() {
            return self;
        }
        self.segment.metadata = redactor.metadata(&self.segment.metadata).into_owned();
        for (artifact, slot) in Artifact::ALL.into_iter().zip(&mut self.slots) {
            if let ArtifactStatus::Stored(body) = &mut slot.status {
                *body = match artifact {
                    Artifact::Transcript => redactor.transcript(body).into_owned(),
                    Artifact::AgentSummary | Artifact::AutoSummary => redactor.summary(body).into_owned(),
                };
            }
        }
        self
    }
}

/// Writes segments in one format.
trait SegmentWriter: Send {
    /// Writes a segment, at once or later together with others.
    fn push(&mut self, entry: &SegmentEntry) -> anyhow::Result<()>;

    /// Writes everything that is still buffered.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Writes segments one after the other in a text format.
struct TextWriter<'o> {
    out: &'o mut (dyn Write + Send),
    render: fn(&SegmentEntry, &mut Vec<u8>) -> anyhow::Result<()>,
    buffer: Vec<u8>,
}

impl SegmentWriter for TextWriter<'_> {
    fn push(&mut self, entry: &SegmentEntry) -> anyhow::Result<()> {
        self.buffer.clear();
        (self.render)(entry, &mut self.buffer)?;
        Ok(self.out.write_all(&self.buffer)?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

fn segment_writer<'o>(
    format: ExportFormat,
    out: &'o mut (dyn Write + Send),
) -> anyhow::Result<Box<dyn SegmentWriter + 'o>> {
    let render = match format {
        ExportFormat::Jsonl => jsonl_export::write_line,
        ExportFormat::Csv | ExportFormat::CsvForExcel => {
            let mut header = Vec::new();
            csv_export::write_header(format == ExportFormat::CsvForExcel, &mut header)?;
            out.write_all(&header)?;
            if format == ExportFormat::CsvForExcel { csv_export::write_excel_row } else { csv_export::write_row }
        }
        ExportFormat::Parquet => return Ok(Box::new(parquet_export::ParquetSegmentWriter::new(out)?)),
        ExportFormat::Text => text_export::write_segment,
    };
    Ok(Box::new(TextWriter { out, render, buffer: Vec::new() }))
}

/// Writes the selected segments; returns their number. `progress` receives the number of segments
/// of each page.
///
/// # Errors
/// Returns an error if the database cannot be read or `out` cannot be written.
pub async fn write_export(
    db: &Db,
    selection: &Selection,
    format: ExportFormat,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> anyhow::Result<u64> {
    const FAILED: &str = "failed to write the export";
    let mut writer = segment_writer(format, out).context(FAILED)?;
    let mut last: Option<SegmentRow> = None;
    let mut count = 0;
    loop {
        let page = read_page(db, selection, last.as_ref()).await.context("failed to read the archive")?;
        let Some(end) = page.last().cloned() else { break };
        for part in page.chunks(SEGMENTS_PER_BODY_BATCH) {
            let slots = db.segment_artifacts(part).await.context("failed to read the archive")?;
            for (segment, slots) in part.iter().zip(slots) {
                let entry = SegmentEntry { segment: segment.clone(), slots }.redact(&selection.redactor);
                writer.push(&entry).context(FAILED)?;
            }
        }
        count += page.len() as u64;
        progress(page.len() as u64);
        last = Some(end);
    }
    writer.finish().context(FAILED)?;
    Ok(count)
}

async fn read_page(db: &Db, selection: &Selection, last: Option<&SegmentRow>) -> Result<Vec<SegmentRow>, DbError> {
    match &selection.since {
        Some(mark) => db.segments_changed_after(selection.range, mark, last, SEGMENTS_PER_PAGE).await,
        None => db.segments_after(selection.range, last, SEGMENTS_PER_PAGE).await,
    }
}

/// The name of the outcome in exports.
pub(crate) fn outcome_name(outcome: &ArtifactStatus) -> &'static str {
    match outcome {
        ArtifactStatus::Stored(_) => "stored",
        ArtifactStatus::NotPopulated => "not_populated",
        ArtifactStatus::Pending => "pending",
        ArtifactStatus::Unavailable => "unavailable",
        ArtifactStatus::Failed => "failed",
        ArtifactStatus::Discarded => "discarded",
        ArtifactStatus::NotRequested => "not_requested",
    }
}

/// The text of a summary; `None` if none is stored.
pub(crate) fn summary_text_of(slot: &SegmentArtifact) -> Option<String> {
    match &slot.status {
        ArtifactStatus::Stored(body) => Some(summary_text(body)),
        _ => None,
    }
}

/// The conversation of a transcript, read with the segment's metadata; `None` if none is stored.
pub(crate) fn conversation_of(slot: &SegmentArtifact, metadata: &Metadata) -> Option<Conversation> {
    match &slot.status {
        ArtifactStatus::Stored(body) => Conversation::read(body, metadata),
        _ => None,
    }
}

fn format_time(time: Option<Time>) -> Option<String> {
    time.map(Time::rfc3339)
}
