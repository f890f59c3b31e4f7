//! The full-text index: what is indexed, how far, and what matches.
//!
//! Both databases hold the same documents, made of the words that they are given; neither cuts text up by itself. On SQLite a
//! document is a row of an FTS5 table without content, on Postgres one tsvector, or several that overlap, each with keys for
//! what words alone do not tell. Nothing of the text is kept but its words.

mod batch;
mod blocks;
mod buckets;
mod doc;
mod keys;
mod look;
mod neighbours;
mod number;
mod postgres;
mod purge;
mod skipped;
mod write;

pub use batch::{IndexBatch, IndexEntry, IndexRow, IndexSlice, SkippedDocument, TodoRow};
pub use doc::Doc;
pub use look::{FoundRow, IndexLag, Lookup, Needle};
pub(super) use number::Crowds;
pub(super) use write::DOCS;

/// Words that two neighbouring blocks of a document have in common; no phrase that is looked up may be longer.
pub const OVERLAP: usize = 64;

/// Marks the word that stands for an account, so that a search for one account is as quick as any. No text has it.
const ACCOUNT: char = '\u{e000}';

fn account_word(account: i64) -> String {
    format!("{ACCOUNT}{account}")
}

/// Whether it stands for something that no text says.
fn is_mark(word: &str) -> bool {
    word.starts_with(|letter| ('\u{e000}'..='\u{f8ff}').contains(&letter))
}

/// Whether it is a word, and not what stands between two speakers.
fn is_word(word: &str) -> bool {
    word.starts_with(|letter: char| !letter.is_whitespace()) && !word.contains(['\'', '\\'])
}
