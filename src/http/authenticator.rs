//! Access to conversations: only with `http.token`.
//!
//! A person enters the token once in a form and then holds a session: a cookie with its expiry and
//! a random number, signed with a key that is derived from the token. So the cookie does not
//! contain the token, a session survives a restart and is valid on every replica with the same
//! token, and a new token ends all sessions. Programs send the token itself as a bearer token.
//! Tokens are compared in constant time. Wrong tokens are rate-limited for everyone; sessions are
//! not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum_extra::extract::cookie::{Cookie, Key, SameSite, SignedCookieJar};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::connection::LogThrottle;
use crate::clock::{Clock, Tick, Time};
use crate::db::{Db, DbError};

const SESSION_COOKIE: &str = "ringcx_session";
/// How long a session is valid.
const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// How many wrong tokens in a row are checked before checks are delayed.
const MAX_WRONG_TOKENS: u32 = 10;
/// How long until one more token is checked.
const ATTEMPT_REFILL_INTERVAL: Duration = Duration::from_secs(10);
const MAX_CONCURRENT_SEARCHES: usize = 2;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthOutcome {
    Granted,
    Denied,
    /// Too many wrong tokens: none is checked for this long.
    RateLimited(Duration),
}

/// Checks tokens and sessions.
pub(super) struct Authenticator {
    token: SecretString,
    session_key: Key,
    clock: Clock,
    /// Where ended sessions are stored, for every replica and across restarts.
    db: Db,
    /// When all attempts are refilled.
    refilled_at: Mutex<Tick>,
    /// Throttles the log of wrong tokens.
    pub(super) log: LogThrottle,
    /// Permits for concurrent searches: they load the database more than anything else here.
    pub(super) search_permits: Semaphore,
}

impl Authenticator {
    pub(super) fn new(token: SecretString, clock: Clock, db: Db) -> Authenticator {
        let key = Sha512::new().chain_update(b"session\0").chain_update(token.expose_secret()).finalize();
        Authenticator {
            token,
            session_key: Key::from(&key),
            db,
            refilled_at: Mutex::new(clock.tick()),
            clock,
            log: LogThrottle::default(),
            search_permits: Semaphore::new(MAX_CONCURRENT_SEARCHES),
        }
    }

    /// Checks a token. Only a wrong one uses up an attempt, unlike in a general rate limiter.
    pub(super) fn check_token(&self, given: &str) -> AuthOutcome {
        let mut refilled_at = self.refilled_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.tick();
        let wait = refilled_at.since(now + ATTEMPT_REFILL_INTERVAL * (MAX_WRONG_TOKENS - 1));
        if !wait.is_zero() {
            return AuthOutcome::RateLimited(wait.max(Duration::from_secs(1)));
        }
        // Compares digests, so that the time taken reveals neither a matching prefix nor the length.
        let digest = |text: &str| Sha256::digest(text.as_bytes());
        if digest(given).ct_eq(&digest(self.token.expose_secret())).into() {
            return AuthOutcome::Granted;
        }
        *refilled_at = now.max(*refilled_at) + ATTEMPT_REFILL_INTERVAL;
        AuthOutcome::Denied
    }

    /// The request's cookies that this server has signed.
    fn cookies(&self, headers: &HeaderMap) -> SignedCookieJar {
        SignedCookieJar::from_headers(headers, self.session_key.clone())
    }

    /// The digest of the session in these cookies, and when it expires; `None` if it has expired.
    /// The digest is the name of an ended session in the database, where it is useless to a reader.
    fn session(&self, cookies: &SignedCookieJar) -> Option<(String, Time)> {
        let cookie = cookies.get(SESSION_COOKIE)?;
        let until = Time(cookie.value().split('.').next()?.parse().ok()?);
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(cookie.value()));
        (until > self.clock.now()).then_some((digest, until))
    }

    /// Checks the request's session cookie or bearer token.
    ///
    /// # Errors
    /// If the database cannot tell whether a session was ended.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<AuthOutcome, DbError> {
        if let Some((digest, _)) = self.session(&self.cookies(headers))
            && !self.db.is_session_revoked(&digest).await?
        {
            return Ok(AuthOutcome::Granted);
        }
        Ok(bearer(headers).map_or(AuthOutcome::Denied, |token| self.check_token(token)))
    }

    /// Creates a session that starts now, and returns its cookie.
    pub(super) fn create_session(&self, headers: &HeaderMap) -> SignedCookieJar {
        let until = self.clock.now() + SESSION_LIFETIME;
        let number = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>());
        let cookie = Cookie::build((SESSION_COOKIE, format!("{}.{number}", until.0)))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Strict)
            .secure(is_https(headers))
            .max_age(SESSION_LIFETIME.try_into().unwrap_or_default());
        SignedCookieJar::new(self.session_key.clone()).add(cookie)
    }

    /// Ends the request's session on all replicas, and returns a cookie that deletes it.
    ///
    /// # Errors
    /// If the database cannot store it. The session then stays valid.
    pub(super) async fn end_session(&self, headers: &HeaderMap) -> Result<SignedCookieJar, DbError> {
        let cookies = self.cookies(headers);
        if let Some((digest, until)) = self.session(&cookies) {
            self.db.revoke_session(&digest, until, self.clock.now()).await?;
        }
        Ok(cookies.remove(Cookie::build(SESSION_COOKIE).path("/")))
    }
}

