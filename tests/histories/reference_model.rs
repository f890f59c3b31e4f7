//! A simple model of the expected state, which is compared with the database.
//!
//! The model learns from the simulated API's answers and from the results of writes. It reads the database only in the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Tick, Time};
use ringcx_extractor::coverage::Coverage;
use ringcx_extractor::db::{
    AccountKey, ArtifactStatus, Claim, CompletedJob, Db, DbError, ExportRange, JobOutcome, SegmentArtifact, unpack,
};
use ringcx_extractor::model::{Artifact, ItemState, Outcome, TimeRange, TimeRangeSet};
use ringcx_extractor::verify::{VerifyRequest, load_chains, verify_archive};

use super::simulated_api::{MetadataElement, SimulatedApi};

/// A description of an invariant that does not hold.
#[derive(Debug, Clone)]
pub struct InvariantViolation(pub String);

impl From<DbError> for InvariantViolation {
    fn from(error: DbError) -> InvariantViolation {
        InvariantViolation(format!("the database failed: {error}"))
    }
}

/// Returns an `InvariantViolation` with this message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition { return Err($crate::reference_model::InvariantViolation(format!($($message)+)).into()); }
    };
}
pub(crate) use ensure;

pub type ItemKey = (String, Artifact);

/// The expected state of an item.
#[derive(Debug, Clone, Default)]
struct ExpectedItem {
    /// Each answered text that differs from the one before; `None` for an empty answer.
    versions: Vec<Option<Bytes>>,
    /// While unanswered: failed attempts that are not the account's fault.
    tries: u32,
    state: Option<ItemState>,
}

#[derive(Debug)]
pub struct ReferenceModel {
    pub account: AccountKey,
    pub sub: String,
    limits: ArrivalLimits,
    /// The last stored metadata of each segment, and whether `hasTranscript` ever was true.
    stored: BTreeMap<String, (String, bool)>,
    /// The last metadata element of each segment in a complete answer.
    announced: BTreeMap<String, MetadataElement>,
    items: BTreeMap<ItemKey, ExpectedItem>,
    /// Dispatched items without a result.
    in_flight: BTreeSet<ItemKey>,
    /// Items whose last response was an account fault.
    account_faults: BTreeSet<ItemKey>,
    covered: TimeRangeSet,
    watermark: Option<Time>,
    feed: i64,
    done: u64,
    /// The feed number up to which the feed was checked.
    checked_feed: i64,
}

/// Counts request arrivals exactly.
#[derive(Debug)]
struct ArrivalLimits {
    requests: (usize, Vec<Tick>),
    metadata: (Vec<(u32, Duration)>, Vec<Tick>),
    /// Until then too many metadata reads are excused: the clock was set, and the only process that knew the true times died.
    excused_until: Tick,
}

impl ReferenceModel {
    pub fn new(account: AccountKey, sub: &str, per_minute: usize, metadata: Vec<(u32, Duration)>) -> ReferenceModel {
        ReferenceModel {
            account,
            sub: sub.to_owned(),
            limits: ArrivalLimits {
                requests: (per_minute, Vec::new()),
                metadata: (metadata, Vec::new()),
                excused_until: Tick::default(),
            },
            stored: BTreeMap::new(),
            announced: BTreeMap::new(),
            items: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            account_faults: BTreeSet::new(),
            covered: TimeRangeSet::default(),
            watermark: None,
            feed: 0,
            done: 0,
            checked_feed: 0,
        }
    }

    /// A request arrived at the server.
    pub fn on_request(&mut self, at: Tick, metadata: bool) -> Result<(), InvariantViolation> {
        let within =
            |log: &[Tick], width: Duration| log.iter().rev().take_while(|sent| at.since(**sent) < width).count();
        let (max, log) = &mut self.limits.requests;
        log.push(at);
        ensure!(within(log, Duration::from_secs(60)) <= *max, "more than {max} requests in a minute");
        if !metadata {
            return Ok(());
        }
        let (rules, log) = &mut self.limits.metadata;
        log.push(at);
        for (max, width) in rules {
            let count = within(log, *width);
            let excused = at < self.limits.excused_until;
            ensure!(excused || count <= *max as usize, "{count} metadata reads in {width:?}, {max} are allowed");
        }
        Ok(())
    }

