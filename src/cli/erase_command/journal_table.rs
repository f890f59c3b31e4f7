//! Shows the journal as a table or as JSON.

use serde::Serialize;

use crate::cli::{human_format, terminal};
use crate::db::{Db, JournalRow};
use crate::model::Subject;
use crate::proof::hex;
use crate::render::clean_line;

/// A journal entry as JSON.
#[derive(Serialize)]
struct JournalEntryJson<'a> {
    id: i64,
    at: String,
    who: &'a str,
    what: &'a str,
    sub_account_id: Option<&'a str>,
    kind: Option<&'a str>,
    subject: Option<String>,
    segments: u64,
    records: u64,
    hold: Option<i64>,
    reason: Option<&'a str>,
}

impl<'a> JournalEntryJson<'a> {
    fn from_row(row: &'a JournalRow) -> JournalEntryJson<'a> {
        JournalEntryJson {
            id: row.id,
            at: row.at.rfc3339(),
            who: &row.who,
            what: &row.what,
            sub_account_id: row.sub.as_deref(),
            kind: row.kind.as_deref(),
            subject: row.subject.as_deref().map(hex),
            segments: row.segments,
            records: row.records,
            hold: row.hold,
            reason: row.reason.as_deref(),
        }
    }
}

/// Prints the journal, or the entries of one subject; returns exit status 1 if the subject has
/// none.
pub(super) async fn show_journal(db: &Db, subject: Option<&Subject>, json: bool) -> anyhow::Result<u8> {
    let rows = db.journal(subject).await?;
    if json {
        for row in &rows {
            terminal::print_json(&JournalEntryJson::from_row(row))?;
        }
    } else if rows.is_empty() {
        terminal::print_stderr("the journal has no entry for it");
    } else {
        terminal::print_stdout(&format_table(&rows))?;
    }
    Ok(u8::from(subject.is_some() && rows.is_empty()))
}

fn format_table(rows: &[JournalRow]) -> String {
    let header = ["", "when", "who", "what", "account", "subject", "amount", "reason"];
    let rows = rows.iter().map(|row| {
        let subject = match (&row.kind, &row.subject) {
            (Some(kind), Some(subject)) => format!("{kind} {}", &hex(subject)[..8.min(subject.len() * 2)]),
            _ => "-".to_owned(),
        };
        let mut amount = human_format::format_amounts(row.segments, row.records, "");
        amount
            .extend(row.hold.map(|hold| format!("{} {hold}", if row.what == "refused" { "by hold" } else { "hold" })));
        [
            row.id.to_string(),
            row.at.rfc3339_secs(),
            clean_line(&row.who),
            row.what.clone(),
            clean_line(row.sub.as_deref().unwrap_or("all")),
            subject,
            amount.join(", "),
            clean_line(row.reason.as_deref().unwrap_or("")),
        ]
    });
    terminal::format_table(header, 7, 0..0, terminal::width(), rows)
}
