//! A circuit breaker for one endpoint of one account. Pure.
//!
//! It opens on faults of the account or the service, not of one item: three different segments in a
//! row refused with 403, one 401 to a fresh token, or a run of failures without a success. While it
//! is open, no item uses up an attempt. When the pause is over, the breaker is half open: one
//! request, the probe, is sent before all others.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::backoff::Fault;
use crate::clock::Time;

/// Different segments in a row that are refused with 403 before the breaker opens.
const REFUSED_SEGMENTS_TO_TRIP: usize = 3;
/// Transient failures in a row before the breaker opens.
const FAILURES_TO_TRIP: u32 = 8;
/// The longest pause after a missing permission or a refused token.
const MAX_REFUSED_PAUSE: Duration = Duration::from_secs(900);
/// The longest pause after transient failures.
const MAX_OUTAGE_PAUSE: Duration = Duration::from_secs(60);

/// The breaker's state.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    refused_segments: BTreeSet<String>,
    consecutive_failures: u32,
    pause: Option<BreakerPause>,
}

/// An open or half-open breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerPause {
    /// When the breaker first opened.
    pub since: Time,
    /// When the probe may be sent.
    pub until: Time,
    /// How many times in a row it opened.
    pub times: u32,
    /// The segment of the probe that is under way.
    probe: Option<String>,
}

/// What an answer means beyond its own item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerEvent {
    /// The answer concerns its item only: complete the item.
    ItemOnly,
    /// The fault is the endpoint's or the account's: return the item unchanged.
    EndpointFault,
    /// The endpoint recovered, after a pause that began at the given time.
    Recovered(Time),
}

impl CircuitBreaker {
    /// Whether a request for this segment may be sent now. After a pause, it becomes the probe.
    pub fn try_acquire(&mut self, segment: &str, now: Time) -> bool {
        match &mut self.pause {
            None => true,
            Some(pause) if now >= pause.until && pause.probe.is_none() => {
                pause.probe = Some(segment.to_owned());
                true
            }
            Some(_) => false,
        }
    }

    /// Whether [`CircuitBreaker::try_acquire`] would succeed now.
    pub fn allows_request(&self, now: Time) -> bool {
        self.pause.as_ref().is_none_or(|pause| now >= pause.until && pause.probe.is_none())
    }

    /// When the probe may be sent, if the breaker is open at `at`. `None` once the pause is over:
    /// the probe's answer decides.
    pub fn retry_at(&self, at: Time) -> Option<Time> {
        self.pause.as_ref().map(|pause| pause.until).filter(|until| *until > at)
    }

    /// The current pause.
    pub fn pause(&self) -> Option<&BreakerPause> {
        self.pause.as_ref()
    }

    /// Restores a pause that an earlier process recorded.
    pub fn restore_pause(&mut self, since: Time, until: Time, times: u32) {
        self.pause = Some(BreakerPause { since, until, times, probe: None });
    }

