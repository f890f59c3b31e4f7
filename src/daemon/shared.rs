//! What the parts of one daemon share.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

use super::roster::Registered;
use crate::account::{Account, metadata_budget_name};
pub use crate::account::{budget_name, metadata_limits};
use crate::clock::{Clock, Time};
use crate::config::{Auth, Limits, Settings};
use crate::db::Db;
use crate::deliver::Board;
use crate::fetch::committer::Storage;
use crate::health::FindingRegistry;
use crate::metrics::Metrics;
use crate::ringcx::limits::{Budget, Sliding};
use crate::ringcx::{Api, Credentials, Hosts, Login};

/// One daemon's common ground.
pub struct Shared {
    /// The settings.
    pub settings: Settings,
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// The API.
    pub api: Api,
    /// The login that all accounts share.
    pub login: Login,
    /// What is counted as it happens: the API's requests.
    pub metrics: Arc<Metrics>,
    accounts: RwLock<Vec<Arc<Account>>>,
    storage: watch::Sender<Storage>,
    stored: watch::Sender<u64>,
    rings: watch::Sender<i64>,
    /// What is wrong at present, as each part of the daemon has noticed it.
    pub findings: Arc<FindingRegistry>,
    /// Which sinks rest, and why.
    pub sinks: Arc<Board>,
    session: AtomicBool,
    /// In milliseconds since 1970; `i64::MAX` where the credentials have no end.
    credential_expires: AtomicI64,
    registered: watch::Sender<Option<Registered>>,
}

impl Shared {
    /// Builds the API client and the login; talks to nobody yet.
    ///
    /// # Errors
    /// Where the settings make no client.
    pub fn new(settings: Settings, db: Db, clock: Clock) -> anyhow::Result<Arc<Shared>> {
        let api = Api::new(
            hosts(&settings),
            clock.real(settings.api.request_timeout).max(settings.api.request_timeout),
            clock.clone(),
        )
        .context("failed to set up the API client")?;
        let metrics = Arc::new(Metrics::new());
        api.set_observer(metrics.clone());
        let login = login(&settings, &api, &db, &clock);
        Ok(Arc::new(Shared {
            settings,
            db,
            clock,
            api,
            login,
            metrics,
            accounts: RwLock::default(),
            storage: watch::Sender::new(Storage::Ok),
            stored: watch::Sender::new(0),
            rings: watch::Sender::new(0),
            findings: Arc::default(),
            sinks: Arc::default(),
            session: AtomicBool::new(false),
            credential_expires: AtomicI64::new(i64::MAX),
            registered: watch::Sender::new(None),
        }))
    }

    /// The accounts that this process works on now.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the accounts that this process works on.
    pub fn set_accounts(&self, accounts: Vec<Arc<Account>>) {
        *self.accounts.write().unwrap_or_else(PoisonError::into_inner) = accounts;
    }

    /// Whether the database takes results.
    pub fn storage(&self) -> watch::Receiver<Storage> {
        self.storage.subscribe()
    }

    /// Says whether the database takes results.
    pub fn set_storage(&self, storage: Storage) {
        self.storage.send_if_modified(|held| {
            let changed = *held != storage;
            *held = storage;
            changed
        });
    }

