//! Counts for status, metrics and the dashboard, and the bell that wakes a running daemon.

use std::collections::BTreeMap;

use super::{Db, DbError, sql};
use crate::clock::Time;

/// An account's work by state. What has been answered once is in `done`, also while it is asked for again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Due now, those being fetched included.
    pub ready: u64,
    /// Backing off.
    pub waiting: u64,
    /// Gave up at the horizon.
    pub unavailable: u64,
    /// Will not work without a person.
    pub failed: u64,
    /// A person gave it up.
    pub discarded: u64,
    /// When the segment of the oldest item that is ready or waiting was first seen.
    pub oldest: Option<Time>,
    /// The same of the oldest item that has failed.
    pub failed_since: Option<Time>,
}

impl Db {
    /// Work by state, for each account that has any.
    pub async fn counts(&self, now: Time) -> Result<BTreeMap<i64, Counts>, DbError> {
        let stmt = sql("select account, state, sum(case when due <= $1 then 1 else 0 end), count(*), min(created)
             from work where visit = 0 group by account, state");
        let mut counts: BTreeMap<i64, Counts> = BTreeMap::new();
        for row in self.all(stmt.bind(now)).await? {
            let entry = counts.entry(row.int(0)?).or_default();
            let (due, all) = (row.count(2)?, row.count(3)?);
            match row.int(1)? {
                0 => {
                    entry.ready = due;
                    entry.waiting = all.saturating_sub(due);
                    entry.oldest = row.maybe_time(4)?;
                }
                1 => entry.unavailable = all,
                2 => (entry.failed, entry.failed_since) = (all, row.maybe_time(4)?),
                _ => entry.discarded = all,
            }
        }
        Ok(counts)
    }

    /// Tells a running daemon that a person changed something.
    pub async fn ring(&self) -> Result<(), DbError> {
        self.run(sql("update bell set rings = rings + 1 where id = 1")).await.map(drop)
    }

    /// How often it was rung.
    pub async fn rings(&self) -> Result<i64, DbError> {
        let row = self.first(sql("select rings from bell where id = 1")).await?;
        Ok(row.map(|row| row.int(0)).transpose()?.unwrap_or_default())
    }

    /// How late things were, as counts by power-of-two seconds: (kind, bucket, count).
    pub async fn lateness(&self, account: i64) -> Result<Vec<(String, i64, u64)>, DbError> {
        let stmt = sql("select kind, bucket, count from lateness where account = $1 order by kind, bucket");
        let rows = self.all(stmt.bind(account)).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?, row.count(2)?))).collect()
    }
}
