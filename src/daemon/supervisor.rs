//! Supervises the accounts of a daemon: acquires their leases, runs their tasks, releases the
//! leases.
//!
//! One loop, driven by the heartbeat (`heartbeat.rs`): it takes the cluster state, acquires and
//! releases leases as planned (`assignment.rs`), and starts and stops the tasks of the accounts. On
//! SQLite there is only one replica, and the first heartbeat acquires all accounts. The registry
//! (`account_registry.rs`) independently provides the accounts to work on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::account_registry::{RegisteredAccount, RegisteredAccounts};
use super::app_context::{self, AppContext};
use super::assignment::{AssignmentPlan, plan_assignment};
use super::discovery;
use super::fetch_worker::FetchWorker;
use super::heartbeat::{HEARTBEAT_INTERVAL, Heartbeat, HeartbeatResult, LEASE_DURATION, Leases, lease_end};
use super::replica_stats::replica_row;
use crate::account::{Account, PauseLog, RuntimeStats};
use crate::backoff::Backoff;
use crate::clock::{Tick, Time};
use crate::config::LimitScope;
use crate::coverage::PlanningRules;
use crate::db::{AccountKey, ClusterState, DbError, DbFault, InstanceLock, Lease, MaxDelays, OwnershipRow};
use crate::discover::Discoverer;
use crate::error::first_hint;
use crate::fetch::batch_writer::{BatchWriter, StorageProblem, StorageState};
use crate::model::Endpoint;
use crate::pipeline::discovery::DiscoveryPolicy;
use crate::pipeline::fetch::retry_policy::RetryPolicy;
use crate::ringcx::rate_limit::{MAX_ARRIVAL_DELAY, MAX_RETRY_AFTER, Pacer, PreviousOwner};

/// The most accounts acquired per heartbeat. Loading more could delay the next heartbeat too long.
const MAX_ACQUIRED_PER_HEARTBEAT: usize = 50;
/// A replica without a heartbeat for so long, by the database's clock, is considered dead.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(10);
/// Older requests matter to no limit per minute.
const RATE_LIMIT_MEMORY: Duration = Duration::from_secs(75);
/// How long the row of a silent replica is kept.
const REPLICA_ROW_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long results may wait for an unavailable database at shutdown, once everything else has
/// ended.
pub(super) const WRITE_SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// How long releasing the leases may take at shutdown.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs until `stop`.
///
/// # Errors
/// If a task failed or exited unexpectedly, or the database fails with an error that is not
/// transient.
pub(crate) async fn run(
    context: Arc<AppContext>,
    instance_lock: InstanceLock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let gave_up = CancellationToken::new();
    let (batch_writer, writer_task) = BatchWriter::new(context.db.clone(), context.stored_sender(), gave_up.clone());
    let mut writers: JoinSet<()> = JoinSet::new();
    writers.spawn(writer_task.run());
    let started = context.clock.now();
    let (leases, (results, results_seen)) = (Arc::new(Leases::default()), watch::channel(None));
    let heartbeat_stop = CancellationToken::new();
    let mut heartbeat_task = JoinSet::new();
    let heartbeat = Heartbeat {
        context: context.clone(),
        db: context.db.for_heartbeat(),
        instance_lock,
        started,
        last_stamp: context.clock.tick(),
        leases: leases.clone(),
        results,
    };
    heartbeat_task.spawn(heartbeat.run(heartbeat_stop.clone()));
    let mut supervisor = Supervisor {
        batch_writer,
        accounts: BTreeMap::new(),
        tasks: JoinSet::new(),
        pacer: None,
        heartbeat_task,
        heartbeat_stop,
        leases,
        heartbeats: results_seen,
        registered: context.subscribe_registered(),
        started,
        change_version: None,
        resumes: BTreeMap::new(),
        is_ready: false,
        more_to_acquire: false,
        stop: stop.clone(),
        context: context.clone(),
    };
    let outcome = supervisor.supervise().await;
    supervisor.shut_down(writers, gave_up).await;
    outcome
}

/// An account whose tasks run here, or that is about to be released.
struct SupervisedAccount {
    account: Arc<Account>,
    /// When its lease was acquired.
    acquired_at: Tick,
    stop: CancellationToken,
    /// The number of tasks that have not ended.
    running_tasks: u8,
    /// Whether the lease is to be released once all tasks have ended.
    is_releasing: bool,
    /// Whether the lease is lost, so that no request may be sent for the account any more.
    is_lost: bool,
}

