//! Estimates the API's clock from the `Date` of its answers: one [`ClockSkew`] for each host.
//!
//! A `Date` has whole seconds and takes some time to arrive, so one answer is accurate to about a
//! second. The estimate is the median of the last few, and a difference below two seconds counts as
//! none. The API's clock is kept as a lead over the monotonic [`Tick`]: a step of this machine's
//! clock does not change the estimate.
//!
//! A `Date` can be wrong. An impossible one, before 2020 or more than a year ahead, is never used.
//! Any other is *believed* only when several answers over some time agree.

use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{AGE, DATE, HeaderMap};

use crate::clock::{Tick, Time, millis};
use crate::rate_limit::parse_http_date;

/// The estimate is the median of this many answers.
const MAX_SAMPLES: usize = 5;
/// Smaller differences count as none.
const NOISE_MS: i64 = 2_000;
/// Larger differences are logged.
const WARN_SKEW_MS: i64 = 5_000;
/// Slower answers are ignored: their `Date` is too inaccurate.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(10);
/// Once there are enough samples, the shortest time between two of them.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// This many answers must agree before they are believed,
const MIN_AGREEING_ANSWERS: u32 = 5;
/// for at least this long.
const MIN_AGREEMENT_TIME: Duration = Duration::from_secs(60);
/// Answers agree if they differ by no more than this.
const AGREEMENT_TOLERANCE_MS: i64 = 5_000;
/// An earlier `Date` (before 2020) is implausible.
const MIN_PLAUSIBLE_TIME: Time = Time(1_577_836_800_000);
/// A `Date` further ahead of this machine's clock is implausible, if that clock itself is
/// plausible.
const MAX_PLAUSIBLE_LEAD: Duration = Duration::from_secs(366 * 86_400);

/// The estimate of one host's clock. Shared, and updated from every answer.
#[derive(Debug, Default)]
pub struct ClockSkew(Mutex<SkewSamples>);

/// One host's time at a moment; `None` where it is unknown. Within two seconds of this machine's
/// time, it is this machine's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApiTime {
    /// According to the newest answer alone.
    pub newest: Option<Time>,
    /// According to the last few answers.
    pub measured: Option<Time>,
    /// According to several answers over a minute or longer that agreed.
    pub believed: Option<Time>,
    /// The number of answers with a plausible time.
    pub answers: u32,
    /// The newest answer's time, if it is implausible.
    pub implausible: Option<Time>,
}

impl ApiTime {
    /// The earliest possible time: a second earlier where it differs from this machine's time
    /// `now`, because a `Date` has whole seconds.
    #[must_use]
    pub fn lower_bound(self, now: Time) -> ApiTime {
        let earlier = |time: Option<Time>| time.map(|time| if time == now { time } else { time.plus_millis(-1_000) });
        let (newest, measured, believed) = (earlier(self.newest), earlier(self.measured), earlier(self.believed));
        ApiTime { newest, measured, believed, ..self }
    }

    /// Whether there are enough answers for an irreversible decision.
    pub fn is_measured(&self) -> bool {
        self.answers >= MIN_AGREEING_ANSWERS
    }
}

#[derive(Debug, Default)]
struct SkewSamples {
    /// Leads over the tick, in milliseconds.
    leads: [i64; MAX_SAMPLES],
    answers: u32,
    newest: i64,
    last_sampled: Option<Tick>,
    streak: Option<AgreementStreak>,
    believed: Option<i64>,
    implausible: Option<Time>,
    last_logged: i64,
}

/// Consecutive answers that agree.
#[derive(Debug, Clone, Copy)]
struct AgreementStreak {
    lead: i64,
    since: Tick,
    answers: u32,
}

impl ClockSkew {
    /// Creates an estimate without answers.
    pub fn new() -> ClockSkew {
        ClockSkew::default()
    }

