//! The report of an audit: the JSON of `audit --json` and the content of its table. Pure data.
//!
//! Times are RFC 3339 in UTC, with milliseconds only if they are not zero.

use serde::{Serialize, Serializer};

use crate::clock::Time;
use crate::health::Finding;
use crate::model::TimeRange;

/// A time that is displayed and serialized as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rfc3339Time(pub Time);

impl std::fmt::Display for Rfc3339Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whole = self.0.floor_to_second() == self.0;
        f.write_str(&if whole { self.0.rfc3339_secs() } else { self.0.rfc3339() })
    }
}

impl Serialize for Rfc3339Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A half-open range of segment end times, as the report shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReportedRange {
    pub(crate) from: Rfc3339Time,
    pub(crate) to: Rfc3339Time,
}

impl From<TimeRange> for ReportedRange {
    fn from(range: TimeRange) -> ReportedRange {
        ReportedRange { from: Rfc3339Time(range.from), to: Rfc3339Time(range.to) }
    }
}

impl std::fmt::Display for ReportedRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

/// The report of an audit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditReport {
    pub(crate) version: &'static str,
    pub(crate) now: Rfc3339Time,
    /// Whether nothing is missing and nothing is unexplained; the exit status agrees.
    pub complete: bool,
    /// The summary in one line.
    pub verdict: String,
    /// Everything that makes the archive incomplete.
    pub problems: Vec<AuditProblem>,
    /// Other findings, as `status` shows them; they do not affect the exit status.
    pub(crate) findings: Vec<Finding>,
    /// The accounts.
    pub accounts: Vec<AccountAudit>,
}

/// A problem that makes the archive incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditProblem {
    pub(crate) sub_account_id: String,
    /// The kind of the problem.
    pub kind: AuditProblemKind,
    pub(crate) count: u64,
    /// What is wrong.
    pub what: String,
    pub(crate) hint: String,
}

/// The kind of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditProblemKind {
    /// No metadata of the account was ever read.
    NeverRead,
    /// A time range was not read.
    Gap,
    /// A backfill is not complete.
    Backfill,
    /// An artifact failed and needs manual action.
    Failed,
    /// A metadata record could not be parsed and was quarantined.
    SetAside,
    /// The stored segments are not those that were announced.
    Ledger,
    /// A requested artifact does not exist, or an existing one was not requested.
    Unexplained,
}

impl AuditProblemKind {
    /// Formats a count of problems of this kind.
    pub(crate) fn format_count(self, count: u64) -> String {
        let (one, many) = match self {
            AuditProblemKind::NeverRead => ("account never read", "accounts never read"),
            AuditProblemKind::Gap => ("gap", "gaps"),
            AuditProblemKind::Backfill => ("unfinished backfill", "unfinished backfills"),
            AuditProblemKind::Failed => ("failed", "failed"),
            AuditProblemKind::SetAside => ("record set aside", "records set aside"),
            AuditProblemKind::Ledger => ("day that does not add up", "days that do not add up"),
            AuditProblemKind::Unexplained => ("artifact unexplained", "artifacts unexplained"),
        };
        format!("{count} {}", if count == 1 { one } else { many })
    }
}

/// A backfill that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillAudit {
    pub(crate) id: i64,
    #[serde(flatten)]
    pub(crate) range: ReportedRange,
    pub(crate) seconds: u64,
    /// The length of the part that was read.
    pub(crate) read_seconds: u64,
}

