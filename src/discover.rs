//! Reads interaction metadata, window by window, and queues the items to fetch.
//!
//! Carries out what the state machine of `pipeline::discovery` decides: requests `ringcx` and
//! writes to `db`. Storing a chunk is idempotent, and a window counts as read only once its whole
//! answer is stored. So a crash repeats a read at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;

use crate::account::{Account, metadata_budget_name};
use crate::clock::Time;
use crate::coverage::{ClockReadings, PlannedRead};
use crate::db::{DbError, DbFault, IngestSummary, MaxDelays, PauseRow, SavedThrottle, WindowRead};
use crate::failpoint::{self, Failpoint};
use crate::model::{Endpoint, QuarantinedRecord, SegmentRecord};
use crate::pipeline::discovery::{
    Action, CompletedRead, DATABASE_RETRY_INTERVAL, DiscoveryMachine, DiscoveryPolicy, Event, FailureConsequence,
};
use crate::ringcx::{self, ApiError, ParsedRecord};

/// The most batches of records between the parser and the database, and in one transaction; few, so
/// that memory does not grow with the answer. Segment ids are in no order, so each batch changes
/// nearly every page of their indexes: while the database is slower than the answer, one
/// transaction takes all batches that wait.
const MAX_QUEUED_BATCHES: usize = 4;

/// Discovers one account's segments.
pub(crate) struct Discoverer {
    account: Arc<Account>,
    machine: DiscoveryMachine,
    /// How long work can be deferred.
    max_delays: MaxDelays,
    /// The retry requests of operators that were handled.
    resumes: u64,
}

impl Discoverer {
    pub(crate) fn new(account: Arc<Account>, policy: DiscoveryPolicy, max_delays: MaxDelays) -> Discoverer {
        account.stats.reads.record_start(account.clock.tick());
        let has_database_clock = account.db.sqlite_path().is_none();
        let machine = DiscoveryMachine::new(account.lease, policy, has_database_clock, &clock_readings(&account));
        Discoverer { resumes: account.stats.resumes(), account, machine, max_delays }
    }

    /// Restores a pause that was recorded by an earlier process.
    pub(crate) fn restore_pause(&mut self, pause: &PauseRow) {
        self.machine.restore_pause(pause, &clock_readings(&self.account));
    }

    /// Restores the wait after a 429 that the account's previous owner received.
    pub(crate) fn restore_throttle(&mut self, saved: &BTreeMap<String, SavedThrottle>) {
        if let Some(saved) = saved.get(&metadata_budget_name(&self.account.id.sub)) {
            self.machine.restore_throttle(saved, &clock_readings(&self.account));
        }
    }

    /// Notices new requests of operators in the next step.
    pub(crate) fn reload(&mut self) {
        self.machine.reload();
    }

