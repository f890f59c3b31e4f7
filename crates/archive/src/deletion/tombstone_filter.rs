//! Excludes segments from ingest: those with a tombstone, and those that are past retention when
//! they are announced.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use rand::Rng;
use sha2::Sha256;

use super::super::ingest::utc_day;
use super::super::sql::{DeletionCode, Flag};
use super::super::{AccountKey, Db, DbError, Stmt, Tx, sql};
use super::{DeletionReason, Hold};
use crate::clock::Time;
use crate::model::{Certainty, Participants, QuarantinedRecord, SegmentRecord, Subject, TimeRange};

/// Key of the archive's secret in the table `meta`.
pub(super) const ARCHIVE_KEY_META: &str = "keeping.key";

/// Bytes of a keyed hash that are stored: enough to rule out collisions.
const HASH_BYTES: usize = 16;

/// The secret of this archive that keys its hashes. Without it, a tombstone does not reveal its
/// segment's id, not even to someone who tries all ids.
#[derive(Clone)]
pub(crate) struct ArchiveKey(Hmac<Sha256>);

impl ArchiveKey {
    /// A new key, and its encoded secret for the table `meta`.
    pub(crate) fn new(rng: &mut impl Rng) -> Result<(ArchiveKey, String), DbError> {
        let secret: [u8; 32] = rng.random();
        Ok((ArchiveKey::from_secret(&secret)?, STANDARD.encode(secret)))
    }

    fn from_secret(secret: &[u8]) -> Result<ArchiveKey, DbError> {
        Hmac::new_from_slice(secret).map(ArchiveKey).map_err(|_| archive_key_damaged())
    }

    fn hash(&self, parts: [&[u8]; 2]) -> Vec<u8> {
        let mut mac = self.0.clone();
        mac.update(parts[0]);
        mac.update(b"\0");
        mac.update(parts[1]);
        mac.finalize().into_bytes()[..HASH_BYTES].to_vec()
    }

    /// A key of its own for this purpose.
    pub(crate) fn derive(&self, purpose: &str) -> Vec<u8> {
        self.hash([b"derived key", purpose.as_bytes()])
    }

    pub(crate) fn hash_segment_id(&self, id: &str) -> Vec<u8> {
        self.hash([b"segment", id.as_bytes()])
    }

    /// For a record whose segment id cannot be read.
    pub(crate) fn hash_record(&self, raw: &[u8]) -> Vec<u8> {
        self.hash([b"record", raw])
    }

    /// Identifies the key without revealing it.
    pub(crate) fn id(&self) -> Vec<u8> {
        self.hash([b"key", b""])
    }

    /// For a hold's value exactly as typed.
    pub(crate) fn hash_typed(&self, kind: &str, value: &str) -> Vec<u8> {
        self.hash([format!("typed {kind}").as_bytes(), value.as_bytes()])
    }

    /// For the subject of an entry of the access log.
    pub(crate) fn hash_access_subject(&self, kind: &str, subject: &str) -> Vec<u8> {
        self.hash([format!("access {kind}").as_bytes(), subject.as_bytes()])
    }

    pub(crate) fn hash_subject(&self, subject: &Subject) -> Vec<u8> {
        self.hash([subject.kind().as_bytes(), subject.normalized().as_bytes()])
    }

    /// The hashes that the journal may have for a subject: of this version and of the first one.
    pub(crate) fn hash_subject_all_versions(&self, subject: &Subject) -> [Vec<u8>; 2] {
        let first = subject.normalized_v1();
        [self.hash_subject(subject), self.hash([subject.kind().as_bytes(), first.as_bytes()])]
    }
}

fn parse_archive_key(text: Option<String>) -> Result<Option<ArchiveKey>, DbError> {
    let Some(text) = text else { return Ok(None) };
    ArchiveKey::from_secret(&STANDARD.decode(text).map_err(|_| archive_key_damaged())?).map(Some)
}

pub(crate) fn archive_key_damaged() -> DbError {
    DbError::broken(
        "failed to read the archive's key in the table meta: it is damaged or missing",
        "restore it from a backup: without it the archive cannot recognise what was erased",
    )
}

/// What a tombstone tells about a deleted segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Tombstone {
    /// When it was deleted.
    pub at: Time,
    /// Why it was deleted.
    #[sqlx(rename = "kind", try_from = "DeletionCode")]
    pub reason: DeletionReason,
}

