//! One segment: its ids, when each thing about it can be seen, and what its artifacts are. Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::chance::Dice;
use super::content;
use super::world::{Account, Key, World};
use crate::clock::Time;
use crate::model::Artifact;

/// The first draws of a segment, and the dice for the rest.
pub(super) struct Timing {
    pub(super) dice: Dice,
    pub(super) end: Time,
    pub(super) appears: Time,
}

/// `segmentType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Agent,
    Queue,
    Ivr,
}

/// `channelClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Voice,
    Digital,
}

/// What is served as a segment's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Generated,
    Raw(String),
    Malformed(String),
}

/// What an artifact's body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Made from this seed when asked for.
    Made(u64),
    /// The same, sent as one JSON string.
    MadeJson(u64),
    /// Exactly this.
    Given(Bytes),
    /// Exactly this, which says that something failed.
    Failing(Bytes),
}

/// When an artifact is there, and what it is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) available: Option<Time>,
    pub(super) first: Content,
    pub(super) edit: Option<(Time, Content)>,
}

impl Plan {
    /// What is there at `now`.
    pub(super) fn at(&self, now: Time) -> Option<&Content> {
        self.available.filter(|available| *available <= now)?;
        Some(match &self.edit {
            Some((then, content)) if *then <= now => content,
            _ => &self.first,
        })
    }
}

/// All there is to know of a segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) key: Key,
    pub(super) account: Arc<Account>,
    pub(super) seed: u64,
    pub(super) segment_id: String,
    pub(super) dialog_id: Option<String>,
    /// What the record says.
    pub(super) end: Option<Time>,
    /// What a search goes by.
    pub(super) placed: Time,
    pub(super) appears: Time,
    pub(super) flag_at: Option<Time>,
    pub(super) unflag_at: Option<Time>,
    pub(super) edited_at: Option<Time>,
    pub(super) kind: Kind,
    pub(super) class: Class,
    pub(super) plans: [Plan; 3],
    pub(super) record: Record,
}

/// Which version of a record is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) transcribed: bool,
    pub(super) edited: bool,
}

/// What an id may have in its middle to try the reader's escaping.
const AWKWARD: [&str; 8] = ["a/b", "50%", "two words", "ünï¢ödé", "q?x=1&y#z", "%2F%20", "q\"u'o\\te", "+;📞="];

impl Segment {
    /// The segment of a place.
    pub(super) fn generate(world: &World, account: &Arc<Account>, key: Key, timing: Timing) -> Segment {
        let Timing { mut dice, end, appears } = timing;
        let seed = dice.next();
        let awkward = dice.hit(world.traffic.awkward_ids);
        let (number, size, position) = dialog_place(seed_of_cell(account, key), key.place);
        let mut dialog_dice = Dice::new(account.seed, &[4, u64::from(key.source), key.cell as u64, number]);
        let class = if dialog_dice.hit(0.6) { Class::Voice } else { Class::Digital };
        let kind = match (size, position) {
            (size, position) if position + 1 == size => Kind::Agent,
            (3, 0) => Kind::Ivr,
            _ => Kind::Queue,
        };
        let awkward_dialog = dialog_dice.hit(world.traffic.awkward_ids);
        let dialog_id = make_dialog_id(&mut dialog_dice, class, awkward_dialog, key);
        let segment_id = make_segment_id(&mut dice, class, awkward, end, key);
        let times = &world.availability;
        let transcribed = dice.hit(world.traffic.transcribed);
        let (flips, flip_delay) = (dice.hit(times.flip.share), dice.span(times.flip.delay));
        let flag_at = transcribed.then(|| if flips { appears + flip_delay } else { appears });
        let (edits, edit_delay) = (dice.hit(times.metadata_edit.share), dice.span(times.metadata_edit.delay));
        Segment {
            key,
            account: Arc::clone(account),
            seed,
            segment_id,
            dialog_id: Some(dialog_id),
            end: (!content::is_end_odd(seed, &world.traffic)).then_some(end),
            placed: end,
            appears,
            flag_at,
            unflag_at: None,
            edited_at: edits.then(|| appears + edit_delay),
            kind,
            class,
            plans: make_plans(world, &mut dice, end, flag_at),
            record: Record::Generated,
        }
    }

    /// The place that stands in an id.
    pub(super) fn key_in(id: &str, account: u32) -> Option<Key> {
        let (rest, place) = id.rsplit_once('-')?;
        let (_, end) = rest.rsplit_once('-')?;
        let place = u64::from_str_radix(place, 16).ok()?;
        let source = (place >> 32) as u32;
        let cell = if source == 0 { end.parse::<i64>().ok()?.div_euclid(60_000) } else { 0 };
        Some(Key { account, source, cell, place: place as u32 })
    }

