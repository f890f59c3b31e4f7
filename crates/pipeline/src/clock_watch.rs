//! Detects that this machine's clock was set back. Work that was deferred by the wrong time would
//! wait for too long. Pure: the readings of both clocks are passed in.

use std::time::Duration;

use crate::clock::{Tick, Time, millis};

/// Smaller steps back are ignored: they are clock slewing, and harmless.
const MIN_CLOCK_STEP: Duration = Duration::from_secs(60);

/// Tracks how far the wall clock is ahead of the monotonic clock.
#[derive(Debug)]
pub struct ClockWatch {
    /// The largest lead so far.
    max_lead_ms: i64,
}

impl ClockWatch {
    /// Starts with the readings of now.
    pub fn new(now: Time, tick: Tick) -> ClockWatch {
        ClockWatch { max_lead_ms: lead_over_tick_ms(now, tick) }
    }

    /// Whether the clock was set back since the last call.
    pub fn stepped_back(&mut self, now: Time, tick: Tick) -> bool {
        let lead = lead_over_tick_ms(now, tick);
        let stepped = lead.saturating_add(millis(MIN_CLOCK_STEP)) < self.max_lead_ms;
        self.max_lead_ms = if stepped { lead } else { self.max_lead_ms.max(lead) };
        stepped
    }
}

fn lead_over_tick_ms(now: Time, tick: Tick) -> i64 {
    now.0.saturating_sub(millis(tick.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_set_back_is_detected_and_only_once() {
        let start = Time(1_800_000_000_000);
        let mut watch = ClockWatch::new(start, Tick::default());
        let tick = Tick(Duration::from_secs(86_400));
        let mut stepped_back =
            |error_secs: i64| watch.stepped_back((start + tick.0).plus_millis(1000 * error_secs), tick);
        assert!(!stepped_back(7200));
        assert!(stepped_back(0) && !stepped_back(0));
        for _ in 0..3 {
            assert!(!stepped_back(-30) && !stepped_back(0));
        }
    }
}
