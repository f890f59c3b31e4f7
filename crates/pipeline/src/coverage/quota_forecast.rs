//! Forecasts the metadata quota: what live reads need of the sliding-window limits, and what they
//! leave to other reads.
//!
//! Pure. [`SlidingWindowLimiter`] implements the limits themselves, and decides when a reserved request may be
//! sent.

use std::time::Duration;

use super::{PlanningRules, whole_seconds};
use crate::clock::{Time, millis};
use crate::model::TimeRangeSet;
use crate::ringcx::rate_limit::{SlidingWindowLimiter, WINDOW_GUARD};

const SECOND: Duration = Duration::from_secs(1);

/// The requests that count against the limits, extended by assumed future requests.
#[derive(Debug, Clone)]
pub(super) struct QuotaForecast<'a> {
    limits: &'a SlidingWindowLimiter,
    /// The request times, in order.
    counted: Vec<Time>,
}

impl<'a> QuotaForecast<'a> {
    /// Requests from the future (after the clock was set back) count as being under way now.
    pub(super) fn new(limits: &'a SlidingWindowLimiter, log: &[Time], now: Time) -> QuotaForecast<'a> {
        QuotaForecast { limits, counted: SlidingWindowLimiter::sort_log(log, now) }
    }

    /// The first moment, at `from` or later, at which a request keeps every limit. `from` is not
    /// before the last request.
    pub(super) fn earliest_send(&self, from: Time) -> Time {
        self.limits.earliest_send_sorted(&self.counted, from)
    }

    /// Whether every later live read stays in the same second if another request is sent at `at`.
    ///
    /// The second is compared, not the exact moment. A live read that follows another one by
    /// exactly the limit's window has to wait a fraction of a second longer, until the other one
    /// has certainly left the window. Windows have whole seconds, so the read is the same.
    /// Comparing exact moments would cost one of nine requests in every window.
    ///
    /// Simulates both futures until the request no longer counts. Live reads are due at `due` (not
    /// before `at`) and then every `interval_secs` of window ends.
    pub(super) fn keeps_live_reads_on_time(
        &self,
        rules: &PlanningRules,
        at: Time,
        due: Time,
        interval_secs: i64,
    ) -> bool {
        let longest = self.limits.log_span();
        // If the limits allow all of these requests, no simulation is needed.
        let live_reads = longest.as_secs() / interval_secs.max(1).unsigned_abs() + 2;
        let all = live_reads.saturating_add(self.counted.len() as u64 + 1);
        if self.limits.rules().iter().all(|(most, _)| all <= u64::from(*most)) {
            return true;
        }
        let mut without = self.clone();
        let mut with = self.clone();
        with.add_request(at);
        let mut due = due;
        while due < at + longest {
            let read = without.earliest_send(due);
            let late = with.earliest_send(due);
            if late > read && late >= due + SECOND {
                return false;
            }
            without.add_request(read);
            with.add_request(read);
            due = rules.horizon(read).plus_millis(interval_secs.saturating_mul(1000)) + rules.offset;
        }
        true
    }

    /// Adds an assumed request. It counts from when it is sent; the real one counts a moment later.
    fn add_request(&mut self, at: Time) {
        self.counted.insert(self.counted.partition_point(|earlier| *earlier <= at), at);
    }
}

/// The time between two live reads, in seconds, while other reads wait.
///
/// It is the interval, unless live reads would use more than about three quarters of a limit. Then
/// it is long enough to leave the rest. With a limit of one request, live reads get every other
/// request.
pub(super) fn sustainable_interval_secs(rules: &PlanningRules) -> i64 {
    let intervals = rules.limits.rules().iter().map(|(most, width)| {
        let most = i64::from(*most).max(1);
        let others = ((most + 2) / 4).max(1);
        let width = millis(width.saturating_add(WINDOW_GUARD));
        let interval_ms = if most > others {
            width.saturating_add(most - others - 1) / (most - others)
        } else {
            width.saturating_mul(2)
        };
        interval_ms.saturating_add(999) / 1000
    });
    intervals.fold(rules.interval_secs(), i64::max)
}

/// Estimates how long it takes to read the `remaining` past while live reads and rechecks continue.
///
/// - Requests: each range divided by `max_window` minus one second (which a window does not cover),
///   rounded up.
/// - Live: one request per interval, or fewer if live reads have to leave a quarter to others.
/// - Rechecks: for each delay one request per recheck width (the greater of the interval and a
///   quarter of the delay, at most `max_window`). A delay within the offset needs none, since live
///   reads cover it.
/// - Remaining rate: the rate of each limit minus both, but at least a quarter of what live reads
///   leave, since that much is kept free from rechecks. The tightest limit counts.
///
/// With the default settings, 9 requests in 15 minutes minus 3 minus 1.5 leave 4.5, so 30 days (721
/// requests) take 40 hours.
pub fn estimate_backfill_duration(remaining: &TimeRangeSet, rules: &PlanningRules, rechecks: &[Duration]) -> Duration {
    let covered_secs = rules.max_window_secs() - 1;
    let requests: i64 = remaining
        .as_slice()
        .iter()
        .map(|range| {
            whole_seconds(range.width() + Duration::from_millis(999)).saturating_add(covered_secs - 1) / covered_secs
        })
        .sum();
    let live_rate = per_second(sustainable_interval_secs(rules));
    let recheck_rate: f64 = rechecks
        .iter()
        .filter(|delay| **delay > rules.offset)
        .map(|delay| per_second(rules.recheck_width_secs(*delay)))
        .sum();
    let remaining_rates = rules.limits.rules().iter().map(|(most, width)| {
        let beside_live = f64::from((*most).max(1)) / width.as_secs_f64().max(0.001) - live_rate;
        (beside_live - recheck_rate).max(beside_live / 4.0)
    });
    let rate = remaining_rates.fold(f64::INFINITY, f64::min);
    #[expect(clippy::cast_precision_loss, reason = "requests are few enough to be exact")]
    Duration::try_from_secs_f64(requests as f64 / rate).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "settings are small enough to be exact")]
fn per_second(every: i64) -> f64 {
    1.0 / every.max(1) as f64
}
