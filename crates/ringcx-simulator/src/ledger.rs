//! The ledger: what a client must end up with, worked out from the world and not from what was fetched.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::compare::without_depths;
use super::options::Edges;
use super::segment::{Content, Kind, Record, Segment};
use super::serve::record_text;
use super::shared::{Announced, Shared, lock};
use super::world::Key;
use crate::clock::Time;
use crate::lenient_json;
use crate::model::{AccountId, Artifact, Stretch};

/// What a client must have of one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// This body, byte for byte.
    Body(Bytes),
    /// The word that there is none: the summary is empty.
    NotPopulated,
    /// It is not there yet, and will be.
    NotYet,
    /// It is never there.
    NeverAvailable,
    /// A transcript where `hasTranscript` was never true.
    NotRequested,
}

/// What a client must have of one segment.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// Whose it is.
    pub account: AccountId,
    /// Its id.
    pub segment_id: String,
    /// Its conversation.
    pub dialog_id: Option<String>,
    /// When it ended, as the record says.
    pub end: Option<Time>,
    /// Whether `hasTranscript` has ever been true.
    pub has_transcript: bool,
    /// Whether `segmentType` is `AGENT`.
    pub is_agent: bool,
    /// The record's newest version.
    pub metadata: Value,
    /// When metadata first told of it to anyone.
    pub first_announced: Option<Time>,
    /// Its transcript.
    pub transcript: Expect,
    /// The agent's summary; whether anyone should ask for it is the client's affair.
    pub agent_summary: Expect,
    /// RingCX's summary, likewise.
    pub auto_summary: Expect,
}

impl LedgerEntry {
    /// What is expected of an artifact.
    pub fn expect(&self, artifact: Artifact) -> &Expect {
        match artifact {
            Artifact::Transcript => &self.transcript,
            Artifact::AgentSummary => &self.agent_summary,
            Artifact::AutoSummary => &self.auto_summary,
        }
    }

    /// The order of an export: by end, then sub-account, then segment id.
    pub fn order(&self) -> (Time, &str, &str) {
        (self.end.unwrap_or(Time::NONE), &self.account.sub, &self.segment_id)
    }
}

/// A view of the simulator's books. Cheap to clone.
#[derive(Clone)]
pub struct Ledger(pub(super) Arc<Shared>);

impl Ledger {
    /// Every segment that ended in `range` and could be read at `by`, as it was then, in the order of an export:
    /// what a client has that has read everything again at `by`.
    pub fn ledger_for(&self, range: Stretch, by: Time) -> Vec<LedgerEntry> {
        self.entries(range, by).collect()
    }

    /// The same, made one by one: for more than memory holds.
    pub fn entries(&self, range: Stretch, by: Time) -> impl Iterator<Item = LedgerEntry> + use<> {
        let mut order: Vec<(Time, Arc<str>, String, Key)> = Vec::new();
        let accounts = self.0.world.accounts();
        for account in accounts {
            for (_, key) in self.0.world.find(&account, range.from, range.to, Edges::StartOnly, by) {
                let segment = self.0.world.segment(key);
                order.extend(segment.filter(|segment| !matches!(segment.record, Record::Malformed(_))).map(
                    |segment| {
                        let end = segment.end.unwrap_or(Time::NONE);
                        (end, Arc::clone(&account.id.sub), segment.segment_id.clone(), key)
                    },
                ));
            }
        }
        order.sort_unstable();
        let shared = Arc::clone(&self.0);
        order.into_iter().filter_map(move |(.., key)| {
            let segment = shared.world.segment(key)?;
            let announced = lock(&shared.book).announced.get(&key).copied();
            Some(entry(&shared, &segment, announced, by))
        })
    }

    /// Every segment that metadata has told of, as it was told last, with artifacts as they are now; in the order of
    /// an export.
    pub fn announced(&self) -> Vec<LedgerEntry> {
        let announced: Vec<(Key, Announced)> =
            lock(&self.0.book).announced.iter().map(|(key, announced)| (*key, *announced)).collect();
        let now = self.0.now();
        let mut entries: Vec<LedgerEntry> = announced
            .into_iter()
            .filter_map(|(key, announced)| {
                let segment = self.0.world.segment(key)?;
                Some(as_told(&self.0, &segment, announced, now))
            })
            .collect();
        entries.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
        entries
    }

    /// How many segments metadata has told of.
    pub fn announced_count(&self) -> usize {
        lock(&self.0.book).announced.len()
    }

