//! The login: one valid token for whoever asks, renewed once for all.
//!
//! Asking costs a glance while the token is good. Near its end one caller renews it while the others go on with it;
//! once it is over they wait for that one renewal and share its outcome, a failure too. Failures back off, so that a
//! login which is refused does not hammer. Nothing here is spawned: a renewal runs in the call of whoever met the need,
//! and may be dropped at any point without harm.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::backoff::Fault;
use crate::clock::{Clock, Tick, Time};
use crate::model::Endpoint;

use super::Api;
use super::error::{ApiError, Cause};
use super::limits::Budget;

mod ask;
mod expiry;
mod flow;
#[cfg(test)]
mod tests;
mod token;

pub use expiry::{Expiry, expiry};
pub use token::Token;

use flow::Flow;
use token::{Age, Life};

/// What to log in with.
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
    /// Everything in them that must never be shown.
    fn secrets(&self) -> Vec<&str> {
        match self {
            Credentials::RingCentral { client_secret, jwt, .. } => {
                vec![client_secret.expose_secret(), jwt.expose_secret()]
            }
            Credentials::Engage { password, .. } => vec![password.expose_secret()],
            Credentials::ApiToken(token) => vec![token.expose_secret()],
        }
    }

    /// When they end, where they are a token that says so.
    pub fn expires(&self) -> Option<Time> {
        match self {
            Credentials::RingCentral { jwt: token, .. } | Credentials::ApiToken(token) => {
                expiry::of_token(token.expose_secret())
            }
            Credentials::Engage { .. } => None,
        }
    }

    fn names(&self) -> [&str; 2] {
        match self {
            Credentials::RingCentral { client_id, .. } => [client_id, ""],
            Credentials::Engage { username, platform_id, .. } => [username, platform_id],
            Credentials::ApiToken(_) => ["", ""],
        }
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Credentials) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && self.names() == other.names()
            && self.secrets() == other.secrets()
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

/// Reads the credentials again from wherever they are kept; the error is for people and holds no secret. May block.
pub type Reread = Arc<dyn Fn() -> Result<Credentials, String> + Send + Sync>;

/// How a login stands, for readiness and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginState {
    /// Nobody has needed it yet.
    NeverTried,
    /// The last attempt gave a token.
    Good {
        /// When it did.
        at: Time,
    },
    /// The last attempt failed.
    Failing {
        /// Since when attempts have failed.
        since: Time,
        /// Whether it was refused, rather than not possible just now: then a person is needed.
        refused: bool,
        /// What failed and why.
        message: String,
        /// What to do.
        hint: Option<&'static str>,
        /// When one last succeeded.
        last_ok: Option<Time>,
    },
}

/// One login, shared by all the accounts that it can see. Cheap to clone.
#[derive(Clone)]
pub struct Login(Arc<Shared>);

struct Shared {
    api: Api,
    tokens: Arc<Budget>,
    exchanges: Arc<Budget>,
    reread: Option<Reread>,
    current: RwLock<Option<Token>>,
    generations: AtomicU64,
    life: Mutex<Life>,
    state: Mutex<LoginState>,
    /// Held through a renewal, so that there is only ever one.
    flow: tokio::sync::Mutex<Flow>,
}

/// What a glance at the current token shows.
enum Glance {
    Good(Token),
    Due(Token),
    Missing,
}

impl Login {
    /// A login that has not been tried. `reread` is asked for fresh credentials when these are refused. `tokens` is the
    /// budget of RingCentral tokens, `exchanges` that of exchanges (and Engage logins): the API allows five a minute of each.
    pub fn new(
        api: Api,
        credentials: Credentials,
        reread: Option<Reread>,
        tokens: Arc<Budget>,
        exchanges: Arc<Budget>,
    ) -> Login {
        Login(Arc::new(Shared {
            api,
            tokens,
            exchanges,
            reread,
            current: RwLock::new(None),
            generations: AtomicU64::new(0),
            life: Mutex::new(Life::new()),
            state: Mutex::new(LoginState::NeverTried),
            flow: tokio::sync::Mutex::new(Flow::new(credentials)),
        }))
    }

    /// A valid token.
    ///
    /// # Errors
    /// The last attempt's failure, with [`Endpoint::Login`]; shared by all until the next is due (`retry_in`).
    pub async fn token(&self) -> Result<Token, ApiError> {
        match self.glance() {
            Glance::Good(token) => Ok(token),
            Glance::Due(token) => Ok(self.renewed_early(token).await),
            Glance::Missing => {
                let mut flow = self.0.flow.lock().await;
                match self.glance() {
                    Glance::Good(token) | Glance::Due(token) => Ok(token),
                    Glance::Missing => self.attempt(&mut flow).await,
                }
            }
        }
    }

