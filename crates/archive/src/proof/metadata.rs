//! Metadata and its history as they lie in the database, and what is wrong with them by themselves.

use std::collections::HashMap;

use super::super::announce::{day_of, id_digest, short_hash};
use super::super::{Db, DbError, Row, item};
use super::Stmt;
use crate::clock::Time;
use crate::hash_chain::MetadataRecord;
use crate::ringcx::metadata::segment_record;

/// How many segments' metadata a page holds.
const SEGMENTS: usize = 1000;

/// A segment's metadata as it lies in the database.
#[derive(Debug, Clone)]
pub struct MetadataRow {
    /// The segment's number in the database.
    pub key: i64,
    /// Its account's.
    pub account: i64,
    /// Its id in RingCX.
    pub segment_id: String,
    /// The day under which the ledger of announcements counts it.
    pub day: i64,
    /// What the ledger adds for it: two halves of a hash of its id.
    pub id_digest: (i64, i64),
    /// What is wrong with it and its history, beyond what the chain shows.
    pub faults: Vec<&'static str>,
}

/// One version, the current one or one of the history.
struct Version {
    /// When it was replaced, and by what kind of change; `None` for the current one.
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

const VERSION: &str = "record, since, salt, leaf, dialog_id, ended, has_transcript, is_agent, codec, metadata";

fn version(row: &Row, at: usize) -> Result<Version, DbError> {
    let metadata = item::unpack(row.int(at + 8)?, row.bytes(at + 9)?).ok().map(|body| body.to_vec());
    Ok(Version {
        replaced: None,
        record: row.maybe_int(at)?,
        since: row.maybe_int(at + 1)?,
        salt: row.maybe_bytes(at + 2)?.unwrap_or_default(),
        leaf: row.maybe_bytes(at + 3)?.unwrap_or_default(),
        dialog_id: row.maybe_text(at + 4)?,
        ended: row.maybe_int(at + 5)?,
        has_transcript: row.maybe_int(at + 6)?,
        is_agent: row.maybe_int(at + 7)?,
        digest: metadata.as_deref().map(short_hash),
        metadata,
    })
}

impl Version {
    /// Whether the leaf that is kept with it is the one that it makes; without a number, the chain does not know it anyway.
    fn is_sealed(&self, sub: &str, segment_id: &str) -> bool {
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

    /// Whether what was derived from the metadata contradicts it. What it does not say, contradicts nothing: an earlier
    /// version of it may have said so, or an earlier program have understood less.
    fn contradicts(&self, segment_id: &str) -> bool {
        let Some(raw) = self.metadata.as_deref().and_then(|metadata| std::str::from_utf8(metadata).ok()) else {
            return false;
        };
        let Some(read) = segment_record(raw) else { return false };
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

const UNREADABLE: &str = "the metadata is not that whose hash is kept with it";
const CHANGED: &str = "the metadata, the dialog's id, the end or a flag is not what the record chain took of this segment: one of them was altered";
const CONTRADICTED: &str = "the dialog's id, the end or a flag is not what the metadata says: one of them was altered";
const HISTORY: &str = "an earlier version of the metadata is not the one that was replaced: it was altered";
const SEQUENCE: &str = "the history of the metadata does not hang together: a version, its time or its kind of change was altered or is missing";

/// What is wrong with the current version, and with the earlier ones.
fn faults(
    sub: &str,
    segment_id: &str,
    digest: &[u8],
    current: Version,
    mut history: Vec<Version>,
) -> Vec<&'static str> {
    let mut found = Vec::new();
    if current.digest.as_deref() != Some(digest) {
        found.push(UNREADABLE);
    } else if !current.is_sealed(sub, segment_id) {
        found.push(CHANGED);
    } else if current.contradicts(segment_id) {
        found.push(CONTRADICTED);
    }
    if history.iter().any(|old| old.digest.is_none() || !old.is_sealed(sub, segment_id)) {
        found.push(HISTORY);
    }
    // What was replaced while this was read is told of twice.
    history.retain(|old| old.record.is_none() || old.record != current.record);
    history.sort_by_key(|old| (old.record, old.replaced.as_ref().map(|(seen, _)| *seen)));
    history.push(current);
    let broken = |pair: &[Version]| {
        let [old, new] = pair else { return false };
        let Some((seen, what)) = &old.replaced else { return false };
        let turned = old.has_transcript == Some(0) && new.has_transcript == Some(1);
        new.since.is_some_and(|since| since != *seen)
            || old.has_transcript.is_some() && turned != (what == "hasTranscript turned true")
    };
    if history.windows(2).any(broken) {
        found.push(SEQUENCE);
    }
    found
}

impl Db {
    /// The next page of segments' metadata after the segment numbered `after`, and what is wrong with each.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn metadata_after(&self, account: Option<i64>, after: i64) -> Result<Vec<MetadataRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select s.id, s.account, s.segment_id, s.digest, a.sub, {VERSION} from segment s left join account a on a.id = s.account
             where s.id > $1 and ($2 = -1 or s.account = $2) order by s.id limit {SEGMENTS}"
        ));
        let rows = self.all(stmt.bind(after).bind(account.unwrap_or(-1))).await?;
        let last = rows.last().map_or(Ok(after), |row| row.int(0))?;
        let mut earlier: HashMap<i64, Vec<Version>> = HashMap::new();
        let stmt = Stmt::built(format!(
            "select segment, seen, what, {VERSION} from segment_version where segment > $1 and segment <= $2"
        ));
        for row in self.all(stmt.bind(after).bind(last)).await? {
            let replaced = Some((row.int(1)?, row.text(2)?));
            earlier.entry(row.int(0)?).or_default().push(Version { replaced, ..version(&row, 3)? });
        }
        rows.iter()
            .map(|row| {
                let (key, segment_id, digest) = (row.int(0)?, row.text(2)?, row.bytes(3)?);
                let (sub, current) = (row.maybe_text(4)?.unwrap_or_default(), version(row, 5)?);
                Ok(MetadataRow {
                    key,
                    account: row.int(1)?,
                    day: day_of(Time(current.ended.unwrap_or(Time::NONE.0))),
                    id_digest: id_digest(&segment_id),
                    faults: faults(&sub, &segment_id, &digest, current, earlier.remove(&key).unwrap_or_default()),
                    segment_id,
                })
            })
            .collect()
    }
}
