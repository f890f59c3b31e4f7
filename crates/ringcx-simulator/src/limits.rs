//! Exact sliding-window counters, the ones that a client must never meet. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use super::options::SimLimits;

const MINUTE: Duration = Duration::from_secs(60);
const QUARTER: Duration = Duration::from_secs(900);

/// Everything that arrived in the last `span`; whatever is exactly `span` old no longer counts.
#[derive(Debug)]
pub(super) struct Window {
    limit: usize,
    span: Duration,
    log: VecDeque<Duration>,
    peak: usize,
}

impl Window {
    pub(super) fn new(limit: u32, span: Duration) -> Window {
        Window { limit: limit as usize, span, log: VecDeque::new(), peak: 0 }
    }

    /// How long until there is room, zero where there is.
    fn wait(&mut self, at: Duration) -> Duration {
        while self.log.front().is_some_and(|&first| first + self.span <= at) {
            self.log.pop_front();
        }
        if self.log.len() < self.limit {
            return Duration::ZERO;
        }
        match self.log.get(self.log.len() - self.limit.max(1)) {
            Some(&blocking) => (blocking + self.span).saturating_sub(at),
            None => self.span,
        }
    }

    fn count(&mut self, at: Duration) {
        self.log.push_back(at);
        self.peak = self.peak.max(self.log.len());
    }

    /// Counts an arrival if there is room; else says how long there will be none.
    pub(super) fn admit(&mut self, at: Duration, count_refused: bool) -> Result<(), Duration> {
        let wait = self.wait(at);
        if wait.is_zero() || count_refused {
            self.count(at);
        }
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }
}

/// Someone else who uses the same account: arrivals at an even pace.
#[derive(Debug)]
struct Other {
    pace: Option<Duration>,
    next: Duration,
}

impl Other {
    fn new(per_minute: f64, now: Duration) -> Other {
        let pace = (per_minute > 0.0).then(|| MINUTE.div_f64(per_minute));
        Other { pace, next: now }
    }

    /// The next arrival up to `now`.
    fn arrival(&mut self, now: Duration) -> Option<Duration> {
        let pace = self.pace?;
        (self.next <= now).then(|| {
            let at = self.next;
            self.next += pace;
            at
        })
    }
}

/// One sub-account's budget of requests, or one login's.
#[derive(Debug)]
pub(super) struct Requests {
    all: Window,
    other: Other,
    count_refused: bool,
}

/// One sub-account's budget of metadata requests.
#[derive(Debug)]
pub(super) struct Metadata {
    minute: Window,
    quarter: Window,
    other: Other,
    count_refused: bool,
}

impl Requests {
    pub(super) fn new(limits: &SimLimits, now: Duration) -> Requests {
        Requests {
            all: Window::new(limits.requests_per_minute, MINUTE),
            other: Other::new(limits.others_per_minute, now),
            count_refused: limits.count_refused,
        }
    }

    fn catch_up(&mut self, now: Duration) {
        while let Some(at) = self.other.arrival(now) {
            let _ = self.all.admit(at, self.count_refused);
        }
    }

    /// The most that any 60 s held so far.
    pub(super) fn peak(&self) -> usize {
        self.all.peak
    }
}

impl Metadata {
    pub(super) fn new(limits: &SimLimits, now: Duration) -> Metadata {
        Metadata {
            minute: Window::new(limits.metadata_per_minute, MINUTE),
            quarter: Window::new(limits.metadata_per_15_minutes, QUARTER),
            other: Other::new(limits.others_metadata_per_minute, now),
            count_refused: limits.count_refused,
        }
    }

    fn catch_up(&mut self, now: Duration) {
        while let Some(at) = self.other.arrival(now) {
            let wait = self.minute.wait(at).max(self.quarter.wait(at));
            if wait.is_zero() || self.count_refused {
                self.minute.count(at);
                self.quarter.count(at);
            }
        }
    }
}