    /// Whether a process that starts now cannot know how long ago metadata was read, because the clock was set since. As long as
    /// those reads count, too many reads are excused.
    pub fn excuse_unknown_reads(&mut self, clock_set_at: Tick, now: Tick) -> bool {
        let counted_for = Duration::from_secs(910);
        let unknown = self.limits.metadata.1.iter().any(|at| *at <= clock_set_at && now.since(*at) < counted_for);
        if unknown {
            self.limits.excused_until = self.limits.excused_until.max(now + counted_for);
        }
        unknown
    }

    /// A chunk of an answer was stored.
    pub fn on_chunk_stored(&mut self, chunk: &[(String, MetadataElement)]) {
        for (_, element) in chunk {
            let MetadataElement::Record(record) = element else { continue };
            let ever = self.stored.get(&record.segment_id).is_some_and(|(_, ever)| *ever);
            self.stored.insert(record.segment_id.clone(), (record.raw.clone(), ever || record.has_transcript));
        }
    }

    /// A window was recorded as read; `answer` is everything that the API announced in it.
    pub fn on_window_recorded(&mut self, stretch: TimeRange, answer: &[(String, MetadataElement)]) {
        self.covered.insert(stretch);
        self.announced.extend(answer.iter().cloned());
    }

    /// A claim was dispatched.
    pub fn on_dispatched(&mut self, claim: &Claim) -> Result<(), InvariantViolation> {
        let key = (claim.segment_id.clone(), claim.artifact);
        ensure!(!self.in_flight.contains(&key), "{key:?} was dispatched twice");
        self.in_flight.insert(key);
        Ok(())
    }

    /// A response arrived. The statuses 401 and 429 are faults of the account.
    pub fn on_response(&mut self, claim: &Claim, status: Option<u16>) {
        let key = (claim.segment_id.clone(), claim.artifact);
        if matches!(status, Some(401 | 429)) {
            self.account_faults.insert(key)
        } else {
            self.account_faults.remove(&key)
        };
    }

    /// A claim was returned without an attempt.
    pub fn on_returned(&mut self, claim: &Claim) {
        self.in_flight.remove(&(claim.segment_id.clone(), claim.artifact));
    }

    /// The process that held the claims ended.
    pub fn on_owner_gone(&mut self) {
        self.in_flight.clear();
    }

    /// A result was committed and counted.
    pub fn on_committed(&mut self, settled: &CompletedJob) -> Result<(), InvariantViolation> {
        let claim = &settled.claim;
        let key = (claim.segment_id.clone(), claim.artifact);
        self.in_flight.remove(&key);
        let item = self.items.entry(key.clone()).or_default();
        match &settled.outcome {
            JobOutcome::Answered { outcome, packed, .. } => {
                let text = (*outcome == Outcome::Stored)
                    .then(|| unpack(packed.codec, packed.body.to_vec()).map(Bytes::from))
                    .transpose()?;
                let first = item.versions.is_empty();
                ensure!(first == (claim.visit == 0), "{key:?} was stored twice, or refreshed before it was stored");
                if first {
                    self.done += 1;
                }
                if first || (text.is_some() && item.versions.last() != Some(&text)) {
                    item.versions.push(text);
                    self.feed += 1;
                }
            }
            JobOutcome::Failed { .. } if self.account_faults.contains(&key) => {
                return Err(InvariantViolation(format!("{key:?} was charged an attempt for an account fault")));
            }
            JobOutcome::Failed { state, .. } if claim.visit == 0 => {
                item.tries += 1;
                item.state = Some(*state);
            }
            JobOutcome::Failed { .. } | JobOutcome::Deferred { .. } => {}
        }
        Ok(())
    }

