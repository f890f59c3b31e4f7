//! What the API's clock says, from the `Date` of its answers: one [`Skew`] for each host.
//!
//! A `Date` has whole seconds and is some time under way, so one answer says no more than "within a second or so"; the
//! median of the last few is taken, and nothing is made of less than two seconds. The API's clock is kept as a lead over
//! the [`Tick`], which nobody sets: where this machine's clock is stepped, what is known of the API's stays true.
//!
//! A `Date` can be wrong. One that cannot be, before 2020 or more than a year ahead, is never used. Any other is
//! *believed* only when several answers over some time agree.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{AGE, DATE, HeaderMap};

use crate::clock::{Tick, Time, millis};

/// Answers that are remembered.
const KEPT: usize = 5;
/// Below this it is noise, in milliseconds.
const NOISE: i64 = 2_000;
/// Above this a person is told, in milliseconds.
const WARN: i64 = 5_000;
/// An answer that took longer says too little.
const SLOWEST: Duration = Duration::from_secs(10);
/// How often an answer is looked at once enough are remembered.
const EVERY: Duration = Duration::from_secs(1);
/// So many answers have to agree before they are believed.
const AGREEING_ANSWERS: u32 = 5;
/// For at least so long.
const AGREEING_FOR: Duration = Duration::from_secs(60);
/// Answers agree that differ by no more than this, in milliseconds.
const AGREEMENT: i64 = 5_000;
/// No `Date` before 2020 is the present.
const EARLIEST: Time = Time(1_577_836_800_000);
/// No `Date` is further ahead of this machine's clock, where that clock can be right.
const FURTHEST_AHEAD: Duration = Duration::from_secs(366 * 86_400);

/// One host's clock, as its answers tell it. Shared; updated from every answer.
#[derive(Debug, Default)]
pub struct Skew(Mutex<Samples>);

/// What one host's clock says at a moment; `None` where nothing is known. Within two seconds of this machine's time it is
/// this machine's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApiTime {
    /// By the newest answer alone.
    pub newest: Option<Time>,
    /// By the last few answers.
    pub measured: Option<Time>,
    /// By several answers over a minute or longer that agreed.
    pub believed: Option<Time>,
    /// How many answers have told a time that can be.
    pub answers: u32,
    /// The time that the newest answer told, where it cannot be the present.
    pub implausible: Option<Time>,
}

impl ApiTime {
    /// The same, a second earlier where it differs from this machine's time `now`: a `Date` tells no more than its second.
    #[must_use]
    pub fn at_the_earliest(self, now: Time) -> ApiTime {
        let earlier = |time: Option<Time>| time.map(|time| if time == now { time } else { time.plus_millis(-1_000) });
        let (newest, measured, believed) = (earlier(self.newest), earlier(self.measured), earlier(self.believed));
        ApiTime { newest, measured, believed, ..self }
    }

    /// Whether enough answers have told the time to decide something that cannot be undone.
    pub fn is_measured(&self) -> bool {
        self.answers >= AGREEING_ANSWERS
    }
}

#[derive(Debug, Default)]
struct Samples {
    /// Leads over the tick, in milliseconds.
    last: [i64; KEPT],
    answers: u32,
    newest: i64,
    looked: Option<Tick>,
    streak: Option<Streak>,
    believed: Option<i64>,
    implausible: Option<Time>,
    warned: i64,
}

/// Answers that agree with one another.
#[derive(Debug, Clone, Copy)]
struct Streak {
    lead: i64,
    since: Tick,
    answers: u32,
}

impl Skew {
    /// Nothing measured yet.
    pub fn new() -> Skew {
        Skew::default()
    }

