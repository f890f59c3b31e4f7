//! `[[sinks]]`: files, webhooks, object stores, and tables in object stores.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::DatabaseUrl;
use crate::model::ArtifactSet;

/// The start of a new sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkStart {
    /// Artifacts that are stored from then on.
    #[default]
    Now,
    /// The first artifact of the archive.
    Beginning,
}

/// A system that receives events about stored artifacts.
#[derive(Debug, Clone)]
pub struct Sink {
    /// The unique name, which also identifies the progress of the sink.
    pub name: String,
    /// The start of the sink when its name first appears.
    pub start: SinkStart,
    /// The artifacts that it receives.
    pub artifacts: ArtifactSet,
    /// Whether it also receives metadata: a segment was announced or changed.
    pub metadata: bool,
    /// Which erasures it is told about.
    pub erasures: SinkErasures,
    /// The sub-account ids that it receives; empty for all.
    pub accounts: BTreeSet<String>,
    /// The channels that it receives; empty for all.
    pub channels: BTreeSet<String>,
    /// What is redacted in its events.
    pub redact: Vec<RedactionRule>,
    /// How long an event is retried before it counts as failed.
    pub give_up_after: Duration,
    /// How long a link to a recording works that its events hold; `None` for no links.
    pub recording_url_expiry: Option<Duration>,
    /// The type of the sink, with its own settings.
    pub kind: SinkKind,
}

/// The erasures that a sink is told about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkErasures {
    /// Those that a person requested, and those by retention.
    #[default]
    All,
    /// Those that a person requested.
    Requested,
}

/// A rule for what is redacted in texts.
#[derive(Debug, Clone)]
pub enum RedactionRule {
    /// Payment card numbers.
    Card,
    /// E-mail addresses.
    Email,
    /// Telephone numbers.
    Phone,
    /// Every match of a pattern.
    Pattern {
        /// The name that replaces a match.
        name: String,
        /// The pattern, which never matches the empty string.
        pattern: Regex,
    },
}

impl PartialEq for RedactionRule {
    fn eq(&self, other: &RedactionRule) -> bool {
        match (self, other) {
            (RedactionRule::Card, RedactionRule::Card)
            | (RedactionRule::Email, RedactionRule::Email)
            | (RedactionRule::Phone, RedactionRule::Phone) => true,
            (RedactionRule::Pattern { name, pattern }, RedactionRule::Pattern { name: name_2, pattern: pattern_2 }) => {
                name == name_2 && pattern.as_str() == pattern_2.as_str()
            }
            _ => false,
        }
    }
}

/// The type of a sink.
#[derive(Debug, Clone)]
pub enum SinkKind {
    /// Files of JSON lines.
    Jsonl {
        /// The folder of the files.
        path: PathBuf,
        /// How long each file is written to.
        rotate: Duration,
    },
    /// HTTP requests, signed as Standard Webhooks.
    Webhook(Box<WebhookSettings>),
    /// Objects in a bucket or folder.
    ObjectStore {
        /// `s3://`, `gs://`, `az://` or `file://`, with bucket and prefix.
        url: String,
        /// The format of the objects.
        format: ObjectFormat,
        /// The options of the store; names in lower case.
        options: BTreeMap<String, SecretString>,
    },
    /// Tables of Parquet files in a bucket or folder.
    Lake(Box<LakeSettings>),
}

/// The settings of an object store with tables.
#[derive(Debug, Clone)]
pub struct LakeSettings {
    /// `s3://`, `gs://`, `az://` or `file://`, with bucket and prefix.
    pub url: String,
    /// The options of the store; names in lower case.
    pub options: BTreeMap<String, SecretString>,
    /// The tables.
    pub tables: Vec<LakeTable>,
    /// How long a change waits for others, so that they share a file.
    pub roll_after: Duration,
    /// The size at which a file is full, in bytes.
    pub roll_size: u64,
    /// The DuckLake catalog that lists the files.
    pub catalog: Option<LakeCatalog>,
    /// How long the catalog keeps earlier snapshots.
    pub expire_after: Duration,
}

