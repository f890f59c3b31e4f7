//! Upgrade of an archive from before the record chain: appends all existing rows to it, once.
//!
//! It runs in batches, so that a large archive needs no large transaction. An interrupted upgrade
//! continues with the rows without a number. Table `meta` records that it is done; from then on, a
//! row without a number was not written by the program.

use rand::Rng as _;

use super::super::ingest::half_sha256;
use super::super::{Arg, Db, DbError, MAX_ROWS_PER_STATEMENT, Row, Stmt, Tx, item, sql};
use super::JOURNAL;
use crate::hash_chain::{GENESIS_HASH, JournalRecord, MetadataRecord, SALT_LEN, TombstoneRecord, link};

/// Key in `meta` that records the completed upgrade.
const DONE_KEY: &str = "records.sealed";

/// Rows chained per transaction.
const ROWS_PER_TRANSACTION: usize = 10 * MAX_ROWS_PER_STATEMENT;

impl Db {
    /// Appends all rows from before the record chain to it. Does nothing if that was done.
    ///
    /// # Errors
    /// If the database refuses a write. Completed batches stay.
    pub(crate) async fn chain_existing_rows(&self) -> Result<(), DbError> {
        let done = || sql("select 1 from meta where key = $1").bind(DONE_KEY);
        if self.first(done()).await?.is_some() {
            return Ok(());
        }
        loop {
            let mut tx = self.begin().await?;
            tx.advisory_lock("records").await?;
            if tx.first(done()).await?.is_some() || tx.chain_some_rows().await? == 0 {
                tx.chain_journal().await?;
                let text = "insert into meta (key, value) values ($1, '1') on conflict (key) do nothing";
                tx.run(sql(text).bind(DONE_KEY)).await?;
                return tx.commit().await;
            }
            tx.commit().await?;
        }
    }
}

impl Tx {
    /// Chains a batch of rows of one account. Returns their number.
    async fn chain_some_rows(&mut self) -> Result<usize, DbError> {
        for row in self.all(sql("select id from account order by id")).await? {
            let account = row.int(0)?;
            // The usual lock order: first the account, then its chain.
            self.first(self.select_epoch_for_share(account)).await?;
            let mut chained = self.chain_history(account).await?;
            if chained == 0 {
                chained = self.chain_metadata(account).await?;
            }
            if chained == 0 {
                chained = self.chain_tombstones(account).await?;
            }
            if chained > 0 {
                let stmt = sql("update record_chain set taken_over = newest where account = $1");
                self.run(stmt.bind(account)).await?;
                return Ok(chained);
            }
        }
        Ok(0)
    }

    async fn chain_history(&mut self, account: i64) -> Result<usize, DbError> {
        let stmt = Stmt::built(format!(
            "select v.segment, v.seen, s.segment_id, v.codec, v.metadata from segment_version v join segment s on s.id = v.segment
             where s.account = $1 and v.record is null order by v.segment, v.seen limit {ROWS_PER_TRANSACTION}"
        ));
        let rows = self.all(stmt.bind(account)).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut chain = self.record_chain(account).await?;
        let mut chained: Vec<Vec<Arg>> = Vec::with_capacity(rows.len());
        for row in &rows {
            let (segment_id, salt) = (row.text(2)?, rand::rng().random::<[u8; SALT_LEN]>());
            // A body that cannot be unpacked gets an empty digest; `verify` reports it.
            let digest = item::unpack(row.int(3)?, row.bytes(4)?).map(|body| half_sha256(&body)).unwrap_or_default();
            let (record, leaf) = chain.append(|record, sub| {
                let version = MetadataRecord {
                    salt: &salt,
                    record,
                    sub,
                    segment_id: &segment_id,
                    dialog_id: None,
                    ended: None,
                    has_transcript: None,
                    is_agent: None,
                    since: None,
                    digest: &digest,
                };
                version.leaf()
            });
            chained.push(vec![
                row.int(0)?.into(),
                row.int(1)?.into(),
                account.into(),
                record.into(),
                salt.to_vec().into(),
                leaf.to_vec().into(),
            ]);
        }
        self.save_record_chain(chain).await?;
        self.run_rows(
            "with v (segment, seen, account, record, salt, leaf) as (values ",
            chained,
            ") update segment_version set account = v.account, record = v.record, salt = v.salt, leaf = v.leaf
             from v where segment_version.segment = v.segment and segment_version.seen = v.seen",
        )
        .await?;
        Ok(rows.len())
    }

