//! Result rows of the audit queries.

use std::time::Duration;

use super::super::AccountKey;
use super::super::sql::{CodedItem, Millis, StateCode};
use crate::clock::Time;
use crate::model::{AccountId, Artifact, ItemState, TimeRange};

/// An account, with the columns that an audit needs.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AuditedAccount {
    /// Primary key.
    pub key: AccountKey,
    /// The RingCX ids.
    #[sqlx(flatten)]
    pub id: AccountId,
    /// Display name.
    pub name: Option<String>,
    /// Where the first live window begins; `None` before the first read was planned.
    pub live_start: Option<Time>,
    /// Since when the login no longer lists the account.
    pub missing_since: Option<Time>,
}

/// A covered range of a purpose, and how many reads it took.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct CoverageAuditRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The purpose, as in table `coverage`.
    #[sqlx(rename = "pass")]
    pub purpose: String,
    /// The covered range.
    #[sqlx(flatten)]
    pub range: TimeRange,
    /// Number of reads that extended it.
    #[sqlx(try_from = "i64")]
    pub reads: u64,
    /// When the first of them was sent.
    #[sqlx(rename = "first_read")]
    pub first: Time,
    /// When the last of them was sent.
    #[sqlx(rename = "last_read")]
    pub last: Time,
}

/// A window read from the bounded log.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct WindowReadRow {
    /// Key of the account.
    pub account: AccountKey,
    /// When the request was sent.
    pub at: Time,
    /// Time until the whole response was stored.
    #[sqlx(rename = "took", try_from = "Millis")]
    pub duration: Duration,
    /// Why the window was read.
    pub lane: String,
    /// The range that it covers.
    #[sqlx(flatten)]
    pub range: TimeRange,
    /// Segments in the response.
    #[sqlx(try_from = "i64")]
    pub announced: u64,
    /// Segments seen for the first time.
    #[sqlx(try_from = "i64")]
    pub added: u64,
    /// Segments whose metadata had changed.
    #[sqlx(try_from = "i64")]
    pub changed: u64,
    /// Segments whose `hasTranscript` had turned true.
    #[sqlx(try_from = "i64")]
    pub flipped: u64,
    /// Records quarantined.
    #[sqlx(rename = "aside", try_from = "i64")]
    pub quarantined: u64,
}

/// The outcomes of one artifact over all segments in a range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct ArtifactTally {
    /// Segments for which the artifact was requested.
    #[sqlx(try_from = "i64")]
    pub requested: u64,
    /// The text is stored.
    #[sqlx(try_from = "i64")]
    pub stored: u64,
    /// The API reported that it is empty.
    #[sqlx(try_from = "i64")]
    pub not_populated: u64,
    /// Not finished yet.
    #[sqlx(try_from = "i64")]
    pub pending: u64,
    /// Still 404 at the horizon.
    #[sqlx(try_from = "i64")]
    pub unavailable: u64,
    /// Requires manual intervention.
    #[sqlx(try_from = "i64")]
    pub failed: u64,
    /// Discarded by an operator.
    #[sqlx(try_from = "i64")]
    pub discarded: u64,
    /// Requested, but neither stored nor queued.
    #[sqlx(try_from = "i64")]
    pub lost: u64,
    /// Stored or queued without having been requested, or both stored and queued for the first
    /// fetch.
    #[sqlx(try_from = "i64")]
    pub stray: u64,
    /// The earliest due time of the pending ones.
    pub next_due: Option<Time>,
}

/// Announced segments that were deleted, over the UTC days that overlap a range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeletionTally {
    /// Erased on request.
    pub erased: u64,
    /// Deleted by retention.
    pub expired: u64,
    /// For how many of both each artifact had been requested, in the order of [`Artifact::ALL`].
    pub requested: [u64; Artifact::ALL.len()],
}

/// A group of unfinished items with the same artifact, state and last response.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UnfinishedItemsRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The artifact to fetch.
    #[sqlx(rename = "item", try_from = "CodedItem")]
    pub artifact: Artifact,
    /// The state.
    #[sqlx(try_from = "StateCode")]
    pub state: ItemState,
    /// The HTTP status of the last response.
    pub status: Option<i64>,
    /// Why the last attempt failed; `None` before the first.
    pub reason: Option<String>,
    /// Number of items.
    #[sqlx(rename = "many", try_from = "i64")]
    pub count: u64,
    /// The earliest due time.
    pub due: Time,
}

/// An item that is no longer worked on: unavailable, failed or discarded.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ClosedItemRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The segment's id in RingCX.
    pub segment_id: String,
    /// When the segment ended.
    pub ended: Time,
    /// The artifact.
    #[sqlx(rename = "item", try_from = "CodedItem")]
    pub artifact: Artifact,
    /// The final state.
    #[sqlx(try_from = "StateCode")]
    pub state: ItemState,
    /// Number of attempts.
    #[sqlx(try_from = "i64")]
    pub tries: u64,
    /// The HTTP status of the last response.
    pub status: Option<i64>,
    /// Why the last attempt failed.
    pub reason: Option<String>,
}

/// An unresolved quarantined record.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OpenQuarantineRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The segment's id, if it could be parsed.
    pub segment_id: Option<String>,
    /// Why it was quarantined.
    pub reason: String,
    /// When it was first received.
    pub first_seen: Time,
    /// How often it was received.
    #[sqlx(try_from = "i64")]
    pub times: u64,
    /// The time range in which it lies.
    #[sqlx(flatten)]
    pub range: TimeRange,
    /// When its range is read again.
    pub due: Time,
}

/// A count of segments, and the order-free digest of their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentSetDigest {
    /// Number of segments.
    pub segments: i64,
    /// The digest, upper half.
    pub digest_high: i64,
    /// The digest, lower half.
    pub digest_low: i64,
}

/// A UTC day of an account: the digests of announced and of stored segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DailyDigestRow {
    /// Key of the account.
    pub account: AccountKey,
    /// Days since 1970; -1 stands for segments without an end time.
    pub day: i64,
    /// The digest in table `announced`.
    pub announced: SegmentSetDigest,
    /// The digest computed from the stored segments.
    pub stored: SegmentSetDigest,
}
