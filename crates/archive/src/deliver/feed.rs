//! Reading feeds: many accounts at once, first what there is, then the bodies of what is wanted.

use super::super::{Arg, BULK, Db, DbError, Item, Stmt, item};
use crate::clock::Time;
use crate::model::{AccountId, Artifact};

/// A part of an account's feed: what comes after `after`, up to and with `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The account's number.
    pub account: i64,
    /// The number before the first one.
    pub after: i64,
    /// The last one.
    pub upto: i64,
}

/// An artifact version in a feed, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The account's number.
    pub account: i64,
    /// Its number in the account's feed.
    pub feed: i64,
    /// Which artifact of which segment.
    pub item: Item,
    /// Whether there is a body; else the API said that there is none.
    pub stored: bool,
    /// When it was stored.
    pub fetched: Time,
    /// The body's size as it came.
    pub size: u64,
}

/// An artifact version with its body and its segment's metadata, packed as they lie in the database.
#[derive(Debug, Clone)]
pub struct FeedRow {
    /// The account's number.
    pub account_key: i64,
    /// Its number in the account's feed.
    pub feed: i64,
    /// Which artifact of which segment.
    pub item: Item,
    /// Which version.
    pub version: i64,
    /// When it was stored.
    pub fetched: Time,
    /// The account.
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
    /// Which artifact.
    pub fn artifact(&self) -> Option<Artifact> {
        self.item.artifact()
    }

    /// Metadata and body, decoded to UTF-8; takes a little while for large ones.
    ///
    /// # Errors
    /// Where the stored bytes were damaged.
    pub fn unpack(&mut self) -> Result<(String, Vec<u8>), DbError> {
        let metadata = item::unpack(self.metadata.0, std::mem::take(&mut self.metadata.1))?;
        let metadata =
            String::from_utf8(metadata).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Ok((metadata, item::unpack_text(self.body.0, std::mem::take(&mut self.body.1))?))
    }
}

impl Db {
    /// What there is in these parts of the feeds, by account and number. Numbers without an artifact are passed over.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn feed_heads(&self, windows: &[Window]) -> Result<Vec<Head>, DbError> {
        let mut heads = Vec::new();
        for part in windows.chunks(BULK) {
            let rows =
                part.iter().map(|window| vec![Arg::from(window.account), window.after.into(), window.upto.into()]);
            // The cross join keeps SQLite from looking at the archive first.
            let stmt = Stmt::rows(
                "with v (account, lo, hi) as (values ",
                rows.collect(),
                ") select x.account, x.feed, x.item, x.outcome, x.fetched, x.size from v cross join artifact x
                 where x.account = v.account and x.feed > v.lo and x.feed <= v.hi order by x.account, x.feed",
            );
            for row in self.all(stmt).await? {
                heads.push(Head {
                    account: row.int(0)?,
                    feed: row.int(1)?,
                    item: Item(row.int(2)?),
                    stored: row.int(3)? == 0,
                    fetched: row.time(4)?,
                    size: row.count(5)?,
                });
            }
        }
        Ok(heads)
    }

    /// These artifact versions, by account and number, with everything that an event needs; those that are not there any
    /// more are left out.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn feed_rows(&self, wanted: &[(i64, i64)]) -> Result<Vec<FeedRow>, DbError> {
        let mut found = Vec::with_capacity(wanted.len());
        for part in wanted.chunks(BULK) {
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
