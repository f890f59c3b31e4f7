//! Access to conversations: only with `http.token`.
//!
//! A person enters the token once in a form and then holds a session: its expiry, a random number,
//! and a keyed digest of both under the token. So the cookie does not contain the token, a session
//! survives a restart and is valid on every replica with the same token, and a new token ends all
//! sessions. Programs send the token itself as a bearer token. Tokens are compared in constant
//! time. Wrong tokens are rate-limited for everyone; sessions are not.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE, ORIGIN};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
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
/// How many ended sessions are kept in memory until they expire; the oldest is dropped first.
const MAX_ENDED_SESSIONS_KEPT: usize = 1024;
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
    clock: Clock,
    /// Where ended sessions are stored, for every replica and across restarts.
    db: Option<Db>,
    attempts: Mutex<AttemptBudget>,
    /// Throttles the log of wrong tokens.
    pub(super) log: LogThrottle,
    ended: Mutex<VecDeque<String>>,
    /// Permits for concurrent searches: they load the database more than anything else here.
    pub(super) search_permits: Semaphore,
}

struct AttemptBudget {
    left: u32,
    /// When the last attempt was refilled.
    refilled_at: Tick,
}

impl Authenticator {
    pub(super) fn new(token: SecretString, clock: Clock) -> Authenticator {
        let attempts = Mutex::new(AttemptBudget { left: MAX_WRONG_TOKENS, refilled_at: clock.tick() });
        let (log, ended, search_permits) =
            (LogThrottle::default(), Mutex::default(), Semaphore::new(MAX_CONCURRENT_SEARCHES));
        Authenticator { token, clock, db: None, attempts, log, ended, search_permits }
    }

    /// Stores ended sessions in `db`.
    pub(super) fn with_db(self, db: Db) -> Authenticator {
        Authenticator { db: Some(db), ..self }
    }

    /// Checks a token.
    pub(super) fn check_token(&self, given: &str) -> AuthOutcome {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.tick();
        let since = now.since(attempts.refilled_at);
        let refilled = u32::try_from(since.as_secs() / ATTEMPT_REFILL_INTERVAL.as_secs()).unwrap_or(MAX_WRONG_TOKENS);
        if attempts.left.saturating_add(refilled) >= MAX_WRONG_TOKENS {
            *attempts = AttemptBudget { left: MAX_WRONG_TOKENS, refilled_at: now };
        } else if refilled > 0 {
            *attempts = AttemptBudget {
                left: attempts.left + refilled,
                refilled_at: attempts.refilled_at + ATTEMPT_REFILL_INTERVAL * refilled,
            };
        }
        if attempts.left == 0 {
            return AuthOutcome::RateLimited(
                ATTEMPT_REFILL_INTERVAL.saturating_sub(now.since(attempts.refilled_at)).max(Duration::from_secs(1)),
            );
        }
        if self.matches_token(given) {
            return AuthOutcome::Granted;
        }
        attempts.left -= 1;
        AuthOutcome::Denied
    }

    /// Compares digests, so that the time taken reveals neither a matching prefix nor the length.
    fn matches_token(&self, given: &str) -> bool {
        let mac = |text: &str| Some(keyed_mac(self.token.expose_secret())?.chain_update(b"token\0").chain_update(text));
        let Some(right) = mac(self.token.expose_secret()) else { return false };
        mac(given).is_some_and(|given| given.verify_slice(&right.finalize().into_bytes()).is_ok())
    }

    /// Creates a session that starts now.
    fn new_session(&self) -> String {
        let until = self.clock.now() + SESSION_LIFETIME;
        let head = format!("{}.{}", until.0, URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>()));
        let mac = self.session_mac(&head).map(|mac| mac.finalize().into_bytes()).unwrap_or_default();
        format!("{head}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    fn session_mac(&self, head: &str) -> Option<Hmac<Sha256>> {
        Some(keyed_mac(self.token.expose_secret())?.chain_update(b"session\0").chain_update(head))
    }

