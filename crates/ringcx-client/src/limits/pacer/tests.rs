//! Drives pacers on a manual clock against servers that count arrivals on their own.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;

use futures_util::FutureExt;

use super::super::GUARD;
use super::*;
use crate::clock::Time;

mod histories;
mod others;

const START: Time = Time::from_secs(1_800_000_000);

fn clock() -> Clock {
    Clock::manual(START)
}

fn pacer(limit: u32, clock: &Clock) -> Pacer {
    Pacer::new(NonZeroU32::new(limit).unwrap(), clock.clone())
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Permit> + Send + 'a>>;

fn queue(pacer: &Pacer) -> Waiting<'_> {
    Box::pin(pacer.enter())
}

fn ready(waiting: &mut Waiting<'_>) -> Option<Permit> {
    waiting.as_mut().now_or_never()
}

/// Sends one request and has it answered at once.
fn request(pacer: &Pacer) {
    let mut permit = pacer.try_enter().unwrap();
    assert!(permit.sent());
    permit.counted();
}

/// Lets time pass until a request may go.
fn until_allowed(pacer: &Pacer, clock: &Clock) -> Permit {
    loop {
        match pacer.try_enter() {
            Ok(permit) => return permit,
            Err(due) => {
                assert!(due > clock.tick(), "asked to try again at once");
                clock.advance(due.since(clock.tick()));
            }
        }
    }
}

#[test]
fn the_first_request_of_a_fresh_pacer_goes_at_once_whatever_the_limit() {
    for limit in [1, 2, 10, 120, 6000, u32::MAX] {
        assert!(pacer(limit, &clock()).try_enter().is_ok(), "{limit}");
    }
}

#[test]
fn a_limit_of_one_lets_the_second_go_a_minute_after_the_first_was_counted() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    let mut permit = pacer.try_enter().unwrap();
    permit.sent();
    clock.advance(millis(300));
    permit.counted();
    let counted = clock.tick();
    let _next = until_allowed(&pacer, &clock);
    assert_eq!(clock.tick().since(counted), seconds(60) + GUARD);
}

#[test]
fn a_permit_dropped_before_it_was_sent_costs_nothing() {
    let clock = clock();
    for limit in [1, 3, 120] {
        let pacer = pacer(limit, &clock);
        for _ in 0..1000 {
            drop(pacer.try_enter().unwrap());
        }
        request(&pacer);
        assert_eq!(pacer.usage().sent_last_minute, 1);
    }
}

#[test]
fn a_permit_dropped_after_it_was_sent_holds_its_place_as_if_it_arrived_late() {
    for wait in [Duration::ZERO, seconds(1), seconds(20)] {
        let clock = clock();
        let pacer = pacer(1, &clock);
        let sent = clock.tick();
        let mut permit = pacer.try_enter().unwrap();
        permit.sent();
        clock.advance(wait);
        drop(permit);
        let _next = until_allowed(&pacer, &clock);
        assert_eq!(clock.tick().since(sent), seconds(62) + GUARD);
    }
}

#[test]
fn counted_without_sent_counts_all_the_same() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    pacer.try_enter().unwrap().counted();
    assert_eq!(pacer.usage().sent_last_minute, 1);
    assert!(pacer.try_enter().is_err());
}

#[test]
fn nothing_leaves_before_a_hold_is_over_and_a_hold_is_never_shortened() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    let until = clock.tick() + seconds(10);
    pacer.hold_until(until);
    pacer.hold_until(clock.tick() + seconds(5));
    assert_eq!(pacer.try_enter().unwrap_err(), until);
    assert_eq!(pacer.usage().paused_until, Some(until));
    clock.advance(seconds(10));
    request(&pacer);
    assert_eq!(pacer.usage().paused_until, None);
}

