//! The settings as the rest of the program sees them: typed, complete, validated.
//!
//! Pure data, except for [`Auth::reread`], which reads the files that secrets came from. Secrets are held in
//! [`SecretString`], so no `Debug` output shows one.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use secrecy::SecretString;

use super::problem::ConfigError;
use super::secret;
use crate::clock::Time;
use crate::model::{AccountId, ArtifactSet, Wants};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The vendor's hosts.
    pub api: Api,
    /// How to log in.
    pub auth: Auth,
    /// Whose segments to get.
    pub accounts: Accounts,
    /// Which windows of metadata to read, and when.
    pub discovery: Discovery,
    /// What is never exceeded.
    pub limits: Limits,
    /// How artifacts are fetched.
    pub fetch: Fetch,
    /// Where the archive is.
    pub database: Database,
    /// Health, metrics and dashboard.
    pub http: Http,
    /// What is logged and how.
    pub log: Log,
    /// Who is told of what is new.
    pub sinks: Vec<Sink>,
}

/// The vendor's hosts. Base URLs are http or https, without user, query, fragment or trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// RingCentral platform (OAuth).
    pub platform_url: String,
    /// RingCX login, metadata and transcripts.
    pub ringcx_url: String,
    /// RingCX summaries.
    pub summary_url: String,
    /// How long a request may go without making progress.
    pub request_timeout: Duration,
}

/// How to log in: one of the three ways. Matches need `..`, for `files` is this module's own.
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
        /// Where the secrets came from.
        files: SecretFiles,
    },
    /// A RingCX user without a RingCentral login.
    Engage {
        /// The user's name.
        username: String,
        /// The user's password.
        password: SecretString,
        /// The platform, such as `RC`.
        platform_id: String,
        /// Where the secrets came from.
        files: SecretFiles,
    },
    /// A permanent API token.
    ApiToken {
        /// The token.
        token: SecretString,
        /// Where it came from.
        files: SecretFiles,
    },
}

/// Which secrets came from which files, by the key of the secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretFiles(pub(super) BTreeMap<&'static str, PathBuf>);

impl SecretFiles {
    /// Whether no secret came from a file, so that reading again finds nothing new.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn again(&self, key: &'static str, held: &SecretString) -> Result<SecretString, ConfigError> {
        let Some(file) = self.0.get(key) else { return Ok(held.clone()) };
        secret::from_file(file).and_then(secret::one_line).map_err(|what| ConfigError {
            key: format!("auth.{key}_file"),
            place: None,
            what,
            hint: secret::FILE_HINT.to_owned(),
        })
    }
}

impl Auth {
    /// The same way to log in, with those secrets read again that came from files: credentials are changed there
    /// while the daemon runs.
    ///
    /// # Errors
    /// Where one of the files can no longer be read or holds no secret.
    pub fn reread(&self) -> Result<Auth, ConfigError> {
        let mut auth = self.clone();
        match &mut auth {
            Auth::RingCentral { client_secret, jwt, files, .. } => {
                *client_secret = files.again("client_secret", client_secret)?;
                *jwt = files.again("jwt", jwt)?;
            }
            Auth::Engage { password, files, .. } => *password = files.again("password", password)?,
            Auth::ApiToken { token, files } => *token = files.again("api_token", token)?,
        }
        Ok(auth)
    }

    /// The files that secrets came from.
    pub fn files(&self) -> &SecretFiles {
        match self {
            Auth::RingCentral { files, .. } | Auth::Engage { files, .. } | Auth::ApiToken { files, .. } => files,
        }
    }
}

/// Whose segments to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accounts {
    /// These; at least one, no sub-account twice.
    Listed(Vec<Account>),
    /// All that the login can see.
    Discovered(DiscoverAccounts),
}

/// What is done for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountPolicy {
    /// What is asked for of each segment.
    pub wants: Wants,
    /// How long the archive keeps a segment; `None` for ever.
    pub retention: Option<Duration>,
}

/// A sub-account that the settings list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its ids.
    pub id: AccountId,
    /// Its name, for people.
    pub name: Option<String>,
    /// What is done for it.
    pub policy: AccountPolicy,
}

/// All sub-accounts that the login can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverAccounts {
    /// How often the vendor is asked for the list.
    pub interval: Duration,
    /// Sub-account ids to leave out.
    pub exclude: BTreeSet<String>,
    /// What is done for each.
    pub policy: AccountPolicy,
}

/// Where an account's first run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the window before now minus the offset.
    Now,
    /// So far back from now.
    Back(Duration),
    /// At this moment.
    At(Time),
}

/// Which windows of metadata to read, and when. Windows are of whole seconds, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Width of the sliding window; at most `max_window`.
    pub window: Duration,
    /// How far behind now its end stays.
    pub offset: Duration,
    /// How often it slides.
    pub interval: Duration,
    /// The widest request; at most three hours.
    pub max_window: Duration,
    /// Where an account's first run begins.
    pub start: Start,
    /// How long after its end each stretch is read again; ascending, none twice.
    pub rechecks: Vec<Duration>,
}

