//! The completeness ledger: what was read, what was announced, and what became of every bit of it.
//!
//! Reads `db` and nothing else, all from one snapshot; `judge` turns what was read into the answer and is pure. What
//! is held is compared with what the announcements themselves were counted as when they came, not with itself.

mod judge;
mod problems;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub use report::{
    AccountAudit, ArtifactAudit, Aside, Asides, Audit, BackfillAudit, Cause, DayDifference, Gap, Item, LastLook,
    LateBucket, Lateness, Ledger, Moment, Pass, Problem, ProblemKind, Read, Segments, Span, Spanned, Unfinished,
};

use crate::clock::Time;
use crate::db::{
    ArtifactTally, AsideLedgerRow, CoveredRow, DayRow, Db, DbError, ExportRange, GoneTally, LedgerAccount, PauseRow,
    ReadRow, SettledRow, Snapshot, UnfinishedRow,
};
use crate::model::{AccountId, Artifact, Endpoint, Stretch};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Of segments that ended at or after; default: from each account's first read on.
    pub from: Option<Time>,
    /// Of segments that ended before; default: up to the newest read.
    pub to: Option<Time>,
    /// Only of the account with this sub-account id.
    pub account: Option<String>,
    /// The present.
    pub now: Time,
    /// How far behind now windows end.
    pub offset: Duration,
    /// How often a new one is read.
    pub interval: Duration,
    /// The accounts in the settings: one that is not in the database yet has been missed altogether.
    pub configured: Vec<(AccountId, Option<String>)>,
}

/// All that the database says of an account.
#[derive(Debug, Clone)]
struct Facts {
    account: LedgerAccount,
    /// Whether a daemon works on it at present.
    alive: bool,
    /// Whether and why its metadata is not asked for at present.
    pause: Option<PauseRow>,
    covered: Vec<CoveredRow>,
    reads: Vec<ReadRow>,
    backfills: Vec<(i64, Stretch)>,
    /// In all, and with a transcript.
    segments: (u64, u64),
    /// In the order of [`Artifact::ALL`].
    tallies: [ArtifactTally; 3],
    gone: GoneTally,
    unfinished: Vec<UnfinishedRow>,
    settled: Vec<SettledRow>,
    /// Not settled, settled.
    aside_counts: (u64, u64),
    asides: Vec<AsideLedgerRow>,
    lateness: Vec<(String, i64, u64)>,
    days: Vec<DayRow>,
}

/// Audits the archive.
///
/// # Errors
/// Where the database cannot be read.
pub async fn audit(db: &Db, question: &Question) -> Result<Audit, DbError> {
    let alive = alive(db, question.now).await?;
    let pauses = db.pauses().await?;
    let mut snapshot = db.snapshot().await?;
    let all = snapshot.accounts().await?;
    let known: Vec<LedgerAccount> = all.into_iter().filter(|account| question.asks_for(&account.id)).collect();
    let owners: BTreeMap<i64, bool> = known.iter().map(|account| (account.key, alive.contains(&account.key))).collect();
    let facts = gather(&mut snapshot, question, known, &owners, &pauses).await?;
    Ok(judge::judge(question, facts))
}

/// What of all accounts is not held as it was announced and asked for: those of the problems of [`audit`] that only counting
/// all that is held shows. Reads less than an audit, but goes through all segments and artifacts.
///
/// # Errors
/// Where the database cannot be read.
pub async fn discrepancies(db: &Db) -> Result<Vec<Problem>, DbError> {
    let mut snapshot = db.snapshot().await?;
    let all = ExportRange { from: None, to: None, account: None };
    let accounts = snapshot.accounts().await?;
    let tallies = snapshot.artifact_tallies(all).await?;
    let mut days = by_account(snapshot.days(all).await?, |row| row.account);
    let of = |account: &LedgerAccount| {
        let days = days.remove(&account.key).unwrap_or_default();
        let tallies = tallies_of(&tallies, account.key);
        judge::discrepancies(&account.id.sub, &days, tallies)
    };
    Ok(accounts.iter().flat_map(of).collect())
}

/// In the order of [`Artifact::ALL`].
fn tallies_of(tallies: &BTreeMap<(i64, Artifact), ArtifactTally>, account: i64) -> [ArtifactTally; 3] {
    Artifact::ALL.map(|artifact| tallies.get(&(account, artifact)).copied().unwrap_or_default())
}

