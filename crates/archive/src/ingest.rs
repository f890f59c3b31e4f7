//! Ingest: stores announced segments and queues their work items.
//!
//! A chunk of a response is one transaction: segments, work items and the daily digest commit
//! together. Storing a chunk twice has the same effect as storing it once.

mod daily_digest;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rand::Rng as _;

use super::chain_store::RecordChain;
use super::deletion::TombstoneFilter;
use super::delivery_state::{NewNotice, NoticeKind};
use super::sql::{ArtifactBits, Flag};
use super::{AccountKey, Arg, Db, DbError, Item, Lease, MAX_ROWS_PER_STATEMENT, Stmt, Tx, item};
use crate::clock::Time;
use crate::model::{
    Artifact, ArtifactSelection, ArtifactSet, ItemState, Lane, QuarantinedRecord, SegmentRecord, TimeRange,
    TimeRangeSet, may_have_notes,
};

use crate::hash_chain::{MetadataRecord, SALT_LEN, sha256};
use crate::transaction_span::TransactionSpan;

pub(super) use daily_digest::{DailyDigest, LatencyHistogram, segment_id_digest, utc_day};

/// How long after a segment's end its recording is first requested.
const RECORDING_DELAY: Duration = Duration::from_mins(15);

/// A part of a metadata response.
#[derive(Debug)]
pub struct MetadataChunk<'a> {
    /// The lease under which it is stored.
    pub lease: Lease,
    /// Why the window was read.
    pub lane: Lane,
    /// The window's time range.
    pub range: TimeRange,
    /// The current time.
    pub now: Time,
    /// Which artifacts to request.
    pub wants: ArtifactSelection,
    /// What had been read before this response: a new segment in there appeared late.
    pub already_read: &'a TimeRangeSet,
    /// Segments that ended before this are soon deleted by the vendor, and are fetched first in
    /// their lane.
    pub urgent_before: Option<Time>,
    /// Initial delay until a window with a quarantined record is read again.
    pub quarantine_retry_delay: Duration,
    /// Records that were parsed.
    pub records: &'a [SegmentRecord],
    /// Records that could not be parsed.
    pub quarantined: &'a [QuarantinedRecord],
}

/// What the ingest of a chunk, or of a whole response, changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestSummary {
    /// Segments in the response.
    pub segments: u64,
    /// Segments seen for the first time.
    pub added: u64,
    /// Segments whose metadata had changed.
    pub changed: u64,
    /// Among those, the ones whose `hasTranscript` turned true.
    pub flipped: u64,
    /// Work items queued.
    pub queued: u64,
    /// Records quarantined.
    pub quarantined: u64,
    /// Order-free digest of the ids, upper half.
    pub digest_high: i64,
    /// Order-free digest of the ids, lower half.
    pub digest_low: i64,
}

impl IngestSummary {
    /// Adds another part of the same response.
    pub fn add(&mut self, other: IngestSummary) {
        self.segments += other.segments;
        self.added += other.added;
        self.changed += other.changed;
        self.flipped += other.flipped;
        self.queued += other.queued;
        self.quarantined += other.quarantined;
        self.digest_high = self.digest_high.wrapping_add(other.digest_high);
        self.digest_low = self.digest_low.wrapping_add(other.digest_low);
    }
}

/// The first half of the SHA-256: enough to detect changed metadata.
pub(super) fn half_sha256(bytes: &[u8]) -> Vec<u8> {
    sha256(bytes)[..16].to_vec()
}

#[derive(sqlx::FromRow)]
struct StoredSegment {
    key: i64,
    segment_id: String,
    #[sqlx(try_from = "Flag")]
    has_transcript: bool,
    #[sqlx(try_from = "Flag")]
    is_agent: bool,
    #[sqlx(try_from = "Flag")]
    has_recording: bool,
    #[sqlx(try_from = "ArtifactBits")]
    asked: ArtifactSet,
    ended: Time,
    digest: Vec<u8>,
    dialog_id: Option<String>,
    since: Option<Time>,
}

impl StoredSegment {
    /// Whether the record differs from what is stored.
    fn differs(&self, record: &SegmentRecord, hash: &[u8]) -> bool {
        self.digest != hash
            || self.ended != record.end.unwrap_or(Time::NONE)
            || self.has_transcript != record.has_transcript
            || self.is_agent != record.is_agent
            || record.dialog_id.is_some() && record.dialog_id != self.dialog_id
    }
}

