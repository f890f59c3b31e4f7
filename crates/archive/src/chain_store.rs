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

use super::sql::count;
use super::{AccessChainState, AccountKey, Arg, Db, DbError, Item, Snapshot, Stmt, Tx, sql};
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
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AccountChain {
    /// Key of the account.
    pub account: AccountKey,
    /// The RingCX ids.
    #[sqlx(flatten)]
    pub id: AccountId,
    /// Display name.
    pub name: Option<String>,
    /// The newest sequence number of the feed.
    pub feed: i64,
    /// The sequence number after which the chain begins.
    #[sqlx(rename = "chain_from")]
    pub from: i64,
    /// The head after the newest entry.
    #[sqlx(rename = "chain", try_from = "HeadColumn")]
    pub head: Vec<u8>,
    /// The hash of the newest manifest.
    #[sqlx(rename = "manifest", try_from = "HeadColumn")]
    pub newest: Vec<u8>,
    /// All manifests, in order of day.
    #[sqlx(skip)]
    pub manifests: Vec<Manifest>,
    /// State of the record chain.
    #[sqlx(skip)]
    pub records: RecordChainState,
    /// State of the archive's journal.
    #[sqlx(skip)]
    pub journal: RecordChainState,
    /// State of the archive's access log.
    #[sqlx(skip)]
    pub access: AccessChainState,
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
#[derive(Debug, Clone, sqlx::FromRow)]
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
    #[sqlx(try_from = "MaybeBytes")]
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
    pub async fn account_chain(&mut self, account: AccountKey) -> Result<Option<AccountChain>, DbError> {
        let stmt =
            sql("select id as account, rc, sub, name, feed, chain_from, chain, manifest from account where id = $1");
        let Some(chain) = self.0.first::<AccountChain>(stmt.bind(account)).await? else { return Ok(None) };
        let stmt = sql(
            "select a.sub, m.day, m.chain_from, m.feed, m.head, m.segments, m.ledger, m.sealed, m.previous, m.hash,
             m.records, m.record_head, m.journal, m.journal_head
             from manifest m join account a on a.id = m.account where m.account = $1 order by m.day",
        );
        let manifests: Vec<ManifestRow> = self.0.all(stmt.bind(account)).await?;
        Ok(Some(AccountChain {
            manifests: manifests.into_iter().map(Manifest::from).collect(),
            records: self.record_state(account).await?,
            journal: self.record_state(JOURNAL).await?,
            access: self.access_chain().await?.0,
            ..chain
        }))
    }
}

/// The head of a chain; null as long as the chain has no entry.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct HeadColumn(Option<Vec<u8>>);

impl From<HeadColumn> for Vec<u8> {
    fn from(head: HeadColumn) -> Vec<u8> {
        head.0.unwrap_or(GENESIS_HASH.to_vec())
    }
}

/// Bytes; empty where they are null.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct MaybeBytes(Option<Vec<u8>>);

impl From<MaybeBytes> for Vec<u8> {
    fn from(bytes: MaybeBytes) -> Vec<u8> {
        bytes.0.unwrap_or_default()
    }
}

#[derive(sqlx::FromRow)]
struct ManifestRow {
    sub: String,
    day: i64,
    chain_from: i64,
    feed: i64,
    head: Vec<u8>,
    segments: i64,
    ledger: Vec<u8>,
    sealed: i64,
    previous: Vec<u8>,
    hash: Vec<u8>,
    records: Option<i64>,
    record_head: Option<Vec<u8>>,
    journal: Option<i64>,
    journal_head: Option<Vec<u8>>,
}

impl From<ManifestRow> for Manifest {
    fn from(row: ManifestRow) -> Manifest {
        let ManifestRow { sub, day, chain_from: from, feed, head, segments, ledger, sealed, previous, hash, .. } = row;
        let record_heads = match (row.records, row.record_head, row.journal, row.journal_head) {
            (Some(records), Some(record_head), Some(journal), Some(journal_head)) => {
                Some(RecordHeads { records, record_head, journal, journal_head })
            }
            _ => None,
        };
        Manifest { sub, day, from, feed, head, segments, ledger, sealed, previous, record_heads, hash }
    }
}

