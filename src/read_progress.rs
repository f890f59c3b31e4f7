//! Detects that an account's metadata reads make no progress.
//!
//! The discoverer records each read; the heartbeat asks for a [`Stall`]. Pure: no I/O, and time is
//! passed in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;

/// Intervals without a successful read that make a stall.
const STALL_INTERVALS: u32 = 3;
/// Extra time for the read itself, so that short intervals raise no false alarm.
const STALL_SLACK: Duration = Duration::from_secs(5);
/// A read that has been due for so long is a stall, however long the interval is.
const MAX_STALL_THRESHOLD: Duration = Duration::from_secs(600);
/// Reads that have failed for so long are worth a warning.
const WARN_AFTER: Duration = Duration::from_secs(30);

/// The state of an account's metadata reads.
#[derive(Debug, Default)]
pub(crate) struct ReadProgress(Mutex<ProgressState>);

#[derive(Debug, Default)]
struct ProgressState {
    /// When a read last succeeded, or when the account was loaded.
    last_progress: Option<Tick>,
    /// Since when a read has been due without a success.
    due_since: Option<Tick>,
    /// Why the last read failed, and a hint.
    failure: Option<(String, Option<&'static str>)>,
}

/// A metadata read that is overdue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stall {
    /// How long it has lasted.
    pub(crate) duration: Duration,
    /// Whether it has lasted so long that the account counts as making no progress.
    pub(crate) blocks_progress: bool,
    /// The reason, as far as it is known.
    pub(crate) reason: String,
    /// What an operator can do.
    pub(crate) hint: String,
}

impl ReadProgress {
    /// Records that reading starts.
    pub(crate) fn record_start(&self, now: Tick) {
        *self.state() = ProgressState { last_progress: Some(now), ..ProgressState::default() };
    }

    /// Records that a read is about to be sent.
    pub(crate) fn record_due(&self, now: Tick) {
        self.state().due_since.get_or_insert(now);
    }

    /// Records that a part of an answer was stored.
    pub(crate) fn record_partial(&self, now: Tick) {
        let mut state = self.state();
        (state.last_progress, state.due_since) = (Some(now), state.due_since.map(|_| now));
    }

    /// Records a successful read.
    pub(crate) fn record_success(&self, now: Tick) {
        self.record_start(now);
    }

    /// Records a failed read.
    pub(crate) fn record_failure(&self, reason: &str, hint: Option<&'static str>) {
        self.state().failure = Some((reason.to_owned(), hint));
    }

    /// The stall, if there is one. `max_interval` is the longest time between two reads in normal
    /// operation.
    pub(crate) fn find_stall(&self, now: Tick, max_interval: Duration) -> Option<Stall> {
        let state = self.state();
        let threshold = max_interval.saturating_mul(STALL_INTERVALS).saturating_add(STALL_SLACK);
        if let Some(due_since) = state.due_since {
            let duration = now.since(due_since);
            let blocks_progress = duration >= threshold.min(MAX_STALL_THRESHOLD);
            let warns = state.failure.is_some() && duration >= WARN_AFTER;
            let (reason, hint) = match &state.failure {
                Some((reason, hint)) => (reason.as_str(), hint.unwrap_or(RETRY_HINT)),
                None => ("the answer has not come yet", RETRY_HINT),
            };
            let stall = Stall { duration, blocks_progress, reason: reason.to_owned(), hint: hint.to_owned() };
            return (blocks_progress || warns).then_some(stall);
        }
        let duration = now.since(state.last_progress?);
        (duration >= threshold).then(|| Stall {
            duration,
            blocks_progress: true,
            reason: "no read became due in that time, although one should have".to_owned(),
            hint: "compare this machine's clock with the true time, and look for warnings in the log".to_owned(),
        })
    }

    fn state(&self) -> MutexGuard<'_, ProgressState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const RETRY_HINT: &str = "the read is retried automatically; `ringcx-extractor check` shows what is wrong";

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_INTERVAL: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    fn blocks_progress(reads: &ReadProgress, now: u64) -> Option<bool> {
        reads.find_stall(at(now), MAX_INTERVAL).map(|stall| stall.blocks_progress)
    }

    #[test]
    fn failed_reads_are_a_warning_after_half_a_minute_and_block_progress_after_ten_minutes() {
        let reads = ReadProgress::default();
        reads.record_start(at(0));
        reads.record_due(at(100));
        reads.record_failure("503", None);
        reads.record_due(at(115));
        assert_eq!(
            (blocks_progress(&reads, 129), blocks_progress(&reads, 130), blocks_progress(&reads, 699)),
            (None, Some(false), Some(false))
        );
        assert_eq!(blocks_progress(&reads, 700), Some(true));
        reads.record_success(at(700));
        assert_eq!(blocks_progress(&reads, 701), None);
    }

    #[test]
    fn an_answer_that_never_arrives_blocks_progress_and_one_that_keeps_arriving_does_not() {
        let reads = ReadProgress::default();
        reads.record_start(at(0));
        reads.record_due(at(10));
        assert_eq!((blocks_progress(&reads, 609), blocks_progress(&reads, 610)), (None, Some(true)));
        reads.record_partial(at(620));
        assert_eq!((blocks_progress(&reads, 1219), blocks_progress(&reads, 1220)), (None, Some(true)));
    }

    #[test]
    fn three_intervals_without_a_read_block_progress_whatever_the_reason() {
        let reads = ReadProgress::default();
        assert_eq!(blocks_progress(&reads, 1_000_000), None, "reading has not started");
        reads.record_start(at(0));
        assert_eq!((blocks_progress(&reads, 904), blocks_progress(&reads, 905)), (None, Some(true)));
        reads.record_success(at(910));
        assert_eq!(blocks_progress(&reads, 1814), None);
        let short = |now| reads.find_stall(at(now), Duration::from_secs(2)).is_some();
        assert_eq!((short(920), short(921)), (false, true));
    }
}
