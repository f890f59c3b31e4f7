//! Keeps the full-text index up with the archive, from its own cursor in each account's feed.
//!
//! Reads and writes `db`; the words are cut by `search`. A step takes what is next, cuts it up outside any transaction, and
//! writes index and cursor in one: a crash repeats a little work and loses nothing. Whatever was erased in the meantime does
//! not come back.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::db::{Db, DbError, DbFault, IndexBatch, IndexEntry, IndexSlice, Owned, TodoRow};
use crate::search::{Source, indexed, words};

/// Versions that one transaction indexes.
const ROWS: i64 = 1000;
/// Bytes of theirs, as received: SQLite's one writer is held up for some 50 ms.
const BYTES: u64 = 2_000_000;
/// Segments that one transaction indexes anew.
const TODOS: usize = 200;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was something, and there may be more.
    Did,
    /// The index is up with the archive.
    Idle,
}

/// Builds the index, a step at a time.
#[derive(Debug)]
pub struct Indexer {
    db: Db,
    prepared: AtomicBool,
    swept: AtomicBool,
}

impl Indexer {
    /// For this database.
    pub fn new(db: Db) -> Indexer {
        Indexer { db, prepared: AtomicBool::new(false), swept: AtomicBool::new(false) }
    }

    /// Indexes some of what these accounts have that is not indexed yet.
    ///
    /// # Errors
    /// Where the database fails; the step can be repeated.
    pub async fn step(&self, owned: &[Owned]) -> Result<Progress, DbError> {
        if !self.prepared.load(Ordering::Relaxed) {
            if self.db.prepare_index(words::VERSION).await? {
                tracing::info!("the full-text index is being built");
            }
            self.prepared.store(true, Ordering::Relaxed);
        }
        let mut batch = IndexBatch { slices: self.slices(owned).await?, ..IndexBatch::default() };
        let accounts: Vec<i64> = owned.iter().map(|owned| owned.account).collect();
        batch.todos = self.db.index_todos(&accounts, TODOS).await?;
        if batch.slices.is_empty() && batch.todos.is_empty() {
            return self.sweep().await;
        }
        let batch = self.filled(batch).await?;
        match self.db.write_index(&batch).await {
            Err(error) if error.fault() == DbFault::Broken => self.one_by_one(batch).await?,
            written => written.map(drop)?,
        }
        Ok(Progress::Did)
    }

    /// Something about one of the documents is unacceptable to the database: that one is left out, and the index goes on.
    async fn one_by_one(&self, mut batch: IndexBatch) -> Result<(), DbError> {
        let stay = batch.slices.iter().map(|slice| IndexSlice { to: slice.after, ..*slice }).collect::<Vec<_>>();
        for entry in std::mem::take(&mut batch.entries) {
            let item = entry.item;
            let of_it = |todo: &&TodoRow| todo.segment == item.div_euclid(4) && entry.version == 0;
            let todos = batch.todos.iter().filter(of_it).cloned().collect();
            match self.db.write_index(&IndexBatch { slices: stay.clone(), todos, entries: vec![entry] }).await {
                Err(error) if error.fault() == DbFault::Broken => {
                    tracing::warn!(item, %error, "failed to index a document; it is left out");
                }
                written => written.map(drop)?,
            }
        }
        self.db.write_index(&batch).await.map(drop)
    }

    /// What to take from the feeds: a fair share of each, those furthest behind first.
    async fn slices(&self, owned: &[Owned]) -> Result<Vec<IndexSlice>, DbError> {
        let owned: HashMap<i64, Owned> = owned.iter().map(|owned| (owned.account, *owned)).collect();
        let mut lags: Vec<(Owned, i64, i64)> = self
            .db
            .index_lags()
            .await?
            .into_iter()
            .filter_map(|(account, after, feed)| Some((*owned.get(&account)?, after, feed)))
            .collect();
        lags.sort_by_key(|(_, after, feed)| after - feed);
        let share = ROWS / i64::try_from(lags.len()).unwrap_or(1).clamp(1, ROWS);
        let mut left = ROWS;
        let mut slices = Vec::new();
        for (owned, after, feed) in lags {
            let to = feed.min(after + share.min(left));
            left -= to - after;
            if to > after {
                slices.push(IndexSlice { owned, after, to });
            }
        }
        Ok(within(slices.as_slice(), &self.db.index_sizes(&slices).await?))
    }

