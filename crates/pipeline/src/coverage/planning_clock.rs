//! The time for planning when clocks differ.
//!
//! Pure. No time counts as read before it has passed, so planning follows the earliest of all
//! clocks. The API's clock can be ahead of it for two reasons: its `Date` is wrong, or this
//! machine's clock is behind. Ended segments distinguish the two: a segment that ended later than
//! the earliest clock proves that the API's clock is right.

use std::time::Duration;

use super::{PlannedRead, PlanningRules, whole_seconds};
use crate::clock::{Tick, Time, millis};
use crate::model::{Lane, TimeRange, Window};
use crate::ringcx::ApiTime;

/// Differences up to this are ignored when a proof is made or applied.
const PROOF_MARGIN: Duration = Duration::from_secs(60);

/// Clocks that differ by no more than this agree.
pub(crate) const CLOCK_NOISE: Duration = Duration::from_secs(2);

/// The readings of all clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ClockReadings {
    /// The moment, on the monotonic clock.
    pub tick: Tick,
    /// This machine's clock.
    pub machine: Time,
    /// The database server's clock, if it is not this machine's.
    pub database: Option<Time>,
    /// The API's clock, from its newest answer.
    pub newest: Option<Time>,
    /// The API's clock, from its last answers. It counts only until `believed` is known.
    pub measured: Option<Time>,
    /// The API's clock, once several answers over some time agree.
    pub believed: Option<Time>,
    /// Whether there are enough answers of the API for an irreversible decision.
    pub is_measured: bool,
}

impl ClockReadings {
    /// The readings without the database's.
    pub fn new(machine: Time, tick: Tick, api: ApiTime) -> ClockReadings {
        let is_measured = api.is_measured();
        let ApiTime { newest, measured, believed, .. } = api.lower_bound(machine);
        ClockReadings { tick, machine, database: None, newest, measured, believed, is_measured }
    }

    fn api_times(&self) -> impl Iterator<Item = Time> {
        [self.newest, self.believed.or(self.measured)].into_iter().flatten()
    }

    /// The latest clock: later times are in the future by every clock.
    pub(crate) fn latest(&self) -> Time {
        self.api_times().chain(self.database).fold(self.machine, Time::max)
    }

    fn earliest(&self) -> Time {
        self.api_times().chain(self.database).fold(self.machine, Time::min)
    }
}

/// The clock for planning.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlanningClock {
    /// The API clock's proven lead over the tick.
    proven_lead_ms: Option<i64>,
    last_probe: Option<Tick>,
    last_answer: Option<Tick>,
}

impl PlanningClock {
    /// The time that planning uses.
    pub(crate) fn now(&self, readings: &ClockReadings) -> Time {
        let proven = |believed: Time| {
            let lead = believed.0.saturating_sub(millis(readings.tick.0));
            self.proven_lead_ms
                .is_some_and(|proven| lead.saturating_sub(proven).saturating_abs() <= millis(PROOF_MARGIN))
        };
        match readings.believed {
            Some(believed) if proven(believed) => readings.api_times().fold(believed, Time::min),
            _ => readings.earliest(),
        }
    }

    /// How far [`PlanningClock::now`] is ahead of the tick, in milliseconds.
    pub(crate) fn lead_over_tick_ms(&self, readings: &ClockReadings) -> i64 {
        self.now(readings).0.saturating_sub(millis(readings.tick.0))
    }

    /// The part of a window that counts as read, and when its request was sent, by the earliest
    /// clock. Both the lead at the time of planning ([`PlanningClock::lead_over_tick_ms`]) and the
    /// lead after the answer are considered.
    pub(crate) fn credit_read(
        &mut self,
        range: TimeRange,
        (planned_lead_ms, sent): (i64, Tick),
        after: &ClockReadings,
        rules: &PlanningRules,
    ) -> (Option<TimeRange>, Time) {
        self.last_answer = Some(after.tick);
        let read_at = Time(self.lead_over_tick_ms(after).min(planned_lead_ms).saturating_add(millis(sent.0)));
        let horizon = rules.horizon(read_at);
        let whole = range.to <= horizon + CLOCK_NOISE;
        (if whole { Some(range) } else { TimeRange::new(range.from, horizon) }, read_at)
    }

