//! Reservations that live as long as the process: for tests, and where nothing outlives or shares it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, ready};

use super::super::{LATEST_ARRIVAL, Sliding};
use super::{ReserveStore, StoreError};
use crate::clock::Time;

/// A [`ReserveStore`] in memory. Shows what a store in a database must do, entry for entry.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    rows: HashMap<String, Vec<Row>>,
    last_id: i64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    id: i64,
    reserved: Time,
    counted: Option<Time>,
}

impl Row {
    fn effective(&self) -> Time {
        self.counted.unwrap_or(self.reserved + LATEST_ARRIVAL)
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, key: &str, limits: &Sliding, now: Time) -> Result<i64, Time> {
        let mut tables = self.lock();
        let id = tables.last_id + 1;
        let rows = tables.rows.entry(key.to_owned()).or_default();
        let forget = now - limits.memory();
        rows.retain(|row| row.effective() > forget);
        for row in rows.iter_mut() {
            row.reserved = row.reserved.min(now);
            row.counted = row.counted.map(|at| at.min(now));
        }
        let log: Vec<Time> = rows.iter().map(Row::effective).collect();
        let earliest = limits.earliest(&log, now);
        if earliest > now {
            return Err(earliest);
        }
        rows.push(Row { id, reserved: now, counted: None });
        tables.last_id = id;
        Ok(id)
    }
}

impl ReserveStore for MemoryStore {
    fn try_reserve<'a>(
        &'a self,
        key: &'a str,
        limits: &'a Sliding,
        now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        Box::pin(ready(Ok(self.reserve(key, limits, now))))
    }

    fn counted<'a>(&'a self, id: i64, at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        for row in self.lock().rows.values_mut().flatten().filter(|row| row.id == id) {
            row.counted = Some(at);
        }
        Box::pin(ready(Ok(())))
    }

    fn log<'a>(&'a self, key: &'a str, since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        let tables = self.lock();
        let log = tables.rows.get(key).into_iter().flatten().map(Row::effective).filter(|at| *at > since).collect();
        Box::pin(ready(Ok(log)))
    }
}
