//! Snapshots for tests.

use std::time::Duration;

use crate::clock::Time;
use crate::health::{AccountStatus, Snapshot, WorkCounts};

use super::status_snapshot::StatusSnapshot;

pub(super) const NOW: Time = Time(1_800_000_000_000);

/// A healthy account.
pub(super) fn account(sub: &str) -> AccountStatus {
    AccountStatus {
        rc_account_id: "1".to_owned(),
        sub_account_id: sub.to_owned(),
        owner: Some("host-1".to_owned()),
        watermark: Some(NOW - Duration::from_secs(300)),
        lag_seconds: Some(300),
        work: WorkCounts { done: 812, waiting: 3, ..WorkCounts::default() },
        requests_last_minute: 12,
        drain_seconds: 2,
        requests_per_minute: 120,
        ..AccountStatus::default()
    }
}

/// A snapshot of these accounts.
pub(super) fn snapshot(accounts: Vec<AccountStatus>) -> StatusSnapshot {
    let status = Snapshot { now: NOW, instance: "host-1".to_owned(), accounts, ..Snapshot::default() };
    StatusSnapshot { status, lateness: Vec::new() }
}
