//! What the dashboard and the metrics ask of all accounts at once: one statement each, however many accounts there are.

use std::collections::BTreeMap;

use super::{Db, DbError, sql};
use crate::clock::Time;
use crate::model::{Artifact, Stretch};

/// A stretch of time that one of an account's passes is satisfied with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoverageRow {
    /// The account's number.
    pub account: i64,
    /// The pass.
    pub pass: String,
    /// The stretch.
    pub stretch: Stretch,
}

/// Failed items that have artifact and reason in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureRow {
    /// The artifact.
    pub artifact: Artifact,
    /// Why the last try failed.
    pub reason: Option<String>,
    /// The number of one of the accounts that they are of.
    pub account: i64,
    /// Of how many accounts they are.
    pub accounts: u64,
    /// How many they are.
    pub items: u64,
}

impl Db {
    /// What the passes of all accounts are satisfied with, where it ends after `since`; by account, pass and time.
    pub async fn coverage_since(&self, since: Time) -> Result<Vec<CoverageRow>, DbError> {
        let stmt =
            sql("select account, pass, from_ms, to_ms from coverage where to_ms > $1 order by account, pass, from_ms");
        let rows = self.all(stmt.bind(since)).await?;
        rows.iter()
            .map(|row| {
                let stretch = Stretch { from: row.time(2)?, to: row.time(3)? };
                Ok(CoverageRow { account: row.int(0)?, pass: row.text(1)?, stretch })
            })
            .collect()
    }

    /// Why items have failed for good, the most frequent reasons first.
    pub async fn failures(&self, limit: u32) -> Result<Vec<FailureRow>, DbError> {
        // That the state is not 0 either lets SQLite use the index on settled items.
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

    /// How many records set aside no later read has settled, and when the first was seen, by sub-account.
    pub async fn open_asides(&self) -> Result<BTreeMap<String, (u64, Time)>, DbError> {
        let stmt = sql("select a.sub, count(*), min(x.first_seen) from aside x join account a on a.id = x.account
             where x.resolved is null group by a.sub");
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| Ok((row.text(0)?, (row.count(1)?, row.time(2)?)))).collect()
    }

    /// How late things were, over all accounts, as counts by power-of-two seconds: (kind, bucket, count).
    pub async fn lateness_of_all(&self) -> Result<Vec<(String, i64, u64)>, DbError> {
        let stmt = sql(
            "select kind, bucket, cast(sum(count) as bigint) from lateness group by kind, bucket order by kind, bucket",
        );
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?, row.count(2)?))).collect()
    }
}
