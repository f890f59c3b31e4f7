//! Where the coverage of an account begins, and where the obligation to recheck it does.

use std::time::Duration;

use super::DiscoveryPolicy;
use crate::clock::{Tick, Time};
use crate::coverage::{Backfill, ClockReadings, Coverage, ReadPurpose, Recheck};
use crate::db::StoredCoverage;
use crate::model::{DiscoveryStart, TimeRange, TimeRangeSet};

/// The tolerated error of an account's start. Reading one day too many takes only minutes.
const START_TOLERANCE: Duration = Duration::from_secs(24 * 3600);

/// What a load of the coverage stores where the database has nothing yet.
#[derive(Debug)]
pub struct CoverageDefaults {
    /// The start of the live coverage.
    pub start: Time,
    now: Time,
    rechecks: Vec<Duration>,
}

impl CoverageDefaults {
    pub(super) fn new(policy: &DiscoveryPolicy, now: Time) -> CoverageDefaults {
        CoverageDefaults { start: first_window_start(policy, now), now, rechecks: policy.rechecks.clone() }
    }

    /// The start of each recheck's obligation, given the covered ranges by purpose. A delay that is
    /// new in the settings applies only to recent time. The live edge is the reference, since this
    /// machine's clock may be ahead.
    pub fn recheck_bases(&self, ranges: &[(String, TimeRange)]) -> Vec<(String, Time)> {
        let live = ReadPurpose::Live.key();
        let edge = ranges.iter().filter(|(purpose, _)| *purpose == live).map(|(_, range)| range.to).max();
        let base = |delay| edge.map_or(Time(0), |edge| (edge.min(self.now) - delay).floor_to_second());
        self.rechecks.iter().map(|delay| (ReadPurpose::Recheck(*delay).key(), base(*delay))).collect()
    }
}

/// The coverage that the database holds.
pub(super) fn restore_coverage(stored: StoredCoverage) -> Coverage {
    let mut coverage = Coverage::new(stored.live_start);
    for (purpose, base) in stored.bases {
        if let Some(ReadPurpose::Recheck(delay)) = ReadPurpose::parse(&purpose) {
            coverage.rechecks.push((delay, Recheck { base, done: TimeRangeSet::default() }));
        }
    }
    coverage.backfills.extend(stored.backfills.into_iter().map(|request| Backfill {
        id: request.id,
        range: request.range,
        newest_first: request.newest_first,
        done: TimeRangeSet::default(),
    }));
    for (purpose, range) in stored.ranges {
        if let Some(purpose) = ReadPurpose::parse(&purpose) {
            coverage.restore(purpose, range);
        }
    }
    coverage
}

/// The corrected start of a new account, if the clock was wrong when the start was set.
///
/// The start moves back by up to a day at once. A larger correction needs an API time that several
/// answers over some time agree on, since one wrong `Date` must not move it by years. Only the
/// process that set the start moves it forward, since no other process knows how long ago that was.
pub(super) fn corrected_start(
    policy: &DiscoveryPolicy,
    coverage: &Coverage,
    new_since: Option<Tick>,
    readings: &ClockReadings,
    now: Time,
) -> Option<Time> {
    let current = coverage.live_start;
    let is_believed =
        readings.believed.is_some_and(|believed| believed.since(now).max(now.since(believed)) <= START_TOLERANCE);
    let earlier = first_window_start(policy, now);
    if earlier < current && coverage.live_edge().is_none() && (is_believed || current.since(earlier) <= START_TOLERANCE)
    {
        return Some(earlier);
    }
    let set_at = now - readings.tick.since(new_since?);
    let later = first_window_start(policy, set_at);
    (is_believed && later > current + START_TOLERANCE).then_some(later)
}

