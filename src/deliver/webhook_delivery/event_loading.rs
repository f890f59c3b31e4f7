//! Loads the events that are to be sent: due retries, new events of the feeds, and a replay.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::super::fair_share::fair_share;
use super::super::{Deliverer, EventKey};
use super::{FeedPosition, LoadedEvent, MIN_QUEUED_EVENTS, OpenReplay, WebhookDelivery};
use crate::db::{AccountKey, DbError, FeedEntry, LaggingFeed, Lease, SinkKey};
use crate::pipeline::delivery::delivery_machine::{DeliveryEvent, Origin};

/// The most feed entries, and the most due retries, that are loaded at a time.
const MAX_EVENTS_PER_LOAD: usize = 500;
/// While so many retries are loaded, no more are, and how long until it is looked at again.
const MAX_LOADED_RETRIES: usize = 2 * MAX_EVENTS_PER_LOAD;
const LOADED_RETRIES_PAUSE: Duration = Duration::from_millis(500);

impl Deliverer {
    /// Forgets the events of accounts that this process no longer owns.
    pub(super) fn drop_lost_accounts(&mut self, delivery: &mut WebhookDelivery) {
        let leases: HashMap<AccountKey, Lease> =
            (self.context.leases)().into_iter().map(|lease| (lease.account, lease)).collect();
        let known = delivery.feeds.values().map(|position| position.lease);
        let known = known.chain(delivery.replay.iter().map(|replay| replay.row.lease));
        let is_lost = |lease: &Lease| leases.get(&lease.account) != Some(lease);
        let mut lost: HashSet<AccountKey> = known.filter(is_lost).map(|lease| lease.account).collect();
        lost.extend(delivery.loaded.values().map(|event| event.key.0).filter(|account| !leases.contains_key(account)));
        if lost.is_empty() {
            return;
        }
        for id in delivery.ids_where(|event| lost.contains(&event.key.0)) {
            if let Some(handle) = delivery.abort_handles.remove(&id) {
                handle.abort();
            }
            self.handle(delivery, DeliveryEvent::Missing(id));
        }
        delivery.round.cleared.retain(|key| !lost.contains(&key.0));
        delivery.feeds.retain(|account, _| !lost.contains(account));
        delivery.replay = delivery.replay.take().filter(|replay| !lost.contains(&replay.row.lease.account));
        delivery.are_failures_known = false;
    }

    /// Reads which events have a row, after a start or when a person changed something.
    pub(super) async fn read_known_failures(
        &mut self,
        delivery: &mut WebhookDelivery,
        sink: SinkKey,
    ) -> Result<(), DbError> {
        let (tick, now) = (self.context.clock.tick(), self.context.clock.now());
        let rows = self.context.db.known_failures(sink, &self.context.owner).await?;
        let loaded: HashSet<EventKey> = delivery.loaded.values().map(|event| event.key).collect();
        delivery.known_failures = rows.iter().map(|row| (row.account, row.feed)).collect();
        for row in rows.into_iter().filter(|row| !row.failed && !loaded.contains(&(row.account, row.feed))) {
            let due = tick + row.due.since(now);
            delivery.next_retry = Some(delivery.next_retry.map_or(due, |next| next.min(due)));
            // A segment or dialog that is not settled holds nothing back.
            if delivery.is_by_unit() && row.tries == 0 && row.item.artifact().is_some() {
                continue;
            }
            let waiting = DeliveryEvent::Waiting { segment: row.item.segment(), feed: row.feed, due, tries: row.tries };
            self.handle(delivery, waiting);
        }
        delivery.are_failures_known = true;
        Ok(())
    }

