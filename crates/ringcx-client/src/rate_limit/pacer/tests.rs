//! Runs pacers on a manual clock against simulated servers that count arrivals themselves.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;

use futures_util::FutureExt;

use super::super::WINDOW_GUARD;
use super::*;
use crate::clock::Time;

mod foreign_use;
mod simulated_runs;

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
    Box::pin(pacer.acquire())
}

fn ready(waiting: &mut Waiting<'_>) -> Option<Permit> {
    waiting.as_mut().now_or_never()
}

/// Sends one request, which is answered at once.
fn request(pacer: &Pacer) {
    let mut permit = pacer.try_acquire().unwrap();
    assert!(permit.mark_sent());
    permit.mark_counted();
}

/// Advances the clock until a request may be sent.
fn until_allowed(pacer: &Pacer, clock: &Clock) -> Permit {
    loop {
        match pacer.try_acquire() {
            Ok(permit) => return permit,
            Err(due) => {
                assert!(due > clock.tick(), "the retry time is not in the future");
                clock.advance(due.since(clock.tick()));
            }
        }
    }
}

#[test]
fn the_first_request_of_a_fresh_pacer_goes_at_once_whatever_the_limit() {
    for limit in [1, 2, 10, 120, 6000, u32::MAX] {
        assert!(pacer(limit, &clock()).try_acquire().is_ok(), "{limit}");
    }
}

#[test]
fn a_limit_of_one_allows_the_second_request_a_minute_after_the_first_was_counted() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    let mut permit = pacer.try_acquire().unwrap();
    permit.mark_sent();
    clock.advance(millis(300));
    permit.mark_counted();
    let counted = clock.tick();
    let _next = until_allowed(&pacer, &clock);
    assert_eq!(clock.tick().since(counted), seconds(60) + WINDOW_GUARD);
}

#[test]
fn a_permit_dropped_before_it_was_sent_costs_nothing() {
    let clock = clock();
    for limit in [1, 3, 120] {
        let pacer = pacer(limit, &clock);
        for _ in 0..1000 {
            drop(pacer.try_acquire().unwrap());
        }
        request(&pacer);
        assert_eq!(pacer.usage().sent_last_minute, 1);
    }
}

#[test]
fn a_permit_dropped_after_it_was_sent_holds_its_slot_as_if_it_arrived_late() {
    for wait in [Duration::ZERO, seconds(1), seconds(20)] {
        let clock = clock();
        let pacer = pacer(1, &clock);
        let sent = clock.tick();
        let mut permit = pacer.try_acquire().unwrap();
        permit.mark_sent();
        clock.advance(wait);
        drop(permit);
        let _next = until_allowed(&pacer, &clock);
        assert_eq!(clock.tick().since(sent), seconds(62) + WINDOW_GUARD);
    }
}

#[test]
fn counted_without_sent_counts_all_the_same() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    pacer.try_acquire().unwrap().mark_counted();
    assert_eq!(pacer.usage().sent_last_minute, 1);
    assert!(pacer.try_acquire().is_err());
}

#[test]
fn nothing_is_sent_during_a_hold_and_a_hold_is_never_shortened() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    let until = clock.tick() + seconds(10);
    pacer.hold_until(until);
    pacer.hold_until(clock.tick() + seconds(5));
    assert_eq!(pacer.try_acquire().unwrap_err(), until);
    assert_eq!(pacer.usage().paused_until, Some(until));
    clock.advance(seconds(10));
    request(&pacer);
    assert_eq!(pacer.usage().paused_until, None);
}

#[test]
fn at_the_lease_deadline_nothing_is_sent_until_it_moves() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    let deadline = clock.tick() + seconds(1);
    pacer.set_lease_deadline(Some(deadline));
    let mut in_time = pacer.try_acquire().unwrap();
    assert!(in_time.mark_sent());
    clock.advance(millis(999));
    let mut too_late = pacer.try_acquire().unwrap();
    clock.advance(millis(1));
    assert!(!too_late.mark_sent(), "the process may have been suspended in between");
    assert!(pacer.try_acquire().unwrap_err() > clock.tick());
    let mut waiting = queue(&pacer);
    assert!(ready(&mut waiting).is_none());
    clock.advance(seconds(10));
    assert!(ready(&mut waiting).is_none());
    pacer.set_lease_deadline(Some(clock.tick() + seconds(1)));
    assert!(ready(&mut waiting).is_some());
    drop(waiting);
    clock.advance(seconds(5));
    assert!(pacer.try_acquire().is_err());
    pacer.set_lease_deadline(None);
    assert!(pacer.try_acquire().is_ok());
}

#[test]
fn a_lease_that_ends_does_not_stop_other_senders_of_the_same_limit() {
    let clock = clock();
    let one = pacer(60, &clock);
    let other = one.with_own_lease();
    one.set_lease_deadline(Some(clock.tick() + seconds(5)));
    // The first in the queue loses its lease while it waits.
    request(&one);
    let (mut lost, mut waiting) = (queue(&one), queue(&other));
    assert!(ready(&mut lost).is_none() && ready(&mut waiting).is_none());
    one.set_lease_deadline(Some(Tick::default()));
    clock.advance(seconds(2));
    assert!(ready(&mut lost).is_none(), "it may not send");
    assert!(ready(&mut waiting).is_some(), "it does not block the queue either");
    assert!(one.try_acquire().is_err());
    clock.advance(seconds(60));
    request(&other);
    one.set_lease_deadline(None);
    drop(waiting);
    clock.advance(seconds(2));
    assert!(ready(&mut lost).is_some(), "it continues when the lease is renewed");
}

#[test]
fn recorded_foreign_use_counts_against_the_limit() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    pacer.record_foreign_use();
    let noted = clock.tick();
    let _permit = until_allowed(&pacer, &clock);
    assert!(clock.tick().since(noted) >= seconds(60));
}

