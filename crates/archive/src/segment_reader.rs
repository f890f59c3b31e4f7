//! Reads segments: one with its attempts, changes and versions, or all in export order, page by
//! page.

use std::collections::BTreeMap;

use super::sql::{CodedItem, EndTime, Flag, PackedMetadata, StateCode};
use super::{AccountKey, Db, DbError, Item, Stmt, item, sql};
use crate::clock::Time;
use crate::model::{AccountId, Artifact, ItemState};

/// A stored segment.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SegmentRow {
    /// Primary key.
    pub key: i64,
    /// The RingCX ids of its account.
    #[sqlx(flatten)]
    pub account: AccountId,
    /// Key of its account.
    pub account_key: AccountKey,
    /// Its id in RingCX.
    pub segment_id: String,
    /// Its dialog's id.
    pub dialog_id: Option<String>,
    /// When it ended; `None` if the API did not report it.
    #[sqlx(try_from = "EndTime")]
    pub ended: Option<Time>,
    /// `hasTranscript`, as last read.
    #[sqlx(try_from = "Flag")]
    pub has_transcript: bool,
    /// When it was first seen.
    pub first_seen: Time,
    /// The metadata as last received, byte for byte.
    #[sqlx(flatten, try_from = "PackedMetadata")]
    pub metadata: String,
}

impl SegmentRow {
    /// The place in the order of exports: by end time (unknown first), sub-account, segment id.
    pub fn export_key(&self) -> (Time, &str, &str) {
        (self.ended.unwrap_or(Time::NONE), &self.account.sub, &self.segment_id)
    }
}

/// The status of one artifact of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactStatus {
    /// Stored: the body, decoded to UTF-8; of a recording its reference as JSON.
    Stored(Vec<u8>),
    /// The API reported that it is empty.
    NotPopulated,
    /// Not answered yet.
    Pending,
    /// Still 404 at the horizon.
    Unavailable,
    /// Requires manual intervention.
    Failed,
    /// Discarded by an operator.
    Discarded,
    /// Not requested.
    NotRequested,
}

/// One artifact of a segment, with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentArtifact {
    /// The status.
    pub status: ArtifactStatus,
    /// When it was fetched, if it was.
    pub fetched: Option<Time>,
    /// The version number; 0 if there is none.
    pub version: i64,
    /// The due time, if it is pending.
    pub due: Option<Time>,
    /// Attempts so far, if it is unanswered.
    pub tries: i64,
    /// Why the last attempt failed.
    pub reason: Option<String>,
}

/// A failed attempt.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AttemptRow {
    /// The artifact.
    #[sqlx(rename = "item", try_from = "CodedItem")]
    pub artifact: Artifact,
    /// The number of the attempt.
    pub nth: i64,
    /// When it failed.
    pub at: Time,
    /// The HTTP status of the response.
    pub status: Option<i64>,
    /// Why it failed.
    pub reason: String,
}

/// A change of a segment's metadata.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct MetadataChange {
    /// When the change was seen.
    pub seen: Time,
    /// What changed.
    pub what: String,
    /// The metadata before it.
    #[sqlx(flatten, try_from = "PackedMetadata")]
    pub metadata: String,
}

/// A version of an artifact, without its body.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ArtifactVersion {
    /// The artifact.
    #[sqlx(rename = "item", try_from = "CodedItem")]
    pub artifact: Artifact,
    /// The version number, from 1.
    pub version: i64,
    /// When it was fetched.
    pub fetched: Time,
    /// The body's size as received, in bytes.
    pub size: i64,
    /// SHA-256 of the body as received.
    pub sha256: Vec<u8>,
}

/// A quarantined metadata record.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct QuarantineRow {
    /// The sub-account's id.
    pub sub: String,
    /// The record as received.
    pub raw: Vec<u8>,
    /// How often it was received.
    pub times: i64,
}

/// Which segments to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportRange {
    /// Segments that ended at or after this.
    pub from: Option<Time>,
    /// Segments that ended before this.
    pub to: Option<Time>,
    /// Only segments of this account.
    pub account: Option<AccountKey>,
}

impl ExportRange {
    /// Whether a segment is in the range.
    pub fn contains(self, segment: &SegmentRow) -> bool {
        let (_, from, to) = self.bounds();
        let ended = segment.ended.unwrap_or(Time::NONE);
        ended >= from && ended < to && self.account.is_none_or(|account| account == segment.account_key)
    }

