//! Estimates the age at which an artifact becomes available, and delays first attempts until then.
//! Pure.
//!
//! While first attempts wait, retries get a fifth of the requests ([`super::schedule`]). If live
//! windows are read sooner than transcripts become available, each transcript costs a first attempt
//! in vain, and the retries do not fit into the fifth. So live items are not requested at an age at
//! which nothing was found lately.
//!
//! A retry shows that age only roughly: the artifact became available at some time since the
//! previous attempt. So a few items are requested as probes, at an age between the one at which an
//! artifact was still missing and the one at which all were found, until the two are close. One
//! item in many is still requested at once. If it is found, the delay ends. If not, it is retried
//! together with the others. If delayed items are not available when they are requested, the delay
//! grows. If first attempts mostly succeed, nothing is ever delayed.

use std::collections::VecDeque;
use std::time::Duration;

/// Observations kept while nothing is delayed.
const OBSERVATIONS_KEPT: usize = 8;
/// Observations with a late artifact that start the delay: their retries need more than a fifth of
/// the requests.
const MIN_LATE_OBSERVATIONS: usize = 2;
/// Late artifacts in a row that raise the estimate. If half of them were available in time, such a
/// run would not occur in a year.
const LATE_FINDS_TO_RAISE: u32 = 32;
/// One of so many items is requested without a delay: few enough not to affect a 99th percentile.
const EXPLORE_EVERY: u64 = 256;
/// One of so many items is a probe, for as long as the range of possible ages is wide...
const PROBE_EVERY: u64 = 4;
/// ...at one of the ages that divide that range into so many parts. They differ, because the next
/// probes are delayed long before the result of one is known.
const PROBE_DIVISIONS: u32 = 4;
/// Artifacts in a row found by probes that lower the estimate.
const EARLY_FINDS_TO_LOWER: u32 = 2;
/// Artifacts that take longer are left to the backoff, which needs few enough attempts.
const MAX_ESTIMATE: Duration = Duration::from_secs(15 * 60);

/// The estimator of one artifact of one account.
#[derive(Debug, Default)]
pub(super) struct AvailabilityEstimator {
    /// Recent observations, kept while nothing is delayed.
    recent: VecDeque<AvailabilityObservation>,
    /// The age until which items are delayed. `None` while nothing is delayed.
    estimate: Option<AvailabilityEstimate>,
    /// The number of items that would have been delayed.
    requested: u64,
}

/// An artifact that was found.
#[derive(Debug, Clone, Copy)]
struct AvailabilityObservation {
    /// The age at the first attempt.
    first_attempt: Duration,
    /// The age at which it was found.
    found: Duration,
    /// Whether the first attempt failed.
    late: bool,
}

#[derive(Debug, Clone, Copy)]
struct AvailabilityEstimate {
    /// Nothing was found at a younger age lately.
    available: Duration,
    /// The oldest age, below `available`, at which an attempt failed.
    missing: Duration,
    /// Artifacts in a row that were found at a younger age than `available`.
    early_finds: u32,
    /// The oldest age of a first attempt among them.
    oldest_early: Duration,
    /// Artifacts in a row that were missing at `available`.
    late_finds: u32,
    /// The youngest age at which one of them was found.
    youngest_late: Duration,
}

impl AvailabilityEstimate {
    fn new(available: Duration, missing: Duration) -> AvailabilityEstimate {
        AvailabilityEstimate {
            available,
            missing: missing.min(available),
            early_finds: 0,
            oldest_early: Duration::ZERO,
            late_finds: 0,
            youngest_late: Duration::MAX,
        }
    }

    /// The age of the next probe, different each time. `None` once the range of possible ages is
    /// narrow.
    fn probe_age(&self, number: u64) -> Option<Duration> {
        let part = 1 + u32::try_from(number % u64::from(PROBE_DIVISIONS - 1)).unwrap_or(0);
        is_clearly_younger(self.missing, self.available)
            .then(|| self.missing + (self.available - self.missing) * part / PROBE_DIVISIONS)
    }

    /// The estimate after an observation. `None` if the delay turned out to be useless.
    fn updated(mut self, observation: AvailabilityObservation) -> Option<AvailabilityEstimate> {
        let AvailabilityObservation { first_attempt, found, late } = observation;
        if first_attempt >= self.available {
            self.late_finds = if late { self.late_finds + 1 } else { 0 };
            self.youngest_late = if late { self.youngest_late.min(found) } else { Duration::MAX };
            return Some(if self.late_finds >= LATE_FINDS_TO_RAISE {
                AvailabilityEstimate::new(self.youngest_late, self.available)
            } else {
                self
            });
        }
        if first_attempt <= self.missing {
            return late.then_some(self);
        }
        if late {
            return Some(AvailabilityEstimate {
                missing: first_attempt,
                early_finds: 0,
                oldest_early: Duration::ZERO,
                ..self
            });
        }
        self.early_finds += 1;
        self.oldest_early = self.oldest_early.max(first_attempt);
        Some(if self.early_finds >= EARLY_FINDS_TO_LOWER {
            AvailabilityEstimate::new(self.oldest_early, self.missing)
        } else {
            self
        })
    }
}

