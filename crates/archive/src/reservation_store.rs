//! Reserved quotas of few requests, stored as rows, so that restarts, `check` and other replicas
//! share them.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Db, DbError, sql};
use crate::clock::{Time, millis};
use crate::ringcx::rate_limit::{MAX_ARRIVAL_DELAY, ReservationStore, SlidingWindowLimiter, StoreError};

impl Db {
    async fn reserve(&self, key: &str, limits: &SlidingWindowLimiter, now: Time) -> Result<Result<i64, Time>, DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock(key).await?;
        // Rows use the database's clock, which all machines share. The result is converted to the
        // caller's.
        let offset_ms = tx.clock_offset_ms(now).await?;
        let database_now = now.plus_millis(offset_ms);
        for text in [
            // Rows with a future time were written before a clock was set back.
            "update reservation set reserved = $2 where key = $1 and reserved > $2",
            "update reservation set counted = $2 where key = $1 and counted > $2",
        ] {
            tx.run(sql(text).bind(key).bind(database_now)).await?;
        }
        let stmt =
            sql("delete from reservation where key = $1 and reserved < $2 and (counted is null or counted < $2)");
        tx.run(stmt.bind(key).bind(database_now - limits.log_span() - MAX_ARRIVAL_DELAY)).await?;
        let log = tx.values(sql(SELECT_EFFECTIVE_TIMES).bind(key).bind(millis(MAX_ARRIVAL_DELAY))).await?;
        let earliest = limits.earliest_send(&log, database_now);
        let mut id = Err(earliest.plus_millis(-offset_ms));
        if earliest <= database_now {
            let stmt = sql("insert into reservation (key, reserved) values ($1, $2) returning id");
            let new = tx.value(stmt.bind(key).bind(database_now)).await?;
            id = Ok(new.ok_or_else(|| DbError::missing_row("reservation", key))?);
        }
        tx.commit().await?;
        Ok(id)
    }
}

/// The latest times at which the server can have counted the requests.
const SELECT_EFFECTIVE_TIMES: &str = "select coalesce(counted, reserved + $2) from reservation where key = $1";

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
            let stmt = sql(SELECT_EFFECTIVE_TIMES).bind(key).bind(millis(MAX_ARRIVAL_DELAY));
            let times: Vec<Time> = self.values(stmt).await?;
            Ok(times.into_iter().filter(|at| *at >= since).collect())
        }
        .boxed()
    }
}
