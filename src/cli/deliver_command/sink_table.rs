//! Shows the state of sinks as a table with their problems below it, or as JSON.

use std::time::Duration;

use serde::Serialize;

use super::DeliverStatusArgs;
use crate::cli::human_format::{format_count, format_relative};
use crate::cli::terminal;
use crate::clock::Time;
use crate::config::Settings;
use crate::db::{Db, ReplayRow, SinkFailure, SinkOverview};
use crate::health::{self, SinkState, SinkStatus};
use crate::operator_actions;
use crate::render::clean_line;
use crate::status;

/// The number of failure reasons that are shown per sink.
const MAX_REASONS_SHOWN: usize = 5;
/// How long a finished replay is shown.
const FINISHED_REPLAY_SHOWN_FOR: Duration = Duration::from_secs(86_400);

/// A sink as JSON.
#[derive(Serialize)]
struct SinkJson<'a> {
    #[serde(flatten)]
    status: &'a SinkStatus,
    failures: Vec<FailureJson<'a>>,
    replays: Vec<ReplayJson>,
    accounts: Vec<SinkAccountJson<'a>>,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    state: &'static str,
    status: Option<i64>,
    reason: &'a str,
    events: u64,
    segment_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ReplayJson {
    sub_account_id: String,
    from: String,
    to: String,
    sent: u64,
    percent: u64,
    finished: Option<String>,
}

#[derive(Serialize)]
struct SinkAccountJson<'a> {
    sub_account_id: &'a str,
    pending: u64,
    waiting: u64,
    failed: u64,
    delivered: u64,
    last_delivered: Option<String>,
}

/// Prints the state of the sinks.
pub(super) async fn show_sinks(
    args: &DeliverStatusArgs,
    db: &Db,
    settings: &Settings,
    now: Time,
) -> anyhow::Result<()> {
    let (all, views) = (status::gather_sinks(db, settings, now).await?, db.sink_overviews().await?);
    if let Some(name) = &args.sink
        && all.iter().all(|sink| sink.name != *name)
    {
        operator_actions::require_sink(settings, name)?;
    }
    let mut sinks = Vec::new();
    for status in all.into_iter().filter(|sink| args.sink.as_ref().is_none_or(|name| sink.name == *name)) {
        let view = views.iter().find(|view| view.row.name == status.name);
        let replays = match view {
            Some(view) => db.replays(view.row.key, now - FINISHED_REPLAY_SHOWN_FOR).await?,
            None => Vec::new(),
        };
        sinks.push((status, view, replays));
    }
    if args.json {
        let lines = sinks.iter().map(|(status, view, replays)| sink_json(status, *view, replays));
        return terminal::print_json(&lines.collect::<Vec<_>>());
    }
    Ok(terminal::print_stdout(&format_table(&sinks, now))?)
}

