//! Keeps the full-text index up with the archive, from its own cursor in each account's feed.
//!
//! Reads and writes `db`; the words are cut by `search`. A step takes what is next, cuts it up outside any transaction, and
//! writes index and cursor in one: a crash repeats a little work and loses nothing. Whatever was erased in the meantime does
//! not come back. While much is waiting, what comes next is read and cut while the database writes.
//!
//! Memory is bounded by bytes: of a batch, of the bodies that are read at a time, and of what one document adds
//! (`search::head`). A document that cannot be worked on is set aside with the reason, and what is behind it goes on.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Time;
use crate::db::{Db, DbError, DbFault, IndexBatch, IndexEntry, IndexSlice, Owned, SkippedDocument, TodoRow};
use crate::model::may_have_notes;
use crate::reading::{Conversation, Metadata};
use crate::search::{Marks, Source, head, indexed, spoken, words};

/// Versions that one transaction indexes.
const ROWS: i64 = 1000;
/// Bytes of theirs, as received: SQLite's one writer is held up for some 50 ms.
const BYTES: u64 = 2_000_000;
/// Segments that one transaction indexes anew, each with all that was said in it: as many as [`BYTES`] allows.
const TODOS: usize = 500;
/// Segments whose texts are read besides at a time, and bytes of these; a larger one is read alone.
const BODIES: usize = 50;
const BODIES_BYTES: u64 = 8_000_000;
/// Documents after which the index is tidied: where more are waiting, and where none are.
const MANY: u64 = 5000;
const FEW: u64 = 100;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was something, and there may be more.
    Did,
    /// There was something, and nothing more at that time.
    Caught,
    /// The index is up with the archive.
    Idle,
}

/// Builds the index, a step at a time.
#[derive(Debug)]
pub struct Indexer {
    db: Db,
    prepared: AtomicBool,
    swept: AtomicBool,
    /// Documents that were written since the index was tidied, as far as is known.
    untidy: AtomicU64,
    /// What follows on what was written last, where that is already made.
    next: Mutex<Option<Batch>>,
    /// Makes a segment's documents: a field, so that a test can have it fail.
    cut: fn(Segment, i64, &Db) -> Vec<IndexEntry>,
}

/// What a step writes, and whether it is all there was.
#[derive(Debug, Default)]
struct Batch {
    index: IndexBatch,
    whole: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.index.slices.is_empty() && self.index.todos.is_empty()
    }
}

impl Indexer {
    /// For this database.
    pub fn new(db: Db) -> Indexer {
        let untidy = AtomicU64::new(FEW);
        let next = Mutex::new(None);
        let (prepared, swept) = (AtomicBool::new(false), AtomicBool::new(false));
        Indexer { db, prepared, swept, untidy, next, cut: Segment::entries }
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
        // Whatever goes wrong from here on, it is made anew from where the cursors are.
        let made = self.next().take();
        let holds = |batch: &Batch| batch.index.slices.iter().all(|slice| owned.contains(&slice.owned));
        // One that came out empty though there is more says nothing: what there was then had been made already.
        let batch = match made.filter(|batch| holds(batch) && (batch.whole || !batch.is_empty())) {
            Some(batch) => batch,
            None => self.made(owned, &IndexBatch::default()).await?,
        };
        if batch.is_empty() {
            return self.sweep().await;
        }
        self.untidy.fetch_add(batch.index.entries.len() as u64, Ordering::Relaxed);
        let Batch { index, whole } = batch;
        if whole {
            let written = self.db.write_index(&index).await;
            self.written(index, written).await?;
            self.tidy(MANY).await?;
        } else {
            let (following, writing) = (self.made(owned, &index), self.db.write_index(&index));
            let (next, written, tidied) = tokio::join!(following, writing, self.tidy(MANY));
            self.written(index, written).await?;
            *self.next() = next.ok();
            tidied?;
        }
        Ok(if whole { Progress::Caught } else { Progress::Did })
    }

