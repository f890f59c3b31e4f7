//! Runs the planner for one account with a simulated clock, and checks every read.
//!
//! A simple model runs beside the coverage under test: for every second of the time line, when a
//! read that covers it was last sent.

use std::collections::BTreeMap;

use super::quota_forecast::sustainable_interval_secs;
use super::*;

const START: i64 = 1_700_000_000;
/// More reads than any history needs; reached only by an endless loop.
const MAX_READS: usize = 20_000;

pub(super) fn secs(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap())
}

pub(super) fn at(secs: i64) -> Time {
    Time::from_secs(START + secs)
}

/// An event in a simulated history.
#[derive(Debug, Clone)]
pub(super) enum SimulatedEvent {
    /// The daemon is down for so many seconds, then starts with only its coverage and its log.
    Down(i64),
    /// An operator requests a backfill.
    Backfill { from: i64, width: i64, newest_first: bool },
    /// Records were quarantined: the range is to be read again.
    Repair { ago: i64, width: i64, after: i64 },
}

/// How a request ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum SimulatedOutcome {
    Answered,
    Failed,
    Truncated,
}

#[derive(Debug, Clone)]
pub(super) struct SimulatedHistory {
    pub(crate) rules: PlanningRules,
    pub(crate) start: i64,
    pub(crate) delays: Vec<i64>,
    /// The events, by second.
    pub(crate) events: BTreeMap<i64, SimulatedEvent>,
    /// How the requests end, repeated until the last event.
    pub(crate) outcomes: Vec<SimulatedOutcome>,
    /// The duration of a request, in milliseconds.
    pub(crate) request_ms: i64,
}

pub(super) struct PlannerSimulation<'a> {
    pub(crate) history: &'a SimulatedHistory,
    pub(crate) now: Time,
    pub(crate) coverage: Coverage,
    pub(crate) log: Vec<Time>,
    pub(crate) failed: Vec<FailedWindow>,
    pub(crate) repairs: Vec<Repair>,
    pub(crate) other_reads: u64,
    pub(crate) reads: Vec<(Time, PlannedRead)>,
    /// When the daemon last started.
    pub(crate) up_since: Time,
    /// When each second of the time line was last read.
    pub(crate) last_read: BTreeMap<i64, Time>,
    /// Every backfill, and when it was requested.
    pub(crate) requested: Vec<(Backfill, Time)>,
}

impl SimulatedHistory {
    /// The log holds when a request was certainly counted: when the first part of its answer
    /// arrived.
    pub(super) fn counted_after(&self) -> Duration {
        Duration::from_millis(self.request_ms.clamp(0, 900).unsigned_abs())
    }
}

