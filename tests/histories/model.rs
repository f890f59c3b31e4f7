//! What must be true, kept in the simplest possible way, and compared with what the database holds.
//!
//! It learns from what was answered by the made-up RingCX and from what the database said of each write; it never asks the
//! database itself but in the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Tick, Time};
use ringcx_extractor::coverage::Coverage;
use ringcx_extractor::db::{Claim, Db, DbError, ExportRange, SegmentSlot, Settled, Settlement, SlotOutcome, unpack};
use ringcx_extractor::model::{Artifact, Outcome, State, Stretch, Stretches};
use ringcx_extractor::verify::{Question, chains, verify};

use super::world::{Element, World};

/// An invariant that did not hold.
#[derive(Debug, Clone)]
pub struct Broken(pub String);

impl From<DbError> for Broken {
    fn from(error: DbError) -> Broken {
        Broken(format!("the database failed: {error}"))
    }
}

/// Fails with a sentence unless a condition holds.
macro_rules! hold {
    ($condition:expr, $($why:tt)+) => {
        if !$condition { return Err($crate::model::Broken(format!($($why)+))); }
    };
}
pub(crate) use hold;

pub type Key = (String, Artifact);

/// What the archive should hold of an item.
#[derive(Debug, Clone, Default)]
struct Expected {
    /// Each text that was answered and differs from the one before; `None` for an empty answer.
    versions: Vec<Option<Bytes>>,
    /// While unanswered: tries that were the item's own fault.
    tries: u32,
    state: Option<State>,
}

#[derive(Debug)]
pub struct Model {
    /// The account's number.
    pub account: i64,
    pub sub: String,
    limits: Limits,
    /// Segments by what was stored of them last, and whether `hasTranscript` ever was true.
    stored: BTreeMap<String, (String, bool)>,
    /// Segments that were in a whole answer, by the last element.
    promised: BTreeMap<String, Element>,
    items: BTreeMap<Key, Expected>,
    /// Handed to a worker and not heard of since.
    under_way: BTreeSet<Key>,
    /// Refused last for a reason that is the account's.
    refused: BTreeSet<Key>,
    covered: Stretches,
    watermark: Option<Time>,
    feed: i64,
    done: u64,
    /// Up to where the feed was last read.
    looked_at: i64,
}

/// Counts what arrives, exactly.
#[derive(Debug)]
struct Limits {
    requests: (usize, Vec<Tick>),
    metadata: (Vec<(u32, Duration)>, Vec<Tick>),
    /// Until then too many metadata reads are nobody's fault: the clock was set, and then the only process that
    /// knew better died.
    excused: Tick,
}

impl Model {
    pub fn new(account: i64, sub: &str, per_minute: usize, metadata: Vec<(u32, Duration)>) -> Model {
        Model {
            account,
            sub: sub.to_owned(),
            limits: Limits {
                requests: (per_minute, Vec::new()),
                metadata: (metadata, Vec::new()),
                excused: Tick::default(),
            },
            stored: BTreeMap::new(),
            promised: BTreeMap::new(),
            items: BTreeMap::new(),
            under_way: BTreeSet::new(),
            refused: BTreeSet::new(),
            covered: Stretches::default(),
            watermark: None,
            feed: 0,
            done: 0,
            looked_at: 0,
        }
    }

    /// A request arrived at the server.
    pub fn arrived(&mut self, at: Tick, metadata: bool) -> Result<(), Broken> {
        let within =
            |log: &[Tick], width: Duration| log.iter().rev().take_while(|sent| at.since(**sent) < width).count();
        let (most, log) = &mut self.limits.requests;
        log.push(at);
        hold!(within(log, Duration::from_secs(60)) <= *most, "more than {most} requests in a minute");
        if !metadata {
            return Ok(());
        }
        let (rules, log) = &mut self.limits.metadata;
        log.push(at);
        for (most, width) in rules {
            let crowd = within(log, *width);
            let excused = at < self.limits.excused;
            hold!(excused || crowd <= *most as usize, "{crowd} metadata reads in {width:?}, {most} are allowed");
        }
        Ok(())
    }

    /// Whether a process that starts now cannot know how long ago metadata was read: the clock was set since. For as long as
    /// those reads count, one too many is nobody's fault.
    pub fn mistakes_the_past(&mut self, stepped: Tick, now: Tick) -> bool {
        let counts = Duration::from_secs(910);
        let mistaken = self.limits.metadata.1.iter().any(|at| *at <= stepped && now.since(*at) < counts);
        if mistaken {
            self.limits.excused = self.limits.excused.max(now + counts);
        }
        mistaken
    }

    /// A chunk of an answer was stored.
    pub fn stored(&mut self, chunk: &[(String, Element)]) {
        for (_, element) in chunk {
            let Element::Record(record) = element else { continue };
            let ever = self.stored.get(&record.segment_id).is_some_and(|(_, ever)| *ever);
            self.stored.insert(record.segment_id.clone(), (record.raw.clone(), ever || record.has_transcript));
        }
    }

