//! Reads the feeds of many accounts at once: first the entries, then the bodies of those that are
//! needed.

use super::super::{Arg, Db, DbError, Item, MAX_ROWS_PER_STATEMENT, Stmt, item};
use crate::clock::Time;
use crate::model::{AccountId, Artifact};

/// A range of an account's feed: after `after`, up to and including `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedRange {
    /// Key of the account.
    pub account: i64,
    /// The exclusive lower bound.
    pub after: i64,
    /// The inclusive upper bound.
    pub upto: i64,
}

/// An artifact version in a feed, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedEntry {
    /// Key of the account.
    pub account: i64,
    /// Its sequence number in the feed.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// Whether there is a body; otherwise the API reported that the artifact is empty.
    pub stored: bool,
    /// When it was stored.
    pub fetched: Time,
    /// The body's size as received, in bytes.
    pub size: u64,
}

/// An artifact version with its body and its segment's metadata, both still packed.
#[derive(Debug, Clone)]
pub struct FeedRow {
    /// Key of the account.
    pub account_key: i64,
    /// Its sequence number in the feed.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// The version number.
    pub version: i64,
    /// When it was stored.
    pub fetched: Time,
    /// The RingCX ids of the account.
    pub account: AccountId,
    /// The segment's id.
    pub segment_id: String,
    /// The dialog's id.
    pub dialog_id: Option<String>,
    /// When the segment ended.
    pub ended: Option<Time>,
    body: (i64, Vec<u8>),
    metadata: (i64, Vec<u8>),
}

impl FeedRow {
    /// The kind of artifact.
    pub fn artifact(&self) -> Option<Artifact> {
        self.item.artifact()
    }

    /// Unpacks metadata and body, decoded to UTF-8. It takes time for large ones.
    ///
    /// # Errors
    /// If the stored bytes are damaged.
    pub fn unpack(&mut self) -> Result<(String, Vec<u8>), DbError> {
        let metadata = item::unpack(self.metadata.0, std::mem::take(&mut self.metadata.1))?;
        let metadata =
            String::from_utf8(metadata).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Ok((metadata, item::unpack_text(self.body.0, std::mem::take(&mut self.body.1))?))
    }
}

impl Db {
    /// The entries in these ranges, by account and sequence number. Numbers without an artifact are
    /// skipped.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn feed_entries(&self, ranges: &[FeedRange]) -> Result<Vec<FeedEntry>, DbError> {
        let mut entries = Vec::new();
        for part in ranges.chunks(MAX_ROWS_PER_STATEMENT) {
            let rows = part.iter().map(|range| vec![Arg::from(range.account), range.after.into(), range.upto.into()]);
            // The cross join makes SQLite scan `v` first.
            let stmt = Stmt::rows(
                "with v (account, lo, hi) as (values ",
                rows.collect(),
                ") select x.account, x.feed, x.item, x.outcome, x.fetched, x.size from v cross join artifact x
                 where x.account = v.account and x.feed > v.lo and x.feed <= v.hi order by x.account, x.feed",
            );
            for row in self.all(stmt).await? {
                entries.push(FeedEntry {
                    account: row.int(0)?,
                    feed: row.int(1)?,
                    item: Item(row.int(2)?),
                    stored: row.int(3)? == 0,
                    fetched: row.time(4)?,
                    size: row.count(5)?,
                });
            }
        }
        Ok(entries)
    }

    /// The artifact versions with these keys (account, sequence number), with everything that an
    /// event needs. Deleted ones are left out.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn feed_rows(&self, keys: &[(i64, i64)]) -> Result<Vec<FeedRow>, DbError> {
        let mut found = Vec::with_capacity(keys.len());
        for part in keys.chunks(MAX_ROWS_PER_STATEMENT) {
            let rows = part.iter().map(|(account, feed)| vec![Arg::from(*account), (*feed).into()]);
            let stmt = Stmt::rows(
                "with v (account, feed) as (values ",
                rows.collect(),
                ") select x.account, x.feed, x.item, x.version, x.fetched, a.rc, a.sub, s.segment_id, s.dialog_id, s.ended,
                 x.codec, x.body, s.codec, s.metadata
                 from v cross join artifact x join segment s on s.id = x.item / 4 join account a on a.id = x.account
                 where x.account = v.account and x.feed = v.feed and x.outcome = 0 order by x.account, x.feed",
            );
            for row in self.all(stmt).await? {
                found.push(FeedRow {
                    account_key: row.int(0)?,
                    feed: row.int(1)?,
                    item: Item(row.int(2)?),
                    version: row.int(3)?,
                    fetched: row.time(4)?,
                    account: AccountId::new(row.text(5)?, row.text(6)?),
                    segment_id: row.text(7)?,
                    dialog_id: row.maybe_text(8)?,
                    ended: row.time(9)?.known(),
                    body: (row.int(10)?, row.bytes(11)?),
                    metadata: (row.int(12)?, row.bytes(13)?),
                });
            }
        }
        Ok(found)
    }
}
