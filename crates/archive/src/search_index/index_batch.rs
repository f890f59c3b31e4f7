//! The input of one transaction of the index: the feed ranges and tasks that it covers, and the
//! documents. Pure.

use super::super::{AccountKey, Lease};
use super::document_list::DocumentList;
use super::posting::{MAX_RUN_DOCS, PostingChunk, document_of, encode_postings, posting};
use super::{DocumentKeys, IndexHit};
use crate::clock::Time;

/// A range of an account's feed: greater than `after`, up to and including `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSlice {
    /// The lease under which it is indexed.
    pub lease: Lease,
    /// The last feed number that is indexed already.
    pub after: i64,
    /// The last feed number of the range.
    pub to: i64,
}

/// What the archive has of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredText {
    /// The number of its newest version in the account's feed.
    pub feed: i64,
    /// The bytes of all its versions as received.
    pub size: u64,
}

/// A segment whose documents must be indexed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReindexTask {
    /// The account.
    pub account: AccountKey,
    /// The segment.
    pub segment: i64,
    /// Its end time when the task was requested.
    pub ended: Time,
    /// How often the task was requested.
    pub request_count: i64,
}

/// A segment of the batch. All its documents in the index are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedSegment {
    /// The account.
    pub account: AccountKey,
    /// The segment.
    pub segment: i64,
    /// When it ended.
    pub ended: Time,
    /// Its metadata as received.
    pub metadata: String,
}

/// A document to write.
#[derive(Debug, Clone)]
pub struct IndexEntry {
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
    /// When its segment ended.
    pub ended: Time,
    /// The keys of its words and of the filters.
    pub keys: DocumentKeys,
}

/// A document that could not be indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedDocument {
    /// The account.
    pub account: AccountKey,
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
    /// Why; it quotes nothing of the document.
    pub reason: String,
}

/// The changes of one transaction.
#[derive(Debug, Default)]
pub struct IndexBatch {
    /// The ranges of the feeds that it covers.
    pub slices: Vec<IndexSlice>,
    /// The tasks that it completes.
    pub reindex_tasks: Vec<ReindexTask>,
    /// The segments whose documents are replaced.
    pub segments: Vec<(AccountKey, i64)>,
    /// Those documents that could not be indexed.
    pub skipped: Vec<SkippedDocument>,
    /// The leases of the accounts with tasks.
    pub leases: Vec<Lease>,
    /// The version of the tokenizer; `None` where it is not checked.
    pub version: Option<i64>,
    pub(super) runs: Vec<PreparedRun>,
}

impl IndexBatch {
    /// Adds the documents. It takes some time, so do not call it within a transaction.
    pub fn add_entries(&mut self, mut entries: Vec<IndexEntry>) {
        entries.sort_unstable_by_key(|entry| (entry.ended, entry.item));
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut run = PreparedRun::default();
            for (ordinal, entry) in entries.by_ref().take(MAX_RUN_DOCS).enumerate() {
                run.postings.extend(entry.keys.keys.iter().map(|key| posting(*key, ordinal)));
                run.documents.push(IndexHit { ended: entry.ended, item: entry.item });
            }
            run.postings.sort_unstable();
            self.runs.push(run);
        }
    }
}

/// Documents and their postings, both in order.
#[derive(Debug, Default)]
pub(super) struct PreparedRun {
    pub(super) documents: Vec<IndexHit>,
    postings: Vec<u64>,
}

impl PreparedRun {
    /// The run without the documents that are not valid any more.
    pub(super) fn encode(&self, is_valid: impl Fn(IndexHit) -> bool) -> (DocumentList, Vec<PostingChunk>) {
        let mut documents = DocumentList::new(self.documents.clone());
        let removed = documents.remove(|hit| !is_valid(hit));
        let is_kept = |posting: &u64| removed == 0 || documents.get(document_of(*posting)).is_some();
        let chunks = encode_postings(self.postings.iter().copied().filter(is_kept));
        (documents, chunks)
    }
}
