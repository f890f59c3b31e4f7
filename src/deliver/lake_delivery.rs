//! Keeps tables in an object store: the newest state of each segment that the sink receives.
//!
//! The feed tells which segments changed. A step rewrites the slices that hold them, and commits the
//! new slices together with the cursor; then it deletes the objects of the replaced ones. A crash
//! leaves the objects of planned or replaced slices, which the next start deletes. So a reader may
//! see a row twice between the write and the deletion, and none is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::lake_catalog::CatalogClient;
use super::lake_writer::{
    LakeError, SliceWriter, account_folder, day_of, is_unfinished_file, slice_object_name, slice_of_object,
};
use super::{Deliverer, DeliveryProgress, IDLE_POLL_INTERVAL, destination_digest};
use crate::clock::{Tick, Time};
use crate::config::{LakeSettings, LakeTable, ObjectFormat};
use crate::db::{
    AccountKey, CursorAdvance, DbError, DeliveryRound, FeedEntry, FeedRange, LakeAccount, LakeChange, Lease,
    NoticeKind, ObsoleteSlice, SinkKey,
};
use crate::pipeline::delivery::lake_plan::{
    ChangedSegment, HeldSlice, RewritePlan, SliceSize, WaitingChanges, plan_merge, plan_rewrite, roll_due,
};
use crate::sink::SinkError;
use crate::sink::object_store::ObjectStoreSink;

/// The most feed entries that one rewrite takes over.
const MAX_ENTRIES_PER_ROLL: i64 = 2_000;
/// The most segments of the archive that one step takes over.
const MAX_SEGMENTS_PER_SCAN: usize = 5_000;
/// The most slices with missing objects that one step writes again.
const MAX_MISSING_SLICES_PER_STEP: usize = 100;
/// How often an account's objects are compared with the store. A write that was under way when the
/// account got its owner may end after the first comparison.
const COMPARE_INTERVAL: Duration = Duration::from_secs(6 * 3_600);
/// How often a scan that found nothing more is looked at again, until it may end.
const SCAN_END_INTERVAL: Duration = Duration::from_secs(5);

/// The tables of one sink.
pub(super) struct LakeDelivery {
    store: ObjectStoreSink,
    tables: Vec<LakeTable>,
    roll_after: Duration,
    roll_size: u64,
    catalog: Option<CatalogClient>,
    /// The accounts of which replaced objects are kept for earlier snapshots.
    retaining: HashSet<AccountKey>,
    /// Those of them whose objects may be deleted now, because snapshots expired.
    retained_due: HashSet<AccountKey>,
    /// The accounts without leftover objects, as far as this process knows, and when they are compared
    /// with the store again: key and epoch of the lease.
    clean: HashMap<(AccountKey, i64), Tick>,
    schedules: HashMap<AccountKey, Schedule>,
}

/// When an account is looked at again.
#[derive(Debug, Clone, Copy, Default)]
struct Schedule {
    /// For changes in the feed, if none is added.
    roll_at: Tick,
    /// The feed's newest number at the last look.
    seen_feed: i64,
    /// For the end of the archive's scan.
    scan_at: Tick,
    /// For artifacts that were given up.
    outcomes_at: Tick,
    /// For small slices.
    merge_at: Tick,
}

/// What was done for an account.
enum AccountStep {
    /// Something was recorded; whether the store accepted an object.
    Worked {
        accepted: bool,
    },
    Idle(Tick),
}

/// What a rewrite takes over.
struct Rewrite {
    changed: Vec<i64>,
    /// Slices that are written again as they are.
    rewritten: Vec<i64>,
    /// Whether they become one slice a day, however large.
    is_merge: bool,
    upto: i64,
    entries: u64,
    scanned: Option<Option<i64>>,
    outcomes: Option<Time>,
}

impl Rewrite {
    fn of(changed: Vec<i64>) -> Rewrite {
        Rewrite { changed, rewritten: Vec::new(), is_merge: false, upto: 0, entries: 0, scanned: None, outcomes: None }
    }
}

