//! Queries of the dashboard and the metrics over all accounts: one statement each, for any number
//! of accounts.

use std::collections::BTreeMap;

use super::sql::count;
use super::{AccountKey, Db, DbError, sql};
use crate::clock::Time;

impl Db {
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
