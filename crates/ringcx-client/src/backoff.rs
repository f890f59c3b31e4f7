//! When to try an item again, and when to give it up. Pure: the present and chance are arguments.

use std::time::Duration;

use crate::clock::{Time, millis};

/// Whose fault a failed request is, and so what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// 5xx, a time-out, a reset, a truncated or undecodable body: trying again helps, sooner or later.
    Transient,
    /// An answer that came and cannot be used: cut off, too large, or not what was asked for. Trying again may help; where
    /// it fails alike again and again until the horizon, only a person can.
    Broken,
    /// 404, an `errorCode` in a 200, or a transcript without a word: not there yet. Runs towards the horizon.
    NotYet,
    /// 429: someone asked too often; the account's affair.
    RateLimited,
    /// 403: the user lacks a permission; the account's affair where it happens again and again.
    Forbidden,
    /// 401 although the token was fresh: the login's affair.
    Unauthorised,
    /// Any other 4xx: asking the same again will hardly change the answer.
    Permanent,
}

/// What is to become of an item after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again then.
    TryAgain {
        /// When.
        at: Time,
    },
    /// It was not there to the end.
    GaveUp,
    /// Only a person can help.
    NeedsAPerson,
}

/// What an item has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// How often it was tried, this time included.
    pub tries: u32,
    /// How often the answer was one that asking again will hardly change, this time included.
    pub refusals: u32,
    /// How many answers in a row were broken alike, this one included.
    pub alike: u32,
    /// When it was first tried.
    pub first_try: Time,
    /// How long the account was paused since then; that time does not count.
    pub paused: Duration,
}

/// So many answers that asking again will hardly change are enough: the first may have been a slip of the service's.
const REFUSALS: u32 = 8;

/// So many answers broken alike, one after the other, at the horizon: the next will be no better.
const MIN_BROKEN_ALIKE: u32 = 5;

/// A schedule of tries: exponential, with jitter, and a horizon for what is never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    give_up_after: Duration,
}