impl LakeDelivery {
    pub(super) fn new(settings: &LakeSettings) -> Result<LakeDelivery, SinkError> {
        let store = ObjectStoreSink::new(&settings.url, ObjectFormat::Parquet, &settings.options)?;
        Ok(LakeDelivery {
            catalog: CatalogClient::new(settings, &store),
            store,
            retaining: HashSet::new(),
            retained_due: HashSet::new(),
            tables: settings.tables.clone(),
            roll_after: settings.roll_after,
            roll_size: settings.roll_size,
            clean: HashMap::new(),
            schedules: HashMap::new(),
        })
    }

    /// Looks at everything again at once.
    pub(super) fn retry_now(&mut self) {
        self.schedules.clear();
    }
}

impl Deliverer {
    pub(super) async fn step_lake(
        &mut self,
        lake: &mut LakeDelivery,
        sink: SinkKey,
    ) -> Result<DeliveryProgress, DbError> {
        let now = self.context.clock.tick();
        if let Some(until) = self.paused_until(now) {
            return Ok(DeliveryProgress::Idle(until));
        }
        let owned = self.owned_epochs();
        let mut accounts = self.context.db.lake_accounts(sink, &self.context.owner).await?;
        accounts.retain(|account| owned.contains(&(account.lease.account, account.lease.epoch)));
        let count = accounts.len().max(1);
        accounts.rotate_left(self.rotation % count);
        let mut next = now + IDLE_POLL_INTERVAL;
        if let Some(catalog) = &mut lake.catalog {
            match catalog.expire(&self.context.db, now, self.context.clock.now()).await {
                Ok(true) => lake.retained_due.extend(lake.retaining.drain()),
                Ok(false) => {}
                Err(error) => return Ok(DeliveryProgress::Idle(self.pause_delivery(&error, false))),
            }
            next = next.min(catalog.next_expiry());
        }
        for (place, account) in (1..).zip(&accounts) {
            match self.step_lake_account(lake, sink, account).await {
                Ok(AccountStep::Idle(until)) => next = next.min(until),
                Ok(AccountStep::Worked { accepted }) => {
                    self.rotation = self.rotation.wrapping_add(place);
                    self.apply_result(None, accepted);
                    return Ok(DeliveryProgress::Worked);
                }
                Err(LakeError::Store(error)) => {
                    // What was written so far belongs to planned slices.
                    lake.clean.remove(&(account.lease.account, account.lease.epoch));
                    self.rotation = self.rotation.wrapping_add(place);
                    return Ok(DeliveryProgress::Idle(self.pause_delivery(&error, false)));
                }
                Err(LakeError::Db(error)) => {
                    lake.clean.remove(&(account.lease.account, account.lease.epoch));
                    return Err(error);
                }
            }
        }
        // Whatever failed was tried again just now, or is no longer needed.
        self.resume_delivery();
        Ok(DeliveryProgress::Idle(next))
    }

