//! Connections to Postgres that do not wait for ever.
//!
//! A server that is gone without a word (its machine lost power, a firewall forgot the connection) leaves a connection
//! that looks alive and never answers, and whatever waits for it would wait for good. So what the daemon asks has a time:
//! the server is told to give a statement up by itself, and a connection on which not even that is heard is thrown away.
//! The same the other way round: the server is told to look whether this program is still there, so that what a dead
//! connection has locked does not stay so for hours.

use std::future::Future;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::{DbError, DbFault};

/// How long a statement of the daemon's may take. None takes a second where all is well.
pub(super) const STATEMENT: Duration = Duration::from_secs(30);

/// How much longer its answer is waited for.
const GRACE: Duration = Duration::from_secs(3);

/// What takes no time at all may take so long.
const AT_ONCE: Duration = Duration::from_secs(4);

/// What a connection of the daemon's is told first. Between two statements of a transaction no time passes, unless this program
/// was stopped or the network lost the connection: then the server undoes the transaction, before whoever takes the account over
/// has waited for its lock for long.
pub(super) const MANNERS: &str = "set statement_timeout = 30000; set idle_in_transaction_session_timeout = 10000; \
    set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3";

/// A connection, for one statement or one transaction.
pub struct Patient {
    connection: PoolConnection<Postgres>,
    patience: Option<Duration>,
    /// Whether an answer is still to come: then it is of no use to anyone else.
    waits: bool,
    /// Whether there is a transaction to undo.
    open: bool,
}

impl Patient {
    /// Takes a connection out of the pool; `patience` is for each answer on it.
    pub(super) async fn new(pool: &PgPool, patience: Option<Duration>) -> Result<Patient, DbError> {
        Ok(Patient { connection: pool.acquire().await?, patience, waits: false, open: false })
    }

    /// The same, with a transaction begun.
    pub(super) async fn begun(
        pool: &PgPool,
        patience: Option<Duration>,
        how: &'static str,
    ) -> Result<Patient, DbError> {
        let mut begun = Patient::new(pool, patience).await?;
        begun.open = true;
        let begin = sqlx::raw_sql(how).execute(&mut *begun.connection);
        within(begun.patience, &mut begun.waits, begin).await?;
        Ok(begun)
    }

    pub(super) async fn run(
        &mut self,
        text: AssertSqlSafe<String>,
        args: PgArguments,
        keep: bool,
    ) -> Result<u64, DbError> {
        let query = sqlx::query_with(text, args).persistent(keep);
        let done = within(self.patience, &mut self.waits, query.execute(&mut *self.connection)).await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn all(
        &mut self,
        text: AssertSqlSafe<String>,
        args: PgArguments,
        keep: bool,
    ) -> Result<Vec<PgRow>, DbError> {
        let query = sqlx::query_with(text, args).persistent(keep);
        within(self.patience, &mut self.waits, query.fetch_all(&mut *self.connection)).await
    }

    pub(super) async fn commit(mut self) -> Result<(), DbError> {
        let commit = sqlx::raw_sql("commit").execute(&mut *self.connection);
        within(self.patience, &mut self.waits, commit).await?;
        self.open = false;
        Ok(())
    }

    /// The connection itself, for what takes as long as it takes.
    pub(super) fn bare(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        // The pool would first ask it whether it is well, and wait for that. The server undoes what is open when it goes.
        if self.waits || self.open {
            self.connection.close_on_drop();
        }
    }
}

/// The answer, or that there was none in time. `waits` stays set where there was none, or nobody waited for it.
async fn within<T>(
    patience: Option<Duration>,
    waits: &mut bool,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DbError> {
    *waits = true;
    let answer = match patience {
        Some(patience) => tokio::time::timeout(patience + GRACE, answer).await.map_err(|_| silent(patience))?,
        None => answer.await,
    };
    *waits = false;
    Ok(answer?)
}

fn silent(patience: Duration) -> DbError {
    let seconds = (patience + GRACE).as_secs();
    DbError::new(DbFault::Away, format!("the database has not answered for {seconds} s: the connection is given up"))
}

/// The answer to what takes no time at all, for as long as a connection may be silent then.
pub(super) async fn at_once<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, DbError> {
    within(Some(AT_ONCE), &mut false, answer).await
}
