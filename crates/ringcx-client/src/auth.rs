//! The login: one valid token for all callers, with a single renewal at a time.
//!
//! While the token is valid, a caller only reads it. Near its end one caller renews it, and the
//! others continue to use it. After its end all callers wait for that renewal and share its
//! outcome, including a failure. Failed attempts back off, so a refused login sends few requests.
//! No task is spawned: a renewal runs in the call that needs it, and can be cancelled at any point.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use secrecy::{ExposeSecret, SecretString};

use crate::backoff::Fault;
use crate::clock::{Clock, Tick, Time};
use crate::model::Endpoint;

use super::ApiClient;
use super::error::{ApiError, ErrorCause};
use super::rate_limit::ReservedQuota;

mod expiry;
mod renewal;
#[cfg(test)]
mod tests;
mod token;
mod token_requests;

pub use expiry::{ExpiryWarning, expiry_warning};
pub use token::AccessToken;

use renewal::RenewalState;
use token::{LifetimeEstimate, TokenAge};

/// The credentials of a login.
#[derive(Clone)]
pub enum Credentials {
    /// A RingCentral app and a user's JWT credential.
    RingCentral {
        /// The app's client id.
        client_id: String,
        /// The app's client secret.
        client_secret: SecretString,
        /// The JWT credential.
        jwt: SecretString,
    },
    /// An account without a RingCentral login.
    Engage {
        /// The user.
        username: String,
        /// The user's password.
        password: SecretString,
        /// The platform's id.
        platform_id: String,
    },
    /// A permanent API token.
    ApiToken(SecretString),
}

impl Credentials {
    /// All parts, secret ones included.
    fn parts(&self) -> [&str; 3] {
        match self {
            Credentials::RingCentral { client_id, client_secret, jwt } => {
                [client_id, client_secret.expose_secret(), jwt.expose_secret()]
            }
            Credentials::Engage { username, password, platform_id } => {
                [username, password.expose_secret(), platform_id]
            }
            Credentials::ApiToken(token) => [token.expose_secret(), "", ""],
        }
    }

    /// When the credentials expire, where they are a token with an expiry.
    pub fn expires(&self) -> Option<Time> {
        match self {
            Credentials::RingCentral { jwt: token, .. } | Credentials::ApiToken(token) => {
                expiry::token_expiry(token.expose_secret())
            }
            Credentials::Engage { .. } => None,
        }
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Credentials) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.parts() == other.parts()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::RingCentral { .. } => "Credentials::RingCentral",
            Credentials::Engage { .. } => "Credentials::Engage",
            Credentials::ApiToken(_) => "Credentials::ApiToken",
        })
    }
}

/// Reads the credentials again from their source. May block. The error is logged and holds no
/// secret.
pub type CredentialsLoader = Arc<dyn Fn() -> Result<Credentials, String> + Send + Sync>;

/// The state of a login, for readiness and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginState {
    /// No token was needed yet.
    NeverTried,
    /// The last attempt succeeded.
    Good {
        /// The time of that attempt.
        at: Time,
    },
    /// The last attempt failed.
    Failing {
        /// The time of the first of the failed attempts.
        since: Time,
        /// Whether the login was refused, which needs an operator.
        refused: bool,
        /// The error message.
        message: String,
        /// What an operator can do.
        hint: Option<&'static str>,
        /// The time of the last success.
        last_ok: Option<Time>,
    },
}

/// One login, shared by all accounts that it can see. Cheap to clone.
#[derive(Clone)]
pub struct Login(Arc<LoginInner>);

struct LoginInner {
    api: ApiClient,
    token_quota: Arc<ReservedQuota>,
    exchange_quota: Arc<ReservedQuota>,
    load_credentials: Option<CredentialsLoader>,
    token: RwLock<Option<AccessToken>>,
    last_generation: AtomicU64,
    lifetime: Mutex<LifetimeEstimate>,
    state: Mutex<LoginState>,
    /// Held during a renewal, so that there is only one at a time.
    renewal: tokio::sync::Mutex<RenewalState>,
}

/// The current token, by its age.
enum CurrentToken {
    Valid(AccessToken),
    RenewalDue(AccessToken),
    Missing,
}

