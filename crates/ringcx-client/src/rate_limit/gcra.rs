//! Pacing by GCRA (the crate `governor`), on a clock that can be slowed, stopped and set forward.
//! Reads no time.
//!
//! Pacing spreads requests over the minute: a restart follows no burst, and no request waits for a
//! whole minute. The sliding-window log makes the limit exact; pacing and `PreviousOwner` keep it
//! across restarts.
//!
//! governor runs on *paced time*. It stops while nothing may be sent, runs at a fraction of real
//! time while requests are throttled, and jumps ahead by one request interval when a permit comes
//! back unused (for the bucket, that equals the return of the token). It never runs faster than the
//! real time in which requests could be sent. So what governor allows is within the limit on the
//! real clock too.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::{REQUEST_WINDOW, WINDOW_GUARD};
use crate::clock::Tick;

/// A minute is divided into at least this many cells.
const MIN_CELLS_PER_MINUTE: u64 = 1000;
/// How many cells late a request may be without a loss of rate. Each cell costs a thousandth of the
/// limit. With a thousand accounts on two busy cores, a due request is sent up to a quarter of a
/// second late.
const LATE_TIMER_TOLERANCE_CELLS: u64 = 4;

/// The parameters of one limit. Where the limit is small, a request takes several cells: governor's
/// burst counts whole cells. A burst of one request and a few cells tolerates late timers for some
/// tenths of a per cent of the limit; a burst of two requests would cost a whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GcraParameters {
    /// Cells that one request takes.
    cells_per_request: NonZeroU32,
    /// Cells that may be taken at once.
    burst_cells: NonZeroU32,
    /// The time in which one cell refills.
    cell_interval: Duration,
}

impl GcraParameters {
    /// With a bucket of `burst` cells, any 60 s hold at most `burst + 60 s / cell` cells. That is
    /// less than `limit + 1` requests if `cell` is a minute divided by the cells that the burst
    /// leaves of them. The burst is worth a tenth of a second, because timers fire at most some
    /// hundred times a second.
    pub(super) fn new(limit: NonZeroU32) -> GcraParameters {
        let limit = u64::from(limit.get());
        let request = MIN_CELLS_PER_MINUTE.div_ceil(limit);
        let burst = request * (limit / 600).max(1) + LATE_TIMER_TOLERANCE_CELLS;
        // At least request * (limit + 1 - 1) - LATE_TIMER_TOLERANCE_CELLS > 0 where the limit is
        // small, and far more where it is not.
        let cells = (request * (limit + 1)).saturating_sub(burst).max(1);
        let cell = (REQUEST_WINDOW + WINDOW_GUARD).as_nanos().div_ceil(u128::from(cells));
        GcraParameters {
            cells_per_request: non_zero(request),
            burst_cells: non_zero(burst),
            cell_interval: Duration::from_nanos(u64::try_from(cell).unwrap_or(u64::MAX)),
        }
    }

    /// The time in which one request refills.
    pub(super) fn request_interval(&self) -> Duration {
        self.cell_interval.saturating_mul(self.cells_per_request.get())
    }
}

fn non_zero(cells: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(cells).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

/// Paced time, in nanoseconds.
#[derive(Debug, Clone, Default)]
struct PacedClock(Arc<AtomicU64>);

impl PacedClock {
    fn advance_by(&self, span: Duration) {
        // Stays far below the maximum: governor adds a full bucket to it.
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4);
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.saturating_add(span).min(u64::MAX / 2), Ordering::Relaxed);
    }
}

impl GovernorClock for PacedClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

/// A bucket of permits that refills at the rate of the limit. Starts full.
pub(super) struct Gcra {
    parameters: GcraParameters,
    paced_clock: PacedClock,
    governor: RateLimiter<NotKeyed, InMemoryState, PacedClock, NoOpMiddleware<Nanos>>,
    last_advanced: Tick,
}

impl Gcra {
    pub(super) fn new(limit: NonZeroU32, now: Tick) -> Gcra {
        let parameters = GcraParameters::new(limit);
        let paced_clock = PacedClock::default();
        // A cell is never zero, so the alternative is never used.
        let quota = Quota::with_period(parameters.cell_interval)
            .unwrap_or(Quota::per_minute(limit))
            .allow_burst(parameters.burst_cells);
        let governor = RateLimiter::direct_with_clock(quota, paced_clock.clone());
        Gcra { parameters, paced_clock, governor, last_advanced: now }
    }

