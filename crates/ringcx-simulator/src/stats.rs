//! Counts by endpoint, and descriptions of all violations of the contract.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

use crate::model::Endpoint;

/// The number of violations whose description is kept.
const MAX_VIOLATIONS_KEPT: usize = 200;

/// Counts since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// All requests that arrived.
    pub requests: BTreeMap<Endpoint, u64>,
    /// Answers by status; 0 for a reset connection.
    pub statuses: BTreeMap<(Endpoint, u16), u64>,
    /// Requests beyond a limit, without those that a fault refused.
    pub refused: BTreeMap<Endpoint, u64>,
    /// Injected faults by kind.
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
    /// The number of violations of the contract.
    pub violation_count: u64,
    /// Descriptions of the first 200 violations.
    pub violations: Vec<String>,
}

impl Stats {
    /// The number of answers with 200.
    pub fn ok_count(&self, endpoint: Endpoint) -> u64 {
        self.statuses.get(&(endpoint, 200)).copied().unwrap_or(0)
    }

    /// Refused requests of all endpoints.
    pub fn total_refused(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Requests of all endpoints.
    pub fn total_requests(&self) -> u64 {
        self.requests.values().sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct StatsRecorder(Mutex<Stats>);

impl StatsRecorder {
    pub(super) fn lock(&self) -> MutexGuard<'_, Stats> {
        self.0.lock()
    }

    pub(super) fn record_violation(&self, description: impl Into<String>) {
        let mut stats = self.lock();
        stats.violation_count += 1;
        if stats.violations.len() < MAX_VIOLATIONS_KEPT {
            stats.violations.push(description.into());
        }
    }
}
