//! The backoff after failed reads. A failed range waits for a while, and is requested in narrower
//! windows if its answers keep arriving incomplete.
//!
//! Pure. Only the width of a window can cause an incomplete or missing answer. Other errors do not
//! narrow the window, so that the accumulated range is read at once afterwards.

use std::time::Duration;

use super::{FailedWindow, MIN_WINDOW_SECS, whole_seconds};
use crate::clock::Time;
use crate::model::TimeRange;
use crate::ringcx::{ApiError, ErrorCause};

/// How a read of a window failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowFailure {
    /// The answer broke off or stalled half-way.
    Truncated,
    /// No answer arrived in time.
    NoResponse,
    /// Any other failure.
    Other,
}

impl WindowFailure {
    /// How a read failed, as far as the width of its window may be the cause.
    pub(crate) fn of(error: &ApiError) -> WindowFailure {
        match (error.cause, error.status) {
            (ErrorCause::ConnectionLost | ErrorCause::TimedOut, Some(200)) => WindowFailure::Truncated,
            // 504 is how a gateway reports a missing answer.
            (ErrorCause::TimedOut, None) | (_, Some(504)) => WindowFailure::NoResponse,
            _ => WindowFailure::Other,
        }
    }

    /// How many incomplete answers in a row halve the window.
    fn failures_to_narrow(self) -> Option<u32> {
        match self {
            WindowFailure::Truncated => Some(2),
            // A missing answer has other causes more often than a truncated one.
            WindowFailure::NoResponse => Some(3),
            WindowFailure::Other => None,
        }
    }
}

/// The ranges whose reads failed recently.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailedWindowBackoff {
    failed: Vec<FailedWindow>,
    /// Incomplete answers in a row.
    consecutive_incomplete: u32,
}

impl FailedWindowBackoff {
    /// The failed ranges, for the planner.
    pub(crate) fn as_slice(&self) -> &[FailedWindow] {
        &self.failed
    }

    /// Records that `range` could not be read; it waits until `retry_at`.
    pub(crate) fn record_failure(&mut self, range: TimeRange, retry_at: Time, failure: WindowFailure) {
        self.consecutive_incomplete =
            if failure == WindowFailure::Other { 0 } else { self.consecutive_incomplete.saturating_add(1) };
        let narrows = failure
            .failures_to_narrow()
            .is_some_and(|failures_to_narrow| self.consecutive_incomplete >= failures_to_narrow);
        let narrower = if narrows { range.width() / 2 } else { Duration::MAX };
        let here = self.failed.iter().filter(|held| held.range.intersect(range).is_some());
        let max_width = here.map(|held| held.max_width).fold(narrower, Duration::min);
        self.remove(range);
        self.failed.push(FailedWindow { range, retry_at, max_width });
    }

    /// Ends all waits at `latest` at the latest, since a clock that was ahead must not delay a
    /// range for long.
    pub(crate) fn cap_retry_times(&mut self, latest: Time) {
        self.failed.iter_mut().for_each(|held| held.retry_at = held.retry_at.min(latest));
    }

    /// Records that `range` was read.
    pub(crate) fn record_success(&mut self, range: TimeRange) {
        self.consecutive_incomplete = 0;
        self.remove(range);
    }

    fn remove(&mut self, range: TimeRange) {
        let remainder = |held: &FailedWindow| {
            let left = TimeRange::new(held.range.from, held.range.to.min(range.from));
            let right = TimeRange::new(held.range.from.max(range.to), held.range.to);
            let held = *held;
            left.into_iter().chain(right).map(move |range| FailedWindow { range, ..held })
        };
        self.failed = self.failed.iter().flat_map(remainder).collect();
    }
}