    /// The host's time at `tick`, when this machine's clock reads `now`.
    pub fn api_time(&self, now: Time, tick: Tick) -> ApiTime {
        let samples = self.0.lock();
        let known = samples.answers > 0;
        let at = |lead: i64| {
            let time = Time(millis(tick.0).saturating_add(lead));
            if time.0.saturating_sub(now.0).saturating_abs() > NOISE_MS { time } else { now }
        };
        let median = samples.median(now.0.saturating_sub(millis(tick.0)));
        ApiTime {
            newest: known.then(|| at(samples.newest)),
            measured: known.then(|| at(median)),
            believed: samples.believed.map(at),
            answers: samples.answers,
            implausible: samples.implausible,
        }
    }

    /// What to add to this machine's time to get the API's, in milliseconds; 0 if it is unknown or
    /// at most two seconds.
    pub fn offset_ms(&self, now: Time, tick: Tick) -> i64 {
        self.api_time(now, tick).measured.map_or(0, |time| time.0.saturating_sub(now.0))
    }

    /// Adds a sample from an answer's headers. The request was sent at `sent`, and the headers came
    /// at `received`, when this machine's clock read `now`.
    pub fn observe(&self, headers: &HeaderMap, sent: Tick, received: Tick, now: Time) {
        let took = received.since(sent);
        // `Age` marks an answer from a cache, with an old date.
        if took > MAX_ANSWER_TIME || headers.contains_key(AGE) {
            return;
        }
        let Some(date) = headers.get(DATE).and_then(|date| parse_http_date(date.to_str().ok()?)) else { return };
        let mut samples = self.0.lock();
        if !is_plausible(date, now) {
            samples.implausible = Some(date);
            return;
        }
        samples.implausible = None;
        // On average, the server read its clock in the middle of a second, and half-way between
        // sending and receiving.
        let lead = date.0.saturating_add(500).saturating_sub(millis(sent.0).saturating_add(millis(took) / 2));
        samples.newest = lead;
        let enough = samples.answers as usize >= MAX_SAMPLES;
        if enough && samples.last_sampled.is_some_and(|last_sampled| received.since(last_sampled) < SAMPLE_INTERVAL) {
            return;
        }
        samples.last_sampled = Some(received);
        let index = samples.answers as usize % MAX_SAMPLES;
        samples.leads[index] = lead;
        samples.answers = samples.answers.checked_add(1).unwrap_or(MAX_SAMPLES as u32);
        let machine = now.0.saturating_sub(millis(received.0));
        let median = samples.median(machine);
        samples.update_streak(median, received);
        samples.log_change(median.saturating_sub(machine));
    }
}

/// Whether a `Date` can be the current time.
fn is_plausible(date: Time, now: Time) -> bool {
    date >= MIN_PLAUSIBLE_TIME && (now < MIN_PLAUSIBLE_TIME || date <= now + MAX_PLAUSIBLE_LEAD)
}

impl SkewSamples {
    /// Of the two middle values of an even number, the one nearer to this machine's lead: one
    /// outlier of two must not count.
    fn median(&self, machine: i64) -> i64 {
        let mut sorted = self.leads;
        let known = &mut sorted[..(self.answers as usize).min(MAX_SAMPLES)];
        known.sort_unstable();
        let away = |lead: i64| lead.saturating_sub(machine).saturating_abs();
        match (known.get(known.len().saturating_sub(1) / 2), known.get(known.len() / 2)) {
            (Some(low), Some(high)) if away(*low) < away(*high) => *low,
            (_, Some(high)) => *high,
            _ => machine,
        }
    }

    fn update_streak(&mut self, median: i64, received: Tick) {
        let agreed =
            self.streak.filter(|streak| streak.lead.saturating_sub(median).saturating_abs() <= AGREEMENT_TOLERANCE_MS);
        let streak = match agreed {
            // Follows a clock that runs a little faster or slower.
            Some(streak) => AgreementStreak { lead: median, answers: streak.answers.saturating_add(1), ..streak },
            None => AgreementStreak { lead: median, since: received, answers: 1 },
        };
        if streak.answers >= MIN_AGREEING_ANSWERS && received.since(streak.since) >= MIN_AGREEMENT_TIME {
            self.believed = Some(median);
        }
        self.streak = Some(streak);
    }

