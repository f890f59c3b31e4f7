//! The words that every stage shares: ids, time ranges, artifacts, outcomes and states. Pure data, no I/O.

pub mod charset;
pub mod clock;
mod folding;
pub mod lenient_json;
pub mod lenient_time;
mod participants;
mod phone_number;
mod stretch;
mod subject;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

pub use folding::{fold_char, is_plain};
pub use participants::{Participants, names_contact};
pub use phone_number::PhoneNumber;
pub use stretch::{Stretch, Stretches, Window};
pub use subject::{Certainty, Concern, Subject, occurs};

/// Names a RingCX sub-account: `rcAccountId` of the main account, and the sub-account's own id. Both are opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId {
    /// `rcAccountId`, RingCentral's number of the main account.
    pub rc: Arc<str>,
    /// `subAccountId`, which alone names the account within the archive.
    pub sub: Arc<str>,
}

impl AccountId {
    /// From the two ids as the configuration or the API gives them.
    pub fn new(rc: impl Into<Arc<str>>, sub: impl Into<Arc<str>>) -> AccountId {
        AccountId { rc: rc.into(), sub: sub.into() }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rc, self.sub)
    }
}

/// An opaque id as one part of a path: everything but RFC 3986's unreserved characters percent-encoded. What is nothing, or
/// dots alone, stays so.
pub fn path_part(id: &str) -> String {
    let mut encoded = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// What can be fetched of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Artifact {
    /// Who said what and when, as JSON.
    Transcript,
    /// The summary that the agent kept or edited, as text.
    AgentSummary,
    /// The summary that RingCX wrote, as text.
    AutoSummary,
}

impl Artifact {
    /// All of them, in the order of their codes.
    pub const ALL: [Artifact; 3] = [Artifact::Transcript, Artifact::AgentSummary, Artifact::AutoSummary];

    /// The name in settings, exports and events.
    pub const fn name(self) -> &'static str {
        match self {
            Artifact::Transcript => "transcript",
            Artifact::AgentSummary => "agent_summary",
            Artifact::AutoSummary => "auto_summary",
        }
    }

    /// The number in the database.
    pub const fn code(self) -> i16 {
        match self {
            Artifact::Transcript => 0,
            Artifact::AgentSummary => 1,
            Artifact::AutoSummary => 2,
        }
    }

    /// The artifact with this number.
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
    /// None of them.
    pub const NONE: ArtifactSet = ArtifactSet(0);
    /// All of them.
    pub const ALL: ArtifactSet = ArtifactSet(0b111);

    /// From the bits that are stored, where each stands for an artifact.
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

    /// What is in either set.
    #[must_use]
    pub fn union(self, other: ArtifactSet) -> ArtifactSet {
        ArtifactSet(self.0 | other.0)
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn minus(self, other: ArtifactSet) -> ArtifactSet {
        ArtifactSet(self.0 & !other.0)
    }

    /// Its members in the order of their codes.
    pub fn iter(self) -> impl Iterator<Item = Artifact> {
        Artifact::ALL.into_iter().filter(move |artifact| self.contains(*artifact))
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Artifact> for ArtifactSet {
    fn from_iter<I: IntoIterator<Item = Artifact>>(artifacts: I) -> ArtifactSet {
        artifacts.into_iter().fold(ArtifactSet::NONE, ArtifactSet::with)
    }
}

/// Which segments' summaries are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SummariesFor {
    /// Those of segments with `hasTranscript` true.
    #[default]
    Transcribed,
    /// Those of every segment of type `AGENT`, and of those with a transcript.
    Agents,
}

/// The API's outward calls, as limits, pauses and metrics tell them apart.
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
}

impl Endpoint {
    /// The name in logs, metrics and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Endpoint::Login => "login",
            Endpoint::Accounts => "accounts",
            Endpoint::Metadata => "metadata",
            Endpoint::Transcript => "transcript",
            Endpoint::AgentSummary => "agent_summary",
            Endpoint::AutoSummary => "auto_summary",
        }
    }
}

