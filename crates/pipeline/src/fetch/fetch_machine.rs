//! The fetch loop of one account, as a state machine.
//!
//! A caller reports each [`FetchEvent`] and carries the [`FetchAction`]s out in order. Before it
//! waits, it sends [`FetchEvent::Tick`] and acquires permits while [`FetchMachine::wants_permit`].
//! It then waits for the next event, at most until [`FetchMachine::wake_at`]. An idle account costs
//! nothing. The machine takes results of loads and of requests in any order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::availability_estimator::AvailabilityEstimator;
use super::in_flight::InFlight;
use super::not_found_throttle::NotFoundThrottle;
use super::retry_policy::RetryPolicy;
use super::schedule::Schedule;
use crate::circuit_breaker::CircuitBreaker;
use crate::clock::Time;
use crate::db::{Claim, CompletedJob, Item, JobOutcome, PauseRow};
use crate::model::{Artifact, ArtifactSet, Endpoint, ItemState};
use crate::ringcx::ApiError;
use crate::ringcx::rate_limit::{MAX_RETRY_AFTER, Permit};

mod answer_handling;
#[cfg(test)]
mod generated_events;
mod refill;

pub use refill::DueQuery;
use refill::{REFILL_LEAD, Refill};

/// How long an item is not attempted after its result was rejected or its request panicked, so that
/// it is not requested over and over.
const ITEM_COOLDOWN: Duration = Duration::from_secs(30);

/// The current time.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// By this machine's clock, which due times refer to.
    pub local: Time,
    /// By the API's clock, which the ends of segments refer to.
    pub api: Time,
}

/// The answer to a request: when it came and the item's outcome, or the error.
pub type Answer = Result<(Time, JobOutcome), ApiError>;

/// What happened.
#[derive(Debug)]
pub enum FetchEvent {
    /// Sent before each wait.
    Tick {
        /// Whether the database accepts results. Nothing is requested while it does not.
        is_storable: bool,
    },
    /// Items may have been queued.
    WorkQueued,
    /// An operator asked for an immediate retry.
    Resumed,
    /// This machine's clock was set back, so the times to wait for may be wrong.
    ClockSteppedBack,
    /// The due claims that a query returned, and when the next item is due.
    Loaded(DueQuery, Vec<Claim>, Option<Time>),
    /// A query failed.
    LoadFailed(DueQuery),
    /// A request may be sent. Yields one [`FetchAction::Request`] at most.
    PermitGranted(Permit),
    /// A request ended.
    Answered(Claim, Answer),
    /// A request panicked.
    Panicked(Claim),
    /// The database has processed the result of an item.
    Stored {
        /// The item.
        item: Item,
        /// Whether the result was accepted.
        is_accepted: bool,
    },
}

