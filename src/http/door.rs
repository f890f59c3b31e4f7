//! Who may see what customers said: those who know `http.token`.
//!
//! A person proves it once, in a form, and then holds a session: when it ends, a random number, and a keyed digest of
//! both under the token. So the cookie does not hold the token, a session outlives a restart and holds on every replica
//! that has the same token, and a new token ends them all. Programs send the token itself, as a bearer. Tokens are
//! compared in constant time, and only so many wrong ones are heard before all have to wait; sessions never wait.

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

use super::socket::LogThrottle;
use crate::clock::{Clock, Tick, Time};
use crate::db::{Db, DbError};

/// The cookie's name.
const NAME: &str = "ringcx_session";
/// How long a session holds.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Wrong tokens that are heard in a row.
const TRIES: u32 = 10;
/// How long until one more is.
const REGAIN: Duration = Duration::from_secs(10);
/// Sessions that were ended are remembered until they would have ended by themselves, the last of so many.
const ENDED: usize = 1024;
/// Searches at once.
const SEARCHES: usize = 2;

/// What came of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Right,
    Wrong,
    /// Too many were wrong: none is heard for so long.
    Wait(Duration),
}

/// Lets in whoever knows the token.
pub(super) struct Door {
    token: SecretString,
    clock: Clock,
    /// Where sessions that were ended are remembered, for every replica and across restarts.
    db: Option<Db>,
    tries: Mutex<Tries>,
    /// Of wrong tokens.
    pub(super) log: LogThrottle,
    ended: Mutex<VecDeque<String>>,
    /// Places for searches: they cost the database more than anything else here.
    pub(super) searches: Semaphore,
}

struct Tries {
    left: u32,
    /// When the last one was regained.
    at: Tick,
}

impl Door {
    pub(super) fn new(token: SecretString, clock: Clock) -> Door {
        let tries = Mutex::new(Tries { left: TRIES, at: clock.tick() });
        let (log, ended, searches) = (LogThrottle::default(), Mutex::default(), Semaphore::new(SEARCHES));
        Door { token, clock, db: None, tries, log, ended, searches }
    }

    /// The same, which remembers in `db` which sessions were ended.
    pub(super) fn with_db(self, db: Db) -> Door {
        Door { db: Some(db), ..self }
    }

    /// Whether this is the token.
    pub(super) fn hear(&self, given: &str) -> Answer {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.tick();
        let since = now.since(tries.at);
        let regained = u32::try_from(since.as_secs() / REGAIN.as_secs()).unwrap_or(TRIES);
        if tries.left.saturating_add(regained) >= TRIES {
            *tries = Tries { left: TRIES, at: now };
        } else if regained > 0 {
            *tries = Tries { left: tries.left + regained, at: tries.at + REGAIN * regained };
        }
        if tries.left == 0 {
            return Answer::Wait(REGAIN.saturating_sub(now.since(tries.at)).max(Duration::from_secs(1)));
        }
        if self.is_token(given) {
            return Answer::Right;
        }
        tries.left -= 1;
        Answer::Wrong
    }

    /// Compares digests, so that neither how much of it is right nor how long it is shows in the time that it takes.
    fn is_token(&self, given: &str) -> bool {
        let digest = |text: &str| Some(keyed(self.token.expose_secret())?.chain_update(b"token\0").chain_update(text));
        let Some(right) = digest(self.token.expose_secret()) else { return false };
        digest(given).is_some_and(|given| given.verify_slice(&right.finalize().into_bytes()).is_ok())
    }

    /// A session from now on.
    fn session(&self) -> String {
        let until = self.clock.now() + SESSION;
        let head = format!("{}.{}", until.0, URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>()));
        let digest = self.digest(&head).map(|digest| digest.finalize().into_bytes()).unwrap_or_default();
        format!("{head}.{}", URL_SAFE_NO_PAD.encode(digest))
    }

    fn digest(&self, head: &str) -> Option<Hmac<Sha256>> {
        Some(keyed(self.token.expose_secret())?.chain_update(b"session\0").chain_update(head))
    }

    /// When this session ends; `None` where it is none, or is over.
    fn holds_until(&self, session: &str) -> Option<Time> {
        let (head, digest) = session.rsplit_once('.')?;
        let digest = URL_SAFE_NO_PAD.decode(digest).ok()?;
        self.digest(head)?.verify_slice(&digest).ok()?;
        let until = Time(head.split('.').next()?.parse().ok()?);
        let holds = until > self.clock.now() && !self.ended().iter().any(|ended| ended == session);
        holds.then_some(until)
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether whoever sends this may come in, by session or by bearer.
    ///
    /// # Errors
    /// Where it cannot be found out whether a session was ended.
    pub(super) async fn admits(&self, headers: &HeaderMap) -> Result<Answer, DbError> {
        for session in sessions(headers).filter(|session| self.holds_until(session).is_some()) {
            let ended = match &self.db {
                Some(db) => db.is_session_ended(&name_of(session)).await?,
                None => false,
            };
            if !ended {
                return Ok(Answer::Right);
            }
        }
        Ok(bearer(headers).map_or(Answer::Wrong, |token| self.hear(token)))
    }

    /// The cookie of a new session.
    pub(super) fn open(&self, headers: &HeaderMap) -> String {
        cookie(&self.session(), SESSION.as_secs(), headers)
    }

    /// Ends the sessions that are sent with this, everywhere; the cookie that forgets them.
    ///
    /// # Errors
    /// Where that cannot be remembered: then they have ended here, for as long as this process runs.
    pub(super) async fn close(&self, headers: &HeaderMap) -> Result<String, DbError> {
        let open: Vec<(&str, Time)> =
            sessions(headers).filter_map(|session| Some((session, self.holds_until(session)?))).collect();
        for (session, _) in &open {
            let mut ended = self.ended();
            if ended.len() == ENDED {
                ended.pop_front();
            }
            ended.push_back((*session).to_owned());
        }
        if let Some(db) = &self.db {
            for (session, until) in open {
                db.end_session(&name_of(session), until, self.clock.now()).await?;
            }
        }
        Ok(cookie("", 0, headers))
    }
}

