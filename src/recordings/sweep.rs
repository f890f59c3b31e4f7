//! Keeps the store and the database in step: deletes objects that no recording names, requests
//! recordings again whose objects are missing, and discards uploads that never ended.
//!
//! Every step can be interrupted and repeated. Only objects with the names that this program gives
//! are deleted, so a store may be in a folder with other files.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;

use super::folder::UNFINISHED;
use super::{PartialUpload, RecordingStore, StoreError, StoredObject};
use crate::clock::Time;
use crate::db::{Db, DbError, Item};

/// An object without a row may belong to a recording that is being committed, until it is this old.
const MIN_ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);
/// An upload of another replica that was written to in this time may still go on.
const MIN_UPLOAD_AGE: Duration = Duration::from_secs(3600);
/// An upload in parts of another replica that began so long ago has ended: a recording may take half
/// of this.
const MAX_UPLOAD_TIME: Duration = Duration::from_secs(24 * 3600);
/// Rows and objects that are compared at a time.
const PAGE: usize = 500;
/// So many orphans are deleted, and so many missing recordings requested, whatever their share is.
const USUAL_COUNT: u64 = 20;
/// Above that, orphans are kept if they are more than one in so many objects...
const MIN_OBJECTS_PER_ORPHAN: u64 = 10;
/// ...and missing recordings are not requested at once if they are more than one in so many.
const MIN_RECORDINGS_PER_MISSING: u64 = 2;
/// More orphans than this are left to the next comparison.
const MAX_ORPHANS: usize = 10_000;

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl SweepError {
    /// What an operator can do, if that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            SweepError::Store(error) => error.hint.as_deref(),
            SweepError::Database(error) => error.hint(),
        }
    }
}

/// What a sweep found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepSummary {
    /// Objects that no recording names, and that were deleted.
    pub orphans: u64,
    /// Such objects that were kept, because they are an unusual share of the store.
    pub kept_orphans: u64,
    /// Recordings without an object.
    pub missing: u64,
    /// Missing ones that are not requested yet, because most objects are missing.
    pub postponed: u64,
    /// Missing ones that are requested again now.
    pub requested: u64,
}

/// Deletes the objects whose last recording was erased. Returns how many.
///
/// # Errors
/// If the store or the database cannot be used. The rest is deleted later.
pub async fn delete_unnamed_objects(db: &Db, store: &RecordingStore, now: Time) -> Result<u64, SweepError> {
    let mut deleted = 0;
    loop {
        let objects = db.objects_to_delete(PAGE).await?;
        if objects.is_empty() {
            return Ok(deleted);
        }
        for object in objects {
            store.delete(&object).await?;
            db.record_deleted_object(&object, now).await?;
            deleted += 1;
        }
    }
}

/// Discards what uploads have left that never ended. `owner` is this replica. With the time at which
/// it started, its earlier uploads are discarded at once; where no other process may write to the
/// store, `is_alone`, all earlier ones.
///
/// # Errors
/// If the store or the database cannot be used.
pub async fn discard_dead_uploads(
    db: &Db,
    store: &RecordingStore,
    owner: &str,
    (started, is_alone): (Option<Time>, bool),
    now: Time,
) -> Result<u64, SweepError> {
    let mut discarded = 0;
    for upload in db.open_uploads(Time(i64::MAX)).await? {
        let is_earlier = started.is_some_and(|started| upload.started < started);
        let is_dead = now.since(upload.started) > MAX_UPLOAD_TIME || is_earlier && (is_alone || upload.owner == owner);
        if is_dead {
            store.discard(&PartialUpload { name: upload.object.clone(), upload_id: upload.upload_id }).await?;
            db.forget_upload(&upload.object).await?;
            discarded += 1;
        }
    }
    // Uploads that are not recorded: files, and objects whose row was deleted just before a crash.
    let recorded: BTreeSet<String> =
        db.open_uploads(Time(i64::MAX)).await?.into_iter().map(|upload| upload.object).collect();
    for left in store.list_unfinished().await? {
        let is_earlier = started.is_some_and(|started| is_alone && modified(&left) < started);
        let is_dead = is_earlier || age(&left, now) > MIN_UPLOAD_AGE;
        if is_dead && !recorded.contains(&left.name) && is_unfinished_name(&left.name) {
            store.delete(&left.name).await?;
            discarded += 1;
        }
    }
    Ok(discarded)
}

