//! Upgrade of an archive from before the record chain: appends all its rows to the chain, once.
//!
//! It runs in batches, so that a large archive needs no large transaction. After an interruption it
//! continues with the rows that have no number. Table `meta` records its end; from then on, a row
//! without a number was not written by this program.

use rand::Rng as _;

use super::super::ingest::half_sha256;
use super::super::{AccountKey, Arg, Db, DbError, DbRow, MAX_ROWS_PER_STATEMENT, Stmt, Tx, item, sql};
use super::JOURNAL;
use crate::hash_chain::{Hash, MetadataRecord, SALT_LEN, TombstoneRecord};

/// Key in `meta` that records the completed upgrade.
const COMPLETED_KEY: &str = "records.sealed";

/// Rows that one transaction appends.
const ROWS_PER_TRANSACTION: usize = 10 * MAX_ROWS_PER_STATEMENT;

impl Db {
    /// Appends all rows from before the record chain to it. Does nothing if that was done.
    ///
    /// # Errors
    /// If the database refuses a write. Completed batches stay.
    pub(crate) async fn chain_existing_rows(&self) -> Result<(), DbError> {
        loop {
            let mut tx = self.begin().await?;
            tx.advisory_lock("records").await?;
            let completed = tx.meta(COMPLETED_KEY).await?.is_some();
            let finished = completed || !tx.chain_next_rows().await?;
            if finished && !completed {
                tx.chain_journal().await?;
                tx.put_meta(COMPLETED_KEY, "1").await?;
            }
            tx.commit().await?;
            if finished {
                return Ok(());
            }
        }
    }
}

impl Tx {
    /// Appends the next rows of one account. Returns whether there were any.
    async fn chain_next_rows(&mut self) -> Result<bool, DbError> {
        for account in self.values(sql("select id from account order by id")).await? {
            // The usual lock order: first the account, then its chain.
            self.lock_account_shared(account).await?;
            if self.chain_history(account).await?
                || self.chain_metadata(account).await?
                || self.chain_tombstones(account).await?
            {
                self.mark_taken_over(account).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The versions before the current ones. Their dialog, end and flags were not stored.
    async fn chain_history(&mut self, account: AccountKey) -> Result<bool, DbError> {
        type Version = (i64, i64, String, i64, Vec<u8>);
        self.chain_rows(
            account,
            "select v.segment, v.seen, s.segment_id, v.codec, v.metadata from segment_version v join segment s on s.id = v.segment
             where s.account = $1 and v.record is null order by v.segment, v.seen limit $2",
            |(segment, seen, segment_id, codec, metadata): Version, salt, record, sub| {
                // A body that cannot be unpacked gets an empty digest; `verify` reports it.
                let digest = item::unpack(codec, metadata).map(|body| half_sha256(&body)).unwrap_or_default();
                let (segment_id, digest) = (segment_id.as_str(), digest.as_slice());
                let version = MetadataRecord {
                    salt,
                    record,
                    sub,
                    segment_id,
                    dialog_id: None,
                    ended: None,
                    has_transcript: None,
                    is_agent: None,
                    since: None,
                    digest,
                };
                (vec![account.into(), segment.into(), seen.into()], version.leaf())
            },
            "with v (account, segment, seen, record, salt, leaf) as (values ",
            ") update segment_version set account = v.account, record = v.record, salt = v.salt, leaf = v.leaf
             from v where segment_version.segment = v.segment and segment_version.seen = v.seen",
        )
        .await
    }

    async fn chain_metadata(&mut self, account: AccountKey) -> Result<bool, DbError> {
        type Current = (i64, String, Option<String>, i64, i64, i64, Vec<u8>);
        self.chain_rows(
            account,
            "select id, segment_id, dialog_id, ended, has_transcript, is_agent, digest from segment
             where account = $1 and record is null order by id limit $2",
            |(id, segment_id, dialog_id, ended, has_transcript, is_agent, digest): Current, salt, record, sub| {
                let current = MetadataRecord {
                    salt,
                    record,
                    sub,
                    segment_id: &segment_id,
                    dialog_id: dialog_id.as_deref(),
                    ended: Some(ended),
                    has_transcript: Some(has_transcript),
                    is_agent: Some(is_agent),
                    since: None,
                    digest: &digest,
                };
                (vec![id.into()], current.leaf())
            },
            "with v (id, record, salt, leaf) as (values ",
            ") update segment set record = v.record, salt = v.salt, leaf = v.leaf from v where segment.id = v.id",
        )
        .await
    }

    async fn chain_tombstones(&mut self, account: AccountKey) -> Result<bool, DbError> {
        type Stored = (Vec<u8>, i64, i64, i64);
        self.chain_rows(
            account,
            "select hash, at, kind, day from tombstone where account = $1 and record is null order by hash limit $2",
            |(hash, at, kind, day): Stored, _, record, sub| {
                let leaf = TombstoneRecord { record, sub, hash: &hash, at, kind, day }.leaf();
                (vec![account.into(), hash.into()], leaf)
            },
            // A tombstone has no salt: its hash is keyed.
            "with v (account, hash, record, salt, leaf) as (values ",
            ") update tombstone set record = v.record, leaf = v.leaf from v
             where tombstone.account = v.account and tombstone.hash = v.hash",
        )
        .await
    }

    /// Appends a batch of the rows that `select` finds, and stores their numbers, salts and leaves.
    /// `seal` makes a row's key and leaf. Returns whether there were any rows.
    async fn chain_rows<R: DbRow>(
        &mut self,
        account: AccountKey,
        select: &'static str,
        seal: impl Fn(R, &[u8], i64, &str) -> (Vec<Arg>, Hash),
        update: &'static str,
        update_tail: &'static str,
    ) -> Result<bool, DbError> {
        let rows: Vec<R> = self.all(sql(select).bind(account).bind(ROWS_PER_TRANSACTION)).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let mut chain = self.record_chain(account).await?;
        let mut chained = Vec::with_capacity(rows.len());
        for row in rows {
            let (salt, mut values) = (rand::rng().random::<[u8; SALT_LEN]>(), Vec::new());
            let (record, leaf) = chain.append(|record, sub| {
                let (key, leaf) = seal(row, &salt, record, sub);
                values = key;
                leaf
            });
            values.extend([record.into(), salt.as_slice().into(), leaf.into()]);
            chained.push(values);
        }
        self.save_record_chain(chain).await?;
        self.run(Stmt::rows(update, chained, update_tail)).await?;
        Ok(true)
    }

    /// Appends the existing entries of the journal, unless it has a chain.
    async fn chain_journal(&mut self) -> Result<(), DbError> {
        self.advisory_lock("keeping").await?;
        let entries = self.journal_entries().await?;
        if entries.is_empty() || self.record_head(JOURNAL).await?.0 > 0 {
            return Ok(());
        }
        let mut chain = self.record_chain(JOURNAL).await?;
        for entry in &entries {
            chain.append(|record, _| entry.leaf(record));
        }
        self.save_record_chain(chain).await?;
        self.mark_taken_over(JOURNAL).await
    }

    /// Records that an upgrade appended everything up to now.
    async fn mark_taken_over(&mut self, account: AccountKey) -> Result<(), DbError> {
        self.run(sql("update record_chain set taken_over = newest where account = $1").bind(account)).await.map(drop)
    }
}
