//! Notices that this machine's clock was set back. What was put off by the wrong time would wait for as long as it was wrong.

use std::time::Duration;

use crate::clock::{Clock, millis};

/// A clock that goes back by less is slewed, and harms nobody.
const STEP: Duration = Duration::from_secs(60);

/// Follows how far the wall clock is ahead of the tick, which nobody sets.
#[derive(Debug)]
pub(super) struct ClockWatch {
    /// The most that it has been, in milliseconds.
    lead: i64,
}

impl ClockWatch {
    pub(super) fn new(clock: &Clock) -> ClockWatch {
        ClockWatch { lead: lead(clock) }
    }

    /// Whether the clock was set back since this was last asked.
    pub(super) fn stepped_back(&mut self, clock: &Clock) -> bool {
        let now = lead(clock);
        let stepped = now.saturating_add(millis(STEP)) < self.lead;
        self.lead = if stepped { now } else { self.lead.max(now) };
        stepped
    }
}

fn lead(clock: &Clock) -> i64 {
    clock.now().0.saturating_sub(millis(clock.tick().0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    #[test]
    fn only_a_clock_that_is_set_back_is_noticed_and_once() {
        let clock = Clock::manual(Time(1_800_000_000_000));
        let mut watch = ClockWatch::new(&clock);
        clock.advance(Duration::from_secs(86_400));
        clock.step(7_200_000);
        assert!(!watch.stepped_back(&clock));
        clock.step(-7_200_000);
        assert!(watch.stepped_back(&clock) && !watch.stepped_back(&clock));
        for _ in 0..3 {
            clock.step(-30_000);
            clock.step(30_000);
            assert!(!watch.stepped_back(&clock));
        }
    }
}