/// The report for one account.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountAudit {
    pub(crate) rc_account_id: String,
    pub(crate) sub_account_id: String,
    pub(crate) name: Option<String>,
    /// The range of end times that was audited; null if nothing was read yet.
    pub(crate) range: Option<ReportedRange>,
    /// Every segment that ended before this time was read, without a gap since the first read.
    pub watermark: Option<Rfc3339Time>,
    /// The coverage of each read purpose within the range.
    pub(crate) passes: Vec<PurposeCoverage>,
    /// How long after its end each part of the range was last read.
    pub(crate) last_looked: Vec<LastReadAge>,
    /// The parts of the range that were not read.
    pub gaps: Vec<AuditGap>,
    /// The backfills that are not complete.
    pub(crate) backfills: Vec<BackfillAudit>,
    /// The number of segments.
    pub segments: SegmentTotals,
    /// The outcomes of the requested artifacts.
    pub artifacts: Vec<ArtifactAudit>,
    /// Unfinished items, grouped by artifact, outcome and last answer.
    pub unfinished: Vec<UnfinishedGroup>,
    /// Items that are no longer retried; at most the first thousand of all accounts.
    pub items: Vec<UnfinishedItem>,
    /// Delays since the first read, regardless of the range.
    pub(crate) late: Lateness,
    /// Metadata records that could not be parsed.
    pub aside: QuarantineAudit,
    /// The stored segments compared with the announced ones.
    pub ledger: DigestComparison,
    /// The reads that touch the range, in order, as far back as the log of 2,000 reads goes.
    pub reads: Vec<ReadLogEntry>,
    pub(crate) notes: Vec<String>,
}

/// The coverage of one read purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PurposeCoverage {
    /// The purpose: `live`, `recheck:` with its delay in seconds, or `backfill:` with its number.
    pub(crate) pass: String,
    pub(crate) stretches: Vec<CoveredRange>,
}

/// A range that was read for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CoveredRange {
    pub(crate) from: Rfc3339Time,
    pub(crate) to: Rfc3339Time,
    /// The number of reads that extended the coverage.
    pub(crate) reads: u64,
    pub(crate) first_read: Rfc3339Time,
    pub(crate) last_read: Rfc3339Time,
}

/// A range, and how long after its end it was last read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LastReadAge {
    pub(crate) from: Rfc3339Time,
    pub(crate) to: Rfc3339Time,
    /// The recheck delay in seconds after which the range was read again; null if it was read only
    /// once.
    pub(crate) recheck_seconds: Option<f64>,
    /// The start of the range is not known to have been read after this time.
    pub(crate) since: Rfc3339Time,
}

/// A range that was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditGap {
    /// The start of the range, inclusive.
    pub from: Rfc3339Time,
    /// The end of the range, exclusive.
    pub to: Rfc3339Time,
    /// The cause.
    pub cause: GapCause,
    pub(crate) why: String,
}

/// The cause of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// It was not read so far.
    NeverRead,
    /// A backfill will read it.
    BeingBackfilled,
    /// Metadata reads of the account are paused.
    PausedMetadata,
    /// A daemon is running but has read nothing recently.
    ReadsFailing,
}

/// The number of announced segments. Erased and expired ones are counted for every UTC day that the
/// range touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SegmentTotals {
    /// All announced segments, including erased and expired ones.
    pub announced: u64,
    /// Stored segments that have a transcript according to the last read.
    pub with_transcript: u64,
    /// Segments that were erased on request.
    pub erased: u64,
    /// Segments that retention removed.
    pub expired: u64,
}

/// The outcomes of one artifact. From `stored` to `not_requested` they add up to the number of
/// segments if nothing is unexplained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactAudit {
    pub(crate) artifact: &'static str,
    /// Segments for which it was requested.
    pub asked: u64,
    /// The body is stored.
    pub stored: u64,
    /// The API answered that it is empty.
    pub not_populated: u64,
    /// It is still to be fetched.
    pub pending: u64,
    /// When the next pending one is tried.
    pub next_try: Option<Rfc3339Time>,
    /// It was still 404 when `fetch.give_up_after` had passed.
    pub unavailable: u64,
    /// It failed and needs manual action.
    pub failed: u64,
    /// It was discarded by a person.
    pub(crate) discarded: u64,
    /// It was requested, and its segment was erased on request or removed by retention.
    pub erased: u64,
    /// It was never requested.
    pub not_requested: u64,
    /// It was requested but does not exist, or exists but was not requested.
    pub unexplained: u64,
}

