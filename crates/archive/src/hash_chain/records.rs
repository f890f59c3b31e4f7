//! What the record chain takes beside the texts: metadata, tombstones, the journal, reads of metadata. Pure.
//!
//! Each row makes a leaf over all that is kept of it and its number in the chain. Leaves are linked as those of the feed are.

use super::{Fields, Hash};

const METADATA: &[u8] = b"ringcx-extractor metadata 1";
const TOMBSTONE: &[u8] = b"ringcx-extractor tombstone 1";
const JOURNAL: &[u8] = b"ringcx-extractor journal 1";
const READ: &[u8] = b"ringcx-extractor read 1";
const COVERAGE: &[u8] = b"ringcx-extractor coverage 1";

impl Fields {
    /// A text without NUL, which Postgres cannot keep.
    fn text(self, field: &str) -> Fields {
        if field.contains('\0') {
            self.bytes(field.replace('\0', "\u{fffd}").as_bytes())
        } else {
            self.bytes(field.as_bytes())
        }
    }

    /// How many values follow, 0 or 1, then the value.
    fn maybe<T>(self, field: Option<T>, add: impl FnOnce(Fields, T) -> Fields) -> Fields {
        match field {
            Some(field) => add(self.int(1), field),
            None => self.int(0),
        }
    }
}

/// A version of a segment's metadata, and what the archive derives from it.
#[derive(Debug, Clone, Copy)]
pub struct MetadataRecord<'a> {
    /// Random bytes of its own.
    pub salt: &'a [u8],
    /// Its number in the account's record chain.
    pub record: i64,
    /// The sub-account's id.
    pub sub: &'a str,
    /// The segment's id.
    pub segment_id: &'a str,
    /// The dialog's id.
    pub dialog_id: Option<&'a str>,
    /// When the segment ended, in milliseconds since 1970.
    pub ended: Option<i64>,
    /// `hasTranscript`.
    pub has_transcript: Option<i64>,
    /// Whether it is an agent's.
    pub is_agent: Option<i64>,
    /// When this version was seen first.
    pub since: Option<i64>,
    /// The first half of the SHA-256 of the metadata as it came.
    pub digest: &'a [u8],
}

impl MetadataRecord<'_> {
    /// The record's leaf.
    pub fn leaf(&self) -> Hash {
        Fields::new(METADATA)
            .bytes(self.salt)
            .int(self.record)
            .text(self.sub)
            .text(self.segment_id)
            .maybe(self.dialog_id, Fields::text)
            .maybe(self.ended, Fields::int)
            .maybe(self.has_transcript, Fields::int)
            .maybe(self.is_agent, Fields::int)
            .maybe(self.since, Fields::int)
            .bytes(self.digest)
            .hash()
    }
}

/// What is known of an erased segment.
#[derive(Debug, Clone, Copy)]
pub struct TombstoneRecord<'a> {
    /// Its number in the account's record chain.
    pub record: i64,
    /// The sub-account's id.
    pub sub: &'a str,
    /// Keyed hash of what was erased.
    pub hash: &'a [u8],
    /// When.
    pub at: i64,
    /// Why, by its code.
    pub kind: i64,
    /// The UTC day on which the segment ended.
    pub day: i64,
}

impl TombstoneRecord<'_> {
    /// The record's leaf.
    pub fn leaf(&self) -> Hash {
        Fields::new(TOMBSTONE)
            .int(self.record)
            .text(self.sub)
            .bytes(self.hash)
            .int(self.at)
            .int(self.kind)
            .int(self.day)
            .hash()
    }
}

/// An entry of the journal of erasures and holds.
#[derive(Debug, Clone, Copy)]
pub struct JournalRecord<'a> {
    /// Which entry it is, counted from 1.
    pub record: i64,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// Who.
    pub who: &'a str,
    /// What was done.
    pub what: &'a str,
    /// The sub-account's id.
    pub sub: Option<&'a str>,
    /// The kind of what it was about.
    pub kind: Option<&'a str>,
    /// Keyed hash of what it was about.
    pub subject: Option<&'a [u8]>,
    /// Segments that it concerned.
    pub segments: i64,
    /// Records set aside that it concerned.
    pub records: i64,
    /// The hold's number.
    pub hold: Option<i64>,
    /// Why.
    pub reason: Option<&'a str>,
    /// Keyed hash of the hold's value as it was typed.
    pub value_hash: Option<&'a [u8]>,
}

impl JournalRecord<'_> {
    /// The record's leaf.
    pub fn leaf(&self) -> Hash {
        Fields::new(JOURNAL)
            .int(self.record)
            .int(self.at)
            .text(self.who)
            .text(self.what)
            .maybe(self.sub, Fields::text)
            .maybe(self.kind, Fields::text)
            .maybe(self.subject, Fields::bytes)
            .int(self.segments)
            .int(self.records)
            .maybe(self.hold, Fields::int)
            .maybe(self.reason, Fields::text)
            .maybe(self.value_hash, Fields::bytes)
            .hash()
    }
}

/// A read of metadata: which range, for which purpose, and what it brought.
#[derive(Debug, Clone, Copy)]
pub struct ReadRecord<'a> {
    /// The sub-account's id.
    pub sub: &'a str,
    /// The purpose's name.
    pub lane: &'a str,
    /// Number, time, duration, start and end of the range, announced, added, changed, flipped, set aside, the two halves of
    /// the ids' sum.
    pub numbers: [i64; 12],
    /// [`coverage`] before it.
    pub before: &'a [u8],
    /// [`coverage`] after it.
    pub after: &'a [u8],
}

impl ReadRecord<'_> {
    /// The record's leaf.
    pub fn leaf(&self) -> Hash {
        let fields = Fields::new(READ).text(self.sub).text(self.lane);
        self.numbers.into_iter().fold(fields, Fields::int).bytes(self.before).bytes(self.after).hash()
    }
}

/// A digest of an account's coverage: pass, start, end, reads, first and last read of each row, in order.
pub fn coverage(rows: &mut [(String, [i64; 5])]) -> Hash {
    rows.sort();
    let fields = Fields::new(COVERAGE);
    rows.iter().fold(fields, |fields, (pass, numbers)| numbers.iter().fold(fields.text(pass), |f, n| f.int(*n))).hash()
}
