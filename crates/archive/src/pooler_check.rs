//! Detects a connection pooler that gives each transaction another server connection.
//!
//! Through such a pooler (PgBouncer with `pool_mode = transaction`), session locks and prepared
//! statements belong to whoever uses the server connection next: a second daemon of the same name
//! would not be noticed. Session pooling works.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::DbError;

/// A pooler with a single server connection never gives the second one.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Refuses a pooler in transaction mode.
///
/// # Errors
/// Where it is one. A check that fails or takes too long shows nothing, and is no error.
pub(super) async fn refuse_transaction_pooling(options: &PgConnectOptions) -> Result<(), DbError> {
    match tokio::time::timeout(CHECK_TIMEOUT, changes_server_process(options)).await {
        Ok(Ok(true)) => Err(DbError::broken(
            "failed to open the database: database.url leads to a connection pooler in transaction mode",
            "connect to Postgres directly, or set pool_mode = session for this database (PgBouncer): session locks and prepared statements need it",
        )),
        _ => Ok(()),
    }
}

/// Whether a connection has another server process in a later transaction. Two connections end and
/// begin transactions in both orders, so that a pooler that hands out the process that became free
/// first, or last, exchanges the two.
async fn changes_server_process(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let (mut one, mut other) = (options.connect().await?, options.connect().await?);
    let first = (begin(&mut one).await?, begin(&mut other).await?);
    let mut changed = false;
    for is_reversed in [false, true] {
        let (earlier, later) = if is_reversed { (&mut other, &mut one) } else { (&mut one, &mut other) };
        for connection in [earlier, later] {
            sqlx::raw_sql("commit").execute(connection).await?;
        }
        changed |= (begin(&mut one).await?, begin(&mut other).await?) != first;
    }
    one.close().await?;
    other.close().await?;
    Ok(changed)
}

/// Begins a transaction; returns the id of its server process.
async fn begin(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("begin").execute(&mut *connection).await?;
    // Not prepared: a pooler may not know a prepared statement's name.
    let row = sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection).await?;
    sqlx::Row::try_get(&row, 0_usize)
}
