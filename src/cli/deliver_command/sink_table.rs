//! Shows the state of sinks as a table with their problems below it, or as JSON.

use super::DeliverStatusArgs;
use crate::cli::human_format::{format_count, format_relative};
use crate::cli::terminal;
use crate::clock::Time;
use crate::config::Settings;
use crate::db::Db;
use crate::health::{self, SinkState, SinkStatus};
use crate::operator_actions;
use crate::render::clean_line;
use crate::status::{self, ReplayView, SinkDetails, SinkFailureView};

/// The number of failure reasons that are shown per sink.
const MAX_REASONS_SHOWN: usize = 5;
/// Prints the state of the sinks.
pub(super) async fn show_sinks(
    args: &DeliverStatusArgs,
    db: &Db,
    settings: &Settings,
    now: Time,
) -> anyhow::Result<()> {
    let mut sinks = status::gather_sink_details(db, settings, now).await?;
    if let Some(name) = &args.sink {
        sinks.retain(|sink| sink.status.name == *name);
        if sinks.is_empty() {
            operator_actions::require_sink(settings, name)?;
        }
    }
    if args.json {
        return terminal::print_json(&sinks);
    }
    Ok(terminal::print_stdout(&format_table(&sinks, now))?)
}

fn format_table(sinks: &[SinkDetails], now: Time) -> String {
    if sinks.is_empty() {
        return "no sinks\nhint: [[sinks]] in the settings define the systems that receive events\n".to_owned();
    }
    let header = ["sink", "type", "state", "pending", "waiting", "failed", "delivered", "last delivered"];
    let row = |SinkDetails { status: sink, .. }: &SinkDetails| {
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
    for sink in sinks {
        add_problems(&sink.status, &sink.failures, now, &mut text);
        sink.replays.iter().for_each(|row| text.push_str(&format_replay(&sink.status.name, row)));
    }
    text
}

fn add_problems(sink: &SinkStatus, failures: &[SinkFailureView], now: Time, text: &mut String) {
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
    for row in failures.iter().take(MAX_REASONS_SHOWN) {
        let example = row.segment_id.as_deref().map(|id| format!(" (segment {})", clean_line(id))).unwrap_or_default();
        text.push_str(&format!(
            "\n{name}: {} {}: {}{example}\n",
            format_count(row.events, "event"),
            row.state,
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

fn format_replay(name: &str, row: &ReplayView) -> String {
    let state = if row.finished.is_some() { "finished".to_owned() } else { format!("{} %", row.percent) };
    format!(
        "\n{}: replay of account {}, stored {} to {}: {state}, {} sent\n",
        clean_line(name),
        row.sub_account_id,
        row.from,
        row.to,
        format_count(row.sent, "event")
    )
}
