//! A sliding-window log of one minute, which makes a pacer exact at the server. Pure: time is an
//! argument.
//!
//! A request holds a slot from the moment it is allowed until [`REQUEST_WINDOW`] and
//! [`WINDOW_GUARD`] after the server has certainly counted it. Assume a window with one arrival
//! more than there are slots: the last of them would have been sent while all the others still held
//! their slots. So there is no such window.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{MAX_ARRIVAL_DELAY, REQUEST_WINDOW, WINDOW_GUARD};
use crate::clock::Tick;

/// The slots in use. Requests are kept by the millisecond, so the cost does not grow with the
/// limit.
#[derive(Debug)]
pub(super) struct SlidingWindowLog {
    capacity: u64,
    /// Requests that were allowed and not yet sent.
    unsent: u64,
    /// Requests that were sent: their number, and how many by the latest millisecond at which they
    /// can have been counted.
    sent: u64,
    counts_by_millisecond: BTreeMap<u64, u64>,
}

/// The latest millisecond at which a sent request can have been counted. Identifies its entry until
/// the answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEntry(u64);

impl SlidingWindowLog {
    pub(super) fn new(limit: u32) -> SlidingWindowLog {
        SlidingWindowLog { capacity: limit.into(), unsent: 0, sent: 0, counts_by_millisecond: BTreeMap::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.unsent + self.sent >= self.capacity
    }

    pub(super) fn evict_expired(&mut self, now: Tick) {
        while let Some(first) = self.counts_by_millisecond.first_entry() {
            if free_at(*first.key()) > now {
                return;
            }
            self.sent = self.sent.saturating_sub(first.remove());
        }
    }

    /// When the next slot becomes free; `None` if that depends on requests that were not sent yet.
    pub(super) fn next_free_at(&self) -> Option<Tick> {
        self.counts_by_millisecond.first_key_value().map(|(at, _)| free_at(*at))
    }

    /// Takes a slot for a request that may be sent now.
    pub(super) fn reserve_slot(&mut self) {
        self.unsent += 1;
    }

    /// Releases the slot of a request that was never sent.
    pub(super) fn release_slot(&mut self) {
        self.unsent = self.unsent.saturating_sub(1);
    }

    /// A request with a reserved slot is sent now.
    pub(super) fn record_sent(&mut self, now: Tick) -> LogEntry {
        self.release_slot();
        self.occupy(now + MAX_ARRIVAL_DELAY, 1)
    }

    /// The server has counted the request by now. An early answer frees the slot sooner. A late one
    /// (a stalled connection, a suspended machine) shows that the request may have arrived later
    /// than assumed.
    pub(super) fn record_counted(&mut self, entry: LogEntry, now: Tick) {
        if entry.0 == ceil_millis(now) {
            return;
        }
        if let Some(requests) = self.counts_by_millisecond.get_mut(&entry.0) {
            self.sent = self.sent.saturating_sub(1);
            *requests = requests.saturating_sub(1);
            if *requests == 0 {
                self.counts_by_millisecond.remove(&entry.0);
            }
        }
        self.occupy(now, 1);
    }

    /// Occupies `count` slots until a minute after `counted`.
    pub(super) fn occupy(&mut self, counted: Tick, count: u64) -> LogEntry {
        let millisecond = ceil_millis(counted);
        *self.counts_by_millisecond.entry(millisecond).or_default() += count;
        self.sent += count;
        LogEntry(millisecond)
    }
}

fn free_at(counted_by: u64) -> Tick {
    Tick(Duration::from_millis(counted_by).saturating_add(REQUEST_WINDOW + WINDOW_GUARD))
}

fn ceil_millis(at: Tick) -> u64 {
    u64::try_from(at.0.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Counts events in the last 60 s.
#[derive(Debug, Default)]
pub(super) struct RollingCounter {
    by_millisecond: VecDeque<(u64, u64)>,
    total: u64,
}

impl RollingCounter {
    /// Adds one event at `now`, which never decreases.
    pub(super) fn add(&mut self, now: Tick) {
        let now = floor_millis(now);
        self.evict_expired(now);
        self.total += 1;
        match self.by_millisecond.back_mut() {
            Some((at, count)) if *at >= now => *count += 1,
            _ => self.by_millisecond.push_back((now, 1)),
        }
    }

    /// The number of events in the 60 s up to `now`.
    pub(super) fn last_minute(&mut self, now: Tick) -> u64 {
        self.evict_expired(floor_millis(now));
        self.total
    }

    fn evict_expired(&mut self, now: u64) {
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

    fn full_until(log: &mut SlidingWindowLog, from: u64) -> u64 {
        (from..)
            .find(|now| {
                log.evict_expired(at(*now));
                !log.is_full()
            })
            .unwrap()
    }

    #[test]
    fn an_answered_request_holds_its_slot_for_a_minute_after_the_answer() {
        let mut log = SlidingWindowLog::new(1);
        log.reserve_slot();
        let entry = log.record_sent(at(1000));
        log.record_counted(entry, at(1100));
        assert_eq!(log.next_free_at(), Some(at(61_150)));
        assert_eq!(full_until(&mut log, 1100), 61_150);
    }

    #[test]
    fn a_request_without_an_answer_may_arrive_for_two_seconds() {
        let mut log = SlidingWindowLog::new(1);
        log.reserve_slot();
        log.record_sent(at(1000));
        assert_eq!(full_until(&mut log, 1000), 63_050);
    }

    #[test]
    fn a_late_answer_prolongs_even_a_slot_that_was_free_again() {
        let mut log = SlidingWindowLog::new(1);
        log.reserve_slot();
        let entry = log.record_sent(at(1000));
        log.record_counted(entry, at(11_000));
        assert_eq!(full_until(&mut log, 11_000), 71_050);
        log.reserve_slot();
        let entry = log.record_sent(at(100_000));
        assert_eq!(full_until(&mut log, 100_000), 162_050);
        log.record_counted(entry, at(170_000));
        assert_eq!(full_until(&mut log, 170_000), 230_050);
    }

    #[test]
    fn a_released_slot_is_free_at_once() {
        let mut log = SlidingWindowLog::new(2);
        log.reserve_slot();
        log.reserve_slot();
        assert!(log.is_full());
        assert_eq!(log.next_free_at(), None);
        log.release_slot();
        assert!(!log.is_full());
    }

    #[test]
    fn a_rolling_counter_forgets_events_of_a_minute_ago() {
        let mut counter = RollingCounter::default();
        for millis in [0, 0, 30_000, 59_999] {
            counter.add(at(millis));
        }
        assert_eq!(counter.last_minute(at(59_999)), 4);
        assert_eq!(counter.last_minute(at(60_000)), 2);
        assert_eq!(counter.last_minute(at(90_000)), 1);
        assert_eq!(counter.last_minute(at(500_000)), 0);
    }
}
