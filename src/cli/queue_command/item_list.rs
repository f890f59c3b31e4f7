//! Shows work items as text or as JSON.

use anyhow::Result;
use serde::Serialize;

use super::{QueueListArgs, QueueShowArgs, require_items};
use crate::access::{AccessAction, AccessSubject};
use crate::cli::human_format::format_relative;
use crate::cli::{CommandContext, terminal};
use crate::clock::Time;
use crate::db::{AttemptRow, Db, QueueFilter, QueueRow};
use crate::model::{Artifact, ItemState, Lane};
use crate::render::{clean_line, clean_text};

/// An item as JSON.
#[derive(Serialize)]
struct ItemJson<'a> {
    sub_account_id: &'a str,
    segment_id: &'a str,
    segment_end: Option<String>,
    artifact: Artifact,
    state: &'static str,
    lane: Lane,
    due: Option<String>,
    tries: u32,
    first_try: Option<String>,
    status: Option<i64>,
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptJson<'a>>>,
    /// The start of the last answer, if it could not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_body: Option<&'a str>,
}

/// A failed attempt as JSON.
#[derive(Serialize)]
struct AttemptJson<'a> {
    #[serde(rename = "try")]
    nth: i64,
    at: String,
    status: Option<i64>,
    reason: &'a str,
}

pub(super) async fn list_items(args: &QueueListArgs, db: &Db, context: &CommandContext) -> Result<()> {
    let account = context.find_account(db, args.account.as_deref()).await?;
    let accounts = account.map(|account| vec![account.key]);
    let states = match (args.all, args.state.as_slice()) {
        (true, _) => Vec::new(),
        (false, []) => vec![ItemState::Unavailable, ItemState::Failed, ItemState::Discarded],
        (false, states) => states.to_vec(),
    };
    // One more than the limit shows whether there are more.
    let limit = if args.limit == 0 { 0 } else { args.limit.saturating_add(1) };
    let filter = QueueFilter { accounts, states, artifact: args.artifact, limit, ..QueueFilter::default() };
    let mut items = db.queue_rows(&filter).await?;
    let more = args.limit > 0 && items.len() > args.limit as usize;
    items.truncate(if more { args.limit as usize } else { items.len() });
    let now = context.clock.now();
    if args.json {
        for item in &items {
            terminal::print_json(&item_json(item, now, None, None))?;
        }
    } else if items.is_empty() {
        terminal::print_stdout("no matching items\n")?;
    } else {
        terminal::print_stdout(&format_table(&items, now, terminal::width()))?;
    }
    if more {
        terminal::print_stderr("there are more items: --limit 0 lists all");
    }
    Ok(())
}

/// Shows the items of one segment.
pub(super) async fn show_items(args: &QueueShowArgs, db: &Db, context: &CommandContext) -> Result<()> {
    let filter = QueueFilter { segment_id: Some(args.segment.clone()), ..QueueFilter::default() };
    require_items(db, &filter, &args.segment).await?;
    let now = context.clock.now();
    for item in db.queue_rows(&filter).await? {
        // It may show the beginning of an answer.
        let subject = AccessSubject::Segment { sub: &item.sub, id: &item.segment_id };
        context.record_access(db, AccessAction::Read, subject).await?;
        let attempts = db.attempts(item.item.segment()).await?;
        let attempts: Vec<&AttemptRow> = attempts.iter().filter(|attempt| attempt.artifact == item.artifact).collect();
        let last_body = db.last_body(item.item).await?.map(|body| String::from_utf8_lossy(&body).into_owned());
        if args.json {
            terminal::print_json(&item_json(&item, now, Some(&attempts), last_body.as_deref()))?;
        } else {
            terminal::print_stdout(&format_item(&item, &attempts, last_body.as_deref(), now))?;
        }
    }
    Ok(())
}

fn item_json<'a>(
    item: &'a QueueRow,
    now: Time,
    attempts: Option<&[&'a AttemptRow]>,
    last_body: Option<&'a str>,
) -> ItemJson<'a> {
    let attempt = |row: &&'a AttemptRow| AttemptJson {
        nth: row.nth,
        at: row.at.rfc3339(),
        status: row.status,
        reason: &row.reason,
    };
    ItemJson {
        sub_account_id: &item.sub,
        segment_id: &item.segment_id,
        segment_end: item.ended.known().map(Time::rfc3339),
        artifact: item.artifact,
        state: item.state_name(now),
        lane: item.lane,
        due: (item.state == ItemState::Open).then(|| item.due.rfc3339()),
        tries: item.tries,
        first_try: item.first_try.map(Time::rfc3339),
        status: item.status,
        reason: item.reason.as_deref(),
        attempts: attempts.map(|rows| rows.iter().map(attempt).collect()),
        last_body,
    }
}

fn format_end(item: &QueueRow) -> String {
    item.ended.known().map_or_else(|| "unknown".to_owned(), Time::rfc3339_secs)
}

fn format_table(items: &[QueueRow], now: Time, width: usize) -> String {
    let header = ["account", "segment", "ended", "artifact", "state", "tries", "why"];
    let row = |item: &QueueRow| {
        [
            clean_line(&item.sub),
            clean_line(&item.segment_id),
            format_end(item),
            item.artifact.to_string(),
            item.state_name(now).to_owned(),
            item.tries.to_string(),
            item.reason.as_deref().map(clean_line).unwrap_or_default(),
        ]
    };
    terminal::format_table(header, header.len() - 1, 0..0, width, items.iter().map(row))
}

fn format_item(item: &QueueRow, attempts: &[&AttemptRow], last_body: Option<&str>, now: Time) -> String {
    let mut text = format!("{} of segment {}: {}\n", item.artifact, clean_line(&item.segment_id), item.state_name(now));
    text.push_str(&format!("  account {}, ended {}, lane {}\n", clean_line(&item.sub), format_end(item), item.lane));
    if item.state == ItemState::Open {
        text.push_str(&format!("  due {} ({})\n", item.due.rfc3339_secs(), format_relative(item.due, now)));
    }
    if let Some(reason) = &item.reason {
        text.push_str(&format!("  last error: {}\n", clean_line(reason)));
    }
    for attempt in attempts {
        let status = attempt.status.map_or(String::new(), |status| format!(" ({status})"));
        text.push_str(&format!(
            "  {} attempt {}{status}: {}\n",
            attempt.at.rfc3339_secs(),
            attempt.nth,
            clean_line(&attempt.reason)
        ));
    }
    if let Some(body) = last_body {
        text.push_str(match body.is_empty() {
            true => "  the last answer had no body\n",
            false => "  the last answer started with:\n",
        });
        for line in clean_text(body).lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.push_str(match item.state {
        ItemState::Unavailable | ItemState::Failed => {
            "  hint: `ringcx-extractor queue retry` or `queue discard` with the segment's id\n"
        }
        ItemState::Discarded => "  hint: `ringcx-extractor queue retry` with the segment's id undoes this\n",
        ItemState::Open => "",
    });
    text
}
