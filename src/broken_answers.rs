//! Whether the answers for an account's artifacts can be used: since when all of them have come broken.
//!
//! A broken answer is its item's affair (cut off, not what was asked for), and pauses nothing. Where all of them are, someone
//! on the way answers in RingCX's place. The drain reports what happens; the heartbeat asks for a [`BrokenStreak`]. Pure: no
//! I/O, and time is passed in.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;
use crate::model::Artifact;

/// So many broken answers without a usable one between them...
const MIN_ANSWERS: u64 = 20;
/// ...over at least so long are no accident.
const MIN_LENGTH: Duration = Duration::from_secs(600);
/// Where none has come for so long, nothing is asked for any more.
const LONGEST_SILENCE: Duration = Duration::from_secs(24 * 3600);

/// What is known of an account's answers, by artifact.
#[derive(Debug, Default)]
pub struct BrokenAnswers(Mutex<BTreeMap<Artifact, Streak>>);

#[derive(Debug, Clone, Copy)]
struct Streak {
    answers: u64,
    first: Tick,
    newest: Tick,
    reason: &'static str,
}

/// Broken answers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenStreak {
    /// Of what.
    pub artifact: Artifact,
    /// How many.
    pub answers: u64,
    /// Since when.
    pub lasts: Duration,
    /// How the newest is broken.
    pub reason: &'static str,
}

impl BrokenAnswers {
    /// An answer came that is broken.
    pub fn broken(&self, artifact: Artifact, reason: &'static str, now: Tick) {
        let mut streaks = self.streaks();
        let streak = streaks.entry(artifact).or_insert(Streak { answers: 0, first: now, newest: now, reason });
        *streak = Streak { answers: streak.answers.saturating_add(1), newest: now, reason, ..*streak };
    }

    /// An answer came that can be used.
    pub fn usable(&self, artifact: Artifact) {
        self.streaks().remove(&artifact);
    }

    /// The artifacts of which all answers are broken.
    pub fn lasting(&self, now: Tick) -> Vec<BrokenStreak> {
        let streaks = self.streaks();
        let lasting = |(artifact, streak): (&Artifact, &Streak)| {
            let Streak { answers, first, newest, reason } = *streak;
            let lasts =
                answers >= MIN_ANSWERS && newest.since(first) >= MIN_LENGTH && now.since(newest) < LONGEST_SILENCE;
            lasts.then_some(BrokenStreak { artifact: *artifact, answers, lasts: now.since(first), reason })
        };
        streaks.iter().filter_map(lasting).collect()
    }

    fn streaks(&self) -> MutexGuard<'_, BTreeMap<Artifact, Streak>> {
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
    fn twenty_broken_answers_over_ten_minutes_without_a_usable_one_are_no_accident() {
        let answers = BrokenAnswers::default();
        for second in 0..20 {
            answers.broken(Artifact::Transcript, REASON, at(second * 30));
        }
        assert_eq!(answers.lasting(at(599)), [], "not yet ten minutes");
        answers.broken(Artifact::AutoSummary, REASON, at(600));
        answers.broken(Artifact::Transcript, REASON, at(600));
        let lasts = Duration::from_secs(700);
        let streak = BrokenStreak { artifact: Artifact::Transcript, answers: 21, lasts, reason: REASON };
        assert_eq!(answers.lasting(at(700)), [streak]);
        assert_eq!(answers.lasting(at(600 + 24 * 3600)), [], "nothing is asked for any more");
        answers.usable(Artifact::Transcript);
        assert_eq!(answers.lasting(at(700)), []);
        for second in 0..19 {
            answers.broken(Artifact::Transcript, REASON, at(1_000 + second * 100));
        }
        assert_eq!(answers.lasting(at(5_000)), [], "fewer than twenty");
    }
}
