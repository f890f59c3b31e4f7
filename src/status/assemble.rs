//! Builds the [`Snapshot`] from database rows. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::{AccountStats, ReplicaStats, backfill_status, is_alive, sink_status};
use crate::account::{budget_name, metadata_budget_name};
use crate::clock::Time;
use crate::config::{AccountSettings, Accounts, LimitScope, Settings};
use crate::coverage::{Coverage, ReadPurpose};
use crate::db::{
    AccountKey, AccountRow, BackfillRequest, IndexLag, PauseRow, QueueCounts, ReplicaRow, SavedThrottle, SinkOverview,
};
use crate::health::{
    self, AccountFacts, AccountStatus, CoverageGap, EndpointPause, IndexStatus, ReplicaStatus, Snapshot, WorkCounts,
};
use crate::lenient_json;
use crate::model::{AccountId, Endpoint, TimeRange};

/// The rows that the status is built from.
pub(super) struct StatusRows {
    pub(super) accounts: Vec<AccountRow>,
    pub(super) coverage: Vec<(AccountKey, TimeRange)>,
    pub(super) counts: BTreeMap<AccountKey, QueueCounts>,
    pub(super) pauses: Vec<PauseRow>,
    pub(super) replicas: Vec<ReplicaRow>,
    pub(super) sinks: Vec<SinkOverview>,
    pub(super) index: IndexLag,
    /// The time by the clock of the replicas' heartbeats.
    pub(super) here: Time,
    /// A daemon's own values, if it gathers the status itself.
    pub(super) own: Option<ReplicaStats>,
    pub(super) refusals: BTreeMap<String, SavedThrottle>,
    /// The number of quarantined records, and when the oldest was first seen, by sub-account.
    pub(super) asides: BTreeMap<String, (u64, Time)>,
    pub(super) backfills: Vec<BackfillRequest>,
    /// The ranges that were read of each backfill.
    pub(super) backfilled: Vec<(i64, TimeRange)>,
}

pub(super) fn build_snapshot(rows: StatusRows, settings: &Settings, instance: &str, now: Time) -> Snapshot {
    let mut stats = live_stats(&rows.replicas, rows.here, rows.own.as_ref().map(|_| instance));
    if let Some(own) = rows.own.clone() {
        stats.accounts.extend(own.accounts);
        stats.sinks.extend(own.sinks);
        let others = std::mem::replace(&mut stats.findings, own.findings);
        health::add_unknown(&mut stats.findings, others);
    }
    let mut coverage: HashMap<AccountKey, Vec<TimeRange>> = HashMap::new();
    for (account, stretch) in &rows.coverage {
        coverage.entry(*account).or_default().push(*stretch);
    }
    let mut accounts: Vec<AccountStatus> = rows
        .accounts
        .iter()
        .map(|row| {
            let inputs = AccountInputs {
                counts: rows.counts.get(&row.key).copied().unwrap_or_default(),
                live: coverage.remove(&row.key).unwrap_or_default(),
                pauses: rows.pauses.iter().filter(|pause| pause.account == row.key).collect(),
                stats: stats.accounts.get(&*row.id.sub).cloned().unwrap_or_default(),
                rate_limited: latest_refusal(&rows.refusals, settings, &row.id.sub),
                quarantined: rows.asides.get(&*row.id.sub).copied(),
            };
            account_status(row, inputs, settings, now)
        })
        .collect();
    for account in configured_accounts(settings) {
        match accounts.iter_mut().find(|held| held.sub_account_id == *account.id.sub) {
            Some(held) => held.name = account.name.clone().or(held.name.take()),
            None => accounts.push(empty_account_status(&account.id, account.name.clone(), settings)),
        }
    }
    accounts.sort_by(|a, b| a.sub_account_id.cmp(&b.sub_account_id));
    set_drain_times(&mut accounts, settings);
    let mut snapshot = Snapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now,
        instance: instance.to_owned(),
        accounts,
        sinks: sink_status::configured_sinks(settings, &rows.sinks, &rows.accounts, &stats.sinks),
        backfills: backfill_status::open_backfills(&rows.accounts, &rows.backfills, &rows.backfilled, settings),
        findings: Vec::new(),
        replicas: rows.replicas.iter().map(|row| replica_status(row, rows.here)).collect(),
        search_index: IndexStatus {
            lag_changes: rows.index.changes,
            lag_seconds: rows.index.since.map_or(0, |since| now.since(since).as_secs()),
        },
        lag_threshold: lag_threshold(settings),
        is_limit_shared: settings.limits.scope == LimitScope::Login,
    };
    if rows.own.is_some() && !snapshot.replicas.iter().any(|replica| replica.name == instance && replica.alive) {
        snapshot.replicas.retain(|replica| replica.name != instance);
        snapshot.replicas.push(running_replica(instance, now));
    }
    snapshot.findings = health::derive_findings(&snapshot, stats.findings);
    snapshot
}

