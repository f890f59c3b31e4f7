//! Reading the archive: one segment with its story, and the whole of it, page by page, in export order.

use std::collections::BTreeMap;

use super::{Db, DbError, Item, Row, Stmt, item, sql};
use crate::clock::Time;
use crate::model::{AccountId, Artifact, State, Stretch};

/// A segment as the archive holds it.
#[derive(Debug, Clone)]
pub struct SegmentRow {
    /// Its number in the database.
    pub key: i64,
    /// Its account.
    pub account: AccountId,
    /// The account's number.
    pub account_key: i64,
    /// Its id in RingCX.
    pub segment_id: String,
    /// Its dialog's id.
    pub dialog_id: Option<String>,
    /// When it ended; `None` if the API never said.
    pub ended: Option<Time>,
    /// `hasTranscript`, as last read.
    pub has_transcript: bool,
    /// When it was first seen.
    pub first_seen: Time,
    /// The metadata as last received, byte for byte.
    pub metadata: String,
}

/// How one artifact of a segment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotOutcome {
    /// Its body, decoded to UTF-8 from the charset that it came in.
    Stored(Vec<u8>),
    /// The API said that there is none.
    NotPopulated,
    /// Not answered yet.
    Pending,
    /// Still 404 at the horizon.
    Unavailable,
    /// Will not work without a person.
    Failed,
    /// A person gave it up.
    Discarded,
    /// Never asked for.
    NotRequested,
}

/// One artifact of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSlot {
    /// How it stands.
    pub outcome: SlotOutcome,
    /// When it was fetched, where it was.
    pub fetched: Option<Time>,
    /// Which version of it this is; 0 where there is none.
    pub version: i64,
    /// When it is tried again, where it is pending.
    pub due: Option<Time>,
    /// Tries so far, where it is not answered.
    pub tries: i64,
    /// Why the last try failed.
    pub reason: Option<String>,
}

impl SegmentSlot {
    fn bare(outcome: SlotOutcome) -> SegmentSlot {
        SegmentSlot { outcome, fetched: None, version: 0, due: None, tries: 0, reason: None }
    }
}

/// A failed try.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Of which artifact.
    pub artifact: Artifact,
    /// Which try it was.
    pub nth: i64,
    /// When.
    pub at: Time,
    /// The answer's status.
    pub status: Option<i64>,
    /// Why it failed.
    pub reason: String,
}

/// Metadata as it was before a change.
#[derive(Debug, Clone)]
pub struct ChangeRow {
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
    /// Of which artifact.
    pub artifact: Artifact,
    /// 1 for the first.
    pub version: i64,
    /// When it was fetched.
    pub fetched: Time,
    /// Its size as it came, in bytes.
    pub size: i64,
    /// SHA-256 of the body as it came.
    pub sha256: Vec<u8>,
}

/// A record that was set aside.
#[derive(Debug, Clone)]
pub struct AsideRow {
    /// The sub-account.
    pub sub: String,
    /// The segment's id where it could be read.
    pub segment_id: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// The record as received.
    pub raw: Vec<u8>,
    /// First and last time it was received.
    pub seen: (Time, Time),
    /// How often it was received.
    pub times: i64,
    /// Where it lies.
    pub stretch: Stretch,
    /// When it is asked for again.
    pub due: Time,
}

/// Which segments to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportRange {
    /// Ended at or after.
    pub from: Option<Time>,
    /// Ended before.
    pub to: Option<Time>,
    /// Only of this account.
    pub account: Option<i64>,
}

pub(super) const SEGMENT: &str = "s.id, a.rc, a.sub, s.account, s.segment_id, s.dialog_id, s.ended, s.has_transcript, s.first_seen, s.codec, s.metadata";