/// Where the DuckLake catalog of tables is.
#[derive(Debug, Clone)]
pub enum LakeCatalog {
    /// In the archive's database.
    Archive,
    /// In another database.
    Other(DatabaseUrl),
}

/// A table in an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LakeTable {
    /// A segment is a row, as in `export`.
    Segments,
    /// A phrase of a transcript is a row, as in `export --table phrases`.
    Phrases,
    /// A version of a transcript or summary is a row.
    Artifacts,
}

impl LakeTable {
    /// All tables.
    pub const ALL: [LakeTable; 3] = [LakeTable::Segments, LakeTable::Phrases, LakeTable::Artifacts];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            LakeTable::Segments => "segments",
            LakeTable::Phrases => "phrases",
            LakeTable::Artifacts => "artifacts",
        }
    }
}

/// How the files of tables are named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LakeLayout {
    /// `TABLE/account=SUB/day=DATE/`.
    #[default]
    Hive,
}

/// The settings of a webhook.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// The target URL, http or https. Secret, because such URLs often contain a token.
    pub url: SecretString,
    /// The signing secrets. Each request is signed with all of them, so that they can be rotated.
    /// Without any, requests are not signed.
    pub secrets: Vec<SecretString>,
    /// How long a request may take.
    pub timeout: Duration,
    /// Whether the URL may be on a private network.
    pub allow_private: bool,
    /// The HTTP method.
    pub method: WebhookMethod,
    /// Further headers; the names are valid, the values secret.
    pub headers: BTreeMap<String, SecretString>,
    /// The media type of the body; `None` for that of the event, or JSON with a template.
    pub content_type: Option<String>,
    /// The template of the body.
    pub template: Option<String>,
    /// How to obtain a bearer token.
    pub oauth: Option<OauthSettings>,
    /// The proxy, which may contain a password.
    pub proxy: Option<SecretString>,
    /// What is one event.
    pub unit: WebhookUnit,
    /// A segment or dialog is sent so long after its latest text, even if something is still awaited.
    pub settle_after: Duration,
    /// Above this size in bytes, the body has a reference in place of the content.
    pub max_body: Option<usize>,
}

impl WebhookSettings {
    /// A webhook with this URL and signing secret, and the defaults.
    pub fn new(url: &str, secret: &str) -> WebhookSettings {
        WebhookSettings {
            url: SecretString::from(url),
            secrets: vec![SecretString::from(secret)],
            timeout: Duration::from_secs(30),
            allow_private: false,
            method: WebhookMethod::Post,
            headers: BTreeMap::new(),
            content_type: None,
            template: None,
            oauth: None,
            proxy: None,
            unit: WebhookUnit::Artifact,
            settle_after: Duration::from_secs(3600),
            max_body: None,
        }
    }
}

/// The HTTP method of a webhook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum WebhookMethod {
    /// POST.
    #[default]
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
}

impl WebhookMethod {
    /// The method's name.
    pub fn name(self) -> &'static str {
        match self {
            WebhookMethod::Post => "POST",
            WebhookMethod::Put => "PUT",
            WebhookMethod::Patch => "PATCH",
        }
    }
}

/// What a webhook receives as one event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookUnit {
    /// Each version of a transcript or summary.
    #[default]
    Artifact,
    /// A segment with all its texts.
    Segment,
    /// A dialog with all texts of its segments.
    Dialog,
}

/// OAuth 2.0 client credentials.
#[derive(Debug, Clone)]
pub struct OauthSettings {
    /// The token endpoint.
    pub token_url: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: SecretString,
    /// The scope to ask for.
    pub scope: Option<String>,
}

/// The format of the objects of a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectFormat {
    /// JSON lines.
    #[default]
    Jsonl,
    /// Apache Parquet.
    Parquet,
}
