//! Builds a Parquet file of a table in memory, for sinks that keep tables in an object store.

use std::sync::Arc;

use super::table::{RowSource, Table};
use super::{ExportFormat, SegmentEntry};
use crate::parquet_writer::ParquetWriter;

/// A file of a table, with the columns that `export` writes.
pub(crate) struct TableFile {
    source: RowSource,
    writer: ParquetWriter<Vec<u8>>,
    rows: u64,
}

impl TableFile {
    /// Starts a file.
    ///
    /// # Errors
    /// None is expected: the file is built in memory.
    pub(crate) fn new(table: Table) -> anyhow::Result<TableFile> {
        let source = RowSource::new(table, ExportFormat::Parquet);
        let writer = ParquetWriter::new(Vec::new(), table.noun(), &source.specs())?;
        Ok(TableFile { source, writer, rows: 0 })
    }

    /// Adds the rows of a segment.
    ///
    /// # Errors
    /// As [`TableFile::new`].
    pub(crate) fn push(&mut self, entry: SegmentEntry, account_name: Option<&Arc<str>>) -> anyhow::Result<()> {
        let writer = &mut self.writer;
        self.rows += self.source.for_each_row(vec![entry], account_name, &mut |row| Ok(writer.push(row)?))?;
        Ok(())
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
    /// As [`TableFile::new`].
    pub(crate) fn finish(self) -> anyhow::Result<Vec<u8>> {
        Ok(self.writer.into_inner()?)
    }
}

/// The names of a table's columns, and their types in a DuckLake catalog.
pub(crate) fn table_columns(table: Table) -> Vec<(&'static str, &'static str)> {
    let specs = RowSource::new(table, ExportFormat::Parquet).specs();
    specs.into_iter().map(|(name, kind)| (name, kind.ducklake_name())).collect()
}
