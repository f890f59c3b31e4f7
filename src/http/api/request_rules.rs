//! The rules for every request to the API and to MCP: who it comes from, how many there may be, and
//! answers that the client has already.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::access::{AuthRefusal, Caller};
use crate::http::login::peer_of;
use crate::http::state::HttpState;

/// Requests of one reader in a minute. A whole minute's requests may come at once.
const REQUESTS_PER_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(599);
const MINUTE: u64 = 60;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Counts the requests of each reader.
pub(in crate::http) struct RequestLimiter(
    RateLimiter<String, DefaultKeyedStateStore<String>, DefaultClock, StateInformationMiddleware>,
);

/// What is left of a reader's requests.
struct Allowance {
    remaining: u32,
    /// How long until all are there again, or, if none is left, until the next one.
    reset: Duration,
    is_exceeded: bool,
}

impl RequestLimiter {
    pub(in crate::http) fn new() -> RequestLimiter {
        let quota = Quota::per_minute(REQUESTS_PER_MINUTE);
        RequestLimiter(RateLimiter::keyed(quota).with_middleware::<StateInformationMiddleware>())
    }

    fn count(&self, caller: &Caller) -> Allowance {
        let key = format!("{:?}", caller.reader);
        match self.0.check_key(&key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = REQUESTS_PER_MINUTE.get().saturating_sub(remaining);
                let reset = Duration::from_secs(MINUTE) * used / REQUESTS_PER_MINUTE.get();
                Allowance { remaining, reset, is_exceeded: false }
            }
            Err(until) => {
                // Readers that send nothing for a while are forgotten here, where it is not urgent.
                self.0.retain_recent();
                let reset = until.wait_time_from(DefaultClock::default().now());
                Allowance { remaining: 0, reset, is_exceeded: true }
            }
        }
    }
}

impl Allowance {
    /// The fields of draft-ietf-httpapi-ratelimit-headers.
    fn add_headers(&self, headers: &mut HeaderMap) {
        let policy = format!("\"reader\";q={REQUESTS_PER_MINUTE};w={MINUTE}");
        let state = format!("\"reader\";r={};t={}", self.remaining, self.reset.as_secs_f64().ceil());
        for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

/// Finds the caller, counts the request, and answers 304 if the client has the answer already.
pub(in crate::http) async fn apply(State(state): State<Arc<HttpState>>, mut request: Request, next: Next) -> Response {
    let caller = match authenticate(&state, request.headers(), peer_of(&request)).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let allowance = state.request_limiter.count(&caller);
    let mut response = if allowance.is_exceeded {
        let seconds = allowance.reset.as_secs_f64().ceil() as u64;
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many requests with this key")
            .with_hint("wait as long as Retry-After says, or ask for larger pages")
            .retry_after(seconds)
            .into_response()
    } else {
        request.extensions_mut().insert(caller);
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let known = request.headers().get(IF_NONE_MATCH).cloned();
        let response = next.run(request).await;
        if is_read { add_entity_tag(response, known.as_ref()).await } else { response }
    };
    allowance.add_headers(response.headers_mut());
    response
}

async fn authenticate(state: &HttpState, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, Problem> {
    let Some(authenticator) = &state.authenticator else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "this server lets nobody read over HTTP")
            .with_hint("set http.token, or [[access.keys]] with a role, in the settings"));
    };
    authenticator.authenticate(headers, peer).await.map_err(|refusal| {
        state.app.metrics.count_refused_access(refusal.name());
        refuse(&refusal)
    })
}

fn refuse(refusal: &AuthRefusal) -> Problem {
    const HINT: &str = "send `Authorization: Bearer KEY` with a key of [[access.keys]] or http.token";
    match refusal {
        AuthRefusal::Missing => Problem::new(StatusCode::UNAUTHORIZED, "the request has no key").with_hint(HINT),
        AuthRefusal::Wrong => Problem::new(StatusCode::UNAUTHORIZED, "the key is not valid").with_hint(HINT),
        AuthRefusal::Expired { name, at } => {
            Problem::new(StatusCode::UNAUTHORIZED, format!("the key {name:?} expired at {}", at.rfc3339_secs()))
                .with_hint("`ringcx-extractor access new-key` makes a new one")
        }
        AuthRefusal::RateLimited(wait) => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong keys: none is checked for a while")
                .retry_after(wait.as_secs())
        }
        AuthRefusal::Unavailable(error) => {
            tracing::warn!(%error, hint = error.hint(), "failed to check a session");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database did not answer").retry_after(5)
        }
    }
}

/// Adds a tag of its content to an answer that has none; 304 if the client has that content. Streams
/// get none.
async fn add_entity_tag(response: Response, known: Option<&HeaderValue>) -> Response {
    let has_tag = response.headers().contains_key(ETAG);
    if has_tag || response.status() != StatusCode::OK || response.body().size_hint().exact().is_none() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The body is in memory already, and so has no error.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed to write the answer").into_response();
    };
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..18]));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(ETAG, value);
    }
    let known = known.and_then(|known| known.to_str().ok()).unwrap_or_default();
    let is_known =
        known.split(',').map(|known| known.trim().trim_start_matches("W/")).any(|known| known == tag || known == "*");
    if is_known {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(axum::http::header::CONTENT_LENGTH);
        parts.headers.remove(axum::http::header::CONTENT_TYPE);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(body))
}
