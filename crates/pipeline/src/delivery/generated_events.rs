//! Simulated receivers and generated answers, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::delivery_machine::*;
use crate::clock::Tick;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How a simulated receiver answers, and after which time.
type Receiver<'a> = Box<dyn FnMut(PendingEvent, Tick, &mut StdRng) -> (Result<(), Failure>, Duration) + 'a>;

fn failure(kind: FailureKind, retry_after: Option<Duration>) -> Result<(), Failure> {
    Err(Failure { kind, retry_after })
}

/// The shell in virtual time: it sends, waits, and loads retries when they are due.
struct Simulation<'a> {
    machine: DeliveryMachine,
    receiver: Receiver<'a>,
    now: Tick,
    rng: StdRng,
    events: BTreeMap<u64, PendingEvent>,
    answers: BTreeMap<(Tick, u64), Result<(), Failure>>,
    sent_at: BTreeMap<u64, Tick>,
    retries: BTreeMap<(Tick, u64), PendingEvent>,
    /// Delivered events: segment and feed number, in order.
    delivered: Vec<(i64, i64)>,
    given_up: usize,
    requests: usize,
    pauses: Vec<Duration>,
    max_in_flight: usize,
}

impl<'a> Simulation<'a> {
    fn new(events: i64, events_per_segment: i64, receiver: Receiver<'a>) -> Simulation<'a> {
        let mut simulation = Simulation {
            machine: DeliveryMachine::new(256),
            receiver,
            now: Tick::default(),
            rng: StdRng::seed_from_u64(7),
            events: BTreeMap::new(),
            answers: BTreeMap::new(),
            sent_at: BTreeMap::new(),
            retries: BTreeMap::new(),
            delivered: Vec::new(),
            given_up: 0,
            requests: 0,
            pauses: Vec::new(),
            max_in_flight: 0,
        };
        for feed in 0..events {
            let segment = feed / events_per_segment;
            let event = PendingEvent {
                id: feed.unsigned_abs(),
                segment,
                feed,
                origin: Origin::New,
                tries: 0,
                is_last_attempt: false,
            };
            simulation.load(event);
        }
        simulation
    }

    fn load(&mut self, event: PendingEvent) {
        self.events.insert(event.id, event);
        self.handle(DeliveryEvent::Loaded(event));
    }

    fn handle(&mut self, event: DeliveryEvent) {
        for action in self.machine.on(event, self.now, &mut self.rng) {
            match action {
                DeliveryAction::Send(id) => {
                    let event = self.events[&id];
                    let (answer, took) = (self.receiver)(event, self.now, &mut self.rng);
                    let rivals = self.sent_at.keys().filter(|other| self.events[*other].segment == event.segment);
                    assert_eq!(rivals.count(), 0, "two events of one segment are in flight");
                    assert!(self.machine.paused_until().is_none_or(|until| self.now >= until), "sent in a pause");
                    self.answers.insert((self.now + took, id), answer);
                    self.sent_at.insert(id, self.now);
                    self.requests += 1;
                }
                DeliveryAction::Abandon(id) => {
                    self.answers.retain(|(_, other), _| *other != id);
                    self.sent_at.remove(&id);
                }
                DeliveryAction::Settle(id, settlement) => self.settle(id, settlement),
                DeliveryAction::Pause { until, .. } => self.pauses.push(until.since(self.now)),
                DeliveryAction::Resume => {}
                DeliveryAction::Stop(_) => panic!("no receiver answers 410"),
            }
        }
        self.max_in_flight = self.max_in_flight.max(self.machine.in_flight());
    }

    fn settle(&mut self, id: u64, settlement: Settlement) {
        let event = self.events.remove(&id).expect("an event is settled once");
        let (after, tries) = match settlement {
            Settlement::Delivered => return self.delivered.push((event.segment, event.feed)),
            Settlement::GiveUp => {
                self.given_up += 1;
                return;
            }
            Settlement::Missing => panic!("every event exists"),
            Settlement::Retry { after, is_charged } => (after, event.tries + u32::from(is_charged)),
            Settlement::Held(after) => (after, event.tries),
        };
        let next = PendingEvent { origin: Origin::Retry, tries, ..event };
        self.retries.insert((self.now + after, id), next);
    }

    /// Advances to the next moment at which something happens. Returns whether there is one.
    fn advance(&mut self) -> bool {
        let next = [
            self.answers.keys().next().map(|(at, _)| *at),
            self.retries.keys().next().map(|(at, _)| *at),
            self.machine.next_wakeup(self.now),
        ];
        let Some(next) = next.into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        while let Some((at, id)) = self.answers.keys().next().copied().filter(|(at, _)| *at <= self.now) {
            let answer = self.answers.remove(&(at, id)).expect("an answer");
            let took = at.since(self.sent_at.remove(&id).expect("a request"));
            self.handle(DeliveryEvent::Answered { id, answer, took });
        }
        // In the order of the feed, as the shell loads them.
        let due: Vec<PendingEvent> = self.retries.range(..=(self.now, u64::MAX)).map(|(_, event)| *event).collect();
        self.retries.retain(|(at, _), _| *at > self.now);
        let due: BTreeMap<i64, PendingEvent> = due.into_iter().map(|event| (event.feed, event)).collect();
        due.into_values().for_each(|event| self.load(event));
        self.handle(DeliveryEvent::Tick { is_feed_exhausted: true });
        true
    }

    fn run(&mut self, limit: Duration) {
        while !self.events.is_empty() || !self.retries.is_empty() {
            if !self.advance() || self.now > Tick::default() + limit {
                return;
            }
        }
    }

    /// The events of each segment were delivered in the order of the feed.
    fn assert_order(&self) {
        let mut newest: BTreeMap<i64, i64> = BTreeMap::new();
        for (segment, feed) in &self.delivered {
            let before = newest.insert(*segment, *feed);
            assert!(before.is_none_or(|before| before < *feed), "{feed} of segment {segment} came late");
        }
    }
}

/// Answers `percent` of the requests badly, in four ways alike; the others after `latency`.
fn bad_receiver(percent: u32, latency: Duration) -> Receiver<'static> {
    Box::new(move |_, _, rng| match rng.random_range(0..400) {
        at if at >= percent * 4 => (Ok(()), latency),
        at => match at % 4 {
            0 => (failure(FailureKind::Retryable, None), 5 * MILLISECOND),
            1 => (failure(FailureKind::Throttled, Some(SECOND)), 5 * MILLISECOND),
            2 => (failure(FailureKind::TimedOut, None), 30 * SECOND),
            _ => (failure(FailureKind::Retryable, None), MILLISECOND),
        },
    })
}

