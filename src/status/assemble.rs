//! From rows to [`Status`]: pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    AccountFacts, AccountStats, AccountStatus, FindingStatus, Gap, IndexStatus, Pause, ReplicaStats, ReplicaStatus,
    Status, Work, backfills, findings, is_alive, sinks,
};
use crate::account::{budget_name, metadata_budget_name};
use crate::clock::Time;
use crate::config::{Account, Accounts, LimitScope, Settings};
use crate::coverage::{Coverage, Pass};
use crate::db::{AccountRow, BackfillRequest, Counts, IndexLag, PauseRow, Refusal, ReplicaRow, SinkView};
use crate::lenient_json;
use crate::model::{AccountId, Stretch};

/// What was read from the database.
pub(super) struct Read {
    pub(super) accounts: Vec<AccountRow>,
    pub(super) coverage: Vec<(i64, Stretch)>,
    pub(super) counts: BTreeMap<i64, Counts>,
    pub(super) pauses: Vec<PauseRow>,
    pub(super) replicas: Vec<ReplicaRow>,
    pub(super) sinks: Vec<SinkView>,
    pub(super) index: IndexLag,
    /// The time by the clock of the replicas' signs of life.
    pub(super) here: Time,
    /// What a daemon that gathers it knows of itself.
    pub(super) own: Option<ReplicaStats>,
    pub(super) refusals: BTreeMap<String, Refusal>,
    /// How many records are set aside, and when the first was seen, by sub-account.
    pub(super) asides: BTreeMap<String, (u64, Time)>,
    pub(super) backfills: Vec<BackfillRequest>,
    /// What has been read of each backfill.
    pub(super) backfilled: Vec<(i64, Stretch)>,
}

pub(super) fn status(read: Read, settings: &Settings, instance: &str, now: Time) -> Status {
    let mut stats = live_stats(&read.replicas, read.here, read.own.as_ref().map(|_| instance));
    if let Some(own) = read.own.clone() {
        stats.accounts.extend(own.accounts);
        stats.sinks.extend(own.sinks);
        let is_own = |finding: &FindingStatus| {
            own.findings.iter().any(|own| own.code == finding.code && own.subject == finding.subject)
        };
        stats.findings.retain(|finding| !is_own(finding));
        stats.findings.extend(own.findings);
    }
    let mut coverage: HashMap<i64, Vec<Stretch>> = HashMap::new();
    for (account, stretch) in &read.coverage {
        coverage.entry(*account).or_default().push(*stretch);
    }
    let mut accounts: Vec<AccountStatus> = read
        .accounts
        .iter()
        .map(|row| {
            let figures = Figures {
                counts: read.counts.get(&row.key).copied().unwrap_or_default(),
                live: coverage.remove(&row.key).unwrap_or_default(),
                pauses: read.pauses.iter().filter(|pause| pause.account == row.key).collect(),
                stats: stats.accounts.get(&*row.id.sub).cloned().unwrap_or_default(),
                refused: refused(&read.refusals, settings, &row.id.sub),
                aside: read.asides.get(&*row.id.sub).copied(),
            };
            known(row, figures, settings, now)
        })
        .collect();
    for account in listed(settings) {
        match accounts.iter_mut().find(|held| held.sub_account_id == *account.id.sub) {
            Some(held) => held.name = account.name.clone().or(held.name.take()),
            None => accounts.push(blank(&account.id, account.name.clone(), settings)),
        }
    }
    accounts.sort_by(|a, b| a.sub_account_id.cmp(&b.sub_account_id));
    drain(&mut accounts, settings);
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: now.rfc3339_secs(),
        instance: instance.to_owned(),
        accounts,
        sinks: sinks::configured(settings, &read.sinks, &read.accounts, &stats.sinks),
        backfills: backfills::open(&read.accounts, &read.backfills, &read.backfilled, settings),
        findings: Vec::new(),
        replicas: read.replicas.iter().map(|row| replica(row, read.here)).collect(),
        search_index: IndexStatus {
            lag_changes: read.index.changes,
            lag_seconds: read.index.since.map_or(0, |since| now.since(since).as_secs()),
        },
    };
    if read.own.is_some() && !status.replicas.iter().any(|replica| replica.name == instance && replica.alive) {
        status.replicas.retain(|replica| replica.name != instance);
        status.replicas.push(running(instance, now));
    }
    status.findings = findings::findings(&status, stats.findings, settings, now);
    status
}

/// A daemon that runs, whatever has become of its heartbeat.
fn running(instance: &str, now: Time) -> ReplicaStatus {
    ReplicaStatus {
        name: instance.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        alive: true,
        started: now.rfc3339_secs(),
        heartbeat: now.rfc3339_secs(),
    }
}

/// When the later of the refusals of an account's budgets came, and until when it keeps the account waiting.
fn refused(refusals: &BTreeMap<String, Refusal>, settings: &Settings, sub: &str) -> Option<(Time, Time)> {
    let budgets = [metadata_budget_name(sub), budget_name(&settings.limits, sub)];
    let refusals = budgets.iter().filter_map(|budget| refusals.get(budget));
    refusals.max_by_key(|refusal| refusal.until).map(|refusal| (refusal.at, refusal.until))
}

struct Figures<'a> {
    counts: Counts,
    live: Vec<Stretch>,
    pauses: Vec<&'a PauseRow>,
    stats: AccountStats,
    refused: Option<(Time, Time)>,
    aside: Option<(u64, Time)>,
}