impl Login {
    /// A login that was not used yet. `load_credentials` is called for new credentials when these
    /// are refused. `token_quota` is the quota of RingCentral tokens, `exchange_quota` that of
    /// exchanges and Engage logins: the API allows five of each a minute.
    pub fn new(
        api: ApiClient,
        credentials: Credentials,
        load_credentials: Option<CredentialsLoader>,
        token_quota: Arc<ReservedQuota>,
        exchange_quota: Arc<ReservedQuota>,
    ) -> Login {
        Login(Arc::new(LoginInner {
            api,
            token_quota,
            exchange_quota,
            load_credentials,
            token: RwLock::new(None),
            last_generation: AtomicU64::new(0),
            lifetime: Mutex::new(LifetimeEstimate::new()),
            state: Mutex::new(LoginState::NeverTried),
            renewal: tokio::sync::Mutex::new(RenewalState::new(credentials)),
        }))
    }

    /// A valid token.
    ///
    /// # Errors
    /// The last attempt's failure, with [`Endpoint::Login`]. All callers get it until the next
    /// attempt is due (`retry_in`).
    pub async fn token(&self) -> Result<AccessToken, ApiError> {
        match self.current_token() {
            CurrentToken::Valid(token) => Ok(token),
            CurrentToken::RenewalDue(token) => Ok(self.renew_early(token).await),
            CurrentToken::Missing => {
                let mut renewal = self.0.renewal.lock().await;
                match self.current_token() {
                    CurrentToken::Valid(token) | CurrentToken::RenewalDue(token) => Ok(token),
                    CurrentToken::Missing => self.attempt_renewal(&mut renewal).await,
                }
            }
        }
    }

    /// A newer token than `stale`, after a 401 with it: the current one if it is newer, otherwise a
    /// renewed one.
    ///
    /// # Errors
    /// As [`Login::token`]; and [`Fault::Unauthorised`] where fresh tokens are refused repeatedly.
    pub async fn renew_token(&self, stale: &AccessToken) -> Result<AccessToken, ApiError> {
        let mut renewal = self.0.renewal.lock().await;
        if let CurrentToken::Valid(token) | CurrentToken::RenewalDue(token) = self.current_token()
            && token.is_newer_than(stale)
        {
            return Ok(token);
        }
        if stale.is_permanent() {
            return self.reload_permanent_token(&mut renewal).await;
        }
        renewal.check_forced_renewal(stale, self.clock().tick())?;
        stale.invalidate();
        self.attempt_renewal(&mut renewal).await
    }

    /// The login's state.
    pub fn state(&self) -> LoginState {
        self.0.state.lock().clone()
    }

    /// Allows the next attempt immediately, without the back-off of the last failure.
    pub fn retry_now(&self) {
        // If it is locked, an attempt is running already.
        if let Ok(mut renewal) = self.0.renewal.try_lock() {
            renewal.retry_now();
        }
    }

    /// Replaces the credentials and logs in with them at once. Does nothing where they are the same.
    /// Where they fail, a token that is still valid stays in use.
    ///
    /// # Errors
    /// As [`Login::token`].
    pub async fn replace_credentials(&self, fresh: Credentials) -> Result<(), ApiError> {
        let mut renewal = self.0.renewal.lock().await;
        if renewal.credentials == fresh {
            return Ok(());
        }
        tracing::info!("the credentials have changed: logging in with the new ones");
        *renewal = RenewalState::new(fresh);
        self.attempt_renewal(&mut renewal).await.map(drop)
    }

    /// The client of the API that it logs in to.
    pub fn api(&self) -> &ApiClient {
        &self.0.api
    }

    fn clock(&self) -> &Clock {
        self.0.api.clock()
    }