    /// A window was recorded as read; `answer` is the whole of what the API announced in it.
    pub fn read(&mut self, stretch: Stretch, answer: &[(String, Element)]) {
        self.covered.insert(stretch);
        self.promised.extend(answer.iter().cloned());
    }

    /// A claim was handed to a worker.
    pub fn handed(&mut self, claim: &Claim) -> Result<(), Broken> {
        let key = (claim.segment_id.clone(), claim.artifact);
        hold!(!self.under_way.contains(&key), "{key:?} was handed out twice");
        self.under_way.insert(key);
        Ok(())
    }

    /// What an answer's status alone says of whose fault it is: of these two no item's.
    pub fn answered(&mut self, claim: &Claim, status: Option<u16>) {
        let key = (claim.segment_id.clone(), claim.artifact);
        if matches!(status, Some(401 | 429)) {
            self.refused.insert(key)
        } else {
            self.refused.remove(&key)
        };
    }

    /// A claim was given back untried.
    pub fn given_back(&mut self, claim: &Claim) {
        self.under_way.remove(&(claim.segment_id.clone(), claim.artifact));
    }

    /// Whoever held claims is gone.
    pub fn all_given_back(&mut self) {
        self.under_way.clear();
    }

    /// A result was committed, and counted.
    pub fn counted(&mut self, settled: &Settled) -> Result<(), Broken> {
        let claim = &settled.claim;
        let key = (claim.segment_id.clone(), claim.artifact);
        self.under_way.remove(&key);
        let item = self.items.entry(key.clone()).or_default();
        match &settled.settlement {
            Settlement::Answered { outcome, packed, .. } => {
                let text = (*outcome == Outcome::Stored)
                    .then(|| unpack(packed.codec, packed.body.to_vec()).map(Bytes::from))
                    .transpose()?;
                let first = item.versions.is_empty();
                hold!(first == (claim.visit == 0), "{key:?} was stored twice, or a visit came before it");
                if first {
                    self.done += 1;
                }
                if first || (text.is_some() && item.versions.last() != Some(&text)) {
                    item.versions.push(text);
                    self.feed += 1;
                }
            }
            Settlement::Failed { .. } if self.refused.contains(&key) => {
                return Err(Broken(format!("{key:?} lost a try by a fault that was the account's")));
            }
            Settlement::Failed { state, .. } if claim.visit == 0 => {
                item.tries += 1;
                item.state = Some(*state);
            }
            Settlement::Failed { .. } | Settlement::Deferred { .. } => {}
        }
        Ok(())
    }

    /// A person had what was given up tried again.
    pub fn retried(&mut self) -> u64 {
        let gone =
            |item: &&mut Expected| item.versions.is_empty() && item.state.is_some_and(|state| state != State::Open);
        self.items.values_mut().filter(gone).map(|item| *item = Expected::default()).count() as u64
    }

    /// Compares everything with the database.
    pub async fn check(&mut self, db: &Db) -> Result<(), Broken> {
        let start = self.check_account(db).await?;
        self.check_segments(db).await?;
        self.check_asides(db).await?;
        self.check_coverage(db, start).await
    }

    async fn check_account(&mut self, db: &Db) -> Result<Option<Time>, Broken> {
        let account = db.accounts().await?.into_iter().find(|account| account.key == self.account);
        let account = account.ok_or_else(|| Broken("the account is gone".to_owned()))?;
        hold!(account.feed == self.feed, "the feed stands at {} and {} results counted", account.feed, self.feed);
        hold!(account.done == self.done, "{} items are counted as done, {} are", account.done, self.done);
        if self.looked_at != self.feed {
            let page = db.entries(self.account, 0, i64::MAX).await?;
            let numbers: Vec<i64> = page.rows.iter().map(|row| row.feed).collect();
            hold!(numbers == (1..=self.feed).collect::<Vec<_>>(), "the feed has holes or doubles: {numbers:?}");
            self.looked_at = self.feed;
        }
        Ok(account.live_start)
    }

    async fn check_segments(&self, db: &Db) -> Result<(), Broken> {
        let range = ExportRange { account: Some(self.account), ..ExportRange::default() };
        let segments = db.segments_after(range, None, 1000).await?;
        let held: BTreeMap<&str, &str> =
            segments.iter().map(|segment| (segment.segment_id.as_str(), segment.metadata.as_str())).collect();
        hold!(held.len() == segments.len(), "a segment is stored twice");
        for (id, element) in &self.promised {
            let Element::Record(record) = element else { continue };
            hold!(
                held.contains_key(&*record.segment_id),
                "{id} was announced in a window that counts as read, and is not stored"
            );
        }
        let expected: BTreeMap<&str, &str> =
            self.stored.iter().map(|(id, (raw, _))| (id.as_str(), raw.as_str())).collect();
        hold!(held == expected, "segments differ: {held:?}, not {expected:?}");
        let slots = db.slots(&segments).await?;
        for (segment, slots) in segments.iter().zip(&slots) {
            let transcribed = self.stored.get(&segment.segment_id).is_some_and(|(_, ever)| *ever);
            for (artifact, slot) in Artifact::ALL.into_iter().zip(slots) {
                self.check_slot(&(segment.segment_id.clone(), artifact), slot, transcribed)?;
            }
        }
        Ok(())
    }

