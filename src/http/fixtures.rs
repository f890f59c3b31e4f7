//! Snapshots for tests.

use std::time::Duration;

use crate::clock::Time;
use crate::health::{AccountStatus, Finding, Snapshot, WorkCounts};
use crate::model::TimeRange;

use super::coverage_timeline::{CoverageState, CoverageTimeline, TimelineRange};
use super::health_summary::HealthSummary;
use super::status_snapshot::StatusSnapshot;
use super::templates::DashboardView;

pub(super) const NOW: Time = Time(1_800_000_000_000);
pub(super) const VISIBLE_RANGE: TimeRange = TimeRange { from: Time(NOW.0 - 24 * 3_600_000), to: NOW };

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
    let ranges = vec![
        TimelineRange { state: CoverageState::Read, from: 0, to: 287 },
        TimelineRange { state: CoverageState::Reread, from: 0, to: 270 },
    ];
    let timeline = CoverageTimeline { ranges, description: "read 23 h 55 min".to_owned() };
    StatusSnapshot {
        at: NOW,
        timelines: vec![timeline; accounts.len()],
        status: Snapshot { now: NOW, instance: "host-1".to_owned(), accounts, ..Snapshot::default() },
        visible_range: VISIBLE_RANGE,
        failures: Vec::new(),
        lateness: Vec::new(),
        is_limit_shared: false,
    }
}

/// The view of a snapshot with these findings.
pub(super) fn view(snapshot: Option<&StatusSnapshot>, findings: Vec<Finding>) -> DashboardView<'_> {
    let summary = HealthSummary::new(findings, snapshot, NOW);
    DashboardView { summary, snapshot, samples: Vec::new(), now: NOW, instance: "<b>host</b>", has_search: false }
}
