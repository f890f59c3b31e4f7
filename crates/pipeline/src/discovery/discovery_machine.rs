//! The state machine of discovery.
//!
//! Waits are measured by the monotonic clock, so that later changes of this machine's clock do not
//! affect them. Windows are planned by the earliest of all clocks.

use std::borrow::Cow;
use std::time::Duration;

use super::account_start::{CoverageDefaults, corrected_start, restore_coverage};
use super::{Action, CompletedRead, DATABASE_RETRY_INTERVAL, DiscoveryPolicy, Event, FailureConsequence};
use crate::backoff::Fault;
use crate::circuit_breaker::{BreakerEvent, CircuitBreaker};
use crate::clock::{Tick, Time, millis};
use crate::clock_watch::ClockWatch;
use crate::coverage::{
    CLOCK_NOISE, ClockReadings, Coverage, FailedWindowBackoff, Plan, PlannedRead, PlanningClock, Repair, WindowFailure,
    plan_next_read,
};
use crate::db::{IngestSummary, Lease, MetadataChunk, PauseRow, SavedThrottle, WindowRead};
use crate::model::{Endpoint, Lane, QuarantinedRecord, SegmentRecord, TimeRange};
use crate::ringcx::{ApiError, ErrorCause};

/// How often the database's clock is read. In between it is extrapolated with this machine's ticks.
const DATABASE_CLOCK_INTERVAL: Duration = Duration::from_secs(10);
/// The longest wait after a failed request.
const MAX_BACKOFF: Duration = Duration::from_secs(900);
/// The longest wait of a failed range, in case a clock was wrong.
const MAX_WINDOW_WAIT: Duration = Duration::from_secs(3600);
/// The shortest wait.
const MIN_IDLE: Duration = Duration::from_millis(10);
/// The share of the vendor's retention after which a segment is urgent.
const URGENT_RETENTION_SHARE: f64 = 0.9;
/// The longest delay until a window with a quarantined record is read again for the first time.
const MAX_QUARANTINE_DELAY: Duration = Duration::from_secs(60);

/// Decides what is read of one account.
#[derive(Debug)]
pub struct DiscoveryMachine {
    lease: Lease,
    policy: DiscoveryPolicy,
    /// Whether the database has a clock of its own.
    has_database_clock: bool,
    /// This machine's time at tick zero, as of the start.
    anchor: Time,
    coverage: Coverage,
    /// Whether the coverage must be loaded before the next read.
    is_stale: bool,
    /// When this process set the start of the account, if the account was new.
    new_since: Option<Tick>,
    failed_windows: FailedWindowBackoff,
    breaker: CircuitBreaker,
    consecutive_failures: u32,
    consecutive_rate_limits: u32,
    not_before: Tick,
    /// The number of reads that were not live.
    other_reads: u64,
    planning_clock: PlanningClock,
    /// The last reading of the database's clock: when it arrived, how long the query took, and the
    /// time.
    database_clock: Option<(Tick, Duration, Time)>,
    /// When the database's clock was requested.
    clock_requested: Tick,
    clock_watch: ClockWatch,
    /// Whether a clock that was ahead may have deferred work: also one of an earlier process.
    may_have_deferred_work: bool,
    /// The sequence number of the last recorded read.
    last_read_seq: i64,
    /// The read under way.
    read: Option<ReadInProgress>,
}

#[derive(Debug)]
struct ReadInProgress {
    /// What is known of it so far.
    read: CompletedRead,
    /// The lead over the tick of the time that the window was planned for.
    planned_lead_ms: i64,
    sent: (Time, Tick),
    /// The end of the newest segment in the window.
    newest_end: Option<Time>,
    /// The coverage with this read, while it is recorded.
    coverage: Option<Coverage>,
}

impl DiscoveryMachine {
    /// The machine of an account, of which nothing is loaded yet.
    pub fn new(
        lease: Lease,
        policy: DiscoveryPolicy,
        has_database_clock: bool,
        at: &ClockReadings,
    ) -> DiscoveryMachine {
        DiscoveryMachine {
            lease,
            policy,
            has_database_clock,
            anchor: at.machine.plus_millis(-millis(at.tick.0)),
            coverage: Coverage::new(at.machine),
            is_stale: true,
            new_since: None,
            failed_windows: FailedWindowBackoff::default(),
            breaker: CircuitBreaker::default(),
            consecutive_failures: 0,
            consecutive_rate_limits: 0,
            not_before: Tick::default(),
            other_reads: 0,
            planning_clock: PlanningClock::default(),
            database_clock: None,
            clock_requested: at.tick,
            clock_watch: ClockWatch::new(at.machine, at.tick),
            may_have_deferred_work: true,
            last_read_seq: 0,
            read: None,
        }
    }