    /// Loads due retries, new events and a replay. Returns whether everything in the feed is loaded.
    pub(super) async fn load_events(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<bool, DbError> {
        self.load_retries(delivery, sink).await?;
        if delivery.machine.queued() >= MIN_QUEUED_EVENTS {
            return Ok(false);
        }
        let is_exhausted = self.load_new_events(delivery, sink).await?;
        self.load_replay(delivery, sink).await?;
        Ok(is_exhausted)
    }

    async fn load_new_events(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<bool, DbError> {
        let mut behind = self.accounts_behind(sink).await?;
        // An account that is new here may have rows that were not read yet.
        if behind.iter().any(|account| !delivery.feeds.contains_key(&account.lease.account)) {
            self.read_known_failures(delivery, sink).await?;
        }
        for account in &mut behind {
            let position = delivery.feeds.entry(account.lease.account).or_insert_with(|| FeedPosition {
                lease: account.lease,
                loaded_upto: account.cursor,
                recorded_upto: account.cursor,
                unsettled: BTreeSet::new(),
            });
            if !self.filter.wants_account(&account.id.sub) {
                position.loaded_upto = position.loaded_upto.max(account.feed);
            }
            account.cursor = position.loaded_upto;
        }
        let behind: Vec<&LaggingFeed> = behind.iter().filter(|account| account.feed > account.cursor).collect();
        let windows = fair_share(&behind, MAX_EVENTS_PER_LOAD, self.rotation);
        self.rotation = self.rotation.wrapping_add(windows.len());
        if windows.is_empty() {
            return Ok(true);
        }
        let is_by_unit = delivery.is_by_unit();
        for entry in self.context.db.feed_entries(&windows).await? {
            let key = (entry.account, entry.feed);
            if !self.filter.wants(&entry) || delivery.known_failures.contains(&key) {
                continue;
            }
            if is_by_unit && entry.notice.is_none() {
                delivery.await_unit(key, entry.item, self.context.clock.tick(), self.context.clock.now());
                continue;
            }
            let Some(position) = delivery.feeds.get_mut(&entry.account) else { continue };
            position.unsettled.insert(entry.feed);
            let event = LoadedEvent::new(key, entry.item, Origin::New, None);
            self.load(delivery, LoadedEvent { size: entry.size, ..event });
        }
        for window in &windows {
            if let Some(position) = delivery.feeds.get_mut(&window.account) {
                position.loaded_upto = position.loaded_upto.max(window.upto);
            }
        }
        Ok(false)
    }

    async fn load_retries(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<(), DbError> {
        let (tick, now) = (self.context.clock.tick(), self.context.clock.now());
        // While nothing else is to be done, rows that someone else made due are found, too.
        let is_busy = delivery.machine.queued() > 0 || !delivery.requests.is_empty();
        if is_busy && delivery.next_retry.is_none_or(|next| tick < next) {
            return Ok(());
        }
        let loaded: HashSet<EventKey> =
            delivery.loaded.values().filter(|event| event.origin == Origin::Retry).map(|event| event.key).collect();
        if loaded.len() >= MAX_LOADED_RETRIES {
            delivery.next_retry = Some(tick + LOADED_RETRIES_PAUSE);
            return Ok(());
        }
        let leases: HashSet<AccountKey> = (self.context.leases)().iter().map(|lease| lease.account).collect();
        let limit = MAX_EVENTS_PER_LOAD + loaded.len();
        let mut due = self.context.db.due_failed_deliveries(sink, &self.context.owner, now, limit).await?;
        let is_complete = due.len() < limit;
        due.retain(|row| leases.contains(&row.account) && !loaded.contains(&(row.account, row.feed)));
        // A segment's events are sent in the order of the feed.
        due.sort_by_key(|row| (row.account, row.feed));
        for row in due {
            let (key, item) = ((row.account, row.feed), row.item);
            self.load(delivery, LoadedEvent::new(key, item, Origin::Retry, Some(row)));
        }
        let next = if is_complete { self.context.db.next_delivery_due(sink, now).await? } else { Some(now) };
        delivery.next_retry = next.map(|due| tick + due.since(now));
        Ok(())
    }

    /// Loads the next events of a replay, unless earlier ones still wait for the sink.
    async fn load_replay(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<(), DbError> {
        let now = self.context.clock.tick();
        if !self.may_replay || now < self.replay_after || delivery.machine.paused_until().is_some() {
            return Ok(());
        }
        if delivery.replay.is_none() {
            let replay = self.open_replay(sink).await?;
            delivery.replay =
                replay.map(|row| OpenReplay { loaded_upto: row.feed, row, unsettled: BTreeSet::new(), sent: 0 });
        }
        let Some(replay) = delivery.replay.as_ref().filter(|replay| replay.unsettled.is_empty()) else {
            return Ok(());
        };
        let row = replay.row.clone();
        let (entries, upto) = self.next_replay_entries(&row, replay.loaded_upto).await?;
        let is_by_unit = delivery.is_by_unit();
        let is_sent_alone = |entry: &&FeedEntry| !is_by_unit || entry.notice.is_some();
        let mut units = Vec::new();
        for entry in entries.iter().filter(|entry| !is_sent_alone(entry)) {
            let newest = delivery.unit_rule.newest_text(&self.context.db, &self.filter, entry.item.segment()).await?;
            units.extend(newest.map(|feed| ((entry.account, feed), entry.item)));
        }
        self.delay_replay(&row, entries.len(), now);
        if let Some(replay) = &mut delivery.replay {
            replay.loaded_upto = upto;
            replay.unsettled.extend(entries.iter().filter(is_sent_alone).map(|entry| entry.feed));
        }
        // One row for each segment or dialog, under the number of its newest text.
        for (key, item) in units {
            delivery.await_unit(key, item, now, self.context.clock.now());
        }
        for entry in entries.iter().filter(is_sent_alone) {
            self.load(delivery, LoadedEvent::new((entry.account, entry.feed), entry.item, Origin::Replay, None));
        }
        Ok(())
    }

    fn load(&mut self, delivery: &mut WebhookDelivery, event: LoadedEvent) {
        let pending = delivery.add(event, self.settings.give_up_after);
        self.handle(delivery, DeliveryEvent::Loaded(pending));
    }
}
