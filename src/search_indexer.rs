//! The indexer: follows each account's feed with a cursor and updates the full-text index.
//!
//! It reads and writes `db`, and uses the tokenizer of `search`. A step prepares a batch outside
//! any transaction, and writes the index and the cursors in one transaction. A crash repeats some
//! work and loses nothing. A segment that is erased in the meantime is not indexed. With a backlog,
//! the next batch is prepared while the database writes the current one.
//!
//! Memory use is bounded by the bytes of a batch, of the bodies that are read at a time, and of one
//! document (`search::truncate_body`). A document that cannot be indexed is recorded with the
//! reason and skipped.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Time;
use crate::db::{
    AccountKey, Db, DbError, DbFault, IndexBatch, IndexEntry, IndexSlice, Lease, ReindexTask, SkippedDocument,
};
use crate::model::may_have_notes;
use crate::render::{Conversation, Metadata};
use crate::search::{DocumentSource, Facets, body_words, conversation_words, tokenizer, truncate_body};

/// Artifact versions that one transaction indexes.
const MAX_VERSIONS_PER_BATCH: i64 = 1000;
/// Bytes of these versions as received. They block SQLite's only writer for about 50 ms.
const MAX_BATCH_BYTES: u64 = 2_000_000;
/// Segments that one transaction indexes again, each with all its texts, within
/// [`MAX_BATCH_BYTES`].
const MAX_REINDEX_SEGMENTS: usize = 500;
/// Segments whose other texts are read at a time, and their bytes. A larger segment is read alone.
const SEGMENTS_PER_READ: usize = 50;
const MAX_READ_BYTES: u64 = 8_000_000;
/// Documents after which the pending list is cleaned: with a backlog, and without.
const CLEANUP_AFTER_DOCS_BUSY: u64 = 5000;
const CLEANUP_AFTER_DOCS_IDLE: u64 = 100;

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexProgress {
    /// Something was indexed, and there may be more.
    MoreToDo,
    /// Something was indexed, and there was nothing more at that time.
    CaughtUp,
    /// Everything is indexed.
    Idle,
}

/// Updates the index, a step at a time.
#[derive(Debug)]
pub struct Indexer {
    db: Db,
    is_prepared: AtomicBool,
    notes_enqueued: AtomicBool,
    /// Documents that were written since the pending list was cleaned, as far as is known.
    docs_since_cleanup: AtomicU64,
    /// The batch after the one that was written last, where it is already prepared.
    next: Mutex<Option<PreparedBatch>>,
    /// Builds the documents of a segment. It is a field so that a test can make it fail.
    build: fn(IndexedSegment, i64, &Db) -> Vec<IndexEntry>,
}

/// What a step writes, and whether it is the whole backlog.
#[derive(Debug, Default)]
struct PreparedBatch {
    index: IndexBatch,
    is_complete: bool,
}

impl PreparedBatch {
    fn is_empty(&self) -> bool {
        self.index.slices.is_empty() && self.index.reindex_tasks.is_empty()
    }
}

impl Indexer {
    /// An indexer for this database.
    pub fn new(db: Db) -> Indexer {
        let docs_since_cleanup = AtomicU64::new(CLEANUP_AFTER_DOCS_IDLE);
        let next = Mutex::new(None);
        let (is_prepared, notes_enqueued) = (AtomicBool::new(false), AtomicBool::new(false));
        Indexer { db, is_prepared, notes_enqueued, docs_since_cleanup, next, build: IndexedSegment::entries }
    }

