//! How everything stands at one moment, for the dashboard and the metrics. Reads `db` and `status`, writes nothing.
//!
//! A few statements for all accounts together. What of an account does not change by itself as time goes by is in
//! [`Row`], so that comparing two rows tells whether anything has to be drawn again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::Time;
use crate::config::LimitScope;
use crate::daemon::shared::Shared;
use crate::db::{AccountRow, BackfillRequest, CoverageRow, DbError, FailureRow};
use crate::model::Stretch;
use crate::status::{self, AccountStatus, Status};

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
    pub(super) paused: Vec<Paused>,
    pub(super) missing: bool,
    /// Records that could not be understood and that no later read has settled.
    pub(super) aside: u64,
    pub(super) strip: Strip,
    pub(super) frame: Stretch,
}

/// Something of an account that is not asked for at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paused {
    /// The endpoint's name.
    pub(super) endpoint: String,
    pub(super) until: Option<Time>,
    pub(super) reason: String,
    pub(super) status: Option<i64>,
}

impl Paused {
    /// Whether it will not pass by itself: the API refused.
    pub(super) fn refused(&self) -> bool {
        matches!(self.status, Some(300..=399 | 401 | 403))
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self.status {
            Some(401) => "check that the login's user is active and still belongs to this account",
            Some(300..=399) => {
                "the API has moved: the reason names the host; set the URL of [api] that named the old one"
            }
            Some(403) if self.endpoint == "metadata" => {
                "give the login's user the permission for this data in the RingCX admin portal, and ask RingCentral's customer \
                 success manager for the account's entitlement \"WEM Access\"; `ringcx-extractor check` names what is missing"
            }
            Some(403) => {
                "give the login's user the permission for this data in the RingCX admin portal; `ringcx-extractor check` \
                 names what is missing"
            }
            _ => "nothing to do: it is tried again by itself",
        }
    }
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
    let mut status = status::gather(db, settings, &settings.database.instance, now).await?;
    let accounts = db.accounts().await?;
    let backfills = db.backfills(None, false).await?;
    let coverage = db.coverage_since(now - strip::LONGEST).await?;
    let failures = db.failures(REASONS).await?;
    let lateness = db.lateness_of_all().await?;
    let asides = db.open_asides().await?;
    live(&mut status, shared);
    let frame = strip::frame(now, first(&coverage, &backfills));
    let mut sets = sets(&accounts, coverage, &backfills);
    let strips =
        |account: &AccountStatus| sets.remove(account.sub_account_id.as_str()).unwrap_or_default().strip(frame);
    let strips: Vec<Strip> = status.accounts.iter().map(strips).collect();
    let aside = |account: &AccountStatus| asides.get(&account.sub_account_id).copied().unwrap_or(0);
    let rows = status.accounts.iter().zip(strips);
    let rows = rows.map(|(account, strip)| Row { aside: aside(account), ..row(account, strip, frame) }).collect();
    let failures = failures.into_iter().map(|failure| named(failure, &accounts)).collect();
    let one_budget = settings.limits.scope == LimitScope::Login;
    Ok(Picture { at: now, status, rows, frame, failures, lateness, one_budget })
}

/// What this process knows itself is newer than what it last told the others.
fn live(status: &mut Status, shared: &Shared) {
    let working: HashMap<_, _> =
        shared.accounts().into_iter().map(|account| (account.id.sub.clone(), account)).collect();
    for account in &mut status.accounts {
        let Some(working) = working.get(account.sub_account_id.as_str()) else { continue };
        let (due, usage) = (account.work.ready + account.work.running, working.pacer.usage());
        account.work.running = working.live.running();
        account.work.ready = due.saturating_sub(account.work.running);
        account.requests_last_minute = usage.sent_last_minute;
        account.refused = usage.refused_total;
    }
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
    let paused = account.paused.iter().map(|pause| Paused {
        endpoint: pause.endpoint.clone(),
        until: Time::parse(&pause.until),
        reason: pause.reason.clone(),
        status: pause.status,
    });
    Row {
        sub: account.sub_account_id.clone(),
        name: account.name.clone(),
        owner: account.owner.clone(),
        watermark: account.watermark.as_deref().and_then(Time::parse),
        work: account.work,
        used: account.requests_last_minute,
        limit: u64::from(account.requests_per_minute),
        drain: Duration::from_secs(account.drain_seconds),
        gaps: Duration::from_secs(account.gaps.iter().map(|gap| gap.seconds).sum()),
        paused: paused.collect(),
        missing: account.missing_since.is_some(),
        aside: 0,
        strip,
        frame,
    }
}

fn named(failure: FailureRow, accounts: &[AccountRow]) -> Failure {
    let account = accounts.iter().find(|account| account.key == failure.account && failure.accounts == 1);
    let name = account.map(|account| account.name.clone().unwrap_or_else(|| account.id.sub.to_string()));
    Failure {
        accounts: name.unwrap_or_else(|| super::words::count(failure.accounts, "account", "accounts")),
        artifact: failure.artifact.name(),
        reason: failure.reason.unwrap_or_else(|| "no reason was recorded".to_owned()),
        items: failure.items,
    }
}