#[test]
fn at_the_deadline_nothing_leaves_until_it_moves() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    let deadline = clock.tick() + seconds(1);
    pacer.deadline(Some(deadline));
    let mut in_time = pacer.try_enter().unwrap();
    assert!(in_time.sent());
    clock.advance(millis(999));
    let mut too_late = pacer.try_enter().unwrap();
    clock.advance(millis(1));
    assert!(!too_late.sent(), "the process may have been stopped in between");
    assert!(pacer.try_enter().unwrap_err() > clock.tick());
    let mut waiting = queue(&pacer);
    assert!(ready(&mut waiting).is_none());
    clock.advance(seconds(10));
    assert!(ready(&mut waiting).is_none());
    pacer.deadline(Some(clock.tick() + seconds(1)));
    assert!(ready(&mut waiting).is_some());
    drop(waiting);
    clock.advance(seconds(5));
    assert!(pacer.try_enter().is_err());
    pacer.deadline(None);
    assert!(pacer.try_enter().is_ok());
}

#[test]
fn a_lease_that_ends_silences_nobody_else_who_sends_from_the_budget() {
    let clock = clock();
    let one = pacer(60, &clock);
    let other = one.leased();
    one.deadline(Some(clock.tick() + seconds(5)));
    // The first in the queue loses its lease while it waits.
    request(&one);
    let (mut lost, mut waiting) = (queue(&one), queue(&other));
    assert!(ready(&mut lost).is_none() && ready(&mut waiting).is_none());
    one.deadline(Some(Tick::default()));
    clock.advance(seconds(2));
    assert!(ready(&mut lost).is_none(), "it may not send");
    assert!(ready(&mut waiting).is_some(), "nor does it keep its place in the queue");
    assert!(one.try_enter().is_err());
    clock.advance(seconds(60));
    request(&other);
    one.deadline(None);
    drop(waiting);
    clock.advance(seconds(2));
    assert!(ready(&mut lost).is_some(), "it goes on when the lease is renewed");
}

#[test]
fn what_somebody_else_used_of_the_budget_is_left_out() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    pacer.note_foreign_use();
    let noted = clock.tick();
    let _permit = until_allowed(&pacer, &clock);
    assert!(clock.tick().since(noted) >= seconds(60));
}

#[test]
fn waiters_are_served_in_order_and_nobody_jumps_the_queue() {
    let clock = clock();
    let pacer = pacer(60, &clock);
    request(&pacer);
    let mut waiting: Vec<Waiting<'_>> = (0..4).map(|_| queue(&pacer)).collect();
    assert!(waiting.iter_mut().all(|one| ready(one).is_none()));
    clock.advance(seconds(2));
    assert!(pacer.try_enter().is_err(), "others wait");
    assert!(waiting.iter_mut().rev().take(3).all(|one| ready(one).is_none()), "not their turn");
    while !waiting.is_empty() {
        let mut first = waiting.remove(0);
        let mut permit = ready(&mut first).expect("its turn");
        permit.sent();
        permit.counted();
        assert!(waiting.iter_mut().all(|one| ready(one).is_none()));
        clock.advance(seconds(2));
    }
}

#[test]
fn a_waiter_that_gives_up_hands_its_turn_on() {
    let clock = clock();
    let pacer = pacer(60, &clock);
    request(&pacer);
    let (mut first, mut second) = (queue(&pacer), queue(&pacer));
    assert!(ready(&mut first).is_none() && ready(&mut second).is_none());
    clock.advance(seconds(2));
    drop(first);
    assert!(ready(&mut second).is_some());
}

#[test]
fn the_first_waiter_wakes_when_a_permit_comes_back_unused() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    let permit = pacer.try_enter().unwrap();
    let mut waiting = queue(&pacer);
    assert!(ready(&mut waiting).is_none());
    drop(permit);
    assert!(ready(&mut waiting).is_some());
}

