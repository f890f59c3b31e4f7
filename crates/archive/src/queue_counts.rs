//! Counts of work items for status, metrics and dashboard.

use std::collections::BTreeMap;

use super::sql::{ArtifactCode, StateCode, count};
use super::{AccountKey, Db, DbError, sql};
use crate::clock::Time;
use crate::model::{Artifact, ItemState};

/// An account's work items by state. Items that are being refreshed are not counted here, but in
/// `account.done`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Due now, including those being fetched.
    pub ready: u64,
    /// Backing off.
    pub waiting: u64,
    /// Given up at the horizon.
    pub unavailable: u64,
    /// Require manual intervention.
    pub failed: u64,
    /// Discarded by an operator.
    pub discarded: u64,
    /// When the oldest ready or waiting item was queued.
    pub oldest: Option<Time>,
    /// When the oldest failed item was queued.
    pub failed_since: Option<Time>,
}

/// Work items with the same account, artifact, state and reason.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct QueueGroup {
    /// Key of the account.
    pub account: AccountKey,
    /// The artifact to fetch.
    #[sqlx(try_from = "ArtifactCode")]
    pub artifact: Artifact,
    /// The state.
    #[sqlx(try_from = "StateCode")]
    pub state: ItemState,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// Number of items.
    #[sqlx(try_from = "i64")]
    pub items: u64,
}

impl Db {
    /// Work items by account, artifact, state and reason, the largest groups first.
    pub async fn queue_groups(&self) -> Result<Vec<QueueGroup>, DbError> {
        let stmt = sql("select account, artifact, state, reason, count(*) as items from work where visit = 0
             group by account, artifact, state, reason order by 5 desc, 1, 2, 3, 4");
        self.all(stmt).await
    }

    /// Work items by state, for each account that has any.
    pub async fn queue_counts(&self, now: Time) -> Result<BTreeMap<AccountKey, QueueCounts>, DbError> {
        let stmt = sql("select account, state, sum(case when due <= $1 then 1 else 0 end), count(*), min(created)
             from work where visit = 0 group by account, state");
        let mut counts: BTreeMap<AccountKey, QueueCounts> = BTreeMap::new();
        type Group = (AccountKey, i64, i64, i64, Option<Time>);
        for (account, state, due, all, oldest) in self.all::<Group>(stmt.bind(now)).await? {
            let entry = counts.entry(account).or_default();
            let (due, all) = (count(due), count(all));
            match state {
                0 => (entry.ready, entry.waiting, entry.oldest) = (due, all.saturating_sub(due), oldest),
                1 => entry.unavailable = all,
                2 => (entry.failed, entry.failed_since) = (all, oldest),
                _ => entry.discarded = all,
            }
        }
        Ok(counts)
    }
}
