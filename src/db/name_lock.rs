//! A replica's name is its own: on Postgres, a lock that ends with its connection keeps a second one from using it.

use std::time::Duration;

use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;

use super::{Db, DbError, DbFault, PgPools};

/// How often, and how far apart, a name is asked for before it is taken for someone else's.
const TRIES: u32 = 32;
const BETWEEN: Duration = Duration::from_millis(250);

/// The right to a replica's name, for as long as this is kept.
pub struct NameLock(Option<PoolConnection<Postgres>>);

impl Db {
    /// Takes the name. On SQLite the lock on the file has settled that already.
    ///
    /// # Errors
    /// Where another living process uses the name, or the database cannot be asked.
    pub async fn lock_name(&self, name: &str) -> Result<NameLock, DbError> {
        let Db::Postgres(pools) = self else { return Ok(NameLock(None)) };
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
    let query = sqlx::query_scalar::<_, bool>("select pg_try_advisory_lock(hashtextextended($1, 4711))");
    if !query.bind(format!("ringcx-extractor replica {name}")).fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    // Never goes back into the pool: the lock ends with the connection.
    connection.close_on_drop();
    Ok(Some(NameLock(Some(connection))))
}

impl NameLock {
    /// Makes sure that the connection, and with it the lock, is still there.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn still(&mut self) -> Result<(), DbError> {
        match &mut self.0 {
            Some(connection) => connection.ping().await.map_err(DbError::from),
            None => Ok(()),
        }
    }
}
