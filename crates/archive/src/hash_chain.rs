//! Shows that nothing was altered: leaves, chains, manifests. Pure; `db` keeps them.
//!
//! Every entry of an account's feed makes a salted leaf, every leaf is linked to all before it, and once a day a manifest
//! says where the chain stood. Whoever changes an entry changes every head from there on. What is hashed, byte for byte,
//! is written down in `docs/proof.md`: another program must come to the same.

mod exported;
mod records;
#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};

pub use exported::{ChainName, HeadLine, Line, LineError, ManifestLine, day_name};
pub use records::{JournalRecord, MetadataRecord, ReadRecord, TombstoneRecord, coverage};

/// A SHA-256.
pub type Hash = [u8; 32];

/// How long a salt is.
pub const SALT: usize = 16;

/// The head before the first entry, and the manifest before the first one.
pub const START: Hash = [0; 32];

const LEAF: &[u8] = b"ringcx-extractor leaf 1";
const LINK: &[u8] = b"ringcx-extractor link 1";
const MANIFEST: &[u8] = b"ringcx-extractor manifest 1";
const MANIFEST_2: &[u8] = b"ringcx-extractor manifest 2";
const LEDGER: &[u8] = b"ringcx-extractor ledger 1";

/// A hash over fields, each after its length: no two lists of fields make the same bytes.
struct Fields(Vec<u8>);

impl Fields {
    fn new(tag: &[u8]) -> Fields {
        Fields(Vec::with_capacity(320)).bytes(tag)
    }

    fn bytes(mut self, field: &[u8]) -> Fields {
        self.0.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    fn int(self, field: i64) -> Fields {
        self.bytes(&field.to_be_bytes())
    }

    fn hash(self) -> Hash {
        Sha256::digest(&self.0).into()
    }
}

/// One entry of a feed, as far as it is proven; the body through its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Random bytes of its own.
    pub salt: &'a [u8],
    /// Its number in the account's feed.
    pub feed: i64,
    /// The sub-account's id, which alone names the account.
    pub sub: &'a str,
    /// The segment's id.
    pub segment_id: &'a str,
    /// The artifact's code.
    pub artifact: i64,
    /// Which version of it.
    pub version: i64,
    /// The outcome's code.
    pub outcome: i64,
    /// When it was fetched, in milliseconds since 1970.
    pub fetched: i64,
    /// The body's size as it came.
    pub size: i64,
    /// SHA-256 of the body as it came.
    pub sha256: &'a [u8],
}

impl Entry<'_> {
    /// The entry's leaf.
    pub fn leaf(&self) -> Hash {
        Fields::new(LEAF)
            .bytes(self.salt)
            .int(self.feed)
            .bytes(self.sub.as_bytes())
            .bytes(self.segment_id.as_bytes())
            .int(self.artifact)
            .int(self.version)
            .int(self.outcome)
            .int(self.fetched)
            .int(self.size)
            .bytes(self.sha256)
            .hash()
    }
}

/// The head after `leaf` where `head` was the one before it.
pub fn link(head: &[u8], leaf: &[u8]) -> Hash {
    Fields::new(LINK).bytes(head).bytes(leaf).hash()
}

/// Where an account stood when a UTC day was over. As the database has it, so that what was altered can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The sub-account's id.
    pub sub: String,
    /// The day, counted from 1970-01-01.
    pub day: i64,
    /// The feed number after which the chain begins.
    pub from: i64,
    /// The newest feed number.
    pub feed: i64,
    /// The chain's head after it.
    pub head: Vec<u8>,
    /// Segments announced until then.
    pub segments: i64,
    /// [`ledger`] of what had been announced until then.
    pub ledger: Vec<u8>,
    /// When it was written, in milliseconds since 1970.
    pub sealed: i64,
    /// The hash of the manifest before it.
    pub previous: Vec<u8>,
    /// Where the record chain and the journal stood; `None` in one that was written before there were such.
    pub beside: Option<Beside>,
    /// Its own.
    pub hash: Vec<u8>,
}

/// Where what is stored beside the texts stood: number and head of the account's record chain, and of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// The newest record.
    pub records: i64,
    /// The record chain's head after it.
    pub record_head: Vec<u8>,
    /// Entries of the journal.
    pub journal: i64,
    /// The journal's head after them.
    pub journal_head: Vec<u8>,
}

impl Manifest {
    /// The hash that it should have.
    pub fn digest(&self) -> Hash {
        let fields = Fields::new(if self.beside.is_some() { MANIFEST_2 } else { MANIFEST })
            .bytes(self.sub.as_bytes())
            .int(self.day)
            .int(self.from)
            .int(self.feed)
            .bytes(&self.head)
            .int(self.segments)
            .bytes(&self.ledger)
            .int(self.sealed)
            .bytes(&self.previous);
        match &self.beside {
            Some(beside) => fields
                .int(beside.records)
                .bytes(&beside.record_head)
                .int(beside.journal)
                .bytes(&beside.journal_head)
                .hash(),
            None => fields.hash(),
        }
    }
}

/// A digest of the ledger of announcements: day, segments and the two halves of the ids' sum, by day.
pub fn ledger(days: impl Iterator<Item = [i64; 4]>) -> Hash {
    days.fold(Fields::new(LEDGER), |fields, day| day.into_iter().fold(fields, Fields::int)).hash()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// The bytes that [`hex`] wrote; `None` where it did not.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let pair = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).ok();
    if digits.len().is_multiple_of(2) { digits.chunks_exact(2).map(pair).collect() } else { None }
}
