//! How far the API's clock is from this machine's, from the `Date` of its answers.
//!
//! A `Date` has whole seconds and is some time under way, so one answer says no more than "within a second or so"; the
//! median of the last few is taken, and nothing is made of less than two seconds.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{AGE, DATE, HeaderMap};

use crate::clock::Time;

/// Answers that are remembered.
const KEPT: usize = 5;
/// Below this it is noise, in milliseconds.
const NOISE: i64 = 2_000;
/// Above this a person is told, in milliseconds.
const WARN: i64 = 5_000;
/// An answer that took longer says too little, in milliseconds.
const SLOWEST: i64 = 10_000;
/// How often an answer is looked at once enough are remembered, in milliseconds.
const EVERY: i64 = 1_000;

/// The measured difference between two clocks. Shared; updated from every answer, read without a lock.
#[derive(Debug, Default)]
pub struct Skew {
    offset: AtomicI64,
    looked: AtomicI64,
    samples: Mutex<Samples>,
}

#[derive(Debug, Default)]
struct Samples {
    last: [i64; KEPT],
    count: usize,
    warned: i64,
}

impl Skew {
    /// Nothing measured yet.
    pub fn new() -> Skew {
        Skew { looked: AtomicI64::new(i64::MIN), ..Skew::default() }
    }

    /// What to add to this machine's time to get the API's, in milliseconds; 0 while it is at most two seconds or
    /// unknown.
    pub fn offset_ms(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Takes an answer's headers into account; the request left at `sent`, by this machine's clock, and they came at
    /// `received`.
    pub fn observe(&self, headers: &HeaderMap, sent: Time, received: Time) {
        let looked = self.looked.load(Ordering::Relaxed);
        if looked != i64::MIN && received.0.saturating_sub(looked).saturating_abs() < EVERY {
            return;
        }
        let took = received.0.saturating_sub(sent.0);
        // Less than no time: the clock was stepped meanwhile. An `Age` is a cache's answer, with an old date.
        if !(0..=SLOWEST).contains(&took) || headers.contains_key(AGE) {
            return;
        }
        let Some(date) = headers.get(DATE).and_then(|date| parse(date.as_bytes())) else { return };
        // Its second was under way by half, on average, when the request was, on average, half-way through its journey.
        let difference = date.0.saturating_add(500).saturating_sub(sent.0.saturating_add(took / 2));
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let index = samples.count % KEPT;
        samples.last[index] = difference;
        samples.count += 1;
        if samples.count >= KEPT {
            self.looked.store(received.0, Ordering::Relaxed);
        }
        let median = samples.median();
        self.offset.store(if median.saturating_abs() > NOISE { median } else { 0 }, Ordering::Relaxed);
        samples.warn(median);
    }
}

impl Samples {
    /// Of an even number the one nearer to no skew at all: one odd answer among two must not count.
    fn median(&self) -> i64 {
        let mut sorted = self.last;
        let known = &mut sorted[..self.count.min(KEPT)];
        known.sort_unstable();
        match (known.get(known.len().saturating_sub(1) / 2), known.get(known.len() / 2)) {
            (Some(low), Some(high)) if low.saturating_abs() < high.saturating_abs() => *low,
            (_, Some(high)) => *high,
            _ => 0,
        }
    }

    /// Tells once, and again when it has changed much.
    fn warn(&mut self, median: i64) {
        if median.saturating_abs() <= WARN {
            self.warned = 0;
            return;
        }
        if median.saturating_sub(self.warned).saturating_abs() <= WARN {
            return;
        }
        self.warned = median;
        let (seconds, direction) = (median.saturating_abs() / 1000, if median > 0 { "behind" } else { "ahead of" });
        tracing::warn!(
            skew_ms = median,
            "this machine's clock is {seconds} s {direction} the API's; this is allowed for. hint: keep it right with NTP \
             (timedatectl set-ntp true)"
        );
    }
}

/// An HTTP date in the one format that is sent today (RFC 9110, 5.6.7).
fn parse(date: &[u8]) -> Option<Time> {
    static PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    PARSER.parse_timestamp(date).ok().map(Time::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    fn dated(time: Time) -> HeaderMap {
        let date = time.timestamp().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        HeaderMap::from_iter([(DATE, HeaderValue::from_str(&date).unwrap())])
    }

    /// An answer of a server whose clock is `skew` milliseconds ahead.
    fn answer(skew_of: &Skew, now: i64, took: i64, skew: i64) {
        skew_of.observe(&dated(Time(now + took / 2 + skew)), Time(now), Time(now + took));
    }

    const NOW: i64 = 1_800_000_000_000;

    #[test]
    fn nothing_is_made_of_little_or_of_nothing() {
        let skew = Skew::new();
        assert_eq!(skew.offset_ms(), 0);
        answer(&skew, NOW, 100, 1_200);
        assert_eq!(skew.offset_ms(), 0);
        skew.observe(&HeaderMap::new(), Time(NOW), Time(NOW));
        skew.observe(&HeaderMap::from_iter([(DATE, HeaderValue::from_static("yesterday"))]), Time(NOW), Time(NOW));
        assert_eq!(skew.offset_ms(), 0);
    }

    #[test]
    fn the_first_answer_already_counts() {
        let skew = Skew::new();
        answer(&skew, NOW, 100, 600_000);
        assert!((skew.offset_ms() - 600_000).abs() <= 600);
    }

    #[test]
    fn one_odd_answer_does_not_count() {
        for odd in 0..5 {
            let skew = Skew::new();
            for index in 0..5 {
                answer(&skew, NOW + index * 2000, 50, if index == odd { 3_600_000 } else { 0 });
            }
            assert_eq!(skew.offset_ms(), 0, "odd one at {odd}");
        }
    }

    #[test]
    fn a_clock_put_right_is_noticed() {
        let skew = Skew::new();
        for index in 0..5 {
            answer(&skew, NOW + index * 2000, 50, 60_000);
        }
        assert!(skew.offset_ms() > 59_000);
        for index in 5..8 {
            answer(&skew, NOW + 60_000 + index * 2000, 50, 0);
        }
        assert_eq!(skew.offset_ms(), 0);
    }

    #[test]
    fn a_caches_or_a_slow_answer_is_left_out() {
        let skew = Skew::new();
        answer(&skew, NOW, 20_000, 60_000);
        answer(&skew, NOW, -20, 60_000);
        let mut headers = dated(Time(NOW - 90_000));
        headers.insert(AGE, HeaderValue::from_static("90"));
        skew.observe(&headers, Time(NOW), Time(NOW));
        assert_eq!(skew.offset_ms(), 0);
    }

    proptest! {
        #[test]
        fn what_is_measured_is_true_within_the_second_and_half_the_journey(
            true_skew in -10_000_000i64..10_000_000, took in 0i64..8_000, start in 0i64..100_000,
        ) {
            let skew = Skew::new();
            for index in 0..7 {
                answer(&skew, NOW + start + index * 1_037, took, true_skew);
            }
            let error = skew.offset_ms() - true_skew;
            prop_assert!(error.abs() <= 600 || (skew.offset_ms() == 0 && true_skew.abs() <= NOISE + 600));
        }

        #[test]
        fn no_header_upsets_it(date in proptest::collection::vec(any::<u8>(), 0..60), now in any::<i64>()) {
            let skew = Skew::new();
            if let Ok(value) = HeaderValue::from_bytes(&date) {
                skew.observe(&HeaderMap::from_iter([(DATE, value)]), Time(now), Time(now));
            }
            prop_assert!(skew.offset_ms() == 0 || skew.offset_ms().saturating_abs() > NOISE);
        }
    }
}