struct Supervisor {
    context: Arc<AppContext>,
    batch_writer: BatchWriter,
    accounts: BTreeMap<AccountKey, SupervisedAccount>,
    /// The tasks of the accounts. Each returns its account's key.
    tasks: JoinSet<(AccountKey, anyhow::Result<()>)>,
    /// The login's pacer, if all accounts share one.
    pacer: Option<Pacer>,
    heartbeat_task: JoinSet<anyhow::Result<InstanceLock>>,
    heartbeat_stop: CancellationToken,
    leases: Arc<Leases>,
    heartbeats: watch::Receiver<Option<HeartbeatResult>>,
    /// The accounts to work on; `None` until they are known.
    registered: watch::Receiver<Option<RegisteredAccounts>>,
    started: Time,
    change_version: Option<i64>,
    /// How often an operator asked for an immediate retry, by account.
    resumes: BTreeMap<AccountKey, i64>,
    is_ready: bool,
    /// Whether the next heartbeat should acquire more accounts at once.
    more_to_acquire: bool,
    stop: CancellationToken,
}

impl Supervisor {
    async fn supervise(&mut self) -> anyhow::Result<()> {
        let mut storage = self.batch_writer.subscribe_storage();
        // Logged once, not at every heartbeat.
        let (mut is_unavailable, mut is_started) = (false, false);
        while let Some(heartbeat) = self.next_heartbeat(&mut storage).await? {
            let stop = self.stop.clone();
            let done = match &heartbeat.cluster {
                Ok(cluster) => tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    done = self.handle_heartbeat(cluster, &heartbeat) => done,
                },
                // The heartbeat has found the error to be recoverable.
                Err(problem) => {
                    let fault =
                        if problem.fault == DbFault::StorageFull { problem.fault } else { DbFault::Unavailable };
                    let error = DbError::new(fault, problem.reason.clone());
                    Err(match &problem.hint {
                        Some(hint) => error.with_hint(hint.clone()).into(),
                        None => error.into(),
                    })
                }
            };
            let mut unavailable = None;
            match done {
                Ok(()) => {
                    if std::mem::take(&mut is_unavailable) {
                        tracing::info!("the database is available again");
                    }
                    if !std::mem::replace(&mut is_started, true) {
                        super::signals::notify_ready();
                        self.delete_stale_replicas().await;
                    }
                }
                Err(error) if error.downcast_ref().is_some_and(|error| self.context.db.is_recoverable(error)) => {
                    if !std::mem::replace(&mut is_unavailable, true) {
                        let hint = first_hint(&error);
                        tracing::warn!(%error, hint, "the database is unavailable; tasks that need it wait");
                    }
                    unavailable = error.downcast_ref::<DbError>().map(StorageProblem::from);
                }
                Err(error) => return Err(error),
            }
            // A database that can be read may still reject writes. While there are no results, only
            // the heartbeat notices.
            let results = storage.borrow_and_update().clone();
            self.context.set_storage(unavailable.map_or(results, StorageState::Unavailable));
            if std::mem::take(&mut self.more_to_acquire) {
                self.leases.request_heartbeat();
            }
        }
        Ok(())
    }

    /// Waits for a heartbeat, and handles tasks that end in the meantime. Returns `None` at the
    /// stop.
    async fn next_heartbeat(
        &mut self,
        storage: &mut watch::Receiver<StorageState>,
    ) -> anyhow::Result<Option<HeartbeatResult>> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                Some(ended) = self.tasks.join_next() => self.handle_task_end(ended)?,
                Some(ended) = self.heartbeat_task.join_next() => {
                    ended.context("the heartbeat task panicked")??;
                    anyhow::bail!("background task `heartbeat` exited unexpectedly");
                }
                Ok(()) = storage.changed() => self.context.set_storage(storage.borrow_and_update().clone()),
                Ok(()) = self.registered.changed() => self.leases.request_heartbeat(),
                Ok(()) = self.heartbeats.changed() => {
                    if let Some(heartbeat) = self.heartbeats.borrow_and_update().clone() {
                        return Ok(Some(heartbeat));
                    }
                }
            }
        }
    }

    /// Acts on the cluster state of a heartbeat.
    async fn handle_heartbeat(&mut self, cluster: &ClusterState, heartbeat: &HeartbeatResult) -> anyhow::Result<()> {
        self.drop_expired(cluster, heartbeat.tick);
        self.flush_pauses().await;
        self.poll_changes().await?;
        self.grant_permits().await?;
        let shared_limit = self.context.settings.limits.scope == LimitScope::Login;
        let registered = match heartbeat.is_outdated {
            true => Some(RegisteredAccounts::default()),
            false => self.registered.borrow().clone(),
        };
        // Until the registry is loaded, no account is released.
        let Some(registered) = registered else { return Ok(()) };
        let keys: BTreeSet<AccountKey> = registered.keys().copied().collect();
        let instance = &self.context.settings.database.instance;
        let plan = plan_assignment(cluster, &keys, instance, REPLICA_TIMEOUT, shared_limit);
        self.release(&plan.release, cluster).await?;
        self.acquire(&plan, &registered, cluster, heartbeat.tick).await?;
        self.leases.set_all_released(heartbeat.is_outdated && self.accounts.is_empty());
        if !self.is_ready && !self.more_to_acquire && !heartbeat.is_outdated {
            self.is_ready = true;
            self.context.set_active(true);
            tracing::info!(
                accounts = self.accounts.len(),
                of = keys.len(),
                instance = self.context.settings.database.instance,
                "working"
            );
        }
        Ok(())
    }

    /// Writes pauses and their ends that could not be written before.
    async fn flush_pauses(&self) {
        for supervised in self.accounts.values().filter(|supervised| !supervised.is_lost) {
            supervised.account.pauses.flush(&supervised.account).await;
        }
    }

    /// Deletes the rows of replicas that are long gone. A failure is harmless: the next start
    /// repeats it.
    async fn delete_stale_replicas(&self) {
        if let Err(error) = self.context.db.delete_dead_replicas(REPLICA_ROW_RETENTION, self.context.clock.now()).await
        {
            tracing::debug!(%error, "failed to delete the rows of stale replicas");
        }
    }

    /// Stops work on accounts whose lease is lost: they have another owner now, or the database was
    /// restored to an earlier state and has a lower epoch. Results under way for them will be
    /// rejected.
    fn drop_expired(&mut self, cluster: &ClusterState, heartbeat_began: Tick) {
        let instance = &self.context.settings.database.instance;
        let rows: BTreeMap<AccountKey, &OwnershipRow> = cluster.accounts.iter().map(|row| (row.account, row)).collect();
        for (key, supervised) in self.accounts.iter_mut().filter(|(_, supervised)| !supervised.is_lost) {
            let row = rows.get(key);
            let epoch = supervised.account.lease.epoch;
            // A heartbeat that began before the account was acquired may carry an older cluster
            // state.
            if row.is_some_and(|row| {
                row.epoch == epoch || (row.epoch < epoch && heartbeat_began <= supervised.acquired_at)
            }) {
                continue;
            }
            supervised.account.pacer.set_lease_deadline(Some(Tick::default()));
            supervised.is_lost = true;
            supervised.stop.cancel();
            if row.and_then(|row| row.owner.as_ref()).is_none_or(|owner| owner == instance) {
                // A command considered this replica dead, and sent a request itself.
                tracing::warn!(account = %supervised.account.id, "the lease on this account was revoked; acquiring it again");
                supervised.account.pacer.record_foreign_use();
            } else {
                tracing::warn!(account = %supervised.account.id, "another replica has taken this account over");
            }
        }
        self.publish_accounts();
    }

    async fn poll_changes(&mut self) -> Result<(), DbError> {
        let version = self.context.db.change_version().await?;
        self.context.set_change_version(version);
        if self.change_version == Some(version) {
            return Ok(());
        }
        let resumes = std::mem::replace(&mut self.resumes, self.context.db.resume_requests().await?);
        if self.change_version.replace(version).is_some() {
            for (key, supervised) in &self.accounts {
                if self.resumes.get(key) != resumes.get(key) {
                    tracing::info!(account = %supervised.account.id, "retrying now on request");
                    supervised.account.retry_now();
                }
                supervised.account.work_queued.notify_one();
                supervised.account.reads_requested.notify_one();
            }
        }
        Ok(())
    }

    /// Grants permits to commands such as `check`, which send requests from another process.
    async fn grant_permits(&self) -> Result<(), DbError> {
        for (nth, (id, account)) in self.context.db.pending_permit_requests().await?.into_iter().enumerate() {
            let supervised = self.accounts.get(&account).filter(|supervised| !supervised.is_lost);
            let Some(supervised) = supervised else { continue };
            // The first one may wait: if the budget is used up, no permit is available without
            // waiting.
            let wait = if nth == 0 { self.context.clock.real(HEARTBEAT_INTERVAL) } else { Duration::ZERO };
            if let Ok(mut permit) = tokio::time::timeout(wait, supervised.account.pacer.acquire()).await {
                // The other process sends it, so it counts as sent, and may arrive at any time
                // until the usual limit.
                permit.mark_sent();
                drop(permit);
                let now = self.context.clock.now();
                let lease = supervised.account.lease;
                match self.context.db.grant_permit(id, lease, now, now - RATE_LIMIT_MEMORY).await {
                    // The new owner grants it.
                    Err(error) if error.fault() == DbFault::LeaseLost => tracing::debug!(%error, "granted no permit"),
                    granted => granted?,
                }
            }
        }
        Ok(())
    }

    async fn release(&mut self, accounts: &[AccountKey], cluster: &ClusterState) -> Result<(), DbError> {
        for key in accounts {
            match self.accounts.get_mut(key) {
                Some(supervised) if !supervised.is_releasing => {
                    supervised.is_releasing = true;
                    supervised.stop.cancel();
                }
                _ => {}
            }
        }
        // Leases of an earlier process of this instance, without tasks.
        let left = cluster.accounts.iter().filter(|row| accounts.contains(&row.account));
        let left = left.filter(|row| !self.accounts.contains_key(&row.account));
        let left = left.map(|row| Lease { account: row.account, epoch: row.epoch });
        let ended =
            self.accounts.values().filter(|supervised| supervised.is_releasing && supervised.running_tasks == 0);
        let released: Vec<Lease> = ended.map(|supervised| supervised.account.lease).chain(left).collect();
        if !released.is_empty() {
            self.context.db.release_leases(&released, self.context.clock.now()).await?;
        }
        // Accounts that are lost or were just released are not ours any more.
        self.accounts.retain(|_, supervised| supervised.running_tasks > 0 || !supervised.stop.is_cancelled());
        self.publish_accounts();
        Ok(())
    }

    async fn acquire(
        &mut self,
        plan: &AssignmentPlan,
        registered: &RegisteredAccounts,
        cluster: &ClusterState,
        tick: Tick,
    ) -> anyhow::Result<()> {
        let free: Vec<AccountKey> =
            plan.acquire.iter().copied().filter(|key| !self.accounts.contains_key(key)).collect();
        // Accounts that are ours without tasks belonged to an earlier process of this instance.
        let instance = &self.context.settings.database.instance.clone();
        let own = cluster.accounts.iter().filter(|row| {
            plan.resume
                && row.owner.as_ref() == Some(instance)
                && !self.accounts.contains_key(&row.account)
                && !plan.release.contains(&row.account)
                && registered.contains_key(&row.account)
        });
        let mut keys: Vec<AccountKey> = free.into_iter().chain(own.map(|row| row.account)).collect();
        self.more_to_acquire = keys.len() > MAX_ACQUIRED_PER_HEARTBEAT;
        keys.truncate(MAX_ACQUIRED_PER_HEARTBEAT);
        if keys.is_empty() {
            return Ok(());
        }
        if self.accounts.values().all(|supervised| supervised.is_lost) {
            // Another replica used the login's budget in the meantime, so this pacer does not know
            // all requests.
            self.pacer = None;
        }
        let shared_limit = self.context.settings.limits.scope == LimitScope::Login;
        let (db, now) = (&self.context.db, self.context.clock.now());
        let leases = match shared_limit {
            true => db.acquire_shared_limit_leases(&keys, instance, REPLICA_TIMEOUT, now).await?,
            false => db.acquire_leases(&keys, instance, REPLICA_TIMEOUT, now).await?,
        };
        let acquired_at = self.context.clock.tick();
        // Read after the acquisition, so that the previous owner cannot add any more.
        let pauses = db.pauses().await?;
        let throttles = db.saved_throttles(self.context.clock.now()).await?;
        for lease in leases {
            let Some(registered) = registered.get(&lease.account).cloned() else { continue };
            let before = cluster.accounts.iter().filter(|row| shared_limit || row.account == lease.account);
            let owner = before.map(|row| previous_owner(cluster, row, instance)).min_by_key(|owner| owner.quiet_for());
            let account = Arc::new(self.build_account(registered, lease, owner.unwrap_or(PreviousOwner::Absent), tick));
            account.restore_throttle(&throttles);
            let mut discoverer = Discoverer::new(account.clone(), self.discovery_policy(&account)?, self.max_delays());
            discoverer.restore_throttle(&throttles);
            let mut fetch_worker = FetchWorker::new(
                account.clone(),
                RetryPolicy { backoff: self.backoff()?, refresh_delays: self.context.settings.fetch.revisit.clone() },
                self.context.settings.fetch.concurrency,
                self.batch_writer.clone(),
            );
            for pause in pauses.iter().filter(|pause| pause.account == lease.account) {
                match pause.endpoint {
                    Endpoint::Metadata => discoverer.restore_pause(pause),
                    _ => fetch_worker.restore_pause(pause),
                }
            }
            let stop = self.stop.child_token();
            let key = lease.account;
            let discovery = discovery::run(account.clone(), discoverer, stop.clone());
            let span = tracing::info_span!("account", account = %account.id);
            self.tasks.spawn(async move { (key, discovery.await) }.instrument(span.clone()));
            let fetching = fetch_worker.run(stop.clone());
            let fetching = async move {
                fetching.await;
                (key, Ok(()))
            };
            self.tasks.spawn(fetching.instrument(span));
            self.leases.add(account.clone());
            let supervised =
                SupervisedAccount { account, acquired_at, stop, running_tasks: 2, is_releasing: false, is_lost: false };
            self.accounts.insert(key, supervised);
        }
        self.publish_accounts();
        Ok(())
    }

    fn build_account(
        &mut self,
        registered: RegisteredAccount,
        lease: Lease,
        previous_owner: PreviousOwner,
        tick: Tick,
    ) -> Account {
        let AppContext { db, clock, api, login, settings, .. } = &*self.context;
        let pacer = match (settings.limits.scope, &self.pacer) {
            (LimitScope::Login, Some(pacer)) => pacer.with_own_lease(),
            _ => {
                let pacer = Pacer::new(settings.limits.requests_per_minute, clock.clone());
                pacer.start_after(previous_owner);
                pacer
            }
        };
        self.pacer = Some(pacer.clone());
        pacer.set_lease_deadline(lease_end(&self.context, tick));
        Account {
            budget_name: app_context::budget_name(&settings.limits, &registered.id.sub),
            metadata_budget: app_context::metadata_budget(&settings.limits, &registered.id.sub, db, clock),
            id: registered.id,
            policy: registered.policy,
            retention_days: registered.retention_days,
            lease,
            db: db.clone(),
            api: api.clone(),
            login: login.clone(),
            pacer,
            recordings: self.context.recordings.clone(),
            clock: clock.clone(),
            work_queued: Notify::new(),
            reads_requested: Notify::new(),
            findings: self.context.findings.clone(),
            stats: RuntimeStats::default(),
            pauses: PauseLog::default(),
        }
    }

    /// Handles the end of a task. An unexpected end is an error, which stops the daemon.
    fn handle_task_end(
        &mut self,
        ended: Result<(AccountKey, anyhow::Result<()>), tokio::task::JoinError>,
    ) -> anyhow::Result<()> {
        let (key, result) = ended.context("a task of an account panicked")?;
        let Some(supervised) = self.accounts.get_mut(&key) else { return result };
        supervised.running_tasks = supervised.running_tasks.saturating_sub(1);
        if supervised.stop.is_cancelled() {
            return Ok(());
        }
        result.with_context(|| format!("work on account {} failed", supervised.account.id))?;
        Err(anyhow::anyhow!("work on account {} exited unexpectedly", supervised.account.id))
    }

    /// Stops all tasks, writes the last results, and releases all leases. Each step has a time limit:
    /// `SHUTDOWN_GRACE`, `WRITE_SHUTDOWN_GRACE` and `RELEASE_TIMEOUT`, one after the other.
    async fn shut_down(mut self, mut writers: JoinSet<()>, gave_up: CancellationToken) {
        for supervised in self.accounts.values() {
            supervised.stop.cancel();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let in_order = tokio::time::timeout(super::SHUTDOWN_GRACE, all).await.is_ok();
        if !in_order {
            tracing::warn!("some tasks did not end in time; their work is repeated after the next start");
            self.tasks.abort_all();
        }
        let leases: Vec<Lease> = self.accounts.values().map(|supervised| supervised.account.lease).collect();
        self.accounts.clear();
        self.publish_accounts();
        let Supervisor { context, batch_writer, started, mut heartbeat_task, heartbeat_stop, .. } = self;
        // All results are submitted now, and the writer ends once they are written. The leases must
        // stay until then: results under a released epoch are rejected.
        drop(batch_writer);
        let written = async { while writers.join_next().await.is_some() {} };
        if tokio::time::timeout(WRITE_SHUTDOWN_GRACE, written).await.is_err() {
            tracing::warn!("the database did not accept the last results; they will be fetched again");
            gave_up.cancel();
        }
        context.set_active(false);
        // The last heartbeat marks the replica as released. The instance lock is held until then.
        heartbeat_stop.cancel();
        let _instance_lock = heartbeat_task.join_next().await;
        let now = context.clock.now();
        let release = async {
            context.db.release_leases(&leases, now).await?;
            context.db.record_heartbeat(&replica_row(&context, started, Some(now)), now).await
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "failed to release leases on shutdown"),
            Err(_) => tracing::debug!("failed to release leases in time on shutdown"),
        }
    }

    fn publish_accounts(&self) {
        let working = self.accounts.values().filter(|supervised| !supervised.stop.is_cancelled());
        self.context.set_accounts(working.map(|supervised| supervised.account.clone()).collect());
        self.leases.replace(
            self.accounts
                .values()
                .filter(|supervised| !supervised.is_lost)
                .map(|supervised| supervised.account.clone())
                .collect(),
        );
    }

    fn max_delays(&self) -> MaxDelays {
        let fetch = &self.context.settings.fetch;
        let retry = fetch.retry_max.max(fetch.retry_initial).max(MAX_RETRY_AFTER);
        MaxDelays { retry, refresh: fetch.revisit.iter().copied().fold(retry, Duration::max) }
    }

    fn backoff(&self) -> anyhow::Result<Backoff> {
        let fetch = &self.context.settings.fetch;
        Ok(Backoff::new(fetch.retry_initial, fetch.retry_max, fetch.give_up_after)?)
    }

    fn discovery_policy(&self, account: &Account) -> anyhow::Result<DiscoveryPolicy> {
        let discovery = &self.context.settings.discovery;
        let days = account.retention_days.and_then(|days| u64::try_from(days).ok()).filter(|days| *days > 0);
        let rules = PlanningRules {
            window: discovery.window,
            offset: discovery.offset,
            interval: discovery.interval,
            max_window: discovery.max_window,
            limits: app_context::metadata_limits(&self.context.settings.limits),
            retention: days.map(|days| Duration::from_secs(days * 86_400)),
        };
        Ok(DiscoveryPolicy {
            rules,
            rechecks: discovery.rechecks.clone(),
            start: discovery.start,
            backoff: self.backoff()?,
            wants: account.policy.wants,
            retention: account.policy.retention,
        })
    }
}

