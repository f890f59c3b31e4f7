//! Finds out who a request comes from: a session, a key of a program, or `http.token`.
//!
//! A person enters `http.token` once in a form, or logs in at the identity provider, and then holds
//! a session. Programs send their key, or `http.token`, as a bearer token. Secrets are compared in
//! constant time. Wrong ones are rate-limited for everyone; sessions are not, nor are keys that this
//! program has made: nobody can guess one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum_extra::extract::cookie::PrivateCookieJar;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::attempt_limiter::AttemptLimiter;
use super::caller::{Caller, Reader};
use super::form_seal::{SealPurpose, is_sealed, seal};
use super::oidc::{Callback, LoginError, OidcLogin};
use super::role::Role;
use super::session::{Person, SessionId, SessionOwner, Sessions};
use crate::clock::{Clock, Time};
use crate::config::{Access, KeySettings, RoleSettings};
use crate::db::{Db, DbError};

/// What a key made by this program begins with.
const KEY_PREFIX: &str = "rcx_";
/// Random bytes of such a key.
const KEY_BYTES: usize = 32;

/// Why a request is not answered.
#[derive(Debug)]
pub(crate) enum AuthRefusal {
    /// It has neither a valid session nor a token.
    Missing,
    /// Its token is wrong.
    Wrong,
    /// Its key was valid until this time.
    Expired { name: String, at: Time },
    /// Too many wrong tokens: none is checked for this long.
    RateLimited(Duration),
    /// The database cannot tell whether its session is valid.
    Unavailable(DbError),
}

impl AuthRefusal {
    /// The reason, for the metric.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            AuthRefusal::Missing => "missing",
            AuthRefusal::Wrong => "wrong",
            AuthRefusal::Expired { .. } => "expired",
            AuthRefusal::RateLimited(_) => "rate_limited",
            AuthRefusal::Unavailable(_) => "unavailable",
        }
    }
}

impl From<DbError> for AuthRefusal {
    fn from(error: DbError) -> AuthRefusal {
        AuthRefusal::Unavailable(error)
    }
}

/// A key of the settings and its role.
struct KnownKey {
    settings: KeySettings,
    role: Arc<Role>,
}

/// What a correct secret stands for.
enum Credential<'a> {
    SharedToken,
    Key(&'a KnownKey),
}

/// Checks sessions, keys and tokens.
pub(crate) struct Authenticator {
    token: Option<SecretString>,
    keys: Vec<KnownKey>,
    roles: Vec<(RoleSettings, Arc<Role>)>,
    /// Where people log in; `None` without a provider.
    login: Option<OidcLogin>,
    /// Digest of the provider's settings.
    provider_basis: Option<String>,
    /// Whether people reach this server over TLS, by the settings.
    is_public_https: bool,
    sessions: Sessions,
    attempts: AttemptLimiter,
    clock: Clock,
}

impl Authenticator {
    /// `None` if the settings let nobody in.
    ///
    /// # Errors
    /// If no client of the provider can be built.
    pub(crate) fn new(
        token: Option<&SecretString>,
        access: &Access,
        clock: Clock,
        db: Db,
    ) -> Result<Option<Authenticator>, LoginError> {
        if token.is_none() && access.oidc.is_none() && access.keys.is_empty() {
            return Ok(None);
        }
        let roles: Vec<_> = access.roles.iter().map(|role| (role.clone(), Arc::new(Role::of(role)))).collect();
        let role_of = |key: &KeySettings| roles.iter().find(|(role, _)| role.name == key.role);
        let known = |key: &KeySettings| Some(KnownKey { settings: key.clone(), role: role_of(key)?.1.clone() });
        let provider_basis = access
            .oidc
            .as_ref()
            .map(|oidc| digest_of(&["person", &oidc.issuer, &oidc.client_id, oidc.client_secret.expose_secret()]));
        let groups = access.roles.iter().flat_map(|role| role.groups.iter().cloned()).collect();
        let login = access.oidc.clone().map(|oidc| OidcLogin::new(oidc, groups, clock.clone())).transpose()?;
        Ok(Some(Authenticator {
            token: token.cloned(),
            keys: access.keys.iter().filter_map(known).collect(),
            login,
            provider_basis,
            is_public_https: access.oidc.as_ref().is_some_and(|oidc| oidc.public_url.starts_with("https://")),
            sessions: Sessions::new(db, clock.clone()),
            attempts: AttemptLimiter::new(clock.clone()),
            roles,
            clock,
        }))
    }

