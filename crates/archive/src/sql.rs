//! One statement text for both databases: arguments, rows and transactions that do not say which one is behind.
//!
//! Numbers are BIGINT, ids TEXT, bodies BYTEA or BLOB; nothing else is ever bound or read. That is what lets a statement
//! stand once. Everything is bound; no value is ever written into a statement's text.

use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Row as _, SqliteConnection, SqlitePool};

pub use self::stmt::{Arg, Stmt, sql};
use super::patient::Patient;
use super::{BULK, Db, DbError};
use crate::clock::Time;

mod stmt;
mod text;

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
    pub fn time(&self, index: usize) -> Result<Time, DbError> {
        self.int(index).map(Time)
    }

    /// A moment or null.
    pub fn maybe_time(&self, index: usize) -> Result<Option<Time>, DbError> {
        Ok(self.maybe_int(index)?.map(Time))
    }

    /// A number as yes or no.
    pub fn flag(&self, index: usize) -> Result<bool, DbError> {
        Ok(self.int(index)? != 0)
    }

    /// A number that stands for something, in this column of the row with this key.
    ///
    /// # Errors
    /// Where it stands for nothing, by the column's name and the row's key.
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

/// A transaction on SQLite, begun and ended by plain statements. SQLite ends one by itself where the disk is full, after which
/// the driver's own count of open transactions is wrong for good; so a connection whose transaction did not commit is
/// closed, which undoes what is left of it, and the next one is a new one.
pub struct SqliteTx {
    connection: PoolConnection<Sqlite>,
    committed: bool,
}

impl SqliteTx {
    /// Begins with `how`: `begin immediate` to write, `begin` to read.
    pub(super) async fn begin(pool: &SqlitePool, how: &'static str) -> Result<SqliteTx, DbError> {
        let mut tx = SqliteTx { connection: pool.acquire().await?, committed: false };
        sqlx::query(how).execute(&mut *tx.connection).await?;
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

/// A transaction that writes. Dropped without [`Tx::commit`], it never happened.
pub enum Tx {
    /// On SQLite, begun immediately: a deferred one that turns to writing is refused at once.
    Sqlite(SqliteTx),
    /// On Postgres.
    Postgres(Patient),
}

impl Tx {
    /// Runs a statement; returns how many rows it touched.
    pub async fn run(&mut self, stmt: Stmt) -> Result<u64, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                let mut touched = 0;
                for piece in stmt.pieces() {
                    let (text, args, recurs) = piece.sqlite()?;
                    let query = sqlx::query_with(text, args).persistent(recurs);
                    touched += query.execute(&mut *tx.connection).await?.rows_affected();
                }
                touched
            }
            Tx::Postgres(tx) => {
                let (text, args, recurs) = stmt.postgres()?;
                tx.run(text, args, recurs).await?
            }
        })
    }

    /// Runs a statement over any number of rows, so many at a time as one may have; returns how many it touched.
    pub(super) async fn run_rows(
        &mut self,
        head: &'static str,
        mut rows: Vec<Vec<Arg>>,
        tail: &'static str,
    ) -> Result<u64, DbError> {
        let mut touched = 0;
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(BULK));
            touched += self.run(Stmt::rows(head, std::mem::replace(&mut rows, rest), tail)).await?;
        }
        Ok(touched)
    }

    /// Runs a statement and returns its rows.
    pub async fn all(&mut self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => all_of(stmt, &mut tx.connection).await?,
            Tx::Postgres(tx) => {
                let (text, args, recurs) = stmt.postgres()?;
                tx.all(text, args, recurs).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Runs a statement and returns its first row, if there is one.
    pub async fn first(&mut self, stmt: Stmt) -> Result<Option<Row>, DbError> {
        Ok(self.all(stmt).await?.into_iter().next())
    }

    /// Runs a statement and hands its rows over as they come, so that memory does not grow with them.
    pub(super) fn stream(&mut self, stmt: Stmt) -> Result<BoxStream<'_, Result<Row, DbError>>, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                let (text, args, recurs) = stmt.sqlite()?;
                let rows = sqlx::query_with(text, args).persistent(recurs).fetch(&mut *tx.connection);
                rows.map_ok(Row::Sqlite).map_err(DbError::from).boxed()
            }
            Tx::Postgres(tx) => {
                let (text, args, recurs) = stmt.postgres()?;
                let rows = sqlx::query_with(text, args).persistent(recurs).fetch(tx.bare());
                rows.map_ok(Row::Postgres).map_err(DbError::from).boxed()
            }
        })
    }

    /// Makes it durable.
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
async fn all_of(stmt: Stmt, connection: &mut SqliteConnection) -> Result<Vec<Row>, DbError> {
    let mut all = Vec::new();
    for piece in stmt.pieces() {
        let (text, args, recurs) = piece.sqlite()?;
        let rows = sqlx::query_with(text, args).persistent(recurs).fetch_all(&mut *connection).await?;
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
            Db::Postgres(pools) => Tx::Postgres(Patient::begun(&pools.pool, pools.patience, "begin").await?),
        })
    }

    /// Reads rows, outside any transaction.
    pub async fn all(&self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        self.ensure_usable()?;
        self.all_even_if_unusable(stmt).await
    }

    /// The same where it is to be found out whether the database may be used.
    pub(super) async fn all_even_if_unusable(&self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        Ok(match self {
            Db::Sqlite(pools) => {
                let mut connection = pools.reader.acquire().await?;
                all_of(stmt, &mut connection).await?
            }
            Db::Postgres(pools) => {
                let (text, args, recurs) = stmt.postgres()?;
                let mut connection = Patient::new(&pools.pool, pools.patience).await?;
                connection.all(text, args, recurs).await?.into_iter().map(Row::Postgres).collect()
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
        let touched = tx.run(stmt).await?;
        tx.commit().await?;
        Ok(touched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;

    #[tokio::test]
    async fn what_sqlite_runs_in_pieces_comes_to_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), Access::Own).await.unwrap();
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