    /// A token that a 401 on `stale` calls for: a newer one if there is one already, else a renewal.
    ///
    /// # Errors
    /// As [`Login::token`]; and [`Fault::Unauthorised`] where fresh tokens are refused again and again.
    pub async fn renew(&self, stale: &Token) -> Result<Token, ApiError> {
        let mut flow = self.0.flow.lock().await;
        if let Glance::Good(token) | Glance::Due(token) = self.glance()
            && token.is_newer_than(stale)
        {
            return Ok(token);
        }
        if stale.is_permanent() {
            return self.replace_permanent(&mut flow).await;
        }
        flow.forced(stale, self.clock().tick())?;
        stale.kill();
        self.attempt(&mut flow).await
    }

    /// How it stands.
    pub fn state(&self) -> LoginState {
        lock(&self.0.state).clone()
    }

    /// Lets the next attempt go at once, whatever wait the last failure asked for.
    pub fn retry_now(&self) {
        // Where another holds it, an attempt is being made just now.
        if let Ok(mut flow) = self.0.flow.try_lock() {
            flow.retry_now();
        }
    }

    /// The API that it logs in to.
    pub fn api(&self) -> &Api {
        &self.0.api
    }

    fn clock(&self) -> &Clock {
        self.0.api.clock()
    }

    /// The number of the next token.
    fn next_generation(&self) -> u64 {
        self.0.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The current token where nothing has to be waited for and nobody is needed to renew it.
    pub(crate) fn at_hand(&self) -> Option<Token> {
        match self.glance() {
            Glance::Good(token) => Some(token),
            Glance::Due(token) => match self.0.flow.try_lock() {
                Ok(flow) => flow.holds_back(self.clock().tick()).then_some(token),
                Err(_) => Some(token),
            },
            Glance::Missing => None,
        }
    }

    /// The API took this token.
    pub(crate) fn accepted(&self, token: &Token) {
        if token.note_accepted(true) && token.is_permanent() {
            *lock(&self.0.state) = LoginState::Good { at: self.clock().now() };
        }
    }

    /// The API refused this token.
    pub(crate) fn refused(&self, token: &Token) {
        if token.is_permanent() {
            token.note_accepted(false);
        }
    }

    /// A token was refused in a request sent at `sent`, and a newer one accepted in its place: it had run out by then.
    pub(crate) fn ran_out(&self, token: &Token, sent: Tick) {
        lock(&self.0.life).learn(sent.since(token.got()));
    }

    fn glance(&self) -> Glance {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = current.as_ref() else { return Glance::Missing };
        match token.age(self.clock().tick()) {
            Age::Good => Glance::Good(token.clone()),
            Age::Due => Glance::Due(token.clone()),
            Age::Over => Glance::Missing,
        }
    }

    /// The next token, or the old one where someone else is at it or it does not work out just now.
    async fn renewed_early(&self, old: Token) -> Token {
        let Ok(mut flow) = self.0.flow.try_lock() else { return old };
        if flow.holds_back(self.clock().tick()) {
            return old;
        }
        match self.glance() {
            Glance::Good(token) => token,
            _ => self.attempt(&mut flow).await.unwrap_or(old),
        }
    }

    /// One attempt at a new token, unless the last one failed too recently.
    async fn attempt(&self, flow: &mut Flow) -> Result<Token, ApiError> {
        flow.held_back(self.clock().tick())?;
        let outcome = self.obtain(flow).await;
        self.conclude(flow, outcome)
    }

    async fn replace_permanent(&self, flow: &mut Flow) -> Result<Token, ApiError> {
        flow.held_back(self.clock().tick())?;
        let why = "the permanent API token was refused";
        let refused = ApiError::new(Fault::Unauthorised, Endpoint::Login, Cause::Answered, why)
            .with_hint("put a valid token into auth.api_token, or into the file of auth.api_token_file");
        let outcome = if self.reread(flow).await { self.obtain(flow).await } else { Err(refused) };
        self.conclude(flow, outcome)
    }

    /// Makes a new token everyone's, or a failure.
    fn conclude(&self, flow: &mut Flow, outcome: Result<Token, ApiError>) -> Result<Token, ApiError> {
        match outcome {
            Ok(token) => {
                flow.succeeded();
                *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
                lock(&self.0.life).grow();
                self.note_success(&token);
                Ok(token)
            }
            Err(error) => {
                let error = flow.failed(error, self.clock().tick());
                self.note_failure(&error);
                Err(error)
            }
        }
    }

    fn note_success(&self, token: &Token) {
        if token.is_permanent() {
            return; // Having one proves nothing; being accepted does.
        }
        let mut state = lock(&self.0.state);
        if matches!(*state, LoginState::Failing { .. } | LoginState::NeverTried) {
            tracing::info!("logged in");
        }
        *state = LoginState::Good { at: self.clock().now() };
    }

    fn note_failure(&self, error: &ApiError) {
        let now = self.clock().now();
        let mut state = lock(&self.0.state);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