    async fn sweep(&self) -> Result<Progress, DbError> {
        if self.swept.load(Ordering::Relaxed) {
            return Ok(Progress::Idle);
        }
        let more = self.db.sweep_index().await?;
        self.swept.store(!more, Ordering::Relaxed);
        Ok(if more { Progress::Did } else { Progress::Idle })
    }

    /// Reads the bodies and cuts them into words.
    async fn filled(&self, mut batch: IndexBatch) -> Result<IndexBatch, DbError> {
        let rows = self.db.index_rows(&batch.slices).await?;
        // A segment whose end time changed has new numbers for all that is indexed of it.
        let moved: BTreeMap<i64, usize> = (0..)
            .zip(&batch.todos)
            .filter(|(_, todo)| todo.now.as_ref().is_some_and(|(ended, _)| *ended != todo.was))
            .map(|(nth, todo)| (todo.segment, nth))
            .collect();
        let items: Vec<i64> = moved.keys().flat_map(|segment| (0..3).map(move |code| segment * 4 + code)).collect();
        let bodies = self.db.newest_bodies(&items).await?;
        let cut = tokio::task::spawn_blocking(move || {
            let mut entries: Vec<IndexEntry> = Vec::with_capacity(rows.len() + batch.todos.len());
            for row in rows {
                let words = row.body.map_or_else(String::new, |body| cut_up(row.item, &body));
                let (account, item, version, ended) = (row.account, row.item, row.version, row.ended);
                entries.push(IndexEntry { account, item, version, ended, words });
            }
            for todo in &batch.todos {
                let Some((ended, metadata)) = &todo.now else { continue };
                let item = todo.segment * 4 + 3;
                let words = cut_up(item, metadata.as_bytes());
                entries.push(IndexEntry { account: todo.account, item, version: 0, ended: *ended, words });
            }
            for (item, (version, body)) in bodies {
                let Some(todo) = moved.get(&item.div_euclid(4)).and_then(|nth| batch.todos.get(*nth)) else { continue };
                let Some((ended, _)) = &todo.now else { continue };
                let words = cut_up(item, &body);
                entries.push(IndexEntry { account: todo.account, item, version, ended: *ended, words });
            }
            entries.sort_by_key(|entry| (entry.item, entry.version));
            // One statement must not name a document twice; the later version stays.
            entries.reverse();
            entries.dedup_by_key(|entry| entry.item);
            batch.entries = entries;
            batch
        });
        cut.await.map_err(|_| DbError::new(DbFault::Broken, "cutting text into words ended abnormally"))
    }
}

fn cut_up(item: i64, body: &[u8]) -> String {
    indexed(Source::of_item(item), body)
}

/// The slices shortened to what fits into one transaction, but to no less than one version.
fn within(slices: &[IndexSlice], sizes: &[(i64, i64, u64)]) -> Vec<IndexSlice> {
    let mut left = BYTES;
    let mut kept: Vec<IndexSlice> = Vec::with_capacity(slices.len());
    for slice in slices {
        let first = sizes.partition_point(|(account, feed, _)| (*account, *feed) <= (slice.owned.account, slice.after));
        let inside = sizes
            .iter()
            .skip(first)
            .take_while(|(account, feed, _)| *account == slice.owned.account && *feed <= slice.to);
        let mut to = slice.to;
        for (_, feed, size) in inside {
            if *size > left && !(kept.is_empty() && *feed == slice.after + 1) {
                to = feed - 1;
                left = 0;
                break;
            }
            left = left.saturating_sub(*size);
        }
        if to > slice.after {
            kept.push(IndexSlice { to, ..*slice });
        }
        if left == 0 {
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_takes_what_fits_and_at_least_one() {
        let slice = |account, after, to| IndexSlice { owned: Owned { account, epoch: 1 }, after, to };
        let slices = [slice(1, 10, 12), slice(2, 0, 5)];
        let small = [(1, 11, 5), (1, 12, 5), (2, 1, 5), (2, 5, 5)];
        assert_eq!(within(&slices, &small), slices);
        let large = [(1, 11, BYTES * 2), (1, 12, 5), (2, 1, 5)];
        assert_eq!(within(&slices, &large), [slice(1, 10, 11)]);
        let some = [(1, 11, 5), (1, 12, BYTES - 5), (2, 1, 5)];
        assert_eq!(within(&slices, &some), [slices[0]]);
        // Numbers whose versions are gone are gone past.
        assert_eq!(within(&slices, &[(1, 12, BYTES * 2)]), [slice(1, 10, 11)]);
        assert_eq!(within(&slices, &[]), slices);
    }
}
