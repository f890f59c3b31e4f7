//! The tables of an export, and what a column is. Pure.
//!
//! Each table is a list of columns with name, type, meaning and the function that computes a cell.
//! The page `docs/tables.md` is compared with these lists by a test.

use std::sync::Arc;

use super::dialog_columns::{DIALOG_COLUMNS, DialogCell};
use super::facts::{DialogFacts, SegmentFacts};
use super::phrase_columns::{PHRASE_COLUMNS, PhraseCell, PhraseRow};
use super::segment_columns::{CSV_SEGMENT_COLUMNS, SEGMENT_COLUMNS, SegmentCell};
use super::{ExportFormat, SegmentEntry};
use crate::clock::Time;
use crate::db::{DeletionReason, ErasedSegment};
use crate::parquet_writer::{CellValue, ColumnSpec, ParquetType};
use crate::render::clean_cell;

/// What one row of an export is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Table {
    /// A segment, with its transcript and summaries
    #[default]
    Segments,
    /// A phrase of a transcript
    Phrases,
    /// A dialog, merged over its segments
    Dialogs,
}

impl Table {
    /// What a row is called.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Table::Segments => "segment",
            Table::Phrases => "phrase",
            Table::Dialogs => "dialog",
        }
    }
}

/// A column; `F` is the function that computes its cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column<F> {
    pub(super) name: &'static str,
    pub(super) kind: ParquetType,
    /// Its meaning, for the documentation.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares the documentation with it"))]
    pub(super) about: &'static str,
    pub(super) cell: F,
}

/// The columns that tell of an erasure, in each table. In other rows they are empty.
pub(super) const ERASED_AT: (&str, ParquetType, &str) = (
    "erased_at",
    ParquetType::Time,
    "with `--changed-since`: when the segment was erased; all other cells but ids are empty then",
);
pub(super) const ERASED_REASON: (&str, ParquetType, &str) =
    ("erased_reason", ParquetType::Word, "`erasure` or `retention`");

/// The rows of a table, with the columns that a format shows.
pub(super) enum RowSource {
    Segments(Vec<Column<SegmentCell>>),
    Phrases(Vec<Column<PhraseCell>>),
    Dialogs(Vec<Column<DialogCell>>),
}

impl RowSource {
    pub(super) fn new(table: Table, format: ExportFormat) -> RowSource {
        match (table, format) {
            (Table::Segments, ExportFormat::Csv | ExportFormat::CsvForExcel) => {
                let find = |&(name, of): &(&'static str, &'static str)| {
                    let column = SEGMENT_COLUMNS.iter().find(|column| column.name == of)?;
                    Some(Column { name, ..*column })
                };
                RowSource::Segments(CSV_SEGMENT_COLUMNS.iter().filter_map(find).collect())
            }
            (Table::Segments, _) => RowSource::Segments(SEGMENT_COLUMNS.to_vec()),
            (Table::Phrases, _) => RowSource::Phrases(PHRASE_COLUMNS.to_vec()),
            (Table::Dialogs, _) => RowSource::Dialogs(DIALOG_COLUMNS.to_vec()),
        }
    }

    /// Name and type of each column.
    pub(super) fn specs(&self) -> Vec<ColumnSpec> {
        fn of<F>(columns: &[Column<F>]) -> Vec<ColumnSpec> {
            columns.iter().map(|column| (column.name, column.kind)).collect()
        }
        match self {
            RowSource::Segments(columns) => of(columns),
            RowSource::Phrases(columns) => of(columns),
            RowSource::Dialogs(columns) => of(columns),
        }
    }

    /// Computes the rows of a segment, or of a dialog's segments; returns their number.
    pub(super) fn for_each_row(
        &self,
        entries: Vec<SegmentEntry>,
        account_name: Option<&Arc<str>>,
        each: &mut dyn FnMut(Vec<CellValue>) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let facts: Vec<SegmentFacts> =
            entries.into_iter().map(|entry| SegmentFacts::new(entry, account_name.cloned())).collect();
        let mut rows = 0;
        match self {
            RowSource::Segments(columns) => {
                for segment in &facts {
                    each(columns.iter().map(|column| (column.cell)(segment)).collect())?;
                    rows += 1;
                }
            }
            RowSource::Phrases(columns) => {
                for segment in &facts {
                    for row in PhraseRow::of_segment(segment) {
                        each(columns.iter().map(|column| (column.cell)(&row)).collect())?;
                        rows += 1;
                    }
                }
            }
            RowSource::Dialogs(columns) => {
                if let Some(dialog) = DialogFacts::new(facts) {
                    each(columns.iter().map(|column| (column.cell)(&dialog)).collect())?;
                    rows += 1;
                }
            }
        }
        Ok(rows)
    }
}

