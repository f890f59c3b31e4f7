//! The indexer: follows each account's feed with a cursor and updates the full-text index.
//!
//! It reads and writes `db`, and uses the tokenizer of `search`. A step builds the documents outside
//! any transaction, and writes them and the cursors in one transaction. A crash repeats some work
//! and loses nothing. A segment that is erased in the meantime is not indexed.
//!
//! A segment is indexed as a whole, with the last of its texts in the feed: an entry is passed over
//! where a later one of its segment is stored already. So a segment whose texts arrive together is
//! indexed once.
//!
//! Memory use is bounded by the bytes of a batch, of the bodies that are read at a time, and of one
//! document (`search::truncate_body`). A document that cannot be indexed is recorded with the
//! reason and skipped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::db::{
    AccountKey, Db, DbError, DbFault, DocumentKeys, IndexBatch, IndexEntry, IndexSlice, IndexedSegment, Lease,
    ReindexTask, SkippedDocument,
};
use crate::model::may_have_notes;
use crate::render::{Conversation, Metadata};
use crate::search::{
    DocumentSource, Facets, for_each_conversation_word, for_each_text_word, source_facet, tokenizer, truncate_body,
};

/// Artifact versions that one transaction indexes.
const MAX_VERSIONS_PER_BATCH: i64 = 2000;
/// Bytes of these versions as received.
const MAX_BATCH_BYTES: u64 = 8_000_000;
/// Segments that one transaction indexes again.
const MAX_REINDEX_SEGMENTS: usize = 500;
/// Segments whose texts are read at a time, and their bytes. A larger segment is read alone.
const SEGMENTS_PER_READ: usize = 100;
const MAX_READ_BYTES: u64 = 8_000_000;

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
    /// Builds the documents of a segment. It is a field so that a test can make it fail.
    build: fn(&SegmentTexts) -> Vec<IndexEntry>,
}

/// A version in the feed: account, feed number, item, bytes.
type FeedVersion = (AccountKey, i64, i64, u64);

/// What a step indexes.
#[derive(Debug, Default)]
struct Backlog {
    leases: Vec<Lease>,
    slices: Vec<IndexSlice>,
    /// The versions in the slices.
    versions: Vec<FeedVersion>,
    reindex_tasks: Vec<ReindexTask>,
    /// Whether it is all that is not indexed.
    is_complete: bool,
}

impl Indexer {
    /// An indexer for this database.
    pub fn new(db: Db) -> Indexer {
        let (is_prepared, notes_enqueued) = (AtomicBool::new(false), AtomicBool::new(false));
        Indexer { db, is_prepared, notes_enqueued, build: SegmentTexts::entries }
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
        let backlog = self.next_backlog(leases).await?;
        if backlog.slices.is_empty() && backlog.reindex_tasks.is_empty() {
            return self.tidy_up().await;
        }
        let is_complete = backlog.is_complete;
        self.db.write_index(&self.build_batch(backlog).await?).await?;
        self.db.merge_runs(true).await?;
        Ok(if is_complete { IndexProgress::CaughtUp } else { IndexProgress::MoreToDo })
    }

    /// What there is to do when everything is indexed.
    async fn tidy_up(&self) -> Result<IndexProgress, DbError> {
        if self.db.merge_runs(false).await? {
            return Ok(IndexProgress::MoreToDo);
        }
        if self.notes_enqueued.load(Ordering::Relaxed) {
            return Ok(IndexProgress::Idle);
        }
        let more = self.db.enqueue_unindexed_notes().await?;
        self.notes_enqueued.store(!more, Ordering::Relaxed);
        Ok(if more { IndexProgress::MoreToDo } else { IndexProgress::Idle })
    }

