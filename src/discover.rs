//! Reads interaction metadata, window by window, and queues the items to fetch.
//!
//! Requests `ringcx` and writes to `db`. The pure planner in `coverage` chooses the next window. A
//! window counts as read only once its whole answer is stored, and storing a chunk is idempotent.
//! So a crash repeats a read at most.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;

use crate::account::{Account, metadata_budget_name};
use crate::backoff::{Backoff, Fault};
use crate::circuit_breaker::{BreakerEvent, CircuitBreaker};
use crate::clock::{Tick, Time, millis};
use crate::config::DiscoveryStart;
use crate::coverage::{
    Backfill, CLOCK_NOISE, ClockReadings, Coverage, FailedWindowBackoff, Plan, PlannedRead, PlanningClock,
    PlanningRules, ReadPurpose, Recheck, Repair, WindowFailure, plan_next_read,
};
use crate::db::{DbError, DbFault, IngestSummary, MetadataChunk, PauseRow, SavedThrottle, WindowRead};
use crate::failpoint::{self, Failpoint};
use crate::model::{Endpoint, QuarantinedRecord, SegmentRecord, TimeRange, TimeRangeSet};
use crate::ringcx::{self, ApiError, ErrorCause, ParsedRecord};

/// How often the database's clock is read. In between it is extrapolated with this machine's ticks.
const DATABASE_CLOCK_INTERVAL: Duration = Duration::from_secs(10);

/// The most batches of records between the parser and the database; few, so that memory does not
/// grow with the answer.
const MAX_QUEUED_BATCHES: usize = 2;
/// The longest wait after a failed request.
const MAX_BACKOFF: Duration = Duration::from_secs(900);
/// The share of the vendor's retention after which a segment is urgent.
const URGENT_RETENTION_SHARE: f64 = 0.9;
/// The time between two attempts while the database is unavailable.
const DATABASE_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The tolerated error of an account's start. Reading one day too many takes only minutes.
const START_TOLERANCE: Duration = Duration::from_secs(24 * 3600);
/// The longest wait of a failed range, in case a clock was wrong.
const MAX_WINDOW_WAIT: Duration = Duration::from_secs(3600);

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiscoveryProgress {
    /// The step read a window; another one may be due at once.
    Advanced,
    /// Nothing is due for this long, at most one interval, since clocks may be changed in the
    /// meantime.
    Idle(Duration),
}

/// The settings of discovery.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveryPolicy {
    /// The windows and limits.
    pub(crate) rules: PlanningRules,
    /// The delays after which each range is read again.
    pub(crate) rechecks: Vec<Duration>,
    /// Where the first window begins.
    pub(crate) start: DiscoveryStart,
    /// How long a failed window waits.
    pub(crate) backoff: Backoff,
}

/// Discovers one account's segments.
pub(crate) struct Discoverer {
    account: Arc<Account>,
    policy: DiscoveryPolicy,
    coverage: Coverage,
    failed_windows: FailedWindowBackoff,
    breaker: CircuitBreaker,
    consecutive_failures: u32,
    consecutive_rate_limits: u32,
    not_before: Tick,
    other_reads: u64,
    /// The retry requests of operators that were handled.
    resumes: u64,
    planning_clock: PlanningClock,
    /// When this process set the start of the account, if the account was new.
    new_since: Option<Tick>,
    /// The sequence number of the last recorded read.
    last_read_seq: i64,
    /// The last reading of the database's clock: when it arrived, how long it query_duration, and the time.
    database_reading: Option<(Tick, Duration, Time)>,
    /// This machine's time at tick zero, as of the start. Pauses use it, so that later clock
    /// changes do not affect them.
    anchor: Time,
}

/// What was stored of an answer.
struct StoredAnswer {
    summary: IngestSummary,
    /// The end of the newest segment in the window.
    newest_end: Option<Time>,
}

