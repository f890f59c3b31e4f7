//! The pace: governor, with a clock of its own that can be slowed, stopped and put forward. Reads no time.
//!
//! Pacing spreads requests over the minute, so that a restart finds no burst behind it and nothing waits for a whole
//! minute at once. What keeps the limit exact is the ring; what keeps it across restarts is the pace and `Lapse`.
//!
//! governor runs on *paced time*: it stands still while nothing may leave, passes at a fraction of real time while we
//! are slowed down, and jumps ahead by one period when a permit comes back unused (to the bucket, that is the same as
//! the token's return). It never passes faster than real time in which requests could leave, so whatever governor
//! allows on it is within the limit on the real clock too.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::super::{GUARD, MINUTE};
use crate::clock::Tick;

/// How finely a minute is divided at least.
const CELLS_PER_MINUTE: u64 = 1000;
/// By how many cells a request may be late without a loss. Each costs everybody a thousandth of the limit; with a thousand
/// accounts on two busy cores a request that is due is let go up to a quarter of a second late.
const FORGIVEN: u64 = 4;

/// The arithmetic of one limit. A request weighs several cells where the limit is small: governor's burst counts whole
/// cells, and a burst of one request and a few cells forgives late timers, which a burst of one request does not, at some
/// tenths of a per cent instead of the whole request that a burst of two would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grain {
    /// Cells that one request weighs.
    request: NonZeroU32,
    /// Cells that may go at once.
    burst: NonZeroU32,
    /// How long one cell takes to earn.
    cell: Duration,
}

impl Grain {
    /// For a bucket of `burst` cells, any stretch of 60 s holds at most `burst + 60 s / cell` of them: less than
    /// `limit + 1` requests' worth if `cell` is a minute divided by what is left of that after the burst. The burst is
    /// a tenth of a second's worth, as timers cannot do more than some hundred turns a second.
    pub(super) fn new(limit: NonZeroU32) -> Grain {
        let limit = u64::from(limit.get());
        let request = CELLS_PER_MINUTE.div_ceil(limit);
        let burst = request * (limit / 600).max(1) + FORGIVEN;
        // At least request * (limit + 1 - 1) - FORGIVEN > 0 where the limit is small, and far more where it is not.
        let cells = (request * (limit + 1)).saturating_sub(burst).max(1);
        let cell = (MINUTE + GUARD).as_nanos().div_ceil(u128::from(cells));
        Grain {
            request: non_zero(request),
            burst: non_zero(burst),
            cell: Duration::from_nanos(u64::try_from(cell).unwrap_or(u64::MAX)),
        }
    }

    /// How long one request takes to earn.
    pub(super) fn period(&self) -> Duration {
        self.cell.saturating_mul(self.request.get())
    }
}

fn non_zero(cells: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(cells).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

/// Paced time, in nanoseconds.
#[derive(Debug, Clone, Default)]
struct PacedTime(Arc<AtomicU64>);

impl PacedTime {
    fn forward(&self, span: Duration) {
        // Never comes near the end: governor adds a bucket's worth to it.
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4);
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.saturating_add(span).min(u64::MAX / 2), Ordering::Relaxed);
    }
}

impl GovernorClock for PacedTime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

/// A bucket of permits that fills at the pace of the limit. Begins full.
pub(super) struct Pace {
    grain: Grain,
    time: PacedTime,
    governor: RateLimiter<NotKeyed, InMemoryState, PacedTime, NoOpMiddleware<Nanos>>,
    seen: Tick,
}

impl Pace {
    pub(super) fn new(limit: NonZeroU32, now: Tick) -> Pace {
        let grain = Grain::new(limit);
        let time = PacedTime::default();
        // A cell is never zero, so the alternative is never used.
        let quota = Quota::with_period(grain.cell).unwrap_or(Quota::per_minute(limit)).allow_burst(grain.burst);
        let governor = RateLimiter::direct_with_clock(quota, time.clone());
        Pace { grain, time, governor, seen: now }
    }

    /// How long one request takes to earn, when not slowed down.
    pub(super) fn period(&self) -> Duration {
        self.grain.period()
    }