    /// What the host's clock says at `tick`, when this machine's says `now`.
    pub fn read(&self, now: Time, tick: Tick) -> ApiTime {
        let samples = self.samples();
        let known = samples.answers > 0;
        let at = |lead: i64| {
            let time = Time(millis(tick.0).saturating_add(lead));
            if time.0.saturating_sub(now.0).saturating_abs() > NOISE { time } else { now }
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

    /// What to add to this machine's time to get the API's, in milliseconds; 0 while it is at most two seconds or
    /// unknown.
    pub fn offset_ms(&self, now: Time, tick: Tick) -> i64 {
        self.read(now, tick).measured.map_or(0, |time| time.0.saturating_sub(now.0))
    }

    /// Takes an answer's headers into account; the request left at `sent`, and they came at `received`, when this
    /// machine's clock said `now`.
    pub fn observe(&self, headers: &HeaderMap, sent: Tick, received: Tick, now: Time) {
        let took = received.since(sent);
        // An `Age` is a cache's answer, with an old date.
        if took > SLOWEST || headers.contains_key(AGE) {
            return;
        }
        let Some(date) = headers.get(DATE).and_then(|date| parse(date.as_bytes())) else { return };
        let mut samples = self.samples();
        if !is_plausible(date, now) {
            samples.implausible = Some(date);
            return;
        }
        samples.implausible = None;
        // Its second was under way by half, on average, when the request was, on average, half-way through its journey.
        let lead = date.0.saturating_add(500).saturating_sub(millis(sent.0).saturating_add(millis(took) / 2));
        samples.newest = lead;
        let enough = samples.answers as usize >= KEPT;
        if enough && samples.looked.is_some_and(|looked| received.since(looked) < EVERY) {
            return;
        }
        samples.looked = Some(received);
        let index = samples.answers as usize % KEPT;
        samples.last[index] = lead;
        samples.answers = samples.answers.checked_add(1).unwrap_or(KEPT as u32);
        let machine = now.0.saturating_sub(millis(received.0));
        let median = samples.median(machine);
        samples.agree(median, received);
        samples.warn(median.saturating_sub(machine));
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a `Date` can be the present at all.
fn is_plausible(date: Time, now: Time) -> bool {
    date >= EARLIEST && (now < EARLIEST || date <= now + FURTHEST_AHEAD)
}

impl Samples {
    /// Of an even number the one nearer to this machine's lead: one odd answer among two must not count.
    fn median(&self, machine: i64) -> i64 {
        let mut sorted = self.last;
        let known = &mut sorted[..(self.answers as usize).min(KEPT)];
        known.sort_unstable();
        let away = |lead: i64| lead.saturating_sub(machine).saturating_abs();
        match (known.get(known.len().saturating_sub(1) / 2), known.get(known.len() / 2)) {
            (Some(low), Some(high)) if away(*low) < away(*high) => *low,
            (_, Some(high)) => *high,
            _ => machine,
        }
    }

    fn agree(&mut self, median: i64, received: Tick) {
        let agreed = self.streak.filter(|streak| streak.lead.saturating_sub(median).saturating_abs() <= AGREEMENT);
        let streak = match agreed {
            // It follows a clock that runs a little faster or slower.
            Some(streak) => Streak { lead: median, answers: streak.answers.saturating_add(1), ..streak },
            None => Streak { lead: median, since: received, answers: 1 },
        };
        if streak.answers >= AGREEING_ANSWERS && received.since(streak.since) >= AGREEING_FOR {
            self.believed = Some(median);
        }
        self.streak = Some(streak);
    }

    /// Tells once, and again when it has changed much.
    fn warn(&mut self, skew: i64) {
        if skew.saturating_abs() <= WARN {
            self.warned = 0;
            return;
        }
        if skew.saturating_sub(self.warned).saturating_abs() <= WARN {
            return;
        }
        self.warned = skew;
        let (seconds, direction) = (skew.saturating_abs() / 1000, if skew > 0 { "behind" } else { "ahead of" });
        tracing::warn!(
            skew_ms = skew,
            "this machine's clock is {seconds} s {direction} the API's; nothing later than the earlier of the two is read. \
             hint: keep it right with NTP (timedatectl set-ntp true)"
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

    /// The tick at this machine's time, while its clock is right.
    fn tick(now: i64) -> Tick {
        Tick(Duration::from_millis(u64::try_from(now - NOW + 1_000_000_000).unwrap()))
    }

    /// An answer of a server whose clock is `skew` milliseconds ahead.
    fn answer(skew_of: &Skew, now: i64, took: i64, skew: i64) {
        let headers = dated(Time(now + took / 2 + skew));
        skew_of.observe(&headers, tick(now), tick(now + took), Time(now + took));
    }

    fn offset(skew: &Skew, now: i64) -> i64 {
        skew.offset_ms(Time(now), tick(now))
    }

    fn believed(skew: &Skew, now: i64) -> Option<i64> {
        skew.read(Time(now), tick(now)).believed.map(|time| time.0 - now)
    }

    const NOW: i64 = 1_800_000_000_000;
    const MINUTE: i64 = 60_000;

    #[test]
    fn nothing_is_made_of_little_or_of_nothing() {
        let skew = Skew::new();
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
    fn the_first_answer_already_counts_and_is_not_yet_believed() {
        let skew = Skew::new();
        answer(&skew, NOW, 100, 600_000);
        assert!((offset(&skew, NOW) - 600_000).abs() <= 600);
        assert_eq!(believed(&skew, NOW), None);
    }

    #[test]
    fn one_odd_answer_does_not_count() {
        for odd in 0..5 {
            let skew = Skew::new();
            for index in 0..5 {
                answer(&skew, NOW + index * 2000, 50, if index == odd { 3_600_000 } else { 0 });
            }
            assert_eq!(offset(&skew, NOW + 10_000), 0, "odd one at {odd}");
        }
    }

    #[test]
    fn a_clock_put_right_is_noticed() {
        let skew = Skew::new();
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
    fn a_caches_or_a_slow_answer_is_left_out() {
        let skew = Skew::new();
        answer(&skew, NOW, 20_000, 60_000);
        let mut headers = dated(Time(NOW - 90_000));
        headers.insert(AGE, HeaderValue::from_static("90"));
        skew.observe(&headers, tick(NOW), tick(NOW), Time(NOW));
        assert_eq!((offset(&skew, NOW), skew.read(Time(NOW), tick(NOW)).answers), (0, 0));
    }

    #[test]
    fn it_is_believed_when_answers_agree_for_a_minute() {
        let skew = Skew::new();
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
        let skew = Skew::new();
        for index in 0..5 {
            assert_eq!(believed(&skew, NOW + index * 5 * MINUTE), None);
            answer(&skew, NOW + index * 5 * MINUTE, 50, -90_000);
        }
        assert!((believed(&skew, NOW + 21 * MINUTE).unwrap() + 90_000).abs() <= 600);
    }

    #[test]
    fn two_servers_that_disagree_are_not_believed() {
        let skew = Skew::new();
        for index in 0..600 {
            answer(&skew, NOW + index * 1_010, 50, if index / 3 % 2 == 0 { 0 } else { 600_000 });
        }
        assert_eq!(believed(&skew, NOW + 11 * MINUTE), None);
    }

    #[test]
    fn a_date_that_cannot_be_is_never_used() {
        let skew = Skew::new();
        for index in 0..200 {
            answer(&skew, NOW + index * 1_010, 50, 400 * 86_400_000);
            answer(&skew, NOW + index * 1_010, 50, 1_000 - NOW);
        }
        let read = skew.read(Time(NOW + 300_000), tick(NOW + 300_000));
        assert_eq!(read, ApiTime { implausible: read.implausible, ..ApiTime::default() });
        assert_eq!(read.implausible.unwrap().floor_secs() / 3600, 0);
        // A machine without a clock of its own, which begins in 1970, takes the API's word.
        skew.observe(&dated(Time(NOW)), Tick::default(), Tick::default(), Time(5_000));
        assert!((skew.offset_ms(Time(5_000), Tick::default()) + 5_000 - NOW).abs() <= 1_000);
    }

    #[test]
    fn what_is_known_of_the_api_stays_true_when_this_machines_clock_is_stepped() {
        let skew = Skew::new();
        for index in 0..70 {
            answer(&skew, NOW + index * 1_010, 50, 0);
        }
        let (later, two_hours) = (NOW + 71_000, 7_200_000);
        let read = skew.read(Time(later + two_hours), tick(later));
        for time in [read.newest, read.measured, read.believed] {
            assert!((time.unwrap().0 - later).abs() <= 600, "{read:?}");
        }
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
            let found = offset(&skew, NOW + start + 8_000);
            prop_assert!((found - true_skew).abs() <= 600 || (found == 0 && true_skew.abs() <= NOISE + 600));
        }

        #[test]
        fn no_header_upsets_it(
            date in proptest::collection::vec(any::<u8>(), 0..60), now in any::<i64>(), ticked in any::<u64>(),
        ) {
            let skew = Skew::new();
            let at = Tick(Duration::from_millis(ticked));
            if let Ok(value) = HeaderValue::from_bytes(&date) {
                skew.observe(&HeaderMap::from_iter([(DATE, value)]), at, at, Time(now));
            }
            let found = skew.offset_ms(Time(now), at);
            prop_assert!(found == 0 || found.saturating_abs() > NOISE);
        }
    }
}
