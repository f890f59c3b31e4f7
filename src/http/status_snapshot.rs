//! A snapshot of the whole status at one moment, for the dashboard and the metrics. Reads `db` and
//! `status`, writes nothing.
//!
//! It takes a few statements for all accounts together.

use std::collections::HashMap;

use crate::clock::Time;
use crate::config::LimitScope;
use crate::daemon::app_context::AppContext;
use crate::daemon::replica_stats;
use crate::db::{AccountKey, AccountRow, CoverageRow, DbError, FailureRow};
use crate::health::humanize::format_count;
use crate::health::{AccountStatus, Snapshot};
use crate::model::TimeRange;
use crate::status;

use super::coverage_timeline::{self, CoverageTimeline};

/// How many groups of failures are shown.
const MAX_FAILURE_GROUPS: u32 = 12;

/// The status at one moment.
#[derive(Debug, Clone)]
pub(super) struct StatusSnapshot {
    /// When the snapshot was taken.
    pub(super) at: Time,
    /// The content of `status --json`.
    pub(super) status: Snapshot,
    /// In the order of the accounts in `status`.
    pub(super) timelines: Vec<CoverageTimeline>,
    /// The time range that all timelines show.
    pub(super) visible_range: TimeRange,
    /// The reasons why items failed permanently, each with the name or number of its accounts.
    pub(super) failures: Vec<(String, FailureRow)>,
    /// Counts of delays; see `MetricsSnapshot::lateness`.
    pub(super) lateness: Vec<(String, i64, u64)>,
    /// Whether all accounts share one request limit.
    pub(super) is_limit_shared: bool,
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
    // The earliest time that a timeline could show.
    let starts = coverage.iter().map(|row| row.range.from).chain(backfills.iter().map(|backfill| backfill.range.from));
    let visible_range = coverage_timeline::visible_range(now, starts.min());
    let mut coverage_by_account: HashMap<AccountKey, Vec<CoverageRow>> = HashMap::new();
    for row in coverage {
        coverage_by_account.entry(row.account).or_default().push(row);
    }
    let account_by_sub: HashMap<&str, &AccountRow> = accounts.iter().map(|row| (&*row.id.sub, row)).collect();
    let timeline = |status: &AccountStatus| {
        let account = account_by_sub.get(&*status.sub_account_id);
        let key = account.map(|account| account.key);
        let coverage = key.and_then(|key| coverage_by_account.get(&key)).map(Vec::as_slice).unwrap_or_default();
        let backfills = backfills.iter().filter(|backfill| Some(backfill.account) == key);
        let backfills = backfills.map(|backfill| (backfill.id, backfill.range));
        let live_start = account.and_then(|account| account.live_start);
        coverage_timeline::timeline(live_start, coverage, backfills, visible_range)
    };
    let timelines = status.accounts.iter().map(timeline).collect();
    let failures = failures.into_iter().map(|failure| (affected_accounts(&failure, &accounts), failure)).collect();
    let is_limit_shared = settings.limits.scope == LimitScope::Login;
    Ok(StatusSnapshot { at: now, status, timelines, visible_range, failures, lateness, is_limit_shared })
}

fn affected_accounts(failure: &FailureRow, accounts: &[AccountRow]) -> String {
    match accounts.iter().find(|account| account.key == failure.account && failure.accounts == 1) {
        Some(account) => account.name.clone().unwrap_or_else(|| account.id.sub.to_string()),
        None => format_count(failure.accounts, "account", "accounts"),
    }
}