/// How far an account's watermark may be behind normally: a window may be read `offset` after its
/// end, and the next one `interval` later. One repeated read is still no reason for concern.
fn lag_threshold(settings: &Settings) -> Duration {
    settings.discovery.offset + settings.discovery.interval * 2 + Duration::from_secs(60)
}

/// The status of this daemon if its heartbeat is missing.
fn running_replica(instance: &str, now: Time) -> ReplicaStatus {
    ReplicaStatus {
        name: instance.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        alive: true,
        started: now,
        heartbeat: now,
    }
}

/// When the account was last refused with 429, and until when its requests wait because of it.
fn latest_refusal(refusals: &BTreeMap<String, SavedThrottle>, settings: &Settings, sub: &str) -> Option<(Time, Time)> {
    let budgets = [metadata_budget_name(sub), budget_name(&settings.limits, sub)];
    let refusals = budgets.iter().filter_map(|budget| refusals.get(budget));
    refusals.max_by_key(|refusal| refusal.until).map(|refusal| (refusal.at, refusal.until))
}

struct AccountInputs<'a> {
    counts: QueueCounts,
    live: Vec<TimeRange>,
    pauses: Vec<&'a PauseRow>,
    stats: AccountStats,
    rate_limited: Option<(Time, Time)>,
    quarantined: Option<(u64, Time)>,
}

fn configured_accounts(settings: &Settings) -> &[AccountSettings] {
    match &settings.accounts {
        Accounts::Listed(listed) => listed,
        Accounts::Discovered(_) => &[],
    }
}

/// The status of an account that the database does not know yet.
fn empty_account_status(id: &AccountId, name: Option<String>, settings: &Settings) -> AccountStatus {
    AccountStatus {
        rc_account_id: id.rc.to_string(),
        sub_account_id: id.sub.to_string(),
        name,
        requests_per_minute: settings.limits.requests_per_minute.get(),
        facts: AccountFacts {
            requested_endpoints: requested_endpoints(id, settings),
            is_left_out: is_left_out(id, settings),
            ..AccountFacts::default()
        },
        ..AccountStatus::default()
    }
}

/// The endpoints of the artifacts that an account requests.
fn requested_endpoints(id: &AccountId, settings: &Settings) -> BTreeSet<Endpoint> {
    let policy = match &settings.accounts {
        Accounts::Listed(listed) => {
            listed.iter().find(|account| account.id.sub == id.sub).map(|account| account.policy)
        }
        Accounts::Discovered(how) => Some(how.policy),
    };
    policy.map(|policy| policy.wants.artifacts.iter().map(Endpoint::from).collect()).unwrap_or_default()
}

/// Whether the settings do not name an account, or exclude it.
fn is_left_out(id: &AccountId, settings: &Settings) -> bool {
    match &settings.accounts {
        Accounts::Listed(listed) => !listed.iter().any(|account| account.id.sub == id.sub),
        Accounts::Discovered(how) => how.exclude.contains(&*id.sub),
    }
}

