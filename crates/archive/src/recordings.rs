//! Recordings: a row for each version of each recording, the objects that no row names any more, and
//! the uploads in parts that have not ended.
//!
//! The bytes are in the recording store. A row and its object do not commit together: an object is
//! complete before its row exists, and it is deleted after its last row is gone. So an interruption
//! leaves an object without a row, never a row without an object; the sweep finds both.

use std::collections::{BTreeMap, BTreeSet};

use super::completion::{CompletedJob, JobOutcome};
use super::{AccountKey, Arg, Db, DbError, Item, Stmt, Tx, sql};
use crate::clock::{Time, millis};
use crate::model::{Artifact, AudioType, ItemState, Lane, RecordingFacts, RecordingReference};

/// A version of a recording.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RecordingRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The recording of the segment.
    pub item: Item,
    /// The version number.
    pub version: i64,
    /// The name of its object in the recording store.
    pub object: String,
    /// SHA-256 of the bytes as received.
    pub sha256: Vec<u8>,
    /// The number of bytes.
    #[sqlx(try_from = "i64")]
    pub size: u64,
    /// The format.
    #[sqlx(rename = "media_type", try_from = "MediaType")]
    pub audio: AudioType,
    /// How long it plays in milliseconds, if that is known.
    pub duration_ms: Option<i64>,
    /// The number of channels, if that is known.
    pub channels: Option<i64>,
    /// When it was stored.
    pub stored: Time,
}

impl RecordingRow {
    /// What leaves of the recording in place of its audio.
    pub fn reference(&self) -> RecordingReference {
        RecordingReference {
            object: self.object.clone(),
            sha256: self.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            bytes: self.size,
            media_type: self.audio.media_type().to_owned(),
            duration_ms: self.duration_ms.and_then(|millis| u64::try_from(millis).ok()),
            channels: self.channels.and_then(|channels| u64::try_from(channels).ok()),
            url: None,
        }
    }
}

#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct MediaType(String);

impl TryFrom<MediaType> for AudioType {
    type Error = ();

    fn try_from(MediaType(name): MediaType) -> Result<AudioType, ()> {
        AudioType::from_media_type(&name).ok_or(())
    }
}

/// An upload in parts that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct UploadRow {
    /// Its temporary name in the store.
    pub object: String,
    /// The provider's id of the upload.
    pub upload_id: String,
    /// The replica that began it.
    pub owner: String,
    /// When it began.
    pub started: Time,
}

const COLUMNS: &str =
    "r.account, r.item, r.version, r.object, r.sha256, r.size, r.media_type, r.duration_ms, r.channels, r.stored";

/// The migration that a program must know to read an archive with recordings.
const RECORDINGS_MIGRATION: i64 = 35;

