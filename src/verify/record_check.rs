//! Checks what the record chains protect beside the texts: metadata, tombstones, the journal, holds
//! and the log of reads.

use super::VerifyRequest;
use super::chain_walk::ChainWalk;
use super::verify_report::{CheckedScope, IntegrityProblem, IntegrityProblemKind, ProblemList};
use crate::db::{AccountChain, Db, DbError, EntryPage};
use crate::proof::{ChainName, ExportedLine, hex};

/// Checks the record chain of an account number by number, then its tombstones, its log of reads
/// and its coverage.
pub(super) async fn check(
    db: &Db,
    chain: &AccountChain,
    recorded: &[&ExportedLine],
    problems: &mut ProblemList,
) -> Result<(), DbError> {
    let sub = &*chain.id.sub;
    let walk = ChainWalk::records(chain, recorded);
    let (mut at, found) = walk.begin();
    problems.extend(found);
    while at.feed < walk.newest() {
        let page = db.record_leaves(chain.account, at.feed, walk.newest()).await?;
        let (next, found) = walk.step(&at, &EntryPage { upto: page.upto, rows: Vec::new(), erased: page.leaves });
        problems.extend(found);
        at = next;
    }
    let mut add = |kind, what: String| problems.add(IntegrityProblem::new(kind, sub, what));
    let unrecorded = db.count_unchained_rows(chain.account).await?;
    if unrecorded > 0 {
        let what = "segments, metadata versions, tombstones or leaves are not in the record chain: another program wrote them, or a version of this program that is older than the database";
        add(IntegrityProblemKind::Records, format!("{unrecorded} {what}"));
    }
    let altered = db.count_altered_tombstones(chain.account, sub).await?;
    if altered > 0 {
        add(IntegrityProblemKind::Records, format!("{altered} tombstones of erased segments were altered"));
    }
    let mut snapshot = db.snapshot().await?;
    let reads = snapshot.read_log_proof(chain.account, sub).await?;
    for fault in reads.faults {
        add(IntegrityProblemKind::Coverage, fault);
    }
    for line in recorded {
        let Some((nth, head)) = line.claimed_head(ChainName::Reads) else { continue };
        // Reads that are no longer in the log cannot be checked.
        if nth > 0 && reads.heads.get(&nth).is_some_and(|held| hex(held) != head) {
            add(IntegrityProblemKind::Recorded, format!("the log of reads does not match {line}: it was rewritten"));
            break;
        }
    }
    Ok(())
}

/// Checks the journal of the archive, the holds, and the counts of erased segments.
pub(super) async fn check_journal(
    db: &Db,
    chains: &[AccountChain],
    request: &VerifyRequest,
    checked: &mut CheckedScope,
    problems: &mut ProblemList,
) -> Result<(), DbError> {
    let journal = db.snapshot().await?.journal_proof().await?;
    (checked.journal, checked.journal_taken_over) = (journal.state.newest, journal.state.taken_over);
    checked.holds = journal.holds;
    let recorded: Vec<&ExportedLine> = request.recorded.iter().collect();
    let walk = ChainWalk::journal(&journal.state, chains, &recorded);
    let (at, found) = walk.begin();
    problems.extend(found);
    let outside = journal.leaves.len() as i64 - journal.state.newest;
    let mut leaves = journal.leaves;
    leaves.truncate(usize::try_from(journal.state.newest).unwrap_or(0));
    let page = EntryPage { upto: journal.state.newest, rows: Vec::new(), erased: leaves };
    problems.extend(walk.step(&at, &page).1);
    if outside > 0 {
        let what = format!("{outside} journal entries were not written by this program");
        problems.add(IntegrityProblem::new(IntegrityProblemKind::Journal, "", what));
    }
    for fault in journal.faults {
        problems.add(IntegrityProblem::new(IntegrityProblemKind::Hold, "", fault));
    }
    let counts = db.erased_counts().await?;
    for chain in chains {
        let [journal, erased, late] = counts.get(&chain.account).copied().unwrap_or_default();
        // A segment that was erased before it was announced is counted when it is announced.
        if erased < journal || erased > journal.saturating_add(late) {
            let what = format!(
                "{erased} segments are counted as erased, but the journal lists {journal}: the counts or the journal were altered"
            );
            problems.add(IntegrityProblem::new(IntegrityProblemKind::Journal, &chain.id.sub, what));
        }
    }
    Ok(())
}
