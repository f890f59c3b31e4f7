//! Replicas: signs of life, and which of them owns which account.
//!
//! Who owns an account is written in its row, together with an epoch that grows at each change. All of it is timed by
//! the database's clock, which the replicas share. A row is taken only from nobody, from oneself, or from a replica
//! whose signs of life have stopped.

use std::time::Duration;

use super::{Db, DbError, Owned, Row, Stmt, Tx, sql};
use crate::clock::{Time, millis};
use crate::model::AccountId;

/// What a replica last said of itself.
#[derive(Debug, Clone)]
pub struct ReplicaRow {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it started, by its own clock.
    pub started: Time,
    /// When it last said anything, by the database's clock.
    pub heartbeat: Time,
    /// When it let go in good order.
    pub released: Option<Time>,
    /// The figures that only it knows, as JSON.
    pub stats: String,
}

/// Who owns an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The account's number.
    pub account: i64,
    /// Its ids.
    pub id: AccountId,
    /// The owner's name.
    pub owner: Option<String>,
    /// Which ownership this is.
    pub epoch: i64,
    /// When the last owner let go in good order.
    pub let_go: Option<Time>,
}

/// The whole picture, as of one sign of life.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The database's time.
    pub now: Time,
    /// All replicas that were there lately.
    pub replicas: Vec<ReplicaRow>,
    /// All accounts.
    pub accounts: Vec<Assignment>,
}

impl Picture {
    /// Whether a replica gave a sign of life less than `lapse` ago and has not let go.
    pub fn alive(&self, name: &str, lapse: Duration) -> bool {
        self.replicas.iter().any(|replica| {
            replica.name == name && replica.released.is_none() && self.now.since(replica.heartbeat) < lapse
        })
    }
}

impl Db {
    /// Leaves a sign of life and returns the whole picture. `row.heartbeat` is ignored: the database's time counts;
    /// on SQLite that is `now`.
    pub async fn beat(&self, row: &ReplicaRow, now: Time) -> Result<Picture, DbError> {
        let mut tx = self.begin().await?;
        let here = now.plus_millis(tx.clock_ahead(now).await?);
        let stmt = sql(
            "insert into replica (name, version, started, heartbeat, released, stats) values ($1, $2, $3, $4, $5, $6)
             on conflict (name) do update set version = excluded.version, started = excluded.started,
             heartbeat = excluded.heartbeat, released = excluded.released, stats = excluded.stats",
        );
        let stmt = stmt.bind(&row.name).bind(&row.version).bind(row.started).bind(here);
        tx.run(stmt.bind(row.released.map(|_| here)).bind(&row.stats)).await?;
        tx.commit().await?;
        // Read after the commit: whoever takes an account from now on sees this sign, whoever took one before is seen.
        Ok(Picture { now: here, replicas: self.replicas().await?, accounts: self.assignments().await? })
    }

    /// Takes accounts, each unless a living replica other than `me` owns it; returns those that were taken.
    pub async fn take(&self, accounts: &[i64], me: &str, lapse: Duration, now: Time) -> Result<Vec<Owned>, DbError> {
        self.take_where(accounts, me, lapse, false, now).await
    }

    /// The same where all accounts share one limit: none is taken while a living replica other than `me` owns any, and a
    /// dead one loses all of them at once.
    pub async fn take_together(
        &self,
        accounts: &[i64],
        me: &str,
        lapse: Duration,
        now: Time,
    ) -> Result<Vec<Owned>, DbError> {
        self.take_where(accounts, me, lapse, true, now).await
    }

