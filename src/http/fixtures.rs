//! Snapshots for tests.

use std::time::Duration;

use crate::clock::Time;
use crate::health::{Snapshot, WorkCounts};
use crate::model::TimeRange;

use super::coverage_timeline::{CoverageState, CoverageTimeline, TimelineRange};
use super::status_snapshot::{DashboardRow, StatusSnapshot};

pub(super) const NOW: Time = Time(1_800_000_000_000);
pub(super) const VISIBLE_RANGE: TimeRange = TimeRange { from: Time(NOW.0 - 24 * 3_600_000), to: NOW };

/// The row of a healthy account.
pub(super) fn row(sub: &str) -> DashboardRow {
    let ranges = vec![
        TimelineRange { state: CoverageState::Read, from: 0, to: 287 },
        TimelineRange { state: CoverageState::Reread, from: 0, to: 270 },
    ];
    DashboardRow {
        sub: sub.to_owned(),
        name: None,
        owner: Some("host-1".to_owned()),
        watermark: Some(NOW - Duration::from_secs(300)),
        work: WorkCounts { done: 812, waiting: 3, ..WorkCounts::default() },
        requests_last_minute: 12,
        request_limit: 120,
        drain_time: Duration::from_secs(2),
        gaps: Duration::ZERO,
        paused: Vec::new(),
        missing: false,
        set_aside: 0,
        timeline: CoverageTimeline { ranges, description: "read 23 h 55 min".to_owned() },
        visible_range: VISIBLE_RANGE,
    }
}

/// A snapshot of these accounts.
pub(super) fn snapshot(rows: Vec<DashboardRow>) -> StatusSnapshot {
    let status = Snapshot { now: NOW, instance: "host-1".to_owned(), ..Snapshot::default() };
    StatusSnapshot {
        at: NOW,
        status,
        rows,
        visible_range: VISIBLE_RANGE,
        failures: Vec::new(),
        lateness: Vec::new(),
        is_limit_shared: false,
    }
}
