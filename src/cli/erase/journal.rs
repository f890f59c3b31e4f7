//! The journal, for people and programs.

use serde::Serialize;

use crate::cli::{terminal, words};
use crate::db::{Db, JournalRow};
use crate::model::Subject;
use crate::reading::one_line;

/// An entry as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
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

impl<'a> Line<'a> {
    fn of(row: &'a JournalRow) -> Line<'a> {
        Line {
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

/// Prints all of it, or what it says of one subject; exit status 1 where that is nothing.
pub(super) async fn show(db: &Db, subject: Option<&Subject>, json: bool) -> anyhow::Result<u8> {
    let rows = db.journal(subject).await?;
    if json {
        for row in &rows {
            terminal::print(&format!("{}\n", serde_json::to_string(&Line::of(row))?))?;
        }
    } else if rows.is_empty() {
        terminal::remark("the journal says nothing of it");
    } else {
        terminal::print(&table(&rows))?;
    }
    Ok(u8::from(subject.is_some() && rows.is_empty()))
}

fn table(rows: &[JournalRow]) -> String {
    let header = ["", "when", "who", "what", "account", "of", "how much", "reason"];
    let mut table = terminal::table(header, 7, terminal::width());
    for row in rows {
        let of = match (&row.kind, &row.subject) {
            (Some(kind), Some(subject)) => format!("{kind} {}", &hex(subject)[..8.min(subject.len() * 2)]),
            _ => "-".to_owned(),
        };
        let mut much = Vec::new();
        if row.segments > 0 {
            much.push(words::count(row.segments, "segment"));
        }
        if row.records > 0 {
            much.push(words::count(row.records, "record"));
        }
        let hold = row.hold.map(|hold| format!("{} {hold}", if row.what == "refused" { "by hold" } else { "hold" }));
        table.add_row([
            row.id.to_string(),
            row.at.rfc3339_secs(),
            one_line(&row.who),
            row.what.clone(),
            one_line(row.sub.as_deref().unwrap_or("all")),
            of,
            much.into_iter().chain(hold).collect::<Vec<_>>().join(", "),
            one_line(row.reason.as_deref().unwrap_or("")),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