    async fn step_lake_account(
        &mut self,
        lake: &mut LakeDelivery,
        sink: SinkKey,
        account: &LakeAccount,
    ) -> Result<AccountStep, LakeError> {
        let (key, tick, now) = (account.lease.account, self.context.clock.tick(), self.context.clock.now());
        let is_wanted = self.filter.wants_account(&account.id.sub);
        let lease = (key, account.lease.epoch);
        if lake.clean.get(&lease).is_none_or(|until| tick >= *until) {
            if let Some(catalog) = &mut lake.catalog {
                catalog.synchronize(&self.context.db, sink, key, &account.id.sub, now).await?;
            }
            self.delete_leftovers(lake, sink, account).await?;
            let mut missing = match is_wanted {
                true => self.compare_with_store(lake, sink, account).await?,
                false => Vec::new(),
            };
            if missing.len() <= MAX_MISSING_SLICES_PER_STEP {
                lake.clean.insert(lease, tick + COMPARE_INTERVAL);
            }
            if !missing.is_empty() {
                let (sink_name, slices) = (&self.settings.name, missing.len());
                tracing::warn!(
                    sink = sink_name,
                    slices,
                    "objects of tables are missing in the store; they are written again"
                );
                missing.truncate(MAX_MISSING_SLICES_PER_STEP);
                return self
                    .rewrite(lake, sink, account, Rewrite { rewritten: missing, ..Rewrite::of(Vec::new()) })
                    .await;
            }
        } else if lake.retained_due.remove(&key) {
            self.delete_leftovers(lake, sink, account).await?;
        }
        if !is_wanted {
            if account.cursor >= account.feed && account.scanned.is_none() {
                return Ok(AccountStep::Idle(tick + IDLE_POLL_INTERVAL));
            }
            let skip = Rewrite { upto: account.feed, scanned: Some(None), ..Rewrite::of(Vec::new()) };
            return self.rewrite(lake, sink, account, skip).await;
        }
        let mut schedule = lake.schedules.get(&key).copied().unwrap_or_default();
        if account.feed > account.cursor && (tick >= schedule.roll_at || account.feed != schedule.seen_feed) {
            match self.next_roll(lake, account).await? {
                Ok(roll) => {
                    lake.schedules.insert(key, Schedule { roll_at: tick, seen_feed: 0, ..schedule });
                    return self.rewrite(lake, sink, account, roll).await;
                }
                Err(until) => {
                    (schedule.roll_at, schedule.seen_feed) = (tick + until.since(now), account.feed);
                    lake.schedules.insert(key, schedule);
                }
            }
        }
        if let Some(after) = account.scanned.filter(|_| tick >= schedule.scan_at) {
            let found = self.context.db.unsliced_segments(sink, key, after, MAX_SEGMENTS_PER_SCAN).await?;
            let scanned = match found.last() {
                Some(last) => Some(Some(*last)),
                None if account.may_end_scan(now) => Some(None),
                None => None,
            };
            if scanned.is_some() {
                let scan = Rewrite { scanned, ..Rewrite::of(found) };
                return self.rewrite(lake, sink, account, scan).await;
            }
            schedule.scan_at = tick + SCAN_END_INTERVAL;
            lake.schedules.insert(key, schedule);
        }
        if tick >= schedule.outcomes_at {
            let given_up = match account.outcomes {
                None => Some((Vec::new(), now)),
                Some(seen) => self.context.db.given_up_since(key, seen).await?,
            };
            let done = match given_up {
                None => None,
                Some((segments, newest)) => {
                    let given_up = Rewrite { outcomes: Some(newest), ..Rewrite::of(segments) };
                    Some(self.rewrite(lake, sink, account, given_up).await?)
                }
            };
            // Only now: what failed is tried again after the pause.
            schedule.outcomes_at = tick + lake.roll_after;
            lake.schedules.insert(key, schedule);
            if let Some(done) = done {
                return Ok(done);
            }
        }
        if tick >= schedule.merge_at {
            let slices = self.context.db.current_slices(sink, key).await?;
            let sizes: Vec<SliceSize> = slices
                .iter()
                .map(|slice| SliceSize { id: slice.id, day: slice.day, at: slice.at, size: slice.size })
                .collect();
            let merged = plan_merge(&sizes, now, lake.roll_after, lake.roll_size);
            if !merged.is_empty() {
                return self
                    .rewrite(
                        lake,
                        sink,
                        account,
                        Rewrite { rewritten: merged, is_merge: true, ..Rewrite::of(Vec::new()) },
                    )
                    .await;
            }
            schedule.merge_at = tick + lake.roll_after;
            lake.schedules.insert(key, schedule);
        }
        let mut next = schedule.outcomes_at.min(schedule.merge_at);
        if account.feed > account.cursor {
            next = next.min(schedule.roll_at);
        }
        if account.scanned.is_some() {
            next = next.min(schedule.scan_at);
        }
        Ok(AccountStep::Idle(next))
    }

