//! Queries of the status over all accounts, in one statement each.

use super::{AccountKey, Db, DbError, DbRow, Stmt, sql};
use crate::clock::Time;
use crate::model::TimeRange;

impl Db {
    /// The live coverage of all accounts: key of the account and range, in order.
    pub async fn live_coverage(&self) -> Result<Vec<(AccountKey, TimeRange)>, DbError> {
        let stmt = sql("select account, from_ms, to_ms from coverage where pass = 'live' order by account, from_ms");
        self.ranges_by_key(stmt).await
    }

    /// The coverage of open backfills: key of the backfill and range, in order.
    pub async fn backfill_coverage(&self) -> Result<Vec<(i64, TimeRange)>, DbError> {
        let stmt = sql("select b.id, c.from_ms, c.to_ms from backfill b join coverage c
             on c.account = b.account and c.pass = 'backfill:' || b.id where b.finished is null order by b.id, c.from_ms");
        self.ranges_by_key(stmt).await
    }

    async fn ranges_by_key<K>(&self, stmt: Stmt) -> Result<Vec<(K, TimeRange)>, DbError>
    where
        (K, Time, Time): DbRow,
    {
        let rows: Vec<(K, Time, Time)> = self.all(stmt).await?;
        Ok(rows.into_iter().map(|(key, from, to)| (key, TimeRange { from, to })).collect())
    }

    /// The time of the clock that stamps heartbeats, where the local clock shows `now`: on Postgres
    /// the server's clock.
    pub async fn database_now(&self, now: Time) -> Result<Time, DbError> {
        Ok(match self {
            Db::Sqlite(_) => now,
            Db::Postgres(_) => now.plus_millis(self.begin().await?.clock_offset_ms(now).await?),
        })
    }
}