/// What shares one budget of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// Each sub-account has its own.
    SubAccount,
    /// All sub-accounts of the login share one.
    Login,
}

/// What is never exceeded in any 60 seconds or 15 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What shares one budget.
    pub scope: LimitScope,
    /// All requests in 60 seconds.
    pub requests_per_minute: NonZeroU32,
    /// Metadata requests in 60 seconds.
    pub metadata_per_minute: NonZeroU32,
    /// Metadata requests in 15 minutes.
    pub metadata_per_15_minutes: NonZeroU32,
    /// Token exchanges in 60 seconds.
    pub token_exchanges_per_minute: NonZeroU32,
}

/// How artifacts are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Requests in flight per account; at least one.
    pub concurrency: usize,
    /// The first delay before trying again.
    pub retry_initial: Duration,
    /// The longest delay; not below `retry_initial`.
    pub retry_max: Duration,
    /// How long after the first try an artifact that is still 404 is given up.
    pub give_up_after: Duration,
    /// When empty or agent-written summaries are asked for again; ascending, none twice.
    pub revisit: Vec<Duration>,
}

/// Where the archive is.
#[derive(Debug, Clone)]
pub struct Database {
    /// Which database.
    pub url: DatabaseUrl,
    /// The file that the URL came from.
    pub url_file: Option<PathBuf>,
    /// This replica's name, the same after a restart.
    pub instance: String,
}

impl Database {
    /// The Postgres URL, read again where it came from a file; `None` for SQLite.
    ///
    /// # Errors
    /// Where the file can no longer be read or names no Postgres database.
    pub fn reread(&self) -> Result<Option<SecretString>, ConfigError> {
        let DatabaseUrl::Postgres(url) = &self.url else { return Ok(None) };
        let Some(file) = &self.url_file else { return Ok(Some(url.clone())) };
        let wrong = |what| ConfigError {
            key: "database.url_file".to_owned(),
            place: None,
            what,
            hint: secret::FILE_HINT.to_owned(),
        };
        secret::from_file(file).and_then(secret::one_line).map(Some).map_err(wrong)
    }
}

/// Which database.
#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    /// A SQLite file; relative to the working directory unless absolute.
    Sqlite(PathBuf),
    /// A Postgres URL, which may hold a password.
    Postgres(SecretString),
}

/// Health, metrics and dashboard.
#[derive(Debug, Clone)]
pub struct Http {
    /// `host:port` to listen on; `None` for not at all.
    pub listen: Option<String>,
    /// What a browser must know to be shown conversations; `None` for never.
    pub token: Option<SecretString>,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::filter::Targets`, known to parse.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Where a new sink begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkStart {
    /// With what is stored from then on.
    Now,
    /// With the archive's first artifact.
    Beginning,
}

/// A system that is told of what is new.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Names it; unique, and what its progress is kept under.
    pub name: String,
    /// Where it begins when its name first appears.
    pub start: SinkStart,
    /// The artifacts that it gets; never empty.
    pub artifacts: ArtifactSet,
    /// Sub-account ids that it gets; empty for all.
    pub accounts: BTreeSet<String>,
    /// Channels that it gets; empty for all.
    pub channels: BTreeSet<String>,
    /// What is taken out of texts on the way.
    pub redact: Vec<Redact>,
    /// How long an event is tried before it counts as failed.
    pub give_up_after: Duration,
    /// What it is.
    pub kind: SinkKind,
}

/// What is taken out of texts.
#[derive(Debug, Clone)]
pub enum Redact {
    /// Payment card numbers.
    Card,
    /// E-mail addresses.
    Email,
    /// Telephone numbers.
    Phone,
    /// Whatever matches.
    Pattern {
        /// Names what was taken out.
        name: String,
        /// Never matches the empty string.
        pattern: Regex,
    },
}

/// What a sink is.
#[derive(Debug, Clone)]
pub enum SinkKind {
    /// Files of JSON lines.
    Jsonl {
        /// The folder that they are in.
        path: PathBuf,
        /// How long each is written to.
        rotate: Duration,
    },
    /// HTTP requests, signed as Standard Webhooks.
    Webhook {
        /// Where to; http or https. Secret, because such URLs often carry a token.
        url: SecretString,
        /// The first signs, all do while they are changed; never empty.
        secrets: Vec<SecretString>,
        /// How long a request may take.
        timeout: Duration,
        /// Whether it may be on a private network.
        allow_private: bool,
    },
    /// Objects in a bucket or folder.
    ObjectStore {
        /// `s3://`, `gs://`, `az://` or `file://`, with bucket and prefix.
        url: String,
        /// What an object holds.
        format: ObjectFormat,
        /// Passed to the store; names in lower case.
        options: BTreeMap<String, SecretString>,
    },
}

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectFormat {
    /// JSON lines.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}
