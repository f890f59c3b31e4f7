//! Delivery of events to one sink, one request an event: which is sent next, what its answer means,
//! and when delivery pauses.
//!
//! - **Order.** Events of one segment are sent one after the other, in the order of the feed. A later
//!   event also waits for an earlier one that is being retried, during the first retries.
//! - **Retry.** An event that fails while others succeed is retried alone, after a delay of its own.
//! - **Circuit.** If nearly all answers are failures, the sink is at fault: the circuit opens, and no
//!   event is charged for it. After a pause a few events probe the sink. One success closes the
//!   circuit.
//! - **Overload.** 429 delays an event by exactly `Retry-After`, and the whole sink if nothing is
//!   accepted meanwhile. The number of concurrent requests adapts. Requests that hang do not count,
//!   so that they take no places from others.

mod sink_answers;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use rand::Rng;

pub use super::delivery_events::{
    DeliveryAction, DeliveryEvent, Failure, FailureKind, Origin, PendingEvent, Settlement,
};

use super::answer_window::AnswerWindow;
use super::concurrency_limit::ConcurrencyLimit;
use crate::clock::Tick;
use sink_answers::decide;

/// The most events that probe a paused sink, and how many do so at first.
const PROBES: (u32, u32) = (3, 16);
/// The most events that may wait for a retry. Above it, no new events are sent.
const MAX_WAITING_EVENTS: usize = 10_000;
/// From this many attempts on, later events of the segment no longer wait for the event: one that
/// is never accepted must not withhold the rest for days.
const MAX_TRIES_IN_ORDER: u32 = 6;
/// A retry that is not loaded so long after it was due does not exist any more.
const MAX_OVERDUE: Duration = Duration::from_secs(5);
/// A request is slow, and does not count as concurrent, if it takes longer than this and than a
/// multiple of what the sink usually takes.
const MIN_SLOW: Duration = Duration::from_millis(500);
const SLOW_FACTOR: u32 = 8;
/// A slow request may be abandoned for another one at this age, if there is no place left.
const MIN_ABANDONED_AGE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct InFlight {
    event: PendingEvent,
    since: Tick,
}

/// Whether the sink accepts events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    Closed,
    Open { until: Tick, openings: u32 },
    HalfOpen { sent: u32, openings: u32 },
}

/// Decides on the events of one sink.
#[derive(Debug)]
pub struct DeliveryMachine {
    max_in_flight: usize,
    /// Events to send, retries apart because they go first.
    retries: VecDeque<PendingEvent>,
    ready: VecDeque<PendingEvent>,
    /// Events whose segment is busy.
    parked: HashMap<i64, VecDeque<PendingEvent>>,
    parked_events: usize,
    /// Segments with an event that is in flight or undecided.
    busy: HashSet<i64>,
    in_flight: BTreeMap<u64, InFlight>,
    /// Failed events, while it is unknown whether they or the sink are at fault.
    undecided: Vec<(PendingEvent, Failure)>,
    /// Events that wait for a retry outside the machine: by segment and sequence number, when it is
    /// due and how many attempts failed.
    waiting: HashMap<i64, BTreeMap<i64, (Tick, u32)>>,
    waiting_events: usize,
    window: AnswerWindow,
    circuit: Circuit,
    limit: ConcurrencyLimit,
    /// What accepted requests take on average.
    usual_time: Option<Duration>,
    consecutive_refusals: u32,
}

impl DeliveryMachine {
    /// A machine with at most this many requests in flight, slow ones included.
    pub fn new(max_in_flight: usize) -> DeliveryMachine {
        DeliveryMachine {
            max_in_flight: max_in_flight.max(1),
            retries: VecDeque::new(),
            ready: VecDeque::new(),
            parked: HashMap::new(),
            parked_events: 0,
            busy: HashSet::new(),
            in_flight: BTreeMap::new(),
            undecided: Vec::new(),
            waiting: HashMap::new(),
            waiting_events: 0,
            window: AnswerWindow::default(),
            circuit: Circuit::Closed,
            limit: ConcurrencyLimit::default(),
            usual_time: None,
            consecutive_refusals: 0,
        }
    }

