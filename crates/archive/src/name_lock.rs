//! A replica's name is its own: on Postgres, a lock that ends with its connection keeps a second one from using it.

use std::time::Duration;

use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;

use super::{Db, DbError, DbFault, PgPools, patient};

/// How often, and how far apart, a name is asked for before it is taken for someone else's.
const TRIES: u32 = 32;
const BETWEEN: Duration = Duration::from_millis(250);

/// The right to a replica's name, for as long as this is kept.
pub struct NameLock(Option<Held>);

struct Held {
    connection: PoolConnection<Postgres>,
    /// The server's process at the other end, and when it began.
    process: i32,
    began: i64,
}

const LOCK: &str = "select pg_try_advisory_lock(hashtextextended($1, 4711)), pid,
    (extract(epoch from backend_start) * 1000000)::bigint from pg_stat_activity where pid = pg_backend_pid()";

/// Ends a connection of this user's, if it is still the one that is meant.
const END: &str = "select pg_terminate_backend(pid) from pg_stat_activity
    where pid = $1 and (extract(epoch from backend_start) * 1000000)::bigint = $2";

impl Db {
    /// Takes the name. On SQLite the lock on the file has settled that already.
    ///
    /// # Errors
    /// Where another living process uses the name, or the database cannot be asked.
    pub async fn lock_name(&self, name: &str) -> Result<NameLock, DbError> {
        self.lock_name_again(name, &NameLock(None)).await
    }

    /// The same where an earlier lock's connection is gone. The server may not have noticed, and hold the lock for someone
    /// who is no more: it is told.
    ///
    /// # Errors
    /// As [`Db::lock_name`].
    pub async fn lock_name_again(&self, name: &str, lost: &NameLock) -> Result<NameLock, DbError> {
        let Db::Postgres(pools) = self else { return Ok(NameLock(None)) };
        if let Some(lost) = &lost.0 {
            let mut connection = pools.pool.acquire().await?;
            connection.close_on_drop();
            let end = sqlx::query(END).bind(lost.process).bind(lost.began);
            patient::at_once(end.execute(&mut *connection)).await?;
        }
        // After a crash the server may take a while to notice that the last holder's connection is gone.
        for _ in 0..TRIES {
            if let Some(lock) = try_lock(pools, name).await? {
                return Ok(lock);
            }
            tokio::time::sleep(BETWEEN).await;
        }
        Err(DbError::new(
            DbFault::Broken,
            format!(
                "failed to start: another replica named {name:?} is running on this database\nhint: give each replica a name of its own (database.instance, RINGCX__DATABASE__INSTANCE); by default it is the host's"
            ),
        ))
    }
}

async fn try_lock(pools: &PgPools, name: &str) -> Result<Option<NameLock>, DbError> {
    let mut connection = pools.pool.acquire().await?;
    // Never goes back into the pool: the lock ends with the connection.
    connection.close_on_drop();
    let query = sqlx::query_as::<_, (bool, i32, i64)>(LOCK);
    let query = query.bind(format!("ringcx-extractor replica {name}"));
    let (locked, process, began) = patient::at_once(query.fetch_one(&mut *connection)).await?;
    if !locked {
        return Ok(None);
    }
    Ok(Some(NameLock(Some(Held { connection, process, began }))))
}

impl NameLock {
    /// Makes sure that the connection, and with it the lock, is still there.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn still(&mut self) -> Result<(), DbError> {
        match &mut self.0 {
            Some(held) => patient::at_once(held.connection.ping()).await,
            None => Ok(()),
        }
    }
}
