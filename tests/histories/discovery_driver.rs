//! Discovers like the daemon: with the real planner, budget and database, and the simulated API instead of HTTP.
//!
//! It follows `src/discover.rs` step by step. Its memory is lost with the process.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use reqwest::header::{DATE, HeaderMap, HeaderValue};
use ringcx_extractor::backoff::Fault;
use ringcx_extractor::circuit_breaker::CircuitBreaker;
use ringcx_extractor::clock::{Tick, Time};
use ringcx_extractor::coverage::{
    Backfill, ClockReadings, Coverage, FailedWindowBackoff, Plan, PlannedRead, PlanningClock, ReadPurpose, Recheck,
    Repair, WindowFailure, plan_next_read,
};
use ringcx_extractor::db::{Db, DbError, IngestSummary, Lease, MetadataChunk, WindowRead};
use ringcx_extractor::model::{ArtifactSelection, ArtifactSet, Endpoint, Lane, SummariesFor, TimeRange, TimeRangeSet};
use ringcx_extractor::ringcx::rate_limit::{Pacer, Permit, Reservation, ReservedQuota};
use ringcx_extractor::ringcx::{ApiError, ClockSkew, ErrorCause};

use super::operation::ReadOutcome;
use super::reference_model::InvariantViolation;
use super::run_context::{DriverFault, Interruption, RECHECK_DELAY, RunContext};
use super::simulated_api::MetadataElement;

