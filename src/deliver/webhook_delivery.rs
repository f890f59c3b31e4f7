//! Delivery to a sink that gets one request an event. The [`DeliveryMachine`] decides; this module
//! loads events, sends them, and records what became of them.
//!
//! Events are in memory by key. Their content is read shortly before they are sent, and dropped when
//! delivery pauses: what was erased meanwhile is not sent. A cursor moves up to the first event that
//! is not settled.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::delivery_records::{damaged_failures, failed_delivery, unsettled_row, waited};
use super::event_builder::read_events;
use super::fair_share::fair_share;
use super::unit_builder::{BuiltUnit, UnitRule};
use super::{Deliverer, DeliveryProgress, EventKey, IDLE_POLL_INTERVAL};
use crate::clock::{Clock, Tick, Time};
use crate::config::WebhookUnit;
use crate::db::{
    AccountKey, CursorAdvance, DbError, DeliveryRound, FailedDelivery, FeedEntry, Item, LaggingFeed, Lease,
    ReplayProgress, ReplayRow, SinkKey,
};
use crate::event::Event;
use crate::file_descriptors;
use crate::pipeline::delivery::delivery_machine::{
    DeliveryAction, DeliveryEvent, DeliveryMachine, Failure, FailureKind, Origin, PendingEvent, Settlement,
};
use crate::sink::webhook::WebhookSink;
use crate::sink::{SinkError, SinkErrorKind};

/// The most concurrent requests to one webhook, those that hang included, if enough file descriptors
/// are available.
const MAX_IN_FLIGHT_REQUESTS: usize = 256;
/// More events are loaded when fewer than this are queued.
const MIN_QUEUED_EVENTS: usize = 256;
/// The most feed entries, and the most due retries, that are loaded at a time.
const MAX_EVENTS_PER_LOAD: usize = 500;
/// So many events are read at a time.
const EVENTS_READ_AHEAD: usize = 64;
/// The longest time until results are recorded and new events are loaded.
const STEP_DURATION: Duration = Duration::from_millis(200);
/// The shortest, if retries are due one after the other.
const MIN_STEP_DURATION: Duration = Duration::from_millis(20);
/// How long requests in flight may take at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// A request that ended: the event's id, the answer, and how long it took.
type FinishedRequest = (u64, Result<(), SinkError>, Duration);

/// The events of one webhook that are in memory.
pub(super) struct WebhookDelivery {
    sink: Arc<WebhookSink>,
    unit_rule: UnitRule,
    machine: DeliveryMachine,
    next_id: u64,
    loaded: BTreeMap<u64, LoadedEvent>,
    /// Events that the machine has released and that were not sent yet.
    to_send: VecDeque<u64>,
    requests: JoinSet<FinishedRequest>,
    abort_handles: HashMap<u64, AbortHandle>,
    feeds: BTreeMap<AccountKey, FeedPosition>,
    /// Delivered events that are not recorded yet.
    delivered: HashMap<AccountKey, u64>,
    replay: Option<OpenReplay>,
    /// Results that are not recorded yet.
    round: DeliveryRound,
    /// Events that have a row, read at the start: they are not new.
    known_failures: HashSet<EventKey>,
    are_failures_known: bool,
    /// When the next waiting event is due, as far as it is known.
    next_retry: Option<Tick>,
    stopped_by: Option<SinkError>,
}

struct LoadedEvent {
    key: EventKey,
    item: Item,
    origin: Origin,
    /// Its row, if an earlier attempt failed.
    row: Option<FailedDelivery>,
    content: Option<Event>,
    version: i64,
    error: Option<SinkError>,
}

/// How far an account's feed was loaded and settled.
struct FeedPosition {
    lease: Lease,
    loaded_upto: i64,
    recorded_upto: i64,
    unsettled: BTreeSet<i64>,
}

impl FeedPosition {
    /// Everything up to this number is settled.
    fn settled_upto(&self) -> i64 {
        self.unsettled.first().map_or(self.loaded_upto, |first| first - 1)
    }
}

/// A replay whose events are being sent.
struct OpenReplay {
    row: ReplayRow,
    loaded_upto: i64,
    unsettled: BTreeSet<i64>,
    sent: u64,
}

