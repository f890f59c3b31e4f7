//! Verifies the integrity of the archive and finds alterations.
//!
//! Reads only `db`, page by page and without a long transaction, so that a daemon can work at the
//! same time. An account's chain is checked up to its head at the start, and an apparent problem is
//! read a second time before it is reported. The checks themselves are in `chain_walk` and
//! `manifest_check`, which are pure.

mod access_check;
mod chain_walk;
mod manifest_check;
mod record_check;
mod recording_check;
mod segment_check;
mod verify_report;

pub use recording_check::RecordingCheck;
pub use verify_report::{AccountReport, IntegrityProblem, IntegrityProblemKind, VerifyReport};

use crate::clock::Time;
use crate::db::{AccountChain, AccountKey, Db, DbError};
use crate::proof::{ExportedLine, hex};
use chain_walk::ChainWalk;
use verify_report::{CheckedScope, ProblemList};

/// The scope of a verification.
#[derive(Debug, Clone, Default)]
pub struct VerifyRequest {
    /// Verify only the account with this key.
    pub account: Option<AccountKey>,
    /// The current time.
    pub now: Time,
    /// Manifest lines of an earlier export that must still hold.
    pub recorded: Vec<ExportedLine>,
    /// How recordings are checked in their store; `None` checks only the database.
    pub recordings: Option<RecordingCheck>,
}

/// Loads the chain and the manifests of every account, or of one account.
///
/// # Errors
/// Returns an error if the database cannot be read.
pub async fn load_chains(db: &Db, account: Option<AccountKey>) -> Result<Vec<AccountChain>, DbError> {
    let mut chains = Vec::new();
    for row in db.accounts().await?.into_iter().filter(|row| account.is_none_or(|account| account == row.key)) {
        // Each account has its own snapshot, because the chains are independent.
        chains.extend(db.snapshot().await?.account_chain(row.key).await?);
    }
    Ok(chains)
}

/// The manifests and the current heads of an account, as lines to store elsewhere.
pub fn manifest_lines(chain: &AccountChain, now: Time) -> impl Iterator<Item = ExportedLine> {
    let (feed, reads) =
        ((chain.from, chain.feed, chain.head.as_slice()), (chain.records.reads, chain.records.reads_head.as_slice()));
    let access = (chain.access.newest, chain.access.head.as_slice());
    let head = ExportedLine::head(&chain.id, feed, &chain.record_heads(), [reads, access], now, &chain.newest);
    chain.manifests.iter().map(|manifest| ExportedLine::manifest(&chain.id, manifest)).chain([head])
}

/// The number of progress steps that [`verify_archive`] will report.
///
/// # Errors
/// Returns an error if the database cannot be read.
pub async fn count_steps(db: &Db, chains: &[AccountChain], account: Option<AccountKey>) -> Result<u64, DbError> {
    let range = crate::db::ExportRange { account, ..crate::db::ExportRange::default() };
    let entries = chains.iter().map(|chain| u64::try_from(chain.feed).unwrap_or(0)).sum::<u64>();
    let entries = entries.saturating_add(db.count_segments(range).await?);
    Ok(entries.saturating_add(db.count_recordings(account).await?))
}

/// Verifies only the manifests: that they are consistent and agree with the earlier export. Reads
/// nothing else.
pub(crate) fn verify_manifests(chains: &[AccountChain], request: &VerifyRequest) -> VerifyReport {
    let mut problems = ProblemList::default();
    for chain in chains {
        let recorded = recorded_lines(&request.recorded, chain);
        manifest_check::check(chain, &recorded, &mut problems);
    }
    manifest_check::check_accounts(chains, request, &mut problems);
    let checked = CheckedScope {
        whole: request.account.is_none(),
        against: !request.recorded.is_empty(),
        journal: chains.iter().map(|chain| chain.journal.newest).max().unwrap_or(0),
        ..CheckedScope::default()
    };
    verify_report::build_report(request.now, chains.iter().map(AccountReport::from_chain).collect(), problems, &checked)
}