const MAX_RETRY_DELAY: Duration = Duration::from_secs(900);
const WANTS: ArtifactSelection =
    ArtifactSelection { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

/// The result of a poll.
#[derive(Debug, PartialEq, Eq)]
pub enum PollResult {
    Read,
    Failed,
    /// Nothing is due before then, by the wall clock.
    Idle(Time),
}

type MetadataAnswer = [(String, MetadataElement)];

pub struct DiscoveryDriver {
    coverage: Coverage,
    cooling: FailedWindowBackoff,
    circuit_breaker: CircuitBreaker,
    failures: u32,
    refused: u32,
    not_before: Time,
    non_live_reads: u64,
    skew: ClockSkew,
    planning_clock: PlanningClock,
    budget: ReservedQuota,
}

impl DiscoveryDriver {
    pub async fn load(ctx: &RunContext) -> Result<DiscoveryDriver, InvariantViolation> {
        let limits = ctx.rules.limits.clone();
        let key = format!("metadata:{}", ctx.sub);
        let budget = ReservedQuota::new(Arc::new(ctx.database.clone()), key, limits, ctx.clock.clone());
        // As in the first step of discovery, which follows at once.
        budget
            .effective_times()
            .await
            .map_err(|error| InvariantViolation(format!("failed to read the metadata budget: {error}")))?;
        Ok(DiscoveryDriver {
            coverage: load_coverage(ctx, ctx.clock.now()).await?,
            cooling: FailedWindowBackoff::default(),
            circuit_breaker: CircuitBreaker::default(),
            failures: 0,
            refused: 0,
            not_before: Time(i64::MIN),
            non_live_reads: 0,
            skew: ClockSkew::new(),
            planning_clock: PlanningClock::default(),
            budget,
        })
    }

    pub async fn reload(&mut self, ctx: &RunContext) -> Result<(), DbError> {
        self.coverage = load_coverage(ctx, self.planning_clock.now(&self.clock_readings(ctx))).await?;
        Ok(())
    }

    /// The clocks' readings, without the database's.
    fn clock_readings(&self, ctx: &RunContext) -> ClockReadings {
        let (machine, tick) = (ctx.clock.now(), ctx.clock.tick());
        let api = self.skew.api_time(machine, tick).lower_bound(machine);
        let (newest, measured, believed) = (api.newest, api.measured, api.believed);
        ClockReadings { tick, machine, database: None, newest, measured, believed }
    }

    /// Reads the most urgent window, if one is due and the limits permit it.
    pub async fn poll(
        &mut self,
        ctx: &mut RunContext,
        owned: Lease,
        pacer: &Pacer,
        outcome: ReadOutcome,
    ) -> Result<PollResult, Interruption> {
        let local = ctx.clock.now();
        if local < self.not_before {
            return Ok(PollResult::Idle(self.not_before));
        }
        if !self.circuit_breaker.allows_request(local) {
            let until = self.circuit_breaker.pause().map_or(local, |pause| pause.until);
            return Ok(PollResult::Idle(until.max(local + Duration::from_secs(1))));
        }
        let readings = self.clock_readings(ctx);
        let now = self.planning_clock.now(&readings);
        self.cooling.cap_retry_times(now + MAX_RETRY_DELAY);
        let skew = now.0 - local.0;
        self.check_coverage(ctx, owned, &readings, now).await?;
        let mut coverage = self.coverage.clone();
        coverage.truncate_at(now);
        let repairs = ctx.db().quarantined_windows(ctx.account).await?;
        let repairs: Vec<Repair> =
            repairs.into_iter().map(|(stretch, due)| Repair { range: stretch, due: due.plus_millis(skew) }).collect();
        let log = self.budget.effective_times().await.map_err(|_| Interruption::DatabaseAway)?;
        let log: Vec<Time> = log.into_iter().map(|at| at.plus_millis(skew)).collect();
        let want = match plan_next_read(
            now,
            &ctx.rules,
            &coverage,
            &log,
            self.cooling.as_slice(),
            &repairs,
            self.non_live_reads,
        ) {
            Plan::Read(want) => want,
            Plan::Wait { until } => {
                let has_room = ctx.rules.limits.earliest_send(&log, now) <= now;
                match has_room.then(|| self.planning_clock.plan_probe(&readings, &ctx.rules)).flatten() {
                    Some(want) => want,
                    None => {
                        let wait = until.since(now).clamp(Duration::from_millis(10), ctx.rules.interval);
                        return Ok(PollResult::Idle(local + wait));
                    }
                }
            }
        };
        let planned = self.planning_clock.lead_over_tick_ms(&readings);
        let Some(permit) = ctx.wait_for_permit(pacer) else {
            return Ok(PollResult::Idle(local + Duration::from_secs(1)));
        };
        let reserved = if ctx.has_fault(DriverFault::NoReservation) {
            None
        } else {
            match self.budget.try_reserve().await.map_err(|_| Interruption::DatabaseAway)? {
                Ok(reserved) => Some(reserved),
                Err(due) => return Ok(PollResult::Idle(due)),
            }
        };
        self.circuit_breaker.try_acquire(local);
        self.read_window(ctx, owned, (want, planned), permit, reserved, outcome).await
    }

    async fn check_coverage(
        &mut self,
        ctx: &RunContext,
        owned: Lease,
        readings: &ClockReadings,
        now: Time,
    ) -> Result<(), Interruption> {
        let start = ctx.rules.first_start(now);
        if readings.newest.is_some() && self.coverage.live.is_empty() && self.coverage.live_start > start {
            ctx.db().move_live_start(owned, start).await?;
            self.coverage.live_start = start;
        }
        let latest = readings.latest().plus_millis(999).floor_to_second();
        if self.skew.api_time(readings.machine, readings.tick).is_measured() && self.coverage.extends_beyond(latest) {
            ctx.db().truncate_coverage(owned, latest).await?;
            self.coverage.truncate_at(latest);
        }
        Ok(())
    }

    async fn read_window(
        &mut self,
        ctx: &mut RunContext,
        owned: Lease,
        (want, planned): (PlannedRead, i64),
        mut permit: Permit,
        reserved: Option<Reservation>,
        outcome: ReadOutcome,
    ) -> Result<PollResult, Interruption> {
        ctx.events.count("metadata reads");
        let (at, sent) = (ctx.clock.now(), ctx.clock.tick());
        permit.mark_sent();
        let latency = ctx.rng.random_range(5..1500);
        ctx.clock.advance(Duration::from_millis(latency / 2));
        ctx.model.on_request(ctx.clock.tick(), true)?;
        let answer = ctx.api.metadata_answer(want.window, ctx.true_time());
        let answered_at = ctx.true_time();
        ctx.clock.advance(Duration::from_millis(latency - latency / 2));
        permit.mark_counted();
        if let Some(reserved) = reserved {
            reserved.mark_counted().await;
        }
        if outcome != ReadOutcome::Reset {
            self.skew.observe(&date_header(answered_at), sent, ctx.clock.tick(), ctx.clock.now());
        }
        let error = match outcome {
            ReadOutcome::Status(status) => ctx.status_error(Endpoint::Metadata, status),
            ReadOutcome::Reset => ctx.api_error(Fault::Transient, Endpoint::Metadata, ErrorCause::ConnectionLost, None),
            ReadOutcome::Truncated(_) => {
                ctx.api_error(Fault::Transient, Endpoint::Metadata, ErrorCause::ConnectionLost, Some(200))
            }
            _ => return self.store_answer(ctx, owned, &want, (at, (planned, sent)), &answer, outcome).await,
        };
        if let ReadOutcome::Truncated(chunks) = outcome {
            ctx.events.count("truncated metadata answers");
            let part = &answer[..answer.len().min(chunks * ELEMENTS_PER_CHUNK)];
            let mut sum = IngestSummary::default();
            for chunk in part.chunks(ELEMENTS_PER_CHUNK) {
                self.ingest_chunk(ctx, owned, &want, chunk, &mut sum).await?;
            }
            if ctx.has_fault(DriverFault::HalfAnswer) {
                return self
                    .record_read(ctx, owned, &want, (at, (planned, sent)), &answer, sum, ReadOutcome::Whole)
                    .await;
            }
        }
        self.handle_failure(ctx, &want, &error);
        Ok(PollResult::Failed)
    }

    async fn store_answer(
        &mut self,
        ctx: &mut RunContext,
        owned: Lease,
        want: &PlannedRead,
        at: (Time, (i64, Tick)),
        answer: &MetadataAnswer,
        outcome: ReadOutcome,
    ) -> Result<PollResult, Interruption> {
        let mut sum = IngestSummary::default();
        let skipped = ctx.has_fault(DriverFault::SkippedWindow);
        let mut remaining = answer.chunks(ELEMENTS_PER_CHUNK).filter(|_| !skipped).enumerate();
        loop {
            let next = remaining.next();
            let stored = next.map_or(usize::MAX, |(nth, _)| nth);
            match outcome {
                ReadOutcome::DiesAfter(chunks) if stored >= chunks => {
                    ctx.events.count("crashes in the middle of an answer");
                    return Err(Interruption::ProcessDied);
                }
                ReadOutcome::TakenOver(chunks) if stored >= chunks && ctx.successor.is_none() => {
                    ctx.take_over().await?;
                    if ctx.successor.is_some() {
                        ctx.events.count("take-overs in the middle of an answer");
                    }
                }
                ReadOutcome::DatabaseAway(chunks) if stored >= chunks => {
                    self.write_without_database(ctx, owned, want, next.map(|(_, chunk)| chunk)).await?
                }
                _ => {}
            }
            let Some((_, chunk)) = next else { break };
            self.ingest_chunk(ctx, owned, want, chunk, &mut sum).await?;
        }
        if outcome == ReadOutcome::DiesBeforeRecord {
            ctx.events.count("crashes between the last chunk and the record");
            return Err(Interruption::ProcessDied);
        }
        self.record_read(ctx, owned, want, at, answer, sum, outcome).await
    }

    /// A write while the database is unavailable fails with a passing error and has no effect.
    async fn write_without_database(
        &self,
        ctx: &mut RunContext,
        owned: Lease,
        want: &PlannedRead,
        chunk: Option<&MetadataAnswer>,
    ) -> Result<(), Interruption> {
        ctx.database.close().await;
        let result = ingest_elements(&ctx.db(), ctx, &self.coverage.live, owned, want, chunk.unwrap_or(&[])).await;
        let passing = result.as_ref().is_err_and(DbError::is_transient);
        ctx.database.reopen().await?;
        if !passing {
            return Err(InvariantViolation(format!("an unavailable database returned {result:?}")).into());
        }
        ctx.events.count("writes while the database was unavailable");
        Ok(())
    }

    async fn ingest_chunk(
        &self,
        ctx: &mut RunContext,
        owned: Lease,
        want: &PlannedRead,
        chunk: &MetadataAnswer,
        sum: &mut IngestSummary,
    ) -> Result<(), Interruption> {
        let stored = ingest_elements(&ctx.db(), ctx, &self.coverage.live, owned, want, chunk).await?;
        if ctx.successor.is_some() {
            return Err(InvariantViolation("a chunk was stored under a previous owner's epoch".to_owned()).into());
        }
        ctx.model.on_chunk_stored(chunk);
        ctx.events.add("late segments and flags", stored.flipped);
        ctx.events.add("records set aside", stored.quarantined);
        sum.add(stored);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a read")]
    async fn record_read(
        &mut self,
        ctx: &mut RunContext,
        owned: Lease,
        want: &PlannedRead,
        (at, sent): (Time, (i64, Tick)),
        answer: &MetadataAnswer,
        announced: IngestSummary,
        outcome: ReadOutcome,
    ) -> Result<PollResult, Interruption> {
        let after = self.clock_readings(ctx);
        let (credited, read_at) = self.planning_clock.credit_read(want.range, sent, &after, &ctx.rules);
        let ends = answer.iter().filter_map(|(_, element)| match element {
            MetadataElement::Record(record) => record.end,
            MetadataElement::Unreadable(_) => None,
        });
        if let Some(ended) = ends.filter(|end| *end <= want.window.end()).max() {
            self.planning_clock.observe_segment_end(&after, ended);
        }
        let Some(stretch) = credited else {
            ctx.events.count("windows that did not count as read");
            (self.failures, self.refused) = (0, 0);
            self.circuit_breaker.record_success();
            return Ok(PollResult::Read);
        };
        let mut coverage = self.coverage.clone();
        let gained = coverage.record(stretch, read_at);
        let reading = WindowRead {
            at,
            done: ctx.clock.now(),
            lane: want.lane,
            range: stretch,
            summary: announced,
            purposes: gained.into_iter().map(|(pass, stretch)| (pass.key(), stretch)).collect(),
            finished: coverage.finished_backfills(),
        };
        ctx.db().record_window_read(owned, &reading).await?;
        if ctx.successor.is_some() {
            return Err(InvariantViolation("a window was recorded under a previous owner's epoch".to_owned()).into());
        }
        ctx.model.on_window_recorded(stretch, answer);
        if outcome == ReadOutcome::DiesAfterRecord {
            ctx.events.count("crashes after the record, before the process knew");
            return Err(Interruption::ProcessDied);
        }
        if outcome == ReadOutcome::RecordReportedFailed {
            ctx.events.count("records that were committed and reported as failed");
            ctx.db().record_window_read(owned, &reading).await?;
        }
        coverage.backfills.retain(|backfill| !reading.finished.contains(&backfill.id));
        ctx.events.add("backfills completed", reading.finished.len() as u64);
        if want.lane == Lane::Recheck {
            ctx.events.count("rechecks");
        }
        self.coverage = coverage;
        self.cooling.record_success(stretch);
        self.non_live_reads = self.non_live_reads.wrapping_add(u64::from(want.lane != Lane::Live));
        (self.failures, self.refused) = (0, 0);
        self.circuit_breaker.record_success();
        Ok(PollResult::Read)
    }

    fn handle_failure(&mut self, ctx: &mut RunContext, want: &PlannedRead, error: &ApiError) {
        ctx.events.count("metadata reads that failed");
        let now = ctx.clock.now();
        let jitter = ctx.rng.random();
        match error.fault {
            Fault::RateLimited => {
                self.refused += 1;
                self.not_before = now + ctx.backoff.delay(self.refused, jitter).min(MAX_RETRY_DELAY);
                self.circuit_breaker.release_probe();
            }
            Fault::Forbidden | Fault::Unauthorised => {
                self.circuit_breaker.record_failure(Fault::Unauthorised, "", now, ctx.backoff.initial_delay(), jitter);
            }
            Fault::Transient | Fault::Broken | Fault::NotYet | Fault::Permanent => {
                self.circuit_breaker.release_probe();
                self.failures += 1;
                let broke_off = error.cause == ErrorCause::ConnectionLost && error.status == Some(200);
                let until = self.planning_clock.now(&self.clock_readings(ctx))
                    + ctx.backoff.delay(self.failures, jitter).min(MAX_RETRY_DELAY);
                let ending = if broke_off { WindowFailure::Truncated } else { WindowFailure::Other };
                self.cooling.record_failure(want.range, until, ending);
            }
        }
    }

    /// Writes as a previous owner: each write must be refused.
    pub async fn write_as_stale_owner(&self, ctx: &mut RunContext, owned: Lease) -> Result<(), Interruption> {
        let to = ctx.clock.now().floor_to_second();
        let stretch = TimeRange { from: to - Duration::from_secs(600), to };
        let window = ringcx_extractor::model::Window::covering(stretch);
        let want = PlannedRead { lane: Lane::Live, window, range: stretch, purpose: ReadPurpose::Live };
        let answer = ctx.api.metadata_answer(window, ctx.true_time());
        let chunk = ingest_elements(&ctx.db(), ctx, &self.coverage.live, owned, &want, &answer).await;
        let reading = WindowRead {
            at: to,
            done: to,
            lane: Lane::Live,
            range: stretch,
            summary: IngestSummary::default(),
            purposes: vec![(ReadPurpose::Live.key(), stretch)],
            finished: Vec::new(),
        };
        let record = ctx.db().record_window_read(owned, &reading).await;
        match (chunk.map(drop).map_err(Interruption::from), record.map_err(Interruption::from)) {
            (Err(Interruption::LeaseLost), Err(Interruption::LeaseLost)) => Ok(()),
            other => Err(InvariantViolation(format!("a previous owner's writes returned {other:?}")).into()),
        }
    }
}

/// The number of elements in one transaction.
const ELEMENTS_PER_CHUNK: usize = 2;

async fn ingest_elements(
    db: &Db,
    ctx: &RunContext,
    known: &TimeRangeSet,
    owned: Lease,
    want: &PlannedRead,
    chunk: &MetadataAnswer,
) -> Result<IngestSummary, DbError> {
    let (mut records, mut asides) = (Vec::new(), Vec::new());
    for (_, element) in chunk {
        match element {
            MetadataElement::Record(record) => records.push(record.clone()),
            MetadataElement::Unreadable(aside) => asides.push(aside.clone()),
        }
    }
    db.ingest_chunk(MetadataChunk {
        lease: owned,
        lane: want.lane,
        range: want.range,
        now: ctx.clock.now(),
        wants: WANTS,
        already_read: known,
        urgent_before: None,
        quarantine_retry_delay: Duration::from_secs(60),
        records: &records,
        quarantined: &asides,
    })
    .await
}

fn date_header(time: Time) -> HeaderMap {
    let date = time.timestamp().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderMap::from_iter(HeaderValue::from_str(&date).ok().map(|date| (DATE, date)))
}

async fn load_coverage(ctx: &RunContext, now: Time) -> Result<Coverage, DbError> {
    let (db, key) = (ctx.db(), ctx.account);
    let held = db.coverage(key).await?;
    let of = |pass: ReadPurpose| {
        let held = held.iter().filter(|(name, _)| *name == pass.key()).map(|(_, stretch)| *stretch);
        TimeRangeSet::from_unsorted(held.collect())
    };
    let live = of(ReadPurpose::Live);
    let live_start = db.init_live_start(key, ctx.rules.first_start(now)).await?;
    let recheck = ReadPurpose::Recheck(RECHECK_DELAY);
    let edge = live.as_slice().last().map(|newest| newest.to.min(now));
    let owed_from = edge.map_or(Time(0), |edge| (edge - RECHECK_DELAY).floor_to_second());
    let base = db.init_purpose_base(key, &recheck.key(), owed_from).await?;
    let backfills = db.backfills(Some(key), false).await?.into_iter().map(|asked| Backfill {
        id: asked.id,
        range: asked.range,
        newest_first: asked.newest_first,
        done: of(ReadPurpose::Backfill(asked.id)),
    });
    Ok(Coverage {
        live_start,
        live,
        rechecks: vec![(RECHECK_DELAY, Recheck { base, done: of(recheck) })],
        backfills: backfills.collect(),
    })
}
