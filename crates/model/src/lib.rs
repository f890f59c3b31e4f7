//! The types that every stage shares: ids, time ranges, artifacts, outcomes and states. Pure data,
//! no I/O.

pub mod charset;
pub mod clock;
mod folding;
pub mod lenient_json;
pub mod lenient_time;
mod participants;
mod phone_number;
mod recording;
mod subject;
mod time_range;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::clock::Time;

pub use folding::{fold_char, is_plain};
pub use participants::{Participants, is_contact_field};
pub use phone_number::PhoneNumber;
pub use recording::{AudioType, RecordingFacts, RecordingReference};
pub use subject::{Certainty, ContactMatch, Subject, contains_word};
pub use time_range::{TimeRange, TimeRangeSet, Window};

/// Identifies a RingCX sub-account by `rcAccountId` of the main account and the sub-account's own
/// id. Both are opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "sqlx", derive(sqlx::FromRow))]
pub struct AccountId {
    /// `rcAccountId`: RingCentral's id of the main account.
    pub rc: Arc<str>,
    /// `subAccountId`, which alone identifies the account within the archive.
    pub sub: Arc<str>,
}

impl AccountId {
    /// Creates the id from its two parts, as the settings or the API give them.
    pub fn new(rc: impl Into<Arc<str>>, sub: impl Into<Arc<str>>) -> AccountId {
        AccountId { rc: rc.into(), sub: sub.into() }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rc, self.sub)
    }
}

/// Encodes an opaque id as one segment of a path: all but the unreserved characters of RFC 3986 are
/// percent-encoded. An empty id, and one of dots alone, stay as they are.
pub fn encode_path_segment(id: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(id, RESERVED).to_string()
}

/// What can be fetched for a segment: its texts and its recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Artifact {
    /// The transcript, as JSON.
    Transcript = 0,
    /// The summary that the agent kept or edited, as text.
    AgentSummary = 1,
    /// The summary that RingCX wrote, as text.
    AutoSummary = 2,
    /// The recording, as audio. Its bytes are in the recording store, not in the database.
    Recording = 3,
}

impl Artifact {
    /// All artifacts, in the order of their codes.
    pub const ALL: [Artifact; 4] =
        [Artifact::Transcript, Artifact::AgentSummary, Artifact::AutoSummary, Artifact::Recording];

    /// The artifacts that are texts.
    pub const TEXTS: [Artifact; 3] = [Artifact::Transcript, Artifact::AgentSummary, Artifact::AutoSummary];

    /// The name in settings, exports and events.
    pub const fn name(self) -> &'static str {
        match self {
            Artifact::Transcript => "transcript",
            Artifact::AgentSummary => "agent_summary",
            Artifact::AutoSummary => "auto_summary",
            Artifact::Recording => "recording",
        }
    }

    /// The code in the database.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// Whether its content is a text, which is stored in the database, searched and shown.
    pub const fn is_text(self) -> bool {
        match self {
            Artifact::Transcript | Artifact::AgentSummary | Artifact::AutoSummary => true,
            Artifact::Recording => false,
        }
    }

    /// The artifact with this code.
    pub fn from_code(code: i16) -> Option<Artifact> {
        Artifact::ALL.into_iter().find(|artifact| artifact.code() == code)
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of artifacts, stored as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArtifactSet(pub i16);

impl ArtifactSet {
    /// The empty set.
    pub const NONE: ArtifactSet = ArtifactSet(0);
    /// The set of all artifacts.
    pub const ALL: ArtifactSet = ArtifactSet(0b1111);
    /// The artifacts that are texts: what is fetched and delivered unless the settings say otherwise.
    pub const TEXTS: ArtifactSet = ArtifactSet(0b111);

    /// Creates the set from its stored bits; returns `None` if a bit stands for no artifact.
    pub fn from_code(code: i16) -> Option<ArtifactSet> {
        (code & !Self::ALL.0 == 0).then_some(ArtifactSet(code))
    }

    /// Whether `artifact` is in the set.
    pub fn contains(self, artifact: Artifact) -> bool {
        self.0 & (1 << artifact.code()) != 0
    }

    /// The set with `artifact` in it.
    #[must_use]
    pub fn with(self, artifact: Artifact) -> ArtifactSet {
        ArtifactSet(self.0 | (1 << artifact.code()))
    }

    /// The artifacts that are in either set.
    #[must_use]
    pub fn union(self, other: ArtifactSet) -> ArtifactSet {
        ArtifactSet(self.0 | other.0)
    }

    /// The artifacts of this set that are not in `other`.
    #[must_use]
    pub fn minus(self, other: ArtifactSet) -> ArtifactSet {
        ArtifactSet(self.0 & !other.0)
    }

    /// Its members in the order of their codes.
    pub fn iter(self) -> impl Iterator<Item = Artifact> {
        Artifact::ALL.into_iter().filter(move |artifact| self.contains(*artifact))
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Artifact> for ArtifactSet {
    fn from_iter<I: IntoIterator<Item = Artifact>>(artifacts: I) -> ArtifactSet {
        artifacts.into_iter().fold(ArtifactSet::NONE, ArtifactSet::with)
    }
}

/// The segments whose summaries are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SummariesFor {
    /// Segments with `hasTranscript` true.
    #[default]
    Transcribed,
    /// Every segment of type `AGENT`, and every segment with a transcript.
    Agents,
}

/// The kinds of API calls that limits, pauses and metrics distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Login, exchange and refresh.
    Login,
    /// The list of sub-accounts.
    Accounts,
    /// Interaction metadata.
    Metadata,
    /// Transcripts.
    Transcript,
    /// Agent summaries.
    AgentSummary,
    /// Auto summaries.
    AutoSummary,
    /// Recordings.
    Recording,
}

impl Endpoint {
    /// All endpoints.
    pub const ALL: [Endpoint; 7] = [
        Endpoint::Login,
        Endpoint::Accounts,
        Endpoint::Metadata,
        Endpoint::Transcript,
        Endpoint::AgentSummary,
        Endpoint::AutoSummary,
        Endpoint::Recording,
    ];

    /// The name in logs, metrics and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Endpoint::Login => "login",
            Endpoint::Accounts => "accounts",
            Endpoint::Metadata => "metadata",
            Endpoint::Transcript => "transcript",
            Endpoint::AgentSummary => "agent_summary",
            Endpoint::AutoSummary => "auto_summary",
            Endpoint::Recording => "recording",
        }
    }
}

