//! The one line that says how things stand, why, and what to do. Pure.
//!
//! Four levels, and the worst counts: in trouble (something will not get better without a person), incomplete (something
//! is missing from the archive that should be there), behind (it gets on, but late), healthy.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use crate::status::{SinkState, SinkStatus};

use super::picture::{Paused, Picture, Row};
use super::ready::{Readiness, What};
use super::words::{count, span};

/// How things stand, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Level {
    Healthy,
    Behind,
    Incomplete,
    Trouble,
}

impl Level {
    /// All of them, best first: each at its own number.
    pub(super) const ALL: [Level; 4] = [Level::Healthy, Level::Behind, Level::Incomplete, Level::Trouble];

    /// For people, at the head of a line.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Level::Healthy => "Healthy",
            Level::Behind => "Behind",
            Level::Incomplete => "Incomplete",
            Level::Trouble => "In trouble",
        }
    }

    /// For style and script.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Level::Healthy => "healthy",
            Level::Behind => "behind",
            Level::Incomplete => "incomplete",
            Level::Trouble => "trouble",
        }
    }

    /// So that nobody has to tell colours apart.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Level::Healthy => "✓",
            Level::Behind => "~",
            Level::Incomplete => "!",
            Level::Trouble => "✕",
        }
    }
}

/// Something that is not as it should be, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) what: String,
    /// Which accounts, the first by name; empty where that goes without saying.
    pub(super) who: String,
    pub(super) todo: String,
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    /// Without the level's words.
    pub(super) line: String,
    /// Worst first.
    pub(super) findings: Vec<Finding>,
}

/// How late is late.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A healthy account's watermark is never further behind than this.
    pub(super) lag: Duration,
}

/// A backlog that takes longer, with the whole budget, makes an account late.
const BACKLOG: Duration = Duration::from_secs(900);

/// So many accounts are named.
const NAMED: usize = 3;

/// An index that is behind for longer is said to be: it follows within seconds where all is well.
const INDEX_LATE: Duration = Duration::from_secs(900);

impl Pace {
    /// By the settings: a window may be read `offset` after its end, the next one `interval` later; one that failed and
    /// had to be read again is no reason for concern yet.
    pub(super) fn of(offset: Duration, interval: Duration) -> Pace {
        Pace { lag: offset + interval * 2 + Duration::from_secs(60) }
    }

    /// How one account stands.
    pub(super) fn level(self, row: &Row, now: Time) -> Level {
        if row.missing || row.paused.iter().any(|pause| pause.refused()) {
            Level::Trouble
        } else if row.work.failed > 0 || !row.gaps.is_zero() {
            Level::Incomplete
        } else if self.late(row, now) || !row.paused.is_empty() || backlog([row].into_iter()) > BACKLOG {
            Level::Behind
        } else {
            Level::Healthy
        }
    }

    fn late(self, row: &Row, now: Time) -> bool {
        row.lag(now).is_some_and(|lag| lag > self.lag)
    }
}

/// How long what is due takes, where these accounts share one budget.
fn backlog<'a>(rows: impl Iterator<Item = &'a Row>) -> Duration {
    let (items, limit) =
        rows.fold((0, 1), |(items, _), row| (items + row.work.ready + row.work.running, row.limit.max(1)));
    Duration::from_secs(items * 60 / limit)
}

