//! Generated sequences of events: whatever the clocks, the API and the database do, the machine
//! keeps its rules, and reads everything in the end.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::backoff::Fault;
use crate::clock::Tick;
use crate::coverage::ClockReadings;
use crate::db::{BackfillRequest, Lease};
use crate::model::{ArtifactSet, Endpoint, SummariesFor, TimeRangeSet};
use crate::ringcx::rate_limit::SlidingWindowLimiter;
use crate::ringcx::{ApiTime, ErrorCause};

const START: Time = Time(1_800_000_000_000);
const HOUR: i64 = 3_600_000;
/// A step needs fewer actions.
const MAX_ACTIONS: usize = 16;
const RECHECK_DELAY: Duration = Duration::from_secs(3600);
const CALM: Duration = Duration::from_secs(12 * 3600);
/// The wait for a full recheck, and for other reads.
const SETTLE_TIME: Duration = Duration::from_secs(2 * 3600);

/// How a step goes on.
#[derive(Debug, Clone, Copy)]
enum StepOutcome {
    Answered,
    Failed(Fault, ErrorCause),
    /// The step is abandoned at this action: the database fails, the step is cancelled, or panics.
    Abandoned(usize),
    /// The read is recorded, and the step is abandoned before the machine knows.
    AbandonedAfterRecord,
}

#[derive(Debug, Clone)]
enum Happening {
    Wait(u64),
    Step(StepOutcome),
    /// The errors of the clocks in milliseconds: this machine's, the database's, the API's.
    Clocks([i64; 3], Option<i64>),
    /// An operator requests a backfill: how many seconds ago it begins, and its width.
    Backfill(i64, i64),
    Resume,
    Restart,
    /// The database is restored to the state of the last restart.
    Restore,
}

struct World {
    machine: DiscoveryMachine,
    tick: Tick,
    /// The errors of this machine's clock, the database's, the API's newest answer.
    errors: [i64; 3],
    believed: Option<i64>,
    /// Whether this process knows an API time.
    has_answers: bool,
    stored: Option<StoredCoverage>,
    backup: Option<StoredCoverage>,
    seq: i64,
    sent: Vec<Tick>,
    planned: Vec<TimeRange>,
    requested: i64,
}

fn rules() -> PlanningRules {
    let secs = Duration::from_secs;
    PlanningRules {
        window: secs(900),
        offset: secs(300),
        interval: secs(300),
        max_window: secs(3600),
        limits: SlidingWindowLimiter::new([(3, secs(60)), (9, secs(900))]),
        retention: None,
    }
}

fn new_machine(at: &ClockReadings) -> DiscoveryMachine {
    let (initial, max) = (Duration::from_secs(15), Duration::from_secs(3600));
    let policy = DiscoveryPolicy {
        rules: rules(),
        rechecks: vec![RECHECK_DELAY],
        start: DiscoveryStart::Now,
        backoff: Backoff::new(initial, max, max).unwrap(),
        wants: ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed },
        retention: None,
    };
    DiscoveryMachine::new(Lease { account: crate::db::AccountKey(1), epoch: 1 }, policy, true, at)
}

impl World {
    fn new() -> World {
        let tick = Tick(Duration::from_secs(1_000_000));
        World {
            machine: new_machine(&ClockReadings::new(START, tick, ApiTime::default())),
            tick,
            errors: [0; 3],
            believed: None,
            has_answers: false,
            stored: None,
            backup: None,
            seq: 0,
            sent: Vec::new(),
            planned: Vec::new(),
            requested: 0,
        }
    }

    fn time(&self, error: i64) -> Time {
        (START + self.tick.0).plus_millis(error - 1_000_000_000)
    }

    fn readings(&self) -> ClockReadings {
        let newest = self.has_answers.then(|| self.time(self.errors[2]));
        ClockReadings {
            tick: self.tick,
            machine: self.time(self.errors[0]),
            database: None,
            newest,
            measured: newest,
            believed: self.believed.filter(|_| self.has_answers).map(|error| self.time(error)),
            is_measured: self.has_answers,
        }
    }

    /// The latest end of a window, by the earliest clock.
    fn horizon(&self) -> Time {
        let errors = self.errors.into_iter().chain(self.believed);
        rules().horizon(self.time(errors.min().unwrap_or(0))) + crate::coverage::CLOCK_NOISE
    }