    async fn next_backlog(&self, leases: &[Lease]) -> Result<Backlog, DbError> {
        let (slices, behind) = self.next_slices(leases).await?;
        let mut versions = self.db.slice_items(&slices).await?;
        let accounts: Vec<AccountKey> = leases.iter().map(|lease| lease.account).collect();
        let mut reindex_tasks = self.db.reindex_backlog(&accounts, MAX_REINDEX_SEGMENTS + 1).await?;
        let task_count = reindex_tasks.len();
        let of_versions = versions.iter().map(|(_, _, item, _)| item.div_euclid(4));
        let segments: BTreeSet<i64> = of_versions.chain(reindex_tasks.iter().map(|task| task.segment)).collect();
        let texts = self.db.stored_texts(segments).await?;
        let size_of = |segment: i64| texts.range(items(segment)).map(|(_, text)| text.size).sum::<u64>();
        // A segment is indexed as a whole, with its newest entry in the feed.
        for (_, feed, item, size) in &mut versions {
            let segment = item.div_euclid(4);
            let newest = texts.range(items(segment)).map(|(_, text)| text.feed).max();
            *size = if newest == Some(*feed) { size_of(segment) } else { 0 };
        }
        let slices = fit_to_batch_bytes(&slices, &versions);
        let ends: HashMap<AccountKey, i64> = slices.iter().map(|slice| (slice.lease.account, slice.to)).collect();
        versions.retain(|(account, feed, ..)| ends.get(account).is_some_and(|to| feed <= to));
        let mut left = MAX_BATCH_BYTES;
        let fits = |task: &ReindexTask| {
            let size = size_of(task.segment);
            let fits = size <= left;
            left = left.saturating_sub(size.max(1));
            fits
        };
        let fitting = reindex_tasks.iter().map(fits).take_while(|fits| *fits).count();
        reindex_tasks.truncate(fitting.clamp(1, MAX_REINDEX_SEGMENTS));
        let is_complete = reindex_tasks.len() == task_count
            && slices.iter().map(|slice| slice.to - slice.after).sum::<i64>() == behind;
        Ok(Backlog { leases: leases.to_vec(), slices, versions, reindex_tasks, is_complete })
    }

    /// The next slices of the feeds: a fair share of each feed, the furthest behind first. Also
    /// returns how many versions are not indexed yet.
    async fn next_slices(&self, leases: &[Lease]) -> Result<(Vec<IndexSlice>, i64), DbError> {
        let by_account: HashMap<AccountKey, Lease> = leases.iter().map(|lease| (lease.account, *lease)).collect();
        let lags = self.db.index_lags().await?.into_iter();
        let mut lags: Vec<(Lease, i64, i64)> =
            lags.filter_map(|(account, after, feed)| Some((*by_account.get(&account)?, after, feed))).collect();
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
        Ok((slices, behind))
    }

    /// Builds the documents of the backlog. Those that cannot be read are skipped.
    async fn build_batch(&self, backlog: Backlog) -> Result<IndexBatch, DbError> {
        let segments = backlog.segments();
        let (mut batch, mut entries) = (IndexBatch::default(), Vec::new());
        match self.build_entries(&backlog, segments.iter().copied(), &mut batch).await {
            Err(error) if error.fault() == DbFault::Broken => {
                batch = IndexBatch::default();
                for segment in segments {
                    match self.build_entries(&backlog, [segment], &mut batch).await {
                        Err(error) if error.fault() == DbFault::Broken => {
                            batch.skipped.extend(backlog.skipped_documents(segment, "it cannot be read"));
                        }
                        built => entries.extend(built?),
                    }
                }
            }
            built => entries = built?,
        }
        (batch.slices, batch.reindex_tasks) = (backlog.slices, backlog.reindex_tasks);
        (batch.leases, batch.version) = (backlog.leases, Some(tokenizer::TOKENIZER_VERSION));
        let built = tokio::task::spawn_blocking(move || {
            batch.add_entries(entries);
            batch
        });
        built.await.map_err(|_| DbError::new(DbFault::Broken, "the indexer panicked"))
    }

