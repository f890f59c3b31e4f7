//! A cache for one expensive value: computed on demand by a single task for all callers, and kept
//! for a while.
//!
//! Without requests nothing is computed. Concurrent requests share one computation. It never runs
//! in the caller's own task, so a caller that goes away leaves no database operation behind. A
//! value counts as fresh for at least four times as long as it took, so that an overloaded database
//! is not queried all the time.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick};

/// A cached value, and the state of its computation.
pub(super) struct SingleFlightCache<T> {
    /// Real time: timeouts of the machine do not follow the daemon's simulated clock.
    clock: Clock,
    requested: Notify,
    state: watch::Sender<CacheState<T>>,
}

struct CacheState<T> {
    /// When the current computation started.
    started_at: Option<Tick>,
    cached: Option<CachedValue<T>>,
}

struct CachedValue<T> {
    value: T,
    computed_at: Tick,
    duration: Duration,
}

impl<T: Clone> SingleFlightCache<T> {
    pub(super) fn new() -> SingleFlightCache<T> {
        let state = watch::Sender::new(CacheState { started_at: None, cached: None });
        SingleFlightCache { clock: Clock::system(), requested: Notify::new(), state }
    }

    /// Returns the value if it is at most `max_age` old. Otherwise waits for a new one, until its
    /// computation has taken `timeout`. Returns `None` after that: the source does not respond, and
    /// later callers do not wait as long.
    pub(super) async fn get(&self, max_age: Duration, timeout: Duration) -> Option<T> {
        let mut state = self.state.subscribe();
        let now = self.clock.tick();
        let elapsed = {
            let state = state.borrow();
            if let Some(cached) = &state.cached
                && now.since(cached.computed_at) <= max_age.max(cached.duration * 4)
            {
                return Some(cached.value.clone());
            }
            state.started_at.map_or(Duration::ZERO, |started_at| now.since(started_at))
        };
        self.requested.notify_one();
        // A computation that was already running will do.
        let is_new = |state: &CacheState<T>| state.cached.as_ref().is_some_and(|cached| cached.computed_at >= now);
        let computed =
            tokio::time::timeout(timeout.saturating_sub(elapsed), state.wait_for(is_new)).await.ok()?.ok()?;
        computed.cached.as_ref().map(|cached| cached.value.clone())
    }

    /// Computes the value whenever it is requested, until `stop`. A running computation ends by
    /// itself; the stop does not wait for it.
    pub(super) async fn run<F: Future<Output = T>>(&self, compute: impl Fn() -> F, stop: &CancellationToken) {
        let computations = async {
            loop {
                self.requested.notified().await;
                let started_at = self.clock.tick();
                self.state.send_modify(|state| state.started_at = Some(started_at));
                let value = compute().await;
                let computed_at = self.clock.tick();
                let cached = CachedValue { value, computed_at, duration: computed_at.since(started_at) };
                self.state.send_replace(CacheState { started_at: None, cached: Some(cached) });
            }
        };
        stop.run_until_cancelled(computations).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const ONE_HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn concurrent_callers_share_one_computation() {
        let (cache, computations, stop) = (SingleFlightCache::new(), AtomicU32::new(0), CancellationToken::new());
        let compute = || async { computations.fetch_add(1, Ordering::Relaxed) };
        let ask = async {
            let requested = (0..50).map(|_| cache.get(ONE_HOUR, ONE_HOUR));
            let values = futures_util::future::join_all(requested).await;
            stop.cancel();
            values
        };
        let (values, ()) = tokio::join!(ask, cache.run(compute, &stop));
        assert!(values.iter().all(|value| *value == Some(0)));
        assert_eq!(computations.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_slow_computation_times_out() {
        let (cache, stop) = (SingleFlightCache::<u32>::new(), CancellationToken::new());
        let ask = async {
            let value = cache.get(ONE_HOUR, Duration::from_millis(5)).await;
            stop.cancel();
            value
        };
        let (value, ()) = tokio::join!(ask, cache.run(std::future::pending, &stop));
        assert_eq!(value, None);
    }

    #[tokio::test]
    async fn a_second_caller_does_not_wait_again_for_a_slow_computation() {
        let (cache, stop) = (SingleFlightCache::<u32>::new(), CancellationToken::new());
        let ask = async {
            let timeout = Duration::from_millis(200);
            let first = cache.get(ONE_HOUR, timeout).await;
            let started_at = cache.clock.tick();
            let second = cache.get(ONE_HOUR, timeout).await;
            stop.cancel();
            (first, second, cache.clock.tick().since(started_at))
        };
        let ((first, second, elapsed), ()) = tokio::join!(ask, cache.run(std::future::pending, &stop));
        assert_eq!((first, second), (None, None));
        assert!(elapsed < Duration::from_millis(150), "{elapsed:?}");
    }

    #[tokio::test]
    async fn nothing_is_computed_without_a_request() {
        let (cache, computations, stop) = (SingleFlightCache::new(), AtomicU32::new(0), CancellationToken::new());
        stop.cancel();
        cache.run(|| async { computations.fetch_add(1, Ordering::Relaxed) }, &stop).await;
        assert_eq!(computations.load(Ordering::Relaxed), 0);
    }
}
