//! Notices that an artifact is asked for before it can be there, and puts first tries off until it may be: pure.
//!
//! While first tries wait, retries have a fifth of the requests ([`super::schedule`]). Where live windows are read sooner than
//! transcripts turn up, each of those would cost a first try for nothing and retries that do not fit into the fifth. So what
//! is live is not asked for at an age at which nothing was found lately.
//!
//! At which age that is, a retry tells only roughly: it finds what has been there since some time after the last try. So a few
//! are asked for between the age at which one was still absent and the age at which all were found, until the two are close. One in many is asked for at once all the same; if it is there, waiting is over; if it is not, it is tried again when its
//! like are. Where those that were put off are not
//! there yet when they are asked for, they are put off further. And where first tries mostly find what they ask for, nothing is
//! ever put off.

use std::collections::VecDeque;
use std::time::Duration;

/// So many items are remembered.
const RECENT: usize = 8;
/// So many of them not there at their first try are more than a fifth's worth of retries.
const LATE: usize = 2;
/// So many, one after the other, that were not there when they were thought to be: were it one in two of them that is, this would
/// not happen in a year.
const LATER: u32 = 32;
/// Of so many that would be put off, one is asked for at once: few enough for a 99th percentile not to see them.
const EXPLORE: u64 = 256;
/// Of so many, one is asked for between the two ends, as long as that may teach something...
const PROBE: u64 = 4;
/// ...at one of the points that divide what lies between into so many parts: what becomes of one is known long after the
/// next ones were put off.
const PARTS: u32 = 4;
/// So many found between the two, one after the other, are no accident.
const HITS: u32 = 2;
/// An artifact that takes longer than this is waited for by the backoff, in few enough tries.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What is known of the age at which one artifact of one account turns up.
#[derive(Debug, Default)]
pub struct Ripeness {
    /// While nothing is put off: at which age items were found, at which they were asked for first, and whether in vain.
    recent: VecDeque<Found>,
    /// What is put off, and until which age.
    ripe: Option<Ripe>,
    asked: u64,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    asked: Duration,
    age: Duration,
    late: bool,
}

#[derive(Debug, Clone, Copy)]
struct Ripe {
    /// Nothing was found at a younger age lately.
    age: Duration,
    /// The oldest age, younger than that, at which one was asked for in vain.
    absent: Duration,
    /// Since then, those found younger, one after the other, and the oldest age at which one of them was asked for.
    hits: u32,
    hit: Duration,
    /// Those that were not there when they were thought to be, one after the other, and the youngest age at which one of
    /// them was found.
    late: u32,
    next: Duration,
}

impl Ripe {
    fn new(age: Duration, absent: Duration) -> Ripe {
        Ripe { age, absent: absent.min(age), hits: 0, hit: Duration::ZERO, late: 0, next: Duration::MAX }
    }

    /// An age between the two ends, another one each time, where they are not close yet.
    fn between(&self, number: u64) -> Option<Duration> {
        let part = 1 + u32::try_from(number % u64::from(PARTS - 1)).unwrap_or(0);
        unripe(self.absent, self.age).then(|| self.absent + (self.age - self.absent) * part / PARTS)
    }

    /// What is known once an item was found; `None` where waiting has turned out to be for nothing.
    fn taught(mut self, Found { asked, age, late }: Found) -> Option<Ripe> {
        if asked >= self.age {
            self.late = if late { self.late + 1 } else { 0 };
            self.next = if late { self.next.min(age) } else { Duration::MAX };
            return Some(if self.late >= LATER { Ripe::new(self.next, self.age) } else { self });
        }
        if asked <= self.absent {
            return late.then_some(self);
        }
        if late {
            return Some(Ripe { absent: asked, hits: 0, hit: Duration::ZERO, ..self });
        }
        self.hits += 1;
        self.hit = self.hit.max(asked);
        Some(if self.hits >= HITS { Ripe::new(self.hit, self.absent) } else { self })
    }
}

