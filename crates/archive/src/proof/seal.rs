//! Writing the daily manifests.

use super::{Beside, Db, DbError, JOURNAL, Manifest, START, day_over, sql};
use crate::Owned;
use crate::clock::Time;
use crate::hash_chain;

impl Db {
    /// When the day begins of which an account's newest manifest is, where that is later than the one that was over last at
    /// `now`: it was written by a clock that was ahead, and no other is written before that day is over.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn manifest_ahead(&self, account: i64, now: Time) -> Result<Option<Time>, DbError> {
        let stmt = sql("select max(day) from manifest where account = $1");
        let newest = self.first(stmt.bind(account)).await?.map(|row| row.maybe_int(0)).transpose()?.flatten();
        let begins = |day: i64| Time(day.saturating_mul(86_400_000));
        Ok(newest.filter(|newest| *newest > day_over(now)).map(begins))
    }

    /// Writes the manifest of the UTC day that was over last, unless there is one, or nothing has come since the one
    /// before it. It says where the account stands now; doing it again changes nothing.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now.
    pub async fn seal_day(&self, owned: Owned, now: Time) -> Result<Option<Manifest>, DbError> {
        let mut tx = self.begin().await?;
        // Written to at once, so that no result can come between what is read and what is written.
        let stmt = sql("update account set epoch = epoch where id = $1 and epoch = $2
             returning sub, feed, chain_from, chain, manifest");
        let row = tx.first(stmt.bind(owned.account).bind(owned.epoch)).await?;
        let row = row.ok_or_else(|| DbError::lost(owned.account))?;
        let day = day_over(now);
        let stmt = sql(
            "select day, feed, ledger, records, journal from manifest where account = $1 order by day desc limit 1",
        );
        let newest = tx.first(stmt.bind(owned.account)).await?;
        let stmt = sql("select day, segments, digest_high, digest_low from announced where account = $1 order by day");
        let days = tx.all(stmt.bind(owned.account)).await?;
        let days = days
            .iter()
            .map(|row| Ok([row.int(0)?, row.int(1)?, row.int(2)?, row.int(3)?]))
            .collect::<Result<Vec<_>, DbError>>()?;
        let (records, record_head) = tx.record_head(owned.account).await?;
        let (journal, journal_head) = tx.record_head(JOURNAL).await?;
        let beside = Beside { records, record_head, journal, journal_head };
        let mut manifest = Manifest {
            sub: row.text(0)?,
            day,
            from: row.int(2)?,
            feed: row.int(1)?,
            head: row.maybe_bytes(3)?.unwrap_or(START.to_vec()),
            segments: days.iter().map(|day| day[1]).sum(),
            ledger: hash_chain::ledger(days.iter().copied()).to_vec(),
            sealed: now.0,
            previous: row.maybe_bytes(4)?.unwrap_or(START.to_vec()),
            beside: Some(beside.clone()),
            hash: Vec::new(),
        };
        let new = match newest {
            Some(row) => {
                row.int(0)? < day
                    && ((row.int(1)?, row.bytes(2)?) != (manifest.feed, manifest.ledger.clone())
                        || (row.maybe_int(3)?, row.maybe_int(4)?) != (Some(records), Some(journal)))
            }
            None => manifest.feed > manifest.from || !days.is_empty() || records > 0,
        };
        if !new {
            tx.commit().await?;
            return Ok(None);
        }
        manifest.hash = manifest.digest().to_vec();
        let stmt =
            sql("insert into manifest (account, day, chain_from, feed, head, segments, ledger, sealed, previous, hash, records, record_head, journal, journal_head)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)");
        let stmt = stmt.bind(owned.account).bind(day).bind(manifest.from).bind(manifest.feed);
        let stmt = stmt.bind(manifest.head.clone()).bind(manifest.segments).bind(manifest.ledger.clone()).bind(now);
        let stmt = stmt.bind(manifest.previous.clone()).bind(manifest.hash.clone());
        let stmt = stmt.bind(beside.records).bind(beside.record_head);
        tx.run(stmt.bind(beside.journal).bind(beside.journal_head)).await?;
        let stmt = sql("update account set manifest = $2 where id = $1");
        tx.run(stmt.bind(owned.account).bind(manifest.hash.clone())).await?;
        tx.commit().await?;
        Ok(Some(manifest))
    }
}
