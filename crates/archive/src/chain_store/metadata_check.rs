//! Verification of stored metadata and its history, without the chain.

use std::collections::HashMap;

use super::super::ingest::{half_sha256, segment_id_digest, utc_day};
use super::super::{AccountKey, Db, DbError, item};
use super::{MaybeBytes, Stmt};
use crate::clock::Time;
use crate::hash_chain::MetadataRecord;
use crate::ringcx::metadata::parse_segment_record;

/// Segments of a page.
const SEGMENTS_PER_PAGE: usize = 1000;

/// The result for one segment.
#[derive(Debug, Clone)]
pub struct MetadataRow {
    /// Key of the segment.
    pub key: i64,
    /// Key of its account.
    pub account: AccountKey,
    /// Its id in RingCX.
    pub segment_id: String,
    /// The day under which the daily digest counts it.
    pub day: i64,
    /// What the daily digest adds for it: two halves of a hash of its id.
    pub segment_id_digest: (i64, i64),
    /// Faults of its metadata and history, beyond those that the chain shows.
    pub faults: Vec<&'static str>,
}

/// A version of a segment's metadata: the current one, or one of the history.
#[derive(sqlx::FromRow)]
struct MetadataVersion {
    /// When it was replaced, and the kind of change; `None` for the current version.
    #[sqlx(default)]
    seen: Option<i64>,
    #[sqlx(default)]
    what: Option<String>,
    record: Option<i64>,
    since: Option<i64>,
    #[sqlx(try_from = "MaybeBytes")]
    salt: Vec<u8>,
    #[sqlx(try_from = "MaybeBytes")]
    leaf: Vec<u8>,
    dialog_id: Option<String>,
    ended: Option<i64>,
    has_transcript: Option<i64>,
    is_agent: Option<i64>,
    /// `None` if the stored bytes are damaged.
    #[sqlx(flatten, try_from = "StoredMetadata")]
    metadata: Option<UnpackedMetadata>,
}

struct UnpackedMetadata {
    body: Vec<u8>,
    digest: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct StoredMetadata {
    codec: i64,
    metadata: Vec<u8>,
}

impl From<StoredMetadata> for Option<UnpackedMetadata> {
    fn from(stored: StoredMetadata) -> Option<UnpackedMetadata> {
        let body = item::unpack(stored.codec, stored.metadata).ok()?;
        Some(UnpackedMetadata { digest: half_sha256(&body), body })
    }
}

#[derive(sqlx::FromRow)]
struct CurrentSegment {
    key: i64,
    account: AccountKey,
    segment_id: String,
    digest: Vec<u8>,
    sub: Option<String>,
    #[sqlx(flatten)]
    version: MetadataVersion,
}

#[derive(sqlx::FromRow)]
struct EarlierVersion {
    segment: i64,
    #[sqlx(flatten)]
    version: MetadataVersion,
}

const VERSION_COLUMNS: &str = "record, since, salt, leaf, dialog_id, ended, has_transcript, is_agent, codec, metadata";

impl MetadataVersion {
    fn digest(&self) -> Option<&[u8]> {
        self.metadata.as_ref().map(|metadata| metadata.digest.as_slice())
    }

    /// Whether the stored leaf matches the columns. True without a number: such a version is not in
    /// the chain.
    fn matches_leaf(&self, sub: &str, segment_id: &str) -> bool {
        let (Some(record), Some(digest)) = (self.record, self.digest()) else { return true };
        let sealed = MetadataRecord {
            salt: &self.salt,
            record,
            sub,
            segment_id,
            dialog_id: self.dialog_id.as_deref(),
            ended: self.ended,
            has_transcript: self.has_transcript,
            is_agent: self.is_agent,
            since: self.since,
            digest,
        };
        self.leaf == sealed.leaf()
    }