impl Ripeness {
    /// How much longer an item that would now be tried for the first time had better wait, at this age.
    pub fn wait(&mut self, age: Duration) -> Option<Duration> {
        let ripe = self.ripe.filter(|ripe| unripe(age, ripe.age))?;
        self.asked = self.asked.wrapping_add(1);
        if self.asked.is_multiple_of(EXPLORE) {
            return None;
        }
        let probe = ripe.between(self.asked / PROBE).filter(|_| self.asked.is_multiple_of(PROBE));
        Some(probe.unwrap_or(ripe.age).saturating_sub(age)).filter(|wait| !wait.is_zero())
    }

    /// How much longer one that was asked for at this age, in vain, had better wait: until its like are asked for.
    pub fn wait_again(&self, age: Duration) -> Option<Duration> {
        self.ripe.and_then(|ripe| ripe.age.checked_sub(age)).filter(|wait| !wait.is_zero())
    }

    /// Takes note of one that was found at `age`, first asked for at `asked`, in vain if `late`. `true` where waiting has
    /// turned out to be for nothing: what was put off is due.
    pub fn found(&mut self, asked: Duration, age: Duration, late: bool) -> bool {
        let found = Found { asked, age, late };
        if let Some(ripe) = self.ripe {
            self.ripe = ripe.taught(found).filter(|ripe| ripe.age <= LONGEST);
            self.recent.clear();
            return self.ripe.is_none();
        }
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(found);
        let late = || self.recent.iter().filter(|found| found.late);
        if self.recent.len() < RECENT || late().count() < LATE {
            return false;
        }
        let youngest = self.recent.iter().map(|found| found.age).min().filter(|youngest| *youngest <= LONGEST);
        self.ripe = youngest.map(|youngest| {
            let absent = late().map(|found| found.asked).filter(|asked| *asked < youngest).max();
            Ripe::new(youngest, absent.unwrap_or_default())
        });
        false
    }
}

