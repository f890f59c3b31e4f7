//! Drives the state machine of discovery with the real budget and database, and the simulated API instead of HTTP.
//!
//! It carries out the machine's actions as `src/discover.rs` does, and decides nothing. The machine is lost with the process.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use reqwest::header::{DATE, HeaderMap, HeaderValue};
use ringcx_extractor::account::{PauseChange, PauseLog};
use ringcx_extractor::backoff::Fault;
use ringcx_extractor::clock::Time;
use ringcx_extractor::coverage::{ClockReadings, PlannedRead, ReadPurpose};
use ringcx_extractor::db::{DbError, IngestSummary, Lease, MaxDelays, SavedThrottle, WindowRead};
use ringcx_extractor::model::{
    AccountId, ArtifactSelection, ArtifactSet, DiscoveryStart, Endpoint, Lane, SummariesFor, TimeRange, Window,
};
use ringcx_extractor::pipeline::discovery::{
    Action, CompletedRead, DiscoveryMachine, DiscoveryPolicy, Event, FailureConsequence,
};
use ringcx_extractor::ringcx::rate_limit::{Pacer, Permit, Reservation, ReservedQuota};
use ringcx_extractor::ringcx::{ClockSkew, ErrorCause};

use super::operation::ReadOutcome;
use super::reference_model::InvariantViolation;
use super::run_context::{DriverFault, Interruption, RECHECK_DELAY, RunContext};
use super::simulated_api::MetadataElement;

/// The number of elements in one transaction.
const ELEMENTS_PER_CHUNK: usize = 2;
const MAX_DELAYS: MaxDelays = MaxDelays { retry: Duration::from_secs(3600), refresh: Duration::from_secs(3600) };
const PARTS_PER_MILLION: u32 = 1_000_000;

/// The result of a poll.
#[derive(Debug, PartialEq, Eq)]
pub enum PollResult {
    Read,
    Failed,
    /// The read was dropped in the middle.
    Dropped,
    /// Nothing is due before then, by the wall clock.
    Idle(Time),
}

type MetadataAnswer = [(String, MetadataElement)];

pub struct DiscoveryDriver {
    machine: DiscoveryMachine,
    owned: Lease,
    skew: ClockSkew,
    budget: ReservedQuota,
    budget_key: String,
    pauses: PauseLog,
}