    /// The time in which one request refills, without throttling.
    pub(super) fn request_interval(&self) -> Duration {
        self.parameters.request_interval()
    }

    /// Advances paced time to `now`: none before `held_until`, and at `factor` (above 0, at most 1)
    /// of real time.
    pub(super) fn advance(&mut self, now: Tick, held_until: Tick, factor: f64) {
        let passed = now.since(self.last_advanced.max(held_until));
        self.last_advanced = self.last_advanced.max(now);
        self.paced_clock.advance_by(if factor < 1.0 { passed.mul_f64(factor.max(0.0)) } else { passed });
    }

    /// Takes one request out of the bucket, or returns how much paced time must pass first.
    pub(super) fn try_take(&self) -> Result<(), Duration> {
        match self.governor.check_n(self.parameters.cells_per_request) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.paced_clock.now())),
            // The burst holds at least one request, so this does not happen; waiting is safe.
            Err(_) => Err(self.request_interval()),
        }
    }

    pub(super) fn refund(&self) {
        self.paced_clock.advance_by(self.request_interval());
    }

    /// Empties the bucket, then lets it refill for `span`.
    pub(super) fn start_empty(&self, span: Duration) {
        // All at once or, where cells were taken before, the remaining ones one by one.
        if !matches!(self.governor.check_n(self.parameters.burst_cells), Ok(Ok(()))) {
            while self.governor.check().is_ok() {}
        }
        self.paced_clock.advance_by(span);
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
        fn any_minute_refills_nearly_the_limit_and_never_more(per_minute in 1..=u32::MAX) {
            let parameters = GcraParameters::new(limit(per_minute));
            let (request, burst) = (parameters.cells_per_request.get(), parameters.burst_cells.get());
            let (request, burst, cell) = (u128::from(request), u128::from(burst), parameters.cell_interval.as_nanos());
            prop_assert!(burst >= request);
            prop_assert!((burst + REQUEST_WINDOW.as_nanos() / cell) / request <= u128::from(per_minute));
            let minute = parameters.request_interval().as_secs_f64() * f64::from(per_minute);
            // Above a hundred million a minute, a cell takes so few nanoseconds that rounding up
            // matters.
            let slack = 1.007 * (1.0 + 1.0 / (cell - 1) as f64);
            prop_assert!((60.0..60.0 * slack).contains(&minute), "{minute}");
        }
    }

    #[test]
    fn the_arithmetic_holds_at_its_edges() {
        for per_minute in [1, 2, 3, 119, 120, 599, 600, 601, 1000, 1001, 6000, 1_000_000, u32::MAX] {
            let parameters = GcraParameters::new(limit(per_minute));
            let refilled = u128::from(parameters.burst_cells.get())
                + REQUEST_WINDOW.as_nanos() / parameters.cell_interval.as_nanos();
            assert!(
                refilled / u128::from(parameters.cells_per_request.get()) <= u128::from(per_minute),
                "{per_minute}"
            );
        }
    }

    #[test]
    fn a_bucket_that_starts_empty_refills_its_first_request_after_one_interval() {
        let mut gcra = Gcra::new(limit(120), Tick::default());
        gcra.start_empty(Duration::ZERO);
        let wait = gcra.try_take().unwrap_err();
        assert_eq!(wait, gcra.request_interval());
        gcra.advance(Tick(wait), Tick::default(), 1.0);
        assert_eq!(gcra.try_take(), Ok(()));
        assert!(gcra.try_take().is_err());
    }

    #[test]
    fn a_refunded_request_can_be_taken_again_but_does_not_accumulate() {
        let gcra = Gcra::new(limit(1), Tick::default());
        assert_eq!(gcra.try_take(), Ok(()));
        for _ in 0..5 {
            gcra.refund();
        }
        assert_eq!(gcra.try_take(), Ok(()));
        assert!(gcra.try_take().is_err());
    }

    #[test]
    fn paced_time_stops_during_a_hold_and_slows_with_the_factor() {
        let mut gcra = Gcra::new(limit(60), Tick::default());
        gcra.start_empty(Duration::ZERO);
        let wait = gcra.try_take().unwrap_err();
        gcra.advance(Tick(Duration::from_secs(100)), Tick(Duration::from_secs(100)), 1.0);
        assert_eq!(gcra.try_take(), Err(wait));
        gcra.advance(Tick(Duration::from_secs(101)), Tick::default(), 0.5);
        assert_eq!(gcra.try_take(), Err(wait - Duration::from_millis(500)));
    }
}
