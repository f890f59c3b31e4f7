//! Exact sliding-window counters, whose limits a client must never reach. Pure: time is an
//! argument.

use std::collections::VecDeque;
use std::time::Duration;

use super::options::SimLimits;

const MINUTE: Duration = Duration::from_secs(60);
const QUARTER_HOUR: Duration = Duration::from_secs(900);

/// Counts the arrivals of the last `span`. An arrival that is exactly `span` old no longer counts.
#[derive(Debug)]
pub(super) struct SlidingWindowCounter {
    limit: usize,
    span: Duration,
    log: VecDeque<Duration>,
    peak: usize,
}

impl SlidingWindowCounter {
    pub(super) fn new(limit: u32, span: Duration) -> SlidingWindowCounter {
        SlidingWindowCounter { limit: limit as usize, span, log: VecDeque::new(), peak: 0 }
    }

    /// The time until there is room; zero if there is.
    fn time_until_room(&mut self, at: Duration) -> Duration {
        while self.log.front().is_some_and(|&first| first + self.span <= at) {
            self.log.pop_front();
        }
        if self.log.len() < self.limit {
            return Duration::ZERO;
        }
        // With a limit of zero there is never room.
        let blocking = self.log.len().checked_sub(self.limit.max(1)).and_then(|index| self.log.get(index));
        match blocking {
            Some(&blocking) => (blocking + self.span).saturating_sub(at),
            None => self.span,
        }
    }

    fn record(&mut self, at: Duration) {
        self.log.push_back(at);
        self.peak = self.peak.max(self.log.len());
    }
}

/// Requests of another client for the same account, at a constant rate.
#[derive(Debug)]
struct ForeignTraffic {
    interval: Option<Duration>,
    next: Duration,
}

impl ForeignTraffic {
    fn new(per_minute: f64, now: Duration) -> ForeignTraffic {
        let interval = (per_minute > 0.0).then(|| MINUTE.div_f64(per_minute));
        ForeignTraffic { interval, next: now }
    }

    /// The next arrival up to `now`.
    fn next_arrival(&mut self, now: Duration) -> Option<Duration> {
        let interval = self.interval?;
        (self.next <= now).then(|| {
            let at = self.next;
            self.next += interval;
            at
        })
    }
}

/// Limits that count the same arrivals, and another client's use of them.
#[derive(Debug)]
pub(super) struct LimitGroup {
    windows: Vec<SlidingWindowCounter>,
    foreign: ForeignTraffic,
    count_refused: bool,
}

impl LimitGroup {
    /// The request limit of one sub-account, or of one login.
    pub(super) fn requests(limits: &SimLimits, now: Duration) -> LimitGroup {
        let windows = [(limits.requests_per_minute, MINUTE)];
        LimitGroup::new(limits, &windows, ForeignTraffic::new(limits.foreign_requests_per_minute, now))
    }

    /// The metadata limits of one sub-account.
    pub(super) fn metadata(limits: &SimLimits, now: Duration) -> LimitGroup {
        let windows = [(limits.metadata_per_minute, MINUTE), (limits.metadata_per_15_minutes, QUARTER_HOUR)];
        LimitGroup::new(limits, &windows, ForeignTraffic::new(limits.foreign_metadata_per_minute, now))
    }

    /// The limit of exchanges and Engage logins.
    pub(super) fn exchanges(limits: &SimLimits) -> LimitGroup {
        LimitGroup::new(limits, &[(limits.exchanges_per_minute, MINUTE)], ForeignTraffic::new(0.0, Duration::ZERO))
    }

    fn new(limits: &SimLimits, windows: &[(u32, Duration)], foreign: ForeignTraffic) -> LimitGroup {
        let windows = windows.iter().map(|(limit, span)| SlidingWindowCounter::new(*limit, *span)).collect();
        LimitGroup { windows, foreign, count_refused: limits.count_refused }
    }

    /// The time until there is room, after the other client's requests until `now`.
    fn time_until_room(&mut self, now: Duration) -> Duration {
        while let Some(at) = self.foreign.next_arrival(now) {
            if self.longest_wait(at).is_zero() || self.count_refused {
                self.record(at);
            }
        }
        self.longest_wait(now)
    }

    fn longest_wait(&mut self, at: Duration) -> Duration {
        self.windows.iter_mut().map(|window| window.time_until_room(at)).max().unwrap_or_default()
    }

    fn record(&mut self, at: Duration) {
        self.windows.iter_mut().for_each(|window| window.record(at));
    }

    /// The most arrivals in its first window so far.
    pub(super) fn peak(&self) -> usize {
        self.windows.first().map_or(0, |window| window.peak)
    }
}