/// The number, salt and leaf of a metadata version in the record chain.
struct SealedRecord {
    record: i64,
    salt: [u8; SALT_LEN],
    leaf: [u8; 32],
}

fn seal_record(
    chain: &mut RecordChain,
    record: &SegmentRecord,
    dialog_id: Option<&str>,
    since: Option<Time>,
    digest: &[u8],
) -> SealedRecord {
    let salt: [u8; SALT_LEN] = rand::rng().random();
    let (record, leaf) = chain.append(|number, sub| {
        let sealed = MetadataRecord {
            salt: &salt,
            record: number,
            sub,
            segment_id: &record.segment_id,
            dialog_id,
            ended: Some(record.end.unwrap_or(Time::NONE).0),
            has_transcript: Some(record.has_transcript.into()),
            is_agent: Some(record.is_agent.into()),
            since: since.map(|since| since.0),
            digest,
        };
        sealed.leaf()
    });
    SealedRecord { record, salt, leaf }
}

impl Db {
    /// Stores a chunk of a response.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now; nothing is stored then.
    pub async fn ingest_chunk(&self, chunk: MetadataChunk<'_>) -> Result<IngestSummary, DbError> {
        self.ingest_chunk_with_retention(chunk, None).await
    }

    /// Stores a chunk of a response, without new segments that ended before `retained_since`, and
    /// without erased segments. Both still count as announced by the response.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now; nothing is stored then.
    pub async fn ingest_chunk_with_retention(
        &self,
        chunk: MetadataChunk<'_>,
        retained_since: Option<Time>,
    ) -> Result<IngestSummary, DbError> {
        let _span = TransactionSpan::start("ingest_chunk", chunk.records.len());
        let mut sum = IngestSummary::default();
        // If a response names a segment twice, the last record counts, as it would in two
        // responses.
        let mut last: BTreeMap<&str, &SegmentRecord> = BTreeMap::new();
        for record in chunk.records {
            last.insert(&record.segment_id, record);
        }
        let mut records: Vec<&SegmentRecord> = last.into_values().collect();
        // Among items with the same due time, the lowest key is fetched first: number them by end
        // time.
        records.sort_by_key(|record| record.end);
        let mut tx = self.begin().await?;
        let announces_metadata = tx.announces_metadata().await?;
        if announces_metadata {
            // The feed is written, too: a shared lock could not be upgraded without a deadlock.
            tx.lock_account_for_update(chunk.lease.account).await?;
        }
        tx.hold_lease(chunk.lease).await?;
        let filter = tx.tombstone_filter(chunk.lease.account, retained_since).await?;
        let mut day_digest = DailyDigest::default();
        for part in records.chunks(MAX_ROWS_PER_STATEMENT) {
            let noted = tx.ingest_part(&chunk, &filter, part, &mut sum, &mut day_digest).await?;
            if announces_metadata {
                tx.announce_segments(&chunk, part, &noted).await?;
            }
        }
        tx.add_to_daily_digest(chunk.lease.account, day_digest).await?;
        let quarantined = tx.allowed_in_quarantine(&filter, chunk.range, chunk.quarantined).await?;
        sum.quarantined = quarantined.len() as u64;
        tx.quarantine_records(&chunk, &quarantined).await?;
        tx.commit().await?;
        Ok(sum)
    }
}