    /// Handles an event, and returns what to do, in this order.
    pub fn on(&mut self, event: DeliveryEvent, now: Tick, rng: &mut impl Rng) -> Vec<DeliveryAction> {
        let mut actions = Vec::new();
        match event {
            DeliveryEvent::Loaded(event) => self.load(event),
            DeliveryEvent::Waiting { segment, feed, due, tries } => self.add_waiting(segment, feed, due, tries),
            DeliveryEvent::Answered { id, answer, took } => self.on_answer(id, answer, took, now, rng, &mut actions),
            DeliveryEvent::Missing(id) => self.on_missing(id, &mut actions),
            DeliveryEvent::Postponed { id, after } => {
                if let Some(InFlight { event, .. }) = self.in_flight.remove(&id) {
                    self.return_probe();
                    // No failure: later events do not wait for it, and it does not count as waiting.
                    actions.push(DeliveryAction::Settle(event.id, Settlement::Held(after)));
                    self.release(event.segment);
                }
            }
            DeliveryEvent::Tick { is_feed_exhausted } => self.on_tick(is_feed_exhausted, now, rng, &mut actions),
            DeliveryEvent::RetryNow => {
                self.waiting.clear();
                self.waiting_events = 0;
                if let Circuit::Open { until, .. } = &mut self.circuit {
                    *until = Tick::default();
                }
            }
        }
        self.send_next(now, &mut actions);
        actions
    }

    /// The number of loaded events that were not sent yet.
    pub fn queued(&self) -> usize {
        self.retries.len() + self.ready.len() + self.parked_events
    }

    /// The number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the circuit is open, or half open.
    pub fn is_paused(&self) -> bool {
        self.circuit != Circuit::Closed
    }

    /// The end of the pause, while the circuit is open.
    pub fn paused_until(&self) -> Option<Tick> {
        match self.circuit {
            Circuit::Open { until, .. } => Some(until),
            Circuit::Closed | Circuit::HalfOpen { .. } => None,
        }
    }

    /// Whether too many events wait for a retry, so that no new ones are sent.
    fn is_saturated(&self) -> bool {
        self.waiting_events >= MAX_WAITING_EVENTS
    }

