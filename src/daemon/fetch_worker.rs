//! Fetches one account's items: claims due items, sends requests at the account's pace, submits
//! results to the batch writer.
//!
//! The loop around `fetch`. It sleeps until something is queued, completed or due; an idle account
//! costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DATABASE_RETRY_INTERVAL;
use crate::account::Account;
use crate::circuit_breaker::CircuitBreaker;
use crate::clock::Time;
use crate::db::{Claim, CompletedJob, DbError, Item, JobOutcome, PauseRow, QueueClass, queue_classes};
use crate::failpoint::{self, Failpoint};
use crate::fetch::batch_writer::{Acknowledgement, BatchWriter, StorageState, Submission};
use crate::fetch::fetch_item;
use crate::model::{Artifact, ArtifactSet, Endpoint, ItemState};
use crate::pipeline::clock_watch::ClockWatch;
use crate::pipeline::fetch::availability_estimator::AvailabilityEstimator;
use crate::pipeline::fetch::in_flight::InFlight;
use crate::pipeline::fetch::not_found_throttle::NotFoundThrottle;
use crate::pipeline::fetch::retry_policy::RetryPolicy;
use crate::pipeline::fetch::schedule::{Schedule, queue_class};
use crate::ringcx::ApiError;
use crate::ringcx::rate_limit::{MAX_RETRY_AFTER, Permit};

mod attempt_result;
#[cfg(test)]
mod tests;

/// How long an item whose result was rejected is not attempted, so that it is not fetched over and
/// over.
const REJECTED_ITEM_COOLDOWN: Duration = Duration::from_secs(30);
/// How long requests under way may take at shutdown.
const REQUEST_SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// A refill also claims items that are due so soon. They are sent when they are due, without
/// another refill...
const PREFETCH: Duration = Duration::from_secs(1);
/// ...and a refill for a known due time begins this long before it.
const REFILL_LEAD: Duration = Duration::from_millis(500);

type PermitFuture = Pin<Box<dyn Future<Output = Permit> + Send>>;
/// The due claims, and when the next item is due.
type RefillResult = Result<(Vec<Claim>, Option<Time>), DbError>;
/// How many claims of each class are requested.
type ClassLimits = HashMap<QueueClass, usize>;
/// A claim that was attempted: when the answer came and its outcome, already hashed and compressed;
/// or the error.
type AttemptResult = (Claim, Result<(Time, JobOutcome), ApiError>);

/// A query of the work table that is under way. Requests continue in the meantime.
struct Refill {
    /// The most claims of each class that it returns.
    limits: ClassLimits,
    /// The earliest probe time of the circuits that were open when it began. Their artifacts are
    /// not queried.
    retry_at: Option<Time>,
    result: Pin<Box<dyn Future<Output = RefillResult> + Send>>,
}

/// Fetches one account's items.
pub(crate) struct FetchWorker {
    account: Arc<Account>,
    retry_policy: Arc<RetryPolicy>,
    concurrency: usize,
    batch_writer: BatchWriter,
    schedule: Schedule,
    in_flight: InFlight,
    /// Items whose results were rejected, and until when they are not attempted.
    on_cooldown: HashMap<Item, Time>,
    refill: Option<Refill>,
    /// Items that were completed during the refill, which may return them as they were before.
    completed_during_refill: HashSet<Item>,
    requests: JoinSet<AttemptResult>,
    acknowledged: (mpsc::UnboundedSender<Acknowledgement>, mpsc::UnboundedReceiver<Acknowledgement>),
    breakers: BTreeMap<Artifact, CircuitBreaker>,
    throttles: BTreeMap<Artifact, NotFoundThrottle>,
    availability: BTreeMap<Artifact, AvailabilityEstimator>,
    /// Artifacts for which a redirect was reported.
    redirected: BTreeSet<Artifact>,
    /// Classes of which the database holds, or may hold, further due items.
    has_more: HashSet<QueueClass>,
    needs_refill: bool,
    next_refill: Option<Time>,
    clock_watch: ClockWatch,
    /// The retry requests of operators that were handled.
    resumes: u64,
}

