//! Notices that an artifact is never there for an account, and saves its requests: pure.
//!
//! Where summaries are not enabled for an account, each of its segments would be asked for twenty times in three days,
//! for nothing. After a run of late 404s without a single success, items of that artifact are put off untried, and one now
//! and then goes to see. A single success ends it, and what was put off is asked for as if nothing had been. Each item still
//! gets its last try before it is given up.
//!
//! A 404 is late where the vendor has had its time and much more ([`super::Patience::is_late`]): an account that is busy while
//! the vendor is a quarter of an hour behind collects many a 404 that says nothing but that.

use std::time::Duration;

use crate::clock::Time;

/// So many 404s in a row, of items that had been asked for long enough, show that there is nothing.
const RUN: u32 = 40;
/// How far apart those are that go to see: from the first to the second figure, doubling.
const PROBE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// What is known of one artifact of one account.
#[derive(Debug, Default)]
pub struct Absence {
    run: u32,
    probe: Option<(Time, Duration)>,
}

impl Absence {
    /// Takes note of a 404.
    pub fn missed(&mut self, late: bool, now: Time) {
        if late || self.probe.is_some() {
            self.run = self.run.saturating_add(1);
        }
        if self.run >= RUN && self.probe.is_none() {
            self.probe = Some((now + PROBE.0, PROBE.0));
        }
    }

    /// Takes note of an answer; `true` where it ends an absence, and what was put off is due.
    pub fn found(&mut self) -> bool {
        self.run = 0;
        self.probe.take().is_some()
    }

    /// Whether an item may be tried now; `false` says to put it off.
    pub fn admit(&mut self, last_try: bool, now: Time) -> bool {
        let Some((due, gap)) = &mut self.probe else { return true };
        if last_try {
            return true;
        }
        if now < *due {
            return false;
        }
        *gap = (*gap * 2).min(PROBE.1);
        *due = now + *gap;
        true
    }

    /// Whether the artifact seems never to be there.
    pub fn is_absent(&self) -> bool {
        self.probe.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_404s_say_nothing_and_a_long_run_of_late_ones_does() {
        let mut absence = Absence::default();
        for _ in 0..1000 {
            absence.missed(false, Time(0));
        }
        assert!(!absence.is_absent() && absence.admit(false, Time(0)));
        for _ in 0..RUN {
            absence.missed(true, Time(0));
        }
        assert!(absence.is_absent());
    }

    #[test]
    fn while_absent_few_are_tried_and_a_success_ends_it() {
        let mut absence = Absence::default();
        for _ in 0..RUN {
            absence.missed(true, Time(0));
        }
        let day = 86_400;
        let tried = (0..day).filter(|second| absence.admit(false, Time::from_secs(*second))).count();
        assert!((20..40).contains(&tried), "{tried}");
        assert!(absence.admit(true, Time(1)));
        assert!(absence.found());
        assert!(!absence.found() && absence.admit(false, Time(2)));
    }
}
