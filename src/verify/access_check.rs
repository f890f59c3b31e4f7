//! Checks the access log: its chain, its texts, and what retention and erasures removed from it.

use super::VerifyRequest;
use super::chain_walk::ChainWalk;
use super::verify_report::{CheckedScope, IntegrityProblem, IntegrityProblemKind, ProblemList};
use crate::db::{AccessAction, AccessChainState, Db, DbError, EntryPage};
use crate::proof::ExportedLine;

/// How often the log is checked again because retention removed entries meanwhile.
const MAX_REPEATS: usize = 3;

/// Checks all entries.
pub(super) async fn check(
    db: &Db,
    request: &VerifyRequest,
    checked: &mut CheckedScope,
    problems: &mut ProblemList,
) -> Result<(), DbError> {
    for repeat in 1.. {
        let (state, outside) = db.snapshot().await?.access_chain().await?;
        let found = check_entries(db, &state, request).await?;
        let is_stale = db.snapshot().await?.access_chain().await?.0.removed != state.removed;
        if is_stale && !found.is_empty() && repeat < MAX_REPEATS {
            continue;
        }
        problems.extend(found);
        if outside > 0 {
            let what = format!("{outside} entries of the access log were not written by this program");
            problems.add(IntegrityProblem::new(IntegrityProblemKind::Access, "", what));
        }
        checked.access_entries = state.newest.saturating_sub(state.removed);
        break;
    }
    Ok(())
}

async fn check_entries(
    db: &Db,
    state: &AccessChainState,
    request: &VerifyRequest,
) -> Result<Vec<IntegrityProblem>, DbError> {
    let recorded: Vec<&ExportedLine> = request.recorded.iter().collect();
    let walk = ChainWalk::access(state, &recorded);
    let (mut at, mut found) = walk.begin();
    let mut add = |what: String| found.push(IntegrityProblem::new(IntegrityProblemKind::Access, "", what));
    let mut removals = Vec::new();
    let mut chain_problems = Vec::new();
    while at.feed < state.newest {
        let entries = db.access_entries(at.feed, state.newest).await?;
        let upto = entries.last().map_or(state.newest, |last| last.id);
        let leaves = entries.iter().map(|entry| (entry.id, Some(entry.leaf().to_vec()))).collect();
        let (next, problems) = walk.step(&at, &EntryPage { upto, rows: Vec::new(), erased: leaves });
        chain_problems.extend(problems);
        at = next;
        for id in db.altered_access_subjects(&entries, state.removed).await? {
            add(format!("entry {id} of the access log: its text was altered, or was blanked without an erasure"));
        }
        for entry in &entries {
            if !entry.has_known_codes() {
                add(format!("entry {} of the access log has an unknown reader, action or subject", entry.id));
            }
            if entry.action == AccessAction::RemoveEntries.name() {
                removals.extend(entry.hits);
            }
        }
    }
    if state.removed != removals.into_iter().max().unwrap_or(0) {
        let upto = state.removed;
        add(format!("entries up to {upto} were removed from the access log, but no entry of retention says so"));
    }
    found.extend(chain_problems);
    Ok(found)
}
