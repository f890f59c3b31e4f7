//! The settings as the rest of the program uses them: typed, complete and validated.
//!
//! Sections without secrets and alternatives are deserialized as they stand here, and the comment
//! of a field is its description in the JSON Schema and in the reference. The other sections are
//! built from [`super::settings_document`]. Secrets are `SecretString`, so no `Debug` output shows
//! one.

mod access_types;
mod sink_types;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::config_error::ConfigError;
use super::secret::Secret;
use super::sections::{DATABASE_URL_HINT, has_password, parse_database_url};
use super::setting_types::{Span, span, spans};
use super::time_parse::{TIME_FORMS, parse_start};
use crate::model::{AccountId, ArtifactSelection, DiscoveryStart};

pub(crate) use access_types::{Access, KeySettings, Oidc, Permission, RoleSettings};
pub(crate) use sink_types::LakeLayout;
pub use sink_types::{
    LakeCatalog, LakeSettings, LakeTable, OauthSettings, ObjectFormat, RedactionRule, Sink, SinkErasures, SinkKind,
    SinkStart, WebhookMethod, WebhookSettings, WebhookUnit,
};

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
    pub(crate) recordings: RecordingSettings,
    pub(crate) manifests: Option<DailyManifests>,
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

/// Where recordings are stored, and which are asked for.
#[derive(Debug, Clone)]
pub struct RecordingSettings {
    /// The folder or the bucket.
    pub store: RecordingPlace,
    /// The options of a bucket; names in lower case.
    pub options: BTreeMap<String, SecretString>,
    /// The format to ask for.
    pub format: RecordingFormat,
    /// The largest recording in bytes.
    pub max_bytes: u64,
}

/// The place of a recording store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordingPlace {
    /// A folder; a relative path starts at the working directory.
    Folder(PathBuf),
    /// `s3://`, `gs://` or `az://`, with bucket and prefix.
    Bucket(String),
}

/// The format of recordings that is asked for. The API may send another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordingFormat {
    /// WAV, as the API documents it.
    #[default]
    Wav,
    /// MP3.
    Mp3,
}

impl RecordingFormat {
    /// The value of the `Accept` header.
    pub fn media_type(self) -> &'static str {
        match self {
            RecordingFormat::Wav => "audio/wav",
            RecordingFormat::Mp3 => "audio/mpeg",
        }
    }
}

/// When and where the daemon exports the manifests every day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DailyManifests {
    /// The time of day in UTC.
    pub(crate) at: Duration,
    pub(crate) folder: PathBuf,
    /// Read at each export, so that a new key needs no restart.
    pub(crate) signing_key: Option<PathBuf>,
    /// The time-stamp authority.
    pub(crate) authority: Option<Url>,
}
