//! Budgets of a few requests per window, shared through a store: metadata reads and token exchanges.
//!
//! A request is reserved in the store before it is sent, so that restarts, crash loops, the `check` command and a
//! change of owner all reckon with it. Knows no database: the store is a trait, and [`MemoryStore`] its simplest case.
//!
//! Guarantee: as long as all who use a key share its store, no sliding window holds more than its rule says. A wall
//! clock that is set back is put up with by the store; one that is set forward, or a store that forgets, cannot make
//! this process overrun a limit, as a [`Budget`] also remembers by a clock that is never set: its own requests, and those
//! that the store knew of when it was first asked. A machine that boots with a wrong clock, which is then put right, needs the
//! latter.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{LATEST_ARRIVAL, Sliding};
use crate::clock::{Clock, Tick, Time};

mod memory;
#[cfg(test)]
mod tests;

pub use memory::MemoryStore;

/// Why a store could not answer.
pub type StoreError = Box<dyn Error + Send + Sync>;

/// The longest that a waiting reservation goes without asking the store again: another process may have reported that
/// its request was counted, or the wall clock may have been set.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// Where requests are reserved before they are sent.
///
/// An entry's *effective time* is the latest moment at which the server can have counted it: when it was reported as
/// counted, else [`LATEST_ARRIVAL`] after it was reserved.
///
/// `now` and `at` are the caller's wall clock, which may be set, and differs between machines. A store must rewrite times
/// that lie after `now` (of both kinds) to `now` before it reads the log, or such rows would stay ahead of the clock for
/// as long as it was set back. A store for several machines should reckon with its database's own time, and translate
/// what it answers by the difference to `now`.
pub trait ReserveStore: Send + Sync + 'static {
    /// In one transaction under a lock: reads the effective times of `key`, as far back as `limits.memory()`, and asks
    /// `limits.earliest(log, now)`. If that is `now`, adds an entry reserved at `now` and answers `Ok(Ok(id))`; else
    /// `Ok(Err(earliest))`.
    ///
    /// # Errors
    /// If the store cannot be reached; then nothing may be sent.
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a Sliding,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>>;

    /// The server has certainly counted entry `id`, at `at` or before. An unknown id is no error.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The effective times of `key` after `since`, in any order.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn log<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>>;
}

/// One budget: a key in a store, and its limits. Clones share it.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    store: Arc<dyn ReserveStore>,
    key: String,
    limits: Sliding,
    clock: Clock,
    own: Mutex<Own>,
    /// Whoever holds it is the first of those who wait.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
}

/// What this process sent, and what others had sent when it began, by the clock that is never set.
#[derive(Default)]
struct Own {
    entries: VecDeque<(u64, Tick)>,
    next: u64,
    learnt: bool,
}

impl Budget {
    /// A budget of `limits` under `key`. All budgets with the same store and key share one allowance.
    pub fn new(store: Arc<dyn ReserveStore>, key: String, limits: Sliding, clock: Clock) -> Budget {
        Budget(Arc::new(Shared {
            store,
            key,
            limits,
            clock,
            own: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        }))
    }

    /// The limits that hold for this budget.
    pub fn limits(&self) -> &Sliding {
        &self.0.limits
    }

    /// Waits for its turn (first come, first served within the process) and reserves one request, to be sent at once.
    ///
    /// # Errors
    /// If the store cannot be reached; then nothing may be sent.
    pub async fn reserve(&self) -> Result<Reserved, StoreError> {
        let _turn = self.0.turn.lock().await;
        loop {
            let changed = self.0.changed.notified();
            let due = match self.try_reserve().await? {
                Ok(reserved) => return Ok(reserved),
                Err(due) => due,
            };
            let nap = due.since(self.0.clock.now()).clamp(Duration::from_millis(1), LONGEST_NAP);
            tokio::select! {
                () = self.0.clock.sleep(nap) => {}
                () = changed => {}
            }
        }
    }