/// Judges it all.
pub(super) fn judge(readiness: &Readiness, picture: Option<&Picture>, pace: Pace, now: Time) -> Verdict {
    let mut findings = of_readiness(readiness);
    if let Some(picture) = picture {
        findings.extend(of_pauses(picture));
        findings.extend(of_missing(picture));
        findings.extend(of_failures(picture));
        findings.extend(of_gaps(picture));
        findings.extend(of_lag(picture, pace, now));
        findings.extend(of_backlog(picture));
        findings.extend(of_index(picture));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    match findings.first() {
        Some(worst) if worst.level > Level::Healthy => {
            Verdict { level: worst.level, line: worst.what.clone(), findings }
        }
        _ => Verdict { level: Level::Healthy, line: good(readiness, picture, now), findings },
    }
}

/// What there is to say where nothing is wrong.
fn good(readiness: &Readiness, picture: Option<&Picture>, now: Time) -> String {
    if let Some(waits) = readiness.reasons.iter().find(|reason| reason.what == What::Leases) {
        return waits.detail.clone();
    }
    let rows = picture.map(|picture| picture.rows.as_slice()).unwrap_or_default();
    let unread = rows.iter().filter(|row| row.watermark.is_none()).count();
    let worst = rows.iter().filter_map(|row| row.lag(now)).max();
    match worst {
        _ if rows.is_empty() => "no account is known yet".to_owned(),
        Some(worst) if unread == 0 => {
            format!("everything that ended up to {} ago has been found, without a gap", span(worst))
        }
        _ => format!("starting; nothing has been read yet of {}", accounts(unread)),
    }
}

fn of_readiness(readiness: &Readiness) -> Vec<Finding> {
    let finding = |reason: &super::ready::Reason| Finding {
        level: match reason.what {
            What::Leases => Level::Healthy,
            // Where it was merely out of reach, the daemon is still ready.
            What::Login if readiness.ready => Level::Behind,
            _ => Level::Trouble,
        },
        what: reason.detail.clone(),
        who: String::new(),
        todo: reason.hint.clone(),
    };
    // What concerns single accounts is counted below rather than listed; sinks are told of there too.
    let general = |reason: &&super::ready::Reason| reason.account.is_none() && reason.what != What::Sink;
    readiness.reasons.iter().filter(general).map(finding).collect()
}

/// One finding for each reason, however many endpoints and accounts it holds up; what holds up most comes first.
fn of_pauses(picture: &Picture) -> Vec<Finding> {
    let mut groups: BTreeMap<(&str, Option<i64>), Group<'_>> = BTreeMap::new();
    for row in &picture.rows {
        for pause in &row.paused {
            let group = groups.entry((&pause.reason, pause.status)).or_insert_with(|| Group::of(pause));
            if !group.endpoints.contains(&pause.endpoint.as_str()) {
                group.endpoints.push(&pause.endpoint);
            }
            if group.rows.last().is_none_or(|last| last.sub != row.sub) {
                group.rows.push(row);
            }
        }
    }
    let mut groups: Vec<Group<'_>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.rows.len()));
    let finding = |group: &Group<'_>| Finding {
        level: if group.example.refused() { Level::Trouble } else { Level::Behind },
        what: format!(
            "{} paused for {}: {}",
            listed(&group.endpoints.iter().map(|endpoint| endpoint.replace('_', " ")).collect::<Vec<_>>()),
            accounts(group.rows.len()),
            group.example.reason
        ),
        who: who(picture, &group.rows),
        todo: group.example.hint().to_owned(),
    };
    groups.iter().map(finding).collect()
}

/// What is paused for one reason.
struct Group<'a> {
    example: &'a Paused,
    endpoints: Vec<&'a str>,
    rows: Vec<&'a Row>,
}

impl<'a> Group<'a> {
    fn of(example: &'a Paused) -> Group<'a> {
        Group { example, endpoints: Vec::new(), rows: Vec::new() }
    }
}

/// The accounts that a finding is about, the first of them by name. Where there is only one account, nobody asks which.
fn who(picture: &Picture, rows: &[&Row]) -> String {
    if picture.rows.len() < 2 {
        return String::new();
    }
    let mut names: Vec<String> = rows.iter().take(NAMED).map(|row| row.title().to_owned()).collect();
    if rows.len() > NAMED {
        names.push(format!("{} more", super::words::number((rows.len() - NAMED) as u64)));
    }
    listed(&names)
}

/// `one`, `one and two`, `one, two and three`.
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Those of which the figure is above zero, the largest first.
fn largest<T: Ord + Default>(picture: &Picture, figure: impl Fn(&Row) -> T) -> Vec<&Row> {
    let mut rows: Vec<&Row> = picture.rows.iter().filter(|row| figure(row) > T::default()).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(figure(row)));
    rows
}

fn of_missing(picture: &Picture) -> Option<Finding> {
    let missing: Vec<&Row> = picture.rows.iter().filter(|row| row.missing).collect();
    (!missing.is_empty()).then(|| Finding {
        level: Level::Trouble,
        what: format!("the login no longer sees {}", accounts(missing.len())),
        who: who(picture, &missing),
        todo: "give the login's user access again, or leave the account out in the settings; what is stored stays"
            .to_owned(),
    })
}

fn of_failures(picture: &Picture) -> Vec<Finding> {
    let items: u64 = picture.rows.iter().map(|row| row.work.failed).sum();
    let failed = (items > 0).then(|| Finding {
        level: Level::Incomplete,
        what: format!("{} failed and will not work without a person", count(items, "item", "items")),
        who: who(picture, &largest(picture, |row| row.work.failed)),
        todo: "see below why; `ringcx-extractor queue list` names them, `queue retry` or `queue discard` settles them"
            .to_owned(),
    });
    let refused = picture.status.sinks.iter().filter(|sink| sink.failed > 0).map(|sink| Finding {
        level: Level::Incomplete,
        what: format!("sink {} refused {} for good", sink.name, count(sink.failed, "event", "events")),
        who: String::new(),
        todo: SINK_REFUSED.to_owned(),
    });
    let stands = picture.status.sinks.iter().filter_map(|sink| {
        let reason = sink.reason.as_deref().unwrap_or("no reason is known");
        let (level, what, todo) = match sink.state {
            SinkState::Stopped => (Level::Trouble, "is stopped", crate::deliver::STOPPED),
            SinkState::Resting => (Level::Behind, "takes nothing at present", SINK_RESTS),
            SinkState::Active | SinkState::New | SinkState::NotInTheSettings => return None,
        };
        let what = format!("sink {} {what}: {reason}", sink.name);
        Some(Finding { level, what, who: String::new(), todo: todo.to_owned() })
    });
    failed.into_iter().chain(refused).chain(stands).collect()
}

