//! The page of completeness. Pure.

use maud::{Markup, html};
use serde_json::Value;

use super::super::elements::path_with;
use super::CompletenessParameters;
use crate::archive_reader::{CompletenessView, HoldView};
use crate::audit::{AccountAudit, AuditReport, UnfinishedItem};
use crate::health::HealthLevel;
use crate::health::humanize::{format_count, format_number};
use crate::http::templates::with_code;
use crate::render::clean_line;
use crate::report::{DAY_COLUMNS, ReconciliationReport};
use crate::verify::LastVerification;

/// Items and records that are named; the audit has all.
const MAX_NAMED: usize = 50;

pub(super) fn render(view: &CompletenessView, parameters: &CompletenessParameters) -> Markup {
    html! {
        @match (&view.report, &view.audit) {
            (Some(report), Some(audit)) => {
                (verdict_section(report, view.verification.as_ref()))
                (range_form(parameters, true))
                @for problem in &audit.problems {
                    section.problem-line {
                        p {
                            span.level.incomplete title="Incomplete" { (HealthLevel::Incomplete.symbol()) } " "
                            "account " (problem.sub_account_id) ": " (clean_line(&problem.what))
                        }
                        p.todo { (with_code(&clean_line(&problem.hint))) }
                    }
                }
                @for account in &report.accounts { (account_section(account, audit)) }
            },
            _ => {
                section {
                    h2 { "Completeness" }
                    p { "An audit counts all channels, and your role shows only some. What was read of each account:" }
                    (coverage_list(view.coverage.as_ref()))
                }
                (range_form(parameters, false))
            }
        }
        @if let Some(holds) = &view.holds { (holds_section(holds)) }
    }
}

fn verdict_section(report: &ReconciliationReport, verification: Option<&LastVerification>) -> Markup {
    let level = if report.complete { HealthLevel::Healthy } else { HealthLevel::Incomplete };
    html! {
        section.verdict.(level.css_class()) {
            h2 {
                span.level.(level.css_class()) title=(level.display_name()) { (level.symbol()) } " "
                (clean_line(report.verdict()))
            }
            p.todo { (report.describe_range()) }
            dl.facts {
                div { dt { "Last verification" } dd {
                    @match verification {
                        Some(last) => {
                            @if last.intact { "intact" } @else { strong { "NOT intact" } }
                            ", at " (last.at) ": " (clean_line(&last.verdict))
                        },
                        None => {
                            "none is recorded: " code { "ringcx-extractor verify" } " reads the whole archive again"
                        }
                    }
                } }
            }
        }
    }
}

fn range_form(parameters: &CompletenessParameters, with_report: bool) -> Markup {
    let pairs = || [("from", parameters.from.as_str()), ("to", &parameters.to), ("account", &parameters.account)];
    html! {
        section {
            form.filters method="get" action="/completeness" {
                label { span { "Ended from: a date, 7d, or all" } input type="text" name="from" value=(parameters.from) placeholder="the last 31 days"; }
                label { span { "to" } input type="text" name="to" value=(parameters.to); }
                label { span { "Account" } input type="text" name="account" value=(parameters.account); }
                button type="submit" { "Show" }
            }
            @if with_report {
                p.downloads {
                    "Report: "
                    @for (label, file) in [("HTML", "report.html"), ("text", "report.txt"), ("JSON", "report.json")] {
                        a href=(path_with(&format!("/completeness/report/{file}"), pairs())) download { (label) } " "
                    }
                }
            }
        }
    }
}

fn account_section(account: &crate::report::AccountReconciliation, audit: &AuditReport) -> Markup {
    let audited = audit.accounts.iter().find(|one| one.sub_account_id == account.sub_account_id);
    html! {
        section.account {
            h2 { (account.title()) }
            dl.facts {
                div { dt { "Read without a gap to" } dd {
                    @match &account.watermark { Some(watermark) => (watermark), None => "nothing was read yet" }
                } }
                div { dt { "Late" } dd { (account.describe_late()) } }
                @if let Some(audited) = audited { (ledger_facts(audited)) }
            }
            @if let Some(audited) = audited { (exceptions(audited)) }
            details open[account.rows().len() <= 32] {
                summary { "By day" }
                table.days {
                    thead { tr { @for name in DAY_COLUMNS { th scope="col" { (name) } } } }
                    tbody {
                        @for row in account.rows().iter().rev() {
                            tr { @for cell in row { td.number.note[cell == "NO"] { (cell) } } }
                        }
                    }
                }
            }
        }
    }
}

fn ledger_facts(audited: &AccountAudit) -> Markup {
    let ledger = &audited.ledger;
    html! {
        div { dt { "Ledger" } dd {
            @if ledger.agrees { "agrees on " (format_count(ledger.days, "day", "days")) }
            @else { strong { "does NOT agree on " (format_count(ledger.differences.len() as u64, "day", "days")) } }
            ": announced " (ledger.announced) ", held " (ledger.held) ", erased or expired " (ledger.gone)
        } }
        div { dt { "Set aside" } dd {
            (format_number(audited.aside.unresolved)) " unresolved, " (format_number(audited.aside.resolved)) " resolved"
        } }
    }
}