    /// Reads the most urgent window, if one is due. Otherwise returns how long nothing is due.
    ///
    /// # Errors
    /// If the database fails. Errors of the API are handled here.
    pub(crate) async fn step(&mut self) -> Result<Option<Duration>, DbError> {
        let account = self.account.clone();
        let (db, lease, id) = (&account.db, account.lease, &account.id);
        let resumes = account.stats.resumes();
        if std::mem::replace(&mut self.resumes, resumes) != resumes {
            self.machine.retry_now(&clock_readings(&account));
        }
        let mut event = Event::Wake;
        loop {
            let at = clock_readings(&account);
            event = match self.machine.on(event, at) {
                Action::LoadCoverage(defaults) => {
                    let bases_of = |ranges: &[_]| defaults.recheck_bases(ranges);
                    Event::Loaded(db.load_coverage(lease.account, defaults.start, bases_of).await?)
                }
                Action::RepairDeferredWork(latest) => {
                    Event::DeferredWorkRepaired(self.repair_deferred_work(at, latest).await)
                }
                Action::Login => {
                    // The pacer comes first, as for any login: after a crash it may have to wait.
                    drop(account.pacer.acquire().await);
                    let _ = account.login.token().await;
                    Event::LoggedIn
                }
                Action::ReadDatabaseClock => match db.database_now(at.machine).await {
                    Err(error) if error.is_transient() => Event::DatabaseClock(None),
                    time => Event::DatabaseClock(Some(time?)),
                },
                Action::MoveStart(from, to) => {
                    db.move_live_start(lease, to).await?;
                    tracing::info!(account = %id, %from, %to,
                        "corrected the start of the account, because the clock was corrected");
                    Event::Wake
                }
                Action::TruncateCoverage(latest) => {
                    db.truncate_coverage(lease, latest).await?;
                    tracing::warn!(account = %id, after = %latest,
                        "future time counted as read, because a clock was ahead; it will be read again");
                    Event::Wake
                }
                Action::LoadPlanInputs => {
                    let log = account.metadata_budget.effective_times().await.map_err(|error| {
                        DbError::new(DbFault::Unavailable, format!("failed to read the metadata budget: {error}"))
                    })?;
                    Event::PlanInputs(db.quarantined_windows(lease.account).await?, log)
                }
                Action::Read(planned, is_probe) => self.read_window(planned, is_probe).await?,
                Action::Record(read) => Event::Recorded(self.record_read(&read).await?),
                Action::Idle(span) => return Ok(Some(span)),
                Action::Completed(read) => {
                    self.report_completion(read).await;
                    return Ok(None);
                }
                Action::Failed(planned, error, consequence) => {
                    self.report_failure(&planned, &error, consequence).await;
                    return Ok(None);
                }
            };
        }
    }

    /// Releases items that a wrong clock has deferred. Returns whether that is done.
    async fn repair_deferred_work(&self, at: ClockReadings, latest: Time) -> bool {
        let account = &self.account;
        match account.db.repair_future_dated_work(account.lease, at.machine, latest, self.max_delays).await {
            Ok(0) => {}
            Ok(rows) => tracing::warn!(account = %account.id, rows,
                "items that were deferred by a clock that was ahead are due again"),
            Err(error) => {
                tracing::debug!(account = %account.id, %error, "failed to release items that a wrong clock has deferred");
                return false;
            }
        }
        // Items in memory were deferred by that clock, too.
        account.work_queued.notify_one();
        true
    }

