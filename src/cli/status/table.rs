//! The status as a table for people, and below it what is wrong, with what to do about it.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Row};

use crate::cli::terminal;
use crate::cli::words::{count, relative, span};
use crate::clock::Time;
use crate::reading::one_line;
use crate::status::{AccountStatus, IndexStatus, Pause, Status};

/// Gaps of one account that are spelled out.
const GAPS: usize = 3;

/// All of it, for a terminal so many columns wide.
pub(super) fn render(status: &Status, width: usize) -> String {
    let now = Time::parse(&status.now).unwrap_or_default();
    let mut text = format!("ringcx-extractor {}, {}, {}\n\n", status.version, status.instance, status.now);
    text.push_str(&accounts(status, now, width));
    for account in &status.accounts {
        troubles(account, now, &mut text);
    }
    for sink in &status.sinks {
        let last = sink.last_delivered.as_deref().and_then(Time::parse);
        let last = last.map_or_else(
            || "nothing delivered yet".to_owned(),
            |last| format!("last delivered {}", relative(last, now)),
        );
        let (state, name) = (sink.state.words(), &sink.name);
        text.push_str(&format!("\nsink {name}: {state}, {} pending, {} failed, {last}\n", sink.pending, sink.failed));
        if let Some(reason) = &sink.reason {
            text.push_str(&format!("  {}\n  hint: `ringcx-extractor deliver status` says more\n", one_line(reason)));
        }
    }
    index(status, &mut text);
    replicas(status, now, &mut text);
    text
}

/// Said only where it lasts: what was stored a moment ago is always on its way into the index.
fn index(status: &Status, text: &mut String) {
    let index = status.search_index;
    if index.lag_seconds > IndexStatus::LONG {
        text.push_str(&format!(
            "\nsearch index: {} behind the archive, the first for {}\n  hint: a running daemon indexes by itself; `search` \
             does not find them until then\n",
            count(index.lag_changes, "change"),
            span(Duration::from_secs(index.lag_seconds))
        ));
    }
}

fn accounts(status: &Status, now: Time, width: usize) -> String {
    if status.accounts.is_empty() {
        return "no accounts yet\n".to_owned();
    }
    let header = [
        "account",
        "owner",
        "read up to",
        "behind",
        "ready",
        "waiting",
        "running",
        "done",
        "unavail.",
        "failed",
        "budget",
        "drain",
    ];
    let mut table = terminal::table(header, 0, width);
    for account in &status.accounts {
        table.add_row(row(account, now));
    }
    for index in 3..12 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

fn row(account: &AccountStatus, now: Time) -> Row {
    let secs = |secs: u64| span(Duration::from_secs(secs));
    let read = account.watermark.as_deref().and_then(Time::parse);
    let read = read.map(|time| brief(time, now)).unwrap_or_else(|| "nothing yet".to_owned());
    let work = account.work;
    Row::from(
        [
            title(account),
            account.owner.as_deref().map_or_else(|| "-".to_owned(), one_line),
            read,
            account.lag_seconds.map_or_else(|| "-".to_owned(), secs),
            work.ready.to_string(),
            work.waiting.to_string(),
            work.running.to_string(),
            work.done.to_string(),
            work.unavailable.to_string(),
            work.failed.to_string(),
            format!("{}/{}", account.requests_last_minute, account.requests_per_minute),
            secs(account.drain_seconds),
        ]
        .map(Cell::new),
    )
}

/// The time alone where it is of today, else with its day.
fn brief(time: Time, now: Time) -> String {
    let text = time.rfc3339_secs();
    let (day, rest) = text.split_once('T').unwrap_or(("", &text));
    let clock = rest.trim_end_matches('Z');
    if now.rfc3339_secs().starts_with(day) { clock.to_owned() } else { format!("{day} {clock}") }
}

fn title(account: &AccountStatus) -> String {
    one_line(account.name.as_deref().unwrap_or(&account.sub_account_id))
}

fn troubles(account: &AccountStatus, now: Time, text: &mut String) {
    let title = title(account);
    for pause in &account.paused {
        let at = |time: &str| Time::parse(time).map_or_else(|| time.to_owned(), |time| relative(time, now));
        text.push_str(&format!(
            "\n{title}: {} paused {}, tried again {}: {}\n  hint: {}\n",
            pause.endpoint,
            at(&pause.since),
            at(&pause.until),
            one_line(&pause.reason),
            hint(pause),
        ));
    }
    if let Some(since) = &account.missing_since {
        text.push_str(&format!(
            "\n{title}: the login no longer sees this account, since {since}\n  hint: give the login's user access to it again, or take it out of the settings; nothing was dropped\n"
        ));
    }
    if !account.gaps.is_empty() {
        let all = account.gaps.iter().map(|gap| gap.seconds).sum();
        let gaps = count(account.gaps.len() as u64, "gap");
        text.push_str(&format!(
            "\n{title}: {gaps}, {} in all, read as the budget allows:",
            span(Duration::from_secs(all))
        ));
        for gap in account.gaps.iter().take(GAPS) {
            text.push_str(&format!(" {} to {};", gap.from, gap.to));
        }
        text.push_str(if account.gaps.len() > GAPS { " and more\n" } else { "\n" });
    }
    if account.work.failed > 0 {
        text.push_str(&format!(
            "\n{title}: {} will not work without a person\n  hint: `ringcx-extractor queue list --state failed` says why\n",
            count(account.work.failed, "item")
        ));
    }
}

fn hint(pause: &Pause) -> &'static str {
    match (pause.status, pause.endpoint.as_str()) {
        (Some(401), _) => "the login is refused: `ringcx-extractor check` says what to look at",
        (Some(403), "metadata" | "transcript") => {
            "the login's user lacks a permission for this: `ringcx-extractor check` names it"
        }
        (Some(403), _) => {
            "the user lacks the permission, or summaries are not enabled: take them out of `artifacts` if they are not wanted"
        }
        (Some(429), _) => {
            "another program uses the same account's quota, or its limits are lower: set [limits] accordingly"
        }
        _ => "it is tried again by itself; `ringcx-extractor check` looks at it now",
    }
}

fn replicas(status: &Status, now: Time, text: &mut String) {
    text.push('\n');
    if !status.replicas.iter().any(|replica| replica.alive) {
        text.push_str("no daemon is running");
        let last = status.replicas.iter().filter_map(|replica| Time::parse(&replica.heartbeat)).max();
        if let Some(last) = last {
            text.push_str(&format!("; one was last heard of {}", relative(last, now)));
        }
        text.push_str("\n  hint: start it with `ringcx-extractor run`\n");
    }
    for replica in status.replicas.iter().filter(|replica| replica.alive) {
        let since = Time::parse(&replica.started).map(|started| span(now.since(started))).unwrap_or_default();
        text.push_str(&format!("{}: version {}, running for {since}\n", one_line(&replica.name), replica.version));
    }
}