impl Question {
    fn asks_for(&self, account: &AccountId) -> bool {
        self.account.as_deref().is_none_or(|asked| asked == &*account.sub)
    }

    /// Which segments are looked at: all, unless a bound was given.
    fn segments(&self, account: Option<i64>) -> ExportRange {
        ExportRange { from: self.from, to: self.to, account }
    }
}

/// The accounts whose owner is alive.
async fn alive(db: &Db, now: Time) -> Result<Vec<i64>, DbError> {
    let (replicas, here) = (db.replicas().await?, db.here(now).await?);
    let living: Vec<&str> = replicas
        .iter()
        .filter(|replica| crate::status::is_alive(replica, here))
        .map(|replica| replica.name.as_str())
        .collect();
    let owned = |owner: &Option<String>| owner.as_deref().is_some_and(|owner| living.contains(&owner));
    Ok(db.accounts().await?.into_iter().filter(|account| owned(&account.owner)).map(|account| account.key).collect())
}

async fn gather(
    snapshot: &mut Snapshot,
    question: &Question,
    accounts: Vec<LedgerAccount>,
    alive: &BTreeMap<i64, bool>,
    pauses: &[PauseRow],
) -> Result<Vec<Facts>, DbError> {
    // One account alone is asked for by its number; all of them are read together, by statements of a fixed number.
    let one = match (&question.account, accounts.as_slice()) {
        (Some(_), [account]) => Some(account.key),
        (Some(_), _) => return Ok(Vec::new()),
        (None, _) => None,
    };
    let range = question.segments(one);
    let mut covered = by_account(snapshot.covered(one).await?, |row| row.account);
    let mut backfills = by_account(snapshot.open_backfills().await?, |row| row.0);
    let segments = snapshot.segment_counts(range).await?;
    let tallies = snapshot.artifact_tallies(range).await?;
    let gone = snapshot.gone(range).await?;
    let mut unfinished = by_account(snapshot.unfinished(range).await?, |row| row.account);
    let mut settled = by_account(snapshot.settled(range).await?, |row| row.account);
    let aside_counts = snapshot.aside_counts(range).await?;
    let mut asides = by_account(snapshot.open_asides(range).await?, |row| row.account);
    let mut lateness = by_account(snapshot.lateness(one).await?, |row| row.0);
    let mut days = by_account(snapshot.days(range).await?, |row| row.account);
    let mut facts = Vec::with_capacity(accounts.len());
    for account in accounts {
        let key = account.key;
        let lateness = lateness.remove(&key).unwrap_or_default();
        let backfills = backfills.remove(&key).unwrap_or_default();
        let metadata = |pause: &&PauseRow| pause.account == key && pause.endpoint == Endpoint::Metadata;
        facts.push(Facts {
            alive: alive.get(&key).copied().unwrap_or(false),
            pause: pauses.iter().find(metadata).cloned(),
            covered: covered.remove(&key).unwrap_or_default(),
            reads: snapshot.reads(key, range).await?,
            backfills: backfills.into_iter().map(|(_, id, stretch)| (id, stretch)).collect(),
            segments: segments.get(&key).copied().unwrap_or_default(),
            tallies: tallies_of(&tallies, key),
            gone: gone.get(&key).copied().unwrap_or_default(),
            unfinished: unfinished.remove(&key).unwrap_or_default(),
            settled: settled.remove(&key).unwrap_or_default(),
            aside_counts: aside_counts.get(&key).copied().unwrap_or_default(),
            asides: asides.remove(&key).unwrap_or_default(),
            lateness: lateness.into_iter().map(|(_, kind, bucket, count)| (kind, bucket, count)).collect(),
            days: days.remove(&key).unwrap_or_default(),
            account,
        });
    }
    Ok(facts)
}

fn by_account<T>(rows: Vec<T>, account: impl Fn(&T) -> i64) -> BTreeMap<i64, Vec<T>> {
    let mut sorted: BTreeMap<i64, Vec<T>> = BTreeMap::new();
    for row in rows {
        sorted.entry(account(&row)).or_default().push(row);
    }
    sorted
}
