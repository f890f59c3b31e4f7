//! What an audit says: the JSON of `audit --json`, and what its table is made of. Pure data.
//!
//! Moments are RFC 3339 in UTC, with milliseconds only where there are any.

use serde::{Serialize, Serializer};

use crate::clock::Time;
use crate::model::Stretch;
use crate::status::FindingStatus;

/// A moment, for people and programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Time);

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whole = self.0.floor_to_second() == self.0;
        f.write_str(&if whole { self.0.rfc3339_secs() } else { self.0.rfc3339() })
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A stretch of segment end times, `from` included, `to` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// First moment in it.
    pub from: Moment,
    /// First moment after it.
    pub to: Moment,
}

impl From<Stretch> for Span {
    fn from(stretch: Stretch) -> Span {
        Span { from: Moment(stretch.from), to: Moment(stretch.to) }
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Audit {
    /// This program's version.
    pub version: &'static str,
    /// When it was asked.
    pub now: Moment,
    /// Whether nothing is missing and nothing unexplained; the exit status says the same.
    pub complete: bool,
    /// The first line for people.
    pub verdict: String,
    /// Everything that keeps it from being complete.
    pub problems: Vec<Problem>,
    /// What is wrong besides, as `status` shows it; does not count for the exit status.
    pub findings: Vec<FindingStatus>,
    /// Account by account.
    pub accounts: Vec<AccountAudit>,
}

/// Something that keeps an archive from being complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The sub-account.
    pub sub_account_id: String,
    /// What kind of thing.
    pub kind: ProblemKind,
    /// How many of them.
    pub count: u64,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Nothing was ever read of an account.
    NeverRead,
    /// A stretch of time was not read.
    Gap,
    /// A backfill was asked for and is not complete.
    Backfill,
    /// An artifact will not come without a person.
    Failed,
    /// A metadata record could not be understood.
    SetAside,
    /// What is held is not what was announced.
    Ledger,
    /// An artifact that was asked for is nowhere, or one is there that was not asked for.
    Unexplained,
}

impl ProblemKind {
    /// So many of them, in words.
    pub fn counted(self, count: u64) -> String {
        let (one, many) = match self {
            ProblemKind::NeverRead => ("account never read", "accounts never read"),
            ProblemKind::Gap => ("gap", "gaps"),
            ProblemKind::Backfill => ("unfinished backfill", "unfinished backfills"),
            ProblemKind::Failed => ("failed", "failed"),
            ProblemKind::SetAside => ("record set aside", "records set aside"),
            ProblemKind::Ledger => ("day that does not add up", "days that do not add up"),
            ProblemKind::Unexplained => ("artifact unexplained", "artifacts unexplained"),
        };
        format!("{count} {}", if count == 1 { one } else { many })
    }
}

/// A past range that was asked for and is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillAudit {
    /// Its number.
    pub id: i64,
    /// The range.
    #[serde(flatten)]
    pub range: Span,
    /// Its length.
    pub seconds: u64,
    /// How much of that is read.
    pub read_seconds: u64,
}

/// The answer for one account.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountAudit {
    /// The main account's id.
    pub rc_account_id: String,
    /// The sub-account's id.
    pub sub_account_id: String,
    /// For people.
    pub name: Option<String>,
    /// The end times that were looked at; null where nothing was read yet.
    pub range: Option<Span>,
    /// Everything that ended before has been read without a gap since the first read.
    pub watermark: Option<Moment>,
    /// What each pass has read within the range.
    pub passes: Vec<Pass>,
    /// How late each stretch within the range was last looked at.
    pub last_looked: Vec<LastLook>,
    /// What was not read within the range.
    pub gaps: Vec<Gap>,
    /// What was asked for of the past and is not complete.
    pub backfills: Vec<BackfillAudit>,
    /// Segments that were announced.
    pub segments: Segments,
    /// What became of what was asked for of them.
    pub artifacts: Vec<ArtifactAudit>,
    /// Unfinished items by what they have in common.
    pub unfinished: Vec<Unfinished>,
    /// Items that nobody works on any more; of all accounts the first thousand.
    pub items: Vec<Item>,
    /// How late things were since the first read, whatever the range.
    pub late: Lateness,
    /// Records that could not be understood.
    pub aside: Asides,
    /// What is held against what was announced.
    pub ledger: Ledger,
    /// The single reads that touch the range, as far back as the log reaches (2,000 reads), in order.
    pub reads: Vec<Read>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// What a pass has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// `live`, `recheck:` with its delay in seconds, `backfill:` with its number.
    pub pass: String,
    /// Where, in order.
    pub stretches: Vec<Spanned>,
}

/// A stretch that a pass has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spanned {
    /// First moment in it.
    pub from: Moment,
    /// First moment after it.
    pub to: Moment,
    /// How many reads that brought the pass something new.
    pub reads: u64,
    /// When the first was sent.
    pub first_read: Moment,
    /// When the last was sent.
    pub last_read: Moment,
}

/// A stretch, and how late after its end it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LastLook {
    /// First moment in it.
    pub from: Moment,
    /// First moment after it.
    pub to: Moment,
    /// Each moment was read again at least so many seconds later; null where it was read once.
    pub recheck_seconds: Option<f64>,
    /// Nobody is known to have looked at its beginning since.
    pub since: Moment,
}

