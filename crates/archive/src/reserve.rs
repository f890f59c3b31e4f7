//! Budgets of a few requests, kept as rows so that restarts, `check` and other replicas share one truth.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Db, DbError, DbFault, Row, sql};
use crate::clock::Time;
use crate::ringcx::limits::{LATEST_ARRIVAL, ReserveStore, Sliding, StoreError};

impl Db {
    async fn reserve(&self, key: &str, limits: &Sliding, now: Time) -> Result<Result<i64, Time>, DbError> {
        let mut tx = self.begin().await?;
        tx.lock_key(key).await?;
        // Several machines share the database's clock; what is answered is translated to the caller's.
        let ahead = tx.clock_ahead(now).await?;
        let here = now.plus_millis(ahead);
        // Rows from the future are from before a clock was set back.
        tx.run(sql("update reservation set reserved = $2 where key = $1 and reserved > $2").bind(key).bind(here))
            .await?;
        tx.run(sql("update reservation set counted = $2 where key = $1 and counted > $2").bind(key).bind(here)).await?;
        let old = here - limits.memory() - LATEST_ARRIVAL;
        tx.run(
            sql("delete from reservation where key = $1 and reserved < $2 and (counted is null or counted < $2)")
                .bind(key)
                .bind(old),
        )
        .await?;
        let rows = tx.all(sql("select reserved, counted from reservation where key = $1").bind(key)).await?;
        let log = rows.iter().map(effective).collect::<Result<Vec<_>, _>>()?;
        let earliest = limits.earliest(&log, here);
        let mut id = Err(earliest.plus_millis(-ahead));
        if earliest <= here {
            let stmt = sql("insert into reservation (key, reserved) values ($1, $2) returning id");
            let row = tx.first(stmt.bind(key).bind(here)).await?;
            let row = row.ok_or_else(|| DbError::new(DbFault::Broken, "the database did not number a reservation"))?;
            id = Ok(row.int(0)?);
        }
        tx.commit().await?;
        Ok(id)
    }
}

/// The latest moment at which the server can have counted the request.
fn effective(row: &Row) -> Result<Time, DbError> {
    Ok(match row.maybe_time(1)? {
        Some(counted) => counted,
        None => row.time(0)? + LATEST_ARRIVAL,
    })
}

impl ReserveStore for Db {
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a Sliding,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        async move { self.reserve(key, limits, now).await.map_err(StoreError::from) }.boxed()
    }

    fn counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut tx = self.begin().await?;
            let ahead = tx.clock_ahead(at).await?;
            tx.run(sql("update reservation set counted = $2 where id = $1").bind(id).bind(at.plus_millis(ahead)))
                .await?;
            tx.commit().await?;
            Ok(())
        }
        .boxed()
    }

    fn log<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        async move {
            let stmt = sql("select reserved, counted from reservation where key = $1");
            let rows = self.all(stmt.bind(key)).await?;
            let times = rows.iter().map(effective).collect::<Result<Vec<_>, _>>()?;
            Ok(times.into_iter().filter(|at| *at >= since).collect())
        }
        .boxed()
    }
}
