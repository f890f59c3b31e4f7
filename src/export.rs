//! Exports the archive in order of end time, page by page: memory does not grow with the archive,
//! and no transaction stays open.
//!
//! Reads `db` and writes bytes to the caller's output. The export may or may not include segments
//! that are discovered or fetched while it runs, but it contains each segment once and complete.

mod csv_export;
mod dialog_columns;
mod facts;
mod jsonl_export;
mod phrase_columns;
mod row_writer;
mod segment_columns;
mod table;
mod table_file;
mod target;
mod text_export;
mod unit_reader;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;

use crate::clock::Time;
use crate::db::{
    AccountKey, ArtifactStatus, Db, ErasedSegment, ExportCursor, ExportRange, SegmentArtifact, SegmentRow,
};
use crate::model::Artifact;
use crate::parquet_writer::{ColumnSpec, ParquetWriter};
use crate::redact::Redactor;
use crate::render::{Conversation, Metadata};
use crate::ringcx::summary_text;
use crate::segment_filter::SegmentFilter;
use row_writer::{CsvRows, JsonRows, ParquetRows, RowWriter};
use table::RowSource;
use unit_reader::{Unit, UnitReader};

pub(crate) use facts::SegmentOverview;
pub(crate) use jsonl_export::artifact_payload;
pub use jsonl_export::{ArtifactPayload, ExportLine};
pub use table::Table;
pub(crate) use table_file::{TableFile, table_columns};
pub use target::Target;

/// The number of segments whose bodies are held in memory together; transcripts may be large. A
/// dialog with more is held whole.
const SEGMENTS_PER_BODY_BATCH: usize = 50;

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// One JSON object per row; a segment with everything as the API sent it
    Jsonl,
    /// CSV, with transcripts as plain text
    Csv,
    /// CSV for spreadsheets: `--excel`
    #[value(skip)]
    CsvForExcel,
    /// Apache Parquet, in typed columns
    Parquet,
    /// Plain text for reading
    Text,
}

impl ExportFormat {
    /// Whether the format is binary and already compressed.
    pub(crate) const fn is_precompressed(self) -> bool {
        matches!(self, ExportFormat::Parquet)
    }

    /// Whether the format can show the table.
    pub(crate) const fn supports(self, table: Table) -> bool {
        !matches!((self, table), (ExportFormat::Text, Table::Phrases))
    }
}

/// The content of an export.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// What a row is.
    pub table: Table,
    /// The range of segments; of dialogs, the range of their end.
    pub range: ExportRange,
    /// Only segments that pass; a dialog if one of its segments does.
    pub filter: SegmentFilter,
    /// Only these segments, by key in the order of the export; `None` for all.
    pub subject: Option<Vec<i64>>,
    /// Only what changed since this export cursor, and what was erased.
    pub since: Option<ExportCursor>,
    /// The redaction rules.
    pub redactor: Redactor,
    /// The names of accounts.
    pub account_names: BTreeMap<AccountKey, Arc<str>>,
}

/// The size of an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportSummary {
    /// The number of rows.
    pub rows: u64,
    /// The number of further rows, which tell of erased segments.
    pub erased: u64,
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
    /// Whether the segment passes the filter.
    pub(crate) fn passes(&self, filter: &SegmentFilter) -> bool {
        let transcript = match &self.slots[0].status {
            ArtifactStatus::Stored(body) => Some(body.as_slice()),
            _ => None,
        };
        filter.is_empty() || filter.matches(&Metadata::parse(&self.segment.metadata), transcript)
    }

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

/// Writes units in one format.
trait UnitWriter: Send {
    /// Writes the segments of a unit, at once or later together with others. Returns the number of
    /// rows.
    fn push(&mut self, entries: Vec<SegmentEntry>, account_name: Option<&Arc<str>>) -> anyhow::Result<u64>;

    /// Writes that a segment was erased.
    fn push_erased(&mut self, erased: &ErasedSegment, account_name: Option<&Arc<str>>) -> anyhow::Result<()>;

    /// Writes everything that is still buffered.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Writes segments one after the other: JSON lines as the API sent them, or text.
struct LineWriter<'o> {
    out: &'o mut (dyn Write + Send),
    is_text: bool,
    with_dialogs: bool,
    buffer: Vec<u8>,
}