/// A stretch that was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// First moment in it.
    pub from: Moment,
    /// First moment after it.
    pub to: Moment,
    /// Why it was not.
    pub cause: Cause,
    /// Why, in words.
    pub why: String,
}

/// Why a stretch was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody has, so far.
    NeverRead,
    /// A person asked for it, and it is on its way.
    BeingBackfilled,
    /// Metadata of the account is refused at present.
    PausedMetadata,
    /// The daemon runs, and nothing has been read for a while.
    ReadsFailing,
}

/// Segments that were announced. What is gone is counted by whole UTC days: all those that the range touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segments {
    /// In all, those that are gone included.
    pub announced: u64,
    /// Those with a transcript, as last read, among those that are held.
    pub with_transcript: u64,
    /// Those that were erased on request.
    pub erased: u64,
    /// Those that went because they were past retention.
    pub expired: u64,
}

/// What became of one artifact of all segments; from `stored` to `not_requested` they add up to the segments, where
/// nothing is unexplained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactAudit {
    /// Which one.
    pub artifact: &'static str,
    /// Segments of which it was asked for.
    pub asked: u64,
    /// Held.
    pub stored: u64,
    /// The API said that there is none.
    pub not_populated: u64,
    /// To be tried yet.
    pub pending: u64,
    /// When the next of those is tried.
    pub next_try: Option<Moment>,
    /// Still 404 at the horizon.
    pub unavailable: u64,
    /// Will not come without a person.
    pub failed: u64,
    /// A person gave it up.
    pub discarded: u64,
    /// Asked for, and gone with its segment: erased on request, or past retention.
    pub erased: u64,
    /// Never asked for.
    pub not_requested: u64,
    /// Asked for and nowhere, or there and never asked for.
    pub unexplained: u64,
}

/// Unfinished items that have an artifact, an outcome and a last answer in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unfinished {
    /// Which artifact.
    pub artifact: &'static str,
    /// `pending`, `unavailable`, `failed` or `discarded`.
    pub outcome: &'static str,
    /// How many.
    pub count: u64,
    /// The last answer's status.
    pub status: Option<i64>,
    /// Why the last try failed; null before the first.
    pub reason: Option<String>,
    /// When the first of them is tried again, where they are pending.
    pub next_try: Option<Moment>,
}

/// An item that nobody works on any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The segment.
    pub segment_id: String,
    /// When it ended.
    pub segment_end: Option<Moment>,
    /// Which artifact.
    pub artifact: &'static str,
    /// `unavailable`, `failed` or `discarded`.
    pub outcome: &'static str,
    /// How often it was tried.
    pub tries: u64,
    /// The last answer's status.
    pub status: Option<i64>,
    /// Why the last try failed.
    pub reason: Option<String>,
}

/// How late things were.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Lateness {
    /// Segments that appeared after their stretch had been read.
    pub appeared: u64,
    /// Segments whose `hasTranscript` turned true after they had appeared.
    pub flipped: u64,
    /// How long after the segment's end: `appear`, `flip`, `fetchable`.
    pub histogram: Vec<LateBucket>,
}

/// So many were so late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LateBucket {
    /// `appear`, `flip` or `fetchable`.
    pub kind: String,
    /// At least so many seconds after the segment's end.
    pub from_seconds: u64,
    /// And less than so many.
    pub to_seconds: u64,
    /// How many.
    pub count: u64,
}

/// Records that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Asides {
    /// Those that no later read has settled.
    pub unresolved: u64,
    /// Those that a later read has settled.
    pub resolved: u64,
    /// The unresolved ones; of all accounts the first thousand.
    pub records: Vec<Aside>,
}

/// A record that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aside {
    /// The segment, where that much could be read.
    pub segment_id: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// Where it lies.
    pub window: Span,
    /// When it was first received.
    pub first_seen: Moment,
    /// How often.
    pub times: u64,
    /// When its window is read again.
    pub next_read: Moment,
}

/// What is held against what was announced, by UTC day; of a range, all the days that it touches, whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Ledger {
    /// Whether count and digest of every day agree.
    pub agrees: bool,
    /// How many days were compared.
    pub days: u64,
    /// Segments as they were counted when they were announced, those that are gone since included.
    pub announced: i64,
    /// Segments that are held.
    pub held: i64,
    /// Segments that are gone, erased on request or past retention; with those held they are those announced.
    pub gone: i64,
    /// The days that differ.
    pub differences: Vec<DayDifference>,
}

/// A day that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayDifference {
    /// The day; null stands for segments without an end time.
    pub day: Option<String>,
    /// Segments announced, without those that are gone since.
    pub announced: i64,
    /// Segments held.
    pub held: i64,
}

/// One read of one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Read {
    /// When the request was sent.
    pub at: Moment,
    /// How long until the whole answer was stored, in milliseconds.
    pub took_ms: u64,
    /// Why it was read: `live`, `recheck` or `backfill`.
    pub lane: String,
    /// First moment that it vouches for.
    pub from: Moment,
    /// First moment after that.
    pub to: Moment,
    /// Segments in the answer.
    pub announced: u64,
    /// Those seen for the first time.
    pub added: u64,
    /// Those whose metadata had changed.
    pub changed: u64,
    /// Those whose `hasTranscript` had turned true.
    pub flipped: u64,
    /// Records set aside.
    pub aside: u64,
}
