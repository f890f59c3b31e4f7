//! Detects that this machine's clock was set back. Work that was deferred by the wrong time would
//! wait for too long.

use std::time::Duration;

use crate::clock::{Clock, millis};

/// Smaller steps back are ignored: they are clock slewing, and harmless.
const MIN_CLOCK_STEP: Duration = Duration::from_secs(60);

/// Tracks how far the wall clock is ahead of the monotonic clock.
#[derive(Debug)]
pub(super) struct ClockWatch {
    /// The largest lead so far.
    max_lead_ms: i64,
}

impl ClockWatch {
    pub(super) fn new(clock: &Clock) -> ClockWatch {
        ClockWatch { max_lead_ms: lead_over_tick_ms(clock) }
    }

    /// Whether the clock was set back since the last call.
    pub(super) fn stepped_back(&mut self, clock: &Clock) -> bool {
        let now = lead_over_tick_ms(clock);
        let stepped = now.saturating_add(millis(MIN_CLOCK_STEP)) < self.max_lead_ms;
        self.max_lead_ms = if stepped { now } else { self.max_lead_ms.max(now) };
        stepped
    }
}

fn lead_over_tick_ms(clock: &Clock) -> i64 {
    clock.now().0.saturating_sub(millis(clock.tick().0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    #[test]
    fn only_a_clock_that_is_set_back_is_detected_and_only_once() {
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