    /// Lets time pass until `now`: not before `held_until`, and at `factor` (above 0, at most 1) of its speed.
    pub(super) fn advance(&mut self, now: Tick, held_until: Tick, factor: f64) {
        let passed = now.since(self.seen.max(held_until));
        self.seen = self.seen.max(now);
        self.time.forward(if factor < 1.0 { passed.mul_f64(factor.max(0.0)) } else { passed });
    }

    /// Takes one request out of the bucket, or says for how long paced time must pass before that can be.
    pub(super) fn take(&self) -> Result<(), Duration> {
        match self.governor.check_n(self.grain.request) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.time.now())),
            // The burst holds at least one request, so this does not happen; waiting is safe.
            Err(_) => Err(self.period()),
        }
    }

    /// Puts back one request that was taken out.
    pub(super) fn put_back(&self) {
        self.time.forward(self.period());
    }

    /// Empties the bucket, then fills it for `span`.
    pub(super) fn begin_empty(&self, span: Duration) {
        // All at once, or, where something was taken before, what is left one by one.
        if !matches!(self.governor.check_n(self.grain.burst), Ok(Ok(()))) {
            while self.governor.check().is_ok() {}
        }
        self.time.forward(span);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(limit: u32) -> NonZeroU32 {
        NonZeroU32::new(limit).unwrap()
    }

    proptest! {
        #[test]
        fn no_stretch_of_a_minute_earns_more_than_the_limit_and_all_earn_nearly_that(per_minute in 1..=u32::MAX) {
            let grain = Grain::new(limit(per_minute));
            let [request, burst, cell] =
                [grain.request.get().into(), grain.burst.get().into(), grain.cell.as_nanos()];
            prop_assert!(burst >= request);
            prop_assert!((burst + MINUTE.as_nanos() / cell) / request <= u128::from(per_minute));
            let minute = grain.period().as_secs_f64() * f64::from(per_minute);
            // Beyond a hundred million a minute a cell takes so few nanoseconds that rounding them up shows.
            let slack = 1.007 * (1.0 + 1.0 / (cell - 1) as f64);
            prop_assert!((60.0..60.0 * slack).contains(&minute), "{minute}");
        }
    }

    #[test]
    fn the_arithmetic_holds_at_its_edges() {
        for per_minute in [1, 2, 3, 119, 120, 599, 600, 601, 1000, 1001, 6000, 1_000_000, u32::MAX] {
            let grain = Grain::new(limit(per_minute));
            let earned = u128::from(grain.burst.get()) + MINUTE.as_nanos() / grain.cell.as_nanos();
            assert!(earned / u128::from(grain.request.get()) <= u128::from(per_minute), "{per_minute}");
        }
    }

    #[test]
    fn a_bucket_that_began_empty_earns_its_first_request_after_one_period() {
        let mut pace = Pace::new(limit(120), Tick::default());
        pace.begin_empty(Duration::ZERO);
        let wait = pace.take().unwrap_err();
        assert_eq!(wait, pace.period());
        pace.advance(Tick(wait), Tick::default(), 1.0);
        assert_eq!(pace.take(), Ok(()));
        assert!(pace.take().is_err());
    }

    #[test]
    fn a_request_put_back_can_be_taken_again_but_does_not_pile_up() {
        let pace = Pace::new(limit(1), Tick::default());
        assert_eq!(pace.take(), Ok(()));
        for _ in 0..5 {
            pace.put_back();
        }
        assert_eq!(pace.take(), Ok(()));
        assert!(pace.take().is_err());
    }

    #[test]
    fn paced_time_stands_still_while_held_and_crawls_while_slowed() {
        let mut pace = Pace::new(limit(60), Tick::default());
        pace.begin_empty(Duration::ZERO);
        let wait = pace.take().unwrap_err();
        pace.advance(Tick(Duration::from_secs(100)), Tick(Duration::from_secs(100)), 1.0);
        assert_eq!(pace.take(), Err(wait));
        pace.advance(Tick(Duration::from_secs(101)), Tick::default(), 0.5);
        assert_eq!(pace.take(), Err(wait - Duration::from_millis(500)));
    }
}
