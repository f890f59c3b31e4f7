//! The settings as the rest of the program uses them: typed, complete and validated.
//!
//! Sections without secrets and alternatives are deserialized as they stand here, and the comment
//! of a field is its description in the JSON Schema and in the reference. The other sections are
//! built from [`super::settings_document`]. Secrets are `SecretString`, so no `Debug` output shows
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::config_error::ConfigError;
use super::secret::Secret;
use super::sections::{DATABASE_URL_HINT, has_password, parse_database_url};
use super::setting_types::{Span, span, spans};
use super::time_parse::{TIME_FORMS, parse_start};
use crate::clock::Time;
use crate::model::{AccountId, ArtifactSelection, ArtifactSet, DiscoveryStart};

/// All settings.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) api: ApiSettings,
    /// `None` only in settings that were loaded to read the archive.
    pub(crate) auth: Option<Auth>,
    pub(crate) accounts: Accounts,
    pub(crate) discovery: Discovery,
    /// The section `[limits]`.
    pub limits: Limits,
    pub(crate) fetch: Fetch,
    /// The section `[database]`.
    pub database: Database,
    pub(crate) http: Http,
    pub(crate) access: Access,
    pub(crate) log: Log,
    pub(crate) report: Option<DailyReport>,
    pub(crate) sinks: Vec<Sink>,
    /// The names of the sinks that are left out because their secrets cannot be read. Empty, unless the
    /// settings were loaded to read the archive.
    pub(crate) unreadable_sinks: BTreeSet<String>,
}

impl Settings {
    /// The login method.
    ///
    /// # Errors
    /// Returns an error if the settings were loaded without one.
    pub(crate) fn login(&self) -> Result<&Auth, ConfigError> {
        let missing = || ConfigError::new("auth", None, "was not loaded", "run a command that uses the API");
        self.auth.as_ref().ok_or_else(missing)
    }
}

/// The hosts of the API, without trailing slashes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct ApiSettings {
    /// RingCentral platform, for its login.
    pub(crate) platform_url: String,
    /// RingCX login, metadata and transcripts.
    pub(crate) ringcx_url: String,
    /// RingCX summaries.
    pub(crate) summary_url: String,
    /// How long a request may go without making progress.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) request_timeout: Duration,
}

impl Default for ApiSettings {
    fn default() -> ApiSettings {
        ApiSettings {
            platform_url: "https://platform.ringcentral.com".to_owned(),
            ringcx_url: "https://ringcx.ringcentral.com".to_owned(),
            summary_url: "https://engage.ringcentral.com".to_owned(),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// The login method, one of three.
#[derive(Debug, Clone)]
pub(crate) enum Auth {
    /// A RingCentral app with a JWT credential.
    RingCentral { client_id: String, client_secret: Secret, jwt: Secret },
    /// A RingCX user without a RingCentral login (Engage).
    Engage { username: String, password: Secret, platform_id: String },
    /// A permanent API token.
    ApiToken { token: Secret },
}

impl Auth {
    /// Reads the secrets that came from files again, because credentials may be rotated while the
    /// daemon runs.
    ///
    /// # Errors
    /// Returns an error if a file can no longer be read or contains no secret.
    pub(crate) fn reload_secrets(&self) -> Result<Auth, ConfigError> {
        let mut auth = self.clone();
        match &mut auth {
            Auth::RingCentral { client_secret, jwt, .. } => {
                client_secret.reload()?;
                jwt.reload()?;
            }
            Auth::Engage { password, .. } => password.reload()?,
            Auth::ApiToken { token } => token.reload()?,
        }
        Ok(auth)
    }
}

/// The accounts whose segments are archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accounts {
    /// The listed accounts, no sub-account twice. At least one, unless they were loaded to read the
    /// archive.
    Listed(Vec<AccountSettings>),
    /// All sub-accounts that the login can see.
    Discovered(DiscoverAccounts),
}

/// The settings that apply to listed and discovered accounts alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccountPolicy {
    pub(crate) wants: ArtifactSelection,
    /// How long the archive keeps a segment; `None` means forever.
    pub(crate) retention: Option<Duration>,
}

/// A listed sub-account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountSettings {
    pub(crate) id: AccountId,
    pub(crate) name: Option<String>,
    pub(crate) policy: AccountPolicy,
}