impl FetchWorker {
    /// A worker for an account. It does nothing before [`FetchWorker::run`].
    pub(crate) fn new(
        account: Arc<Account>,
        retry_policy: RetryPolicy,
        concurrency: usize,
        batch_writer: BatchWriter,
    ) -> FetchWorker {
        FetchWorker {
            resumes: account.stats.resumes(),
            clock_watch: ClockWatch::new(account.clock.now(), account.clock.tick()),
            account,
            retry_policy: Arc::new(retry_policy),
            concurrency: concurrency.max(1),
            batch_writer,
            schedule: Schedule::default(),
            in_flight: InFlight::default(),
            on_cooldown: HashMap::new(),
            refill: None,
            completed_during_refill: HashSet::new(),
            requests: JoinSet::new(),
            acknowledged: mpsc::unbounded_channel(),
            breakers: BTreeMap::new(),
            throttles: BTreeMap::new(),
            availability: BTreeMap::new(),
            redirected: BTreeSet::new(),
            has_more: HashSet::new(),
            needs_refill: true,
            next_refill: None,
        }
    }

    /// Restores a pause that was recorded by an earlier process.
    pub(crate) fn restore_pause(&mut self, pause: &PauseRow) {
        if let Some(artifact) = Artifact::ALL.into_iter().find(|artifact| Endpoint::from(*artifact) == pause.endpoint) {
            // The clock of that process may have been ahead.
            let until = pause.until.min(self.account.clock.now() + MAX_RETRY_AFTER);
            self.breakers.entry(artifact).or_default().restore_pause(pause.since, until, pause.times);
        }
    }