impl PlannerSimulation<'_> {
    pub(super) fn new(history: &SimulatedHistory) -> PlannerSimulation<'_> {
        let now = at(0);
        let mut coverage = Coverage::new(history.rules.first_start(now).plus_millis(-history.start * 1000));
        for delay in &history.delays {
            let level = Recheck { base: coverage.live_start, done: TimeRangeSet::default() };
            coverage.rechecks.push((secs(*delay), level));
        }
        PlannerSimulation {
            history,
            now,
            coverage,
            log: Vec::new(),
            failed: Vec::new(),
            repairs: Vec::new(),
            other_reads: 0,
            reads: Vec::new(),
            up_since: now,
            last_read: BTreeMap::new(),
            requested: Vec::new(),
        }
    }

    pub(super) fn plan_next_read(&self) -> Plan {
        let rules = &self.history.rules;
        plan_next_read(self.now, rules, &self.coverage, &self.log, &self.failed, &self.repairs, self.other_reads)
    }

    /// Reads and waits until the given time, or until only live reads remain.
    pub(super) fn run(&mut self, until: Option<Time>) {
        while until.is_none_or(|until| self.now < until) && (until.is_some() || !self.settled()) {
            assert!(self.reads.len() < MAX_READS, "does not settle: {:?}", &self.reads[MAX_READS - 20..]);
            match self.plan_next_read() {
                Plan::Read(planned) => self.read(planned),
                Plan::Wait { until: due } => {
                    assert!(due > self.now, "waits into the past");
                    self.now = until.map_or(due, |until| until.min(due));
                }
            }
        }
    }

    fn settled(&self) -> bool {
        let context = super::candidates::PlanContext::new(self.now, &self.history.rules, &self.coverage, &self.failed);
        self.coverage.live_edge().is_some()
            && context.live_read(sustainable_interval_secs(&self.history.rules)).0.is_none()
            && context.earliest_retry().is_none()
            && context.recheck_reads(&self.repairs).read.is_none()
            && self.repairs.is_empty()
            && context.past_reads().read.is_none()
            && self.coverage.backfills.is_empty()
    }

    fn read(&mut self, planned: PlannedRead) {
        self.check_legal(planned);
        self.check_punctual(planned);
        self.log.retain(|sent| self.now.since(*sent) < secs(3600));
        self.log.push(self.now + self.history.counted_after());
        self.reads.push((self.now, planned));
        self.other_reads += u64::from(planned.lane != Lane::Live);
        let sent = self.now;
        self.now = self.now.plus_millis(self.history.request_ms);
        let outcome = if self.now < self.last_event() {
            self.history.outcomes[self.reads.len() % self.history.outcomes.len()]
        } else {
            SimulatedOutcome::Answered
        };
        let widest = i64::from(planned.window.seconds);
        match outcome {
            SimulatedOutcome::Answered => self.record_success(planned.range, sent),
            SimulatedOutcome::Failed => self.record_failure(planned.range, 15, widest),
            SimulatedOutcome::Truncated => self.record_failure(planned.range, 5, widest / 2),
        }
    }

    fn last_event(&self) -> Time {
        self.history.events.last_key_value().map_or(at(0), |(second, _)| at(*second))
    }

    fn record_failure(&mut self, range: TimeRange, pause: i64, max_width: i64) {
        self.failed.push(FailedWindow { range, retry_at: self.now + secs(pause), max_width: secs(max_width) });
    }

    fn record_success(&mut self, range: TimeRange, sent: Time) {
        let before = self.coverage.clone();
        let gained = self.coverage.record(range, sent);
        let mut restored = before;
        gained.into_iter().for_each(|(purpose, range)| restored.restore(purpose, range));
        assert_eq!(restored, self.coverage, "the returned ranges must be those to store");
        for second in range.from.floor_secs()..range.to.floor_secs() {
            self.last_read.insert(second, sent);
        }
        self.failed.retain(|failed| failed.range.intersect(range).is_none());
        self.repairs = self.repairs.iter().flat_map(|repair| remaining_repairs(*repair, range, sent)).collect();
        let finished = self.coverage.finished_backfills();
        self.coverage.backfills.retain(|backfill| !finished.contains(&backfill.id));
    }

    pub(super) fn check_legal(&self, planned: PlannedRead) {
        let rules = &self.history.rules;
        let widest = whole_seconds(rules.max_window).clamp(2, MAX_WINDOW_SECS);
        assert!(planned.window.end() <= self.now - rules.offset, "ends after the horizon: {planned:?} at {}", self.now);
        assert!((2..=widest).contains(&i64::from(planned.window.seconds)), "width: {planned:?}");
        assert_eq!(Some(planned.range), planned.window.covered_range());
        for (most, width) in rules.limits.rules() {
            let counted = self.log.iter().filter(|sent| **sent + *width > self.now).count();
            assert!(counted < usize::try_from(*most).unwrap(), "limit {most} in {width:?} broken at {}", self.now);
        }
        for failed in &self.failed {
            if failed.range.intersect(planned.range).is_some() {
                assert!(failed.retry_at <= self.now, "requested again too early: {planned:?}");
                assert!(
                    i64::from(planned.window.seconds) <= whole_seconds(failed.max_width).max(2),
                    "too wide again: {planned:?}"
                );
            }
        }
    }

    /// If the limits allow live reads and others, a live read is sent in the second in which it is
    /// due.
    fn check_punctual(&self, planned: PlannedRead) {
        let rules = &self.history.rules;
        let roomy = sustainable_interval_secs(rules) == rules.interval_secs();
        let has_failures = self.history.outcomes.iter().any(|outcome| !matches!(outcome, SimulatedOutcome::Answered));
        if planned.lane != Lane::Live || !roomy || has_failures || self.history.request_ms > 900 {
            return;
        }
        let edge = self.coverage.live_edge();
        let due =
            edge.map_or(self.up_since, |edge| edge + secs(rules.interval_secs()) + rules.offset).max(self.up_since);
        // A slow answer delays the next read, and counts later.
        let late = secs(1) + 2 * self.history.counted_after();
        assert!(self.now >= due && self.now.since(due) < late, "a live read is late: {planned:?} at {}", self.now);
    }

    pub(super) fn apply(&mut self, event: &SimulatedEvent) {
        match event {
            SimulatedEvent::Down(width) => {
                self.now = self.now + secs(*width);
                self.up_since = self.now;
                self.failed.clear();
            }
            SimulatedEvent::Backfill { from, width, newest_first } => {
                // Half seconds: a requested range need not be whole.
                let from = at(*from).plus_millis(500);
                let range = TimeRange { from, to: from + secs(*width) };
                let id = i64::try_from(self.requested.len()).unwrap();
                let backfill = Backfill { id, range, newest_first: *newest_first, done: TimeRangeSet::default() };
                self.requested.push((backfill.clone(), self.now));
                self.coverage.backfills.push(backfill);
            }
            SimulatedEvent::Repair { ago, width, after } => {
                let from = self.now.floor_to_second() - secs(*ago);
                let range = TimeRange { from, to: from + secs(*width) };
                self.repairs.push(Repair { range, due: self.now + secs(*after) });
            }
        }
    }

    pub(super) fn check_coverage(&self) {
        let seconds_of = |set: &TimeRangeSet| -> Vec<i64> {
            let ranges = set.as_slice().iter();
            ranges.flat_map(|one| one.from.floor_secs()..one.to.floor_secs()).collect()
        };
        let model = |late_enough: &dyn Fn(i64, Time) -> bool| -> Vec<i64> {
            self.last_read
                .iter()
                .filter(|(second, sent)| late_enough(**second, **sent))
                .map(|(second, _)| *second)
                .collect()
        };
        assert_eq!(seconds_of(&self.coverage.live), model(&|_, _| true));
        for (delay, recheck) in &self.coverage.rechecks {
            let owed = |second: i64, sent: Time| Time::from_secs(second + 1) + *delay <= sent;
            assert_eq!(seconds_of(&recheck.done), model(&owed), "recheck {delay:?}");
        }
    }

    /// After a history has settled: nothing is missing according to the model.
    pub(super) fn check_complete(&self) {
        let rules = &self.history.rules;
        let edge = self.coverage.live_edge().unwrap();
        assert!(
            self.now.since(edge) <= rules.offset + secs(sustainable_interval_secs(rules) + 2),
            "live is far behind"
        );
        for second in self.coverage.live_start.floor_secs()..edge.floor_secs() {
            assert!(self.last_read.contains_key(&second), "never read: {second}");
        }
        for delay in &self.history.delays {
            let width = rules.recheck_width_secs(secs(*delay)) + 2 * sustainable_interval_secs(rules) + 2;
            let owed = self.now - secs(*delay) - rules.offset - secs(width);
            for second in self.coverage.live_start.floor_secs()..owed.floor_secs() {
                let late_enough = self.last_read[&second] >= Time::from_secs(second + 1) + secs(*delay);
                assert!(late_enough, "not read again {delay} s later: {second}");
            }
        }
        for (backfill, when) in &self.requested {
            for second in backfill.range.from.floor_secs()..backfill.range.to.floor_secs() {
                assert!(self.last_read[&second] >= *when, "not read for backfill {}: {second}", backfill.id);
            }
        }
        assert_eq!(self.coverage.gaps(edge), TimeRangeSet::default());
        assert_eq!(self.coverage.watermark(), Some(edge));
    }
}

/// The parts of a repair that a read leaves.
fn remaining_repairs(repair: Repair, read: TimeRange, sent: Time) -> Vec<Repair> {
    let read = if sent < repair.due { TimeRangeSet::default() } else { single_range(read) };
    single_range(repair.range).minus(&read).as_slice().iter().map(|range| Repair { range: *range, ..repair }).collect()
}
