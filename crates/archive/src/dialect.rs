//! Everything in which the two databases differ.

use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::{Db, DbError, DbFault, Stmt, Tx, sql};
use crate::clock::Time;

/// How often folding the log is tried.
const FOLDS: u32 = 50;

impl Db {
    /// Whether a table of this name exists.
    pub(super) async fn has_table(&self, name: &str) -> Result<bool, DbError> {
        let stmt = match self {
            Db::Sqlite(_) => sql("select count(*) from sqlite_master where type = 'table' and name = $1"),
            Db::Postgres(_) => sql(
                "select count(*) from information_schema.tables where table_schema = current_schema() and table_name = $1",
            ),
        };
        Ok(self.first(stmt.bind(name)).await?.map(|row| row.int(0)).transpose()?.unwrap_or(0) > 0)
    }

    /// Runs a vacuum, which no transaction may hold; nothing on SQLite.
    pub(super) async fn vacuum_postgres(&self, text: &'static str) -> Result<(), DbError> {
        if let Db::Postgres(pools) = self {
            // On a connection of its own: it takes as long as it takes.
            let mut connection = pools.pool.connect_options().connect().await?;
            sqlx::query(text).execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(())
    }

    /// Folds SQLite's log back into the file and empties it; waits a little for those who are reading.
    pub(super) async fn fold_log(&self) -> Result<(), DbError> {
        let Some(path) = self.file() else { return Ok(()) };
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
        let mut connection = options.connect().await?;
        // Whoever waits here for readers keeps all who write waiting too: so only for a moment each time.
        sqlx::query("pragma busy_timeout = 20").execute(&mut connection).await?;
        for _ in 0..FOLDS {
            let (busy, ..): (i64, i64, i64) =
                sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut connection).await?;
            if busy == 0 {
                return Ok(connection.close().await?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(DbError::new(DbFault::Away, "failed to empty the database's log: someone keeps reading"))
    }
}

impl Tx {
    /// Keeps everyone else who asks for the same `key` waiting until this transaction ends. SQLite has one writer,
    /// so there it is so already.
    pub(super) async fn lock_key(&mut self, key: &str) -> Result<(), DbError> {
        if self.is_postgres() {
            self.all(sql("select 1 from (select pg_advisory_xact_lock(hashtextextended($1, 0))) held").bind(key))
                .await?;
        }
        Ok(())
    }

    /// Keeps whoever asks for `key` by [`Tx::lock_key`] waiting until this transaction ends, but not those who share it.
    pub(super) async fn share_key(&mut self, key: &str) -> Result<(), DbError> {
        if self.is_postgres() {
            self.all(
                sql("select 1 from (select pg_advisory_xact_lock_shared(hashtextextended($1, 0))) held").bind(key),
            )
            .await?;
        }
        Ok(())
    }

    /// By how many milliseconds the clock that all users of this database share is ahead of `now`: none on SQLite, whose
    /// users are on one machine.
    pub(super) async fn clock_ahead(&mut self, now: Time) -> Result<i64, DbError> {
        if !self.is_postgres() {
            return Ok(0);
        }
        let stmt = sql("select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)");
        let here = self.first(stmt).await?.map(|row| row.int(0)).transpose()?;
        Ok(here.map_or(0, |here| here.saturating_sub(now.0)))
    }

    /// Keeps replicas other than `me` that own accounts and were silent since `since` from a heartbeat until this transaction
    /// ends: one that comes back meanwhile would not see that its accounts are taken, nor be seen by whoever takes them.
    pub(super) async fn hold_dead_replicas(&mut self, me: &str, since: Time) -> Result<(), DbError> {
        if self.is_postgres() {
            let stmt =
                sql("select r.name from replica r where r.name <> $1 and (r.released is not null or r.heartbeat <= $2)
                 and exists (select 1 from account a where a.owner = r.name) order by r.name for share of r");
            self.all(stmt.bind(me).bind(since)).await?;
        }
        Ok(())
    }

    /// Reads an account's epoch and keeps it from changing until this transaction ends.
    pub(super) fn epoch_of(&self, account: i64) -> Stmt {
        if self.is_postgres() {
            sql("select epoch from account where id = $1 for share").bind(account)
        } else {
            sql("select epoch from account where id = $1").bind(account)
        }
    }

    /// Locks accounts in the order in which everyone does, before a statement that writes them in an order of its own.
    pub(super) async fn in_order(&mut self, accounts: &[i64]) -> Result<(), DbError> {
        if self.is_postgres() {
            let tail = self.in_order_to_write();
            self.all(Stmt::list("select id from account where id in ", Vec::new(), accounts.iter().copied(), tail))
                .await?;
        }
        Ok(())
    }

    /// Ends a statement that reads accounts to write them later in its transaction; those who only refer to them go on.
    pub(super) fn in_order_to_write(&self) -> &'static str {
        if self.is_postgres() { " order by id for no key update" } else { "" }
    }

    /// Ends a statement that reads accounts and keeps them from changing until its transaction ends.
    pub(super) fn in_order_to_hold(&self) -> &'static str {
        if self.is_postgres() { " order by id for share" } else { "" }
    }

    /// Reads an account's epoch and keeps everyone from writing for the account until this transaction ends. On SQLite there
    /// is one writer.
    pub(super) fn epoch_alone(&self, account: i64) -> Stmt {
        if self.is_postgres() {
            sql("select epoch from account where id = $1 for update").bind(account)
        } else {
            sql("select epoch from account where id = $1").bind(account)
        }
    }

    /// Sees to it that no number of a segment is used again after its deletion: whoever still works on the old one would
    /// take the new one for it. Postgres never does; SQLite gives the next number after the highest in use.
    pub(super) async fn keep_numbers_unused(&mut self) -> Result<(), DbError> {
        if self.is_postgres() {
            return Ok(());
        }
        let stmt = sql("insert into meta (key, value) select 'segment.newest', cast(coalesce(max(id), 0) as text) from segment where true
             on conflict (key) do update set value = excluded.value where cast(excluded.value as integer) > cast(meta.value as integer)");
        self.run(stmt).await.map(drop)
    }

    /// The number that the next segment must be given, where the database would give it one that was used before.
    pub(super) async fn next_segment(&mut self) -> Result<Option<i64>, DbError> {
        if self.is_postgres() {
            return Ok(None);
        }
        let stmt = sql("select cast(value as integer) + 1 from meta where key = 'segment.newest'
             and cast(value as integer) > (select coalesce(max(id), 0) from segment)");
        self.first(stmt).await?.map(|row| row.int(0)).transpose()
    }
}
