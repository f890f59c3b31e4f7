//! A cache for one expensive value: computed on demand by a single task for all callers, and kept
//! for a while.
//!
//! Without requests nothing is computed. Concurrent requests share one computation. It never runs
//! in the caller's own task, so a caller that goes away leaves no database operation behind. A
//! value counts as fresh for at least four times as long as it took, so that an overloaded database
//! is not queried all the time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick};

/// A cached value, and the state of its computation.
pub(super) struct SingleFlightCache<T> {
    /// Real time: timeouts of the machine do not follow the daemon's simulated clock.
    clock: Clock,
    requested: Notify,
    /// When the current computation started.
    started: Mutex<Option<Tick>>,
    cached: watch::Sender<Option<CachedValue<T>>>,
}

struct CachedValue<T> {
    value: Arc<T>,
    computed_at: Tick,
    duration: Duration,
}

impl<T> SingleFlightCache<T> {
    pub(super) fn new() -> SingleFlightCache<T> {
        SingleFlightCache {
            clock: Clock::system(),
            requested: Notify::new(),
            started: Mutex::new(None),
            cached: watch::Sender::new(None),
        }
    }

    /// Returns the value if it is at most `max_age` old. Otherwise waits for a new one, until its
    /// computation has taken `timeout`. Returns `None` after that: the source does not respond, and
    /// later callers do not wait as long.
    pub(super) async fn get(&self, max_age: Duration, timeout: Duration) -> Option<Arc<T>> {
        let mut cached = self.cached.subscribe();
        let now = self.clock.tick();
        if let Some(cached) = &*cached.borrow_and_update()
            && now.since(cached.computed_at) <= max_age.max(cached.duration * 4)
        {
            return Some(cached.value.clone());
        }
        self.requested.notify_one();
        // A computation that was already running will do.
        let computed = cached.wait_for(|cached| cached.as_ref().is_some_and(|cached| cached.computed_at >= now));
        let elapsed = self.started().map_or(Duration::ZERO, |started_at| now.since(started_at));
        let computed = tokio::time::timeout(timeout.saturating_sub(elapsed), computed).await.ok()?.ok()?;
        computed.as_ref().map(|cached| cached.value.clone())
    }

    fn started(&self) -> MutexGuard<'_, Option<Tick>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes the value whenever it is requested, until `stop`.
    pub(super) async fn run<F: Future<Output = T>>(&self, compute: impl Fn() -> F, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.requested.notified() => {}
            }
            let started_at = self.clock.tick();
            *self.started() = Some(started_at);
            // A running computation ends by itself; shutdown does not wait for it.
            let value = tokio::select! {
                () = stop.cancelled() => return,
                value = compute() => Arc::new(value),
            };
            let computed_at = self.clock.tick();
            *self.started() = None;
            self.cached.send_replace(Some(CachedValue { value, computed_at, duration: computed_at.since(started_at) }));
        }
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
        assert!(values.iter().all(|value| value.as_deref() == Some(&0)));
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
