//! The settings as the rest of the program uses them: typed, complete and validated.
//!
//! Pure data, except for [`Auth::reload_secrets`] and [`Database::reload_url`], which read the
//! files of secrets again. Secrets are `SecretString`, so no `Debug` output shows one.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use secrecy::{ExposeSecret, SecretString};

use super::config_error::ConfigError;
use super::{secret_file, sections};
pub use crate::model::DiscoveryStart;
use crate::model::{AccountId, ArtifactSelection, ArtifactSet};

/// All settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The section `[api]`.
    pub(crate) api: ApiSettings,
    /// The section `[auth]`.
    pub(crate) auth: Auth,
    /// The section `[[accounts]]` or `[discover_accounts]`.
    pub(crate) accounts: Accounts,
    /// The section `[discovery]`.
    pub(crate) discovery: Discovery,
    /// The section `[limits]`.
    pub limits: Limits,
    /// The section `[fetch]`.
    pub(crate) fetch: Fetch,
    /// The section `[database]`.
    pub database: Database,
    /// The section `[http]`.
    pub(crate) http: Http,
    /// The section `[log]`.
    pub(crate) log: Log,
    /// The section `[[sinks]]`.
    pub(crate) sinks: Vec<Sink>,
}

/// The hosts of the API. Base URLs are http or https, without user, query, fragment or trailing
/// slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSettings {
    /// RingCentral platform (OAuth).
    pub(crate) platform_url: String,
    /// RingCX login, metadata and transcripts.
    pub(crate) ringcx_url: String,
    /// RingCX summaries.
    pub(crate) summary_url: String,
    /// How long a request may go without progress.
    pub(crate) request_timeout: Duration,
}

/// The login method, one of three. Patterns need `..`, because `files` is private to this module.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A RingCentral app with a JWT credential.
    RingCentral {
        /// The app's client id.
        client_id: String,
        /// The app's client secret.
        client_secret: SecretString,
        /// The user's JWT credential.
        jwt: SecretString,
        /// The files of the secrets.
        files: SecretFiles,
    },
    /// A RingCX user without a RingCentral login (Engage).
    Engage {
        /// The user's name.
        username: String,
        /// The user's password.
        password: SecretString,
        /// The platform, such as `RC`.
        platform_id: String,
        /// The files of the secrets.
        files: SecretFiles,
    },
    /// A permanent API token.
    ApiToken {
        /// The token.
        token: SecretString,
        /// The file of the token.
        files: SecretFiles,
    },
}

/// The files of the secrets that came from files, by the key of the secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretFiles(pub(super) BTreeMap<&'static str, PathBuf>);

impl SecretFiles {
    fn reread_secret(&self, key: &'static str, held: &SecretString) -> Result<SecretString, ConfigError> {
        let Some(file) = self.0.get(key) else { return Ok(held.clone()) };
        secret_file::read_secret(file).and_then(secret_file::require_single_line).map_err(|what| ConfigError {
            key: format!("auth.{key}_file"),
            location: None,
            what,
            hint: secret_file::FILE_HINT.to_owned(),
        })
    }
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
            Auth::RingCentral { client_secret, jwt, files, .. } => {
                *client_secret = files.reread_secret("client_secret", client_secret)?;
                *jwt = files.reread_secret("jwt", jwt)?;
            }
            Auth::Engage { password, files, .. } => *password = files.reread_secret("password", password)?,
            Auth::ApiToken { token, files } => *token = files.reread_secret("api_token", token)?,
        }
        Ok(auth)
    }
}

/// The accounts whose segments are archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accounts {
    /// The listed accounts: at least one, and no sub-account twice.
    Listed(Vec<AccountSettings>),
    /// All sub-accounts that the login can see.
    Discovered(DiscoverAccounts),
}

/// The settings that apply to listed and discovered accounts alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountPolicy {
    /// The artifacts to fetch for each segment.
    pub(crate) wants: ArtifactSelection,
    /// How long the archive keeps a segment; `None` means forever.
    pub(crate) retention: Option<Duration>,
}

/// A listed sub-account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSettings {
    /// The ids.
    pub(crate) id: AccountId,
    /// The display name.
    pub(crate) name: Option<String>,
    /// The policy.
    pub(crate) policy: AccountPolicy,
}

/// All sub-accounts that the login can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverAccounts {
    /// How often the list of sub-accounts is read.
    pub(crate) interval: Duration,
    /// Sub-account ids to exclude.
    pub(crate) exclude: BTreeSet<String>,
    /// The policy of each account.
    pub(crate) policy: AccountPolicy,
}