    /// When this session expires; `None` if it is invalid or expired.
    fn valid_until(&self, session: &str) -> Option<Time> {
        let (head, mac) = session.rsplit_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        self.session_mac(head)?.verify_slice(&mac).ok()?;
        let until = Time(head.split('.').next()?.parse().ok()?);
        let holds = until > self.clock.now() && !self.ended().iter().any(|ended| ended == session);
        holds.then_some(until)
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the request's session cookie or bearer token.
    ///
    /// # Errors
    /// If the database cannot tell whether a session was ended.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<AuthOutcome, DbError> {
        for session in sessions(headers).filter(|session| self.valid_until(session).is_some()) {
            let ended = match &self.db {
                Some(db) => db.is_session_revoked(&session_digest(session)).await?,
                None => false,
            };
            if !ended {
                return Ok(AuthOutcome::Granted);
            }
        }
        Ok(bearer(headers).map_or(AuthOutcome::Denied, |token| self.check_token(token)))
    }

    /// Creates a session and returns its cookie.
    pub(super) fn create_session_cookie(&self, headers: &HeaderMap) -> String {
        cookie(&self.new_session(), SESSION_LIFETIME.as_secs(), headers)
    }

    /// Ends the request's sessions on all replicas, and returns a cookie that deletes them.
    ///
    /// # Errors
    /// If the database cannot store it. The sessions are then ended in this process only, until it
    /// stops.
    pub(super) async fn end_sessions(&self, headers: &HeaderMap) -> Result<String, DbError> {
        let open: Vec<(&str, Time)> =
            sessions(headers).filter_map(|session| Some((session, self.valid_until(session)?))).collect();
        for (session, _) in &open {
            let mut ended = self.ended();
            if ended.len() == MAX_ENDED_SESSIONS_KEPT {
                ended.pop_front();
            }
            ended.push_back((*session).to_owned());
        }
        if let Some(db) = &self.db {
            for (session, until) in open {
                db.revoke_session(&session_digest(session), until, self.clock.now()).await?;
            }
        }
        Ok(cookie("", 0, headers))
    }
}

/// The name under which an ended session is stored: it is useless to a reader.
fn session_digest(session: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(session.as_bytes()))
}

fn keyed_mac(token: &str) -> Option<Hmac<Sha256>> {
    Hmac::new_from_slice(token.as_bytes()).ok()
}

