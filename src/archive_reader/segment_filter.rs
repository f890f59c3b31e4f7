//! The filters of lists and counts, and which of them the metadata and texts decide. Pure.

use crate::clock::Time;
use crate::db::{ArtifactStatus, ExportRange, SegmentQuery, SegmentRow};
use crate::export::SegmentEntry;
use crate::model::{ArtifactSet, Certainty, Participants, Subject};
use crate::render::Metadata;
use crate::search::segment_fields::{
    AGENT_ID_FIELDS, AGENT_NAME_FIELD, CHANNEL_FIELDS, DIRECTION_FIELDS, DISPOSITION_FIELDS, has_participant,
    matches_metadata, names_agent,
};

/// Which segments a reader asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct SegmentFilter {
    /// Segments that ended at or after this.
    pub(crate) from: Option<Time>,
    /// Segments that ended before this.
    pub(crate) to: Option<Time>,
    /// Segments of these accounts, by id or name; empty for all.
    pub(crate) accounts: Vec<String>,
    /// The agent's id, or a part of the name of a participant.
    pub(crate) agent: Option<String>,
    /// A complete telephone number, address, id or name of the contact.
    pub(crate) contact: Option<String>,
    pub(crate) channel: Option<String>,
    pub(crate) direction: Option<String>,
    pub(crate) disposition: Option<String>,
    pub(crate) dialog: Option<String>,
    /// Artifacts that must be stored.
    pub(crate) has: ArtifactSet,
    pub(crate) changed_since: Option<Time>,
}

impl SegmentFilter {
    /// The part that the database decides.
    pub(super) fn query(&self) -> SegmentQuery {
        SegmentQuery {
            accounts: None,
            from: self.from,
            to: self.to,
            dialog_id: self.dialog.clone(),
            stored: self.has,
            changed_since: self.changed_since,
            newest_first: false,
        }
    }

    /// Whether any filter needs the texts of a segment.
    pub(super) fn needs_texts(&self) -> bool {
        self.agent.is_some() || self.contact.is_some()
    }

    /// Whether the end of a segment is in the range.
    pub(super) fn is_in_range(&self, segment: &SegmentRow) -> bool {
        ExportRange { from: self.from, to: self.to, account: None }.contains(segment)
    }

    /// Whether the metadata passes the filters that it decides alone.
    pub(super) fn matches_metadata(&self, metadata: &Metadata) -> bool {
        let [channel, direction, disposition] =
            [&self.channel, &self.direction, &self.disposition].map(Option::as_deref);
        matches_metadata(metadata, channel, direction, disposition)
    }

    /// Whether a segment, as the caller sees it, passes the filters that the database does not decide.
    pub(super) fn matches(&self, entry: &SegmentEntry) -> bool {
        let metadata = Metadata::parse(&entry.segment.metadata);
        self.matches_metadata(&metadata) && (!self.needs_texts() || self.matches_participants(entry, &metadata))
    }

    /// Whether a search must check its hits for filters that the index does not know.
    pub(super) fn needs_check_after_search(&self) -> bool {
        self.contact.is_some() || self.dialog.is_some() || self.changed_since.is_some() || self.has != ArtifactSet::NONE
    }

    /// The filters as text for the access log, without the contact.
    pub(super) fn describe(&self) -> String {
        let time = |time: Option<Time>| time.map(Time::rfc3339_secs);
        let parts = [
            ("account", Some(self.accounts.join(",")).filter(|text| !text.is_empty())),
            ("from", time(self.from)),
            ("to", time(self.to)),
            ("agent", self.agent.clone()),
            ("contact", self.contact.as_ref().map(|_| "(hidden)".to_owned())),
            ("channel", self.channel.clone()),
            ("direction", self.direction.clone()),
            ("disposition", self.disposition.clone()),
            ("dialog", self.dialog.clone()),
            ("has", Some(self.has.iter().map(|one| one.name()).collect::<Vec<_>>().join(","))),
            ("changed_since", time(self.changed_since)),
        ];
        let given =
            parts.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
        given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    fn matches_participants(&self, entry: &SegmentEntry, metadata: &Metadata) -> bool {
        let [transcript, ..] = &entry.slots;
        let body = match &transcript.status {
            ArtifactStatus::Stored(body) => Some(body.as_slice()),
            _ => None,
        };
        let is_agent =
            |wanted: &String| names_agent(metadata, wanted) || body.is_some_and(|body| has_participant(body, wanted));
        let is_contact = |wanted: &String| {
            let participants = Participants::read([entry.segment.metadata.as_str()], body);
            Subject::Contact(wanted.clone()).match_participants(&participants).certainty >= Certainty::National
        };
        self.agent.as_ref().is_none_or(is_agent) && self.contact.as_ref().is_none_or(is_contact)
    }
}

/// A dimension that answers can be counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dimension {
    Day,
    Account,
    Agent,
    Channel,
    Direction,
    Disposition,
}

impl Dimension {
    pub(crate) const ALL: [(&'static str, Dimension); 6] = [
        ("day", Dimension::Day),
        ("account", Dimension::Account),
        ("agent", Dimension::Agent),
        ("channel", Dimension::Channel),
        ("direction", Dimension::Direction),
        ("disposition", Dimension::Disposition),
    ];

    pub(crate) fn parse(name: &str) -> Option<Dimension> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, dimension)| dimension)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, dimension)| *dimension == self).map_or("", |(name, _)| name)
    }

    /// The value of a segment.
    pub(super) fn value_of(self, ended: Option<Time>, sub: &str, metadata: &Metadata) -> Option<String> {
        let first = |fields: &[&str]| fields.iter().find_map(|field| metadata.field(field));
        match self {
            Dimension::Day => ended.map(|ended| ended.rfc3339_secs().chars().take(10).collect()),
            Dimension::Account => Some(sub.to_owned()),
            Dimension::Agent => metadata.field(AGENT_NAME_FIELD).or_else(|| first(AGENT_ID_FIELDS)),
            Dimension::Channel => first(CHANNEL_FIELDS),
            Dimension::Direction => first(DIRECTION_FIELDS),
            Dimension::Disposition => first(DISPOSITION_FIELDS),
        }
    }
}
