//! What the ledger's statements return. Pure data.

use std::time::Duration;

use crate::clock::Time;
use crate::model::{AccountId, Artifact, State, Stretch};

/// An account, as far as an audit needs it.
#[derive(Debug, Clone)]
pub struct LedgerAccount {
    /// Its number in the database.
    pub key: i64,
    /// Its ids in RingCX.
    pub id: AccountId,
    /// For people.
    pub name: Option<String>,
    /// Where the first live window begins; `None` before the first read was planned.
    pub live_start: Option<Time>,
    /// Since when the login no longer sees it.
    pub missing_since: Option<Time>,
}

/// A stretch that a pass has read, and by how many reads.
#[derive(Debug, Clone)]
pub struct CoveredRow {
    /// The account's number.
    pub account: i64,
    /// The pass, as `coverage` names it.
    pub pass: String,
    /// What was read.
    pub stretch: Stretch,
    /// How many reads it took; one that brought the pass nothing new is not among them.
    pub reads: u64,
    /// When the first of them was sent.
    pub first: Time,
    /// When the last of them was sent.
    pub last: Time,
}

/// One read out of the bounded log.
#[derive(Debug, Clone)]
pub struct ReadRow {
    /// The account's number.
    pub account: i64,
    /// When the request was sent.
    pub at: Time,
    /// How long until the whole answer was stored.
    pub took: Duration,
    /// Why the window was read.
    pub lane: String,
    /// What it vouches for.
    pub stretch: Stretch,
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

/// What became of one artifact of all the segments in a range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArtifactTally {
    /// Segments of which it was asked for.
    pub asked: u64,
    /// Its text is held.
    pub stored: u64,
    /// The API said that there is none.
    pub not_populated: u64,
    /// To be tried yet.
    pub pending: u64,
    /// Still 404 at the horizon.
    pub unavailable: u64,
    /// Will not work without a person.
    pub failed: u64,
    /// A person gave it up.
    pub discarded: u64,
    /// Asked for, and neither held nor to be fetched.
    pub lost: u64,
    /// Held or to be fetched though it was never asked for, or both held and to be fetched for the first time.
    pub stray: u64,
    /// When the next of the pending ones is due.
    pub next_due: Option<Time>,
}

/// Segments that were announced and are gone, by the whole UTC days that a range touches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GoneTally {
    /// Erased on request.
    pub erased: u64,
    /// Gone by retention.
    pub expired: u64,
    /// Of how many of either each artifact had been asked for, in the order of [`Artifact::ALL`].
    pub asked: [u64; 3],
}

/// Unfinished items that have an artifact, a state and a last answer in common.
#[derive(Debug, Clone)]
pub struct UnfinishedRow {
    /// The account's number.
    pub account: i64,
    /// Which artifact.
    pub artifact: Artifact,
    /// Where they stand.
    pub state: State,
    /// The last answer's status.
    pub status: Option<i64>,
    /// Why the last try failed; `None` before the first.
    pub reason: Option<String>,
    /// How many there are.
    pub count: u64,
    /// When the first of them is due.
    pub due: Time,
}

/// An item that nobody works on any more.
#[derive(Debug, Clone)]
pub struct SettledRow {
    /// The account's number.
    pub account: i64,
    /// The segment's id in RingCX.
    pub segment_id: String,
    /// When the segment ended.
    pub ended: Time,
    /// Which artifact.
    pub artifact: Artifact,
    /// Why it is no longer worked on.
    pub state: State,
    /// How often it was tried.
    pub tries: u64,
    /// The last answer's status.
    pub status: Option<i64>,
    /// Why the last try failed.
    pub reason: Option<String>,
}

/// A record set aside that no later read has settled.
#[derive(Debug, Clone)]
pub struct AsideLedgerRow {
    /// The account's number.
    pub account: i64,
    /// The segment's id where it could be read.
    pub segment_id: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// When it was first received.
    pub first_seen: Time,
    /// How often it was received.
    pub times: u64,
    /// Where it lies.
    pub stretch: Stretch,
    /// When it is asked for again.
    pub due: Time,
}

/// So many segments, and the order-free digest of their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdCount {
    /// How many.
    pub segments: i64,
    /// The digest, upper half.
    pub digest_high: i64,
    /// The digest, lower half.
    pub digest_low: i64,
}

/// A UTC day of an account: what was announced of it, against what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayRow {
    /// The account's number.
    pub account: i64,
    /// Days since 1970; -1 stands for segments without an end time.
    pub day: i64,
    /// As the ledger of announcements has it.
    pub announced: IdCount,
    /// As counted anew from the segments.
    pub held: IdCount,
}
