//! Reads the archive again and finds whatever was altered.
//!
//! Reads `db` and nothing else, page by page and without a long transaction, so that a daemon may go on working in the
//! meantime: an account's chain is looked at as it stood at the beginning, and what seems wrong is read a second time before
//! it is reported. What is wrong is judged by `walk` and `manifests`, which are pure.

mod beside;
mod manifests;
mod report;
mod segments;
mod walk;

pub use report::{AccountReport, Problem, ProblemKind, Report};

use crate::clock::Time;
use crate::db::{Chain, Db, DbError};
use crate::proof::{Line, hex};
use report::{Checked, Problems};
use walk::Walk;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Only the account with this number.
    pub account: Option<i64>,
    /// The present.
    pub now: Time,
    /// What was exported earlier and must still hold.
    pub recorded: Vec<Line>,
}

/// Every account's chain and manifests, by sub-account; of one account only where it is named.
///
/// # Errors
/// Where the database cannot be read.
pub async fn chains(db: &Db, account: Option<i64>) -> Result<Vec<Chain>, DbError> {
    let mut chains = Vec::new();
    for row in db.accounts().await?.into_iter().filter(|row| account.is_none_or(|account| account == row.key)) {
        // Each from a moment of its own: they have nothing to do with one another.
        chains.extend(db.snapshot().await?.chain(row.key).await?);
    }
    Ok(chains)
}

/// An account's manifests and where it stands, for another place to keep.
pub fn lines(chain: &Chain, now: Time) -> impl Iterator<Item = Line> {
    let (feed, reads) =
        ((chain.from, chain.feed, chain.head.as_slice()), (chain.records.reads, chain.records.reads_head.as_slice()));
    let head = Line::head(&chain.id, feed, &chain.beside(), reads, now, &chain.newest);
    chain.manifests.iter().map(|manifest| Line::manifest(&chain.id, manifest)).chain([head])
}

/// How much [`verify`] will read, in steps of what it tells of as it goes.
///
/// # Errors
/// Where the database cannot be read.
pub async fn extent(db: &Db, chains: &[Chain], account: Option<i64>) -> Result<u64, DbError> {
    let range = crate::db::ExportRange { account, ..crate::db::ExportRange::default() };
    let entries = chains.iter().map(|chain| u64::try_from(chain.feed).unwrap_or(0)).sum::<u64>();
    Ok(entries.saturating_add(db.count_segments(range).await?))
}

/// Looks at the manifests alone: whether they hang together, and hold what was exported earlier. Reads nothing more.
pub fn look(chains: &[Chain], question: &Question) -> Report {
    let mut problems = Problems::default();
    for chain in chains {
        let recorded = of(&question.recorded, chain);
        manifests::check(chain, &recorded, &mut problems);
    }
    manifests::check_accounts(chains, question, &mut problems);
    let checked = Checked {
        whole: question.account.is_none(),
        against: !question.recorded.is_empty(),
        journal: chains.iter().map(|chain| chain.journal.newest).max().unwrap_or(0),
        ..Checked::default()
    };
    report::report(question.now, chains.iter().map(AccountReport::of).collect(), problems, &checked)
}

/// Reads everything and says what is wrong; `progress` is told of what has been read.
///
/// # Errors
/// Where the database cannot be read.
pub async fn verify(
    db: &Db,
    chains: &[Chain],
    question: &Question,
    progress: &mut impl FnMut(u64),
) -> Result<Report, DbError> {
    let mut problems = Problems::default();
    let mut checked = Checked {
        archive: true,
        whole: question.account.is_none(),
        against: !question.recorded.is_empty(),
        ..Checked::default()
    };
    let integrity = db.integrity().await?;
    checked.database = integrity.checked_by;
    for fault in &integrity.faults {
        problems.add(Problem::new(
            ProblemKind::Database,
            "",
            format!("the database's own check found damage: {fault}"),
        ));
    }
    let mut accounts: Vec<AccountReport> = chains.iter().map(AccountReport::of).collect();
    match read_archive(db, chains, question, &mut checked, &mut accounts, &mut problems, progress).await {
        // What is damaged may not be readable to its end; what was found until then is told.
        Err(error) if !integrity.faults.is_empty() => {
            let what = format!("the damage keeps the rest of the archive from being read: {error}");
            problems.add(Problem::new(ProblemKind::Database, "", what));
        }
        read => read?,
    }
    Ok(report::report(question.now, accounts, problems, &checked))
}

async fn read_archive(
    db: &Db,
    chains: &[Chain],
    question: &Question,
    checked: &mut Checked,
    accounts: &mut [AccountReport],
    problems: &mut Problems,
    progress: &mut impl FnMut(u64),
) -> Result<(), DbError> {
    for (chain, account) in chains.iter().zip(accounts.iter_mut()) {
        let recorded = of(&question.recorded, chain);
        manifests::check(chain, &recorded, problems);
        read_entries(db, chain, &recorded, account, problems, progress).await?;
        beside::check(db, chain, &recorded, problems).await?;
    }
    beside::check_journal(db, chains, question, checked, problems).await?;
    manifests::check_accounts(chains, question, problems);
    segments::check(db, chains, question.account, accounts, problems, progress).await?;
    if question.account.is_none() {
        let [nobodys, anothers, orphans] = db.strays().await?;
        for (count, what) in [
            (nobodys, "entries, segments or record chains name an account that is not there"),
            (anothers, "entries are attached to a segment of another account"),
            (orphans, "versions of metadata belong to a segment that is not held"),
        ] {
            if count > 0 {
                problems.add(Problem::new(ProblemKind::Stray, "", format!("{count} {what}")));
            }
        }
    }
    Ok(())
}

/// What was recorded of this account.
fn of<'a>(recorded: &'a [Line], chain: &Chain) -> Vec<&'a Line> {
    recorded.iter().filter(|line| line.sub() == &*chain.id.sub).collect()
}

async fn read_entries(
    db: &Db,
    chain: &Chain,
    recorded: &[&Line],
    account: &mut AccountReport,
    problems: &mut Problems,
    progress: &mut impl FnMut(u64),
) -> Result<(), DbError> {
    let walk = Walk::new(chain, recorded);
    let (mut at, found) = walk.begin();
    problems.extend(found);
    while at.feed < chain.feed {
        let page = db.entries(chain.account, at.feed, chain.feed).await?;
        let (mut next, mut found) = walk.step(&at, &page);
        if !found.is_empty() {
            // Something may have been erased between two statements.
            let page = db.entries(chain.account, at.feed, page.upto).await?;
            (next, found) = walk.step(&at, &page);
        }
        problems.extend(found);
        progress(u64::try_from(next.feed.saturating_sub(at.feed)).unwrap_or(0));
        at = next;
    }
    (account.entries, account.erased) = (at.entries, at.erased);
    let outside = db.entries_outside(chain.account).await?;
    if outside > 0 {
        let what = format!("{outside} entries lie outside the feed, whose newest number was {}", chain.feed);
        problems.add(Problem::new(ProblemKind::Outside, &chain.id.sub, what));
    }
    Ok(())
}

/// A hash as far as people need it to tell it from another.
fn short(hash: &[u8]) -> String {
    hex(hash).chars().take(16).collect()
}
