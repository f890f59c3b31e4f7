//! How sinks stand, as a table with what is wrong below it, or as JSON.

use std::time::Duration;

use comfy_table::CellAlignment;
use serde::Serialize;

use super::{StatusArgs, named};
use crate::cli::terminal;
use crate::cli::words::{count, relative};
use crate::clock::Time;
use crate::config::Settings;
use crate::db::{Db, ReplayRow, SinkFailure, SinkView};
use crate::reading::one_line;
use crate::status::{self, SinkState, SinkStatus};

/// Reasons that are spelled out for each sink.
const REASONS: usize = 5;
/// For how long a replay that is over is shown.
const SHOWN: Duration = Duration::from_secs(86_400);

/// Everything that there is to say of a sink.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    status: &'a SinkStatus,
    failures: Vec<Failure<'a>>,
    replays: Vec<Replay>,
    accounts: Vec<Account<'a>>,
}

#[derive(Serialize)]
struct Failure<'a> {
    state: &'static str,
    status: Option<i64>,
    reason: &'a str,
    events: u64,
    segment_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Replay {
    sub_account_id: String,
    from: String,
    to: String,
    sent: u64,
    percent: u64,
    finished: Option<String>,
}

#[derive(Serialize)]
struct Account<'a> {
    sub_account_id: &'a str,
    pending: u64,
    waiting: u64,
    failed: u64,
    delivered: u64,
    last_delivered: Option<String>,
}

/// Prints it.
pub(super) async fn show(args: &StatusArgs, db: &Db, settings: &Settings, now: Time) -> anyhow::Result<()> {
    let (all, views) = (status::sinks(db, settings, now).await?, db.sink_views().await?);
    if let Some(name) = &args.sink
        && all.iter().all(|sink| sink.name != *name)
    {
        named(settings, name)?;
    }
    let mut sinks = Vec::new();
    for status in all.into_iter().filter(|sink| args.sink.as_ref().is_none_or(|name| sink.name == *name)) {
        let view = views.iter().find(|view| view.row.name == status.name);
        let replays = match view {
            Some(view) => db.replays(view.row.key, now - SHOWN).await?,
            None => Vec::new(),
        };
        sinks.push((status, view, replays));
    }
    let text = match args.json {
        true => {
            let lines: Vec<Line<'_>> =
                sinks.iter().map(|(status, view, replays)| line(status, *view, replays)).collect();
            format!("{}\n", serde_json::to_string(&lines)?)
        }
        false => table(&sinks, now),
    };
    terminal::print(&text)?;
    Ok(())
}

fn line<'a>(status: &'a SinkStatus, view: Option<&'a SinkView>, replays: &[ReplayRow]) -> Line<'a> {
    let accounts = view.map(|view| view.accounts.as_slice()).unwrap_or_default();
    Line {
        status,
        failures: view.map(|view| view.failures.iter().map(failure).collect()).unwrap_or_default(),
        replays: replays.iter().map(replay).collect(),
        accounts: accounts
            .iter()
            .map(|account| Account {
                sub_account_id: &account.sub,
                pending: account.behind + account.waiting,
                waiting: account.waiting,
                failed: account.failed,
                delivered: account.delivered,
                last_delivered: account.last_delivered.map(Time::rfc3339_secs),
            })
            .collect(),
    }
}

fn failure(row: &SinkFailure) -> Failure<'_> {
    Failure {
        state: if row.failed { "failed" } else { "waiting" },
        status: row.status,
        reason: &row.reason,
        events: row.events,
        segment_id: row.example.as_deref(),
    }
}

fn replay(row: &ReplayRow) -> Replay {
    Replay {
        sub_account_id: row.account.sub.to_string(),
        from: row.stored.from.rfc3339_secs(),
        to: row.stored.to.rfc3339_secs(),
        sent: row.sent,
        percent: percent(row),
        finished: row.finished.map(Time::rfc3339_secs),
    }
}