    /// Restores a pause that was recorded by an earlier process.
    pub fn restore_pause(&mut self, pause: &PauseRow, at: &ClockReadings) {
        let longest = MAX_BACKOFF.max(self.policy.backoff.initial_delay());
        self.breaker.restore_pause(pause.since, pause.until.min(self.local_time(at) + longest), pause.times);
    }

    /// Restores the wait after a 429 that the account's previous owner received.
    pub fn restore_throttle(&mut self, saved: &SavedThrottle, at: &ClockReadings) {
        // A wait that ended long ago does not affect the next one.
        if at.machine.since(saved.until) < MAX_BACKOFF {
            (self.not_before, self.consecutive_rate_limits) = (at.tick + saved.until.since(at.machine), saved.times);
        }
    }

    /// Ends all waits, because an operator asked for a retry. The limits still apply.
    pub fn retry_now(&mut self, at: &ClockReadings) {
        self.not_before = Tick::default();
        self.breaker.retry_now(self.local_time(at));
        self.failed_windows = FailedWindowBackoff::default();
        (self.consecutive_failures, self.consecutive_rate_limits) = (0, 0);
    }

    /// Has the next step load the coverage, since an operator may have made new requests.
    pub fn reload(&mut self) {
        self.is_stale = true;
    }

    /// Decides what follows from an event. `at` are the readings of now, without the database's
    /// clock.
    pub fn on(&mut self, event: Event, at: ClockReadings) -> Action {
        if let Event::DatabaseClock(Some(time)) = event {
            self.database_clock = Some((at.tick, at.tick.since(self.clock_requested), time));
        }
        let at = &self.with_database_clock(at);
        match event {
            Event::Wake => self.begin_step(at),
            Event::Loaded(stored) => {
                if stored.is_new {
                    self.new_since = Some(at.tick);
                }
                (self.coverage, self.is_stale) = (restore_coverage(stored), false);
                self.repair_deferred_work(at)
            }
            Event::DeferredWorkRepaired(done) => {
                self.may_have_deferred_work = !done;
                self.wait_for_pauses(at)
            }
            Event::LoggedIn => self.read_database_clock(at),
            Event::DatabaseClock(time) => match self.read {
                Some(_) => self.credit_read(at),
                None if time.is_some() => self.correct_coverage(at),
                None => self.idle(DATABASE_RETRY_INTERVAL),
            },
            Event::PlanInputs(repairs, log) => self.plan_read(at, repairs, &log),
            Event::Answered => self.read_database_clock(at),
            Event::ReadFailed(error, jitter) => self.handle_failure(error, jitter, at),
            Event::Recorded(seq) => self.complete_recorded_read(seq, at),
        }
    }

    /// Notes when the request was sent.
    pub fn record_sent(&mut self, at: &ClockReadings) {
        if let Some(current) = &mut self.read {
            current.sent = (at.machine, at.tick);
        }
    }

