//! What the cells of a row are computed from: a segment with its parsed metadata and transcript,
//! or a dialog merged over its segments. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::{SegmentEntry, conversation_of, outcome_name};
use crate::clock::Time;
use crate::db::ArtifactStatus;
use crate::render::{Conversation, Metadata, Phrase};

/// A segment, parsed.
pub(super) struct SegmentFacts {
    pub(super) entry: SegmentEntry,
    pub(super) metadata: Metadata,
    /// `None` without a stored transcript that can be read.
    pub(super) conversation: Option<Conversation>,
    pub(super) account_name: Option<Arc<str>>,
}

impl SegmentFacts {
    pub(super) fn new(entry: SegmentEntry, account_name: Option<Arc<str>>) -> SegmentFacts {
        let metadata = Metadata::parse(&entry.segment.metadata);
        let conversation = conversation_of(&entry.slots[0], &metadata);
        SegmentFacts { entry, metadata, conversation, account_name }
    }

    pub(super) fn phrases(&self) -> &[Phrase] {
        self.conversation.as_ref().map_or(&[], |conversation| &conversation.phrases)
    }

    /// The address of the contact. In the newer form of the metadata it is `ani`.
    pub(super) fn contact(&self) -> Option<String> {
        self.metadata.field("contactEndpointAddress").or_else(|| self.metadata.field("ani"))
    }

    /// The address of the other end of the line. In the newer form of the metadata it is `dnis`.
    pub(super) fn channel_address(&self) -> Option<String> {
        self.metadata.field("channelEndpointAddress").or_else(|| self.metadata.field("dnis"))
    }

    pub(super) fn agent_id(&self) -> Option<String> {
        self.metadata.field("segmentParticipantId")
    }

    /// The agent's name by the metadata or the transcript, else the agent's id.
    pub(super) fn agent(&self) -> Option<String> {
        let spoken = || {
            let mut agents = self.phrases().iter().filter(|phrase| is_agent(phrase));
            agents.find_map(|phrase| phrase.name.clone())
        };
        self.metadata.field("agentFullName").or_else(spoken).or_else(|| self.agent_id())
    }

    pub(super) fn start(&self) -> Option<Time> {
        self.metadata.time("segmentStartTimeMs")
    }

    pub(super) fn duration_ms(&self) -> Option<u64> {
        self.metadata.duration().map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// The names of the speakers, in the order of their first phrase.
    pub(super) fn speakers(&self) -> Vec<String> {
        unique(self.phrases().iter().map(Phrase::speaker))
    }
}

/// What a segment was, without what was said.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SegmentOverview {
    pub(crate) channel: Option<String>,
    pub(crate) direction: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) contact: Option<String>,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) disposition: Option<String>,
    pub(crate) transcript: &'static str,
}

impl SegmentOverview {
    pub(crate) fn new(entry: SegmentEntry) -> SegmentOverview {
        let facts = SegmentFacts::new(entry, None);
        let field = |name: &str| facts.metadata.field(name);
        SegmentOverview {
            channel: field("channelType").or_else(|| field("channelClass")),
            direction: field("dialogOrigination"),
            agent: facts.agent(),
            contact: facts.contact(),
            duration_ms: facts.duration_ms(),
            disposition: field("agentDisposition").or_else(|| field("systemDisposition")),
            transcript: outcome_name(&facts.entry.slots[0].status),
        }
    }
}

/// Whether a phrase is an agent's, as far as its speaker's type shows.
fn is_agent(phrase: &Phrase) -> bool {
    phrase.kind.as_deref().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("agent"))
}

/// The distinct values, in the order of their first occurrence.
pub(super) fn unique(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    values.filter(|value| seen.insert(value.clone())).collect()
}

/// A dialog: its segments in order of their end, and its conversation.
pub(super) struct DialogFacts {
    pub(super) segments: Vec<SegmentFacts>,
    /// The phrases of all segments; `None` where no transcript is stored.
    pub(super) conversation: Option<Conversation>,
}

impl DialogFacts {
    /// Merges the segments of a dialog; returns `None` where there are none.
    pub(super) fn new(segments: Vec<SegmentFacts>) -> Option<DialogFacts> {
        if segments.is_empty() {
            return None;
        }
        let conversation = Conversation::merge(segments.iter().filter_map(|segment| segment.conversation.as_ref()));
        Some(DialogFacts { segments, conversation })
    }

    /// The first value that a segment has.
    pub(super) fn first<T>(&self, of: impl Fn(&SegmentFacts) -> Option<T>) -> Option<T> {
        self.segments.iter().find_map(of)
    }

    /// The distinct values of the segments.
    pub(super) fn all(&self, of: impl Fn(&SegmentFacts) -> Option<String>) -> Vec<String> {
        unique(self.segments.iter().filter_map(of))
    }

    pub(super) fn start(&self) -> Option<Time> {
        let announced = self.first(|segment| segment.metadata.time("dialogStartTimeMs"));
        announced.or_else(|| self.segments.iter().filter_map(SegmentFacts::start).min())
    }

    pub(super) fn end(&self) -> Option<Time> {
        self.segments.iter().filter_map(|segment| segment.entry.segment.ended).max()
    }

    /// Whether every requested artifact of every segment is answered or given up.
    pub(super) fn is_settled(&self) -> bool {
        let mut slots = self.segments.iter().flat_map(|segment| &segment.entry.slots);
        slots.all(|slot| slot.status != ArtifactStatus::Pending)
    }
}