impl AvailabilityEstimator {
    /// How long to delay the first attempt of an item of this age.
    pub(super) fn first_attempt_delay(&mut self, age: Duration) -> Option<Duration> {
        let estimate = self.estimate.filter(|estimate| is_clearly_younger(age, estimate.available))?;
        self.requested = self.requested.wrapping_add(1);
        if self.requested.is_multiple_of(EXPLORE_EVERY) {
            return None;
        }
        let probe =
            estimate.probe_age(self.requested / PROBE_EVERY).filter(|_| self.requested.is_multiple_of(PROBE_EVERY));
        Some(probe.unwrap_or(estimate.available).saturating_sub(age)).filter(|delay| !delay.is_zero())
    }

    /// How long to delay the retry of an item of this age whose attempt failed: until other items
    /// are requested.
    pub(super) fn retry_delay(&self, age: Duration) -> Option<Duration> {
        self.estimate.and_then(|estimate| estimate.available.checked_sub(age)).filter(|delay| !delay.is_zero())
    }

    /// Records an artifact found at age `found` whose first attempt, at age `first_attempt`, failed
    /// if `late`. Returns whether the delay turned out to be useless, so that delayed items are
    /// due.
    pub(super) fn record_found(&mut self, first_attempt: Duration, found: Duration, late: bool) -> bool {
        let observation = AvailabilityObservation { first_attempt, found, late };
        if let Some(estimate) = self.estimate {
            self.estimate = estimate.updated(observation).filter(|estimate| estimate.available <= MAX_ESTIMATE);
            self.recent.clear();
            return self.estimate.is_none();
        }
        self.recent.truncate(OBSERVATIONS_KEPT - 1);
        self.recent.push_front(observation);
        let late = || self.recent.iter().filter(|observation| observation.late);
        if self.recent.len() < OBSERVATIONS_KEPT || late().count() < MIN_LATE_OBSERVATIONS {
            return false;
        }
        let youngest = self.recent.iter().map(|observation| observation.found).min();
        self.estimate = youngest.filter(|youngest| *youngest <= MAX_ESTIMATE).map(|youngest| {
            let missing =
                late().map(|observation| observation.first_attempt).filter(|attempt| *attempt < youngest).max();
            AvailabilityEstimate::new(youngest, missing.unwrap_or_default())
        });
        false
    }
}

