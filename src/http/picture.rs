//! How everything stands at one moment, for the dashboard and the metrics. Reads `db` and `status`, writes nothing.
//!
//! A few statements for all accounts together. What of an account does not change by itself as time goes by is in
//! [`Row`], so that comparing two rows tells whether anything has to be drawn again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::Time;
use crate::config::LimitScope;
use crate::daemon::beat;
use crate::daemon::shared::Shared;
use crate::db::{AccountRow, BackfillRequest, CoverageRow, DbError, FailureRow};
use crate::model::Stretch;
use crate::status::words::count;
use crate::status::{self, AccountStatus, Pause, Status};

use super::strip::{self, Sets, Strip};

/// How many reasons for failures are shown.
const REASONS: u32 = 12;

/// How everything stands.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    /// When this was so.
    pub(super) at: Time,
    /// What `status --json` says.
    pub(super) status: Status,
    /// By sub-account id, as in `status`.
    pub(super) rows: Vec<Row>,
    /// What all strips show.
    pub(super) frame: Stretch,
    /// Why items have failed for good.
    pub(super) failures: Vec<Failure>,
    /// How late things were.
    pub(super) lateness: Vec<(String, i64, u64)>,
    /// Whether all accounts share one budget.
    pub(super) one_budget: bool,
}

/// An account, as one row shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) sub: String,
    pub(super) name: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) watermark: Option<Time>,
    pub(super) work: status::Work,
    pub(super) used: u64,
    pub(super) limit: u64,
    pub(super) drain: Duration,
    /// Time that was never read although later time was.
    pub(super) gaps: Duration,
    pub(super) paused: Vec<Pause>,
    pub(super) missing: bool,
    /// Records that could not be understood and that no later read has settled.
    pub(super) aside: u64,
    pub(super) strip: Strip,
    pub(super) frame: Stretch,
}

/// Items that failed for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The account, for people, or how many they are.
    pub(super) accounts: String,
    pub(super) artifact: &'static str,
    pub(super) reason: String,
    pub(super) items: u64,
}

impl Row {
    /// For people.
    pub(super) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.sub)
    }

    /// How far it is behind; `None` before the first read.
    pub(super) fn lag(&self, now: Time) -> Option<Duration> {
        self.watermark.map(|watermark| now.since(watermark))
    }
}

/// Gathers it.
///
/// # Errors
/// Where the database cannot be read.
pub(super) async fn gather(shared: &Shared) -> Result<Picture, DbError> {
    let (db, settings, now) = (&shared.db, &shared.settings, shared.clock.now());
    let own = beat::stats(shared);
    let status = status::gather(db, settings, &settings.database.instance, Some(own), now).await?;
    let accounts = db.accounts().await?;
    let backfills = db.backfills(None, false).await?;
    let coverage = db.coverage_since(now - strip::LONGEST).await?;
    let failures = db.failures(REASONS).await?;
    let lateness = db.lateness_of_all().await?;
    let frame = strip::frame(now, first(&coverage, &backfills));
    let mut sets = sets(&accounts, coverage, &backfills);
    let strips =
        |account: &AccountStatus| sets.remove(account.sub_account_id.as_str()).unwrap_or_default().strip(frame);
    let strips: Vec<Strip> = status.accounts.iter().map(strips).collect();
    let rows = status.accounts.iter().zip(strips).map(|(account, strip)| row(account, strip, frame)).collect();
    let failures = failures.into_iter().map(|failure| named(failure, &accounts)).collect();
    let one_budget = settings.limits.scope == LimitScope::Login;
    Ok(Picture { at: now, status, rows, frame, failures, lateness, one_budget })
}

/// When the earliest thing that strips could show began.
fn first(coverage: &[CoverageRow], backfills: &[BackfillRequest]) -> Option<Time> {
    let read = coverage.iter().map(|row| row.stretch.from);
    read.chain(backfills.iter().map(|backfill| backfill.range.from)).min()
}

fn sets(accounts: &[AccountRow], coverage: Vec<CoverageRow>, backfills: &[BackfillRequest]) -> HashMap<String, Sets> {
    let mut rows: BTreeMap<i64, Vec<CoverageRow>> = BTreeMap::new();
    for row in coverage {
        rows.entry(row.account).or_default().push(row);
    }
    let sets = |account: &AccountRow| {
        let rows = rows.get(&account.key).map(Vec::as_slice).unwrap_or_default();
        let own = backfills.iter().filter(|backfill| backfill.account == account.key);
        strip::coverage(account.live_start, rows, own.map(|backfill| (backfill.id, backfill.range)))
    };
    accounts.iter().map(|account| (account.id.sub.to_string(), sets(account))).collect()
}

fn row(account: &AccountStatus, strip: Strip, frame: Stretch) -> Row {
    Row {
        sub: account.sub_account_id.clone(),
        name: account.name.clone(),
        owner: account.owner.clone(),
        watermark: account.watermark(),
        work: account.work,
        used: account.requests_last_minute,
        limit: u64::from(account.requests_per_minute),
        drain: Duration::from_secs(account.drain_seconds),
        gaps: account.gap(),
        paused: account.paused.clone(),
        missing: account.missing_since.is_some(),
        aside: account.set_aside,
        strip,
        frame,
    }
}

fn named(failure: FailureRow, accounts: &[AccountRow]) -> Failure {
    let account = accounts.iter().find(|account| account.key == failure.account && failure.accounts == 1);
    let name = account.map(|account| account.name.clone().unwrap_or_else(|| account.id.sub.to_string()));
    Failure {
        accounts: name.unwrap_or_else(|| count(failure.accounts, "account", "accounts")),
        artifact: failure.artifact.name(),
        reason: failure.reason.unwrap_or_else(|| "no reason was recorded".to_owned()),
        items: failure.items,
    }
}