    /// Everything that was given up is retried. Returns the number of items.
    pub fn on_retry(&mut self) -> u64 {
        let given_up = |item: &&mut ExpectedItem| {
            item.versions.is_empty() && item.state.is_some_and(|state| state != ItemState::Open)
        };
        self.items.values_mut().filter(given_up).map(|item| *item = ExpectedItem::default()).count() as u64
    }

    /// Compares everything with the database.
    pub async fn check(&mut self, db: &Db) -> Result<(), InvariantViolation> {
        let start = self.check_account(db).await?;
        self.check_segments(db).await?;
        self.check_quarantined(db).await?;
        self.check_coverage(db, start).await
    }

    async fn check_account(&mut self, db: &Db) -> Result<Option<Time>, InvariantViolation> {
        let account = db.accounts().await?.into_iter().find(|account| account.key == self.account);
        let account = account.ok_or_else(|| InvariantViolation("the account does not exist".to_owned()))?;
        ensure!(account.feed == self.feed, "the feed stands at {} and {} results counted", account.feed, self.feed);
        ensure!(account.done == self.done, "{} items are counted as done, {} are", account.done, self.done);
        if self.checked_feed != self.feed {
            let page = db.entry_page(self.account, 0, i64::MAX).await?;
            let numbers: Vec<i64> = page.rows.iter().map(|row| row.feed).collect();
            ensure!(numbers == (1..=self.feed).collect::<Vec<_>>(), "the feed has holes or doubles: {numbers:?}");
            self.checked_feed = self.feed;
        }
        Ok(account.live_start)
    }

    async fn check_segments(&self, db: &Db) -> Result<(), InvariantViolation> {
        let range = ExportRange { account: Some(self.account), ..ExportRange::default() };
        let segments = db.segments_after(range, None, 1000).await?;
        let held: BTreeMap<&str, &str> =
            segments.iter().map(|segment| (segment.segment_id.as_str(), segment.metadata.as_str())).collect();
        ensure!(held.len() == segments.len(), "a segment is stored twice");
        for (id, element) in &self.announced {
            let MetadataElement::Record(record) = element else { continue };
            ensure!(
                held.contains_key(&*record.segment_id),
                "{id} was announced in a window that counts as read, and is not stored"
            );
        }
        let expected: BTreeMap<&str, &str> =
            self.stored.iter().map(|(id, (raw, _))| (id.as_str(), raw.as_str())).collect();
        ensure!(held == expected, "segments differ: {held:?}, not {expected:?}");
        let slots = db.segment_artifacts(&segments).await?;
        for (segment, slots) in segments.iter().zip(&slots) {
            let transcribed = self.stored.get(&segment.segment_id).is_some_and(|(_, ever)| *ever);
            for (artifact, slot) in Artifact::TEXTS.into_iter().zip(slots) {
                self.check_slot(&(segment.segment_id.clone(), artifact), slot, transcribed)?;
            }
        }
        Ok(())
    }

    fn check_slot(&self, key: &ItemKey, slot: &SegmentArtifact, transcribed: bool) -> Result<(), InvariantViolation> {
        let nothing = ExpectedItem::default();
        let expected = self.items.get(key).unwrap_or(&nothing);
        let matches = match (expected.versions.last(), &slot.status) {
            (None, ArtifactStatus::NotRequested) => !transcribed,
            (None, ArtifactStatus::Pending) => expected.state.is_none_or(|state| state == ItemState::Open),
            (None, ArtifactStatus::Unavailable) => expected.state == Some(ItemState::Unavailable),
            (None, ArtifactStatus::Failed) => expected.state == Some(ItemState::Failed),
            (Some(None), ArtifactStatus::NotPopulated) => true,
            (Some(Some(text)), ArtifactStatus::Stored(body)) => text == body,
            _ => false,
        };
        ensure!(matches, "{key:?} has the state {slot:?}, expected {expected:?}");
        let versions = i64::try_from(expected.versions.len()).unwrap_or(i64::MAX);
        ensure!(slot.version == versions, "{key:?} is at version {}, not {versions}", slot.version);
        if expected.versions.is_empty() {
            ensure!(
                slot.tries == i64::from(expected.tries),
                "{key:?} was tried {} times, not {}",
                slot.tries,
                expected.tries
            );
            ensure!(slot.tries == 0 || slot.reason.is_some(), "{key:?} has no reason for its failures");
        }
        Ok(())
    }

