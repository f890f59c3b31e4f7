//! The input of one transaction of the index: the feed ranges and tasks that it covers, and
//! documents in the form that the database needs. Pure. Building a document takes some time, so it
//! is done before the transaction.

use super::super::{AccountKey, Db, Lease};
use super::bigram_keys::int_array_literal;
use super::document_chunks::{DocumentChunk, chunk_document};
use super::{DocId, account_facet, time_partitions};
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

/// An artifact version from the feed.
#[derive(Debug, Clone)]
pub struct IndexRow {
    /// The account.
    pub account: AccountKey,
    /// Its item.
    pub item: i64,
    /// Its version.
    pub version: i64,
    /// When its segment ended.
    pub ended: Time,
    /// Its segment's metadata.
    pub metadata: String,
    /// The body as received; `None` where there is none.
    pub body: Option<Vec<u8>>,
}

/// A segment whose documents must be indexed again.
#[derive(Debug, Clone)]
pub struct ReindexTask {
    /// The account.
    pub account: AccountKey,
    /// The segment.
    pub segment: i64,
    /// Its end time in the index.
    pub indexed_end: Time,
    /// How often the task was requested.
    pub request_count: i64,
    /// Its end time and metadata in the archive; `None` where the segment was deleted.
    pub current: Option<(Time, String)>,
}

impl ReindexTask {
    /// Whether the other is the same task and was not requested again in between.
    pub fn is_same_request(&self, other: &ReindexTask) -> bool {
        (self.account, self.segment, self.indexed_end, self.request_count)
            == (other.account, other.segment, other.indexed_end, other.request_count)
    }
}

/// A document to write.
#[derive(Debug, Clone)]
pub struct IndexEntry {
    /// The account.
    pub(crate) account: AccountKey,
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
    /// The artifact version of the words; 0 for notes.
    pub version: i64,
    /// When its segment ended.
    pub(crate) ended: Time,
    /// What to write.
    pub(super) content: EntryContent,
}

/// The content of a document in the form that the database needs.
#[derive(Debug, Clone)]
pub(super) enum EntryContent {
    /// Nothing: the document is removed from the index.
    Empty,
    /// On SQLite: all words, joined by single spaces.
    Words(String),
    /// On Postgres: the words and the keys of each chunk.
    Chunks(Vec<(String, String)>),
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

impl SkippedDocument {
    /// For this document and reason.
    pub fn of(entry: &IndexEntry, reason: &str) -> SkippedDocument {
        SkippedDocument { account: entry.account, item: entry.item, reason: reason.to_owned() }
    }
}

/// The changes of one transaction.
#[derive(Debug, Default)]
pub struct IndexBatch {
    /// The ranges of the feeds that it covers.
    pub slices: Vec<IndexSlice>,
    /// The tasks that it completes.
    pub reindex_tasks: Vec<ReindexTask>,
    /// The documents of both.
    pub entries: Vec<IndexEntry>,
    /// Those of them that could not be indexed.
    pub skipped: Vec<SkippedDocument>,
}

impl Db {
    /// Builds the document of an item. `facets` are the words for filters, and `words` are the
    /// words of the text; both are joined by single spaces. Without words the document is removed
    /// from the index. Do not call it within a transaction: it takes some time.
    pub fn index_entry(
        &self,
        account: AccountKey,
        (item, version): (i64, i64),
        ended: Time,
        facets: &str,
        words: &str,
    ) -> IndexEntry {
        let facets = format!("{} {facets}", account_facet(account));
        let content = match self {
            _ if words.is_empty() => EntryContent::Empty,
            Db::Sqlite(_) => EntryContent::Words(format!("{facets} {words}")),
            Db::Postgres(_) => {
                let partition_keys = time_partitions::partition_keys(DocId::of(item, ended));
                let to_row = |chunk: DocumentChunk| {
                    (chunk.words, int_array_literal(chunk.keys.into_iter().chain(partition_keys)))
                };
                EntryContent::Chunks(chunk_document(words, &facets).into_iter().map(to_row).collect())
            }
        };
        IndexEntry { account, item, version, ended, content }
    }
}
