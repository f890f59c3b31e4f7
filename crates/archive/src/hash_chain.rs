//! Hash chains that make tampering detectable: leaves, heads and manifests. Pure computation;
//! `chain_store` persists them.
//!
//! Each entry of an account's feed has a salted leaf, each leaf is linked to all before it, and a
//! daily manifest records the chain's head. A changed entry changes every later head.
//! `docs/proof.md` specifies the hashed bytes, so that other programs can reproduce them.

mod manifest_export;
mod record_leaves;
#[cfg(test)]
mod tests;

use ring::digest::{SHA256, digest};

pub use manifest_export::{ChainName, ExportedLine, HeadLine, LineError, ManifestLine, format_day};
pub(crate) use record_leaves::AccessRecord;
pub use record_leaves::{JournalRecord, MetadataRecord, ReadRecord, TombstoneRecord, hash_coverage};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The SHA-256 hash of `bytes`.
pub fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Length of a salt, in bytes.
pub(crate) const SALT_LEN: usize = 16;

/// The head before the first entry, and the previous hash of the first manifest.
pub const GENESIS_HASH: Hash = [0; 32];

const LEAF_TAG: &[u8] = b"ringcx-extractor leaf 1";
const LINK_TAG: &[u8] = b"ringcx-extractor link 1";
const MANIFEST_V1_TAG: &[u8] = b"ringcx-extractor manifest 1";
const MANIFEST_V2_TAG: &[u8] = b"ringcx-extractor manifest 2";
const DAILY_DIGESTS_TAG: &[u8] = b"ringcx-extractor ledger 1";

/// Hashes fields, each prefixed with its length, so that no two lists of fields yield the same
/// bytes.
struct FieldHasher(Vec<u8>);

impl FieldHasher {
    fn new(tag: &[u8]) -> FieldHasher {
        FieldHasher(Vec::with_capacity(320)).bytes(tag)
    }

    fn bytes(mut self, field: &[u8]) -> FieldHasher {
        self.0.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    fn int(self, field: i64) -> FieldHasher {
        self.bytes(&field.to_be_bytes())
    }

    fn hash(self) -> Hash {
        sha256(&self.0)
    }
}

/// The hashed fields of a feed entry. The body is covered by its own hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FeedRecord<'a> {
    /// Random bytes.
    pub(crate) salt: &'a [u8],
    /// Its sequence number in the account's feed.
    pub(crate) feed: i64,
    /// The sub-account's id, which identifies the account.
    pub(crate) sub: &'a str,
    /// The segment's id.
    pub(crate) segment_id: &'a str,
    /// The artifact's code.
    pub(crate) artifact: i64,
    /// The version number.
    pub(crate) version: i64,
    /// The outcome's code.
    pub(crate) outcome: i64,
    /// When it was fetched, in milliseconds since 1970.
    pub(crate) fetched: i64,
    /// The body's size as received, in bytes.
    pub(crate) size: i64,
    /// SHA-256 of the body as received.
    pub(crate) sha256: &'a [u8],
}

impl FeedRecord<'_> {
    /// The entry's leaf.
    pub(crate) fn leaf(&self) -> Hash {
        FieldHasher::new(LEAF_TAG)
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

/// The head after `leaf`, given the head before it.
pub fn link(head: &[u8], leaf: &[u8]) -> Hash {
    FieldHasher::new(LINK_TAG).bytes(head).bytes(leaf).hash()
}

/// An account's chain heads and daily digests at the end of a UTC day. Hashes are unchecked bytes,
/// as stored, so that altered ones can be reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The sub-account's id.
    pub(crate) sub: String,
    /// Days since 1970-01-01.
    pub day: i64,
    /// The sequence number after which the chain begins.
    pub from: i64,
    /// The newest sequence number of the feed.
    pub feed: i64,
    /// The chain's head after it.
    pub head: Vec<u8>,
    /// Segments announced until then.
    pub segments: i64,
    /// The result of [`hash_daily_digests`] at that time.
    pub(crate) ledger: Vec<u8>,
    /// When it was written, in milliseconds since 1970.
    pub(crate) sealed: i64,
    /// The hash of the manifest before it.
    pub previous: Vec<u8>,
    /// Heads of the record chain and the journal; `None` in manifests from before these existed.
    pub record_heads: Option<RecordHeads>,
    /// Its own hash.
    pub hash: Vec<u8>,
}

/// Number and head of the account's record chain, and of the archive's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeads {
    /// The newest number of the record chain.
    pub records: i64,
    /// The record chain's head after it.
    pub record_head: Vec<u8>,
    /// Number of journal entries.
    pub journal: i64,
    /// The journal's head after them.
    pub journal_head: Vec<u8>,
}

impl Manifest {
    /// Computes the hash that it should have.
    pub fn digest(&self) -> Hash {
        let fields = FieldHasher::new(if self.record_heads.is_some() { MANIFEST_V2_TAG } else { MANIFEST_V1_TAG })
            .bytes(self.sub.as_bytes())
            .int(self.day)
            .int(self.from)
            .int(self.feed)
            .bytes(&self.head)
            .int(self.segments)
            .bytes(&self.ledger)
            .int(self.sealed)
            .bytes(&self.previous);
        match &self.record_heads {
            Some(record_heads) => fields
                .int(record_heads.records)
                .bytes(&record_heads.record_head)
                .int(record_heads.journal)
                .bytes(&record_heads.journal_head)
                .hash(),
            None => fields.hash(),
        }
    }
}

/// A hash of the daily digests: day, segments and the two halves of the ids' sum, by day.
pub(crate) fn hash_daily_digests(days: impl Iterator<Item = [i64; 4]>) -> Hash {
    days.fold(FieldHasher::new(DAILY_DIGESTS_TAG), |fields, day| day.into_iter().fold(fields, FieldHasher::int)).hash()
}

/// Encodes bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Decodes hexadecimal; `None` if the text is not valid.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let pair = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).ok();
    if digits.len().is_multiple_of(2) { digits.chunks_exact(2).map(pair).collect() } else { None }
}
