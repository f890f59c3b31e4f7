//! Statements and transactions with one SQL text for both databases, and rows read into types.
//!
//! Only BIGINT, TEXT, and BYTEA or BLOB are bound and read, so one text fits both. Values are
//! always bound, never written into the text.

use futures_util::stream::BoxStream;
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{SqliteConnection, SqlitePool};

pub use self::columns::DbRow;
use self::columns::read_rows;
pub(crate) use self::columns::{
    ArtifactBits, ArtifactCode, CodedItem, DeletionCode, EndTime, EndpointName, Flag, HoldSubject, HttpStatus,
    LaneCode, LossyText, Millis, PackedMetadata, StateCode, count, utf8_lossy,
};
pub use self::stmt::{Arg, Stmt, sql};
use super::timeout_connection::TimeoutConnection;
use super::{Db, DbError};

mod columns;
mod placeholders;
mod stmt;

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

    /// Streams the rows of a query, so that memory does not grow with their number.
    pub(super) fn stream(
        &mut self,
        query: Query<'static, Sqlite, SqliteArguments>,
    ) -> BoxStream<'_, Result<SqliteRow, sqlx::Error>> {
        query.fetch(&mut *self.connection)
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
        let mut affected = 0;
        for piece in stmt.pieces(self.is_postgres()) {
            affected += match self {
                Tx::Sqlite(tx) => piece.sqlite()?.execute(&mut *tx.connection).await?.rows_affected(),
                Tx::Postgres(tx) => tx.run(piece.postgres()?).await?,
            };
        }
        Ok(affected)
    }

    /// Runs a statement and returns its rows.
    pub async fn all<T: DbRow>(&mut self, stmt: Stmt) -> Result<Vec<T>, DbError> {
        match self {
            Tx::Sqlite(tx) => all_sqlite(stmt, &mut tx.connection).await,
            Tx::Postgres(tx) => all_postgres(stmt, tx).await,
        }
    }

    /// Runs a statement and returns its first row, if there is one.
    pub async fn first<T: DbRow>(&mut self, stmt: Stmt) -> Result<Option<T>, DbError> {
        Ok(self.all(stmt).await?.into_iter().next())
    }

    /// Runs a statement with one column and returns its values.
    pub async fn values<T>(&mut self, stmt: Stmt) -> Result<Vec<T>, DbError>
    where
        (T,): DbRow,
    {
        Ok(self.all(stmt).await?.into_iter().map(|(value,)| value).collect())
    }

    /// Runs a statement with one column and returns the first value, if there is a row.
    pub async fn value<T>(&mut self, stmt: Stmt) -> Result<Option<T>, DbError>
    where
        (T,): DbRow,
    {
        Ok(self.values(stmt).await?.into_iter().next())
    }

    /// Runs a statement that counts.
    pub(crate) async fn count(&mut self, stmt: Stmt) -> Result<u64, DbError> {
        Ok(self.value(stmt).await?.map_or(0, count))
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

async fn all_sqlite<T: DbRow>(stmt: Stmt, connection: &mut SqliteConnection) -> Result<Vec<T>, DbError> {
    let mut all = Vec::new();
    for piece in stmt.pieces(false) {
        read_rows(&piece.sqlite()?.fetch_all(&mut *connection).await?, &mut all)?;
    }
    Ok(all)
}

async fn all_postgres<T: DbRow>(stmt: Stmt, connection: &mut TimeoutConnection) -> Result<Vec<T>, DbError> {
    let mut all = Vec::new();
    for piece in stmt.pieces(true) {
        read_rows(&connection.all(piece.postgres()?).await?, &mut all)?;
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
    pub async fn all<T: DbRow>(&self, stmt: Stmt) -> Result<Vec<T>, DbError> {
        self.ensure_usable()?;
        self.all_unchecked(stmt).await
    }

    /// The same without [`Db::ensure_usable`], for the checks behind it.
    pub(super) async fn all_unchecked<T: DbRow>(&self, stmt: Stmt) -> Result<Vec<T>, DbError> {
        match self {
            Db::Sqlite(pools) => all_sqlite(stmt, &mut *pools.reader.acquire().await?).await,
            Db::Postgres(pools) => {
                all_postgres(stmt, &mut TimeoutConnection::new(&pools.pool, pools.statement_timeout).await?).await
            }
        }
    }

    /// Reads the first row, if there is one.
    pub async fn first<T: DbRow>(&self, stmt: Stmt) -> Result<Option<T>, DbError> {
        Ok(self.all(stmt).await?.into_iter().next())
    }

    /// Reads the values of a statement with one column.
    pub async fn values<T>(&self, stmt: Stmt) -> Result<Vec<T>, DbError>
    where
        (T,): DbRow,
    {
        Ok(self.all(stmt).await?.into_iter().map(|(value,)| value).collect())
    }

    /// Reads the first value of a statement with one column, if there is a row.
    pub async fn value<T>(&self, stmt: Stmt) -> Result<Option<T>, DbError>
    where
        (T,): DbRow,
    {
        Ok(self.values(stmt).await?.into_iter().next())
    }

    /// Runs a statement that counts.
    pub async fn count(&self, stmt: Stmt) -> Result<u64, DbError> {
        Ok(self.value(stmt).await?.map_or(0, count))
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
        for count in [0, 1, 7, 137, 1500] {
            let mut tx = db.begin().await.unwrap();
            let rows = (0..count).map(|n: i64| vec![n.into(), Arg::from(n * 3)]).collect();
            let insert = Stmt::rows("insert into search_doc (item, number) values ", rows, "");
            assert_eq!(tx.run(insert).await.unwrap(), count as u64);
            let wanted: Vec<i64> = (0..count).map(|n| n * 3).collect();
            let rows = (0..count).map(|n| vec![Arg::from(n)]).collect();
            let joined =
                Stmt::rows("with v (n) as (values ", rows, ") select number from v join search_doc on item = n");
            assert_eq!(tx.values::<i64>(joined).await.unwrap(), wanted);
            let listed = |head| Stmt::list(head, Vec::new(), 0..count, "");
            assert_eq!(tx.values::<i64>(listed("select number from search_doc where item in ")).await.unwrap(), wanted);
            assert_eq!(tx.run(listed("delete from search_doc where item in ")).await.unwrap(), count as u64);
        }
        db.close().await;
    }
}
