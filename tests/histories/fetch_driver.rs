//! Fetches like the daemon: with the real scheduler, circuit breaker, retry policy and database, and the simulated API instead of
//! HTTP.
//!
//! It follows `src/daemon/fetch_worker.rs` step by step. Its memory is lost with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use ringcx_extractor::backoff::Fault;
use ringcx_extractor::circuit_breaker::{BreakerEvent, CircuitBreaker};
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Claim, CompletedJob, Item, JobOutcome, Lease, PauseRow};
use ringcx_extractor::fetch::RetryPolicy;
use ringcx_extractor::fetch::not_found_throttle::NotFoundThrottle;
use ringcx_extractor::fetch::schedule::Schedule;
use ringcx_extractor::model::{Artifact, ArtifactSet, ItemState};
use ringcx_extractor::ringcx::rate_limit::{Pacer, Permit};
use ringcx_extractor::ringcx::{ApiError, ErrorCause, FetchedArtifact};

use super::operation::{CommitOutcome, FetchOutcome};
use super::reference_model::InvariantViolation;
use super::run_context::{DriverFault, Interruption, RunContext};

pub struct FetchDriver {
    retry_policy: RetryPolicy,
    schedule: Schedule,
    in_flight: BTreeSet<Item>,
    circuit_breakers: BTreeMap<Artifact, CircuitBreaker>,
    not_found_throttles: BTreeMap<Artifact, NotFoundThrottle>,
    /// Results that are not committed yet.
    uncommitted: Vec<CompletedJob>,
}

impl FetchDriver {
    pub fn new(ctx: &RunContext) -> FetchDriver {
        let revisit = vec![Duration::from_secs(1200), Duration::from_secs(3600)];
        FetchDriver {
            retry_policy: RetryPolicy { backoff: ctx.backoff, refresh_delays: revisit },
            schedule: Schedule::default(),
            in_flight: BTreeSet::new(),
            circuit_breakers: BTreeMap::new(),
            not_found_throttles: BTreeMap::new(),
            uncommitted: Vec::new(),
        }
    }

    fn open_artifacts(&self, now: Time) -> ArtifactSet {
        let open =
            |artifact: &Artifact| self.circuit_breakers.get(artifact).is_none_or(|breaker| breaker.allows_request(now));
        Artifact::ALL.into_iter().filter(open).collect()
    }

    async fn refill(&mut self, ctx: &mut RunContext, owned: Lease) -> Result<(), Interruption> {
        let now = ctx.clock.now();
        for claim in ctx.db().due_items(owned, self.open_artifacts(now), now, 50).await? {
            if !self.in_flight.contains(&claim.item) || ctx.has_fault(DriverFault::DoubledClaim) {
                self.in_flight.insert(claim.item);
                self.schedule.push(claim);
            }
        }
        Ok(())
    }

    /// Sends a request with each outcome, as long as items are due and the pacer permits. Returns the number of requests.
    pub async fn fetch(
        &mut self,
        ctx: &mut RunContext,
        owned: Lease,
        pacer: &Pacer,
        outcomes: &[FetchOutcome],
    ) -> Result<usize, Interruption> {
        self.refill(ctx, owned).await?;
        let mut sent = 0;
        for outcome in outcomes {
            if !self.schedule.has_claims_for(self.open_artifacts(ctx.clock.now())) {
                break;
            }
            let Some(permit) = ctx.wait_for_permit(pacer) else { break };
            let Some(claim) = self.next_claim(ctx)? else { break };
            sent += 1;
            let result = send_request(ctx, &claim, permit, *outcome)?;
            self.handle_result(ctx, owned, pacer, claim, result).await?;
        }
        Ok(sent)
    }

    fn next_claim(&mut self, ctx: &mut RunContext) -> Result<Option<Claim>, InvariantViolation> {
        let now = ctx.clock.now();
        while let Some(claim) = self.schedule.pop(self.open_artifacts(now)) {
            let last = now >= self.retry_policy.last_attempt_at(&claim, now);
            if !self.not_found_throttles.entry(claim.artifact).or_default().admit_attempt(last, now) {
                ctx.events.count("items deferred without an attempt");
                let outcome = self.retry_policy.defer(&claim, now, ctx.rng.random());
                self.uncommitted.push(CompletedJob { claim, at: now, outcome });
                continue;
            }
            if !self.circuit_breakers.entry(claim.artifact).or_default().try_acquire(now) {
                self.schedule.put_back(claim);
                return Ok(None);
            }
            self.schedule.on_dispatched(&claim);
            ctx.model.on_dispatched(&claim)?;
            return Ok(Some(claim));
        }
        Ok(None)
    }