    async fn check_quarantined(&self, db: &Db) -> Result<(), InvariantViolation> {
        let expected: Vec<(&String, &[u8])> = self
            .announced
            .iter()
            .filter(|(id, _)| !self.stored.contains_key(*id))
            .filter_map(|(id, element)| match element {
                MetadataElement::Unreadable(aside) => Some((id, aside.raw.as_bytes())),
                MetadataElement::Record(_) => None,
            })
            .collect();
        if expected.is_empty() {
            return Ok(());
        }
        let asides = db.quarantined_records(10_000).await?;
        let held: BTreeSet<&[u8]> =
            asides.iter().filter(|aside| aside.sub == self.sub).map(|aside| aside.raw.as_slice()).collect();
        for (id, raw) in expected {
            ensure!(held.contains(raw), "{id} was announced, is unreadable, and was not set aside");
        }
        Ok(())
    }

    async fn check_coverage(&mut self, db: &Db, start: Option<Time>) -> Result<(), InvariantViolation> {
        let held = db.coverage(self.account).await?;
        let live = held.iter().filter(|(pass, _)| pass == "live").map(|(_, stretch)| *stretch).collect();
        let live = TimeRangeSet::from_unsorted(live);
        ensure!(live == self.covered, "the live coverage is {live:?}, and {:?} was stored completely", self.covered);
        if let Some(start) = start {
            let watermark = Coverage { live, ..Coverage::new(start) }.watermark();
            ensure!(watermark >= self.watermark, "the watermark went back from {:?} to {watermark:?}", self.watermark);
            self.watermark = watermark;
        }
        Ok(())
    }

    /// After a long time without faults: up to the watermark, the archive equals the simulated API, except for pending rechecks.
    pub async fn check_end(
        &mut self,
        db: &Db,
        api: &SimulatedApi,
        settled: Duration,
    ) -> Result<u64, InvariantViolation> {
        self.check(db).await?;
        let chains = load_chains(db, Some(self.account)).await?;
        let question = VerifyRequest { account: Some(self.account), ..VerifyRequest::default() };
        let report = verify_archive(db, &chains, &question, &mut |_| {}).await?;
        ensure!(report.intact, "the archive does not verify: {:?}", report.problems);
        let watermark = self.watermark.ok_or_else(|| InvariantViolation("nothing was ever read".to_owned()))?;
        let mut compared = 0;
        for segment in &api.segments {
            if !self.covered.range_containing(segment.end).is_some_and(|held| held.contains(segment.end))
                || watermark.since(segment.end) < settled
            {
                continue;
            }
            compared += 1;
            let MetadataElement::Record(last) = segment.element(Time(i64::MAX)) else {
                return Err(InvariantViolation("the last metadata element is unreadable".to_owned()));
            };
            let held = self.stored.get(&segment.id);
            ensure!(
                held.is_some_and(|(raw, _)| *raw == last.raw),
                "{}: {held:?} is held of {:?}",
                segment.id,
                last.raw
            );
            for artifact in Artifact::TEXTS.into_iter().filter(|_| last.has_transcript) {
                let item = self.items.get(&(segment.id.clone(), artifact)).cloned().unwrap_or_default();
                let stored = !item.versions.is_empty();
                ensure!(
                    stored != segment.is_never_available(artifact),
                    "{artifact} of {} ends as {item:?}",
                    segment.id
                );
            }
        }
        Ok(compared)
    }
}
