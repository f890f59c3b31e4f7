//! Runs the fetch machine of one account: waits for its events, and carries out its actions.
//!
//! [`FetchMachine`] decides. Here, due items are loaded, requests are sent at the account's pace,
//! and results are submitted to the batch writer.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::sync::mpsc;
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::backoff::Fault;
use crate::db::{Claim, CompletedJob, DbError, JobOutcome, PauseRow};
use crate::fetch::batch_writer::{Acknowledgement, BatchWriter, StorageState, Submission};
use crate::fetch::fetch_item;
use crate::model::{Artifact, ItemState};
use crate::pipeline::clock_watch::ClockWatch;
use crate::pipeline::fetch::fetch_machine::{Answer, DueQuery, FetchAction, FetchEvent, FetchMachine, Now};
use crate::pipeline::fetch::retry_policy::RetryPolicy;
use crate::ringcx::rate_limit::Permit;
use crate::ringcx::{ApiError, ErrorCause};

#[cfg(test)]
mod tests;

/// How long requests under way may take at shutdown.
const REQUEST_SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Fetches one account's items.
pub(crate) struct FetchWorker {
    account: Arc<Account>,
    machine: FetchMachine,
    retry_policy: Arc<RetryPolicy>,
    batch_writer: BatchWriter,
    acknowledged: (mpsc::UnboundedSender<Acknowledgement>, mpsc::UnboundedReceiver<Acknowledgement>),
    /// The query under way.
    load: Option<BoxedFuture<FetchEvent>>,
    requests: JoinSet<Answer>,
    /// The claim of each request under way, which a panic does not return.
    claims: HashMap<task::Id, Claim>,
    /// Artifacts for which a redirect was reported.
    redirected: BTreeSet<Artifact>,
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
        let retry_policy = Arc::new(retry_policy);
        FetchWorker {
            machine: FetchMachine::new(retry_policy.clone(), concurrency, account.pacer.usage().limit),
            retry_policy,
            batch_writer,
            acknowledged: mpsc::unbounded_channel(),
            load: None,
            requests: JoinSet::new(),
            claims: HashMap::new(),
            redirected: BTreeSet::new(),
            clock_watch: ClockWatch::new(account.clock.now(), account.clock.tick()),
            resumes: account.stats.resumes(),
            account,
        }
    }

    /// Restores a pause that was recorded by an earlier process.
    pub(crate) fn restore_pause(&mut self, pause: &PauseRow) {
        self.machine.restore_pause(pause, self.account.clock.now());
    }

    /// Runs until `stop`, then waits for the requests under way.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let account = self.account.clone();
        let (clock, pacer) = (&account.clock, &account.pacer);
        let mut storage = self.batch_writer.subscribe_storage();
        let mut permit_wait: Option<BoxedFuture<Permit>> = None;
        while !stop.is_cancelled() {
            let resumes = account.stats.resumes();
            if std::mem::replace(&mut self.resumes, resumes) != resumes {
                self.handle(FetchEvent::Resumed).await;
            }
            if self.clock_watch.stepped_back(clock.now(), clock.tick()) {
                self.handle(FetchEvent::ClockSteppedBack).await;
            }
            let is_storable = *storage.borrow_and_update() == StorageState::Available;
            self.handle(FetchEvent::Tick { is_storable }).await;
            while self.machine.wants_permit(clock.now()) {
                let Ok(permit) = pacer.try_acquire() else { break };
                self.handle(FetchEvent::PermitGranted(permit)).await;
            }
            if !self.machine.wants_permit(clock.now()) {
                permit_wait = None;
            } else if permit_wait.is_none() {
                let pacer = pacer.clone();
                permit_wait = Some(Box::pin(async move { pacer.acquire().await }));
            }
            account.stats.set_in_flight(self.requests.len());
            let wake_up = self.machine.wake_at().map(|at| clock.sleep_until_time(at));
            let event = tokio::select! {
                () = stop.cancelled() => break,
                Some((item, is_accepted)) = self.acknowledged.1.recv() => FetchEvent::Stored { item, is_accepted },
                Some(loaded) = OptionFuture::from(self.load.as_mut()) => {
                    self.load = None;
                    loaded
                }
                Some(ended) = self.requests.join_next_with_id() => self.end_request(ended),
                Some(permit) = OptionFuture::from(permit_wait.as_mut()) => {
                    permit_wait = None;
                    FetchEvent::PermitGranted(permit)
                }
                () = account.work_queued.notified() => FetchEvent::WorkQueued,
                Some(()) = OptionFuture::from(wake_up) => continue,
                Ok(()) = storage.changed() => continue,
            };
            self.handle(event).await;
            while let Ok((item, is_accepted)) = self.acknowledged.1.try_recv() {
                self.handle(FetchEvent::Stored { item, is_accepted }).await;
            }
        }
        drop(permit_wait);
        self.finish_requests().await;
    }

    async fn handle(&mut self, event: FetchEvent) {
        let now = Now { local: self.account.clock.now(), api: self.account.api.api_now() };
        let actions = self.machine.on(event, now, &mut rand::rng());
        for action in actions {
            self.perform(action).await;
        }
    }

    async fn perform(&mut self, action: FetchAction) {
        let account = &self.account;
        match action {
            FetchAction::LoadDue(query) => self.load = Some(Box::pin(load_due(account.clone(), query))),
            FetchAction::Request(claim, permit) => self.start_request(claim, permit),
            FetchAction::Complete(job) => self.submit(job).await,
            FetchAction::CompleteFailed(job) => {
                log_failure(account, &job);
                self.submit(job).await;
            }
            FetchAction::RecordPause(row, hint) => {
                tracing::warn!(account = %account.id, endpoint = %row.endpoint, until = %row.until, error = %row.reason, hint, "paused");
                account.record_pause(row).await;
            }
            FetchAction::RecordPauseEnd(artifact, waited) => {
                tracing::info!(account = %account.id, endpoint = %artifact, "circuit closed: endpoint recovered");
                account.record_pause_end(artifact.into(), Some(waited)).await;
            }
            FetchAction::RateLimited(artifact, retry_after) => {
                account.record_rate_limited(retry_after).await;
                tracing::warn!(account = %account.id, endpoint = %artifact, ?retry_after, "refused with 429; slowing down");
            }
            FetchAction::UndoDeferrals(artifact) => {
                tracing::info!(account = %account.id, endpoint = %artifact, "artifact became available; retrying deferred items");
                let (now, first) = (account.clock.now(), self.retry_policy.backoff.initial_delay());
                if let Err(error) = account.db.undo_deferrals(account.lease.account, artifact, now, first).await {
                    tracing::warn!(account = %account.id, %error, hint = error.hint(), "failed to reschedule deferred items");
                }
            }
        }
    }

    async fn submit(&mut self, job: CompletedJob) {
        self.batch_writer.submit(Submission { job, acknowledge: self.acknowledged.0.clone() }).await;
    }

    fn start_request(&mut self, claim: Claim, permit: Permit) {
        let (account, retry_policy) = (self.account.clone(), self.retry_policy.clone());
        account.stats.count_request(claim.lane, account.clock.tick());
        let requested = claim.clone();
        let request = self.requests.spawn(async move {
            let answer = fetch_item(&account, &requested, permit).await?;
            let now = account.clock.now();
            // Hashes and compresses it.
            Ok((now, retry_policy.outcome_of_answer(&requested, &answer, now)))
        });
        self.claims.insert(request.id(), claim);
    }

    /// Reports what the end of a request shows beyond its item.
    fn end_request(&mut self, ended: Result<(task::Id, Answer), JoinError>) -> FetchEvent {
        let account = &self.account;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(claim) = self.claims.remove(&id) else { return FetchEvent::WorkQueued };
        let artifact = claim.artifact;
        let answer = match ended {
            Ok((_, answer)) => answer,
            Err(error) => {
                tracing::error!(account = %account.id, segment = claim.segment_id, %artifact, %error, "a request panicked; its item is claimed anew");
                return FetchEvent::Panicked(claim);
            }
        };
        match &answer {
            Ok(_) => {
                account.stats.broken_answers.record_usable(artifact);
                if self.redirected.remove(&artifact) {
                    account.clear_redirect(artifact.into());
                }
            }
            Err(error) => {
                if account.report_redirect(error, account.clock.now()) {
                    self.redirected.insert(artifact);
                }
                if error.fault == Fault::Broken {
                    let tick = account.clock.tick();
                    account.stats.broken_answers.record_broken(artifact, broken_reason(error), tick);
                }
            }
        }
        if !matches!(&answer, Err(error) if error.fault == Fault::RateLimited) {
            account.pacer.record_success();
        }
        FetchEvent::Answered(claim, answer)
    }

    /// Waits for the requests under way, up to a limit. The next owner claims the remaining items
    /// anew.
    async fn finish_requests(mut self) {
        let account = self.account.clone();
        let requests = async {
            while let Some(ended) = self.requests.join_next_with_id().await {
                let event = self.end_request(ended);
                self.handle(event).await;
            }
        };
        if tokio::time::timeout(REQUEST_SHUTDOWN_GRACE, requests).await.is_err() {
            tracing::info!(account = %account.id, at = %account.clock.now(), "requests under way did not finish in time; they are repeated after the next start");
        }
        account.stats.set_in_flight(0);
    }
}

