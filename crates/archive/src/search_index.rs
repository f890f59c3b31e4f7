//! The full-text index: its content, its progress, and its queries.
//!
//! Both databases have the same index, in two tables. It consists of sorted runs, as in a
//! log-structured merge tree. A run is a list of up to `MAX_RUN_DOCS` documents in the
//! order of time, and their postings: sorted numbers of a term's key and a document, in chunks of
//! about 4 kB. A step of the indexer writes a run, and small runs are merged. A search reads the
//! newest runs first, so it need not collect all matches to find the newest.
//!
//! Keys are hashes. The index holds no text and no positions: a search compares each match with
//! the text (`search::ranked_search`).

mod document_list;
mod index_batch;
mod index_purge;
mod index_query;
mod index_writer;
mod posting;
mod run_merge;
mod run_search;
mod skipped_documents;
mod term_key;

pub use index_batch::{IndexBatch, IndexEntry, IndexSlice, IndexedSegment, ReindexTask, SkippedDocument, StoredText};
pub use index_query::{IndexHit, IndexLag, IndexQuery, SearchTerm};
pub use term_key::DocumentKeys;

/// First character of the word that identifies an account, for searches in one account. It never
/// occurs in texts.
const ACCOUNT_MARKER: char = '\u{e000}';

/// The word that the documents of an account have.
fn account_facet(account: super::AccountKey) -> String {
    format!("{ACCOUNT_MARKER}{account}")
}