/// Whether the browser uses TLS, as the browser or the proxy in front reports.
fn is_https(headers: &HeaderMap) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header(ORIGIN.as_str()).starts_with("https://") || header("x-forwarded-proto").eq_ignore_ascii_case("https")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::http::header::SET_COOKIE;
    use axum::response::IntoResponse;
    use tempfile::TempDir;

    use super::*;
    use crate::db::OpenMode;

    struct Site {
        clock: Clock,
        db: Db,
        _folder: TempDir,
    }

    impl Site {
        async fn open() -> Site {
            let folder = tempfile::tempdir().unwrap();
            let db = Db::open_sqlite(&folder.path().join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
            Site { clock: Clock::manual(Time(1_800_000_000_000)), db, _folder: folder }
        }

        fn authenticator(&self, token: &str) -> Authenticator {
            Authenticator::new(token.to_owned().into(), self.clock.clone(), self.db.clone())
        }
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    /// The `Set-Cookie` of a response.
    fn set_cookie(cookies: SignedCookieJar) -> String {
        cookies.into_response().headers()[SET_COOKIE].to_str().unwrap().to_owned()
    }

    /// What a browser sends that holds this cookie.
    fn session(cookie: &str) -> HeaderMap {
        with("cookie", &format!("other=1; {}", cookie.split(';').next().unwrap()))
    }

    #[tokio::test]
    async fn a_session_is_valid_on_every_replica_until_it_expires_and_does_not_contain_the_token() {
        let site = Site::open().await;
        let one = site.authenticator("sesame");
        let cookie = set_cookie(one.create_session(&HeaderMap::new()));
        assert!(!cookie.contains("sesame"), "{cookie}");
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"), "{cookie}");
        let headers = session(&cookie);
        assert_eq!(one.authenticate(&headers).await.unwrap(), AuthOutcome::Granted);
        assert_eq!(site.authenticator("sesame").authenticate(&headers).await.unwrap(), AuthOutcome::Granted);
        let other = site.authenticator("sesame2").authenticate(&headers).await.unwrap();
        assert_eq!(other, AuthOutcome::Denied, "another token ends it");
        site.clock.advance(SESSION_LIFETIME);
        assert_eq!(one.authenticate(&headers).await.unwrap(), AuthOutcome::Denied, "it has expired");
    }

    #[tokio::test]
    async fn a_session_that_was_tampered_with_or_ended_is_invalid() {
        let site = Site::open().await;
        let authenticator = site.authenticator("sesame");
        let cookie = set_cookie(authenticator.create_session(&HeaderMap::new()));
        let later = cookie.replacen("1800043200000", "1900043200000", 1);
        assert_ne!(later, cookie);
        let nothing = ["", "x", "..", "99999999999999.a.", "99999999999999"];
        let invalid = nothing.map(|nothing| format!("{SESSION_COOKIE}={nothing}"));
        for cookie in invalid.iter().chain([&later]) {
            assert_eq!(authenticator.authenticate(&session(cookie)).await.unwrap(), AuthOutcome::Denied, "{cookie}");
        }
        let forget = set_cookie(authenticator.end_session(&session(&cookie)).await.unwrap());
        assert!(forget.starts_with("ringcx_session=; Path=/; Max-Age=0"), "{forget}");
        assert_eq!(authenticator.authenticate(&session(&cookie)).await.unwrap(), AuthOutcome::Denied);
        let restarted = site.authenticator("sesame");
        assert_eq!(restarted.authenticate(&session(&cookie)).await.unwrap(), AuthOutcome::Denied);
    }

    #[tokio::test]
    async fn wrong_tokens_are_rate_limited_and_sessions_are_not() {
        let site = Site::open().await;
        let authenticator = site.authenticator("sesame");
        let cookie = session(&set_cookie(authenticator.create_session(&HeaderMap::new())));
        for _ in 0..MAX_WRONG_TOKENS {
            assert_eq!(authenticator.check_token("sesame"), AuthOutcome::Granted);
            assert_eq!(authenticator.check_token("sesamE"), AuthOutcome::Denied);
        }
        let limited = AuthOutcome::RateLimited(ATTEMPT_REFILL_INTERVAL);
        assert_eq!(authenticator.check_token("sesame"), limited, "the right one could be a guess as well");
        assert_eq!(authenticator.authenticate(&with("authorization", "Bearer sesame")).await.unwrap(), limited);
        assert_eq!(authenticator.authenticate(&cookie).await.unwrap(), AuthOutcome::Granted);
        let check_two = |one, two| (authenticator.check_token(one), authenticator.check_token(two));
        site.clock.advance(ATTEMPT_REFILL_INTERVAL);
        assert_eq!(check_two("x", "sesame"), (AuthOutcome::Denied, limited));
        site.clock.advance(ATTEMPT_REFILL_INTERVAL);
        assert_eq!(check_two("sesame", "sesame"), (AuthOutcome::Granted, AuthOutcome::Granted));
    }

    #[tokio::test]
    async fn the_cookie_is_secure_if_the_browser_uses_tls() {
        let authenticator = Site::open().await.authenticator("sesame");
        let is_secure = |name, value| {
            set_cookie(authenticator.create_session(&with(name, value))).split("; ").any(|part| part == "Secure")
        };
        assert!(is_secure("x-forwarded-proto", "https") && is_secure("origin", "https://archive.example"));
        assert!(!is_secure("origin", "http://archive.example"));
    }

    #[tokio::test]
    async fn a_bearer_token_is_the_token_itself() {
        let authenticator = Site::open().await.authenticator("sesame");
        let check = async |header| authenticator.authenticate(&with("authorization", header)).await.unwrap();
        assert_eq!(check("bearer sesame").await, AuthOutcome::Granted);
        for wrong in ["Bearer", "Bearer ", "Bearer sesam", "Basic sesame", "sesame", "Bearer sesame x"] {
            assert_eq!(check(wrong).await, AuthOutcome::Denied, "{wrong}");
        }
    }
}
