//! Stored hash chains: reads feed chains, record chains and manifests back for verification, and
//! keeps the leaves of erased entries.
//!
//! `completion` writes the feed chain. Verification reads it page by page, without a long
//! transaction. The record chain covers metadata and tombstones.

mod daily_manifest;
mod integrity;
mod metadata_check;
mod record_chain;
mod record_chain_proof;
mod record_chain_upgrade;

pub use integrity::IntegrityReport;
pub use metadata_check::MetadataRow;
pub(super) use record_chain::{JOURNAL, RecordChain};
pub use record_chain_proof::{JournalProof, LeafPage, ReadLogProof, RecordChainState};

use super::{Arg, Db, DbError, Item, MAX_ROWS_PER_STATEMENT, Row, Snapshot, Stmt, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::{FeedRecord, GENESIS_HASH, Manifest, RecordHeads};
use crate::model::AccountId;

/// Maximum number of entries of a page.
const MAX_ENTRIES_PER_PAGE: usize = 2000;

/// Maximum number of leaves of erased entries of a page.
const MAX_ERASED_PER_PAGE: i64 = 10_000;

/// A page ends once its bodies reach this size.
const MAX_PAGE_BYTES: i64 = 4 * 1024 * 1024;

/// An account's current chain heads, and all its manifests.
#[derive(Debug, Clone)]
pub struct AccountChain {
    /// Key of the account.
    pub account: i64,
    /// The RingCX ids.
    pub id: AccountId,
    /// Display name.
    pub name: Option<String>,
    /// The newest sequence number of the feed.
    pub feed: i64,
    /// The sequence number after which the chain begins.
    pub from: i64,
    /// The head after the newest entry.
    pub head: Vec<u8>,
    /// The hash of the newest manifest.
    pub newest: Vec<u8>,
    /// All manifests, in order of day.
    pub manifests: Vec<Manifest>,
    /// State of the record chain.
    pub records: RecordChainState,
    /// State of the archive's journal.
    pub journal: RecordChainState,
}

impl AccountChain {
    /// Heads of the record chain and the journal.
    pub fn record_heads(&self) -> RecordHeads {
        RecordHeads {
            records: self.records.newest,
            record_head: self.records.head.clone(),
            journal: self.journal.newest,
            journal_head: self.journal.head.clone(),
        }
    }
}

/// A feed entry as stored.
#[derive(Debug, Clone)]
pub struct EntryRow {
    /// Its sequence number.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// The version number.
    pub version: i64,
    /// The outcome's code.
    pub(crate) outcome: i64,
    /// When it was fetched, in milliseconds since 1970.
    pub(crate) fetched: i64,
    /// The body's size as received, in bytes.
    pub size: i64,
    /// SHA-256 of the body as received.
    pub sha256: Vec<u8>,
    /// The salt; empty for entries from before the chain.
    pub(crate) salt: Vec<u8>,
    /// The body's codec.
    pub codec: i64,
    /// The body, packed.
    pub body: Vec<u8>,
    /// The segment's id; `None` if the segment is not stored.
    pub segment_id: Option<String>,
}

impl EntryRow {
    /// The entry's leaf; `None` if its segment is not stored.
    pub fn leaf(&self, sub: &str) -> Option<crate::hash_chain::Hash> {
        let entry = FeedRecord {
            salt: &self.salt,
            feed: self.feed,
            sub,
            segment_id: self.segment_id.as_deref()?,
            artifact: self.item.0.rem_euclid(4),
            version: self.version,
            outcome: self.outcome,
            fetched: self.fetched,
            size: self.size,
            sha256: &self.sha256,
        };
        Some(entry.leaf())
    }
}

/// A page of an account's feed.
#[derive(Debug, Clone)]
pub struct EntryPage {
    /// The last sequence number of the page.
    pub upto: i64,
    /// Stored entries, in order.
    pub rows: Vec<EntryRow>,
    /// Erased entries, in order: sequence number and leaf, if there is one.
    pub erased: Vec<(i64, Option<Vec<u8>>)>,
}

impl Snapshot {
    /// An account's chain and manifests.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn account_chain(&mut self, account: i64) -> Result<Option<AccountChain>, DbError> {
        let stmt = sql("select rc, sub, name, feed, chain_from, chain, manifest from account where id = $1");
        let Some(row) = self.0.first(stmt.bind(account)).await? else { return Ok(None) };
        let id = AccountId::new(row.text(0)?, row.text(1)?);
        let stmt = sql("select day, chain_from, feed, head, segments, ledger, sealed, previous, hash, records, record_head, journal, journal_head
             from manifest where account = $1 order by day");
        let rows = self.0.all(stmt.bind(account)).await?;
        let manifests = rows.iter().map(|row| manifest_from_row(&id.sub, row)).collect::<Result<_, _>>()?;
        Ok(Some(AccountChain {
            account,
            id,
            name: row.maybe_text(2)?,
            feed: row.int(3)?,
            from: row.int(4)?,
            head: row.maybe_bytes(5)?.unwrap_or(GENESIS_HASH.to_vec()),
            newest: row.maybe_bytes(6)?.unwrap_or(GENESIS_HASH.to_vec()),
            manifests,
            records: self.record_state(account).await?,
            journal: self.record_state(JOURNAL).await?,
        }))
    }
}

fn manifest_from_row(sub: &str, row: &Row) -> Result<Manifest, DbError> {
    Ok(Manifest {
        sub: sub.to_owned(),
        day: row.int(0)?,
        from: row.int(1)?,
        feed: row.int(2)?,
        head: row.bytes(3)?,
        segments: row.int(4)?,
        ledger: row.bytes(5)?,
        sealed: row.int(6)?,
        previous: row.bytes(7)?,
        hash: row.bytes(8)?,
        record_heads: match (row.maybe_int(9)?, row.maybe_bytes(10)?, row.maybe_int(11)?, row.maybe_bytes(12)?) {
            (Some(records), Some(record_head), Some(journal), Some(journal_head)) => {
                Some(RecordHeads { records, record_head, journal, journal_head })
            }
            _ => None,
        },
    })
}

const ENTRY_COLUMNS: &str =
    "x.feed, x.item, x.version, x.outcome, x.fetched, x.size, x.sha256, x.salt, x.codec, x.body, s.segment_id";

fn entry_from_row(row: &Row) -> Result<EntryRow, DbError> {
    Ok(EntryRow {
        feed: row.int(0)?,
        item: Item(row.int(1)?),
        version: row.int(2)?,
        outcome: row.int(3)?,
        fetched: row.int(4)?,
        size: row.int(5)?,
        sha256: row.bytes(6)?,
        salt: row.maybe_bytes(7)?.unwrap_or_default(),
        codec: row.int(8)?,
        body: row.bytes(9)?,
        segment_id: row.maybe_text(10)?,
    })
}

impl Db {
    /// The page of an account's feed after sequence number `after`, up to `upto` at most. An entry
    /// that is erased during the read is reported as stored, as erased, or as both, but never as
    /// neither.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn entry_page(&self, account: i64, after: i64, upto: i64) -> Result<EntryPage, DbError> {
        let between = |stmt: Stmt, upto: i64| stmt.bind(account).bind(after).bind(upto);
        let stmt = sql("select feed from erased_leaf where account = $1 and feed > $2 and feed <= $3
             order by feed limit 1 offset $4");
        let full =
            self.first(between(stmt, upto).bind(MAX_ERASED_PER_PAGE - 1)).await?.map(|row| row.int(0)).transpose()?;
        let mut end = full.unwrap_or(upto);
        // Sizes first: a page of long transcripts must not take more memory than one of short ones.
        let stmt = Stmt::built(format!(
            "select feed, cast(octet_length(body) as bigint) from artifact where account = $1 and feed > $2 and feed <= $3 order by feed limit {MAX_ENTRIES_PER_PAGE}"
        ));
        let sizes = self.all(between(stmt, end)).await?;
        let mut bytes = 0_i64;
        for (index, row) in sizes.iter().enumerate() {
            bytes = bytes.saturating_add(row.int(1)?);
            if bytes >= MAX_PAGE_BYTES || index + 1 == MAX_ENTRIES_PER_PAGE {
                end = row.int(0)?;
                break;
            }
        }
        let stmt = Stmt::built(format!(
            "select {ENTRY_COLUMNS} from artifact x left join segment s on s.id = x.item / 4
             where x.account = $1 and x.feed > $2 and x.feed <= $3 order by x.feed"
        ));
        let rows = self.all(between(stmt, end)).await?;
        let rows = rows.iter().map(entry_from_row).collect::<Result<_, _>>()?;
        let stmt =
            sql("select feed, leaf from erased_leaf where account = $1 and feed > $2 and feed <= $3 order by feed");
        let erased = self.all(between(stmt, end)).await?;
        let erased = erased.iter().map(|row| Ok((row.int(0)?, row.maybe_bytes(1)?))).collect::<Result<_, DbError>>()?;
        Ok(EntryPage { upto: end, rows, erased })
    }

    /// Number of entries with a sequence number outside the account's feed.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn count_entries_outside_feed(&self, account: i64) -> Result<u64, DbError> {
        let stmt = sql("select (select count(*) from artifact where account = $1 and feed < 1) +
             (select count(*) from artifact where account = $1 and feed > (select feed from account where id = $1))");
        self.first(stmt.bind(account)).await?.map_or(Ok(0), |row| row.count(0))
    }

    /// Orphaned rows: entries, segments and chains without an account; entries of another account's
    /// segment; and history without a segment.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn count_orphans(&self) -> Result<[u64; 3], DbError> {
        let stmt = sql(
            "select (select count(*) from artifact x where not exists (select 1 from account a where a.id = x.account)) +
             (select count(*) from segment s where not exists (select 1 from account a where a.id = s.account)) +
             (select count(*) from record_chain c where c.account <> 0 and not exists (select 1 from account a where a.id = c.account)),
             (select count(*) from artifact x join segment s on s.id = x.item / 4 join account a on a.id = x.account where s.account <> x.account),
             (select count(*) from segment_version v where not exists (select 1 from segment s where s.id = v.segment))",
        );
        self.first(stmt).await?.map_or(Ok([0; 3]), |row| Ok([row.count(0)?, row.count(1)?, row.count(2)?]))
    }

    /// The daily digests of announced segments: account, day and digest.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn announced_digests(
        &self,
        account: Option<i64>,
    ) -> Result<Vec<(i64, i64, super::SegmentSetDigest)>, DbError> {
        let stmt = sql("select account, day, segments, digest_high, digest_low from announced
             where ($1 = -1 or account = $1) order by account, day");
        let rows = self.all(stmt.bind(account.unwrap_or(-1))).await?;
        rows.iter()
            .map(|row| {
                let count = super::SegmentSetDigest {
                    segments: row.int(2)?,
                    digest_high: row.int(3)?,
                    digest_low: row.int(4)?,
                };
                Ok((row.int(0)?, row.int(1)?, count))
            })
            .collect()
    }
}

