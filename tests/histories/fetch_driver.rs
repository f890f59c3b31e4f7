//! Fetches like the daemon: drives the program's fetch machine with the real database, and with the simulated API instead of HTTP.
//!
//! It carries out the machine's actions as `src/daemon/fetch_worker.rs` does, and decides nothing. Its memory is lost with the
//! process.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use ringcx_extractor::backoff::Fault;
use ringcx_extractor::clock::Tick;
use ringcx_extractor::db::{Claim, CompletedJob, DbError, JobOutcome, Lease, PauseRow};
use ringcx_extractor::model::{Artifact, Endpoint, ItemState};
use ringcx_extractor::pipeline::fetch::fetch_machine::{DueQuery, FetchAction, FetchEvent, FetchMachine, Now};
use ringcx_extractor::pipeline::fetch::retry_policy::RetryPolicy;
use ringcx_extractor::ringcx::rate_limit::{Pacer, Permit};
use ringcx_extractor::ringcx::{ApiError, ErrorCause, FetchedArtifact};

use super::operation::{CommitOutcome, FetchDisturbance, FetchOutcome};
use super::reference_model::{InvariantViolation, ensure};
use super::run_context::{DriverFault, Interruption, REQUESTS_PER_MINUTE, RunContext};

/// For how long the machine does not request an item whose result was rejected.
const ITEM_COOLDOWN: Duration = Duration::from_secs(30);

pub struct FetchDriver {
    owned: Lease,
    pacer: Pacer,
    retry_policy: Arc<RetryPolicy>,
    machine: FetchMachine,
    /// The request that the machine decided to send.
    request: Option<(Claim, Permit)>,
    /// Results that are not committed yet.
    uncommitted: Vec<CompletedJob>,
    /// Whether the database accepted the last results.
    is_storable: bool,
    /// The next such event is disturbed.
    disturbances: BTreeSet<FetchDisturbance>,
    /// The result of a query that did not arrive yet.
    late_load: Option<FetchEvent>,
    /// The endpoints that the machine paused.
    paused: BTreeSet<Artifact>,
    /// Pauses and their ends that are not recorded yet.
    unrecorded: VecDeque<FetchAction>,
    /// When an item was last rejected.
    rejected_at: Option<Tick>,
}

impl FetchDriver {
    /// Starts with the recorded pauses, as a process does.
    pub async fn load(ctx: &mut RunContext, owned: Lease, pacer: Pacer) -> Result<FetchDriver, DbError> {
        let refresh_delays = vec![Duration::from_secs(1200), Duration::from_secs(3600)];
        let retry_policy = Arc::new(RetryPolicy { backoff: ctx.backoff, refresh_delays });
        let mut machine = FetchMachine::new(retry_policy.clone(), 8, REQUESTS_PER_MINUTE);
        let mut paused = BTreeSet::new();
        for row in ctx.db().pauses().await?.iter().filter(|row| row.account == owned.account) {
            machine.restore_pause(row, ctx.clock.now());
            paused.extend(artifact_of(row));
        }
        ctx.events.add("pauses restored at a start", paused.len() as u64);
        Ok(FetchDriver {
            owned,
            pacer,
            retry_policy,
            machine,
            request: None,
            uncommitted: Vec::new(),
            is_storable: true,
            disturbances: BTreeSet::new(),
            late_load: None,
            paused,
            unrecorded: VecDeque::new(),
            rejected_at: None,
        })
    }

    /// Disturbs the next event of this kind.
    pub async fn disturb(&mut self, ctx: &mut RunContext, disturbance: FetchDisturbance) -> Result<(), Interruption> {
        self.disturbances.insert(disturbance);
        if disturbance == FetchDisturbance::LateLoad { self.tell(ctx, FetchEvent::WorkQueued).await } else { Ok(()) }
    }

    /// An operator asks for an immediate retry.
    pub async fn resume(&mut self, ctx: &mut RunContext) -> Result<(), Interruption> {
        if !self.paused.is_empty() {
            ctx.events.count("resumes during a pause");
        }
        self.pacer.lift_pause();
        self.tell(ctx, FetchEvent::Resumed).await
    }