const SINK_REFUSED: &str = "`ringcx-extractor deliver status` says why; `deliver retry` sends them again";
const SINK_RESTS: &str = "nothing to do if it passes: the sink is tried again by itself and nothing is lost; `ringcx-extractor \
                          deliver retry` tries it at once";

/// How a sink stands.
pub(super) fn of_sink(sink: &SinkStatus) -> Level {
    match sink.state {
        SinkState::Stopped => Level::Trouble,
        _ if sink.failed > 0 => Level::Incomplete,
        SinkState::Resting => Level::Behind,
        SinkState::Active | SinkState::New | SinkState::NotInTheSettings => Level::Healthy,
    }
}

/// What to do about a sink, where there is anything.
pub(super) fn todo_of_sink(sink: &SinkStatus) -> Option<&'static str> {
    match sink.state {
        SinkState::Stopped => Some(crate::deliver::STOPPED),
        SinkState::Resting => Some(SINK_RESTS),
        SinkState::New => Some("no daemon has seen it yet"),
        SinkState::NotInTheSettings => {
            Some("where it stood is kept; put it back into the settings, and it goes on from there")
        }
        SinkState::Active => (sink.failed > 0).then_some(SINK_REFUSED),
    }
}

fn of_gaps(picture: &Picture) -> Option<Finding> {
    let rows = largest(picture, |row| row.gaps);
    (!rows.is_empty()).then(|| Finding {
        level: Level::Incomplete,
        what: format!(
            "{} of {} never read so far",
            span(rows.iter().map(|row| row.gaps).sum()),
            accounts(rows.len())
        ),
        who: who(picture, &rows),
        todo: "nothing to do: gaps are read by themselves, the newest first, as the metadata budget allows; `ringcx-extractor \
               audit` lists them"
            .to_owned(),
    })
}

fn of_lag(picture: &Picture, pace: Pace, now: Time) -> Option<Finding> {
    // Whatever has a gap or is paused is behind for that reason, which has been named.
    let explained =
        |row: &Row| row.missing || !row.gaps.is_zero() || row.paused.iter().any(|pause| pause.endpoint == "metadata");
    let mut late = largest(picture, |row| row.lag(now));
    late.retain(|row| pace.late(row, now) && !explained(row));
    let worst = late.first()?;
    let lag = span(worst.lag(now).unwrap_or_default());
    Some(Finding {
        level: Level::Behind,
        what: match late.len() {
            1 => format!("{} is {lag} behind", worst.title()),
            many => format!("{} are behind, by {lag} at most", accounts(many)),
        },
        who: if late.len() == 1 { String::new() } else { who(picture, &late) },
        todo: format!(
            "nothing to do for a while: it catches up in wider windows; if it grows, look for warnings in the log (up to {} is normal)",
            span(pace.lag)
        ),
    })
}

fn of_backlog(picture: &Picture) -> Option<Finding> {
    let longest = if picture.one_budget {
        backlog(picture.rows.iter())
    } else {
        picture.rows.iter().map(|row| backlog([row].into_iter())).max().unwrap_or_default()
    };
    let items: u64 = picture.rows.iter().map(|row| row.work.ready + row.work.running).sum();
    (longest > BACKLOG).then(|| Finding {
        level: Level::Behind,
        what: format!(
            "{} due; at the limit that takes {} at least",
            count(items, "item is", "items are"),
            span(longest)
        ),
        who: who(picture, &largest(picture, |row| row.work.ready + row.work.running)),
        todo: "nothing to do: what is new goes first; if it never shrinks, ask the vendor for a higher limit"
            .to_owned(),
    })
}

fn of_index(picture: &Picture) -> Option<Finding> {
    let index = picture.status.search_index;
    (index.lag_seconds > INDEX_LATE.as_secs()).then(|| Finding {
        level: Level::Behind,
        what: format!(
            "the full-text index is {} behind the archive, the first for {}",
            count(index.lag_changes, "change", "changes"),
            span(Duration::from_secs(index.lag_seconds))
        ),
        who: String::new(),
        todo: "nothing to do while it shrinks: the daemon indexes by itself, and nothing but search waits for it; if it does \
               not, look for warnings in the log"
            .to_owned(),
    })
}

fn accounts(number: usize) -> String {
    count(u64::try_from(number).unwrap_or(u64::MAX), "account", "accounts")
}

#[cfg(test)]
mod tests;
