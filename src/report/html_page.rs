//! Renders the report as one HTML page that loads nothing. Pure. `maud` escapes all text.

use maud::{DOCTYPE, html};

use super::{DAY_COLUMNS, ReconciliationReport};
use crate::render::clean_line;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2733}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #d8dee6}th:first-child,td:first-child{text-align:left}
tr:last-child td{font-weight:600}.bad{color:#b3261e;font-weight:600}.good{color:#1b7f3b}dt{font-weight:600}dd{margin:0 0 .4rem}";

/// Renders the report.
pub(super) fn render(report: &ReconciliationReport) -> String {
    let class = |good: bool| if good { "good" } else { "bad" };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Reconciliation report" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                h1 { "Reconciliation report" }
                p class=(class(report.complete)) { (report.verdict) }
                dl {
                    dt { "Scope" } dd { (report.describe_range()) ", as of " (report.now) }
                    dt { "Verified" } dd class=(class(report.verified.intact != Some(false))) { (report.verified.verdict) }
                }
                @for account in &report.accounts {
                    h2 { (account.title()) }
                    @if let Some(watermark) = &account.watermark { p { "Watermark: " (watermark) } }
                    p { "Late: " (account.describe_late()) }
                    @for problem in &account.problems { p class="bad" { (clean_line(&problem.what)) } }
                    table {
                        thead { tr { @for name in DAY_COLUMNS { th { (name) } } } }
                        tbody {
                            @for row in account.rows() {
                                tr { @for cell in &row { td class=[(cell == "NO").then_some("bad")] { (cell) } } }
                            }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}