#[test]
fn the_first_waiter_wakes_sooner_when_an_answer_ends_the_doubt() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    let mut permit = pacer.try_enter().unwrap();
    let mut waiting = queue(&pacer);
    assert!(ready(&mut waiting).is_none());
    permit.sent();
    assert!(ready(&mut waiting).is_none());
    permit.counted();
    assert!(ready(&mut waiting).is_none());
    // The pace of a limit of one is a little slower than the ring.
    clock.advance(seconds(60) + millis(200));
    assert!(ready(&mut waiting).is_some());
}

#[test]
fn usage_shows_what_was_sent_in_the_last_minute() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    for _ in 0..60 {
        let mut permit = until_allowed(&pacer, &clock);
        permit.sent();
        permit.counted();
    }
    let usage = pacer.usage();
    assert_eq!((usage.sent_last_minute, usage.limit, usage.refused_total), (60, 120, 0));
    assert_eq!(usage.rate_factor, 1.0);
    clock.advance(seconds(60));
    assert_eq!(pacer.usage().sent_last_minute, 0);
}

#[test]
fn after_a_refusal_it_pauses_and_goes_on_slower() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    request(&pacer);
    pacer.refused(Some(seconds(7)));
    let usage = pacer.usage();
    assert_eq!(usage.paused_until, Some(clock.tick() + seconds(7)));
    assert_eq!((usage.refused_total, usage.rate_factor), (1, 0.5));
    let paused = clock.tick();
    let mut permit = until_allowed(&pacer, &clock);
    assert!(clock.tick().since(paused) >= seconds(7));
    permit.sent();
    permit.counted();
    pacer.succeeded();
    let before = clock.tick();
    let _next = until_allowed(&pacer, &clock);
    let gap = clock.tick().since(before);
    assert!((millis(950)..millis(1010)).contains(&gap), "{gap:?}");
}

#[test]
fn after_a_lapse_the_first_request_waits_until_all_may_have_arrived_and_one_period() {
    for (previous, expected) in [
        (Lapse::Fresh, 0..=0),
        (Lapse::Released { ago: seconds(600) }, 0..=0),
        (Lapse::Released { ago: Duration::ZERO }, 2500..=2503),
        (Lapse::Released { ago: seconds(1) }, 1500..=1503),
        (Lapse::Died { last_seen_ago: seconds(3), sends_for: seconds(15), in_flight: 0 }, 2500..=2503),
        (Lapse::Died { last_seen_ago: seconds(3), sends_for: seconds(15), in_flight: 8 }, 6506..=6523),
    ] {
        let clock = clock();
        let pacer = pacer(120, &clock);
        pacer.start_after_lapse(previous);
        let start = clock.tick();
        let _first = until_allowed(&pacer, &clock);
        let waited = clock.tick().since(start).as_millis();
        assert!(expected.contains(&waited), "{previous:?}: {waited}");
    }
}

#[test]
fn room_is_left_for_what_a_lapsed_owner_has_in_flight() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    pacer.start_after_lapse(Lapse::Died { last_seen_ago: seconds(60), sends_for: seconds(15), in_flight: 8 });
    let start = clock.tick();
    let mut most = 0;
    while clock.tick().since(start) < seconds(119) {
        let mut permit = until_allowed(&pacer, &clock);
        permit.sent();
        permit.counted();
        most = most.max(pacer.usage().sent_last_minute);
    }
    assert_eq!(most, 112);
}

#[test]
fn ten_thousand_waiting_requests_cost_little_and_keep_the_pace() {
    // A million a minute. Time moves in steps of 5 ms, as timers do; each step must let some 83 go.
    let clock = clock();
    let pacer = pacer(1_000_000, &clock);
    let start = clock.tick();
    let mut sent = 0_u64;
    for _ in 0..400 {
        clock.advance(millis(5));
        while let Ok(mut permit) = pacer.try_enter() {
            permit.sent();
            permit.counted();
            sent += 1;
        }
    }
    let due = clock.tick().since(start).as_secs_f64() * 1_000_000.0 / 60.0;
    assert!(sent as f64 >= 0.99 * due, "{sent} of {due}");
    assert!((sent as f64) <= due + 1700.0);
}
