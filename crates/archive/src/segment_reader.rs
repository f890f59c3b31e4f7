//! Reads segments: one with its attempts, changes and versions, or all in export order, page by
//! page.

use std::collections::BTreeMap;

use super::{Db, DbError, Item, Row, Stmt, item, sql};
use crate::clock::Time;
use crate::model::{AccountId, Artifact, ItemState};

/// A stored segment.
#[derive(Debug, Clone)]
pub struct SegmentRow {
    /// Primary key.
    pub key: i64,
    /// The RingCX ids of its account.
    pub account: AccountId,
    /// Key of its account.
    pub account_key: i64,
    /// Its id in RingCX.
    pub segment_id: String,
    /// Its dialog's id.
    pub dialog_id: Option<String>,
    /// When it ended; `None` if the API did not report it.
    pub ended: Option<Time>,
    /// `hasTranscript`, as last read.
    pub has_transcript: bool,
    /// When it was first seen.
    pub first_seen: Time,
    /// The metadata as last received, byte for byte.
    pub metadata: String,
}

/// The status of one artifact of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactStatus {
    /// Stored: the body, decoded to UTF-8.
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

impl SegmentArtifact {
    fn with_status(status: ArtifactStatus) -> SegmentArtifact {
        SegmentArtifact { status, fetched: None, version: 0, due: None, tries: 0, reason: None }
    }
}

/// A failed attempt.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// The artifact.
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
#[derive(Debug, Clone)]
pub struct MetadataChange {
    /// When the change was seen.
    pub seen: Time,
    /// What changed.
    pub what: String,
    /// The metadata before it.
    pub metadata: String,
}

/// A version of an artifact, without its body.
#[derive(Debug, Clone)]
pub struct ArtifactVersion {
    /// The artifact.
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
#[derive(Debug, Clone)]
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
    pub account: Option<i64>,
}

pub(super) const SEGMENT_COLUMNS: &str = "s.id, a.rc, a.sub, s.account, s.segment_id, s.dialog_id, s.ended, s.has_transcript, s.first_seen, s.codec, s.metadata";

pub(super) fn segment_from_row(row: &Row) -> Result<SegmentRow, DbError> {
    Ok(SegmentRow {
        key: row.int(0)?,
        account: AccountId::new(row.text(1)?, row.text(2)?),
        account_key: row.int(3)?,
        segment_id: row.text(4)?,
        dialog_id: row.maybe_text(5)?,
        ended: row.time(6)?.known(),
        has_transcript: row.flag(7)?,
        first_seen: row.time(8)?,
        metadata: utf8_lossy(item::unpack(row.int(9)?, row.bytes(10)?)?),
    })
}

