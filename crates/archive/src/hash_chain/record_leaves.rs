//! Leaves of the record chain, the journal and the read log: metadata, tombstones, journal entries
//! and window reads. Pure.
//!
//! A leaf covers all columns of its row and its number in the chain. Leaves are linked like those
//! of the feed.

use super::{FieldHasher, Hash};

const METADATA_TAG: &[u8] = b"ringcx-extractor metadata 1";
const TOMBSTONE_TAG: &[u8] = b"ringcx-extractor tombstone 1";
const JOURNAL_TAG: &[u8] = b"ringcx-extractor journal 1";
const READ_TAG: &[u8] = b"ringcx-extractor read 1";
const ACCESS_TAG: &[u8] = b"ringcx-extractor access 1";
const COVERAGE_TAG: &[u8] = b"ringcx-extractor coverage 1";

impl FieldHasher {
    /// A text. NUL is replaced, because Postgres cannot store it.
    fn text(self, field: &str) -> FieldHasher {
        if field.contains('\0') {
            self.bytes(field.replace('\0', "\u{fffd}").as_bytes())
        } else {
            self.bytes(field.as_bytes())
        }
    }

    /// The number of values that follow, 0 or 1, then the value.
    fn maybe<T>(self, field: Option<T>, add: impl FnOnce(FieldHasher, T) -> FieldHasher) -> FieldHasher {
        match field {
            Some(field) => add(self.int(1), field),
            None => self.int(0),
        }
    }
}

/// A version of a segment's metadata, and the columns derived from it.
#[derive(Debug, Clone, Copy)]
pub struct MetadataRecord<'a> {
    /// Random bytes.
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
    /// Whether it is an agent's segment.
    pub is_agent: Option<i64>,
    /// When this version was first seen.
    pub since: Option<i64>,
    /// The first half of the SHA-256 of the metadata as received.
    pub digest: &'a [u8],
}

impl MetadataRecord<'_> {
    /// The record's leaf.
    pub fn leaf(&self) -> Hash {
        FieldHasher::new(METADATA_TAG)
            .bytes(self.salt)
            .int(self.record)
            .text(self.sub)
            .text(self.segment_id)
            .maybe(self.dialog_id, FieldHasher::text)
            .maybe(self.ended, FieldHasher::int)
            .maybe(self.has_transcript, FieldHasher::int)
            .maybe(self.is_agent, FieldHasher::int)
            .maybe(self.since, FieldHasher::int)
            .bytes(self.digest)
            .hash()
    }
}

/// The tombstone of an erased segment.
#[derive(Debug, Clone, Copy)]
pub struct TombstoneRecord<'a> {
    /// Its number in the account's record chain.
    pub(crate) record: i64,
    /// The sub-account's id.
    pub(crate) sub: &'a str,
    /// Keyed hash of what was erased.
    pub(crate) hash: &'a [u8],
    /// When it was erased, in milliseconds since 1970.
    pub(crate) at: i64,
    /// The code of the reason.
    pub(crate) kind: i64,
    /// The UTC day on which the segment ended.
    pub(crate) day: i64,
}

impl TombstoneRecord<'_> {
    /// The record's leaf.
    pub(crate) fn leaf(&self) -> Hash {
        FieldHasher::new(TOMBSTONE_TAG)
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
    /// The entry's number, counted from 1.
    pub(crate) record: i64,
    /// When it was made, in milliseconds since 1970.
    pub(crate) at: i64,
    /// The operator.
    pub(crate) who: &'a str,
    /// The action.
    pub(crate) what: &'a str,
    /// The sub-account's id.
    pub(crate) sub: Option<&'a str>,
    /// The kind of subject.
    pub(crate) kind: Option<&'a str>,
    /// Keyed hash of the subject.
    pub(crate) subject: Option<&'a [u8]>,
    /// Number of segments concerned.
    pub(crate) segments: i64,
    /// Number of quarantined records concerned.
    pub(crate) records: i64,
    /// Key of the hold.
    pub(crate) hold: Option<i64>,
    /// The stated reason.
    pub(crate) reason: Option<&'a str>,
    /// Keyed hash of the hold's value as it was typed.
    pub(crate) value_hash: Option<&'a [u8]>,
}

impl JournalRecord<'_> {
    /// The record's leaf.
    pub(crate) fn leaf(&self) -> Hash {
        FieldHasher::new(JOURNAL_TAG)
            .int(self.record)
            .int(self.at)
            .text(self.who)
            .text(self.what)
            .maybe(self.sub, FieldHasher::text)
            .maybe(self.kind, FieldHasher::text)
            .maybe(self.subject, FieldHasher::bytes)
            .int(self.segments)
            .int(self.records)
            .maybe(self.hold, FieldHasher::int)
            .maybe(self.reason, FieldHasher::text)
            .maybe(self.value_hash, FieldHasher::bytes)
            .hash()
    }
}

/// A window read: its range, its lane, and what the ingest changed.
#[derive(Debug, Clone, Copy)]
pub struct ReadRecord<'a> {
    /// The sub-account's id.
    pub(crate) sub: &'a str,
    /// The name of the lane.
    pub(crate) lane: &'a str,
    /// Number, time, duration, start and end of the range, announced, added, changed, flipped,
    /// quarantined, and the two halves of the ids' sum.
    pub(crate) numbers: [i64; 12],
    /// [`hash_coverage`] before it.
    pub(crate) before: &'a [u8],
    /// [`hash_coverage`] after it.
    pub(crate) after: &'a [u8],
}

impl ReadRecord<'_> {
    /// The record's leaf.
    pub(crate) fn leaf(&self) -> Hash {
        let fields = FieldHasher::new(READ_TAG).text(self.sub).text(self.lane);
        self.numbers.into_iter().fold(fields, FieldHasher::int).bytes(self.before).bytes(self.after).hash()
    }
}

/// An entry of the access log. The subject is covered by its keyed hash, so that an erasure can blank
/// it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessRecord<'a> {
    /// The entry's number, counted from 1.
    pub(crate) id: i64,
    /// When, in milliseconds since 1970.
    pub(crate) at: i64,
    /// The kind of reader.
    pub(crate) reader_kind: &'a str,
    /// The reader.
    pub(crate) reader: &'a str,
    /// Where the reader is.
    pub(crate) origin: &'a str,
    /// The action.
    pub(crate) action: &'a str,
    /// The sub-account's id.
    pub(crate) sub: Option<&'a str>,
    /// The kind of subject.
    pub(crate) subject_kind: &'a str,
    /// Keyed hash of the subject.
    pub(crate) subject_hash: &'a [u8],
    /// How many hits the answer has.
    pub(crate) hits: Option<i64>,
}

impl AccessRecord<'_> {
    /// The record's leaf.
    pub(crate) fn leaf(&self) -> Hash {
        FieldHasher::new(ACCESS_TAG)
            .int(self.id)
            .int(self.at)
            .text(self.reader_kind)
            .text(self.reader)
            .text(self.origin)
            .text(self.action)
            .maybe(self.sub, FieldHasher::text)
            .text(self.subject_kind)
            .bytes(self.subject_hash)
            .maybe(self.hits, FieldHasher::int)
            .hash()
    }
}

/// A hash of an account's coverage: purpose, start, end, reads, first and last read of each row, in
/// order.
pub fn hash_coverage(rows: &mut [(String, [i64; 5])]) -> Hash {
    rows.sort();
    let fields = FieldHasher::new(COVERAGE_TAG);
    rows.iter()
        .fold(fields, |fields, (purpose, numbers)| {
            numbers.iter().fold(fields.text(purpose), |fields, number| fields.int(*number))
        })
        .hash()
}
