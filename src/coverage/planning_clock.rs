//! What time it is for planning, where clocks may differ.
//!
//! Pure. Nothing counts as read that may not have happened yet, so the earliest of all clocks counts. The API's clock may
//! be ahead of it for two reasons: its `Date` is wrong, or this machine's clock is behind. A conversation that has ended
//! tells them apart: one that ended later than the earliest clock says is proof that the API's clock is right.

use std::time::Duration;

use super::{Rules, Want, seconds};
use crate::clock::{Tick, Time, millis};
use crate::model::{Lane, Stretch, Window};

/// Clocks that differ by no more than this count as one, as far as a proof is concerned.
const PROOF_MARGIN: Duration = Duration::from_secs(60);

/// Clocks that differ by no more than this agree.
pub const CLOCK_NOISE: Duration = Duration::from_secs(2);

/// What all clocks say at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ClockReadings {
    /// The moment.
    pub tick: Tick,
    /// This machine's clock.
    pub machine: Time,
    /// The database's, where it has one of its own.
    pub database: Option<Time>,
    /// The API's by its newest answer.
    pub newest: Option<Time>,
    /// The API's by its last answers; counts only where it is not believed yet.
    pub measured: Option<Time>,
    /// The API's where several answers over some time agree.
    pub believed: Option<Time>,
}

impl ClockReadings {
    fn of_api(&self) -> impl Iterator<Item = Time> {
        [self.newest, self.believed.or(self.measured)].into_iter().flatten()
    }

    /// What is later than this has not happened by any clock.
    pub fn latest(&self) -> Time {
        self.of_api().chain(self.database).fold(self.machine, Time::max)
    }

    fn earliest(&self) -> Time {
        self.of_api().chain(self.database).fold(self.machine, Time::min)
    }
}

/// What time it is for planning.
#[derive(Debug, Clone, Default)]
pub struct PlanningClock {
    /// The API's lead over the tick, in milliseconds, for which there is proof.
    proven: Option<i64>,
    probed: Option<Tick>,
    answered: Option<Tick>,
}

impl PlanningClock {
    /// The time that planning goes by.
    pub fn now(&self, readings: &ClockReadings) -> Time {
        let proven = |believed: Time| {
            let lead = believed.0.saturating_sub(millis(readings.tick.0));
            self.proven.is_some_and(|proven| lead.saturating_sub(proven).saturating_abs() <= millis(PROOF_MARGIN))
        };
        match readings.believed {
            Some(believed) if proven(believed) => readings.of_api().fold(believed, Time::min),
            _ => readings.earliest(),
        }
    }

    /// How far [`PlanningClock::now`] is ahead of the tick, in milliseconds.
    pub fn lead(&self, readings: &ClockReadings) -> i64 {
        self.now(readings).0.saturating_sub(millis(readings.tick.0))
    }

    /// What of a window may count as read, and when its request was sent, by the earliest clock: as it was known when the
    /// window was planned ([`PlanningClock::lead`] then), or as its own answer has told since.
    pub fn credit(
        &mut self,
        stretch: Stretch,
        (planned, sent): (i64, Tick),
        after: &ClockReadings,
        rules: &Rules,
    ) -> (Option<Stretch>, Time) {
        self.answered = Some(after.tick);
        let read_at = Time(self.lead(after).min(planned).saturating_add(millis(sent.0)));
        let horizon = rules.horizon(read_at);
        let whole = stretch.to <= horizon + CLOCK_NOISE;
        (if whole { Some(stretch) } else { Stretch::new(stretch.from, horizon) }, read_at)
    }

    /// A window that is read only to learn what time it is, where nothing else is due; one an interval.
    ///
    /// Where the API's clock is believed and ahead of the others, one that only the API's clock allows: what it holds is
    /// stored and may be proof, but counts as read only as far as the earliest clock says. Where the API's clock is behind,
    /// the newest one that is past: without an answer nobody would learn that it has been put right.
    pub fn probe(&mut self, readings: &ClockReadings, rules: &Rules) -> Option<Want> {
        let now = self.now(readings);
        let rests = |last: Option<Tick>| last.is_some_and(|last| readings.tick.since(last) < rules.interval);
        let api = readings.believed.map(|believed| readings.of_api().fold(believed, Time::min));
        let ahead = api.map(|api| rules.horizon(api)).filter(|horizon| *horizon > now + PROOF_MARGIN);
        let horizon = match ahead {
            Some(horizon) if !rests(self.probed) => horizon,
            None if now + CLOCK_NOISE < readings.machine && !rests(self.answered) => rules.horizon(now),
            _ => return None,
        };
        (self.probed, self.answered) = (Some(readings.tick), Some(readings.tick));
        let width = seconds(rules.window).clamp(1, rules.widest() - 1);
        let window = Window::vouching_for(Stretch { from: horizon.plus_millis(-width * 1000), to: horizon });
        Some(Want { lane: Lane::Live, window, stretch: window.vouches_for()?, why: super::Pass::Live })
    }

