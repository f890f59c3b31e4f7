//! Handles the result of an attempt: for its item, its endpoint, the account, and other items of
//! the same artifact.

use std::time::Duration;

use rand::Rng;

use super::{AttemptResult, FetchWorker};
use crate::backoff::Fault;
use crate::circuit_breaker::{BreakerEvent, CircuitBreaker};
use crate::clock::Time;
use crate::daemon::DATABASE_RETRY_INTERVAL;
use crate::db::{Claim, JobOutcome, PauseRow};
use crate::fetch::schedule::Schedule;
use crate::model::{Artifact, Endpoint, ItemState, Lane};
use crate::ringcx::{ApiError, ErrorCause};

/// How an answer is broken, as part of a finding's sentence.
fn broken_reason(error: &ApiError) -> &'static str {
    match error.cause {
        ErrorCause::ConnectionLost => "they break off",
        ErrorCause::TooLarge => "they are too large",
        _ => "they are not what was asked for",
    }
}

impl FetchWorker {
    pub(super) async fn handle_attempt(&mut self, attempt: Result<AttemptResult, tokio::task::JoinError>) {
        let (claim, result) = match attempt {
            Ok(attempt) => attempt,
            Err(error) => {
                // The request panicked, and its claim is unknown. Drop all claims that are not
                // queued.
                tracing::error!(account = %self.account.id, %error, "a request panicked; all items in flight are claimed anew");
                let (now, wait) = (self.account.clock.now(), self.retry_policy.backoff.initial_delay());
                self.breakers.values_mut().for_each(|breaker| breaker.postpone_probe(now, wait));
                self.in_flight.clear();
                self.schedule = Schedule::default();
                self.refill_now();
                return;
            }
        };
        let now = self.account.clock.now();
        if !matches!(&result, Err(error) if error.fault == Fault::RateLimited) {
            self.account.pacer.record_success();
        }
        let breaker = self.breakers.entry(claim.artifact).or_default();
        let event = match &result {
            Ok(_) => breaker.record_success(),
            Err(error) if error.endpoint == Endpoint::Login && !error.is_refusal() => {
                let wait = error.retry_in.unwrap_or(DATABASE_RETRY_INTERVAL).max(DATABASE_RETRY_INTERVAL);
                breaker.trip_until(now, now + wait);
                BreakerEvent::EndpointFault
            }
            Err(error) => {
                let first = self.retry_policy.backoff.initial_delay();
                breaker.record_failure(error.fault, &claim.segment_id, now, first, rand::rng().random())
            }
        };
        match &result {
            Err(error) if self.account.report_redirect(error, now) => {
                self.redirected.insert(claim.artifact);
            }
            Ok(_) if self.redirected.remove(&claim.artifact) => self.account.clear_redirect(claim.artifact.into()),
            _ => {}
        }
        match &result {
            Ok(_) => self.account.stats.broken_answers.record_usable(claim.artifact),
            Err(error) if error.fault == Fault::Broken => {
                let tick = self.account.clock.tick();
                self.account.stats.broken_answers.record_broken(claim.artifact, broken_reason(error), tick);
            }
            Err(_) => {}
        }
        match (&result, event) {
            (Err(error), BreakerEvent::EndpointFault) => return self.handle_endpoint_fault(claim, error).await,
            (_, BreakerEvent::Recovered(since)) => self.handle_recovery(claim.artifact, since, now).await,
            _ => {}
        }
        match result {
            Ok((at, outcome)) => {
                self.handle_found(&claim, now).await;
                self.complete(claim, outcome, at).await;
            }
            Err(error) => {
                // Unlike a 404, an empty answer shows that the artifact exists for the account.
                if error.fault == Fault::NotYet && error.cause != ErrorCause::Empty {
                    let is_late = self.retry_policy.is_late(&claim, now);
                    self.throttles.entry(claim.artifact).or_default().record_not_found(is_late, now);
                }
                let mut outcome = self.retry_policy.outcome_of_failure(&claim, &error, now, rand::rng().random());
                self.delay_until_available(&claim, &error, &mut outcome, now);
                self.log_failure(&claim, &error, &outcome);
                self.complete(claim, outcome, now).await;
            }
        }
    }

    fn log_failure(&self, claim: &Claim, error: &ApiError, outcome: &JobOutcome) {
        let JobOutcome::Failed { state, due, .. } = outcome else {
            tracing::info!(account = %self.account.id, segment = claim.segment_id, artifact = %claim.artifact,
                "still empty at the horizon; storing it as it is");
            return;
        };
        let (account, segment, artifact) = (&self.account.id, &claim.segment_id, claim.artifact);
        match state {
            ItemState::Open => {
                tracing::debug!(%account, segment, %artifact, again = %due, %error, "fetch failed; retrying later");
            }
            ItemState::Failed => {
                tracing::error!(%account, segment, %artifact, %error, "fetch failed permanently; `queue list` shows it, `queue retry` retries it");
            }
            _ if claim.visit == 0 => {
                tracing::warn!(%account, segment, %artifact, "artifact still missing at the horizon; giving up")
            }
            _ => {}
        }
    }

