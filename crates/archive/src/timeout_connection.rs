//! Connections to Postgres with a time-out for every response.
//!
//! A server can vanish without closing the connection: its machine loses power, or a firewall drops
//! the state. The connection then looks alive and never answers. So the server cancels the daemon's
//! statements after a time-out, and a connection without even that response is closed. The server
//! in turn checks with keepalives whether the client still exists, so that the locks of a dead
//! connection are not held for hours.

use std::future::Future;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{PgConnection, PgPool};

use super::{DbError, DbFault};

/// How long a statement of the daemon may take. In normal operation none takes a second.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for the response after the statement's time-out.
const RESPONSE_GRACE: Duration = Duration::from_secs(3);

/// Time-out of statements that need hardly any time.
const QUICK_QUERY_TIMEOUT: Duration = Duration::from_secs(4);

/// Settings for each connection of the daemon. A transaction is idle between statements only where
/// the process was stopped or the network lost the connection. The server then rolls it back, so
/// that the next owner of the account does not wait long for its locks.
pub(super) const SESSION_SETTINGS: &str = "set statement_timeout = 30000; set idle_in_transaction_session_timeout = 10000; \
    set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3";

/// A connection, for one statement or one transaction.
pub struct TimeoutConnection {
    connection: PoolConnection<Postgres>,
    timeout: Option<Duration>,
    /// Whether a response is outstanding: the connection cannot be reused then.
    awaits_response: bool,
    /// Whether a transaction is open.
    in_transaction: bool,
}

impl TimeoutConnection {
    /// Takes a connection out of the pool; `timeout` applies to each of its responses.
    pub(super) async fn new(pool: &PgPool, timeout: Option<Duration>) -> Result<TimeoutConnection, DbError> {
        Ok(TimeoutConnection {
            connection: pool.acquire().await?,
            timeout,
            awaits_response: false,
            in_transaction: false,
        })
    }

    /// Takes a connection out of the pool and begins a transaction with `begin_sql`.
    pub(super) async fn begin(
        pool: &PgPool,
        timeout: Option<Duration>,
        begin_sql: &'static str,
    ) -> Result<TimeoutConnection, DbError> {
        let mut connection = TimeoutConnection::new(pool, timeout).await?;
        connection.in_transaction = true;
        let begin = sqlx::raw_sql(begin_sql).execute(&mut *connection.connection);
        with_timeout(connection.timeout, &mut connection.awaits_response, begin).await?;
        Ok(connection)
    }

    pub(super) async fn run(&mut self, query: Query<'static, Postgres, PgArguments>) -> Result<u64, DbError> {
        let result = query.execute(&mut *self.connection);
        Ok(with_timeout(self.timeout, &mut self.awaits_response, result).await?.rows_affected())
    }

    pub(super) async fn all(&mut self, query: Query<'static, Postgres, PgArguments>) -> Result<Vec<PgRow>, DbError> {
        with_timeout(self.timeout, &mut self.awaits_response, query.fetch_all(&mut *self.connection)).await
    }

    pub(super) async fn commit(mut self) -> Result<(), DbError> {
        let commit = sqlx::raw_sql("commit").execute(&mut *self.connection);
        with_timeout(self.timeout, &mut self.awaits_response, commit).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// The connection itself, for operations without a time-out.
    pub(super) fn raw_connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for TimeoutConnection {
    fn drop(&mut self) {
        // The pool would test the connection, and wait for the response. The server rolls back when
        // it is closed.
        if self.awaits_response || self.in_transaction {
            self.connection.close_on_drop();
        }
    }
}

/// The response, or an error where there was none in time. `awaits_response` stays set where there
/// was none, or where the future was dropped.
async fn with_timeout<T>(
    timeout: Option<Duration>,
    awaits_response: &mut bool,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DbError> {
    *awaits_response = true;
    let answer = match timeout {
        Some(timeout) => {
            tokio::time::timeout(timeout + RESPONSE_GRACE, answer).await.map_err(|_| no_response_error(timeout))?
        }
        None => answer.await,
    };
    *awaits_response = false;
    Ok(answer?)
}

fn no_response_error(timeout: Duration) -> DbError {
    let seconds = (timeout + RESPONSE_GRACE).as_secs();
    DbError::new(DbFault::Unavailable, format!("the database has not answered for {seconds} s: closing the connection"))
}

/// The response to a statement that needs hardly any time, or an error after
/// [`QUICK_QUERY_TIMEOUT`] and a grace period.
pub(super) async fn with_quick_timeout<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, DbError> {
    with_timeout(Some(QUICK_QUERY_TIMEOUT), &mut false, answer).await
}