impl WebhookDelivery {
    pub(super) fn new(sink: WebhookSink, unit_rule: UnitRule) -> WebhookDelivery {
        let max_in_flight = MAX_IN_FLIGHT_REQUESTS.min(file_descriptors::socket_limits().deliveries_per_sink);
        WebhookDelivery {
            sink: Arc::new(sink),
            unit_rule,
            machine: DeliveryMachine::new(max_in_flight),
            next_id: 0,
            loaded: BTreeMap::new(),
            to_send: VecDeque::new(),
            requests: JoinSet::new(),
            abort_handles: HashMap::new(),
            feeds: BTreeMap::new(),
            delivered: HashMap::new(),
            replay: None,
            round: DeliveryRound::default(),
            known_failures: HashSet::new(),
            are_failures_known: false,
            next_retry: None,
            stopped_by: None,
        }
    }

    /// A person changed something: rows are read again, and a pause ends.
    pub(super) fn retry_now(&mut self, now: Tick) {
        self.are_failures_known = false;
        self.next_retry = Some(now);
        // Without a paused circuit, the event sends nothing that it would not send anyway.
        let actions = self.machine.on(DeliveryEvent::RetryNow, now, &mut rand::rng());
        self.to_send.extend(actions.into_iter().filter_map(|action| match action {
            DeliveryAction::Send(id) => Some(id),
            _ => None,
        }));
    }

    fn add(&mut self, event: LoadedEvent, give_up_after: Duration) -> PendingEvent {
        self.next_id += 1;
        let pending = PendingEvent {
            id: self.next_id,
            segment: event.item.segment(),
            feed: event.key.1,
            origin: event.origin,
            tries: event.row.as_ref().map_or(0, |row| row.tries),
            is_last_attempt: event.row.as_ref().is_some_and(|row| waited(row) >= give_up_after),
        };
        self.loaded.insert(self.next_id, event);
        pending
    }

    /// The loaded events for which this is true.
    fn ids_where(&self, is_meant: impl Fn(&LoadedEvent) -> bool) -> Vec<u64> {
        self.loaded.iter().filter(|(_, event)| is_meant(event)).map(|(id, _)| *id).collect()
    }

    /// Whether the sink receives segments or dialogs.
    fn is_by_unit(&self) -> bool {
        self.unit_rule.unit != WebhookUnit::Artifact
    }

    /// Has the segment or dialog of a text sent once it is settled. It waits in a row, which the row of a
    /// later text supersedes.
    fn await_unit(&mut self, key: EventKey, item: Item, now: Tick, at: Time) {
        self.round.failed_deliveries.push(unsettled_row(key, item, at));
        self.next_retry = Some(now);
    }

    /// Whether there are results to record.
    fn has_results(&self) -> bool {
        let moved = |feed: &FeedPosition| feed.settled_upto() > feed.recorded_upto;
        let replayed = |replay: &OpenReplay| replay.sent > 0 || replay.settled_upto() > replay.row.feed;
        !self.delivered.is_empty()
            || self.feeds.values().any(moved)
            || self.replay.as_ref().is_some_and(replayed)
            || !(self.round.failed_deliveries.is_empty() && self.round.cleared.is_empty())
            || self.stopped_by.is_some()
    }

    /// Notes what became of an event.
    fn settle(&mut self, id: u64, settlement: Settlement, give_up_after: Duration, now: Tick, at: Time) {
        let Some(event) = self.loaded.remove(&id) else { return };
        self.abort_handles.remove(&id);
        let (account, feed) = event.key;
        match event.origin {
            Origin::New => {
                if let Some(position) = self.feeds.get_mut(&account) {
                    position.unsettled.remove(&feed);
                }
            }
            Origin::Replay => {
                if let Some(replay) = self.replay.as_mut() {
                    replay.unsettled.remove(&feed);
                    replay.sent += u64::from(settlement == Settlement::Delivered);
                }
            }
            Origin::Retry => {}
        }
        if settlement == Settlement::Delivered {
            *self.delivered.entry(account).or_default() += 1;
            if event.version > 1 {
                self.round.superseding.push((event.item, feed));
            }
        }
        let is_over = matches!(settlement, Settlement::Delivered | Settlement::Missing);
        if is_over && event.origin == Origin::Retry {
            self.round.cleared.push(event.key);
        }
        if let Settlement::Retry { after, .. } | Settlement::Held(after) = settlement {
            let due = now + after;
            self.next_retry = Some(self.next_retry.map_or(due, |next| next.min(due)));
        }
        let identity = (event.key, event.item);
        let row = failed_delivery(identity, event.row.as_ref(), settlement, event.error.as_ref(), give_up_after, at);
        self.round.failed_deliveries.extend(row);
    }
}

