//! Detects that all answers for an account's artifacts are broken: cut off, or not what was
//! requested.
//!
//! One broken answer concerns its item only and pauses nothing. If all of them are broken,
//! something on the way answers in RingCX's place. The fetch worker records each answer; the
//! heartbeat asks for each [`BrokenStreak`]. Pure: no I/O, and time is passed in.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;
use crate::model::Artifact;

/// A streak is reported after so many broken answers without a usable one between them...
const MIN_BROKEN_ANSWERS: u64 = 20;
/// ...over at least so long.
const MIN_STREAK_DURATION: Duration = Duration::from_secs(600);
/// A streak without a further answer for so long is over: nothing is requested any more.
const MAX_SILENCE: Duration = Duration::from_secs(24 * 3600);

/// The current streak of broken answers of each artifact of an account.
#[derive(Debug, Default)]
pub(crate) struct BrokenAnswers(Mutex<BTreeMap<Artifact, StreakState>>);

#[derive(Debug, Clone, Copy)]
struct StreakState {
    answers: u64,
    first: Tick,
    newest: Tick,
    reason: &'static str,
}

/// A streak of broken answers that is long enough to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrokenStreak {
    /// The artifact whose answers are broken.
    pub(crate) artifact: Artifact,
    /// The number of broken answers.
    pub(crate) answers: u64,
    /// The time since the first of them.
    pub(crate) duration: Duration,
    /// How the newest answer is broken.
    pub(crate) reason: &'static str,
}

impl BrokenAnswers {
    /// Records a broken answer.
    pub(crate) fn record_broken(&self, artifact: Artifact, reason: &'static str, now: Tick) {
        let mut streaks = self.streaks();
        let streak = streaks.entry(artifact).or_insert(StreakState { answers: 0, first: now, newest: now, reason });
        *streak = StreakState { answers: streak.answers.saturating_add(1), newest: now, reason, ..*streak };
    }

    /// Records a usable answer, which ends the streak.
    pub(crate) fn record_usable(&self, artifact: Artifact) {
        self.streaks().remove(&artifact);
    }

    /// The streaks that are long enough to report.
    pub(crate) fn lasting_streaks(&self, now: Tick) -> Vec<BrokenStreak> {
        let streaks = self.streaks();
        let reported = |(artifact, streak): (&Artifact, &StreakState)| {
            let StreakState { answers, first, newest, reason } = *streak;
            let is_lasting = answers >= MIN_BROKEN_ANSWERS
                && newest.since(first) >= MIN_STREAK_DURATION
                && now.since(newest) < MAX_SILENCE;
            is_lasting.then_some(BrokenStreak { artifact: *artifact, answers, duration: now.since(first), reason })
        };
        streaks.iter().filter_map(reported).collect()
    }

    fn streaks(&self) -> MutexGuard<'_, BTreeMap<Artifact, StreakState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "they break off";

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    #[test]
    fn twenty_broken_answers_over_ten_minutes_without_a_usable_one_are_reported() {
        let answers = BrokenAnswers::default();
        for second in 0..20 {
            answers.record_broken(Artifact::Transcript, REASON, at(second * 30));
        }
        assert_eq!(answers.lasting_streaks(at(599)), [], "not yet ten minutes");
        answers.record_broken(Artifact::AutoSummary, REASON, at(600));
        answers.record_broken(Artifact::Transcript, REASON, at(600));
        let duration = Duration::from_secs(700);
        let streak = BrokenStreak { artifact: Artifact::Transcript, answers: 21, duration, reason: REASON };
        assert_eq!(answers.lasting_streaks(at(700)), [streak]);
        assert_eq!(answers.lasting_streaks(at(600 + 24 * 3600)), [], "nothing is requested any more");
        answers.record_usable(Artifact::Transcript);
        assert_eq!(answers.lasting_streaks(at(700)), []);
        for second in 0..19 {
            answers.record_broken(Artifact::Transcript, REASON, at(1_000 + second * 100));
        }
        assert_eq!(answers.lasting_streaks(at(5_000)), [], "fewer than twenty");
    }
}