    async fn take_where(
        &self,
        accounts: &[i64],
        me: &str,
        lapse: Duration,
        together: bool,
        now: Time,
    ) -> Result<Vec<Owned>, DbError> {
        let mut taken = Vec::with_capacity(accounts.len());
        let mut tx = self.begin().await?;
        if together {
            tx.lock_key("take accounts together").await?;
        }
        let here = now.plus_millis(tx.clock_ahead(now).await?);
        tx.hold_dead_replicas(me, here.plus_millis(-millis(lapse))).await?;
        if together && !tx.end_other_leases(me, here, lapse).await? {
            tx.commit().await?;
            return Ok(taken);
        }
        for part in accounts.chunks(super::BULK) {
            tx.in_order(part).await?;
            let stmt = Stmt::list(
                "update account set owner = $1, epoch = epoch + 1 where (owner is null or owner = $1 or not exists
                 (select 1 from replica r where r.name = account.owner and r.released is null and r.heartbeat > $2)) and id in ",
                vec![me.into(), here.plus_millis(-millis(lapse)).into()],
                part.iter().copied(),
                " returning id, epoch",
            );
            for row in tx.all(stmt).await? {
                taken.push(Owned { account: row.int(0)?, epoch: row.int(1)? });
            }
        }
        tx.commit().await?;
        Ok(taken)
    }

    /// Lets accounts go, with nothing of them under way.
    pub async fn let_go(&self, owned: &[Owned], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let here = now.plus_millis(tx.clock_ahead(now).await?);
        let mut owned = owned.to_vec();
        owned.sort_by_key(|owned| owned.account);
        for owned in owned {
            let stmt =
                sql("update account set owner = null, epoch = epoch + 1, let_go = $3 where id = $1 and epoch = $2");
            tx.run(stmt.bind(owned.account).bind(owned.epoch).bind(here)).await?;
        }
        tx.commit().await
    }

    /// Forgets replicas without a sign of life for so long that own nothing; returns how many. Where each start has a name of
    /// its own, as containers have, there would be one more each time.
    pub async fn forget_replicas(&self, silent_for: Duration, now: Time) -> Result<u64, DbError> {
        let here = self.here(now).await?;
        let stmt = sql("delete from replica where heartbeat < $1 and not exists
             (select 1 from account a where a.owner = replica.name)");
        self.run(stmt.bind(here - silent_for)).await
    }

    /// All replicas that were there lately, by name.
    pub async fn replicas(&self) -> Result<Vec<ReplicaRow>, DbError> {
        let rows = self
            .all(sql("select name, version, started, heartbeat, released, stats from replica order by name"))
            .await?;
        let read = |row: &Row| -> Result<ReplicaRow, DbError> {
            Ok(ReplicaRow {
                name: row.text(0)?,
                version: row.text(1)?,
                started: row.time(2)?,
                heartbeat: row.time(3)?,
                released: row.maybe_time(4)?,
                stats: row.text(5)?,
            })
        };
        rows.iter().map(read).collect()
    }

    async fn assignments(&self) -> Result<Vec<Assignment>, DbError> {
        let rows = self.all(sql("select id, rc, sub, owner, epoch, let_go from account order by sub")).await?;
        let read = |row: &Row| -> Result<Assignment, DbError> {
            Ok(Assignment {
                account: row.int(0)?,
                id: AccountId::new(row.text(1)?, row.text(2)?),
                owner: row.maybe_text(3)?,
                epoch: row.int(4)?,
                let_go: row.maybe_time(5)?,
            })
        };
        rows.iter().map(read).collect()
    }
}

impl Tx {
    /// Ends the leases of replicas other than `me`, unless one of them is alive; returns whether none was.
    async fn end_other_leases(&mut self, me: &str, here: Time, lapse: Duration) -> Result<bool, DbError> {
        let stmt =
            sql("select a.id, cast(case when r.released is null and r.heartbeat > $2 then 1 else 0 end as bigint)
             from account a left join replica r on r.name = a.owner where a.owner is not null and a.owner <> $1");
        let rows = self.all(stmt.bind(me).bind(here.plus_millis(-millis(lapse)))).await?;
        let mut dead = Vec::with_capacity(rows.len());
        for row in &rows {
            if row.flag(1)? {
                return Ok(false);
            }
            dead.push(row.int(0)?);
        }
        for part in dead.chunks(super::BULK) {
            self.in_order(part).await?;
            let stmt = Stmt::list(
                "update account set owner = null, epoch = epoch + 1, let_go = $1 where owner <> $2 and id in ",
                vec![here.into(), me.into()],
                part.iter().copied(),
                "",
            );
            self.run(stmt).await?;
        }
        Ok(true)
    }

    /// Makes sure that this ownership still holds, and that it goes on to until the end of the transaction.
    ///
    /// # Errors
    /// `DbFault::Lost` where another epoch has begun.
    pub(super) async fn hold(&mut self, owned: Owned) -> Result<(), DbError> {
        let stmt = self.epoch_of(owned.account);
        let held = self.first(stmt).await?.map(|row| row.int(0)).transpose()?;
        if held == Some(owned.epoch) { Ok(()) } else { Err(DbError::lost(owned.account)) }
    }
}
