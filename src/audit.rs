//! Audits completeness: what was read, what was announced, and the outcome of every segment and
//! artifact.
//!
//! Reads only `db`, from one snapshot. `evaluation` derives the report from it and is pure. The
//! stored segments are compared with the daily digests that were counted when the segments were
//! announced, not with themselves.

mod audit_report;
mod evaluation;
mod problems;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub use audit_report::{
    AccountAudit, ArtifactAudit, AuditGap, AuditProblem, AuditProblemKind, AuditReport, BackfillAudit, CoveredRange,
    DayDifference, DigestComparison, GapCause, LastReadAge, Lateness, LatenessBucket, PurposeCoverage, QuarantineAudit,
    QuarantinedRecordAudit, ReadLogEntry, ReportedRange, Rfc3339Time, SegmentTotals, UnfinishedGroup, UnfinishedItem,
};

use crate::clock::Time;
use crate::config::{Accounts, Settings};
use crate::db::{
    AccountKey, ArtifactTally, AuditedAccount, ClosedItemRow, CoverageAuditRow, DailyDigestRow, Db, DbError,
    DeletionTally, ExportRange, OpenQuarantineRow, PauseRow, Snapshot, UnfinishedItemsRow, WindowReadRow,
};
use crate::model::{AccountId, Artifact, Endpoint, TimeRange};

/// The scope of an audit.
#[derive(Debug, Clone)]
pub struct AuditRequest {
    /// Only segments that ended at or after this time; default: the start of each account's first
    /// read.
    pub from: Option<Time>,
    /// Only segments that ended before this time; default: the end of the newest read.
    pub to: Option<Time>,
    /// Whether an account whose first read began later than `from` is audited from there only.
    pub starts_with_first_read: bool,
    /// Only the account with this sub-account id.
    pub account: Option<String>,
    /// The current time.
    pub now: Time,
    /// How far before now a window ends (`discovery.offset`).
    pub offset: Duration,
    /// How often a window is read (`discovery.interval`).
    pub interval: Duration,
    /// The accounts in the settings. One that is not in the database yet was never read.
    pub configured: Vec<(AccountId, Option<String>)>,
}

/// Everything that the database contains about an account for an audit.
#[derive(Debug, Clone)]
struct AuditedAccountFacts {
    account: AuditedAccount,
    /// Whether a live replica owns the account.
    is_owner_alive: bool,
    /// The pause of metadata reads, if there is one.
    pause: Option<PauseRow>,
    covered: Vec<CoverageAuditRow>,
    reads: Vec<WindowReadRow>,
    backfills: Vec<(i64, TimeRange)>,
    /// The number of segments, and of those with a transcript.
    segments: (u64, u64),
    /// One tally per artifact, in the order of [`Artifact::ALL`].
    tallies: [ArtifactTally; Artifact::ALL.len()],
    gone: DeletionTally,
    unfinished: Vec<UnfinishedItemsRow>,
    closed_items: Vec<ClosedItemRow>,
    /// The number of unresolved and of resolved quarantined records.
    quarantine_counts: (u64, u64),
    quarantined: Vec<OpenQuarantineRow>,
    lateness: Vec<(String, i64, u64)>,
    days: Vec<DailyDigestRow>,
}

/// Audits the archive.
///
/// # Errors
/// Returns an error if the database cannot be read.
pub async fn run_audit(db: &Db, request: &AuditRequest) -> Result<AuditReport, DbError> {
    let alive = find_live_accounts(db, request.now).await?;
    let pauses = db.pauses().await?;
    let mut snapshot = db.snapshot().await?;
    let all = snapshot.accounts().await?;
    let known: Vec<AuditedAccount> = all.into_iter().filter(|account| request.includes(&account.id)).collect();
    let owners: BTreeMap<AccountKey, bool> =
        known.iter().map(|account| (account.key, alive.contains(&account.key))).collect();
    let facts = gather_facts(&mut snapshot, request, known, &owners, &pauses).await?;
    Ok(evaluation::evaluate(request, facts))
}

impl AuditReport {
    /// One report of the audits of several accounts.
    pub(crate) fn combine(reports: Vec<AuditReport>, now: Time) -> AuditReport {
        let (mut accounts, mut problems) = (Vec::new(), Vec::new());
        for report in reports {
            accounts.extend(report.accounts);
            problems.extend(report.problems);
        }
        evaluation::report(now, accounts, problems)
    }
}

/// Finds differences between what is stored and what was announced or requested, for all accounts.
/// These are the problems of [`run_audit`] that only a full count shows. Reads less than an audit,
/// but scans all segments and artifacts.
///
/// # Errors
/// Returns an error if the database cannot be read.
pub(crate) async fn find_discrepancies(db: &Db) -> Result<Vec<AuditProblem>, DbError> {
    let mut snapshot = db.snapshot().await?;
    let all = ExportRange { from: None, to: None, account: None };
    let accounts = snapshot.accounts().await?;
    let tallies = snapshot.artifact_tallies(all).await?;
    let mut days = group_by_account(snapshot.daily_digests(all).await?, |row| row.account);
    let of = |account: &AuditedAccount| {
        let days = days.remove(&account.key).unwrap_or_default();
        let tallies = tallies_of(&tallies, account.key);
        evaluation::find_discrepancies(&account.id.sub, &days, tallies)
    };
    Ok(accounts.iter().flat_map(of).collect())
}

