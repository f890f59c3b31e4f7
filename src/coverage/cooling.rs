//! What a read that failed leaves behind: its stretch rests for a while, and is asked for in narrower windows where its
//! answers keep not arriving whole.
//!
//! Pure. Only how wide it was can make an answer break off or never come; a refusal or a failed service says nothing
//! about that, and what has piled up meanwhile is read at once afterwards.

use std::time::Duration;

use super::{Cooling, NARROWEST, seconds};
use crate::clock::Time;
use crate::model::Stretch;

/// How a read failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The answer broke off half-way, or stopped coming.
    BrokenOff,
    /// The request arrived, and no answer came in time.
    Silent,
    /// In any other way.
    Refused,
}

impl Ending {
    /// After so many unfinished answers in a row the window is halved.
    fn patience(self) -> Option<u32> {
        match self {
            Ending::BrokenOff => Some(2),
            // More often than an answer that has begun, it has other reasons.
            Ending::Silent => Some(3),
            Ending::Refused => None,
        }
    }
}

/// The stretches whose reading failed lately.
#[derive(Debug, Clone, Default)]
pub struct CoolingDown {
    held: Vec<Cooling>,
    /// Unfinished answers in a row.
    unfinished: u32,
}

impl CoolingDown {
    /// For the planner.
    pub fn as_slice(&self) -> &[Cooling] {
        &self.held
    }

    /// `stretch` could not be read, and rests until then.
    pub fn failed(&mut self, stretch: Stretch, until: Time, ending: Ending) {
        self.unfinished = if ending == Ending::Refused { 0 } else { self.unfinished.saturating_add(1) };
        let narrows = ending.patience().is_some_and(|patience| self.unfinished >= patience);
        let narrower = if narrows { stretch.width() / 2 } else { Duration::MAX };
        let here = self.held.iter().filter(|held| held.stretch.intersect(stretch).is_some());
        let max_width = here.map(|held| held.max_width).fold(narrower, Duration::min);
        self.forget(stretch);
        self.held.push(Cooling { stretch, until, max_width });
    }

    /// No stretch rests beyond `latest`: a clock that was ahead for a while must not hold one up.
    pub fn cap(&mut self, latest: Time) {
        self.held.iter_mut().for_each(|held| held.until = held.until.min(latest));
    }

    /// `stretch` was read.
    pub fn answered(&mut self, stretch: Stretch) {
        self.unfinished = 0;
        self.forget(stretch);
    }

    fn forget(&mut self, stretch: Stretch) {
        let rest = |held: &Cooling| {
            let left = Stretch::new(held.stretch.from, held.stretch.to.min(stretch.from));
            let right = Stretch::new(held.stretch.from.max(stretch.to), held.stretch.to);
            let held = *held;
            left.into_iter().chain(right).map(move |stretch| Cooling { stretch, ..held })
        };
        self.held = self.held.iter().flat_map(rest).collect();
    }
}

/// How many seconds of the time line one request may vouch for, `most` at the most, where it begins or ends `away` from
/// each of the stretches that are asked for narrowly only.
pub(super) fn bearable<'a>(
    cooling: impl IntoIterator<Item = &'a Cooling>,
    most: i64,
    away: impl Fn(Stretch) -> Duration,
) -> i64 {
    let bounds = cooling.into_iter().map(|held| {
        let narrow = seconds(held.max_width).max(NARROWEST).saturating_sub(1);
        // Up to where it begins, it is of no account.
        seconds(away(held.stretch)).max(narrow)
    });
    bounds.fold(most, i64::min).max(NARROWEST - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(from: i64, to: i64) -> Stretch {
        Stretch { from: Time::from_secs(from), to: Time::from_secs(to) }
    }

    fn widths(cooling: &CoolingDown) -> Vec<u64> {
        cooling.as_slice().iter().map(|held| held.max_width.as_secs()).collect()
    }

    const SOON: Time = Time(1);

    #[test]
    fn a_service_that_fails_says_nothing_about_the_width() {
        let mut cooling = CoolingDown::default();
        (0..5).for_each(|_| cooling.failed(stretch(0, 900), SOON, Ending::Refused));
        assert_eq!(widths(&cooling), [u64::MAX]);
    }

    #[test]
    fn an_answer_that_breaks_off_twice_or_never_comes_three_times_is_asked_for_in_halves() {
        let mut cooling = CoolingDown::default();
        cooling.failed(stretch(0, 900), SOON, Ending::BrokenOff);
        assert_eq!(widths(&cooling), [u64::MAX]);
        cooling.failed(stretch(0, 900), SOON, Ending::BrokenOff);
        assert_eq!(widths(&cooling), [450]);
        let mut cooling = CoolingDown::default();
        (0..2).for_each(|_| cooling.failed(stretch(0, 900), SOON, Ending::Silent));
        assert_eq!(widths(&cooling), [u64::MAX]);
        cooling.failed(stretch(0, 900), SOON, Ending::Silent);
        assert_eq!(widths(&cooling), [450]);
    }

    #[test]
    fn what_was_too_wide_stays_so_until_it_is_read() {
        let mut cooling = CoolingDown::default();
        (0..2).for_each(|_| cooling.failed(stretch(0, 900), SOON, Ending::BrokenOff));
        cooling.failed(stretch(450, 900), SOON, Ending::Refused);
        assert_eq!(widths(&cooling), [450, 450]);
        cooling.answered(stretch(450, 900));
        assert_eq!(cooling.as_slice(), [Cooling { stretch: stretch(0, 450), until: SOON, max_width: secs(450) }]);
        cooling.answered(stretch(0, 450));
        assert!(cooling.as_slice().is_empty());
    }

    #[test]
    fn what_is_narrow_far_away_narrows_nothing_before_it() {
        let narrow = |from, to| Cooling { stretch: stretch(from, to), until: SOON, max_width: secs(10) };
        let cooling = [narrow(0, 20), narrow(500, 520)];
        // From the end of 600 back.
        let away = |held: Stretch| Time::from_secs(600).since(held.to);
        assert_eq!(bearable(&cooling, 3600, away), 80);
        let away = |held: Stretch| Time::from_secs(510).since(held.to);
        assert_eq!(bearable(&cooling, 3600, away), 9);
        assert_eq!(bearable(&cooling[..1], 3600, away), 490);
        assert_eq!(bearable(&[], 3600, away), 3600);
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }
}
