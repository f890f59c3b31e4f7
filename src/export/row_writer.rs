//! Writes rows of cells as Parquet, CSV or JSON lines.

use std::io::Write;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::csv_export;
use crate::clock::Time;
use crate::parquet_writer::{CellValue, ColumnSpec, ParquetType, ParquetWriter};
use crate::render::escape_line_separators;

/// Writes rows whose cells are in the order of the columns.
pub(super) trait RowWriter: Send {
    fn push(&mut self, row: Vec<CellValue>) -> anyhow::Result<()>;

    /// Writes everything that is still buffered.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Rows of a Parquet file.
pub(super) struct ParquetRows<'o>(pub(super) ParquetWriter<&'o mut (dyn Write + Send)>);

impl RowWriter for ParquetRows<'_> {
    fn push(&mut self, row: Vec<CellValue>) -> anyhow::Result<()> {
        Ok(self.0.push(row)?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.0.finish()?)
    }
}

/// Rows of a CSV file, below a header.
pub(super) struct CsvRows<'o> {
    out: &'o mut (dyn Write + Send),
    columns: Vec<ColumnSpec>,
    for_excel: bool,
    buffer: Vec<u8>,
}

impl<'o> CsvRows<'o> {
    /// Writes the header.
    pub(super) fn new(
        out: &'o mut (dyn Write + Send),
        columns: Vec<ColumnSpec>,
        for_excel: bool,
    ) -> anyhow::Result<CsvRows<'o>> {
        let mut buffer = Vec::new();
        csv_export::write_header(columns.iter().map(|(name, _)| *name), for_excel, &mut buffer)?;
        out.write_all(&buffer)?;
        Ok(CsvRows { out, columns, for_excel, buffer })
    }
}

impl RowWriter for CsvRows<'_> {
    fn push(&mut self, row: Vec<CellValue>) -> anyhow::Result<()> {
        self.buffer.clear();
        let cells = self.columns.iter().zip(&row).map(|((_, kind), cell)| cell_text(*kind, cell));
        csv_export::write_row(cells, self.for_excel, &mut self.buffer)?;
        Ok(self.out.write_all(&self.buffer)?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

/// The text of a cell in CSV: times in RFC 3339, lists as JSON.
fn cell_text(kind: ParquetType, cell: &CellValue) -> String {
    match cell {
        CellValue::Text(text) => text.clone(),
        CellValue::Number(number) if kind == ParquetType::Time => Time(*number).rfc3339(),
        CellValue::Number(number) => number.to_string(),
        CellValue::Flag(flag) => flag.to_string(),
        CellValue::List(list) => serde_json::Value::from(list.as_slice()).to_string(),
        CellValue::Empty => String::new(),
    }
}

/// Rows as objects of JSON lines, with the columns as keys.
pub(super) struct JsonRows<'o> {
    out: &'o mut (dyn Write + Send),
    columns: Vec<ColumnSpec>,
    buffer: Vec<u8>,
}

impl<'o> JsonRows<'o> {
    pub(super) fn new(out: &'o mut (dyn Write + Send), columns: Vec<ColumnSpec>) -> JsonRows<'o> {
        JsonRows { out, columns, buffer: Vec::new() }
    }
}

impl RowWriter for JsonRows<'_> {
    fn push(&mut self, row: Vec<CellValue>) -> anyhow::Result<()> {
        self.buffer.clear();
        let mut serializer = serde_json::Serializer::new(&mut self.buffer);
        let mut object = serializer.serialize_map(Some(row.len()))?;
        for ((name, kind), cell) in self.columns.iter().zip(&row) {
            object.serialize_entry(name, &JsonCell(*kind, cell))?;
        }
        object.end()?;
        escape_line_separators(&mut self.buffer, 0);
        self.buffer.push(b'\n');
        Ok(self.out.write_all(&self.buffer)?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

/// A cell in JSON: times in RFC 3339, a missing value as null.
struct JsonCell<'a>(ParquetType, &'a CellValue);

impl Serialize for JsonCell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            CellValue::Text(text) => serializer.serialize_str(text),
            CellValue::Number(number) if self.0 == ParquetType::Time => serializer.collect_str(&Time(*number)),
            CellValue::Number(number) => serializer.serialize_i64(*number),
            CellValue::Flag(flag) => serializer.serialize_bool(*flag),
            CellValue::List(list) => list.serialize(serializer),
            CellValue::Empty => serializer.serialize_none(),
        }
    }
}