/// Decides which announced segments an account refuses.
pub(crate) struct TombstoneFilter {
    account: AccountKey,
    /// `None` where the account has no tombstone.
    key: Option<ArchiveKey>,
    /// Segments that ended before this are past retention.
    retention_cutoff: Option<Time>,
}

impl Tx {
    pub(crate) async fn stored_archive_key(&mut self) -> Result<Option<ArchiveKey>, DbError> {
        parse_archive_key(self.meta(ARCHIVE_KEY_META).await?)
    }

    /// The archive's key, encoded.
    pub(crate) async fn archive_key_text(&mut self) -> Result<Option<String>, DbError> {
        self.meta(ARCHIVE_KEY_META).await
    }

    /// Stores the key of another copy of this archive.
    pub(crate) async fn put_archive_key_text(&mut self, text: &str) -> Result<(), DbError> {
        self.put_meta(ARCHIVE_KEY_META, text).await
    }

    /// The filter of an account. It costs one query where the account has no tombstones.
    pub(crate) async fn tombstone_filter(
        &mut self,
        account: AccountKey,
        retention_cutoff: Option<Time>,
    ) -> Result<TombstoneFilter, DbError> {
        let any: Option<i64> =
            self.value(sql("select day from tombstone where account = $1 limit 1").bind(account)).await?;
        // Without the key no tombstone matches, and everything that was erased would come back.
        let key =
            if any.is_some() { Some(self.stored_archive_key().await?.ok_or_else(archive_key_damaged)?) } else { None };
        Ok(TombstoneFilter { account, key, retention_cutoff })
    }

    /// The ids of new segments to refuse. A segment that was erased before its first announcement
    /// is counted now.
    pub(crate) async fn excluded_ids(
        &mut self,
        filter: &TombstoneFilter,
        records: &[&SegmentRecord],
    ) -> Result<HashSet<String>, DbError> {
        let mut excluded = HashSet::new();
        if let Some(cutoff) = filter.retention_cutoff {
            let past: Vec<&&SegmentRecord> =
                records.iter().filter(|record| record.end.is_some_and(|end| end < cutoff)).collect();
            let holds = if past.is_empty() { Vec::new() } else { self.holds(Some(filter.account)).await? };
            excluded.extend(
                past.iter().filter(|record| !is_segment_held(&holds, record)).map(|record| record.segment_id.clone()),
            );
        }
        let Some(key) = &filter.key else { return Ok(excluded) };
        let hashes: HashMap<Vec<u8>, &SegmentRecord> =
            records.iter().map(|record| (key.hash_segment_id(&record.segment_id), *record)).collect();
        let mut days: BTreeMap<i64, [i64; 5]> = BTreeMap::new();
        let mut uncounted = Vec::new();
        for (hash, counted) in self.find_tombstones(filter.account, hashes.keys().cloned()).await? {
            let Some(record) = hashes.get(&hash) else { continue };
            excluded.insert(record.segment_id.clone());
            if !counted {
                days.entry(utc_day(record.end.unwrap_or(Time::NONE))).or_default()[0] += 1;
                uncounted.push(hash);
            }
        }
        if !uncounted.is_empty() {
            let head = "update tombstone set counted = 1 where account = $1 and hash in ";
            self.run(Stmt::list(head, vec![filter.account.into()], uncounted, "")).await?;
            self.add_deletion_counts(filter.account, DeletionReason::Erased, days).await?;
        }
        Ok(excluded)
    }