    /// The changes of the feed that are due, or when they are.
    async fn next_roll(&self, lake: &LakeDelivery, account: &LakeAccount) -> Result<Result<Rewrite, Time>, DbError> {
        let end = account.feed.min(account.cursor + MAX_ENTRIES_PER_ROLL);
        let window = FeedRange { account: account.lease.account, after: account.cursor, upto: end };
        let entries = self.context.db.feed_entries(&[window]).await?;
        let changes: Vec<&FeedEntry> = entries.iter().filter(|entry| self.filter.changes_table(entry)).collect();
        if let Some(first) = changes.first() {
            let is_erasure = |notice| matches!(notice, Some(NoticeKind::Erased | NoticeKind::Expired));
            let waiting = WaitingChanges {
                since: first.fetched,
                size: changes.iter().map(|entry| entry.size).sum(),
                has_erasure: changes.iter().any(|entry| is_erasure(entry.notice)),
                is_full: account.feed > end,
            };
            let due = roll_due(waiting, self.context.clock.now(), lake.roll_after, lake.roll_size);
            if let Some(until) = due {
                return Ok(Err(until));
            }
        }
        let changed: BTreeSet<i64> = changes.iter().map(|entry| entry.item.segment()).collect();
        let entries = changes.len() as u64;
        Ok(Ok(Rewrite { upto: end, entries, ..Rewrite::of(changed.into_iter().collect()) }))
    }

    /// Writes the new slices, commits them with the cursor, and deletes what they replace.
    async fn rewrite(
        &mut self,
        lake: &mut LakeDelivery,
        sink: SinkKey,
        account: &LakeAccount,
        rewrite: Rewrite,
    ) -> Result<AccountStep, LakeError> {
        let key = account.lease.account;
        let plan = self.plan_lake_rewrite(sink, &rewrite).await?;
        let name = self.context.account_names.get(&*account.id.sub).or(account.name.as_ref());
        let mut writer = SliceWriter {
            db: &self.context.db,
            clock: &self.context.clock,
            filter: &self.filter,
            store: &lake.store,
            tables: &lake.tables,
            sink,
            account: key,
            sub: &account.id.sub,
            account_name: name.map(|name| Arc::from(name.as_str())),
            // Merged slices fit: a merge that splits again would be repeated for ever.
            max_size: if rewrite.is_merge { u64::MAX } else { lake.roll_size },
            written: Vec::new(),
            skipped: Vec::new(),
        };
        for (day, segments) in &plan.days {
            if self.context.stop.is_cancelled() {
                // What was written belongs to planned slices, whose objects the next start deletes.
                lake.clean.remove(&(key, account.lease.epoch));
                return Ok(AccountStep::Idle(self.context.clock.tick()));
            }
            let segments: Vec<i64> = segments.iter().copied().collect();
            writer.write_day(*day, &segments).await?;
        }
        let (written, skipped) = (writer.written, writer.skipped);
        let (accepted, has_replaced) = (!written.is_empty(), !plan.replaced.is_empty());
        let objects = written.iter().flat_map(|slice| &slice.files).map(|file| file.name.clone());
        let objects: Vec<String> = objects.collect();
        let change = LakeChange {
            lease: account.lease,
            target: destination_digest(&self.settings),
            written,
            replaced: plan.replaced,
            dropped: plan.dropped.into_iter().chain(skipped).collect(),
            scanned: rewrite.scanned,
            outcomes: rewrite.outcomes,
            catalog: lake.catalog.as_ref().and_then(|catalog| catalog.update_in_archive(&account.id.sub)),
        };
        let is_in_archive = change.catalog.is_some();
        let mut round = DeliveryRound { sink, at: self.context.clock.now(), ..DeliveryRound::default() };
        round.advances.push(CursorAdvance { lease: account.lease, upto: rewrite.upto, delivered: rewrite.entries });
        round.lake_change = Some(change);
        let held = self.record_round(round).await?;
        if !held.contains(&key) {
            // The next owner may have looked for leftovers before these were written.
            for name in &objects {
                lake.store.delete(name).await?;
            }
        } else if accepted || has_replaced {
            // If this fails, the next step does it.
            let is_clean = lake.clean.remove(&(key, account.lease.epoch));
            if let Some(catalog) = lake.catalog.as_mut().filter(|_| !is_in_archive) {
                let now = self.context.clock.now();
                catalog.synchronize(&self.context.db, sink, key, &account.id.sub, now).await?;
            }
            self.delete_leftovers(lake, sink, account).await?;
            lake.clean.extend(is_clean.map(|until| ((key, account.lease.epoch), until)));
        }
        Ok(AccountStep::Worked { accepted })
    }