/// Counts an arrival against all groups or, if a limit of one is reached, against none (unless
/// refused requests count). `Err` is the time to wait.
pub(super) fn admit(groups: &mut [&mut LimitGroup], now: Duration) -> Result<(), Duration> {
    let wait = groups.iter_mut().map(|group| group.time_until_room(now)).max().unwrap_or_default();
    if wait.is_zero() || groups.iter().any(|group| group.count_refused) {
        groups.iter_mut().for_each(|group| group.record(now));
    }
    if wait.is_zero() { Ok(()) } else { Err(wait) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_000_000);

    fn at(millis: u64) -> Duration {
        START + Duration::from_millis(millis)
    }

    #[test]
    fn the_hundred_and_twenty_first_request_in_a_minute_is_refused_until_the_first_is_sixty_seconds_old() {
        let mut requests = LimitGroup::requests(&SimLimits::default(), START);
        assert!((0..120).all(|n| admit(&mut [&mut requests], at(n)).is_ok()));
        assert_eq!(admit(&mut [&mut requests], at(200)), Err(Duration::from_millis(59_800)));
        let one_nanosecond = Duration::from_nanos(1);
        assert_eq!(admit(&mut [&mut requests], at(60_000) - one_nanosecond), Err(one_nanosecond));
        assert_eq!(admit(&mut [&mut requests], at(60_000)), Ok(()));
        assert_eq!(admit(&mut [&mut requests], at(60_000)), Err(Duration::from_millis(1)));
        assert_eq!(requests.peak(), 120);
    }

    #[test]
    fn metadata_is_three_in_a_minute_and_nine_in_a_quarter_of_an_hour_and_counts_as_a_request() {
        let limits = SimLimits { requests_per_minute: 4, ..SimLimits::default() };
        let mut requests = LimitGroup::requests(&limits, START);
        let mut metadata = LimitGroup::metadata(&limits, START);
        assert!((0..3).all(|n| admit(&mut [&mut requests, &mut metadata], at(n)).is_ok()));
        assert!(admit(&mut [&mut requests, &mut metadata], at(3)).is_err(), "the fourth in a minute");
        assert!(admit(&mut [&mut requests], at(4)).is_ok(), "a refusal has cost nothing");
        assert!(admit(&mut [&mut requests], at(5)).is_err(), "metadata counts as requests");
        for n in 0..6 {
            assert!(admit(&mut [&mut requests, &mut metadata], at(61_000 + n * 61_000)).is_ok());
        }
        let late = at(899_999);
        assert_eq!(admit(&mut [&mut requests, &mut metadata], late), Err(Duration::from_millis(1)));
        assert!(admit(&mut [&mut requests, &mut metadata], at(900_000)).is_ok());
    }

    #[test]
    fn refused_requests_count_only_where_the_option_says_so() {
        for (count_refused, expected) in [(false, true), (true, false)] {
            let limits = SimLimits { requests_per_minute: 2, count_refused, ..SimLimits::default() };
            let mut requests = LimitGroup::requests(&limits, START);
            assert!((0..2).all(|n| admit(&mut [&mut requests], at(n)).is_ok()));
            assert!((0..5).all(|n| admit(&mut [&mut requests], at(30_000 + n)).is_err()));
            assert_eq!(admit(&mut [&mut requests], at(61_000)).is_ok(), expected);
        }
    }

    #[test]
    fn a_limit_of_zero_refuses_every_request() {
        let limits = SimLimits { requests_per_minute: 0, ..SimLimits::default() };
        let mut requests = LimitGroup::requests(&limits, START);
        assert!((0..3).all(|n| admit(&mut [&mut requests], at(n)) == Err(MINUTE)));
    }

    #[test]
    fn another_client_uses_its_part_of_the_minute() {
        let limits = SimLimits { foreign_requests_per_minute: 30.0, ..SimLimits::default() };
        let mut requests = LimitGroup::requests(&limits, START);
        let admitted = (0..12_000).filter(|n| admit(&mut [&mut requests], at(60_000 + n * 5)).is_ok()).count();
        assert!((88..=91).contains(&admitted), "{admitted} beside 30 of another client");
    }

    proptest! {
        #[test]
        fn no_sixty_seconds_hold_more_than_the_limit_and_nothing_is_refused_needlessly(
            gaps in prop::collection::vec(0_u64..20_000, 1..200), limit in 1_u32..10,
        ) {
            let mut exchanges = LimitGroup::exchanges(&SimLimits { exchanges_per_minute: limit, ..SimLimits::default() });
            let mut admitted: Vec<Duration> = Vec::new();
            let mut now = START;
            for gap in gaps {
                now += Duration::from_millis(gap);
                let held = admitted.iter().filter(|&&then| now - then < MINUTE).count();
                let room = held < limit as usize;
                prop_assert_eq!(admit(&mut [&mut exchanges], now).is_ok(), room);
                if room {
                    admitted.push(now);
                }
            }
        }
    }
}
