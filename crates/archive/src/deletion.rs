//! Deletion of segments, by erasure or retention: tombstones, legal holds, and the journal.
//!
//! One transaction deletes some hundred segments of one account. It leaves a tombstone and a count,
//! and an entry in the journal. It blocks all other writers of the account: a result in flight is
//! either stored before and deleted too, or comes later and meets the tombstone.

mod legal_hold;
mod retention_notice;
mod subject_lookup;
mod tombstone_filter;
mod wipe_free_pages;

use std::collections::BTreeMap;

pub use legal_hold::{Hold, JournalAction, JournalEntry, JournalRow};
pub use retention_notice::RetentionNoticeRow;
pub use subject_lookup::{QuarantinedText, SegmentRef, SegmentTexts};
pub use tombstone_filter::Tombstone;
pub(super) use tombstone_filter::{ArchiveKey, TombstoneFilter, archive_key_damaged};
pub use wipe_free_pages::WipeOutcome;

use super::delivery_state::{NewNotice, NoticeKind};
use super::ingest::{DailyDigest, segment_id_digest, utc_day};
use super::sql::{ArtifactBits, utf8_lossy};
use super::{AccountKey, Arg, Db, DbError, Item, Lease, Stmt, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::TombstoneRecord;
use crate::model::{Artifact, ArtifactSet};
use crate::transaction_span::TransactionSpan;

/// Why a segment was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionReason {
    /// A person requested the erasure.
    Erased,
    /// It was past retention.
    Expired,
}

impl DeletionReason {
    pub(crate) const fn code(self) -> i64 {
        match self {
            DeletionReason::Erased => 0,
            DeletionReason::Expired => 1,
        }
    }

    pub(crate) fn from_code(code: i16) -> Option<DeletionReason> {
        [DeletionReason::Erased, DeletionReason::Expired].into_iter().find(|reason| reason.code() == i64::from(code))
    }
}

/// What one transaction deletes. All of it belongs to one account.
#[derive(Debug)]
pub struct DeletionBatch<'a> {
    /// The account.
    pub account: AccountKey,
    /// The lease to check, where a daemon deletes.
    pub lease: Option<Lease>,
    /// Keys of the segments.
    pub segments: &'a [i64],
    /// Digests of quarantined records.
    pub quarantined: &'a [Vec<u8>],
    /// Ids of segments that the archive does not have. They are refused when metadata announces
    /// them later.
    pub unknown_ids: &'a [String],
    /// Why they are deleted.
    pub reason: DeletionReason,
    /// The newest hold that the caller has checked; 0 where there is none.
    pub newest_hold_id: i64,
    /// The time of the deletion.
    pub at: Time,
    /// The entry for the journal, without the counts.
    pub journal_entry: &'a JournalEntry,
    /// The number of the erasure's entry in the access log; other entries then lose the ids of what
    /// is erased.
    pub access_entry: Option<i64>,
}

/// How much was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeletionCounts {
    /// Segments.
    pub segments: u64,
    /// Quarantined records.
    pub records: u64,
    /// Ids that will be refused.
    pub unknown_ids: u64,
}

impl DeletionCounts {
    /// Adds the counts of another transaction.
    pub fn add(&mut self, other: DeletionCounts) {
        self.segments += other.segments;
        self.records += other.records;
        self.unknown_ids += other.unknown_ids;
    }

    fn is_empty(self) -> bool {
        self == DeletionCounts::default()
    }
}

/// A segment that this transaction deletes.
#[derive(sqlx::FromRow)]
pub(super) struct PendingDeletion {
    pub(super) key: i64,
    pub(super) segment_id: String,
    dialog_id: Option<String>,
    pub(super) ended: Time,
    #[sqlx(try_from = "ArtifactBits")]
    asked: ArtifactSet,
}

