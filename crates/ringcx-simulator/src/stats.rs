//! What happened: counts by endpoint, and every breach of the contract in words.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Endpoint;

/// How many breaches are kept in words.
const KEPT: usize = 200;

/// Counts since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that arrived, whatever became of them.
    pub requests: BTreeMap<Endpoint, u64>,
    /// Answers by status; 0 is a connection that was reset.
    pub statuses: BTreeMap<(Endpoint, u16), u64>,
    /// Requests beyond a limit; those refused by a fault are not among them.
    pub refused: BTreeMap<Endpoint, u64>,
    /// Faults that befell requests, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// RingCentral tokens issued.
    pub rc_logins: u64,
    /// Exchanges and Engage logins that succeeded.
    pub exchanges: u64,
    /// Refreshes that succeeded.
    pub refreshes: u64,
    /// Connections accepted.
    pub connections: u64,
    /// The most requests of one account in any 60 s.
    pub peak_per_minute: usize,
    /// How often the contract was broken.
    pub violation_count: u64,
    /// How, for the first 200 times.
    pub violations: Vec<String>,
}

impl Stats {
    /// Answers with 200.
    pub fn ok(&self, endpoint: Endpoint) -> u64 {
        self.statuses.get(&(endpoint, 200)).copied().unwrap_or(0)
    }

    /// Requests beyond a limit, at all endpoints.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Requests at all endpoints.
    pub fn requests_in_all(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// Where it is counted.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Stats>);

impl Recorder {
    pub(super) fn lock(&self) -> MutexGuard<'_, Stats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn violation(&self, what: impl Into<String>) {
        let mut stats = self.lock();
        stats.violation_count += 1;
        if stats.violations.len() < KEPT {
            stats.violations.push(what.into());
        }
    }
}