    /// Logs once, and again when the skew has changed much.
    fn log_change(&mut self, skew: i64) {
        if skew.saturating_abs() <= WARN_SKEW_MS {
            self.last_logged = 0;
            return;
        }
        if skew.saturating_sub(self.last_logged).saturating_abs() <= WARN_SKEW_MS {
            return;
        }
        self.last_logged = skew;
        let (seconds, direction) = (skew.saturating_abs() / 1000, if skew > 0 { "behind" } else { "ahead of" });
        tracing::warn!(
            skew_ms = skew,
            hint = "synchronise it with NTP (timedatectl set-ntp true)",
            "this machine's clock is {seconds} s {direction} the API's; metadata is read only up to the earlier of the two"
        );
    }
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

    /// The tick at this machine's time, while its clock is not stepped.
    fn tick(now: i64) -> Tick {
        Tick(Duration::from_millis(u64::try_from(now - NOW + 1_000_000_000).unwrap()))
    }

    /// Adds an answer of a server whose clock is `skew` milliseconds ahead.
    fn answer(skew_of: &ClockSkew, now: i64, took: i64, skew: i64) {
        let headers = dated(Time(now + took / 2 + skew));
        skew_of.observe(&headers, tick(now), tick(now + took), Time(now + took));
    }

    fn offset(skew: &ClockSkew, now: i64) -> i64 {
        skew.offset_ms(Time(now), tick(now))
    }

    fn believed(skew: &ClockSkew, now: i64) -> Option<i64> {
        skew.api_time(Time(now), tick(now)).believed.map(|time| time.0 - now)
    }

    const NOW: i64 = 1_800_000_000_000;
    const MINUTE: i64 = 60_000;

    #[test]
    fn small_differences_and_missing_dates_count_as_no_skew() {
        let skew = ClockSkew::new();
        assert_eq!(offset(&skew, NOW), 0);
        answer(&skew, NOW, 100, 1_200);
        assert_eq!(offset(&skew, NOW), 0);
        let bad = HeaderMap::from_iter([(DATE, HeaderValue::from_static("yesterday"))]);
        for headers in [HeaderMap::new(), bad] {
            skew.observe(&headers, tick(NOW), tick(NOW), Time(NOW));
        }
        assert_eq!(offset(&skew, NOW), 0);
    }

    #[test]
    fn the_first_answer_is_measured_and_not_yet_believed() {
        let skew = ClockSkew::new();
        answer(&skew, NOW, 100, 600_000);
        assert!((offset(&skew, NOW) - 600_000).abs() <= 600);
        assert_eq!(believed(&skew, NOW), None);
    }

    #[test]
    fn one_outlier_does_not_count() {
        for outlier in 0..5 {
            let skew = ClockSkew::new();
            for index in 0..5 {
                answer(&skew, NOW + index * 2000, 50, if index == outlier { 3_600_000 } else { 0 });
            }
            assert_eq!(offset(&skew, NOW + 10_000), 0, "outlier at {outlier}");
        }
    }

    #[test]
    fn a_corrected_clock_is_noticed() {
        let skew = ClockSkew::new();
        for index in 0..5 {
            answer(&skew, NOW + index * 2000, 50, 60_000);
        }
        assert!(offset(&skew, NOW + 10_000) > 59_000);
        for index in 5..8 {
            answer(&skew, NOW + 60_000 + index * 2000, 50, 0);
        }
        assert_eq!(offset(&skew, NOW + 80_000), 0);
    }

    #[test]
    fn a_cached_or_slow_answer_is_ignored() {
        let skew = ClockSkew::new();
        answer(&skew, NOW, 20_000, 60_000);
        let mut headers = dated(Time(NOW - 90_000));
        headers.insert(AGE, HeaderValue::from_static("90"));
        skew.observe(&headers, tick(NOW), tick(NOW), Time(NOW));
        assert_eq!((offset(&skew, NOW), skew.api_time(Time(NOW), tick(NOW)).answers), (0, 0));
    }

