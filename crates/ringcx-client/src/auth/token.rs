//! A token as requests use it, and how long one is thought to last.
//!
//! A RingCX token lives five minutes, which no answer says. What is assumed starts there, is cut when a token turns out
//! to have run out sooner, and grows back slowly.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use serde_json::Value;

use crate::clock::{Tick, Time, millis};
use crate::lenient_json;

/// The undocumented life of a RingCX token (contract.md, Authentication 2).
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// The shortest life that is believed.
const SHORTEST: Duration = Duration::from_secs(1);

/// A token for RingCX. Cheap to clone; shows nothing of itself when printed.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    generation: u64,
    name: HeaderName,
    value: HeaderValue,
    cookie: HeaderValue,
    got: Tick,
    term: Option<Term>,
    accepted: AtomicBool,
    dead: AtomicBool,
}

/// When a token is to be renewed, and when it is no longer to be used.
#[derive(Debug, Clone, Copy)]
struct Term {
    renew: Tick,
    over: Tick,
}

/// Where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// To be used.
    Good,
    /// To be used, and to be renewed.
    Due,
    /// Not to be used.
    Over,
}

impl Token {
    /// A token that was asked for at `got` and is good for `life`; `None` if the text cannot stand in a header.
    pub(super) fn bearer(text: &str, generation: u64, got: Tick, life: Duration) -> Option<Token> {
        let life = life.max(SHORTEST);
        let term = Term { renew: got + life.mul_f64(0.8), over: got + life };
        Token::new(AUTHORIZATION, &format!("Bearer {text}"), text, generation, got, Some(term))
    }

    /// A permanent API token.
    pub(super) fn permanent(text: &str, generation: u64, got: Tick) -> Option<Token> {
        Token::new(HeaderName::from_static("x-auth-token"), text, text, generation, got, None)
    }

    fn new(name: HeaderName, value: &str, text: &str, generation: u64, got: Tick, term: Option<Term>) -> Option<Token> {
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let (value, cookie) = (secret(value)?, secret(&format!("access_token={text}"))?);
        let (accepted, dead) = (AtomicBool::new(false), AtomicBool::new(false));
        Some(Token(Arc::new(Inner { generation, name, value, cookie, got, term, accepted, dead })))
    }

    /// The request with the token where all calls but summaries want it.
    pub(crate) fn authorise(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(self.0.name.clone(), self.0.value.clone())
    }

    /// The request with the token where summaries want it: in the cookie, and nowhere else.
    pub(crate) fn cookie(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(COOKIE, self.0.cookie.clone())
    }

    pub(super) fn age(&self, now: Tick) -> Age {
        match self.0.term {
            _ if self.0.dead.load(Ordering::Acquire) => Age::Over,
            Some(term) if now >= term.over => Age::Over,
            Some(term) if now >= term.renew => Age::Due,
            _ => Age::Good,
        }
    }

    pub(super) fn got(&self) -> Tick {
        self.0.got
    }

    pub(super) fn is_permanent(&self) -> bool {
        self.0.term.is_none()
    }

    pub(super) fn is_newer_than(&self, other: &Token) -> bool {
        self.0.generation > other.0.generation
    }

    pub(super) fn was_accepted(&self) -> bool {
        self.0.accepted.load(Ordering::Acquire)
    }

    /// Notes whether the API takes it; says whether that is news.
    pub(super) fn note_accepted(&self, accepted: bool) -> bool {
        // Read first: thousands of answers a second say the same, and a write would bounce between the cores.
        self.0.accepted.load(Ordering::Acquire) != accepted
            && self.0.accepted.swap(accepted, Ordering::AcqRel) != accepted
    }

    /// Has everyone ask for a new one.
    pub(super) fn kill(&self) {
        self.0.dead.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("generation", &self.0.generation).finish_non_exhaustive()
    }
}

/// How long the next token is assumed to live.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Life(Duration);

impl Life {
    pub(super) fn new() -> Life {
        Life(LONGEST)
    }

    /// For a token that says of itself what it says.
    pub(super) fn of(self, text: &str, now: Time) -> Duration {
        stated_life(text, now).map_or(self.0, |stated| stated.min(self.0)).max(SHORTEST)
    }

    /// A token had run out at this age.
    pub(super) fn learn(&mut self, age: Duration) {
        self.0 = age.mul_f64(0.9).clamp(SHORTEST, self.0.max(SHORTEST));
    }