/// What is missing, by name and reason.
fn exceptions(audited: &AccountAudit) -> Markup {
    let differences = &audited.ledger.differences;
    let lines = audited.gaps.len() + audited.backfills.len() + differences.len() + audited.items.len();
    html! {
        @if lines + audited.aside.records.len() > 0 {
            h3 { "Exceptions" }
            ul.exceptions {
                @for gap in &audited.gaps { li { "not read from " (gap.from) " to " (gap.to) ": " (gap.why) } }
                @for backfill in &audited.backfills {
                    li { "backfill " (backfill.id) " of " (backfill.range) " is read to "
                        (backfill.read_seconds.saturating_mul(100).checked_div(backfill.seconds).unwrap_or(0)) " %" }
                }
                @for day in differences {
                    li { (day.day.as_deref().unwrap_or("an unknown day")) ": announced " (day.announced) ", held " (day.held) }
                }
                @for item in audited.items.iter().take(MAX_NAMED) { (item_line(audited, item)) }
                @if audited.items.len() > MAX_NAMED {
                    li.todo {
                        "and " (format_count((audited.items.len() - MAX_NAMED) as u64, "item", "items")) ": "
                        a href=(path_with("/queue", [("account", audited.sub_account_id.as_str()), ("state", "all")])) { "the queue lists them" }
                    }
                }
                @for record in audited.aside.records.iter().take(MAX_NAMED) {
                    li {
                        "record set aside" @if let Some(id) = &record.segment_id { " of segment " code { (clean_line(id)) } }
                        ", received in the window " (record.window) ": " (clean_line(&record.reason))
                    }
                }
            }
        }
        @if !audited.unfinished.is_empty() {
            details {
                summary { "Unfinished, by reason" }
                ul.exceptions {
                    @for group in &audited.unfinished {
                        li {
                            (format_number(group.count)) " " (group.artifact.replace('_', " ")) " " (group.outcome)
                            @if let Some(status) = group.status { " (" (status) ")" }
                            @if let Some(reason) = &group.reason { ": " (clean_line(reason)) }
                            @if let Some(next) = &group.next_try { ", next attempt at " (next) }
                        }
                    }
                }
            }
        }
    }
}

fn item_line(audited: &AccountAudit, item: &UnfinishedItem) -> Markup {
    let queue = path_with("/queue", [("account", audited.sub_account_id.as_str()), ("segment", &item.segment_id)]);
    html! {
        li {
            (item.artifact.replace('_', " ")) " of segment " a href=(queue) { code { (clean_line(&item.segment_id)) } }
            @if let Some(end) = &item.segment_end { ", ended " (end) }
            ": " (item.outcome) @if let Some(reason) = &item.reason { ", " (clean_line(reason)) }
        }
    }
}

fn coverage_list(coverage: Option<&Value>) -> Markup {
    let accounts = coverage.and_then(|coverage| coverage.get("accounts")).and_then(Value::as_array);
    let text = |account: &Value, name: &str| account.get(name).and_then(Value::as_str).unwrap_or("–").to_owned();
    let gaps = |account: &Value| account.get("gaps").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    html! {
        table.stack {
            thead { tr { th { "Account" } th { "Read without a gap to" } th { "Gaps" } } }
            tbody {
                @for account in accounts.into_iter().flatten() {
                    tr {
                        th scope="row" { (clean_line(&text(account, "sub_account_id"))) }
                        td data-label="Read without a gap to" { (text(account, "watermark")) }
                        td.number data-label="Gaps" { (format_number(gaps(account))) }
                    }
                }
            }
        }
    }
}

fn holds_section(holds: &[HoldView]) -> Markup {
    html! {
        section #holds {
            h2 { "Legal holds" }
            @if holds.is_empty() { p.todo { "There are no holds: retention and erasure apply to everything." } }
            @else {
                table.stack {
                    thead { tr { th { "Protects" } th { "Account" } th { "Since" } th { "By" } th { "Reason" } } }
                    tbody {
                        @for hold in holds {
                            tr {
                                th scope="row" { (hold.kind) " " code { (clean_line(&hold.value)) } small { "hold " (hold.id) } }
                                td data-label="Account" { (hold.sub_account_id.as_deref().unwrap_or("all")) }
                                td data-label="Since" { (hold.placed) }
                                td data-label="By" { (clean_line(&hold.who)) }
                                td.wide data-label="Reason" { (hold.reason.as_deref().map(clean_line).unwrap_or_default()) }
                            }
                        }
                    }
                }
            }
        }
    }
}
