//! Handles the answer to a request: for its item, its endpoint, the account, and other items of the
//! same artifact.

use std::time::Duration;

use rand::Rng;

use super::{Answer, FetchAction, FetchMachine, Now};
use crate::backoff::Fault;
use crate::circuit_breaker::BreakerEvent;
use crate::clock::Time;
use crate::db::{Claim, JobOutcome, PauseRow};
use crate::model::{Endpoint, ItemState, Lane};
use crate::ringcx::{ApiError, ErrorCause};

/// The shortest pause after a failed login.
const MIN_LOGIN_PAUSE: Duration = Duration::from_secs(1);

/// The age of an item of the live lane, by the API's clock; `None` for other items.
fn live_age(claim: &Claim, now: Now) -> Option<Duration> {
    (claim.lane == Lane::Live && claim.visit == 0 && claim.ended != Time::NONE).then(|| now.api.since(claim.ended))
}

impl FetchMachine {
    pub(super) fn handle_answer(&mut self, claim: Claim, answer: Answer, now: Now, rng: &mut impl Rng) {
        self.end_request(claim.artifact);
        let (artifact, first_pause) = (claim.artifact, self.retry_policy.backoff.initial_delay());
        let breaker = &mut self.state_of(artifact).breaker;
        let event = match &answer {
            Ok(_) => breaker.record_success(),
            Err(error) if error.endpoint == Endpoint::Login && !error.is_refusal() => {
                breaker.trip_until(now.local, now.local + error.retry_in.unwrap_or_default().max(MIN_LOGIN_PAUSE));
                BreakerEvent::EndpointFault
            }
            // A fault of this process: it would meet every recording.
            Err(error) if error.cause == ErrorCause::StoreFailed => {
                breaker.trip_until(now.local, now.local + first_pause);
                BreakerEvent::EndpointFault
            }
            Err(error) => breaker.record_failure(error.fault, &claim.segment_id, now.local, first_pause, rng.random()),
        };
        match (&answer, event) {
            (Err(error), BreakerEvent::EndpointFault) => return self.handle_endpoint_fault(claim, error, now.local),
            (_, BreakerEvent::Recovered(since)) => {
                self.actions.push(FetchAction::RecordPauseEnd(artifact, (since, now.local)));
                self.refill.restart();
            }
            _ => {}
        }
        match answer {
            Ok((at, outcome)) => {
                self.handle_found(&claim, now);
                self.complete(claim, outcome, at, FetchAction::Complete);
            }
            Err(error) => {
                // Unlike a 404, an empty answer shows that the artifact exists for the account.
                if error.fault == Fault::NotYet && error.cause != ErrorCause::Empty {
                    let is_late = self.retry_policy.is_late(&claim, now.local);
                    self.state_of(artifact).throttle.record_not_found(is_late, now.local);
                }
                let mut outcome = self.retry_policy.outcome_of_failure(&claim, &error, now.local, rng.random());
                self.delay_until_available(&claim, &error, &mut outcome, now);
                self.complete(claim, outcome, now.local, FetchAction::CompleteFailed);
            }
        }
    }

    /// Handles a fault of the endpoint or the account: returns the claim unchanged, and pauses the
    /// endpoint.
    fn handle_endpoint_fault(&mut self, claim: Claim, error: &ApiError, now: Time) {
        let artifact = claim.artifact;
        // A 429 to a login pauses the endpoint like any other failure of the login.
        if error.fault == Fault::RateLimited && error.endpoint != Endpoint::Login {
            self.actions.push(FetchAction::RateLimited(artifact, error.retry_after));
            self.schedule.put_back(claim);
            return;
        }
        let pause = self.state_of(artifact).breaker.pause().cloned();
        self.refill.handle_pause(artifact, pause.as_ref().map_or(now, |pause| pause.until));
        self.in_flight.release(claim.item);
        for claim in self.schedule.remove_artifact(artifact) {
            self.in_flight.release(claim.item);
        }
        let Some(pause) = pause else { return };
        let row = PauseRow {
            account: claim.lease.account,
            endpoint: artifact.into(),
            since: pause.since,
            until: pause.until,
            times: pause.times,
            status: error.pause_status(),
            is_login_failure: error.endpoint == Endpoint::Login,
            reason: error.to_string(),
        };
        self.actions.push(FetchAction::RecordPause(row, error.hint()));
    }

    /// Until when the first attempt of a live item is delayed, if its artifact cannot be available
    /// yet.
    pub(super) fn earliest_attempt(&mut self, claim: &Claim, now: Now) -> Option<Time> {
        let age = live_age(claim, now).filter(|_| claim.tries == 0)?;
        let delay = self.state_of(claim.artifact).availability.first_attempt_delay(age)?;
        Some(now.local + delay)
    }

    /// Reschedules a live item that was requested too early to the estimated age, instead of the
    /// backoff's time.
    fn delay_until_available(&mut self, claim: &Claim, error: &ApiError, outcome: &mut JobOutcome, now: Now) {
        let JobOutcome::Failed { state: ItemState::Open, due, .. } = outcome else { return };
        if error.fault != Fault::NotYet || error.retry_after.is_some() {
            return;
        }
        let availability = &self.state_of(claim.artifact).availability;
        if let Some(delay) = live_age(claim, now).and_then(|age| availability.retry_delay(age)) {
            *due = now.local + delay;
        }
    }

    /// Makes the deferred items of an artifact due, if it was found sooner than expected.
    fn handle_found(&mut self, claim: &Claim, now: Now) {
        let artifact = claim.artifact;
        let state = self.state_of(artifact);
        let delay_ended = live_age(claim, now).is_some_and(|age| match (claim.tries, claim.misses, claim.first_try) {
            (0, ..) => state.availability.record_found(age, age, false),
            (_, 1.., Some(first_try)) => state.availability.record_found(first_try.since(claim.ended), age, true),
            _ => false,
        });
        if state.throttle.record_found() || delay_ended {
            self.actions.push(FetchAction::UndoDeferrals(artifact));
            self.refill.request();
        }
    }
}