impl OpenReplay {
    fn settled_upto(&self) -> i64 {
        self.unsettled.first().map_or(self.loaded_upto, |first| first - 1)
    }
}

impl Deliverer {
    /// Loads, sends and records for a short while.
    pub(super) async fn step_webhook(
        &mut self,
        delivery: &mut WebhookDelivery,
        sink: SinkKey,
    ) -> Result<DeliveryProgress, DbError> {
        let now = self.context.clock.tick();
        let is_resting = delivery.machine.paused_until().filter(|until| now < *until);
        if let Some(until) = is_resting.filter(|_| delivery.requests.is_empty() && !delivery.has_results()) {
            return Ok(DeliveryProgress::Idle(until));
        }
        self.drop_lost_accounts(delivery);
        if !delivery.are_failures_known {
            self.read_known_failures(delivery, sink).await?;
        }
        let is_stopping = self.context.stop.is_cancelled();
        let is_feed_exhausted = is_stopping || self.load_events(delivery, sink).await?;
        let requests_before = delivery.requests.len();
        self.handle(delivery, DeliveryEvent::Tick { is_feed_exhausted });
        self.start_requests(delivery, sink).await?;
        let answers = self.await_answers(delivery, sink).await?;
        let has_recorded = self.record_results(delivery, sink).await?;
        let is_idle = delivery.requests.is_empty() && answers == 0 && !has_recorded && requests_before == 0;
        if !is_idle && !is_stopping {
            return Ok(DeliveryProgress::Worked);
        }
        if let Some(until) = delivery.machine.paused_until() {
            return Ok(DeliveryProgress::Idle(until));
        }
        if delivery.machine.queued() == 0 && self.paused_until(now).is_none() {
            // No event is left to probe the sink with: the next one does.
            self.context.sink_pauses.set(&self.settings.name, None);
        }
        let now = self.context.clock.tick();
        let is_replaying = delivery.replay.as_ref().is_some_and(|replay| replay.unsettled.is_empty());
        let replay = is_replaying.then_some(self.replay_after.max(now));
        let next = [delivery.next_retry, delivery.machine.next_wakeup(now), replay];
        let poll = now + IDLE_POLL_INTERVAL;
        Ok(DeliveryProgress::Idle(next.into_iter().flatten().fold(poll, Tick::min)))
    }

    /// Has the machine handle an event, and carries out its actions.
    fn handle(&mut self, delivery: &mut WebhookDelivery, event: DeliveryEvent) {
        let (now, at) = (self.context.clock.tick(), self.context.clock.now());
        for action in delivery.machine.on(event, now, &mut rand::rng()) {
            match action {
                DeliveryAction::Send(id) => delivery.to_send.push_back(id),
                DeliveryAction::Abandon(id) => {
                    if let Some(handle) = delivery.abort_handles.remove(&id) {
                        handle.abort();
                    }
                    if let Some(event) = delivery.loaded.get_mut(&id) {
                        event.error = Some(SinkError::new(SinkErrorKind::Retryable, "the sink did not answer in time"));
                    }
                }
                DeliveryAction::Settle(id, settlement) => {
                    delivery.settle(id, settlement, self.settings.give_up_after, now, at);
                }
                DeliveryAction::Pause { until, cause } => {
                    let error = delivery.loaded.get(&cause).and_then(|event| event.error.clone());
                    let error = error.unwrap_or_else(|| SinkError::unavailable("the sink did not accept an event"));
                    self.publish_pause(until, &error);
                    delivery.loaded.values_mut().for_each(|event| event.content = None);
                }
                DeliveryAction::Resume => self.resume_delivery(),
                DeliveryAction::Stop(_) => {}
            }
        }
    }

