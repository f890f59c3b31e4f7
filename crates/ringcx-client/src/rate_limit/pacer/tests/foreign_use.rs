//! Another client uses the same account: the server counts the requests of both and refuses what
//! exceeds the limit.

use std::collections::VecDeque;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A server that refuses requests beyond its window. It counts refused requests or not.
struct ForeignLoadServer {
    limit: usize,
    counts_refused: bool,
    names_wait: bool,
    /// The share of requests that it refuses at random.
    random_refusals: f64,
    window: VecDeque<Tick>,
    random: StdRng,
}

impl ForeignLoadServer {
    fn new(limit: usize, counts_refused: bool, names_wait: bool) -> ForeignLoadServer {
        let (window, random) = (VecDeque::new(), StdRng::seed_from_u64(7));
        ForeignLoadServer { limit, counts_refused, names_wait, random_refusals: 0.0, window, random }
    }

    /// `Err` with the server's `Retry-After` if the request is refused.
    fn receive(&mut self, now: Tick) -> Result<(), Option<Duration>> {
        if self.random_refusals > 0.0 && self.random.random_bool(self.random_refusals) {
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
struct RequestCounts {
    ours: u32,
    theirs: u32,
    refused: u32,
}

/// Sends our requests at full rate with a latency of 100 ms, beside `their_rate` foreign requests a
/// second, until `until`. Counts from `from` on.
fn run_beside(
    mut server: ForeignLoadServer,
    their_rate: f64,
    from: Duration,
    until: Duration,
    seed: u64,
) -> RequestCounts {
    let mut random = StdRng::seed_from_u64(seed);
    let clock = clock();
    let pacer = pacer(server.limit as u32, &clock);
    let start = clock.tick();
    let mut their_next = start + Duration::from_secs_f64(1.0 / their_rate);
    let mut answers: VecDeque<(Tick, Permit, Result<(), Option<Duration>>)> = VecDeque::new();
    let mut counts = RequestCounts::default();
    while clock.tick().since(start) < until {
        let (now, is_counting) = (clock.tick(), clock.tick().since(start) >= from);
        while answers.front().is_some_and(|(due, ..)| *due <= now) {
            let (_, permit, answer) = answers.pop_front().unwrap();
            permit.mark_counted();
            match answer {
                Ok(()) => pacer.record_success(),
                Err(wait) => drop(pacer.record_refusal(wait)),
            }
            counts.ours += u32::from(answer.is_ok() && is_counting);
            counts.refused += u32::from(answer.is_err() && is_counting);
        }
        if their_next <= now {
            // The requests that this server counts for them are not available to us.
            let takes = server.receive(now).is_ok() || server.counts_refused;
            counts.theirs += u32::from(takes && is_counting);
            their_next = now + Duration::from_secs_f64(random.random_range(0.5..1.5) / their_rate);
        }
        let ask_again = match pacer.try_acquire() {
            Ok(mut permit) => {
                permit.mark_sent();
                answers.push_back((now + millis(100), permit, server.receive(now)));
                continue;
            }
            Err(due) => due,
        };
        let answer = answers.front().map(|(due, ..)| *due);
        let due = answer.into_iter().chain([ask_again, their_next]).min().unwrap();
        clock.advance(due.since(now));
    }
    counts
}

#[test]
fn throughput_settles_near_the_remaining_limit_with_few_refusals() {
    for (limit, their_rate, seed) in [(120, 0.5, 1), (120, 1.0, 2), (120, 1.0, 3), (120, 1.5, 4), (1200, 10.0, 5)] {
        for (counts_refused, names_wait) in [(false, false), (false, true), (true, false), (true, true)] {
            let server = ForeignLoadServer::new(limit, counts_refused, names_wait);
            let (from, until) = (seconds(5 * 60), seconds(65 * 60));
            let counts = run_beside(server, their_rate, from, until, seed);
            let left = 60 * limit as u32 - counts.theirs;
            let used = f64::from(counts.ours) / f64::from(left);
            let refused = f64::from(counts.refused) / f64::from(counts.ours + counts.refused);
            let case = format!(
                "{limit} a minute, theirs {their_rate}/s, counts refused {counts_refused}, names wait {names_wait}: {used:.3} used, {refused:.4} refused"
            );
            // Beside a client that uses three quarters, its fluctuation reduces what is left.
            let (least, most) = if their_rate == 1.5 { (0.75, 0.025) } else { (0.85, 0.015) };
            assert!(used >= least && refused <= most, "{case}");
        }
    }
}

#[test]
fn without_other_clients_it_is_never_refused_and_keeps_the_full_rate() {
    let server = ForeignLoadServer::new(120, true, false);
    let counts = run_beside(server, 1e-9, seconds(60), seconds(11 * 60), 5);
    assert_eq!(counts.refused, 0);
    assert!(counts.ours >= 1188, "{}", counts.ours);
}

#[test]
fn rare_random_refusals_cost_little() {
    // Each costs a pause of a second; at 1,200 a minute that is a fifth of the time.
    for (limit, random_refusals, minutes, least) in
        [(120, 0.01, 60, 0.75), (1200, 0.01, 15, 0.65), (3000, 0.001, 5, 0.85)]
    {
        for names_wait in [false, true] {
            let server = ForeignLoadServer { random_refusals, ..ForeignLoadServer::new(limit, false, names_wait) };
            let counts = run_beside(server, 1e-9, seconds(10 * 60), seconds((10 + minutes) * 60), 6);
            let used = f64::from(counts.ours) / (minutes as usize * limit) as f64;
            assert!(
                used >= least,
                "{limit} a minute, {random_refusals} refused at random, names wait {names_wait}: {used:.3} used"
            );
        }
    }
}

#[test]
fn the_full_rate_returns_within_half_an_hour_after_other_clients_stop() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    for _ in 0..10 {
        let mut permit = until_allowed(&pacer, &clock);
        permit.mark_sent();
        permit.mark_counted();
        pacer.record_refusal(None);
    }
    assert!(pacer.usage().rate_factor < 0.2);
    clock.advance(seconds(25 * 60));
    assert_eq!(pacer.usage().rate_factor, 1.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn beside_a_client_that_uses_about_half_refusals_stay_rare(
        per_minute in 48..=72_u32, counts_refused: bool, names_wait: bool, seed: u64
    ) {
        let server = ForeignLoadServer::new(120, counts_refused, names_wait);
        let counts = run_beside(server, f64::from(per_minute) / 60.0, seconds(5 * 60), seconds(35 * 60), seed);
        let refused = f64::from(counts.refused) / f64::from(counts.ours + counts.refused);
        prop_assert!(refused <= 0.03, "{refused:.4} of our requests were refused");
        let left = 30 * 120 - counts.theirs;
        let used = f64::from(counts.ours) / f64::from(left);
        prop_assert!(used >= 0.8, "{used:.3} of the remaining limit was used");
    }
}

#[test]
fn a_pacer_with_a_restored_throttle_pauses_as_long_and_uses_the_same_rate() {
    let clock = clock();
    let first = pacer(120, &clock);
    request(&first);
    let saved = first.record_refusal(Some(seconds(30))).expect("the state has changed");
    assert_eq!(first.record_refusal(Some(seconds(10))), None, "no change");
    clock.advance(seconds(5));
    let next = pacer(120, &clock);
    next.start_after(PreviousOwner::Released { ago: Duration::ZERO });
    next.restore_throttle(saved);
    let (first, next_usage) = (first.usage(), next.usage());
    assert_eq!((next_usage.paused_until, next_usage.rate_factor), (first.paused_until, first.rate_factor));
    assert_eq!(next.try_acquire().unwrap_err(), saved.pause_until);
}
