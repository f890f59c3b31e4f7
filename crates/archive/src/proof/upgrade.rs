//! Takes an archive from before the record chain over: what is there already is sealed as it is, once.
//!
//! In portions, so that a large archive needs no transaction of its own size: one that was cut short goes on with what has
//! no number yet. That it is over stands in `meta`; from then on a row without a number is one that the program did not write.

use rand::Rng as _;

use super::super::announce::short_hash;
use super::super::{Arg, BULK, Db, DbError, Row, Stmt, Tx, item, sql};
use super::JOURNAL;
use crate::hash_chain::{JournalRecord, MetadataRecord, SALT, START, TombstoneRecord, link};

/// Where it stands that everything from before is sealed.
const SEALED: &str = "records.sealed";
/// How many rows a transaction seals.
const PORTION: usize = 10 * BULK;

impl Db {
    /// Seals what was there before the record chain; looks once and does nothing where that has been done.
    ///
    /// # Errors
    /// Where the database does not take it. What was sealed until then stays so.
    pub(crate) async fn seal_what_was_before(&self) -> Result<(), DbError> {
        let sealed = || sql("select 1 from meta where key = $1").bind(SEALED);
        if self.first(sealed()).await?.is_some() {
            return Ok(());
        }
        loop {
            let mut tx = self.begin().await?;
            tx.lock_key("records").await?;
            if tx.first(sealed()).await?.is_some() || tx.seal_portion().await? == 0 {
                tx.seal_journal().await?;
                let text = "insert into meta (key, value) values ($1, '1') on conflict (key) do nothing";
                tx.run(sql(text).bind(SEALED)).await?;
                return tx.commit().await;
            }
            tx.commit().await?;
        }
    }
}

impl Tx {
    /// Seals some rows of one account; returns how many.
    async fn seal_portion(&mut self) -> Result<usize, DbError> {
        for row in self.all(sql("select id from account order by id")).await? {
            let account = row.int(0)?;
            // As everyone who writes for the account: first the account, then its chain.
            self.first(self.epoch_of(account)).await?;
            let mut sealed = self.seal_history(account).await?;
            if sealed == 0 {
                sealed = self.seal_metadata(account).await?;
            }
            if sealed == 0 {
                sealed = self.seal_tombstones(account).await?;
            }
            if sealed > 0 {
                let stmt = sql("update record_chain set taken_over = newest where account = $1");
                self.run(stmt.bind(account)).await?;
                return Ok(sealed);
            }
        }
        Ok(0)
    }

    async fn seal_history(&mut self, account: i64) -> Result<usize, DbError> {
        let stmt = Stmt::built(format!(
            "select v.segment, v.seen, s.segment_id, v.codec, v.metadata from segment_version v join segment s on s.id = v.segment
             where s.account = $1 and v.record is null order by v.segment, v.seen limit {PORTION}"
        ));
        let rows = self.all(stmt.bind(account)).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut chain = self.record_chain(account).await?;
        let mut sealed: Vec<Vec<Arg>> = Vec::with_capacity(rows.len());
        for row in &rows {
            let (segment_id, salt) = (row.text(2)?, rand::rng().random::<[u8; SALT]>());
            // What cannot be unpacked cannot be sealed as what it was; `verify` names it.
            let digest = item::unpack(row.int(3)?, row.bytes(4)?).map(|body| short_hash(&body)).unwrap_or_default();
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
            sealed.push(vec![
                row.int(0)?.into(),
                row.int(1)?.into(),
                account.into(),
                record.into(),
                salt.to_vec().into(),
                leaf.to_vec().into(),
            ]);
        }
        self.keep_record_chain(chain).await?;
        self.run_rows(
            "with v (segment, seen, account, record, salt, leaf) as (values ",
            sealed,
            ") update segment_version set account = v.account, record = v.record, salt = v.salt, leaf = v.leaf
             from v where segment_version.segment = v.segment and segment_version.seen = v.seen",
        )
        .await?;
        Ok(rows.len())
    }

    async fn seal_metadata(&mut self, account: i64) -> Result<usize, DbError> {
        let stmt = Stmt::built(format!(
            "select id, segment_id, dialog_id, ended, has_transcript, is_agent, digest from segment
             where account = $1 and record is null order by id limit {PORTION}"
        ));
        let rows = self.all(stmt.bind(account)).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut chain = self.record_chain(account).await?;
        let mut sealed: Vec<Vec<Arg>> = Vec::with_capacity(rows.len());
        for row in &rows {
            let (segment_id, dialog_id, salt) = (row.text(1)?, row.maybe_text(2)?, rand::rng().random::<[u8; SALT]>());
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
            sealed.push(vec![row.int(0)?.into(), record.into(), salt.to_vec().into(), leaf.to_vec().into()]);
        }
        self.keep_record_chain(chain).await?;
        self.run_rows(
            "with v (id, record, salt, leaf) as (values ",
            sealed,
            ") update segment set record = v.record, salt = v.salt, leaf = v.leaf from v where segment.id = v.id",
        )
        .await?;
        Ok(rows.len())
    }

    async fn seal_tombstones(&mut self, account: i64) -> Result<usize, DbError> {
        let stmt = Stmt::built(format!(
            "select hash, at, kind, day from tombstone where account = $1 and record is null order by hash limit {PORTION}"
        ));
        let rows = self.all(stmt.bind(account)).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut chain = self.record_chain(account).await?;
        let mut sealed: Vec<Vec<Arg>> = Vec::with_capacity(rows.len());
        for row in &rows {
            let (hash, at, kind, day) = (row.bytes(0)?, row.int(1)?, row.int(2)?, row.int(3)?);
            let (record, leaf) =
                chain.append(|record, sub| TombstoneRecord { record, sub, hash: &hash, at, kind, day }.leaf());
            sealed.push(vec![account.into(), hash.into(), record.into(), leaf.to_vec().into()]);
        }
        self.keep_record_chain(chain).await?;
        self.run_rows(
            "with v (account, hash, record, leaf) as (values ",
            sealed,
            ") update tombstone set record = v.record, leaf = v.leaf from v where tombstone.account = v.account and tombstone.hash = v.hash",
        )
        .await?;
        Ok(rows.len())
    }

    /// Chains the entries that the journal has, unless it is chained already.
    async fn seal_journal(&mut self) -> Result<(), DbError> {
        self.lock_key("keeping").await?;
        if self.record_head(JOURNAL).await?.0 > 0 {
            return Ok(());
        }
        let stmt = sql("select j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason, j.value_hash
             from journal j left join account a on a.id = j.account order by j.id");
        let (mut head, mut entries) = (START, 0);
        for (record, row) in (1..).zip(self.all(stmt).await?) {
            head = link(&head, &journal_leaf(record, &row)?);
            entries = record;
        }
        if entries > 0 {
            let stmt = sql(
                "insert into record_chain (account, newest, head, taken_over, reads, reads_head) values ($1, $2, $3, $2, 0, $4)",
            );
            self.run(stmt.bind(JOURNAL).bind(entries).bind(head.to_vec()).bind(START.to_vec())).await?;
        }
        Ok(())
    }
}

/// The leaf of the journal's entry in this row: at, who, what, sub-account, kind, subject, segments, records, hold, reason, and
/// the hash of what was typed.
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
