//! A snapshot of the whole status at one moment, for the dashboard and the metrics. Reads `db` and
//! `status`, writes nothing.
//!
//! It takes a few statements for all accounts together. [`DashboardRow`] holds only what does not
//! change with time alone, so that comparing two rows tells whether one must be rendered again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::Time;
use crate::config::LimitScope;
use crate::daemon::app_context::AppContext;
use crate::daemon::replica_stats;
use crate::db::{AccountRow, BackfillRequest, CoverageRow, DbError, FailureRow};
use crate::health::humanize::format_count;
use crate::health::{AccountStatus, EndpointPause, Snapshot, WorkCounts};
use crate::model::TimeRange;
use crate::status;

use super::coverage_timeline::{self, CoverageByState, CoverageTimeline};

/// How many groups of failures are shown.
const MAX_FAILURE_GROUPS: u32 = 12;

/// The status at one moment.
#[derive(Debug, Clone)]
pub(super) struct StatusSnapshot {
    /// When the snapshot was taken.
    pub(super) at: Time,
    /// The content of `status --json`.
    pub(super) status: Snapshot,
    /// By sub-account id, as in `status`.
    pub(super) rows: Vec<DashboardRow>,
    /// The time range that all timelines show.
    pub(super) visible_range: TimeRange,
    /// The reasons why items failed permanently.
    pub(super) failures: Vec<FailureGroup>,
    /// Counts of delays; see `MetricsSnapshot::lateness`.
    pub(super) lateness: Vec<(String, i64, u64)>,
    /// Whether all accounts share one request limit.
    pub(super) is_limit_shared: bool,
}

/// The row of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DashboardRow {
    pub(super) sub: String,
    pub(super) name: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) watermark: Option<Time>,
    pub(super) work: WorkCounts,
    pub(super) requests_last_minute: u64,
    pub(super) request_limit: u64,
    pub(super) drain_time: Duration,
    /// Total time that was never read although later time was.
    pub(super) gaps: Duration,
    pub(super) paused: Vec<EndpointPause>,
    pub(super) missing: bool,
    /// Quarantined metadata records that no later read has resolved.
    pub(super) set_aside: u64,
    pub(super) timeline: CoverageTimeline,
    pub(super) visible_range: TimeRange,
}

/// Items that failed for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailureGroup {
    /// The account's display name, or the number of accounts.
    pub(super) accounts: String,
    pub(super) artifact: &'static str,
    pub(super) reason: String,
    pub(super) items: u64,
}

impl DashboardRow {
    /// The display name.
    pub(super) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.sub)
    }

    /// How far the account is behind; `None` before the first read.
    pub(super) fn lag(&self, now: Time) -> Option<Duration> {
        self.watermark.map(|watermark| now.since(watermark))
    }
}

/// Takes a snapshot.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn take_snapshot(app: &AppContext) -> Result<StatusSnapshot, DbError> {
    let (db, settings, now) = (&app.db, &app.settings, app.clock.now());
    let own = replica_stats::replica_stats(app);
    let status = status::gather(db, settings, &settings.database.instance, Some(own), now).await?;
    let accounts = db.accounts().await?;
    let backfills = db.backfills(None, false).await?;
    let coverage = db.coverage_since(now - coverage_timeline::MAX_VISIBLE_RANGE).await?;
    let failures = db.failures(MAX_FAILURE_GROUPS).await?;
    let lateness = db.lateness_of_all().await?;
    let visible_range = coverage_timeline::visible_range(now, earliest_start(&coverage, &backfills));
    let mut coverage_by_account = coverage_by_account(&accounts, coverage, &backfills);
    let timeline = |account: &AccountStatus| {
        coverage_by_account.remove(account.sub_account_id.as_str()).unwrap_or_default().timeline(visible_range)
    };
    let timelines: Vec<CoverageTimeline> = status.accounts.iter().map(timeline).collect();
    let rows = status
        .accounts
        .iter()
        .zip(timelines)
        .map(|(account, timeline)| dashboard_row(account, timeline, visible_range))
        .collect();
    let failures = failures.into_iter().map(|failure| failure_group(failure, &accounts)).collect();
    let is_limit_shared = settings.limits.scope == LimitScope::Login;
    Ok(StatusSnapshot { at: now, status, rows, visible_range, failures, lateness, is_limit_shared })
}

/// The earliest time that a timeline could show.
fn earliest_start(coverage: &[CoverageRow], backfills: &[BackfillRequest]) -> Option<Time> {
    let read = coverage.iter().map(|row| row.range.from);
    read.chain(backfills.iter().map(|backfill| backfill.range.from)).min()
}

fn coverage_by_account(
    accounts: &[AccountRow],
    coverage: Vec<CoverageRow>,
    backfills: &[BackfillRequest],
) -> HashMap<String, CoverageByState> {
    let mut rows: BTreeMap<i64, Vec<CoverageRow>> = BTreeMap::new();
    for row in coverage {
        rows.entry(row.account).or_default().push(row);
    }
    let account_coverage = |account: &AccountRow| {
        let rows = rows.get(&account.key).map(Vec::as_slice).unwrap_or_default();
        let own = backfills.iter().filter(|backfill| backfill.account == account.key);
        coverage_timeline::coverage_by_state(
            account.live_start,
            rows,
            own.map(|backfill| (backfill.id, backfill.range)),
        )
    };
    accounts.iter().map(|account| (account.id.sub.to_string(), account_coverage(account))).collect()
}

fn dashboard_row(account: &AccountStatus, timeline: CoverageTimeline, visible_range: TimeRange) -> DashboardRow {
    DashboardRow {
        sub: account.sub_account_id.clone(),
        name: account.name.clone(),
        owner: account.owner.clone(),
        watermark: account.watermark,
        work: account.work,
        requests_last_minute: account.requests_last_minute,
        request_limit: u64::from(account.requests_per_minute),
        drain_time: Duration::from_secs(account.drain_seconds),
        gaps: account.gap(),
        paused: account.paused.clone(),
        missing: account.missing_since.is_some(),
        set_aside: account.set_aside,
        timeline,
        visible_range,
    }
}

fn failure_group(failure: FailureRow, accounts: &[AccountRow]) -> FailureGroup {
    let account = accounts.iter().find(|account| account.key == failure.account && failure.accounts == 1);
    let name = account.map(|account| account.name.clone().unwrap_or_else(|| account.id.sub.to_string()));
    FailureGroup {
        accounts: name.unwrap_or_else(|| format_count(failure.accounts, "account", "accounts")),
        artifact: failure.artifact.name(),
        reason: failure.reason.unwrap_or_else(|| "no reason was recorded".to_owned()),
        items: failure.items,
    }
}