    async fn read_window(&mut self, planned: PlannedRead, is_probe: bool) -> Result<Event, DbError> {
        let account = self.account.clone();
        if !is_probe {
            account.stats.reads.record_due(account.clock.tick());
        }
        let permit = account.pacer.acquire().await;
        account.stats.count_request(planned.lane, account.clock.tick());
        self.machine.record_sent(&clock_readings(&account));
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_BATCHES);
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
        stored?;
        Ok(match read {
            Ok(_) => Event::Answered,
            Err(error) => Event::ReadFailed(error, rand::rng().random()),
        })
    }

    /// Stores an answer as it arrives.
    async fn store_answer(
        &mut self,
        planned: &PlannedRead,
        is_probe: bool,
        mut batches: mpsc::Receiver<Vec<ParsedRecord>>,
    ) -> Result<(), DbError> {
        let skips = failpoint::is_triggered(Failpoint::SkippedWindow);
        let mut received = Vec::with_capacity(MAX_QUEUED_BATCHES);
        while batches.recv_many(&mut received, MAX_QUEUED_BATCHES).await > 0 {
            let (mut records, mut quarantined) = (Vec::new(), Vec::new());
            for record in received.drain(..).flatten() {
                match record {
                    ParsedRecord::Segment(segment) => records.push(segment),
                    ParsedRecord::Quarantined(record) => quarantined.push(record),
                }
            }
            if skips {
                continue;
            }
            let stored = self.store_batch(planned, &records, &quarantined).await?;
            self.machine.record_chunk(&records, stored);
            let account = &self.account;
            if !is_probe {
                account.stats.reads.record_partial(account.clock.tick());
            }
            if stored.quarantined > 0 {
                tracing::warn!(account = %account.id, window = %planned.range, records = stored.quarantined,
                    "metadata records could not be parsed; set aside, to be read again");
            }
            if stored.queued > 0 {
                account.work_queued.notify_one();
            }
        }
        Ok(())
    }

    async fn store_batch(
        &self,
        planned: &PlannedRead,
        records: &[SegmentRecord],
        quarantined: &[QuarantinedRecord],
    ) -> Result<IngestSummary, DbError> {
        loop {
            let (chunk, retained_since) =
                self.machine.chunk(planned, records, quarantined, clock_readings(&self.account));
            match self.account.db.ingest_chunk_with_retention(chunk, retained_since).await {
                Err(error) if error.is_transient() => {
                    self.wait_for_database("failed to store metadata; retrying", &error).await;
                }
                result => return result,
            }
        }
    }

    async fn record_read(&self, read: &WindowRead) -> Result<i64, DbError> {
        loop {
            match self.account.db.record_window_read(self.account.lease, read).await {
                Err(error) if error.is_transient() => {
                    self.wait_for_database("failed to record a window that was read; retrying", &error).await;
                }
                result => return result,
            }
        }
    }

    /// Waits until an answer may be written again, so that an outage does not repeat its request.
    async fn wait_for_database(&self, what: &str, error: &DbError) {
        tracing::warn!(account = %self.account.id, %error, hint = error.hint(), "{what}");
        self.account.clock.sleep(DATABASE_RETRY_INTERVAL).await;
    }

    async fn report_completion(&self, read: CompletedRead) {
        let (account, id, summary) = (&self.account, &self.account.id, read.summary);
        if read.proves_clock_behind {
            tracing::warn!(account = %id, hint = "synchronise it with NTP (timedatectl set-ntp true)",
                "conversations ended later than this machine's clock shows: it is behind, so the API's clock is used");
        }
        if read.database_was_restored {
            tracing::warn!(account = %id, "the database was restored to an earlier state; windows that it does not contain are read again");
        }
        for backfill in &read.finished_backfills {
            tracing::info!(account = %id, backfill, "backfill is complete");
        }
        match read.credited {
            Some(range) => {
                tracing::debug!(account = %id, lane = %read.planned.lane, window = %range, segments = summary.segments,
                    added = summary.added, changed = summary.changed, queued = summary.queued, "read a window");
            }
            None => {
                tracing::debug!(account = %id, window = %read.planned.range, segments = summary.segments,
                    "a window does not count as read, because it is not past by the earliest clock");
            }
        }
        account.clear_redirect(Endpoint::Metadata);
        if read.has_recovered {
            tracing::info!(account = %id, endpoint = %Endpoint::Metadata, "circuit closed: endpoint recovered");
            account.record_pause_end(Endpoint::Metadata, None).await;
        }
        if read.is_progress {
            account.stats.reads.record_success(account.clock.tick());
        }
    }

    async fn report_failure(&self, planned: &PlannedRead, error: &ApiError, consequence: FailureConsequence) {
        let (account, id, hint) = (&self.account, &self.account.id, error.hint());
        account.report_redirect(error, account.clock.now());
        account.stats.reads.record_failure(&error.message, hint);
        match consequence {
            FailureConsequence::NotSent(retry_at) => {
                tracing::warn!(account = %id, again = %retry_at, %error, "failed to request a window");
            }
            FailureConsequence::RateLimited(until, times) => {
                account.record_metadata_rate_limited(until, times).await;
                tracing::warn!(account = %id, %until, "metadata refused with 429; slowing down");
            }
            FailureConsequence::Paused(pause) => {
                tracing::error!(account = %id, endpoint = %Endpoint::Metadata, until = %pause.until, %error, hint, "paused");
                account.record_pause(pause).await;
            }
            FailureConsequence::Deferred(retry_at) => {
                tracing::warn!(account = %id, lane = %planned.lane, window = %planned.range, again = %retry_at, %error,
                    hint, "failed to read a window; retrying later");
            }
        }
    }
}

/// The readings of this machine's clock and the API's.
fn clock_readings(account: &Account) -> ClockReadings {
    let (machine, tick) = (account.clock.now(), account.clock.tick());
    ClockReadings::new(machine, tick, account.api.api_time(machine, tick))
}