    /// Indexes some of what is not indexed yet of these accounts.
    ///
    /// # Errors
    /// Where the database fails; the step can be repeated.
    pub async fn step(&self, leases: &[Lease]) -> Result<IndexProgress, DbError> {
        if !self.is_prepared.load(Ordering::Relaxed) {
            if self.db.prepare_index(tokenizer::TOKENIZER_VERSION).await? {
                tracing::info!("the full-text index is being built");
            }
            self.is_prepared.store(true, Ordering::Relaxed);
        }
        // Taken out: after an error the next batch is prepared again from the cursors.
        let next = self.next().take();
        let is_leased = |batch: &PreparedBatch| batch.index.slices.iter().all(|slice| leases.contains(&slice.lease));
        // An empty batch with more to do is not used: when it was prepared, everything was in the
        // batch before it.
        let batch = match next.filter(|batch| is_leased(batch) && (batch.is_complete || !batch.is_empty())) {
            Some(batch) => batch,
            None => self.prepare_batch(leases, &IndexBatch::default()).await?,
        };
        if batch.is_empty() {
            return self.enqueue_notes().await;
        }
        self.docs_since_cleanup.fetch_add(batch.index.entries.len() as u64, Ordering::Relaxed);
        let PreparedBatch { index, is_complete } = batch;
        if is_complete {
            let written = self.db.write_index(&index).await;
            self.handle_write_result(index, written).await?;
            self.clean_up_if_due(CLEANUP_AFTER_DOCS_BUSY).await?;
        } else {
            let (following, writing) = (self.prepare_batch(leases, &index), self.db.write_index(&index));
            let (next, written, cleaned_up) =
                tokio::join!(following, writing, self.clean_up_if_due(CLEANUP_AFTER_DOCS_BUSY));
            self.handle_write_result(index, written).await?;
            *self.next() = next.ok();
            cleaned_up?;
        }
        Ok(if is_complete { IndexProgress::CaughtUp } else { IndexProgress::MoreToDo })
    }

    fn next(&self) -> MutexGuard<'_, Option<PreparedBatch>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares the batch that follows `before`.
    async fn prepare_batch(&self, leases: &[Lease], before: &IndexBatch) -> Result<PreparedBatch, DbError> {
        let (slices, all) = self.next_slices(leases, &before.slices).await?;
        let accounts: Vec<AccountKey> = leases.iter().map(|lease| lease.account).collect();
        // The tasks of `before` are still in the backlog, and may be read first.
        let limit = MAX_REINDEX_SEGMENTS + before.reindex_tasks.len();
        let listed = self.db.reindex_backlog(&accounts, limit).await?;
        let all = all && listed.len() < limit;
        let waiting: Vec<ReindexTask> = listed
            .into_iter()
            .filter(|task| !before.reindex_tasks.iter().any(|done| done.is_same_request(task)))
            .collect();
        let count = waiting.len();
        let reindex_tasks = self.limit_to_batch_bytes(waiting).await?;
        let is_complete = all && reindex_tasks.len() == count;
        let index = IndexBatch { slices, reindex_tasks, ..IndexBatch::default() };
        let entries = match self.build_entries(&index).await {
            Err(error) if error.fault() == DbFault::Broken => self.build_entries_one_by_one(index).await?,
            entries => IndexBatch { slices: index.slices, reindex_tasks: index.reindex_tasks, ..entries? },
        };
        Ok(PreparedBatch { index: entries, is_complete })
    }

    /// The first of these tasks that fit into one transaction; at least one.
    async fn limit_to_batch_bytes(&self, mut reindex_tasks: Vec<ReindexTask>) -> Result<Vec<ReindexTask>, DbError> {
        let items: Vec<i64> = reindex_tasks.iter().flat_map(|task| task.segment * 4..task.segment * 4 + 3).collect();
        let sizes = self.db.body_sizes(&items).await?;
        let mut left = MAX_BATCH_BYTES;
        let fits = |task: &ReindexTask| {
            let size: u64 = sizes.range(task.segment * 4..task.segment * 4 + 3).map(|(_, size)| *size).sum();
            let fits = size <= left;
            left = left.saturating_sub(size.max(1));
            fits
        };
        let count = reindex_tasks.iter().map(fits).take_while(|fits| *fits).count();
        reindex_tasks.truncate(count.clamp(1, MAX_REINDEX_SEGMENTS));
        Ok(reindex_tasks)
    }

    /// Cleans the pending list where at least this many documents were written since the last time.
    async fn clean_up_if_due(&self, least: u64) -> Result<(), DbError> {
        if self.docs_since_cleanup.load(Ordering::Relaxed) >= least {
            // A failure only makes searches slower; the next try is after as many more documents.
            self.docs_since_cleanup.store(0, Ordering::Relaxed);
            self.db.clean_pending_list().await?;
        }
        Ok(())
    }

    /// Handles the result of writing a batch: writes it document by document where the database
    /// refused it.
    async fn handle_write_result(&self, batch: IndexBatch, written: Result<u64, DbError>) -> Result<(), DbError> {
        match written {
            Err(error) if error.fault() == DbFault::Broken => self.write_one_by_one(batch).await,
            written => written.map(drop),
        }
    }