impl Discoverer {
    /// Loads the account's coverage.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn load(account: Arc<Account>, policy: DiscoveryPolicy) -> Result<Discoverer, DbError> {
        let planning_clock = PlanningClock::default();
        let loaded = planning_clock.now(&clock_readings(&account, None));
        let coverage = load_coverage(&account, &policy, loaded).await?;
        let (now, tick) = (account.clock.now(), account.clock.tick());
        let is_new = coverage.live_start == first_window_start(&policy, loaded);
        account.stats.reads.record_start(tick);
        Ok(Discoverer {
            resumes: account.stats.resumes(),
            anchor: now.plus_millis(-millis(tick.0)),
            database_reading: None,
            last_read_seq: 0,
            planning_clock,
            new_since: is_new.then_some(tick),
            account,
            policy,
            coverage,
            failed_windows: FailedWindowBackoff::default(),
            breaker: CircuitBreaker::default(),
            consecutive_failures: 0,
            consecutive_rate_limits: 0,
            not_before: Tick::default(),
            other_reads: 0,
        })
    }

    /// Restores a pause that was recorded by an earlier process.
    pub(crate) fn restore_pause(&mut self, pause: &PauseRow) {
        let longest = MAX_BACKOFF.max(self.policy.backoff.initial_delay());
        self.breaker.restore_pause(pause.since, pause.until.min(self.local_time() + longest), pause.times);
    }

    /// Restores the wait after a 429 that the account's previous owner received.
    pub(crate) fn restore_throttle(&mut self, saved: &BTreeMap<String, SavedThrottle>) {
        let Some(saved) = saved.get(&metadata_budget_name(&self.account.id.sub)) else { return };
        let (now, tick) = (self.account.clock.now(), self.account.clock.tick());
        // A wait that ended long ago does not affect the next one.
        if now.since(saved.until) < MAX_BACKOFF {
            (self.not_before, self.consecutive_rate_limits) = (tick + saved.until.since(now), saved.times);
        }
    }

    /// Reloads the coverage, to notice new requests of operators.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn reload(&mut self) -> Result<(), DbError> {
        let now = self.planning_clock.now(&clock_readings(&self.account, None));
        self.coverage = load_coverage(&self.account, &self.policy, now).await?;
        Ok(())
    }

    /// Reads the most urgent window, if one is due.
    ///
    /// # Errors
    /// If the database fails. Errors of the API are handled here.
    pub(crate) async fn step(&mut self) -> Result<DiscoveryProgress, DbError> {
        let (local, tick) = (self.local_time(), self.account.clock.tick());
        self.retry_now_if_requested(local);
        if tick < self.not_before {
            return Ok(self.idle_for(self.not_before.since(tick)));
        }
        if !self.breaker.allows_request(local) {
            let until = self.breaker.pause().map_or(local, |pause| pause.until);
            return Ok(self.idle_for(until.since(local).max(DATABASE_RETRY_INTERVAL)));
        }
        if self.account.api.api_time(local, tick).answers == 0 {
            // The answer to the login shows the API's time before the first window is chosen. If
            // the login fails, the read will report it. The pacer comes first, as for any login:
            // after a crash it may have to wait.
            drop(self.account.pacer.acquire().await);
            let _ = self.account.login.token().await;
        }
        let readings = self.read_clocks().await?;
        let now = self.planning_clock.now(&readings);
        self.correct_coverage(&readings, now).await?;
        self.failed_windows.cap_retry_times(now + MAX_WINDOW_WAIT);
        let skew = now.0.saturating_sub(readings.machine.0);
        let repairs = self.load_repairs(skew).await?;
        let log = self.account.metadata_budget.effective_times().await.map_err(quota_store_error)?;
        let log: Vec<Time> = log.into_iter().map(|at| at.plus_millis(skew)).collect();
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
                match has_room.then(|| self.planning_clock.plan_probe(&readings, rules)).flatten() {
                    Some(planned) => (planned, true),
                    None => return Ok(self.idle_for(until.since(now))),
                }
            }
        };
        self.breaker.try_acquire(local);
        if let Err(error) = self.read_window(planned, is_probe, self.planning_clock.lead_over_tick_ms(&readings)).await
        {
            self.breaker.release_probe();
            return Err(error);
        }
        Ok(DiscoveryProgress::Advanced)
    }

    fn idle_for(&self, span: Duration) -> DiscoveryProgress {
        let longest = self.policy.rules.interval.max(Duration::from_secs(1));
        DiscoveryProgress::Idle(span.clamp(Duration::from_millis(10), longest))
    }

    /// This machine's time, as if its clock had not been changed since the start.
    fn local_time(&self) -> Time {
        self.anchor + self.account.clock.tick().0
    }

    /// Reads all clocks, including the database's.
    async fn read_clocks(&mut self) -> Result<ClockReadings, DbError> {
        let (db, clock) = (&self.account.db, &self.account.clock);
        if db.sqlite_path().is_some() {
            return Ok(clock_readings(&self.account, None));
        }
        let query_start = clock.tick();
        let (read_at, query_duration, time) =
            match self.database_reading.filter(|(read_at, ..)| query_start.since(*read_at) < DATABASE_CLOCK_INTERVAL) {
                Some(known) => known,
                None => {
                    let time = db.database_now(clock.now()).await?;
                    let answered = clock.tick();
                    *self.database_reading.insert((answered, answered.since(query_start), time))
                }
            };
        let (here, now) = (time + clock.tick().since(read_at), clock.now());
        // The reading is at most as old as the query took.
        let noise = millis(CLOCK_NOISE).saturating_add(millis(query_duration));
        let differs = here.0.saturating_sub(now.0).saturating_abs() > noise;
        Ok(clock_readings(&self.account, differs.then_some(here)))
    }

    /// Removes coverage of time that is in the future by every clock, and corrects the start of the
    /// account if the clock was wrong when the account was new.
    async fn correct_coverage(&mut self, readings: &ClockReadings, now: Time) -> Result<(), DbError> {
        let account = &self.account;
        if readings.newest.is_none() {
            return Ok(());
        }
        if let Some(start) = corrected_start(&self.policy, &self.coverage, self.new_since, readings, now) {
            account.db.move_live_start(account.lease, start).await?;
            tracing::info!(account = %account.id, from = %self.coverage.live_start, to = %start,
                "corrected the start of the account, because the clock was corrected");
            self.coverage.live_start = start;
        }
        let latest = readings.latest().plus_millis(999).floor_to_second();
        if account.api.api_time(readings.machine, readings.tick).is_measured() && self.coverage.extends_beyond(latest) {
            account.db.truncate_coverage(account.lease, latest).await?;
            self.coverage.truncate_at(latest);
            tracing::warn!(account = %account.id, after = %latest,
                "future time counted as read, because a clock was ahead; it will be read again");
        }
        Ok(())
    }

    fn retry_now_if_requested(&mut self, now: Time) {
        let resumes = self.account.stats.resumes();
        if std::mem::replace(&mut self.resumes, resumes) != resumes {
            self.not_before = Tick::default();
            self.breaker.retry_now(now);
            self.failed_windows = FailedWindowBackoff::default();
            (self.consecutive_failures, self.consecutive_rate_limits) = (0, 0);
        }
    }

    async fn load_repairs(&self, skew: i64) -> Result<Vec<Repair>, DbError> {
        let repairs = self.account.db.quarantined_windows(self.account.lease.account).await?;
        Ok(repairs.into_iter().map(|(range, due)| Repair { range, due: due.plus_millis(skew) }).collect())
    }

    /// Reads a window. `planned_lead_ms` is the lead over the tick of the time that the window was
    /// planned for. A probe is read when nothing is due, so it does not count as progress by
    /// itself.
    async fn read_window(&mut self, planned: PlannedRead, is_probe: bool, planned_lead_ms: i64) -> Result<(), DbError> {
        if !is_probe {
            self.account.stats.reads.record_due(self.account.clock.tick());
        }
        let permit = self.account.pacer.acquire().await;
        self.account.stats.count_request(planned.lane, self.account.clock.tick());
        let sent = (self.account.clock.now(), self.account.clock.tick());
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_BATCHES);
        let account = self.account.clone();
        let request = ringcx::read_metadata(
            &account.api,
            &account.login,
            &account.pacer,
            permit,
            &account.metadata_budget,
            &account.id,
            planned.window,
            sender,
        );
        let (read, stored) = tokio::join!(request, self.store_answer(&planned, is_probe, receiver));
        let stored = stored?;
        match read {
            Ok(_) => {
                if self.complete_read(&planned, sent, planned_lead_ms, stored).await? || !is_probe {
                    self.account.stats.reads.record_success(self.account.clock.tick());
                }
                Ok(())
            }
            Err(error) => {
                self.handle_failure(&planned, &error).await;
                Ok(())
            }
        }
    }

    /// Stores an answer as it arrives.
    async fn store_answer(
        &self,
        planned: &PlannedRead,
        is_probe: bool,
        mut batches: mpsc::Receiver<Vec<ParsedRecord>>,
    ) -> Result<StoredAnswer, DbError> {
        let mut total = IngestSummary::default();
        let mut newest_end = None;
        let skips = failpoint::is_triggered(Failpoint::SkippedWindow);
        while let Some(batch) = batches.recv().await {
            if skips {
                continue;
            }
            let (mut records, mut quarantined) = (Vec::with_capacity(batch.len()), Vec::new());
            for record in batch {
                match record {
                    ParsedRecord::Segment(segment) => {
                        newest_end = newest_end.max(segment.end.filter(|end| *end <= planned.window.end()));
                        records.push(segment);
                    }
                    ParsedRecord::Quarantined(record) => quarantined.push(record),
                }
            }
            let stored = self.store_batch(planned, &records, &quarantined).await?;
            if !is_probe {
                self.account.stats.reads.record_partial(self.account.clock.tick());
            }
            if stored.quarantined > 0 {
                tracing::warn!(account = %self.account.id, window = %planned.range, records = stored.quarantined,
                    "metadata records could not be parsed; set aside, to be read again");
            }
            if stored.queued > 0 {
                self.account.work_queued.notify_one();
            }
            total.add(stored);
        }
        Ok(StoredAnswer { summary: total, newest_end })
    }

    async fn store_batch(
        &self,
        planned: &PlannedRead,
        records: &[SegmentRecord],
        quarantined: &[QuarantinedRecord],
    ) -> Result<IngestSummary, DbError> {
        loop {
            let now = self.account.clock.now();
            let earliest = self.planning_clock.now(&clock_readings(&self.account, None));
            let kept_since = self.account.policy.retention.map(|kept| earliest - kept);
            let chunk = MetadataChunk {
                lease: self.account.lease,
                lane: planned.lane,
                range: planned.range,
                now,
                wants: self.account.policy.wants,
                already_read: &self.coverage.live,
                urgent_before: self.policy.rules.retention.map(|kept| earliest - kept.mul_f64(URGENT_RETENTION_SHARE)),
                quarantine_retry_delay: self.policy.rules.interval.min(Duration::from_secs(60)),
                records,
                quarantined,
            };
            match self.account.db.ingest_chunk_with_retention(chunk, kept_since).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(account = %self.account.id, %error, "failed to store metadata; retrying");
                    self.account.clock.sleep(DATABASE_RETRY_INTERVAL).await;
                }
                result => return result,
            }
        }
    }

    /// Completes a read. Returns whether the live edge advanced.
    async fn complete_read(
        &mut self,
        planned: &PlannedRead,
        (at, sent): (Time, Tick),
        planned_lead_ms: i64,
        StoredAnswer { summary, newest_end }: StoredAnswer,
    ) -> Result<bool, DbError> {
        let after = match self.read_clocks().await {
            // An earlier reading of the database's clock still counts.
            Err(error) if error.is_transient() => clock_readings(&self.account, None),
            readings => readings?,
        };
        let (credited, read_at) =
            self.planning_clock.credit_read(planned.range, (planned_lead_ms, sent), &after, &self.policy.rules);
        if newest_end.is_some_and(|ended| self.planning_clock.observe_segment_end(&after, ended)) {
            tracing::warn!(account = %self.account.id, "conversations ended later than this machine's clock \
                shows: it is behind, so the API's clock is used. hint: synchronise it with NTP (timedatectl set-ntp true)");
        }
        let gained = match credited {
            Some(range) => self.record_read(planned, range, at, read_at, summary).await?,
            None => {
                tracing::debug!(account = %self.account.id, window = %planned.range, segments = summary.segments,
                    "a window does not count as read, because it is not past by the earliest clock");
                false
            }
        };
        (self.consecutive_failures, self.consecutive_rate_limits) = (0, 0);
        self.account.clear_redirect(Endpoint::Metadata);
        if let BreakerEvent::Recovered(_) = self.breaker.record_success() {
            tracing::info!(account = %self.account.id, endpoint = %Endpoint::Metadata, "circuit closed: endpoint recovered");
            self.account.record_pause_end(Endpoint::Metadata, None).await;
        }
        Ok(gained)
    }

    /// Records a read in the database. Returns whether the live edge advanced.
    async fn record_read(
        &mut self,
        planned: &PlannedRead,
        range: TimeRange,
        at: Time,
        read_at: Time,
        summary: IngestSummary,
    ) -> Result<bool, DbError> {
        let mut coverage = self.coverage.clone();
        let gained = coverage.record(range, read_at);
        let is_newer = coverage.live_edge() > self.coverage.live_edge();
        let read = WindowRead {
            at,
            done: self.account.clock.now(),
            lane: planned.lane,
            range,
            summary,
            purposes: gained.into_iter().map(|(purpose, range)| (purpose.key(), range)).collect(),
            finished: coverage.finished_backfills(),
        };
        let read_seq = loop {
            match self.account.db.record_window_read(self.account.lease, &read).await {
                Ok(read_seq) => break read_seq,
                Err(error) if error.is_transient() => {
                    tracing::warn!(account = %self.account.id, %error, "failed to record a window that was read; retrying");
                    self.account.clock.sleep(DATABASE_RETRY_INTERVAL).await;
                }
                Err(error) => return Err(error),
            }
        };
        coverage.backfills.retain(|backfill| !read.finished.contains(&backfill.id));
        self.coverage = coverage;
        if read_seq <= std::mem::replace(&mut self.last_read_seq, read_seq) {
            tracing::warn!(account = %self.account.id, "the database was restored to an earlier state; windows that it does not contain are read again");
            self.reload().await?;
        }
        self.failed_windows.record_success(range);
        self.other_reads = self.other_reads.wrapping_add(u64::from(planned.lane != crate::model::Lane::Live));
        for id in &read.finished {
            tracing::info!(account = %self.account.id, backfill = id, "backfill is complete");
        }
        tracing::debug!(account = %self.account.id, lane = %planned.lane, window = %range, segments = summary.segments,
            added = summary.added, changed = summary.changed, queued = summary.queued, "read a window");
        Ok(is_newer)
    }

    async fn handle_failure(&mut self, planned: &PlannedRead, error: &ApiError) {
        let (now, tick) = (self.local_time(), self.account.clock.tick());
        let jitter = rand::rng().random();
        let first = self.policy.backoff.initial_delay();
        self.account.report_redirect(error, now);
        self.account.stats.reads.record_failure(&error.message, error.hint());
        match error.fault {
            // No request was sent: there is no token, or the request could not be reserved in the
            // database.
            _ if error.cause == ErrorCause::ReservationFailed
                || (error.endpoint == Endpoint::Login && !error.is_refusal()) =>
            {
                self.breaker.release_probe();
                let pause = error.retry_in.unwrap_or(DATABASE_RETRY_INTERVAL).max(DATABASE_RETRY_INTERVAL);
                self.not_before = tick + pause;
                tracing::warn!(account = %self.account.id, again = %(now + pause), %error, "failed to request a window");
            }
            Fault::RateLimited => {
                self.consecutive_rate_limits = self.consecutive_rate_limits.saturating_add(1);
                let pause = self.policy.backoff.delay(self.consecutive_rate_limits, jitter).min(MAX_BACKOFF);
                let pause = pause.max(error.retry_after.unwrap_or_default());
                self.not_before = tick + pause;
                self.breaker.release_probe();
                let until = self.account.clock.now() + pause;
                self.account.record_metadata_rate_limited(until, self.consecutive_rate_limits).await;
                tracing::warn!(account = %self.account.id, %until, "metadata refused with 429; slowing down");
            }
            Fault::Forbidden | Fault::Unauthorised => {
                // A refused metadata read is a fault of the account, not of the window.
                self.breaker.record_failure(Fault::Unauthorised, "", now, first, jitter);
                self.record_pause(error, now).await;
            }
            Fault::Transient | Fault::Broken | Fault::NotYet | Fault::Permanent => {
                self.breaker.release_probe();
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                let wait = self.policy.backoff.delay(self.consecutive_failures, jitter).min(MAX_BACKOFF);
                let wait = wait.max(error.retry_after.unwrap_or_default());
                let planned_for = self.planning_clock.now(&clock_readings(&self.account, None));
                let until = planned_for + wait;
                // A probe of a future window says nothing about windows that are due.
                if planned.range.to <= self.policy.rules.horizon(planned_for) + CLOCK_NOISE {
                    self.failed_windows.record_failure(planned.range, until, window_failure(error));
                }
                tracing::warn!(account = %self.account.id, lane = %planned.lane, window = %planned.range, again = %until, %error,
                    hint = error.hint(), "failed to read a window; retrying later");
            }
        }
    }

    async fn record_pause(&self, error: &ApiError, now: Time) {
        let Some(pause) = self.breaker.pause() else { return };
        tracing::error!(account = %self.account.id, endpoint = %Endpoint::Metadata, until = %pause.until, %error,
            hint = error.hint(), "paused");
        let row = PauseRow {
            account: self.account.lease.account,
            endpoint: Endpoint::Metadata,
            since: pause.since.min(now),
            until: pause.until,
            times: pause.times,
            status: error.pause_status(),
            is_login_failure: error.endpoint == Endpoint::Login,
            reason: error.to_string(),
        };
        self.account.record_pause(row).await;
    }
}

