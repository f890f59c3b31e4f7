//! When and which events are sent to one sink, and what its answers mean. Pure: time and chance are
//! passed in.

mod answer_window;
mod concurrency_limit;
mod delivery_events;
pub mod delivery_machine;
pub mod lake_plan;

#[cfg(test)]
mod generated_events;

use std::time::Duration;

use crate::backoff::Backoff;

/// The first pause after a circuit opened, and the longest.
const PAUSE_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The first delay before an event is retried, and the longest.
const RETRY_DELAY_BOUNDS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(86_400));

/// How long delivery to a sink pauses after this many pauses in a row. `jitter` is in 0..1.
pub fn pause_delay(consecutive: u32, jitter: f64) -> Duration {
    backoff_delay(PAUSE_BOUNDS, consecutive, jitter)
}

/// The delay before an event is retried after this many attempts. `jitter` is in 0..1.
pub fn retry_delay(tries: u32, jitter: f64) -> Duration {
    backoff_delay(RETRY_DELAY_BOUNDS, tries, jitter)
}

fn backoff_delay((first, longest): (Duration, Duration), tries: u32, jitter: f64) -> Duration {
    Backoff::new(first, longest, longest).map_or(longest, |backoff| backoff.delay(tries, jitter))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delays_grow_and_stay_within_their_bounds(tries in 1u32..100_000, jitter in 0.0f64..1.0) {
            for (bounds, delay) in
                [(PAUSE_BOUNDS, pause_delay(tries, jitter)), (RETRY_DELAY_BOUNDS, retry_delay(tries, jitter))]
            {
                prop_assert!(delay >= bounds.0 / 2 && delay <= bounds.1);
                if tries > 20 {
                    prop_assert!(delay >= bounds.1 / 2);
                }
            }
        }
    }
}
