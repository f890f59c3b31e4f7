//! Merging of small runs into larger ones, and rewriting of runs without their removed documents.

use std::collections::BTreeMap;

use super::super::{Arg, Db, DbError, DbFault, Stmt, Tx, sql};
use super::IndexHit;
use super::document_list::DocumentList;
use super::index_purge::INDEX_LOCK_KEY;
use super::posting::{MAX_RUN_DOCS, MergeInput, PostingChunk, merge_postings};

/// So many runs of about the same size are merged into one.
const RUNS_PER_MERGE: usize = 8;
/// With a backlog, a merge waits for so many: it would delay what is not indexed yet.
const MAX_RUNS_WHILE_BUSY: usize = 64;

/// A run with more chunks of postings (16 MB) is not merged: a merge holds its runs in memory.
const MAX_MERGED_CHUNKS: usize = 4096;

/// The size class of a run: each one has runs of up to eight times as many documents as the one
/// before. The last class is full.
fn size_class(documents: i64) -> u32 {
    documents.max(1).ilog2() / RUNS_PER_MERGE.ilog2()
}

/// A run, and how many documents it has.
type RunSize = (i64, i64);

/// The runs to merge next: the oldest of the smallest size class that has `enough` of them. `runs` are
/// in the order of time.
fn runs_to_merge(runs: &[RunSize], enough: usize) -> Vec<RunSize> {
    let of_class = |class| runs.iter().copied().filter(move |(_, live)| size_class(*live) == class);
    let class = (0..=size_class(MAX_RUN_DOCS as i64)).find(|class| of_class(*class).count() >= enough);
    let mut left = MAX_RUN_DOCS as i64;
    let fits = |(_, live): &RunSize| {
        left -= live;
        left >= 0
    };
    class.map_or_else(Vec::new, |class| of_class(class).take(RUNS_PER_MERGE).take_while(fits).collect())
}

impl Db {
    /// Merges the runs of the smallest size class of which there are enough. Returns whether there
    /// were any; there may be more.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn merge_runs(&self, is_busy: bool) -> Result<bool, DbError> {
        let stmt = sql("select r.id, r.live from search_run r where r.live < $1 and not exists
             (select 1 from search_posting p where p.run = r.id order by p.first limit 1 offset $2)
             order by r.last_ended, r.id");
        let runs: Vec<RunSize> = self.all(stmt.bind(MAX_RUN_DOCS / 2).bind(MAX_MERGED_CHUNKS)).await?;
        let runs = runs_to_merge(&runs, if is_busy { MAX_RUNS_WHILE_BUSY } else { RUNS_PER_MERGE });
        if !runs.is_empty() {
            self.rewrite_runs(&runs).await?;
        }
        Ok(!runs.is_empty())
    }

    /// Rewrites the runs from which documents were removed.
    pub(super) async fn rewrite_cleared_runs(&self) -> Result<(), DbError> {
        loop {
            let runs: Vec<RunSize> = self.all(sql("select id, live from search_run where live < size limit 1")).await?;
            if runs.is_empty() {
                return Ok(());
            }
            self.rewrite_runs(&runs).await?;
        }
    }

    /// Replaces these runs by one. Does nothing where they changed in the meantime. They are read
    /// and merged before the transaction that replaces them, because that takes longer.
    async fn rewrite_runs(&self, runs: &[RunSize]) -> Result<(), DbError> {
        let mut snapshot = self.snapshot().await?;
        let mut inputs = Vec::with_capacity(runs.len());
        for (run, _) in runs {
            let documents = sql("select documents from search_run where id = $1").bind(*run);
            let Some(documents) = snapshot.0.value::<Vec<u8>>(documents).await? else { return Ok(()) };
            let chunks = sql("select first, rest from search_posting where run = $1 order by first").bind(*run);
            let chunks: Vec<(i64, Vec<u8>)> = snapshot.0.all(chunks).await?;
            let chunks = chunks.into_iter().map(|(first, rest)| PostingChunk { first: first.cast_unsigned(), rest });
            inputs.push((DocumentList::decode(&documents), chunks.collect()));
        }
        snapshot.0.commit().await?;
        let merged = tokio::task::spawn_blocking(|| merge(inputs)).await;
        let (documents, chunks) =
            merged.map_err(|_| DbError::new(DbFault::Broken, "the merge of the index panicked"))?;
        let mut tx = self.begin().await?;
        tx.advisory_lock(INDEX_LOCK_KEY).await?;
        if tx.are_unchanged(runs).await? {
            let ids = || runs.iter().map(|(run, _)| *run);
            for head in ["delete from search_posting where run in ", "delete from search_run where id in "] {
                tx.run(Stmt::list(head, Vec::new(), ids(), "")).await?;
            }
            tx.insert_run(&documents, chunks).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

impl Tx {
    async fn are_unchanged(&mut self, runs: &[RunSize]) -> Result<bool, DbError> {
        let ids = runs.iter().map(|(run, _)| Arg::from(*run));
        let head = "select id, live from search_run where id in ";
        let now: BTreeMap<i64, i64> = self.all(Stmt::list(head, Vec::new(), ids, "")).await?.into_iter().collect();
        Ok(now == runs.iter().copied().collect())
    }
}

/// One run with the documents of these.
fn merge(inputs: Vec<(DocumentList, Vec<PostingChunk>)>) -> (DocumentList, Vec<PostingChunk>) {
    let of_input = |(nth, (documents, _)): (usize, &(DocumentList, _))| {
        documents.live().map(|(ordinal, hit)| (hit, nth, ordinal)).collect::<Vec<(IndexHit, usize, usize)>>()
    };
    let mut order: Vec<(IndexHit, usize, usize)> = inputs.iter().enumerate().flat_map(of_input).collect();
    order.sort_unstable();
    let mut inputs: Vec<MergeInput> = inputs
        .into_iter()
        .map(|(documents, chunks)| MergeInput { chunks, ordinals: vec![None; documents.len()] })
        .collect();
    for (new, (_, nth, old)) in order.iter().enumerate() {
        if let Some(ordinal) = inputs.get_mut(*nth).and_then(|input| input.ordinals.get_mut(*old)) {
            *ordinal = Some(new);
        }
    }
    let chunks = merge_postings(&inputs);
    (DocumentList::new(order.into_iter().map(|(hit, ..)| hit).collect()), chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_eightfold() {
        assert_eq!([0, 1, 7, 8, 63, 64, 4095, 4096].map(size_class), [0, 0, 0, 1, 1, 2, 3, 4]);
    }

    #[test]
    fn the_oldest_of_the_smallest_class_with_enough_runs_are_merged_as_far_as_they_fit() {
        let merged = |sizes: &[i64], enough| {
            let runs: Vec<RunSize> = (0..).zip(sizes.iter().copied()).collect();
            runs_to_merge(&runs, enough).into_iter().map(|(run, _)| run).collect::<Vec<_>>()
        };
        assert_eq!(merged(&[1; 7], 8), [0; 0], "one is missing");
        assert_eq!(merged(&[100, 1, 1, 1, 100, 1, 1, 1, 1, 1, 1], 8), [1, 2, 3, 5, 6, 7, 8, 9]);
        let large = MAX_RUN_DOCS as i64 / 2 - 1;
        // Each merge has one run less afterwards, and none is larger than a run may be.
        assert_eq!(merged(&[large; 8], 8), [0, 1]);
        assert_eq!(merged(&[1; 64], 64).len(), RUNS_PER_MERGE);
    }
}
