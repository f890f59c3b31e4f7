//! Proof: the hash chain over each account's feed and its daily manifests.
//!
//! `settle` writes the chain; here it is read back, page by page and without a long transaction, and here is kept what an
//! erased entry leaves of itself. The same for the record chain, which takes what is stored beside the texts.

mod beside;
mod integrity;
mod metadata;
mod records;
mod seal;
mod upgrade;

pub use beside::{Journal, LeafPage, Reads, RecordState};
pub use integrity::Integrity;
pub use metadata::MetadataRow;
pub(super) use records::{JOURNAL, RecordChain};

use super::{Arg, BULK, Db, DbError, Item, Row, Snapshot, Stmt, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::{Beside, Entry, Manifest, START};
use crate::model::AccountId;

/// How many entries, and how many leaves of erased ones, a page holds at the most.
const ENTRIES: usize = 2000;
const ERASED: i64 = 10_000;

/// A page ends where its bodies reach this size.
const PAGE_BYTES: i64 = 4 * 1024 * 1024;

/// An account's chain as it stands, and every manifest of it.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The account's number in the database.
    pub account: i64,
    /// Its ids in RingCX.
    pub id: AccountId,
    /// For people.
    pub name: Option<String>,
    /// The newest feed number.
    pub feed: i64,
    /// The feed number after which the chain begins.
    pub from: i64,
    /// The head after the newest feed number.
    pub head: Vec<u8>,
    /// The hash of the newest manifest.
    pub newest: Vec<u8>,
    /// By day.
    pub manifests: Vec<Manifest>,
    /// Where the record chain stands.
    pub records: RecordState,
    /// Where the archive's journal stands.
    pub journal: RecordState,
}

impl Chain {
    /// Where what is stored beside the texts stands.
    pub fn beside(&self) -> Beside {
        Beside {
            records: self.records.newest,
            record_head: self.records.head.clone(),
            journal: self.journal.newest,
            journal_head: self.journal.head.clone(),
        }
    }
}

/// An entry of the feed as it lies in the database.
#[derive(Debug, Clone)]
pub struct EntryRow {
    /// Its number.
    pub feed: i64,
    /// Which item.
    pub item: Item,
    /// Which version of it.
    pub version: i64,
    /// The outcome's code.
    pub outcome: i64,
    /// When it was fetched.
    pub fetched: i64,
    /// The body's size as it came.
    pub size: i64,
    /// SHA-256 of the body as it came.
    pub sha256: Vec<u8>,
    /// None for one from before the chain.
    pub salt: Vec<u8>,
    /// How the body is packed.
    pub codec: i64,
    /// The body, packed.
    pub body: Vec<u8>,
    /// The segment's id; `None` where the segment is not held.
    pub segment_id: Option<String>,
}