/// The row of an erased segment: its ids, when and why.
pub(super) fn erased_row(specs: &[ColumnSpec], erased: &ErasedSegment, account_name: Option<&str>) -> Vec<CellValue> {
    let cell = |(name, _): &ColumnSpec| match *name {
        "rc_account_id" => CellValue::Text(erased.account.rc.to_string()),
        "sub_account_id" => CellValue::Text(erased.account.sub.to_string()),
        "account_name" => CellValue::text(account_name),
        "dialog_id" => CellValue::text(erased.dialog_id.clone()),
        "segment_id" => CellValue::Text(erased.segment_id.clone()),
        "segment_ids" => CellValue::List(vec![erased.segment_id.clone()]),
        name if name == ERASED_AT.0 => CellValue::Number(erased.at.0),
        name if name == ERASED_REASON.0 => CellValue::Text(erased_reason(erased.reason).to_owned()),
        _ => CellValue::Empty,
    };
    specs.iter().map(cell).collect()
}

/// The name of the reason, as sinks have it too.
pub(super) const fn erased_reason(reason: DeletionReason) -> &'static str {
    match reason {
        DeletionReason::Erased => "erasure",
        DeletionReason::Expired => "retention",
    }
}

/// A text cell without control characters, which databases refuse.
pub(super) fn text_cell(text: Option<impl AsRef<str>>) -> CellValue {
    CellValue::text(text.map(|text| clean_cell(text.as_ref())))
}

pub(super) fn time_cell(time: Option<Time>) -> CellValue {
    CellValue::number(time.map(|time| time.0))
}

/// A count or a duration.
pub(super) fn count_cell(count: Option<u64>) -> CellValue {
    CellValue::number(count.map(|count| i64::try_from(count).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<F>(columns: &[Column<F>]) -> String {
        let kind = |kind: ParquetType| match kind {
            ParquetType::Word => "string, dictionary",
            ParquetType::Text => "string",
            ParquetType::Time => "timestamp, UTC, ms",
            ParquetType::Number => "int64",
            ParquetType::Flag => "bool",
            ParquetType::WordList => "list of strings",
        };
        let line = |column: &Column<F>| format!("| `{}` | {} | {} |\n", column.name, kind(column.kind), column.about);
        format!("| column | type | content |\n| --- | --- | --- |\n{}", columns.iter().map(line).collect::<String>())
    }

    /// `UPDATE_REFERENCE=1 cargo test --lib export::table` writes the page.
    #[test]
    fn the_page_of_the_tables_lists_every_column() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tables.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let csv: Vec<String> = CSV_SEGMENT_COLUMNS.iter().map(|(name, _)| format!("`{name}`")).collect();
        let mut expected = page.clone();
        for (name, table) in [
            ("segments", lines(SEGMENT_COLUMNS)),
            ("phrases", lines(PHRASE_COLUMNS)),
            ("dialogs", lines(DIALOG_COLUMNS)),
            ("csv", format!("{}.\n", csv.join(", "))),
        ] {
            let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
            let (before, rest) = expected.split_once(&begin).unwrap();
            let (_, after) = rest.split_once(&end).unwrap();
            expected = format!("{before}{begin}\n{table}\n{end}{after}");
        }
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        } else {
            assert_eq!(page, expected, "docs/tables.md is out of date: see the comment of this test");
        }
    }

    #[test]
    fn each_csv_column_is_a_column_of_the_table() {
        let specs = RowSource::new(Table::Segments, ExportFormat::Csv).specs();
        assert_eq!(specs.len(), CSV_SEGMENT_COLUMNS.len());
    }
}