/// How a read failed, as far as the width of its window may be the cause.
fn window_failure(error: &ApiError) -> WindowFailure {
    match (error.cause, error.status) {
        (ErrorCause::ConnectionLost | ErrorCause::TimedOut, Some(200)) => WindowFailure::Truncated,
        // 504 is how a gateway reports a missing answer.
        (ErrorCause::TimedOut, None) | (_, Some(504)) => WindowFailure::NoResponse,
        _ => WindowFailure::Other,
    }
}

/// The readings of this machine's clock and the API's, together with the database's.
fn clock_readings(account: &Account, database: Option<Time>) -> ClockReadings {
    let (machine, tick) = (account.clock.now(), account.clock.tick());
    let api = account.api.api_time(machine, tick).lower_bound(machine);
    ClockReadings { tick, machine, database, newest: api.newest, measured: api.measured, believed: api.believed }
}

async fn load_coverage(account: &Account, policy: &DiscoveryPolicy, now: Time) -> Result<Coverage, DbError> {
    let (db, key) = (&account.db, account.lease.account);
    let mut live = Vec::new();
    let mut others = Vec::new();
    for (purpose_key, range) in db.coverage(key).await? {
        match ReadPurpose::parse(&purpose_key) {
            Some(ReadPurpose::Live) => live.push(range),
            Some(purpose) => others.push((purpose, range)),
            None => {}
        }
    }
    let live = TimeRangeSet::from_unsorted(live);
    let live_start = db.init_live_start(key, first_window_start(policy, now)).await?;
    let covered_by = |purpose: &ReadPurpose| {
        TimeRangeSet::from_unsorted(
            others.iter().filter(|(other, _)| other == purpose).map(|(_, range)| *range).collect(),
        )
    };
    let mut rechecks = Vec::new();
    for delay in &policy.rechecks {
        let purpose = ReadPurpose::Recheck(*delay);
        // A delay that is new in the settings applies only to recent time. The live edge is the
        // reference, since this machine's clock may be ahead.
        let edge = live.as_slice().last().map(|newest| newest.to.min(now));
        let owed_from = edge.map_or(Time(0), |edge| (edge - *delay).floor_to_second());
        let base = db.init_purpose_base(key, &purpose.key(), owed_from).await?;
        rechecks.push((*delay, Recheck { base, done: covered_by(&purpose) }));
    }
    let backfills = db.backfills(Some(key), false).await?;
    let backfills = backfills.into_iter().map(|request| Backfill {
        id: request.id,
        range: request.range,
        newest_first: request.newest_first,
        done: covered_by(&ReadPurpose::Backfill(request.id)),
    });
    Ok(Coverage { live_start, live, rechecks, backfills: backfills.collect() })
}

