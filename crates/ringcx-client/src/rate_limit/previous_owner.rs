//! What a new pacer may assume about the previous user of the same limit. Pure.
//!
//! The pacer's memory ends with its process; the server's does not. Why ten restarts in a minute
//! stay within the limit all the same, with `L` for [`MAX_ARRIVAL_DELAY`], `B` for the bucket and
//! `q` for the time that one cell takes to refill:
//!
//! 1. A run that starts with an empty bucket sends at most what was refilled since.
//! 2. The requests that the server counts in one window were sent within a window plus `L`.
//! 3. Each run's bucket starts to fill no sooner than `L` after the last request of the run before.
//!    So that span holds at least one `L` without refill, and at most `B + window / q` cells were
//!    spent in it.
//! 4. That is what a single run may send in a window.

use std::time::Duration;

use super::MAX_ARRIVAL_DELAY;

/// What is known, after a start or a take-over, about the previous user of a request limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviousOwner {
    /// Nobody has used the limit for a minute or longer.
    Absent,
    /// The previous owner released the limit, with nothing in flight.
    Released {
        /// The time since the release.
        ago: Duration,
    },
    /// The previous owner ended or stopped sending heartbeats without a release.
    Lapsed {
        /// The time since its last heartbeat.
        last_seen_ago: Duration,
        /// How long after that heartbeat it may have sent requests: until the deadline of its
        /// lease.
        may_send_for: Duration,
        /// How many of its requests may still be in flight and arrive at any time, as after a
        /// suspended machine resumes. Zero where the process is known to be gone. Slots are kept
        /// free for them, at most half of the limit.
        in_flight: u32,
    },
}

/// How to start: with an empty bucket that starts to fill `hold` from now, or has been filling for
/// `filled_for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StartDelay {
    /// How long nothing may be sent.
    pub(super) hold: Duration,
    /// For how long the bucket has been filling. It overflows as always.
    pub(super) filled_for: Duration,
}

impl PreviousOwner {
    /// For how long the previous owner has certainly sent nothing.
    pub fn quiet_for(self) -> Duration {
        match self {
            PreviousOwner::Absent => Duration::MAX,
            PreviousOwner::Released { ago } => ago,
            PreviousOwner::Lapsed { last_seen_ago, may_send_for, .. } => last_seen_ago.saturating_sub(may_send_for),
        }
    }

    /// How to start, where one request takes `interval` to refill; `None` for a full bucket.
    pub(super) fn start_delay(self, interval: Duration, limit: u32) -> Option<StartDelay> {
        if self == PreviousOwner::Absent {
            return None;
        }
        let quiet_for = self.quiet_for();
        let quiet_needed = MAX_ARRIVAL_DELAY.saturating_add(interval.saturating_mul(self.reserved_slots(limit)));
        Some(StartDelay {
            hold: quiet_needed.saturating_sub(quiet_for),
            filled_for: quiet_for.saturating_sub(quiet_needed),
        })
    }

    /// How many slots are kept free for requests of the previous owner.
    pub(super) fn reserved_slots(self, limit: u32) -> u32 {
        match self {
            PreviousOwner::Lapsed { in_flight, .. } => in_flight.min(limit / 2),
            PreviousOwner::Absent | PreviousOwner::Released { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn without_a_previous_owner_there_is_nothing_to_wait_for() {
        assert_eq!(PreviousOwner::Absent.start_delay(INTERVAL, 120), None);
    }

    #[test]
    fn after_a_release_the_bucket_fills_from_the_moment_when_all_has_arrived() {
        let start = PreviousOwner::Released { ago: Duration::ZERO }.start_delay(INTERVAL, 120).unwrap();
        assert_eq!(start, StartDelay { hold: seconds(2), filled_for: Duration::ZERO });
        let start = PreviousOwner::Released { ago: seconds(10) }.start_delay(INTERVAL, 120).unwrap();
        assert_eq!(start, StartDelay { hold: Duration::ZERO, filled_for: seconds(8) });
    }

    #[test]
    fn after_a_lapse_the_last_request_may_be_younger_than_the_last_heartbeat() {
        let lapsed = |last_seen, in_flight| PreviousOwner::Lapsed {
            last_seen_ago: seconds(last_seen),
            may_send_for: seconds(15),
            in_flight,
        };
        assert_eq!(lapsed(5, 0).start_delay(INTERVAL, 120).unwrap().hold, seconds(2));
        assert_eq!(lapsed(16, 0).start_delay(INTERVAL, 120).unwrap().hold, seconds(1));
        assert_eq!(lapsed(5, 8).start_delay(INTERVAL, 120).unwrap().hold, seconds(6));
        assert_eq!(lapsed(5, 8).reserved_slots(120), 8);
        assert_eq!(lapsed(5, 8).reserved_slots(1), 0, "or a limit of one would stand still");
    }
}