impl Db {
    /// Shuts out programs from before recordings, which cannot read the rows of these. Notices that
    /// such a program gave the item of a recording since the migration get an item of their own. Call
    /// it before recordings are requested.
    pub async fn require_recording_support(&self) -> Result<(), DbError> {
        let oldest = self.meta("schema.oldest_writer").await?.and_then(|text| text.parse::<i64>().ok());
        let mut tx = self.begin().await?;
        if oldest.is_none_or(|oldest| oldest < RECORDINGS_MIGRATION) {
            tx.put_meta("schema.oldest_writer", &RECORDINGS_MIGRATION.to_string()).await?;
        }
        let renumber = sql("update sink_event set item = 2 - item where item > 0 and item % 4 = 3 and exists
             (select 1 from feed_notice n where n.account = sink_event.account and n.feed = sink_event.feed)");
        tx.run(renumber).await?;
        tx.commit().await
    }

    /// Whether the archive holds a recording.
    pub async fn has_recordings(&self) -> Result<bool, DbError> {
        Ok(self.value::<i64>(sql("select item from recording limit 1")).await?.is_some())
    }

    /// The newest recording of each of these segments, if it has one, in order of the segments' keys.
    pub async fn recordings_of(&self, segments: &[i64]) -> Result<Vec<RecordingRow>, DbError> {
        let items = segments.iter().map(|segment| Item::of(*segment, Artifact::Recording));
        let head = format!(
            "select {COLUMNS} from recording r where r.version =
             (select max(n.version) from recording n where n.item = r.item) and r.item in "
        );
        self.all(Stmt::list(&head, Vec::new(), items, " order by r.item")).await
    }

    /// The newest recording of a segment.
    pub async fn recording_of(&self, segment: i64) -> Result<Option<RecordingRow>, DbError> {
        Ok(self.recordings_of(&[segment]).await?.pop())
    }

    /// These versions of recordings.
    pub(crate) async fn recording_versions(&self, versions: &[(Item, i64)]) -> Result<Vec<RecordingRow>, DbError> {
        let rows = versions.iter().map(|(item, version)| vec![Arg::from(*item), (*version).into()]);
        const TAIL: &str = ") select r.account, r.item, r.version, r.object, r.sha256, r.size, r.media_type, r.duration_ms, r.channels, r.stored
             from v cross join recording r where r.item = v.item and r.version = v.version";
        self.all(Stmt::rows("with v (item, version) as (values ", rows.collect(), TAIL)).await
    }

    /// The next page of all versions of all recordings, or those of one account.
    pub async fn recording_page(
        &self,
        account: Option<AccountKey>,
        after: Option<(Item, i64)>,
        limit: usize,
    ) -> Result<Vec<RecordingRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select {COLUMNS} from recording r where ($1 = -1 or r.account = $1) and (r.item, r.version) > ($2, $3)
             order by r.item, r.version limit $4"
        ));
        let (item, version) = after.unwrap_or((Item(-1), 0));
        self.all(stmt.bind(account.unwrap_or(AccountKey::ALL)).bind(item).bind(version).bind(limit)).await
    }

    /// Number of versions of recordings, of all accounts or of one.
    pub async fn count_recordings(&self, account: Option<AccountKey>) -> Result<u64, DbError> {
        let stmt = sql("select count(*) from recording where ($1 = -1 or account = $1)");
        self.count(stmt.bind(account.unwrap_or(AccountKey::ALL))).await
    }

    /// Number of recordings whose row and whose entry in the feed do not agree.
    pub async fn count_inconsistent_recordings(&self, account: Option<AccountKey>) -> Result<u64, DbError> {
        let stmt = sql("select
             (select count(*) from artifact x left join recording r on r.item = x.item and r.version = x.version
              where ($1 = -1 or x.account = $1) and x.item % 4 = 3 and x.outcome = 0
              and (r.item is null or r.sha256 <> x.sha256 or r.size <> x.size or r.account <> x.account)) +
             (select count(*) from recording r where ($1 = -1 or r.account = $1)
              and not exists (select 1 from artifact x where x.item = r.item and x.version = r.version))");
        self.count(stmt.bind(account.unwrap_or(AccountKey::ALL))).await
    }

    /// The id of a segment in RingCX.
    pub async fn segment_id_of(&self, segment: i64) -> Result<Option<String>, DbError> {
        self.value(sql("select segment_id from segment where id = $1").bind(segment)).await
    }

    /// Those of these objects that a recording names.
    pub async fn named_objects(&self, objects: &[String]) -> Result<BTreeSet<String>, DbError> {
        let head = "select object from recording where object in ";
        let named = self.values(Stmt::list(head, Vec::new(), objects.iter(), "")).await?;
        Ok(named.into_iter().collect())
    }

    /// Objects that are to be deleted from the store: no recording names them any more.
    pub async fn objects_to_delete(&self, limit: usize) -> Result<Vec<String>, DbError> {
        let stmt = sql("select d.object from recording_deletion d
             where not exists (select 1 from recording r where r.object = d.object) order by d.object limit $1");
        self.values(stmt.bind(limit)).await
    }

    /// Number of objects that are to be deleted from the store.
    pub async fn count_objects_to_delete(&self) -> Result<u64, DbError> {
        let stmt = sql("select count(*) from recording_deletion d
             where not exists (select 1 from recording r where r.object = d.object)");
        self.count(stmt).await
    }

    /// Records that an object was deleted. If the same audio was stored for another segment meanwhile,
    /// its recording is requested again.
    pub async fn record_deleted_object(&self, object: &str, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.run(sql("delete from recording_deletion where object = $1").bind(object)).await?;
        let items: Vec<Item> =
            tx.values(sql("select item from recording where object = $1 order by item").bind(object)).await?;
        tx.request_recordings_again(&items, now).await?;
        tx.commit().await
    }

    /// Requests recordings again whose objects are missing. Those that were requested again before
    /// and were not available are left out. Returns how many are requested.
    pub async fn request_recordings_again(&self, items: &[Item], now: Time) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        let requested = tx.request_recordings_again(items, now).await?;
        tx.commit().await?;
        Ok(requested)
    }

    /// Records that an upload in parts begins.
    pub async fn record_upload(&self, upload: &UploadRow) -> Result<(), DbError> {
        let stmt = sql("insert into recording_upload (object, upload_id, owner, started) values ($1, $2, $3, $4)");
        let stmt = stmt.bind(&upload.object).bind(&upload.upload_id).bind(&upload.owner).bind(upload.started);
        self.run(stmt).await.map(drop)
    }

    /// Records that an upload in parts has ended.
    pub async fn forget_upload(&self, object: &str) -> Result<(), DbError> {
        self.run(sql("delete from recording_upload where object = $1").bind(object)).await.map(drop)
    }

    /// Uploads that have not ended: all, or those that began before a time.
    pub async fn open_uploads(&self, before: Time) -> Result<Vec<UploadRow>, DbError> {
        let stmt =
            sql("select object, upload_id, owner, started from recording_upload where started < $1 order by started");
        self.all(stmt.bind(before)).await
    }
}

impl Tx {
    /// Stores the rows of new versions. The objects of all these recordings are in use from now on.
    pub(super) async fn store_recordings(
        &mut self,
        accepted: &[&CompletedJob],
        new_versions: &[(&CompletedJob, i64)],
    ) -> Result<(), DbError> {
        let objects: BTreeSet<String> =
            accepted.iter().filter_map(|job| facts_of(job)).map(RecordingFacts::object_name).collect();
        if objects.is_empty() {
            return Ok(());
        }
        let head = "delete from recording_deletion where object in ";
        self.run(Stmt::list(head, Vec::new(), objects, "")).await?;
        let row = |(job, version): &(&CompletedJob, i64)| {
            let facts = facts_of(job)?;
            Some(vec![
                Arg::from(job.claim.item),
                (*version).into(),
                job.claim.lease.account.into(),
                facts.object_name().into(),
                facts.sha256.into(),
                facts.size.into(),
                facts.audio.media_type().into(),
                facts.duration.map(millis).into(),
                facts.channels.into(),
                job.at.into(),
            ])
        };
        let rows = new_versions.iter().filter_map(row).collect();
        let head = "insert into recording (item, version, account, object, sha256, size, media_type, duration_ms, channels, stored) values ";
        self.run(Stmt::rows(head, rows, "")).await.map(drop)
    }

    /// Deletes the recordings of these items. Objects that no other recording names are deleted from
    /// the store after the commit.
    pub(super) async fn delete_recordings(&mut self, items: &[Item]) -> Result<(), DbError> {
        let head = "delete from recording where item in ";
        let stmt = Stmt::list(head, Vec::new(), items.iter().copied(), " returning object");
        let objects: BTreeSet<String> = self.values(stmt).await?.into_iter().collect();
        self.add_deletions(objects).await
    }

    /// Deletes from the store, after the commit, the objects of refused jobs that nobody will fetch
    /// again: the segment was erased, or the item discarded, while the recording was under way.
    pub(super) async fn delete_refused_recordings(&mut self, refused: &[&CompletedJob]) -> Result<(), DbError> {
        let recorded = refused.iter().filter_map(|job| Some((job.claim.item, facts_of(job)?.object_name())));
        let mut objects: BTreeMap<Item, String> = recorded.collect();
        // Another owner of the account fetches these, and may be about to name the same object.
        let head = "select item from work where state = 0 and item in ";
        let open: Vec<Item> = self.values(Stmt::list(head, Vec::new(), objects.keys().copied(), "")).await?;
        objects.retain(|item, _| !open.contains(item));
        self.add_deletions(objects.into_values().collect()).await
    }

    /// Whether another recording names an object is decided when it is deleted: a transaction that
    /// runs at the same time may remove or add one.
    async fn add_deletions(&mut self, objects: BTreeSet<String>) -> Result<(), DbError> {
        let rows = objects.into_iter().map(|object| vec![object.into()]).collect();
        let head = "insert into recording_deletion (object) values ";
        self.run(Stmt::rows(head, rows, " on conflict (object) do nothing")).await.map(drop)
    }

    async fn request_recordings_again(&mut self, items: &[Item], now: Time) -> Result<u64, DbError> {
        let head = "select item, account from recording where item in ";
        let stmt = Stmt::list(head, Vec::new(), items.iter().copied(), " group by item, account");
        let known: Vec<(Item, AccountKey)> = self.all(stmt).await?;
        let rows = known.into_iter().map(|(item, account)| {
            vec![
                Arg::from(item),
                item.segment().into(),
                Artifact::Recording.code().into(),
                account.into(),
                Lane::Revisit.code().into(),
                ItemState::Open.code().into(),
                now.into(),
                now.into(),
                // As a refresh: the stored version stays if there is none to be had.
                1_i64.into(),
            ]
        });
        let head = "insert into work (item, segment, artifact, account, lane, state, due, created, visit) values ";
        self.run(Stmt::rows(head, rows.collect(), " on conflict (item) do nothing")).await
    }
}

fn facts_of(job: &CompletedJob) -> Option<&RecordingFacts> {
    match &job.outcome {
        JobOutcome::Answered { recording, .. } => recording.as_deref(),
        _ => None,
    }
}
