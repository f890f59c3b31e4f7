//! A sink that writes a batch of events as one object: into a bucket of S3, Google Cloud Storage or Azure, or a folder.
//!
//! An object appears whole or not at all, and writing it again under its name replaces it, so that a retry does no harm.
//! Whatever keeps it from being written is told without quoting what the store answered: URLs and answers may hold
//! signatures. It tries again only what breaks off within seconds; the rest is for whoever delivers.

mod failure;
mod folder;
mod rows;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreScheme, PutOptions, PutPayload,
    RetryConfig,
};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::{SinkError, SinkErrorKind};
use crate::clock::Time;
use crate::config::ObjectFormat;
use crate::descriptors;
use crate::event::Event;

/// How long one object may take to be written, unless `timeout` among the options says otherwise.
const TIMEOUT: &str = "5m";
/// Lines are made up to so many bytes before others get their turn.
const TURN: usize = 1 << 20;

/// A bucket or folder that takes events.
#[derive(Debug)]
pub struct ObjectStoreSink {
    place: Place,
    format: ObjectFormat,
    /// The bucket or folder, for people.
    said: String,
}

#[derive(Debug)]
enum Place {
    Bucket { store: Arc<dyn ObjectStore>, prefix: Path },
    Folder(std::path::PathBuf),
}

/// The name of an object with events of this sub-account, the first and last by their numbers in its feed: below the day
/// and hour at which the first was stored.
pub fn object_name(sub: &str, stored: Time, first: i64, last: i64) -> String {
    let hour = stored.timestamp().strftime("%Y/%m/%d/%H");
    format!("{}/{hour}/{first:020}-{last:020}", escaped(sub))
}

/// A name that is one step of a path wherever it is used; any other byte as in URLs.
fn escaped(name: &str) -> String {
    let only_dots = name.bytes().all(|byte| byte == b'.');
    let keeps = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || byte == b'.' && !only_dots;
    name.bytes().map(|byte| if keeps(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl ObjectStoreSink {
    /// For `s3://bucket/prefix` (`gs`, `az` likewise) or `file:///folder`. Options that are not given are looked for where
    /// the provider's own programs look: in its environment variables, and in the machine's identity.
    ///
    /// # Errors
    /// Where the URL or an option is of no use, said for people.
    pub fn new(
        url: &str,
        format: ObjectFormat,
        options: &BTreeMap<String, SecretString>,
    ) -> Result<ObjectStoreSink, SinkError> {
        let wrong = |why: &str| failure::setting(&format!("failed to read the sink's url: {why}"), HINT);
        let parsed = Url::parse(url.trim()).map_err(|_| wrong("it is not a URL"))?;
        let (scheme, prefix) =
            ObjectStoreScheme::parse(&parsed).map_err(|_| wrong("it is of no known object store"))?;
        let said = format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default());
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => {
                let root = parsed.to_file_path().map_err(|()| wrong("it is no path"))?;
                if let Some(name) = options.keys().next() {
                    return Err(failure::option(name, "a folder has no options", "leave options out"));
                }
                return Ok(ObjectStoreSink { said: root.display().to_string(), place: Place::Folder(root), format });
            }
            ObjectStoreScheme::AmazonS3 => s3(&parsed, options)?,
            ObjectStoreScheme::GoogleCloudStorage => google(&parsed, options)?,
            ObjectStoreScheme::MicrosoftAzure => azure(&parsed, options)?,
            _ => return Err(wrong("it is of no known object store")),
        };
        Ok(ObjectStoreSink { place: Place::Bucket { store, prefix }, format, said })
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Folder(root) => Some(root),
            Place::Bucket { .. } => None,
        }
    }

    /// Writes the batch as one object under `name`, a path below the prefix without extension; one that is there is
    /// replaced.
    ///
    /// # Errors
    /// [`SinkErrorKind::Away`] for whatever the store or the disk objects to: it concerns the sink, not an event.
    pub async fn put(&self, name: &str, events: &[Event]) -> Result<(), SinkError> {
        let (extension, media) = match self.format {
            ObjectFormat::Jsonl => ("jsonl", "application/x-ndjson"),
            ObjectFormat::Parquet => ("parquet", "application/vnd.apache.parquet"),
        };
        let below = Path::parse(format!("{name}.{extension}"))
            .map_err(|_| failure::away(format!("failed to write an object: {name} is no name for one"), None))?;
        let content = match self.format {
            ObjectFormat::Jsonl => lines(events).await,
            ObjectFormat::Parquet => rows::parquet(events).await?,
        };
        let _place = descriptors::delivery_place().await;
        match &self.place {
            Place::Folder(root) => folder::write(root.clone(), below.to_string(), content)
                .await
                .map_err(|error| failure::of_folder(&error, &self.said)),
            Place::Bucket { store, prefix } => {
                let location: Path = prefix.parts().chain(below.parts()).collect();
                let mut attributes = Attributes::new();
                attributes.insert(Attribute::ContentType, media.into());
                let options = PutOptions { attributes, ..PutOptions::default() };
                let written = store.put_opts(&location, PutPayload::from_iter(content), options).await;
                written.map(drop).map_err(|error| failure::of_store(&error, &self.said))
            }
        }
    }
}