/// What to do.
#[derive(Debug)]
pub enum FetchAction {
    /// Query the due items. The query replaces an earlier one that is still under way.
    LoadDue(DueQuery),
    /// Send a request.
    Request(Claim, Permit),
    /// Submit the outcome of a claim to the database.
    Complete(CompletedJob),
    /// The same, after an attempt that failed.
    CompleteFailed(CompletedJob),
    /// Record that an endpoint is paused. The text says what an operator can do about it.
    RecordPause(PauseRow, Option<&'static str>),
    /// Record that the endpoint of an artifact recovered: the begin and the end of its pause.
    RecordPauseEnd(Artifact, (Time, Time)),
    /// Slow down after a 429, which may have named a wait.
    RateLimited(Artifact, Option<Duration>),
    /// Make the deferred items of an artifact due.
    UndoDeferrals(Artifact),
}

/// The state of one artifact of the account.
#[derive(Debug, Default)]
struct ArtifactState {
    breaker: CircuitBreaker,
    throttle: NotFoundThrottle,
    availability: AvailabilityEstimator,
}

/// Decides what is fetched of one account, and when.
#[derive(Debug)]
pub struct FetchMachine {
    retry_policy: Arc<RetryPolicy>,
    concurrency: usize,
    /// How many claims of a class are queued at most.
    batch_size: usize,
    schedule: Schedule,
    in_flight: InFlight,
    /// Items that are not attempted, and until when.
    on_cooldown: HashMap<Item, Time>,
    artifacts: [ArtifactState; Artifact::ALL.len()],
    refill: Refill,
    /// The number of requests under way.
    requests: usize,
    /// How many of these are for recordings.
    recordings: usize,
    is_storable: bool,
    actions: Vec<FetchAction>,
}

impl FetchMachine {
    /// A machine that knows no item yet. At most `concurrency` requests are under way.
    ///
    /// One second's worth of requests is queued per class. So a thousand accounts need little
    /// memory, and newly due items do not wait for a long refill. With a high limit the batch is
    /// large, since each refill also reads the claims again that wait to be stored.
    pub fn new(retry_policy: Arc<RetryPolicy>, concurrency: usize, requests_per_minute: u32) -> FetchMachine {
        let concurrency = concurrency.max(1);
        FetchMachine {
            retry_policy,
            concurrency,
            batch_size: (concurrency * 64).min((requests_per_minute as usize / 60).max(16)),
            schedule: Schedule::default(),
            in_flight: InFlight::default(),
            on_cooldown: HashMap::new(),
            artifacts: Default::default(),
            refill: Refill::default(),
            requests: 0,
            recordings: 0,
            is_storable: false,
            actions: Vec::new(),
        }
    }

    /// Restores a pause that was recorded by an earlier process.
    pub fn restore_pause(&mut self, pause: &PauseRow, now: Time) {
        if let Some(artifact) = Artifact::ALL.into_iter().find(|artifact| Endpoint::from(*artifact) == pause.endpoint) {
            // The clock of that process may have been ahead.
            let until = pause.until.min(now + MAX_RETRY_AFTER);
            self.state_of(artifact).breaker.restore_pause(pause.since, until, pause.times);
        }
    }

    /// Takes an event and returns what to do, in this order.
    pub fn on(&mut self, event: FetchEvent, now: Now, rng: &mut impl Rng) -> Vec<FetchAction> {
        match event {
            FetchEvent::Tick { is_storable } => {
                let was_storable = std::mem::replace(&mut self.is_storable, is_storable);
                self.schedule.promote_due(now.local);
                self.refill_if_needed(is_storable && !was_storable, now.local);
            }
            FetchEvent::WorkQueued => self.refill.request(),
            FetchEvent::Resumed => self.retry_now(now.local),
            FetchEvent::ClockSteppedBack => {
                self.artifacts.iter_mut().for_each(|state| state.throttle = NotFoundThrottle::default());
                self.on_cooldown.clear();
                self.schedule.promote_due(Time(i64::MAX));
                self.retry_now(now.local);
            }
            FetchEvent::Loaded(query, due, next) => self.handle_loaded(query, due, next, now.local),
            FetchEvent::LoadFailed(query) => self.refill.handle_failure(&query, now.local),
            FetchEvent::PermitGranted(permit) => self.dispatch(permit, now, rng),
            FetchEvent::Answered(claim, answer) => self.handle_answer(claim, answer, now, rng),
            FetchEvent::Panicked(claim) => {
                self.end_request(claim.artifact);
                let wait = self.retry_policy.backoff.initial_delay();
                let breaker = &mut self.state_of(claim.artifact).breaker;
                breaker.postpone_probe(&claim.segment_id, now.local, wait);
                let retry_at = breaker.retry_at(now.local);
                self.refill.request_by(retry_at);
                self.release(claim.item, false, now.local);
            }
            FetchEvent::Stored { item, is_accepted } => self.release(item, is_accepted, now.local),
        }
        std::mem::take(&mut self.actions)
    }

    /// Whether a request can be sent now.
    pub fn wants_permit(&self, now: Time) -> bool {
        self.is_storable
            && self.requests < self.concurrency
            && self.schedule.has_claims_for(self.sendable_artifacts(now))
    }

