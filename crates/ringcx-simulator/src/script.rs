//! Segments that a test writes out, where it needs an exact case. Pure data.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::chance::Dice;
use super::segment::{Content, Kind, Plan, Record, Segment, Timing};
use super::world::{Account, Key, World};
use crate::clock::Time;
use crate::model::AccountId;

/// Many segments that end within a short time, so that one answer holds them all; otherwise like all the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// The first moment that one may end at.
    pub from: Time,
    /// How long after that the last may end.
    pub width: Duration,
    /// How many there are.
    pub count: u32,
}

/// What an artifact of a written-out segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// As generated for all the others, but there at once.
    Generated,
    /// This body, from this moment on.
    Body(Time, Bytes),
    /// The first body from the first moment on, then the second.
    Changes((Time, Bytes), (Time, Bytes)),
    /// A 200 with this body, which sets `errorCode`, until there is something better, if ever.
    Fails {
        /// What is served at first.
        body: Bytes,
        /// From when on what else is served.
        then: Option<(Time, Bytes)>,
    },
    /// Never there.
    Never,
}

/// A segment as a test wants it; build on [`SegmentScript::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentScript {
    /// Whose it is.
    pub account: AccountId,
    /// Its id; `None` has one made.
    pub segment_id: Option<String>,
    /// Its conversation; `None` has one made.
    pub dialog_id: Option<String>,
    /// Leaves `dialogId` out of the record.
    pub without_dialog: bool,
    /// The end time that a search finds it by.
    pub end: Time,
    /// Leaves `segmentEndTimeMs` out of the record.
    pub without_end: bool,
    /// When it appears in metadata.
    pub appears: Time,
    /// When `hasTranscript` turns true; `None` never.
    pub transcribed: Option<Time>,
    /// When `hasTranscript` turns false again.
    pub untranscribed: Option<Time>,
    /// When notes and disposition change.
    pub edited: Option<Time>,
    /// Whether `segmentType` is `AGENT`.
    pub agent: bool,
    /// The transcript.
    pub transcript: Script,
    /// The agent's summary.
    pub agent_summary: Script,
    /// RingCX's summary.
    pub auto_summary: Script,
    /// Served in place of the record, to be understood as if it were the record. It must agree with the rest.
    pub raw_record: Option<String>,
    /// Served in place of the record for good, and impossible to understand: it is not in the ledger.
    pub malformed_record: Option<String>,
}

impl SegmentScript {
    /// A transcribed agent's segment with everything there at its end.
    pub fn new(account: &AccountId, end: Time) -> SegmentScript {
        SegmentScript {
            account: account.clone(),
            segment_id: None,
            dialog_id: None,
            without_dialog: false,
            end,
            without_end: false,
            appears: end,
            transcribed: Some(end),
            untranscribed: None,
            edited: None,
            agent: true,
            transcript: Script::Generated,
            agent_summary: Script::Generated,
            auto_summary: Script::Generated,
            raw_record: None,
            malformed_record: None,
        }
    }

    pub(super) fn into_segment(self, world: &World, account: &Arc<Account>, key: Key) -> Segment {
        let dice = Dice::new(account.seed, &[3, u64::from(key.place)]);
        let made = Segment::generate(world, account, key, Timing { dice, end: self.end, appears: self.appears });
        let [transcript, agent, auto] = made.plans;
        let at_once = |plan: Plan| Plan { available: Some(self.end), edit: None, ..plan };
        Segment {
            segment_id: self.segment_id.unwrap_or(made.segment_id),
            dialog_id: if self.without_dialog { None } else { self.dialog_id.or(made.dialog_id) },
            end: (!self.without_end).then_some(self.end),
            flag_at: self.transcribed,
            unflag_at: self.untranscribed,
            edited_at: self.edited,
            kind: if self.agent { Kind::Agent } else { Kind::Queue },
            plans: [
                self.transcript.plan(at_once(transcript)),
                self.agent_summary.plan(at_once(agent)),
                self.auto_summary.plan(at_once(auto)),
            ],
            record: match (self.malformed_record, self.raw_record) {
                (Some(text), _) => Record::Malformed(text),
                (None, Some(text)) => Record::Raw(text),
                (None, None) => Record::Generated,
            },
            ..made
        }
    }
}

impl Script {
    fn plan(self, generated: Plan) -> Plan {
        match self {
            Script::Generated => generated,
            Script::Body(at, body) => Plan { available: Some(at), first: Content::Given(body), edit: None },
            Script::Changes((at, first), (then, second)) => {
                Plan { available: Some(at), first: Content::Given(first), edit: Some((then, Content::Given(second))) }
            }
            Script::Fails { body, then } => Plan {
                available: generated.available,
                first: Content::Failing(body),
                edit: then.map(|(at, body)| (at, Content::Given(body))),
            },
            Script::Never => Plan { available: None, ..generated },
        }
    }
}