    /// Whether people log in at a provider.
    pub(crate) fn has_provider(&self) -> bool {
        self.login.is_some()
    }

    /// Whether there is an `http.token`.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Who a request comes from. `peer` is the address of its connection.
    ///
    /// # Errors
    /// Why it must not be answered.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, AuthRefusal> {
        self.identify(headers, peer).await.map(|(caller, _)| caller)
    }

    /// Who a request comes from, with the session if it has one.
    ///
    /// # Errors
    /// Why it must not be answered.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<(Caller, Option<SessionId>), AuthRefusal> {
        match self.authenticate_session(headers, peer).await {
            Err(AuthRefusal::Missing) => {}
            decided => return decided.map(|(caller, session)| (caller, Some(session))),
        }
        let token = bearer(headers).ok_or(AuthRefusal::Missing)?;
        Ok((self.check_secret(token, || origin_of(headers, peer))?, None))
    }

    /// Whether some people or programs see less than everything, so that even figures are shown only
    /// to those who are known.
    pub(crate) fn has_limited_roles(&self) -> bool {
        let is_limited = |role: &RoleSettings| !role.accounts.is_empty() || !role.channels.is_empty();
        self.has_provider() || self.roles.iter().any(|(role, _)| is_limited(role))
    }

    /// A new token for the forms of a page.
    ///
    /// # Errors
    /// If the database has no secret yet and cannot be written.
    pub(crate) async fn form_token(&self, session: &SessionId) -> Result<String, DbError> {
        let nonce = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>());
        let sealed = seal(&self.sessions.seal_key().await?, SealPurpose::Form, &session.0, &nonce);
        Ok(format!("{nonce}.{sealed}"))
    }

    /// Whether a form with this token came from a page of this session.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn is_form_token(&self, session: &SessionId, token: &str) -> Result<bool, DbError> {
        let Some((nonce, sealed)) = token.split_once('.') else { return Ok(false) };
        Ok(is_sealed(&self.sessions.seal_key().await?, SealPurpose::Form, &session.0, nonce, sealed))
    }

    /// The seal of a notice for this session.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn seal_notice(&self, session: &SessionId, notice: &str) -> Result<String, DbError> {
        Ok(seal(&self.sessions.seal_key().await?, SealPurpose::Notice, &session.0, notice))
    }

    /// Whether this server made the notice for this session.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn is_notice(&self, session: &SessionId, notice: &str, sealed: &str) -> Result<bool, DbError> {
        Ok(is_sealed(&self.sessions.seal_key().await?, SealPurpose::Notice, &session.0, notice, sealed))
    }

    /// Whose session a request has.
    ///
    /// # Errors
    /// If it has none, or the database cannot tell whether it was ended.
    pub(crate) async fn authenticate_session(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<(Caller, SessionId), AuthRefusal> {
        let session = self.sessions.read(headers, |owner| self.basis(owner)).await?.ok_or(AuthRefusal::Missing)?;
        let caller = match session.owner {
            SessionOwner::SharedToken => Caller::shared_token(origin_of(headers, peer)),
            SessionOwner::Person(person) => {
                self.caller_of(&person, origin_of(headers, peer)).ok_or(AuthRefusal::Missing)?
            }
        };
        Ok((caller, session.id))
    }

    /// Checks `http.token` as it was entered in the login form.
    ///
    /// # Errors
    /// Why it is refused. The key of a program is refused too: it is not for a browser.
    pub(crate) fn check_token(&self, given: &str) -> Result<(), AuthRefusal> {
        match self.attempts.attempt(|| self.is_shared_token(given).then_some(())) {
            Ok(checked) => checked.ok_or(AuthRefusal::Wrong),
            Err(wait) => Err(AuthRefusal::RateLimited(wait)),
        }
    }

    fn check_secret(&self, given: &str, origin: impl FnOnce() -> String) -> Result<Caller, AuthRefusal> {
        let unguessable = is_generated_key(given).then(|| self.find_key(given)).flatten().map(Credential::Key);
        let credential = match unguessable {
            Some(credential) => credential,
            None => {
                let check = || match self.is_shared_token(given) {
                    true => Some(Credential::SharedToken),
                    false => self.find_key(given).map(Credential::Key),
                };
                let checked = self.attempts.attempt(check).map_err(AuthRefusal::RateLimited)?;
                checked.ok_or(AuthRefusal::Wrong)?
            }
        };
        match credential {
            Credential::SharedToken => Ok(Caller::shared_token(origin())),
            Credential::Key(KnownKey { settings: KeySettings { name, expires, .. }, role }) => match expires {
                Some(at) if *at <= self.clock.now() => Err(AuthRefusal::Expired { name: name.clone(), at: *at }),
                _ => Ok(Caller::new(Reader::Key { name: name.clone() }, origin(), [role.clone()])),
            },
        }
    }

    fn is_shared_token(&self, given: &str) -> bool {
        // Compares digests, so that the time taken reveals neither a matching prefix nor the length.
        let digest = |text: &str| Sha256::digest(text.as_bytes());
        self.token.as_ref().is_some_and(|token| digest(given).ct_eq(&digest(token.expose_secret())).into())
    }

    fn find_key(&self, given: &str) -> Option<&KnownKey> {
        let digest = Sha256::digest(given.as_bytes());
        self.keys.iter().find(|key| digest.ct_eq(&key.settings.hash).into())
    }

    /// A person with the roles that the settings give it now; `None` without any.
    fn caller_of(&self, person: &Person, origin: String) -> Option<Caller> {
        let is_member = |role: &RoleSettings| {
            let is_subject = |subject: &String| {
                *subject == person.sub
                    || person.email.as_deref().is_some_and(|email| email.eq_ignore_ascii_case(subject))
            };
            role.subjects.iter().any(is_subject) || person.groups.iter().any(|group| role.groups.contains(group))
        };
        let roles: Vec<_> =
            self.roles.iter().filter(|(role, _)| is_member(role)).map(|(_, role)| role.clone()).collect();
        let subject = person.email.clone().unwrap_or_else(|| person.sub.clone());
        (!roles.is_empty()).then(|| Caller::new(Reader::Person { subject }, origin, roles))
    }

    /// Digest of the settings that a session is made under; `None` if they allow none.
    fn basis(&self, owner: &SessionOwner) -> Option<String> {
        match owner {
            SessionOwner::SharedToken => {
                self.token.as_ref().map(|token| digest_of(&["http.token", token.expose_secret()]))
            }
            SessionOwner::Person(_) => self.provider_basis.clone(),
        }
    }

    /// Creates a session for someone who entered `http.token`, and returns its cookie.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn create_token_session(&self, headers: &HeaderMap) -> Result<PrivateCookieJar, DbError> {
        let owner = SessionOwner::SharedToken;
        let basis = self.basis(&owner).unwrap_or_default();
        self.sessions.create(None, owner, basis, is_https(headers)).await
    }

    /// A session of a person with this verified address, without a provider.
    #[cfg(test)]
    pub(crate) async fn create_person_session(&self, email: &str) -> PrivateCookieJar {
        let person = Person { sub: email.to_owned(), email: Some(email.to_owned()), groups: Vec::new() };
        let owner = SessionOwner::Person(person);
        let basis = self.basis(&owner).unwrap_or_default();
        self.sessions.create(None, owner, basis, false).await.unwrap()
    }

    /// Starts a login at the provider: a cookie for the browser, and the provider's URL. `next` is
    /// the page to go to after the login.
    ///
    /// # Errors
    /// If the provider cannot be used.
    pub(crate) async fn start_login(
        &self,
        headers: &HeaderMap,
        next: String,
    ) -> Result<(PrivateCookieJar, String), LoginError> {
        let login = self.login.as_ref().ok_or_else(LoginError::stale)?;
        let (url, pending) = login.start(next).await?;
        let is_https = self.is_public_https || is_https(headers);
        Ok((self.sessions.keep_login(&pending, is_https).await.map_err(LoginError::database)?, url))
    }

    /// Completes a login: cookies with a session, who it is, and the page to go to.
    ///
    /// # Errors
    /// If the answer does not belong to a login of this browser, the provider refuses it, or the
    /// person has no role.
    pub(crate) async fn complete_login(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        callback: Callback,
    ) -> Result<(PrivateCookieJar, Caller, String), LoginError> {
        let login = self.login.as_ref().ok_or_else(LoginError::stale)?;
        let (pending, cookies) = self.sessions.take_login(headers).await.map_err(LoginError::database)?;
        let pending = pending.ok_or_else(LoginError::stale)?;
        let person = login.complete(callback, &pending).await?;
        let caller = self.caller_of(&person, origin_of(headers, peer));
        let caller = caller.ok_or_else(|| LoginError::without_role(person.email.as_ref().unwrap_or(&person.sub)))?;
        let owner = SessionOwner::Person(person);
        let basis = self.basis(&owner).unwrap_or_default();
        let is_https = self.is_public_https || is_https(headers);
        let cookies = self.sessions.create(Some(cookies), owner, basis, is_https).await;
        Ok((cookies.map_err(LoginError::database)?, caller, pending.next))
    }

    /// Someone with `http.token` at this address.
    pub(crate) fn token_caller(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Caller {
        Caller::shared_token(origin_of(headers, peer))
    }

    /// Ends the request's session on all replicas, and returns a cookie that deletes it.
    ///
    /// # Errors
    /// If the database cannot store it. The session then stays valid.
    pub(crate) async fn end_session(&self, headers: &HeaderMap) -> Result<PrivateCookieJar, DbError> {
        self.sessions.end(headers).await
    }
}

