//! A sink that writes a batch of events as one object: to a bucket of S3, Google Cloud Storage or
//! Azure, or to a folder.
//!
//! An object appears whole or not at all. Writing it again under the same name replaces it, so a
//! retry is harmless. Errors never quote the store's response: URLs and responses may hold
//! signatures. Only failures that last a few seconds are retried here; the caller handles the rest.

mod folder;
mod parquet_rows;
mod store_errors;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme,
    PutOptions, PutPayload, RetryConfig,
};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

pub(crate) use parquet_rows::EventFile;

use super::SinkError;
use crate::clock::Time;
use crate::config::ObjectFormat;
use crate::event::Event;
use crate::file_descriptors;

/// How long writing one object may take, unless the option `timeout` is set.
const DEFAULT_WRITE_TIMEOUT: &str = "5m";
const PARQUET_MEDIA_TYPE: &str = "application/vnd.apache.parquet";
/// How many bytes of lines are built before other tasks get a turn.
const YIELD_AFTER_BYTES: usize = 1 << 20;

/// A bucket or folder that receives events.
#[derive(Debug)]
pub struct ObjectStoreSink {
    destination: Destination,
    format: ObjectFormat,
    /// Bucket or folder, as error messages name it.
    display_name: String,
}

#[derive(Debug)]
enum Destination {
    Bucket { store: Arc<dyn ObjectStore>, prefix: Path },
    Folder(std::path::PathBuf),
}

/// The name of an object: sub-account, day and hour at which the first event was stored, and the
/// feed numbers of its first and last event.
pub fn object_name(sub: &str, stored: Time, first: i64, last: i64) -> String {
    let hour = stored.timestamp().strftime("%Y/%m/%d/%H");
    format!("{}/{hour}/{first:020}-{last:020}", escape_path_part(sub))
}

/// Percent-encodes a name so that it is one path component everywhere.
pub(crate) fn escape_path_part(name: &str) -> String {
    let only_dots = name.bytes().all(|byte| byte == b'.');
    let keeps = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || byte == b'.' && !only_dots;
    name.bytes().map(|byte| if keeps(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl ObjectStoreSink {
    /// Creates a sink for `s3://bucket/prefix` (`gs`, `az` likewise) or `file:///folder`. Options
    /// that are not set come from the provider's environment variables, or from the machine's
    /// identity.
    ///
    /// # Errors
    /// If the URL or an option is invalid.
    pub fn new(
        url: &str,
        format: ObjectFormat,
        options: &BTreeMap<String, SecretString>,
    ) -> Result<ObjectStoreSink, SinkError> {
        let invalid_url =
            |why: &str| store_errors::setting_error(&format!("failed to read the sink's url: {why}"), URL_HINT);
        let parsed = Url::parse(url.trim()).map_err(|_| invalid_url("it is not a URL"))?;
        let (scheme, prefix) =
            ObjectStoreScheme::parse(&parsed).map_err(|_| invalid_url("it names no known object store"))?;
        let display_name = format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default());
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => {
                let root = parsed.to_file_path().map_err(|()| invalid_url("it is not a file path"))?;
                if let Some(name) = options.keys().next() {
                    return Err(store_errors::option_error(name, "a folder has no options", "remove the options"));
                }
                return Ok(ObjectStoreSink {
                    display_name: root.display().to_string(),
                    destination: Destination::Folder(root),
                    format,
                });
            }
            ObjectStoreScheme::AmazonS3 => build_s3(&parsed, options)?,
            ObjectStoreScheme::GoogleCloudStorage => build_google(&parsed, options)?,
            ObjectStoreScheme::MicrosoftAzure => build_azure(&parsed, options)?,
            _ => return Err(invalid_url("it names no known object store")),
        };
        Ok(ObjectStoreSink { destination: Destination::Bucket { store, prefix }, format, display_name })
    }

    /// The folder, if this sink writes to one.
    pub(crate) fn folder(&self) -> Option<&std::path::Path> {
        match &self.destination {
            Destination::Folder(root) => Some(root),
            Destination::Bucket { .. } => None,
        }
    }

    /// Writes the batch as one object under `name`, a path below the prefix without extension. An
    /// existing object is replaced.
    ///
    /// # Errors
    /// `SinkErrorKind::Unavailable` for every error of the store or the disk: it concerns the
    /// sink, not an event.
    pub async fn put(&self, name: &str, events: &[Event]) -> Result<(), SinkError> {
        let (extension, media_type) = match self.format {
            ObjectFormat::Jsonl => ("jsonl", "application/x-ndjson"),
            ObjectFormat::Parquet => ("parquet", PARQUET_MEDIA_TYPE),
        };
        let content = match self.format {
            ObjectFormat::Jsonl => build_json_lines(events).await,
            ObjectFormat::Parquet => parquet_rows::write_parquet(events).await?,
        };
        self.put_content(&format!("{name}.{extension}"), content, media_type).await
    }

    /// Writes a Parquet file under `name`, a path below the prefix.
    ///
    /// # Errors
    /// As [`ObjectStoreSink::put`].
    pub(crate) async fn put_parquet(&self, name: &str, file: Bytes) -> Result<(), SinkError> {
        self.put_content(name, vec![file], PARQUET_MEDIA_TYPE).await
    }

    async fn put_content(&self, name: &str, content: Vec<Bytes>, media_type: &'static str) -> Result<(), SinkError> {
        let relative_path = parse_name(name)?;
        let _place = file_descriptors::acquire_delivery_slot().await;
        match &self.destination {
            Destination::Folder(root) => folder::write_object(root.clone(), relative_path.to_string(), content)
                .await
                .map_err(|error| store_errors::folder_error(&error, &self.display_name)),
            Destination::Bucket { store, prefix } => {
                let mut attributes = Attributes::new();
                attributes.insert(Attribute::ContentType, media_type.into());
                let options = PutOptions { attributes, ..PutOptions::default() };
                let location = below(prefix, &relative_path);
                let written = store.put_opts(&location, PutPayload::from_iter(content), options).await;
                written.map(drop).map_err(|error| store_errors::store_error(&error, &self.display_name))
            }
        }
    }

    /// Deletes an object, if it exists.
    ///
    /// # Errors
    /// As [`ObjectStoreSink::put`].
    pub(crate) async fn delete(&self, name: &str) -> Result<(), SinkError> {
        let relative_path = parse_name(name)?;
        let _place = file_descriptors::acquire_delivery_slot().await;
        match &self.destination {
            Destination::Folder(root) => folder::delete_object(root.clone(), relative_path.to_string())
                .await
                .map_err(|error| store_errors::folder_error(&error, &self.display_name)),
            Destination::Bucket { store, prefix } => match store.delete(&below(prefix, &relative_path)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(store_errors::store_error(&error, &self.display_name)),
            },
        }
    }

    /// The names of the objects below a path, with that path.
    ///
    /// # Errors
    /// As [`ObjectStoreSink::put`].
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<String>, SinkError> {
        let relative_path = parse_name(path)?;
        let _place = file_descriptors::acquire_delivery_slot().await;
        match &self.destination {
            Destination::Folder(root) => folder::list_objects(root.clone(), relative_path.to_string())
                .await
                .map_err(|error| store_errors::folder_error(&error, &self.display_name)),
            Destination::Bucket { store, prefix } => {
                let mut objects = store.list(Some(&below(prefix, &relative_path)));
                let mut names = Vec::new();
                while let Some(object) = objects.next().await {
                    let object = object.map_err(|error| store_errors::store_error(&error, &self.display_name))?;
                    let parts: Option<Vec<_>> = object.location.prefix_match(prefix).map(Iterator::collect);
                    names.extend(parts.map(|parts| parts.into_iter().collect::<Path>().to_string()));
                }
                Ok(names)
            }
        }
    }
}

/// The location of an object in the bucket.
fn below(prefix: &Path, relative_path: &Path) -> Path {
    prefix.parts().chain(relative_path.parts()).collect()
}

fn parse_name(name: &str) -> Result<Path, SinkError> {
    Path::parse(name)
        .map_err(|_| SinkError::unavailable(format!("failed to write an object: {name} is not a valid name")))
}

const URL_HINT: &str = r#"give "s3://bucket/prefix", or the same with gs or az, or "file:///absolute/path""#;

/// Builds one CloudEvent per line.
async fn build_json_lines(events: &[Event]) -> Vec<Bytes> {
    let mut lines = Vec::with_capacity(events.len());
    let mut bytes = 0;
    for event in events {
        let mut line = event.cloud_event();
        line.push(b'\n');
        bytes += line.len();
        lines.push(Bytes::from(line));
        if bytes >= YIELD_AFTER_BYTES {
            bytes = 0;
            tokio::task::yield_now().await;
        }
    }
    lines
}

/// Retries short failures, such as a connection that the other end had just closed.
fn retry_config() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 2, retry_timeout: Duration::from_secs(10) }
}