impl Db {
    /// Deletes a batch. Returns `None`, and deletes nothing, where a hold or a segment was added
    /// since the caller selected the batch: select it again.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` where the lease has ended; nothing is deleted then.
    pub async fn delete_batch(&self, batch: &DeletionBatch<'_>) -> Result<Option<DeletionCounts>, DbError> {
        let _span = TransactionSpan::start("delete_batch", batch.segments.len());
        let mut tx = self.begin().await?;
        tx.advisory_lock("keeping").await?;
        if tx.newest_hold_id().await? > batch.newest_hold_id {
            return Ok(None);
        }
        tx.lock_account_exclusively(batch.account, batch.lease).await?;
        if tx.any_segment_stored(batch.account, batch.unknown_ids).await? {
            return Ok(None);
        }
        let key = tx.get_or_create_archive_key().await?;
        let pending = tx.pending_deletions(batch.account, batch.segments).await?;
        let mut counts = DeletionCounts { segments: pending.len() as u64, ..DeletionCounts::default() };
        tx.delete_segments(batch.account, &pending).await?;
        // The segments first: their tombstones are marked as counted. A quarantined record with the
        // id of a segment would leave one that is not, and the segment would be counted again at
        // its next announcement.
        tx.tombstone_segments(&key, batch, &pending).await?;
        let ids = pending.iter().map(|segment| (segment.segment_id.clone(), segment.dialog_id.clone()));
        tx.keep_export_erasures(&key, batch.account, ids, batch.at, batch.reason).await?;
        tx.announce_deletions(batch, &pending).await?;
        counts.records = tx.delete_quarantined(&key, batch, &pending).await?;
        counts.unknown_ids = tx.tombstone_unknown_ids(&key, batch).await?;
        if let Some(erasure) = batch.access_entry {
            let segments = pending.iter().map(|segment| segment.segment_id.as_str());
            let segments = segments.chain(batch.unknown_ids.iter().map(String::as_str));
            let dialogs = pending.iter().filter_map(|segment| segment.dialog_id.as_deref());
            tx.blank_access_ids(segments, dialogs, erasure).await?;
        }
        if !counts.is_empty() {
            tx.append_journal(
                batch.journal_entry,
                &key,
                batch.at,
                Some(batch.account),
                (counts.segments, counts.records),
            )
            .await?;
        }
        tx.commit().await?;
        Ok(Some(counts))
    }

