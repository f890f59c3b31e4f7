//! Quotas of a few requests per window, shared through a store: metadata reads and token exchanges.
//!
//! A request is reserved in the store before it is sent. So restarts, crash loops, the `check`
//! command and a change of owner all count it. This module knows no database: the store is a trait,
//! and [`MemoryStore`] is its simplest implementation.
//!
//! Guarantee: as long as all users of a key share its store, no sliding window holds more than its
//! rule allows. The store handles a wall clock that is set back. A wall clock that is set forward,
//! or a store that loses rows, cannot make this process exceed a limit: a [`ReservedQuota`] also
//! keeps a log by the monotonic clock. It holds the process's own requests, and those that the
//! store knew at its first use. The latter are needed where a machine boots with a wrong clock that
//! is corrected later.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{MAX_ARRIVAL_DELAY, SlidingWindowLimiter};
use crate::clock::{Clock, Tick, Time, millis};

mod memory_store;
#[cfg(test)]
mod tests;

pub use memory_store::MemoryStore;

/// Why a store failed.
pub type StoreError = Box<dyn Error + Send + Sync>;

/// A waiting reservation asks the store again at least this often: another process may have
/// reported that its request was counted, or the wall clock may have been set.
const MAX_STORE_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Where requests are reserved before they are sent.
///
/// An entry's *effective time* is the latest moment at which the server can have counted it: when
/// it was reported as counted, otherwise [`MAX_ARRIVAL_DELAY`] after it was reserved.
///
/// `now` and `at` are the caller's wall clock, which may be set and differs between machines.
/// Before it reads the log, a store must rewrite times after `now` (of both kinds) to `now`;
/// otherwise such rows stay ahead of the clock for as long as it was set back. A store for several
/// machines should use its database's time, and translate its results by the difference to `now`.
pub trait ReservationStore: Send + Sync + 'static {
    /// In one transaction under a lock: reads the effective times of `key`, as far back as
    /// `limits.log_span()`, and computes `limits.earliest_send(log, now)`. If that is `now`, adds
    /// an entry reserved at `now` and returns `Ok(Ok(id))`; otherwise `Ok(Err(earliest))`.
    ///
    /// # Errors
    /// If the store cannot be reached; then nothing may be sent.
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a SlidingWindowLimiter,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>>;

    /// Records that the server has certainly counted entry `id`, at `at` or before. An unknown id
    /// is no error.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn mark_counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The effective times of `key` after `since`, in any order.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn effective_times<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>>;
}

/// One quota: a key in a store, and its limits. Clones share it.
#[derive(Clone)]
pub struct ReservedQuota(Arc<QuotaInner>);

struct QuotaInner {
    store: Arc<dyn ReservationStore>,
    key: String,
    limits: SlidingWindowLimiter,
    clock: Clock,
    local_log: Mutex<LocalLog>,
    /// Its holder is the first in the queue.
    queue_head: tokio::sync::Mutex<()>,
    state_changed: Notify,
}

/// The requests of this process, and those of others at its start, by the monotonic clock.
#[derive(Default)]
struct LocalLog {
    entries: VecDeque<(u64, Tick)>,
    next_id: u64,
    is_seeded: bool,
}

impl ReservedQuota {
    /// A quota of `limits` under `key`. All quotas with the same store and key share it.
    pub fn new(
        store: Arc<dyn ReservationStore>,
        key: String,
        limits: SlidingWindowLimiter,
        clock: Clock,
    ) -> ReservedQuota {
        ReservedQuota(Arc::new(QuotaInner {
            store,
            key,
            limits,
            clock,
            local_log: Mutex::default(),
            queue_head: tokio::sync::Mutex::new(()),
            state_changed: Notify::new(),
        }))
    }

    /// The rules of this quota.
    pub fn limits(&self) -> &SlidingWindowLimiter {
        &self.0.limits
    }

    /// Waits (first in, first out within the process) and reserves one request, to be sent
    /// immediately.
    ///
    /// # Errors
    /// If the store cannot be reached; then nothing may be sent.
    pub async fn reserve(&self) -> Result<Reservation, StoreError> {
        let _queue_head = self.0.queue_head.lock().await;
        loop {
            let state_changed = self.0.state_changed.notified();
            let due = match self.try_reserve().await? {
                Ok(reserved) => return Ok(reserved),
                Err(due) => due,
            };
            let poll_after = due.since(self.0.clock.now()).clamp(Duration::from_millis(1), MAX_STORE_POLL_INTERVAL);
            tokio::select! {
                () = self.0.clock.sleep(poll_after) => {}
                () = state_changed => {}
            }
        }
    }

