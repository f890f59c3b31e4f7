//! A token for requests, and an estimate of its lifetime.
//!
//! A RingCX token lives five minutes, which no answer tells. The estimate starts there. It is
//! reduced when a token expires earlier, and grows back slowly.

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

/// The undocumented lifetime of a RingCX token (contract.md, Authentication 2).
pub(super) const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// The shortest lifetime of the estimate.
const MIN_TOKEN_LIFETIME: Duration = Duration::from_secs(1);

/// A token for RingCX. Cheap to clone. `Debug` does not show its text.
#[derive(Clone)]
pub struct AccessToken(Arc<TokenInner>);

struct TokenInner {
    generation: u64,
    name: HeaderName,
    value: HeaderValue,
    cookie: HeaderValue,
    requested_at: Tick,
    term: Option<TokenTerm>,
    accepted: AtomicBool,
    is_invalidated: AtomicBool,
}

/// When to renew a token, and when it expires.
#[derive(Debug, Clone, Copy)]
struct TokenTerm {
    renew_at: Tick,
    expires_at: Tick,
}

/// The age of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenAge {
    /// To be used.
    Fresh,
    /// To be used, and to be renewed.
    RenewalDue,
    /// Not to be used.
    Expired,
}

impl AccessToken {
    /// A token that was requested at `requested_at` and is valid for `lifetime`; `None` if the text
    /// is no valid header value.
    pub(super) fn bearer(text: &str, generation: u64, requested_at: Tick, lifetime: Duration) -> Option<AccessToken> {
        let lifetime = lifetime.max(MIN_TOKEN_LIFETIME);
        let term = TokenTerm { renew_at: requested_at + lifetime.mul_f64(0.8), expires_at: requested_at + lifetime };
        AccessToken::new(AUTHORIZATION, &format!("Bearer {text}"), text, generation, requested_at, Some(term))
    }

    /// A permanent API token.
    pub(super) fn permanent(text: &str, generation: u64, requested_at: Tick) -> Option<AccessToken> {
        AccessToken::new(HeaderName::from_static("x-auth-token"), text, text, generation, requested_at, None)
    }

    fn new(
        name: HeaderName,
        value: &str,
        text: &str,
        generation: u64,
        requested_at: Tick,
        term: Option<TokenTerm>,
    ) -> Option<AccessToken> {
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let (value, cookie) = (secret(value)?, secret(&format!("access_token={text}"))?);
        let (accepted, is_invalidated) = (AtomicBool::new(false), AtomicBool::new(false));
        Some(AccessToken(Arc::new(TokenInner {
            generation,
            name,
            value,
            cookie,
            requested_at,
            term,
            accepted,
            is_invalidated,
        })))
    }

    /// Adds the token as all calls except summaries expect it.
    pub(crate) fn authorise(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(self.0.name.clone(), self.0.value.clone())
    }

    /// Adds the token as summaries expect it: only in the cookie.
    pub(crate) fn authorise_by_cookie(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(COOKIE, self.0.cookie.clone())
    }

    pub(super) fn age(&self, now: Tick) -> TokenAge {
        match self.0.term {
            _ if self.0.is_invalidated.load(Ordering::Acquire) => TokenAge::Expired,
            Some(term) if now >= term.expires_at => TokenAge::Expired,
            Some(term) if now >= term.renew_at => TokenAge::RenewalDue,
            _ => TokenAge::Fresh,
        }
    }

    pub(super) fn requested_at(&self) -> Tick {
        self.0.requested_at
    }

    pub(super) fn is_permanent(&self) -> bool {
        self.0.term.is_none()
    }

    pub(super) fn is_newer_than(&self, other: &AccessToken) -> bool {
        self.0.generation > other.0.generation
    }

    pub(super) fn was_accepted(&self) -> bool {
        self.0.accepted.load(Ordering::Acquire)
    }

    /// Records whether the API accepts the token. Returns whether that has changed.
    pub(super) fn set_accepted(&self, accepted: bool) -> bool {
        // Reads first: thousands of answers a second agree, and writes would contend for the cache
        // line.
        self.0.accepted.load(Ordering::Acquire) != accepted
            && self.0.accepted.swap(accepted, Ordering::AcqRel) != accepted
    }

    /// Makes all callers renew it.
    pub(super) fn invalidate(&self) {
        self.0.is_invalidated.store(true, Ordering::Release);
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("generation", &self.0.generation).finish_non_exhaustive()
    }
}

/// The assumed lifetime of the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LifetimeEstimate(Duration);

impl LifetimeEstimate {
    pub(super) fn new() -> LifetimeEstimate {
        LifetimeEstimate(MAX_TOKEN_LIFETIME)
    }

    /// The lifetime of a token, bounded by what it states itself.
    pub(super) fn for_token(self, text: &str, now: Time) -> Duration {
        stated_lifetime(text, now).map_or(self.0, |stated| stated.min(self.0)).max(MIN_TOKEN_LIFETIME)
    }