/// The corrected start of a new account, if the clock was wrong when the start was set.
///
/// The start moves back by up to a day at once. A larger correction needs an API time that several
/// answers over some time agree on, since one wrong `Date` must not move it by years. Only the
/// process that set the start moves it forward, since no other process knows how long ago that was.
fn corrected_start(
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
    let horizon = (now - policy.rules.offset).floor_to_second();
    let start = match policy.start {
        DiscoveryStart::Now => policy.rules.first_start(now),
        DiscoveryStart::Back(span) => (now - span).max(Time::FIRST).floor_to_second(),
        DiscoveryStart::At(time) => time.floor_to_second(),
    };
    start.min(horizon.plus_millis(-1000))
}

fn quota_store_error(error: ringcx::rate_limit::StoreError) -> DbError {
    DbError::new(DbFault::Unavailable, format!("failed to read the metadata budget: {error}"))
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::HeaderMap;

    use super::*;

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
        }
    }

    /// The policy of an account whose first window has this width.
    fn policy(window: Duration) -> DiscoveryPolicy {
        let rules = PlanningRules {
            window,
            offset: Duration::from_secs(300),
            interval: Duration::from_secs(300),
            max_window: Duration::from_secs(3600),
            limits: crate::ringcx::rate_limit::SlidingWindowLimiter::new([(3, Duration::from_secs(60))]),
            retention: None,
        };
        let second = Duration::from_secs(1);
        let backoff = Backoff::new(second, second, second).unwrap();
        DiscoveryPolicy { rules, rechecks: Vec::new(), start: DiscoveryStart::Now, backoff }
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

    #[test]
    fn only_truncated_and_missing_answers_concern_the_width_of_the_window() {
        let silent = || ApiError::timed_out(Endpoint::Metadata, "no answer came in time");
        let answered = |status| ApiError::from_response(Endpoint::Metadata, status, &HeaderMap::new(), b"", Time(0));
        assert_eq!(window_failure(&silent()), WindowFailure::NoResponse);
        assert_eq!(window_failure(&silent().with_status(StatusCode::OK)), WindowFailure::Truncated);
        assert_eq!(window_failure(&answered(StatusCode::GATEWAY_TIMEOUT)), WindowFailure::NoResponse);
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST] {
            assert_eq!(window_failure(&answered(status)), WindowFailure::Other, "{status}");
        }
    }
}