    /// The events that are likely to be sent next.
    pub fn upcoming(&self, count: usize) -> impl Iterator<Item = u64> + '_ {
        self.retries.iter().chain(&self.ready).take(count).map(|event| event.id)
    }

    /// When a [`DeliveryEvent::Tick`] changes something, if nothing happens before.
    pub fn next_wakeup(&self, now: Tick) -> Option<Tick> {
        if let Circuit::Open { until, .. } = self.circuit {
            return Some(until);
        }
        let has_more = !(self.retries.is_empty() && self.ready.is_empty());
        let before = self.slow_before(now);
        let counted = self.in_flight.values().map(|flight| flight.since).filter(|since| Some(*since) > before);
        counted.min().filter(|_| has_more).map(|since| since + self.slow_after())
    }

    fn load(&mut self, event: PendingEvent) {
        if event.origin == Origin::Retry {
            self.remove_waiting(event.segment, event.feed);
            self.retries.push_back(event);
        } else {
            self.ready.push_back(event);
        }
    }

    fn add_waiting(&mut self, segment: i64, feed: i64, due: Tick, tries: u32) {
        let is_new = self.waiting.entry(segment).or_default().insert(feed, (due, tries)).is_none();
        self.waiting_events += usize::from(is_new);
    }

    fn remove_waiting(&mut self, segment: i64, feed: i64) {
        let Some(events) = self.waiting.get_mut(&segment) else { return };
        self.waiting_events -= usize::from(events.remove(&feed).is_some());
        if events.is_empty() {
            self.waiting.remove(&segment);
        }
    }

    /// How long the event has to wait for an earlier one of its segment that is being retried.
    fn held_for(&mut self, event: &PendingEvent, now: Tick) -> Option<Duration> {
        let earlier = self.waiting.get(&event.segment)?.range(..event.feed);
        let (mut longest, mut vanished) = (None, Vec::new());
        for (feed, (due, tries)) in earlier {
            if now.since(*due) > MAX_OVERDUE {
                vanished.push(*feed);
            } else if *tries < MAX_TRIES_IN_ORDER {
                longest = longest.max(Some(*due));
            }
        }
        for feed in vanished {
            self.remove_waiting(event.segment, feed);
        }
        longest.map(|due| due.since(now).max(Duration::from_millis(100)))
    }

    fn on_missing(&mut self, id: u64, actions: &mut Vec<DeliveryAction>) {
        if let Some(flight) = self.in_flight.remove(&id) {
            self.release(flight.event.segment);
            self.return_probe();
        } else if let Some(event) = self.take_queued(id) {
            // It may have been in flight before: then later events are parked behind it.
            if !self.busy.contains(&event.segment) {
                self.release(event.segment);
            }
        } else {
            for events in self.parked.values_mut() {
                let before = events.len();
                events.retain(|event| event.id != id);
                self.parked_events -= before - events.len();
            }
            self.parked.retain(|_, events| !events.is_empty());
            if let Some(index) = self.undecided.iter().position(|(event, _)| event.id == id) {
                let (event, _) = self.undecided.remove(index);
                self.release(event.segment);
            }
        }
        actions.push(DeliveryAction::Settle(id, Settlement::Missing));
    }

    /// Takes an event out of the queues.
    fn take_queued(&mut self, id: u64) -> Option<PendingEvent> {
        for queue in [&mut self.retries, &mut self.ready] {
            if let Some(index) = queue.iter().position(|event| event.id == id) {
                return queue.remove(index);
            }
        }
        None
    }

    /// A probe was not sent: another one may be.
    fn return_probe(&mut self) {
        if let Circuit::HalfOpen { sent, .. } = &mut self.circuit {
            *sent = sent.saturating_sub(1);
        }
    }

    fn on_tick(&mut self, is_feed_exhausted: bool, now: Tick, rng: &mut impl Rng, actions: &mut Vec<DeliveryAction>) {
        match self.circuit {
            Circuit::Open { until, openings } if now >= until => self.circuit = Circuit::HalfOpen { sent: 0, openings },
            Circuit::Open { .. } => return,
            Circuit::HalfOpen { .. } | Circuit::Closed => {}
        }
        let is_drained = is_feed_exhausted && self.in_flight.is_empty() && !self.has_sendable();
        if is_drained && let Some((last, failure)) = self.undecided.last().copied() {
            if self.circuit == Circuit::Closed {
                // No other event will tell who is at fault.
                for (event, failure) in std::mem::take(&mut self.undecided) {
                    let settlement = decide(&event, failure, false, rng);
                    self.settle(event, settlement, now, actions);
                }
            } else {
                self.open_circuit(last.id, failure, now, rng, actions);
            }
        }
        self.abandon_slowest(now, rng, actions);
    }

    /// Puts the undecided events back to the front of their queue, in their order.
    fn return_undecided(&mut self) {
        for (event, _) in std::mem::take(&mut self.undecided).into_iter().rev() {
            self.busy.remove(&event.segment);
            self.requeue(event);
        }
    }

    fn requeue(&mut self, event: PendingEvent) {
        match event.origin {
            Origin::Retry => self.retries.push_front(event),
            Origin::New | Origin::Replay => self.ready.push_front(event),
        }
    }

    fn settle(&mut self, event: PendingEvent, settlement: Settlement, now: Tick, actions: &mut Vec<DeliveryAction>) {
        match settlement {
            Settlement::Retry { after, is_charged } => {
                self.add_waiting(event.segment, event.feed, now + after, event.tries + u32::from(is_charged));
            }
            Settlement::Held(after) => self.add_waiting(event.segment, event.feed, now + after, event.tries),
            Settlement::Delivered | Settlement::GiveUp | Settlement::Missing => {}
        }
        actions.push(DeliveryAction::Settle(event.id, settlement));
        self.release(event.segment);
    }

    /// The segment is no longer busy: its next parked event is the first to be sent.
    fn release(&mut self, segment: i64) {
        self.busy.remove(&segment);
        let Some(parked) = self.parked.get_mut(&segment) else { return };
        let next = parked.pop_front();
        if parked.is_empty() {
            self.parked.remove(&segment);
        }
        if let Some(next) = next {
            self.parked_events -= 1;
            self.requeue(next);
        }
    }

    fn send_next(&mut self, now: Tick, actions: &mut Vec<DeliveryAction>) {
        if matches!(self.circuit, Circuit::Open { .. }) {
            return;
        }
        let mut counted = self.counted_in_flight(now);
        while counted < self.limit.get() && self.in_flight.len() < self.max_in_flight && self.may_probe() {
            let Some(event) = self.pick(now, actions) else { return };
            self.busy.insert(event.segment);
            self.in_flight.insert(event.id, InFlight { event, since: now });
            if let Circuit::HalfOpen { sent, .. } = &mut self.circuit {
                *sent += 1;
            }
            counted += 1;
            actions.push(DeliveryAction::Send(event.id));
        }
    }

    /// Whether the half-open circuit allows another probe. Their number grows, so that a few bad
    /// events at the front cannot keep the sink paused.
    fn may_probe(&self) -> bool {
        match self.circuit {
            Circuit::Closed => true,
            Circuit::Open { .. } => false,
            Circuit::HalfOpen { sent, openings } => sent < (PROBES.0 + openings / 3).min(PROBES.1),
        }
    }

    fn has_sendable(&self) -> bool {
        !self.retries.is_empty() || !self.ready.is_empty() && !self.is_saturated()
    }

    /// Takes the next event that may be sent, past those whose segment is busy or held.
    fn pick(&mut self, now: Tick, actions: &mut Vec<DeliveryAction>) -> Option<PendingEvent> {
        loop {
            let event = self.pop_queue()?;
            if self.busy.contains(&event.segment) {
                self.parked.entry(event.segment).or_default().push_back(event);
                self.parked_events += 1;
            } else if event.origin != Origin::Replay
                && let Some(wait) = self.held_for(&event, now)
            {
                self.settle(event, Settlement::Held(wait), now, actions);
            } else {
                return Some(event);
            }
        }
    }

    /// Takes the next event from the queues: retries first. Only probes are new events first, because
    /// events that are never accepted would use up all probes.
    fn pop_queue(&mut self) -> Option<PendingEvent> {
        let new_first = self.circuit != Circuit::Closed && !self.is_saturated();
        if let Some(event) = self.ready.front().filter(|_| new_first) {
            let is_earlier = |retry: &PendingEvent| retry.segment == event.segment && retry.feed < event.feed;
            return match self.retries.iter().position(is_earlier) {
                Some(index) => self.retries.remove(index),
                None => self.ready.pop_front(),
            };
        }
        match self.retries.pop_front() {
            None if self.is_saturated() => None,
            None => self.ready.pop_front(),
            retry => retry,
        }
    }

    fn slow_after(&self) -> Duration {
        self.usual_time.map_or(MIN_SLOW, |usual| (usual * SLOW_FACTOR).max(MIN_SLOW))
    }

    /// Requests that were sent before this time are slow although the sink answers others as usual.
    /// Where all are slow, the sink is overloaded and gets no more.
    fn slow_before(&self, now: Tick) -> Option<Tick> {
        let answers_others =
            self.circuit == Circuit::Closed && self.window.has_success() && self.window.is_mostly_successful();
        now.0.checked_sub(self.slow_after()).map(Tick).filter(|_| answers_others)
    }

    fn counted_in_flight(&self, now: Tick) -> usize {
        match self.slow_before(now) {
            Some(before) => self.in_flight.values().filter(|flight| flight.since > before).count(),
            None => self.in_flight.len(),
        }
    }

    /// Gives up the oldest slow request if its place is needed.
    fn abandon_slowest(&mut self, now: Tick, rng: &mut impl Rng, actions: &mut Vec<DeliveryAction>) {
        while self.in_flight.len() >= self.max_in_flight
            && self.has_sendable()
            && self.counted_in_flight(now) < self.limit.get()
        {
            let oldest = self.in_flight.values().min_by_key(|flight| flight.since);
            let Some((id, since)) = oldest.map(|flight| (flight.event.id, flight.since)) else { return };
            let took = now.since(since);
            if took < MIN_ABANDONED_AGE {
                return;
            }
            actions.push(DeliveryAction::Abandon(id));
            let failure = Failure { kind: FailureKind::TimedOut, retry_after: None };
            self.on_answer(id, Err(failure), took, now, rng, actions);
        }
    }
}