    async fn handle_result(
        &mut self,
        ctx: &mut RunContext,
        owned: Lease,
        pacer: &Pacer,
        claim: Claim,
        result: Result<FetchedArtifact, ApiError>,
    ) -> Result<(), Interruption> {
        let now = ctx.clock.now();
        if !matches!(&result, Err(error) if error.fault == Fault::RateLimited) {
            pacer.record_success();
        }
        let breaker = self.circuit_breakers.entry(claim.artifact).or_default();
        let meaning = match &result {
            Ok(_) => breaker.record_success(),
            Err(error) => {
                let jitter = ctx.rng.random();
                breaker.record_failure(error.fault, &claim.segment_id, now, ctx.backoff.initial_delay(), jitter)
            }
        };
        match (&result, meaning) {
            (Err(error), BreakerEvent::EndpointFault) if !ctx.has_fault(DriverFault::AccountFaultChargedToItem) => {
                return self.handle_account_fault(ctx, owned, pacer, claim, error).await;
            }
            (_, BreakerEvent::Recovered(since)) => {
                ctx.events.count("endpoints that recovered");
                ctx.db().end_pause(owned, claim.artifact.into(), Some((since, now))).await?;
            }
            _ => {}
        }
        let outcome = match &result {
            Ok(answer) => {
                ctx.events.count("answers");
                if self.not_found_throttles.entry(claim.artifact).or_default().record_found() {
                    ctx.db().undo_deferrals(owned.account, claim.artifact, now, ctx.backoff.initial_delay()).await?;
                }
                self.retry_policy.outcome_of_answer(&claim, answer, now)
            }
            Err(error) => {
                ctx.events.count("failed attempts");
                if error.fault == Fault::NotYet {
                    self.not_found_throttles
                        .entry(claim.artifact)
                        .or_default()
                        .record_not_found(self.retry_policy.is_late(&claim, now), now);
                }
                self.retry_policy.outcome_of_failure(&claim, error, now, ctx.rng.random())
            }
        };
        if claim.tries > 0 {
            ctx.events.count("retries");
        }
        self.uncommitted.push(CompletedJob { claim, at: now, outcome });
        Ok(())
    }

    async fn handle_account_fault(
        &mut self,
        ctx: &mut RunContext,
        owned: Lease,
        pacer: &Pacer,
        claim: Claim,
        error: &ApiError,
    ) -> Result<(), Interruption> {
        ctx.model.on_returned(&claim);
        if error.fault == Fault::RateLimited {
            ctx.events.count("429s that counted no attempt");
            pacer.record_refusal(error.retry_after);
            self.schedule.put_back(claim);
            return Ok(());
        }
        ctx.events.count("account faults");
        let artifact = claim.artifact;
        self.in_flight.remove(&claim.item);
        for claim in self.schedule.remove_artifact(artifact) {
            self.in_flight.remove(&claim.item);
        }
        let Some(pause) = self.circuit_breakers.get(&artifact).and_then(CircuitBreaker::pause) else { return Ok(()) };
        let row = PauseRow {
            account: owned.account,
            endpoint: artifact.into(),
            since: pause.since,
            until: pause.until,
            times: pause.times,
            status: error.status.map(i64::from),
            is_login_failure: error.endpoint == ringcx_extractor::model::Endpoint::Login,
            reason: error.to_string(),
        };
        Ok(ctx.db().save_pause(owned, &row).await?)
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
            CommitOutcome::DatabaseAway => {
                ctx.database.close().await;
                let result = ctx.db().complete_jobs(&self.uncommitted).await;
                ctx.database.reopen().await?;
                if !result.is_err_and(|error| error.is_transient()) {
                    return Err(InvariantViolation("an unavailable database accepted results".to_owned()).into());
                }
                ctx.events.count("commits while the database was unavailable");
            }
            _ => {}
        }
        let batch = std::mem::take(&mut self.uncommitted);
        self.write_batch(ctx, &batch).await?;
        ctx.events.count("commits of results");
        if outcome == CommitOutcome::ReportedFailed {
            self.commit_again(ctx, &batch).await?;
        }
        for settled in &batch {
            self.in_flight.remove(&settled.claim.item);
        }
        if outcome == CommitOutcome::DiesAfter {
            ctx.events.count("crashes after a commit, before the process knew");
            return Err(Interruption::ProcessDied);
        }
        Ok(())
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
    pub fn on_committed_elsewhere(
        &mut self,
        ctx: &mut RunContext,
        batch: &[CompletedJob],
        counted: &[bool],
    ) -> Result<(), Interruption> {
        for settled in batch {
            self.in_flight.remove(&settled.claim.item);
        }
        report_to_model(ctx, batch, counted)
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

/// Sends one request to the simulated API.
fn send_request(
    ctx: &mut RunContext,
    claim: &Claim,
    mut permit: Permit,
    outcome: FetchOutcome,
) -> Result<Result<FetchedArtifact, ApiError>, InvariantViolation> {
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
    Ok(match outcome {
        FetchOutcome::Answered => answer.ok_or_else(|| status(404)),
        FetchOutcome::Status(number, wait) => {
            let mut error = status(number);
            error.retry_after = wait.map(Duration::from_secs);
            Err(error)
        }
        FetchOutcome::Reset => Err(transient(ErrorCause::ConnectionLost, None)),
        FetchOutcome::Truncated => Err(ctx.api_error(Fault::Broken, endpoint, ErrorCause::ConnectionLost, Some(200))),
        FetchOutcome::ErrorCodeInBody => Err(ctx.api_error(Fault::NotYet, endpoint, ErrorCause::Answered, Some(200))),
    })
}
