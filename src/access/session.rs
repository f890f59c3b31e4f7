//! Sessions of browsers: encrypted cookies that every replica of the archive can read.
//!
//! The key is derived from a secret in the database, so a session survives a restart. A cookie
//! names the settings that it was made under: a new `http.token` ends the sessions of the old one,
//! and another provider or client secret ends those of all people. A session that was ended by
//! logout is in table `meta`, so that all replicas refuse it.

use std::time::Duration;

use axum::http::HeaderMap;
use axum_extra::extract::cookie::{Cookie, Key, PrivateCookieJar, SameSite};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};
use tokio::sync::OnceCell;

use super::oidc::{LOGIN_LIFETIME, PendingLogin};
use crate::clock::{Clock, Time};
use crate::db::{Db, DbError};

const SESSION_COOKIE: &str = "ringcx_session";
const LOGIN_COOKIE: &str = "ringcx_login";
/// Only the pages of the login get its cookie.
const LOGIN_PATH: &str = "/auth";
/// How long a session is valid.
pub(super) const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SessionOwner {
    /// Someone who entered `http.token`.
    SharedToken,
    /// A person whom the provider has identified.
    Person(Person),
}

/// A person as the provider describes one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Person {
    /// The claim `sub`.
    pub(super) sub: String,
    /// The e-mail address, if the provider has verified it.
    pub(super) email: Option<String>,
    /// Those of the person's groups that a role names.
    pub(super) groups: Vec<String>,
}

/// The content of a session cookie.
#[derive(Debug, Serialize, Deserialize)]
struct SessionContent {
    owner: SessionOwner,
    /// Digest of the settings that it was made under.
    basis: String,
    until: i64,
    /// Makes each session unique.
    number: String,
}

/// The name of a session in the database, where it is useless to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionId(pub(super) String);

/// A session of a request.
pub(super) struct Session {
    pub(super) owner: SessionOwner,
    pub(super) id: SessionId,
    until: Time,
}

/// Makes, reads and ends sessions.
pub(super) struct Sessions {
    db: Db,
    clock: Clock,
    key: OnceCell<Key>,
}

impl Sessions {
    pub(super) fn new(db: Db, clock: Clock) -> Sessions {
        Sessions { db, clock, key: OnceCell::new() }
    }

    async fn key(&self) -> Result<Key, DbError> {
        let derive = || async {
            let secret = self.db.session_secret().await?;
            Ok::<_, DbError>(Key::from(&Sha512::new().chain_update(b"session 2\0").chain_update(secret).finalize()))
        };
        self.key.get_or_try_init(derive).await.cloned()
    }

    /// The key of the seals on forms; cookies are encrypted with another part of it.
    ///
    /// # Errors
    /// If the database has no secret yet and cannot be written.
    pub(super) async fn seal_key(&self) -> Result<Vec<u8>, DbError> {
        Ok(self.key().await?.signing().to_vec())
    }

    /// The request's cookies that this server has made.
    async fn cookies(&self, headers: &HeaderMap) -> Result<PrivateCookieJar, DbError> {
        Ok(PrivateCookieJar::from_headers(headers, self.key().await?))
    }

