//! What to do after a 429: pause, slow down to what seems to be left, and feel the way back. Pure; time is an argument.
//!
//! We never cause a 429, so when one comes all the same somebody else uses the account. The window was full at that
//! moment, so what we got through in the last minute is what the others leave of it. From a little below that, the
//! rate grows slowly at first, so that refusals stay rare while the others stay, and faster the longer all goes well.
//!
//! Some servers refuse now and then for no reason that lies in the account. Were each such refusal to slow us, one in a
//! hundred would keep us at a fraction of what there is, as it comes again before the rate has recovered from the last. So
//! a refusal that stands alone among many good answers is waited for, and no more: it says nothing of the others, whose
//! refusals come in numbers as soon as the rate is more than they leave.

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

/// So many good answers make up for one refusal. More would be of less use against refusals without a reason; with fewer
/// there would be more refusals beside others.
const MAKE_UP: u32 = 50;

/// As many refusals can be made up for in advance: one, and one more for each so many requests a minute, since what comes
/// by chance comes in clusters, and at a larger limit there are more of them before the rate has grown back from a cut.
const PER_MINUTE_A_REFUSAL: u32 = 400;
const MOST_REFUSALS: u32 = 10;

/// A server that asks for more than this means it: whatever fills the window is no chance.
const SHORT_WAIT: Duration = Duration::from_secs(5);

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
    /// The factor from which the rate has been growing, without the pauses since.
    base: f64,
    grows_from: Tick,
    pause_until: Option<Tick>,
    /// Good answers that have not made up for a refusal yet, and how many of them count at most.
    good: u32,
    most_good: u32,
    /// Pauses in a row without a success between them.
    in_a_row: u32,
    /// Whether a request was sent since the last pause; if not, a refusal is of one that was under way before.
    sent_since: bool,
    total: u64,
}

impl Slowdown {
    /// For a limit of so many requests a minute.
    pub(super) fn new(limit: u32) -> Slowdown {
        Slowdown {
            base: 1.0,
            grows_from: Tick::default(),
            pause_until: None,
            good: 0,
            most_good: MAKE_UP * (1 + limit / PER_MINUTE_A_REFUSAL).min(MOST_REFUSALS),
            in_a_row: 0,
            sent_since: true,
            total: 0,
        }
    }