/// Unfinished items with the same artifact, outcome and last answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnfinishedGroup {
    pub(crate) artifact: &'static str,
    /// `pending`, `unavailable`, `failed` or `discarded`.
    pub outcome: &'static str,
    pub(crate) count: u64,
    /// The HTTP status of the last answer.
    pub status: Option<i64>,
    /// Why the last attempt failed; null before the first.
    pub(crate) reason: Option<String>,
    /// When the first pending item is tried again.
    pub next_try: Option<Rfc3339Time>,
}

/// An item that is no longer retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnfinishedItem {
    /// The segment.
    pub segment_id: String,
    pub(crate) segment_end: Option<Rfc3339Time>,
    /// The artifact.
    pub artifact: &'static str,
    /// `unavailable`, `failed` or `discarded`.
    pub outcome: &'static str,
    pub(crate) tries: u64,
    pub(crate) status: Option<i64>,
    pub(crate) reason: Option<String>,
}

/// Delays of segments and transcripts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Lateness {
    /// Segments that appeared after their time had been read.
    pub(crate) appeared: u64,
    /// Segments whose `hasTranscript` became true after they had appeared.
    pub(crate) flipped: u64,
    /// Histograms of the delay after the segment's end.
    pub(crate) histogram: Vec<LatenessBucket>,
}

/// One bucket of a histogram of delays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LatenessBucket {
    /// The histogram: `appear`, `flip` or `fetchable`.
    pub(crate) kind: String,
    /// The lower bound of the delay in seconds, inclusive.
    pub(crate) from_seconds: u64,
    /// The upper bound of the delay in seconds, exclusive.
    pub(crate) to_seconds: u64,
    pub(crate) count: u64,
}

/// Metadata records that could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct QuarantineAudit {
    /// Records that no later read has resolved.
    pub unresolved: u64,
    /// Records that a later read has resolved.
    pub resolved: u64,
    /// The unresolved records; at most the first thousand of all accounts.
    pub records: Vec<QuarantinedRecordAudit>,
}

/// A metadata record that could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantinedRecordAudit {
    /// The segment, if its id could be read.
    pub(crate) segment_id: Option<String>,
    /// Why it could not be parsed.
    pub reason: String,
    /// The window in which it was received.
    pub(crate) window: ReportedRange,
    pub(crate) first_seen: Rfc3339Time,
    pub(crate) times: u64,
    pub(crate) next_read: Rfc3339Time,
}

/// The stored segments compared with the announced ones, for every UTC day that the range touches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DigestComparison {
    /// Whether the counts and digests of every day agree.
    pub(crate) agrees: bool,
    /// The number of days that were compared.
    pub days: u64,
    /// Announced segments, including those that were erased or expired since.
    pub announced: i64,
    /// Stored segments.
    pub held: i64,
    /// Segments that were erased on request or removed by retention.
    pub(crate) gone: i64,
    /// The days with differences.
    pub differences: Vec<DayDifference>,
}

/// A day whose stored segments differ from the announced ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayDifference {
    /// The date; null for segments without an end time.
    pub day: Option<String>,
    /// Announced segments, without those that were erased or expired since.
    pub announced: i64,
    /// Stored segments of the day.
    pub held: i64,
}

/// One read of a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadLogEntry {
    pub(crate) at: Rfc3339Time,
    /// The time until the whole answer was stored, in milliseconds.
    pub(crate) took_ms: u64,
    /// The lane: `live`, `recheck` or `backfill`.
    pub(crate) lane: String,
    pub(crate) from: Rfc3339Time,
    pub(crate) to: Rfc3339Time,
    /// The number of segments in the answer.
    pub announced: u64,
    /// Segments that were seen for the first time.
    pub added: u64,
    /// Segments whose metadata had changed.
    pub(crate) changed: u64,
    /// Segments whose `hasTranscript` had become true.
    pub(crate) flipped: u64,
    pub(crate) aside: u64,
}