    /// The request's session; `None` if it has none, or one that is expired, was ended, or was made
    /// under other settings. `basis` digests the settings for an owner.
    ///
    /// # Errors
    /// If the database cannot tell whether it was ended.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        basis: impl Fn(&SessionOwner) -> Option<String>,
    ) -> Result<Option<Session>, DbError> {
        let session = self.read_cookie(&self.cookies(headers).await?);
        let Some((session, made_under)) = session else { return Ok(None) };
        if basis(&session.owner) != Some(made_under) || self.db.is_session_revoked(&session.id.0).await? {
            return Ok(None);
        }
        Ok(Some(session))
    }

    /// The session in these cookies with the digest of its settings; `None` if it has expired.
    fn read_cookie(&self, cookies: &PrivateCookieJar) -> Option<(Session, String)> {
        let content: SessionContent = read_json(cookies, SESSION_COOKIE)?;
        let until = Time(content.until);
        let id = SessionId(URL_SAFE_NO_PAD.encode(Sha256::digest(&content.number)));
        let session = Session { owner: content.owner, id, until };
        (until > self.clock.now()).then_some((session, content.basis))
    }

    /// Creates a session that starts now, and adds its cookie to these.
    ///
    /// # Errors
    /// If the database has no secret yet and cannot be written.
    pub(super) async fn create(
        &self,
        cookies: Option<PrivateCookieJar>,
        owner: SessionOwner,
        basis: String,
        is_https: bool,
    ) -> Result<PrivateCookieJar, DbError> {
        // The provider sends a person here from its own site: a strict cookie would be left out then.
        let same_site = match owner {
            SessionOwner::SharedToken => SameSite::Strict,
            SessionOwner::Person(_) => SameSite::Lax,
        };
        let until = (self.clock.now() + SESSION_LIFETIME).0;
        let number = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>());
        let content = SessionContent { owner, basis, until, number };
        let cookie = json_cookie(SESSION_COOKIE, &content, "/", same_site, SESSION_LIFETIME, is_https);
        let cookies = match cookies {
            Some(cookies) => cookies,
            None => PrivateCookieJar::new(self.key().await?),
        };
        Ok(cookies.add(cookie))
    }

    /// Ends the request's session on all replicas, and returns a cookie that deletes it.
    ///
    /// # Errors
    /// If the database cannot store it. The session then stays valid.
    pub(super) async fn end(&self, headers: &HeaderMap) -> Result<PrivateCookieJar, DbError> {
        let cookies = self.cookies(headers).await?;
        if let Some((session, _)) = self.read_cookie(&cookies) {
            self.db.revoke_session(&session.id.0, session.until, self.clock.now()).await?;
        }
        Ok(cookies.remove(Cookie::build(SESSION_COOKIE).path("/")))
    }

    /// A cookie with what the browser keeps during a login at the provider.
    ///
    /// # Errors
    /// If the database has no secret yet and cannot be written.
    pub(super) async fn keep_login(&self, login: &PendingLogin, is_https: bool) -> Result<PrivateCookieJar, DbError> {
        // The provider's site leads back here, so a strict cookie would be left out.
        let cookie = json_cookie(LOGIN_COOKIE, login, LOGIN_PATH, SameSite::Lax, LOGIN_LIFETIME, is_https);
        Ok(PrivateCookieJar::new(self.key().await?).add(cookie))
    }

    /// What the browser kept, and cookies without it: each login is completed once.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(super) async fn take_login(
        &self,
        headers: &HeaderMap,
    ) -> Result<(Option<PendingLogin>, PrivateCookieJar), DbError> {
        let cookies = self.cookies(headers).await?;
        let login = read_json(&cookies, LOGIN_COOKIE);
        Ok((login, cookies.remove(Cookie::build(LOGIN_COOKIE).path(LOGIN_PATH))))
    }
}

/// Reads a cookie with JSON.
fn read_json<T: DeserializeOwned>(cookies: &PrivateCookieJar, name: &str) -> Option<T> {
    serde_json::from_str(cookies.get(name)?.value()).ok()
}

/// A cookie with JSON.
fn json_cookie(
    name: &'static str,
    content: &impl Serialize,
    path: &'static str,
    same_site: SameSite,
    lifetime: Duration,
    is_https: bool,
) -> Cookie<'static> {
    // Serialization of these types cannot fail; an empty cookie would only be no session.
    let value = serde_json::to_string(content).unwrap_or_default();
    Cookie::build((name, value))
        .path(path)
        .http_only(true)
        .same_site(same_site)
        .secure(is_https)
        .max_age(lifetime.try_into().unwrap_or_default())
        .build()
}
