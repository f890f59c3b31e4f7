//! The state that all tasks of a daemon share.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

use super::account_registry::RegisteredAccounts;
use crate::account::{Account, metadata_budget_name};
pub use crate::account::{budget_name, metadata_limits};
use crate::clock::{Clock, Time};
use crate::config::{Auth, Limits, Settings};
use crate::db::Db;
use crate::deliver::SinkPauses;
use crate::fetch::batch_writer::StorageState;
use crate::health::FindingRegistry;
use crate::metrics::Metrics;
use crate::recordings::RecordingTarget;
use crate::ringcx::rate_limit::{ReservedQuota, SlidingWindowLimiter};
use crate::ringcx::{ApiClient, ApiHosts, Credentials, Login};

/// The shared state of a daemon.
pub(crate) struct AppContext {
    /// The settings.
    pub(crate) settings: Settings,
    /// The archive.
    pub(crate) db: Db,
    /// The clock.
    pub(crate) clock: Clock,
    /// The API client.
    pub(crate) api: ApiClient,
    /// The login of all accounts.
    pub(crate) login: Login,
    /// Where recordings are stored.
    pub(crate) recordings: RecordingTarget,
    auth: watch::Sender<Auth>,
    /// The request metrics of the API client.
    pub(crate) metrics: Arc<Metrics>,
    accounts: RwLock<Vec<Arc<Account>>>,
    storage: watch::Sender<StorageState>,
    stored: watch::Sender<u64>,
    change_version: watch::Sender<i64>,
    /// The current findings of all tasks.
    pub(crate) findings: Arc<FindingRegistry>,
    /// The paused sinks.
    pub(crate) sinks: Arc<SinkPauses>,
    active: AtomicBool,
    /// In milliseconds since 1970; `i64::MAX` if the credentials do not expire.
    credential_expiry: AtomicI64,
    registered: watch::Sender<Option<RegisteredAccounts>>,
}

impl AppContext {
    /// Builds the API client and the login. Sends no request yet.
    ///
    /// # Errors
    /// If no client can be built from the settings.
    pub(crate) fn new(settings: Settings, db: Db, clock: Clock) -> anyhow::Result<Arc<AppContext>> {
        let api = ApiClient::new(
            api_hosts(&settings),
            clock.real(settings.api.request_timeout).max(settings.api.request_timeout),
            clock.clone(),
        )
        .context("failed to set up the API client")?;
        let metrics = Arc::new(Metrics::new());
        api.set_observer(metrics.clone());
        let auth = watch::Sender::new(settings.login()?.clone());
        let login = build_login(&settings, auth.subscribe(), &api, &db, &clock);
        let recordings = RecordingTarget::new(&settings.recordings, &settings.database.instance)
            .context("failed to open the recording store")?;
        Ok(Arc::new(AppContext {
            settings,
            db,
            clock,
            api,
            login,
            recordings,
            auth,
            metrics,
            accounts: RwLock::default(),
            storage: watch::Sender::new(StorageState::Available),
            stored: watch::Sender::new(0),
            change_version: watch::Sender::new(0),
            findings: Arc::default(),
            sinks: Arc::default(),
            active: AtomicBool::new(false),
            credential_expiry: AtomicI64::new(i64::MAX),
            registered: watch::Sender::new(None),
        }))
    }

    /// The login section of the settings, as it was last loaded.
    pub(crate) fn auth(&self) -> Auth {
        self.auth.borrow().clone()
    }

    /// Sets the login section of the settings.
    pub(crate) fn set_auth(&self, auth: Auth) {
        self.auth.send_replace(auth);
    }

    /// The accounts that this process currently works on.
    pub(crate) fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the accounts that this process works on.
    pub(crate) fn set_accounts(&self, accounts: Vec<Arc<Account>>) {
        *self.accounts.write().unwrap_or_else(PoisonError::into_inner) = accounts;
    }

    /// Whether the database accepts results.
    pub(crate) fn subscribe_storage(&self) -> watch::Receiver<StorageState> {
        self.storage.subscribe()
    }

    /// Sets whether the database accepts results.
    pub(crate) fn set_storage(&self, storage: StorageState) {
        self.storage.send_if_modified(|held| {
            let changed = *held != storage;
            *held = storage;
            changed
        });
    }