/// The windows of metadata to read. They have whole seconds, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The width of the sliding window; at most `max_window`.
    pub(crate) window: Duration,
    /// How far before now the window ends.
    pub(crate) offset: Duration,
    /// How often the window slides.
    pub(crate) interval: Duration,
    /// The widest request; at most three hours.
    pub(crate) max_window: Duration,
    /// The start of an account's first run.
    pub(crate) start: DiscoveryStart,
    /// The delays after which each range is read again; ascending and unique.
    pub(crate) rechecks: Vec<Duration>,
}

/// What shares one request budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// Each sub-account has its own budget.
    SubAccount,
    /// All sub-accounts of the login share one budget.
    Login,
}

/// The request limits, which hold for any period of 60 seconds or 15 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What shares one request budget.
    pub(crate) scope: LimitScope,
    /// All requests in 60 seconds.
    pub(crate) requests_per_minute: NonZeroU32,
    /// Metadata requests in 60 seconds.
    pub(crate) metadata_per_minute: NonZeroU32,
    /// Metadata requests in 15 minutes.
    pub(crate) metadata_per_15_minutes: NonZeroU32,
    /// Token exchanges in 60 seconds.
    pub(crate) token_exchanges_per_minute: NonZeroU32,
}

/// How artifacts are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The number of concurrent requests per account; at least one.
    pub(crate) concurrency: usize,
    /// The first retry delay.
    pub(crate) retry_initial: Duration,
    /// The longest retry delay; at least `retry_initial`.
    pub(crate) retry_max: Duration,
    /// How long after the first attempt an artifact that is still 404 is given up.
    pub(crate) give_up_after: Duration,
    /// The delays after which empty or agent-written summaries are fetched again; ascending and
    /// unique.
    pub(crate) revisit: Vec<Duration>,
}

/// The database of the archive.
#[derive(Debug, Clone)]
pub struct Database {
    /// The database.
    pub url: DatabaseUrl,
    /// The file of the URL, if it came from one.
    pub(crate) url_file: Option<PathBuf>,
    /// The name of this replica, which must not change at a restart.
    pub(crate) instance: String,
}

/// The hint for a change to another kind of database.
const RESTART_HINT: &str = "a change to another kind of database needs a restart";

impl Database {
    /// The Postgres URL, read again if it came from a file; `None` for SQLite.
    ///
    /// # Errors
    /// Returns an error if the file can no longer be read or contains no Postgres URL.
    pub(crate) fn reload_url(&self) -> Result<Option<SecretString>, ConfigError> {
        let DatabaseUrl::Postgres(url) = &self.url else { return Ok(None) };
        let Some(file) = &self.url_file else { return Ok(Some(url.clone())) };
        let failed = |what, hint: &str| ConfigError {
            key: "database.url_file".to_owned(),
            location: None,
            what,
            hint: hint.to_owned(),
        };
        let secret = secret_file::read_secret(file).and_then(secret_file::require_single_line);
        let secret = secret.map_err(|what| failed(what, secret_file::FILE_HINT))?;
        match sections::parse_database_url(secret.expose_secret()) {
            Ok(DatabaseUrl::Postgres(url)) => Ok(Some(url)),
            Ok(DatabaseUrl::Sqlite(_)) => Err(failed("no longer contains a Postgres URL".to_owned(), RESTART_HINT)),
            Err(what) => Err(failed(what, sections::DATABASE_URL_HINT)),
        }
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
pub struct Http {
    /// `host:port` to listen on; `None` disables the server.
    pub(crate) listen: Option<String>,
    /// The token that a browser needs to see conversations; `None` never shows them.
    pub(crate) token: Option<SecretString>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The format of log lines.
    pub(crate) format: LogFormat,
    /// Valid directives of `tracing_subscriber::filter::Targets`.
    pub(crate) filter: String,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// The start of a new sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkStart {
    /// Artifacts that are stored from then on.
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
    /// The artifacts that it receives; never empty.
    pub artifacts: ArtifactSet,
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
    Webhook {
        /// The target URL, http or https. Secret, because such URLs often contain a token.
        url: SecretString,
        /// The signing secrets; never empty. Each request is signed with all of them, so that they
        /// can be rotated.
        secrets: Vec<SecretString>,
        /// How long a request may take.
        timeout: Duration,
        /// Whether the URL may be on a private network.
        allow_private: bool,
    },
    /// Objects in a bucket or folder.
    ObjectStore {
        /// `s3://`, `gs://`, `az://` or `file://`, with bucket and prefix.
        url: String,
        /// The format of the objects.
        format: ObjectFormat,
        /// The options of the store; names in lower case.
        options: BTreeMap<String, SecretString>,
    },
}

/// The format of the objects of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectFormat {
    /// JSON lines.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}