    fn check_slot(&self, key: &Key, slot: &SegmentSlot, transcribed: bool) -> Result<(), Broken> {
        let nothing = Expected::default();
        let expected = self.items.get(key).unwrap_or(&nothing);
        let right = match (expected.versions.last(), &slot.outcome) {
            (None, SlotOutcome::NotRequested) => !transcribed,
            (None, SlotOutcome::Pending) => expected.state.is_none_or(|state| state == State::Open),
            (None, SlotOutcome::Unavailable) => expected.state == Some(State::Unavailable),
            (None, SlotOutcome::Failed) => expected.state == Some(State::Failed),
            (Some(None), SlotOutcome::NotPopulated) => true,
            (Some(Some(text)), SlotOutcome::Stored(body)) => text == body,
            _ => false,
        };
        hold!(right, "{key:?} stands as {slot:?}, where {expected:?} is right");
        let versions = i64::try_from(expected.versions.len()).unwrap_or(i64::MAX);
        hold!(slot.version == versions, "{key:?} is at version {}, not {versions}", slot.version);
        if expected.versions.is_empty() {
            hold!(
                slot.tries == i64::from(expected.tries),
                "{key:?} was tried {} times, not {}",
                slot.tries,
                expected.tries
            );
            hold!(slot.tries == 0 || slot.reason.is_some(), "{key:?} has no reason for its failures");
        }
        Ok(())
    }

    async fn check_asides(&self, db: &Db) -> Result<(), Broken> {
        let expected: Vec<(&String, &[u8])> = self
            .promised
            .iter()
            .filter(|(id, _)| !self.stored.contains_key(*id))
            .filter_map(|(id, element)| match element {
                Element::Aside(aside) => Some((id, aside.raw.as_bytes())),
                Element::Record(_) => None,
            })
            .collect();
        if expected.is_empty() {
            return Ok(());
        }
        let asides = db.asides(10_000).await?;
        let held: BTreeSet<&[u8]> =
            asides.iter().filter(|aside| aside.sub == self.sub).map(|aside| aside.raw.as_slice()).collect();
        for (id, raw) in expected {
            hold!(held.contains(raw), "{id} was announced, could not be understood, and was not set aside");
        }
        Ok(())
    }

    async fn check_coverage(&mut self, db: &Db, start: Option<Time>) -> Result<(), Broken> {
        let held = db.coverage(self.account).await?;
        let live = held.iter().filter(|(pass, _)| pass == "live").map(|(_, stretch)| *stretch).collect();
        let live = Stretches::from_unsorted(live);
        hold!(live == self.covered, "the live pass claims {live:?}, and {:?} was wholly stored", self.covered);
        if let Some(start) = start {
            let watermark = Coverage { live, ..Coverage::new(start) }.watermark();
            hold!(watermark >= self.watermark, "the watermark went back from {:?} to {watermark:?}", self.watermark);
            self.watermark = watermark;
        }
        Ok(())
    }

    /// After a long calm: the archive is the world's equal up to the watermark, less what a recheck is still owed.
    pub async fn check_end(&mut self, db: &Db, world: &World, settled: Duration) -> Result<u64, Broken> {
        self.check(db).await?;
        let chains = chains(db, Some(self.account)).await?;
        let question = Question { account: Some(self.account), ..Question::default() };
        let report = verify(db, &chains, &question, &mut |_| {}).await?;
        hold!(report.intact, "the archive does not prove true: {:?}", report.problems);
        let watermark = self.watermark.ok_or_else(|| Broken("nothing was ever read".to_owned()))?;
        let mut compared = 0;
        for segment in &world.segments {
            if !self.covered.holding(segment.end).is_some_and(|held| held.contains(segment.end))
                || watermark.since(segment.end) < settled
            {
                continue;
            }
            compared += 1;
            let Element::Record(last) = segment.element(Time(i64::MAX)) else {
                return Err(Broken("the world's end is not understood".to_owned()));
            };
            let held = self.stored.get(&segment.id);
            hold!(held.is_some_and(|(raw, _)| *raw == last.raw), "{}: {held:?} is held of {:?}", segment.id, last.raw);
            for artifact in Artifact::ALL.into_iter().filter(|_| last.has_transcript) {
                let item = self.items.get(&(segment.id.clone(), artifact)).cloned().unwrap_or_default();
                let there = !item.versions.is_empty();
                hold!(there != segment.never(artifact), "{artifact} of {} ends as {item:?}", segment.id);
            }
        }
        Ok(compared)
    }
}