fn cookie(value: &str, seconds: u64, headers: &HeaderMap) -> String {
    let secure = if is_https(headers) { "; Secure" } else { "" };
    format!("{SESSION_COOKIE}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

/// Whether the browser uses TLS, as the browser or the proxy in front reports.
fn is_https(headers: &HeaderMap) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header(ORIGIN.as_str()).starts_with("https://") || header("x-forwarded-proto").eq_ignore_ascii_case("https")
}

fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == SESSION_COOKIE).map(|(_, value)| value)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures_util::FutureExt;

    use super::*;

    fn authenticator(token: &str, clock: &Clock) -> Authenticator {
        Authenticator::new(token.to_owned().into(), clock.clone())
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    fn session(cookie: &str) -> HeaderMap {
        with("cookie", &format!("other=1; {}", cookie.split(';').next().unwrap()))
    }

    #[test]
    fn a_session_is_valid_on_every_replica_until_it_expires_and_does_not_contain_the_token() {
        let clock = Clock::manual(Time(1_800_000_000_000));
        let (one, two, other) =
            (authenticator("sesame", &clock), authenticator("sesame", &clock), authenticator("sesame2", &clock));
        let cookie = one.create_session_cookie(&HeaderMap::new());
        assert!(!cookie.contains("sesame") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        let headers = session(&cookie);
        assert_eq!(
            (
                one.authenticate(&headers).now_or_never().unwrap().unwrap(),
                two.authenticate(&headers).now_or_never().unwrap().unwrap()
            ),
            (AuthOutcome::Granted, AuthOutcome::Granted)
        );
        assert_eq!(
            other.authenticate(&headers).now_or_never().unwrap().unwrap(),
            AuthOutcome::Denied,
            "another token ends it"
        );
        clock.advance(SESSION_LIFETIME);
        assert_eq!(one.authenticate(&headers).now_or_never().unwrap().unwrap(), AuthOutcome::Denied, "it has expired");
    }

    #[test]
    fn a_session_that_was_tampered_with_or_ended_is_invalid() {
        let clock = Clock::manual(Time(1_800_000_000_000));
        let authenticator = authenticator("sesame", &clock);
        let cookie = authenticator.create_session_cookie(&HeaderMap::new());
        let later = cookie.replacen("=1", "=2", 1);
        assert_eq!(authenticator.authenticate(&session(&later)).now_or_never().unwrap().unwrap(), AuthOutcome::Denied);
        for nothing in ["", "x", "..", "99999999999999.a.", "99999999999999"] {
            assert_eq!(
                authenticator
                    .authenticate(&session(&format!("{SESSION_COOKIE}={nothing}")))
                    .now_or_never()
                    .unwrap()
                    .unwrap(),
                AuthOutcome::Denied,
                "{nothing}"
            );
        }
        let forget = authenticator.end_sessions(&session(&cookie)).now_or_never().unwrap().unwrap();
        assert!(forget.starts_with("ringcx_session=; Max-Age=0;"), "{forget}");
        assert_eq!(authenticator.authenticate(&session(&cookie)).now_or_never().unwrap().unwrap(), AuthOutcome::Denied);
    }

    #[test]
    fn wrong_tokens_are_rate_limited_and_sessions_are_not() {
        let clock = Clock::manual(Time(1_800_000_000_000));
        let authenticator = authenticator("sesame", &clock);
        let cookie = session(&authenticator.create_session_cookie(&HeaderMap::new()));
        for _ in 0..MAX_WRONG_TOKENS {
            assert_eq!(authenticator.check_token("sesamE"), AuthOutcome::Denied);
        }
        assert_eq!(
            authenticator.check_token("sesame"),
            AuthOutcome::RateLimited(ATTEMPT_REFILL_INTERVAL),
            "the right one could be a guess as well"
        );
        assert_eq!(
            authenticator.authenticate(&with("authorization", "Bearer sesame")).now_or_never().unwrap().unwrap(),
            AuthOutcome::RateLimited(ATTEMPT_REFILL_INTERVAL)
        );
        assert_eq!(authenticator.authenticate(&cookie).now_or_never().unwrap().unwrap(), AuthOutcome::Granted);
        clock.advance(ATTEMPT_REFILL_INTERVAL);
        assert_eq!(
            (authenticator.check_token("x"), authenticator.check_token("sesame")),
            (AuthOutcome::Denied, AuthOutcome::RateLimited(ATTEMPT_REFILL_INTERVAL))
        );
        clock.advance(ATTEMPT_REFILL_INTERVAL);
        assert_eq!(
            (authenticator.check_token("sesame"), authenticator.check_token("sesame")),
            (AuthOutcome::Granted, AuthOutcome::Granted)
        );
    }

    #[test]
    fn the_cookie_is_secure_if_the_browser_uses_tls() {
        let authenticator = authenticator("sesame", &Clock::manual(Time(0)));
        assert!(authenticator.create_session_cookie(&with("x-forwarded-proto", "https")).ends_with("; Secure"));
        assert!(authenticator.create_session_cookie(&with("origin", "https://archive.example")).ends_with("; Secure"));
        assert!(!authenticator.create_session_cookie(&with("origin", "http://archive.example")).contains("Secure"));
    }

    #[test]
    fn a_bearer_token_is_the_token_itself() {
        let authenticator = authenticator("sesame", &Clock::manual(Time(0)));
        assert_eq!(
            authenticator.authenticate(&with("authorization", "bearer sesame")).now_or_never().unwrap().unwrap(),
            AuthOutcome::Granted
        );
        for wrong in ["Bearer", "Bearer ", "Bearer sesam", "Basic sesame", "sesame", "Bearer sesame x"] {
            assert_eq!(
                authenticator.authenticate(&with("authorization", wrong)).now_or_never().unwrap().unwrap(),
                AuthOutcome::Denied,
                "{wrong}"
            );
        }
    }
}