fn utf8_lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
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
        // A segment without an end time is only in the unbounded range.
        let from = range.from.unwrap_or(if range.to.is_some() { Time(i64::MIN + 1) } else { Time::NONE });
        let ended = last.map_or(from, |last| last.ended.unwrap_or(Time::NONE).max(from));
        // The index serves the bound on `ended`; the rest skips the segments of the last page.
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account
             where s.ended >= $1 and s.ended < $2 and ($3 = -1 or s.account = $3)
             and ($4 = 0 or (s.ended, a.sub, s.segment_id) > ($1, $5, $6))
             order by s.ended, a.sub, s.segment_id limit {limit}"
        ));
        let stmt = stmt.bind(ended).bind(range.to.unwrap_or(Time(i64::MAX))).bind(range.account.unwrap_or(-1));
        let stmt = stmt.bind(last.is_some()).bind(last.map_or("", |last| &*last.account.sub));
        let rows = self.all(stmt.bind(last.map_or("", |last| last.segment_id.as_str()))).await?;
        rows.iter().map(segment_from_row).collect()
    }

    /// The segments with this id. There is more than one only if two accounts share it.
    pub async fn segments_by_id(&self, segment_id: &str) -> Result<Vec<SegmentRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from account a join segment s on s.account = a.id where s.segment_id = $1 order by a.sub"
        ));
        let rows = self.all(stmt.bind(segment_id)).await?;
        rows.iter().map(segment_from_row).collect()
    }

    /// All segments of a dialog, in order of end time.
    pub async fn segments_of_dialog(&self, dialog_id: &str) -> Result<Vec<SegmentRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account where s.dialog_id = $1
             order by s.ended, a.sub, s.segment_id"
        ));
        let rows = self.all(stmt.bind(dialog_id)).await?;
        rows.iter().map(segment_from_row).collect()
    }

    /// The artifacts of these segments, each in the order of [`Artifact::ALL`].
    pub async fn segment_artifacts(&self, segments: &[SegmentRow]) -> Result<Vec<[SegmentArtifact; 3]>, DbError> {
        let items: Vec<i64> = segments
            .iter()
            .flat_map(|segment| Artifact::ALL.map(|artifact| Item::of(segment.key, artifact).0))
            .collect();
        let mut artifacts: BTreeMap<Item, SegmentArtifact> = BTreeMap::new();
        for part in items.chunks(super::MAX_ROWS_PER_STATEMENT) {
            self.read_unfinished_artifacts(part, &mut artifacts).await?;
            self.read_stored_artifacts(part, &mut artifacts).await?;
        }
        Ok(segments
            .iter()
            .map(|segment| {
                Artifact::ALL.map(|artifact| {
                    artifacts
                        .remove(&Item::of(segment.key, artifact))
                        .unwrap_or(SegmentArtifact::with_status(ArtifactStatus::NotRequested))
                })
            })
            .collect())
    }

    async fn read_unfinished_artifacts(
        &self,
        items: &[i64],
        artifacts: &mut BTreeMap<Item, SegmentArtifact>,
    ) -> Result<(), DbError> {
        let stmt = Stmt::list(
            "select item, state, due, tries, reason from work where visit = 0 and item in ",
            Vec::new(),
            items.iter().copied(),
            "",
        );
        for row in self.all(stmt).await? {
            let status = match row.code(1, ("work.state", row.int(0)?), ItemState::from_code)? {
                ItemState::Unavailable => ArtifactStatus::Unavailable,
                ItemState::Failed => ArtifactStatus::Failed,
                ItemState::Discarded => ArtifactStatus::Discarded,
                ItemState::Open => ArtifactStatus::Pending,
            };
            let due = (status == ArtifactStatus::Pending).then_some(row.time(2)?);
            let artifact = SegmentArtifact {
                due,
                tries: row.int(3)?,
                reason: row.maybe_text(4)?,
                ..SegmentArtifact::with_status(status)
            };
            artifacts.insert(Item(row.int(0)?), artifact);
        }
        Ok(())
    }

    async fn read_stored_artifacts(
        &self,
        items: &[i64],
        artifacts: &mut BTreeMap<Item, SegmentArtifact>,
    ) -> Result<(), DbError> {
        let stmt = Stmt::list(
            "select item, outcome, fetched, version, codec, body from artifact where item in ",
            Vec::new(),
            items.iter().copied(),
            " order by item, version",
        );
        for row in self.all(stmt).await? {
            let status = match row.int(1)? {
                0 => ArtifactStatus::Stored(item::unpack_text(row.int(4)?, row.bytes(5)?)?),
                _ => ArtifactStatus::NotPopulated,
            };
            let artifact = SegmentArtifact {
                fetched: Some(row.time(2)?),
                version: row.int(3)?,
                ..SegmentArtifact::with_status(status)
            };
            artifacts.insert(Item(row.int(0)?), artifact);
        }
        Ok(())
    }

    /// A segment's most recent failed attempts, in order of time.
    pub async fn attempts(&self, segment: i64) -> Result<Vec<AttemptRow>, DbError> {
        let stmt = sql(
            "select item, nth, at, status, reason from attempt where item >= $1 and item < $2 order by at, item, nth",
        );
        let first = segment.saturating_mul(4);
        let mut attempts = Vec::new();
        for row in self.all(stmt.bind(first).bind(first + 4)).await? {
            attempts.push(AttemptRow {
                artifact: Item(row.int(0)?).require_artifact("attempt.item")?,
                nth: row.int(1)?,
                at: row.time(2)?,
                status: row.maybe_int(3)?,
                reason: row.text(4)?,
            });
        }
        Ok(attempts)
    }

    /// A segment's metadata changes, oldest first.
    pub async fn metadata_changes(&self, segment: i64) -> Result<Vec<MetadataChange>, DbError> {
        let stmt = sql("select seen, what, codec, metadata from segment_version where segment = $1 order by seen");
        let rows = self.all(stmt.bind(segment)).await?;
        rows.iter()
            .map(|row| {
                let metadata = utf8_lossy(item::unpack(row.int(2)?, row.bytes(3)?)?);
                Ok(MetadataChange { seen: row.time(0)?, what: row.text(1)?, metadata })
            })
            .collect()
    }

    /// A segment's artifact versions, without bodies.
    pub async fn artifact_versions(&self, segment: i64) -> Result<Vec<ArtifactVersion>, DbError> {
        let stmt = sql(
            "select item, version, fetched, size, sha256 from artifact where item >= $1 and item < $2 order by item, version",
        );
        let first = segment.saturating_mul(4);
        let mut versions = Vec::new();
        for row in self.all(stmt.bind(first).bind(first + 4)).await? {
            versions.push(ArtifactVersion {
                artifact: Item(row.int(0)?).require_artifact("artifact.item")?,
                version: row.int(1)?,
                fetched: row.time(2)?,
                size: row.int(3)?,
                sha256: row.bytes(4)?,
            });
        }
        Ok(versions)
    }

    /// Unresolved quarantined records.
    pub async fn quarantined_records(&self, limit: u32) -> Result<Vec<QuarantineRow>, DbError> {
        let stmt = sql("select a.sub, x.raw, x.times from aside x join account a on a.id = x.account
             where x.resolved is null order by x.first_seen limit $1");
        let rows = self.all(stmt.bind(limit)).await?;
        rows.iter().map(|row| Ok(QuarantineRow { sub: row.text(0)?, raw: row.bytes(1)?, times: row.int(2)? })).collect()
    }
}