impl Tx {
    async fn ingest_part(
        &mut self,
        chunk: &MetadataChunk<'_>,
        filter: &TombstoneFilter,
        part: &[&SegmentRecord],
        sum: &mut IngestSummary,
        day_digest: &mut DailyDigest,
    ) -> Result<HashMap<String, i64>, DbError> {
        let account = chunk.lease.account;
        let stored = self.stored_segments(account, part).await?;
        let unknown: Vec<&SegmentRecord> =
            part.iter().copied().filter(|record| !stored.contains_key(record.segment_id.as_str())).collect();
        let excluded = self.excluded_ids(filter, &unknown).await?;
        let (mut new_segments, mut changed, mut work) = (Vec::new(), Vec::new(), Vec::new());
        let mut latencies = LatencyHistogram::default();
        for &record in part {
            let digest = segment_id_digest(&record.segment_id);
            sum.segments += 1;
            sum.digest_high = sum.digest_high.wrapping_add(digest.0);
            sum.digest_low = sum.digest_low.wrapping_add(digest.1);
            let ended = record.end.unwrap_or(Time::NONE);
            let wanted = chunk.wants.artifacts_for(record.has_transcript, record.is_agent, record.has_recording);
            let Some(held) = stored.get(record.segment_id.as_str()) else {
                if excluded.contains(&record.segment_id) {
                    continue;
                }
                sum.added += 1;
                day_digest.add(ended, digest, 1);
                if let Some(end) = record.end.filter(|end| chunk.already_read.range_containing(*end).is_some()) {
                    latencies.add(account, "appear", chunk.now.since(end));
                }
                new_segments.push((record, wanted));
                continue;
            };
            let hash = half_sha256(record.raw.as_bytes());
            let before = chunk.wants.artifacts_for(held.has_transcript, held.is_agent, held.has_recording);
            // A setting that requests more artifacts applies to segments found from then on;
            // `backfill` requests older ones.
            let eligible = if chunk.lane == Lane::Backfill { wanted } else { wanted.minus(before) };
            let missing = eligible.minus(held.asked);
            work.extend(missing.iter().map(|artifact| (held.key, artifact, ended)));
            if held.digest != hash {
                sum.changed += 1;
                if record.has_transcript && !held.has_transcript {
                    sum.flipped += 1;
                    if let Some(end) = record.end {
                        latencies.add(account, "flip", chunk.now.since(end));
                    }
                }
            }
            if held.digest != hash || !missing.is_empty() {
                if held.ended != ended {
                    day_digest.add(held.ended, digest, -1);
                    day_digest.add(ended, digest, 1);
                }
                changed.push((record, held, hash, held.asked.union(missing)));
            }
        }
        self.update_segments(chunk, &changed).await?;
        // The index entry of a segment depends on its notes and its end time.
        let mut to_reindex: Vec<(i64, Time)> = changed
            .iter()
            .filter(|(_, held, hash, _)| held.digest != *hash)
            .map(|(_, held, ..)| (held.key, held.ended))
            .collect();
        let mut noted: HashMap<String, i64> = changed
            .iter()
            .filter(|(_, held, hash, _)| held.digest != *hash)
            .map(|(record, held, ..)| (record.segment_id.clone(), held.key))
            .collect();
        for (key, wanted, ended, notes, id) in self.insert_segments(chunk, &new_segments).await? {
            noted.insert(id, key);
            work.extend(wanted.iter().map(|artifact| (key, artifact, ended)));
            to_reindex.extend(notes.then_some((key, ended)));
        }
        self.enqueue_reindex(account, &to_reindex).await?;
        sum.queued += self.enqueue_work(chunk, &work).await?;
        self.add_latencies(latencies).await?;
        Ok(noted)
    }

    /// Announces new and changed segments in the feed, in the order of the records.
    async fn announce_segments(
        &mut self,
        chunk: &MetadataChunk<'_>,
        part: &[&SegmentRecord],
        keys: &HashMap<String, i64>,
    ) -> Result<(), DbError> {
        let versions = self.metadata_versions(&keys.values().copied().collect::<Vec<_>>()).await?;
        let notices: Vec<NewNotice<'_>> = part
            .iter()
            .filter_map(|record| {
                let segment = *keys.get(&record.segment_id)?;
                let version = versions.get(&segment).copied().unwrap_or(1);
                Some(NewNotice { kind: NoticeKind::Metadata, segment, segment_id: &record.segment_id, version })
            })
            .collect();
        self.append_notices(chunk.lease.account, &notices, chunk.now).await
    }

    async fn stored_segments(
        &mut self,
        account: AccountKey,
        part: &[&SegmentRecord],
    ) -> Result<HashMap<String, StoredSegment>, DbError> {
        let stmt = Stmt::list(
            "select id as key, segment_id, has_transcript, is_agent, has_recording, asked, ended, digest, dialog_id, since from segment
             where account = $1 and segment_id in ",
            vec![account.into()],
            part.iter().map(|record| record.segment_id.as_str()),
            "",
        );
        let stored: Vec<StoredSegment> = self.all(stmt).await?;
        Ok(stored.into_iter().map(|segment| (segment.segment_id.clone(), segment)).collect())
    }