    /// Another token was got: the last lesson is a little older.
    pub(super) fn grow(&mut self) {
        self.0 = self.0.mul_f64(1.04).min(LONGEST);
    }
}

/// What a token says of itself, if it is a JWT.
pub(super) fn claims(text: &str) -> Option<Value> {
    let mut parts = text.trim().split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    lenient_json::from_slice(&payload)
}

/// How long a token will live from `now` on, if it is a JWT that says so. A machine's clock that is wrong must not make
/// it zero: what lies in the past by `now` counts by the token's own two times, or not at all.
fn stated_life(text: &str, now: Time) -> Option<Duration> {
    let payload = claims(text)?;
    let seconds = |key: &str| payload.get(key)?.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let until = |from: f64| {
        let left = (seconds("exp")? - from).min(1e9);
        (left > 0.0).then(|| Duration::from_secs_f64(left))
    };
    let own = seconds("iat").or_else(|| seconds("nbf")).and_then(until);
    let left = until(millis(now.since(Time(0))) as f64 / 1000.0);
    match (own, left) {
        (Some(own), Some(left)) => Some(own.min(left)),
        (own, left) => own.or(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_jwts_own_expiry_bounds_its_life() {
        let now = Time::from_secs(1000);
        assert_eq!(Life::new().of(&jwt(r#"{"exp":1060}"#), now), Duration::from_secs(60));
        assert_eq!(Life::new().of(&jwt(r#"{"exp":1060,"iat":1000}"#), now), Duration::from_secs(60));
        assert_eq!(Life::new().of(&jwt(r#"{"exp":9000,"iat":1000}"#), now), LONGEST);
        assert_eq!(Life::new().of("opaque", now), LONGEST);
        assert_eq!(Life::new().of(&jwt("garbage"), now), LONGEST);
        assert_eq!(Life::new().of(&jwt(r#"{"exp":"soon"}"#), now), LONGEST);
    }

    #[test]
    fn a_clock_far_ahead_does_not_make_every_token_expired() {
        let now = Time::from_secs(90_000);
        assert_eq!(Life::new().of(&jwt(r#"{"exp":1060,"iat":1000}"#), now), Duration::from_secs(60));
        assert_eq!(Life::new().of(&jwt(r#"{"exp":1060}"#), now), LONGEST);
    }

    #[test]
    fn a_life_that_was_too_long_is_cut_and_grows_back() {
        let mut life = Life::new();
        life.learn(Duration::from_secs(10));
        assert_eq!(life, Life(Duration::from_secs(9)));
        life.learn(Duration::from_secs(100));
        assert_eq!(life, Life(Duration::from_secs(9)), "a later, longer age teaches nothing");
        for _ in 0..200 {
            life.grow();
        }
        assert_eq!(life, Life::new());
    }

    #[test]
    fn a_token_goes_from_good_to_due_to_over() {
        let at = |secs| Tick(Duration::from_secs(secs));
        let token = Token::bearer("t", 1, at(0), Duration::from_secs(100)).unwrap();
        assert_eq!([79, 80, 99, 100].map(|secs| token.age(at(secs))), [Age::Good, Age::Due, Age::Due, Age::Over]);
        token.kill();
        assert_eq!(token.age(at(0)), Age::Over);
        assert_eq!(Token::permanent("t", 1, at(0)).unwrap().age(at(1_000_000)), Age::Good);
    }

    #[test]
    fn a_token_shows_nothing_of_itself() {
        let token = Token::bearer("hunter2", 1, Tick::default(), LONGEST).unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
        assert!(Token::bearer("line\nbreak", 1, Tick::default(), LONGEST).is_none());
    }

    proptest! {
        #[test]
        fn no_text_upsets_the_reading_of_a_life(text in ".*", payload in ".*", now in any::<i64>()) {
            for text in [text, jwt(&payload)] {
                let life = Life::new().of(&text, Time(now));
                prop_assert!((SHORTEST..=LONGEST).contains(&life));
            }
        }

        #[test]
        fn a_life_stays_between_its_bounds(ages in proptest::collection::vec(0u64..1_000_000, 0..50)) {
            let mut life = Life::new();
            for age in ages {
                life.learn(Duration::from_millis(age));
                prop_assert!(life.0 <= LONGEST && life.0 >= SHORTEST);
                life.grow();
            }
        }
    }
}