    /// The clock was set back by more than its jitter.
    pub async fn handle_clock_step_back(&mut self, ctx: &mut RunContext) -> Result<(), Interruption> {
        if self.rejected_at.is_some_and(|at| ctx.clock.tick().since(at) < ITEM_COOLDOWN) {
            ctx.events.count("clocks set back while an item was on cooldown");
        }
        self.tell(ctx, FetchEvent::ClockSteppedBack).await
    }

    /// Reports an event to the machine, and carries out its actions.
    pub async fn tell(&mut self, ctx: &mut RunContext, event: FetchEvent) -> Result<(), Interruption> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = Now { local: ctx.clock.now(), api: ctx.true_time() };
            for action in self.machine.on(event, now, &mut ctx.rng) {
                match action {
                    FetchAction::LoadDue(query) => events.extend(self.load_due(ctx, query).await?),
                    FetchAction::Request(claim, permit) => self.request = Some((claim, permit)),
                    FetchAction::Complete(job) => {
                        ctx.events.count(if is_deferred(&job) {
                            "items deferred without an attempt"
                        } else {
                            "answers"
                        });
                        self.uncommitted.push(job);
                    }
                    FetchAction::CompleteFailed(job) => {
                        ctx.events.count("failed attempts");
                        self.uncommitted.push(job);
                    }
                    FetchAction::RecordPause(..) | FetchAction::RecordPauseEnd(..) => {
                        self.record_pause_change(ctx, action).await?;
                    }
                    FetchAction::RateLimited(_, retry_after) => {
                        ctx.events.count("429s that counted no attempt");
                        self.pacer.record_refusal(retry_after);
                    }
                    FetchAction::UndoDeferrals(artifact) => {
                        let (now, first) = (ctx.clock.now(), ctx.backoff.initial_delay());
                        let undone = ctx.db().undo_deferrals(self.owned.account, artifact, now, first).await;
                        tolerate_outage(undone.map(drop))?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn load_due(&mut self, ctx: &mut RunContext, query: DueQuery) -> Result<Option<FetchEvent>, DbError> {
        let (db, owned) = (ctx.db(), self.owned);
        let loaded = async {
            let due = db.due_items_by_class(owned, query.artifacts, query.until, |class| query.limit(class)).await?;
            Ok::<_, DbError>((due, db.next_due(owned.account, query.artifacts, query.until).await?))
        };
        let event = match loaded.await {
            Ok((due, next)) => FetchEvent::Loaded(query, due, next),
            Err(error) if error.is_transient() => FetchEvent::LoadFailed(query),
            Err(error) => return Err(error),
        };
        if self.disturbances.remove(&FetchDisturbance::LateLoad) {
            self.late_load = Some(event);
            return Ok(None);
        }
        Ok(Some(event))
    }

    async fn record_pause_change(&mut self, ctx: &mut RunContext, change: FetchAction) -> Result<(), Interruption> {
        match &change {
            FetchAction::RecordPause(row, _) => {
                ctx.events.count("account faults");
                self.paused.extend(artifact_of(row));
            }
            FetchAction::RecordPauseEnd(artifact, _) => {
                ctx.events.count("endpoints that recovered");
                self.paused.remove(artifact);
                if self.disturbances.remove(&FetchDisturbance::PauseEndUnrecorded) {
                    ctx.events.count("ends of pauses that could not be recorded");
                    self.unrecorded.push_back(change);
                    return Ok(());
                }
            }
            _ => {}
        }
        self.unrecorded.push_back(change);
        self.record_pause_changes(ctx).await
    }

    /// Records the pauses and their ends, in their order.
    async fn record_pause_changes(&mut self, ctx: &RunContext) -> Result<(), Interruption> {
        while let Some(change) = self.unrecorded.front() {
            let recorded = match change {
                FetchAction::RecordPause(row, _) => ctx.db().save_pause(self.owned, row).await,
                FetchAction::RecordPauseEnd(artifact, waited) => {
                    ctx.db().end_pause(self.owned, (*artifact).into(), Some(*waited)).await
                }
                _ => Ok(()),
            };
            if !tolerate_outage(recorded)? {
                break;
            }
            self.unrecorded.pop_front();
        }
        Ok(())
    }

    /// Sends a request with each outcome, as long as the machine wants to and the pacer permits. Returns the number of requests.
    pub async fn fetch(&mut self, ctx: &mut RunContext, outcomes: &[FetchOutcome]) -> Result<usize, Interruption> {
        self.record_pause_changes(ctx).await?;
        self.deliver_late_load(ctx).await?;
        let mut sent = 0;
        for outcome in outcomes {
            self.tell(ctx, FetchEvent::Tick { is_storable: self.is_storable }).await?;
            if !self.machine.wants_permit(ctx.clock.now()) {
                break;
            }
            let Some(permit) = ctx.wait_for_permit(&self.pacer) else { break };
            self.tell(ctx, FetchEvent::PermitGranted(permit)).await?;
            let Some((claim, permit)) = self.request.take() else { continue };
            ctx.model.on_dispatched(&claim)?;
            ctx.events.add("retries", u64::from(claim.tries > 0));
            if ctx.has_fault(DriverFault::DoubledClaim) {
                // It is acknowledged before it has a result.
                self.tell(ctx, FetchEvent::Stored { item: claim.item, is_accepted: true }).await?;
                self.tell(ctx, FetchEvent::WorkQueued).await?;
            }
            let is_probe = self.paused.contains(&claim.artifact);
            let panics = is_probe && self.disturbances.remove(&FetchDisturbance::ProbePanics);
            ctx.events.add("probes that panicked", u64::from(panics));
            self.send(ctx, claim, permit, if panics { FetchOutcome::Panicked } else { *outcome }).await?;
            sent += 1;
        }
        Ok(sent)
    }

    async fn send(
        &mut self,
        ctx: &mut RunContext,
        claim: Claim,
        permit: Permit,
        outcome: FetchOutcome,
    ) -> Result<(), Interruption> {
        let Some(result) = send_request(ctx, &claim, permit, outcome)? else {
            ctx.events.count("requests that panicked");
            ctx.model.on_returned(&claim);
            self.rejected_at = Some(ctx.clock.tick());
            return self.tell(ctx, FetchEvent::Panicked(claim)).await;
        };
        if !matches!(&result, Err(error) if error.fault == Fault::RateLimited) {
            self.pacer.record_success();
        }
        let now = ctx.clock.now();
        let mut answer = result.map(|answer| (now, self.retry_policy.outcome_of_answer(&claim, &answer, now)));
        if let Err(error) = &mut answer
            && ctx.has_fault(DriverFault::AccountFaultChargedToItem)
            && matches!(error.fault, Fault::Unauthorised | Fault::RateLimited)
        {
            error.fault = Fault::Broken;
        }
        let (sent, was_answered, results) = (claim.clone(), answer.is_ok(), self.uncommitted.len());
        self.tell(ctx, FetchEvent::Answered(claim, answer)).await?;
        if self.uncommitted.len() == results {
            ctx.model.on_returned(&sent);
        }
        let is_paused = was_answered && self.paused.contains(&sent.artifact);
        ensure!(!is_paused, "{} is still paused after an answer", sent.artifact);
        Ok(())
    }

    /// The result of the late query arrives.
    async fn deliver_late_load(&mut self, ctx: &mut RunContext) -> Result<(), Interruption> {
        match self.late_load.take() {
            Some(loaded) => self.tell(ctx, loaded).await,
            None => Ok(()),
        }
    }

    /// Commits the results.
    pub async fn commit(&mut self, ctx: &mut RunContext, outcome: CommitOutcome) -> Result<(), Interruption> {
        if self.uncommitted.is_empty() {
            return Ok(());
        }
        match outcome {
            CommitOutcome::DiesBefore => {
                ctx.events.count("crashes before a commit");
                return Err(Interruption::ProcessDied);
            }
            CommitOutcome::TakenOver => {
                ctx.take_over().await?;
                if ctx.successor.is_some() {
                    return Err(Interruption::LeaseLost);
                }
            }
            CommitOutcome::DatabaseAway => self.attempt_without_database(ctx).await?,
            CommitOutcome::Rejected => {
                let batch = self.take_uncommitted();
                ctx.events.add("results that were not accepted", batch.len() as u64);
                batch.iter().for_each(|job| ctx.model.on_returned(&job.claim));
                self.rejected_at = Some(ctx.clock.tick());
                return self.acknowledge(ctx, &batch, false).await;
            }
            _ => {}
        }
        let batch = self.take_uncommitted();
        self.write_batch(ctx, &batch).await?;
        ctx.events.count("commits of results");
        if outcome == CommitOutcome::ReportedFailed {
            self.commit_again(ctx, &batch).await?;
        }
        if outcome == CommitOutcome::DiesAfter {
            ctx.events.count("crashes after a commit, before the process knew");
            return Err(Interruption::ProcessDied);
        }
        self.acknowledge(ctx, &batch, true).await
    }

    /// The database is unavailable: results wait, and nothing is requested.
    async fn attempt_without_database(&mut self, ctx: &mut RunContext) -> Result<(), Interruption> {
        ctx.database.close().await;
        let result = ctx.db().complete_jobs(&self.uncommitted).await;
        self.is_storable = false;
        let sent = self.fetch(ctx, &[FetchOutcome::Answered]).await?;
        ctx.database.reopen().await?;
        self.is_storable = true;
        ensure!(result.is_err_and(|error| error.is_transient()), "an unavailable database accepted results");
        ensure!(sent == 0, "a request was sent whose result could not be stored");
        ctx.events.count("commits while the database was unavailable");
        Ok(())
    }

    /// Tells the machine that results were processed. A query that was late by then may have returned their items.
    async fn acknowledge(
        &mut self,
        ctx: &mut RunContext,
        batch: &[CompletedJob],
        is_accepted: bool,
    ) -> Result<(), Interruption> {
        for job in batch {
            self.tell(ctx, FetchEvent::Stored { item: job.claim.item, is_accepted }).await?;
        }
        if let Some(FetchEvent::Loaded(_, due, _)) = &self.late_load
            && due.iter().any(|claim| batch.iter().any(|job| job.claim.item == claim.item))
        {
            ctx.events.count("late queries that returned completed items");
        }
        self.deliver_late_load(ctx).await
    }

    /// Commits a batch, and reports to the model what counted.
    async fn write_batch(&self, ctx: &mut RunContext, batch: &[CompletedJob]) -> Result<(), Interruption> {
        let lost = ctx
            .has_fault(DriverFault::LostCommit)
            .then(|| batch.iter().position(|settled| matches!(settled.outcome, JobOutcome::Answered { .. })))
            .flatten();
        let written: Vec<CompletedJob> = batch
            .iter()
            .enumerate()
            .filter(|(nth, _)| Some(*nth) != lost)
            .map(|(_, settled)| settled.clone())
            .collect();
        let mut counted = ctx.db().complete_jobs(&written).await?;
        if let Some(nth) = lost {
            counted.insert(nth, true);
        }
        report_to_model(ctx, batch, &counted)?;
        if ctx.has_fault(DriverFault::DoubledResult) {
            store_another_text(ctx, batch).await?;
        }
        Ok(())
    }

    /// Takes the uncommitted results, for the caller to commit.
    pub fn take_uncommitted(&mut self) -> Vec<CompletedJob> {
        std::mem::take(&mut self.uncommitted)
    }

    /// The caller committed this batch.
    pub async fn on_committed_elsewhere(
        &mut self,
        ctx: &mut RunContext,
        batch: &[CompletedJob],
        counted: &[bool],
    ) -> Result<(), Interruption> {
        report_to_model(ctx, batch, counted)?;
        self.acknowledge(ctx, batch, true).await
    }

    /// The commit was reported as failed: commits the same batch again, and asserts that no answer counts twice.
    async fn commit_again(&self, ctx: &mut RunContext, batch: &[CompletedJob]) -> Result<(), Interruption> {
        ctx.events.count("commits reported as failed");
        let again = ctx.db().complete_jobs(batch).await?;
        for (settled, again) in batch.iter().zip(again) {
            let answered = matches!(settled.outcome, JobOutcome::Answered { .. });
            if answered && again {
                return Err(InvariantViolation(format!("a result counted twice: {:?}", settled.claim)).into());
            }
        }
        Ok(())
    }

    /// Commits the results of a previous owner: none may count.
    pub async fn commit_as_stale_owner(&mut self, ctx: &mut RunContext, current: Lease) -> Result<usize, Interruption> {
        let mut batch = std::mem::take(&mut self.uncommitted);
        if ctx.has_fault(DriverFault::ForgedEpoch) {
            batch.iter_mut().for_each(|settled| settled.claim.lease = current);
        }
        let counted = ctx.db().complete_jobs(&batch).await?;
        if counted.contains(&true) && !ctx.has_fault(DriverFault::ForgedEpoch) {
            return Err(InvariantViolation("a previous owner's result counted".to_owned()).into());
        }
        Ok(batch.len())
    }
}

/// Reports a batch to the model. Every result must have counted.
fn report_to_model(ctx: &mut RunContext, batch: &[CompletedJob], counted: &[bool]) -> Result<(), Interruption> {
    for (settled, counted) in batch.iter().zip(counted) {
        if !counted {
            return Err(InvariantViolation(format!(
                "a result of the current owner did not count: {:?}",
                settled.claim
            ))
            .into());
        }
        ctx.model.on_committed(settled)?;
        if let JobOutcome::Failed { state: ItemState::Unavailable, .. } = &settled.outcome {
            ctx.events.count("items given up at their horizon");
        }
    }
    Ok(())
}

/// Stores a result again, with another text.
async fn store_another_text(ctx: &mut RunContext, batch: &[CompletedJob]) -> Result<(), Interruption> {
    let answered =
        batch.iter().find(|settled| matches!(settled.outcome, JobOutcome::Answered { refresh_at: Some(_), .. }));
    let Some(settled) = answered.cloned() else { return Ok(()) };
    let mut claim = settled.claim;
    claim.visit += 1;
    let outcome = JobOutcome::stored(&Bytes::from_static(b"another text"), None);
    ctx.db().complete_jobs(&[CompletedJob { claim, at: settled.at, outcome }]).await?;
    Ok(())
}

fn artifact_of(pause: &PauseRow) -> Option<Artifact> {
    Artifact::ALL.into_iter().find(|artifact| Endpoint::from(*artifact) == pause.endpoint)
}

/// Whether the operation succeeded; `false` if the database is unavailable.
fn tolerate_outage(result: Result<(), DbError>) -> Result<bool, DbError> {
    match result {
        Err(error) if error.is_transient() => Ok(false),
        result => result.map(|()| true),
    }
}

fn is_deferred(job: &CompletedJob) -> bool {
    matches!(job.outcome, JobOutcome::Deferred { .. })
}

/// Sends one request to the simulated API. `None` if it panics.
fn send_request(
    ctx: &mut RunContext,
    claim: &Claim,
    mut permit: Permit,
    outcome: FetchOutcome,
) -> Result<Option<Result<FetchedArtifact, ApiError>>, InvariantViolation> {
    permit.mark_sent();
    let latency: u64 = ctx.rng.random_range(5..900);
    ctx.clock.advance(Duration::from_millis(latency / 2));
    ctx.model.on_request(ctx.clock.tick(), false)?;
    let answer = ctx.api.artifact_answer(&claim.segment_id, claim.artifact, ctx.true_time());
    ctx.clock.advance(Duration::from_millis(latency - latency / 2));
    permit.mark_counted();
    let endpoint = claim.artifact.into();
    ctx.model.on_response(claim, if let FetchOutcome::Status(status, _) = outcome { Some(status) } else { None });
    let status = |status| ctx.status_error(endpoint, status);
    let transient = |cause, status| ctx.api_error(Fault::Transient, endpoint, cause, status);
    Ok(Some(match outcome {
        FetchOutcome::Panicked => return Ok(None),
        FetchOutcome::Answered => answer.ok_or_else(|| status(404)),
        FetchOutcome::Status(number, wait) => {
            let mut error = status(number);
            error.retry_after = wait.map(Duration::from_secs);
            Err(error)
        }
        FetchOutcome::Reset => Err(transient(ErrorCause::ConnectionLost, None)),
        FetchOutcome::Truncated => Err(ctx.api_error(Fault::Broken, endpoint, ErrorCause::ConnectionLost, Some(200))),
        FetchOutcome::ErrorCodeInBody => Err(ctx.api_error(Fault::NotYet, endpoint, ErrorCause::Answered, Some(200))),
    }))
}
