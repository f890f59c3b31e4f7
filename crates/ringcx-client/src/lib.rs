//! A client of the RingCX API: login, metadata, transcripts, summaries, recordings, and the errors of
//! each.
//!
//! It connects only to RingCX and RingCentral, and knows no database. Every request is sent by one
//! of the two HTTP clients built here. They follow no redirect and repeat nothing by themselves, so
//! every request counts against the limits and no token leaves the configured hosts. No error and
//! no log line holds a secret, a URL or customer text.

use ringcx_model::{self as model, charset, clock, lenient_json, lenient_time};

pub mod backoff;
pub mod file_descriptors;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, ClientBuilder, RequestBuilder, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::charset::Charset;
use crate::clock::{Clock, Tick, Time};
use crate::model::{Endpoint, RecordingFacts, encode_path_segment};

mod api_call;
pub mod auth;
pub mod clock_skew;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzz_checks;
pub mod metadata;
pub mod rate_limit;
mod raw_fields;
pub mod recording;
pub mod sub_accounts;
pub mod summary;
#[cfg(test)]
mod test_server;
pub mod transcript;

pub use auth::{AccessToken, Credentials, ExpiryWarning, Login, LoginState, expiry_warning};
pub use clock_skew::{ApiTime, ClockSkew};
pub use error::{ApiError, ErrorCause, is_certificate_error};
pub use metadata::{ParsedRecord, ReadSummary, read_metadata};
pub use recording::{AudioHeader, RecordingRequest, RecordingWriter, fetch_recording};
pub use sub_accounts::{SubAccount, fetch_rc_account_id, list_sub_accounts};
pub use summary::{fetch_summary, summary_text};
pub use transcript::fetch_transcript;

use api_call::ApiResponse;

/// The `User-Agent` of every request.
pub const USER_AGENT: &str = concat!("ringcx-extractor/", env!("CARGO_PKG_VERSION"));

/// The API's base URLs, which differ for simulators and regional deployments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiHosts {
    /// RingCentral's platform, for OAuth: `https://platform.ringcentral.com`.
    pub platform: String,
    /// RingCX login, metadata and transcripts: `https://ringcx.ringcentral.com`.
    pub ringcx: String,
    /// RingCX summaries: `https://engage.ringcentral.com`.
    pub summary: String,
}

impl ApiHosts {
    /// Whether the platform is a simulator on this machine.
    pub fn is_platform_simulated(&self) -> bool {
        Url::parse(&self.platform).is_ok_and(|url| is_loopback(&url))
    }
}

/// The content of a successful answer for an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchedArtifact {
    /// The artifact.
    Body(ResponseBody),
    /// The API answered that the artifact is empty. Not a failure.
    Empty,
    /// A recording, whose bytes are in the recording store.
    Recording(RecordingFacts),
}

/// A body as received, after content decoding only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseBody {
    /// The received bytes.
    pub bytes: Bytes,
    /// The declared charset.
    pub charset: Option<Charset>,
}

impl From<&'static str> for ResponseBody {
    fn from(text: &'static str) -> ResponseBody {
        ResponseBody { bytes: text.into(), charset: None }
    }
}

/// Observes every request, for metrics.
pub trait RequestObserver: Send + Sync {
    /// A request to `endpoint` was answered with a status, or failed. `took` is the time until the
    /// headers came, or until the failure.
    fn on_request(&self, endpoint: Endpoint, outcome: Result<u16, ErrorCause>, took: Duration);
}

/// The API's hosts and HTTP clients. Cheap to clone; clones share connections and the estimates of
/// the hosts' clocks.
#[derive(Clone)]
pub struct ApiClient(Arc<ApiClientInner>);

struct ApiClientInner {
    hosts: ApiHosts,
    client: Client,
    bulk_client: Client,
    clock: Clock,
    /// By host and port. RingCX is first, because metadata and transcripts depend on its clock.
    clock_skews: Vec<(String, ClockSkew)>,
    idle_timeout: Duration,
    /// One permit: large answers are buffered one at a time.
    large_body_turn: Arc<Semaphore>,
    /// Limits concurrent requests: each may hold a file descriptor.
    sockets: Arc<Semaphore>,
    observer: OnceLock<Arc<dyn RequestObserver>>,
}