    async fn chain_metadata(&mut self, account: i64) -> Result<usize, DbError> {
        let stmt = Stmt::built(format!(
            "select id, segment_id, dialog_id, ended, has_transcript, is_agent, digest from segment
             where account = $1 and record is null order by id limit {ROWS_PER_TRANSACTION}"
        ));
        let rows = self.all(stmt.bind(account)).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut chain = self.record_chain(account).await?;
        let mut chained: Vec<Vec<Arg>> = Vec::with_capacity(rows.len());
        for row in &rows {
            let (segment_id, dialog_id, salt) =
                (row.text(1)?, row.maybe_text(2)?, rand::rng().random::<[u8; SALT_LEN]>());
            let (ended, has_transcript, is_agent, digest) = (row.int(3)?, row.int(4)?, row.int(5)?, row.bytes(6)?);
            let (record, leaf) = chain.append(|record, sub| {
                let current = MetadataRecord {
                    salt: &salt,
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
                current.leaf()
            });
            chained.push(vec![row.int(0)?.into(), record.into(), salt.to_vec().into(), leaf.to_vec().into()]);
        }
        self.save_record_chain(chain).await?;
        self.run_rows(
            "with v (id, record, salt, leaf) as (values ",
            chained,
            ") update segment set record = v.record, salt = v.salt, leaf = v.leaf from v where segment.id = v.id",
        )
        .await?;
        Ok(rows.len())
    }

    async fn chain_tombstones(&mut self, account: i64) -> Result<usize, DbError> {
        let stmt = Stmt::built(format!(
            "select hash, at, kind, day from tombstone where account = $1 and record is null order by hash limit {ROWS_PER_TRANSACTION}"
        ));
        let rows = self.all(stmt.bind(account)).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut chain = self.record_chain(account).await?;
        let mut chained: Vec<Vec<Arg>> = Vec::with_capacity(rows.len());
        for row in &rows {
            let (hash, at, kind, day) = (row.bytes(0)?, row.int(1)?, row.int(2)?, row.int(3)?);
            let (record, leaf) =
                chain.append(|record, sub| TombstoneRecord { record, sub, hash: &hash, at, kind, day }.leaf());
            chained.push(vec![account.into(), hash.into(), record.into(), leaf.to_vec().into()]);
        }
        self.save_record_chain(chain).await?;
        self.run_rows(
            "with v (account, hash, record, leaf) as (values ",
            chained,
            ") update tombstone set record = v.record, leaf = v.leaf from v where tombstone.account = v.account and tombstone.hash = v.hash",
        )
        .await?;
        Ok(rows.len())
    }

    /// Chains the existing journal entries, unless the journal has a chain.
    async fn chain_journal(&mut self) -> Result<(), DbError> {
        self.advisory_lock("keeping").await?;
        if self.record_head(JOURNAL).await?.0 > 0 {
            return Ok(());
        }
        let stmt = sql("select j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason, j.value_hash
             from journal j left join account a on a.id = j.account order by j.id");
        let (mut head, mut entries) = (GENESIS_HASH, 0);
        for (record, row) in (1..).zip(self.all(stmt).await?) {
            head = link(&head, &journal_leaf(record, &row)?);
            entries = record;
        }
        if entries > 0 {
            let stmt = sql(
                "insert into record_chain (account, newest, head, taken_over, reads, reads_head) values ($1, $2, $3, $2, 0, $4)",
            );
            self.run(stmt.bind(JOURNAL).bind(entries).bind(head.to_vec()).bind(GENESIS_HASH.to_vec())).await?;
        }
        Ok(())
    }
}

/// The leaf of a journal row with these columns: at, who, what, sub-account, kind, subject,
/// segments, records, hold, reason, and the hash of the typed value.
pub(super) fn journal_leaf(record: i64, row: &Row) -> Result<crate::hash_chain::Hash, DbError> {
    let (who, what, sub, kind) = (row.text(1)?, row.text(2)?, row.maybe_text(3)?, row.maybe_text(4)?);
    let (subject, reason, typed) = (row.maybe_bytes(5)?, row.maybe_text(9)?, row.maybe_bytes(10)?);
    let entry = JournalRecord {
        record,
        at: row.int(0)?,
        who: &who,
        what: &what,
        sub: sub.as_deref(),
        kind: kind.as_deref(),
        subject: subject.as_deref(),
        segments: row.int(6)?,
        records: row.int(7)?,
        hold: row.maybe_int(8)?,
        reason: reason.as_deref(),
        value_hash: typed.as_deref(),
    };
    Ok(entry.leaf())
}
