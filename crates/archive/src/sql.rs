//! Statements, rows and transactions with one SQL text for both databases.
//!
//! Only BIGINT, TEXT, and BYTEA or BLOB are bound and read, so one text fits both. Values are
//! always bound, never written into the text.

use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Row as _, SqliteConnection, SqlitePool};

pub use self::stmt::{Arg, Stmt, sql};
use super::timeout_connection::TimeoutConnection;
use super::{Db, DbError, MAX_ROWS_PER_STATEMENT};
use crate::clock::Time;

mod placeholders;
mod stmt;

/// One row of a result, read by position.
pub enum Row {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From Postgres.
    Postgres(PgRow),
}

macro_rules! column {
    ($(#[$doc:meta])* $name:ident -> $type:ty) => {
        $(#[$doc])*
        pub fn $name(&self, index: usize) -> Result<$type, DbError> {
            Ok(match self {
                Row::Sqlite(row) => row.try_get(index)?,
                Row::Postgres(row) => row.try_get(index)?,
            })
        }
    };
}

impl Row {
    column! {
        /// A number that is never null.
        int -> i64
    }
    column! {
        /// A number or null.
        maybe_int -> Option<i64>
    }
    column! {
        /// A text that is never null.
        text -> String
    }
    column! {
        /// A text or null.
        maybe_text -> Option<String>
    }
    column! {
        /// Bytes that are never null.
        bytes -> Vec<u8>
    }
    column! {
        /// Bytes or null.
        maybe_bytes -> Option<Vec<u8>>
    }

    /// A moment that is never null.
    pub(crate) fn time(&self, index: usize) -> Result<Time, DbError> {
        self.int(index).map(Time)
    }

    /// A moment or null.
    pub(crate) fn maybe_time(&self, index: usize) -> Result<Option<Time>, DbError> {
        Ok(self.maybe_int(index)?.map(Time))
    }

    /// A number as a flag: 0 is false.
    pub(crate) fn flag(&self, index: usize) -> Result<bool, DbError> {
        Ok(self.int(index)? != 0)
    }

    /// A code, decoded with `read`.
    ///
    /// # Errors
    /// Where the code is unknown; the error names the column and the row's key.
    pub(super) fn code<T>(
        &self,
        index: usize,
        (column, key): (&str, i64),
        read: impl Fn(i16) -> Option<T>,
    ) -> Result<T, DbError> {
        let held = self.int(index)?;
        let known = i16::try_from(held).ok().and_then(read);
        known.ok_or_else(|| DbError::inconsistent(column, key, held))
    }

    /// A count: a number that is never negative.
    pub fn count(&self, index: usize) -> Result<u64, DbError> {
        Ok(u64::try_from(self.int(index)?).unwrap_or(0))
    }
}

/// A transaction on SQLite, begun and ended by plain statements. SQLite rolls back by itself where
/// the disk is full; the driver's count of open transactions is wrong from then on. So a connection
/// whose transaction did not commit is closed, which rolls back the rest, and the pool opens a new
/// one.
pub struct SqliteTx {
    connection: PoolConnection<Sqlite>,
    committed: bool,
}

impl SqliteTx {
    /// Begins with `begin_sql`: `begin immediate` to write, `begin` to read.
    pub(super) async fn begin(pool: &SqlitePool, begin_sql: &'static str) -> Result<SqliteTx, DbError> {
        let mut tx = SqliteTx { connection: pool.acquire().await?, committed: false };
        sqlx::query(begin_sql).execute(&mut *tx.connection).await?;
        Ok(tx)
    }

    async fn commit(mut self) -> Result<(), DbError> {
        sqlx::query("commit").execute(&mut *self.connection).await?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        if !self.committed {
            self.connection.close_on_drop();
        }
    }
}

/// A transaction that writes. It is rolled back where it is dropped without [`Tx::commit`].
pub enum Tx {
    /// On SQLite, with `begin immediate`: a deferred one that starts to write can be refused at
    /// once.
    Sqlite(SqliteTx),
    /// On Postgres.
    Postgres(TimeoutConnection),
}

impl Tx {
    /// Runs a statement; returns the number of affected rows.
    pub async fn run(&mut self, stmt: Stmt) -> Result<u64, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                let mut affected = 0;
                for piece in stmt.pieces() {
                    let (text, args, is_reusable) = piece.sqlite()?;
                    let query = sqlx::query_with(text, args).persistent(is_reusable);
                    affected += query.execute(&mut *tx.connection).await?.rows_affected();
                }
                affected
            }
            Tx::Postgres(tx) => {
                let (text, args, is_reusable) = stmt.postgres()?;
                tx.run(text, args, is_reusable).await?
            }
        })
    }

    /// Runs a statement over any number of rows, `MAX_ROWS_PER_STATEMENT` at a time; returns the
    /// number of affected rows.
    pub(super) async fn run_rows(
        &mut self,
        head: &'static str,
        mut rows: Vec<Vec<Arg>>,
        tail: &'static str,
    ) -> Result<u64, DbError> {
        let mut affected = 0;
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(MAX_ROWS_PER_STATEMENT));
            affected += self.run(Stmt::rows(head, std::mem::replace(&mut rows, rest), tail)).await?;
        }
        Ok(affected)
    }

    /// Runs a statement and returns its rows.
    pub async fn all(&mut self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => all_sqlite(stmt, &mut tx.connection).await?,
            Tx::Postgres(tx) => {
                let (text, args, is_reusable) = stmt.postgres()?;
                tx.all(text, args, is_reusable).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Runs a statement and returns its first row, if there is one.
    pub(crate) async fn first(&mut self, stmt: Stmt) -> Result<Option<Row>, DbError> {
        Ok(self.all(stmt).await?.into_iter().next())
    }

    /// Runs a statement and streams its rows, so that memory does not grow with their number.
    pub(super) fn stream(&mut self, stmt: Stmt) -> Result<BoxStream<'_, Result<Row, DbError>>, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                let (text, args, is_reusable) = stmt.sqlite()?;
                let rows = sqlx::query_with(text, args).persistent(is_reusable).fetch(&mut *tx.connection);
                rows.map_ok(Row::Sqlite).map_err(DbError::from).boxed()
            }
            Tx::Postgres(tx) => {
                let (text, args, is_reusable) = stmt.postgres()?;
                let rows = sqlx::query_with(text, args).persistent(is_reusable).fetch(tx.raw_connection());
                rows.map_ok(Row::Postgres).map_err(DbError::from).boxed()
            }
        })
    }

    /// Commits the transaction.
    pub async fn commit(self) -> Result<(), DbError> {
        match self {
            Tx::Sqlite(tx) => tx.commit().await?,
            Tx::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Whether this is Postgres, for `dialect.rs`.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Tx::Postgres(_))
    }
}

