//! Replicas: heartbeats, and the leases on accounts.
//!
//! An account's row holds the owner of its lease and a fencing epoch that grows at each change. All
//! times are those of the database's clock, which the replicas share. A lease is acquired only if
//! the account has no owner, if the replica owned it before, or if the owner's heartbeat has
//! expired.

use std::time::Duration;

use super::sql::Flag;
use super::{AccountKey, Db, DbError, Lease, Stmt, Tx, sql};
use crate::clock::{Time, millis};
use crate::model::AccountId;
use crate::transaction_span::TransactionSpan;

/// A replica's last heartbeat.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ReplicaRow {
    /// The instance name.
    pub name: String,
    /// The program version.
    pub version: String,
    /// When it started, by its own clock.
    pub started: Time,
    /// When the heartbeat was written, by the database's clock.
    pub heartbeat: Time,
    /// When it released its leases in a clean shutdown.
    pub released: Option<Time>,
    /// Its runtime statistics, as JSON.
    pub stats: String,
}

/// The owner of an account's lease.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OwnershipRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The RingCX ids.
    #[sqlx(flatten)]
    pub id: AccountId,
    /// The owner's instance name.
    pub owner: Option<String>,
    /// The fencing epoch.
    pub epoch: i64,
    /// When the last owner released the lease.
    #[sqlx(rename = "let_go")]
    pub released: Option<Time>,
}

/// All replicas and lease owners, as of one heartbeat.
#[derive(Debug, Clone)]
pub struct ClusterState {
    /// The database's time.
    pub now: Time,
    /// All recent replicas.
    pub replicas: Vec<ReplicaRow>,
    /// All accounts.
    pub accounts: Vec<OwnershipRow>,
}

impl ClusterState {
    /// Whether a replica's heartbeat is younger than `lease_duration`, and it has not released its
    /// leases.
    pub fn is_alive(&self, name: &str, lease_duration: Duration) -> bool {
        self.replicas.iter().any(|replica| {
            replica.name == name && replica.released.is_none() && self.now.since(replica.heartbeat) < lease_duration
        })
    }
}

impl Db {
    /// Writes a heartbeat and returns the state of the cluster. `row.heartbeat` is ignored in
    /// favour of the database's time; on SQLite that is `now`.
    pub async fn record_heartbeat(&self, row: &ReplicaRow, now: Time) -> Result<ClusterState, DbError> {
        let _span = TransactionSpan::start("record_heartbeat", 1);
        let mut tx = self.begin().await?;
        let database_now = now.plus_millis(tx.clock_offset_ms(now).await?);
        let stmt = sql(
            "insert into replica (name, version, started, heartbeat, released, stats) values ($1, $2, $3, $4, $5, $6)
             on conflict (name) do update set version = excluded.version, started = excluded.started,
             heartbeat = excluded.heartbeat, released = excluded.released, stats = excluded.stats",
        );
        let stmt = stmt.bind(&row.name).bind(&row.version).bind(row.started).bind(database_now);
        tx.run(stmt.bind(row.released.map(|_| database_now)).bind(&row.stats)).await?;
        tx.commit().await?;
        // Read after the commit: a later acquisition sees this heartbeat, and this read sees
        // earlier acquisitions.
        Ok(ClusterState { now: database_now, replicas: self.replicas().await?, accounts: self.ownership_rows().await? })
    }

    /// Acquires leases on these accounts, except those that a live replica other than `me` holds.
    /// Returns the acquired leases.
    pub async fn acquire_leases(
        &self,
        accounts: &[AccountKey],
        me: &str,
        lease_duration: Duration,
        now: Time,
    ) -> Result<Vec<Lease>, DbError> {
        self.acquire_leases_where(accounts, me, lease_duration, false, now).await
    }

    /// As [`Db::acquire_leases`], for accounts that share one rate limit: acquires none while a
    /// live replica other than `me` holds any, and revokes all leases of a dead one at once.
    pub async fn acquire_shared_limit_leases(
        &self,
        accounts: &[AccountKey],
        me: &str,
        lease_duration: Duration,
        now: Time,
    ) -> Result<Vec<Lease>, DbError> {
        self.acquire_leases_where(accounts, me, lease_duration, true, now).await
    }