impl From<Artifact> for Endpoint {
    fn from(artifact: Artifact) -> Endpoint {
        match artifact {
            Artifact::Transcript => Endpoint::Transcript,
            Artifact::AgentSummary => Endpoint::AgentSummary,
            Artifact::AutoSummary => Endpoint::AutoSummary,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a window is read or an item is fetched; also the order in which they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// What has just ended.
    Live,
    /// A stretch read again for late arrivals.
    Recheck,
    /// The past: gaps after downtime, and what a person asked for.
    Backfill,
    /// Something answered, asked again in case it has changed.
    Revisit,
}

impl Lane {
    /// All of them, most urgent first.
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

    /// The number in the database, smaller is more urgent.
    pub const fn code(self) -> i16 {
        match self {
            Lane::Live => 0,
            Lane::Recheck => 1,
            Lane::Backfill => 2,
            Lane::Revisit => 3,
        }
    }

    /// The lane with this number.
    pub fn from_code(code: i16) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.code() == code)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an unfinished work item stands; a finished one has no row, its record is its artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// To be fetched: ready when due, waiting before.
    Open,
    /// Still 404 at the horizon; `queue retry` revives it.
    Unavailable,
    /// Will not work without a person.
    Failed,
    /// A person gave it up.
    Discarded,
}

impl State {
    /// All of them, in the order of their codes.
    pub const ALL: [State; 4] = [State::Open, State::Unavailable, State::Failed, State::Discarded];

    /// The number in the database.
    pub const fn code(self) -> i16 {
        match self {
            State::Open => 0,
            State::Unavailable => 1,
            State::Failed => 2,
            State::Discarded => 3,
        }
    }

    /// The state with this number.
    pub fn from_code(code: i16) -> Option<State> {
        State::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// What the archive holds of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its body.
    Stored,
    /// The API's word that there is none.
    NotPopulated,
}

impl Outcome {
    /// The number in the database.
    pub const fn code(self) -> i16 {
        match self {
            Outcome::Stored => 0,
            Outcome::NotPopulated => 1,
        }
    }
}

/// One element of a metadata answer that could be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentRecord {
    /// Names the segment within its sub-account; opaque.
    pub segment_id: String,
    /// The conversation that the segment is part of; opaque. Never `None` where `has_transcript` is true.
    pub dialog_id: Option<String>,
    /// When the segment ended; `None` if the API did not say.
    pub end: Option<Time>,
    /// `hasTranscript`; missing and null count as false.
    pub has_transcript: bool,
    /// Whether `segmentType` is `AGENT`.
    pub is_agent: bool,
    /// The element as received, byte for byte.
    pub raw: String,
}

/// Whether metadata may hold agents' notes: a quick look that leaves out the records that say there are none.
pub fn may_have_notes(metadata: &str) -> bool {
    metadata.split("\"agentNotes\"").skip(1).any(|after| {
        let value = after.trim_start().strip_prefix(':').map_or(after, str::trim_start);
        !value.starts_with("null") && !value.starts_with("\"\"")
    })
}

/// One element of a metadata answer that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideRecord {
    /// The segment's id where that much could be read.
    pub segment_id: Option<String>,
    /// What is wrong with it, without quoting it.
    pub reason: String,
    /// The element as received, byte for byte.
    pub raw: String,
}

/// What an account wants of each segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// The artifacts asked for at all.
    pub artifacts: ArtifactSet,
    /// Which segments' summaries.
    pub summaries_for: SummariesFor,
}

impl Wants {
    /// What to ask for of a segment: nothing that has no transcript, except summaries of agents' segments if so set.
    pub fn of(self, has_transcript: bool, is_agent: bool) -> ArtifactSet {
        if has_transcript {
            self.artifacts
        } else if is_agent && self.summaries_for == SummariesFor::Agents {
            self.artifacts.minus(ArtifactSet::NONE.with(Artifact::Transcript))
        } else {
            ArtifactSet::NONE
        }
    }
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