    async fn plan_lake_rewrite(&self, sink: SinkKey, rewrite: &Rewrite) -> Result<RewritePlan, DbError> {
        let db = &self.context.db;
        let contents = match rewrite.rewritten.is_empty() {
            true => db.slices_holding(sink, &rewrite.changed).await?,
            false => db.slice_contents(rewrite.rewritten.clone()).await?,
        };
        let mut held: BTreeMap<i64, HeldSlice> = BTreeMap::new();
        for (slice, day, segment) in contents {
            let slice = held.entry(slice).or_default();
            slice.day = day;
            slice.segments.insert(segment);
        }
        let ends: HashMap<i64, i64> = db
            .segment_ends(&rewrite.changed)
            .await?
            .into_iter()
            .map(|(segment, ended)| (segment, day_of(ended)))
            .collect();
        let changes: Vec<ChangedSegment> = rewrite
            .changed
            .iter()
            .map(|segment| ChangedSegment { segment: *segment, day: ends.get(segment).copied() })
            .collect();
        Ok(plan_rewrite(&changes, &held))
    }

    /// Deletes the objects of slices that are planned or replaced, unless an earlier snapshot shows them.
    async fn delete_leftovers(
        &self,
        lake: &mut LakeDelivery,
        sink: SinkKey,
        account: &LakeAccount,
    ) -> Result<(), LakeError> {
        let (db, key, sub) = (&self.context.db, account.lease.account, &account.id.sub);
        let mut after = 0;
        loop {
            let obsolete = db.obsolete_slices(sink, account.lease, after).await?;
            let Some(last) = obsolete.last() else { break };
            after = last.id;
            let names =
                |slice: &ObsoleteSlice| LakeTable::ALL.map(|table| slice_object_name(table, sub, slice.day, slice.id));
            let all: Vec<String> = obsolete.iter().flat_map(names).collect();
            let kept = self.kept_by_snapshots(lake, &all).await?;
            let mut deleted = Vec::new();
            for slice in &obsolete {
                if names(slice).iter().any(|name| kept.contains(name)) {
                    lake.retaining.insert(key);
                    continue;
                }
                for name in names(slice) {
                    lake.store.delete(&name).await?;
                }
                deleted.push(slice.id);
            }
            db.forget_slices(&deleted).await?;
        }
        Ok(())
    }

    /// Deletes objects that no slice knows, such as those of a time that a restored copy does not
    /// remember, and the temporary files that a crash left. Returns the slices of which an object is
    /// missing.
    async fn compare_with_store(
        &self,
        lake: &mut LakeDelivery,
        sink: SinkKey,
        account: &LakeAccount,
    ) -> Result<Vec<i64>, LakeError> {
        let mut listed = HashSet::new();
        for table in LakeTable::ALL {
            listed.extend(lake.store.list(&account_folder(table, &account.id.sub)).await?);
        }
        let known = self.context.db.current_files(sink, account.lease.account).await?;
        if !self.context.db.holds_lease(account.lease).await? {
            // What was listed may be the next owner's.
            return Ok(Vec::new());
        }
        let is_own = |name: &str| slice_of_object(name).is_some() || is_unfinished_file(name);
        let unknown: Vec<String> = listed.difference(&known).filter(|name| is_own(name)).cloned().collect();
        let kept = self.kept_by_snapshots(lake, &unknown).await?;
        for name in unknown.iter().filter(|name| !kept.contains(*name)) {
            if self.still_owns(account.lease) {
                lake.store.delete(name).await?;
            }
        }
        let missing: BTreeSet<i64> = known.difference(&listed).filter_map(|name| slice_of_object(name)).collect();
        Ok(missing.into_iter().collect())
    }

    /// Those of these objects that an earlier snapshot of the catalog shows.
    async fn kept_by_snapshots(&self, lake: &mut LakeDelivery, names: &[String]) -> Result<HashSet<String>, LakeError> {
        let now = self.context.clock.now();
        match &mut lake.catalog {
            Some(catalog) => Ok(catalog.kept(&self.context.db, names, now).await?.into_iter().collect()),
            None => Ok(HashSet::new()),
        }
    }

    fn still_owns(&self, lease: Lease) -> bool {
        self.owned_epochs().contains(&(lease.account, lease.epoch))
    }
}