impl UnitWriter for LineWriter<'_> {
    fn push(&mut self, entries: Vec<SegmentEntry>, _: Option<&Arc<str>>) -> anyhow::Result<u64> {
        self.buffer.clear();
        if self.with_dialogs {
            text_export::write_dialog_header(&entries, &mut self.buffer);
        }
        for entry in &entries {
            match self.is_text {
                true => text_export::write_segment(entry, &mut self.buffer)?,
                false => jsonl_export::write_line(entry, &mut self.buffer)?,
            }
        }
        self.out.write_all(&self.buffer)?;
        Ok(if self.with_dialogs { 1 } else { entries.len() as u64 })
    }

    fn push_erased(&mut self, erased: &ErasedSegment, _: Option<&Arc<str>>) -> anyhow::Result<()> {
        self.buffer.clear();
        match self.is_text {
            true => text_export::write_erased(erased, &mut self.buffer),
            false => jsonl_export::write_erased(erased, &mut self.buffer)?,
        }
        Ok(self.out.write_all(&self.buffer)?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

/// Writes the rows of a table.
struct TableWriter<'o> {
    source: RowSource,
    specs: Vec<ColumnSpec>,
    rows: Box<dyn RowWriter + 'o>,
}

impl UnitWriter for TableWriter<'_> {
    fn push(&mut self, entries: Vec<SegmentEntry>, account_name: Option<&Arc<str>>) -> anyhow::Result<u64> {
        self.source.for_each_row(entries, account_name, &mut |row| self.rows.push(row))
    }

    fn push_erased(&mut self, erased: &ErasedSegment, account_name: Option<&Arc<str>>) -> anyhow::Result<()> {
        self.rows.push(table::erased_row(&self.specs, erased, account_name.map(|name| &**name)))
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        self.rows.finish()
    }
}

fn unit_writer<'o>(
    table: Table,
    format: ExportFormat,
    out: &'o mut (dyn Write + Send),
) -> anyhow::Result<Box<dyn UnitWriter + 'o>> {
    let is_text = format == ExportFormat::Text;
    if is_text || (format == ExportFormat::Jsonl && table == Table::Segments) {
        return Ok(Box::new(LineWriter { out, is_text, with_dialogs: table == Table::Dialogs, buffer: Vec::new() }));
    }
    let source = RowSource::new(table, format);
    let specs = source.specs();
    let rows: Box<dyn RowWriter + 'o> = match format {
        ExportFormat::Parquet => Box::new(ParquetRows(ParquetWriter::new(out, table.noun(), &specs)?)),
        ExportFormat::Csv => Box::new(CsvRows::new(out, specs.clone(), false)?),
        ExportFormat::CsvForExcel => Box::new(CsvRows::new(out, specs.clone(), true)?),
        ExportFormat::Jsonl | ExportFormat::Text => Box::new(JsonRows::new(out, specs.clone())),
    };
    Ok(Box::new(TableWriter { source, specs, rows }))
}

const WRITE_FAILED: &str = "failed to write the export";
const READ_FAILED: &str = "failed to read the archive";

/// Writes the selection; returns its size. `progress` receives the number of segments of each page
/// that was read.
///
/// # Errors
/// Returns an error if the database cannot be read or `out` cannot be written.
pub async fn write_export(
    db: &Db,
    selection: &Selection,
    format: ExportFormat,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> anyhow::Result<ExportSummary> {
    let mut writer = unit_writer(selection.table, format, out).context(WRITE_FAILED)?;
    let mut reader = UnitReader::new(db, selection);
    let mut summary = ExportSummary::default();
    while let Some(page) = reader.next_page().await.context(READ_FAILED)? {
        summary.rows += write_units(db, selection, page.units, &mut *writer).await?;
        progress(page.examined);
    }
    while let Some(page) = reader.next_erased().await.context(READ_FAILED)? {
        summary.rows += write_units(db, selection, page.changed_dialogs, &mut *writer).await?;
        for erased in &page.erased {
            let account_name = selection.account_names.get(&erased.account_key);
            writer.push_erased(erased, account_name).context(WRITE_FAILED)?;
            summary.erased += 1;
        }
    }
    writer.finish().context(WRITE_FAILED)?;
    Ok(summary)
}

/// Reads the artifacts of the units, a batch at a time, and writes those that pass the filter.
async fn write_units(
    db: &Db,
    selection: &Selection,
    units: Vec<Unit>,
    writer: &mut dyn UnitWriter,
) -> anyhow::Result<u64> {
    let mut rows = 0;
    let mut units = units.into_iter().peekable();
    while units.peek().is_some() {
        let (mut batch, mut sizes) = (Vec::new(), Vec::new());
        while let Some(unit) =
            units.next_if(|unit| batch.is_empty() || batch.len() + unit.len() <= SEGMENTS_PER_BODY_BATCH)
        {
            sizes.push(unit.len());
            batch.extend(unit);
        }
        let slots = db.segment_artifacts(&batch).await.context(READ_FAILED)?;
        let mut entries = batch.into_iter().zip(slots).map(|(segment, slots)| SegmentEntry { segment, slots });
        for size in sizes {
            let unit: Vec<SegmentEntry> = entries.by_ref().take(size).collect();
            if !unit.iter().any(|entry| entry.passes(&selection.filter)) {
                continue;
            }
            let account = unit.first().and_then(|entry| selection.account_names.get(&entry.segment.account_key));
            let unit = unit.into_iter().map(|entry| entry.redact(&selection.redactor)).collect();
            rows += writer.push(unit, account).context(WRITE_FAILED)?;
        }
    }
    Ok(rows)
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
