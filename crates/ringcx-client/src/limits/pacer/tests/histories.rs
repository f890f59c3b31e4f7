//! Random lives of one budget: hunger and idleness, slow networks, cancelled requests, kills, releases, take-overs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A server that counts arrivals in an exact sliding window and is told of them in their order.
struct Server {
    limit: usize,
    window: VecDeque<Tick>,
    objections: usize,
    counted: usize,
}

impl Server {
    fn new(limit: u32) -> Server {
        Server { limit: limit as usize, window: VecDeque::new(), objections: 0, counted: 0 }
    }

    fn arrives(&mut self, now: Tick) {
        while self.window.front().is_some_and(|first| now.since(*first) > seconds(60)) {
            self.window.pop_front();
        }
        self.window.push_back(now);
        self.objections += usize::from(self.window.len() > self.limit);
        self.counted += 1;
    }
}

/// What a history is made of.
#[derive(Debug, Clone)]
struct Plan {
    limit: u32,
    seed: u64,
    lasts: Duration,
    /// The longest time between leaving and arriving, and between arriving and the answer.
    slowest: Duration,
    /// How long a process lives at most, if it dies.
    lives: Option<Duration>,
    /// Whether late requests gather, to arrive together, as behind a link that stalls: the densest that lateness can do.
    gathers: bool,
    /// Whether demand comes and goes, permits are given back and requests cancelled.
    moody: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Answered(u64),
    Ends,
    Mood,
}

struct World {
    plan: Plan,
    random: StdRng,
    clock: Clock,
    server: Server,
    pacer: Pacer,
    events: BinaryHeap<Reverse<(Tick, u64, Event)>>,
    in_flight: HashMap<u64, Permit>,
    next: u64,
    hungry: bool,
    /// When the stalled link lets go next.
    gathering: Tick,
}

impl World {
    fn new(plan: Plan) -> World {
        let clock = clock();
        let mut world = World {
            random: StdRng::seed_from_u64(plan.seed),
            server: Server::new(plan.limit),
            pacer: pacer(plan.limit, &clock),
            events: BinaryHeap::new(),
            in_flight: HashMap::new(),
            next: 0,
            hungry: true,
            gathering: Tick::default(),
            plan,
            clock,
        };
        world.schedule_end();
        if world.plan.moody {
            world.schedule(Duration::ZERO, Event::Mood);
        }
        world
    }