    /// A window that is read only to compare clocks, once an interval, if nothing else is due.
    ///
    /// If the API's clock is believed and ahead of the others, the window is one that only the
    /// API's clock allows. Its segments are stored and may be a proof, but it counts as read only
    /// up to the earliest clock. If the API's clock is behind, it is the newest past window, since
    /// only an answer can show that the clock was corrected.
    pub(crate) fn plan_probe(&mut self, readings: &ClockReadings, rules: &PlanningRules) -> Option<PlannedRead> {
        let now = self.now(readings);
        let is_recent = |last: Option<Tick>| last.is_some_and(|last| readings.tick.since(last) < rules.interval);
        let api = readings.believed.map(|believed| readings.api_times().fold(believed, Time::min));
        let ahead = api.map(|api| rules.horizon(api)).filter(|horizon| *horizon > now + PROOF_MARGIN);
        let horizon = match ahead {
            Some(horizon) if !is_recent(self.last_probe) => horizon,
            None if now + CLOCK_NOISE < readings.machine && !is_recent(self.last_answer) => rules.horizon(now),
            _ => return None,
        };
        (self.last_probe, self.last_answer) = (Some(readings.tick), Some(readings.tick));
        let width = whole_seconds(rules.window).clamp(1, rules.max_window_secs() - 1);
        let window = Window::covering(TimeRange { from: horizon.plus_millis(-width * 1000), to: horizon });
        Some(PlannedRead {
            lane: Lane::Live,
            window,
            range: window.covered_range()?,
            purpose: super::ReadPurpose::Live,
        })
    }