    fn wait(&mut self, span: Duration) {
        self.tick = self.tick + span;
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Wait(secs) => self.wait(Duration::from_secs(secs)),
            Happening::Step(outcome) => {
                self.step(outcome);
            }
            Happening::Clocks(errors, believed) => {
                (self.errors, self.believed) = (errors, believed);
                // Until then the last reading of the database's clock may be used.
                self.wait(Duration::from_secs(11));
            }
            Happening::Backfill(ago, width) => self.request_backfill(ago, width),
            Happening::Resume => self.machine.retry_now(&self.readings()),
            Happening::Restart => {
                (self.has_answers, self.backup) = (false, self.stored.clone());
                self.machine = new_machine(&self.readings());
            }
            Happening::Restore => {
                let Some(mut backup) = self.backup.clone() else { return };
                let newer = self.stored.take().into_iter().flat_map(|stored| stored.backfills);
                let known: Vec<i64> = backup.backfills.iter().map(|backfill| backfill.id).collect();
                backup.backfills.extend(newer.filter(|backfill| !known.contains(&backfill.id)));
                (self.stored, self.seq) = (Some(backup), 0);
            }
        }
    }

    fn request_backfill(&mut self, ago: i64, width: i64) {
        let now = self.time(0);
        let Some(stored) = &mut self.stored else { return };
        let from = now.plus_millis(-ago * 1000).floor_to_second();
        self.requested += 1;
        stored.backfills.push(BackfillRequest {
            id: self.requested,
            account: crate::db::AccountKey(1),
            range: TimeRange { from, to: from.plus_millis(width * 1000) },
            newest_first: width % 2 == 0,
            created: now,
            finished: None,
            cancelled: None,
        });
        self.machine.reload();
    }

    /// Runs one step. Returns how long nothing is due.
    fn step(&mut self, outcome: StepOutcome) -> Option<Duration> {
        let mut event = Event::Wake;
        for nth in 0..MAX_ACTIONS {
            let action = self.machine.on(event, self.readings());
            if matches!(outcome, StepOutcome::Abandoned(at) if at == nth) {
                return None;
            }
            event = match action {
                Action::LoadCoverage(defaults) => Event::Loaded(self.load(&defaults)),
                Action::RepairDeferredWork(_) => Event::DeferredWorkRepaired(true),
                Action::Login => {
                    self.has_answers = true;
                    Event::LoggedIn
                }
                Action::ReadDatabaseClock => Event::DatabaseClock(Some(self.time(self.errors[1]))),
                Action::MoveStart(_, to) => {
                    self.stored.iter_mut().for_each(|stored| stored.live_start = to);
                    Event::Wake
                }
                Action::TruncateCoverage(latest) => {
                    if let Some(stored) = &mut self.stored {
                        stored.ranges.retain(|(_, range)| range.from < latest);
                        stored.ranges.iter_mut().for_each(|(_, range)| range.to = range.to.min(latest));
                    }
                    Event::Wake
                }
                Action::LoadPlanInputs => {
                    let age = |sent: &Tick| self.time(self.errors[0]) - self.tick.since(*sent);
                    Event::PlanInputs(Vec::new(), self.sent.iter().map(age).collect())
                }
                Action::Read(planned, is_probe) => self.read(planned, is_probe, outcome),
                Action::Record(read) => {
                    assert!(read.range.to <= self.horizon(), "counts as read before it has passed: {read:?}");
                    self.seq += 1;
                    self.record(&read);
                    if matches!(outcome, StepOutcome::AbandonedAfterRecord) {
                        return None;
                    }
                    Event::Recorded(self.seq)
                }
                Action::Idle(span) => {
                    assert!(!span.is_zero() && span <= rules().interval, "waits for {span:?}");
                    return Some(span);
                }
                Action::Completed(_) | Action::Failed(..) => return None,
            };
        }
        panic!("the step does not end");
    }

    fn load(&mut self, defaults: &CoverageDefaults) -> StoredCoverage {
        let stored = self.stored.get_or_insert_with(|| StoredCoverage {
            live_start: defaults.start,
            is_new: true,
            ranges: Vec::new(),
            bases: defaults.recheck_bases(&[]),
            backfills: Vec::new(),
        });
        let loaded = stored.clone();
        stored.is_new = false;
        loaded
    }

    fn read(&mut self, planned: PlannedRead, is_probe: bool, outcome: StepOutcome) -> Event {
        for (most, width) in rules().limits.rules() {
            let counted = self.sent.iter().filter(|sent| self.tick.since(**sent) < *width).count();
            assert!(counted < *most as usize, "exceeds the limit of {most} in {width:?}");
        }
        assert!(is_probe || planned.window.end() <= self.horizon(), "is not past: {planned:?}");
        self.planned.extend((!is_probe).then_some(planned.range));
        self.machine.record_sent(&self.readings());
        self.sent.retain(|sent| self.tick.since(*sent) < Duration::from_secs(1000));
        self.sent.push(self.tick);
        self.wait(Duration::from_millis(300));
        match outcome {
            StepOutcome::Failed(fault, cause) => {
                Event::ReadFailed(ApiError::new(fault, Endpoint::Metadata, cause, "it is planned to fail"), 0.5)
            }
            _ => {
                self.has_answers = true;
                Event::Answered
            }
        }
    }

    fn record(&mut self, read: &WindowRead) {
        let Some(stored) = &mut self.stored else { return };
        stored.ranges.extend(read.purposes.iter().cloned());
        stored.backfills.retain(|backfill| !read.finished.contains(&backfill.id));
    }

    /// The clocks are right, and every read succeeds.
    fn run_calmly(&mut self) {
        (self.errors, self.believed, self.has_answers) = ([0; 3], Some(0), true);
        self.wait(Duration::from_secs(11));
        let end = self.tick + CALM;
        while self.tick < end {
            if let Some(span) = self.step(StepOutcome::Answered) {
                self.wait(span);
            }
        }
    }

    fn covered(&self, purpose: &str) -> TimeRangeSet {
        let ranges = self.stored.iter().flat_map(|stored| &stored.ranges).filter(|(of, _)| of == purpose);
        TimeRangeSet::from_unsorted(ranges.map(|(_, range)| *range).collect())
    }

    fn check_completeness(&self) {
        let stored = self.stored.as_ref().unwrap();
        let (live, rechecked) = (self.covered("live"), self.covered("recheck:3600"));
        let set = |range| TimeRangeSet::from_unsorted(vec![range]);
        let all = TimeRange::new(stored.live_start, rules().horizon(self.time(0)) - rules().interval).unwrap();
        assert!(set(all).minus(&live).is_empty(), "not read: {:?}", set(all).minus(&live));
        for range in &self.planned {
            let past = all.intersect(*range).map_or_else(TimeRangeSet::default, set);
            assert!(past.minus(&live).is_empty(), "planned, but not read: {range}");
        }
        let late = TimeRange::new(stored.live_start, all.to - RECHECK_DELAY - SETTLE_TIME).unwrap();
        assert!(set(late).minus(&rechecked).is_empty(), "not rechecked: {:?}", set(late).minus(&rechecked));
        assert_eq!(stored.backfills, [], "unfinished backfills");
    }
}