fn listed(settings: &Settings) -> &[Account] {
    match &settings.accounts {
        Accounts::Listed(listed) => listed,
        Accounts::Discovered(_) => &[],
    }
}

/// An account that the database does not know yet.
fn blank(id: &AccountId, name: Option<String>, settings: &Settings) -> AccountStatus {
    AccountStatus {
        rc_account_id: id.rc.to_string(),
        sub_account_id: id.sub.to_string(),
        name,
        owner: None,
        watermark: None,
        lag_seconds: None,
        work: Work::default(),
        oldest_unfinished_seconds: None,
        requests_last_minute: 0,
        requests_by_lane: BTreeMap::new(),
        refused: 0,
        holds_until: None,
        drain_seconds: 0,
        requests_per_minute: settings.limits.requests_per_minute.get(),
        live_start: None,
        gaps: Vec::new(),
        paused: Vec::new(),
        missing_since: None,
        set_aside: 0,
        facts: AccountFacts {
            asks: asks(id, settings),
            is_left_out: is_left_out(id, settings),
            ..AccountFacts::default()
        },
    }
}

/// The endpoints of the artifacts that an account asks for.
fn asks(id: &AccountId, settings: &Settings) -> BTreeSet<&'static str> {
    let policy = match &settings.accounts {
        Accounts::Listed(listed) => {
            listed.iter().find(|account| account.id.sub == id.sub).map(|account| account.policy)
        }
        Accounts::Discovered(how) => Some(how.policy),
    };
    policy.map(|policy| policy.wants.artifacts.iter().map(|artifact| artifact.name()).collect()).unwrap_or_default()
}

/// Whether the settings do not name an account, or exclude it.
fn is_left_out(id: &AccountId, settings: &Settings) -> bool {
    match &settings.accounts {
        Accounts::Listed(listed) => !listed.iter().any(|account| account.id.sub == id.sub),
        Accounts::Discovered(how) => how.exclude.contains(&*id.sub),
    }
}

fn known(row: &AccountRow, figures: Figures<'_>, settings: &Settings, now: Time) -> AccountStatus {
    let Figures { counts, live, pauses, stats, refused, aside } = figures;
    let coverage = row.live_start.map(|start| {
        let mut coverage = Coverage::new(start);
        live.into_iter().for_each(|stretch| coverage.restore(Pass::Live, stretch));
        coverage
    });
    let watermark = coverage.as_ref().and_then(Coverage::watermark);
    let blank = blank(&row.id, row.name.clone(), settings);
    AccountStatus {
        owner: row.owner.clone(),
        watermark: watermark.map(Time::rfc3339_secs),
        lag_seconds: watermark.map(|watermark| now.since(watermark).as_secs()),
        work: Work {
            // Those being fetched are due as well; the heartbeat that told of them may be older than the rest.
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
        live_start: row.live_start.map(Time::rfc3339_secs),
        gaps: coverage.as_ref().map(gaps).unwrap_or_default(),
        paused: pauses.into_iter().map(pause).collect(),
        missing_since: row.missing_since.map(Time::rfc3339_secs),
        set_aside: aside.map_or(0, |(records, _)| records),
        facts: AccountFacts {
            stalled: stats.stalled,
            broken: stats.broken,
            refused,
            failed_since: counts.failed_since,
            aside_since: aside.map(|(_, since)| since),
            ..blank.facts
        },
        ..blank
    }
}

fn gaps(coverage: &Coverage) -> Vec<Gap> {
    let Some(edge) = coverage.live_edge() else { return Vec::new() };
    let gap = |stretch: &Stretch| Gap {
        from: stretch.from.rfc3339_secs(),
        to: stretch.to.rfc3339_secs(),
        seconds: stretch.width().as_secs(),
    };
    coverage.gaps(edge).as_slice().iter().map(gap).collect()
}

fn pause(row: &PauseRow) -> Pause {
    Pause {
        endpoint: row.endpoint.name().to_owned(),
        since: row.since.rfc3339_secs(),
        until: row.until.rfc3339_secs(),
        reason: row.reason.clone(),
        status: row.status,
    }
}

/// One request an item, at the budget's rate; where all accounts share one budget, an account with work left waits for all.
fn drain(accounts: &mut [AccountStatus], settings: &Settings) {
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

/// What the daemons that are alive said last, but for what `except` says of itself.
pub(super) fn live_stats(replicas: &[ReplicaRow], here: Time, except: Option<&str>) -> ReplicaStats {
    let mut alive: Vec<&ReplicaRow> = replicas.iter().filter(|row| is_alive(row, here)).collect();
    alive.sort_by_key(|row| row.heartbeat);
    let mut all = ReplicaStats::default();
    for row in alive {
        let stats: ReplicaStats = lenient_json::from_str(&row.stats).unwrap_or_default();
        // Should two speak of the same account, the later one counts.
        all.accounts.extend(stats.accounts);
        all.sinks.extend(stats.sinks);
        if except != Some(&row.name) {
            let known = |finding: &FindingStatus| {
                all.findings.iter().any(|held| held.code == finding.code && held.subject == finding.subject)
            };
            let new: Vec<FindingStatus> = stats.findings.into_iter().filter(|finding| !known(finding)).collect();
            all.findings.extend(new);
        }
    }
    all
}

fn replica(row: &ReplicaRow, now: Time) -> ReplicaStatus {
    ReplicaStatus {
        name: row.name.clone(),
        version: row.version.clone(),
        alive: is_alive(row, now),
        started: row.started.rfc3339_secs(),
        heartbeat: row.heartbeat.rfc3339_secs(),
    }
}
