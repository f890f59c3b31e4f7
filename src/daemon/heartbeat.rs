//! The heartbeat: a task that renews this replica's leases and waits only for the database.
//!
//! It also stops all sending for an account that has another owner, and for every account while the
//! database must not be used (its file was replaced, or a newer version has migrated it). On
//! Postgres a lease also expires if no heartbeat renews it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use super::replica_stats::replica_row;
use crate::account::Account;
use crate::clock::{Tick, Time};
use crate::db::{AccountKey, ClusterState, Db, DbError, InstanceLock, Lease, UnusableReason};
use crate::fetch::batch_writer::StorageProblem;
use crate::health::{Finding, FindingCode, Severity};

/// The time between two heartbeats.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a replica may send requests after a heartbeat. It is short enough that all of them
/// arrive before other replicas consider it dead.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(7);

/// How often the stamp in the SQLite file is renewed. The stamp reveals that a backup was copied
/// over the file.
const FILE_STAMP_INTERVAL: Duration = Duration::from_secs(120);

/// The result of one heartbeat.
#[derive(Debug, Clone)]
pub(super) struct HeartbeatResult {
    /// When it started: leases are counted from here.
    pub(super) tick: Tick,
    /// The state of the cluster, or why the database could not be used.
    pub(super) cluster: Result<Arc<ClusterState>, StorageProblem>,
    /// Whether a newer version has migrated the database: all accounts are released and none are
    /// acquired.
    pub(super) is_outdated: bool,
}

/// The leases that the heartbeat renews.
#[derive(Default)]
pub(super) struct Leases {
    accounts: Mutex<Vec<Arc<Account>>>,
    heartbeat_requested: Notify,
    all_released: AtomicBool,
}

impl Leases {
    /// Replaces the accounts whose leases are renewed.
    pub(super) fn replace(&self, accounts: Vec<Arc<Account>>) {
        *self.lock_accounts() = accounts;
    }

    /// Adds an account whose lease is renewed.
    pub(super) fn add(&self, account: Arc<Account>) {
        self.lock_accounts().push(account);
    }

    /// Requests the next heartbeat at once.
    pub(super) fn request_heartbeat(&self) {
        self.heartbeat_requested.notify_one();
    }

    /// Sets whether all accounts are released, so that an outdated replica may stop writing.
    pub(super) fn set_all_released(&self, all_released: bool) {
        self.all_released.store(all_released, Ordering::Relaxed);
    }

    fn lock_accounts(&self) -> MutexGuard<'_, Vec<Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes heartbeats.
pub(super) struct Heartbeat {
    pub(super) context: Arc<AppContext>,
    /// The database, over separate connections for the heartbeat.
    pub(super) db: Db,
    pub(super) instance_lock: InstanceLock,
    pub(super) started: Time,
    /// When the stamp in the SQLite file was last renewed.
    pub(super) last_stamp: Tick,
    pub(super) leases: Arc<Leases>,
    pub(super) results: watch::Sender<Option<HeartbeatResult>>,
}

impl Heartbeat {
    /// Runs until `stop`. Returns the instance lock, which is held until the leases are released.
    ///
    /// # Errors
    /// If the database fails with an error that is not transient.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<InstanceLock> {
        loop {
            let tick = self.context.clock.tick();
            let done = tokio::select! {
                () = stop.cancelled() => return Ok(self.instance_lock),
                done = self.step(tick) => done,
            };
            let (cluster, is_outdated) = match done {
                Ok((cluster, is_outdated)) => (Ok(Arc::new(cluster)), is_outdated),
                Err(error) if self.context.db.is_recoverable(&error) => (Err(StorageProblem::from(&error)), false),
                Err(error) => return Err(error.into()),
            };
            self.results.send_replace(Some(HeartbeatResult { tick, cluster, is_outdated }));
            tokio::select! {
                () = stop.cancelled() => return Ok(self.instance_lock),
                () = self.context.clock.sleep_until(tick + HEARTBEAT_INTERVAL) => {}
                () = self.leases.heartbeat_requested.notified() => {}
            }
        }
    }

