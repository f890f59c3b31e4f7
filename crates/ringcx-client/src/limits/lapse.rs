//! What a fresh pacer may assume about whoever used the same budget before it. Pure.
//!
//! The pacer's memory dies with its process, and the server's does not. The argument why ten restarts in a minute
//! keep within the limit all the same, with `L` for [`LATEST_ARRIVAL`], `B` for the bucket and `q` for the time that a
//! cell takes to flow in: a run that starts with an empty bucket sends at most as much as flowed in since. Whatever
//! the server counts in one window was sent in a stretch of a window and `L`. If each run's bucket begins to fill no
//! sooner than `L` after the last request of the run before, the stretch holds at least one `L` in which nothing
//! flowed, so that at most `B + window / q` cells were spent in it, which is what a single run may send in a window.

use std::time::Duration;

use super::LATEST_ARRIVAL;

/// What is known, after a start or a take-over, about the previous user of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapse {
    /// Nobody has used the budget for a minute and more.
    Fresh,
    /// The previous user let go, with nothing in flight.
    Released {
        /// How long ago it let go.
        ago: Duration,
    },
    /// The previous user ended, or fell silent, without letting go.
    Died {
        /// How long ago it gave the last sign of life.
        last_seen_ago: Duration,
        /// For how long after that sign it may have gone on sending: until the deadline that the sign bought it.
        sends_for: Duration,
        /// How many of its requests may still be under way and may arrive any time (a machine that sleeps wakes up
        /// again). Zero where the process is known to be gone. Room is left for them, at most half of the limit.
        in_flight: u32,
    },
}

/// How to begin: with an empty bucket that starts to fill `hold` from now, or has been filling for `filled_for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Start {
    /// How long nothing may leave.
    pub(super) hold: Duration,
    /// For how long the pace has been earning; the bucket overflows as always.
    pub(super) filled_for: Duration,
}

impl Lapse {
    /// For how long the previous user has certainly sent nothing.
    pub fn quiet_for(self) -> Duration {
        match self {
            Lapse::Fresh => Duration::MAX,
            Lapse::Released { ago } => ago,
            Lapse::Died { last_seen_ago, sends_for, .. } => last_seen_ago.saturating_sub(sends_for),
        }
    }

    /// Turns what is known into how to begin, where one request takes `period` to earn; `None` for a full bucket.
    pub(super) fn start(self, period: Duration, limit: u32) -> Option<Start> {
        if self == Lapse::Fresh {
            return None;
        }
        let quiet_for = self.quiet_for();
        let quiet_needed = LATEST_ARRIVAL.saturating_add(period.saturating_mul(self.room(limit)));
        Some(Start { hold: quiet_needed.saturating_sub(quiet_for), filled_for: quiet_for.saturating_sub(quiet_needed) })
    }

    /// For how many requests of the previous user room is left.
    pub(super) fn room(self, limit: u32) -> u32 {
        match self {
            Lapse::Died { in_flight, .. } => in_flight.min(limit / 2),
            Lapse::Fresh | Lapse::Released { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(500);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn after_nobody_there_is_nothing_to_wait_for() {
        assert_eq!(Lapse::Fresh.start(PERIOD, 120), None);
    }

    #[test]
    fn after_a_release_the_bucket_fills_from_the_moment_when_all_has_arrived() {
        let start = Lapse::Released { ago: Duration::ZERO }.start(PERIOD, 120).unwrap();
        assert_eq!(start, Start { hold: seconds(2), filled_for: Duration::ZERO });
        let start = Lapse::Released { ago: seconds(10) }.start(PERIOD, 120).unwrap();
        assert_eq!(start, Start { hold: Duration::ZERO, filled_for: seconds(8) });
    }

    #[test]
    fn after_a_death_the_last_request_may_be_younger_than_the_last_sign_of_life() {
        let died =
            |last_seen, in_flight| Lapse::Died { last_seen_ago: seconds(last_seen), sends_for: seconds(15), in_flight };
        assert_eq!(died(5, 0).start(PERIOD, 120).unwrap().hold, seconds(2));
        assert_eq!(died(16, 0).start(PERIOD, 120).unwrap().hold, seconds(1));
        assert_eq!(died(5, 8).start(PERIOD, 120).unwrap().hold, seconds(6));
        assert_eq!(died(5, 8).room(120), 8);
        assert_eq!(died(5, 8).room(1), 0, "or a limit of one would stand still");
    }
}