/// Younger by more than a thousandth, which covers clock differences and is not worth a delay.
fn is_clearly_younger(age: Duration, other: Duration) -> bool {
    age < other.mul_f64(0.999)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Simulates a live item of age `seen` that is available at age `available` and is retried
    /// every ten seconds. Returns the number of attempts and the age at which it was found.
    fn simulate(estimator: &mut AvailabilityEstimator, seen: Duration, available: Duration) -> (u32, Duration) {
        let first_attempt = seen + estimator.first_attempt_delay(seen).unwrap_or_default();
        let (mut age, mut attempts) = (first_attempt, 1);
        while age < available {
            age += seconds(10);
            attempts += 1;
        }
        estimator.record_found(first_attempt, age, attempts > 1);
        (attempts, age)
    }

    #[test]
    fn artifacts_that_are_always_late_need_one_attempt_each() {
        let mut estimator = AvailabilityEstimator::default();
        let seen = |item: u64| seconds(300 + item * 7 % 120);
        let attempts: u32 = (0..1000).map(|item| simulate(&mut estimator, seen(item), seconds(421)).0).sum();
        assert!(attempts < 1200, "{attempts}");
        assert!(simulate(&mut estimator, seconds(300), seconds(421)).1 < seconds(435));
    }

    #[test]
    fn nothing_is_delayed_if_artifacts_are_mostly_available() {
        let mut estimator = AvailabilityEstimator::default();
        for item in 0..1000 {
            let available = if item % 8 == 0 { seconds(320) } else { seconds(290) };
            simulate(&mut estimator, seconds(300), available);
            assert_eq!(estimator.first_attempt_delay(seconds(300)), None);
        }
    }

    #[test]
    fn an_exploring_request_ends_the_delay_once_artifacts_are_early_again() {
        let mut estimator = AvailabilityEstimator::default();
        for _ in 0..OBSERVATIONS_KEPT {
            simulate(&mut estimator, seconds(300), seconds(421));
        }
        assert!(estimator.first_attempt_delay(seconds(300)).is_some());
        let over = (0..EXPLORE_EVERY).find(|_| {
            let age = seconds(300) + estimator.first_attempt_delay(seconds(300)).unwrap_or_default();
            estimator.record_found(age, age, false)
        });
        assert!(over.is_some());
        assert_eq!(estimator.first_attempt_delay(seconds(300)), None);
    }

    #[test]
    fn an_estimate_that_is_far_too_high_is_soon_lowered() {
        let mut estimator = AvailabilityEstimator::default();
        for _ in 0..OBSERVATIONS_KEPT {
            // Each was available at 421 s, but retried only a minute and a half later.
            estimator.record_found(seconds(300), seconds(510), true);
        }
        let last = (0..100).map(|_| simulate(&mut estimator, seconds(300), seconds(421)).1).skip(60).max();
        assert!(last.is_some_and(|last| last < seconds(431)), "{last:?}");
    }

    #[test]
    fn the_estimate_rises_if_artifacts_become_later() {
        let mut estimator = AvailabilityEstimator::default();
        for _ in 0..100 {
            simulate(&mut estimator, seconds(300), seconds(350));
        }
        for _ in 0..100 {
            simulate(&mut estimator, seconds(300), seconds(500));
        }
        // Except for the exploring request, which is retried every ten seconds.
        let with_retries = (0..100).filter(|_| simulate(&mut estimator, seconds(300), seconds(500)).0 > 1).count();
        assert!(with_retries <= 1, "{with_retries}");
    }

    #[test]
    fn the_estimate_is_soon_exact_to_a_thousandth() {
        let mut estimator = AvailabilityEstimator::default();
        for _ in 0..OBSERVATIONS_KEPT {
            estimator.record_found(seconds(300), seconds(510), true);
        }
        for _ in 0..200 {
            simulate(&mut estimator, seconds(300), seconds(421));
        }
        let last = (0..100)
            .map(|_| simulate(&mut estimator, seconds(300), seconds(421)).1)
            .filter(|age| *age < seconds(422))
            .count();
        assert!(last >= 99, "{last}");
    }

    #[test]
    fn a_failed_early_attempt_waits_until_the_estimated_age_and_an_older_one_does_not() {
        let mut estimator = AvailabilityEstimator::default();
        assert_eq!(estimator.retry_delay(seconds(300)), None);
        for _ in 0..OBSERVATIONS_KEPT {
            estimator.record_found(seconds(300), seconds(421), true);
        }
        assert_eq!(estimator.retry_delay(seconds(300)), Some(seconds(121)));
        assert_eq!(estimator.retry_delay(seconds(421)), None);
        assert_eq!(estimator.retry_delay(seconds(500)), None);
    }

    #[test]
    fn random_ages_never_cause_a_long_delay() {
        let mut estimator = AvailabilityEstimator::default();
        // Half of the artifacts are available at the first attempt; the others become available
        // within ten minutes, in no order.
        let mut number: u64 = 7;
        for item in 0..20_000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let available = seconds(300 - 200 + (number >> 33) % 400);
            simulate(&mut estimator, seconds(300), available);
            let wait = estimator.first_attempt_delay(seconds(300)).unwrap_or_default();
            assert!(wait < seconds(90), "item {item} would wait for {wait:?}");
        }
    }

    #[test]
    fn artifacts_found_hours_later_cause_no_delay() {
        let mut estimator = AvailabilityEstimator::default();
        for _ in 0..100 {
            estimator.record_found(seconds(300), seconds(7200), true);
        }
        assert_eq!(estimator.first_attempt_delay(seconds(300)), None);
    }

    proptest! {
        /// No delay is longer than until the youngest age at which an artifact was found lately.
        #[test]
        fn no_delay_exceeds_an_age_at_which_an_artifact_was_found(
            items in prop::collection::vec((0u64..1200, 0u64..1200), 1..200),
        ) {
            let mut estimator = AvailabilityEstimator::default();
            let mut found: Vec<Duration> = Vec::new();
            for (seen, available) in items {
                if let Some(wait) = estimator.first_attempt_delay(seconds(seen)) {
                    let oldest = found.iter().max().copied().unwrap_or_default();
                    prop_assert!(seconds(seen) + wait <= oldest.min(MAX_ESTIMATE));
                }
                found.push(simulate(&mut estimator, seconds(seen), seconds(available)).1);
            }
        }
    }
}
