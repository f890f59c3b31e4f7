//! A recording on its way into the store: hashed and counted as its bytes arrive.

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use super::bucket::BucketUpload;
use super::folder::FolderUpload;
use super::{Place, StoreError};
use crate::model::RecordingFacts;
use crate::ringcx::AudioHeader;

/// An upload in parts that a bucket keeps until it is completed or discarded, also if this process
/// dies. It is recorded in the database, so that another process can discard it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialUpload {
    /// The temporary name.
    pub name: String,
    /// The provider's id of the upload.
    pub upload_id: String,
}

/// A recording that is being written.
pub struct Upload {
    digest: Context,
    size: u64,
    target: Target,
}

enum Target {
    Folder(FolderUpload),
    Bucket(BucketUpload),
    Done,
}

impl Upload {
    pub(super) async fn begin(place: &Place) -> Result<Upload, StoreError> {
        let target = match place {
            Place::Folder(root) => Target::Folder(FolderUpload::begin(root).await?),
            Place::Bucket(bucket) => Target::Bucket(BucketUpload::begin(bucket)),
        };
        Ok(Upload { digest: Context::new(&SHA256), size: 0, target })
    }

    /// Writes the next bytes. Returns the upload in parts where these bytes begin one: record it
    /// before the next write, so that a crash leaves no part that nobody knows.
    ///
    /// # Errors
    /// If the store cannot be written to.
    pub async fn write(&mut self, chunk: &Bytes) -> Result<Option<PartialUpload>, StoreError> {
        self.digest.update(chunk);
        self.size += chunk.len() as u64;
        match &mut self.target {
            Target::Folder(upload) => upload.write(chunk).await.map(|()| None),
            Target::Bucket(upload) => upload.write(chunk).await,
            Target::Done => Ok(None),
        }
    }

    /// The bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Completes the object under its name. One that exists is replaced: it has the same bytes.
    ///
    /// # Errors
    /// If the store cannot be written to. Discard the upload then.
    pub async fn finish(&mut self, header: AudioHeader) -> Result<RecordingFacts, StoreError> {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.digest.clone().finish().as_ref());
        let AudioHeader { audio, duration, channels } = header;
        let facts = RecordingFacts { sha256, size: self.size, audio, duration, channels };
        match &mut self.target {
            Target::Bucket(upload) => upload.finish(&facts.object_name(), audio).await?,
            target => {
                if let Target::Folder(upload) = std::mem::replace(target, Target::Done) {
                    upload.finish(&facts.object_name()).await?;
                }
            }
        }
        Ok(facts)
    }

    /// Gives the upload up, and leaves nothing of it.
    ///
    /// # Errors
    /// If the store cannot be written to. The sweep discards the rest.
    pub async fn discard(self) -> Result<(), StoreError> {
        match self.target {
            Target::Bucket(upload) => upload.discard().await,
            // Its file is removed where it is dropped.
            Target::Folder(_) | Target::Done => Ok(()),
        }
    }
}
