//! Delivery to a sink that gets one request an event. The [`DeliveryMachine`] decides; this module
//! loads events, sends them, and records what became of them.
//!
//! Events are in memory by key. Their content is read shortly before they are sent, and dropped when
//! delivery pauses: what was erased meanwhile is not sent. A cursor moves up to the first event that
//! is not settled.

mod event_loading;
mod event_sending;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use super::delivery_records::{failed_delivery, unsettled_row, waited};
use super::unit_builder::UnitRule;
use super::{Deliverer, DeliveryProgress, EventKey, IDLE_POLL_INTERVAL};
use crate::clock::{Tick, Time};
use crate::config::WebhookUnit;
use crate::db::{
    AccountKey, CursorAdvance, DbError, DeliveryRound, FailedDelivery, Item, Lease, ReplayProgress, ReplayRow, SinkKey,
};
use crate::event::Event;
use crate::file_descriptors;
use crate::pipeline::delivery::delivery_machine::{
    DeliveryAction, DeliveryEvent, DeliveryMachine, Origin, PendingEvent, Settlement,
};
use crate::sink::webhook::WebhookSink;
use crate::sink::{SinkError, SinkErrorKind};

/// The most concurrent requests to one webhook, those that hang included, if enough file descriptors
/// are available.
const MAX_IN_FLIGHT_REQUESTS: usize = 256;
/// More events are loaded when fewer than this are queued.
const MIN_QUEUED_EVENTS: usize = 256;

/// The size of a body whose size is not known.
const ASSUMED_SIZE: u64 = 64 * 1024;

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
    /// The size of the compressed body, as far as it is known.
    size: u64,
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
        // Its end is in the round, which is recorded later if that fails now.
        if finished.is_some() {
            delivery.replay = None;
        }
        let held = self.record_round(round).await?;
        if let Some(replay) = finished.filter(|replay| held.contains(&replay.lease.account)) {
            self.log_finished_replay(&replay);
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
        LoadedEvent { key, item, origin, row, content: None, size: ASSUMED_SIZE, version: 0, error: None }
    }

    /// Whether its row stands for a segment or dialog, if the sink receives these. A notice is an
    /// event of its own.
    fn is_unit(&self) -> bool {
        self.row.is_some() && self.item.artifact().is_some()
    }
}
