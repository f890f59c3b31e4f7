//! The reaction to a 429: pause, lower the rate to what seems to be left, and recover. Pure: time
//! is an argument.
//!
//! This client never causes a 429, so a 429 means that another client uses the account. The window
//! was full at that moment: our requests of the last minute are what the others leave of it. The
//! new rate starts a little below that. It grows slowly at first, so that refusals stay rare while
//! the others stay, and faster the longer no refusal comes.
//!
//! Some servers refuse now and then without such a reason. If each of these refusals lowered the
//! rate, one in a hundred would keep it at a fraction of the limit, because the next comes before
//! the rate has recovered. So a single refusal among many successes causes a pause only. It says
//! nothing about other clients: where the rate is higher than what they leave, refusals come in
//! numbers.

use std::time::Duration;

use crate::clock::Tick;

/// The first pause where the server names none. Doubles with each further refusal.
const INITIAL_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that the server did not ask for: after it, whatever filled the window has left
/// it.
const MAX_OWN_PAUSE: Duration = Duration::from_secs(60);

/// The new rate is this share of what was let through.
const RATE_SAFETY_FACTOR: f64 = 0.95;

/// One refusal never lowers the rate by more than this: an idle last minute says little.
const MAX_DECREASE_FACTOR: f64 = 0.5;

/// The lowest rate: a twentieth of the limit.
const MIN_RATE_FACTOR: f64 = 0.05;

/// The rate has doubled this many minutes after a refusal. It has grown by a twentieth after a
/// quarter of them, and sixteenfold after twice as many. Measured against a simulated server:
/// slower growth uses less of what is left, faster growth is refused more often.
const RATE_DOUBLING_MINUTES: f64 = 10.0;

/// This many successes offset one refusal. A higher number helps less against refusals without a
/// reason; a lower one causes more refusals where other clients use the account.
const SUCCESSES_PER_REFUSAL: u32 = 50;

/// Refusals that can be offset in advance: one, and one more for this many requests a minute.
/// Random refusals come in clusters, and a larger limit meets more of them before the rate has
/// recovered.
const LIMIT_PER_OFFSET_REFUSAL: u32 = 400;
const MAX_OFFSET_REFUSALS: u32 = 10;

/// A server that asks for a longer wait than this is not refusing at random: the window is full.
const MAX_RANDOM_REFUSAL_WAIT: Duration = Duration::from_secs(5);

/// The throttle's state after a refusal, as much as another process needs to continue from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThrottleState {
    /// Nothing may be sent before.
    pub pause_until: Tick,
    /// The share of the limit from which the rate grows again after the pause.
    pub rate_factor: f64,
    /// How many pauses there were without a success between them.
    pub consecutive_pauses: u32,
}

#[derive(Debug)]
pub(super) struct AdaptiveThrottle {
    /// The factor from which the rate has been growing, pauses since not included.
    base_factor: f64,
    recovery_start: Tick,
    pause_until: Option<Tick>,
    /// Successes that have not offset a refusal yet, and the most that count.
    successes: u32,
    max_successes: u32,
    consecutive_pauses: u32,
    /// Whether a request was sent since the last pause. If not, a refusal belongs to a request that
    /// was sent before it.
    sent_since_pause: bool,
    total_refusals: u64,
}

impl AdaptiveThrottle {
    pub(super) fn new(limit: u32) -> AdaptiveThrottle {
        AdaptiveThrottle {
            base_factor: 1.0,
            recovery_start: Tick::default(),
            pause_until: None,
            successes: 0,
            max_successes: SUCCESSES_PER_REFUSAL * (1 + limit / LIMIT_PER_OFFSET_REFUSAL).min(MAX_OFFSET_REFUSALS),
            consecutive_pauses: 0,
            sent_since_pause: true,
            total_refusals: 0,
        }
    }

    /// The share of the full rate to use: above 0, at most 1.
    pub(super) fn rate_factor(&self, now: Tick) -> f64 {
        let doublings = (now.since(self.recovery_start).as_secs_f64() / 60.0 / RATE_DOUBLING_MINUTES).powi(2);
        (self.base_factor * doublings.min(16.0).exp2()).clamp(MIN_RATE_FACTOR, 1.0)
    }

    /// Until when nothing may be sent because of a refusal; in the past, or `None`, if requests may
    /// be sent.
    pub(super) fn pause_until(&self) -> Option<Tick> {
        self.pause_until
    }

    pub(super) fn total_refusals(&self) -> u64 {
        self.total_refusals
    }

