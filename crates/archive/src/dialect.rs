//! The differences between SQLite and Postgres, apart from full-text search.

use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::{AccountKey, Db, DbError, DbFault, Stmt, Tx, sql};
use crate::clock::Time;

/// How often to try the checkpoint of the write-ahead log.
const WAL_CHECKPOINT_ATTEMPTS: u32 = 50;

impl Db {
    /// Whether a table of this name exists.
    pub(super) async fn has_table(&self, name: &str) -> Result<bool, DbError> {
        let stmt = match self {
            Db::Sqlite(_) => sql("select count(*) from sqlite_master where type = 'table' and name = $1"),
            Db::Postgres(_) => sql(
                "select count(*) from information_schema.tables where table_schema = current_schema() and table_name = $1",
            ),
        };
        let tables: Vec<(i64,)> = self.all_unchecked(stmt.bind(name)).await?;
        Ok(tables.iter().any(|(tables,)| *tables > 0))
    }

    /// A query of the pairs in the JSON object of numbers that is bound as this argument.
    pub(super) fn select_json_pairs(&self, argument: usize) -> String {
        match self {
            Db::Sqlite(_) => format!("select cast(key as integer), value from json_each(${argument})"),
            Db::Postgres(_) => format!(
                "select cast(key as bigint), cast(value as bigint) from json_each_text(cast(${argument} as json))"
            ),
        }
    }

    /// A query of the keys in the JSON object that is bound as this argument, as numbers.
    pub(super) fn select_json_keys(&self, argument: usize) -> String {
        match self {
            Db::Sqlite(_) => format!("select cast(key as integer) from json_each(${argument})"),
            Db::Postgres(_) => format!("select cast(key as bigint) from json_each_text(cast(${argument} as json))"),
        }
    }

