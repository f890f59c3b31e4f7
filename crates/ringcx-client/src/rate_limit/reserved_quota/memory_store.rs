//! Reservations in memory: for tests, and for a process that shares its quota with no other.

use std::collections::HashMap;

use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;

use super::{ReservationStore, StoreError};
use crate::clock::Time;
use crate::rate_limit::{MAX_ARRIVAL_DELAY, SlidingWindowLimiter};

/// A [`ReservationStore`] in memory. The reference for a store in a database.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<ReservationTables>);

#[derive(Debug, Default)]
struct ReservationTables {
    rows: HashMap<String, Vec<ReservationRow>>,
    last_id: i64,
}

#[derive(Debug, Clone, Copy)]
struct ReservationRow {
    id: i64,
    reserved_at: Time,
    counted_at: Option<Time>,
}

impl ReservationRow {
    fn effective_time(&self) -> Time {
        self.counted_at.unwrap_or(self.reserved_at + MAX_ARRIVAL_DELAY)
    }
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn reserve(&self, key: &str, limits: &SlidingWindowLimiter, now: Time) -> Result<i64, Time> {
        let mut tables = self.0.lock();
        let id = tables.last_id + 1;
        let rows = tables.rows.entry(key.to_owned()).or_default();
        let forget_before = now - limits.log_span();
        rows.retain(|row| row.effective_time() > forget_before);
        for row in rows.iter_mut() {
            row.reserved_at = row.reserved_at.min(now);
            row.counted_at = row.counted_at.map(|at| at.min(now));
        }
        let log: Vec<Time> = rows.iter().map(ReservationRow::effective_time).collect();
        let earliest = limits.earliest_send(&log, now);
        if earliest > now {
            return Err(earliest);
        }
        rows.push(ReservationRow { id, reserved_at: now, counted_at: None });
        tables.last_id = id;
        Ok(id)
    }
}

impl ReservationStore for MemoryStore {
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a SlidingWindowLimiter,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        Box::pin(ready(Ok(self.reserve(key, limits, now))))
    }

    fn mark_counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        for row in self.0.lock().rows.values_mut().flatten().filter(|row| row.id == id) {
            row.counted_at = Some(at);
        }
        Box::pin(ready(Ok(())))
    }

    fn effective_times<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        let tables = self.0.lock();
        let log = tables
            .rows
            .get(key)
            .into_iter()
            .flatten()
            .map(ReservationRow::effective_time)
            .filter(|at| *at > since)
            .collect();
        Box::pin(ready(Ok(log)))
    }
}