    /// Whether the request for this segment is the probe.
    fn is_probe(&self, segment: &str) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.probe.as_deref() == Some(segment))
    }

    /// Releases the probe, if it is the request for this segment, whose outcome says nothing about
    /// the endpoint.
    pub fn release_probe(&mut self, segment: &str) {
        if let Some(pause) = self.pause.as_mut().filter(|pause| pause.probe.as_deref() == Some(segment)) {
            pause.probe = None;
        }
    }

    /// Releases a probe that ended without an answer; the next one may be sent after `wait`.
    pub fn postpone_probe(&mut self, segment: &str, now: Time, wait: Duration) {
        if let Some(pause) = self.pause.as_mut().filter(|pause| pause.probe.as_deref() == Some(segment)) {
            pause.probe = None;
            pause.until = now + wait;
        }
    }

    /// Opens the breaker until then, for a reason outside the endpoint: the login is unavailable.
    pub fn trip_until(&mut self, now: Time, until: Time) {
        let since = self.pause.as_ref().map_or(now, |pause| pause.since);
        let times = self.pause.as_ref().map_or(0, |pause| pause.times);
        self.pause = Some(BreakerPause { since, until, times, probe: None });
    }

    /// Allows the probe at once.
    pub fn retry_now(&mut self, now: Time) {
        if let Some(pause) = &mut self.pause {
            pause.until = pause.until.min(now);
        }
    }

    /// Records an answer of the endpoint, 404 included.
    pub fn record_success(&mut self) -> BreakerEvent {
        self.refused_segments.clear();
        self.consecutive_failures = 0;
        self.pause.take().map_or(BreakerEvent::ItemOnly, |pause| BreakerEvent::Recovered(pause.since))
    }

    /// Records a fault. `first` is the length of the first pause, `jitter` is in 0..1.
    pub fn record_failure(
        &mut self,
        fault: Fault,
        segment: &str,
        now: Time,
        first: Duration,
        jitter: f64,
    ) -> BreakerEvent {
        match fault {
            // A broken answer is still an answer of the endpoint: the fault is the item's, however
            // often it occurs.
            Fault::NotYet | Fault::Permanent | Fault::Broken => return self.record_success(),
            // The pacer handles 429; it says nothing about the endpoint.
            Fault::RateLimited => {
                self.release_probe(segment);
                return BreakerEvent::EndpointFault;
            }
            Fault::Unauthorised => {}
            Fault::Forbidden => {
                self.refused_segments.insert(segment.to_owned());
                if self.refused_segments.len() < REFUSED_SEGMENTS_TO_TRIP && self.pause.is_none() {
                    return BreakerEvent::ItemOnly;
                }
            }
            Fault::Transient => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                if self.consecutive_failures < FAILURES_TO_TRIP && self.pause.is_none() {
                    return BreakerEvent::ItemOnly;
                }
            }
        }
        let longest = if fault == Fault::Transient { MAX_OUTAGE_PAUSE } else { MAX_REFUSED_PAUSE };
        // Answers to requests that were under way when the pause began do not prolong it, and do
        // not decide while the probe is under way.
        if self.pause.is_some() && !self.is_probe(segment) {
            return BreakerEvent::EndpointFault;
        }
        let times = self.pause.as_ref().map_or(0, |pause| pause.times).saturating_add(1);
        let span = first.saturating_mul(1 << (times - 1).min(16)).min(longest.max(first));
        let span = span.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let since = self.pause.as_ref().map_or(now, |pause| pause.since);
        self.pause = Some(BreakerPause { since, until: now + span, times, probe: None });
        BreakerEvent::EndpointFault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(10);

    #[test]
    fn one_refused_segment_is_an_item_fault_and_three_trip_the_breaker() {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..5 {
            assert_eq!(breaker.record_failure(Fault::Forbidden, "one", Time(0), FIRST, 1.0), BreakerEvent::ItemOnly);
        }
        assert_eq!(breaker.record_failure(Fault::Forbidden, "two", Time(0), FIRST, 1.0), BreakerEvent::ItemOnly);
        assert_eq!(breaker.record_failure(Fault::Forbidden, "three", Time(0), FIRST, 1.0), BreakerEvent::EndpointFault);
        assert!(!breaker.allows_request(Time(9_999)));
        assert!(breaker.allows_request(Time(10_000)));
        assert_eq!((breaker.retry_at(Time(9_999)), breaker.retry_at(Time(10_000))), (Some(Time(10_000)), None));
    }

    #[test]
    fn broken_answers_never_trip_the_breaker() {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..100 {
            assert_eq!(breaker.record_failure(Fault::Broken, "x", Time(0), FIRST, 0.0), BreakerEvent::ItemOnly);
        }
        assert_eq!(breaker.record_failure(Fault::Unauthorised, "x", Time(0), FIRST, 1.0), BreakerEvent::EndpointFault);
        assert!(breaker.try_acquire("x", Time(10_000)));
        assert_eq!(
            breaker.record_failure(Fault::Broken, "x", Time(10_000), FIRST, 1.0),
            BreakerEvent::Recovered(Time(0))
        );
    }

    #[test]
    fn after_a_pause_one_probe_is_sent_and_the_others_wait_for_it() {
        let mut breaker = CircuitBreaker::default();
        assert_eq!(breaker.record_failure(Fault::Unauthorised, "x", Time(0), FIRST, 1.0), BreakerEvent::EndpointFault);
        assert!(!breaker.try_acquire("x", Time(5_000)));
        assert!(breaker.try_acquire("x", Time(10_000)));
        assert!(!breaker.try_acquire("x", Time(10_000)));
        assert_eq!(
            breaker.record_failure(Fault::Unauthorised, "x", Time(10_000), FIRST, 1.0),
            BreakerEvent::EndpointFault
        );
        assert_eq!(breaker.pause().unwrap().until, Time(30_000));
        assert!(breaker.try_acquire("x", Time(30_000)));
        assert_eq!(breaker.record_success(), BreakerEvent::Recovered(Time(0)));
        assert!(breaker.try_acquire("x", Time(30_000)));
    }

    #[test]
    fn a_request_that_was_under_way_does_not_decide_for_the_probe() {
        let mut breaker = CircuitBreaker::default();
        breaker.record_failure(Fault::Unauthorised, "x", Time(0), FIRST, 1.0);
        assert!(breaker.try_acquire("probe", Time(10_000)));
        let before = breaker.pause().cloned();
        for fault in [Fault::Unauthorised, Fault::Transient, Fault::RateLimited] {
            assert_eq!(breaker.record_failure(fault, "late", Time(11_000), FIRST, 1.0), BreakerEvent::EndpointFault);
            breaker.postpone_probe("late", Time(11_000), FIRST);
            assert_eq!(breaker.pause().cloned(), before);
            assert!(!breaker.try_acquire("second", Time(60_000)));
        }
        breaker.record_failure(Fault::Transient, "probe", Time(12_000), FIRST, 1.0);
        assert_eq!(breaker.pause().unwrap().until, Time(32_000));
    }

    #[test]
    fn a_lost_probe_is_released_for_the_next_request() {
        let mut breaker = CircuitBreaker::default();
        breaker.postpone_probe("x", Time(0), FIRST);
        assert!(breaker.pause().is_none());
        breaker.record_failure(Fault::Unauthorised, "x", Time(0), FIRST, 1.0);
        breaker.postpone_probe("x", Time(1), FIRST);
        assert_eq!(breaker.pause().unwrap().until, Time(10_000), "none was under way");
        assert!(breaker.try_acquire("x", Time(10_000)));
        breaker.postpone_probe("x", Time(10_500), FIRST);
        assert!(!breaker.try_acquire("x", Time(20_499)) && breaker.try_acquire("x", Time(20_500)));
    }

    #[test]
    fn a_run_of_failures_trips_the_breaker_and_a_success_resets_the_run() {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..FAILURES_TO_TRIP - 1 {
            assert_eq!(breaker.record_failure(Fault::Transient, "x", Time(0), FIRST, 0.0), BreakerEvent::ItemOnly);
        }
        assert_eq!(breaker.record_success(), BreakerEvent::ItemOnly);
        for _ in 0..FAILURES_TO_TRIP - 1 {
            assert_eq!(breaker.record_failure(Fault::Transient, "x", Time(0), FIRST, 0.0), BreakerEvent::ItemOnly);
        }
        assert_eq!(breaker.record_failure(Fault::Transient, "x", Time(0), FIRST, 0.0), BreakerEvent::EndpointFault);
        // Failures of requests that were under way do not prolong it.
        let until = breaker.pause().unwrap().until;
        assert_eq!(breaker.record_failure(Fault::Transient, "y", Time(1), FIRST, 0.0), BreakerEvent::EndpointFault);
        assert_eq!(breaker.pause().unwrap().until, until);
    }
}