fn delivered_per_second(percent: u32) -> f64 {
    let mut simulation = Simulation::new(4_800, 2, bad_receiver(percent, 40 * MILLISECOND));
    // The last retries of few events say nothing about the rate.
    while simulation.delivered.len() < 3_600 && simulation.advance() {}
    simulation.assert_order();
    assert!(simulation.max_in_flight <= 256);
    simulation.delivered.len() as f64 / simulation.now.0.as_secs_f64()
}

#[test]
fn a_receiver_that_answers_three_in_ten_badly_gets_at_least_half_of_its_rate() {
    let (good, bad) = (delivered_per_second(0), delivered_per_second(30));
    assert!(good > 1_200.0, "{good} events a second to a receiver of 40 ms");
    // Seven in ten requests can succeed, so this is the most that the receiver could take.
    let possible = good * 0.7;
    assert!(bad > possible / 2.0, "{bad} of {possible} events a second");
}

#[test]
fn ten_thousand_events_to_a_receiver_of_five_milliseconds_take_seconds() {
    let mut simulation = Simulation::new(10_000, 3, bad_receiver(0, 5 * MILLISECOND));
    simulation.run(10 * SECOND);
    assert_eq!((simulation.delivered.len(), simulation.requests), (10_000, 10_000));
    simulation.assert_order();
}