pub(super) fn segment(row: &Row) -> Result<SegmentRow, DbError> {
    Ok(SegmentRow {
        key: row.int(0)?,
        account: AccountId::new(row.text(1)?, row.text(2)?),
        account_key: row.int(3)?,
        segment_id: row.text(4)?,
        dialog_id: row.maybe_text(5)?,
        ended: row.time(6)?.known(),
        has_transcript: row.flag(7)?,
        first_seen: row.time(8)?,
        metadata: text(item::unpack(row.int(9)?, row.bytes(10)?)?),
    })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

impl Db {
    /// The next page of segments in export order: by end time (unknown first), sub-account, segment id.
    pub async fn segments_after(
        &self,
        range: ExportRange,
        last: Option<&SegmentRow>,
        limit: usize,
    ) -> Result<Vec<SegmentRow>, DbError> {
        // A segment without an end time lies in no range but the whole.
        let from = range.from.unwrap_or(if range.to.is_some() { Time(i64::MIN + 1) } else { Time::NONE });
        let ended = last.map_or(from, |last| last.ended.unwrap_or(Time::NONE).max(from));
        // The bound on `ended` alone is what the index serves; the rest skips what the last page held.
        let stmt = Stmt::built(format!(
            "select {SEGMENT} from segment s join account a on a.id = s.account
             where s.ended >= $1 and s.ended < $2 and ($3 = -1 or s.account = $3)
             and ($4 = 0 or (s.ended, a.sub, s.segment_id) > ($1, $5, $6))
             order by s.ended, a.sub, s.segment_id limit {limit}"
        ));
        let stmt = stmt.bind(ended).bind(range.to.unwrap_or(Time(i64::MAX))).bind(range.account.unwrap_or(-1));
        let stmt = stmt.bind(last.is_some()).bind(last.map_or("", |last| &*last.account.sub));
        let rows = self.all(stmt.bind(last.map_or("", |last| last.segment_id.as_str()))).await?;
        rows.iter().map(segment).collect()
    }

    /// The segments with this id; more than one only where two accounts share it.
    pub async fn segments_named(&self, segment_id: &str) -> Result<Vec<SegmentRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT} from account a join segment s on s.account = a.id where s.segment_id = $1 order by a.sub"
        ));
        let rows = self.all(stmt.bind(segment_id)).await?;
        rows.iter().map(segment).collect()
    }

    /// All segments of a dialog, in order of time.
    pub async fn segments_of_dialog(&self, dialog_id: &str) -> Result<Vec<SegmentRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT} from segment s join account a on a.id = s.account where s.dialog_id = $1
             order by s.ended, a.sub, s.segment_id"
        ));
        let rows = self.all(stmt.bind(dialog_id)).await?;
        rows.iter().map(segment).collect()
    }

    /// How each artifact of these segments stands, in the order of [`Artifact::ALL`].
    pub async fn slots(&self, segments: &[SegmentRow]) -> Result<Vec<[SegmentSlot; 3]>, DbError> {
        let items: Vec<i64> = segments
            .iter()
            .flat_map(|segment| Artifact::ALL.map(|artifact| Item::of(segment.key, artifact).0))
            .collect();
        let mut slots: BTreeMap<Item, SegmentSlot> = BTreeMap::new();
        for part in items.chunks(super::BULK) {
            self.unfinished_slots(part, &mut slots).await?;
            self.archived_slots(part, &mut slots).await?;
        }
        Ok(segments
            .iter()
            .map(|segment| {
                Artifact::ALL.map(|artifact| {
                    slots
                        .remove(&Item::of(segment.key, artifact))
                        .unwrap_or(SegmentSlot::bare(SlotOutcome::NotRequested))
                })
            })
            .collect())
    }

    async fn unfinished_slots(&self, items: &[i64], slots: &mut BTreeMap<Item, SegmentSlot>) -> Result<(), DbError> {
        let stmt = Stmt::list(
            "select item, state, due, tries, reason from work where visit = 0 and item in ",
            Vec::new(),
            items.iter().copied(),
            "",
        );
        for row in self.all(stmt).await? {
            let outcome = match row.code(1, ("work.state", row.int(0)?), State::from_code)? {
                State::Unavailable => SlotOutcome::Unavailable,
                State::Failed => SlotOutcome::Failed,
                State::Discarded => SlotOutcome::Discarded,
                State::Open => SlotOutcome::Pending,
            };
            let due = (outcome == SlotOutcome::Pending).then_some(row.time(2)?);
            let slot =
                SegmentSlot { due, tries: row.int(3)?, reason: row.maybe_text(4)?, ..SegmentSlot::bare(outcome) };
            slots.insert(Item(row.int(0)?), slot);
        }
        Ok(())
    }

    async fn archived_slots(&self, items: &[i64], slots: &mut BTreeMap<Item, SegmentSlot>) -> Result<(), DbError> {
        let stmt = Stmt::list(
            "select item, outcome, fetched, version, codec, body from artifact where item in ",
            Vec::new(),
            items.iter().copied(),
            " order by item, version",
        );
        for row in self.all(stmt).await? {
            let outcome = match row.int(1)? {
                0 => SlotOutcome::Stored(item::unpack_text(row.int(4)?, row.bytes(5)?)?),
                _ => SlotOutcome::NotPopulated,
            };
            let slot = SegmentSlot { fetched: Some(row.time(2)?), version: row.int(3)?, ..SegmentSlot::bare(outcome) };
            slots.insert(Item(row.int(0)?), slot);
        }
        Ok(())
    }

    /// A segment's failed tries, the latest kept, in order.
    pub async fn attempts(&self, segment: i64) -> Result<Vec<AttemptRow>, DbError> {
        let stmt = sql(
            "select item, nth, at, status, reason from attempt where item >= $1 and item < $2 order by at, item, nth",
        );
        let first = segment.saturating_mul(4);
        let mut attempts = Vec::new();
        for row in self.all(stmt.bind(first).bind(first + 4)).await? {
            attempts.push(AttemptRow {
                artifact: Item(row.int(0)?).known_artifact("attempt.item")?,
                nth: row.int(1)?,
                at: row.time(2)?,
                status: row.maybe_int(3)?,
                reason: row.text(4)?,
            });
        }
        Ok(attempts)
    }

    /// A segment's earlier metadata, oldest first.
    pub async fn changes(&self, segment: i64) -> Result<Vec<ChangeRow>, DbError> {
        let stmt = sql("select seen, what, codec, metadata from segment_version where segment = $1 order by seen");
        let rows = self.all(stmt.bind(segment)).await?;
        rows.iter()
            .map(|row| {
                let metadata = text(item::unpack(row.int(2)?, row.bytes(3)?)?);
                Ok(ChangeRow { seen: row.time(0)?, what: row.text(1)?, metadata })
            })
            .collect()
    }

    /// A segment's artifact versions, without bodies.
    pub async fn versions(&self, segment: i64) -> Result<Vec<ArtifactVersion>, DbError> {
        let stmt = sql(
            "select item, version, fetched, size, sha256 from artifact where item >= $1 and item < $2 order by item, version",
        );
        let first = segment.saturating_mul(4);
        let mut versions = Vec::new();
        for row in self.all(stmt.bind(first).bind(first + 4)).await? {
            versions.push(ArtifactVersion {
                artifact: Item(row.int(0)?).known_artifact("artifact.item")?,
                version: row.int(1)?,
                fetched: row.time(2)?,
                size: row.int(3)?,
                sha256: row.bytes(4)?,
            });
        }
        Ok(versions)
    }

    /// Records set aside that no later read has settled.
    pub async fn asides(&self, limit: u32) -> Result<Vec<AsideRow>, DbError> {
        let stmt = sql(
            "select a.sub, x.segment_id, x.reason, x.raw, x.first_seen, x.last_seen, x.times, x.from_ms, x.to_ms, x.due
             from aside x join account a on a.id = x.account where x.resolved is null order by x.first_seen limit $1",
        );
        let rows = self.all(stmt.bind(limit)).await?;
        rows.iter()
            .map(|row| {
                Ok(AsideRow {
                    sub: row.text(0)?,
                    segment_id: row.maybe_text(1)?,
                    reason: row.text(2)?,
                    raw: row.bytes(3)?,
                    seen: (row.time(4)?, row.time(5)?),
                    times: row.int(6)?,
                    stretch: Stretch { from: row.time(7)?, to: row.time(8)? },
                    due: row.time(9)?,
                })
            })
            .collect()
    }
}