    /// A part of an answer, ready to be stored, and since when new segments are kept.
    pub fn chunk<'a>(
        &'a self,
        planned: &PlannedRead,
        records: &'a [SegmentRecord],
        quarantined: &'a [QuarantinedRecord],
        at: ClockReadings,
    ) -> (MetadataChunk<'a>, Option<Time>) {
        let DiscoveryPolicy { rules, wants, retention, .. } = &self.policy;
        let earliest = self.planning_clock.now(&self.with_database_clock(at));
        let chunk = MetadataChunk {
            lease: self.lease,
            lane: planned.lane,
            range: planned.range,
            now: at.machine,
            wants: *wants,
            already_read: &self.coverage.live,
            urgent_before: rules.retention.map(|kept| earliest - kept.mul_f64(URGENT_RETENTION_SHARE)),
            quarantine_retry_delay: rules.interval.min(MAX_QUARANTINE_DELAY),
            records,
            quarantined,
        };
        (chunk, retention.map(|kept| earliest - kept))
    }

    /// Notes that a part of the answer is stored.
    pub fn record_chunk(&mut self, records: &[SegmentRecord], stored: IngestSummary) {
        let Some(current) = &mut self.read else { return };
        current.read.summary.add(stored);
        let window_end = current.read.planned.window.end();
        let ends = records.iter().filter_map(|record| record.end).filter(|end| *end <= window_end);
        current.newest_end = current.newest_end.max(ends.max());
    }

    fn begin_step(&mut self, at: &ClockReadings) -> Action {
        // What the step before left, if it was abandoned.
        self.read = None;
        self.breaker.release_probe("");
        self.may_have_deferred_work |= self.clock_watch.stepped_back(at.machine, at.tick);
        if self.is_stale {
            return Action::LoadCoverage(CoverageDefaults::new(&self.policy, self.planning_clock.now(at)));
        }
        self.repair_deferred_work(at)
    }

    fn repair_deferred_work(&mut self, at: &ClockReadings) -> Action {
        // Without a time of the API, this machine's clock may be the wrong one.
        match at.newest.filter(|_| self.may_have_deferred_work) {
            Some(newest) => Action::RepairDeferredWork(newest.max(at.machine)),
            None => self.wait_for_pauses(at),
        }
    }

    fn wait_for_pauses(&mut self, at: &ClockReadings) -> Action {
        let local = self.local_time(at);
        if at.tick < self.not_before {
            return self.idle(self.not_before.since(at.tick));
        }
        if let Some(until) = self.breaker.retry_at(local) {
            return self.idle(until.since(local));
        }
        // The answer to the login shows the API's time before the first window is chosen. If the
        // login fails, the read will report it.
        if at.newest.is_none() { Action::Login } else { self.read_database_clock(at) }
    }

    fn read_database_clock(&mut self, at: &ClockReadings) -> Action {
        let is_old = self.database_clock.is_none_or(|(read_at, ..)| at.tick.since(read_at) >= DATABASE_CLOCK_INTERVAL);
        if self.has_database_clock && is_old {
            self.clock_requested = at.tick;
            return Action::ReadDatabaseClock;
        }
        if self.read.is_some() { self.credit_read(at) } else { self.correct_coverage(at) }
    }

    /// Removes coverage of time that is in the future by every clock, and corrects the start of the
    /// account if the clock was wrong when the account was new.
    fn correct_coverage(&mut self, at: &ClockReadings) -> Action {
        if at.newest.is_none() {
            return Action::LoadPlanInputs;
        }
        let now = self.planning_clock.now(at);
        if let Some(to) = corrected_start(&self.policy, &self.coverage, self.new_since, at, now) {
            self.is_stale = true;
            return Action::MoveStart(self.coverage.live_start, to);
        }
        let latest = at.latest().plus_millis(999).floor_to_second();
        if at.is_measured && self.coverage.extends_beyond(latest) {
            self.is_stale = true;
            return Action::TruncateCoverage(latest);
        }
        Action::LoadPlanInputs
    }

    fn plan_read(&mut self, at: &ClockReadings, repairs: Vec<(TimeRange, Time)>, log: &[Time]) -> Action {
        let now = self.planning_clock.now(at);
        self.failed_windows.cap_retry_times(now + MAX_WINDOW_WAIT);
        let skew = now.0.saturating_sub(at.machine.0);
        let repairs: Vec<Repair> =
            repairs.into_iter().map(|(range, due)| Repair { range, due: due.plus_millis(skew) }).collect();
        let log: Vec<Time> = log.iter().map(|sent| sent.plus_millis(skew)).collect();
        let rules = &self.policy.rules;
        // Time that is not past by the earliest clock does not count as read for now.
        let mut coverage = Cow::Borrowed(&self.coverage);
        if coverage.extends_beyond(now) {
            coverage.to_mut().truncate_at(now);
        }
        let failed = self.failed_windows.as_slice();
        let (planned, is_probe) = match plan_next_read(now, rules, &coverage, &log, failed, &repairs, self.other_reads)
        {
            Plan::Read(planned) => (planned, false),
            Plan::Wait { until } => {
                let has_room = rules.limits.earliest_send(&log, now) <= now;
                match has_room.then(|| self.planning_clock.plan_probe(at, rules)).flatten() {
                    Some(planned) => (planned, true),
                    None => return self.idle(until.since(now)),
                }
            }
        };
        self.breaker.try_acquire("", self.local_time(at));
        self.read = Some(ReadInProgress {
            read: CompletedRead {
                planned,
                credited: None,
                summary: IngestSummary::default(),
                finished_backfills: Vec::new(),
                is_progress: !is_probe,
                has_recovered: false,
                proves_clock_behind: false,
                database_was_restored: false,
            },
            planned_lead_ms: self.planning_clock.lead_over_tick_ms(at),
            sent: (at.machine, at.tick),
            newest_end: None,
            coverage: None,
        });
        Action::Read(planned, is_probe)
    }

    /// Decides how much of an answered window counts as read.
    fn credit_read(&mut self, at: &ClockReadings) -> Action {
        let Some(mut current) = self.read.take() else { return self.begin_step(at) };
        let (read, clock) = (&mut current.read, &mut self.planning_clock);
        let sent = (current.planned_lead_ms, current.sent.1);
        let (credited, read_at) = clock.credit_read(read.planned.range, sent, at, &self.policy.rules);
        read.proves_clock_behind = current.newest_end.is_some_and(|ended| clock.observe_segment_end(at, ended));
        read.credited = credited;
        let Some(range) = credited else { return self.complete_read(current.read) };
        let mut coverage = self.coverage.clone();
        let gained = coverage.record(range, read_at);
        read.finished_backfills = coverage.finished_backfills();
        coverage.backfills.retain(|backfill| !read.finished_backfills.contains(&backfill.id));
        let record = WindowRead {
            at: current.sent.0,
            done: at.machine,
            lane: read.planned.lane,
            range,
            summary: read.summary,
            purposes: gained.into_iter().map(|(purpose, range)| (purpose.key(), range)).collect(),
            finished: read.finished_backfills.clone(),
        };
        self.read = Some(ReadInProgress { coverage: Some(coverage), ..current });
        Action::Record(record)
    }

    fn complete_recorded_read(&mut self, seq: i64, at: &ClockReadings) -> Action {
        let Some(ReadInProgress { mut read, coverage: Some(coverage), .. }) = self.read.take() else {
            return self.begin_step(at);
        };
        read.is_progress |= coverage.live_edge() > self.coverage.live_edge();
        read.database_was_restored = seq <= self.last_read_seq;
        self.is_stale |= read.database_was_restored;
        self.last_read_seq = seq;
        self.coverage = coverage;
        self.other_reads = self.other_reads.wrapping_add(u64::from(read.planned.lane != Lane::Live));
        read.credited.into_iter().for_each(|range| self.failed_windows.record_success(range));
        self.complete_read(read)
    }

    fn complete_read(&mut self, mut read: CompletedRead) -> Action {
        (self.consecutive_failures, self.consecutive_rate_limits) = (0, 0);
        read.has_recovered = matches!(self.breaker.record_success(), BreakerEvent::Recovered(_));
        Action::Completed(read)
    }

    fn handle_failure(&mut self, error: ApiError, jitter: f64, at: &ClockReadings) -> Action {
        let Some(current) = self.read.take() else { return self.begin_step(at) };
        let (planned, local, backoff) = (current.read.planned, self.local_time(at), self.policy.backoff);
        let delay = |times| backoff.delay(times, jitter).min(MAX_BACKOFF).max(error.retry_after.unwrap_or_default());
        let consequence = match error.fault {
            _ if error.cause == ErrorCause::ReservationFailed
                || (error.endpoint == Endpoint::Login && !error.is_refusal()) =>
            {
                let pause = error.retry_in.unwrap_or_default().max(DATABASE_RETRY_INTERVAL);
                self.not_before = at.tick + pause;
                FailureConsequence::NotSent(local + pause)
            }
            Fault::RateLimited => {
                self.consecutive_rate_limits = self.consecutive_rate_limits.saturating_add(1);
                let pause = delay(self.consecutive_rate_limits);
                self.not_before = at.tick + pause;
                FailureConsequence::RateLimited(at.machine + pause, self.consecutive_rate_limits)
            }
            Fault::Forbidden | Fault::Unauthorised => {
                // A refused metadata read is a fault of the account, not of the window.
                self.breaker.record_failure(Fault::Unauthorised, "", local, backoff.initial_delay(), jitter);
                let pause = self.breaker.pause().map(|pause| (pause.since.min(local), pause.until, pause.times));
                let (since, until, times) = pause.unwrap_or((local, local, 0));
                FailureConsequence::Paused(PauseRow {
                    account: self.lease.account,
                    endpoint: Endpoint::Metadata,
                    since,
                    until,
                    times,
                    status: error.pause_status(),
                    is_login_failure: error.endpoint == Endpoint::Login,
                    reason: error.to_string(),
                })
            }
            Fault::Transient | Fault::Broken | Fault::NotYet | Fault::Permanent => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                let now = self.planning_clock.now(at);
                let retry_at = now + delay(self.consecutive_failures);
                // A probe of a future window says nothing about windows that are due.
                if planned.range.to <= self.policy.rules.horizon(now) + CLOCK_NOISE {
                    self.failed_windows.record_failure(planned.range, retry_at, WindowFailure::of(&error));
                }
                FailureConsequence::Deferred(retry_at)
            }
        };
        Action::Failed(planned, error, consequence)
    }

    /// At most one interval, since clocks may be changed in the meantime.
    fn idle(&self, span: Duration) -> Action {
        Action::Idle(span.clamp(MIN_IDLE, self.policy.rules.interval.max(Duration::from_secs(1))))
    }

    /// This machine's time, as if its clock had not been changed since the start.
    fn local_time(&self, at: &ClockReadings) -> Time {
        self.anchor + at.tick.0
    }

    fn with_database_clock(&self, at: ClockReadings) -> ClockReadings {
        let database = self.database_clock.and_then(|(read_at, query_duration, time)| {
            let time = time + at.tick.since(read_at);
            // The reading is at most as old as the query took.
            let noise = millis(CLOCK_NOISE.saturating_add(query_duration));
            (time.0.saturating_sub(at.machine.0).saturating_abs() > noise).then_some(time)
        });
        ClockReadings { database, ..at }
    }
}