/// Clearly younger: a thousandth is for clocks, and not worth a wait.
fn unripe(age: Duration, ripe: Duration) -> bool {
    age < ripe.mul_f64(0.999)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Plays one live item, first seen at `seen` and there at `there`, tried again every ten seconds; tries and when found.
    fn play(ripeness: &mut Ripeness, seen: Duration, there: Duration) -> (u32, Duration) {
        let asked = seen + ripeness.wait(seen).unwrap_or_default();
        let (mut age, mut tries) = (asked, 1);
        while age < there {
            age += seconds(10);
            tries += 1;
        }
        ripeness.found(asked, age, tries > 1);
        (tries, age)
    }

    #[test]
    fn where_all_come_later_than_they_are_asked_for_one_try_each_is_enough() {
        let mut ripeness = Ripeness::default();
        let seen = |item: u64| seconds(300 + item * 7 % 120);
        let tries: u32 = (0..1000).map(|item| play(&mut ripeness, seen(item), seconds(421)).0).sum();
        assert!(tries < 1200, "{tries}");
        assert!(play(&mut ripeness, seconds(300), seconds(421)).1 < seconds(435));
    }

    #[test]
    fn where_they_are_mostly_there_nothing_is_put_off() {
        let mut ripeness = Ripeness::default();
        for item in 0..1000 {
            let there = if item % 8 == 0 { seconds(320) } else { seconds(290) };
            play(&mut ripeness, seconds(300), there);
            assert_eq!(ripeness.wait(seconds(300)), None);
        }
    }

    #[test]
    fn once_they_come_sooner_again_one_that_was_asked_all_the_same_shows_it() {
        let mut ripeness = Ripeness::default();
        for _ in 0..RECENT {
            play(&mut ripeness, seconds(300), seconds(421));
        }
        assert!(ripeness.wait(seconds(300)).is_some());
        let over = (0..EXPLORE).find(|_| {
            let asked = seconds(300) + ripeness.wait(seconds(300)).unwrap_or_default();
            ripeness.found(asked, asked, false)
        });
        assert!(over.is_some());
        assert_eq!(ripeness.wait(seconds(300)), None);
    }

    #[test]
    fn those_found_by_chance_long_after_they_came_are_soon_asked_for_when_they_come() {
        let mut ripeness = Ripeness::default();
        for _ in 0..RECENT {
            // Each was there at 421 s, and tried again a minute and a half later only.
            ripeness.found(seconds(300), seconds(510), true);
        }
        let last = (0..100).map(|_| play(&mut ripeness, seconds(300), seconds(421)).1).skip(60).max();
        assert!(last.is_some_and(|last| last < seconds(431)), "{last:?}");
    }

    #[test]
    fn once_they_come_later_still_they_are_put_off_further() {
        let mut ripeness = Ripeness::default();
        for _ in 0..100 {
            play(&mut ripeness, seconds(300), seconds(350));
        }
        for _ in 0..100 {
            play(&mut ripeness, seconds(300), seconds(500));
        }
        // But for the one that is asked for at once all the same, and then every ten seconds.
        let tried_twice = (0..100).filter(|_| play(&mut ripeness, seconds(300), seconds(500)).0 > 1).count();
        assert!(tried_twice <= 1, "{tried_twice}");
    }

    #[test]
    fn the_age_at_which_all_come_is_soon_known_to_a_thousandth() {
        let mut ripeness = Ripeness::default();
        for _ in 0..RECENT {
            ripeness.found(seconds(300), seconds(510), true);
        }
        for _ in 0..200 {
            play(&mut ripeness, seconds(300), seconds(421));
        }
        let last = (0..100)
            .map(|_| play(&mut ripeness, seconds(300), seconds(421)).1)
            .filter(|age| *age < seconds(422))
            .count();
        assert!(last >= 99, "{last}");
    }

    #[test]
    fn one_asked_for_too_soon_waits_until_its_like_are_asked_for_and_one_as_old_does_not() {
        let mut ripeness = Ripeness::default();
        assert_eq!(ripeness.wait_again(seconds(300)), None);
        for _ in 0..RECENT {
            ripeness.found(seconds(300), seconds(421), true);
        }
        assert_eq!(ripeness.wait_again(seconds(300)), Some(seconds(121)));
        assert_eq!(ripeness.wait_again(seconds(421)), None);
        assert_eq!(ripeness.wait_again(seconds(500)), None);
    }

    #[test]
    fn where_they_come_at_any_age_chance_puts_nothing_off_for_long() {
        let mut ripeness = Ripeness::default();
        // Half of them are there when first asked for; the others come in the ten minutes after, in no order.
        let mut number: u64 = 7;
        for item in 0..20_000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let there = seconds(300 - 200 + (number >> 33) % 400);
            play(&mut ripeness, seconds(300), there);
            let wait = ripeness.wait(seconds(300)).unwrap_or_default();
            assert!(wait < seconds(90), "item {item} would wait for {wait:?}");
        }
    }

    #[test]
    fn what_is_found_hours_later_puts_nothing_off() {
        let mut ripeness = Ripeness::default();
        for _ in 0..100 {
            ripeness.found(seconds(300), seconds(7200), true);
        }
        assert_eq!(ripeness.wait(seconds(300)), None);
    }

    proptest! {
        /// Whatever is found when: no wait is longer than until the youngest age at which something was found lately.
        #[test]
        fn nothing_waits_beyond_an_age_at_which_something_was_found(
            items in prop::collection::vec((0u64..1200, 0u64..1200), 1..200),
        ) {
            let mut ripeness = Ripeness::default();
            let mut found: Vec<Duration> = Vec::new();
            for (seen, there) in items {
                if let Some(wait) = ripeness.wait(seconds(seen)) {
                    let oldest = found.iter().max().copied().unwrap_or_default();
                    prop_assert!(seconds(seen) + wait <= oldest.min(LONGEST));
                }
                found.push(play(&mut ripeness, seconds(seen), seconds(there)).1);
            }
        }
    }
}
