//! What to do after a 429: pause, slow down to what seems to be left, and feel the way back. Pure; time is an argument.
//!
//! We never cause a 429, so when one comes all the same somebody else uses the account. The window was full at that
//! moment, so what we got through in the last minute is what the others leave of it. From a little below that, the
//! rate grows slowly at first, so that refusals stay rare while the others stay, and faster the longer all goes well.

use std::time::Duration;

use crate::clock::Tick;

/// The first pause where the server names none; doubles with each further refusal.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that is our own idea: by then whatever filled the window has left it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How far below what was left the new rate begins.
const CAUTION: f64 = 0.95;

/// One refusal never slows by more than this: the last minute may have been idle, and says little then.
const STEEPEST: f64 = 0.5;

/// The slowest: a twentieth of the limit.
const SLOWEST: f64 = 0.05;

/// The rate has doubled so many minutes after a refusal; grown by a twentieth after a quarter of them, sixteenfold after
/// twice as many. Slower would use less of what is left, faster be refused more often: tried against a simulated server.
const DOUBLED_AFTER_MINUTES: f64 = 10.0;

/// Where a refusal left a budget: enough for another process to go on from there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setback {
    /// Nothing may leave before.
    pub pause_until: Tick,
    /// The share of the limit from which the rate grows again after that.
    pub share: f64,
    /// How many pauses there were without an answer between them.
    pub times: u32,
}

#[derive(Debug)]
pub(super) struct Slowdown {
    /// The factor from which the rate has been growing since the end of the last pause.
    base: f64,
    pause_until: Option<Tick>,
    /// Pauses in a row without a success between them.
    in_a_row: u32,
    /// Whether a request was sent since the last pause; if not, a refusal is of one that was under way before.
    sent_since: bool,
    total: u64,
}

impl Slowdown {
    pub(super) fn new() -> Slowdown {
        Slowdown { base: 1.0, pause_until: None, in_a_row: 0, sent_since: true, total: 0 }
    }

    /// The share of the full pace to go at: above 0, at most 1.
    pub(super) fn factor(&self, now: Tick) -> f64 {
        let Some(since) = self.pause_until else { return 1.0 };
        let doublings = (now.since(since).as_secs_f64() / 60.0 / DOUBLED_AFTER_MINUTES).powi(2);
        (self.base * doublings.min(16.0).exp2()).clamp(SLOWEST, 1.0)
    }

    /// Until when nothing may leave because of a refusal; in the past, or `None`, if it may.
    pub(super) fn pause_until(&self) -> Option<Tick> {
        self.pause_until
    }

    /// How many refusals there were.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// A 429 came. `asked` is what the server asked for, `share` the part of the limit that was let through in the last
    /// minute. Several at once, from requests under way together, are one: only the longest wait asked for counts.
    /// Returns whether it changed anything.
    pub(super) fn refused(&mut self, now: Tick, asked: Option<Duration>, share: f64) -> bool {
        self.total += 1;
        let asked = asked.unwrap_or_default();
        if let Some(pause) = self.pause_until.filter(|pause| now < *pause || !self.sent_since) {
            let longer = if asked.is_zero() { pause } else { pause.max(now + asked) };
            self.pause_until = Some(longer);
            return longer > pause;
        }
        let own = FIRST_PAUSE.saturating_mul(1 << self.in_a_row.min(10)).min(LONGEST_PAUSE);
        let factor = self.factor(now);
        self.base = (share * CAUTION).clamp(factor * STEEPEST, factor).max(SLOWEST);
        self.pause_until = Some(now + own.max(asked));
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.sent_since = false;
        true
    }

    /// How it stands, for whoever uses the budget after this process; `None` if it was never refused.
    pub(super) fn setback(&self) -> Option<Setback> {
        self.pause_until.map(|pause_until| Setback { pause_until, share: self.base, times: self.in_a_row })
    }

    /// Goes on from how another stood, unless a later refusal is known.
    pub(super) fn resume(&mut self, setback: Setback) {
        if self.pause_until.is_none_or(|pause| setback.pause_until > pause) {
            self.pause_until = Some(setback.pause_until);
            self.base = setback.share.clamp(SLOWEST, 1.0);
            self.in_a_row = setback.times;
            self.sent_since = false;
        }
    }

    /// A request leaves.
    pub(super) fn sent(&mut self, now: Tick) {
        self.sent_since |= self.pause_until.is_none_or(|pause| now >= pause);
    }