/// The start of the first live window, in whole seconds.
fn first_window_start(policy: &DiscoveryPolicy, now: Time) -> Time {
    let horizon = policy.rules.horizon(now);
    let start = match policy.start {
        DiscoveryStart::Now => policy.rules.first_start(now),
        DiscoveryStart::Back(span) => (now - span).max(Time::FIRST).floor_to_second(),
        DiscoveryStart::At(time) => time.floor_to_second(),
    };
    start.min(horizon.plus_millis(-1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;
    use crate::coverage::{Plan, PlanningClock, PlanningRules, plan_next_read};
    use crate::model::{ArtifactSelection, ArtifactSet, SummariesFor};
    use crate::ringcx::rate_limit::SlidingWindowLimiter;

    const SET_AT: Time = Time(1_800_000_000_000);
    const MINUTE: i64 = 60_000;
    const YEAR: i64 = 365 * 86_400_000;

    /// An hour after the account was new; the errors of the clocks in milliseconds.
    fn read(machine: i64, newest: i64, believed: Option<i64>) -> ClockReadings {
        let at = |error: i64| SET_AT.plus_millis(60 * MINUTE + error);
        let (newest, tick) = (Some(at(newest)), Tick(Duration::from_secs(3700)));
        ClockReadings {
            tick,
            machine: at(machine),
            database: None,
            newest,
            measured: newest,
            believed: believed.map(at),
            is_measured: true,
        }
    }

    /// The policy of an account whose first window has this width.
    fn policy(window: Duration) -> DiscoveryPolicy {
        let rules = PlanningRules {
            window,
            offset: Duration::from_secs(300),
            interval: Duration::from_secs(300),
            max_window: Duration::from_secs(3600),
            limits: SlidingWindowLimiter::new([(3, Duration::from_secs(60))]),
            retention: None,
        };
        let second = Duration::from_secs(1);
        let backoff = Backoff::new(second, second, second).unwrap();
        let wants = ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };
        DiscoveryPolicy { rules, rechecks: Vec::new(), start: DiscoveryStart::Now, backoff, wants, retention: None }
    }

    /// The correction of a start that was set with such a clock error, in milliseconds.
    fn corrected(start_error: i64, read: Option<TimeRange>, readings: &ClockReadings) -> Option<i64> {
        let policy = policy(Duration::from_secs(900));
        let start = first_window_start(&policy, SET_AT);
        let mut coverage = Coverage::new(start.plus_millis(start_error));
        coverage.live.insert(read?);
        let now = PlanningClock::default().now(readings);
        let new_since = Some(Tick(Duration::from_secs(100)));
        Some(corrected_start(&policy, &coverage, new_since, readings, now)?.0 - start.0)
    }

    #[test]
    fn the_first_window_takes_one_read_even_if_it_is_as_wide_as_the_widest() {
        for (window, width) in [(900, 900), (3600, 3599)] {
            let policy = policy(Duration::from_secs(window));
            let (start, horizon) = (first_window_start(&policy, SET_AT), policy.rules.horizon(SET_AT));
            assert_eq!(horizon.since(start), Duration::from_secs(width));
            let Plan::Read(read) = plan_next_read(SET_AT, &policy.rules, &Coverage::new(start), &[], &[], &[], 0)
            else {
                panic!("nothing is read");
            };
            assert_eq!(read.range, TimeRange { from: start, to: horizon });
        }
    }

    #[test]
    fn one_wrong_date_does_not_move_the_start_of_an_account_by_years() {
        // Something was read in the year of the wrong clock.
        let long_ago = TimeRange { from: SET_AT.plus_millis(-6 * YEAR), to: SET_AT.plus_millis(-6 * YEAR + MINUTE) };
        let correction = |start_error, readings: ClockReadings| corrected(start_error, Some(long_ago), &readings);
        assert_eq!(correction(0, read(0, 0, Some(0))), None);
        assert_eq!(correction(0, read(0, -5 * YEAR, None)), None);
        assert_eq!(correction(0, read(0, -5 * YEAR, Some(0))), None, "believed is another time");
        assert_eq!(correction(0, read(0, -5 * YEAR, Some(-5 * YEAR))), Some(-5 * YEAR + 60 * MINUTE));
        // It moves back once the API's clock has been right for some time.
        assert_eq!(correction(-5 * YEAR, read(0, 0, Some(-5 * YEAR))), None);
        assert_eq!(correction(-5 * YEAR, read(0, 0, Some(0))), Some(0));
    }

    #[test]
    fn the_start_of_an_account_is_corrected_if_this_machines_clock_was_wrong() {
        let long_ago = TimeRange { from: SET_AT.plus_millis(-6 * YEAR), to: SET_AT.plus_millis(-6 * YEAR + MINUTE) };
        let correction = |start_error, readings: ClockReadings| corrected(start_error, Some(long_ago), &readings);
        // The clock was ahead: a small error is corrected at once, a large one once the API's time
        // is believed.
        assert_eq!(correction(120 * MINUTE, read(120 * MINUTE, 0, None)), Some(60 * MINUTE));
        assert_eq!(correction(YEAR, read(YEAR, 0, None)), None);
        assert_eq!(correction(YEAR, read(YEAR, 0, Some(0))), Some(60 * MINUTE));
        // The clock was behind by years: corrected once the clock is right.
        assert_eq!(correction(-YEAR, read(-YEAR, 0, Some(0))), None);
        assert_eq!(correction(-YEAR, read(0, 0, None)), None);
        assert_eq!(correction(-YEAR, read(0, 0, Some(0))), Some(0));
        // Reads since then keep the start.
        assert_eq!(correction(0, read(0, 0, Some(0))), None);
        let since = TimeRange { from: SET_AT.plus_millis(10 * YEAR), to: SET_AT.plus_millis(10 * YEAR + MINUTE) };
        assert_eq!(corrected(YEAR, Some(since), &read(YEAR, 0, Some(0))), None);
    }
}