    /// Records a 429. `requested_wait` is what the server asked for, `share` the part of the limit
    /// that was let through in the last minute. Refusals of requests that were in flight together
    /// are one: only the longest requested wait counts. Returns whether the state has changed.
    pub(super) fn record_refusal(&mut self, now: Tick, requested_wait: Option<Duration>, share: f64) -> bool {
        self.total_refusals += 1;
        let requested_wait = requested_wait.unwrap_or_default();
        if let Some(pause) = self.pause_until.filter(|pause| now < *pause || !self.sent_since_pause) {
            let longer = if requested_wait.is_zero() { pause } else { pause.max(now + requested_wait) };
            self.pause_until = Some(longer);
            self.recovery_start = self.recovery_start + longer.since(pause);
            return longer > pause;
        }
        let own = INITIAL_PAUSE.saturating_mul(1 << self.consecutive_pauses.min(10)).min(MAX_OWN_PAUSE);
        let pause = own.max(requested_wait);
        if self.consecutive_pauses == 0
            && requested_wait <= MAX_RANDOM_REFUSAL_WAIT
            && self.successes >= SUCCESSES_PER_REFUSAL
        {
            self.successes -= SUCCESSES_PER_REFUSAL;
            self.recovery_start = self.recovery_start + pause;
        } else {
            let factor = self.rate_factor(now);
            self.base_factor =
                (share * RATE_SAFETY_FACTOR).clamp(factor * MAX_DECREASE_FACTOR, factor).max(MIN_RATE_FACTOR);
            self.recovery_start = now + pause;
        }
        self.pause_until = Some(now + pause);
        self.consecutive_pauses = self.consecutive_pauses.saturating_add(1);
        self.sent_since_pause = false;
        true
    }

    /// The state for the next process that uses the limit; `None` without a refusal so far.
    pub(super) fn state(&self) -> Option<ThrottleState> {
        self.pause_until.map(|at| ThrottleState {
            pause_until: at,
            rate_factor: self.rate_factor(at),
            consecutive_pauses: self.consecutive_pauses,
        })
    }

    /// Continues from the state of another process, unless a later refusal is known.
    pub(super) fn restore(&mut self, state: ThrottleState) {
        if self.pause_until.is_none_or(|pause| state.pause_until > pause) {
            self.pause_until = Some(state.pause_until);
            self.base_factor = state.rate_factor.clamp(MIN_RATE_FACTOR, 1.0);
            self.recovery_start = state.pause_until;
            self.successes = 0;
            self.consecutive_pauses = state.consecutive_pauses;
            self.sent_since_pause = false;
        }
    }

    pub(super) fn lift_pause(&mut self, now: Tick) {
        if let Some(pause) = self.pause_until.filter(|pause| *pause > now) {
            self.recovery_start = Tick(self.recovery_start.0.saturating_sub(pause.since(now)));
            self.pause_until = Some(now);
        }
    }

    pub(super) fn record_sent(&mut self, now: Tick) {
        self.sent_since_pause |= self.pause_until.is_none_or(|pause| now >= pause);
    }