/// How much of the feed has been looked at.
fn percent(row: &ReplayRow) -> u64 {
    match row.finished {
        Some(_) => 100,
        None => u64::try_from(row.feed.saturating_mul(100) / row.until.max(1)).unwrap_or(0).min(99),
    }
}

fn table(sinks: &[(SinkStatus, Option<&SinkView>, Vec<ReplayRow>)], now: Time) -> String {
    if sinks.is_empty() {
        return "no sinks\nhint: [[sinks]] in the settings tell other systems of what is stored\n".to_owned();
    }
    let header = ["sink", "type", "state", "pending", "waiting", "failed", "delivered", "last delivered"];
    let mut table = terminal::table(header, 0, terminal::width());
    for (sink, ..) in sinks {
        let last = sink.last_delivered.as_deref().and_then(Time::parse);
        table.add_row([
            one_line(&sink.name),
            sink.kind.unwrap_or("-").to_owned(),
            sink.state.words().to_owned(),
            sink.pending.to_string(),
            sink.waiting.to_string(),
            sink.failed.to_string(),
            sink.delivered.to_string(),
            last.map_or_else(|| "never".to_owned(), |last| relative(last, now)),
        ]);
    }
    for index in 3..7 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{}\n", table.trim_fmt());
    for (sink, view, replays) in sinks {
        troubles(sink, *view, now, &mut text);
        replays.iter().for_each(|row| text.push_str(&progress(&sink.name, row)));
    }
    text
}

fn troubles(sink: &SinkStatus, view: Option<&SinkView>, now: Time, text: &mut String) {
    let name = one_line(&sink.name);
    let reason = sink.reason.as_deref().map(one_line).unwrap_or_default();
    let at = |time: Option<&str>| {
        let time = time.and_then(Time::parse);
        time.map_or_else(|| "soon".to_owned(), |time| relative(time, now))
    };
    match sink.state {
        SinkState::Resting => text.push_str(&format!(
            "\n{name}: takes nothing since {}, tried again {}: {reason}\n  hint: nothing is lost; `ringcx-extractor deliver retry --sink {name}` tries it at once\n",
            sink.since.as_deref().unwrap_or("a while"),
            at(sink.resting_until.as_deref()),
        )),
        SinkState::Stopped => {
            text.push_str(&format!("\n{name}: stopped: {reason}\n  hint: {}\n", crate::deliver::STOPPED));
        }
        SinkState::NotInTheSettings => text.push_str(&format!(
            "\n{name}: not in the settings; if it comes back, it goes on where it was\n"
        )),
        SinkState::Active | SinkState::New => {}
    }
    let failures = view.map(|view| view.failures.as_slice()).unwrap_or_default();
    for row in failures.iter().take(REASONS) {
        let state = if row.failed { "failed" } else { "waiting" };
        let example = row.example.as_deref().map(|id| format!(" (segment {})", one_line(id))).unwrap_or_default();
        text.push_str(&format!(
            "\n{name}: {} {state}: {}{example}\n",
            count(row.events, "event"),
            one_line(&row.reason)
        ));
    }
    if failures.len() > REASONS {
        text.push_str(&format!("\n{name}: and {} more\n", count((failures.len() - REASONS) as u64, "reason")));
    }
    if sink.failed > 0 {
        text.push_str(&format!("  hint: `ringcx-extractor deliver retry --sink {name}` sends what failed again\n"));
    }
}

fn progress(name: &str, row: &ReplayRow) -> String {
    let over = if row.finished.is_some() { "over".to_owned() } else { format!("{} %", percent(row)) };
    format!(
        "\n{}: replay of {}, stored {} to {}: {over}, {} sent\n",
        one_line(name),
        row.account.sub,
        row.stored.from.rfc3339_secs(),
        row.stored.to.rfc3339_secs(),
        count(row.sent, "event")
    )
}