    fn next(&self) -> MutexGuard<'_, Option<Batch>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to do after `before` has been done.
    async fn made(&self, owned: &[Owned], before: &IndexBatch) -> Result<Batch, DbError> {
        let (slices, all) = self.slices(owned, &before.slices).await?;
        let accounts: Vec<i64> = owned.iter().map(|owned| owned.account).collect();
        // Those that are being done are still listed, and may be the first that are read.
        let limit = TODOS + before.todos.len();
        let listed = self.db.index_todos(&accounts, limit).await?;
        let all = all && listed.len() < limit;
        let waiting: Vec<TodoRow> =
            listed.into_iter().filter(|todo| !before.todos.iter().any(|done| done.is(todo))).collect();
        let count = waiting.len();
        let todos = self.affordable(waiting).await?;
        let whole = all && todos.len() == count;
        let index = IndexBatch { slices, todos, ..IndexBatch::default() };
        let made = match self.filled(&index).await {
            Err(error) if error.fault() == DbFault::Broken => self.filled_one_by_one(index).await?,
            made => IndexBatch { slices: index.slices, todos: index.todos, ..made? },
        };
        Ok(Batch { index: made, whole })
    }

    /// Of these, the first that together are not too large for one transaction; at least one.
    async fn affordable(&self, mut todos: Vec<TodoRow>) -> Result<Vec<TodoRow>, DbError> {
        let items: Vec<i64> = todos.iter().flat_map(|todo| todo.segment * 4..todo.segment * 4 + 3).collect();
        let sizes = self.db.body_sizes(&items).await?;
        let mut left = BYTES;
        let fits = |todo: &TodoRow| {
            let size: u64 = sizes.range(todo.segment * 4..todo.segment * 4 + 3).map(|(_, size)| *size).sum();
            let fits = size <= left;
            left = left.saturating_sub(size.max(1));
            fits
        };
        let most = todos.iter().map(fits).take_while(|fits| *fits).count();
        todos.truncate(most.clamp(1, TODOS));
        Ok(todos)
    }

    /// Tidies the index where at least so many documents were written.
    async fn tidy(&self, least: u64) -> Result<(), DbError> {
        if self.untidy.load(Ordering::Relaxed) >= least {
            // Where it fails, searches are slower and nothing else: the next try is after as many more.
            self.untidy.store(0, Ordering::Relaxed);
            self.db.tidy_index().await?;
        }
        Ok(())
    }

    /// What is to be done where writing ended so.
    async fn written(&self, batch: IndexBatch, written: Result<u64, DbError>) -> Result<(), DbError> {
        match written {
            Err(error) if error.fault() == DbFault::Broken => self.one_by_one(batch).await,
            written => written.map(drop),
        }
    }

    /// Something about one of the documents is unacceptable to the database: that one is left out, and the index goes on.
    async fn one_by_one(&self, mut batch: IndexBatch) -> Result<(), DbError> {
        let stay = batch.slices.iter().map(|slice| IndexSlice { to: slice.after, ..*slice }).collect::<Vec<_>>();
        for entry in std::mem::take(&mut batch.entries) {
            let item = entry.item;
            let of_it = |todo: &&TodoRow| todo.segment == item.div_euclid(4) && entry.version == 0;
            let todos = batch.todos.iter().filter(of_it).cloned().collect();
            // The database's own words may quote what was said.
            let refused = SkippedDocument::of(&entry, "the database refused its words");
            let one = IndexBatch { slices: stay.clone(), todos, entries: vec![entry], skipped: Vec::new() };
            match self.db.write_index(&one).await {
                Err(error) if error.fault() == DbFault::Broken => batch.skipped.push(refused),
                written => written.map(drop)?,
            }
        }
        self.db.write_index(&batch).await.map(drop)
    }

    /// What to take from the feeds where these slices are done: a fair share of each, those furthest behind first; and whether it
    /// is all there is.
    async fn slices(&self, owned: &[Owned], done: &[IndexSlice]) -> Result<(Vec<IndexSlice>, bool), DbError> {
        let done: HashMap<i64, i64> = done.iter().map(|slice| (slice.owned.account, slice.to)).collect();
        let owned: HashMap<i64, Owned> = owned.iter().map(|owned| (owned.account, *owned)).collect();
        let mut lags: Vec<(Owned, i64, i64)> = self
            .db
            .index_lags()
            .await?
            .into_iter()
            .map(|(account, after, feed)| (account, done.get(&account).map_or(after, |done| after.max(*done)), feed))
            .filter(|(_, after, feed)| feed > after)
            .filter_map(|(account, after, feed)| Some((*owned.get(&account)?, after, feed)))
            .collect();
        lags.sort_by_key(|(_, after, feed)| after - feed);
        let share = ROWS / i64::try_from(lags.len()).unwrap_or(1).clamp(1, ROWS);
        let behind: i64 = lags.iter().map(|(_, after, feed)| feed - after).sum();
        let mut left = ROWS;
        let mut slices = Vec::new();
        for (owned, after, feed) in lags {
            let to = feed.min(after + share.min(left));
            left -= to - after;
            if to > after {
                slices.push(IndexSlice { owned, after, to });
            }
        }
        let slices = within(slices.as_slice(), &self.db.index_sizes(&slices).await?);
        let whole = slices.iter().map(|slice| slice.to - slice.after).sum::<i64>() == behind;
        Ok((slices, whole))
    }