impl Tx {
    /// Keeps the sequence numbers and leaves of these items' entries, before the items are erased.
    /// They keep the chain verifiable, and reveal nothing once the salt is deleted. The segments
    /// must still be stored.
    ///
    /// # Errors
    /// If the database refuses the write.
    pub(crate) async fn keep_entry_leaves(&mut self, account: i64, items: &[i64]) -> Result<(), DbError> {
        let stmt = sql("select sub, chain_from from account where id = $1").bind(account);
        let Some(row) = self.first(stmt).await? else { return Ok(()) };
        let (sub, from) = (row.text(0)?, row.int(1)?);
        for part in items.chunks(MAX_ROWS_PER_STATEMENT) {
            let stmt = Stmt::list(
                "select x.feed, x.item, x.version, x.outcome, x.fetched, x.size, x.sha256, x.salt, x.codec, x.sha256, s.segment_id
                 from artifact x left join segment s on s.id = x.item / 4 where x.account = $1 and x.item in ",
                vec![account.into()],
                part.iter().copied(),
                "",
            );
            let mut kept: Vec<Vec<Arg>> = Vec::with_capacity(part.len());
            for row in self.all(stmt).await? {
                let entry = entry_from_row(&row)?;
                let leaf = if entry.feed > from { entry.leaf(&sub) } else { None };
                kept.push(vec![account.into(), entry.feed.into(), Arg::Bytes(leaf.map(|leaf| leaf.to_vec().into()))]);
            }
            let head = "insert into erased_leaf (account, feed, leaf) values ";
            self.run_rows(head, kept, " on conflict (account, feed) do nothing").await?;
        }
        Ok(())
    }
}

/// The last UTC day that has ended.
fn last_complete_day(now: Time) -> i64 {
    super::ingest::utc_day(now) - 1
}