    /// How many written-out records in `range` can never be understood, of those that appeared by `by`.
    pub fn malformed_count(&self, range: Stretch, by: Time) -> usize {
        let world = &self.0.world;
        let accounts = world.accounts();
        let found = accounts.iter().flat_map(|account| world.find(account, range.from, range.to, Edges::StartOnly, by));
        found
            .filter_map(|(_, key)| world.segment(key))
            .filter(|segment| matches!(segment.record, Record::Malformed(_)))
            .count()
    }

    /// How often an artifact was served whole and in time. A client that was told to wait too long, killed, or
    /// restarted may fetch twice in good faith.
    pub fn served(&self, account: &AccountId, segment_id: &str, artifact: Artifact) -> u32 {
        let world = &self.0.world;
        let segment = world.account(&account.sub).and_then(|account| world.by_id(&account, segment_id));
        segment
            .map_or(0, |segment| lock(&self.0.book).items.get(&(segment.key, artifact)).map_or(0, |item| item.served))
    }

    /// When an artifact is there; `None` where it never is.
    pub fn available_at(&self, account: &AccountId, segment_id: &str, artifact: Artifact) -> Option<Time> {
        let world = &self.0.world;
        let segment = world.account(&account.sub).and_then(|account| world.by_id(&account, segment_id))?;
        segment.plans.get(artifact.code() as usize)?.available
    }

    /// Artifacts that were served more than once, in words.
    pub fn served_again(&self) -> Vec<String> {
        let again: Vec<((Key, Artifact), u32)> = {
            let book = lock(&self.0.book);
            let more = book.items.iter().filter(|(_, item)| item.served > 1);
            more.map(|(key, item)| (*key, item.served)).collect()
        };
        let mut lines: Vec<String> = again
            .into_iter()
            .filter_map(|((key, artifact), times)| {
                let segment = self.0.world.segment(key)?;
                Some(format!("{} {} {artifact}: served {times} times", segment.account.id, segment.segment_id))
            })
            .collect();
        lines.sort_unstable();
        lines
    }
}

fn entry(shared: &Shared, segment: &Segment, announced: Option<Announced>, by: Time) -> LedgerEntry {
    let has_transcript = segment.flag_at.is_some_and(|at| at <= by);
    let mut transcript = expect(shared, segment, Artifact::Transcript, by);
    if !has_transcript {
        transcript = Expect::NotRequested;
    }
    LedgerEntry {
        account: segment.account.id.clone(),
        segment_id: segment.segment_id.clone(),
        dialog_id: segment.dialog_id.clone(),
        end: segment.end,
        has_transcript,
        is_agent: segment.kind == Kind::Agent,
        metadata: parse(&record_text(shared, segment, segment.version(by))),
        first_announced: announced.map(|announced| announced.first),
        transcript,
        agent_summary: expect(shared, segment, Artifact::AgentSummary, by),
        auto_summary: expect(shared, segment, Artifact::AutoSummary, by),
    }
}

/// The entry of what a client was told, which may be behind what it could have been told by now.
fn as_told(shared: &Shared, segment: &Segment, announced: Announced, now: Time) -> LedgerEntry {
    let entry = entry(shared, segment, Some(announced), now);
    let transcript = if announced.ever_transcribed {
        expect(shared, segment, Artifact::Transcript, now)
    } else {
        Expect::NotRequested
    };
    LedgerEntry {
        has_transcript: announced.ever_transcribed,
        metadata: parse(&record_text(shared, segment, announced.version)),
        transcript,
        ..entry
    }
}

fn expect(shared: &Shared, segment: &Segment, artifact: Artifact, by: Time) -> Expect {
    let plan = &segment.plans[artifact.code() as usize];
    match plan.at(by) {
        None if plan.available.is_some() => Expect::NotYet,
        None => Expect::NeverAvailable,
        Some(Content::Failing(_)) if plan.edit.is_some() => Expect::NotYet,
        Some(Content::Failing(_)) => Expect::NeverAvailable,
        Some(content) => {
            let body = segment.body(&shared.world, artifact, content);
            let empty = artifact != Artifact::Transcript && (body.is_empty() || &body[..] == b"\"\"");
            if empty { Expect::NotPopulated } else { Expect::Body(body) }
        }
    }
}

/// A record as JSON; null where a test wrote out something else.
fn parse(text: &str) -> Value {
    without_depths(lenient_json::value(text).unwrap_or(Value::Null))
}