    /// Builds the documents of these segments as far as they are due, and adds the segments to the
    /// batch.
    async fn build_entries(
        &self,
        backlog: &Backlog,
        segments: impl IntoIterator<Item = i64> + Clone,
        batch: &mut IndexBatch,
    ) -> Result<Vec<IndexEntry>, DbError> {
        let texts = self.db.stored_texts(segments.clone()).await?;
        let mut due = self.db.segments_to_index(segments).await?;
        due.retain(|segment| {
            backlog.is_due(segment, texts.range(items(segment.segment)).map(|(_, text)| text.feed).max())
        });
        due.sort_unstable_by_key(|segment| segment.segment);
        let mut entries = Vec::new();
        let mut due = due.into_iter().peekable();
        while due.peek().is_some() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while let Some(segment) = due.next_if(|segment| {
                bytes += texts.range(items(segment.segment)).map(|(_, text)| text.size).sum::<u64>();
                part.is_empty() || (part.len() < SEGMENTS_PER_READ && bytes <= MAX_READ_BYTES)
            }) {
                part.push(SegmentTexts { segment, bodies: BTreeMap::new() });
            }
            let stored: Vec<i64> =
                part.iter().flat_map(|part| texts.range(items(part.segment.segment)).map(|(item, _)| *item)).collect();
            let mut bodies = self.db.newest_bodies(&stored).await?;
            for one in part.iter_mut().rev() {
                let bodies = bodies.split_off(&items(one.segment.segment).start).into_iter();
                one.bodies = bodies.map(|(item, (_, body))| (item, truncate_body(body))).collect();
            }
            batch.segments.extend(part.iter().map(|one| (one.segment.account, one.segment.segment)));
            let build = self.build;
            let built = tokio::task::spawn_blocking(move || build_segments(&part, build)).await;
            let (built, failed) = built.map_err(|_| DbError::new(DbFault::Broken, "the tokenizer panicked"))?;
            entries.extend(built);
            let skipped = |segment| backlog.skipped_documents(segment, "the tokenizer panicked");
            batch.skipped.extend(failed.into_iter().flat_map(skipped));
        }
        Ok(entries)
    }
}

impl Backlog {
    /// The segments that it may concern.
    fn segments(&self) -> BTreeSet<i64> {
        let with_versions = self.versions.iter().map(|(_, _, item, _)| item.div_euclid(4));
        with_versions.chain(self.reindex_tasks.iter().map(|task| task.segment)).collect()
    }

    /// Whether a segment is indexed with this backlog, or later, with its newest entry in the feed.
    fn is_due(&self, segment: &IndexedSegment, newest_feed: Option<i64>) -> bool {
        let slice = self.slices.iter().find(|slice| slice.lease.account == segment.account);
        newest_feed <= slice.map(|slice| slice.to)
            || self.reindex_tasks.iter().any(|task| task.segment == segment.segment)
    }

    /// The documents of a segment that were to be indexed.
    fn skipped_documents(&self, segment: i64, reason: &str) -> Vec<SkippedDocument> {
        let versions = self.versions.iter().map(|(account, _, item, _)| (*account, *item));
        let notes = self.reindex_tasks.iter().map(|task| (task.account, task.segment * 4 + 3));
        let of_segment =
            versions.chain(notes).filter(|(_, item)| item.div_euclid(4) == segment).collect::<BTreeSet<_>>();
        let skipped = |(account, item)| SkippedDocument { account, item, reason: reason.to_owned() };
        of_segment.into_iter().map(skipped).collect()
    }
}

/// The items of a segment's artifacts.
fn items(segment: i64) -> Range<i64> {
    segment * 4..segment * 4 + 3
}

/// A segment with its texts, by item.
struct SegmentTexts {
    segment: IndexedSegment,
    bodies: BTreeMap<i64, Vec<u8>>,
}