impl From<Artifact> for Endpoint {
    fn from(artifact: Artifact) -> Endpoint {
        match artifact {
            Artifact::Transcript => Endpoint::Transcript,
            Artifact::AgentSummary => Endpoint::AgentSummary,
            Artifact::AutoSummary => Endpoint::AutoSummary,
            Artifact::Recording => Endpoint::Recording,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a window is read or an item is fetched. The order of the variants is their priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Segments that have just ended.
    Live = 0,
    /// A time range that is read again for late segments.
    Recheck = 1,
    /// The past: gaps after downtime, and backfills that were requested.
    Backfill = 2,
    /// An answered artifact that is fetched again because it may have changed.
    Revisit = 3,
}

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Lane; 4] = [Lane::Live, Lane::Recheck, Lane::Backfill, Lane::Revisit];

    /// The name in logs, metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::Live => "live",
            Lane::Recheck => "recheck",
            Lane::Backfill => "backfill",
            Lane::Revisit => "revisit",
        }
    }

    /// The code in the database; smaller is more urgent.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The lane with this code.
    pub fn from_code(code: i16) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.code() == code)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The state of an unfinished work item. A finished item has no row; its artifact is its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// To be fetched: ready once it is due, waiting before.
    Open = 0,
    /// Still 404 when `fetch.give_up_after` had passed; `queue retry` reopens it.
    Unavailable = 1,
    /// Failed, and needs manual action.
    Failed = 2,
    /// Discarded by a person.
    Discarded = 3,
}

impl ItemState {
    /// All states, in the order of their codes.
    pub(crate) const ALL: [ItemState; 4] =
        [ItemState::Open, ItemState::Unavailable, ItemState::Failed, ItemState::Discarded];

    /// The code in the database.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The state with this code.
    pub fn from_code(code: i16) -> Option<ItemState> {
        ItemState::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// What the archive holds of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The body of the artifact.
    Stored = 0,
    /// The API answered that the artifact is empty.
    NotPopulated = 1,
}

impl Outcome {
    /// The code in the database.
    pub const fn code(self) -> i16 {
        self as i16
    }
}

/// One element of a metadata answer that could be parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentRecord {
    /// Identifies the segment within its sub-account; opaque.
    pub segment_id: String,
    /// The conversation that the segment belongs to; opaque. Never `None` if `has_transcript` is
    /// true.
    pub dialog_id: Option<String>,
    /// When the segment ended; `None` if the API gave no time.
    pub end: Option<Time>,
    /// `hasTranscript`; missing and null count as false.
    pub has_transcript: bool,
    /// Whether `segmentType` is `AGENT`.
    pub is_agent: bool,
    /// `hasRecording`; missing and null count as false.
    pub has_recording: bool,
    /// The element as received, byte for byte.
    pub raw: String,
}

/// Whether metadata may contain agent notes. A fast check that rules out records whose notes are
/// null or empty.
pub fn may_have_notes(metadata: &str) -> bool {
    metadata.split("\"agentNotes\"").skip(1).any(|after| {
        let value = after.trim_start().strip_prefix(':').map_or(after, str::trim_start);
        !value.starts_with("null") && !value.starts_with("\"\"")
    })
}

/// One element of a metadata answer that could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRecord {
    /// The segment's id, if it could be read.
    pub segment_id: Option<String>,
    /// What is wrong with it, without quoting it.
    pub reason: String,
    /// The element as received, byte for byte.
    pub raw: String,
}

/// Where the first read of an account begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveryStart {
    /// With the window that ends at now minus the offset.
    Now,
    /// This far back from now.
    Back(Duration),
    /// At this time.
    At(Time),
}

/// The artifacts that an account's settings select for each segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactSelection {
    /// The artifacts that are fetched at all.
    pub artifacts: ArtifactSet,
    /// The segments whose summaries are fetched.
    pub summaries_for: SummariesFor,
}

impl ArtifactSelection {
    /// The artifacts to fetch for a segment. Without a transcript there are no texts, except summaries
    /// of agent segments if the settings select them. The recording depends on `hasRecording` alone.
    pub fn artifacts_for(self, has_transcript: bool, is_agent: bool, has_recording: bool) -> ArtifactSet {
        let recording = ArtifactSet::NONE.with(Artifact::Recording);
        let texts = self.artifacts.minus(recording);
        let texts = if has_transcript {
            texts
        } else if is_agent && self.summaries_for == SummariesFor::Agents {
            texts.minus(ArtifactSet::NONE.with(Artifact::Transcript))
        } else {
            ArtifactSet::NONE
        };
        if has_recording && self.artifacts.contains(Artifact::Recording) { texts.union(recording) } else { texts }
    }
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