/// A schedule that cannot be.
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
            return Err(BackoffError("retry_initial, retry_max and give_up_after must be longer than nothing"));
        }
        Ok(Backoff { initial, max: max.max(initial), give_up_after })
    }

    /// The first delay.
    pub fn initial(&self) -> Duration {
        self.initial
    }

    /// The delay after so many tries: `initial`, doubled for each further one, at most `max`; within [1/2, 1] of
    /// that as `jitter`, in 0..1, says.
    pub fn delay(&self, tries: u32, jitter: f64) -> Duration {
        let doubled = self.initial.checked_mul(1_u32 << tries.saturating_sub(1).min(30)).unwrap_or(self.max);
        doubled.min(self.max).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// When an item is given up if it is never there.
    pub fn horizon(&self, tried: &Tried) -> Time {
        tried.first_try + self.give_up_after + tried.paused
    }

    /// What is to become of an item that failed just now. `asked` is what `Retry-After` asked for, a floor.
    pub fn next(&self, fault: Fault, tried: Tried, asked: Option<Duration>, now: Time, jitter: f64) -> Verdict {
        if fault == Fault::Permanent && tried.refusals >= REFUSALS {
            return Verdict::NeedsAPerson;
        }
        let at = now + self.delay(tried.tries, jitter).max(asked.unwrap_or_default());
        // A clock stepped back must not make the wait for the horizon longer than it ever was.
        let first_try = tried.first_try.min(now);
        let horizon = self.horizon(&Tried { first_try, ..tried });
        match fault {
            Fault::Broken if now >= horizon && tried.alike >= MIN_BROKEN_ALIKE => return Verdict::NeedsAPerson,
            Fault::NotYet if now >= horizon => return Verdict::GaveUp,
            Fault::NotYet => {}
            _ => return Verdict::TryAgain { at },
        }
        // One last try is made when time is up, whatever the doubling says.
        let at = if at < horizon { at } else { horizon.max(now + asked.unwrap_or_default()) };
        Verdict::TryAgain { at: at.max(now.plus_millis(1)) }
    }

    /// How many tries an item gets that is never there, without jitter; for people.
    pub fn tries(&self) -> u32 {
        let (mut passed, mut tries) = (0, 1_u32);
        while passed < millis(self.give_up_after) && tries < 10_000 {
            passed += millis(self.delay(tries, 1.0)).max(1);
            tries += 1;
        }
        tries
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usual() -> Backoff {
        Backoff::new(Duration::from_secs(15), Duration::from_secs(6 * 3600), Duration::from_secs(72 * 3600)).unwrap()
    }

    fn tried(tries: u32) -> Tried {
        Tried { tries, refusals: 0, alike: 0, first_try: Time(0), paused: Duration::ZERO }
    }

    #[test]
    fn the_defaults_give_some_twenty_tries_in_three_days() {
        assert!((18..=24).contains(&usual().tries()), "{}", usual().tries());
    }

    #[test]
    fn what_was_asked_for_is_a_floor() {
        let asked = Some(Duration::from_secs(1000));
        let at = Time::from_secs(1000);
        assert_eq!(usual().next(Fault::Transient, tried(1), asked, Time(0), 0.5), Verdict::TryAgain { at });
        assert_eq!(usual().next(Fault::NotYet, tried(1), asked, Time(0), 0.5), Verdict::TryAgain { at });
    }

    #[test]
    fn only_what_is_not_there_runs_towards_the_horizon() {
        let late = Time::from_secs(365 * 86_400);
        for fault in [Fault::Transient, Fault::RateLimited, Fault::Forbidden, Fault::Unauthorised] {
            assert!(matches!(usual().next(fault, tried(4000), None, late, 0.5), Verdict::TryAgain { .. }));
        }
        assert_eq!(usual().next(Fault::NotYet, tried(20), None, late, 0.5), Verdict::GaveUp);
    }

    #[test]
    fn time_spent_paused_does_not_count() {
        let horizon = Time::from_secs(72 * 3600);
        let paused = Tried { paused: Duration::from_secs(3600), ..tried(20) };
        assert_eq!(usual().next(Fault::NotYet, tried(20), None, horizon, 0.5), Verdict::GaveUp);
        let again = usual().next(Fault::NotYet, paused, None, horizon, 0.5);
        assert_eq!(again, Verdict::TryAgain { at: horizon + Duration::from_secs(3600) });
    }

    #[test]
    fn answers_that_will_not_change_need_a_person_after_a_few() {
        let few = Tried { refusals: REFUSALS - 1, ..tried(7) };
        let many = Tried { refusals: REFUSALS, ..tried(8) };
        assert!(matches!(usual().next(Fault::Permanent, few, None, Time(0), 0.5), Verdict::TryAgain { .. }));
        assert_eq!(usual().next(Fault::Permanent, many, None, Time(0), 0.5), Verdict::NeedsAPerson);
    }

    #[test]
    fn what_is_broken_alike_five_times_needs_a_person_at_the_horizon_and_not_before() {
        let (early, late) = (Time::from_secs(72 * 3600 - 1), Time::from_secs(72 * 3600));
        let next = |fault, alike, now| usual().next(fault, Tried { alike, ..tried(20) }, None, now, 0.5);
        assert_eq!(next(Fault::Broken, 5, late), Verdict::NeedsAPerson);
        assert!(matches!(next(Fault::Broken, 500, early), Verdict::TryAgain { .. }));
        assert!(matches!(next(Fault::Broken, 4, late), Verdict::TryAgain { .. }));
        assert!(matches!(next(Fault::Transient, 500, late), Verdict::TryAgain { .. }));
    }

    #[test]
    fn a_schedule_without_time_cannot_be() {
        assert!(Backoff::new(Duration::ZERO, Duration::from_secs(1), Duration::from_secs(1)).is_err());
    }

    proptest! {
        #[test]
        fn every_item_that_is_never_there_gets_a_last_try_at_its_horizon(
            initial in 1u64..100_000, max in 1u64..10_000_000, horizon in 1u64..100_000_000, jitter in 0.0f64..1.0,
        ) {
            let backoff = Backoff::new(Duration::from_millis(initial), Duration::from_millis(max), Duration::from_millis(horizon)).unwrap();
            let (mut now, mut tries) = (Time(0), 0);
            loop {
                tries += 1;
                prop_assume!(tries < 5000);
                match backoff.next(Fault::NotYet, tried(tries), None, now, jitter) {
                    Verdict::TryAgain { at } => { prop_assert!(at > now && at <= backoff.horizon(&tried(1))); now = at; }
                    Verdict::GaveUp => break,
                    Verdict::NeedsAPerson => prop_assert!(false, "nobody can help"),
                }
            }
            prop_assert_eq!(now, backoff.horizon(&tried(1)));
        }

        #[test]
        fn no_history_and_no_clock_makes_it_panic_or_stand_still(
            tries in any::<u32>(), refusals in 0u32..8, first in any::<i64>(), paused in any::<u64>(), now in any::<i64>(),
            asked in proptest::option::of(0u64..1_000_000), jitter in any::<f64>(),
        ) {
            let paused = Duration::from_millis(paused);
            let tried = Tried { tries, refusals, alike: tries, first_try: Time(first), paused };
            let asked = asked.map(Duration::from_secs);
            for fault in [Fault::NotYet, Fault::Transient, Fault::Permanent, Fault::Broken] {
                if let Verdict::TryAgain { at } = usual().next(fault, tried, asked, Time(now), jitter) {
                    prop_assert!(at > Time(now) || now == i64::MAX);
                }
            }
        }
    }
}
