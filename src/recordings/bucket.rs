//! A bucket as the recording store: S3, Google Cloud Storage or Azure.
//!
//! A short recording is one request under its final name. A longer one is uploaded in parts under a
//! temporary name, because its hash is known only at the end, and then copied by the provider.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStoreExt as _, PutMultipartOptions, PutOptions,
    PutPayload,
};
use rand::Rng as _;
use reqwest::Method;
use secrecy::SecretString;

use super::folder::UNFINISHED;
use super::{AudioStream, PartialUpload, StoreError, StoredObject};
use crate::model::AudioType;
use crate::sink::object_store::{BucketClient, OpenedStore, open_store};

/// The size of a part. Providers require at least 5 MiB, and S3 permits 10,000 parts.
const PART_BYTES: usize = 8 * 1024 * 1024;

#[derive(Clone)]
pub(super) struct Bucket {
    client: Arc<dyn BucketClient>,
    prefix: Path,
    pub(super) display_name: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.display_name).finish()
    }
}

impl Bucket {
    pub(super) fn new(url: &str, options: &BTreeMap<String, SecretString>) -> Result<Bucket, StoreError> {
        match open_store(url, options).map_err(|error| StoreError::from_sink("write", &error))? {
            OpenedStore::Bucket { client, prefix, display_name } => Ok(Bucket { client, prefix, display_name }),
            OpenedStore::Folder(_) => Err(StoreError::invalid_name("a folder")),
        }
    }

    pub(super) async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<AudioStream, StoreError> {
        let location = self.location(name)?;
        let (body, rest) = self.get(&location, range).await?;
        let reading = ObjectReading { bucket: self.clone(), location, body, rest, has_progress: false };
        Ok(stream::try_unfold(reading, ObjectReading::next_chunk).boxed())
    }

    /// Requests an object, or a range of it. Returns which bytes come, too.
    async fn get(&self, location: &Path, range: Option<Range<u64>>) -> Result<(ObjectBody, Range<u64>), StoreError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = self.client.get_opts(location, options).await.map_err(|error| self.error("read", &error))?;
        let range = found.range.clone();
        Ok((found.into_stream(), range))
    }

    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.client.head(&self.location(name)?).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error("read", &error)),
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.client.delete(&self.location(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("delete", &error)),
        }
    }

    pub(super) fn list(&self) -> BoxStream<'static, Result<StoredObject, StoreError>> {
        let bucket = self.clone();
        let objects = self.client.list(Some(&self.prefix));
        let described = objects.map(move |found| found.map_err(|error| bucket.error("list", &error)));
        let prefix = self.prefix.clone();
        let named = described.filter_map(move |found| {
            let object = found.map(|found| stored_object(&prefix, &found)).transpose();
            async move { object.filter(|one| one.as_ref().is_err() || is_finished(one)) }
        });
        named.boxed()
    }

    /// A link with which anybody can read an object until it expires.
    pub(super) async fn signed_url(&self, name: &str, expires_in: Duration) -> Result<String, StoreError> {
        let signed = self.client.signed_url(Method::GET, &self.location(name)?, expires_in).await;
        signed.map(String::from).map_err(|error| self.error("sign a link", &error))
    }

    /// The objects of uploads that did not end, or have not ended yet.
    pub(super) async fn list_unfinished(&self) -> Result<Vec<StoredObject>, StoreError> {
        let folder = self.prefix.clone().join(UNFINISHED);
        let mut objects = self.client.list(Some(&folder));
        let mut unfinished = Vec::new();
        while let Some(found) = objects.next().await {
            let found = found.map_err(|error| self.error("list", &error))?;
            unfinished.extend(stored_object(&self.prefix, &found));
        }
        Ok(unfinished)
    }

    /// Discards the parts of an upload, and its temporary object. What does not exist counts as
    /// discarded.
    pub(super) async fn discard(&self, partial: &PartialUpload) -> Result<(), StoreError> {
        let location = self.location(&partial.name)?;
        // Of an upload that is complete, only the object is left.
        let aborted = match self.client.abort_multipart(&location, &partial.upload_id).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            // Its parts hold audio: it must not be forgotten.
            Err(error) => Err(self.error("delete", &error)),
        };
        self.delete(&partial.name).await.and(aborted)
    }

    fn location(&self, name: &str) -> Result<Path, StoreError> {
        let relative = Path::parse(name).map_err(|_| StoreError::invalid_name(name))?;
        Ok(self.prefix.parts().chain(relative.parts()).collect())
    }

    fn error(&self, doing: &str, error: &object_store::Error) -> StoreError {
        StoreError::from_bucket(doing, error, &self.display_name)
    }
}