    /// Reserves one request, to be sent at once, or says when it is worth trying again: always later than now. Goes
    /// before those who wait in [`Budget::reserve`].
    ///
    /// # Errors
    /// If the store cannot be reached; then nothing may be sent.
    pub async fn try_reserve(&self) -> Result<Result<Reserved, Time>, StoreError> {
        let shared = &self.0;
        shared.learn().await?;
        let now = shared.clock.now();
        // Taken before the store is asked, so that nothing is lost if this future is dropped after the store has
        // reserved; then a request that was never sent keeps its place, on both sides.
        let entry = match shared.take_own() {
            Ok(entry) => entry,
            Err(wait) => return Ok(Err(now + wait)),
        };
        let refused = match shared.store.try_reserve(&shared.key, &shared.limits, now).await {
            Ok(Ok(id)) => return Ok(Ok(Reserved { budget: self.clone(), id, entry })),
            Ok(Err(due)) => Ok(Err(due.max(now.plus_millis(1)))),
            Err(error) => Err(error),
        };
        shared.own().entries.retain(|(id, _)| *id != entry);
        refused
    }

    /// The effective times of what the store holds, as far back as the limits look: for planning ahead with
    /// [`Sliding::earliest`].
    ///
    /// # Errors
    /// If the store cannot be reached.
    pub async fn log(&self) -> Result<Vec<Time>, StoreError> {
        self.0.learn().await?;
        let since = self.0.clock.now() - self.0.limits.memory();
        self.0.store.log(&self.0.key, since).await
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("key", &self.0.key).field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

impl Shared {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over, once, what the store knows: from then on no step of the wall clock makes it look older than it is.
    async fn learn(&self) -> Result<(), StoreError> {
        if self.own().learnt {
            return Ok(());
        }
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let log = self.store.log(&self.key, now - self.limits.memory()).await?;
        let mut own = self.own();
        if !std::mem::replace(&mut own.learnt, true) {
            // From before the clock was set back: nobody knows when; the store counts it as of now.
            for at in log.into_iter().filter(|at| *at <= now + LATEST_ARRIVAL) {
                let entry = own.next;
                own.next += 1;
                let sent = Tick(tick.0.saturating_sub(now.since(at))) + at.since(now);
                own.entries.push_back((entry, sent));
            }
        }
        Ok(())
    }

    /// Takes a place among this process's own requests, or says how long until there is one.
    fn take_own(&self) -> Result<u64, Duration> {
        let now = self.clock.tick();
        let mut own = self.own();
        let memory = self.limits.memory();
        own.entries.retain(|(_, at)| now.since(*at) <= memory);
        // The same arithmetic on another clock: entries rounded up to the millisecond, the present rounded down.
        let log: Vec<Time> = own.entries.iter().map(|(_, at)| ceil(*at)).collect();
        let floor = floor(now);
        let due = self.limits.earliest(&log, floor);
        if due > floor {
            return Err(due.since(floor));
        }
        let entry = own.next;
        own.next += 1;
        own.entries.push_back((entry, now + LATEST_ARRIVAL));
        Ok(entry)
    }
}

fn floor(tick: Tick) -> Time {
    Time(i64::try_from(tick.0.as_millis()).unwrap_or(i64::MAX))
}

fn ceil(tick: Tick) -> Time {
    Time(i64::try_from(tick.0.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX))
}

/// One reserved request, to be sent now. Report with [`Reserved::counted`] when its headers came or it failed; dropped
/// without (the request may or may not have left), it counts as arrived 2 s after it was reserved.
#[must_use = "a reservation is spent whether or not it is used"]
#[derive(Debug)]
pub struct Reserved {
    budget: Budget,
    id: i64,
    entry: u64,
}

impl Reserved {
    /// The server has certainly counted the request: that is its effective time from now on. If the store cannot be
    /// told, the entry keeps the time that it was given when it was reserved; that is logged, and no error, as the
    /// request itself is well.
    pub async fn counted(self) {
        let shared = &self.budget.0;
        let (tick, now) = (shared.clock.tick(), shared.clock.now());
        for (id, at) in &mut shared.own().entries {
            if *id == self.entry {
                *at = tick;
            }
        }
        if let Err(error) = shared.store.counted(self.id, now).await {
            tracing::warn!(budget = shared.key, error = %error, "failed to record when a reserved request was counted");
        }
        shared.changed.notify_one();
    }
}