/// A new key for a program.
pub(crate) fn generate_key() -> SecretString {
    let random = rand::rng().random::<[u8; KEY_BYTES]>();
    format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random)).into()
}

/// The hash of a key, as the settings have it.
pub(crate) fn hash_key(key: &SecretString) -> String {
    let hash = Sha256::digest(key.expose_secret().as_bytes());
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Whether a text has the form of [`generate_key`], and so is too long to be guessed.
fn is_generated_key(text: &str) -> bool {
    let random = text.strip_prefix(KEY_PREFIX).and_then(|random| URL_SAFE_NO_PAD.decode(random).ok());
    random.is_some_and(|random| random.len() == KEY_BYTES)
}

/// A digest of several texts.
fn digest_of(parts: &[&str]) -> String {
    let add = |hash: Sha256, part: &&str| hash.chain_update(Sha256::digest(part.as_bytes()));
    URL_SAFE_NO_PAD.encode(parts.iter().fold(Sha256::new(), add).finalize())
}

/// Whether the browser uses TLS, as the browser or the proxy in front reports.
fn is_https(headers: &HeaderMap) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header(ORIGIN.as_str()).starts_with("https://") || header("x-forwarded-proto").eq_ignore_ascii_case("https")
}

/// Where a request comes from: the address of its connection and, behind a proxy, the address that
/// the proxy reports. A client can invent the latter, so it never stands alone.
fn origin_of(headers: &HeaderMap, peer: Option<IpAddr>) -> String {
    /// Longer than any chain of proxies needs.
    const MAX_FORWARDED_CHARS: usize = 200;
    let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_canonical().to_string());
    let forwarded = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    match forwarded.map(str::trim).filter(|forwarded| !forwarded.is_empty()) {
        Some(forwarded) => {
            format!("{peer}, forwarded for {}", forwarded.chars().take(MAX_FORWARDED_CHARS).collect::<String>())
        }
        None => peer,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests;
