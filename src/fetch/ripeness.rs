//! Notices that an artifact is asked for before it can be there, and puts first tries off until it may be: pure.
//!
//! While first tries wait, retries have a fifth of the requests ([`super::schedule`]). Where live windows are read sooner than
//! transcripts turn up, each of those would cost a first try for nothing and retries that do not fit into the fifth. So what
//! is live is not asked for at an age at which nothing was found lately. One in many is asked all the same; if it is there,
//! that is over at once. Where first tries mostly find what they ask for, nothing is ever put off.

use std::collections::VecDeque;
use std::time::Duration;

/// So many items are remembered.
const RECENT: usize = 8;
/// So many of them not there at their first try are more than a fifth's worth of retries.
const LATE: usize = 2;
/// Of so many that would be put off, one is asked for at once: few enough for a 99th percentile not to see them.
const EXPLORE: u64 = 128;
/// An artifact that takes longer than this is waited for by the backoff, in few enough tries.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What is known of the age at which one artifact of one account turns up.
#[derive(Debug, Default)]
pub struct Ripeness {
    /// At which age items were found, and whether they had been asked for in vain; of those that were not put off.
    recent: VecDeque<(Duration, bool)>,
    /// Nothing was found at a younger age lately.
    ripe: Option<Duration>,
    asked: u64,
}

impl Ripeness {
    /// How much longer an item that would now be tried for the first time had better wait, at this age.
    pub fn wait(&mut self, age: Duration) -> Option<Duration> {
        let ripe = self.ripe.filter(|ripe| unripe(age, *ripe))?;
        self.asked = self.asked.wrapping_add(1);
        (!self.asked.is_multiple_of(EXPLORE)).then(|| ripe.saturating_sub(age))
    }

    /// Takes note of one that was found at `age`, first asked for at `asked`, in vain if `late`. `true` where waiting has
    /// turned out to be for nothing: what was put off is due.
    pub fn found(&mut self, asked: Duration, age: Duration, late: bool) -> bool {
        match self.ripe {
            // That it was there when it was thought to be says nothing about when it came.
            Some(ripe) if !unripe(asked, ripe) => return false,
            Some(_) if !late => {
                self.recent.clear();
                self.ripe = None;
                return true;
            }
            _ => {}
        }
        self.recent.truncate(RECENT - 1);
        self.recent.push_front((age, late));
        let known = self.recent.len() == RECENT && self.recent.iter().filter(|(_, late)| *late).count() >= LATE;
        let youngest = self.recent.iter().map(|(age, _)| *age).min();
        self.ripe = youngest.filter(|youngest| known && *youngest <= LONGEST);
        false
    }
}

/// Clearly younger: a hundredth is for clocks, and not worth a wait.
fn unripe(age: Duration, ripe: Duration) -> bool {
    age < ripe.mul_f64(0.99)
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