    /// Writes a batch document by document, and skips those that the database refuses.
    async fn write_one_by_one(&self, mut batch: IndexBatch) -> Result<(), DbError> {
        let stay = batch.slices.iter().map(|slice| IndexSlice { to: slice.after, ..*slice }).collect::<Vec<_>>();
        for entry in std::mem::take(&mut batch.entries) {
            let item = entry.item;
            let of_it = |task: &&ReindexTask| task.segment == item.div_euclid(4) && entry.version == 0;
            let reindex_tasks = batch.reindex_tasks.iter().filter(of_it).cloned().collect();
            // The database's message may quote the text, so it is not stored.
            let refused = SkippedDocument::of(&entry, "the database rejected its words");
            let one = IndexBatch { slices: stay.clone(), reindex_tasks, entries: vec![entry], skipped: Vec::new() };
            match self.db.write_index(&one).await {
                Err(error) if error.fault() == DbFault::Broken => batch.skipped.push(refused),
                written => written.map(drop)?,
            }
        }
        self.db.write_index(&batch).await.map(drop)
    }

    /// The next slices of the feeds after `done`: a fair share of each feed, the furthest behind
    /// first. Also returns whether they are all that is left.
    async fn next_slices(&self, leases: &[Lease], done: &[IndexSlice]) -> Result<(Vec<IndexSlice>, bool), DbError> {
        let done: HashMap<AccountKey, i64> = done.iter().map(|slice| (slice.lease.account, slice.to)).collect();
        let by_account: HashMap<AccountKey, Lease> = leases.iter().map(|lease| (lease.account, *lease)).collect();
        let mut lags: Vec<(Lease, i64, i64)> = self
            .db
            .index_lags()
            .await?
            .into_iter()
            .map(|(account, after, feed)| (account, done.get(&account).map_or(after, |done| after.max(*done)), feed))
            .filter(|(_, after, feed)| feed > after)
            .filter_map(|(account, after, feed)| Some((*by_account.get(&account)?, after, feed)))
            .collect();
        lags.sort_by_key(|(_, after, feed)| after - feed);
        let share = MAX_VERSIONS_PER_BATCH / i64::try_from(lags.len()).unwrap_or(1).clamp(1, MAX_VERSIONS_PER_BATCH);
        let behind: i64 = lags.iter().map(|(_, after, feed)| feed - after).sum();
        let mut left = MAX_VERSIONS_PER_BATCH;
        let mut slices = Vec::new();
        for (lease, after, feed) in lags {
            let to = feed.min(after + share.min(left));
            left -= to - after;
            if to > after {
                slices.push(IndexSlice { lease, after, to });
            }
        }
        let slices = fit_to_batch_bytes(slices.as_slice(), &self.db.slice_sizes(&slices).await?);
        let is_complete = slices.iter().map(|slice| slice.to - slice.after).sum::<i64>() == behind;
        Ok((slices, is_complete))
    }

    async fn enqueue_notes(&self) -> Result<IndexProgress, DbError> {
        self.clean_up_if_due(CLEANUP_AFTER_DOCS_IDLE).await?;
        if self.notes_enqueued.load(Ordering::Relaxed) {
            return Ok(IndexProgress::Idle);
        }
        let more = self.db.enqueue_unindexed_notes().await?;
        self.notes_enqueued.store(!more, Ordering::Relaxed);
        Ok(if more { IndexProgress::MoreToDo } else { IndexProgress::Idle })
    }

