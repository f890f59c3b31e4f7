//! Quotes cells as in RFC 4180, and makes them safe for a spreadsheet if that is wanted. Pure.

use ::csv::{Terminator, WriterBuilder};

use crate::render::clean_cell;

/// The number of UTF-16 units that an Excel cell can hold.
const MAX_EXCEL_CELL_UTF16_UNITS: usize = 32_767;
/// The end of a cell that was cut for Excel.
const CUT_MARKER: &str = " [cut]";

/// Appends the header row; for Excel after a byte order mark, by which it recognizes UTF-8.
pub(super) fn write_header<'a>(
    names: impl Iterator<Item = &'a str>,
    for_excel: bool,
    out: &mut Vec<u8>,
) -> anyhow::Result<()> {
    if for_excel {
        out.extend_from_slice("\u{feff}".as_bytes());
    }
    write_record(names.map(str::to_owned), out)
}

/// Appends a row, without control characters.
pub(super) fn write_row(cells: impl Iterator<Item = String>, for_excel: bool, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let safe = if for_excel { excel_cell } else { clean_cell };
    write_record(cells.map(|cell| safe(&cell)), out)
}

/// Formats a cell that Excel treats as text and displays whole, or with a marker if it was cut.
fn excel_cell(cell: &str) -> String {
    let text = clean_cell(cell);
    let is_formula = |text: &str| text.trim_start().starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    let prefix = if is_formula(&text) || cell.starts_with(['\t', '\r']) { "'" } else { "" };
    let limit = MAX_EXCEL_CELL_UTF16_UNITS - prefix.len();
    if text.len() <= limit || text.encode_utf16().count() <= limit {
        return format!("{prefix}{text}");
    }
    let mut left = limit - CUT_MARKER.len();
    let kept: String = text
        .chars()
        .take_while(|letter| {
            let fits = letter.len_utf16() <= left;
            left = left.saturating_sub(letter.len_utf16());
            fits
        })
        .collect();
    format!("{prefix}{kept}{CUT_MARKER}")
}

fn write_record(cells: impl Iterator<Item = String>, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
    writer.write_record(cells.map(String::into_bytes))?;
    writer.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_for_excel_is_text_that_fits() {
        for (text, cell) in [
            ("=1+1", "'=1+1"),
            ("+49 30", "'+49 30"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'=1"),
            ("\rx", "'x"),
            (" \n=1", "' \n=1"),
            ("\0=1", "'=1"),
            ("＝1", "'＝1"),
            ("1=1", "1=1"),
            ("", ""),
            ("a\0\u{1b}[2Jb", "ab"),
        ] {
            assert_eq!(excel_cell(text), cell, "{text:?}");
        }
        let units = |text: &str| text.encode_utf16().count();
        let most = "x".repeat(MAX_EXCEL_CELL_UTF16_UNITS);
        assert_eq!(excel_cell(&most), most);
        assert_eq!(
            excel_cell(&format!("{most}y")),
            format!("{}{CUT_MARKER}", "x".repeat(MAX_EXCEL_CELL_UTF16_UNITS - CUT_MARKER.len()))
        );
        for text in ["é".repeat(40_000), "😀".repeat(20_000), format!("={}", "😀".repeat(20_000))] {
            let cell = excel_cell(&text);
            assert!(
                cell.ends_with(CUT_MARKER)
                    && (MAX_EXCEL_CELL_UTF16_UNITS - 1..=MAX_EXCEL_CELL_UTF16_UNITS).contains(&units(&cell))
            );
        }
        let fits = "é".repeat(MAX_EXCEL_CELL_UTF16_UNITS);
        assert_eq!(excel_cell(&fits), fits);
    }
}