/// All sub-accounts that the login can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiscoverAccounts {
    pub(crate) interval: Duration,
    pub(crate) exclude: BTreeSet<String>,
    pub(crate) policy: AccountPolicy,
}

fn discovery_start<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DiscoveryStart, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_start(&text).map_err(|what| D::Error::custom(format!("{what}\n  hint: give \"now\", {TIME_FORMS}")))
}

/// The windows of metadata to read. Those have whole seconds, at least one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Discovery {
    /// Width of the sliding window, from one second.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) window: Duration,
    /// How far before now its end stays.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) offset: Duration,
    /// How often it slides.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) interval: Duration,
    /// Widest request, up to 3h.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) max_window: Duration,
    /// Start of the first run: now, a span back from now, or a time.
    #[serde(deserialize_with = "discovery_start")]
    #[schemars(with = "String", extend("default" = "now"))]
    pub(crate) start: DiscoveryStart,
    /// Delays after which each time range is read again.
    #[serde(with = "spans")]
    #[schemars(with = "Vec<Span>")]
    pub(crate) rechecks: Vec<Duration>,
}

impl Default for Discovery {
    fn default() -> Discovery {
        Discovery {
            window: Duration::from_mins(15),
            offset: Duration::from_mins(5),
            interval: Duration::from_mins(5),
            max_window: Duration::from_hours(1),
            start: DiscoveryStart::Now,
            rechecks: [1, 24, 7 * 24].map(Duration::from_hours).to_vec(),
        }
    }
}

/// What shares one request budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LimitScope {
    /// Each sub-account has its own budget.
    SubAccount,
    /// All sub-accounts of the login share one budget.
    Login,
}

/// The request limits, which hold for any period of 60 seconds or 15 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// What shares one budget: sub_account or login.
    pub(crate) scope: LimitScope,
    /// All requests in any 60 s.
    pub(crate) requests_per_minute: NonZeroU32,
    /// Metadata requests in any 60 s.
    pub(crate) metadata_per_minute: NonZeroU32,
    /// Metadata requests in any 15 min.
    pub(crate) metadata_per_15_minutes: NonZeroU32,
    /// Token exchanges in any 60 s; also the limit of RingCentral token requests, which is at most
    /// 5.
    pub(crate) token_exchanges_per_minute: NonZeroU32,
}

impl Default for Limits {
    /// The limits that RingCX documents.
    fn default() -> Limits {
        Limits {
            scope: LimitScope::SubAccount,
            requests_per_minute: const { NonZeroU32::new(120).unwrap() },
            metadata_per_minute: const { NonZeroU32::new(3).unwrap() },
            metadata_per_15_minutes: const { NonZeroU32::new(9).unwrap() },
            token_exchanges_per_minute: const { NonZeroU32::new(5).unwrap() },
        }
    }
}

/// How artifacts are fetched.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Fetch {
    /// Requests in flight per account.
    #[schemars(range(min = 1, max = super::sections::MAX_CONCURRENCY))]
    pub(crate) concurrency: usize,
    /// First delay before trying again.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) retry_initial: Duration,
    /// Longest delay before trying again.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) retry_max: Duration,
    /// How long 404s, empty transcripts and unusable answers are retried.
    #[serde(with = "span")]
    #[schemars(with = "Span")]
    pub(crate) give_up_after: Duration,
    /// Delays after which empty or agent-written summaries are fetched again.
    #[serde(with = "spans")]
    #[schemars(with = "Vec<Span>")]
    pub(crate) revisit: Vec<Duration>,
}

impl Default for Fetch {
    fn default() -> Fetch {
        Fetch {
            concurrency: 8,
            retry_initial: Duration::from_secs(15),
            retry_max: Duration::from_hours(6),
            give_up_after: Duration::from_hours(72),
            revisit: vec![Duration::from_hours(24)],
        }
    }
}

/// The database of the archive.
#[derive(Debug, Clone)]
pub struct Database {
    /// The database.
    pub url: DatabaseUrl,
    pub(super) secret: Secret,
    /// The name of this replica, which must not change at a restart.
    pub(crate) instance: String,
}

