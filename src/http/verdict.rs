//! The findings as the dashboard shows them: the one line that says how things stand, and the level of each account. Pure.
//!
//! Four levels, and the worst counts: in trouble (something will not get better without a person), incomplete (something
//! is missing from the archive that should be there), behind (it gets on, but late), healthy.

use std::collections::HashMap;

use crate::clock::Time;
use crate::health::Severity;
use crate::status::words::span;
use crate::status::{FindingStatus, SinkState, SinkStatus};

use super::picture::Picture;
use super::ready::STANDBY;

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

impl Level {
    /// How bad a finding is.
    pub(super) fn of(finding: &FindingStatus) -> Level {
        match finding.severity {
            _ if finding.is_incompleteness() => Level::Incomplete,
            Severity::Trouble => Level::Trouble,
            Severity::Warning => Level::Behind,
            Severity::Info => Level::Healthy,
        }
    }
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    /// Without the level's words.
    pub(super) line: String,
    /// Worst first.
    pub(super) findings: Vec<FindingStatus>,
    levels: HashMap<String, Level>,
}

impl Verdict {
    /// From the findings.
    pub(super) fn new(mut findings: Vec<FindingStatus>, picture: Option<&Picture>, now: Time) -> Verdict {
        findings.sort_by_key(|finding| std::cmp::Reverse(Level::of(finding)));
        let mut levels: HashMap<String, Level> = HashMap::new();
        for finding in &findings {
            for account in &finding.accounts {
                let level = levels.entry(account.clone()).or_insert(Level::Healthy);
                *level = Level::of(finding).max(*level);
            }
        }
        let worst = findings.first().filter(|worst| Level::of(worst) > Level::Healthy);
        let level = worst.map_or(Level::Healthy, Level::of);
        let line = worst.map_or_else(|| good(&findings, picture, now), |worst| worst.sentence.clone());
        Verdict { level, line, findings, levels }
    }

    /// How an account stands.
    pub(super) fn of_account(&self, sub: &str) -> Level {
        self.levels.get(sub).copied().unwrap_or(Level::Healthy)
    }
}

/// What there is to say where nothing is wrong.
fn good(findings: &[FindingStatus], picture: Option<&Picture>, now: Time) -> String {
    if let Some(waits) = findings.iter().find(|finding| finding.code == STANDBY) {
        return waits.sentence.clone();
    }
    let worst = picture.and_then(|picture| picture.rows.iter().filter_map(|row| row.lag(now)).max());
    worst.map_or_else(
        || "no account is known yet".to_owned(),
        |worst| format!("everything that ended up to {} ago has been found, without a gap", span(worst)),
    )
}

/// How a sink stands.
pub(super) fn of_sink(sink: &SinkStatus) -> Level {
    match sink.state {
        SinkState::Stopped => Level::Trouble,
        _ if sink.failed > 0 => Level::Incomplete,
        SinkState::Resting => Level::Behind,
        SinkState::Active | SinkState::New | SinkState::NotInTheSettings => Level::Healthy,
    }
}

#[cfg(test)]
mod tests;