    /// Creates the archive's key where nothing was ever erased or put on hold.
    pub(super) async fn ensure_archive_key(&self) -> Result<(), DbError> {
        if self.stored_archive_key().await?.is_none() {
            let mut tx = self.begin().await?;
            tx.advisory_lock("keeping").await?;
            tx.get_or_create_archive_key().await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Removes the words of deleted segments from the index's files. Call it after the last of
    /// several deletions.
    pub async fn purge_deleted(&self) -> Result<(), DbError> {
        self.purge_index().await
    }
}

impl Tx {
    /// Blocks all other writers of the account until this transaction ends.
    async fn lock_account_exclusively(&mut self, account: AccountKey, lease: Option<Lease>) -> Result<(), DbError> {
        match (self.lock_account_for_update(account).await?, lease) {
            (None, _) => Err(DbError::lease_lost(account)),
            (Some(epoch), Some(lease)) if epoch != lease.epoch => Err(DbError::lease_lost(account)),
            _ => Ok(()),
        }
    }

    async fn any_segment_stored(&mut self, account: AccountKey, ids: &[String]) -> Result<bool, DbError> {
        let head = "select id from segment where account = $1 and segment_id in ";
        let stmt = Stmt::list(head, vec![account.into()], ids.iter().map(String::as_str), " limit 1");
        Ok(self.value::<i64>(stmt).await?.is_some())
    }

    pub(super) async fn pending_deletions(
        &mut self,
        account: AccountKey,
        keys: &[i64],
    ) -> Result<Vec<PendingDeletion>, DbError> {
        let head = "select id as key, segment_id, dialog_id, ended, asked from segment where account = $1 and id in ";
        self.all(Stmt::list(head, vec![account.into()], keys.iter().copied(), "")).await
    }

    /// Deletes all rows of these segments.
    pub(super) async fn delete_segments(
        &mut self,
        account: AccountKey,
        pending: &[PendingDeletion],
    ) -> Result<(), DbError> {
        if pending.is_empty() {
            return Ok(());
        }
        self.record_highest_segment_id().await?;
        let items: Vec<Item> = pending.iter().flat_map(|segment| Item::all_of(segment.key)).collect();
        self.remove_from_index(&items).await?;
        self.delete_failed_deliveries(&items).await?;
        self.keep_entry_leaves(account, &items).await?;
        let keys: Vec<i64> = pending.iter().map(|segment| segment.key).collect();
        self.keep_erased_leaves(&keys).await?;
        self.delete_metadata_notices(&keys).await?;
        self.delete_recordings(&items).await?;
        for head in [
            "delete from artifact where item in ",
            "delete from attempt where item in ",
            "delete from work where item in ",
        ] {
            self.run(Stmt::list(head, Vec::new(), items.iter().copied(), "")).await?;
        }
        for head in ["delete from segment_version where segment in ", "delete from segment where id in "] {
            self.run(Stmt::list(head, Vec::new(), keys.iter().copied(), "")).await?;
        }
        Ok(())
    }

    /// Deletes quarantined records: those of the batch, and those of the segments. Tombstones keep
    /// them from coming back.
    async fn delete_quarantined(
        &mut self,
        key: &ArchiveKey,
        batch: &DeletionBatch<'_>,
        pending: &[PendingDeletion],
    ) -> Result<u64, DbError> {
        const DELETE: &str = "delete from aside where account = $1 and digest in ";
        let of_account = || vec![batch.account.into()];
        let stmt = Stmt::list(DELETE, of_account(), batch.quarantined.iter().cloned(), " returning segment_id, raw");
        let records: Vec<(Option<String>, Vec<u8>)> = self.all(stmt).await?;
        let mut deleted = records.len() as u64;
        if batch.reason == DeletionReason::Erased {
            let tombstones = records.iter().map(|(id, raw)| match id {
                // A later version may understand the record: it is announced and counted then.
                Some(id) => (key.hash_segment_id(id), UNKNOWN_DAY, false),
                None => (key.hash_record(raw), UNKNOWN_DAY, true),
            });
            self.insert_tombstones(batch, tombstones).await?;
        }
        let holds = self.holds(Some(batch.account)).await?;
        // The record may name a contact on hold that the segment itself does not name.
        let head = "select digest, segment_id, raw from aside where account = $1 and segment_id in ";
        let ids = pending.iter().map(|segment| segment.segment_id.as_str());
        let mut records: Vec<(Vec<u8>, Option<String>, Vec<u8>)> =
            self.all(Stmt::list(head, of_account(), ids, "")).await?;
        records.retain_mut(|(_, id, raw)| {
            !tombstone_filter::is_quarantined_held(&holds, id.as_deref(), &utf8_lossy(std::mem::take(raw)))
        });
        let unheld = records.into_iter().map(|(digest, ..)| digest);
        deleted += self.run(Stmt::list(DELETE, of_account(), unheld, "")).await?;
        Ok(deleted)
    }

    /// Tells the sinks about the deletions.
    async fn announce_deletions(
        &mut self,
        batch: &DeletionBatch<'_>,
        pending: &[PendingDeletion],
    ) -> Result<(), DbError> {
        if !self.announces_erasures().await? {
            return Ok(());
        }
        let kind = match batch.reason {
            DeletionReason::Erased => NoticeKind::Erased,
            DeletionReason::Expired => NoticeKind::Expired,
        };
        let notices: Vec<NewNotice<'_>> = pending
            .iter()
            .map(|segment| NewNotice { kind, segment: segment.key, segment_id: &segment.segment_id, version: 1 })
            .collect();
        self.append_notices(batch.account, &notices, batch.at).await
    }

    /// Inserts a tombstone for each segment, and moves its counts from the announced to the
    /// deleted.
    async fn tombstone_segments(
        &mut self,
        key: &ArchiveKey,
        batch: &DeletionBatch<'_>,
        pending: &[PendingDeletion],
    ) -> Result<(), DbError> {
        let mut digest = DailyDigest::default();
        let mut days: BTreeMap<i64, [i64; 5]> = BTreeMap::new();
        for segment in pending {
            digest.add(segment.ended, segment_id_digest(&segment.segment_id), -1);
            let day = days.entry(utc_day(segment.ended)).or_default();
            day[0] += 1;
            for artifact in Artifact::ALL {
                day[1 + usize::from(artifact.code().unsigned_abs())] += i64::from(segment.asked.contains(artifact));
            }
        }
        self.add_to_daily_digest(batch.account, digest).await?;
        self.add_deletion_counts(batch.account, batch.reason, days).await?;
        let tombstones =
            pending.iter().map(|segment| (key.hash_segment_id(&segment.segment_id), utc_day(segment.ended), true));
        self.insert_tombstones(batch, tombstones).await
    }

    /// Inserts tombstones for ids that have not been announced.
    async fn tombstone_unknown_ids(&mut self, key: &ArchiveKey, batch: &DeletionBatch<'_>) -> Result<u64, DbError> {
        self.insert_tombstones(batch, batch.unknown_ids.iter().map(|id| (key.hash_segment_id(id), UNKNOWN_DAY, false)))
            .await?;
        Ok(batch.unknown_ids.len() as u64)
    }

    async fn insert_tombstones(
        &mut self,
        batch: &DeletionBatch<'_>,
        tombstones: impl Iterator<Item = (Vec<u8>, i64, bool)>,
    ) -> Result<(), DbError> {
        let mut new: BTreeMap<Vec<u8>, (i64, bool)> =
            tombstones.map(|(hash, day, counted)| (hash, (day, counted))).collect();
        for (hash, _) in self.find_tombstones(batch.account, new.keys().cloned()).await? {
            new.remove(&hash);
        }
        if new.is_empty() {
            return Ok(());
        }
        let mut chain = self.record_chain(batch.account).await?;
        let rows: Vec<Vec<Arg>> = new
            .into_iter()
            .map(|(hash, (day, counted))| {
                let (at, kind) = (batch.at.0, batch.reason.code());
                let (record, leaf) =
                    chain.append(|record, sub| TombstoneRecord { record, sub, hash: &hash, at, kind, day }.leaf());
                vec![
                    batch.account.into(),
                    hash.into(),
                    at.into(),
                    kind.into(),
                    day.into(),
                    counted.into(),
                    record.into(),
                    leaf.into(),
                ]
            })
            .collect();
        self.save_record_chain(chain).await?;
        let head = "insert into tombstone (account, hash, at, kind, day, counted, record, leaf) values ";
        self.run(Stmt::rows(head, rows, "")).await.map(drop)
    }

    /// Adds to the daily counts of deleted segments: in all, and per artifact those for which it
    /// had been requested.
    pub(super) async fn add_deletion_counts(
        &mut self,
        account: AccountKey,
        reason: DeletionReason,
        days: BTreeMap<i64, [i64; 5]>,
    ) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = days
            .into_iter()
            .map(|(day, counts)| {
                [account.0, day, reason.code()].into_iter().chain(counts).map(Arg::from).collect::<Vec<Arg>>()
            })
            .collect();
        self.run(Stmt::rows(
            "insert into erased (account, day, kind, segments, transcripts, agent_summaries, auto_summaries, recordings) values ",
            rows,
            " on conflict (account, day, kind) do update set segments = erased.segments + excluded.segments,
             transcripts = erased.transcripts + excluded.transcripts,
             agent_summaries = erased.agent_summaries + excluded.agent_summaries,
             auto_summaries = erased.auto_summaries + excluded.auto_summaries,
             recordings = erased.recordings + excluded.recordings",
        ))
        .await
        .map(drop)
    }

    /// The secret that keys the tombstones' hashes. It is created at its first use.
    pub(super) async fn get_or_create_archive_key(&mut self) -> Result<ArchiveKey, DbError> {
        if let Some(key) = self.stored_archive_key().await? {
            return Ok(key);
        }
        // Tombstones exist, so a key is missing: a new one would not match them.
        if self.value::<i64>(sql("select account from tombstone limit 1")).await?.is_some() {
            return Err(archive_key_damaged());
        }
        let (key, text) = ArchiveKey::new(&mut rand::rng())?;
        self.put_meta(tombstone_filter::ARCHIVE_KEY_META, &text).await?;
        Ok(key)
    }
}

/// Day of segments without an end time, or with an unknown one.
const UNKNOWN_DAY: i64 = -1;