    /// Handles a fault of the endpoint or the account: returns the claim unchanged, and pauses the
    /// endpoint.
    async fn handle_endpoint_fault(&mut self, claim: Claim, error: &ApiError) {
        let artifact = claim.artifact;
        // A 429 to a login pauses the endpoint like any other failure of the login.
        if error.fault == Fault::RateLimited && error.endpoint != Endpoint::Login {
            self.account.record_rate_limited(error.retry_after).await;
            tracing::warn!(account = %self.account.id, endpoint = %artifact, retry_after = ?error.retry_after, "refused with 429; slowing down");
            self.schedule.put_back(claim);
            return;
        }
        if self.refill.is_some() {
            self.refill_now();
        }
        self.in_flight.release(claim.item);
        for claim in self.schedule.remove_artifact(artifact) {
            self.in_flight.release(claim.item);
        }
        self.has_more.retain(|class| class.artifact != artifact);
        let Some(pause) = self.breakers.get(&artifact).and_then(CircuitBreaker::pause) else { return };
        self.next_refill = Some(self.next_refill.map_or(pause.until, |next| next.min(pause.until)));
        let row = PauseRow {
            account: self.account.lease.account,
            endpoint: artifact.into(),
            since: pause.since,
            until: pause.until,
            times: pause.times,
            status: error.pause_status(),
            is_login_failure: error.endpoint == Endpoint::Login,
            reason: error.to_string(),
        };
        tracing::warn!(account = %self.account.id, endpoint = %artifact, until = %row.until, %error,
            hint = error.hint(), "paused");
        self.account.record_pause(row).await;
    }

    async fn handle_recovery(&mut self, artifact: Artifact, since: Time, now: Time) {
        tracing::info!(account = %self.account.id, endpoint = %artifact, "circuit closed: endpoint recovered");
        self.account.record_pause_end(artifact.into(), Some((since, now))).await;
        self.refill_now();
    }

    /// The age of an item of the live lane at `at`, by the API's clock; `None` for other items.
    pub(super) fn live_age(&self, claim: &Claim, at: Time) -> Option<Duration> {
        (claim.lane == Lane::Live && claim.visit == 0 && claim.ended != Time::NONE).then(|| at.since(claim.ended))
    }

    /// Reschedules a live item that was requested too early to the estimated age, instead of the
    /// backoff's time.
    fn delay_until_available(&self, claim: &Claim, error: &ApiError, outcome: &mut JobOutcome, now: Time) {
        let JobOutcome::Failed { state: ItemState::Open, due, .. } = outcome else { return };
        if error.fault != Fault::NotYet || error.retry_after.is_some() {
            return;
        }
        let age = self.live_age(claim, self.account.api.api_now());
        let estimator = self.availability.get(&claim.artifact);
        if let Some(delay) = age.zip(estimator).and_then(|(age, estimator)| estimator.retry_delay(age)) {
            *due = now + delay;
        }
    }

    /// Records when the artifact of a live item was found. Returns whether delayed items of the
    /// artifact are due now.
    fn record_availability(&mut self, claim: &Claim) -> bool {
        let at = self.account.api.api_now();
        let Some(age) = self.live_age(claim, at) else { return false };
        let estimator = self.availability.entry(claim.artifact).or_default();
        match (claim.tries, claim.misses, claim.first_try) {
            (0, ..) => estimator.record_found(age, age, false),
            (_, 1.., Some(first_try)) => estimator.record_found(first_try.since(claim.ended), age, true),
            _ => false,
        }
    }

    async fn handle_found(&mut self, claim: &Claim, now: Time) {
        let artifact = claim.artifact;
        let delay_ended = self.record_availability(claim);
        if self.throttles.entry(artifact).or_default().record_found() {
            tracing::info!(account = %self.account.id, endpoint = %artifact, "artifact became available; retrying deferred items");
        } else if !delay_ended {
            return;
        }
        if let Err(error) = self
            .account
            .db
            .undo_deferrals(self.account.lease.account, artifact, now, self.retry_policy.backoff.initial_delay())
            .await
        {
            tracing::warn!(account = %self.account.id, %error, "failed to reschedule deferred items");
        }
        self.needs_refill = true;
    }
}