impl DiscoveryDriver {
    pub async fn load(ctx: &RunContext, owned: Lease) -> Result<DiscoveryDriver, InvariantViolation> {
        let budget_key = format!("metadata:{}", ctx.sub);
        let database = Arc::new(ctx.database.clone());
        let budget = ReservedQuota::new(database, budget_key.clone(), ctx.rules.limits.clone(), ctx.clock.clone());
        // As in the first step of discovery, which follows at once.
        budget
            .effective_times()
            .await
            .map_err(|error| InvariantViolation(format!("failed to read the metadata budget: {error}")))?;
        let policy = DiscoveryPolicy {
            rules: ctx.rules.clone(),
            rechecks: vec![RECHECK_DELAY],
            start: DiscoveryStart::Now,
            backoff: ctx.backoff,
            wants: ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed },
            retention: None,
        };
        let (db, skew) = (ctx.db_with_clock().await?, ClockSkew::new());
        let at = clock_readings(ctx, &skew);
        let mut machine = DiscoveryMachine::new(owned, policy, db.sqlite_path().is_none(), &at);
        for pause in db.pauses().await? {
            if pause.account == ctx.account && pause.endpoint == Endpoint::Metadata {
                machine.restore_pause(&pause, &at);
            }
        }
        if let Some(saved) = db.saved_throttles(at.machine).await?.get(&budget_key) {
            machine.restore_throttle(saved, &at);
        }
        Ok(DiscoveryDriver { machine, owned, skew, budget, budget_key, pauses: PauseLog::default() })
    }

    /// A backfill was requested.
    pub fn reload(&mut self) {
        self.machine.reload();
    }

    /// An operator asked for a retry.
    pub fn retry_now(&mut self, ctx: &RunContext) {
        self.machine.retry_now(&clock_readings(ctx, &self.skew));
    }

    /// An answer of another endpoint shows the API's time.
    pub fn observe_date(&self, ctx: &RunContext) {
        let tick = ctx.clock.tick();
        self.skew.observe(&date_header(ctx.api_time()), tick, tick, ctx.clock.now());
    }

    /// Runs one step.
    pub async fn poll(
        &mut self,
        ctx: &mut RunContext,
        pacer: &Pacer,
        outcome: ReadOutcome,
    ) -> Result<PollResult, Interruption> {
        self.write_pauses(ctx).await;
        let (owned, mut answer, mut event) = (self.owned, Vec::new(), Event::Wake);
        loop {
            let at = clock_readings(ctx, &self.skew);
            event = match self.machine.on(event, at) {
                Action::LoadCoverage(defaults) => {
                    let bases_of = |ranges: &[_]| defaults.recheck_bases(ranges);
                    Event::Loaded(ctx.db().load_coverage(ctx.account, defaults.start, bases_of).await?)
                }
                Action::RepairDeferredWork(latest) => {
                    let repaired = ctx.db().repair_future_dated_work(owned, at.machine, latest, MAX_DELAYS).await?;
                    ctx.events.add("items deferred by a clock that was ahead", repaired);
                    Event::DeferredWorkRepaired(true)
                }
                Action::Login => {
                    self.observe_date(ctx);
                    Event::LoggedIn
                }
                Action::ReadDatabaseClock => {
                    Event::DatabaseClock(Some(ctx.db_with_clock().await?.database_now(at.machine).await?))
                }
                Action::MoveStart(_, to) => {
                    ctx.events.count("corrected starts of an account");
                    ctx.db().move_live_start(owned, to).await?;
                    Event::Wake
                }
                // In no history all clocks are ahead.
                Action::TruncateCoverage(latest) => {
                    return Err(InvariantViolation(format!("time after {latest} counted as read")).into());
                }
                Action::LoadPlanInputs => {
                    let log = self.budget.effective_times().await.map_err(|_| Interruption::DatabaseAway)?;
                    Event::PlanInputs(ctx.db().quarantined_windows(ctx.account).await?, log)
                }
                Action::Read(planned, _) => {
                    let (permit, reserved) = match self.acquire(ctx, pacer).await? {
                        Ok(acquired) => acquired,
                        Err(due) => return Ok(PollResult::Idle(due)),
                    };
                    answer = self.request(ctx, &planned, permit, reserved, outcome).await?;
                    match self.store_answer(ctx, &planned, &answer, outcome).await? {
                        Some(event) => event,
                        None => return Ok(PollResult::Dropped),
                    }
                }
                Action::Record(read) => Event::Recorded(self.record_read(ctx, &read, &answer, outcome).await?),
                Action::Idle(span) => return Ok(PollResult::Idle(ctx.clock.now() + span)),
                Action::Completed(read) => {
                    self.report_completion(ctx, &read, outcome).await?;
                    return Ok(PollResult::Read);
                }
                Action::Failed(_, _, consequence) => {
                    self.report_failure(ctx, consequence).await?;
                    return Ok(PollResult::Failed);
                }
            };
        }
    }

    /// A permit and a reservation, or when to try again.
    async fn acquire(
        &self,
        ctx: &RunContext,
        pacer: &Pacer,
    ) -> Result<Result<(Permit, Option<Reservation>), Time>, Interruption> {
        let Some(permit) = ctx.wait_for_permit(pacer) else {
            return Ok(Err(ctx.clock.now() + Duration::from_secs(1)));
        };
        if ctx.has_fault(DriverFault::NoReservation) {
            return Ok(Ok((permit, None)));
        }
        let reserved = self.budget.try_reserve().await.map_err(|_| Interruption::DatabaseAway)?;
        Ok(reserved.map(|reserved| (permit, Some(reserved))))
    }

    async fn request(
        &mut self,
        ctx: &mut RunContext,
        planned: &PlannedRead,
        mut permit: Permit,
        reserved: Option<Reservation>,
        outcome: ReadOutcome,
    ) -> Result<Vec<(String, MetadataElement)>, Interruption> {
        ctx.events.count("metadata reads");
        self.machine.record_sent(&clock_readings(ctx, &self.skew));
        let sent = ctx.clock.tick();
        permit.mark_sent();
        let latency = ctx.rng.random_range(5..1500);
        ctx.clock.advance(Duration::from_millis(latency / 2));
        ctx.model.on_request(ctx.clock.tick(), true)?;
        let (answer, answered_at) = (ctx.api.metadata_answer(planned.window, ctx.true_time()), ctx.api_time());
        ctx.clock.advance(Duration::from_millis(latency - latency / 2));
        permit.mark_counted();
        if let Some(reserved) = reserved {
            reserved.mark_counted().await;
        }
        if outcome != ReadOutcome::Reset {
            self.skew.observe(&date_header(answered_at), sent, ctx.clock.tick(), ctx.clock.now());
        }
        Ok(answer)
    }

    /// Stores what arrives of an answer. `None` if the read is dropped in the middle.
    async fn store_answer(
        &mut self,
        ctx: &mut RunContext,
        planned: &PlannedRead,
        answer: &MetadataAnswer,
        outcome: ReadOutcome,
    ) -> Result<Option<Event>, Interruption> {
        let (arrives, error) = match outcome {
            ReadOutcome::Status(status) => (0, Some(ctx.status_error(Endpoint::Metadata, status))),
            ReadOutcome::Reset => {
                (0, Some(ctx.api_error(Fault::Transient, Endpoint::Metadata, ErrorCause::ConnectionLost, None)))
            }
            ReadOutcome::Truncated(chunks) => {
                ctx.events.count("truncated metadata answers");
                let error = ctx.api_error(Fault::Transient, Endpoint::Metadata, ErrorCause::ConnectionLost, Some(200));
                (chunks, Some(error))
            }
            _ if ctx.has_fault(DriverFault::SkippedWindow) => (0, None),
            _ => (usize::MAX, None),
        };
        let mut chunks = answer.chunks(ELEMENTS_PER_CHUNK).take(arrives).enumerate();
        loop {
            let next = chunks.next();
            let stored = next.map_or(usize::MAX, |(nth, _)| nth);
            match outcome {
                ReadOutcome::DiesAfter(chunks) if stored >= chunks => {
                    ctx.events.count("crashes in the middle of an answer");
                    return Err(Interruption::ProcessDied);
                }
                ReadOutcome::DroppedAfter(chunks) if stored >= chunks => {
                    ctx.events.count("reads dropped in the middle");
                    return Ok(None);
                }
                ReadOutcome::PanicsAfter(chunks) if stored >= chunks => std::panic::resume_unwind(Box::new("a panic")),
                ReadOutcome::TakenOver(chunks) if stored >= chunks && ctx.successor.is_none() => {
                    ctx.take_over().await?;
                    if ctx.successor.is_some() {
                        ctx.events.count("take-overs in the middle of an answer");
                    }
                }
                ReadOutcome::DatabaseAway(chunks) if stored >= chunks => {
                    self.write_without_database(ctx, planned, next.map_or(&[], |(_, chunk)| chunk)).await?;
                }
                _ => {}
            }
            let Some((_, chunk)) = next else { break };
            self.store_chunk(ctx, planned, chunk).await?;
        }
        if outcome == ReadOutcome::DiesBeforeRecord {
            ctx.events.count("crashes between the last chunk and the record");
            return Err(Interruption::ProcessDied);
        }
        let error = error.filter(|error| error.status != Some(200) || !ctx.has_fault(DriverFault::HalfAnswer));
        Ok(Some(match error {
            Some(error) => Event::ReadFailed(error, ctx.rng.random()),
            None => Event::Answered,
        }))
    }

    async fn store_chunk(
        &mut self,
        ctx: &mut RunContext,
        planned: &PlannedRead,
        chunk: &MetadataAnswer,
    ) -> Result<(), Interruption> {
        let stored = self.ingest(ctx, planned, chunk).await?;
        if ctx.successor.is_some() {
            return Err(InvariantViolation("a chunk was stored under a previous owner's epoch".to_owned()).into());
        }
        ctx.model.on_chunk_stored(chunk);
        ctx.events.add("late segments and flags", stored.flipped);
        ctx.events.add("records set aside", stored.quarantined);
        Ok(())
    }

    async fn ingest(
        &mut self,
        ctx: &RunContext,
        planned: &PlannedRead,
        chunk: &MetadataAnswer,
    ) -> Result<IngestSummary, DbError> {
        let (mut records, mut quarantined) = (Vec::new(), Vec::new());
        for (_, element) in chunk {
            match element {
                MetadataElement::Record(record) => records.push(record.clone()),
                MetadataElement::Unreadable(record) => quarantined.push(record.clone()),
            }
        }
        let (chunk, retained_since) =
            self.machine.chunk(planned, &records, &quarantined, clock_readings(ctx, &self.skew));
        let stored = ctx.db().ingest_chunk_with_retention(chunk, retained_since).await?;
        self.machine.record_chunk(&records, stored);
        Ok(stored)
    }

    /// A write while the database is unavailable fails with a passing error and has no effect.
    async fn write_without_database(
        &mut self,
        ctx: &mut RunContext,
        planned: &PlannedRead,
        chunk: &MetadataAnswer,
    ) -> Result<(), Interruption> {
        ctx.database.close().await;
        let result = self.ingest(ctx, planned, chunk).await;
        ctx.database.reopen().await?;
        if !result.as_ref().is_err_and(DbError::is_transient) {
            return Err(InvariantViolation(format!("an unavailable database returned {result:?}")).into());
        }
        ctx.events.count("writes while the database was unavailable");
        Ok(())
    }

    async fn record_read(
        &self,
        ctx: &mut RunContext,
        read: &WindowRead,
        answer: &MetadataAnswer,
        outcome: ReadOutcome,
    ) -> Result<i64, Interruption> {
        let mut seq = ctx.db().record_window_read(self.owned, read).await?;
        if ctx.successor.is_some() {
            return Err(InvariantViolation("a window was recorded under a previous owner's epoch".to_owned()).into());
        }
        ctx.model.on_window_recorded(read.range, answer);
        if outcome == ReadOutcome::DiesAfterRecord {
            ctx.events.count("crashes after the record, before the process knew");
            return Err(Interruption::ProcessDied);
        }
        if outcome == ReadOutcome::RecordReportedFailed {
            ctx.events.count("records that were committed and reported as failed");
            seq = ctx.db().record_window_read(self.owned, read).await?;
        }
        Ok(seq)
    }

    async fn report_completion(
        &self,
        ctx: &mut RunContext,
        read: &CompletedRead,
        outcome: ReadOutcome,
    ) -> Result<(), Interruption> {
        ctx.events.add("backfills completed", read.finished_backfills.len() as u64);
        match read.credited {
            None => ctx.events.count("windows that did not count as read"),
            Some(_) if read.planned.lane == Lane::Recheck => ctx.events.count("rechecks"),
            Some(_) => {}
        }
        if read.has_recovered {
            ctx.events.count("recoveries of discovery");
            self.pauses.push(PauseChange::Ended(Endpoint::Metadata, None));
            if outcome == ReadOutcome::PauseNotCleared {
                ctx.database.close().await;
                self.write_pauses(ctx).await;
                ctx.database.reopen().await?;
                ctx.events.count("recoveries that could not be recorded");
            } else {
                self.write_pauses(ctx).await;
            }
        }
        Ok(())
    }

    async fn report_failure(&self, ctx: &mut RunContext, consequence: FailureConsequence) -> Result<(), Interruption> {
        ctx.events.count("metadata reads that failed");
        match consequence {
            FailureConsequence::Paused(pause) => {
                ctx.events.count("pauses of discovery");
                self.pauses.push(PauseChange::Began(pause));
                self.write_pauses(ctx).await;
            }
            FailureConsequence::RateLimited(until, times) => {
                let now = ctx.clock.now();
                let throttle = SavedThrottle { at: now, until, times, rate_share_ppm: PARTS_PER_MILLION };
                ctx.db_with_clock().await?.save_throttle(&self.budget_key, &throttle, now).await?;
            }
            FailureConsequence::NotSent(_) | FailureConsequence::Deferred(_) => {}
        }
        Ok(())
    }

    async fn write_pauses(&self, ctx: &RunContext) {
        self.pauses.write(&ctx.db(), self.owned, &AccountId::new("1", ctx.sub.as_str())).await;
    }

    /// Writes as a previous owner: each write must be refused.
    pub async fn write_as_stale_owner(&mut self, ctx: &mut RunContext) -> Result<(), Interruption> {
        let to = ctx.clock.now().floor_to_second();
        let range = TimeRange { from: to - Duration::from_secs(600), to };
        let window = Window::covering(range);
        let planned = PlannedRead { lane: Lane::Live, window, range, purpose: ReadPurpose::Live };
        let answer = ctx.api.metadata_answer(window, ctx.true_time());
        let chunk = self.ingest(ctx, &planned, &answer).await;
        let read = WindowRead {
            at: to,
            done: to,
            lane: Lane::Live,
            range,
            summary: IngestSummary::default(),
            purposes: vec![(ReadPurpose::Live.key(), range)],
            finished: Vec::new(),
        };
        let record = ctx.db().record_window_read(self.owned, &read).await;
        match (chunk.map(drop).map_err(Interruption::from), record.map_err(Interruption::from)) {
            (Err(Interruption::LeaseLost), Err(Interruption::LeaseLost)) => Ok(()),
            other => Err(InvariantViolation(format!("a previous owner's writes returned {other:?}")).into()),
        }
    }
}

fn clock_readings(ctx: &RunContext, skew: &ClockSkew) -> ClockReadings {
    let (machine, tick) = (ctx.clock.now(), ctx.clock.tick());
    ClockReadings::new(machine, tick, skew.api_time(machine, tick))
}

fn date_header(time: Time) -> HeaderMap {
    let date = time.timestamp().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderMap::from_iter(HeaderValue::from_str(&date).ok().map(|date| (DATE, date)))
}
