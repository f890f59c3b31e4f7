//! The last answers of a sink, from which the circuit learns whether the sink or single events are
//! at fault.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::Tick;

/// How many answers count.
const MAX_ANSWERS: usize = 32;
/// How long an answer counts.
const MAX_AGE: Duration = Duration::from_secs(60);
/// So many different events must have failed before the sink counts as at fault.
const MIN_FAILED_EVENTS: usize = 3;
/// The share of failures that opens the circuit counts from this many answers.
const MIN_ANSWERS: usize = 10;
/// The share of failures that opens the circuit, in tenths. A receiver that answers half of the
/// requests badly still accepts the other half.
const MAX_FAILED_TENTHS: usize = 8;
/// So many failures in a row open the circuit. A receiver that fails three times in ten at random
/// does so once in two million answers.
const MAX_CONSECUTIVE_FAILURES: usize = 12;
/// A success among this many answers shows that the sink accepts events now.
const RECENT_ANSWERS: usize = 8;

/// The last answers, oldest first: when, which event, and whether it was accepted.
#[derive(Debug, Default)]
pub(super) struct AnswerWindow(VecDeque<(Tick, (i64, i64), bool)>);

impl AnswerWindow {
    pub(super) fn push(&mut self, now: Tick, event: (i64, i64), accepted: bool) {
        self.0.retain(|(at, ..)| now.since(*at) < MAX_AGE);
        self.0.push_back((now, event, accepted));
        if self.0.len() > MAX_ANSWERS {
            self.0.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether any answer was a success.
    pub(super) fn has_success(&self) -> bool {
        self.0.iter().any(|(.., accepted)| *accepted)
    }

    /// Whether one of the newest answers was a success.
    pub(super) fn has_recent_success(&self) -> bool {
        self.0.iter().rev().take(RECENT_ANSWERS).any(|(.., accepted)| *accepted)
    }

    /// Whether at least half of the answers were successes.
    pub(super) fn is_mostly_successful(&self) -> bool {
        2 * self.failures() <= self.0.len()
    }

    /// Whether the failures are the sink's fault: nearly all answers are failures, of several
    /// events. An event that fails again and again counts as one.
    pub(super) fn shows_an_outage(&self) -> bool {
        let failed: BTreeSet<_> = self.0.iter().filter(|(.., accepted)| !accepted).map(|(_, event, _)| event).collect();
        let consecutive = self.0.iter().rev().take_while(|(.., accepted)| !accepted).count();
        let enough = !self.has_success()
            || consecutive >= MAX_CONSECUTIVE_FAILURES
            || self.0.len() >= MIN_ANSWERS && 10 * self.failures() >= MAX_FAILED_TENTHS * self.0.len();
        failed.len() >= MIN_FAILED_EVENTS && enough
    }

    fn failures(&self) -> usize {
        self.0.iter().filter(|(.., accepted)| !accepted).count()
    }
}
