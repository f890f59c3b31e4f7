//! The recording store: a folder or a bucket that holds the audio of recordings.
//!
//! The database holds a row for each recording (`db::RecordingRow`), and the store an object named by
//! the hash of its bytes, so the same audio is stored once. An object appears whole or not at all:
//! bytes are streamed to a temporary name, hashed on the way, and get their name at the end. Memory
//! does not grow with the length of a recording.

mod bucket;
mod folder;
mod store_error;
pub mod sweep;
mod upload;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{RecordingPlace, RecordingSettings};

pub use crate::ringcx::AudioHeader;
pub use store_error::StoreError;
pub use upload::{PartialUpload, Upload};

use bucket::Bucket;

/// How many recordings are written to a folder at a time...
const MAX_FOLDER_UPLOADS: usize = 32;
/// ...and to a bucket. Each buffers up to two parts of 8 MiB.
const MAX_BUCKET_UPLOADS: usize = 8;

/// The bytes of an object, or of a range of it.
pub type AudioStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// An object of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its name: a path below the store's root.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// What fetching a recording needs.
#[derive(Debug, Clone)]
pub(crate) struct RecordingTarget {
    /// Where its bytes go.
    pub(crate) store: RecordingStore,
    /// The media type to ask for.
    pub(crate) accept: &'static str,
    /// The largest recording in bytes.
    pub(crate) max_bytes: u64,
    /// The name of this replica.
    pub(crate) owner: String,
}

impl RecordingTarget {
    /// What the settings say; `owner` is the name of this replica.
    ///
    /// # Errors
    /// If the store's URL or an option is invalid.
    pub(crate) fn new(settings: &RecordingSettings, owner: &str) -> Result<RecordingTarget, StoreError> {
        Ok(RecordingTarget {
            store: RecordingStore::new(settings)?,
            accept: settings.format.media_type(),
            max_bytes: settings.max_bytes,
            owner: owner.to_owned(),
        })
    }
}

/// A folder or a bucket with recordings. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct RecordingStore {
    place: Place,
    uploads: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
}

impl RecordingStore {
    /// Opens the store of the settings. Nothing is created or contacted yet.
    ///
    /// # Errors
    /// If the URL or an option is invalid.
    pub fn new(settings: &RecordingSettings) -> Result<RecordingStore, StoreError> {
        let (place, uploads) = match &settings.store {
            RecordingPlace::Folder(root) => (Place::Folder(root.clone()), MAX_FOLDER_UPLOADS),
            RecordingPlace::Bucket(url) => (Place::Bucket(Bucket::new(url, &settings.options)?), MAX_BUCKET_UPLOADS),
        };
        Ok(RecordingStore { place, uploads: Arc::new(Semaphore::new(uploads)) })
    }

    /// The folder or the bucket, for people.
    pub fn display_name(&self) -> String {
        match &self.place {
            Place::Folder(root) => root.display().to_string(),
            Place::Bucket(bucket) => bucket.display_name.clone(),
        }
    }

    /// A turn to upload, if one is free now.
    pub(crate) fn try_acquire_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.uploads.clone().try_acquire_owned().ok()
    }

    /// Waits for a turn to upload.
    pub(crate) async fn acquire_turn(&self) -> Option<OwnedSemaphorePermit> {
        // It fails only if the semaphore is closed, which does not happen.
        self.uploads.clone().acquire_owned().await.ok()
    }

    /// Begins an upload. Write the bytes to it, then finish it; dropped before, it leaves no object.
    ///
    /// # Errors
    /// If the store cannot be written to.
    pub async fn begin(&self) -> Result<Upload, StoreError> {
        Upload::begin(&self.place).await
    }

    /// Reads an object, or a range of it, as a stream. The range must be within its size.
    ///
    /// # Errors
    /// If the object does not exist ([`StoreError::is_missing`]), or the store cannot be read.
    pub async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<AudioStream, StoreError> {
        match &self.place {
            Place::Folder(root) => folder::read(root, name, range).await,
            Place::Bucket(bucket) => bucket.read(name, range).await,
        }
    }

    /// A link with which anybody can read an object until it expires; `None` for a folder, which has none.
    ///
    /// # Errors
    /// If the credentials of the bucket cannot be used.
    pub async fn signed_url(&self, name: &str, expires_in: Duration) -> Result<Option<String>, StoreError> {
        match &self.place {
            Place::Folder(_) => Ok(None),
            Place::Bucket(bucket) => bucket.signed_url(name, expires_in).await.map(Some),
        }
    }

    /// The size of an object; `None` if it does not exist.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match &self.place {
            Place::Folder(root) => folder::size(root, name).await,
            Place::Bucket(bucket) => bucket.size(name).await,
        }
    }

    /// Deletes an object. One that does not exist counts as deleted.
    ///
    /// # Errors
    /// If the store cannot be written to.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match &self.place {
            Place::Folder(root) => folder::delete(root, name).await,
            Place::Bucket(bucket) => bucket.delete(name).await,
        }
    }

    /// All objects, in no order. Temporary files and unfinished uploads are left out.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list(&self) -> Result<BoxStream<'static, Result<StoredObject, StoreError>>, StoreError> {
        match &self.place {
            Place::Folder(root) => folder::list(root.clone()).await,
            Place::Bucket(bucket) => Ok(bucket.list()),
        }
    }

    /// Temporary files and objects of uploads that did not end, or have not ended yet.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) async fn list_unfinished(&self) -> Result<Vec<StoredObject>, StoreError> {
        match &self.place {
            Place::Folder(root) => folder::list_unfinished(root).await,
            Place::Bucket(bucket) => bucket.list_unfinished().await,
        }
    }

    /// Discards an upload in parts that another process, or an earlier one, has begun.
    ///
    /// # Errors
    /// If the store cannot be written to.
    pub(crate) async fn discard(&self, partial: &PartialUpload) -> Result<(), StoreError> {
        match &self.place {
            // An upload to a bucket, from before the store was moved to a folder.
            Place::Folder(_) => Ok(()),
            Place::Bucket(bucket) => bucket.discard(partial).await,
        }
    }
}
