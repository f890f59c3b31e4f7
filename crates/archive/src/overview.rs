//! What the status of all accounts needs beside their counts, in one statement each.

use super::{Db, DbError, sql};
use crate::clock::Time;
use crate::model::Stretch;

impl Db {
    /// What has been read at all, of every account: the account's number and a stretch, in order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn live_coverage(&self) -> Result<Vec<(i64, Stretch)>, DbError> {
        let rows = self
            .all(sql("select account, from_ms, to_ms from coverage where pass = 'live' order by account, from_ms"))
            .await?;
        rows.iter().map(|row| Ok((row.int(0)?, Stretch { from: row.time(1)?, to: row.time(2)? }))).collect()
    }

    /// What has been read of each backfill that is open, by its number.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn backfill_coverage(&self) -> Result<Vec<(i64, Stretch)>, DbError> {
        let stmt = sql("select b.id, c.from_ms, c.to_ms from backfill b join coverage c
             on c.account = b.account and c.pass = 'backfill:' || b.id where b.finished is null order by b.id, c.from_ms");
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| Ok((row.int(0)?, Stretch { from: row.time(1)?, to: row.time(2)? }))).collect()
    }

    /// What time it is by the clock that replicas' signs of life are timed by, where it is `now` by ours.
    ///
    /// # Errors
    /// Where the database cannot be asked.
    pub async fn here(&self, now: Time) -> Result<Time, DbError> {
        Ok(match self {
            Db::Sqlite(_) => now,
            Db::Postgres(_) => now.plus_millis(self.begin().await?.clock_ahead(now).await?),
        })
    }
}
