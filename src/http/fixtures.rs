//! Snapshots for tests.

use std::time::Duration;

use crate::clock::Time;
use crate::model::TimeRange;
use crate::status::{AccountFacts, AccountStatus, FindingStatus, IndexStatus, Status, WorkCounts};

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
        name: None,
        owner: Some("host-1".to_owned()),
        watermark: Some((NOW - Duration::from_secs(300)).rfc3339_secs()),
        lag_seconds: Some(300),
        work: WorkCounts { done: 812, waiting: 3, ..WorkCounts::default() },
        oldest_unfinished_seconds: None,
        requests_last_minute: 12,
        drain_seconds: 2,
        requests_per_minute: 120,
        requests_by_lane: Default::default(),
        refused: 0,
        holds_until: None,
        live_start: None,
        gaps: Vec::new(),
        paused: Vec::new(),
        missing_since: None,
        set_aside: 0,
        facts: AccountFacts::default(),
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
        status: Status {
            version: "0.1.0".to_owned(),
            now: NOW.rfc3339_secs(),
            instance: "host-1".to_owned(),
            accounts,
            sinks: Vec::new(),
            backfills: Vec::new(),
            findings: Vec::new(),
            replicas: Vec::new(),
            search_index: IndexStatus::default(),
        },
        visible_range: VISIBLE_RANGE,
        failures: Vec::new(),
        lateness: Vec::new(),
        is_limit_shared: false,
    }
}

/// The view of a snapshot with these findings.
pub(super) fn view(snapshot: Option<&StatusSnapshot>, findings: Vec<FindingStatus>) -> DashboardView<'_> {
    let summary = HealthSummary::new(findings, snapshot, NOW);
    DashboardView { summary, snapshot, samples: Vec::new(), now: NOW, instance: "<b>host</b>", has_search: false }
}
