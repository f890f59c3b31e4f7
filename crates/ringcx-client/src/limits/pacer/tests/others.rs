//! Somebody else uses the same account: the server counts both, and refuses whoever comes too much.

use std::collections::VecDeque;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A server that refuses what exceeds its window, and that may or may not count what it refuses.
struct Server {
    limit: usize,
    counts_refused: bool,
    names_wait: bool,
    /// Which share it refuses for no reason at all.
    strays: f64,
    window: VecDeque<Tick>,
    random: StdRng,
}

impl Server {
    fn new(limit: usize, counts_refused: bool, names_wait: bool) -> Server {
        let (window, random) = (VecDeque::new(), StdRng::seed_from_u64(7));
        Server { limit, counts_refused, names_wait, strays: 0.0, window, random }
    }

    /// `Err` with the server's `Retry-After` if the request is refused.
    fn arrives(&mut self, now: Tick) -> Result<(), Option<Duration>> {
        if self.strays > 0.0 && self.random.random_bool(self.strays) {
            return Err(self.names_wait.then_some(seconds(1)));
        }
        while self.window.front().is_some_and(|first| now.since(*first) >= seconds(60)) {
            self.window.pop_front();
        }
        let room = self.window.len() < self.limit;
        if room || self.counts_refused {
            self.window.push_back(now);
        }
        let free = self.window.front().map(|first| seconds(60).saturating_sub(now.since(*first)));
        let wait = free.map(|wait| seconds(wait.as_secs() + 1)).filter(|_| self.names_wait);
        if room { Ok(()) } else { Err(wait) }
    }
}

#[derive(Default)]
struct Outcome {
    ours: u32,
    theirs: u32,
    refused: u32,
}

/// Ours without end at a latency of 100 ms against theirs at `their_rate` a second, until `until`; counts from `from`.
fn share(mut server: Server, their_rate: f64, from: Duration, until: Duration, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let clock = clock();
    let pacer = pacer(server.limit as u32, &clock);
    let start = clock.tick();
    let mut their_next = start + Duration::from_secs_f64(1.0 / their_rate);
    let mut answers: VecDeque<(Tick, Permit, Result<(), Option<Duration>>)> = VecDeque::new();
    let mut outcome = Outcome::default();
    while clock.tick().since(start) < until {
        let (now, counts) = (clock.tick(), clock.tick().since(start) >= from);
        while answers.front().is_some_and(|(due, ..)| *due <= now) {
            let (_, permit, answer) = answers.pop_front().unwrap();
            permit.counted();
            match answer {
                Ok(()) => pacer.succeeded(),
                Err(wait) => drop(pacer.refused(wait)),
            }
            outcome.ours += u32::from(answer.is_ok() && counts);
            outcome.refused += u32::from(answer.is_err() && counts);
        }
        if their_next <= now {
            // What this server counts of them is what they take away from us.
            let takes = server.arrives(now).is_ok() || server.counts_refused;
            outcome.theirs += u32::from(takes && counts);
            their_next = now + Duration::from_secs_f64(random.random_range(0.5..1.5) / their_rate);
        }
        let ask_again = match pacer.try_enter() {
            Ok(mut permit) => {
                permit.sent();
                answers.push_back((now + millis(100), permit, server.arrives(now)));
                continue;
            }
            Err(due) => due,
        };
        let answer = answers.front().map(|(due, ..)| *due);
        let due = answer.into_iter().chain([ask_again, their_next]).min().unwrap();
        clock.advance(due.since(now));
    }
    outcome
}

