//! A segment as a row, quoted as RFC 4180 says; on request such that a spreadsheet shows each cell as it is.

use std::borrow::Cow;

use ::csv::{Terminator, WriterBuilder};

use super::{Entry, conversation_of, outcome_name, rfc3339, summary_of};
use crate::reading::{Metadata, printable};

const COLUMNS: [&str; 19] = [
    "rc_account_id",
    "sub_account_id",
    "dialog_id",
    "segment_id",
    "segment_end",
    "channel_class",
    "channel_type",
    "segment_type",
    "segment_start",
    "agent_disposition",
    "transcript_outcome",
    "transcript_fetched_at",
    "transcript",
    "agent_summary_outcome",
    "agent_summary_fetched_at",
    "agent_summary",
    "auto_summary_outcome",
    "auto_summary_fetched_at",
    "auto_summary",
];

/// UTF-16 units that Excel shows of a cell.
const EXCEL_CELL_UNITS: usize = 32_767;
/// Stands at the end of a cell that was cut for Excel.
const CUT: &str = " [cut]";

/// Appends the names of the columns; for Excel behind the mark by which it knows UTF-8.
pub(super) fn header(excel: bool, out: &mut Vec<u8>) -> anyhow::Result<()> {
    if excel {
        out.extend_from_slice("\u{feff}".as_bytes());
    }
    record(COLUMNS.iter().map(|name| (*name).to_owned()), out)
}

/// Appends a segment's row.
pub(super) fn row(entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    record(cells(entry).map(|cell| printable(&cell)), out)
}

/// The same for Excel.
pub(super) fn excel_row(entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
    record(cells(entry).map(|cell| excel_cell(&cell)), out)
}

/// A cell that Excel takes for text and shows whole, or with a mark where it was cut.
fn excel_cell(cell: &str) -> String {
    let text = printable(cell);
    let is_formula = |text: &str| text.trim_start().starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    let prefix = if is_formula(&text) || cell.starts_with(['\t', '\r']) { "'" } else { "" };
    let limit = EXCEL_CELL_UNITS - prefix.len();
    if text.len() <= limit || text.encode_utf16().count() <= limit {
        return format!("{prefix}{text}");
    }
    let mut left = limit - CUT.len();
    let kept: String = text
        .chars()
        .take_while(|letter| {
            let fits = letter.len_utf16() <= left;
            left = left.saturating_sub(letter.len_utf16());
            fits
        })
        .collect();
    format!("{prefix}{kept}{CUT}")
}

fn cells(entry: &Entry) -> impl Iterator<Item = Cow<'static, str>> {
    let Entry { segment, slots: [transcript, agent, auto] } = entry;
    let metadata = Metadata::read(&segment.metadata);
    let field = |name: &str| metadata.field(name);
    let cells = [
        Some(segment.account.rc.to_string()),
        Some(segment.account.sub.to_string()),
        segment.dialog_id.clone(),
        Some(segment.segment_id.clone()),
        rfc3339(segment.ended),
        field("channelClass"),
        field("channelType"),
        field("segmentType"),
        rfc3339(metadata.time("segmentStartTimeMs")),
        field("agentDisposition"),
        Some(outcome_name(&transcript.outcome).to_owned()),
        rfc3339(transcript.fetched),
        conversation_of(transcript, &metadata).map(|conversation| conversation.plain()),
        Some(outcome_name(&agent.outcome).to_owned()),
        rfc3339(agent.fetched),
        summary_of(agent),
        Some(outcome_name(&auto.outcome).to_owned()),
        rfc3339(auto.fetched),
        summary_of(auto),
    ];
    cells.into_iter().map(|cell| cell.map_or(Cow::Borrowed(""), Cow::Owned))
}

fn record(cells: impl Iterator<Item = String>, out: &mut Vec<u8>) -> anyhow::Result<()> {
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
        let most = "x".repeat(EXCEL_CELL_UNITS);
        assert_eq!(excel_cell(&most), most);
        assert_eq!(excel_cell(&format!("{most}y")), format!("{}{CUT}", "x".repeat(EXCEL_CELL_UNITS - CUT.len())));
        for text in ["é".repeat(40_000), "😀".repeat(20_000), format!("={}", "😀".repeat(20_000))] {
            let cell = excel_cell(&text);
            assert!(cell.ends_with(CUT) && (EXCEL_CELL_UNITS - 1..=EXCEL_CELL_UNITS).contains(&units(&cell)));
        }
        let fits = "é".repeat(EXCEL_CELL_UNITS);
        assert_eq!(excel_cell(&fits), fits);
    }
}
