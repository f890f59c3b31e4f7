//! Queries of the dashboard and the metrics over all accounts: one statement each, for any number
//! of accounts.

use std::collections::BTreeMap;

use super::sql::{ArtifactCode, count};
use super::{AccountKey, Db, DbError, sql};
use crate::clock::Time;
use crate::model::{Artifact, TimeRange};

/// A range that is covered for one of an account's purposes.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct CoverageRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The purpose of the reads.
    #[sqlx(rename = "pass")]
    pub purpose: String,
    /// The covered range.
    #[sqlx(flatten)]
    pub range: TimeRange,
}

/// Failed items with the same artifact and reason.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct FailureRow {
    /// The artifact.
    #[sqlx(try_from = "ArtifactCode")]
    pub artifact: Artifact,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// Key of one of the accounts concerned.
    pub account: AccountKey,
    /// Number of accounts concerned.
    #[sqlx(try_from = "i64")]
    pub accounts: u64,
    /// Number of items.
    #[sqlx(try_from = "i64")]
    pub items: u64,
}

impl Db {
    /// Covered ranges of all accounts that end after `since`, by account, purpose and time.
    pub async fn coverage_since(&self, since: Time) -> Result<Vec<CoverageRow>, DbError> {
        let stmt =
            sql("select account, pass, from_ms, to_ms from coverage where to_ms > $1 order by account, pass, from_ms");
        self.all(stmt.bind(since)).await
    }

    /// Reasons of failed items, the most frequent first.
    pub async fn failures(&self, limit: u32) -> Result<Vec<FailureRow>, DbError> {
        // `state <> 0` is redundant, but lets SQLite use the partial index on closed items.
        let stmt = sql("select min(account) as account, artifact, reason, count(distinct account) as accounts, count(*) as items from work
             where state = 2 and state <> 0 group by artifact, reason order by 5 desc, 2, 3 limit $1");
        self.all(stmt.bind(limit)).await
    }

    /// Number of unresolved quarantined records, and when the first one was seen, by sub-account.
    pub async fn open_quarantine_counts(&self) -> Result<BTreeMap<String, (u64, Time)>, DbError> {
        let stmt = sql("select a.sub, count(*), min(x.first_seen) from aside x join account a on a.id = x.account
             where x.resolved is null group by a.sub");
        let rows: Vec<(String, i64, Time)> = self.all(stmt).await?;
        Ok(rows.into_iter().map(|(sub, records, first)| (sub, (count(records), first))).collect())
    }

    /// The latency histogram of one account: kind, bucket, count; see [`Db::lateness_of_all`].
    pub async fn lateness_of(&self, account: AccountKey) -> Result<Vec<(String, i64, u64)>, DbError> {
        let stmt = sql("select kind, bucket, count from lateness where account = $1 order by kind, bucket");
        let rows: Vec<(String, i64, i64)> = self.all(stmt.bind(account)).await?;
        Ok(rows.into_iter().map(|(kind, bucket, many)| (kind, bucket, count(many))).collect())
    }

    /// The latency histogram over all accounts: kind, bucket (binary logarithm of the seconds),
    /// count.
    pub async fn lateness_of_all(&self) -> Result<Vec<(String, i64, u64)>, DbError> {
        let stmt = sql(
            "select kind, bucket, cast(sum(count) as bigint) from lateness group by kind, bucket order by kind, bucket",
        );
        let rows: Vec<(String, i64, i64)> = self.all(stmt).await?;
        Ok(rows.into_iter().map(|(kind, bucket, many)| (kind, bucket, count(many))).collect())
    }
}