/// The previous user of an account's budget, as seen by `instance`.
fn previous_owner(cluster: &ClusterState, row: &OwnershipRow, instance: &str) -> PreviousOwner {
    let Some(owner) = &row.owner else {
        let Some(released) = row.released else { return PreviousOwner::Absent };
        let ago = cluster.now.since(released);
        return if ago > RATE_LIMIT_MEMORY { PreviousOwner::Absent } else { PreviousOwner::Released { ago } };
    };
    // Our own heartbeat is in our row already, so an earlier process of this instance may have sent
    // until just now.
    let seen = cluster.replicas.iter().find(|replica| replica.name == *owner && owner != instance);
    let ago = seen.map_or(Duration::ZERO, |replica| cluster.now.since(replica.heartbeat));
    match ago {
        ago if ago > RATE_LIMIT_MEMORY => PreviousOwner::Absent,
        last_seen_ago if owner == instance => {
            PreviousOwner::Lapsed { last_seen_ago, may_send_for: Duration::ZERO, in_flight: 0 }
        }
        last_seen_ago => {
            PreviousOwner::Lapsed { last_seen_ago, may_send_for: LEASE_DURATION + MAX_ARRIVAL_DELAY, in_flight: 8 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccountPolicy;
    use crate::db::{Db, OpenMode};
    use crate::model::{AccountId, ArtifactSelection, ArtifactSet, SummariesFor};

    const SETTINGS: &str = r#"
[auth]
api_token = "planted-secret"
[[accounts]]
rc_account_id = "1"
sub_account_id = "1"
[limits]
scope = "login"
[database]
instance = "me"
"#;

    async fn supervisor(folder: &std::path::Path) -> Supervisor {
        let file = folder.join("local.toml");
        std::fs::write(&file, SETTINGS).unwrap();
        let settings = crate::config::load(Some(&file), []).unwrap().settings;
        let db = Db::open_sqlite(&folder.join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
        let clock = crate::clock::Clock::manual(Time(1_800_000_000_000));
        let context = AppContext::new(settings, db, clock.clone()).unwrap();
        let (batch_writer, _writer) =
            BatchWriter::new(context.db.clone(), context.stored_sender(), CancellationToken::new());
        Supervisor {
            batch_writer,
            accounts: BTreeMap::new(),
            tasks: JoinSet::new(),
            pacer: None,
            heartbeat_task: JoinSet::new(),
            heartbeat_stop: CancellationToken::new(),
            leases: Arc::default(),
            heartbeats: watch::channel(None).1,
            registered: context.subscribe_registered(),
            started: clock.now(),
            change_version: None,
            resumes: BTreeMap::new(),
            is_ready: false,
            more_to_acquire: false,
            stop: CancellationToken::new(),
            context,
        }
    }

    fn id(number: i64) -> AccountId {
        AccountId::new("1", number.to_string())
    }

    impl Supervisor {
        fn add_account(&mut self, account: i64) -> Arc<Account> {
            let wants = ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };
            let policy = AccountPolicy { wants, retention: None };
            let registered = RegisteredAccount { id: id(account), name: None, policy, retention_days: None };
            let acquired_at = self.context.clock.tick();
            let lease = Lease { account: AccountKey(account), epoch: 1 };
            let account = Arc::new(self.build_account(registered, lease, PreviousOwner::Absent, acquired_at));
            let supervised = SupervisedAccount {
                account: account.clone(),
                acquired_at,
                stop: CancellationToken::new(),
                running_tasks: 2,
                is_releasing: false,
                is_lost: false,
            };
            self.accounts.insert(lease.account, supervised);
            account
        }
    }

    fn row(account: i64, owner: &str, epoch: i64) -> OwnershipRow {
        OwnershipRow {
            account: AccountKey(account),
            id: id(account),
            owner: Some(owner.to_owned()),
            epoch,
            released: None,
        }
    }

    #[tokio::test]
    async fn one_lost_account_leaves_the_other_accounts_of_its_login_one_budget() {
        let folder = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor(folder.path()).await;
        let (lost, kept) = (supervisor.add_account(1), supervisor.add_account(2));
        let accounts = vec![row(1, "other", 2), row(2, "me", 1)];
        let cluster = ClusterState { now: supervisor.context.clock.now(), replicas: Vec::new(), accounts };
        supervisor.drop_expired(&cluster, supervisor.context.clock.tick());
        assert!(supervisor.accounts[&AccountKey(1)].is_lost && !supervisor.accounts[&AccountKey(2)].is_lost);
        let mut permit = kept.pacer.try_acquire().unwrap();
        assert!(permit.mark_sent(), "it may send");
        assert!(lost.pacer.try_acquire().is_err());
        permit.mark_counted();
        assert_eq!(supervisor.add_account(3).pacer.usage().sent_last_minute, 1, "it has a budget of its own");
    }
}