/// Runs a statement on SQLite and returns its rows.
async fn all_sqlite(stmt: Stmt, connection: &mut SqliteConnection) -> Result<Vec<Row>, DbError> {
    let mut all = Vec::new();
    for piece in stmt.pieces() {
        let (text, args, is_reusable) = piece.sqlite()?;
        let rows = sqlx::query_with(text, args).persistent(is_reusable).fetch_all(&mut *connection).await?;
        all.extend(rows.into_iter().map(Row::Sqlite));
    }
    Ok(all)
}

impl Db {
    /// Begins a transaction that writes.
    pub async fn begin(&self) -> Result<Tx, DbError> {
        self.ensure_usable()?;
        Ok(match self {
            Db::Sqlite(pools) => Tx::Sqlite(SqliteTx::begin(&pools.writer, "begin immediate").await?),
            Db::Postgres(pools) => {
                Tx::Postgres(TimeoutConnection::begin(&pools.pool, pools.statement_timeout, "begin").await?)
            }
        })
    }

    /// Reads rows, outside any transaction.
    pub async fn all(&self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        self.ensure_usable()?;
        self.all_unchecked(stmt).await
    }

    /// The same without [`Db::ensure_usable`], for the checks behind it.
    pub(super) async fn all_unchecked(&self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        Ok(match self {
            Db::Sqlite(pools) => {
                let mut connection = pools.reader.acquire().await?;
                all_sqlite(stmt, &mut connection).await?
            }
            Db::Postgres(pools) => {
                let (text, args, is_reusable) = stmt.postgres()?;
                let mut connection = TimeoutConnection::new(&pools.pool, pools.statement_timeout).await?;
                connection.all(text, args, is_reusable).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Reads the first row, if there is one.
    pub async fn first(&self, stmt: Stmt) -> Result<Option<Row>, DbError> {
        Ok(self.all(stmt).await?.into_iter().next())
    }

    /// Runs one statement in a transaction of its own.
    pub async fn run(&self, stmt: Stmt) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        let affected = tx.run(stmt).await?;
        tx.commit().await?;
        Ok(affected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenMode;

    #[tokio::test]
    async fn a_statement_that_sqlite_runs_in_pieces_has_the_same_result() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
        for count in [1, 7, 137, 1500] {
            let mut tx = db.begin().await.unwrap();
            let rows = (0..count).map(|n: i64| vec![n.into(), Arg::from(n * 3)]).collect();
            assert_eq!(
                tx.run_rows("insert into search_doc (item, number) values ", rows, "").await.unwrap(),
                count as u64
            );
            let numbers = |rows: Vec<Row>| rows.iter().map(|row| row.int(0).unwrap()).collect::<Vec<i64>>();
            let wanted: Vec<i64> = (0..count.min(500)).map(|n| n * 3).collect();
            let rows = (0..count.min(500)).map(|n| vec![Arg::from(n)]).collect();
            let joined =
                Stmt::rows("with v (n) as (values ", rows, ") select number from v join search_doc on item = n");
            assert_eq!(numbers(tx.all(joined).await.unwrap()), wanted);
            let listed = Stmt::list("select number from search_doc where item in ", Vec::new(), 0..count.min(500), "");
            assert_eq!(numbers(tx.all(listed).await.unwrap()), wanted);
            let listed = Stmt::list("delete from search_doc where item in ", Vec::new(), 0..count.min(500), "");
            assert_eq!(tx.run(listed).await.unwrap(), count.min(500) as u64);
        }
        db.close().await;
    }
}
