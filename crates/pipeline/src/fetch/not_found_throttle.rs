//! Saves requests for an artifact that an account never has. Pure.
//!
//! If summaries are not enabled for an account, each of its segments would be requested twenty
//! times in three days, in vain. After a run of late 404s without a success, items of that artifact
//! are deferred without an attempt, except for an occasional probe. One success ends the
//! throttling, and the deferred items become due at once. Each item still gets its last attempt
//! before it is given up.
//!
//! A 404 is late if the vendor has had ample time
//! ([`super::retry_policy::RetryPolicy::is_late`]). Early 404s do not count: a busy account collects
//! many of them while the vendor is a quarter of an hour behind.

use std::time::Duration;

use crate::clock::Time;

/// Late 404s in a row that start the throttling.
const NOT_FOUND_RUN: u32 = 40;
/// The first interval between probes. It doubles with each probe...
const MIN_PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// ...up to this.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(3600);

/// The throttle of one artifact of one account.
#[derive(Debug, Default)]
pub(super) struct NotFoundThrottle {
    run: u32,
    /// When the next probe is due, and the current interval. `None` while the throttle is inactive.
    probe: Option<(Time, Duration)>,
}

impl NotFoundThrottle {
    /// Records a 404.
    pub(super) fn record_not_found(&mut self, late: bool, now: Time) {
        if late || self.probe.is_some() {
            self.run = self.run.saturating_add(1);
        }
        if self.run >= NOT_FOUND_RUN && self.probe.is_none() {
            self.probe = Some((now + MIN_PROBE_INTERVAL, MIN_PROBE_INTERVAL));
        }
    }

    /// Records a success. Returns whether it ends the throttling, so that deferred items are due.
    pub(super) fn record_found(&mut self) -> bool {
        self.run = 0;
        self.probe.take().is_some()
    }

    /// Whether an item may be attempted now; if not, defer it.
    pub(super) fn admit_attempt(&mut self, is_last_attempt: bool, now: Time) -> bool {
        let Some((due, interval)) = &mut self.probe else { return true };
        if is_last_attempt {
            return true;
        }
        if now < *due {
            return false;
        }
        *interval = (*interval * 2).min(MAX_PROBE_INTERVAL);
        *due = now + *interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_run_of_late_404s_starts_the_throttling() {
        let mut throttle = NotFoundThrottle::default();
        for _ in 0..1000 {
            throttle.record_not_found(false, Time(0));
        }
        assert!(throttle.probe.is_none() && throttle.admit_attempt(false, Time(0)));
        for _ in 0..NOT_FOUND_RUN {
            throttle.record_not_found(true, Time(0));
        }
        assert!(throttle.probe.is_some());
    }

    #[test]
    fn an_active_throttle_admits_few_attempts_and_a_success_ends_it() {
        let mut throttle = NotFoundThrottle::default();
        for _ in 0..NOT_FOUND_RUN {
            throttle.record_not_found(true, Time(0));
        }
        let day = 86_400;
        let attempts = (0..day).filter(|second| throttle.admit_attempt(false, Time::from_secs(*second))).count();
        assert!((20..40).contains(&attempts), "{attempts}");
        assert!(throttle.admit_attempt(true, Time(1)));
        assert!(throttle.record_found());
        assert!(!throttle.record_found() && throttle.admit_attempt(false, Time(2)));
    }
}