    /// The records of a window that may be quarantined. Excluded are records of erased segments
    /// and, in a window past retention, those that no hold may concern.
    pub(crate) async fn allowed_in_quarantine<'a>(
        &mut self,
        filter: &TombstoneFilter,
        range: TimeRange,
        quarantined: &'a [QuarantinedRecord],
    ) -> Result<Vec<&'a QuarantinedRecord>, DbError> {
        let mut allowed: Vec<&QuarantinedRecord> = quarantined.iter().collect();
        if !allowed.is_empty() && filter.retention_cutoff.is_some_and(|cutoff| range.to <= cutoff) {
            let holds = self.holds(Some(filter.account)).await?;
            allowed.retain(|record| is_quarantined_held(&holds, record.segment_id.as_deref(), &record.raw));
        }
        let Some(key) = filter.key.as_ref().filter(|_| !allowed.is_empty()) else { return Ok(allowed) };
        let hash = |record: &QuarantinedRecord| match &record.segment_id {
            Some(id) => key.hash_segment_id(id),
            None => key.hash_record(record.raw.as_bytes()),
        };
        let found = self.find_tombstones(filter.account, allowed.iter().map(|record| hash(record))).await?;
        let tombstones: HashSet<Vec<u8>> = found.into_iter().map(|(hash, _)| hash).collect();
        allowed.retain(|record| !tombstones.contains(&hash(record)));
        Ok(allowed)
    }

    /// Those of these hashes that have a tombstone, and whether it is counted.
    pub(crate) async fn find_tombstones(
        &mut self,
        account: AccountKey,
        hashes: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Vec<(Vec<u8>, bool)>, DbError> {
        let head = "select hash, counted from tombstone where account = $1 and hash in ";
        let found: Vec<(Vec<u8>, Flag)> = self.all(Stmt::list(head, vec![account.into()], hashes, "")).await?;
        Ok(found.into_iter().map(|(hash, counted)| (hash, counted.into())).collect())
    }
}

/// Whether a hold concerns this quarantined record, or may do so.
pub(super) fn is_quarantined_held(holds: &[Hold], segment_id: Option<&str>, raw: &str) -> bool {
    holds.iter().any(|hold| hold.subject.match_record(segment_id, raw) > Certainty::Not)
}

fn is_segment_held(holds: &[Hold], record: &SegmentRecord) -> bool {
    let participants = Participants::read([record.raw.as_str()], []);
    holds.iter().any(|hold| {
        hold.subject.matches_ids(&record.segment_id, record.dialog_id.as_deref())
            || hold.subject.match_participants(&participants).certainty > Certainty::Not
    })
}

impl Db {
    /// The stored key; `None` where nothing was ever erased or put on hold.
    pub(crate) async fn stored_archive_key(&self) -> Result<Option<ArchiveKey>, DbError> {
        let key = parse_archive_key(self.meta(ARCHIVE_KEY_META).await?)?;
        if key.is_none() && self.value::<i64>(sql("select id from journal limit 1")).await?.is_some() {
            return Err(archive_key_damaged());
        }
        Ok(key)
    }

    /// The tombstone of a segment id, in this account or in any; `None` where there is none.
    pub async fn tombstone(&self, segment_id: &str, account: Option<AccountKey>) -> Result<Option<Tombstone>, DbError> {
        let Some(key) = self.stored_archive_key().await? else { return Ok(None) };
        // The record's number is the row's key for people.
        let stmt = sql("select t.record, t.at, t.kind from account a join tombstone t on t.account = a.id
             where t.hash = $1 and ($2 = -1 or a.id = $2)");
        self.first(stmt.bind(key.hash_segment_id(segment_id)).bind(account.unwrap_or(AccountKey::ALL))).await
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_hash_depends_on_the_archive_and_on_the_kind() {
        let key = |seed| ArchiveKey::new(&mut StdRng::seed_from_u64(seed)).unwrap().0;
        let (one, other) = (key(1), key(2));
        assert_eq!(one.hash_segment_id("a"), one.hash_segment_id("a"));
        assert_eq!(one.hash_segment_id("a").len(), HASH_BYTES);
        assert_ne!(one.hash_segment_id("a"), other.hash_segment_id("a"));
        assert_ne!(one.hash_segment_id("a"), one.hash_record(b"a"));
        assert_eq!(one.hash_segment_id("a"), one.hash_subject(&Subject::Segment("a".into())));
        let contact = |value: &str| one.hash_subject(&Subject::Contact(value.into()));
        assert_eq!(contact("+1 201 377 0791"), contact("12013770791"));
        // An entry of the first version matches its value, although values are normalised
        // differently now.
        let (value, hash) = (Subject::Contact("Tel: 0049 30".into()), one.hash([b"contact", b"tel: 0049 30"]));
        assert_ne!(one.hash_subject(&value), hash);
        assert_eq!(one.hash_subject_all_versions(&value), [one.hash_subject(&value), hash.clone()]);
        assert!(!one.hash_subject_all_versions(&Subject::Contact("other".into())).contains(&hash));
    }
}