#[test]
fn waiters_are_served_in_order_and_none_overtakes() {
    let clock = clock();
    let pacer = pacer(60, &clock);
    request(&pacer);
    let mut waiting: Vec<Waiting<'_>> = (0..4).map(|_| queue(&pacer)).collect();
    assert!(waiting.iter_mut().all(|one| ready(one).is_none()));
    clock.advance(seconds(2));
    assert!(pacer.try_acquire().is_err(), "others wait");
    assert!(waiting.iter_mut().rev().take(3).all(|one| ready(one).is_none()), "not their turn");
    while !waiting.is_empty() {
        let mut first = waiting.remove(0);
        let mut permit = ready(&mut first).expect("its turn");
        permit.mark_sent();
        permit.mark_counted();
        assert!(waiting.iter_mut().all(|one| ready(one).is_none()));
        clock.advance(seconds(2));
    }
}

#[test]
fn a_cancelled_waiter_lets_the_next_one_proceed() {
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
    let permit = pacer.try_acquire().unwrap();
    let mut waiting = queue(&pacer);
    assert!(ready(&mut waiting).is_none());
    drop(permit);
    assert!(ready(&mut waiting).is_some());
}

#[test]
fn an_answer_wakes_the_first_waiter_sooner() {
    let clock = clock();
    let pacer = pacer(1, &clock);
    let mut permit = pacer.try_acquire().unwrap();
    let mut waiting = queue(&pacer);
    assert!(ready(&mut waiting).is_none());
    permit.mark_sent();
    assert!(ready(&mut waiting).is_none());
    permit.mark_counted();
    assert!(ready(&mut waiting).is_none());
    // For a limit of one, GCRA is a little slower than the sliding-window log.
    clock.advance(seconds(60) + millis(200));
    assert!(ready(&mut waiting).is_some());
}

#[test]
fn usage_shows_what_was_sent_in_the_last_minute() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    for _ in 0..60 {
        let mut permit = until_allowed(&pacer, &clock);
        permit.mark_sent();
        permit.mark_counted();
    }
    let usage = pacer.usage();
    assert_eq!((usage.sent_last_minute, usage.limit, usage.refused_total), (60, 120, 0));
    assert_eq!(usage.rate_factor, 1.0);
    clock.advance(seconds(60));
    assert_eq!(pacer.usage().sent_last_minute, 0);
}

#[test]
fn after_a_refusal_it_pauses_and_continues_at_a_lower_rate() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    request(&pacer);
    pacer.record_refusal(Some(seconds(7)));
    let usage = pacer.usage();
    assert_eq!(usage.paused_until, Some(clock.tick() + seconds(7)));
    assert_eq!((usage.refused_total, usage.rate_factor), (1, 0.5));
    let paused = clock.tick();
    let mut permit = until_allowed(&pacer, &clock);
    assert!(clock.tick().since(paused) >= seconds(7));
    permit.mark_sent();
    permit.mark_counted();
    pacer.record_success();
    let before = clock.tick();
    let _next = until_allowed(&pacer, &clock);
    let gap = clock.tick().since(before);
    assert!((millis(950)..millis(1010)).contains(&gap), "{gap:?}");
}

#[test]
fn after_a_previous_owner_the_first_request_waits_for_late_arrivals_and_one_interval() {
    for (previous, expected) in [
        (PreviousOwner::Absent, 0..=0),
        (PreviousOwner::Released { ago: seconds(600) }, 0..=0),
        (PreviousOwner::Released { ago: Duration::ZERO }, 2500..=2503),
        (PreviousOwner::Released { ago: seconds(1) }, 1500..=1503),
        (PreviousOwner::Lapsed { last_seen_ago: seconds(3), may_send_for: seconds(15), in_flight: 0 }, 2500..=2503),
        (PreviousOwner::Lapsed { last_seen_ago: seconds(3), may_send_for: seconds(15), in_flight: 8 }, 6506..=6523),
    ] {
        let clock = clock();
        let pacer = pacer(120, &clock);
        pacer.start_after(previous);
        let start = clock.tick();
        let _first = until_allowed(&pacer, &clock);
        let waited = clock.tick().since(start).as_millis();
        assert!(expected.contains(&waited), "{previous:?}: {waited}");
    }
}

#[test]
fn slots_are_kept_for_requests_that_a_lapsed_owner_has_in_flight() {
    let clock = clock();
    let pacer = pacer(120, &clock);
    pacer.start_after(PreviousOwner::Lapsed { last_seen_ago: seconds(60), may_send_for: seconds(15), in_flight: 8 });
    let start = clock.tick();
    let mut most = 0;
    while clock.tick().since(start) < seconds(119) {
        let mut permit = until_allowed(&pacer, &clock);
        permit.mark_sent();
        permit.mark_counted();
        most = most.max(pacer.usage().sent_last_minute);
    }
    assert_eq!(most, 112);
}

#[test]
fn a_million_requests_a_minute_keep_their_rate() {
    // Time moves in steps of 5 ms, as timers do. Each step must allow about 83 requests.
    let clock = clock();
    let pacer = pacer(1_000_000, &clock);
    let start = clock.tick();
    let mut sent = 0_u64;
    for _ in 0..400 {
        clock.advance(millis(5));
        while let Ok(mut permit) = pacer.try_acquire() {
            permit.mark_sent();
            permit.mark_counted();
            sent += 1;
        }
    }
    let due = clock.tick().since(start).as_secs_f64() * 1_000_000.0 / 60.0;
    assert!(sent as f64 >= 0.99 * due, "{sent} of {due}");
    assert!((sent as f64) <= due + 1700.0);
}
