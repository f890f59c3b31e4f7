//! Feed entries that are no artifact: announced or changed metadata, and erasures.
//!
//! They take the next numbers of the account's feed, in the transaction that makes them, and a leaf
//! in its hash chain. They are written only while somebody reads them: erasures once there is a
//! sink, metadata while a sink asks for it.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng as _;

use super::super::{AccountKey, Arg, Db, DbError, Stmt, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::{FeedRecord, GENESIS_HASH, SALT_LEN, link};

/// What a notice tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// The segment was announced, or its metadata changed.
    Metadata,
    /// The segment was erased on request.
    Erased,
    /// The segment was deleted by retention.
    Expired,
}

impl NoticeKind {
    const ALL: [NoticeKind; 3] = [NoticeKind::Metadata, NoticeKind::Erased, NoticeKind::Expired];

    /// The code in the database.
    pub(crate) const fn code(self) -> i64 {
        match self {
            NoticeKind::Metadata => 0,
            NoticeKind::Erased => 1,
            NoticeKind::Expired => 2,
        }
    }
}

impl TryFrom<i64> for NoticeKind {
    type Error = String;

    fn try_from(code: i64) -> Result<NoticeKind, String> {
        let kind = NoticeKind::ALL.into_iter().find(|kind| kind.code() == code);
        kind.ok_or_else(|| format!("{code} is no kind of notice"))
    }
}

/// A notice to append to a feed.
pub(crate) struct NewNotice<'a> {
    pub(crate) kind: NoticeKind,
    pub(crate) segment: i64,
    pub(crate) segment_id: &'a str,
    /// The number of the metadata version; 1 for an erasure.
    pub(crate) version: i64,
}

/// Key of `meta`: whether metadata is announced in the feeds.
pub(super) const ANNOUNCES_METADATA: &str = "feed.metadata";

/// Key of `meta`: when a program last read the feed over HTTP, in milliseconds since 1970.
const FEED_READ_META: &str = "reader.feed_read";

/// How long the ids of erased segments are kept for programs that read the feed.
const KEPT_FOR_READERS: Duration = Duration::from_secs(30 * 86_400);

/// In the chain, the artifact and outcome of a notice: codes that no artifact has.
const NOTICE_CODE: i64 = -1;