impl SegmentTexts {
    /// The documents. Those without a word are left out.
    fn entries(&self) -> Vec<IndexEntry> {
        let IndexedSegment { account, segment, ended, metadata } = &self.segment;
        let mut facets = Facets::from_metadata(metadata);
        let is_email = Metadata::describes_email(metadata);
        let transcript = self.bodies.get(&(segment * 4));
        let conversation = transcript.and_then(|body| Conversation::parse_messages(body, is_email)).unwrap_or_default();
        facets.add_names(&conversation);
        let mut of_segment = DocumentKeys::of_account(*account);
        facets.add_to(&mut of_segment);
        let mut entries = Vec::new();
        for item in segment * 4..=segment * 4 + 3 {
            let source = DocumentSource::of_item(item);
            let mut keys = of_segment.clone();
            keys.add_word(&source_facet(source));
            keys.add_break();
            let without_words = keys.count();
            match self.bodies.get(&item) {
                Some(_) if item == segment * 4 => for_each_conversation_word(&conversation, |word| match word {
                    Some(word) => keys.add_word(word),
                    None => keys.add_break(),
                }),
                Some(body) => for_each_text_word(source, body, |word| keys.add_word(word)),
                None if source == DocumentSource::Notes && may_have_notes(metadata) => {
                    for_each_text_word(source, metadata.as_bytes(), |word| keys.add_word(word));
                }
                None => {}
            }
            if keys.count() > without_words {
                entries.push(IndexEntry { item, ended: *ended, keys });
            }
        }
        entries
    }
}

/// The documents of these segments, and the segments for which that panics.
fn build_segments(part: &[SegmentTexts], build: fn(&SegmentTexts) -> Vec<IndexEntry>) -> (Vec<IndexEntry>, Vec<i64>) {
    let (mut entries, mut failed) = (Vec::new(), Vec::new());
    for one in part {
        match catch_unwind(AssertUnwindSafe(|| build(one))) {
            Ok(built) => entries.extend(built),
            Err(_) => failed.push(one.segment.segment),
        }
    }
    (entries, failed)
}

/// Shortens the slices to what fits into one transaction; at least one version.
fn fit_to_batch_bytes(slices: &[IndexSlice], versions: &[FeedVersion]) -> Vec<IndexSlice> {
    let mut left = MAX_BATCH_BYTES;
    let mut kept: Vec<IndexSlice> = Vec::with_capacity(slices.len());
    for slice in slices {
        let first =
            versions.partition_point(|(account, feed, ..)| (*account, *feed) <= (slice.lease.account, slice.after));
        let inside = versions
            .iter()
            .skip(first)
            .take_while(|(account, feed, ..)| *account == slice.lease.account && *feed <= slice.to);
        let mut to = slice.to;
        for (_, feed, _, size) in inside {
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
    use crate::clock::Time;

    #[test]
    fn a_batch_takes_what_fits_and_at_least_one_version() {
        let slice =
            |account, after, to| IndexSlice { lease: Lease { account: AccountKey(account), epoch: 1 }, after, to };
        let fit = |slices: &[IndexSlice], sizes: &[(i64, i64, u64)]| {
            let versions: Vec<FeedVersion> =
                sizes.iter().map(|(account, feed, size)| (AccountKey(*account), *feed, 4, *size)).collect();
            fit_to_batch_bytes(slices, &versions)
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

    #[test]
    fn a_segment_that_panics_is_skipped_and_the_others_are_indexed() {
        let part = [1, 2].map(|segment| SegmentTexts {
            segment: IndexedSegment {
                account: AccountKey(1),
                segment,
                ended: Time(0),
                metadata: r#"{"agentNotes":"noted"}"#.to_owned(),
            },
            bodies: BTreeMap::new(),
        });
        let build = |one: &SegmentTexts| match one.segment.segment {
            1 => panic!("as the test wants it"),
            _ => one.entries(),
        };
        let (entries, failed) = build_segments(&part, build);
        assert_eq!((entries.iter().map(|entry| entry.item).collect::<Vec<_>>(), failed), (vec![11], vec![1]));
        let task = |segment| ReindexTask { account: AccountKey(1), segment, ended: Time(0), request_count: 1 };
        let versions = vec![(AccountKey(1), 9, 4, 100), (AccountKey(1), 10, 8, 100)];
        let backlog = Backlog { versions, reindex_tasks: vec![task(1), task(2)], ..Backlog::default() };
        let skipped = backlog.skipped_documents(1, "why");
        assert_eq!(skipped.iter().map(|one| one.item).collect::<Vec<_>>(), [4, 7]);
    }
}