#[test]
fn throughput_settles_near_what_is_left_with_few_refusals() {
    for (limit, their_rate, seed) in [(120, 0.5, 1), (120, 1.0, 2), (120, 1.0, 3), (120, 1.5, 4), (1200, 10.0, 5)] {
        for (counts_refused, names_wait) in [(false, false), (false, true), (true, false), (true, true)] {
            let server = Server::new(limit, counts_refused, names_wait);
            let (from, until) = (seconds(5 * 60), seconds(65 * 60));
            let outcome = share(server, their_rate, from, until, seed);
            let left = 60 * limit as u32 - outcome.theirs;
            let used = f64::from(outcome.ours) / f64::from(left);
            let refused = f64::from(outcome.refused) / f64::from(outcome.ours + outcome.refused);
            let case = format!(
                "{limit} a minute, theirs {their_rate}/s, counts refused {counts_refused}, names wait {names_wait}: {used:.3} used, {refused:.4} refused"
            );
            // Next to someone who takes three quarters, what is left is no more than their fluctuation leaves.
            let (least, most) = if their_rate == 1.5 { (0.75, 0.025) } else { (0.85, 0.015) };
            assert!(used >= least && refused <= most, "{case}");
        }
    }
}

#[test]
fn alone_it_is_never_refused_and_never_slows() {
    let server = Server::new(120, true, false);
    let outcome = share(server, 1e-9, seconds(60), seconds(11 * 60), 5);
    assert_eq!(outcome.refused, 0);
    assert!(outcome.ours >= 1188, "{}", outcome.ours);
}

#[test]
fn refusals_for_no_reason_that_stay_rare_cost_little() {
    // Each costs a second's pause, which at 1,200 a minute is a fifth of the time.
    for (limit, strays, minutes, least) in [(120, 0.01, 60, 0.75), (1200, 0.01, 15, 0.65), (3000, 0.001, 5, 0.85)] {
        for names_wait in [false, true] {
            let server = Server { strays, ..Server::new(limit, false, names_wait) };
            let outcome = share(server, 1e-9, seconds(10 * 60), seconds((10 + minutes) * 60), 6);
            let used = f64::from(outcome.ours) / (minutes as usize * limit) as f64;
            assert!(used >= least, "{limit} a minute, {strays} strays, names wait {names_wait}: {used:.3} used");
        }
    }
}

#[test]
fn once_the_others_are_gone_it_is_back_at_full_speed_within_half_an_hour() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    for _ in 0..10 {
        let mut permit = until_allowed(&pacer, &clock);
        permit.sent();
        permit.counted();
        pacer.refused(None);
    }
    assert!(pacer.usage().rate_factor < 0.2);
    clock.advance(seconds(25 * 60));
    assert_eq!(pacer.usage().rate_factor, 1.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn whoever_takes_about_half_is_met_with_few_refusals(
        per_minute in 48..=72_u32, counts_refused: bool, names_wait: bool, seed: u64
    ) {
        let server = Server::new(120, counts_refused, names_wait);
        let outcome = share(server, f64::from(per_minute) / 60.0, seconds(5 * 60), seconds(35 * 60), seed);
        let refused = f64::from(outcome.refused) / f64::from(outcome.ours + outcome.refused);
        prop_assert!(refused <= 0.03, "{refused:.4} of ours were refused");
        let left = 30 * 120 - outcome.theirs;
        let used = f64::from(outcome.ours) / f64::from(left);
        prop_assert!(used >= 0.8, "{used:.3} of what was left was used");
    }
}

#[test]
fn a_pacer_that_takes_up_where_another_was_refused_holds_as_long_and_goes_as_slow() {
    let clock = clock();
    let refused = pacer(120, &clock);
    request(&refused);
    let setback = refused.refused(Some(seconds(30))).expect("a setback");
    assert_eq!(refused.refused(Some(seconds(10))), None, "nothing new");
    clock.advance(seconds(5));
    let next = pacer(120, &clock);
    next.start_after_lapse(Lapse::Released { ago: Duration::ZERO });
    next.resume(setback);
    let (was, is) = (refused.usage(), next.usage());
    assert_eq!((is.paused_until, is.rate_factor), (was.paused_until, was.rate_factor));
    assert_eq!(next.try_enter().unwrap_err(), setback.pause_until);
}