    /// Account, start and end as arguments; account -1 stands for all. A segment without an end
    /// time is only in the unbounded range.
    pub(crate) fn bounds(self) -> (AccountKey, Time, Time) {
        let first = if self.to.is_some() { Time(i64::MIN + 1) } else { Time::NONE };
        (self.account.unwrap_or(AccountKey::ALL), self.from.unwrap_or(first), self.to.unwrap_or(Time(i64::MAX)))
    }
}

/// The columns of a [`SegmentRow`].
pub(super) const SEGMENT_COLUMNS: &str = "s.id as key, a.rc, a.sub, s.account as account_key, s.segment_id, s.dialog_id, s.ended, s.has_transcript, s.first_seen, s.codec, s.metadata";

#[derive(sqlx::FromRow)]
struct UnfinishedArtifact {
    item: Item,
    #[sqlx(try_from = "StateCode")]
    state: ItemState,
    due: Time,
    tries: i64,
    reason: Option<String>,
}

impl Db {
    /// The next page of segments in export order: by end time (unknown first), sub-account, segment
    /// id.
    pub async fn segments_after(
        &self,
        range: ExportRange,
        last: Option<&SegmentRow>,
        limit: usize,
    ) -> Result<Vec<SegmentRow>, DbError> {
        let (account, from, to) = range.bounds();
        let ended = last.map_or(from, |last| last.ended.unwrap_or(Time::NONE).max(from));
        // The index serves the bound on `ended`; the rest skips the segments of the last page.
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account
             where s.ended >= $1 and s.ended < $2 and ($3 = -1 or s.account = $3)
             and ($4 = 0 or (s.ended, a.sub, s.segment_id) > ($1, $5, $6))
             order by s.ended, a.sub, s.segment_id limit $7"
        ));
        let stmt = stmt.bind(ended).bind(to).bind(account);
        let stmt = stmt.bind(last.is_some()).bind(last.map_or("", |last| &*last.account.sub));
        self.all(stmt.bind(last.map_or("", |last| last.segment_id.as_str())).bind(limit)).await
    }

    /// The segments with this id. There is more than one only if two accounts share it.
    pub async fn segments_by_id(&self, segment_id: &str) -> Result<Vec<SegmentRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from account a join segment s on s.account = a.id where s.segment_id = $1 order by a.sub"
        ));
        self.all(stmt.bind(segment_id)).await
    }

    /// All segments of a dialog, in order of end time.
    pub async fn segments_of_dialog(&self, dialog_id: &str) -> Result<Vec<SegmentRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account where s.dialog_id = $1
             order by s.ended, a.sub, s.segment_id"
        ));
        self.all(stmt.bind(dialog_id)).await
    }

    /// All segments of these dialogs, in order of end time; of all accounts that have such a dialog.
    pub async fn segments_of_dialogs(&self, dialog_ids: &[String]) -> Result<Vec<SegmentRow>, DbError> {
        let head =
            format!("select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account where s.dialog_id in ");
        let mut segments: Vec<SegmentRow> =
            self.all(Stmt::list(&head, Vec::new(), dialog_ids.iter().map(String::as_str), "")).await?;
        // A long list runs in pieces, so the order cannot be the statement's.
        segments.sort_by(|a, b| a.export_key().cmp(&b.export_key()));
        Ok(segments)
    }

    /// The next page of segments, the newest first: before `last` in the order of
    /// [`Db::segments_after`].
    pub async fn segments_before(
        &self,
        range: ExportRange,
        last: Option<&SegmentRow>,
        limit: usize,
    ) -> Result<Vec<SegmentRow>, DbError> {
        let (account, from, to) = range.bounds();
        // The index serves the bounds on `ended`; the rest skips the segments of the last page.
        let ended = last.map_or(Time(i64::MAX), |last| last.ended.unwrap_or(Time::NONE));
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account
             where s.ended >= $1 and s.ended < $2 and s.ended <= $3 and ($4 = -1 or s.account = $4)
             and ($5 = 0 or (s.ended, a.sub, s.segment_id) < ($3, $6, $7))
             order by s.ended desc, a.sub desc, s.segment_id desc limit $8"
        ));
        let stmt = stmt.bind(from).bind(to).bind(ended).bind(account).bind(last.is_some());
        let stmt = stmt.bind(last.map_or("", |last| &*last.account.sub));
        self.all(stmt.bind(last.map_or("", |last| last.segment_id.as_str())).bind(limit)).await
    }

    /// The artifacts of these segments, each in the order of [`Artifact::ALL`].
    pub async fn segment_artifacts(
        &self,
        segments: &[SegmentRow],
    ) -> Result<Vec<[SegmentArtifact; Artifact::ALL.len()]>, DbError> {
        let items: Vec<Item> =
            segments.iter().flat_map(|segment| Artifact::ALL.map(|artifact| Item::of(segment.key, artifact))).collect();
        let mut artifacts: BTreeMap<Item, SegmentArtifact> = BTreeMap::new();
        let head = "select item, state, due, tries, reason from work where visit = 0 and item in ";
        for row in self.all::<UnfinishedArtifact>(Stmt::list(head, Vec::new(), items.iter().copied(), "")).await? {
            let (status, due) = match row.state {
                ItemState::Unavailable => (ArtifactStatus::Unavailable, None),
                ItemState::Failed => (ArtifactStatus::Failed, None),
                ItemState::Discarded => (ArtifactStatus::Discarded, None),
                ItemState::Open => (ArtifactStatus::Pending, Some(row.due)),
            };
            let (tries, reason) = (row.tries, row.reason);
            artifacts.insert(row.item, SegmentArtifact { status, fetched: None, version: 0, due, tries, reason });
        }
        let head = "select item, outcome, fetched, version, codec, body from artifact where item in ";
        type StoredArtifact = (Item, i64, Time, i64, i64, Vec<u8>);
        let stmt = Stmt::list(head, Vec::new(), items, " order by item, version");
        for (item, outcome, fetched, version, codec, body) in self.all::<StoredArtifact>(stmt).await? {
            let status = match outcome {
                0 => ArtifactStatus::Stored(item::unpack_text(codec, body)?),
                _ => ArtifactStatus::NotPopulated,
            };
            let fetched = Some(fetched);
            artifacts.insert(item, SegmentArtifact { status, fetched, version, due: None, tries: 0, reason: None });
        }
        let recorded = artifacts.iter().filter(|(item, slot)| {
            item.artifact() == Some(Artifact::Recording) && matches!(slot.status, ArtifactStatus::Stored(_))
        });
        let recorded: Vec<i64> = recorded.map(|(item, _)| item.segment()).collect();
        for row in self.recordings_of(&recorded).await? {
            if let Some(slot) = artifacts.get_mut(&row.item).filter(|slot| slot.version == row.version) {
                slot.status = ArtifactStatus::Stored(row.reference().to_json());
            }
        }
        let none = || SegmentArtifact {
            status: ArtifactStatus::NotRequested,
            fetched: None,
            version: 0,
            due: None,
            tries: 0,
            reason: None,
        };
        Ok(segments
            .iter()
            .map(|segment| {
                Artifact::ALL.map(|artifact| artifacts.remove(&Item::of(segment.key, artifact)).unwrap_or_else(none))
            })
            .collect())
    }

    /// A segment's most recent failed attempts, in order of time.
    pub async fn attempts(&self, segment: i64) -> Result<Vec<AttemptRow>, DbError> {
        let stmt = sql(
            "select item, nth, at, status, reason from attempt where item >= $1 and item < $2 order by at, item, nth",
        );
        let first = segment.saturating_mul(4);
        self.all(stmt.bind(first).bind(first + 4)).await
    }

    /// A segment's metadata changes, oldest first.
    pub async fn metadata_changes(&self, segment: i64) -> Result<Vec<MetadataChange>, DbError> {
        let stmt = sql("select seen, what, codec, metadata from segment_version where segment = $1 order by seen");
        self.all(stmt.bind(segment)).await
    }

    /// A segment's artifact versions, without bodies.
    pub async fn artifact_versions(&self, segment: i64) -> Result<Vec<ArtifactVersion>, DbError> {
        let stmt = sql(
            "select item, version, fetched, size, sha256 from artifact where item >= $1 and item < $2 order by item, version",
        );
        let first = segment.saturating_mul(4);
        self.all(stmt.bind(first).bind(first + 4)).await
    }

    /// Unresolved quarantined records.
    pub async fn quarantined_records(&self, limit: u32) -> Result<Vec<QuarantineRow>, DbError> {
        let stmt = sql("select a.sub, x.raw, x.times from aside x join account a on a.id = x.account
             where x.resolved is null order by x.first_seen limit $1");
        self.all(stmt.bind(limit)).await
    }
}
