//! How many events each sink was sent in a minute. Kept in memory only: it starts empty with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Time;

/// The shortest interval between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(600);
/// The shortest time that a rate is computed of.
const MIN_SPAN: Duration = Duration::from_secs(20);

/// The numbers of delivered events of the last minutes, by sink.
#[derive(Debug, Default)]
pub(in crate::http) struct DeliveryRates(Mutex<BTreeMap<String, VecDeque<(Time, u64)>>>);

impl DeliveryRates {
    /// Records how many events a sink was sent so far.
    pub(in crate::http) fn record(&self, sink: &str, at: Time, delivered: u64) {
        let mut sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = sinks.entry(sink.to_owned()).or_default();
        // After the clock was set back, or a sink was created anew, it starts over.
        if samples.back().is_some_and(|(last, before)| *last > at || *before > delivered) {
            samples.clear();
        }
        if samples.back().is_some_and(|(last, _)| at.since(*last) < SAMPLE_INTERVAL) {
            return;
        }
        samples.push_back((at, delivered));
        while samples.len() > 2 && samples.get(1).is_some_and(|(second, _)| at.since(*second) >= WINDOW) {
            samples.pop_front();
        }
    }

    /// The events of a minute over the last minutes; `None` until there are enough samples.
    pub(in crate::http) fn rate_per_minute(&self, sink: &str) -> Option<f64> {
        let sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = sinks.get(sink)?;
        let ((first, before), (last, after)) = (samples.front()?, samples.back()?);
        let span = last.since(*first);
        (span >= MIN_SPAN).then(|| {
            let rate = (after - before) as f64 * 60.0 / span.as_secs_f64();
            (rate * 10.0).round() / 10.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_minutes() {
        let rates = DeliveryRates::default();
        assert_eq!(rates.rate_per_minute("lake"), None);
        for second in 0..2_000 {
            // Ten a minute at first, sixty a minute in the last minutes.
            let delivered = if second < 1_000 { second / 6 } else { 166 + (second - 1_000) };
            rates.record("lake", Time::from_secs(second as i64), delivered);
        }
        assert_eq!(rates.rate_per_minute("lake"), Some(60.0));
        rates.record("lake", Time::from_secs(2_010), 0);
        assert_eq!(rates.rate_per_minute("lake"), None, "the sink was created anew");
    }
}