impl Database {
    /// The Postgres URL as a word of a shell command, without its password: from its file, or from
    /// a variable where it contains a password. The second text stands after the command and explains
    /// the variable.
    pub(crate) fn shell_url(&self) -> (String, &'static str) {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        match (&self.secret.file, &self.url) {
            (Some((_, file)), _) => (format!("\"$(cat {})\"", quoted(&file.display().to_string())), ""),
            (None, DatabaseUrl::Postgres(url)) if !has_password(url.expose_secret()) => {
                (quoted(url.expose_secret()), "")
            }
            _ => ("\"$DATABASE_URL\"".to_owned(), " (DATABASE_URL has the value of database.url)"),
        }
    }

    /// The Postgres URL, read again if it came from a file; `None` for SQLite.
    ///
    /// # Errors
    /// Returns an error if the file can no longer be read or contains no Postgres URL.
    pub(crate) fn reload_url(&self) -> Result<Option<SecretString>, ConfigError> {
        if matches!(self.url, DatabaseUrl::Sqlite(_)) {
            return Ok(None);
        }
        let mut secret = self.secret.clone();
        secret.reload()?;
        let (what, hint) = match parse_database_url(secret.value.expose_secret()) {
            Ok(DatabaseUrl::Postgres(url)) => return Ok(Some(url)),
            Ok(DatabaseUrl::Sqlite(_)) => {
                let hint = "a change to another kind of database needs a restart";
                ("no longer contains a Postgres URL".to_owned(), hint)
            }
            Err(what) => (what, DATABASE_URL_HINT),
        };
        Err(ConfigError::new(&secret.source("database.url"), None, what, hint))
    }
}

/// The kind and address of the database.
#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    /// A SQLite file; a relative path starts at the working directory.
    Sqlite(PathBuf),
    /// A Postgres URL, which may contain a password.
    Postgres(SecretString),
}

/// The HTTP server for health, metrics and the dashboard.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// `host:port` to listen on; `None` disables the server.
    pub(crate) listen: Option<String>,
    /// The token that a browser needs to see conversations; `None` never shows them.
    pub(crate) token: Option<SecretString>,
}

/// Who may read conversations over HTTP, besides the holders of `http.token`.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) oidc: Option<Oidc>,
    pub(crate) roles: Vec<RoleSettings>,
    pub(crate) keys: Vec<KeySettings>,
    /// How long entries of the access log are kept.
    pub(crate) log_retention: Duration,
}

/// The OpenID Connect provider at which people log in.
#[derive(Debug, Clone)]
pub(crate) struct Oidc {
    /// As the provider writes it in its tokens.
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
    /// Without a trailing slash.
    pub(crate) public_url: String,
    pub(crate) groups_claim: String,
    /// Besides `openid`.
    pub(crate) scopes: Vec<String>,
}

/// Something that a role may permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Permission {
    /// Search and read conversations.
    Read,
    /// Listen to recordings.
    Listen,
    /// Queue, backfills and delivery.
    Operate,
    /// Erase, and place or release legal holds.
    Erase,
    /// Read the access log.
    Log,
}

/// A role.
#[derive(Debug, Clone)]
pub(crate) struct RoleSettings {
    pub(crate) name: String,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) subjects: BTreeSet<String>,
    /// Sub-account ids; all if empty.
    pub(crate) accounts: BTreeSet<String>,
    /// Channels; all if empty.
    pub(crate) channels: BTreeSet<String>,
    /// At least one.
    pub(crate) may: BTreeSet<Permission>,
    pub(crate) redact: Vec<RedactionRule>,
}

/// A key of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySettings {
    pub(crate) name: String,
    /// SHA-256 of the key.
    pub(crate) hash: [u8; 32],
    /// The name of a role that exists.
    pub(crate) role: String,
    pub(crate) expires: Option<Time>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Log {
    /// Format of log lines: text or json.
    pub(crate) format: LogFormat,
    /// Log level or filter directives.
    pub(crate) filter: String,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// The format of a reconciliation report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReportFormat {
    /// Tables for a terminal
    #[default]
    Text,
    /// One JSON object
    Json,
    /// One page without external parts
    Html,
}

/// When and where the daemon writes a reconciliation report every day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DailyReport {
    /// The time of day in UTC.
    pub(crate) at: Duration,
    pub(crate) folder: PathBuf,
    pub(crate) format: ReportFormat,
    pub(crate) with_verification: bool,
}

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
