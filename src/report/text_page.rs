//! Renders the report as text for a terminal or a file. Pure.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{DAY_COLUMNS, ReconciliationReport};
use crate::render::clean_line;

/// Renders the report.
pub(super) fn render(report: &ReconciliationReport) -> String {
    let mut text = format!("{}\n", report.verdict);
    let _ = writeln!(text, "  scope     {}, as of {}", report.describe_range(), report.now);
    let _ = writeln!(text, "  verified  {}", report.verified.verdict);
    for account in &report.accounts {
        let _ = writeln!(text, "\n{}", account.title());
        if let Some(watermark) = &account.watermark {
            let _ = writeln!(text, "  watermark {watermark}");
        }
        let _ = writeln!(text, "  late      {}", account.describe_late());
        for problem in &account.problems {
            let _ = writeln!(text, "  problem   {}", clean_line(&problem.what));
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(DAY_COLUMNS);
        for row in account.rows() {
            let last = row.len() - 1;
            table.add_row(row.into_iter().enumerate().map(|(nth, cell)| {
                let is_number = nth > 0 && nth < last;
                Cell::new(cell).set_alignment(if is_number { CellAlignment::Right } else { CellAlignment::Left })
            }));
        }
        for line in table.to_string().lines() {
            let _ = writeln!(text, "  {}", line.trim_end());
        }
    }
    text
}