    async fn insert_segments(
        &mut self,
        chunk: &MetadataChunk<'_>,
        new_segments: &[(&SegmentRecord, ArtifactSet)],
    ) -> Result<Vec<(i64, ArtifactSet, Time, bool, String)>, DbError> {
        if new_segments.is_empty() {
            return Ok(Vec::new());
        }
        let next = self.next_segment_id().await?;
        let mut chain = self.record_chain(chunk.lease.account).await?;
        let rows = new_segments.iter().enumerate().map(|(nth, (record, wanted))| {
            let packed = item::pack_metadata(record.raw.as_bytes());
            let digest = half_sha256(record.raw.as_bytes());
            let sealed = seal_record(&mut chain, record, record.dialog_id.as_deref(), Some(chunk.now), &digest);
            // The database numbers the rows after the first one.
            let number = next.map(|next| Arg::Int((nth == 0).then_some(next)));
            let values = [
                chunk.lease.account.into(),
                Arg::from(&record.segment_id),
                record.dialog_id.clone().into(),
                record.end.unwrap_or(Time::NONE).into(),
                record.has_transcript.into(),
                record.is_agent.into(),
                record.has_recording.into(),
                wanted.0.into(),
                chunk.now.into(),
                chunk.now.into(),
                digest.into(),
                packed.codec.into(),
                packed.body.into(),
                sealed.record.into(),
                chunk.now.into(),
                sealed.salt.as_slice().into(),
                sealed.leaf.into(),
            ];
            number.into_iter().chain(values).collect()
        });
        let head = if next.is_some() {
            "insert into segment (id, account, segment_id, dialog_id, ended, has_transcript, is_agent, has_recording, asked, first_seen, changed, digest, codec, metadata, record, since, salt, leaf) values "
        } else {
            "insert into segment (account, segment_id, dialog_id, ended, has_transcript, is_agent, has_recording, asked, first_seen, changed, digest, codec, metadata, record, since, salt, leaf) values "
        };
        let stmt = Stmt::rows(head, rows.collect(), " returning id, segment_id");
        self.save_record_chain(chain).await?;
        let inserted: HashMap<&str, (ArtifactSet, Time, bool)> = new_segments
            .iter()
            .map(|(record, wanted)| {
                let ended = record.end.unwrap_or(Time::NONE);
                (record.segment_id.as_str(), (*wanted, ended, may_have_notes(&record.raw)))
            })
            .collect();
        let rows: Vec<(i64, String)> = self.all(stmt).await?;
        rows.into_iter()
            .map(|(key, id)| {
                // A segment without work items would silently never be fetched.
                let stored = inserted.get(id.as_str()).copied();
                let (wanted, ended, notes) =
                    stored.ok_or_else(|| DbError::inconsistent("segment.segment_id", key, format_args!("{id:?}")))?;
                Ok((key, wanted, ended, notes, id))
            })
            .collect()
    }

    async fn update_segments(
        &mut self,
        chunk: &MetadataChunk<'_>,
        changed: &[(&SegmentRecord, &StoredSegment, Vec<u8>, ArtifactSet)],
    ) -> Result<(), DbError> {
        if changed.is_empty() {
            return Ok(());
        }
        // The versions about to be replaced go into the history.
        for (what, turned) in [("hasTranscript turned true", true), ("metadata changed", false)] {
            let keys: Vec<i64> = changed
                .iter()
                .filter(|(record, held, hash, _)| {
                    held.digest != *hash && (record.has_transcript && !held.has_transcript) == turned
                })
                .map(|(_, held, ..)| held.key)
                .collect();
            let stmt = Stmt::list(
                "insert into segment_version (segment, seen, what, codec, metadata, account, record, since, salt, leaf, dialog_id, ended, has_transcript, is_agent)
                 select id, cast($1 as bigint), cast($2 as text), codec, metadata, account, record, since, salt, leaf, dialog_id, ended, has_transcript, is_agent
                 from segment where id in ",
                vec![chunk.now.into(), what.into()],
                keys,
                " on conflict (segment, seen) do nothing",
            );
            self.run(stmt).await?;
        }
        let renewed: Vec<i64> = changed
            .iter()
            .filter(|(record, held, hash, _)| held.differs(record, hash))
            .map(|(_, held, ..)| held.key)
            .collect();
        self.keep_replaced_leaves(&renewed).await?;
        let mut chain = self.record_chain(chunk.lease.account).await?;
        let rows = changed.iter().map(|(record, held, hash, asked)| {
            let packed = item::pack_metadata(record.raw.as_bytes());
            let since = if held.digest == *hash { held.since } else { Some(chunk.now) };
            let dialog_id = record.dialog_id.as_deref().or(held.dialog_id.as_deref());
            let sealed = held.differs(record, hash).then(|| seal_record(&mut chain, record, dialog_id, since, hash));
            vec![
                held.key.into(),
                Arg::from(record.dialog_id.clone()),
                record.end.unwrap_or(Time::NONE).into(),
                record.has_transcript.into(),
                record.is_agent.into(),
                record.has_recording.into(),
                asked.0.into(),
                chunk.now.into(),
                hash.clone().into(),
                packed.codec.into(),
                packed.body.into(),
                sealed.as_ref().map(|sealed| sealed.record).into(),
                since.into(),
                sealed.as_ref().map(|sealed| sealed.salt.to_vec()).into(),
                sealed.as_ref().map(|sealed| sealed.leaf).into(),
            ]
        });
        let stmt = Stmt::rows(
            "with v (id, dialog_id, ended, has_transcript, is_agent, has_recording, asked, changed, digest, codec, metadata, record, since, salt, leaf) as (values ",
            rows.collect(),
            ") update segment set dialog_id = coalesce(v.dialog_id, segment.dialog_id), ended = v.ended, has_transcript = v.has_transcript,
             is_agent = v.is_agent, has_recording = v.has_recording, asked = v.asked, changed = v.changed, digest = v.digest, codec = v.codec, metadata = v.metadata,
             record = coalesce(v.record, segment.record), since = v.since, salt = coalesce(v.salt, segment.salt), leaf = coalesce(v.leaf, segment.leaf)
             from v where segment.id = v.id",
        );
        self.run(stmt).await?;
        self.save_record_chain(chain).await
    }

