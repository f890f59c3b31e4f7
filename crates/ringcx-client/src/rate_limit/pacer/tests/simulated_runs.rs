//! Random runs of one limit: full load and idleness, slow networks, cancelled requests, kills,
//! releases, take-overs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A server that counts arrivals, in their order, in an exact sliding window.
struct ArrivalCounter {
    limit: usize,
    window: VecDeque<Tick>,
    violations: usize,
    counted: usize,
}

impl ArrivalCounter {
    fn new(limit: u32) -> ArrivalCounter {
        ArrivalCounter { limit: limit as usize, window: VecDeque::new(), violations: 0, counted: 0 }
    }

    fn receive(&mut self, now: Tick) {
        while self.window.front().is_some_and(|first| now.since(*first) > seconds(60)) {
            self.window.pop_front();
        }
        self.window.push_back(now);
        self.violations += usize::from(self.window.len() > self.limit);
        self.counted += 1;
    }
}

/// The parameters of one run.
#[derive(Debug, Clone)]
struct RunParameters {
    limit: u32,
    seed: u64,
    duration: Duration,
    /// The longest time between sending and arrival, and between arrival and the answer.
    max_delay: Duration,
    /// The longest life of a process, if it is killed.
    max_life: Option<Duration>,
    /// Whether late requests arrive together, as behind a stalled link: the highest density that
    /// delays can cause.
    batches_late_requests: bool,
    /// Whether demand varies, permits are returned, and requests are cancelled.
    varies_demand: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RunEvent {
    Arrival,
    Answer(u64),
    ProcessEnd,
    DemandChange,
}

struct SimulatedRun {
    parameters: RunParameters,
    random: StdRng,
    clock: Clock,
    server: ArrivalCounter,
    pacer: Pacer,
    events: BinaryHeap<Reverse<(Tick, u64, RunEvent)>>,
    in_flight: HashMap<u64, Permit>,
    next_id: u64,
    has_demand: bool,
    /// When the stalled link next delivers.
    link_resumes_at: Tick,
}

impl SimulatedRun {
    fn new(parameters: RunParameters) -> SimulatedRun {
        let clock = clock();
        let mut run = SimulatedRun {
            random: StdRng::seed_from_u64(parameters.seed),
            server: ArrivalCounter::new(parameters.limit),
            pacer: pacer(parameters.limit, &clock),
            events: BinaryHeap::new(),
            in_flight: HashMap::new(),
            next_id: 0,
            has_demand: true,
            link_resumes_at: Tick::default(),
            parameters,
            clock,
        };
        run.schedule_end();
        if run.parameters.varies_demand {
            run.schedule(Duration::ZERO, RunEvent::DemandChange);
        }
        run
    }

    fn run(mut self) -> ArrivalCounter {
        let end = self.clock.tick() + self.parameters.duration;
        while self.clock.tick() < end {
            let ask_again = self.send_all();
            let next_event = self.events.peek().map(|Reverse((at, _, _))| *at);
            let due = next_event.into_iter().chain(ask_again).min().unwrap_or(end);
            self.clock.advance(due.since(self.clock.tick()));
            while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
                if at > self.clock.tick() {
                    break;
                }
                self.events.pop();
                self.handle_event(event);
            }
        }
        self.server
    }

    /// Sends all requests that are allowed; returns when to ask again.
    fn send_all(&mut self) -> Option<Tick> {
        while self.has_demand {
            let mut permit = match self.pacer.try_acquire() {
                Ok(permit) => permit,
                Err(due) => {
                    assert!(due > self.clock.tick());
                    return Some(due);
                }
            };
            if self.parameters.varies_demand && self.random.random_bool(0.05) {
                drop(permit);
                continue;
            }
            permit.mark_sent();
            let arrival = self.arrival_delay();
            self.schedule(arrival, RunEvent::Arrival);
            if self.parameters.varies_demand && self.random.random_bool(0.05) {
                drop(permit);
                continue;
            }
            let id = self.next_id;
            let answer = arrival + self.random_up_to(self.parameters.max_delay);
            self.schedule(answer, RunEvent::Answer(id));
            self.in_flight.insert(id, permit);
        }
        None
    }

    /// The time until a request arrives.
    fn arrival_delay(&mut self) -> Duration {
        if !self.parameters.batches_late_requests {
            return self.random_up_to(self.parameters.max_delay);
        }
        let now = self.clock.tick();
        if self.link_resumes_at < now {
            self.link_resumes_at = now + self.random_up_to(seconds(20));
        }
        Some(self.link_resumes_at.since(now)).filter(|late| *late <= self.parameters.max_delay).unwrap_or_default()
    }

    fn handle_event(&mut self, event: RunEvent) {
        match event {
            RunEvent::Arrival => self.server.receive(self.clock.tick()),
            RunEvent::Answer(id) => {
                if let Some(permit) = self.in_flight.remove(&id) {
                    permit.mark_counted();
                }
            }
            RunEvent::DemandChange => {
                self.has_demand = self.random.random_bool(0.6);
                let change = self.random_up_to(seconds(30));
                self.schedule(change, RunEvent::DemandChange);
            }
            RunEvent::ProcessEnd => self.end_process(),
        }
    }