impl EntryRow {
    /// The entry's leaf; `None` where its segment is not held.
    pub fn leaf(&self, sub: &str) -> Option<crate::hash_chain::Hash> {
        let entry = Entry {
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

/// A piece of an account's feed.
#[derive(Debug, Clone)]
pub struct EntryPage {
    /// The last number that it tells of.
    pub upto: i64,
    /// What is held, in order.
    pub rows: Vec<EntryRow>,
    /// What was erased, in order: number and leaf, if it had one.
    pub erased: Vec<(i64, Option<Vec<u8>>)>,
}

impl Snapshot {
    /// An account's chain and manifests.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn chain(&mut self, account: i64) -> Result<Option<Chain>, DbError> {
        let stmt = sql("select rc, sub, name, feed, chain_from, chain, manifest from account where id = $1");
        let Some(row) = self.0.first(stmt.bind(account)).await? else { return Ok(None) };
        let id = AccountId::new(row.text(0)?, row.text(1)?);
        let stmt = sql("select day, chain_from, feed, head, segments, ledger, sealed, previous, hash, records, record_head, journal, journal_head
             from manifest where account = $1 order by day");
        let rows = self.0.all(stmt.bind(account)).await?;
        let manifests = rows.iter().map(|row| manifest(&id.sub, row)).collect::<Result<_, _>>()?;
        Ok(Some(Chain {
            account,
            id,
            name: row.maybe_text(2)?,
            feed: row.int(3)?,
            from: row.int(4)?,
            head: row.maybe_bytes(5)?.unwrap_or(START.to_vec()),
            newest: row.maybe_bytes(6)?.unwrap_or(START.to_vec()),
            manifests,
            records: self.record_state(account).await?,
            journal: self.record_state(JOURNAL).await?,
        }))
    }
}

fn manifest(sub: &str, row: &Row) -> Result<Manifest, DbError> {
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
        beside: match (row.maybe_int(9)?, row.maybe_bytes(10)?, row.maybe_int(11)?, row.maybe_bytes(12)?) {
            (Some(records), Some(record_head), Some(journal), Some(journal_head)) => {
                Some(Beside { records, record_head, journal, journal_head })
            }
            _ => None,
        },
    })
}

const ENTRY: &str =
    "x.feed, x.item, x.version, x.outcome, x.fetched, x.size, x.sha256, x.salt, x.codec, x.body, s.segment_id";

fn entry(row: &Row) -> Result<EntryRow, DbError> {
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
    /// The piece of an account's feed after the number `after`, up to `upto` at the furthest. What is erased while it
    /// is read is told of as held, as erased, or as both; never as neither.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn entries(&self, account: i64, after: i64, upto: i64) -> Result<EntryPage, DbError> {
        let between = |stmt: Stmt, upto: i64| stmt.bind(account).bind(after).bind(upto);
        let stmt = sql("select feed from erased_leaf where account = $1 and feed > $2 and feed <= $3
             order by feed limit 1 offset $4");
        let full = self.first(between(stmt, upto).bind(ERASED - 1)).await?.map(|row| row.int(0)).transpose()?;
        let mut end = full.unwrap_or(upto);
        // Their sizes first: a page of long transcripts must not take more memory than one of short ones.
        let stmt = Stmt::built(format!(
            "select feed, cast(octet_length(body) as bigint) from artifact where account = $1 and feed > $2 and feed <= $3 order by feed limit {ENTRIES}"
        ));
        let sizes = self.all(between(stmt, end)).await?;
        let mut bytes = 0_i64;
        for (index, row) in sizes.iter().enumerate() {
            bytes = bytes.saturating_add(row.int(1)?);
            if bytes >= PAGE_BYTES || index + 1 == ENTRIES {
                end = row.int(0)?;
                break;
            }
        }
        let stmt = Stmt::built(format!(
            "select {ENTRY} from artifact x left join segment s on s.id = x.item / 4
             where x.account = $1 and x.feed > $2 and x.feed <= $3 order by x.feed"
        ));
        let rows = self.all(between(stmt, end)).await?;
        let rows = rows.iter().map(entry).collect::<Result<_, _>>()?;
        let stmt =
            sql("select feed, leaf from erased_leaf where account = $1 and feed > $2 and feed <= $3 order by feed");
        let erased = self.all(between(stmt, end)).await?;
        let erased = erased.iter().map(|row| Ok((row.int(0)?, row.maybe_bytes(1)?))).collect::<Result<_, DbError>>()?;
        Ok(EntryPage { upto: end, rows, erased })
    }

    /// How many entries of an account lie outside its feed.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn entries_outside(&self, account: i64) -> Result<u64, DbError> {
        let stmt = sql("select (select count(*) from artifact where account = $1 and feed < 1) +
             (select count(*) from artifact where account = $1 and feed > (select feed from account where id = $1))");
        self.first(stmt.bind(account)).await?.map_or(Ok(0), |row| row.count(0))
    }

    /// What belongs nowhere: entries, segments and chains of an account that is not there, entries of another account's segment,
    /// and history of a segment that is not held.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn strays(&self) -> Result<[u64; 3], DbError> {
        let stmt = sql(
            "select (select count(*) from artifact x where not exists (select 1 from account a where a.id = x.account)) +
             (select count(*) from segment s where not exists (select 1 from account a where a.id = s.account)) +
             (select count(*) from record_chain c where c.account <> 0 and not exists (select 1 from account a where a.id = c.account)),
             (select count(*) from artifact x join segment s on s.id = x.item / 4 join account a on a.id = x.account where s.account <> x.account),
             (select count(*) from segment_version v where not exists (select 1 from segment s where s.id = v.segment))",
        );
        self.first(stmt).await?.map_or(Ok([0; 3]), |row| Ok([row.count(0)?, row.count(1)?, row.count(2)?]))
    }

    /// The ledger of announcements: account, day, segments and the two halves of their ids' sum.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn announced_days(&self, account: Option<i64>) -> Result<Vec<(i64, i64, super::IdCount)>, DbError> {
        let stmt = sql("select account, day, segments, digest_high, digest_low from announced
             where ($1 = -1 or account = $1) order by account, day");
        let rows = self.all(stmt.bind(account.unwrap_or(-1))).await?;
        rows.iter()
            .map(|row| {
                let count = super::IdCount { segments: row.int(2)?, digest_high: row.int(3)?, digest_low: row.int(4)? };
                Ok((row.int(0)?, row.int(1)?, count))
            })
            .collect()
    }
}

impl Tx {
    /// Before these items are erased: keeps of each of their entries its number and its leaf, with which the chain stays
    /// whole, and which say nothing about the item once its salt is gone. Their segments must still be there.
    ///
    /// # Errors
    /// Where the database does not take it.
    pub async fn seal_erased(&mut self, account: i64, items: &[i64]) -> Result<(), DbError> {
        let stmt = sql("select sub, chain_from from account where id = $1").bind(account);
        let Some(row) = self.first(stmt).await? else { return Ok(()) };
        let (sub, from) = (row.text(0)?, row.int(1)?);
        for part in items.chunks(BULK) {
            let stmt = Stmt::list(
                "select x.feed, x.item, x.version, x.outcome, x.fetched, x.size, x.sha256, x.salt, x.codec, x.sha256, s.segment_id
                 from artifact x left join segment s on s.id = x.item / 4 where x.account = $1 and x.item in ",
                vec![account.into()],
                part.iter().copied(),
                "",
            );
            let mut kept: Vec<Vec<Arg>> = Vec::with_capacity(part.len());
            for row in self.all(stmt).await? {
                let entry = entry(&row)?;
                let leaf = if entry.feed > from { entry.leaf(&sub) } else { None };
                kept.push(vec![account.into(), entry.feed.into(), Arg::Bytes(leaf.map(|leaf| leaf.to_vec().into()))]);
            }
            let head = "insert into erased_leaf (account, feed, leaf) values ";
            self.run_rows(head, kept, " on conflict (account, feed) do nothing").await?;
        }
        Ok(())
    }
}

/// The UTC day that was over last.
fn day_over(now: Time) -> i64 {
    super::announce::day_of(now) - 1
}
