//! Items as people and programs see them.

use anyhow::Result;
use serde::Serialize;

use super::{ListArgs, ShowArgs, must_have_items};
use crate::cli::words::relative;
use crate::cli::{Context, terminal};
use crate::clock::Time;
use crate::db::{AttemptRow, Db, QueueFilter, QueueRow};
use crate::model::{Artifact, Lane, State};
use crate::reading::{clean, one_line};

/// An item as JSON.
#[derive(Serialize)]
struct Line<'a> {
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
    attempts: Option<Vec<Try<'a>>>,
    /// How the last answer began, where it could not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_body: Option<&'a str>,
}

/// A try that failed, as JSON.
#[derive(Serialize)]
struct Try<'a> {
    #[serde(rename = "try")]
    nth: i64,
    at: String,
    status: Option<i64>,
    reason: &'a str,
}

/// Lists items.
pub(super) async fn list(args: &ListArgs, db: &Db, context: &Context) -> Result<()> {
    let account = match &args.account {
        Some(account) => Some(context.account(db, account).await?.key),
        None => None,
    };
    let states = match (args.all, args.state.as_slice()) {
        (true, _) => Vec::new(),
        (false, []) => vec![State::Unavailable, State::Failed, State::Discarded],
        (false, states) => states.iter().map(|state| State::from(*state)).collect(),
    };
    // One more than asked for tells whether there are more.
    let limit = if args.limit == 0 { 0 } else { args.limit.saturating_add(1) };
    let artifact = args.artifact.map(Artifact::from);
    let mut items = db.queue(&QueueFilter { account, states, segment_id: None, artifact, limit }).await?;
    let more = args.limit > 0 && items.len() > args.limit as usize;
    items.truncate(if more { args.limit as usize } else { items.len() });
    let now = context.clock.now();
    if args.json {
        for item in &items {
            print_json(&line(item, now, None, None))?;
        }
    } else if items.is_empty() {
        terminal::print("no such items\n")?;
    } else {
        terminal::print(&table(&items, now, terminal::width()))?;
    }
    if more {
        terminal::remark("there are more: --limit 0 lists all");
    }
    Ok(())
}

/// Shows the items of one segment.
pub(super) async fn show(args: &ShowArgs, db: &Db, context: &Context) -> Result<()> {
    let filter = QueueFilter { segment_id: Some(args.segment.clone()), ..QueueFilter::default() };
    must_have_items(db, &filter, &args.segment).await?;
    let now = context.clock.now();
    for item in db.queue(&filter).await? {
        let attempts = db.attempts(item.item.segment()).await?;
        let attempts: Vec<&AttemptRow> = attempts.iter().filter(|attempt| attempt.artifact == item.artifact).collect();
        let last_body = db.last_body(item.item).await?.map(|body| String::from_utf8_lossy(&body).into_owned());
        if args.json {
            print_json(&line(&item, now, Some(&attempts), last_body.as_deref()))?;
        } else {
            terminal::print(&story(&item, &attempts, last_body.as_deref(), now))?;
        }
    }
    Ok(())
}

fn print_json(line: &Line<'_>) -> Result<()> {
    Ok(terminal::print(&format!("{}\n", serde_json::to_string(line)?))?)
}

fn line<'a>(
    item: &'a QueueRow,
    now: Time,
    attempts: Option<&[&'a AttemptRow]>,
    last_body: Option<&'a str>,
) -> Line<'a> {
    let tried =
        |row: &&'a AttemptRow| Try { nth: row.nth, at: row.at.rfc3339(), status: row.status, reason: &row.reason };
    Line {
        sub_account_id: &item.sub,
        segment_id: &item.segment_id,
        segment_end: item.ended.known().map(Time::rfc3339),
        artifact: item.artifact,
        state: state(item, now),
        lane: item.lane,
        due: (item.state == State::Open).then(|| item.due.rfc3339()),
        tries: item.tries,
        first_try: item.first_try.map(Time::rfc3339),
        status: item.status,
        reason: item.reason.as_deref(),
        attempts: attempts.map(|rows| rows.iter().map(tried).collect()),
        last_body,
    }
}

/// The state's name, as in `status`.
fn state(item: &QueueRow, now: Time) -> &'static str {
    match item.state {
        State::Open if item.due <= now => "ready",
        State::Open => "waiting",
        State::Unavailable => "unavailable",
        State::Failed => "failed",
        State::Discarded => "discarded",
    }
}

fn ended(item: &QueueRow) -> String {
    item.ended.known().map_or_else(|| "unknown".to_owned(), Time::rfc3339_secs)
}

fn table(items: &[QueueRow], now: Time, width: usize) -> String {
    let header = ["account", "segment", "ended", "artifact", "state", "tries", "why"];
    let mut table = terminal::table(header, header.len() - 1, width);
    for item in items {
        table.add_row([
            one_line(&item.sub),
            one_line(&item.segment_id),
            ended(item),
            item.artifact.to_string(),
            state(item, now).to_owned(),
            item.tries.to_string(),
            item.reason.as_deref().map(one_line).unwrap_or_default(),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

fn story(item: &QueueRow, attempts: &[&AttemptRow], last_body: Option<&str>, now: Time) -> String {
    let mut text = format!("{} of segment {}: {}\n", item.artifact, one_line(&item.segment_id), state(item, now));
    text.push_str(&format!("  account {}, ended {}, lane {}\n", one_line(&item.sub), ended(item), item.lane));
    if item.state == State::Open {
        text.push_str(&format!("  due {} ({})\n", item.due.rfc3339_secs(), relative(item.due, now)));
    }
    if let Some(reason) = &item.reason {
        text.push_str(&format!("  last: {}\n", one_line(reason)));
    }
    for attempt in attempts {
        let status = attempt.status.map_or(String::new(), |status| format!(" ({status})"));
        text.push_str(&format!(
            "  {} try {}{status}: {}\n",
            attempt.at.rfc3339_secs(),
            attempt.nth,
            one_line(&attempt.reason)
        ));
    }
    if let Some(body) = last_body {
        text.push_str(match body.is_empty() {
            true => "  the last answer had no body\n",
            false => "  the last answer began with:\n",
        });
        for line in clean(body).lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.push_str(match item.state {
        State::Unavailable | State::Failed => {
            "  hint: `ringcx-extractor queue retry` or `queue discard` with the segment's id\n"
        }
        State::Discarded => "  hint: `ringcx-extractor queue retry` with the segment's id takes it back\n",
        State::Open => "",
    });
    text
}