/// Builds a store of one provider: from its environment variables, then our defaults, then the
/// options.
macro_rules! build_store {
    ($builder:ty, $key:ty, $url:expr, $options:expr) => {{
        let agent = concat!("ringcx-extractor/", env!("CARGO_PKG_VERSION"));
        let mut builder = <$builder>::from_env()
            .with_config(<$key>::Client(ClientConfigKey::Timeout), DEFAULT_WRITE_TIMEOUT)
            .with_config(<$key>::Client(ClientConfigKey::UserAgent), agent)
            .with_config(
                <$key>::Client(ClientConfigKey::PoolMaxIdlePerHost),
                $crate::file_descriptors::socket_limits().idle_per_sink.to_string(),
            )
            .with_retry($crate::sink::object_store::retry_config())
            .with_url($url.as_str());
        for (name, value) in $options {
            let key: $key = name
                .parse()
                .map_err(|_| store_errors::option_error(name, "this store knows no such option", OPTIONS_HINT))?;
            builder = builder.with_config(key, value.expose_secret());
        }
        // Installs the process's TLS provider, which the client uses with the platform's trusted
        // roots.
        crate::ringcx::install_tls();
        Ok(Arc::new(builder.build().map_err(|error| store_errors::options_error(&error, $options))?))
    }};
}

const OPTIONS_HINT: &str =
    "docs/export.md lists the usual ones, such as aws_region, google_service_account or azure_storage_account_name";

fn build_s3(url: &Url, options: &BTreeMap<String, SecretString>) -> Result<Arc<dyn ObjectStore>, SinkError> {
    build_store!(AmazonS3Builder, AmazonS3ConfigKey, url, options)
}

fn build_google(url: &Url, options: &BTreeMap<String, SecretString>) -> Result<Arc<dyn ObjectStore>, SinkError> {
    build_store!(GoogleCloudStorageBuilder, GoogleConfigKey, url, options)
}

fn build_azure(url: &Url, options: &BTreeMap<String, SecretString>) -> Result<Arc<dyn ObjectStore>, SinkError> {
    build_store!(MicrosoftAzureBuilder, AzureConfigKey, url, options)
}