/// How many seconds one request may cover, at most `most`. `away` is the distance from the
/// request's begin or end to a failed range; up to that range its width limit does not apply.
pub(super) fn max_width_secs<'a>(
    failed: impl IntoIterator<Item = &'a FailedWindow>,
    most: i64,
    away: impl Fn(TimeRange) -> Duration,
) -> i64 {
    let bounds = failed.into_iter().map(|held| {
        let narrow = whole_seconds(held.max_width).max(MIN_WINDOW_SECS).saturating_sub(1);
        whole_seconds(away(held.range)).max(narrow)
    });
    bounds.fold(most, i64::min).max(MIN_WINDOW_SECS - 1)
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::HeaderMap;

    use super::*;
    use crate::model::Endpoint;

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange { from: Time::from_secs(from), to: Time::from_secs(to) }
    }

    fn widths(backoff: &FailedWindowBackoff) -> Vec<u64> {
        backoff.as_slice().iter().map(|held| held.max_width.as_secs()).collect()
    }

    const SOON: Time = Time(1);

    #[test]
    fn other_failures_do_not_narrow_the_window() {
        let mut backoff = FailedWindowBackoff::default();
        (0..5).for_each(|_| backoff.record_failure(range(0, 900), SOON, WindowFailure::Other));
        assert_eq!(widths(&backoff), [u64::MAX]);
    }

    #[test]
    fn two_truncated_or_three_missing_answers_halve_the_window() {
        let mut backoff = FailedWindowBackoff::default();
        backoff.record_failure(range(0, 900), SOON, WindowFailure::Truncated);
        assert_eq!(widths(&backoff), [u64::MAX]);
        backoff.record_failure(range(0, 900), SOON, WindowFailure::Truncated);
        assert_eq!(widths(&backoff), [450]);
        let mut backoff = FailedWindowBackoff::default();
        (0..2).for_each(|_| backoff.record_failure(range(0, 900), SOON, WindowFailure::NoResponse));
        assert_eq!(widths(&backoff), [u64::MAX]);
        backoff.record_failure(range(0, 900), SOON, WindowFailure::NoResponse);
        assert_eq!(widths(&backoff), [450]);
    }

    #[test]
    fn a_narrowed_range_stays_narrow_until_it_is_read() {
        let mut backoff = FailedWindowBackoff::default();
        (0..2).for_each(|_| backoff.record_failure(range(0, 900), SOON, WindowFailure::Truncated));
        backoff.record_failure(range(450, 900), SOON, WindowFailure::Other);
        assert_eq!(widths(&backoff), [450, 450]);
        backoff.record_success(range(450, 900));
        assert_eq!(backoff.as_slice(), [FailedWindow { range: range(0, 450), retry_at: SOON, max_width: secs(450) }]);
        backoff.record_success(range(0, 450));
        assert!(backoff.as_slice().is_empty());
    }

    #[test]
    fn a_distant_narrow_range_does_not_narrow_what_precedes_it() {
        let narrow = |from, to| FailedWindow { range: range(from, to), retry_at: SOON, max_width: secs(10) };
        let failed = [narrow(0, 20), narrow(500, 520)];
        // Backwards from 600.
        let away = |held: TimeRange| Time::from_secs(600).since(held.to);
        assert_eq!(max_width_secs(&failed, 3600, away), 80);
        let away = |held: TimeRange| Time::from_secs(510).since(held.to);
        assert_eq!(max_width_secs(&failed, 3600, away), 9);
        assert_eq!(max_width_secs(&failed[..1], 3600, away), 490);
        assert_eq!(max_width_secs(&[], 3600, away), 3600);
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn only_truncated_and_missing_answers_concern_the_width_of_the_window() {
        let silent = || ApiError::timed_out(Endpoint::Metadata, "no answer came in time");
        let answered = |status| ApiError::from_response(Endpoint::Metadata, status, &HeaderMap::new(), b"", Time(0));
        assert_eq!(WindowFailure::of(&silent()), WindowFailure::NoResponse);
        assert_eq!(WindowFailure::of(&silent().with_status(StatusCode::OK)), WindowFailure::Truncated);
        assert_eq!(WindowFailure::of(&answered(StatusCode::GATEWAY_TIMEOUT)), WindowFailure::NoResponse);
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST] {
            assert_eq!(WindowFailure::of(&answered(status)), WindowFailure::Other, "{status}");
        }
    }
}
