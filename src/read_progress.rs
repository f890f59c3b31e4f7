//! Whether an account's metadata reads make progress: since when a read was wanted and none has succeeded.
//!
//! The discoverer reports what happens; the heartbeat asks for a [`Stall`]. Pure: no I/O, and time is passed in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;

/// So many intervals without a successful read are a stall.
const INTERVALS: u32 = 3;
/// What a read may take beyond that, so that short intervals raise no false alarm.
const SLACK: Duration = Duration::from_secs(5);
/// A read that has been wanted for so long is a stall, however long the interval is.
const LONGEST: Duration = Duration::from_secs(600);
/// A read that has failed for so long is worth a warning.
const WARN_AFTER: Duration = Duration::from_secs(30);

/// What is known of an account's metadata reads.
#[derive(Debug, Default)]
pub struct ReadProgress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When a read last succeeded, or reading began.
    progressed: Option<Tick>,
    /// Since when a read has been wanted without one that succeeded.
    wanted: Option<Tick>,
    /// Why the last one failed, and what to do.
    failure: Option<(String, Option<&'static str>)>,
}

/// Metadata that should have been read and was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// For how long.
    pub lasts: Duration,
    /// Whether it has lasted so long that the account makes no progress.
    pub is_lasting: bool,
    /// Why, as far as is known.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

impl ReadProgress {
    /// Reading begins.
    pub fn started(&self, now: Tick) {
        *self.state() = State { progressed: Some(now), ..State::default() };
    }

    /// A read is about to be made.
    pub fn wanted(&self, now: Tick) {
        self.state().wanted.get_or_insert(now);
    }

    /// A part of an answer has been stored.
    pub fn stored_part(&self, now: Tick) {
        let mut state = self.state();
        (state.progressed, state.wanted) = (Some(now), state.wanted.map(|_| now));
    }

    /// A read succeeded.
    pub fn succeeded(&self, now: Tick) {
        self.started(now);
    }

    /// A read failed.
    pub fn failed(&self, reason: &str, hint: Option<&'static str>) {
        self.state().failure = Some((reason.to_owned(), hint));
    }

    /// The stall, if there is one. `pace` is how far apart reads are at the most while all is well.
    pub fn stall(&self, now: Tick, pace: Duration) -> Option<Stall> {
        let state = self.state();
        let patience = pace.saturating_mul(INTERVALS).saturating_add(SLACK);
        if let Some(wanted) = state.wanted {
            let lasts = now.since(wanted);
            let is_lasting = lasts >= patience.min(LONGEST);
            let warns = state.failure.is_some() && lasts >= WARN_AFTER;
            let (reason, hint) = match &state.failure {
                Some((reason, hint)) => (reason.as_str(), hint.unwrap_or(TRIED_AGAIN)),
                None => ("the answer has not come yet", TRIED_AGAIN),
            };
            let stall = Stall { lasts, is_lasting, reason: reason.to_owned(), hint: hint.to_owned() };
            return (is_lasting || warns).then_some(stall);
        }
        let lasts = now.since(state.progressed?);
        (lasts >= patience).then(|| Stall {
            lasts,
            is_lasting: true,
            reason: "no read was due in that time, although one should have been".to_owned(),
            hint: "compare this machine's clock with the true time, and look for warnings in the log".to_owned(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const TRIED_AGAIN: &str = "it is tried again by itself; `ringcx-extractor check` tells what is wrong";

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    fn lasting(reads: &ReadProgress, now: u64) -> Option<bool> {
        reads.stall(at(now), PACE).map(|stall| stall.is_lasting)
    }

    #[test]
    fn a_read_that_fails_is_a_warning_after_half_a_minute_and_lasting_after_ten() {
        let reads = ReadProgress::default();
        reads.started(at(0));
        reads.wanted(at(100));
        reads.failed("503", None);
        reads.wanted(at(115));
        assert_eq!(
            (lasting(&reads, 129), lasting(&reads, 130), lasting(&reads, 699)),
            (None, Some(false), Some(false))
        );
        assert_eq!(lasting(&reads, 700), Some(true));
        reads.succeeded(at(700));
        assert_eq!(lasting(&reads, 701), None);
    }

    #[test]
    fn an_answer_that_never_comes_is_lasting_and_one_that_goes_on_coming_is_not() {
        let reads = ReadProgress::default();
        reads.started(at(0));
        reads.wanted(at(10));
        assert_eq!((lasting(&reads, 609), lasting(&reads, 610)), (None, Some(true)));
        reads.stored_part(at(620));
        assert_eq!((lasting(&reads, 1219), lasting(&reads, 1220)), (None, Some(true)));
    }

    #[test]
    fn three_intervals_in_which_nothing_was_read_are_lasting_whatever_the_reason() {
        let reads = ReadProgress::default();
        assert_eq!(lasting(&reads, 1_000_000), None, "nothing has begun");
        reads.started(at(0));
        assert_eq!((lasting(&reads, 904), lasting(&reads, 905)), (None, Some(true)));
        reads.succeeded(at(910));
        assert_eq!(lasting(&reads, 1814), None);
        let short = |now| reads.stall(at(now), Duration::from_secs(2)).is_some();
        assert_eq!((short(920), short(921)), (false, true));
    }
}