#[test]
fn the_wait_that_a_receiver_asks_for_is_kept_to_the_millisecond() {
    let mut times = Vec::new();
    let receiver: Receiver<'_> = Box::new(|_, now, _| {
        times.push(now);
        let answer = if times.len() < 3 { failure(FailureKind::Throttled, Some(7 * SECOND)) } else { Ok(()) };
        (answer, MILLISECOND)
    });
    Simulation::new(1, 1, receiver).run(60 * SECOND);
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert_eq!(waits, [7 * SECOND + MILLISECOND; 2]);
}

#[test]
fn a_receiver_that_takes_two_a_second_gets_two_a_second() {
    let (mut second, mut count) = (0, 0);
    let receiver: Receiver<'_> = Box::new(|_, now, _| {
        if now.0.as_secs() != second {
            (second, count) = (now.0.as_secs(), 0);
        }
        count += 1;
        let answer = if count <= 2 { Ok(()) } else { failure(FailureKind::Throttled, Some(SECOND)) };
        (answer, MILLISECOND)
    });
    let mut simulation = Simulation::new(60, 1, receiver);
    simulation.run(90 * SECOND);
    assert_eq!(simulation.delivered.len(), 60);
    let requests = simulation.requests;
    drop(simulation);
    assert!(requests < 600, "{requests} requests for 60 events");
}

#[test]
fn a_receiver_that_is_down_gets_few_probes_and_no_event_is_charged() {
    let down: Receiver<'_> = Box::new(|_, now, _| match now.0 < 600 * SECOND {
        true => (failure(FailureKind::Retryable, None), MILLISECOND),
        false => (Ok(()), MILLISECOND),
    });
    let mut simulation = Simulation::new(5_000, 1, down);
    while simulation.now.0 < 600 * SECOND && simulation.advance() {}
    assert!(simulation.retries.is_empty() && simulation.given_up == 0);
    assert!((10..400).contains(&simulation.requests), "{} requests in ten minutes", simulation.requests);
    assert!(simulation.pauses.iter().all(|pause| *pause <= 60 * SECOND));
    simulation.run(700 * SECOND);
    assert_eq!(simulation.delivered.len(), 5_000, "it catches up");
}

#[test]
fn an_event_that_always_fails_holds_back_its_segment_only_at_first() {
    let receiver: Receiver<'_> = Box::new(|event, _, _| match event.feed {
        0 => (failure(FailureKind::Retryable, None), MILLISECOND),
        _ => (Ok(()), MILLISECOND),
    });
    let mut simulation = Simulation::new(6, 3, receiver);
    while simulation.delivered.len() < 5 && simulation.advance() {}
    assert_eq!(simulation.delivered, [(1, 3), (1, 4), (1, 5), (0, 1), (0, 2)]);
    assert!((30 * SECOND..200 * SECOND).contains(&simulation.now.0), "{:?}", simulation.now);
}

#[test]
fn a_few_events_that_are_never_accepted_do_not_use_up_all_probes() {
    let receiver: Receiver<'_> = Box::new(|event, _, _| match event.feed < 8 {
        true => (failure(FailureKind::Retryable, None), MILLISECOND),
        false => (Ok(()), MILLISECOND),
    });
    let mut simulation = Simulation::new(8, 1, receiver);
    while simulation.now.0 < 900 * SECOND && simulation.advance() {}
    let event = PendingEvent { id: 99, segment: 99, feed: 99, origin: Origin::New, tries: 0, is_last_attempt: false };
    simulation.load(event);
    while simulation.now.0 < 1000 * SECOND && simulation.advance() {}
    assert_eq!(simulation.delivered, [(99, 99)]);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Load { segment: i64, is_replay: bool },
    Answer(usize, u8),
    Missing(usize),
    Advance(u64),
    RetryNow,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0i64..6, any::<bool>()).prop_map(|(segment, is_replay)| Step::Load { segment, is_replay }),
        8 => (any::<usize>(), 0u8..12).prop_map(|(which, kind)| Step::Answer(which, kind)),
        1 => any::<usize>().prop_map(Step::Missing),
        2 => (1u64..90_000).prop_map(Step::Advance),
        1 => Just(Step::RetryNow),
    ];
    proptest::collection::vec(step, 0..200)
}