    /// When to send the next [`FetchEvent::Tick`]. After a tick, this is in the future.
    pub fn wake_at(&self) -> Option<Time> {
        self.refill.next().into_iter().chain(self.schedule.next_due()).min()
    }

    fn state_of(&mut self, artifact: Artifact) -> &mut ArtifactState {
        &mut self.artifacts[artifact as usize]
    }

    /// The artifacts whose circuit breakers allow a request now.
    fn allowed_artifacts(&self, now: Time) -> ArtifactSet {
        Artifact::ALL
            .into_iter()
            .filter(|artifact| self.artifacts[*artifact as usize].breaker.allows_request(now))
            .collect()
    }

    /// The artifacts for which a request may be sent. A recording can take minutes, so recordings get
    /// half of the concurrent requests.
    fn sendable_artifacts(&self, now: Time) -> ArtifactSet {
        let allowed = self.allowed_artifacts(now);
        if self.recordings < self.concurrency.div_ceil(2) {
            allowed
        } else {
            allowed.minus(ArtifactSet::NONE.with(Artifact::Recording))
        }
    }

    fn end_request(&mut self, artifact: Artifact) {
        self.requests = self.requests.saturating_sub(1);
        self.recordings = self.recordings.saturating_sub(usize::from(artifact == Artifact::Recording));
    }

    /// Ends all pauses.
    fn retry_now(&mut self, now: Time) {
        self.artifacts.iter_mut().for_each(|state| state.breaker.retry_now(now));
        self.refill.restart();
    }

    /// Sends the next claim with this permit, or drops the permit. The allowed artifacts are
    /// determined anew for each claim, since a probe blocks all further requests of its circuit.
    fn dispatch(&mut self, permit: Permit, now: Now, rng: &mut impl Rng) {
        while self.wants_permit(now.local) {
            let Some(claim) = self.schedule.pop(self.sendable_artifacts(now.local)) else { return };
            if let Some(due) = self.earliest_attempt(&claim, now) {
                let first_try = claim.first_try;
                self.complete(claim, JobOutcome::Deferred { due, first_try }, now.local, FetchAction::Complete);
                continue;
            }
            let is_last_attempt = now.local >= self.retry_policy.last_attempt_at(&claim, now.local);
            let state = self.state_of(claim.artifact);
            if !state.throttle.admit_attempt(is_last_attempt, now.local) {
                let outcome = self.retry_policy.defer(&claim, now.local, rng.random());
                self.complete(claim, outcome, now.local, FetchAction::Complete);
                continue;
            }
            state.breaker.try_acquire(&claim.segment_id, now.local);
            self.schedule.on_dispatched(&claim);
            self.requests += 1;
            self.recordings += usize::from(claim.artifact == Artifact::Recording);
            self.actions.push(FetchAction::Request(claim, permit));
            return;
        }
    }

    fn complete(
        &mut self,
        claim: Claim,
        outcome: JobOutcome,
        at: Time,
        action: impl FnOnce(CompletedJob) -> FetchAction,
    ) {
        let due = match &outcome {
            JobOutcome::Answered { refresh_at, .. } => *refresh_at,
            JobOutcome::Deferred { due, .. } => Some(*due),
            JobOutcome::Failed { state, due, .. } => (*state == ItemState::Open).then_some(*due),
        };
        self.in_flight.complete(claim.item, due);
        self.actions.push(action(CompletedJob { claim, at, outcome }));
    }

    /// Releases an item whose result is processed, or whose request has no result.
    fn release(&mut self, item: Item, is_accepted: bool, now: Time) {
        let due = self.in_flight.release(item).map(|due| due - REFILL_LEAD);
        let cooldown_end = (!is_accepted).then(|| now + ITEM_COOLDOWN);
        if let Some(until) = cooldown_end {
            self.on_cooldown.insert(item, until);
        }
        self.refill.handle_release(item, due.into_iter().chain(cooldown_end).min());
    }
}