    #[test]
    fn it_is_believed_when_answers_agree_for_a_minute() {
        let skew = ClockSkew::new();
        for second in 0..60 {
            answer(&skew, NOW + second * 1_010, 50, 2 * 3_600_000);
            assert_eq!(believed(&skew, NOW + second * 1_010), None, "after {second} s");
        }
        answer(&skew, NOW + 61_000, 50, 2 * 3_600_000);
        let (two_hours, found) = (2 * 3_600_000, believed(&skew, NOW + 61_000).unwrap());
        assert!((found - two_hours).abs() <= 600, "{found}");
        // Ten minutes more for 25 seconds: measured, and never believed.
        for second in 0..25 {
            answer(&skew, NOW + 2 * MINUTE + second * 1_010, 50, two_hours + 600_000);
        }
        assert!((believed(&skew, NOW + 3 * MINUTE).unwrap() - two_hours).abs() <= 600);
        assert!((offset(&skew, NOW + 3 * MINUTE) - two_hours - 600_000).abs() <= 600);
    }

    #[test]
    fn few_answers_over_a_long_time_are_believed_as_well() {
        let skew = ClockSkew::new();
        for index in 0..5 {
            assert_eq!(believed(&skew, NOW + index * 5 * MINUTE), None);
            answer(&skew, NOW + index * 5 * MINUTE, 50, -90_000);
        }
        assert!((believed(&skew, NOW + 21 * MINUTE).unwrap() + 90_000).abs() <= 600);
    }

    #[test]
    fn two_servers_that_disagree_are_not_believed() {
        let skew = ClockSkew::new();
        for index in 0..600 {
            answer(&skew, NOW + index * 1_010, 50, if index / 3 % 2 == 0 { 0 } else { 600_000 });
        }
        assert_eq!(believed(&skew, NOW + 11 * MINUTE), None);
    }

    #[test]
    fn an_implausible_date_is_never_used() {
        let skew = ClockSkew::new();
        for index in 0..200 {
            answer(&skew, NOW + index * 1_010, 50, 400 * 86_400_000);
            answer(&skew, NOW + index * 1_010, 50, 1_000 - NOW);
        }
        let read = skew.api_time(Time(NOW + 300_000), tick(NOW + 300_000));
        assert_eq!(read, ApiTime { implausible: read.implausible, ..ApiTime::default() });
        assert_eq!(read.implausible.unwrap().floor_secs() / 3600, 0);
        // A machine without a hardware clock, which starts in 1970, uses the API's time.
        skew.observe(&dated(Time(NOW)), Tick::default(), Tick::default(), Time(5_000));
        assert!((skew.offset_ms(Time(5_000), Tick::default()) + 5_000 - NOW).abs() <= 1_000);
    }

    #[test]
    fn a_step_of_this_machines_clock_does_not_change_the_apis_time() {
        let skew = ClockSkew::new();
        for index in 0..70 {
            answer(&skew, NOW + index * 1_010, 50, 0);
        }
        let (later, two_hours) = (NOW + 71_000, 7_200_000);
        let read = skew.api_time(Time(later + two_hours), tick(later));
        for time in [read.newest, read.measured, read.believed] {
            assert!((time.unwrap().0 - later).abs() <= 600, "{read:?}");
        }
    }

    proptest! {
        #[test]
        fn the_measured_skew_is_accurate_to_a_second_and_half_the_round_trip(
            true_skew in -10_000_000i64..10_000_000, took in 0i64..8_000, start in 0i64..100_000,
        ) {
            let skew = ClockSkew::new();
            for index in 0..7 {
                answer(&skew, NOW + start + index * 1_037, took, true_skew);
            }
            let found = offset(&skew, NOW + start + 8_000);
            prop_assert!((found - true_skew).abs() <= 600 || (found == 0 && true_skew.abs() <= NOISE_MS + 600));
        }

        #[test]
        fn no_header_makes_it_panic(
            date in proptest::collection::vec(any::<u8>(), 0..60), now in any::<i64>(), ticked in any::<u64>(),
        ) {
            let skew = ClockSkew::new();
            let at = Tick(Duration::from_millis(ticked));
            if let Ok(value) = HeaderValue::from_bytes(&date) {
                skew.observe(&HeaderMap::from_iter([(DATE, value)]), at, at, Time(now));
            }
            let found = skew.offset_ms(Time(now), at);
            prop_assert!(found == 0 || found.saturating_abs() > NOISE_MS);
        }
    }
}