    /// Changes whenever results have been written: for those who follow the archive.
    pub fn stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }

    /// For the one who writes results.
    pub fn stored_sender(&self) -> watch::Sender<u64> {
        self.stored.clone()
    }

    /// Changes whenever a person has changed something that a running daemon should notice.
    pub fn rings(&self) -> watch::Receiver<i64> {
        self.rings.subscribe()
    }

    /// Says how often the bell was rung.
    pub fn set_rings(&self, rings: i64) {
        self.rings.send_if_modified(|held| std::mem::replace(held, rings) != rings);
    }

    /// Whether this replica is the one that works, rather than standing by.
    pub fn in_session(&self) -> bool {
        self.session.load(Ordering::Relaxed)
    }

    /// Says whether this replica works or stands by.
    pub fn set_session(&self, works: bool) {
        self.session.store(works, Ordering::Relaxed);
    }

    /// When the login's credentials end, where they say so.
    pub fn credential_expires(&self) -> Option<Time> {
        Some(Time(self.credential_expires.load(Ordering::Relaxed))).filter(|at| at.0 != i64::MAX)
    }

    /// Says when the login's credentials end.
    pub fn set_credential_expires(&self, at: Option<Time>) {
        self.credential_expires.store(at.map_or(i64::MAX, |at| at.0), Ordering::Relaxed);
    }

    /// The accounts to be worked on, as the registry last found them; `None` until it has.
    pub fn registered(&self) -> watch::Receiver<Option<Registered>> {
        self.registered.subscribe()
    }

    /// For the registry.
    pub fn set_registered(&self, registered: Registered) {
        self.registered
            .send_if_modified(|held| held.replace(registered.clone()).is_none_or(|before| before != registered));
    }
}

/// The vendor's hosts, from the settings.
pub fn hosts(settings: &Settings) -> Hosts {
    Hosts {
        platform: settings.api.platform_url.clone(),
        ringcx: settings.api.ringcx_url.clone(),
        summary: settings.api.summary_url.clone(),
    }
}

/// Requests for RingCentral's own token in a minute, of all processes of an application together (contract.md, Authentication).
const RINGCENTRAL_TOKENS_PER_MINUTE: u32 = 5;

/// The login, from the settings; its RingCentral tokens and its exchanges are limited together with those of every other
/// process on the database. Tokens themselves are never stored: each process has its own, for all its accounts.
pub fn login(settings: &Settings, api: &Api, db: &Db, clock: &Clock) -> Login {
    let exchanges = settings.limits.token_exchanges_per_minute.get();
    let budget = |key: &str, per_minute| {
        let limits = Sliding::new([(per_minute, Duration::from_secs(60))]);
        Arc::new(Budget::new(Arc::new(db.clone()), key.to_owned(), limits, clock.clone()))
    };
    let tokens = budget("ringcentral", tokens_per_minute(api.hosts(), exchanges));
    let auth = settings.auth.clone();
    let reread = Arc::new(move || auth.reread().map(|auth| credentials(&auth)).map_err(|error| error.to_string()));
    Login::new(api.clone(), credentials(&settings.auth), Some(reread), tokens, budget("login", exchanges))
}

/// How many of RingCentral's own tokens may be asked for in a minute: it enforces its limit whatever RingCX allows.
fn tokens_per_minute(hosts: &Hosts, exchanges: u32) -> u32 {
    if hosts.is_platform_simulated() { exchanges } else { exchanges.min(RINGCENTRAL_TOKENS_PER_MINUTE) }
}

/// The metadata budget of one sub-account.
pub fn metadata_budget(limits: &Limits, sub: &str, db: &Db, clock: &Clock) -> Arc<Budget> {
    let key = metadata_budget_name(sub);
    Arc::new(Budget::new(Arc::new(db.clone()), key, metadata_limits(limits), clock.clone()))
}

/// What the settings say to log in with.
pub fn credentials(auth: &Auth) -> Credentials {
    match auth.clone() {
        Auth::RingCentral { client_id, client_secret, jwt, .. } => {
            Credentials::RingCentral { client_id, client_secret, jwt }
        }
        Auth::Engage { username, password, platform_id, .. } => Credentials::Engage { username, password, platform_id },
        Auth::ApiToken { token, .. } => Credentials::ApiToken(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_limit_of_exchanges_does_not_raise_that_of_ringcentrals_tokens() {
        let hosts =
            |platform: &str| Hosts { platform: platform.to_owned(), ringcx: String::new(), summary: String::new() };
        for (platform, exchanges, expected) in [
            ("https://platform.ringcentral.com", 60, 5),
            ("https://platform.example", 60, 5),
            ("https://platform.ringcentral.com", 2, 2),
            ("http://127.0.0.1:8480", 60, 60),
        ] {
            assert_eq!(tokens_per_minute(&hosts(platform), exchanges), expected, "{platform}");
        }
    }
}