async fn load_due(account: Arc<Account>, query: DueQuery) -> FetchEvent {
    let (db, lease) = (&account.db, account.lease);
    let loaded = async {
        let due = db.due_items_by_class(lease, query.artifacts, query.until, |class| query.limit(class)).await?;
        Ok::<_, DbError>((due, db.next_due(lease.account, query.artifacts, query.until).await?))
    };
    match loaded.await {
        Ok((due, next)) => FetchEvent::Loaded(query, due, next),
        Err(error) => {
            const LOAD_FAILED: &str = "failed to read the work table";
            if error.is_transient() {
                // The supervisor logs it, once for all accounts.
                tracing::debug!(account = %account.id, %error, "{LOAD_FAILED}");
            } else {
                tracing::warn!(account = %account.id, %error, hint = error.hint(), "{LOAD_FAILED}");
            }
            FetchEvent::LoadFailed(query)
        }
    }
}

fn log_failure(account: &Account, job: &CompletedJob) {
    let (account, segment, artifact) = (&account.id, &job.claim.segment_id, job.claim.artifact);
    match &job.outcome {
        JobOutcome::Failed { state: ItemState::Open, due, reason, .. } => {
            tracing::debug!(%account, segment, %artifact, again = %due, error = %reason, "fetch failed; retrying later");
        }
        JobOutcome::Failed { state: ItemState::Failed, reason, .. } => {
            tracing::error!(%account, segment, %artifact, error = %reason, "fetch failed permanently; `queue list` shows it, `queue retry` retries it");
        }
        JobOutcome::Failed { .. } if job.claim.visit == 0 => {
            tracing::warn!(%account, segment, %artifact, "artifact still missing at the horizon; giving up");
        }
        JobOutcome::Answered { .. } => {
            tracing::info!(%account, segment, %artifact, "still empty at the horizon; storing it as it is");
        }
        JobOutcome::Failed { .. } | JobOutcome::Deferred { .. } => {}
    }
}

/// How an answer is broken, as part of a finding's sentence.
fn broken_reason(error: &ApiError) -> &'static str {
    match error.cause {
        ErrorCause::ConnectionLost => "they break off",
        ErrorCause::TooLarge => "they are too large",
        _ => "they are not what was asked for",
    }
}
