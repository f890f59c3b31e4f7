//! Queries of the dashboard and the metrics over all accounts: one statement each, for any number
//! of accounts.

use std::collections::BTreeMap;

use super::{Db, DbError, sql};
use crate::clock::Time;
use crate::model::{Artifact, TimeRange};

/// A range that is covered for one of an account's purposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoverageRow {
    /// Key of the account.
    pub account: i64,
    /// The purpose of the reads.
    pub purpose: String,
    /// The covered range.
    pub range: TimeRange,
}

/// Failed items with the same artifact and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureRow {
    /// The artifact.
    pub artifact: Artifact,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// Key of one of the accounts concerned.
    pub account: i64,
    /// Number of accounts concerned.
    pub accounts: u64,
    /// Number of items.
    pub items: u64,
}

impl Db {
    /// Covered ranges of all accounts that end after `since`, by account, purpose and time.
    pub async fn coverage_since(&self, since: Time) -> Result<Vec<CoverageRow>, DbError> {
        let stmt =
            sql("select account, pass, from_ms, to_ms from coverage where to_ms > $1 order by account, pass, from_ms");
        let rows = self.all(stmt.bind(since)).await?;
        rows.iter()
            .map(|row| {
                let range = TimeRange { from: row.time(2)?, to: row.time(3)? };
                Ok(CoverageRow { account: row.int(0)?, purpose: row.text(1)?, range })
            })
            .collect()
    }

    /// Reasons of failed items, the most frequent first.
    pub async fn failures(&self, limit: u32) -> Result<Vec<FailureRow>, DbError> {
        // `state <> 0` is redundant, but lets SQLite use the partial index on closed items.
        let stmt = sql("select artifact, reason, min(account), count(distinct account), count(*) from work
             where state = 2 and state <> 0 group by artifact, reason order by 5 desc, 1, 2 limit $1");
        let rows = self.all(stmt.bind(limit)).await?;
        let mut failures = Vec::with_capacity(rows.len());
        for row in &rows {
            let account = row.int(2)?;
            failures.push(FailureRow {
                artifact: row.code(0, ("work.artifact", account), Artifact::from_code)?,
                reason: row.maybe_text(1)?,
                account,
                accounts: row.count(3)?,
                items: row.count(4)?,
            });
        }
        Ok(failures)
    }

    /// Number of unresolved quarantined records, and when the first one was seen, by sub-account.
    pub async fn open_quarantine_counts(&self) -> Result<BTreeMap<String, (u64, Time)>, DbError> {
        let stmt = sql("select a.sub, count(*), min(x.first_seen) from aside x join account a on a.id = x.account
             where x.resolved is null group by a.sub");
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| Ok((row.text(0)?, (row.count(1)?, row.time(2)?)))).collect()
    }

    /// The latency histogram over all accounts: kind, bucket (binary logarithm of the seconds),
    /// count.
    pub async fn lateness_of_all(&self) -> Result<Vec<(String, i64, u64)>, DbError> {
        let stmt = sql(
            "select kind, bucket, cast(sum(count) as bigint) from lateness group by kind, bucket order by kind, bucket",
        );
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?, row.count(2)?))).collect()
    }
}