    /// Takes note of when the newest conversation ended that an answer told of. Returns whether that is new proof.
    pub fn observe(&mut self, readings: &ClockReadings, ended: Time) -> bool {
        let Some(believed) = readings.believed else { return false };
        let is_proof = ended > self.now(readings) + PROOF_MARGIN && ended <= believed;
        if is_proof {
            self.proven = Some(believed.0.saturating_sub(millis(readings.tick.0)));
        }
        is_proof
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sliding::Sliding;

    const START: Time = Time(1_800_000_000_000);
    const HOUR: i64 = 3_600_000;

    fn rules() -> Rules {
        Rules {
            window: Duration::from_secs(900),
            offset: Duration::from_secs(300),
            interval: Duration::from_secs(300),
            max_window: Duration::from_secs(3600),
            sliding: Sliding::new([(3, Duration::from_secs(60)), (9, Duration::from_secs(900))]),
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
        }
    }

    #[test]
    fn the_earliest_clock_counts_whichever_is_ahead() {
        let clock = PlanningClock::default();
        for (machine, database, api) in [(2, None, 0), (0, None, 2), (2, Some(0), 2), (0, Some(2), 2), (2, Some(2), 0)]
        {
            let readings = readings(0, machine * HOUR, database.map(|error: i64| error * HOUR), api * HOUR, None);
            assert_eq!(clock.now(&readings), START, "{readings:?}");
        }
        assert_eq!(clock.now(&readings(0, 5 * HOUR, None, 0, Some(0))), START, "a machine that is always ahead");
    }

    #[test]
    fn a_date_that_is_ahead_is_probed_once_an_interval_and_counts_only_with_proof() {
        let mut clock = PlanningClock::default();
        assert_eq!(clock.probe(&readings(0, 0, None, 2 * HOUR, None), &rules()), None, "not believed yet");
        let behind = readings(60_000, 0, None, 2 * HOUR, Some(2 * HOUR));
        let probe = clock.probe(&behind, &rules()).unwrap();
        assert_eq!(probe.stretch.to, rules().horizon(START.plus_millis(60_000 + 2 * HOUR)));
        assert_eq!(clock.probe(&readings(90_000, 0, None, 2 * HOUR, Some(2 * HOUR)), &rules()), None);
        // Nothing ended there, or only what ended by the earliest clock: no proof.
        assert!(!clock.observe(&behind, behind.machine));
        assert!(!clock.observe(&behind, behind.machine.plus_millis(3 * HOUR)), "later than even the API says");
        assert_eq!(clock.now(&behind), behind.machine);
        assert!(clock.observe(&behind, probe.stretch.to.plus_millis(-1)));
        assert_eq!(clock.now(&behind), behind.believed.unwrap());
        let later = readings(3 * HOUR, 0, None, 2 * HOUR, Some(2 * HOUR));
        assert_eq!(clock.now(&later), later.believed.unwrap(), "an hour later it still holds");
        // It does not hold for another error.
        let further = readings(3 * HOUR, 0, None, 3 * HOUR, Some(3 * HOUR));
        assert_eq!(clock.now(&further), further.machine);
        let dated_back = readings(3 * HOUR, 0, None, 0, Some(2 * HOUR));
        assert_eq!(clock.now(&dated_back), dated_back.machine, "one answer that says less is enough");
    }

    #[test]
    fn an_answer_whose_date_says_less_makes_its_window_count_for_less() {
        let mut clock = PlanningClock::default();
        let planned = readings(0, 2 * HOUR, None, 2 * HOUR, None);
        let horizon = rules().horizon(planned.machine);
        let stretch =
            |from: i64, to: i64| Stretch { from: horizon.plus_millis(from * HOUR), to: horizon.plus_millis(to * HOUR) };
        let sent = (clock.lead(&planned), planned.tick);
        let mut credit =
            |stretch, api| clock.credit(stretch, sent, &readings(1_000, 2 * HOUR, None, api, None), &rules());
        assert_eq!(credit(stretch(-1, 0), 2 * HOUR), (Some(stretch(-1, 0)), planned.machine));
        assert_eq!(credit(stretch(-1, 0), 0), (None, START), "none of it is past");
        assert_eq!(credit(stretch(-3, 0), 0), (Some(stretch(-3, -2)), START));
        assert_eq!(
            credit(stretch(-9, -8), 0),
            (Some(stretch(-9, -8)), START),
            "and no recheck counts it as read later"
        );
    }

    #[test]
    fn clocks_that_agree_are_never_probed() {
        let mut clock = PlanningClock::default();
        for error in [0, 30_000, 240_000] {
            assert_eq!(clock.probe(&readings(HOUR, 0, None, error, Some(error)), &rules()), None, "{error}");
        }
    }

    #[test]
    fn where_the_api_is_behind_it_is_asked_again_an_interval_later() {
        let mut clock = PlanningClock::default();
        let behind = |after| readings(after, 0, None, -HOUR, Some(0));
        let probe = clock.probe(&behind(0), &rules()).unwrap();
        assert_eq!(probe.stretch.to, rules().horizon(START.plus_millis(-HOUR)));
        assert_eq!(clock.probe(&behind(299_000), &rules()), None);
        clock.credit(probe.stretch, (0, Tick::default()), &behind(200_000), &rules());
        assert_eq!(clock.probe(&behind(499_000), &rules()), None, "an answer came");
        assert!(clock.probe(&behind(500_000), &rules()).is_some());
    }
}