    /// The generation of the next token.
    fn next_generation(&self) -> u64 {
        self.0.last_generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The current token, if it is usable without a wait and this caller need not renew it.
    pub(crate) fn valid_token(&self) -> Option<AccessToken> {
        match self.current_token() {
            CurrentToken::Valid(token) => Some(token),
            CurrentToken::RenewalDue(token) => match self.0.renewal.try_lock() {
                Ok(renewal) => renewal.is_backing_off(self.clock().tick()).then_some(token),
                Err(_) => Some(token),
            },
            CurrentToken::Missing => None,
        }
    }

    /// The API accepted this token.
    pub(crate) fn record_accepted_token(&self, token: &AccessToken) {
        if token.set_accepted(true) && token.is_permanent() {
            *self.0.state.lock() = LoginState::Good { at: self.clock().now() };
        }
    }

    /// The API refused this token.
    pub(crate) fn record_refused_token(&self, token: &AccessToken) {
        if token.is_permanent() {
            token.set_accepted(false);
        }
    }

    /// A token was refused in a request sent at `sent`, and a newer one was accepted: it had
    /// expired by then.
    pub(crate) fn record_expired_token(&self, token: &AccessToken, sent: Tick) {
        self.0.lifetime.lock().record_early_expiry(sent.since(token.requested_at()));
    }

    fn current_token(&self) -> CurrentToken {
        let guard = self.0.token.read();
        let Some(token) = guard.as_ref() else { return CurrentToken::Missing };
        match token.age(self.clock().tick()) {
            TokenAge::Fresh => CurrentToken::Valid(token.clone()),
            TokenAge::RenewalDue => CurrentToken::RenewalDue(token.clone()),
            TokenAge::Expired => CurrentToken::Missing,
        }
    }

    /// The renewed token, or the old one where another caller renews it or the renewal fails.
    async fn renew_early(&self, old: AccessToken) -> AccessToken {
        let Ok(mut renewal) = self.0.renewal.try_lock() else { return old };
        if renewal.is_backing_off(self.clock().tick()) {
            return old;
        }
        match self.current_token() {
            CurrentToken::Valid(token) => token,
            _ => self.attempt_renewal(&mut renewal).await.unwrap_or(old),
        }
    }

    /// Makes one attempt to get a token, unless the last one failed too recently.
    async fn attempt_renewal(&self, renewal: &mut RenewalState) -> Result<AccessToken, ApiError> {
        renewal.check_backoff(self.clock().tick())?;
        let outcome = self.obtain_token(renewal).await;
        self.publish_outcome(renewal, outcome)
    }

    async fn reload_permanent_token(&self, renewal: &mut RenewalState) -> Result<AccessToken, ApiError> {
        renewal.check_backoff(self.clock().tick())?;
        let why = "the permanent API token was refused";
        let refused = ApiError::new(Fault::Unauthorised, Endpoint::Login, ErrorCause::Answered, why)
            .with_hint("put a valid token into auth.api_token, or into the file of auth.api_token_file");
        let outcome =
            if self.reload_credentials(renewal).await { self.obtain_token(renewal).await } else { Err(refused) };
        self.publish_outcome(renewal, outcome)
    }

    /// Publishes the outcome of an attempt to all callers.
    fn publish_outcome(
        &self,
        renewal: &mut RenewalState,
        outcome: Result<AccessToken, ApiError>,
    ) -> Result<AccessToken, ApiError> {
        match outcome {
            Ok(token) => {
                renewal.record_success();
                *self.0.token.write() = Some(token.clone());
                self.0.lifetime.lock().extend();
                self.record_success(&token);
                Ok(token)
            }
            Err(error) => {
                let error = renewal.record_failure(error, self.clock().tick());
                self.record_failure(&error);
                Err(error)
            }
        }
    }

    fn record_success(&self, token: &AccessToken) {
        if token.is_permanent() {
            return; // A permanent token is valid only once the API has accepted it.
        }
        self.record_good_state();
    }

    fn record_good_state(&self) {
        let mut state = self.0.state.lock();
        if matches!(*state, LoginState::Failing { .. } | LoginState::NeverTried) {
            tracing::info!("logged in");
        }
        *state = LoginState::Good { at: self.clock().now() };
    }

    fn record_failure(&self, error: &ApiError) {
        let now = self.clock().now();
        let mut state = self.0.state.lock();
        let (since, last_ok) = match &*state {
            LoginState::NeverTried => (now, None),
            LoginState::Good { at } => (now, Some(*at)),
            LoginState::Failing { since, last_ok, .. } => (*since, *last_ok),
        };
        let (message, hint) = (error.message.clone(), error.hint());
        tracing::warn!(
            retry_in_ms = error.retry_in.unwrap_or(Duration::ZERO).as_millis(),
            hint = hint.unwrap_or_default(),
            "{message}"
        );
        *state = LoginState::Failing { since, refused: error.is_refusal(), message, hint, last_ok };
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}
