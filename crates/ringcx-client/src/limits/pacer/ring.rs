//! The places in the last minute: what makes a pacer exact at the server. Pure bookkeeping, time is an argument.
//!
//! A request holds a place from the moment it is allowed until [`MINUTE`] and [`GUARD`] after it was counted for
//! certain. Were there a window with one arrival more than there are places, the one sent last of them would have been
//! sent while all the others still held theirs; so there is none.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::{GUARD, LATEST_ARRIVAL, MINUTE};
use crate::clock::Tick;

/// Who holds a place. Requests are kept by the millisecond, so that the cost of a large limit does not grow with it.
#[derive(Debug)]
pub(super) struct Ring {
    places: u64,
    /// Allowed, but not yet sent.
    unsent: u64,
    /// Sent: how many, and by the millisecond in which they were counted at the latest, as far as is known.
    sent: u64,
    counted_by: BTreeMap<u64, u64>,
}

/// The millisecond at which a sent request is thought to have been counted; names it until its answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Ring {
    pub(super) fn new(limit: u32) -> Ring {
        Ring { places: limit.into(), unsent: 0, sent: 0, counted_by: BTreeMap::new() }
    }

    /// Whether somebody would have to leave before another may come.
    pub(super) fn is_full(&self) -> bool {
        self.unsent + self.sent >= self.places
    }

    /// Lets go of those whose minute is over.
    pub(super) fn tidy(&mut self, now: Tick) {
        while let Some(first) = self.counted_by.first_entry() {
            if free_at(*first.key()) > now {
                return;
            }
            self.sent = self.sent.saturating_sub(first.remove());
        }
    }

    /// When the next place becomes free; `None` if that depends on requests that were not sent yet.
    pub(super) fn next_free(&self) -> Option<Tick> {
        self.counted_by.first_key_value().map(|(at, _)| free_at(*at))
    }

    /// Takes a place for a request that may be sent now.
    pub(super) fn enter(&mut self) {
        self.unsent += 1;
    }

    /// Gives back the place of a request that was never sent.
    pub(super) fn give_back(&mut self) {
        self.unsent = self.unsent.saturating_sub(1);
    }

    /// A request that had entered leaves now.
    pub(super) fn send(&mut self, now: Tick) -> Mark {
        self.give_back();
        self.occupy(now + LATEST_ARRIVAL, 1)
    }

    /// The server has counted the request by now. An early answer frees the place sooner; a late one (a stalled
    /// connection, a machine that slept) proves that the request may have arrived later than was thought.
    pub(super) fn count(&mut self, mark: Mark, now: Tick) {
        if mark.0 == ceil_millis(now) {
            return;
        }
        if let Some(there) = self.counted_by.get_mut(&mark.0) {
            self.sent = self.sent.saturating_sub(1);
            *there = there.saturating_sub(1);
            if *there == 0 {
                self.counted_by.remove(&mark.0);
            }
        }
        self.occupy(now, 1);
    }

    /// Occupies so many places until a minute after `counted`.
    pub(super) fn occupy(&mut self, counted: Tick, count: u64) -> Mark {
        let mark = ceil_millis(counted);
        *self.counted_by.entry(mark).or_default() += count;
        self.sent += count;
        Mark(mark)
    }
}

fn free_at(counted_by: u64) -> Tick {
    Tick(Duration::from_millis(counted_by).saturating_add(MINUTE + GUARD))
}

fn ceil_millis(at: Tick) -> u64 {
    u64::try_from(at.0.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// How many of something there were in the last 60 s.
#[derive(Debug, Default)]
pub(super) struct Tally {
    by_millisecond: VecDeque<(u64, u64)>,
    total: u64,
}

impl Tally {
    /// One more, at `now`, which never goes back.
    pub(super) fn add(&mut self, now: Tick) {
        let now = floor_millis(now);
        self.tidy(now);
        self.total += 1;
        match self.by_millisecond.back_mut() {
            Some((at, count)) if *at >= now => *count += 1,
            _ => self.by_millisecond.push_back((now, 1)),
        }
    }

    /// How many there were in the 60 s up to `now`.
    pub(super) fn last_minute(&mut self, now: Tick) -> u64 {
        self.tidy(floor_millis(now));
        self.total
    }

    fn tidy(&mut self, now: u64) {
        while let Some((at, count)) = self.by_millisecond.front().copied() {
            if at.saturating_add(60_000) > now {
                return;
            }
            self.total = self.total.saturating_sub(count);
            self.by_millisecond.pop_front();
        }
    }
}

fn floor_millis(at: Tick) -> u64 {
    u64::try_from(at.0.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick(Duration::from_millis(millis))
    }

    fn full_until(ring: &mut Ring, from: u64) -> u64 {
        (from..)
            .find(|now| {
                ring.tidy(at(*now));
                !ring.is_full()
            })
            .unwrap()
    }

    #[test]
    fn an_answered_request_holds_its_place_for_a_minute_after_the_answer() {
        let mut ring = Ring::new(1);
        ring.enter();
        let mark = ring.send(at(1000));
        ring.count(mark, at(1100));
        assert_eq!(ring.next_free(), Some(at(61_150)));
        assert_eq!(full_until(&mut ring, 1100), 61_150);
    }

    #[test]
    fn a_request_without_an_answer_is_thought_to_arrive_for_two_seconds() {
        let mut ring = Ring::new(1);
        ring.enter();
        ring.send(at(1000));
        assert_eq!(full_until(&mut ring, 1000), 63_050);
    }

    #[test]
    fn a_late_answer_prolongs_even_a_place_that_was_free_again() {
        let mut ring = Ring::new(1);
        ring.enter();
        let mark = ring.send(at(1000));
        ring.count(mark, at(11_000));
        assert_eq!(full_until(&mut ring, 11_000), 71_050);
        ring.enter();
        let mark = ring.send(at(100_000));
        assert_eq!(full_until(&mut ring, 100_000), 162_050);
        ring.count(mark, at(170_000));
        assert_eq!(full_until(&mut ring, 170_000), 230_050);
    }

    #[test]
    fn a_place_given_back_is_free_at_once() {
        let mut ring = Ring::new(2);
        ring.enter();
        ring.enter();
        assert!(ring.is_full());
        assert_eq!(ring.next_free(), None);
        ring.give_back();
        assert!(!ring.is_full());
    }

    #[test]
    fn a_tally_forgets_what_is_a_minute_old() {
        let mut tally = Tally::default();
        for millis in [0, 0, 30_000, 59_999] {
            tally.add(at(millis));
        }
        assert_eq!(tally.last_minute(at(59_999)), 4);
        assert_eq!(tally.last_minute(at(60_000)), 2);
        assert_eq!(tally.last_minute(at(90_000)), 1);
        assert_eq!(tally.last_minute(at(500_000)), 0);
    }
}