/// Verifies the whole archive. `progress` receives the number of entries and segments that were
/// read.
///
/// # Errors
/// Returns an error if the database cannot be read.
pub async fn verify_archive(
    db: &Db,
    chains: &[AccountChain],
    request: &VerifyRequest,
    progress: &mut impl FnMut(u64),
) -> Result<VerifyReport, DbError> {
    let mut problems = ProblemList::default();
    let mut checked = CheckedScope {
        archive: true,
        whole: request.account.is_none(),
        against: !request.recorded.is_empty(),
        ..CheckedScope::default()
    };
    let integrity = db.check_integrity().await?;
    checked.database = integrity.checked_by;
    for fault in &integrity.faults {
        problems.add(IntegrityProblem::new(
            IntegrityProblemKind::Database,
            "",
            format!("the integrity check of the database found damage: {fault}"),
        ));
    }
    let mut accounts: Vec<AccountReport> = chains.iter().map(AccountReport::from_chain).collect();
    match check_archive(db, chains, request, &mut checked, &mut accounts, &mut problems, progress).await {
        // A damaged database may not be readable to its end; report the problems that were found
        // until then.
        Err(error) if !integrity.faults.is_empty() => {
            let what = format!("the rest of the archive cannot be read because of the damage: {error}");
            problems.add(IntegrityProblem::new(IntegrityProblemKind::Database, "", what));
        }
        read => read?,
    }
    Ok(verify_report::build_report(request.now, accounts, problems, &checked))
}

async fn check_archive(
    db: &Db,
    chains: &[AccountChain],
    request: &VerifyRequest,
    checked: &mut CheckedScope,
    accounts: &mut [AccountReport],
    problems: &mut ProblemList,
    progress: &mut impl FnMut(u64),
) -> Result<(), DbError> {
    for (chain, account) in chains.iter().zip(accounts.iter_mut()) {
        let recorded = recorded_lines(&request.recorded, chain);
        manifest_check::check(chain, &recorded, problems);
        check_entries(db, chain, &recorded, account, problems, progress).await?;
        record_check::check(db, chain, &recorded, problems).await?;
    }
    record_check::check_journal(db, chains, request, checked, problems).await?;
    access_check::check(db, request, checked, problems).await?;
    manifest_check::check_accounts(chains, request, problems);
    segment_check::check(db, chains, request.account, accounts, problems, progress).await?;
    checked.recordings = recording_check::check(db, chains, request, problems, progress).await?;
    if request.account.is_none() {
        let [unowned, misattached, orphaned] = db.count_orphans().await?;
        for (count, what) in [
            (unowned, "entries, segments or record chains refer to an account that does not exist"),
            (misattached, "entries are attached to a segment of another account"),
            (orphaned, "metadata versions belong to a segment that does not exist"),
        ] {
            if count > 0 {
                problems.add(IntegrityProblem::new(IntegrityProblemKind::Stray, "", format!("{count} {what}")));
            }
        }
    }
    Ok(())
}

/// The lines of the earlier export that belong to this account.
fn recorded_lines<'a>(recorded: &'a [ExportedLine], chain: &AccountChain) -> Vec<&'a ExportedLine> {
    recorded.iter().filter(|line| line.sub() == &*chain.id.sub).collect()
}

async fn check_entries(
    db: &Db,
    chain: &AccountChain,
    recorded: &[&ExportedLine],
    account: &mut AccountReport,
    problems: &mut ProblemList,
    progress: &mut impl FnMut(u64),
) -> Result<(), DbError> {
    let walk = ChainWalk::feed(chain, recorded);
    let (mut at, found) = walk.begin();
    problems.extend(found);
    while at.feed < chain.feed {
        let page = db.entry_page(chain.account, at.feed, chain.feed).await?;
        let (mut next, mut found) = walk.step(&at, &page);
        if !found.is_empty() {
            // An entry may have been erased between two statements.
            let page = db.entry_page(chain.account, at.feed, page.upto).await?;
            (next, found) = walk.step(&at, &page);
        }
        problems.extend(found);
        progress(u64::try_from(next.feed.saturating_sub(at.feed)).unwrap_or(0));
        at = next;
    }
    (account.entries, account.erased) = (at.entries, at.erased);
    let outside = db.count_entries_outside_feed(chain.account).await?;
    if outside > 0 {
        let what = format!("{outside} entries are outside the feed, whose newest number was {}", chain.feed);
        problems.add(IntegrityProblem::new(IntegrityProblemKind::Outside, &chain.id.sub, what));
    }
    Ok(())
}

/// The first characters of a hash, enough for a person to tell it from another.
fn short_hash(hash: &[u8]) -> String {
    hex(hash).chars().take(16).collect()
}