    /// Records that a token had expired at this age.
    pub(super) fn record_early_expiry(&mut self, age: Duration) {
        self.0 = age.mul_f64(0.9).clamp(MIN_TOKEN_LIFETIME, self.0.max(MIN_TOKEN_LIFETIME));
    }

    /// Records another token: the estimate grows a little.
    pub(super) fn extend(&mut self) {
        self.0 = self.0.mul_f64(1.04).min(MAX_TOKEN_LIFETIME);
    }
}

/// The claims of a token, if it is a JWT.
pub(super) fn jwt_claims(text: &str) -> Option<Value> {
    let mut parts = text.trim().split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    lenient_json::from_slice(&payload)
}

/// How long a token is valid from `now` on, if it is a JWT with an expiry. A wrong machine clock
/// must not make that zero: if the expiry is before `now`, only the token's own two times count, or
/// none.
fn stated_lifetime(text: &str, now: Time) -> Option<Duration> {
    let payload = jwt_claims(text)?;
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
    fn a_jwts_own_expiry_bounds_its_lifetime() {
        let now = Time::from_secs(1000);
        assert_eq!(LifetimeEstimate::new().for_token(&jwt(r#"{"exp":1060}"#), now), Duration::from_secs(60));
        assert_eq!(LifetimeEstimate::new().for_token(&jwt(r#"{"exp":1060,"iat":1000}"#), now), Duration::from_secs(60));
        assert_eq!(LifetimeEstimate::new().for_token(&jwt(r#"{"exp":9000,"iat":1000}"#), now), MAX_TOKEN_LIFETIME);
        assert_eq!(LifetimeEstimate::new().for_token("opaque", now), MAX_TOKEN_LIFETIME);
        assert_eq!(LifetimeEstimate::new().for_token(&jwt("garbage"), now), MAX_TOKEN_LIFETIME);
        assert_eq!(LifetimeEstimate::new().for_token(&jwt(r#"{"exp":"soon"}"#), now), MAX_TOKEN_LIFETIME);
    }

    #[test]
    fn a_clock_far_ahead_does_not_make_every_token_expired() {
        let now = Time::from_secs(90_000);
        assert_eq!(LifetimeEstimate::new().for_token(&jwt(r#"{"exp":1060,"iat":1000}"#), now), Duration::from_secs(60));
        assert_eq!(LifetimeEstimate::new().for_token(&jwt(r#"{"exp":1060}"#), now), MAX_TOKEN_LIFETIME);
    }

    #[test]
    fn a_lifetime_that_was_too_long_is_reduced_and_grows_back() {
        let mut lifetime = LifetimeEstimate::new();
        lifetime.record_early_expiry(Duration::from_secs(10));
        assert_eq!(lifetime, LifetimeEstimate(Duration::from_secs(9)));
        lifetime.record_early_expiry(Duration::from_secs(100));
        assert_eq!(lifetime, LifetimeEstimate(Duration::from_secs(9)), "a later, longer age changes nothing");
        for _ in 0..200 {
            lifetime.extend();
        }
        assert_eq!(lifetime, LifetimeEstimate::new());
    }

    #[test]
    fn a_token_goes_from_fresh_to_renewal_due_to_expired() {
        let at = |secs| Tick(Duration::from_secs(secs));
        let token = AccessToken::bearer("t", 1, at(0), Duration::from_secs(100)).unwrap();
        assert_eq!(
            [79, 80, 99, 100].map(|secs| token.age(at(secs))),
            [TokenAge::Fresh, TokenAge::RenewalDue, TokenAge::RenewalDue, TokenAge::Expired]
        );
        token.invalidate();
        assert_eq!(token.age(at(0)), TokenAge::Expired);
        assert_eq!(AccessToken::permanent("t", 1, at(0)).unwrap().age(at(1_000_000)), TokenAge::Fresh);
    }

    #[test]
    fn debug_output_does_not_show_a_token() {
        let token = AccessToken::bearer("hunter2", 1, Tick::default(), MAX_TOKEN_LIFETIME).unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
        assert!(AccessToken::bearer("line\nbreak", 1, Tick::default(), MAX_TOKEN_LIFETIME).is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_lifetime_panic(text in ".*", payload in ".*", now in any::<i64>()) {
            for text in [text, jwt(&payload)] {
                let lifetime = LifetimeEstimate::new().for_token(&text, Time(now));
                prop_assert!((MIN_TOKEN_LIFETIME..=MAX_TOKEN_LIFETIME).contains(&lifetime));
            }
        }

        #[test]
        fn a_lifetime_stays_between_its_bounds(ages in proptest::collection::vec(0u64..1_000_000, 0..50)) {
            let mut lifetime = LifetimeEstimate::new();
            for age in ages {
                lifetime.record_early_expiry(Duration::from_millis(age));
                prop_assert!(lifetime.0 <= MAX_TOKEN_LIFETIME && lifetime.0 >= MIN_TOKEN_LIFETIME);
                lifetime.extend();
            }
        }
    }
}