    /// Forgets the events of accounts that this process no longer owns.
    fn drop_lost_accounts(&mut self, delivery: &mut WebhookDelivery) {
        let leases: HashMap<AccountKey, Lease> =
            (self.context.leases)().into_iter().map(|lease| (lease.account, lease)).collect();
        let is_lost = |account: &AccountKey, lease: Option<&Lease>| leases.get(account) != lease;
        let lost: HashSet<AccountKey> = delivery
            .feeds
            .iter()
            .filter(|(account, position)| is_lost(account, Some(&position.lease)))
            .map(|(account, _)| *account)
            .collect();
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
    async fn read_known_failures(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<(), DbError> {
        let (tick, now) = (self.context.clock.tick(), self.context.clock.now());
        let rows = self.context.db.known_failures(sink, &self.context.owner).await?;
        let loaded: HashSet<EventKey> = delivery.loaded.values().map(|event| event.key).collect();
        delivery.known_failures = rows.iter().map(|row| (row.account, row.feed)).collect();
        for row in rows.into_iter().filter(|row| !row.failed && !loaded.contains(&(row.account, row.feed))) {
            let due = tick + row.due.since(now);
            delivery.next_retry = Some(delivery.next_retry.map_or(due, |next| next.min(due)));
            let waiting = DeliveryEvent::Waiting { segment: row.item.segment(), feed: row.feed, due, tries: row.tries };
            self.handle(delivery, waiting);
        }
        delivery.are_failures_known = true;
        Ok(())
    }

    /// Loads due retries, new events and a replay. Returns whether everything in the feed is loaded.
    async fn load_events(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<bool, DbError> {
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
            self.load(delivery, LoadedEvent::new(key, entry.item, Origin::New, None));
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
        self.delay_replay(&row, entries.len(), now);
        let is_by_unit = delivery.is_by_unit();
        if let Some(replay) = &mut delivery.replay {
            replay.loaded_upto = upto;
            let is_sent_alone = |entry: &&FeedEntry| !is_by_unit || entry.notice.is_some();
            replay.unsettled.extend(entries.iter().filter(is_sent_alone).map(|entry| entry.feed));
        }
        for entry in entries {
            if is_by_unit && entry.notice.is_none() {
                delivery.await_unit((entry.account, entry.feed), entry.item, now, self.context.clock.now());
                continue;
            }
            self.load(delivery, LoadedEvent::new((entry.account, entry.feed), entry.item, Origin::Replay, None));
        }
        Ok(())
    }

    fn load(&mut self, delivery: &mut WebhookDelivery, event: LoadedEvent) {
        let pending = delivery.add(event, self.settings.give_up_after);
        self.handle(delivery, DeliveryEvent::Loaded(pending));
    }

    /// Sends what the machine has released.
    async fn start_requests(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<(), DbError> {
        while let Some(id) = delivery.to_send.pop_front() {
            if self.context.stop.is_cancelled() {
                return Ok(());
            }
            if delivery.loaded.get(&id).is_some_and(|event| event.content.is_none()) {
                // If reading fails, the event is still to be sent.
                delivery.to_send.push_front(id);
                if delivery.is_by_unit() {
                    self.build_units(delivery, sink).await?;
                }
                self.read_contents(delivery).await?;
                continue;
            }
            let Some(content) = delivery.loaded.get_mut(&id).and_then(|event| event.content.take()) else { continue };
            let (sink, clock) = (delivery.sink.clone(), self.context.clock.clone());
            let handle = delivery.requests.spawn(send_event(sink, clock, id, content));
            delivery.abort_handles.insert(id, handle);
        }
        Ok(())
    }

    /// Builds the segments or dialogs that are to be sent, and postpones those that are not settled.
    async fn build_units(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<(), DbError> {
        let is_unit = |event: &LoadedEvent| event.is_unit() && event.content.is_none();
        let ids: Vec<u64> =
            delivery.to_send.iter().copied().filter(|id| delivery.loaded.get(id).is_some_and(is_unit)).collect();
        for id in ids {
            let Some(row) = delivery.loaded.get(&id).and_then(|event| event.row.clone()) else { continue };
            let rule = delivery.unit_rule;
            let now = self.context.clock.now();
            match rule.build(&self.context.db, &self.filter, sink, &row, now).await? {
                BuiltUnit::Event(event) => {
                    if let Some(loaded) = delivery.loaded.get_mut(&id) {
                        loaded.content = Some(*event);
                    }
                }
                BuiltUnit::Unsettled => {
                    delivery.to_send.retain(|other| *other != id);
                    self.handle(delivery, DeliveryEvent::Postponed { id, after: rule.recheck_delay() });
                }
                BuiltUnit::Superseded => {
                    delivery.to_send.retain(|other| *other != id);
                    self.handle(delivery, DeliveryEvent::Missing(id));
                }
            }
        }
        Ok(())
    }

    /// Reads the content of the next events. Those that do not exist any more are dropped.
    async fn read_contents(&mut self, delivery: &mut WebhookDelivery) -> Result<(), DbError> {
        let upcoming = delivery.machine.upcoming(EVENTS_READ_AHEAD);
        let ids: Vec<u64> = delivery.to_send.iter().copied().chain(upcoming).take(EVENTS_READ_AHEAD).collect();
        // The content of a segment or dialog is built when it is sent.
        let is_unit = |event: &LoadedEvent| delivery.is_by_unit() && event.is_unit();
        let needs = |id: &u64| delivery.loaded.get(id).is_some_and(|event| event.content.is_none() && !is_unit(event));
        let ids: Vec<u64> = ids.into_iter().filter(needs).collect();
        let keys: BTreeSet<EventKey> = ids.iter().filter_map(|id| Some(delivery.loaded.get(id)?.key)).collect();
        let keys: Vec<EventKey> = keys.into_iter().collect();
        let mut batch = read_events(&self.context.db, &self.filter, &keys).await?;
        let at = self.context.clock.now();
        delivery.round.failed_deliveries.extend(damaged_failures(&batch, at));
        let contents: HashMap<EventKey, Event> =
            batch.events.drain(..).map(|event| ((AccountKey(event.account_key), event.feed_seq), event)).collect();
        for id in ids {
            let Some(event) = delivery.loaded.get_mut(&id) else { continue };
            match contents.get(&event.key) {
                Some(content) => {
                    event.version = content.version;
                    event.content = Some(content.clone());
                }
                None => {
                    delivery.to_send.retain(|other| *other != id);
                    self.handle(delivery, DeliveryEvent::Missing(id));
                }
            }
        }
        Ok(())
    }

    /// Handles answers, and sends further events, until the step is over. Returns the number of
    /// answers.
    async fn await_answers(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<usize, DbError> {
        let now = self.context.clock.tick();
        let until_retry = delivery.next_retry.map_or(STEP_DURATION, |next| next.since(now));
        let step = self.context.clock.real(until_retry).clamp(MIN_STEP_DURATION, STEP_DURATION);
        let step = tokio::time::sleep(step);
        tokio::pin!(step);
        let (stop, clock) = (self.context.stop.clone(), self.context.clock.clone());
        let mut answers = 0;
        while !delivery.requests.is_empty() {
            let finished = tokio::select! {
                finished = delivery.requests.join_next() => finished,
                () = &mut step => break,
                () = shutdown_grace_passed(&stop, &clock) => break,
            };
            let mut next = finished;
            while let Some(request) = next {
                answers += 1;
                self.on_answer(delivery, request);
                next = delivery.requests.try_join_next();
            }
            if delivery.stopped_by.is_some() {
                break;
            }
            self.start_requests(delivery, sink).await?;
            if delivery.machine.queued() < MIN_QUEUED_EVENTS / 2 && answers >= MIN_QUEUED_EVENTS / 2 {
                break;
            }
        }
        Ok(answers)
    }

    fn on_answer(&mut self, delivery: &mut WebhookDelivery, request: Result<FinishedRequest, JoinError>) {
        let (id, answer, took) = match request {
            Ok(finished) => finished,
            Err(error) => {
                // An aborted request has no handle any more.
                let panicked = delivery.abort_handles.iter().find(|(_, handle)| handle.id() == error.id());
                let Some(id) = panicked.map(|(id, _)| *id) else { return };
                let failed = SinkError::new(SinkErrorKind::Retryable, "the request ended unexpectedly");
                (id, Err(failed), Duration::ZERO)
            }
        };
        delivery.abort_handles.remove(&id);
        let Some(event) = delivery.loaded.get_mut(&id) else { return };
        let (key, item, version) = (event.key, event.item, event.version);
        let answer = answer.map_err(|error| {
            let failure = Failure { kind: failure_kind(&error), retry_after: error.retry_after };
            if failure.kind == FailureKind::Gone {
                delivery.stopped_by = Some(error.clone());
            }
            event.error = Some(error);
            failure
        });
        let is_accepted = answer.is_ok();
        self.handle(delivery, DeliveryEvent::Answered { id, answer, took });
        if is_accepted && version > 1 {
            // An older version must not follow, except in a replay.
            let is_older =
                |event: &LoadedEvent| event.item == item && event.key < key && event.origin != Origin::Replay;
            for id in delivery.ids_where(is_older) {
                self.handle(delivery, DeliveryEvent::Missing(id));
            }
        }
    }

    /// Records the results so far. Returns whether there were any.
    async fn record_results(&mut self, delivery: &mut WebhookDelivery, sink: SinkKey) -> Result<bool, DbError> {
        if !delivery.has_results() {
            return Ok(false);
        }
        let mut round = std::mem::take(&mut delivery.round);
        (round.sink, round.at) = (sink, self.context.clock.now());
        let touched: HashSet<AccountKey> = round
            .failed_deliveries
            .iter()
            .map(|row| row.account)
            .chain(round.cleared.iter().map(|key| key.0))
            .collect();
        let is_accepted = !delivery.delivered.is_empty();
        for lease in (self.context.leases)() {
            let delivered = delivery.delivered.remove(&lease.account).unwrap_or(0);
            let position = delivery.feeds.get_mut(&lease.account);
            let moved = position.filter(|position| position.settled_upto() > position.recorded_upto);
            if let Some(position) = moved {
                position.recorded_upto = position.settled_upto();
                round.advances.push(CursorAdvance { lease: position.lease, upto: position.recorded_upto, delivered });
            } else if delivered > 0 || touched.contains(&lease.account) {
                // Only retries and replays: the cursor stays.
                round.advances.push(CursorAdvance { lease, upto: 0, delivered });
            }
        }
        delivery.delivered.clear();
        let mut finished = None;
        if let Some(replay) = &mut delivery.replay {
            let upto = replay.settled_upto();
            let is_finished = upto >= replay.row.until;
            let progress = ReplayProgress {
                lease: replay.row.lease,
                id: replay.row.id,
                upto,
                sent: std::mem::take(&mut replay.sent),
                is_finished,
            };
            replay.row.feed = upto;
            round.replay_progress = Some(progress);
            finished = is_finished.then(|| replay.row.clone());
        }
        if let Some(error) = &delivery.stopped_by {
            round.stopped = Some(error.reason());
        }
        self.log_failures(&round);
        let held = self.record_round(round).await?;
        if let Some(replay) = finished {
            delivery.replay = None;
            if held.contains(&replay.lease.account) {
                self.log_finished_replay(&replay);
            }
        }
        if let Some(error) = delivery.stopped_by.take() {
            self.stop_delivery(&error);
        } else if is_accepted && !delivery.machine.is_paused() {
            self.resume_delivery();
        }
        Ok(true)
    }
}

impl LoadedEvent {
    fn new(key: EventKey, item: Item, origin: Origin, row: Option<FailedDelivery>) -> LoadedEvent {
        LoadedEvent { key, item, origin, row, content: None, version: 0, error: None }
    }

    /// Whether its row stands for a segment or dialog, if the sink receives these. A notice is an
    /// event of its own.
    fn is_unit(&self) -> bool {
        self.row.is_some() && self.item.artifact().is_some()
    }
}

async fn send_event(sink: Arc<WebhookSink>, clock: Clock, id: u64, event: Event) -> FinishedRequest {
    let _place = file_descriptors::acquire_delivery_slot().await;
    let begun = clock.tick();
    let answer = sink.send(&event).await;
    (id, answer, clock.tick().since(begun))
}

fn failure_kind(error: &SinkError) -> FailureKind {
    match error.kind {
        SinkErrorKind::Unavailable if matches!(error.status, Some(429 | 503)) => FailureKind::Throttled,
        SinkErrorKind::Unavailable => FailureKind::Unreachable,
        SinkErrorKind::Refused if error.looks_like_a_wrong_setting() => FailureKind::WrongSetting,
        SinkErrorKind::Refused => FailureKind::Refused,
        SinkErrorKind::TimedOut => FailureKind::TimedOut,
        SinkErrorKind::Retryable => FailureKind::Retryable,
        SinkErrorKind::Gone => FailureKind::Gone,
    }
}

/// Waits for the stop signal, and then for the shutdown grace.
async fn shutdown_grace_passed(stop: &tokio_util::sync::CancellationToken, clock: &Clock) {
    stop.cancelled().await;
    tokio::time::sleep(clock.real(SHUTDOWN_GRACE)).await;
}