const HINT: &str = r#"give "s3://bucket/prefix", or the same with gs or az, or "file:///absolute/path""#;

/// A CloudEvent a line.
async fn lines(events: &[Event]) -> Vec<Bytes> {
    let mut lines = Vec::with_capacity(events.len());
    let mut made = 0;
    for event in events {
        let mut line = event.cloud_event();
        line.push(b'\n');
        made += line.len();
        lines.push(Bytes::from(line));
        if made >= TURN {
            made = 0;
            tokio::task::yield_now().await;
        }
    }
    lines
}

/// For what breaks off at once, such as a connection that the other end had just closed.
fn retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 2, retry_timeout: Duration::from_secs(10) }
}

/// A store of one provider: what its environment variables say, then ours, then what the settings say.
macro_rules! configured {
    ($builder:ty, $key:ty, $url:expr, $options:expr) => {{
        let agent = concat!("ringcx-extractor/", env!("CARGO_PKG_VERSION"));
        let mut builder = <$builder>::from_env()
            .with_config(<$key>::Client(ClientConfigKey::Timeout), TIMEOUT)
            .with_config(<$key>::Client(ClientConfigKey::UserAgent), agent)
            .with_config(
                <$key>::Client(ClientConfigKey::PoolMaxIdlePerHost),
                $crate::descriptors::shares().idle_per_sink.to_string(),
            )
            .with_retry($crate::sink::object_store::retries())
            .with_url($url.as_str());
        for (name, value) in $options {
            let key: $key =
                name.parse().map_err(|_| failure::option(name, "this store knows no such option", KNOWN))?;
            builder = builder.with_config(key, value.expose_secret());
        }
        // The client finds the process's provider of cryptography and the platform's trusted roots.
        crate::ringcx::install_tls();
        Ok(Arc::new(builder.build().map_err(|error| failure::of_options(&error, $options))?))
    }};
}

const KNOWN: &str =
    "docs/export.md names the usual ones, such as aws_region, google_service_account or azure_storage_account_name";

fn s3(url: &Url, options: &BTreeMap<String, SecretString>) -> Result<Arc<dyn ObjectStore>, SinkError> {
    configured!(AmazonS3Builder, AmazonS3ConfigKey, url, options)
}

fn google(url: &Url, options: &BTreeMap<String, SecretString>) -> Result<Arc<dyn ObjectStore>, SinkError> {
    configured!(GoogleCloudStorageBuilder, GoogleConfigKey, url, options)
}

fn azure(url: &Url, options: &BTreeMap<String, SecretString>) -> Result<Arc<dyn ObjectStore>, SinkError> {
    configured!(MicrosoftAzureBuilder, AzureConfigKey, url, options)
}