    async fn acquire_leases_where(
        &self,
        accounts: &[AccountKey],
        me: &str,
        lease_duration: Duration,
        shared_limit: bool,
        now: Time,
    ) -> Result<Vec<Lease>, DbError> {
        let mut tx = self.begin().await?;
        if shared_limit {
            tx.advisory_lock("take accounts together").await?;
        }
        let database_now = now.plus_millis(tx.clock_offset_ms(now).await?);
        tx.lock_dead_replicas(me, database_now.plus_millis(-millis(lease_duration))).await?;
        if shared_limit && !tx.revoke_expired_leases(me, database_now, lease_duration).await? {
            tx.commit().await?;
            return Ok(Vec::new());
        }
        tx.lock_accounts(accounts).await?;
        let stmt = Stmt::list(
            "update account set owner = $1, epoch = epoch + 1 where (owner is null or owner = $1 or not exists
             (select 1 from replica r where r.name = account.owner and r.released is null and r.heartbeat > $2)) and id in ",
            vec![me.into(), database_now.plus_millis(-millis(lease_duration)).into()],
            accounts.iter().copied(),
            " returning id as account, epoch",
        );
        let acquired = tx.all(stmt).await?;
        tx.commit().await?;
        Ok(acquired)
    }

    /// Releases leases. No request of these accounts may be in flight.
    pub async fn release_leases(&self, leases: &[Lease], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let database_now = now.plus_millis(tx.clock_offset_ms(now).await?);
        let mut leases = leases.to_vec();
        leases.sort_by_key(|lease| lease.account);
        for lease in leases {
            let stmt =
                sql("update account set owner = null, epoch = epoch + 1, let_go = $3 where id = $1 and epoch = $2");
            tx.run(stmt.bind(lease.account).bind(lease.epoch).bind(database_now)).await?;
        }
        tx.commit().await
    }

    /// Deletes replicas without leases whose last heartbeat is older than `silent_for`. Returns
    /// their number. Otherwise rows would accumulate where each start has a new instance name, as
    /// with containers.
    pub async fn delete_dead_replicas(&self, silent_for: Duration, now: Time) -> Result<u64, DbError> {
        let database_now = self.database_now(now).await?;
        let stmt = sql("delete from replica where heartbeat < $1 and not exists
             (select 1 from account a where a.owner = replica.name)");
        self.run(stmt.bind(database_now - silent_for)).await
    }

    /// All recent replicas, by name.
    pub async fn replicas(&self) -> Result<Vec<ReplicaRow>, DbError> {
        self.all(sql("select name, version, started, heartbeat, released, stats from replica order by name")).await
    }

    async fn ownership_rows(&self) -> Result<Vec<OwnershipRow>, DbError> {
        self.all(sql("select id as account, rc, sub, owner, epoch, let_go from account order by sub")).await
    }
}

impl Tx {
    /// Revokes the leases of replicas other than `me`, unless one of them is alive. Returns whether
    /// none was alive.
    async fn revoke_expired_leases(
        &mut self,
        me: &str,
        database_now: Time,
        lease_duration: Duration,
    ) -> Result<bool, DbError> {
        let stmt =
            sql("select a.id, cast(case when r.released is null and r.heartbeat > $2 then 1 else 0 end as bigint)
             from account a left join replica r on r.name = a.owner where a.owner is not null and a.owner <> $1");
        let leases: Vec<(AccountKey, Flag)> =
            self.all(stmt.bind(me).bind(database_now.plus_millis(-millis(lease_duration)))).await?;
        let (accounts, alive): (Vec<AccountKey>, Vec<bool>) =
            leases.into_iter().map(|(account, is_alive)| (account, bool::from(is_alive))).unzip();
        if alive.contains(&true) {
            return Ok(false);
        }
        self.lock_accounts(&accounts).await?;
        let head = "update account set owner = null, epoch = epoch + 1, let_go = $1 where owner <> $2 and id in ";
        self.run(Stmt::list(head, vec![database_now.into(), me.into()], accounts, "")).await?;
        Ok(true)
    }

    /// Checks that a lease is current, and keeps it so until the end of the transaction.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if a newer epoch exists.
    pub(super) async fn hold_lease(&mut self, lease: Lease) -> Result<(), DbError> {
        let held = self.lock_account_shared(lease.account).await?;
        if held == Some(lease.epoch) { Ok(()) } else { Err(DbError::lease_lost(lease.account)) }
    }
}