    /// Reserves one request, to be sent immediately, or returns when to try again: always later
    /// than now. Overtakes waiters in [`ReservedQuota::reserve`].
    ///
    /// # Errors
    /// If the store cannot be reached; then nothing may be sent.
    pub async fn try_reserve(&self) -> Result<Result<Reservation, Time>, StoreError> {
        let inner = &self.0;
        inner.seed_local_log().await?;
        let now = inner.clock.now();
        // Added before the store is asked: if this future is dropped after the store has reserved,
        // both keep an entry of a request that was never sent.
        let entry = match inner.reserve_locally() {
            Ok(entry) => entry,
            Err(wait) => return Ok(Err(now + wait)),
        };
        let refused = match inner.store.try_reserve(&inner.key, &inner.limits, now).await {
            Ok(Ok(id)) => return Ok(Ok(Reservation { quota: self.clone(), id, entry })),
            Ok(Err(due)) => Ok(Err(due.max(now.plus_millis(1)))),
            Err(error) => Err(error),
        };
        inner.local_log.lock().entries.retain(|(id, _)| *id != entry);
        refused
    }

    /// The effective times in the store, as far back as the limits need: for planning with
    /// [`SlidingWindowLimiter::earliest_send`].
    ///
    /// # Errors
    /// If the store cannot be reached.
    pub async fn effective_times(&self) -> Result<Vec<Time>, StoreError> {
        self.0.seed_local_log().await?;
        let since = self.0.clock.now() - self.0.limits.log_span();
        self.0.store.effective_times(&self.0.key, since).await
    }
}

impl fmt::Debug for ReservedQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReservedQuota")
            .field("key", &self.0.key)
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

impl QuotaInner {
    /// Copies the store's log once. From then on no step of the wall clock can make its entries
    /// look older than they are.
    async fn seed_local_log(&self) -> Result<(), StoreError> {
        if self.local_log.lock().is_seeded {
            return Ok(());
        }
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let log = self.store.effective_times(&self.key, now - self.limits.log_span()).await?;
        let mut local_log = self.local_log.lock();
        if !std::mem::replace(&mut local_log.is_seeded, true) {
            // Entries further ahead date from before the clock was set back. The store counts them
            // as of now.
            for at in log.into_iter().filter(|at| *at <= now + MAX_ARRIVAL_DELAY) {
                let entry = local_log.next_id;
                local_log.next_id += 1;
                let sent = Tick(tick.0.saturating_sub(now.since(at))) + at.since(now);
                local_log.entries.push_back((entry, sent));
            }
        }
        Ok(())
    }

    /// Adds an entry to the local log, or returns how long until there is room.
    fn reserve_locally(&self) -> Result<u64, Duration> {
        let now = self.clock.tick();
        let mut local_log = self.local_log.lock();
        let log_span = self.limits.log_span();
        local_log.entries.retain(|(_, at)| now.since(*at) <= log_span);
        // The same arithmetic on the monotonic clock: entries rounded up to the millisecond, the
        // present rounded down.
        let log: Vec<Time> = local_log.entries.iter().map(|(_, at)| ceil_to_millis(*at)).collect();
        let floor = Time(millis(now.0));
        let due = self.limits.earliest_send(&log, floor);
        if due > floor {
            return Err(due.since(floor));
        }
        let entry = local_log.next_id;
        local_log.next_id += 1;
        local_log.entries.push_back((entry, now + MAX_ARRIVAL_DELAY));
        Ok(entry)
    }
}

fn ceil_to_millis(tick: Tick) -> Time {
    Time(i64::try_from(tick.0.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX))
}

/// One reserved request, to be sent now. Call [`Reservation::mark_counted`] when its headers came
/// or it failed. Without that call (the request may or may not have been sent), it counts as
/// arrived 2 s after it was reserved.
#[must_use = "a reservation is spent whether or not it is used"]
#[derive(Debug)]
pub struct Reservation {
    quota: ReservedQuota,
    id: i64,
    entry: u64,
}

impl Reservation {
    /// Records that the server has certainly counted the request: its effective time is now. If the
    /// store fails, the entry keeps the time from its reservation. That is logged and no error,
    /// because the request itself succeeded.
    pub async fn mark_counted(self) {
        let inner = &self.quota.0;
        let (tick, now) = (inner.clock.tick(), inner.clock.now());
        for (id, at) in &mut inner.local_log.lock().entries {
            if *id == self.entry {
                *at = tick;
            }
        }
        if let Err(error) = inner.store.mark_counted(self.id, now).await {
            tracing::warn!(budget = inner.key, error = %error, "failed to record when a reserved request was counted");
        }
        inner.state_changed.notify_one();
    }
}
