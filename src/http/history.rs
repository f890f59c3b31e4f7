//! How far behind and how long the queue was over the last day. In memory only: it begins anew with the process.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Time;

/// Between samples.
pub(super) const STEP: Duration = Duration::from_secs(300);
/// A day of them.
const MOST: usize = 288;

/// One look at all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Time,
    /// Of the account that is furthest behind.
    pub(super) lag: Duration,
    /// Items that have never been answered.
    pub(super) backlog: u64,
}

/// The samples of a day.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// Takes a sample in, if it is time for one.
    pub(super) fn note(&self, sample: Sample) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back starts the day over rather than stopping it.
        if held.back().is_some_and(|last| last.at > sample.at) {
            held.clear();
        }
        // A little early is in time: whoever samples every five minutes is not to miss every other one.
        if held.back().is_some_and(|last| sample.at.since(last.at) < STEP - STEP / 50) {
            return;
        }
        if held.len() == MOST {
            held.pop_front();
        }
        held.push_back(sample);
    }

    /// The samples so far, oldest first.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64) -> Sample {
        Sample { at: Time::from_secs(seconds), lag: Duration::ZERO, backlog: 0 }
    }

    #[test]
    fn a_day_is_kept_at_five_minutes_each() {
        let history = History::default();
        for second in (0..200_000).step_by(100) {
            history.note(sample(second));
        }
        let samples = history.samples();
        assert_eq!(samples.len(), MOST);
        assert!(samples.windows(2).all(|pair| pair[1].at.since(pair[0].at) == STEP));
    }

    #[test]
    fn a_clock_that_is_set_back_starts_over() {
        let history = History::default();
        history.note(sample(1000));
        history.note(sample(10));
        assert_eq!(history.samples(), [sample(10)]);
    }
}
