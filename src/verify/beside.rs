//! Whether what is stored beside the texts is what the record chain took: metadata, tombstones, the journal, holds, reads.

use super::Question;
use super::report::{Checked, Problem, ProblemKind, Problems};
use super::walk::Walk;
use crate::db::{Chain, Db, DbError, EntryPage};
use crate::proof::{ChainName, Line, hex};

/// One account's record chain, number by number, then its tombstones, its log of reads and its coverage.
pub(super) async fn check(db: &Db, chain: &Chain, recorded: &[&Line], problems: &mut Problems) -> Result<(), DbError> {
    let sub = &*chain.id.sub;
    let walk = Walk::records(chain, recorded);
    let (mut at, found) = walk.begin();
    problems.extend(found);
    while at.feed < walk.newest() {
        let page = db.record_leaves(chain.account, at.feed, walk.newest()).await?;
        let (next, found) = walk.step(&at, &EntryPage { upto: page.upto, rows: Vec::new(), erased: page.leaves });
        problems.extend(found);
        at = next;
    }
    let mut add = |kind, what: String| problems.add(Problem::new(kind, sub, what));
    let unrecorded = db.unrecorded(chain.account).await?;
    if unrecorded > 0 {
        let what = "segments, versions of metadata, tombstones or leaves are not in the record chain: this program did not write them, or one older than the database did";
        add(ProblemKind::Records, format!("{unrecorded} {what}"));
    }
    let altered = db.altered_tombstones(chain.account, sub).await?;
    if altered > 0 {
        add(ProblemKind::Records, format!("{altered} tombstones of erased segments were altered"));
    }
    let mut snapshot = db.snapshot().await?;
    let reads = snapshot.reads_proof(chain.account, sub).await?;
    for fault in reads.faults {
        add(ProblemKind::Coverage, fault);
    }
    for line in recorded {
        let Some((nth, head)) = line.claim(ChainName::Reads) else { continue };
        // Of reads that have left the log nothing is known any more.
        if nth > 0 && reads.heads.get(&nth).is_some_and(|held| hex(held) != head) {
            add(ProblemKind::Recorded, format!("the log of reads does not lead to {line}: it was rewritten"));
            break;
        }
    }
    Ok(())
}

/// The archive's journal, the holds, and how many segments are counted as erased.
pub(super) async fn check_journal(
    db: &Db,
    chains: &[Chain],
    question: &Question,
    checked: &mut Checked,
    problems: &mut Problems,
) -> Result<(), DbError> {
    let journal = db.snapshot().await?.journal_proof().await?;
    (checked.journal, checked.journal_taken_over) = (journal.state.newest, journal.state.taken_over);
    checked.holds = journal.holds;
    let recorded: Vec<&Line> = question.recorded.iter().collect();
    let walk = Walk::journal(&journal.state, chains, &recorded);
    let (at, found) = walk.begin();
    problems.extend(found);
    let outside = journal.leaves.len() as i64 - journal.state.newest;
    let mut leaves = journal.leaves;
    leaves.truncate(usize::try_from(journal.state.newest).unwrap_or(0));
    let page = EntryPage { upto: journal.state.newest, rows: Vec::new(), erased: leaves };
    problems.extend(walk.step(&at, &page).1);
    if outside > 0 {
        let what = format!("{outside} entries of the journal were not written by this program");
        problems.add(Problem::new(ProblemKind::Journal, "", what));
    }
    for fault in journal.faults {
        problems.add(Problem::new(ProblemKind::Hold, "", fault));
    }
    let counts = db.erased_counts().await?;
    for chain in chains {
        let [journal, erased, late] = counts.get(&chain.account).copied().unwrap_or_default();
        // Segments that were erased before they had been announced are counted when they are.
        if erased < journal || erased > journal.saturating_add(late) {
            let what = format!(
                "{erased} segments are counted as erased, and the journal says {journal}: counts or the journal were altered"
            );
            problems.add(Problem::new(ProblemKind::Journal, &chain.id.sub, what));
        }
    }
    Ok(())
}