    /// The version of its record that is served at `now`.
    pub(super) fn version(&self, now: Time) -> Version {
        let since = |at: Option<Time>| at.is_some_and(|at| at <= now);
        Version { transcribed: since(self.flag_at) && !since(self.unflag_at), edited: since(self.edited_at) }
    }

    /// The bytes of a content.
    pub(super) fn body(&self, world: &World, artifact: Artifact, content: &Content) -> Bytes {
        match (artifact, content) {
            (_, Content::Given(body) | Content::Failing(body)) => body.clone(),
            (Artifact::Transcript, Content::Made(seed) | Content::MadeJson(seed)) => {
                content::transcript(*seed, self, &world.traffic)
            }
            (_, Content::Made(seed)) => content::summary(*seed, artifact, &world.traffic).into(),
            (_, Content::MadeJson(seed)) => {
                content::json_string(&content::summary(*seed, artifact, &world.traffic)).into()
            }
        }
    }
}

fn make_plans(world: &World, dice: &mut Dice, end: Time, flag_at: Option<Time>) -> [Plan; 3] {
    let times = &world.availability;
    let never = dice.hit(times.never_transcript);
    let available = (end + dice.span(times.transcript_after)).max(flag_at.unwrap_or(end));
    let transcript = Plan { available: (!never).then_some(available), first: Content::Made(dice.next()), edit: None };
    let mut summary = |artifact: Artifact| {
        let never = dice.hit(times.never_summary);
        let available = end + dice.span(times.summary_after);
        let first = make_summary(world, dice);
        let agent = artifact == Artifact::AgentSummary;
        let edit = if agent { times.summary_edit } else { times.auto_fill };
        let (edits, delay) = (dice.hit(edit.share), dice.span(edit.delay));
        let edits = edits && (agent || matches!(first, Content::Given(_)));
        let text = dice.next();
        Plan {
            available: (!never).then_some(available),
            first,
            edit: edits.then(|| (available + delay, Content::Made(text))),
        }
    };
    let agent = summary(Artifact::AgentSummary);
    let auto = summary(Artifact::AutoSummary);
    [transcript, agent, auto]
}

fn make_summary(world: &World, dice: &mut Dice) -> Content {
    let (empty, quoted) = (dice.hit(world.traffic.empty_summaries), dice.hit(0.5));
    let (json, text) = (dice.hit(world.traffic.json_summaries), dice.next());
    match (empty, json) {
        (true, _) => Content::Given(Bytes::from_static(if quoted { b"\"\"" } else { b"" })),
        (false, true) => Content::MadeJson(text),
        (false, false) => Content::Made(text),
    }
}

fn seed_of_cell(account: &Account, key: Key) -> u64 {
    Dice::new(account.seed, &[5, u64::from(key.source), key.cell as u64]).next()
}

/// Conversations of one, two and three segments take turns: the number of the conversation within the minute, how
/// many segments it has, and which of them this is.
fn dialog_place(cell_seed: u64, place: u32) -> (u64, u32, u32) {
    let place = u64::from(place) + cell_seed % 6;
    let (group, size, position) = match place % 6 {
        0 => (0, 1, 0),
        at @ 1..=2 => (1, 2, at - 1),
        at => (2, 3, at - 3),
    };
    (place / 6 * 3 + group, size, position as u32)
}

fn make_dialog_id(dice: &mut Dice, class: Class, awkward: bool, key: Key) -> String {
    let minute = if key.source == 0 { key.cell * 60_000 } else { i64::from(key.source) };
    let stem = match class {
        Class::Voice => format!("s-v-{:016x}{:016x}", dice.next(), dice.next()),
        Class::Digital => format!("d-{:016x}{:08x}", dice.next(), dice.next() as u32),
    };
    if awkward { format!("{stem}-{}-{minute}", dice.pick(&AWKWARD)) } else { format!("{stem}-{minute}") }
}

fn make_segment_id(dice: &mut Dice, class: Class, awkward: bool, end: Time, key: Key) -> String {
    let stem = match class {
        Class::Voice => format!("p-v-{:016x}{:016x}", dice.next(), dice.next()),
        Class::Digital => format!("d-{:016x}{:08x}", dice.next(), dice.next() as u32),
    };
    let place = u64::from(key.source) << 32 | u64::from(key.place);
    let middle = if awkward { format!("-{}", dice.pick(&AWKWARD)) } else { String::new() };
    format!("{stem}{middle}-{}-{place:x}", end.0)
}