/// What a session is called where it is remembered: nobody who reads that can use it.
fn name_of(session: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(session.as_bytes()))
}

fn keyed(token: &str) -> Option<Hmac<Sha256>> {
    Hmac::new_from_slice(token.as_bytes()).ok()
}

fn cookie(value: &str, seconds: u64, headers: &HeaderMap) -> String {
    let secure = if is_https(headers) { "; Secure" } else { "" };
    format!("{NAME}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

/// Whether the browser speaks TLS, as it says itself or the proxy in front does.
fn is_https(headers: &HeaderMap) -> bool {
    let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    says(ORIGIN.as_str()).starts_with("https://") || says("x-forwarded-proto").eq_ignore_ascii_case("https")
}

fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == NAME).map(|(_, value)| value)
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

    fn door(token: &str, clock: &Clock) -> Door {
        Door::new(token.to_owned().into(), clock.clone())
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    fn session(cookie: &str) -> HeaderMap {
        with("cookie", &format!("other=1; {}", cookie.split(';').next().unwrap()))
    }

    #[test]
    fn a_session_holds_on_every_replica_until_it_ends_and_does_not_hold_the_token() {
        let clock = Clock::manual(Time(1_800_000_000_000));
        let (one, two, other) = (door("sesame", &clock), door("sesame", &clock), door("sesame2", &clock));
        let cookie = one.open(&HeaderMap::new());
        assert!(!cookie.contains("sesame") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        let headers = session(&cookie);
        assert_eq!(
            (
                one.admits(&headers).now_or_never().unwrap().unwrap(),
                two.admits(&headers).now_or_never().unwrap().unwrap()
            ),
            (Answer::Right, Answer::Right)
        );
        assert_eq!(other.admits(&headers).now_or_never().unwrap().unwrap(), Answer::Wrong, "another token ends it");
        clock.advance(SESSION);
        assert_eq!(one.admits(&headers).now_or_never().unwrap().unwrap(), Answer::Wrong, "it is over");
    }

    #[test]
    fn a_session_that_was_tampered_with_or_ended_does_not_hold() {
        let clock = Clock::manual(Time(1_800_000_000_000));
        let door = door("sesame", &clock);
        let cookie = door.open(&HeaderMap::new());
        let later = cookie.replacen("=1", "=2", 1);
        assert_eq!(door.admits(&session(&later)).now_or_never().unwrap().unwrap(), Answer::Wrong);
        for nothing in ["", "x", "..", "99999999999999.a.", "99999999999999"] {
            assert_eq!(
                door.admits(&session(&format!("{NAME}={nothing}"))).now_or_never().unwrap().unwrap(),
                Answer::Wrong,
                "{nothing}"
            );
        }
        let forget = door.close(&session(&cookie)).now_or_never().unwrap().unwrap();
        assert!(forget.starts_with("ringcx_session=; Max-Age=0;"), "{forget}");
        assert_eq!(door.admits(&session(&cookie)).now_or_never().unwrap().unwrap(), Answer::Wrong);
    }

    #[test]
    fn only_so_many_wrong_tokens_are_heard_and_sessions_go_on() {
        let clock = Clock::manual(Time(1_800_000_000_000));
        let door = door("sesame", &clock);
        let cookie = session(&door.open(&HeaderMap::new()));
        for _ in 0..TRIES {
            assert_eq!(door.hear("sesamE"), Answer::Wrong);
        }
        assert_eq!(door.hear("sesame"), Answer::Wait(REGAIN), "the right one could be a guess as well");
        assert_eq!(
            door.admits(&with("authorization", "Bearer sesame")).now_or_never().unwrap().unwrap(),
            Answer::Wait(REGAIN)
        );
        assert_eq!(door.admits(&cookie).now_or_never().unwrap().unwrap(), Answer::Right);
        clock.advance(REGAIN);
        assert_eq!((door.hear("x"), door.hear("sesame")), (Answer::Wrong, Answer::Wait(REGAIN)));
        clock.advance(REGAIN);
        assert_eq!((door.hear("sesame"), door.hear("sesame")), (Answer::Right, Answer::Right));
    }

    #[test]
    fn the_cookie_is_for_tls_only_where_the_browser_speaks_it() {
        let door = door("sesame", &Clock::manual(Time(0)));
        assert!(door.open(&with("x-forwarded-proto", "https")).ends_with("; Secure"));
        assert!(door.open(&with("origin", "https://archive.example")).ends_with("; Secure"));
        assert!(!door.open(&with("origin", "http://archive.example")).contains("Secure"));
    }

    #[test]
    fn a_bearer_is_the_token_itself() {
        let door = door("sesame", &Clock::manual(Time(0)));
        assert_eq!(
            door.admits(&with("authorization", "bearer sesame")).now_or_never().unwrap().unwrap(),
            Answer::Right
        );
        for wrong in ["Bearer", "Bearer ", "Bearer sesam", "Basic sesame", "sesame", "Bearer sesame x"] {
            assert_eq!(
                door.admits(&with("authorization", wrong)).now_or_never().unwrap().unwrap(),
                Answer::Wrong,
                "{wrong}"
            );
        }
    }
}
