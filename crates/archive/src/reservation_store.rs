//! Reserved quotas of few requests, stored as rows, so that restarts, `check` and other replicas
//! share them.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Db, DbError, DbFault, Row, sql};
use crate::clock::Time;
use crate::ringcx::rate_limit::{MAX_ARRIVAL_DELAY, ReservationStore, SlidingWindowLimiter, StoreError};

impl Db {
    async fn reserve(&self, key: &str, limits: &SlidingWindowLimiter, now: Time) -> Result<Result<i64, Time>, DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock(key).await?;
        // Rows use the database's clock, which all machines share. The result is converted to the
        // caller's.
        let offset_ms = tx.clock_offset_ms(now).await?;
        let database_now = now.plus_millis(offset_ms);
        // Rows with a future time were written before a clock was set back.
        tx.run(
            sql("update reservation set reserved = $2 where key = $1 and reserved > $2").bind(key).bind(database_now),
        )
        .await?;
        tx.run(sql("update reservation set counted = $2 where key = $1 and counted > $2").bind(key).bind(database_now))
            .await?;
        let cutoff = database_now - limits.log_span() - MAX_ARRIVAL_DELAY;
        tx.run(
            sql("delete from reservation where key = $1 and reserved < $2 and (counted is null or counted < $2)")
                .bind(key)
                .bind(cutoff),
        )
        .await?;
        let rows = tx.all(sql("select reserved, counted from reservation where key = $1").bind(key)).await?;
        let log = rows.iter().map(effective_time).collect::<Result<Vec<_>, _>>()?;
        let earliest = limits.earliest_send(&log, database_now);
        let mut id = Err(earliest.plus_millis(-offset_ms));
        if earliest <= database_now {
            let stmt = sql("insert into reservation (key, reserved) values ($1, $2) returning id");
            let row = tx.first(stmt.bind(key).bind(database_now)).await?;
            let row =
                row.ok_or_else(|| DbError::new(DbFault::Broken, "the database returned no key for a reservation"))?;
            id = Ok(row.int(0)?);
        }
        tx.commit().await?;
        Ok(id)
    }
}

/// The latest time at which the server can have counted the request.
fn effective_time(row: &Row) -> Result<Time, DbError> {
    Ok(match row.maybe_time(1)? {
        Some(counted) => counted,
        None => row.time(0)? + MAX_ARRIVAL_DELAY,
    })
}

impl ReservationStore for Db {
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a SlidingWindowLimiter,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        async move { self.reserve(key, limits, now).await.map_err(StoreError::from) }.boxed()
    }

    fn mark_counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut tx = self.begin().await?;
            let offset_ms = tx.clock_offset_ms(at).await?;
            tx.run(sql("update reservation set counted = $2 where id = $1").bind(id).bind(at.plus_millis(offset_ms)))
                .await?;
            tx.commit().await?;
            Ok(())
        }
        .boxed()
    }

    fn effective_times<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        async move {
            let stmt = sql("select reserved, counted from reservation where key = $1");
            let rows = self.all(stmt.bind(key)).await?;
            let times = rows.iter().map(effective_time).collect::<Result<Vec<_>, _>>()?;
            Ok(times.into_iter().filter(|at| *at >= since).collect())
        }
        .boxed()
    }
}