fn generated_answer(kind: u8) -> Result<(), Failure> {
    match kind {
        0..5 => Ok(()),
        5 => failure(FailureKind::Throttled, Some(3 * SECOND)),
        6 => failure(FailureKind::Unreachable, None),
        7 => failure(FailureKind::Refused, None),
        8 => failure(FailureKind::WrongSetting, None),
        9 => failure(FailureKind::TimedOut, None),
        _ => failure(FailureKind::Retryable, None),
    }
}

proptest! {
    #[test]
    fn whatever_is_answered_each_event_is_settled_once_and_none_is_sent_in_a_pause(steps in steps(), seed: u64) {
        let mut machine = DeliveryMachine::new(5);
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut now, mut next) = (Tick::default(), 0_u64);
        let (mut open, mut in_flight, mut segments) = (BTreeSet::new(), Vec::<u64>::new(), BTreeMap::new());
        // In the end the sink accepts everything.
        let rest = (0..400).flat_map(|_| [Step::Answer(0, 0), Step::Advance(70_000)]);
        for step in steps.into_iter().chain(rest) {
            let event = match step {
                Step::Load { segment, is_replay } => {
                    next += 1;
                    open.insert(next);
                    segments.insert(next, segment);
                    let origin = if is_replay { Origin::Replay } else { Origin::New };
                    let feed = next.cast_signed();
                    let event = PendingEvent { id: next, segment, feed, origin, tries: 0, is_last_attempt: false };
                    DeliveryEvent::Loaded(event)
                }
                Step::Answer(which, kind) if !in_flight.is_empty() => {
                    let id = in_flight.remove(which % in_flight.len());
                    DeliveryEvent::Answered { id, answer: generated_answer(kind), took: MILLISECOND }
                }
                Step::Missing(which) if !open.is_empty() => {
                    let id = *open.iter().nth(which % open.len()).unwrap();
                    in_flight.retain(|other| *other != id);
                    DeliveryEvent::Missing(id)
                }
                Step::Advance(millis) => {
                    now = now + MILLISECOND * u32::try_from(millis).unwrap();
                    DeliveryEvent::Tick { is_feed_exhausted: true }
                }
                Step::RetryNow => DeliveryEvent::RetryNow,
                Step::Answer(..) | Step::Missing(_) => continue,
            };
            for action in machine.on(event, now, &mut rng) {
                match action {
                    DeliveryAction::Send(id) => {
                        prop_assert!(open.contains(&id) && machine.paused_until().is_none());
                        prop_assert!(in_flight.iter().all(|other| segments[other] != segments[&id]));
                        in_flight.push(id);
                    }
                    DeliveryAction::Abandon(id) => in_flight.retain(|other| *other != id),
                    DeliveryAction::Settle(id, _) => prop_assert!(open.remove(&id), "{} is settled twice", id),
                    DeliveryAction::Pause { until, .. } => prop_assert!(until.since(now) <= 60 * SECOND),
                    DeliveryAction::Resume => {}
                    DeliveryAction::Stop(_) => prop_assert!(false, "no answer was 410"),
                }
            }
            prop_assert!(machine.in_flight() <= 5 && machine.in_flight() == in_flight.len());
        }
        prop_assert!(open.is_empty(), "{:?} were not settled", open);
    }
}
