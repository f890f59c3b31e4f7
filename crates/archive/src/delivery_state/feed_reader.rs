//! Reads the feeds of many accounts at once: first the entries, then the bodies of those that are
//! needed.

use super::super::sql::{EndTime, Flag, utf8_lossy};
use super::super::{AccountKey, Arg, Db, DbError, Item, Stmt, item};
use super::NoticeKind;
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

/// An entry of a feed, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct FeedEntry {
    /// Key of the account.
    pub account: AccountKey,
    /// Its sequence number in the feed.
    pub feed: i64,
    /// The artifact; of a notice, the item of the notices about the segment.
    pub item: Item,
    /// What the entry tells, if it is no artifact.
    #[sqlx(try_from = "NoticeCode")]
    pub notice: Option<NoticeKind>,
    /// Whether there is a body; otherwise the API reported that the artifact is empty.
    #[sqlx(try_from = "Flag")]
    pub stored: bool,
    /// When it was stored.
    pub fetched: Time,
    /// The body's size as received, in bytes; 0 for a recording, of which only the reference is read.
    #[sqlx(try_from = "i64")]
    pub size: u64,
}

/// The kind of notice, or -1 for an artifact.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct NoticeCode(i64);

impl TryFrom<NoticeCode> for Option<NoticeKind> {
    type Error = String;

    fn try_from(code: NoticeCode) -> Result<Option<NoticeKind>, String> {
        (code.0 >= 0).then(|| NoticeKind::try_from(code.0)).transpose()
    }
}

/// A notice with what an event needs: of an erased segment its id, of others the newest metadata,
/// still packed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct FeedNotice {
    /// Key of the account.
    pub account_key: AccountKey,
    /// Its sequence number in the feed.
    pub feed: i64,
    /// The item of the notices about the segment.
    pub item: Item,
    /// What it tells.
    #[sqlx(try_from = "i64")]
    pub kind: NoticeKind,
    /// The number of the metadata version.
    pub version: i64,
    /// When it was made.
    pub at: Time,
    /// The RingCX ids of the account.
    #[sqlx(flatten)]
    pub account: AccountId,
    /// The segment's id; `None` if the segment was erased and every sink was told.
    pub segment_id: Option<String>,
    /// The dialog's id.
    pub dialog_id: Option<String>,
    /// When the segment ended.
    #[sqlx(try_from = "OptionalEndTime")]
    pub ended: Option<Time>,
    metadata_codec: Option<i64>,
    metadata: Option<Vec<u8>>,
}

/// An end time of a segment that may be erased.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct OptionalEndTime(Option<i64>);

impl From<OptionalEndTime> for Option<Time> {
    fn from(ended: OptionalEndTime) -> Option<Time> {
        ended.0.and_then(|ended| Time(ended).known())
    }
}

impl FeedNotice {
    /// Unpacks the metadata. Returns `None` if the segment was erased.
    ///
    /// # Errors
    /// If the stored bytes are damaged.
    pub fn unpack(&mut self) -> Result<Option<String>, DbError> {
        let (Some(codec), Some(metadata)) = (self.metadata_codec, self.metadata.take()) else { return Ok(None) };
        item::unpack(codec, metadata).map(|metadata| Some(utf8_lossy(metadata)))
    }
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

    /// Unpacks metadata and body, decoded to UTF-8; of a recording the reference as JSON. It takes time
    /// for large ones.
    ///
    /// # Errors
    /// If the stored bytes are damaged.
    pub fn unpack(&mut self) -> Result<(String, Vec<u8>), DbError> {
        let metadata = item::unpack(self.metadata_codec, std::mem::take(&mut self.metadata))?;
        Ok((utf8_lossy(metadata), item::unpack_text(self.body_codec, std::mem::take(&mut self.body))?))
    }
}

impl Db {
    /// The entries in these ranges, by account and sequence number: artifact versions and notices.
    /// Numbers whose artifact was erased are skipped.
    pub async fn feed_entries(&self, ranges: &[FeedRange]) -> Result<Vec<FeedEntry>, DbError> {
        let rows = ranges.iter().map(|range| vec![Arg::from(range.account), range.after.into(), range.upto.into()]);
        // The cross join makes SQLite scan `v` first.
        self.all(Stmt::rows(
            "with v (account, lo, hi) as (values ",
            rows.collect(),
            ") select x.account, x.feed, x.item, cast(-1 as bigint) as notice, 1 - x.outcome as stored, x.fetched,
             case when x.item % 4 = 3 then 0 else x.size end as size
             from v cross join artifact x where x.account = v.account and x.feed > v.lo and x.feed <= v.hi
             union all select n.account, n.feed, n.segment * -4 - 1, n.kind, cast(1 as bigint), n.at, cast(0 as bigint)
             from v cross join feed_notice n where n.account = v.account and n.feed > v.lo and n.feed <= v.hi
             order by 1, 2",
        ))
        .await
    }

    /// The artifact versions with these keys (account, sequence number), with everything that an
    /// event needs. Deleted ones are left out.
    pub async fn feed_rows(&self, keys: &[(AccountKey, i64)]) -> Result<Vec<FeedRow>, DbError> {
        let rows = keys.iter().map(|(account, feed)| vec![Arg::from(*account), (*feed).into()]);
        let stmt = Stmt::rows(
            "with v (account, feed) as (values ",
            rows.collect(),
            ") select x.account as account_key, x.feed, x.item, x.version, x.fetched, a.rc, a.sub, s.segment_id, s.dialog_id, s.ended,
             x.codec as body_codec, x.body, s.codec as metadata_codec, s.metadata
             from v cross join artifact x join segment s on s.id = x.item / 4 join account a on a.id = x.account
             where x.account = v.account and x.feed = v.feed and x.outcome = 0 order by x.account, x.feed",
        );
        let mut found: Vec<FeedRow> = self.all(stmt).await?;
        let recorded = found.iter().filter(|row| row.artifact() == Some(Artifact::Recording));
        let recorded: Vec<(Item, i64)> = recorded.map(|row| (row.item, row.version)).collect();
        for recording in self.recording_versions(&recorded).await? {
            let is_its = |row: &&mut FeedRow| (row.item, row.version) == (recording.item, recording.version);
            if let Some(row) = found.iter_mut().find(is_its) {
                (row.body_codec, row.body) = (item::CODEC_PLAIN, recording.reference().to_json());
            }
        }
        Ok(found)
    }

    /// The notices with these keys (account, sequence number), with everything that an event needs.
    pub async fn feed_notices(&self, keys: &[(AccountKey, i64)]) -> Result<Vec<FeedNotice>, DbError> {
        let rows = keys.iter().map(|(account, feed)| vec![Arg::from(*account), (*feed).into()]);
        self.all(Stmt::rows(
            "with v (account, feed) as (values ",
            rows.collect(),
            ") select n.account as account_key, n.feed, n.segment * -4 - 1 as item, n.kind, n.version, n.at, a.rc, a.sub,
             coalesce(n.segment_id, s.segment_id) as segment_id, s.dialog_id, s.ended, s.codec as metadata_codec, s.metadata
             from v cross join feed_notice n join account a on a.id = n.account left join segment s on s.id = n.segment
             where n.account = v.account and n.feed = v.feed order by n.account, n.feed",
        ))
        .await
    }
}