    async fn sweep(&self) -> Result<Progress, DbError> {
        self.tidy(FEW).await?;
        if self.swept.load(Ordering::Relaxed) {
            return Ok(Progress::Idle);
        }
        let more = self.db.sweep_index().await?;
        self.swept.store(!more, Ordering::Relaxed);
        Ok(if more { Progress::Did } else { Progress::Idle })
    }

    /// Reads what else is needed and cuts all of it into words: the documents, and those that could not be made.
    async fn filled(&self, batch: &IndexBatch) -> Result<IndexBatch, DbError> {
        let mut segments: BTreeMap<i64, Segment> = BTreeMap::new();
        for todo in &batch.todos {
            let Some((ended, metadata)) = &todo.now else { continue };
            let segment = segments.entry(todo.segment).or_default();
            (segment.account, segment.ended, segment.whole) = (todo.account, *ended, true);
            segment.metadata.clone_from(metadata);
        }
        for row in self.db.index_rows(&batch.slices).await? {
            let segment = segments.entry(row.item.div_euclid(4)).or_default();
            (segment.account, segment.ended, segment.metadata) = (row.account, row.ended, row.metadata);
            segment.whole |= row.item.rem_euclid(4) == 0;
            segment.texts.insert(row.item, (row.version, row.body.map(head)));
        }
        let lacking: Vec<i64> = segments.iter().flat_map(|(key, segment)| segment.lacking(*key)).collect();
        let sizes = self.db.body_sizes(&lacking).await?;
        let mut made = IndexBatch::default();
        let mut left = segments.into_iter().peekable();
        while left.peek().is_some() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while let Some((key, segment)) = left.next_if(|(key, segment)| {
                bytes += segment.lacking(*key).filter_map(|item| sizes.get(&item)).sum::<u64>();
                part.is_empty() || (part.len() < BODIES && bytes <= BODIES_BYTES)
            }) {
                part.push((key, segment));
            }
            let items = part.iter().flat_map(|(key, segment)| segment.lacking(*key));
            for (item, (version, body)) in self.db.newest_bodies(&items.collect::<Vec<_>>()).await? {
                let Ok(at) = part.binary_search_by_key(&item.div_euclid(4), |(key, _)| *key) else { continue };
                let Some((_, segment)) = part.get_mut(at) else { continue };
                segment.texts.insert(item, (version, Some(head(body))));
            }
            let (db, cut) = (self.db.clone(), self.cut);
            let cut = tokio::task::spawn_blocking(move || {
                let mut made = IndexBatch::default();
                for (key, segment) in part {
                    let fallback = segment.without_words(key, &db);
                    match catch_unwind(AssertUnwindSafe(|| cut(segment, key, &db))) {
                        Ok(entries) => made.entries.extend(entries),
                        Err(_) => {
                            let why = "cutting it into words ended abnormally";
                            made.skipped.extend(fallback.iter().map(|entry| SkippedDocument::of(entry, why)));
                            made.entries.extend(fallback);
                        }
                    }
                }
                made
            });
            let ended_badly = |_| DbError::new(DbFault::Broken, "cutting text into words ended abnormally");
            let part = cut.await.map_err(ended_badly)?;
            made.entries.extend(part.entries);
            made.skipped.extend(part.skipped);
        }
        Ok(made)
    }

    /// The same where something of it cannot be read: that is set aside, and the rest is made.
    async fn filled_one_by_one(&self, batch: IndexBatch) -> Result<IndexBatch, DbError> {
        let steps = batch
            .slices
            .iter()
            .flat_map(|slice| (slice.after..slice.to).map(|after| IndexSlice { after, to: after + 1, ..*slice }));
        let slices = steps.map(|slice| IndexBatch { slices: vec![slice], ..IndexBatch::default() });
        let todos = batch.todos.iter().map(|todo| IndexBatch { todos: vec![todo.clone()], ..IndexBatch::default() });
        let (mut entries, mut skipped) = (BTreeMap::new(), Vec::new());
        for one in slices.chain(todos) {
            match self.filled(&one).await {
                Ok(made) => {
                    entries.extend(made.entries.into_iter().map(|entry| (entry.item, entry)));
                    skipped.extend(made.skipped);
                }
                Err(error) if error.fault() == DbFault::Broken => {
                    skipped.extend(self.db.unreadable_documents(&one, "it cannot be read").await?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(IndexBatch { entries: entries.into_values().collect(), skipped, ..batch })
    }
}

/// A segment, and which of its texts are indexed.
#[derive(Default)]
struct Segment {
    account: i64,
    ended: Time,
    metadata: String,
    /// Whether all that the index holds of it must be written: its metadata changed, or who takes part, which is what its
    /// transcript says.
    whole: bool,
    /// By item: the version, and the body where there is one.
    texts: BTreeMap<i64, (i64, Option<Vec<u8>>)>,
}

impl Segment {
    /// The items that must be read besides: the transcript for the names in it, whatever is written.
    fn lacking(&self, key: i64) -> impl Iterator<Item = i64> {
        let last = if self.whole { 2 } else { 0 };
        (key * 4..=key * 4 + last).filter(|item| !self.texts.contains_key(item))
    }

    /// Its documents, with nothing to be found of them.
    fn without_words(&self, key: i64, db: &Db) -> Vec<IndexEntry> {
        let texts = self.texts.iter().map(|(item, (version, _))| (*item, *version));
        let notes = self.whole.then_some((key * 4 + 3, 0));
        let items = texts.filter(|(item, _)| self.whole || *item != key * 4).chain(notes);
        items.map(|item| db.index_entry(self.account, item, self.ended, "", "")).collect()
    }

    fn entries(mut self, key: i64, db: &Db) -> Vec<IndexEntry> {
        let mut marks = Marks::of(&self.metadata);
        let transcript = self.texts.get(&(key * 4)).and_then(|(_, body)| body.as_deref());
        let is_email = Metadata::tells_of_email(&self.metadata);
        let read = |body| Conversation::parse_messages(body, is_email);
        let conversation = transcript.and_then(read).unwrap_or_default();
        marks.name(&conversation);
        if !self.whole {
            self.texts.remove(&(key * 4));
        } else if may_have_notes(&self.metadata) {
            self.texts.insert(key * 4 + 3, (0, Some(std::mem::take(&mut self.metadata).into_bytes())));
        }
        let entry = |(item, (version, body)): (i64, (i64, Option<Vec<u8>>))| {
            let source = Source::of_item(item);
            let words = match body {
                Some(_) if item == key * 4 => spoken(&conversation),
                Some(body) => indexed(source, &body),
                None => String::new(),
            };
            db.index_entry(self.account, (item, version), self.ended, &marks.joined(source), &words)
        };
        self.texts.into_iter().map(entry).collect()
    }
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

    #[tokio::test]
    async fn a_segment_that_ends_the_cutter_is_set_aside_and_the_others_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), crate::db::Access::Own).await.unwrap();
        let cut = |segment: Segment, key: i64, db: &Db| match key {
            1 => panic!("as the test wants it"),
            _ => segment.entries(key, db),
        };
        let indexer = Indexer { cut, ..Indexer::new(db) };
        let todo = |segment| {
            let now = Some((Time(0), r#"{"agentNotes":"noted"}"#.to_owned()));
            TodoRow { account: 1, segment, was: Time(0), times: 1, now }
        };
        let batch = IndexBatch { todos: vec![todo(1), todo(2)], ..IndexBatch::default() };
        let made = indexer.filled(&batch).await.unwrap();
        assert_eq!(made.skipped.iter().map(|one| (one.account, one.item)).collect::<Vec<_>>(), [(1, 7)]);
        assert_eq!(made.entries.iter().map(|entry| entry.item).collect::<Vec<_>>(), [7, 11]);
    }
}