/// Compares all recordings with all objects. If most objects are missing, the folder or the bucket may be
/// a wrong one: nothing is deleted or requested unless that `is_confirmed` by an earlier comparison.
///
/// # Errors
/// If the store or the database cannot be used.
pub async fn compare(
    db: &Db,
    store: &RecordingStore,
    now: Time,
    is_confirmed: bool,
) -> Result<SweepSummary, SweepError> {
    let listing = list_objects(db, store, now).await?;
    let mut summary = SweepSummary::default();
    let (mut recordings, mut missing): (u64, Vec<(Item, i64)>) = (0, Vec::new());
    let mut after = None;
    loop {
        let page = db.recording_page(None, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some((last.item, last.version));
        recordings += page.len() as u64;
        for row in page.iter().filter(|row| !listing.holds(&row.object)) {
            // It may have been stored since the objects were listed.
            if store.size(&row.object).await?.is_none() {
                missing.push((row.item, row.version));
            }
        }
    }
    summary.missing = missing.len() as u64;
    if !is_confirmed && is_unusual(summary.missing, recordings, MIN_RECORDINGS_PER_MISSING) {
        summary.postponed = summary.missing;
        return Ok(summary);
    }
    for part in missing.chunks(PAGE) {
        // Only the newest version can be had again.
        let segments: Vec<i64> = part.iter().map(|(item, _)| item.segment()).collect();
        let newest = db.recordings_of(&segments).await?;
        let wanted = newest.iter().filter(|row| part.contains(&(row.item, row.version)));
        let items: Vec<Item> = wanted.map(|row| row.item).collect();
        summary.requested += db.request_recordings_again(&items, now).await?;
    }
    if is_unusual(listing.orphan_count, listing.fingerprints.len() as u64, MIN_OBJECTS_PER_ORPHAN) {
        // The store may belong to another archive, or the database was replaced.
        summary.kept_orphans = listing.orphan_count;
        return Ok(summary);
    }
    for name in &listing.orphans {
        if db.named_objects(std::slice::from_ref(name)).await?.is_empty() {
            store.delete(name).await?;
            // A recording with the same audio may have been stored in the meantime.
            db.record_deleted_object(name, now).await?;
            summary.orphans += 1;
        }
    }
    Ok(summary)
}

/// What the store holds.
#[derive(Default)]
struct Listing {
    /// They stand for the names, so that memory does not grow much with the store.
    fingerprints: HashSet<u64>,
    /// Objects that no recording names, and that are too old to belong to one that is being committed.
    orphans: Vec<String>,
    /// The number of these, of which no more than [`MAX_ORPHANS`] are listed.
    orphan_count: u64,
}

impl Listing {
    fn holds(&self, object: &str) -> bool {
        fingerprint(object).is_some_and(|fingerprint| self.fingerprints.contains(&fingerprint))
    }

    /// Adds those of these objects that no recording names.
    async fn add_orphans(&mut self, db: &Db, old: Vec<String>) -> Result<(), DbError> {
        let named = db.named_objects(&old).await?;
        for name in old.into_iter().filter(|name| !named.contains(name)) {
            self.orphan_count += 1;
            if self.orphans.len() < MAX_ORPHANS {
                self.orphans.push(name);
            }
        }
        Ok(())
    }
}

async fn list_objects(db: &Db, store: &RecordingStore, now: Time) -> Result<Listing, SweepError> {
    let mut listing = Listing::default();
    let mut old: Vec<String> = Vec::new();
    let mut listed = store.list().await?;
    while let Some(object) = listed.next().await {
        let object = object?;
        let Some(fingerprint) = fingerprint(&object.name) else { continue };
        listing.fingerprints.insert(fingerprint);
        if age(&object, now) > MIN_ORPHAN_AGE {
            old.push(object.name);
        }
        if old.len() == PAGE {
            listing.add_orphans(db, std::mem::take(&mut old)).await?;
        }
    }
    listing.add_orphans(db, old).await?;
    Ok(listing)
}

/// Whether `count` is more than usual, and more than one in `per` of `total`.
fn is_unusual(count: u64, total: u64, per: u64) -> bool {
    count > USUAL_COUNT && count.saturating_mul(per) > total
}

/// The start of the hash in the name of an object; `None` for other files.
fn fingerprint(name: &str) -> Option<u64> {
    let (_, hash) = name.split_once('/').filter(|_| is_object_name(name))?;
    u64::from_str_radix(hash.get(..16)?, 16).ok()
}

fn modified(object: &StoredObject) -> Time {
    let modified = object.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(modified.as_millis()).unwrap_or(i64::MAX))
}

fn age(object: &StoredObject, now: Time) -> Duration {
    now.since(modified(object))
}

/// Whether this program gives an object such a name.
fn is_object_name(name: &str) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return false };
    let Some((hash, extension)) = file.split_once('.') else { return false };
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hash && folder.len() == 2 && hash.starts_with(folder) && matches!(extension, "wav" | "mp3")
}

fn is_unfinished_name(name: &str) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return false };
    let is_number = file.len() == 32 && file.bytes().all(|byte| byte.is_ascii_hexdigit());
    folder == UNFINISHED && (file.ends_with(".part") || is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_program_gives_are_swept() {
        let hash = "ab".repeat(32);
        assert!(is_object_name(&format!("ab/{hash}.wav")) && is_object_name(&format!("ab/{hash}.mp3")));
        for other in [
            format!("ac/{hash}.wav"),
            format!("ab/{hash}.txt"),
            format!("{hash}.wav"),
            format!("ab/x/{hash}.wav"),
            "ab/holiday.wav".to_owned(),
        ] {
            assert!(!is_object_name(&other), "{other}");
        }
        assert_eq!(fingerprint(&format!("ab/{hash}.wav")), Some(0xabab_abab_abab_abab));
        assert_eq!(fingerprint("ab/holiday.wav"), None);
        assert!(is_unfinished_name(".uploads/recording-x.part"));
        assert!(!is_unfinished_name(".uploads/notes.txt") && !is_unfinished_name("uploads/a.part"));
    }
}