    /// Reads the other texts that the batch needs and builds its documents. Documents that could
    /// not be built are skipped.
    async fn build_entries(&self, batch: &IndexBatch) -> Result<IndexBatch, DbError> {
        let mut segments: BTreeMap<i64, IndexedSegment> = BTreeMap::new();
        for task in &batch.reindex_tasks {
            let Some((ended, metadata)) = &task.current else { continue };
            let segment = segments.entry(task.segment).or_default();
            (segment.account, segment.ended, segment.writes_all) = (task.account, *ended, true);
            segment.metadata.clone_from(metadata);
        }
        for row in self.db.slice_rows(&batch.slices).await? {
            let segment = segments.entry(row.item.div_euclid(4)).or_default();
            (segment.account, segment.ended, segment.metadata) = (row.account, row.ended, row.metadata);
            segment.writes_all |= row.item.rem_euclid(4) == 0;
            segment.texts.insert(row.item, (row.version, row.body.map(truncate_body)));
        }
        let missing_items: Vec<i64> = segments.iter().flat_map(|(key, segment)| segment.missing_items(*key)).collect();
        let sizes = self.db.body_sizes(&missing_items).await?;
        let mut built = IndexBatch::default();
        let mut left = segments.into_iter().peekable();
        while left.peek().is_some() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while let Some((key, segment)) = left.next_if(|(key, segment)| {
                bytes += segment.missing_items(*key).filter_map(|item| sizes.get(&item)).sum::<u64>();
                part.is_empty() || (part.len() < SEGMENTS_PER_READ && bytes <= MAX_READ_BYTES)
            }) {
                part.push((key, segment));
            }
            let items = part.iter().flat_map(|(key, segment)| segment.missing_items(*key));
            for (item, (version, body)) in self.db.newest_bodies(&items.collect::<Vec<_>>()).await? {
                let Ok(at) = part.binary_search_by_key(&item.div_euclid(4), |(key, _)| *key) else { continue };
                let Some((_, segment)) = part.get_mut(at) else { continue };
                segment.texts.insert(item, (version, Some(truncate_body(body))));
            }
            let (db, build) = (self.db.clone(), self.build);
            let handle = tokio::task::spawn_blocking(move || {
                let mut built = IndexBatch::default();
                for (key, segment) in part {
                    let fallback = segment.empty_entries(key, &db);
                    match catch_unwind(AssertUnwindSafe(|| build(segment, key, &db))) {
                        Ok(entries) => built.entries.extend(entries),
                        Err(_) => {
                            let why = "the tokenizer panicked";
                            built.skipped.extend(fallback.iter().map(|entry| SkippedDocument::of(entry, why)));
                            built.entries.extend(fallback);
                        }
                    }
                }
                built
            });
            let join_failed = |_| DbError::new(DbFault::Broken, "the tokenizer panicked");
            let part = handle.await.map_err(join_failed)?;
            built.entries.extend(part.entries);
            built.skipped.extend(part.skipped);
        }
        Ok(built)
    }

    /// The same where something cannot be read: version by version, skipping those that cannot be
    /// read.
    async fn build_entries_one_by_one(&self, batch: IndexBatch) -> Result<IndexBatch, DbError> {
        let steps = batch
            .slices
            .iter()
            .flat_map(|slice| (slice.after..slice.to).map(|after| IndexSlice { after, to: after + 1, ..*slice }));
        let slices = steps.map(|slice| IndexBatch { slices: vec![slice], ..IndexBatch::default() });
        let reindex_tasks = batch
            .reindex_tasks
            .iter()
            .map(|task| IndexBatch { reindex_tasks: vec![task.clone()], ..IndexBatch::default() });
        let (mut entries, mut skipped) = (BTreeMap::new(), Vec::new());
        for one in slices.chain(reindex_tasks) {
            match self.build_entries(&one).await {
                Ok(built) => {
                    entries.extend(built.entries.into_iter().map(|entry| (entry.item, entry)));
                    skipped.extend(built.skipped);
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

/// A segment with the texts that are indexed or needed.
#[derive(Default)]
struct IndexedSegment {
    account: AccountKey,
    ended: Time,
    metadata: String,
    /// Whether all its documents must be written, because its metadata or its transcript changed:
    /// both have facets of all documents.
    writes_all: bool,
    /// By item: the version, and the body if there is one.
    texts: BTreeMap<i64, (i64, Option<Vec<u8>>)>,
}

impl IndexedSegment {
    /// The items that must be read in addition. The transcript is always needed, for its names.
    fn missing_items(&self, key: i64) -> impl Iterator<Item = i64> {
        let last = if self.writes_all { 2 } else { 0 };
        (key * 4..=key * 4 + last).filter(|item| !self.texts.contains_key(item))
    }

    /// Its documents without words: writing them removes them from the index.
    fn empty_entries(&self, key: i64, db: &Db) -> Vec<IndexEntry> {
        let texts = self.texts.iter().map(|(item, (version, _))| (*item, *version));
        let notes = self.writes_all.then_some((key * 4 + 3, 0));
        let items = texts.filter(|(item, _)| self.writes_all || *item != key * 4).chain(notes);
        items.map(|item| db.index_entry(self.account, item, self.ended, "", "")).collect()
    }

    fn entries(mut self, key: i64, db: &Db) -> Vec<IndexEntry> {
        let mut facets = Facets::from_metadata(&self.metadata);
        let transcript = self.texts.get(&(key * 4)).and_then(|(_, body)| body.as_deref());
        let is_email = Metadata::describes_email(&self.metadata);
        let read = |body| Conversation::parse_messages(body, is_email);
        let conversation = transcript.and_then(read).unwrap_or_default();
        facets.add_names(&conversation);
        if !self.writes_all {
            self.texts.remove(&(key * 4));
        } else if may_have_notes(&self.metadata) {
            self.texts.insert(key * 4 + 3, (0, Some(std::mem::take(&mut self.metadata).into_bytes())));
        }
        let entry = |(item, (version, body)): (i64, (i64, Option<Vec<u8>>))| {
            let source = DocumentSource::of_item(item);
            let words = match body {
                Some(_) if item == key * 4 => conversation_words(&conversation),
                Some(body) => body_words(source, &body),
                None => String::new(),
            };
            db.index_entry(self.account, (item, version), self.ended, &facets.joined(source), &words)
        };
        self.texts.into_iter().map(entry).collect()
    }
}

/// Shortens the slices to what fits into one transaction; at least one version.
fn fit_to_batch_bytes(slices: &[IndexSlice], sizes: &[(AccountKey, i64, u64)]) -> Vec<IndexSlice> {
    let mut left = MAX_BATCH_BYTES;
    let mut kept: Vec<IndexSlice> = Vec::with_capacity(slices.len());
    for slice in slices {
        let first = sizes.partition_point(|(account, feed, _)| (*account, *feed) <= (slice.lease.account, slice.after));
        let inside = sizes
            .iter()
            .skip(first)
            .take_while(|(account, feed, _)| *account == slice.lease.account && *feed <= slice.to);
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
    fn a_batch_takes_what_fits_and_at_least_one_version() {
        let slice =
            |account, after, to| IndexSlice { lease: Lease { account: AccountKey(account), epoch: 1 }, after, to };
        let fit = |slices: &[IndexSlice], sizes: &[(i64, i64, u64)]| {
            let sizes: Vec<_> =
                sizes.iter().map(|(account, feed, size)| (AccountKey(*account), *feed, *size)).collect();
            fit_to_batch_bytes(slices, &sizes)
        };
        let slices = [slice(1, 10, 12), slice(2, 0, 5)];
        let small = [(1, 11, 5), (1, 12, 5), (2, 1, 5), (2, 5, 5)];
        assert_eq!(fit(&slices, &small), slices);
        let large = [(1, 11, MAX_BATCH_BYTES * 2), (1, 12, 5), (2, 1, 5)];
        assert_eq!(fit(&slices, &large), [slice(1, 10, 11)]);
        let some = [(1, 11, 5), (1, 12, MAX_BATCH_BYTES - 5), (2, 1, 5)];
        assert_eq!(fit(&slices, &some), [slices[0]]);
        // Feed numbers of deleted versions are passed over.
        assert_eq!(fit(&slices, &[(1, 12, MAX_BATCH_BYTES * 2)]), [slice(1, 10, 11)]);
        assert_eq!(fit(&slices, &[]), slices);
    }

    #[tokio::test]
    async fn a_segment_that_panics_is_skipped_and_the_others_are_indexed() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), crate::db::OpenMode::CreateOrMigrate).await.unwrap();
        let build = |segment: IndexedSegment, key: i64, db: &Db| match key {
            1 => panic!("as the test wants it"),
            _ => segment.entries(key, db),
        };
        let indexer = Indexer { build, ..Indexer::new(db) };
        let task = |segment| {
            let current = Some((Time(0), r#"{"agentNotes":"noted"}"#.to_owned()));
            ReindexTask { account: AccountKey(1), segment, indexed_end: Time(0), request_count: 1, current }
        };
        let batch = IndexBatch { reindex_tasks: vec![task(1), task(2)], ..IndexBatch::default() };
        let built = indexer.build_entries(&batch).await.unwrap();
        assert_eq!(built.skipped.iter().map(|one| (one.account, one.item)).collect::<Vec<_>>(), [(AccountKey(1), 7)]);
        assert_eq!(built.entries.iter().map(|entry| entry.item).collect::<Vec<_>>(), [7, 11]);
    }
}
