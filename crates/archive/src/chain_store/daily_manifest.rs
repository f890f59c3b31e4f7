//! Writes the daily manifests.

use super::{AccountKey, Db, DbError, HeadColumn, JOURNAL, Manifest, RecordHeads, last_complete_day, sql};
use crate::Lease;
use crate::clock::Time;
use crate::hash_chain;

#[derive(sqlx::FromRow)]
struct AccountHeads {
    sub: String,
    feed: i64,
    chain_from: i64,
    #[sqlx(try_from = "HeadColumn")]
    chain: Vec<u8>,
    #[sqlx(try_from = "HeadColumn")]
    manifest: Vec<u8>,
}

impl Db {
    /// The start of the day of an account's newest manifest, if that day has not ended at `now`. A
    /// clock that was ahead wrote it, and no other manifest is written before that day has ended.
    pub async fn future_manifest_day(&self, account: AccountKey, now: Time) -> Result<Option<Time>, DbError> {
        let stmt = sql("select max(day) from manifest where account = $1");
        let newest: Option<i64> = self.value(stmt.bind(account)).await?.flatten();
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
        let heads: Option<AccountHeads> = tx.first(stmt.bind(lease.account).bind(lease.epoch)).await?;
        let heads = heads.ok_or_else(|| DbError::lease_lost(lease.account))?;
        let day = last_complete_day(now);
        let stmt = sql(
            "select day, feed, ledger, records, journal from manifest where account = $1 order by day desc limit 1",
        );
        type Newest = (i64, i64, Vec<u8>, Option<i64>, Option<i64>);
        let newest: Option<Newest> = tx.first(stmt.bind(lease.account)).await?;
        let stmt = sql("select day, segments, digest_high, digest_low from announced where account = $1 order by day");
        let days: Vec<(i64, i64, i64, i64)> = tx.all(stmt.bind(lease.account)).await?;
        let (records, record_head) = tx.record_head(lease.account).await?;
        let (journal, journal_head) = tx.record_head(JOURNAL).await?;
        let record_heads = RecordHeads { records, record_head, journal, journal_head };
        let mut manifest = Manifest {
            sub: heads.sub,
            day,
            from: heads.chain_from,
            feed: heads.feed,
            head: heads.chain,
            segments: days.iter().map(|(_, segments, ..)| segments).sum(),
            ledger: hash_chain::hash_daily_digests(days.iter().map(|day| [day.0, day.1, day.2, day.3])).to_vec(),
            sealed: now.0,
            previous: heads.manifest,
            record_heads: Some(record_heads.clone()),
            hash: Vec::new(),
        };
        let new = match newest {
            Some((newest, feed, ledger, chained, journaled)) => {
                newest < day
                    && ((feed, &ledger) != (manifest.feed, &manifest.ledger)
                        || (chained, journaled) != (Some(records), Some(journal)))
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