    /// The share of the full pace to go at: above 0, at most 1.
    pub(super) fn factor(&self, now: Tick) -> f64 {
        let doublings = (now.since(self.grows_from).as_secs_f64() / 60.0 / DOUBLED_AFTER_MINUTES).powi(2);
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
            self.grows_from = self.grows_from + longer.since(pause);
            return longer > pause;
        }
        let own = FIRST_PAUSE.saturating_mul(1 << self.in_a_row.min(10)).min(LONGEST_PAUSE);
        let pause = own.max(asked);
        if self.in_a_row == 0 && asked <= SHORT_WAIT && self.good >= MAKE_UP {
            self.good -= MAKE_UP;
            self.grows_from = self.grows_from + pause;
        } else {
            let factor = self.factor(now);
            self.base = (share * CAUTION).clamp(factor * STEEPEST, factor).max(SLOWEST);
            self.grows_from = now + pause;
        }
        self.pause_until = Some(now + pause);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.sent_since = false;
        true
    }

    /// How it stands, for whoever uses the budget after this process; `None` if it was never refused.
    pub(super) fn setback(&self) -> Option<Setback> {
        let share = |pause_until| self.factor(pause_until);
        self.pause_until.map(|at| Setback { pause_until: at, share: share(at), times: self.in_a_row })
    }

    /// Goes on from how another stood, unless a later refusal is known.
    pub(super) fn resume(&mut self, setback: Setback) {
        if self.pause_until.is_none_or(|pause| setback.pause_until > pause) {
            self.pause_until = Some(setback.pause_until);
            self.base = setback.share.clamp(SLOWEST, 1.0);
            self.grows_from = setback.pause_until;
            self.good = 0;
            self.in_a_row = setback.times;
            self.sent_since = false;
        }
    }

    /// Ends a pause before its time.
    pub(super) fn lift_pause(&mut self, now: Tick) {
        if let Some(pause) = self.pause_until.filter(|pause| *pause > now) {
            self.grows_from = Tick(self.grows_from.0.saturating_sub(pause.since(now)));
            self.pause_until = Some(now);
        }
    }

    /// A request leaves.
    pub(super) fn sent(&mut self, now: Tick) {
        self.sent_since |= self.pause_until.is_none_or(|pause| now >= pause);
    }

    /// An answer other than 429 came: pauses begin small again.
    pub(super) fn succeeded(&mut self) {
        self.good = (self.good + 1).min(self.most_good);
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
        let mut slowdown = Slowdown::new(120);
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
        let mut slowdown = Slowdown::new(120);
        assert_eq!(pause(&mut slowdown, at(0.0), Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(pause(&mut slowdown, at(30.0), Some(Duration::from_millis(1))), Duration::from_secs(2));
    }

    #[test]
    fn refusals_of_requests_under_way_together_are_one() {
        let mut slowdown = Slowdown::new(120);
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
        let mut slowdown = Slowdown::new(120);
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

    /// One that was never refused, after so many good answers.
    fn after_good(limit: u32, answers: u32) -> Slowdown {
        let mut slowdown = Slowdown::new(limit);
        (0..answers).for_each(|_| slowdown.succeeded());
        slowdown
    }

    #[test]
    fn a_refusal_that_stands_alone_among_good_answers_is_waited_for_and_does_not_slow() {
        let mut slowdown = after_good(120, MAKE_UP);
        assert_eq!(pause(&mut slowdown, at(0.0), Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(slowdown.factor(at(3.0)), 1.0);
        assert_eq!(slowdown.setback(), Some(Setback { pause_until: at(3.0), share: 1.0, times: 1 }));
        // The next one is one too many, unless as many good answers came between.
        slowdown.sent(at(4.0));
        (1..MAKE_UP).for_each(|_| slowdown.succeeded());
        pause(&mut slowdown, at(30.0), None);
        assert_eq!(slowdown.factor(at(31.0)), STEEPEST);
    }

    #[test]
    fn it_does_slow_where_the_next_try_is_refused_too_or_the_server_asks_for_a_long_wait() {
        let mut slowdown = after_good(1200, 10 * MAKE_UP);
        pause(&mut slowdown, at(0.0), None);
        assert_eq!(slowdown.factor(at(1.0)), 1.0);
        pause(&mut slowdown, at(1.0), None);
        assert_eq!(slowdown.factor(at(3.0)), STEEPEST);
        let mut slowdown = after_good(1200, 10 * MAKE_UP);
        pause(&mut slowdown, at(0.0), Some(SHORT_WAIT + Duration::from_secs(1)));
        assert_eq!(slowdown.factor(at(6.0)), STEEPEST);
    }

    #[test]
    fn however_much_went_well_before_only_so_many_refusals_are_made_up_for() {
        for (limit, spared) in [(1, 1), (120, 1), (600, 2), (1200, 4), (u32::MAX, 10)] {
            let mut slowdown = after_good(limit, 10_000);
            let mut now = at(0.0);
            let mut count = 0;
            loop {
                now = now + pause(&mut slowdown, now, None);
                if slowdown.factor(now) < 1.0 {
                    break;
                }
                count += 1;
                // One answer that is good: pauses begin small again, and no more than that.
                slowdown.sent(now);
                slowdown.succeeded();
            }
            assert_eq!(count, spared, "at {limit} a minute");
        }
    }

    #[test]
    fn a_rate_that_recovers_goes_on_doing_so_from_where_a_lone_refusal_met_it() {
        let mut slowdown = Slowdown::new(120);
        pause(&mut slowdown, at(0.0), None);
        slowdown.sent(at(1.0));
        (0..MAKE_UP).for_each(|_| slowdown.succeeded());
        let before = slowdown.factor(at(241.0));
        pause(&mut slowdown, at(241.0), None);
        assert!((slowdown.factor(at(242.0)) - before).abs() < 1e-9 && before > 0.5);
        assert_eq!(slowdown.factor(at(242.0 + 600.0)), 1.0);
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
            let mut slowdown = Slowdown::new(120);
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
            let mut slowdown = Slowdown::new(120);
            let mut now = at(0.0);
            for (gap, asked, share) in refusals {
                now = now + Duration::from_secs_f64(gap);
                slowdown.sent(now);
                slowdown.refused(now, asked.map(Duration::from_secs), share);
            }
            let mut next = Slowdown::new(120);
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
        let mut slowdown = Slowdown::new(120);
        pause(&mut slowdown, at(100.0), None);
        let known = slowdown.setback();
        slowdown.resume(Setback { pause_until: at(50.0), share: 0.1, times: 9 });
        assert_eq!(slowdown.setback(), known);
    }

    #[test]
    fn a_pause_that_is_lifted_is_over_at_once_and_the_rate_grows_from_then_on() {
        let mut slowdown = Slowdown::new(120);
        pause(&mut slowdown, at(100.0), Some(Duration::from_secs(3600)));
        let share = slowdown.factor(at(3700.0));
        slowdown.lift_pause(at(200.0));
        assert_eq!((slowdown.pause_until(), slowdown.factor(at(200.0))), (Some(at(200.0)), share));
        slowdown.lift_pause(at(300.0));
        assert_eq!(slowdown.pause_until(), Some(at(200.0)), "what is over stays so");
    }

    #[test]
    fn it_never_stops_altogether() {
        let mut slowdown = Slowdown::new(120);
        let mut now = at(0.0);
        for _ in 0..100 {
            let took = pause(&mut slowdown, now, None);
            slowdown.base = slowdown.base.min(SLOWEST);
            now = now + took;
            assert!(slowdown.factor(now) >= SLOWEST);
        }
    }
}