    /// The number of written results, for tasks that follow the archive.
    pub(crate) fn subscribe_stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }

    /// The sending half of [`AppContext::subscribe_stored`], for the batch writer.
    pub(crate) fn stored_sender(&self) -> watch::Sender<u64> {
        self.stored.clone()
    }

    /// The change version: it changes when a command changed something that a running daemon should
    /// notice.
    pub(crate) fn subscribe_changes(&self) -> watch::Receiver<i64> {
        self.change_version.subscribe()
    }

    /// Sets the change version.
    pub(crate) fn set_change_version(&self, version: i64) {
        self.change_version.send_if_modified(|held| std::mem::replace(held, version) != version);
    }

    /// Whether this replica is active, rather than on standby.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Sets whether this replica is active.
    pub(crate) fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// When the login's credentials expire, if that is known.
    pub(crate) fn credential_expiry(&self) -> Option<Time> {
        Some(Time(self.credential_expiry.load(Ordering::Relaxed))).filter(|at| at.0 != i64::MAX)
    }

    /// Sets when the login's credentials expire.
    pub(crate) fn set_credential_expiry(&self, at: Option<Time>) {
        self.credential_expiry.store(at.map_or(i64::MAX, |at| at.0), Ordering::Relaxed);
    }

    /// The registered accounts; `None` until the registry has loaded them.
    pub(crate) fn subscribe_registered(&self) -> watch::Receiver<Option<RegisteredAccounts>> {
        self.registered.subscribe()
    }

    /// Sets the registered accounts.
    pub(crate) fn set_registered(&self, registered: RegisteredAccounts) {
        self.registered
            .send_if_modified(|held| held.replace(registered.clone()).is_none_or(|before| before != registered));
    }
}

/// The API hosts from the settings.
pub(crate) fn api_hosts(settings: &Settings) -> ApiHosts {
    ApiHosts {
        platform: settings.api.platform_url.clone(),
        ringcx: settings.api.ringcx_url.clone(),
        summary: settings.api.summary_url.clone(),
    }
}

/// The limit of requests for RingCentral tokens, for all processes of an application together
/// (contract.md, Authentication).
const RINGCENTRAL_TOKENS_PER_MINUTE: u32 = 5;

/// Builds the login from the settings; `auth` has their newest login section. Its token requests
/// and exchanges share their limits with all other processes on the database. Tokens are never
/// stored: each process has one of its own, for all its accounts.
pub(crate) fn build_login(
    settings: &Settings,
    auth: watch::Receiver<Auth>,
    api: &ApiClient,
    db: &Db,
    clock: &Clock,
) -> Login {
    let exchanges = settings.limits.token_exchanges_per_minute.get();
    let budget = |key: &str, per_minute| {
        let limits = SlidingWindowLimiter::new([(per_minute, Duration::from_secs(60))]);
        Arc::new(ReservedQuota::new(Arc::new(db.clone()), key.to_owned(), limits, clock.clone()))
    };
    let ringcentral_tokens = budget("ringcentral", ringcentral_tokens_per_minute(api.hosts(), exchanges));
    let credentials = login_credentials(&auth.borrow());
    let reread = Arc::new(move || {
        let auth = auth.borrow().clone();
        auth.reload_secrets().map(|auth| login_credentials(&auth)).map_err(|error| error.to_string())
    });
    Login::new(api.clone(), credentials, Some(reread), ringcentral_tokens, budget("login", exchanges))
}

/// The limit of requests for RingCentral tokens. RingCentral enforces its limit whatever RingCX
/// allows.
fn ringcentral_tokens_per_minute(hosts: &ApiHosts, exchanges: u32) -> u32 {
    if hosts.is_platform_simulated() { exchanges } else { exchanges.min(RINGCENTRAL_TOKENS_PER_MINUTE) }
}

/// The metadata budget of one sub-account.
pub fn metadata_budget(limits: &Limits, sub: &str, db: &Db, clock: &Clock) -> Arc<ReservedQuota> {
    let key = metadata_budget_name(sub);
    Arc::new(ReservedQuota::new(Arc::new(db.clone()), key, metadata_limits(limits), clock.clone()))
}

/// The login credentials from the settings.
pub(crate) fn login_credentials(auth: &Auth) -> Credentials {
    match auth.clone() {
        Auth::RingCentral { client_id, client_secret, jwt } => {
            Credentials::RingCentral { client_id, client_secret: client_secret.value, jwt: jwt.value }
        }
        Auth::Engage { username, password, platform_id } => {
            Credentials::Engage { username, password: password.value, platform_id }
        }
        Auth::ApiToken { token } => Credentials::ApiToken(token.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_limit_of_exchanges_does_not_raise_the_limit_of_ringcentral_tokens() {
        let hosts =
            |platform: &str| ApiHosts { platform: platform.to_owned(), ringcx: String::new(), summary: String::new() };
        for (platform, exchanges, expected) in [
            ("https://platform.ringcentral.com", 60, 5),
            ("https://platform.example", 60, 5),
            ("https://platform.ringcentral.com", 2, 2),
            ("http://127.0.0.1:8480", 60, 60),
        ] {
            assert_eq!(ringcentral_tokens_per_minute(&hosts(platform), exchanges), expected, "{platform}");
        }
    }
}