/// Makes `ring` the process's TLS provider. Further calls have no effect.
pub fn install_tls() {
    // It fails if a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl ApiClient {
    /// Builds the HTTP clients. `request_timeout`, in `clock`'s time, bounds connecting, the wait
    /// for headers, and the wait for the next part of a body. It does not bound a large body that
    /// keeps arriving.
    ///
    /// # Errors
    /// [`ErrorCause::Settings`] where a base URL is invalid, or TLS finds no trusted certificate
    /// authorities.
    pub fn new(hosts: ApiHosts, request_timeout: Duration, clock: Clock) -> Result<ApiClient, ApiError> {
        install_tls();
        let hosts = ApiHosts {
            platform: parse_base_url("api.platform_url", &hosts.platform)?,
            ringcx: parse_base_url("api.ringcx_url", &hosts.ringcx)?,
            summary: parse_base_url("api.summary_url", &hosts.summary)?,
        };
        // The network is not accelerated with the clock, so at least a few real seconds remain.
        let idle_timeout = clock.real(request_timeout).max(request_timeout.min(Duration::from_secs(5)));
        let build = |builder: ClientBuilder| builder.build().map_err(ApiError::client_setup_failed);
        let client = build(client_builder(&hosts, idle_timeout))?;
        // Metadata has its own connections: while its reader waits for the database, an answer on a
        // shared HTTP/2 connection would block all transcripts behind it.
        let bulk_client = build(bulk_client_builder(&hosts, idle_timeout))?;
        let (large_body_turn, observer) = (Arc::new(Semaphore::new(1)), OnceLock::new());
        let sockets = Arc::new(Semaphore::new(file_descriptors::socket_limits().requests));
        let mut clock_skews: Vec<(String, ClockSkew)> = Vec::new();
        for base in [&hosts.ringcx, &hosts.platform, &hosts.summary] {
            let host = Url::parse(base).map(|url| host_and_port(&url)).unwrap_or_default();
            if clock_skews.iter().all(|(known, _)| *known != host) {
                clock_skews.push((host, ClockSkew::new()));
            }
        }
        Ok(ApiClient(Arc::new(ApiClientInner {
            hosts,
            client,
            bulk_client,
            clock,
            clock_skews,
            idle_timeout,
            large_body_turn,
            sockets,
            observer,
        })))
    }

    /// Sets the observer of all requests. Only the first call has an effect.
    pub fn set_observer(&self, observer: Arc<dyn RequestObserver>) {
        let _ = self.0.observer.set(observer);
    }

    /// The clock passed to [`ApiClient::new`].
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The API's time, as estimated from its last answers. Accurate enough for waits. Use
    /// [`ApiClient::api_time`] to decide what to read or delete.
    pub fn api_now(&self) -> Time {
        self.0.clock.now().plus_millis(self.clock_offset_ms())
    }

    /// The difference of [`ApiClient::api_now`] to this machine's time, in milliseconds.
    pub fn clock_offset_ms(&self) -> i64 {
        let (now, tick) = (self.0.clock.now(), self.0.clock.tick());
        self.0.clock_skews.first().map_or(0, |(_, skew)| skew.offset_ms(now, tick))
    }

    /// The time of RingCX at `tick`, when this machine's clock reads `now`.
    pub fn api_time(&self, now: Time, tick: Tick) -> ApiTime {
        self.0.clock_skews.first().map(|(_, skew)| skew.api_time(now, tick)).unwrap_or_default()
    }

    /// The times of all hosts, by host.
    pub fn api_times(&self, now: Time, tick: Tick) -> impl Iterator<Item = (&str, ApiTime)> {
        self.0.clock_skews.iter().map(move |(host, skew)| (host.as_str(), skew.api_time(now, tick)))
    }

    /// The API's base URLs.
    pub fn hosts(&self) -> &ApiHosts {
        &self.0.hosts
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn bulk_client(&self) -> &Client {
        &self.0.bulk_client
    }

    /// The longest wait for the next part of an answer.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.0.idle_timeout
    }

    /// Waits for a socket. Call it before the permit is used: a request that is sent late is
    /// counted late.
    pub(crate) async fn acquire_socket(&self) -> Option<OwnedSemaphorePermit> {
        // It fails only if the semaphore is closed, which does not happen.
        self.0.sockets.clone().acquire_owned().await.ok()
    }

    /// Sends one request, once, and waits for its headers.
    pub(crate) async fn send(&self, endpoint: Endpoint, request: RequestBuilder) -> Result<ApiResponse, ApiError> {
        let socket = self.acquire_socket().await;
        self.send_with_socket(socket, endpoint, request).await
    }

    /// The same with an acquired socket.
    pub(crate) async fn send_with_socket(
        &self,
        socket: Option<OwnedSemaphorePermit>,
        endpoint: Endpoint,
        request: RequestBuilder,
    ) -> Result<ApiResponse, ApiError> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| ApiError::from_transport(endpoint, error))?;
        // Without the URL: it holds ids of segments.
        let span =
            tracing::debug_span!("request", method = %request.method(), %endpoint, status = Empty, duration_ms = Empty);
        let sent = self.0.clock.tick();
        // Not reqwest's read time-out: it also runs while the reader waits for a slow database.
        let outcome = tokio::time::timeout(self.0.idle_timeout, client.execute(request).instrument(span.clone())).await;
        let took = self.0.clock.tick().since(sent);
        let outcome = match outcome {
            Ok(outcome) => outcome.map_err(|error| ApiError::from_transport(endpoint, error)),
            Err(_) => Err(ApiError::timed_out(endpoint, "no answer came in time")),
        };
        span.record("status", outcome.as_ref().ok().map(|response| response.status().as_u16()));
        span.record("duration_ms", u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        span.in_scope(|| tracing::debug!("request ended"));
        if let Some(observer) = self.0.observer.get() {
            let seen = outcome.as_ref().map(|response| response.status().as_u16()).map_err(|error| error.cause);
            observer.on_request(endpoint, seen, took);
        }
        let response = outcome?;
        if let Some((_, skew)) = self.0.clock_skews.iter().find(|(host, _)| *host == host_and_port(response.url())) {
            skew.observe(response.headers(), sent, sent + took, self.0.clock.now());
        }
        let (idle_timeout, large_body_turn) = (self.0.idle_timeout, self.0.large_body_turn.clone());
        Ok(ApiResponse { response, endpoint, idle_timeout, large_body_turn, socket })
    }
}