/// The tallies of an account in the order of [`Artifact::ALL`].
fn tallies_of(
    tallies: &BTreeMap<(AccountKey, Artifact), ArtifactTally>,
    account: AccountKey,
) -> [ArtifactTally; Artifact::ALL.len()] {
    Artifact::ALL.map(|artifact| tallies.get(&(account, artifact)).copied().unwrap_or_default())
}

impl AuditRequest {
    /// An audit of the accounts of these settings.
    pub(crate) fn new(
        settings: &Settings,
        from: Option<Time>,
        to: Option<Time>,
        account: Option<String>,
        now: Time,
    ) -> AuditRequest {
        let configured = match &settings.accounts {
            Accounts::Listed(listed) => {
                listed.iter().map(|account| (account.id.clone(), account.name.clone())).collect()
            }
            Accounts::Discovered(_) => Vec::new(),
        };
        let (offset, interval) = (settings.discovery.offset, settings.discovery.interval);
        AuditRequest { from, to, starts_with_first_read: false, account, now, offset, interval, configured }
    }

    fn includes(&self, account: &AccountId) -> bool {
        self.account.as_deref().is_none_or(|asked| asked == &*account.sub)
    }

    /// The range of segments to audit: all, unless a bound was given.
    fn segment_range(&self, account: Option<AccountKey>) -> ExportRange {
        ExportRange { from: self.from, to: self.to, account }
    }
}

/// The keys of the accounts whose owner is alive.
async fn find_live_accounts(db: &Db, now: Time) -> Result<Vec<AccountKey>, DbError> {
    let (replicas, here) = (db.replicas().await?, db.database_now(now).await?);
    let living: Vec<&str> = replicas
        .iter()
        .filter(|replica| crate::status::is_alive(replica, here))
        .map(|replica| replica.name.as_str())
        .collect();
    let owned = |owner: &Option<String>| owner.as_deref().is_some_and(|owner| living.contains(&owner));
    Ok(db.accounts().await?.into_iter().filter(|account| owned(&account.owner)).map(|account| account.key).collect())
}

async fn gather_facts(
    snapshot: &mut Snapshot,
    request: &AuditRequest,
    accounts: Vec<AuditedAccount>,
    alive: &BTreeMap<AccountKey, bool>,
    pauses: &[PauseRow],
) -> Result<Vec<AuditedAccountFacts>, DbError> {
    // One account is read by its key. All accounts are read together, with a fixed number of
    // statements.
    let one = match (&request.account, accounts.as_slice()) {
        (Some(_), [account]) => Some(account.key),
        (Some(_), _) => return Ok(Vec::new()),
        (None, _) => None,
    };
    let range = request.segment_range(one);
    let mut covered = group_by_account(snapshot.coverage_rows(one).await?, |row| row.account);
    let mut backfills = group_by_account(snapshot.open_backfills().await?, |row| row.0);
    let segments = snapshot.segment_counts(range).await?;
    let tallies = snapshot.artifact_tallies(range).await?;
    let gone = snapshot.deletions(range).await?;
    let mut unfinished = group_by_account(snapshot.unfinished_items(range).await?, |row| row.account);
    let mut closed_items = group_by_account(snapshot.closed_items(range).await?, |row| row.account);
    let quarantine_counts = snapshot.quarantine_counts(range).await?;
    let mut quarantined = group_by_account(snapshot.open_quarantine(range).await?, |row| row.account);
    let mut lateness = group_by_account(snapshot.lateness(one).await?, |row| row.0);
    let mut days = group_by_account(snapshot.daily_digests(range).await?, |row| row.account);
    let mut facts = Vec::with_capacity(accounts.len());
    for account in accounts {
        let key = account.key;
        let lateness = lateness.remove(&key).unwrap_or_default();
        let backfills = backfills.remove(&key).unwrap_or_default();
        let metadata = |pause: &&PauseRow| pause.account == key && pause.endpoint == Endpoint::Metadata;
        facts.push(AuditedAccountFacts {
            is_owner_alive: alive.get(&key).copied().unwrap_or(false),
            pause: pauses.iter().find(metadata).cloned(),
            covered: covered.remove(&key).unwrap_or_default(),
            reads: snapshot.window_reads(key, range).await?,
            backfills: backfills.into_iter().map(|(_, id, range)| (id, range)).collect(),
            segments: segments.get(&key).copied().unwrap_or_default(),
            tallies: tallies_of(&tallies, key),
            gone: gone.get(&key).copied().unwrap_or_default(),
            unfinished: unfinished.remove(&key).unwrap_or_default(),
            closed_items: closed_items.remove(&key).unwrap_or_default(),
            quarantine_counts: quarantine_counts.get(&key).copied().unwrap_or_default(),
            quarantined: quarantined.remove(&key).unwrap_or_default(),
            lateness: lateness.into_iter().map(|(_, kind, bucket, count)| (kind, bucket, count)).collect(),
            days: days.remove(&key).unwrap_or_default(),
            account,
        });
    }
    Ok(facts)
}

fn group_by_account<T>(rows: Vec<T>, account: impl Fn(&T) -> AccountKey) -> BTreeMap<AccountKey, Vec<T>> {
    let mut groups: BTreeMap<AccountKey, Vec<T>> = BTreeMap::new();
    for row in rows {
        groups.entry(account(&row)).or_default().push(row);
    }
    groups
}
