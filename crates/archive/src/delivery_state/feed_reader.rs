//! Reads the feeds of many accounts at once: first the entries, then the bodies of those that are
//! needed.

use super::super::sql::{EndTime, Flag, utf8_lossy};
use super::super::{AccountKey, Arg, Db, DbError, Item, Stmt, item};
use crate::clock::Time;
use crate::model::{AccountId, Artifact};

/// A range of an account's feed: after `after`, up to and including `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedRange {
    /// Key of the account.
    pub account: AccountKey,
    /// The exclusive lower bound.
    pub after: i64,
    /// The inclusive upper bound.
    pub upto: i64,
}

/// An artifact version in a feed, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct FeedEntry {
    /// Key of the account.
    pub account: AccountKey,
    /// Its sequence number in the feed.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// Whether there is a body; otherwise the API reported that the artifact is empty.
    #[sqlx(try_from = "Flag")]
    pub stored: bool,
    /// When it was stored.
    pub fetched: Time,
    /// The body's size as received, in bytes.
    #[sqlx(try_from = "i64")]
    pub size: u64,
}

/// An artifact version with its body and its segment's metadata, both still packed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct FeedRow {
    /// Key of the account.
    pub account_key: AccountKey,
    /// Its sequence number in the feed.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// The version number.
    pub version: i64,
    /// When it was stored.
    pub fetched: Time,
    /// The RingCX ids of the account.
    #[sqlx(flatten)]
    pub account: AccountId,
    /// The segment's id.
    pub segment_id: String,
    /// The dialog's id.
    pub dialog_id: Option<String>,
    /// When the segment ended.
    #[sqlx(try_from = "EndTime")]
    pub ended: Option<Time>,
    body_codec: i64,
    body: Vec<u8>,
    metadata_codec: i64,
    metadata: Vec<u8>,
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
        let metadata = item::unpack(self.metadata_codec, std::mem::take(&mut self.metadata))?;
        Ok((utf8_lossy(metadata), item::unpack_text(self.body_codec, std::mem::take(&mut self.body))?))
    }
}

impl Db {
    /// The entries in these ranges, by account and sequence number. Numbers without an artifact are
    /// skipped.
    pub async fn feed_entries(&self, ranges: &[FeedRange]) -> Result<Vec<FeedEntry>, DbError> {
        let rows = ranges.iter().map(|range| vec![Arg::from(range.account), range.after.into(), range.upto.into()]);
        // The cross join makes SQLite scan `v` first.
        self.all(Stmt::rows(
            "with v (account, lo, hi) as (values ",
            rows.collect(),
            ") select x.account, x.feed, x.item, 1 - x.outcome as stored, x.fetched, x.size from v cross join artifact x
             where x.account = v.account and x.feed > v.lo and x.feed <= v.hi order by x.account, x.feed",
        ))
        .await
    }

    /// The artifact versions with these keys (account, sequence number), with everything that an
    /// event needs. Deleted ones are left out.
    pub async fn feed_rows(&self, keys: &[(AccountKey, i64)]) -> Result<Vec<FeedRow>, DbError> {
        let rows = keys.iter().map(|(account, feed)| vec![Arg::from(*account), (*feed).into()]);
        self.all(Stmt::rows(
            "with v (account, feed) as (values ",
            rows.collect(),
            ") select x.account as account_key, x.feed, x.item, x.version, x.fetched, a.rc, a.sub, s.segment_id, s.dialog_id, s.ended,
             x.codec as body_codec, x.body, s.codec as metadata_codec, s.metadata
             from v cross join artifact x join segment s on s.id = x.item / 4 join account a on a.id = x.account
             where x.account = v.account and x.feed = v.feed and x.outcome = 0 order by x.account, x.feed",
        ))
        .await
    }
}