    /// Runs until `stop`, then waits for the requests under way.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut storage = self.batch_writer.subscribe_storage();
        let mut permit_wait: Option<PermitFuture> = None;
        while !stop.is_cancelled() {
            let is_storable = *storage.borrow_and_update() == StorageState::Available;
            self.retry_now_if_requested();
            self.handle_clock_step_back();
            if self.refill.is_none() && (self.needs_refill || self.below_low_watermark()) {
                self.start_refill();
            }
            self.schedule.promote_due(self.account.clock.now());
            if is_storable {
                self.send_without_waiting().await;
            }
            let can_send = is_storable && self.can_send();
            if !can_send {
                permit_wait = None;
            } else if permit_wait.is_none() {
                let pacer = self.account.pacer.clone();
                permit_wait = Some(Box::pin(async move { pacer.acquire().await }));
            }
            self.account.stats.set_in_flight(self.requests.len());
            let account = self.account.clone();
            let next = self.next_refill.into_iter().chain(self.schedule.next_due()).min();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(acknowledgement) = self.acknowledged.1.recv() => self.handle_acknowledgements(acknowledgement),
                result = async { match self.refill.as_mut() { Some(refill) => refill.result.as_mut().await, None => std::future::pending().await } } => self.handle_refill(result),
                Some(attempt) = self.requests.join_next(), if !self.requests.is_empty() => self.handle_attempt(attempt).await,
                permit = async { match permit_wait.as_mut() { Some(wait) => wait.await, None => std::future::pending().await } } => {
                    permit_wait = None;
                    let _ = self.send_next(permit).await;
                }
                () = account.work_queued.notified() => self.needs_refill = true,
                () = async { match next { Some(next) => account.clock.sleep_until_time(next).await, None => std::future::pending().await } } => {
                    if self.next_refill == next {
                        self.next_refill = None;
                        self.needs_refill = true;
                    }
                }
                _ = storage.changed() => self.needs_refill = true,
            }
        }
        drop(permit_wait);
        self.finish_requests().await;
    }

    fn retry_now_if_requested(&mut self) {
        let resumes = self.account.stats.resumes();
        if std::mem::replace(&mut self.resumes, resumes) != resumes {
            let now = self.account.clock.now();
            self.breakers.values_mut().for_each(|breaker| breaker.retry_now(now));
            self.refill_now();
        }
    }

    /// If this machine's clock was set back, ends all waits for times of the wrong clock.
    fn handle_clock_step_back(&mut self) {
        if self.clock_watch.stepped_back(self.account.clock.now(), self.account.clock.tick()) {
            let now = self.account.clock.now();
            self.breakers.values_mut().for_each(|breaker| breaker.retry_now(now));
            self.throttles.clear();
            self.on_cooldown.clear();
            self.schedule.promote_due(Time(i64::MAX));
            self.refill_now();
        }
    }

    /// Sends for as long as the pacer permits it without waiting. The allowed artifacts are
    /// determined anew each time, since a probe blocks all further requests of its circuit.
    async fn send_without_waiting(&mut self) {
        while self.can_send() {
            let Ok(permit) = self.account.pacer.try_acquire() else { return };
            if !self.send_next(permit).await {
                return;
            }
        }
    }

    /// Whether a claim can be sent now, within the concurrency limit.
    fn can_send(&self) -> bool {
        self.requests.len() < self.concurrency && self.schedule.has_claims_for(self.allowed_artifacts())
    }

    /// The artifacts whose circuit breakers allow a request now.
    fn allowed_artifacts(&self) -> ArtifactSet {
        let now = self.account.clock.now();
        Artifact::ALL
            .into_iter()
            .filter(|artifact| self.breakers.get(artifact).is_none_or(|breaker| breaker.allows_request(now)))
            .collect()
    }

    /// How many claims of a class are queued at most: one second's worth of requests. So a thousand
    /// accounts need little memory, and newly due items do not wait for a long refill. With a high
    /// limit the batch is large, since each refill also reads the claims again that wait to be
    /// stored.
    fn batch_size(&self) -> usize {
        let requests_per_second = self.account.pacer.usage().limit as usize / 60;
        (self.concurrency * 64).max(64).min(requests_per_second.max(16))
    }

    fn below_low_watermark(&self) -> bool {
        let low_watermark = self.batch_size() / 4;
        self.has_more.iter().any(|class| self.schedule.queued_count(*class) < low_watermark)
    }

    /// How many claims of a class a refill requests: those in flight, which are returned again, and
    /// those that can be queued. None if enough are queued, so that a refill for the live lane does
    /// not read a backfill again.
    fn refill_limit(&self, class: QueueClass) -> usize {
        let (batch_size, queued) = (self.batch_size(), self.schedule.queued_count(class));
        if queued >= batch_size / 4 {
            0
        } else {
            self.in_flight.count(class) + self.on_cooldown.len() + batch_size - queued
        }
    }

    /// Begins to query the due items.
    fn start_refill(&mut self) {
        let now = self.account.clock.now();
        self.on_cooldown.retain(|_, until| *until > now);
        let (account, allowed) = (self.account.clone(), self.allowed_artifacts());
        self.needs_refill = false;
        self.next_refill = None;
        self.completed_during_refill.clear();
        let limits: ClassLimits = queue_classes(allowed).map(|class| (class, self.refill_limit(class))).collect();
        let limit_by_class = limits.clone();
        let retry_at = self.breakers.values().filter_map(|breaker| breaker.retry_at(now)).min();
        let result = async move {
            let limit = |class| limit_by_class.get(&class).copied().unwrap_or(0);
            let due = account.db.due_items_by_class(account.lease, allowed, now + PREFETCH, limit).await?;
            Ok((due, account.db.next_due(account.lease.account, allowed, now + PREFETCH).await?))
        };
        self.refill = Some(Refill { limits, retry_at, result: Box::pin(result) });
    }

    /// Drops a refill under way, whose result is obsolete, and requests a new one.
    fn refill_now(&mut self) {
        self.refill = None;
        self.needs_refill = true;
    }

    fn handle_refill(&mut self, result: RefillResult) {
        let now = self.account.clock.now();
        let Some(Refill { limits, retry_at, .. }) = self.refill.take() else { return };
        match result {
            Ok((due, next)) => self.queue_claims(due, next, &limits, retry_at, now),
            Err(error) => {
                if error.is_transient() {
                    // The supervisor logs it, once for all accounts.
                    tracing::debug!(account = %self.account.id, %error, "failed to read the work table");
                } else {
                    tracing::warn!(account = %self.account.id, %error, "failed to read the work table");
                }
                self.needs_refill = false;
                self.has_more.clear();
                self.next_refill = Some(now + DATABASE_RETRY_INTERVAL);
            }
        }
    }

    fn queue_claims(
        &mut self,
        due: Vec<Claim>,
        next: Option<Time>,
        limits: &ClassLimits,
        retry_at: Option<Time>,
        now: Time,
    ) {
        let batch_size = self.batch_size();
        let mut remaining = limits.clone();
        let mut next = next.map(|due| due - REFILL_LEAD);
        // Classes that were not queried may have more; they are queried at the low watermark.
        self.has_more = limits.iter().filter(|(_, limit)| **limit == 0).map(|(class, _)| *class).collect();
        for claim in due {
            let class = queue_class(&claim);
            let remaining = remaining.entry(class).or_default();
            *remaining = remaining.saturating_sub(1);
            let reached_limit = *remaining == 0;
            let known = self.on_cooldown.contains_key(&claim.item) || self.in_flight.contains(claim.item);
            let known = known || self.completed_during_refill.contains(&claim.item);
            let is_new = !known || failpoint::is_triggered(Failpoint::DoubledClaim);
            // However many refills there are, no more claims are queued than will soon be sent.
            let (due, is_delayed) = (claim.due, claim.due > now);
            let queued = if is_delayed { self.schedule.delayed_count() } else { self.schedule.queued_count(class) };
            let has_room = batch_size > queued;
            if is_new && has_room {
                self.in_flight.insert(claim.item, class);
                if is_delayed { self.schedule.delay_until_due(claim) } else { self.schedule.push(claim) }
            }
            if (is_new && !has_room) || reached_limit {
                if is_delayed {
                    next = next.into_iter().chain([due]).min();
                } else {
                    self.has_more.insert(class);
                }
            }
        }
        let cooldown_ends = self.on_cooldown.values().copied();
        // Items that were deferred during the refill have set `next_refill` already. A circuit may
        // have become half open.
        self.next_refill = next.into_iter().chain(retry_at).chain(cooldown_ends).chain(self.next_refill).min();
    }

    /// Sends the next claim with this permit, or returns the permit. Returns whether a request was
    /// sent.
    async fn send_next(&mut self, permit: Permit) -> bool {
        let now = self.account.clock.now();
        while let Some(claim) = self.schedule.pop(self.allowed_artifacts()) {
            if let Some(due) = self.earliest_attempt(&claim, now) {
                let first_try = claim.first_try;
                self.complete(claim, JobOutcome::Deferred { due, first_try }, now).await;
                continue;
            }
            let is_last_attempt = now >= self.retry_policy.last_attempt_at(&claim, now);
            if !self.throttles.entry(claim.artifact).or_default().admit_attempt(is_last_attempt, now) {
                let jitter = rand::rng().random();
                let outcome = self.retry_policy.defer(&claim, now, jitter);
                self.complete(claim, outcome, now).await;
                continue;
            }
            if !self.breakers.entry(claim.artifact).or_default().try_acquire(now) {
                self.schedule.put_back(claim);
                return false;
            }
            self.schedule.on_dispatched(&claim);
            let account = self.account.clone();
            account.stats.count_request(claim.lane, account.clock.tick());
            let retry_policy = self.retry_policy.clone();
            self.requests.spawn(async move {
                let answer = fetch_item(&account, &claim, permit).await;
                let result = answer.map(|answer| {
                    let now = account.clock.now();
                    (now, retry_policy.outcome_of_answer(&claim, &answer, now))
                });
                (claim, result)
            });
            return true;
        }
        false
    }

    /// Until when the first attempt of a live item is delayed, if its artifact cannot be available
    /// yet.
    fn earliest_attempt(&mut self, claim: &Claim, now: Time) -> Option<Time> {
        let age = self.live_age(claim, self.account.api.api_now())?;
        let is_first_attempt = claim.tries == 0;
        let delay =
            is_first_attempt.then(|| self.availability.entry(claim.artifact).or_default().first_attempt_delay(age))?;
        delay.map(|delay| now + delay)
    }

    /// Submits the outcome of a claim to the batch writer.
    async fn complete(&mut self, claim: Claim, outcome: JobOutcome, at: Time) {
        let due = match &outcome {
            JobOutcome::Answered { refresh_at, .. } => *refresh_at,
            JobOutcome::Deferred { due, .. } => Some(*due),
            JobOutcome::Failed { state, due, .. } => (*state == ItemState::Open).then_some(*due),
        };
        self.in_flight.complete(claim.item, due);
        let acknowledge = self.acknowledged.0.clone();
        self.batch_writer.submit(Submission { job: CompletedJob { claim, at, outcome }, acknowledge }).await;
    }

    fn handle_acknowledgements(&mut self, first: Acknowledgement) {
        let mut next = Some(first);
        while let Some((item, accepted)) = next {
            let due = self.in_flight.release(item).map(|due| due - REFILL_LEAD);
            if self.refill.is_some() {
                self.completed_during_refill.insert(item);
            }
            let cooldown_end = (!accepted).then(|| self.account.clock.now() + REJECTED_ITEM_COOLDOWN);
            if let Some(until) = cooldown_end {
                self.on_cooldown.insert(item, until);
            }
            self.next_refill = self.next_refill.into_iter().chain(due).chain(cooldown_end).min();
            next = self.acknowledged.1.try_recv().ok();
        }
    }

    /// Waits for the requests under way, up to a limit. The next owner claims the remaining items
    /// anew.
    async fn finish_requests(mut self) {
        let clock = self.account.clock.clone();
        let requests = async {
            while let Some(attempt) = self.requests.join_next().await {
                self.handle_attempt(attempt).await;
            }
        };
        if tokio::time::timeout(REQUEST_SHUTDOWN_GRACE, requests).await.is_err() {
            tracing::info!(account = %self.account.id, at = %clock.now(), "requests under way did not finish in time; they are repeated after the next start");
        }
        self.account.stats.set_in_flight(0);
    }
}