    /// An answer other than 429 came: pauses begin small again.
    pub(super) fn succeeded(&mut self) {
        if self.sent_since {
            self.in_a_row = 0;
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

    /// How long the pause is that a refusal at `now` causes, after a request that left just then.
    fn pause(slowdown: &mut Slowdown, now: Tick, asked: Option<Duration>) -> Duration {
        slowdown.sent(now);
        slowdown.refused(now, asked, 0.5);
        slowdown.pause_until().unwrap().since(now)
    }

    #[test]
    fn pauses_double_up_to_a_minute_until_something_succeeds() {
        let mut slowdown = Slowdown::new();
        let mut now = at(0.0);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let took = pause(&mut slowdown, now, None);
            assert_eq!(took, Duration::from_secs(expected));
            now = now + took;
        }
        slowdown.sent(now);
        slowdown.succeeded();
        assert_eq!(pause(&mut slowdown, now, None), Duration::from_secs(1));
    }

    #[test]
    fn the_servers_wish_is_a_floor() {
        let mut slowdown = Slowdown::new();
        assert_eq!(pause(&mut slowdown, at(0.0), Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(pause(&mut slowdown, at(30.0), Some(Duration::from_millis(1))), Duration::from_secs(2));
    }

    #[test]
    fn refusals_of_requests_under_way_together_are_one() {
        let mut slowdown = Slowdown::new();
        pause(&mut slowdown, at(0.0), None);
        let factor = slowdown.factor(at(1.0));
        slowdown.refused(at(0.1), None, 0.1);
        slowdown.refused(at(1.5), None, 0.1);
        slowdown.succeeded();
        assert_eq!(slowdown.pause_until(), Some(at(1.0)));
        assert_eq!(slowdown.factor(at(1.0)), factor);
        slowdown.refused(at(1.6), Some(Duration::from_secs(5)), 0.1);
        assert_eq!(slowdown.pause_until(), Some(at(6.6)), "but the longest wait asked for counts");
        assert_eq!(slowdown.total(), 4);
    }

    #[test]
    fn the_rate_falls_to_what_was_left_but_at_most_by_half_and_grows_back() {
        let mut slowdown = Slowdown::new();
        slowdown.refused(at(0.0), None, 0.8);
        let after = |minutes: f64| at(1.0 + 60.0 * minutes);
        assert!((slowdown.factor(after(0.0)) - 0.76).abs() < 1e-9);
        assert!(slowdown.factor(after(2.0)) < 0.80);
        assert!(slowdown.factor(after(3.0)) > 0.80);
        assert_eq!(slowdown.factor(after(10.0)), 1.0);
        assert_eq!(slowdown.factor(after(1e9)), 1.0);
        slowdown.sent(after(10.0));
        slowdown.refused(after(10.0), None, 0.0);
        assert_eq!(slowdown.factor(after(10.0)), 0.5);
    }

    /// The longest that the rate takes to come back after the last pause: log2(1 / SLOWEST) doublings.
    const BACK_WITHIN_MINUTES: f64 = 21.0;

    /// A refusal: how long after the pause before it, what the server asked for, what got through.
    fn refusals() -> impl Strategy<Value = Vec<(f64, Option<u64>, f64)>> {
        prop::collection::vec((0.0..2000.0, prop::option::of(0..100_u64), 0.0..=1.0), 1..30)
    }

    proptest! {
        #[test]
        fn each_refusal_slows_it_and_none_stops_it_and_it_comes_back_in_bounded_time(refusals in refusals()) {
            let mut slowdown = Slowdown::new();
            let mut now = at(0.0);
            for (gap, asked, share) in refusals {
                now = now + Duration::from_secs_f64(gap);
                slowdown.sent(now);
                let before = slowdown.factor(now);
                prop_assert!(slowdown.refused(now, asked.map(Duration::from_secs), share));
                now = slowdown.pause_until().unwrap();
                let after = slowdown.factor(now);
                prop_assert!((SLOWEST..1.0).contains(&after), "{after}");
                // Where more than its own rate got through, the last minute began before it was slowed, and is no guide.
                prop_assert!(after < before || before == SLOWEST || share > before, "{before} to {after}");
                prop_assert!(after <= before, "{before} to {after}");
                prop_assert!(after >= before * STEEPEST, "{before} to {after}");
            }
            let mut last = 0.0;
            for minute in 0..=BACK_WITHIN_MINUTES as u32 {
                let factor = slowdown.factor(now + Duration::from_secs(60) * minute);
                prop_assert!(factor >= last, "it fell from {last} to {factor} though all went well");
                last = factor;
            }
            prop_assert_eq!(last, 1.0);
        }

        #[test]
        fn another_process_goes_on_exactly_from_there(refusals in refusals(), later in 0.0..3000.0) {
            let mut slowdown = Slowdown::new();
            let mut now = at(0.0);
            for (gap, asked, share) in refusals {
                now = now + Duration::from_secs_f64(gap);
                slowdown.sent(now);
                slowdown.refused(now, asked.map(Duration::from_secs), share);
            }
            let mut next = Slowdown::new();
            next.resume(slowdown.setback().unwrap());
            let later = now + Duration::from_secs_f64(later);
            prop_assert_eq!(next.pause_until(), slowdown.pause_until());
            prop_assert_eq!(next.factor(later), slowdown.factor(later));
            slowdown.sent(later);
            next.sent(later);
            slowdown.refused(later, None, 0.5);
            next.refused(later, None, 0.5);
            prop_assert_eq!(next.setback(), slowdown.setback());
        }
    }

    #[test]
    fn a_setback_that_is_older_than_what_is_known_changes_nothing() {
        let mut slowdown = Slowdown::new();
        pause(&mut slowdown, at(100.0), None);
        let known = slowdown.setback();
        slowdown.resume(Setback { pause_until: at(50.0), share: 0.1, times: 9 });
        assert_eq!(slowdown.setback(), known);
    }

    #[test]
    fn it_never_stops_altogether() {
        let mut slowdown = Slowdown::new();
        let mut now = at(0.0);
        for _ in 0..100 {
            let took = pause(&mut slowdown, now, None);
            slowdown.base = slowdown.base.min(SLOWEST);
            now = now + took;
            assert!(slowdown.factor(now) >= SLOWEST);
        }
    }
}