impl Db {
    /// Sets whether announced and changed metadata is written to the feeds. Takes effect with the
    /// next metadata read.
    pub async fn announce_metadata(&self, wanted: bool) -> Result<(), DbError> {
        if self.meta(ANNOUNCES_METADATA).await?.is_some() == wanted {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        match wanted {
            true => tx.put_meta(ANNOUNCES_METADATA, "1").await?,
            false => tx.delete_meta(ANNOUNCES_METADATA).await?,
        }
        tx.commit().await
    }

    /// Removes the ids of erased segments that each of these sinks was told about. While a program
    /// reads the feed, they are kept for it for a while. Returns their number.
    pub async fn forget_delivered_erasures(&self, sinks: &[&str], now: Time) -> Result<u64, DbError> {
        let named = sql("select feed from feed_notice where segment_id is not null limit 1");
        if self.first::<(i64,)>(named).await?.is_none() {
            return Ok(0);
        }
        let last_read = self.meta(FEED_READ_META).await?.and_then(|read| read.parse().ok()).map(Time);
        let is_read = last_read.is_some_and(|read| now.since(read) < KEPT_FOR_READERS);
        let before = if is_read { now - KEPT_FOR_READERS } else { Time(i64::MAX) };
        if sinks.is_empty() {
            let stmt = sql("update feed_notice set segment_id = null where segment_id is not null and at < $1");
            return self.run(stmt.bind(before)).await;
        }
        let head = "with mark (before) as (select cast($1 as bigint)),
             known (sink) as (select id from sink where name in ";
        let tail = ") update feed_notice set segment_id = null
             where segment_id is not null and at < (select before from mark)
             and not exists (select 1 from known k
               left join sink_cursor c on c.sink = k.sink and c.account = feed_notice.account
               where coalesce(c.feed, 0) < feed_notice.feed)
             and not exists (select 1 from known k join sink_event e on e.sink = k.sink
               where e.account = feed_notice.account and e.feed = feed_notice.feed)";
        self.run(Stmt::list(head, vec![before.into()], sinks.iter().copied(), tail)).await
    }
}

impl Tx {
    /// Whether metadata is written to the feeds.
    pub(crate) async fn announces_metadata(&mut self) -> Result<bool, DbError> {
        Ok(self.meta(ANNOUNCES_METADATA).await?.is_some())
    }

    /// Whether anybody is told about erasures: a sink, or a program that reads the feed.
    pub(crate) async fn announces_erasures(&mut self) -> Result<bool, DbError> {
        let has_sink = self.value::<i64>(sql("select id from sink limit 1")).await?.is_some();
        Ok(has_sink || self.meta(FEED_READ_META).await?.is_some())
    }

    /// Appends notices to the account's feed and chain. The caller holds the account's lock.
    pub(crate) async fn append_notices(
        &mut self,
        account: AccountKey,
        notices: &[NewNotice<'_>],
        at: Time,
    ) -> Result<(), DbError> {
        if notices.is_empty() {
            return Ok(());
        }
        let state = self.first(sql("select sub, feed, chain from account where id = $1").bind(account)).await?;
        let (sub, mut feed, chain): (String, i64, Option<Vec<u8>>) =
            state.ok_or_else(|| DbError::missing_row("account", account.0.to_string()))?;
        let mut head = chain.unwrap_or_else(|| GENESIS_HASH.to_vec());
        let (mut rows, mut leaves) = (Vec::with_capacity(notices.len()), Vec::with_capacity(notices.len()));
        for notice in notices {
            feed += 1;
            let salt: [u8; SALT_LEN] = rand::rng().random();
            let record = FeedRecord {
                salt: &salt,
                feed,
                sub: &sub,
                segment_id: notice.segment_id,
                artifact: NOTICE_CODE,
                version: notice.version,
                outcome: notice.kind.code(),
                fetched: at.0,
                size: 0,
                sha256: &[],
            };
            let leaf = record.leaf();
            head = link(&head, &leaf).to_vec();
            leaves.push(vec![account.into(), feed.into(), leaf.into()]);
            // A metadata notice finds the id in the segment.
            let id = (notice.kind != NoticeKind::Metadata).then(|| notice.segment_id.to_owned());
            rows.push(vec![
                account.into(),
                feed.into(),
                notice.kind.code().into(),
                notice.segment.into(),
                Arg::from(id),
                notice.version.into(),
                at.into(),
            ]);
        }
        let stmt = sql("update account set feed = $2, chain = $3 where id = $1");
        self.run(stmt.bind(account).bind(feed).bind(head)).await?;
        self.run(Stmt::rows("insert into erased_leaf (account, feed, leaf) values ", leaves, "")).await?;
        let head = "insert into feed_notice (account, feed, kind, segment, segment_id, version, at) values ";
        self.run(Stmt::rows(head, rows, "")).await.map(drop)
    }

    /// The numbers of the newest metadata versions of these segments.
    pub(crate) async fn metadata_versions(&mut self, segments: &[i64]) -> Result<HashMap<i64, i64>, DbError> {
        let head = "select segment, count(*) + 1 from segment_version where segment in ";
        let counts: Vec<(i64, i64)> =
            self.all(Stmt::list(head, Vec::new(), segments.iter().copied(), " group by segment")).await?;
        Ok(counts.into_iter().collect())
    }

    /// Deletes the metadata notices of these segments, before the segments are deleted.
    pub(crate) async fn delete_metadata_notices(&mut self, segments: &[i64]) -> Result<(), DbError> {
        let head = "delete from feed_notice where kind = 0 and segment in ";
        self.run(Stmt::list(head, Vec::new(), segments.iter().copied(), "")).await.map(drop)
    }
}