    async fn step(&mut self, tick: Tick) -> Result<(ClusterState, bool), DbError> {
        let unusable = self.db.unusable_reason().await?;
        let is_outdated = matches!(unusable, Some(UnusableReason::Newer { .. }));
        self.report_unusable(unusable).await?;
        self.ensure_instance_lock().await?;
        let row = replica_row(&self.context, self.started, None);
        let held_before: Vec<Lease> = self.leases.lock_accounts().iter().map(|account| account.lease).collect();
        let cluster = self.db.record_heartbeat(&row, self.context.clock.now()).await?;
        self.renew_leases(&cluster, &held_before, tick);
        self.renew_file_stamp(tick).await;
        Ok((cluster, is_outdated))
    }

    async fn renew_file_stamp(&mut self, tick: Tick) {
        if tick.since(self.last_stamp) < FILE_STAMP_INTERVAL {
            return;
        }
        self.last_stamp = tick;
        if let Err(error) = self.db.renew_file_stamp().await {
            tracing::debug!(%error, "failed to renew the stamp in the database file; the old stamp stays valid");
        }
    }

    /// Reports that the database must not be used, and stops all sending. Stops all writing once
    /// all accounts are released.
    async fn report_unusable(&self, unusable: Option<UnusableReason>) -> Result<(), DbError> {
        let context = &self.context;
        let Some(unusable) = unusable else {
            context.db.suspend(None);
            if context.findings.clear(FindingCode::DatabaseUnusable, None) {
                tracing::info!("the database can be used again");
            }
            return Ok(());
        };
        let (code, sentence) = (FindingCode::DatabaseUnusable, unusable.to_string());
        let finding = Finding::new(code, Severity::Trouble, context.clock.now(), sentence.clone(), unusable.hint());
        context.findings.report_and_log(finding.blocking(true));
        match unusable {
            UnusableReason::Newer { .. } if self.leases.all_released.load(Ordering::Relaxed) => {
                if !context.db.is_suspended() {
                    let now = context.clock.now();
                    self.db.record_heartbeat(&replica_row(context, self.started, Some(now)), now).await?;
                    tracing::warn!("released all accounts; writing stops");
                }
                context.db.suspend(Some(sentence));
            }
            UnusableReason::Newer { .. } => {}
            UnusableReason::Replaced { .. } | UnusableReason::WalRemoved { .. } => {
                for account in self.leases.lock_accounts().iter() {
                    account.pacer.set_lease_deadline(Some(Tick::default()));
                }
                context.db.suspend(Some(sentence));
            }
        }
        Ok(())
    }

    async fn ensure_instance_lock(&mut self) -> Result<(), DbError> {
        if self.instance_lock.ensure_held().await.is_err() {
            let name = &self.context.settings.database.instance;
            self.instance_lock = self.db.relock_instance(name, &self.instance_lock).await?;
        }
        Ok(())
    }

    /// Renews the leases, except those of accounts that have another owner now. A lease that was
    /// held before the cluster state was read is also lost if the database has a lower epoch: then
    /// the database was restored to an earlier state.
    fn renew_leases(&self, cluster: &ClusterState, held_before: &[Lease], tick: Tick) {
        let epochs: BTreeMap<AccountKey, i64> = cluster.accounts.iter().map(|row| (row.account, row.epoch)).collect();
        let until = lease_end(&self.context, tick);
        for account in self.leases.lock_accounts().iter() {
            let lease = account.lease;
            let lost = epochs
                .get(&lease.account)
                .is_none_or(|epoch| *epoch > lease.epoch || (*epoch < lease.epoch && held_before.contains(&lease)));
            account.pacer.set_lease_deadline(if lost { Some(Tick::default()) } else { until });
        }
    }
}

/// When a lease that was renewed at `tick` expires. On SQLite no other replica can acquire the
/// account.
pub(super) fn lease_end(context: &AppContext, tick: Tick) -> Option<Tick> {
    context.db.sqlite_path().is_none().then(|| tick + LEASE_DURATION)
}