    /// Kills the process, or releases it once nothing is in flight. Another one starts at once or a
    /// little later.
    fn end_process(&mut self) {
        if self.random.random_bool(0.3) {
            let all_answered = self.events.iter().map(|Reverse((at, _, _))| *at).max();
            if self.in_flight.is_empty() {
                let ago = self.pause_between_processes();
                self.begin_process(PreviousOwner::Released { ago });
                return;
            }
            self.has_demand = false;
            self.events.push(Reverse((all_answered.unwrap_or_default(), u64::MAX, RunEvent::ProcessEnd)));
            return;
        }
        let silent_for = self.pause_between_processes();
        // It sent until it was killed, and its last heartbeat came up to 10 s before.
        let since_heartbeat = self.random_up_to(seconds(10));
        self.begin_process(PreviousOwner::Lapsed {
            last_seen_ago: silent_for + since_heartbeat,
            may_send_for: since_heartbeat,
            in_flight: 0,
        });
    }

    /// Nothing is sent for a while; requests in flight arrive.
    fn pause_between_processes(&mut self) -> Duration {
        let pause = if self.random.random_bool(0.5) { Duration::ZERO } else { self.random_up_to(seconds(5)) };
        let until = self.clock.tick() + pause;
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            self.clock.advance(at.since(self.clock.tick()));
            if event == RunEvent::Arrival {
                self.handle_event(event);
            } else if event == RunEvent::DemandChange {
                self.schedule(seconds(10), RunEvent::DemandChange);
            }
        }
        self.clock.advance(until.since(self.clock.tick()));
        pause
    }

    fn begin_process(&mut self, previous: PreviousOwner) {
        self.in_flight.clear();
        self.pacer = pacer(self.parameters.limit, &self.clock);
        self.pacer.start_after(previous);
        self.has_demand = true;
        self.schedule_end();
    }

    fn schedule_end(&mut self) {
        if let Some(max_life) = self.parameters.max_life {
            let life = self.random_up_to(max_life);
            self.schedule(life, RunEvent::ProcessEnd);
        }
    }

    fn schedule(&mut self, wait: Duration, event: RunEvent) {
        self.next_id += 1;
        self.events.push(Reverse((self.clock.tick() + wait, self.next_id, event)));
    }

    fn random_up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.random_range(0..=most.as_micros() as u64))
    }
}

fn limits() -> impl Strategy<Value = u32> {
    prop_oneof![1..=10u32, Just(120), 100..=1300u32]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_process_never_exceeds_a_window(
        limit in limits(), seed in any::<u64>(), max_delay in 0..=2000u64, batches_late_requests in any::<bool>(),
        varies_demand in any::<bool>(),
    ) {
        let max_delay = millis(max_delay);
        let (duration, max_life) = (seconds(200), None);
        let parameters = RunParameters { limit, seed, duration, max_delay, max_life, batches_late_requests, varies_demand };
        prop_assert_eq!(SimulatedRun::new(parameters).run().violations, 0);
    }

    #[test]
    fn ten_restarts_a_minute_never_exceed_a_window(
        limit in limits(), seed in any::<u64>(), max_delay in 0..=2000u64, batches_late_requests in any::<bool>(),
        varies_demand in any::<bool>(),
        max_life in 1..90u64,
    ) {
        let (duration, max_delay, max_life) = (seconds(300), millis(max_delay), Some(seconds(max_life)));
        let parameters = RunParameters { limit, seed, duration, max_delay, max_life, batches_late_requests, varies_demand };
        prop_assert_eq!(SimulatedRun::new(parameters).run().violations, 0);
    }
}

/// Sends all that is allowed until `until`, answered on arrival and in order. Returns the arrival
/// times.
fn send_until(pacer: &Pacer, clock: &Clock, until: Tick, arrival_of: impl Fn(Tick) -> Tick) -> Vec<Tick> {
    let (mut arrivals, mut in_flight) = (Vec::new(), VecDeque::new());
    while clock.tick() < until {
        while in_flight.front().is_some_and(|(due, _)| *due <= clock.tick()) {
            let (_, permit): (Tick, Permit) = in_flight.pop_front().unwrap();
            permit.mark_counted();
        }
        match pacer.try_acquire() {
            Ok(mut permit) => {
                permit.mark_sent();
                let arrival = arrival_of(clock.tick());
                arrivals.push(arrival);
                in_flight.push_back((arrival, permit));
            }
            Err(due) => {
                let next_due = in_flight.front().map_or(due, |(arrival, _)| due.min(*arrival));
                clock.advance(next_due.min(until).since(clock.tick()));
            }
        }
    }
    arrivals
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The owner's machine freezes with requests in flight. They arrive at any time in the first
    /// minute of the next owner.
    #[test]
    fn a_take_over_from_a_frozen_owner_never_exceeds_a_window(
        limit in 16..700u32, in_flight in 0..=8u32, late in proptest::collection::vec(0..60_000u64, 8),
        last_seen in 0..20u64,
    ) {
        let clock = clock();
        let mut arrivals = send_until(&pacer(limit, &clock), &clock, clock.tick() + seconds(70), |sent| sent);
        // It could send until the deadline that followed from its last heartbeat.
        let last_seen_ago = seconds(last_seen);
        for (index, late) in (0..in_flight as usize).zip(late) {
            let index = arrivals.len() - 1 - index;
            arrivals[index] = clock.tick() + millis(late);
        }
        let next_owner = pacer(limit, &clock);
        next_owner.start_after(PreviousOwner::Lapsed { last_seen_ago, may_send_for: last_seen_ago, in_flight });
        arrivals.extend(send_until(&next_owner, &clock, clock.tick() + seconds(150), |sent| sent));
        arrivals.sort();
        let mut server = ArrivalCounter::new(limit);
        arrivals.into_iter().for_each(|arrival| server.receive(arrival));
        prop_assert_eq!(server.violations, 0);
    }
}