    fn run(mut self) -> Server {
        let end = self.clock.tick() + self.plan.lasts;
        while self.clock.tick() < end {
            let ask_again = self.send_all();
            let next = self.events.peek().map(|Reverse((at, _, _))| *at);
            let due = next.into_iter().chain(ask_again).min().unwrap_or(end);
            self.clock.advance(due.since(self.clock.tick()));
            while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
                if at > self.clock.tick() {
                    break;
                }
                self.events.pop();
                self.happens(event);
            }
        }
        self.server
    }

    /// Sends all that may go; when to ask again.
    fn send_all(&mut self) -> Option<Tick> {
        while self.hungry {
            let mut permit = match self.pacer.try_enter() {
                Ok(permit) => permit,
                Err(due) => {
                    assert!(due > self.clock.tick());
                    return Some(due);
                }
            };
            if self.plan.moody && self.random.random_bool(0.05) {
                drop(permit);
                continue;
            }
            permit.sent();
            let arrival = self.lateness();
            self.schedule(arrival, Event::Arrives);
            if self.plan.moody && self.random.random_bool(0.05) {
                drop(permit);
                continue;
            }
            let id = self.next;
            let answer = arrival + self.up_to(self.plan.slowest);
            self.schedule(answer, Event::Answered(id));
            self.in_flight.insert(id, permit);
        }
        None
    }

    /// How long a request takes to arrive.
    fn lateness(&mut self) -> Duration {
        if !self.plan.gathers {
            return self.up_to(self.plan.slowest);
        }
        let now = self.clock.tick();
        if self.gathering < now {
            self.gathering = now + self.up_to(seconds(20));
        }
        Some(self.gathering.since(now)).filter(|late| *late <= self.plan.slowest).unwrap_or_default()
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives => self.server.arrives(self.clock.tick()),
            Event::Answered(id) => {
                if let Some(permit) = self.in_flight.remove(&id) {
                    permit.counted();
                }
            }
            Event::Mood => {
                self.hungry = self.random.random_bool(0.6);
                let change = self.up_to(seconds(30));
                self.schedule(change, Event::Mood);
            }
            Event::Ends => self.end(),
        }
    }

    /// The process is killed, or lets go once nothing is in flight; another begins at once or a little later.
    fn end(&mut self) {
        if self.random.random_bool(0.3) {
            let all_answered = self.events.iter().map(|Reverse((at, _, _))| *at).max();
            if self.in_flight.is_empty() {
                let ago = self.pause();
                self.begin(Lapse::Released { ago });
                return;
            }
            self.hungry = false;
            self.events.push(Reverse((all_answered.unwrap_or_default(), u64::MAX, Event::Ends)));
            return;
        }
        let silent_for = self.pause();
        // It sent until it died, and its last sign of life came up to 10 s before.
        let sign = self.up_to(seconds(10));
        self.begin(Lapse::Died { last_seen_ago: silent_for + sign, sends_for: sign, in_flight: 0 });
    }

    /// Nobody sends for a while; what is under way arrives.
    fn pause(&mut self) -> Duration {
        let pause = if self.random.random_bool(0.5) { Duration::ZERO } else { self.up_to(seconds(5)) };
        let until = self.clock.tick() + pause;
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            self.clock.advance(at.since(self.clock.tick()));
            if event == Event::Arrives {
                self.happens(event);
            } else if event == Event::Mood {
                self.schedule(seconds(10), Event::Mood);
            }
        }
        self.clock.advance(until.since(self.clock.tick()));
        pause
    }

    fn begin(&mut self, previous: Lapse) {
        self.in_flight.clear();
        self.pacer = pacer(self.plan.limit, &self.clock);
        self.pacer.start_after_lapse(previous);
        self.hungry = true;
        self.schedule_end();
    }

    fn schedule_end(&mut self) {
        if let Some(lives) = self.plan.lives {
            let life = self.up_to(lives);
            self.schedule(life, Event::Ends);
        }
    }

    fn schedule(&mut self, wait: Duration, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.clock.tick() + wait, self.next, event)));
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.random_range(0..=most.as_micros() as u64))
    }
}

fn limits() -> impl Strategy<Value = u32> {
    prop_oneof![1..=10u32, Just(120), 100..=1300u32]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_server_never_objects_to_one_process(
        limit in limits(), seed in any::<u64>(), slowest in 0..=2000u64, gathers in any::<bool>(), moody in any::<bool>(),
    ) {
        let slowest = millis(slowest);
        let plan = Plan { limit, seed, lasts: seconds(200), slowest, lives: None, gathers, moody };
        prop_assert_eq!(World::new(plan).run().objections, 0);
    }

    #[test]
    fn the_server_never_objects_to_ten_restarts_a_minute(
        limit in limits(), seed in any::<u64>(), slowest in 0..=2000u64, gathers in any::<bool>(), moody in any::<bool>(),
        lives in 1..90u64,
    ) {
        let (slowest, lives) = (millis(slowest), Some(seconds(lives)));
        let plan = Plan { limit, seed, lasts: seconds(300), slowest, lives, gathers, moody };
        prop_assert_eq!(World::new(plan).run().objections, 0);
    }
}

/// Sends whatever may go until `until`, answered on arrival; when each arrived. What was sent first arrives first.
fn hungry_until(pacer: &Pacer, clock: &Clock, until: Tick, arrives: impl Fn(Tick) -> Tick) -> Vec<Tick> {
    let (mut arrivals, mut in_flight) = (Vec::new(), VecDeque::new());
    while clock.tick() < until {
        while in_flight.front().is_some_and(|(due, _)| *due <= clock.tick()) {
            let (_, permit): (Tick, Permit) = in_flight.pop_front().unwrap();
            permit.counted();
        }
        match pacer.try_enter() {
            Ok(mut permit) => {
                permit.sent();
                let arrival = arrives(clock.tick());
                arrivals.push(arrival);
                in_flight.push_back((arrival, permit));
            }
            Err(due) => {
                let next = in_flight.front().map_or(due, |(arrival, _)| due.min(*arrival));
                clock.advance(next.min(until).since(clock.tick()));
            }
        }
    }
    arrivals
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The machine of the owner freezes with requests under way; they arrive any time in the first minute of the next.
    #[test]
    fn the_server_never_objects_to_a_take_over_from_an_owner_that_froze(
        limit in 16..700u32, in_flight in 0..=8u32, late in proptest::collection::vec(0..60_000u64, 8),
        last_seen in 0..20u64,
    ) {
        let clock = clock();
        let mut arrivals = hungry_until(&pacer(limit, &clock), &clock, clock.tick() + seconds(70), |sent| sent);
        // It could send until the very end of what its last sign of life allowed.
        let last_seen_ago = seconds(last_seen);
        for (place, late) in (0..in_flight as usize).zip(late) {
            let place = arrivals.len() - 1 - place;
            arrivals[place] = clock.tick() + millis(late);
        }
        let next = pacer(limit, &clock);
        next.start_after_lapse(Lapse::Died { last_seen_ago, sends_for: last_seen_ago, in_flight });
        arrivals.extend(hungry_until(&next, &clock, clock.tick() + seconds(150), |sent| sent));
        arrivals.sort();
        let mut server = Server::new(limit);
        arrivals.into_iter().for_each(|arrival| server.arrives(arrival));
        prop_assert_eq!(server.objections, 0);
    }
}

