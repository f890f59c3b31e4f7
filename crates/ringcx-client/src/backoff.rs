//! When to try an item again, and when to give it up. Pure: time and random numbers are arguments.

use std::time::Duration;

use crate::clock::Time;

/// Whose fault a failed request is, which decides what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// 5xx, a time-out, a reset, a truncated or undecodable body: a later attempt can succeed.
    Transient,
    /// An answer that came and cannot be used: cut off, too large, or not what was asked for.
    /// Another attempt may help. If it is broken in the same way until the horizon, only manual
    /// intervention helps.
    Broken,
    /// 404, an `errorCode` in a 200, or a transcript without content: not available yet. Given up
    /// at the horizon.
    NotYet,
    /// 429: too many requests for the account. The account's fault.
    RateLimited,
    /// 403: the user lacks a permission. The account's fault if it repeats.
    Forbidden,
    /// 401 although the token was fresh. The login's fault.
    Unauthorised,
    /// Any other 4xx: another attempt hardly changes the answer.
    Permanent,
}

/// What to do with an item after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again later.
    Retry {
        /// The time of the next attempt.
        at: Time,
    },
    /// It did not become available before the horizon.
    GiveUp,
    /// Further attempts do not help.
    ManualInterventionRequired,
}

/// The failed attempts of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptHistory {
    /// The number of attempts, this one included.
    pub tries: u32,
    /// The number of answers with [`Fault::Permanent`], this one included.
    pub refusals: u32,
    /// The number of consecutive answers that were broken in the same way, this one included.
    pub consecutive_broken: u32,
    /// The time of the first attempt.
    pub first_try: Time,
    /// How long the account was paused since then. That time does not count.
    pub paused: Duration,
}

/// The number of answers with [`Fault::Permanent`] after which attempts end. More than one, because
/// the service may err.
const MAX_PERMANENT_REFUSALS: u32 = 8;

/// The number of consecutive answers, broken in the same way, that end the attempts at the horizon.
const MIN_CONSECUTIVE_BROKEN: u32 = 5;

/// An exponential backoff with jitter, and a horizon for items that never become available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    give_up_after: Duration,
}

/// Invalid settings of a [`Backoff`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackoffError(&'static str);

impl Backoff {
    /// From the settings `retry_initial`, `retry_max` and `give_up_after`.
    ///
    /// # Errors
    /// Where one of them is zero.
    pub fn new(initial: Duration, max: Duration, give_up_after: Duration) -> Result<Backoff, BackoffError> {
        if initial.is_zero() || max.is_zero() || give_up_after.is_zero() {
            return Err(BackoffError("retry_initial, retry_max and give_up_after must be greater than zero"));
        }
        Ok(Backoff { initial, max: max.max(initial), give_up_after })
    }

    /// The delay after the first attempt, without jitter.
    pub fn initial_delay(&self) -> Duration {
        self.initial
    }