fn client_builder(hosts: &ApiHosts, idle_timeout: Duration) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(idle_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(30))
        // Shorter than load balancers allow, so that a request rarely meets a closing connection.
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(file_descriptors::socket_limits().idle_per_host)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10));
    let urls = [&hosts.platform, &hosts.ringcx, &hosts.summary].map(|base| Url::parse(base).ok());
    let all = |is: fn(&Url) -> bool| urls.iter().flatten().all(is);
    // A simulator on this machine is never behind a proxy. Plain HTTP needs no certificate
    // authorities, which a minimal machine may lack.
    let builder = if all(is_loopback) { builder.no_proxy() } else { builder };
    if all(|url| url.scheme() == "http") { builder.tls_certs_only([]) } else { builder }
}

fn bulk_client_builder(hosts: &ApiHosts, idle_timeout: Duration) -> ClientBuilder {
    client_builder(hosts, idle_timeout)
        .http1_only()
        .pool_max_idle_per_host(file_descriptors::socket_limits().idle_per_host.min(64))
}

/// Host and port, also for display. The rest of a URL may hold credentials.
fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn parse_base_url(key: &'static str, text: &str) -> Result<String, ApiError> {
    let text = text.trim().trim_end_matches('/');
    let url = Url::parse(text).map_err(|_| ApiError::invalid_url(key, "is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(ApiError::invalid_url(key, "is not an http or https URL"));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(ApiError::invalid_url(key, "must hold neither a user name nor a query"));
    }
    Ok(text.to_owned())
}

/// Encodes an opaque id as one segment of a URL's path: all but RFC 3986's unreserved characters
/// are percent-encoded.
///
/// # Errors
/// [`ErrorCause::Settings`] for an id that no path can hold: an empty one, `.` and `..`.
pub(crate) fn checked_path_segment(endpoint: Endpoint, id: &str) -> Result<String, ApiError> {
    if matches!(id, "" | "." | "..") {
        return Err(ApiError::invalid_id(endpoint));
    }
    Ok(encode_path_segment(id))
}

#[cfg(test)]
mod tests;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