fn account_status(row: &AccountRow, inputs: AccountInputs<'_>, settings: &Settings, now: Time) -> AccountStatus {
    let AccountInputs { counts, live, pauses, stats, rate_limited, quarantined } = inputs;
    let coverage = row.live_start.map(|start| {
        let mut coverage = Coverage::new(start);
        live.into_iter().for_each(|stretch| coverage.restore(ReadPurpose::Live, stretch));
        coverage
    });
    let watermark = coverage.as_ref().and_then(Coverage::watermark);
    let empty = empty_account_status(&row.id, row.name.clone(), settings);
    AccountStatus {
        owner: row.owner.clone(),
        watermark,
        lag_seconds: watermark.map(|watermark| now.since(watermark).as_secs()),
        work: WorkCounts {
            // Items being fetched are due as well. The heartbeat with their number may be older
            // than the other rows.
            ready: counts.ready.saturating_sub(stats.running),
            waiting: counts.waiting,
            running: stats.running.min(counts.ready),
            done: row.done,
            unavailable: counts.unavailable,
            failed: counts.failed,
            discarded: counts.discarded,
        },
        oldest_unfinished_seconds: counts.oldest.map(|oldest| now.since(oldest).as_secs()),
        requests_last_minute: stats.requests_last_minute,
        requests_by_lane: stats.by_lane,
        refused: stats.refused,
        holds_until: stats.paused_until,
        live_start: row.live_start,
        gaps: coverage.as_ref().map(coverage_gaps).unwrap_or_default(),
        paused: pauses.into_iter().map(endpoint_pause).collect(),
        missing_since: row.missing_since,
        set_aside: quarantined.map_or(0, |(records, _)| records),
        facts: AccountFacts {
            stalled: stats.stalled,
            broken: stats.broken,
            refused: rate_limited,
            failed_since: counts.failed_since,
            aside_since: quarantined.map(|(_, since)| since),
            ..empty.facts
        },
        ..empty
    }
}

fn coverage_gaps(coverage: &Coverage) -> Vec<CoverageGap> {
    let Some(edge) = coverage.live_edge() else { return Vec::new() };
    let gap =
        |stretch: &TimeRange| CoverageGap { from: stretch.from, to: stretch.to, seconds: stretch.width().as_secs() };
    coverage.gaps(edge).as_slice().iter().map(gap).collect()
}

fn endpoint_pause(row: &PauseRow) -> EndpointPause {
    EndpointPause {
        endpoint: row.endpoint,
        since: row.since,
        until: row.until,
        reason: row.reason.clone(),
        status: row.status,
        is_login_failure: row.is_login_failure,
    }
}

/// One request per item, at the limit's rate. If all accounts share one limit, an account with
/// unfinished items waits for all of them.
fn set_drain_times(accounts: &mut [AccountStatus], settings: &Settings) {
    let limit = u64::from(settings.limits.requests_per_minute.get());
    let all: u64 = accounts.iter().map(|account| account.work.unfinished()).sum();
    for account in accounts {
        let requests = match (settings.limits.scope, account.work.unfinished()) {
            (_, 0) => 0,
            (LimitScope::SubAccount, own) => own,
            (LimitScope::Login, _) => all,
        };
        account.drain_seconds = requests.saturating_mul(60).div_ceil(limit);
    }
}

/// The latest values of all running daemons, without the findings of `except`.
pub(super) fn live_stats(replicas: &[ReplicaRow], here: Time, except: Option<&str>) -> ReplicaStats {
    let mut alive: Vec<&ReplicaRow> = replicas.iter().filter(|row| is_alive(row, here)).collect();
    alive.sort_by_key(|row| row.heartbeat);
    let mut all = ReplicaStats::default();
    for row in alive {
        let stats: ReplicaStats = lenient_json::from_str(&row.stats).unwrap_or_default();
        // If two daemons report the same account, the later one counts.
        all.accounts.extend(stats.accounts);
        all.sinks.extend(stats.sinks);
        if except != Some(&row.name) {
            health::add_unknown(&mut all.findings, stats.findings);
        }
    }
    all
}

fn replica_status(row: &ReplicaRow, here: Time) -> ReplicaStatus {
    ReplicaStatus {
        name: row.name.clone(),
        version: row.version.clone(),
        alive: is_alive(row, here),
        started: row.started,
        heartbeat: row.heartbeat,
    }
}