/// Counts a request of an account, into both budgets where it is one for metadata: into all of them, or, where any
/// is spent, into none (unless refusals count). `Err` says how long to wait.
pub(super) fn admit(requests: &mut Requests, metadata: Option<&mut Metadata>, now: Duration) -> Result<(), Duration> {
    requests.catch_up(now);
    let mut wait = requests.all.wait(now);
    let mut metadata = metadata;
    if let Some(metadata) = &mut metadata {
        metadata.catch_up(now);
        wait = wait.max(metadata.minute.wait(now)).max(metadata.quarter.wait(now));
    }
    if wait.is_zero() || requests.count_refused {
        requests.all.count(now);
        if let Some(metadata) = metadata {
            metadata.minute.count(now);
            metadata.quarter.count(now);
        }
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
        let mut requests = Requests::new(&SimLimits::default(), START);
        assert!((0..120).all(|n| admit(&mut requests, None, at(n)).is_ok()));
        assert_eq!(admit(&mut requests, None, at(200)), Err(Duration::from_millis(59_800)));
        let hair = Duration::from_nanos(1);
        assert_eq!(admit(&mut requests, None, at(60_000) - hair), Err(hair));
        assert_eq!(admit(&mut requests, None, at(60_000)), Ok(()));
        assert_eq!(admit(&mut requests, None, at(60_000)), Err(Duration::from_millis(1)));
        assert_eq!(requests.peak(), 120);
    }

    #[test]
    fn metadata_is_three_in_a_minute_and_nine_in_a_quarter_of_an_hour_and_counts_as_a_request() {
        let limits = SimLimits { requests_per_minute: 4, ..SimLimits::default() };
        let mut requests = Requests::new(&limits, START);
        let mut metadata = Metadata::new(&limits, START);
        assert!((0..3).all(|n| admit(&mut requests, Some(&mut metadata), at(n)).is_ok()));
        assert!(admit(&mut requests, Some(&mut metadata), at(3)).is_err(), "the fourth in a minute");
        assert!(admit(&mut requests, None, at(4)).is_ok(), "a refusal has cost nothing");
        assert!(admit(&mut requests, None, at(5)).is_err(), "metadata counts as requests");
        for n in 0..6 {
            assert!(admit(&mut requests, Some(&mut metadata), at(61_000 + n * 61_000)).is_ok());
        }
        let late = at(899_999);
        assert_eq!(admit(&mut requests, Some(&mut metadata), late), Err(Duration::from_millis(1)));
        assert!(admit(&mut requests, Some(&mut metadata), at(900_000)).is_ok());
    }

    #[test]
    fn refused_requests_count_only_where_they_are_said_to() {
        for (count_refused, expected) in [(false, true), (true, false)] {
            let limits = SimLimits { requests_per_minute: 2, count_refused, ..SimLimits::default() };
            let mut requests = Requests::new(&limits, START);
            assert!((0..2).all(|n| admit(&mut requests, None, at(n)).is_ok()));
            assert!((0..5).all(|n| admit(&mut requests, None, at(30_000 + n)).is_err()));
            assert_eq!(admit(&mut requests, None, at(61_000)).is_ok(), expected);
        }
    }

    #[test]
    fn someone_else_takes_their_part_of_the_minute() {
        let limits = SimLimits { others_per_minute: 30.0, ..SimLimits::default() };
        let mut requests = Requests::new(&limits, START);
        let admitted = (0..12_000).filter(|n| admit(&mut requests, None, at(60_000 + n * 5)).is_ok()).count();
        assert!((88..=91).contains(&admitted), "{admitted} beside 30 of someone else");
    }

    proptest! {
        #[test]
        fn no_sixty_seconds_ever_hold_more_than_the_limit_and_nothing_is_refused_without_need(
            gaps in prop::collection::vec(0_u64..20_000, 1..200), limit in 1_u32..10,
        ) {
            let mut window = Window::new(limit, MINUTE);
            let mut admitted: Vec<Duration> = Vec::new();
            let mut now = START;
            for gap in gaps {
                now += Duration::from_millis(gap);
                let held = admitted.iter().filter(|&&then| now - then < MINUTE).count();
                let room = held < limit as usize;
                prop_assert_eq!(window.admit(now, false).is_ok(), room);
                if room {
                    admitted.push(now);
                }
            }
        }
    }
}
