//! The lag and the backlog of the last day. Kept in memory only: it starts empty with the process.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Time;

/// The interval between samples.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(300);
/// One day of samples.
const MAX_SAMPLES: usize = 288;

/// One sample over all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LagSample {
    pub(super) at: Time,
    /// The lag of the account that is furthest behind.
    pub(super) lag: Duration,
    /// Items without an answer.
    pub(super) backlog: u64,
}

/// The samples of one day.
#[derive(Debug, Default)]
pub(super) struct LagHistory(Mutex<VecDeque<LagSample>>);

impl LagHistory {
    /// Records a sample, if one is due.
    pub(super) fn record(&self, sample: LagSample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After the clock was set back, the day starts over.
        if samples.back().is_some_and(|last| last.at > sample.at) {
            samples.clear();
        }
        // A sample slightly early is accepted, so that sampling every five minutes does not skip
        // every other sample.
        if samples.back().is_some_and(|last| sample.at.since(last.at) < SAMPLE_INTERVAL - SAMPLE_INTERVAL / 50) {
            return;
        }
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The samples, oldest first.
    pub(super) fn samples(&self) -> Vec<LagSample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64) -> LagSample {
        LagSample { at: Time::from_secs(seconds), lag: Duration::ZERO, backlog: 0 }
    }

    #[test]
    fn one_day_is_kept_in_samples_of_five_minutes() {
        let history = LagHistory::default();
        for second in (0..200_000).step_by(100) {
            history.record(sample(second));
        }
        let samples = history.samples();
        assert_eq!(samples.len(), MAX_SAMPLES);
        assert!(samples.windows(2).all(|pair| pair[1].at.since(pair[0].at) == SAMPLE_INTERVAL));
    }

    #[test]
    fn a_clock_that_is_set_back_starts_the_history_over() {
        let history = LagHistory::default();
        history.record(sample(1000));
        history.record(sample(10));
        assert_eq!(history.samples(), [sample(10)]);
    }
}