/// The worst that can happen: a process sends at full pace, what it sent first arrives two seconds late and all else at
/// once, and it is killed, before its ring is full or after, as is each that follows.
#[test]
fn a_kill_after_a_minute_that_began_with_late_arrivals_overruns_nothing() {
    for limit in [1, 2, 5, 10, 120, 601, 1300] {
        for life in 55..68 {
            let clock = clock();
            let start = clock.tick();
            let mut arrivals = Vec::new();
            for life in [seconds(life), seconds(1), seconds(70)] {
                let pacer = pacer(limit, &clock);
                if clock.tick() > start {
                    let zero = Duration::ZERO;
                    pacer.start_after_lapse(Lapse::Died { last_seen_ago: zero, sends_for: zero, in_flight: 0 });
                }
                let until = clock.tick() + life;
                arrivals.extend(hungry_until(&pacer, &clock, until, |sent| sent.max(start + seconds(2))));
            }
            let mut server = Server::new(limit);
            arrivals.into_iter().for_each(|arrival| server.arrives(arrival));
            assert_eq!(server.objections, 0, "limit {limit}, killed after {life} s");
        }
    }
}

#[test]
fn constant_hunger_uses_at_least_99_per_cent() {
    for limit in [1, 2, 3, 7, 10, 60, 120, 600, 1000, 6000] {
        let minutes = if limit < 20 { 120 } else { 12 };
        let (clock, latency) = (clock(), millis(100));
        let pacer = pacer(limit, &clock);
        let mut in_flight: VecDeque<(Tick, Permit)> = VecDeque::new();
        let start = clock.tick();
        let mut sent = 0_u32;
        while clock.tick().since(start) < seconds(60 * minutes) {
            while in_flight.front().is_some_and(|(due, _)| *due <= clock.tick()) {
                in_flight.pop_front().unwrap().1.counted();
            }
            let wait = match pacer.try_enter() {
                Ok(mut permit) => {
                    permit.sent();
                    sent += 1;
                    in_flight.push_back((clock.tick() + latency, permit));
                    continue;
                }
                // Timers wake late.
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
fn timers_that_wake_fifty_milliseconds_late_cost_no_pace() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    let start = clock.tick();
    let mut sent = 0_u32;
    while clock.tick().since(start) < seconds(600) {
        match pacer.try_enter() {
            Ok(mut permit) => {
                permit.sent();
                permit.counted();
                sent += 1;
            }
            Err(due) => clock.advance(due.since(clock.tick()) + millis(50)),
        }
    }
    assert!(sent >= 1188, "{sent} of 1200");
}

#[test]
fn restarts_every_ten_seconds_still_get_most_of_the_budget_through() {
    let plan = Plan {
        limit: 120,
        seed: 7,
        lasts: seconds(600),
        slowest: millis(100),
        lives: Some(seconds(20)),
        gathers: false,
        moody: false,
    };
    let server = World::new(plan).run();
    assert_eq!(server.objections, 0);
    // Some 60 restarts, each of which holds for up to 2.5 s and some of which stay away for up to 5 s.
    assert!(server.counted > 600, "{}", server.counted);
}

/// The counter itself must be able to object.
#[test]
fn the_server_of_these_tests_does_object() {
    let mut server = Server::new(2);
    for second in [0, 30, 60] {
        server.arrives(Tick(seconds(second)));
    }
    assert_eq!(server.objections, 1, "a window includes both its ends, to be strict");
}