type ObjectBody = BoxStream<'static, object_store::Result<Bytes>>;

/// An object that is being read. A response has a time limit, which a listener exceeds who takes the
/// audio as it plays: what is left is requested again, as long as each response brings something.
struct ObjectReading {
    bucket: Bucket,
    location: Path,
    body: ObjectBody,
    rest: Range<u64>,
    has_progress: bool,
}

impl ObjectReading {
    async fn next_chunk(mut self) -> Result<Option<(Bytes, ObjectReading)>, StoreError> {
        loop {
            match self.body.next().await {
                None => return Ok(None),
                Some(Ok(chunk)) => {
                    self.rest.start += chunk.len() as u64;
                    self.has_progress = true;
                    return Ok(Some((chunk, self)));
                }
                Some(Err(_)) if self.has_progress && !self.rest.is_empty() => {
                    let rest = Some(self.rest.clone());
                    (self.body, self.rest) = self.bucket.get(&self.location, rest).await?;
                    self.has_progress = false;
                }
                Some(Err(error)) => return Err(self.bucket.error("read", &error)),
            }
        }
    }
}

fn stored_object(prefix: &Path, found: &ObjectMeta) -> Option<StoredObject> {
    let name: Path = found.location.prefix_match(prefix)?.collect();
    Some(StoredObject { name: name.to_string(), size: found.size, modified: found.last_modified.into() })
}

fn is_finished(object: &Result<StoredObject, StoreError>) -> bool {
    object.as_ref().is_ok_and(|object| !object.name.starts_with(UNFINISHED))
}

/// A recording on its way into a bucket.
#[derive(Debug)]
pub(super) struct BucketUpload {
    bucket: Bucket,
    /// What is not a part yet. Less than one part.
    buffer: BytesMut,
    partial: Option<PartialUpload>,
    parts: Vec<PartId>,
}

impl BucketUpload {
    pub(super) fn begin(bucket: &Bucket) -> BucketUpload {
        BucketUpload { bucket: bucket.clone(), buffer: BytesMut::new(), partial: None, parts: Vec::new() }
    }

    /// Returns the upload where this chunk begins one. No part is sent before the next chunk.
    pub(super) async fn write(&mut self, chunk: &[u8]) -> Result<Option<PartialUpload>, StoreError> {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() < PART_BYTES {
            return Ok(None);
        }
        if self.partial.is_none() {
            let name = format!("{UNFINISHED}/{:032x}", rand::rng().random::<u128>());
            let location = self.bucket.location(&name)?;
            let created = self.bucket.client.create_multipart_opts(&location, PutMultipartOptions::default()).await;
            let upload_id = created.map_err(|error| self.bucket.error("write", &error))?;
            self.partial = Some(PartialUpload { name, upload_id });
            return Ok(self.partial.clone());
        }
        while self.buffer.len() >= PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.put_part(part).await?;
        }
        Ok(None)
    }

    async fn put_part(&mut self, part: Bytes) -> Result<(), StoreError> {
        let Some(partial) = &self.partial else { return Ok(()) };
        let location = self.bucket.location(&partial.name)?;
        let payload = PutPayload::from_bytes(part);
        let sent = self.bucket.client.put_part(&location, &partial.upload_id, self.parts.len(), payload).await;
        self.parts.push(sent.map_err(|error| self.bucket.error("write", &error))?);
        Ok(())
    }

    pub(super) async fn finish(&mut self, name: &str, audio: AudioType) -> Result<(), StoreError> {
        let target = self.bucket.location(name)?;
        let Some(partial) = self.partial.clone() else {
            let rest = std::mem::take(&mut self.buffer).freeze();
            let mut attributes = Attributes::new();
            attributes.insert(Attribute::ContentType, audio.media_type().into());
            let options = PutOptions { attributes, ..PutOptions::default() };
            let written = self.bucket.client.put_opts(&target, PutPayload::from_bytes(rest), options).await;
            return written.map(drop).map_err(|error| self.bucket.error("write", &error));
        };
        while !self.buffer.is_empty() {
            let part = self.buffer.split_to(PART_BYTES.min(self.buffer.len())).freeze();
            self.put_part(part).await?;
        }
        let (client, location) = (&self.bucket.client, self.bucket.location(&partial.name)?);
        let finish = async {
            client.complete_multipart(&location, &partial.upload_id, std::mem::take(&mut self.parts)).await?;
            client.copy(&location, &target).await?;
            client.delete(&location).await
        };
        finish.await.map_err(|error| self.bucket.error("write", &error))
    }

    pub(super) async fn discard(&self) -> Result<(), StoreError> {
        match &self.partial {
            Some(partial) => self.bucket.discard(partial).await,
            None => Ok(()),
        }
    }
}
