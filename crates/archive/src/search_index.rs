//! The full-text index: its content, its progress, and its queries.
//!
//! Both databases index the same documents. The program cuts the text into words; neither database
//! tokenizes. On SQLite, a document is a row of a contentless FTS5 table. On Postgres, it is one
//! tsvector or several overlapping ones (chunks), each with integer keys for bigrams, prefixes and
//! time. The index stores words only, not the text.

mod bigram_keys;
mod doc_id;
mod document_chunks;
mod index_batch;
mod index_purge;
mod index_query;
mod index_writer;
mod name_bigrams;
mod postgres_query;
mod skipped_documents;
mod sqlite_rowids;
mod time_partitions;

pub use doc_id::DocId;
pub use index_batch::{IndexBatch, IndexEntry, IndexRow, IndexSlice, ReindexTask, SkippedDocument};
pub use index_query::{IndexHit, IndexLag, IndexQuery, SearchTerm};
pub(super) use index_writer::MAX_DOCS_PER_STATEMENT;
pub(super) use sqlite_rowids::FullRanges;

/// Words by which neighbouring chunks of a document overlap. A searched phrase must not be longer.
pub(crate) const CHUNK_OVERLAP_WORDS: usize = 64;

/// First character of the word that identifies an account, for searches in one account. It never
/// occurs in texts.
const ACCOUNT_MARKER: char = '\u{e000}';

fn account_facet(account: super::AccountKey) -> String {
    format!("{ACCOUNT_MARKER}{account}")
}

/// Whether the word is a facet, which never occurs in texts.
fn is_facet(word: &str) -> bool {
    word.starts_with(|letter| ('\u{e000}'..='\u{f8ff}').contains(&letter))
}

/// Whether it is a word, not the separator between two speakers.
fn is_word(word: &str) -> bool {
    word.starts_with(|letter: char| !letter.is_whitespace()) && !word.contains(['\'', '\\'])
}