    async fn enqueue_work(
        &mut self,
        chunk: &MetadataChunk<'_>,
        work: &[(i64, Artifact, Time)],
    ) -> Result<u64, DbError> {
        let rows = work.iter().map(|(segment, artifact, ended)| {
            // Due items are fetched in order of due time.
            let urgent = chunk.urgent_before.is_some_and(|before| *ended < before && *ended != Time::NONE);
            let due = if urgent { *ended } else { chunk.now };
            // The API has a recording some time after the segment's end (contract.md, Recordings).
            let is_young = *artifact == Artifact::Recording && *ended != Time::NONE;
            // An end in the future is a mistake of the metadata: it must not delay the recording.
            let due = if is_young { due.max((*ended).min(chunk.now) + RECORDING_DELAY) } else { due };
            vec![
                Item::of(*segment, *artifact).into(),
                (*segment).into(),
                artifact.code().into(),
                chunk.lease.account.into(),
                chunk.lane.code().into(),
                Arg::from(ItemState::Open.code()),
                due.into(),
                chunk.now.into(),
            ]
        });
        let head = "insert into work (item, segment, artifact, account, lane, state, due, created) values ";
        self.run(Stmt::rows(head, rows.collect(), " on conflict (item) do nothing")).await
    }

    async fn quarantine_records(
        &mut self,
        chunk: &MetadataChunk<'_>,
        quarantined: &[&QuarantinedRecord],
    ) -> Result<(), DbError> {
        let account = chunk.lease.account;
        let mut distinct: BTreeMap<Vec<u8>, &QuarantinedRecord> = BTreeMap::new();
        for &record in quarantined {
            distinct.insert(half_sha256(record.raw.as_bytes()), record);
        }
        let rows: Vec<Vec<Arg>> = distinct
            .into_iter()
            .map(|(digest, record)| {
                vec![
                    account.into(),
                    digest.into(),
                    record.segment_id.clone().into(),
                    Arg::from(&record.reason),
                    record.raw.clone().into_bytes().into(),
                    chunk.now.into(),
                    chunk.now.into(),
                    Arg::from(1_i64),
                    chunk.range.from.into(),
                    chunk.range.to.into(),
                    (chunk.now + chunk.quarantine_retry_delay).into(),
                ]
            })
            .collect();
        self.run(Stmt::rows(
            "insert into aside (account, digest, segment_id, reason, raw, first_seen, last_seen, times, from_ms, to_ms, due) values ",
            rows,
            // The delay doubles each time. Two windows that hold the same record narrow down its
            // range.
            " on conflict (account, digest) do update set last_seen = excluded.last_seen, times = aside.times + 1,
             reason = excluded.reason, resolved = null,
             due = excluded.last_seen + (excluded.due - excluded.last_seen) * (cast(1 as bigint) << cast(case when aside.times > 8 then 8 else aside.times end as int)),
             from_ms = case when excluded.from_ms > aside.from_ms and excluded.from_ms < aside.to_ms then excluded.from_ms else aside.from_ms end,
             to_ms = case when excluded.to_ms < aside.to_ms and excluded.to_ms > aside.from_ms then excluded.to_ms else aside.to_ms end",
        ))
        .await
        .map(drop)
    }
}
