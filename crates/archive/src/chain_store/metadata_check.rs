//! Verification of stored metadata and its history, without the chain.

use std::collections::HashMap;

use super::super::ingest::{half_sha256, segment_id_digest, utc_day};
use super::super::{Db, DbError, Row, item};
use super::Stmt;
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
    pub account: i64,
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
struct MetadataVersion {
    /// When it was replaced, and the kind of change; `None` for the current version.
    replaced: Option<(i64, String)>,
    record: Option<i64>,
    since: Option<i64>,
    salt: Vec<u8>,
    leaf: Vec<u8>,
    dialog_id: Option<String>,
    ended: Option<i64>,
    has_transcript: Option<i64>,
    is_agent: Option<i64>,
    digest: Option<Vec<u8>>,
    metadata: Option<Vec<u8>>,
}

const VERSION_COLUMNS: &str = "record, since, salt, leaf, dialog_id, ended, has_transcript, is_agent, codec, metadata";

fn version_from_row(row: &Row, at: usize) -> Result<MetadataVersion, DbError> {
    let metadata = item::unpack(row.int(at + 8)?, row.bytes(at + 9)?).ok().map(|body| body.to_vec());
    Ok(MetadataVersion {
        replaced: None,
        record: row.maybe_int(at)?,
        since: row.maybe_int(at + 1)?,
        salt: row.maybe_bytes(at + 2)?.unwrap_or_default(),
        leaf: row.maybe_bytes(at + 3)?.unwrap_or_default(),
        dialog_id: row.maybe_text(at + 4)?,
        ended: row.maybe_int(at + 5)?,
        has_transcript: row.maybe_int(at + 6)?,
        is_agent: row.maybe_int(at + 7)?,
        digest: metadata.as_deref().map(half_sha256),
        metadata,
    })
}

impl MetadataVersion {
    /// Whether the stored leaf matches the columns. True without a number: such a version is not in
    /// the chain.
    fn matches_leaf(&self, sub: &str, segment_id: &str) -> bool {
        let (Some(record), Some(digest)) = (self.record, &self.digest) else { return true };
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
        let Some(raw) = self.metadata.as_deref().and_then(|metadata| std::str::from_utf8(metadata).ok()) else {
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
    if current.digest.as_deref() != Some(digest) {
        found.push(DIGEST_MISMATCH);
    } else if !current.matches_leaf(sub, segment_id) {
        found.push(LEAF_MISMATCH);
    } else if current.contradicts(segment_id) {
        found.push(COLUMNS_CONTRADICT_METADATA);
    }
    if history.iter().any(|older| older.digest.is_none() || !older.matches_leaf(sub, segment_id)) {
        found.push(HISTORY_ALTERED);
    }
    // A version that was replaced during the read appears twice.
    history.retain(|older| older.record.is_none() || older.record != current.record);
    history.sort_by_key(|older| (older.record, older.replaced.as_ref().map(|(seen, _)| *seen)));
    history.push(current);
    let broken = |pair: &[MetadataVersion]| {
        let [older, newer] = pair else { return false };
        let Some((seen, what)) = &older.replaced else { return false };
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
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn metadata_after(&self, account: Option<i64>, after: i64) -> Result<Vec<MetadataRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select s.id, s.account, s.segment_id, s.digest, a.sub, {VERSION_COLUMNS} from segment s left join account a on a.id = s.account
             where s.id > $1 and ($2 = -1 or s.account = $2) order by s.id limit {SEGMENTS_PER_PAGE}"
        ));
        let rows = self.all(stmt.bind(after).bind(account.unwrap_or(-1))).await?;
        let last = rows.last().map_or(Ok(after), |row| row.int(0))?;
        let mut earlier: HashMap<i64, Vec<MetadataVersion>> = HashMap::new();
        let stmt = Stmt::built(format!(
            "select segment, seen, what, {VERSION_COLUMNS} from segment_version where segment > $1 and segment <= $2"
        ));
        for row in self.all(stmt.bind(after).bind(last)).await? {
            let replaced = Some((row.int(1)?, row.text(2)?));
            earlier.entry(row.int(0)?).or_default().push(MetadataVersion { replaced, ..version_from_row(&row, 3)? });
        }
        rows.iter()
            .map(|row| {
                let (key, segment_id, digest) = (row.int(0)?, row.text(2)?, row.bytes(3)?);
                let (sub, current) = (row.maybe_text(4)?.unwrap_or_default(), version_from_row(row, 5)?);
                Ok(MetadataRow {
                    key,
                    account: row.int(1)?,
                    day: utc_day(Time(current.ended.unwrap_or(Time::NONE.0))),
                    segment_id_digest: segment_id_digest(&segment_id),
                    faults: find_faults(&sub, &segment_id, &digest, current, earlier.remove(&key).unwrap_or_default()),
                    segment_id,
                })
            })
            .collect()
    }
}