    /// Runs a statement that no transaction may contain, such as a vacuum. Does nothing on SQLite.
    pub(super) async fn vacuum_postgres(&self, text: &'static str) -> Result<(), DbError> {
        if let Db::Postgres(pools) = self {
            // A connection of its own, without a statement time-out.
            let mut connection = pools.pool.connect_options().connect().await?;
            sqlx::query(text).execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(())
    }

    /// Copies SQLite's write-ahead log into the file and truncates it. Waits a few seconds for
    /// readers. Does nothing on Postgres.
    pub(super) async fn checkpoint_wal(&self) -> Result<(), DbError> {
        let Some(path) = self.sqlite_path() else { return Ok(()) };
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
        let mut connection = options.connect().await?;
        // While the checkpoint waits for readers, writers wait, too: so it waits 20 ms at a time.
        sqlx::query("pragma busy_timeout = 20").execute(&mut connection).await?;
        for _ in 0..WAL_CHECKPOINT_ATTEMPTS {
            let (busy, ..): (i64, i64, i64) =
                sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut connection).await?;
            if busy == 0 {
                return Ok(connection.close().await?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(DbError::new(
            DbFault::Unavailable,
            "failed to truncate the database's write-ahead log: another connection keeps reading",
        ))
    }
}

impl Tx {
    /// Checks that the transaction may write. Postgres begins one on a standby or a read-only server
    /// without an error, and refuses only the first write. SQLite refuses to begin it.
    pub(super) async fn ensure_writable(&mut self) -> Result<(), DbError> {
        if !self.is_postgres() {
            return Ok(());
        }
        let read_only: Option<String> = self.value(sql("select current_setting('transaction_read_only')")).await?;
        if read_only.as_deref() != Some("on") {
            return Ok(());
        }
        let error = DbError::new(DbFault::Unavailable, "the Postgres server accepts no writes");
        Err(error.with_hint(
            "database.url must lead to the primary and not to a standby, and default_transaction_read_only must be off",
        ))
    }

    /// Takes an exclusive advisory lock on `key` until this transaction ends. On SQLite the single
    /// writer makes it needless.
    pub(super) async fn advisory_lock(&mut self, key: &str) -> Result<(), DbError> {
        if self.is_postgres() {
            self.run(sql("select 1 from (select pg_advisory_xact_lock(hashtextextended($1, 0))) held").bind(key))
                .await?;
        }
        Ok(())
    }

    /// By how many milliseconds the database's clock is ahead of `now`; 0 on SQLite, where all
    /// processes are on one machine.
    pub(super) async fn clock_offset_ms(&mut self, now: Time) -> Result<i64, DbError> {
        if !self.is_postgres() {
            return Ok(0);
        }
        let stmt = sql("select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)");
        let database_now = self.value(stmt).await?;
        Ok(database_now.map_or(0, |database_now: i64| database_now.saturating_sub(now.0)))
    }

    /// Locks the rows of dead replicas other than `me` that own accounts, until this transaction
    /// ends. A replica is dead if it was released, or has no heartbeat after `since`. Without the
    /// lock, a concurrent heartbeat of such a replica and this transaction would not see each other.
    pub(super) async fn lock_dead_replicas(&mut self, me: &str, since: Time) -> Result<(), DbError> {
        if self.is_postgres() {
            let stmt =
                sql("select r.name from replica r where r.name <> $1 and (r.released is not null or r.heartbeat <= $2)
                 and exists (select 1 from account a where a.owner = r.name) order by r.name for share of r");
            self.run(stmt.bind(me).bind(since)).await?;
        }
        Ok(())
    }

    /// Reads an account's epoch and locks it against changes until this transaction ends.
    pub(super) async fn lock_account_shared(&mut self, account: AccountKey) -> Result<Option<i64>, DbError> {
        self.value(if self.is_postgres() {
            sql("select epoch from account where id = $1 for share").bind(account)
        } else {
            sql("select epoch from account where id = $1").bind(account)
        })
        .await
    }

    /// Locks accounts in the order of their keys, before a statement that writes them in another
    /// order. Prevents deadlocks.
    pub(super) async fn lock_accounts(&mut self, accounts: &[AccountKey]) -> Result<(), DbError> {
        if self.is_postgres() {
            let tail = self.for_no_key_update_clause();
            self.run(Stmt::list("select id from account where id in ", Vec::new(), accounts.iter().copied(), tail))
                .await?;
        }
        Ok(())
    }

    /// The end of a statement that reads accounts which its transaction writes later. It does not
    /// block foreign-key checks.
    pub(super) fn for_no_key_update_clause(&self) -> &'static str {
        if self.is_postgres() { " order by id for no key update" } else { "" }
    }

    /// The end of a statement that reads accounts and locks them against changes until its
    /// transaction ends.
    pub(super) fn for_share_clause(&self) -> &'static str {
        if self.is_postgres() { " order by id for share" } else { "" }
    }

    /// Reads an account's epoch, and blocks all writers of the account until this transaction ends.
    /// SQLite has one writer anyway.
    pub(super) async fn lock_account_for_update(&mut self, account: AccountKey) -> Result<Option<i64>, DbError> {
        self.value(if self.is_postgres() {
            sql("select epoch from account where id = $1 for update").bind(account)
        } else {
            sql("select epoch from account where id = $1").bind(account)
        })
        .await
    }

    /// Records the highest segment key before a deletion, so that no key is used again: work in
    /// flight on the old segment would be stored for the new one. Postgres never reuses keys;
    /// SQLite assigns the key after the highest in use.
    pub(super) async fn record_highest_segment_id(&mut self) -> Result<(), DbError> {
        if self.is_postgres() {
            return Ok(());
        }
        let stmt = sql("insert into meta (key, value) select 'segment.newest', cast(coalesce(max(id), 0) as text) from segment where true
             on conflict (key) do update set value = excluded.value where cast(excluded.value as integer) > cast(meta.value as integer)");
        self.run(stmt).await.map(drop)
    }

    /// Makes the database assign no hold a number up to this one.
    pub(super) async fn reserve_hold_ids(&mut self, highest: i64) -> Result<(), DbError> {
        if self.is_postgres() {
            let stmt = sql("select setval(pg_get_serial_sequence('hold', 'id'), greatest(cast($1 as bigint), coalesce(max(id), 0), 1),
                 greatest(cast($1 as bigint), coalesce(max(id), 0)) > 0) from hold");
            return self.run(stmt.bind(highest)).await.map(drop);
        }
        let stmt = sql("insert into sqlite_sequence (name, seq) select 'hold', 0
             where not exists (select 1 from sqlite_sequence where name = 'hold')");
        self.run(stmt).await?;
        self.run(sql("update sqlite_sequence set seq = $1 where name = 'hold' and seq < $1").bind(highest))
            .await
            .map(drop)
    }

    /// The key for the next segment, where the database would assign one that was used before.
    pub(super) async fn next_segment_id(&mut self) -> Result<Option<i64>, DbError> {
        if self.is_postgres() {
            return Ok(None);
        }
        let stmt = sql("select cast(value as integer) + 1 from meta where key = 'segment.newest'
             and cast(value as integer) > (select coalesce(max(id), 0) from segment)");
        self.value(stmt).await
    }

    /// A bound text as a time, for a column that has such a type on Postgres only.
    pub(super) fn time_cast(&self, argument: usize) -> String {
        if self.is_postgres() { format!("cast(${argument} as timestamptz)") } else { format!("${argument}") }
    }

    /// A bound text as a UUID, likewise.
    pub(super) fn uuid_cast(&self, argument: usize) -> String {
        if self.is_postgres() { format!("cast(${argument} as uuid)") } else { format!("${argument}") }
    }
}