    /// The delay after `tries` attempts: `initial`, doubled for each further one, at most `max`.
    /// `jitter`, in 0..1, scales it to between 1/2 and 1 of that.
    pub fn delay(&self, tries: u32, jitter: f64) -> Duration {
        let doubled = self.initial.checked_mul(1_u32 << tries.saturating_sub(1).min(30)).unwrap_or(self.max);
        doubled.min(self.max).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// When an item is given up that never becomes available.
    pub fn horizon(&self, history: &AttemptHistory) -> Time {
        history.first_try + self.give_up_after + history.paused
    }

    /// Decides what to do with an item that failed now. `retry_after` is the wait of `Retry-After`,
    /// a lower bound.
    pub fn decide(
        &self,
        fault: Fault,
        history: AttemptHistory,
        retry_after: Option<Duration>,
        now: Time,
        jitter: f64,
    ) -> RetryDecision {
        if fault == Fault::Permanent && history.refusals >= MAX_PERMANENT_REFUSALS {
            return RetryDecision::ManualInterventionRequired;
        }
        let at = now + self.delay(history.tries, jitter).max(retry_after.unwrap_or_default());
        // A clock set back must not make the wait until the horizon longer.
        let first_try = history.first_try.min(now);
        let horizon = self.horizon(&AttemptHistory { first_try, ..history });
        match fault {
            Fault::Broken if now >= horizon && history.consecutive_broken >= MIN_CONSECUTIVE_BROKEN => {
                return RetryDecision::ManualInterventionRequired;
            }
            Fault::NotYet if now >= horizon => return RetryDecision::GiveUp,
            Fault::NotYet => {}
            _ => return RetryDecision::Retry { at },
        }
        // The last attempt is made at the horizon, even if the doubled delay ends later.
        let at = if at < horizon { at } else { horizon.max(now + retry_after.unwrap_or_default()) };
        RetryDecision::Retry { at: at.max(now.plus_millis(1)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usual() -> Backoff {
        Backoff::new(Duration::from_secs(15), Duration::from_secs(6 * 3600), Duration::from_secs(72 * 3600)).unwrap()
    }

    fn history(tries: u32) -> AttemptHistory {
        AttemptHistory { tries, refusals: 0, consecutive_broken: 0, first_try: Time(0), paused: Duration::ZERO }
    }

    #[test]
    fn the_defaults_allow_about_twenty_attempts_in_three_days() {
        let (mut passed, mut tries) = (Duration::ZERO, 1);
        while passed < Duration::from_secs(72 * 3600) {
            passed += usual().delay(tries, 1.0);
            tries += 1;
        }
        assert!((18..=24).contains(&tries), "{tries}");
    }

    #[test]
    fn the_requested_wait_is_a_lower_bound() {
        let retry_after = Some(Duration::from_secs(1000));
        let at = Time::from_secs(1000);
        assert_eq!(
            usual().decide(Fault::Transient, history(1), retry_after, Time(0), 0.5),
            RetryDecision::Retry { at }
        );
        assert_eq!(usual().decide(Fault::NotYet, history(1), retry_after, Time(0), 0.5), RetryDecision::Retry { at });
    }

    #[test]
    fn only_unavailable_items_are_given_up_at_the_horizon() {
        let late = Time::from_secs(365 * 86_400);
        for fault in [Fault::Transient, Fault::RateLimited, Fault::Forbidden, Fault::Unauthorised] {
            assert!(matches!(usual().decide(fault, history(4000), None, late, 0.5), RetryDecision::Retry { .. }));
        }
        assert_eq!(usual().decide(Fault::NotYet, history(20), None, late, 0.5), RetryDecision::GiveUp);
    }

    #[test]
    fn time_spent_paused_does_not_count() {
        let horizon = Time::from_secs(72 * 3600);
        let paused = AttemptHistory { paused: Duration::from_secs(3600), ..history(20) };
        assert_eq!(usual().decide(Fault::NotYet, history(20), None, horizon, 0.5), RetryDecision::GiveUp);
        let again = usual().decide(Fault::NotYet, paused, None, horizon, 0.5);
        assert_eq!(again, RetryDecision::Retry { at: horizon + Duration::from_secs(3600) });
    }

    #[test]
    fn repeated_permanent_refusals_need_manual_intervention() {
        let few = AttemptHistory { refusals: MAX_PERMANENT_REFUSALS - 1, ..history(7) };
        let many = AttemptHistory { refusals: MAX_PERMANENT_REFUSALS, ..history(8) };
        assert!(matches!(usual().decide(Fault::Permanent, few, None, Time(0), 0.5), RetryDecision::Retry { .. }));
        assert_eq!(
            usual().decide(Fault::Permanent, many, None, Time(0), 0.5),
            RetryDecision::ManualInterventionRequired
        );
    }

    #[test]
    fn five_answers_broken_in_the_same_way_need_manual_intervention_at_the_horizon_and_not_before() {
        let (early, late) = (Time::from_secs(72 * 3600 - 1), Time::from_secs(72 * 3600));
        let next = |fault, consecutive_broken, now| {
            usual().decide(fault, AttemptHistory { consecutive_broken, ..history(20) }, None, now, 0.5)
        };
        assert_eq!(next(Fault::Broken, 5, late), RetryDecision::ManualInterventionRequired);
        assert!(matches!(next(Fault::Broken, 500, early), RetryDecision::Retry { .. }));
        assert!(matches!(next(Fault::Broken, 4, late), RetryDecision::Retry { .. }));
        assert!(matches!(next(Fault::Transient, 500, late), RetryDecision::Retry { .. }));
    }

    #[test]
    fn a_zero_duration_is_refused() {
        assert!(Backoff::new(Duration::ZERO, Duration::from_secs(1), Duration::from_secs(1)).is_err());
    }

    proptest! {
        #[test]
        fn every_item_that_is_never_available_gets_a_last_attempt_at_its_horizon(
            initial in 1u64..100_000, max in 1u64..10_000_000, horizon in 1u64..100_000_000, jitter in 0.0f64..1.0,
        ) {
            let backoff = Backoff::new(Duration::from_millis(initial), Duration::from_millis(max), Duration::from_millis(horizon)).unwrap();
            let (mut now, mut tries) = (Time(0), 0);
            loop {
                tries += 1;
                prop_assume!(tries < 5000);
                match backoff.decide(Fault::NotYet, history(tries), None, now, jitter) {
                    RetryDecision::Retry { at } => { prop_assert!(at > now && at <= backoff.horizon(&history(1))); now = at; }
                    RetryDecision::GiveUp => break,
                    RetryDecision::ManualInterventionRequired => prop_assert!(false, "an unavailable item needs no intervention"),
                }
            }
            prop_assert_eq!(now, backoff.horizon(&history(1)));
        }

        #[test]
        fn no_history_and_no_clock_makes_it_panic_or_stop(
            tries in any::<u32>(), refusals in 0u32..8, first in any::<i64>(), paused in any::<u64>(), now in any::<i64>(),
            retry_after in proptest::option::of(0u64..1_000_000), jitter in any::<f64>(),
        ) {
            let paused = Duration::from_millis(paused);
            let history = AttemptHistory { tries, refusals, consecutive_broken: tries, first_try: Time(first), paused };
            let retry_after = retry_after.map(Duration::from_secs);
            for fault in [Fault::NotYet, Fault::Transient, Fault::Permanent, Fault::Broken] {
                if let RetryDecision::Retry { at } = usual().decide(fault, history, retry_after, Time(now), jitter) {
                    prop_assert!(at > Time(now) || now == i64::MAX);
                }
            }
        }
    }
}