fn any_outcome() -> impl Strategy<Value = StepOutcome> {
    let failures = [
        StepOutcome::Failed(Fault::RateLimited, ErrorCause::Answered),
        StepOutcome::Failed(Fault::Unauthorised, ErrorCause::Answered),
        StepOutcome::Failed(Fault::Transient, ErrorCause::TimedOut),
        StepOutcome::Failed(Fault::Transient, ErrorCause::Answered),
        StepOutcome::Failed(Fault::Transient, ErrorCause::ReservationFailed),
    ];
    prop_oneof![
        6 => Just(StepOutcome::Answered),
        3 => prop::sample::select(failures.to_vec()),
        2 => (0..MAX_ACTIONS).prop_map(StepOutcome::Abandoned),
        1 => Just(StepOutcome::AbandonedAfterRecord),
    ]
}

/// The error of a clock: none, or up to six hours.
fn any_error() -> impl Strategy<Value = i64> {
    prop_oneof![2 => Just(0), 1 => -6 * HOUR..6 * HOUR]
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        12 => any_outcome().prop_map(Happening::Step),
        5 => (1_u64..2000).prop_map(Happening::Wait),
        2 => ([any_error(), any_error(), any_error()], prop::option::of(any_error()))
            .prop_map(|(errors, believed)| Happening::Clocks(errors, believed)),
        1 => (600_i64..40_000, 1_i64..10_000).prop_map(|(ago, width)| Happening::Backfill(ago, width)),
        1 => Just(Happening::Resume),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(4),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_rules_are_kept_and_no_range_is_lost(
        happenings in prop::collection::vec(any_happening(), 1..80),
    ) {
        let mut world = World::new();
        happenings.iter().for_each(|happening| world.happen(happening));
        world.run_calmly();
        world.check_completeness();
    }
}
