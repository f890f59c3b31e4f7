//! Writes the daily manifests.

use super::{Db, DbError, GENESIS_HASH, JOURNAL, Manifest, RecordHeads, last_complete_day, sql};
use crate::Lease;
use crate::clock::Time;
use crate::hash_chain;

impl Db {
    /// The start of the day of an account's newest manifest, if that day has not ended at `now`. A
    /// clock that was ahead wrote it, and no other manifest is written before that day has ended.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn future_manifest_day(&self, account: i64, now: Time) -> Result<Option<Time>, DbError> {
        let stmt = sql("select max(day) from manifest where account = $1");
        let newest = self.first(stmt.bind(account)).await?.map(|row| row.maybe_int(0)).transpose()?.flatten();
        let begins = |day: i64| Time(day.saturating_mul(86_400_000));
        Ok(newest.filter(|newest| *newest > last_complete_day(now)).map(begins))
    }

    /// Writes the manifest of the last UTC day that has ended, unless it exists, or nothing was
    /// added since the previous one. It states the account's current heads. It is idempotent.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now.
    pub async fn write_daily_manifest(&self, lease: Lease, now: Time) -> Result<Option<Manifest>, DbError> {
        let mut tx = self.begin().await?;
        // An update locks the row, so that no result is stored between the reads and the write.
        let stmt = sql("update account set epoch = epoch where id = $1 and epoch = $2
             returning sub, feed, chain_from, chain, manifest");
        let row = tx.first(stmt.bind(lease.account).bind(lease.epoch)).await?;
        let row = row.ok_or_else(|| DbError::lease_lost(lease.account))?;
        let day = last_complete_day(now);
        let stmt = sql(
            "select day, feed, ledger, records, journal from manifest where account = $1 order by day desc limit 1",
        );
        let newest = tx.first(stmt.bind(lease.account)).await?;
        let stmt = sql("select day, segments, digest_high, digest_low from announced where account = $1 order by day");
        let days = tx.all(stmt.bind(lease.account)).await?;
        let days = days
            .iter()
            .map(|row| Ok([row.int(0)?, row.int(1)?, row.int(2)?, row.int(3)?]))
            .collect::<Result<Vec<_>, DbError>>()?;
        let (records, record_head) = tx.record_head(lease.account).await?;
        let (journal, journal_head) = tx.record_head(JOURNAL).await?;
        let record_heads = RecordHeads { records, record_head, journal, journal_head };
        let mut manifest = Manifest {
            sub: row.text(0)?,
            day,
            from: row.int(2)?,
            feed: row.int(1)?,
            head: row.maybe_bytes(3)?.unwrap_or(GENESIS_HASH.to_vec()),
            segments: days.iter().map(|day| day[1]).sum(),
            ledger: hash_chain::hash_daily_digests(days.iter().copied()).to_vec(),
            sealed: now.0,
            previous: row.maybe_bytes(4)?.unwrap_or(GENESIS_HASH.to_vec()),
            record_heads: Some(record_heads.clone()),
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
        let stmt = stmt.bind(lease.account).bind(day).bind(manifest.from).bind(manifest.feed);
        let stmt = stmt.bind(manifest.head.clone()).bind(manifest.segments).bind(manifest.ledger.clone()).bind(now);
        let stmt = stmt.bind(manifest.previous.clone()).bind(manifest.hash.clone());
        let stmt = stmt.bind(record_heads.records).bind(record_heads.record_head);
        tx.run(stmt.bind(record_heads.journal).bind(record_heads.journal_head)).await?;
        let stmt = sql("update account set manifest = $2 where id = $1");
        tx.run(stmt.bind(lease.account).bind(manifest.hash.clone())).await?;
        tx.commit().await?;
        Ok(Some(manifest))
    }
}