/// The worst case: a process sends at full rate, its first requests arrive two seconds late and all
/// others at once, and it is killed before or after its log is full, as is each that follows.
#[test]
fn a_kill_after_a_minute_that_began_with_late_arrivals_exceeds_no_window() {
    for limit in [1, 2, 5, 10, 120, 601, 1300] {
        for life in 55..68 {
            let clock = clock();
            let start = clock.tick();
            let mut arrivals = Vec::new();
            for life in [seconds(life), seconds(1), seconds(70)] {
                let pacer = pacer(limit, &clock);
                if clock.tick() > start {
                    let zero = Duration::ZERO;
                    pacer.start_after(PreviousOwner::Lapsed { last_seen_ago: zero, may_send_for: zero, in_flight: 0 });
                }
                let until = clock.tick() + life;
                arrivals.extend(send_until(&pacer, &clock, until, |sent| sent.max(start + seconds(2))));
            }
            let mut server = ArrivalCounter::new(limit);
            arrivals.into_iter().for_each(|arrival| server.receive(arrival));
            assert_eq!(server.violations, 0, "limit {limit}, killed after {life} s");
        }
    }
}

#[test]
fn full_load_uses_at_least_99_per_cent() {
    for limit in [1, 2, 3, 7, 10, 60, 120, 600, 1000, 6000] {
        let minutes = if limit < 20 { 120 } else { 12 };
        let (clock, latency) = (clock(), millis(100));
        let pacer = pacer(limit, &clock);
        let mut in_flight: VecDeque<(Tick, Permit)> = VecDeque::new();
        let start = clock.tick();
        let mut sent = 0_u32;
        while clock.tick().since(start) < seconds(60 * minutes) {
            while in_flight.front().is_some_and(|(due, _)| *due <= clock.tick()) {
                in_flight.pop_front().unwrap().1.mark_counted();
            }
            let wait = match pacer.try_acquire() {
                Ok(mut permit) => {
                    permit.mark_sent();
                    sent += 1;
                    in_flight.push_back((clock.tick() + latency, permit));
                    continue;
                }
                // Timers fire late.
                Err(due) => due + millis(3),
            };
            let answer = in_flight.front().map(|(due, _)| *due);
            clock.advance(answer.unwrap_or(wait).min(wait).since(clock.tick()));
        }
        let share = f64::from(sent) / (f64::from(limit) * minutes as f64);
        assert!((0.99..=1.01).contains(&share), "limit {limit}: {share}");
    }
}

#[test]
fn timers_that_fire_fifty_milliseconds_late_cost_no_rate() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    let start = clock.tick();
    let mut sent = 0_u32;
    while clock.tick().since(start) < seconds(600) {
        match pacer.try_acquire() {
            Ok(mut permit) => {
                permit.mark_sent();
                permit.mark_counted();
                sent += 1;
            }
            Err(due) => clock.advance(due.since(clock.tick()) + millis(50)),
        }
    }
    assert!(sent >= 1188, "{sent} of 1200");
}

#[test]
fn restarts_every_ten_seconds_still_use_most_of_the_limit() {
    let parameters = RunParameters {
        limit: 120,
        seed: 7,
        duration: seconds(600),
        max_delay: millis(100),
        max_life: Some(seconds(20)),
        batches_late_requests: false,
        varies_demand: false,
    };
    let server = SimulatedRun::new(parameters).run();
    assert_eq!(server.violations, 0);
    // About 60 restarts: each holds for up to 2.5 s, and some stay away for up to 5 s.
    assert!(server.counted > 600, "{}", server.counted);
}

/// The counter of the tests must itself detect a violation.
#[test]
fn the_server_of_these_tests_detects_a_violation() {
    let mut server = ArrivalCounter::new(2);
    for second in [0, 30, 60] {
        server.receive(Tick(seconds(second)));
    }
    assert_eq!(server.violations, 1, "a window includes both its ends, to be strict");
}