    /// Records an answer other than 429: the next pause is short again.
    pub(super) fn record_success(&mut self) {
        self.successes = (self.successes + 1).min(self.max_successes);
        if self.sent_since_pause {
            self.consecutive_pauses = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> Tick {
        Tick(Duration::from_secs_f64(seconds))
    }

    /// The length of the pause that a refusal at `now` causes, after a request sent at that moment.
    fn pause(throttle: &mut AdaptiveThrottle, now: Tick, requested_wait: Option<Duration>) -> Duration {
        throttle.record_sent(now);
        throttle.record_refusal(now, requested_wait, 0.5);
        throttle.pause_until().unwrap().since(now)
    }

    #[test]
    fn pauses_double_up_to_a_minute_until_something_succeeds() {
        let mut throttle = AdaptiveThrottle::new(120);
        let mut now = at(0.0);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let took = pause(&mut throttle, now, None);
            assert_eq!(took, Duration::from_secs(expected));
            now = now + took;
        }
        throttle.record_sent(now);
        throttle.record_success();
        assert_eq!(pause(&mut throttle, now, None), Duration::from_secs(1));
    }

    #[test]
    fn the_requested_wait_is_a_floor() {
        let mut throttle = AdaptiveThrottle::new(120);
        assert_eq!(pause(&mut throttle, at(0.0), Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(pause(&mut throttle, at(30.0), Some(Duration::from_millis(1))), Duration::from_secs(2));
    }

    #[test]
    fn refusals_of_requests_in_flight_together_are_one() {
        let mut throttle = AdaptiveThrottle::new(120);
        pause(&mut throttle, at(0.0), None);
        let factor = throttle.rate_factor(at(1.0));
        throttle.record_refusal(at(0.1), None, 0.1);
        throttle.record_refusal(at(1.5), None, 0.1);
        throttle.record_success();
        assert_eq!(throttle.pause_until(), Some(at(1.0)));
        assert_eq!(throttle.rate_factor(at(1.0)), factor);
        throttle.record_refusal(at(1.6), Some(Duration::from_secs(5)), 0.1);
        assert_eq!(throttle.pause_until(), Some(at(6.6)), "but the longest requested wait counts");
        assert_eq!(throttle.total_refusals(), 4);
    }

    #[test]
    fn the_rate_falls_to_what_was_left_but_at_most_by_half_and_grows_back() {
        let mut throttle = AdaptiveThrottle::new(120);
        throttle.record_refusal(at(0.0), None, 0.8);
        let after = |minutes: f64| at(1.0 + 60.0 * minutes);
        assert!((throttle.rate_factor(after(0.0)) - 0.76).abs() < 1e-9);
        assert!(throttle.rate_factor(after(2.0)) < 0.80);
        assert!(throttle.rate_factor(after(3.0)) > 0.80);
        assert_eq!(throttle.rate_factor(after(10.0)), 1.0);
        assert_eq!(throttle.rate_factor(after(1e9)), 1.0);
        throttle.record_sent(after(10.0));
        throttle.record_refusal(after(10.0), None, 0.0);
        assert_eq!(throttle.rate_factor(after(10.0)), 0.5);
    }

    /// A throttle without refusals, after `answers` successes.
    fn throttle_after(limit: u32, answers: u32) -> AdaptiveThrottle {
        let mut throttle = AdaptiveThrottle::new(limit);
        (0..answers).for_each(|_| throttle.record_success());
        throttle
    }

    #[test]
    fn a_single_refusal_among_successes_pauses_and_does_not_lower_the_rate() {
        let mut throttle = throttle_after(120, SUCCESSES_PER_REFUSAL);
        assert_eq!(pause(&mut throttle, at(0.0), Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(throttle.rate_factor(at(3.0)), 1.0);
        assert_eq!(
            throttle.state(),
            Some(ThrottleState { pause_until: at(3.0), rate_factor: 1.0, consecutive_pauses: 1 })
        );
        // The next refusal lowers the rate unless enough successes came between.
        throttle.record_sent(at(4.0));
        (1..SUCCESSES_PER_REFUSAL).for_each(|_| throttle.record_success());
        pause(&mut throttle, at(30.0), None);
        assert_eq!(throttle.rate_factor(at(31.0)), MAX_DECREASE_FACTOR);
    }

    #[test]
    fn the_rate_falls_where_the_next_try_is_refused_too_or_the_server_asks_for_a_long_wait() {
        let mut throttle = throttle_after(1200, 10 * SUCCESSES_PER_REFUSAL);
        pause(&mut throttle, at(0.0), None);
        assert_eq!(throttle.rate_factor(at(1.0)), 1.0);
        pause(&mut throttle, at(1.0), None);
        assert_eq!(throttle.rate_factor(at(3.0)), MAX_DECREASE_FACTOR);
        let mut throttle = throttle_after(1200, 10 * SUCCESSES_PER_REFUSAL);
        pause(&mut throttle, at(0.0), Some(MAX_RANDOM_REFUSAL_WAIT + Duration::from_secs(1)));
        assert_eq!(throttle.rate_factor(at(6.0)), MAX_DECREASE_FACTOR);
    }

    #[test]
    fn successes_offset_only_a_bounded_number_of_refusals() {
        for (limit, spared) in [(1, 1), (120, 1), (600, 2), (1200, 4), (u32::MAX, 10)] {
            let mut throttle = throttle_after(limit, 10_000);
            let mut now = at(0.0);
            let mut count = 0;
            loop {
                now = now + pause(&mut throttle, now, None);
                if throttle.rate_factor(now) < 1.0 {
                    break;
                }
                count += 1;
                // One success: the next pause is short again, and nothing else changes.
                throttle.record_sent(now);
                throttle.record_success();
            }
            assert_eq!(count, spared, "at {limit} a minute");
        }
    }

    #[test]
    fn a_single_refusal_does_not_interrupt_the_recovery_of_the_rate() {
        let mut throttle = AdaptiveThrottle::new(120);
        pause(&mut throttle, at(0.0), None);
        throttle.record_sent(at(1.0));
        (0..SUCCESSES_PER_REFUSAL).for_each(|_| throttle.record_success());
        let before = throttle.rate_factor(at(241.0));
        pause(&mut throttle, at(241.0), None);
        assert!((throttle.rate_factor(at(242.0)) - before).abs() < 1e-9 && before > 0.5);
        assert_eq!(throttle.rate_factor(at(242.0 + 600.0)), 1.0);
    }

    /// The longest time until the rate has recovered after the last pause: log2(1 / SLOWEST)
    /// doublings.
    const MAX_RECOVERY_MINUTES: f64 = 21.0;

    /// Refusals: the time since the pause before, the requested wait, the share that was let
    /// through.
    fn refusals() -> impl Strategy<Value = Vec<(f64, Option<u64>, f64)>> {
        prop::collection::vec((0.0..2000.0, prop::option::of(0..100_u64), 0.0..=1.0), 1..30)
    }

    proptest! {
        #[test]
        fn each_refusal_lowers_the_rate_never_to_zero_and_it_recovers_in_bounded_time(refusals in refusals()) {
            let mut throttle = AdaptiveThrottle::new(120);
            let mut now = at(0.0);
            for (gap, requested_wait, share) in refusals {
                now = now + Duration::from_secs_f64(gap);
                throttle.record_sent(now);
                let before = throttle.rate_factor(now);
                prop_assert!(throttle.record_refusal(now, requested_wait.map(Duration::from_secs), share));
                now = throttle.pause_until().unwrap();
                let after = throttle.rate_factor(now);
                prop_assert!((MIN_RATE_FACTOR..1.0).contains(&after), "{after}");
                // Where more than its own rate was let through, the last minute began before the
                // rate was lowered.
                prop_assert!(after < before || before == MIN_RATE_FACTOR || share > before, "{before} to {after}");
                prop_assert!(after <= before, "{before} to {after}");
                prop_assert!(after >= before * MAX_DECREASE_FACTOR, "{before} to {after}");
            }
            let mut last = 0.0;
            for minute in 0..=MAX_RECOVERY_MINUTES as u32 {
                let factor = throttle.rate_factor(now + Duration::from_secs(60) * minute);
                prop_assert!(factor >= last, "it fell from {last} to {factor} without a refusal");
                last = factor;
            }
            prop_assert_eq!(last, 1.0);
        }

        #[test]
        fn another_process_continues_exactly_from_the_saved_state(refusals in refusals(), later in 0.0..3000.0) {
            let mut throttle = AdaptiveThrottle::new(120);
            let mut now = at(0.0);
            for (gap, requested_wait, share) in refusals {
                now = now + Duration::from_secs_f64(gap);
                throttle.record_sent(now);
                throttle.record_refusal(now, requested_wait.map(Duration::from_secs), share);
            }
            let mut next = AdaptiveThrottle::new(120);
            next.restore(throttle.state().unwrap());
            let later = now + Duration::from_secs_f64(later);
            prop_assert_eq!(next.pause_until(), throttle.pause_until());
            prop_assert_eq!(next.rate_factor(later), throttle.rate_factor(later));
            throttle.record_sent(later);
            next.record_sent(later);
            throttle.record_refusal(later, None, 0.5);
            next.record_refusal(later, None, 0.5);
            prop_assert_eq!(next.state(), throttle.state());
        }
    }

    #[test]
    fn a_saved_state_older_than_the_known_one_changes_nothing() {
        let mut throttle = AdaptiveThrottle::new(120);
        pause(&mut throttle, at(100.0), None);
        let known = throttle.state();
        throttle.restore(ThrottleState { pause_until: at(50.0), rate_factor: 0.1, consecutive_pauses: 9 });
        assert_eq!(throttle.state(), known);
    }

    #[test]
    fn a_pause_that_is_lifted_is_over_at_once_and_the_rate_grows_from_then_on() {
        let mut throttle = AdaptiveThrottle::new(120);
        pause(&mut throttle, at(100.0), Some(Duration::from_secs(3600)));
        let share = throttle.rate_factor(at(3700.0));
        throttle.lift_pause(at(200.0));
        assert_eq!((throttle.pause_until(), throttle.rate_factor(at(200.0))), (Some(at(200.0)), share));
        throttle.lift_pause(at(300.0));
        assert_eq!(throttle.pause_until(), Some(at(200.0)), "a pause that is over is not changed");
    }

    #[test]
    fn the_rate_is_never_zero() {
        let mut throttle = AdaptiveThrottle::new(120);
        let mut now = at(0.0);
        for _ in 0..100 {
            let took = pause(&mut throttle, now, None);
            throttle.base_factor = throttle.base_factor.min(MIN_RATE_FACTOR);
            now = now + took;
            assert!(throttle.rate_factor(now) >= MIN_RATE_FACTOR);
        }
    }
}