    /// Whether the derived columns contradict the metadata. A field that is missing from it does
    /// not count: an earlier version of the metadata may have had it, or an earlier program may
    /// have parsed less.
    fn contradicts(&self, segment_id: &str) -> bool {
        let Some(raw) = self.metadata.as_ref().and_then(|metadata| std::str::from_utf8(&metadata.body).ok()) else {
            return false;
        };
        let Some(read) = parse_segment_record(raw) else { return false };
        let flag = |key: &str, held: Option<i64>, read: bool| {
            raw.contains(key) && held.is_some_and(|held| held != i64::from(read))
        };
        read.segment_id != segment_id
            || read.dialog_id.as_ref().is_some_and(|id| self.dialog_id.as_ref().is_some_and(|held| held != id))
            || read.end.is_some_and(|end| self.ended.is_some_and(|held| Time(held) != Time::NONE && held != end.0))
            || flag("\"hasTranscript\"", self.has_transcript, read.has_transcript)
            || flag("\"segmentType\"", self.is_agent, read.is_agent)
    }
}

const DIGEST_MISMATCH: &str = "the metadata does not match its stored hash";
const LEAF_MISMATCH: &str =
    "the metadata, the dialog id, the end time or a flag does not match the record chain: one of them was altered";
const COLUMNS_CONTRADICT_METADATA: &str =
    "the dialog id, the end time or a flag contradicts the metadata: one of them was altered";
const HISTORY_ALTERED: &str = "an earlier version of the metadata does not match the record chain: it was altered";
const HISTORY_INCONSISTENT: &str =
    "the history of the metadata is inconsistent: a version, its time or its kind of change was altered or is missing";

/// Faults of the current version and of the earlier ones.
fn find_faults(
    sub: &str,
    segment_id: &str,
    digest: &[u8],
    current: MetadataVersion,
    mut history: Vec<MetadataVersion>,
) -> Vec<&'static str> {
    let mut found = Vec::new();
    if current.digest() != Some(digest) {
        found.push(DIGEST_MISMATCH);
    } else if !current.matches_leaf(sub, segment_id) {
        found.push(LEAF_MISMATCH);
    } else if current.contradicts(segment_id) {
        found.push(COLUMNS_CONTRADICT_METADATA);
    }
    if history.iter().any(|older| older.metadata.is_none() || !older.matches_leaf(sub, segment_id)) {
        found.push(HISTORY_ALTERED);
    }
    // A version that was replaced during the read appears twice.
    history.retain(|older| older.record.is_none() || older.record != current.record);
    history.sort_by_key(|older| (older.record, older.seen));
    history.push(current);
    let broken = |pair: &[MetadataVersion]| {
        let [older, newer] = pair else { return false };
        let (Some(seen), Some(what)) = (&older.seen, &older.what) else { return false };
        let transcript_appeared = older.has_transcript == Some(0) && newer.has_transcript == Some(1);
        newer.since.is_some_and(|since| since != *seen)
            || older.has_transcript.is_some() && transcript_appeared != (what == "hasTranscript turned true")
    };
    if history.windows(2).any(broken) {
        found.push(HISTORY_INCONSISTENT);
    }
    found
}

impl Db {
    /// Verifies the next page of segments after the key `after`.
    pub async fn metadata_after(&self, account: Option<AccountKey>, after: i64) -> Result<Vec<MetadataRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select s.id as key, s.account, s.segment_id, s.digest, a.sub, {VERSION_COLUMNS} from segment s left join account a on a.id = s.account
             where s.id > $1 and ($2 = -1 or s.account = $2) order by s.id limit $3"
        ));
        let segments: Vec<CurrentSegment> =
            self.all(stmt.bind(after).bind(account.unwrap_or(AccountKey::ALL)).bind(SEGMENTS_PER_PAGE)).await?;
        let last = segments.last().map_or(after, |segment| segment.key);
        let mut earlier: HashMap<i64, Vec<MetadataVersion>> = HashMap::new();
        let stmt = Stmt::built(format!(
            "select segment, seen, what, {VERSION_COLUMNS} from segment_version where segment > $1 and segment <= $2"
        ));
        for EarlierVersion { segment, version } in self.all(stmt.bind(after).bind(last)).await? {
            earlier.entry(segment).or_default().push(version);
        }
        let row = |segment: CurrentSegment| {
            let CurrentSegment { key, account, segment_id, digest, sub, version } = segment;
            let earlier = earlier.remove(&key).unwrap_or_default();
            MetadataRow {
                key,
                account,
                day: utc_day(Time(version.ended.unwrap_or(Time::NONE.0))),
                segment_id_digest: segment_id_digest(&segment_id),
                faults: find_faults(&sub.unwrap_or_default(), &segment_id, &digest, version, earlier),
                segment_id,
            }
        };
        Ok(segments.into_iter().map(row).collect())
    }
}