fn sink_json<'a>(status: &'a SinkStatus, view: Option<&'a SinkOverview>, replays: &[ReplayRow]) -> SinkJson<'a> {
    let accounts = view.map(|view| view.accounts.as_slice()).unwrap_or_default();
    SinkJson {
        status,
        failures: view.map(|view| view.failures.iter().map(failure_json).collect()).unwrap_or_default(),
        replays: replays.iter().map(replay_json).collect(),
        accounts: accounts
            .iter()
            .map(|account| SinkAccountJson {
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

fn failure_json(row: &SinkFailure) -> FailureJson<'_> {
    FailureJson {
        state: if row.failed { "failed" } else { "waiting" },
        status: row.status,
        reason: &row.reason,
        events: row.events,
        segment_id: row.example.as_deref(),
    }
}

fn replay_json(row: &ReplayRow) -> ReplayJson {
    ReplayJson {
        sub_account_id: row.account.sub.to_string(),
        from: row.stored.from.rfc3339_secs(),
        to: row.stored.to.rfc3339_secs(),
        sent: row.sent,
        percent: replay_percent(row),
        finished: row.finished.map(Time::rfc3339_secs),
    }
}

/// The share of the feed that the replay has processed.
fn replay_percent(row: &ReplayRow) -> u64 {
    match row.finished {
        Some(_) => 100,
        None => u64::try_from(row.feed.saturating_mul(100) / row.until.max(1)).unwrap_or(0).min(99),
    }
}

fn format_table(sinks: &[(SinkStatus, Option<&SinkOverview>, Vec<ReplayRow>)], now: Time) -> String {
    if sinks.is_empty() {
        return "no sinks\nhint: [[sinks]] in the settings define the systems that receive events\n".to_owned();
    }
    let header = ["sink", "type", "state", "pending", "waiting", "failed", "delivered", "last delivered"];
    let row = |(sink, ..): &(SinkStatus, Option<&SinkOverview>, Vec<ReplayRow>)| {
        let last = sink.last_delivered;
        [
            clean_line(&sink.name),
            sink.kind.unwrap_or("-").to_owned(),
            sink.state.display_name().to_owned(),
            sink.pending.to_string(),
            sink.waiting.to_string(),
            sink.failed.to_string(),
            sink.delivered.to_string(),
            last.map_or_else(|| "never".to_owned(), |last| format_relative(last, now)),
        ]
    };
    let mut text = terminal::format_table(header, 0, 3..7, terminal::width(), sinks.iter().map(row));
    for (sink, view, replays) in sinks {
        add_problems(sink, *view, now, &mut text);
        replays.iter().for_each(|row| text.push_str(&format_replay(&sink.name, row)));
    }
    text
}

fn add_problems(sink: &SinkStatus, view: Option<&SinkOverview>, now: Time, text: &mut String) {
    let name = clean_line(&sink.name);
    let reason = sink.reason.as_deref().map(clean_line).unwrap_or_default();
    match sink.state {
        SinkState::Resting => text.push_str(&format!(
            "\n{name}: paused since {}, next attempt {}: {reason}\n  hint: no event is lost; `ringcx-extractor deliver retry --sink {name}` retries now\n",
            sink.since.map_or_else(|| "a while".to_owned(), Time::rfc3339_secs),
            sink.resting_until.map_or_else(|| "soon".to_owned(), |until| format_relative(until, now)),
        )),
        SinkState::Stopped => {
            text.push_str(&format!("\n{name}: stopped: {reason}\n  hint: {}\n", health::STOPPED_SINK_HINT));
        }
        SinkState::NotInTheSettings => text.push_str(&format!(
            "\n{name}: not in the settings; if it is added again, it continues where it stopped\n"
        )),
        SinkState::Active | SinkState::New => {}
    }
    let failures = view.map(|view| view.failures.as_slice()).unwrap_or_default();
    for row in failures.iter().take(MAX_REASONS_SHOWN) {
        let state = if row.failed { "failed" } else { "waiting" };
        let example = row.example.as_deref().map(|id| format!(" (segment {})", clean_line(id))).unwrap_or_default();
        text.push_str(&format!(
            "\n{name}: {} {state}: {}{example}\n",
            format_count(row.events, "event"),
            clean_line(&row.reason)
        ));
    }
    if failures.len() > MAX_REASONS_SHOWN {
        text.push_str(&format!(
            "\n{name}: and {} more\n",
            format_count((failures.len() - MAX_REASONS_SHOWN) as u64, "reason")
        ));
    }
    if sink.failed > 0 {
        text.push_str(&format!("  hint: `ringcx-extractor deliver retry --sink {name}` resends failed events\n"));
    }
}

fn format_replay(name: &str, row: &ReplayRow) -> String {
    let state = if row.finished.is_some() { "finished".to_owned() } else { format!("{} %", replay_percent(row)) };
    format!(
        "\n{}: replay of account {}, stored {} to {}: {state}, {} sent\n",
        clean_line(name),
        row.account.sub,
        row.stored.from.rfc3339_secs(),
        row.stored.to.rfc3339_secs(),
        format_count(row.sent, "event")
    )
}
