//! The instance lock: on Postgres, an advisory lock on the replica's name keeps a second process
//! from using the name. It ends with its connection.

use std::time::Duration;

use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;

use super::{Db, DbError, PgPools, sql, timeout_connection};

/// How often, and at which interval, to try the lock before the name counts as in use.
const LOCK_ATTEMPTS: u32 = 32;
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(250);

/// The right to a replica's name, until this is dropped.
pub struct InstanceLock(Option<LockSession>);

struct LockSession {
    connection: PoolConnection<Postgres>,
    /// The server process of the connection, and when it started.
    backend_pid: i32,
    backend_start_us: i64,
}

const SQL_TRY_LOCK: &str = "select pg_try_advisory_lock(hashtextextended($1, 4711)), pid,
    (extract(epoch from backend_start) * 1000000)::bigint from pg_stat_activity where pid = pg_backend_pid()";

/// Terminates a server process of this user, if its start time shows that its id was not reused.
const SQL_TERMINATE_BACKEND: &str = "select pg_terminate_backend(pid) from pg_stat_activity
    where pid = $1 and (extract(epoch from backend_start) * 1000000)::bigint = $2";

impl Db {
    /// Locks the name. On SQLite the lock on the file excludes a second daemon already.
    ///
    /// # Errors
    /// Where another process uses the name, or the query fails.
    pub async fn lock_instance(&self, name: &str) -> Result<InstanceLock, DbError> {
        self.relock_instance(name, &InstanceLock(None)).await
    }

    /// Whether a daemon holds its instance lock on this database now, whatever the heartbeats in a
    /// restored dump say. Always false on SQLite.
    pub async fn is_instance_locked(&self) -> Result<bool, DbError> {
        if self.sqlite_path().is_some() {
            return Ok(false);
        }
        let stmt = sql("select count(*) from pg_locks l join pg_database d on d.oid = l.database
             where d.datname = current_database() and l.locktype = 'advisory' and l.granted and l.pid <> pg_backend_pid()");
        Ok(self.count(stmt).await? > 0)
    }

    /// Locks the name again after the connection of an earlier lock was lost. The server may not
    /// have noticed and still hold the lock for it, so its server process is terminated first.
    ///
    /// # Errors
    /// As [`Db::lock_instance`].
    pub async fn relock_instance(&self, name: &str, lost: &InstanceLock) -> Result<InstanceLock, DbError> {
        let Db::Postgres(pools) = self else { return Ok(InstanceLock(None)) };
        if let Some(lost) = &lost.0 {
            let mut connection = pools.pool.acquire().await?;
            connection.close_on_drop();
            let end = sqlx::query(SQL_TERMINATE_BACKEND).bind(lost.backend_pid).bind(lost.backend_start_us);
            timeout_connection::with_quick_timeout(end.execute(&mut *connection)).await?;
        }
        // After a crash the server may need a while to notice that the previous holder's connection
        // is closed.
        for _ in 0..LOCK_ATTEMPTS {
            if let Some(lock) = try_lock(pools, name).await? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_RETRY_DELAY).await;
        }
        Err(DbError::broken(
            format!("failed to start: another replica named {name:?} is running on this database"),
            "give each replica a unique name (database.instance, RINGCX__DATABASE__INSTANCE); the default is the host's name",
        ))
    }
}

async fn try_lock(pools: &PgPools, name: &str) -> Result<Option<InstanceLock>, DbError> {
    let mut connection = pools.pool.acquire().await?;
    // Never returned to the pool: the lock ends with the connection.
    connection.close_on_drop();
    let query = sqlx::query_as::<_, (bool, i32, i64)>(SQL_TRY_LOCK);
    let query = query.bind(format!("ringcx-extractor replica {name}"));
    let (locked, backend_pid, backend_start_us) =
        timeout_connection::with_quick_timeout(query.fetch_one(&mut *connection)).await?;
    if !locked {
        return Ok(None);
    }
    Ok(Some(InstanceLock(Some(LockSession { connection, backend_pid, backend_start_us }))))
}

impl InstanceLock {
    /// Checks that the connection, and with it the lock, still exists.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn ensure_held(&mut self) -> Result<(), DbError> {
        match &mut self.0 {
            Some(session) => timeout_connection::with_quick_timeout(session.connection.ping()).await,
            None => Ok(()),
        }
    }
}
