//! Sends events, and hands the answers to the machine.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::super::delivery_records::damaged_failures;
use super::super::event_builder::read_events;
use super::super::unit_builder::BuiltUnit;
use super::super::{Deliverer, EventKey};
use super::{FinishedRequest, LoadedEvent, MIN_QUEUED_EVENTS, WebhookDelivery};
use crate::clock::Clock;
use crate::db::{AccountKey, DbError, SinkKey};
use crate::event::Event;
use crate::file_descriptors;
use crate::pipeline::delivery::delivery_machine::{DeliveryEvent, Failure, FailureKind, Origin};
use crate::sink::webhook::WebhookSink;
use crate::sink::{SinkError, SinkErrorKind};

/// So many events are read at a time, with so many bytes of compressed bodies at most.
const EVENTS_READ_AHEAD: usize = 256;
const BYTES_READ_AHEAD: u64 = 8 * 1024 * 1024;
/// The longest time until results are recorded and new events are loaded.
const STEP_DURATION: Duration = Duration::from_millis(500);
/// The shortest, if retries are due one after the other.
const MIN_STEP_DURATION: Duration = Duration::from_millis(20);
/// How long requests in flight may take at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

impl Deliverer {
    /// Sends what the machine has released.
    pub(super) async fn start_requests(
        &mut self,
        delivery: &mut WebhookDelivery,
        sink: SinkKey,
    ) -> Result<(), DbError> {
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
        let mut bytes = 0;
        let fits = |id: &u64| {
            let is_first = bytes == 0;
            bytes += delivery.loaded.get(id).map_or(0, |event| event.size.max(1));
            is_first || bytes <= BYTES_READ_AHEAD
        };
        let ids: Vec<u64> = ids.into_iter().filter(needs).take_while(fits).collect();
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
    pub(super) async fn await_answers(
        &mut self,
        delivery: &mut WebhookDelivery,
        sink: SinkKey,
    ) -> Result<usize, DbError> {
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
async fn shutdown_grace_passed(stop: &CancellationToken, clock: &Clock) {
    stop.cancelled().await;
    tokio::time::sleep(clock.real(SHUTDOWN_GRACE)).await;
}
