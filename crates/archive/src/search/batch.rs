//! What a step of the index is made of: what it covers, and the documents in the form in which their database takes them.
//!
//! Pure. Making a document takes a little while, which is why it is done before the transaction that writes it.

use super::super::{Db, Owned};
use super::blocks::{Block, blocks};
use super::keys::array;
use super::{Doc, account_word, buckets};
use crate::clock::Time;

/// A stretch of an account's feed, after `after` up to and with `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSlice {
    /// In whose name it is indexed.
    pub owned: Owned,
    /// The last number that is indexed.
    pub after: i64,
    /// The last number of the stretch.
    pub to: i64,
}

/// A version of an artifact, as the feed brings it.
#[derive(Debug, Clone)]
pub struct IndexRow {
    /// The account.
    pub account: i64,
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

/// A segment of which something must be indexed anew.
#[derive(Debug, Clone)]
pub struct TodoRow {
    /// The account.
    pub account: i64,
    /// The segment.
    pub segment: i64,
    /// When it ended, as far as the index knows.
    pub was: Time,
    /// How often it was asked for.
    pub times: i64,
    /// When it ended, and its metadata; `None` where the segment is gone.
    pub now: Option<(Time, String)>,
}

impl TodoRow {
    /// Whether the other is the same thing to do, not asked for again in between.
    pub fn is(&self, other: &TodoRow) -> bool {
        (self.account, self.segment, self.was, self.times) == (other.account, other.segment, other.was, other.times)
    }
}

/// A document to be.
#[derive(Debug, Clone)]
pub struct IndexEntry {
    /// The account.
    pub account: i64,
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
    /// The version of the artifact that the words are of; 0 for notes.
    pub version: i64,
    /// When its segment ended.
    pub ended: Time,
    /// What is written of it.
    pub(super) form: Form,
}

/// What the index holds of a document, as its database takes it.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// Nothing of it is to be found.
    Nothing,
    /// On SQLite: all words, joined by single spaces.
    Words(String),
    /// On Postgres: of each block the words and the keys.
    Blocks(Vec<(String, String)>),
}

/// A document that could not be worked on: it is not in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedDocument {
    /// The account.
    pub account: i64,
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
    /// Why, without anything that it says.
    pub reason: String,
}

impl SkippedDocument {
    /// That this one is left out.
    pub fn of(entry: &IndexEntry, reason: &str) -> SkippedDocument {
        SkippedDocument { account: entry.account, item: entry.item, reason: reason.to_owned() }
    }
}

/// What one transaction changes.
#[derive(Debug, Default)]
pub struct IndexBatch {
    /// What of the feeds it covers.
    pub slices: Vec<IndexSlice>,
    /// What was to be indexed anew.
    pub todos: Vec<TodoRow>,
    /// The documents of both.
    pub entries: Vec<IndexEntry>,
    /// Those of them that could not be worked on.
    pub skipped: Vec<SkippedDocument>,
}

impl Db {
    /// The document of an item: `marks` are what filters go by, words that no text has, and `words` what is said in it, each
    /// joined by single spaces; without words nothing of it is to be found. It takes a little while: not to be done within a
    /// transaction.
    pub fn index_entry(
        &self,
        account: i64,
        (item, version): (i64, i64),
        ended: Time,
        marks: &str,
        words: &str,
    ) -> IndexEntry {
        let marks = format!("{} {marks}", account_word(account));
        let form = match self {
            _ if words.is_empty() => Form::Nothing,
            Db::Sqlite(_) => Form::Words(format!("{marks} {words}")),
            Db::Postgres(_) => {
                let stretches = buckets::of(Doc::of(item, ended));
                let of = |block: Block| (block.words, array(block.keys.into_iter().chain(stretches)));
                Form::Blocks(blocks(words, &marks).into_iter().map(of).collect())
            }
        };
        IndexEntry { account, item, version, ended, form }
    }
}