    /// Takes the end of the newest segment in an answer. Returns whether it is a new proof.
    pub(crate) fn observe_segment_end(&mut self, readings: &ClockReadings, ended: Time) -> bool {
        let Some(believed) = readings.believed else { return false };
        let is_proof = ended > self.now(readings) + PROOF_MARGIN && ended <= believed;
        if is_proof {
            self.proven_lead_ms = Some(believed.0.saturating_sub(millis(readings.tick.0)));
        }
        is_proof
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ringcx::rate_limit::SlidingWindowLimiter;

    const START: Time = Time(1_800_000_000_000);
    const HOUR: i64 = 3_600_000;

    fn rules() -> PlanningRules {
        PlanningRules {
            window: Duration::from_secs(900),
            offset: Duration::from_secs(300),
            interval: Duration::from_secs(300),
            max_window: Duration::from_secs(3600),
            limits: SlidingWindowLimiter::new([(3, Duration::from_secs(60)), (9, Duration::from_secs(900))]),
            retention: None,
        }
    }

    /// `after` milliseconds from the start; the clocks' errors in milliseconds.
    fn readings(after: i64, machine: i64, database: Option<i64>, api: i64, believed: Option<i64>) -> ClockReadings {
        let now = START.plus_millis(after);
        ClockReadings {
            tick: Tick(Duration::from_millis(after.unsigned_abs())),
            machine: now.plus_millis(machine),
            database: database.map(|error| now.plus_millis(error)),
            newest: Some(now.plus_millis(api)),
            measured: Some(now.plus_millis(api)),
            believed: believed.map(|error| now.plus_millis(error)),
            is_measured: true,
        }
    }

    #[test]
    fn planning_follows_the_earliest_clock() {
        let clock = PlanningClock::default();
        for (machine, database, api) in [(2, None, 0), (0, None, 2), (2, Some(0), 2), (0, Some(2), 2), (2, Some(2), 0)]
        {
            let readings = readings(0, machine * HOUR, database.map(|error: i64| error * HOUR), api * HOUR, None);
            assert_eq!(clock.now(&readings), START, "{readings:?}");
        }
        assert_eq!(clock.now(&readings(0, 5 * HOUR, None, 0, Some(0))), START, "a machine that is always ahead");
    }

    #[test]
    fn an_api_clock_that_is_ahead_is_probed_once_an_interval_and_counts_only_with_proof() {
        let mut clock = PlanningClock::default();
        assert_eq!(clock.plan_probe(&readings(0, 0, None, 2 * HOUR, None), &rules()), None, "not believed yet");
        let behind = readings(60_000, 0, None, 2 * HOUR, Some(2 * HOUR));
        let probe = clock.plan_probe(&behind, &rules()).unwrap();
        assert_eq!(probe.range.to, rules().horizon(START.plus_millis(60_000 + 2 * HOUR)));
        assert_eq!(clock.plan_probe(&readings(90_000, 0, None, 2 * HOUR, Some(2 * HOUR)), &rules()), None);
        // A segment that ended by the earliest clock is no proof.
        assert!(!clock.observe_segment_end(&behind, behind.machine));
        assert!(
            !clock.observe_segment_end(&behind, behind.machine.plus_millis(3 * HOUR)),
            "later than even the API says"
        );
        assert_eq!(clock.now(&behind), behind.machine);
        assert!(clock.observe_segment_end(&behind, probe.range.to.plus_millis(-1)));
        assert_eq!(clock.now(&behind), behind.believed.unwrap());
        let later = readings(3 * HOUR, 0, None, 2 * HOUR, Some(2 * HOUR));
        assert_eq!(clock.now(&later), later.believed.unwrap(), "an hour later it still holds");
        // The proof does not apply to another error.
        let further = readings(3 * HOUR, 0, None, 3 * HOUR, Some(3 * HOUR));
        assert_eq!(clock.now(&further), further.machine);
        let dated_back = readings(3 * HOUR, 0, None, 0, Some(2 * HOUR));
        assert_eq!(clock.now(&dated_back), dated_back.machine, "one earlier answer is enough");
    }

    #[test]
    fn an_answer_with_an_earlier_date_covers_less_of_its_window() {
        let mut clock = PlanningClock::default();
        let planned = readings(0, 2 * HOUR, None, 2 * HOUR, None);
        let horizon = rules().horizon(planned.machine);
        let range = |from: i64, to: i64| TimeRange {
            from: horizon.plus_millis(from * HOUR),
            to: horizon.plus_millis(to * HOUR),
        };
        let sent = (clock.lead_over_tick_ms(&planned), planned.tick);
        let mut credit =
            |range, api| clock.credit_read(range, sent, &readings(1_000, 2 * HOUR, None, api, None), &rules());
        assert_eq!(credit(range(-1, 0), 2 * HOUR), (Some(range(-1, 0)), planned.machine));
        assert_eq!(credit(range(-1, 0), 0), (None, START), "none of it is past");
        assert_eq!(credit(range(-3, 0), 0), (Some(range(-3, -2)), START));
        assert_eq!(credit(range(-9, -8), 0), (Some(range(-9, -8)), START), "and no recheck counts it as read later");
    }

    #[test]
    fn clocks_that_agree_are_never_probed() {
        let mut clock = PlanningClock::default();
        for error in [0, 30_000, 240_000] {
            assert_eq!(clock.plan_probe(&readings(HOUR, 0, None, error, Some(error)), &rules()), None, "{error}");
        }
    }

    #[test]
    fn an_api_clock_that_is_behind_is_probed_again_an_interval_later() {
        let mut clock = PlanningClock::default();
        let behind = |after| readings(after, 0, None, -HOUR, Some(0));
        let probe = clock.plan_probe(&behind(0), &rules()).unwrap();
        assert_eq!(probe.range.to, rules().horizon(START.plus_millis(-HOUR)));
        assert_eq!(clock.plan_probe(&behind(299_000), &rules()), None);
        clock.credit_read(probe.range, (0, Tick::default()), &behind(200_000), &rules());
        assert_eq!(clock.plan_probe(&behind(499_000), &rules()), None, "an answer came");
        assert!(clock.plan_probe(&behind(500_000), &rules()).is_some());
    }
}