impl Db {
    /// The page of an account's feed after sequence number `after`, up to `upto` at most. An entry
    /// that is erased during the read is reported as stored, as erased, or as both, but never as
    /// neither.
    pub async fn entry_page(&self, account: AccountKey, after: i64, upto: i64) -> Result<EntryPage, DbError> {
        let between = |stmt: Stmt, upto: i64| stmt.bind(account).bind(after).bind(upto);
        let stmt = sql("select feed from erased_leaf where account = $1 and feed > $2 and feed <= $3
             order by feed limit 1 offset $4");
        let full: Option<i64> = self.value(between(stmt, upto).bind(MAX_ERASED_PER_PAGE - 1)).await?;
        let mut end = full.unwrap_or(upto);
        // Sizes first: a page of long transcripts must not take more memory than one of short ones.
        let stmt = sql(
            "select feed, cast(octet_length(body) as bigint) from artifact where account = $1 and feed > $2 and feed <= $3 order by feed limit $4",
        );
        let sizes: Vec<(i64, i64)> = self.all(between(stmt, end).bind(MAX_ENTRIES_PER_PAGE)).await?;
        let mut bytes = 0_i64;
        for (index, (feed, size)) in sizes.into_iter().enumerate() {
            bytes = bytes.saturating_add(size);
            if bytes >= MAX_PAGE_BYTES || index + 1 == MAX_ENTRIES_PER_PAGE {
                end = feed;
                break;
            }
        }
        let stmt =
            sql("select x.feed, x.item, x.version, x.outcome, x.fetched, x.size, x.sha256, x.salt, x.codec, x.body, s.segment_id
             from artifact x left join segment s on s.id = x.item / 4
             where x.account = $1 and x.feed > $2 and x.feed <= $3 order by x.feed");
        let rows = self.all(between(stmt, end)).await?;
        let stmt =
            sql("select feed, leaf from erased_leaf where account = $1 and feed > $2 and feed <= $3 order by feed");
        let erased = self.all(between(stmt, end)).await?;
        Ok(EntryPage { upto: end, rows, erased })
    }

    /// Number of entries with a sequence number outside the account's feed.
    pub async fn count_entries_outside_feed(&self, account: AccountKey) -> Result<u64, DbError> {
        let stmt = sql("select (select count(*) from artifact where account = $1 and feed < 1) +
             (select count(*) from artifact where account = $1 and feed > (select feed from account where id = $1))");
        self.count(stmt.bind(account)).await
    }

    /// Orphaned rows: entries, segments and chains without an account; entries of another account's
    /// segment; and history without a segment.
    pub async fn count_orphans(&self) -> Result<[u64; 3], DbError> {
        let stmt = sql(
            "select (select count(*) from artifact x where not exists (select 1 from account a where a.id = x.account)) +
             (select count(*) from segment s where not exists (select 1 from account a where a.id = s.account)) +
             (select count(*) from record_chain c where c.account <> 0 and not exists (select 1 from account a where a.id = c.account)),
             (select count(*) from artifact x join segment s on s.id = x.item / 4 join account a on a.id = x.account where s.account <> x.account),
             (select count(*) from segment_version v where not exists (select 1 from segment s where s.id = v.segment))",
        );
        let (orphans, foreign, history): (i64, i64, i64) = self.first(stmt).await?.unwrap_or_default();
        Ok([orphans, foreign, history].map(count))
    }

    /// The daily digests of announced segments: account, day and digest.
    pub async fn announced_digests(
        &self,
        account: Option<AccountKey>,
    ) -> Result<Vec<(AccountKey, i64, super::SegmentSetDigest)>, DbError> {
        let stmt = sql("select account, day, segments, digest_high, digest_low from announced
             where ($1 = -1 or account = $1) order by account, day");
        let rows: Vec<(AccountKey, i64, i64, i64, i64)> =
            self.all(stmt.bind(account.unwrap_or(AccountKey::ALL))).await?;
        Ok(rows
            .into_iter()
            .map(|(account, day, segments, digest_high, digest_low)| {
                (account, day, super::SegmentSetDigest { segments, digest_high, digest_low })
            })
            .collect())
    }
}

impl Tx {
    /// Keeps the sequence numbers and leaves of these items' entries, before the items are erased.
    /// They keep the chain verifiable, and reveal nothing once the salt is deleted. The segments
    /// must still be stored.
    pub(crate) async fn keep_entry_leaves(&mut self, account: AccountKey, items: &[Item]) -> Result<(), DbError> {
        let stmt = sql("select sub, chain_from from account where id = $1").bind(account);
        let Some((sub, from)) = self.first::<(String, i64)>(stmt).await? else { return Ok(()) };
        let stmt = Stmt::list(
            "select x.feed, x.item, x.version, x.outcome, x.fetched, x.size, x.sha256, x.salt, x.codec, x.sha256 as body, s.segment_id
             from artifact x left join segment s on s.id = x.item / 4 where x.account = $1 and x.item in ",
            vec![account.into()],
            items.iter().copied(),
            "",
        );
        let row = |entry: &EntryRow| -> Vec<Arg> {
            let leaf = if entry.feed > from { entry.leaf(&sub) } else { None };
            vec![account.into(), entry.feed.into(), leaf.into()]
        };
        let kept = self.all(stmt).await?.iter().map(row).collect();
        let head = "insert into erased_leaf (account, feed, leaf) values ";
        self.run(Stmt::rows(head, kept, " on conflict (account, feed) do nothing")).await.map(drop)
    }
}

/// The last UTC day that has ended.
fn last_complete_day(now: Time) -> i64 {
    super::ingest::utc_day(now) - 1
}
