//! When may the next request of a small quota be sent? Pure arithmetic over a log of past requests.
//!
//! Exact for any sliding window: it never lets a window hold more than its rule allows, and it
//! allows every request that fits. The planner (`coverage`) and [`super::ReservedQuota`] use the
//! same arithmetic, so a read that is planned for a moment is allowed at that moment.

use std::time::Duration;

use crate::clock::Time;

/// How long after it was sent a request may still arrive and be counted, where nothing better is
/// known: TCP and TLS have to be set up first, and a lost packet costs a second. An answer, early
/// or late, replaces this assumption.
pub const MAX_ARRIVAL_DELAY: Duration = Duration::from_secs(2);

/// Added to every window. This machine's clock and the server's do not run equally fast (NTP may
/// slew either by 500 parts in a million, 30 ms in a minute), and the server may count in whole
/// milliseconds. Costs less than 0.1 % of a minute.
pub const WINDOW_GUARD: Duration = Duration::from_millis(50);

/// Rules of the kind "at most 3 in any 60 s and at most 9 in any 15 min", all of which hold at
/// once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlidingWindowLimiter {
    rules: Vec<(u32, Duration)>,
}

/// The answer of a rule that allows nothing.
const NEVER: Time = Time(i64::MAX);

impl SlidingWindowLimiter {
    /// From pairs of a count and the window in which that many requests may arrive. A count of zero
    /// allows nothing, ever; an empty list allows everything.
    pub fn new(rules: impl IntoIterator<Item = (u32, Duration)>) -> SlidingWindowLimiter {
        SlidingWindowLimiter { rules: rules.into_iter().collect() }
    }

    /// The rules, as given.
    pub fn rules(&self) -> &[(u32, Duration)] {
        &self.rules
    }

    /// How far back a log must reach: the longest window and the guard. Older entries change no
    /// result.
    pub fn log_span(&self) -> Duration {
        self.rules.iter().map(|(_, window)| *window).max().unwrap_or_default().saturating_add(WINDOW_GUARD)
    }

    /// The earliest moment, `now` or later, at which one more may be sent. `log` holds, in any
    /// order, when each past request was counted at the latest (see [`MAX_ARRIVAL_DELAY`]).
    ///
    /// Entries further ahead than [`MAX_ARRIVAL_DELAY`] were written before a clock was set back:
    /// they count as if they were sent now.
    pub fn earliest_send(&self, log: &[Time], now: Time) -> Time {
        self.earliest_send_sorted(&SlidingWindowLimiter::sort_log(log, now), now)
    }

    /// A log as [`SlidingWindowLimiter::earliest_send_sorted`] needs it: in ascending order, and no
    /// entry further ahead than possible.
    pub fn sort_log(log: &[Time], now: Time) -> Vec<Time> {
        let mut log: Vec<Time> = log.iter().map(|at| (*at).min(now + MAX_ARRIVAL_DELAY)).collect();
        log.sort_unstable();
        log
    }

    /// The same for a sorted log: for planning several requests ahead.
    pub fn earliest_send_sorted(&self, log: &[Time], now: Time) -> Time {
        self.rules.iter().map(|rule| free_at(rule, log)).fold(now, Time::max)
    }
}

/// When a rule has room for one more request after a log in ascending order: once the entry `count`
/// places before it has left the window.
fn free_at((count, window): &(u32, Duration), log: &[Time]) -> Time {
    let count = usize::try_from(*count).unwrap_or(usize::MAX);
    if count == 0 {
        return NEVER;
    }
    match log.len().checked_sub(count).and_then(|place| log.get(place)) {
        Some(entry) => *entry + window.saturating_add(WINDOW_GUARD),
        None => Time(i64::MIN),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn metadata() -> SlidingWindowLimiter {
        SlidingWindowLimiter::new([(3, Duration::from_secs(60)), (9, Duration::from_secs(900))])
    }

    /// Whether one more at `at` finds room; a direct count as the reference.
    fn has_room(rules: &[(u32, Duration)], counted: &[Time], at: Time) -> bool {
        rules.iter().all(|(count, window)| {
            let start = at - *window - WINDOW_GUARD;
            counted.iter().filter(|entry| **entry > start).count() < *count as usize
        })
    }

    fn rules() -> impl Strategy<Value = Vec<(u32, Duration)>> {
        vec((1..6u32, (1..600u64).prop_map(Duration::from_millis)), 1..4)
    }

    fn times(span: std::ops::Range<i64>) -> impl Strategy<Value = Vec<Time>> {
        vec(span.prop_map(Time), 0..12)
    }

    proptest! {
        #[test]
        fn the_earliest_moment_is_the_first_that_a_counter_allows(
            rules in rules(), log in times(-1500..4000),
        ) {
            let now = Time(0);
            let clamped: Vec<Time> = log.iter().map(|at| (*at).min(now + MAX_ARRIVAL_DELAY)).collect();
            let expected = (0..).map(Time).find(|at| has_room(&rules, &clamped, *at)).unwrap();
            prop_assert_eq!(SlidingWindowLimiter::new(rules).earliest_send(&log, now), expected);
        }

        #[test]
        fn sending_whenever_allowed_never_overfills_a_window_and_never_wastes_one(
            lateness in vec(0..2000i64, 60),
        ) {
            let limits = metadata();
            let (mut log, mut now) = (Vec::new(), Time(0));
            for late in lateness {
                now = limits.earliest_send(&log, now);
                log.push(now.plus_millis(late));
            }
            let mut arrived = log;
            arrived.sort();
            for (count, window) in limits.rules() {
                for pair in arrived.windows(*count as usize + 1) {
                    prop_assert!(pair[*count as usize].since(pair[0]) > *window);
                }
            }
            // 60 requests are six and two thirds windows of 15 min; lateness may cost 2 s in each.
            prop_assert!(now <= Time::from_secs(900 * 6 + 120 + 20), "{}", now);
        }
    }

    #[test]
    fn three_go_at_once_and_the_fourth_after_a_minute() {
        let limits = metadata();
        let now = Time::from_secs(10_000);
        assert_eq!(limits.earliest_send(&[], now), now);
        assert_eq!(limits.earliest_send(&[now; 2], now), now);
        assert_eq!(limits.earliest_send(&[now; 3], now), now + Duration::from_secs(60) + WINDOW_GUARD);
        let spread: Vec<Time> = (0..9).map(|n| now - Duration::from_secs(70 * n)).collect();
        assert_eq!(limits.earliest_send(&spread, now), now + Duration::from_secs(900 - 560) + WINDOW_GUARD);
    }

    #[test]
    fn entries_from_a_clock_that_was_set_back_do_not_block_for_long() {
        let limits = metadata();
        let now = Time::from_secs(10_000);
        let ahead = [now + Duration::from_secs(3600); 3];
        assert_eq!(limits.earliest_send(&ahead, now), now + MAX_ARRIVAL_DELAY + Duration::from_secs(60) + WINDOW_GUARD);
    }

    #[test]
    fn a_rule_of_zero_allows_nothing_and_no_rule_allows_all() {
        let now = Time(5);
        assert_eq!(SlidingWindowLimiter::new([(0, Duration::from_secs(1))]).earliest_send(&[], now), NEVER);
        assert_eq!(SlidingWindowLimiter::new([]).earliest_send(&[now; 100], now), now);
    }
}
