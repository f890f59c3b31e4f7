//! Limits wrong tokens and keys, for everyone together: an address can be changed at will.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Tick};

/// How many wrong ones in a row are checked before checks are delayed.
pub(super) const MAX_WRONG_ATTEMPTS: u32 = 10;
/// How long until one more is checked.
pub(super) const ATTEMPT_REFILL_INTERVAL: Duration = Duration::from_secs(10);

/// Unlike in a general rate limiter, only a wrong attempt counts.
pub(super) struct AttemptLimiter {
    clock: Clock,
    /// When all attempts are refilled.
    refilled_at: Mutex<Tick>,
}

impl AttemptLimiter {
    pub(super) fn new(clock: Clock) -> AttemptLimiter {
        AttemptLimiter { refilled_at: Mutex::new(clock.tick()), clock }
    }

    /// Makes an attempt, unless too many before were wrong. `check` returns `None` for a wrong one.
    ///
    /// # Errors
    /// How long to wait for the next attempt.
    pub(super) fn attempt<T>(&self, check: impl FnOnce() -> Option<T>) -> Result<Option<T>, Duration> {
        let mut refilled_at = self.refilled_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.tick();
        let wait = refilled_at.since(now + ATTEMPT_REFILL_INTERVAL * (MAX_WRONG_ATTEMPTS - 1));
        if !wait.is_zero() {
            return Err(wait.max(Duration::from_secs(1)));
        }
        let checked = check();
        if checked.is_none() {
            *refilled_at = now.max(*refilled_at) + ATTEMPT_REFILL_INTERVAL;
        }
        Ok(checked)
    }
}
