//! The API: login, metadata, transcripts, summaries, and what can go wrong with each.
//!
//! Talks to RingCX and RingCentral and to nothing else; knows no database. Every request leaves through one of the two
//! HTTP clients built here, which follow no redirect and repeat nothing by themselves, so that no request escapes the
//! limits and no token leaves the configured hosts. No error and no log line carries a secret, an URL or anything that
//! a customer said.

use ringcx_model::{self as model, charset, clock, lenient_json, lenient_time};

pub mod backoff;
pub mod descriptors;
pub mod sliding;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, ClientBuilder, RequestBuilder, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::charset::Charset;
use crate::clock::{Clock, Tick, Time};
use crate::model::{Endpoint, path_part};

pub mod accounts;
pub mod auth;
mod call;
pub mod error;
pub mod limits;
pub mod metadata;
#[cfg(fuzzing)]
pub mod seams;
pub mod skew;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod transcript;

pub use accounts::{SubAccount, accounts, rc_account_id};
pub use auth::{Credentials, Expiry, Login, LoginState, Token, expiry};
pub use error::{ApiError, Cause};
pub use metadata::{ReadSummary, Record, metadata};
pub use skew::{ApiTime, Skew};
pub use summary::{summary, summary_text};
pub use transcript::transcript;

use call::Answer;

/// What every request calls itself.
pub const USER_AGENT: &str = concat!("ringcx-extractor/", env!("CARGO_PKG_VERSION"));

/// Where the API is: base URLs, for tests, simulators and regional deployments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// RingCentral's platform, for OAuth: `https://platform.ringcentral.com`.
    pub platform: String,
    /// RingCX login, metadata and transcripts: `https://ringcx.ringcentral.com`.
    pub ringcx: String,
    /// RingCX summaries: `https://engage.ringcentral.com`.
    pub summary: String,
}

impl Hosts {
    /// Whether the platform is a simulator on this machine, whose limits are its own affair.
    pub fn is_platform_simulated(&self) -> bool {
        Url::parse(&self.platform).is_ok_and(|url| is_loopback(&url))
    }
}

/// What an artifact's 200 held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// There is one.
    Body(Body),
    /// The API's word that there is none: an answer, not a failure.
    Empty,
}

/// A body as received, after content decoding only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Its bytes.
    pub bytes: Bytes,
    /// The charset that was declared for them.
    pub charset: Option<Charset>,
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body { bytes: text.into(), charset: None }
    }
}

/// Is told of every request, for metrics.
pub trait Observe: Send + Sync {
    /// A request to `endpoint` was answered with this status, or why it was not; `took` is the time until the headers
    /// came, or until it was given up.
    fn request(&self, endpoint: Endpoint, outcome: Result<u16, Cause>, took: Duration);
}

/// The API's hosts and the clients that reach them. Cheap to clone; clones share connections and what is known of the
/// hosts' clocks.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    hosts: Hosts,
    client: Client,
    bulk: Client,
    clock: Clock,
    /// By host and port, RingCX first: transcripts and metadata go by its clock.
    skews: Vec<(String, Skew)>,
    idle: Duration,
    /// The turn of an answer that is large.
    large: Arc<Semaphore>,
    /// Places for requests under way: each may hold a descriptor.
    sockets: Arc<Semaphore>,
    observer: OnceLock<Arc<dyn Observe>>,
}

/// Makes `ring` the process's TLS provider. May be called any number of times; the first call counts.
pub fn install_tls() {
    // An error means that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Api {
    /// Builds the clients. `request_timeout`, in `clock`'s time, is how long a connection may take, headers may take
    /// to come, and a body may stand still; a large body that keeps coming is never cut off by it.
    ///
    /// # Errors
    /// [`Cause::Settings`] where a base URL is none, or TLS finds no certificate authorities to trust.
    pub fn new(hosts: Hosts, request_timeout: Duration, clock: Clock) -> Result<Api, ApiError> {
        install_tls();
        let hosts = Hosts {
            platform: base_url("api.platform_url", &hosts.platform)?,
            ringcx: base_url("api.ringcx_url", &hosts.ringcx)?,
            summary: base_url("api.summary_url", &hosts.summary)?,
        };
        // Under a clock that runs faster than the machine's the network does not: leave it a few real seconds.
        let idle = clock.real(request_timeout).max(request_timeout.min(Duration::from_secs(5)));
        let built = |builder: ClientBuilder| builder.build().map_err(ApiError::no_client);
        let client = built(client(&hosts, idle))?;
        // Metadata has connections of its own: while its reader waits for the database, an answer that shares an
        // HTTP/2 connection would hold up every transcript behind it.
        let bulk = built(client_of_bulk(&hosts, idle))?;
        let (large, observer) = (Arc::new(Semaphore::new(1)), OnceLock::new());
        let sockets = Arc::new(Semaphore::new(descriptors::shares().requests));
        let mut skews: Vec<(String, Skew)> = Vec::new();
        for base in [&hosts.ringcx, &hosts.platform, &hosts.summary] {
            let host = Url::parse(base).map(|url| host_of(&url)).unwrap_or_default();
            if skews.iter().all(|(known, _)| *known != host) {
                skews.push((host, Skew::new()));
            }
        }
        Ok(Api(Arc::new(Inner { hosts, client, bulk, clock, skews, idle, large, sockets, observer })))
    }

    /// Has `observer` told of every request. The first one set stays.
    pub fn set_observer(&self, observer: Arc<dyn Observe>) {
        let _ = self.0.observer.set(observer);
    }

    /// The clock that it was made with.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// What time it is by the API's own clock, as far as its last answers have told. Good enough for waits; what is read
    /// and what is deleted goes by [`Api::time`].
    pub fn api_now(&self) -> Time {
        self.0.clock.now().plus_millis(self.offset_ms())
    }

    /// What to add to this machine's time to get [`Api::api_now`], in milliseconds.
    pub fn offset_ms(&self) -> i64 {
        let (now, tick) = (self.0.clock.now(), self.0.clock.tick());
        self.0.skews.first().map_or(0, |(_, skew)| skew.offset_ms(now, tick))
    }

    /// What the clock of RingCX says at `tick`, when this machine's says `now`.
    pub fn time(&self, now: Time, tick: Tick) -> ApiTime {
        self.0.skews.first().map(|(_, skew)| skew.read(now, tick)).unwrap_or_default()
    }

    /// What the clocks of all hosts say, by host.
    pub fn times(&self, now: Time, tick: Tick) -> impl Iterator<Item = (&str, ApiTime)> {
        self.0.skews.iter().map(move |(host, skew)| (host.as_str(), skew.read(now, tick)))
    }

    /// Where the API is.
    pub fn hosts(&self) -> &Hosts {
        &self.0.hosts
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn bulk(&self) -> &Client {
        &self.0.bulk
    }

    /// The longest that nothing may come.
    pub(crate) fn idle(&self) -> Duration {
        self.0.idle
    }

    /// A place for a request under way, to be waited for before its permit is used: what leaves late is counted late.
    pub(crate) async fn socket(&self) -> Option<OwnedSemaphorePermit> {
        // An error would mean that the semaphore was closed, which nobody does.
        self.0.sockets.clone().acquire_owned().await.ok()
    }

    /// Sends one request, once, and waits for its headers.
    pub(crate) async fn send(&self, endpoint: Endpoint, request: RequestBuilder) -> Result<Answer, ApiError> {
        let socket = self.socket().await;
        self.send_on(socket, endpoint, request).await
    }

    /// The same in a place that was waited for.
    pub(crate) async fn send_on(
        &self,
        socket: Option<OwnedSemaphorePermit>,
        endpoint: Endpoint,
        request: RequestBuilder,
    ) -> Result<Answer, ApiError> {
        let sent = self.0.clock.tick();
        // Not the client's own read time-out: it also runs while nobody reads, which a slow database makes happen.
        let outcome = tokio::time::timeout(self.0.idle, request.send()).await;
        let took = self.0.clock.tick().since(sent);
        let outcome = match outcome {
            Ok(outcome) => outcome.map_err(|error| ApiError::transport(endpoint, error)),
            Err(_) => Err(ApiError::timed_out(endpoint, "no answer came in time")),
        };
        if let Some(observer) = self.0.observer.get() {
            let seen = outcome.as_ref().map(|response| response.status().as_u16()).map_err(|error| error.cause);
            observer.request(endpoint, seen, took);
        }
        let response = outcome?;
        if let Some((_, skew)) = self.0.skews.iter().find(|(host, _)| *host == host_of(response.url())) {
            skew.observe(response.headers(), sent, sent + took, self.0.clock.now());
        }
        Ok(Answer::new(response, endpoint, self.0.idle, self.0.large.clone(), socket))
    }
}

fn client(hosts: &Hosts, idle: Duration) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(idle)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(30))
        // Shorter than what load balancers allow, so that a request seldom meets a connection that is being closed.
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(descriptors::shares().idle_per_host)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10));
    let urls = [&hosts.platform, &hosts.ringcx, &hosts.summary].map(|base| Url::parse(base).ok());
    let all = |is: fn(&Url) -> bool| urls.iter().flatten().all(is);
    // A simulator on this machine is never behind the proxy, and plain HTTP needs no certificate authorities, which a
    // bare machine may not have.
    let builder = if all(is_loopback) { builder.no_proxy() } else { builder };
    if all(|url| url.scheme() == "http") { builder.tls_certs_only([]) } else { builder }
}

fn client_of_bulk(hosts: &Hosts, idle: Duration) -> ClientBuilder {
    client(hosts, idle).http1_only().pool_max_idle_per_host(descriptors::shares().idle_per_host.min(64))
}

/// Host and port, for people too: nothing else of a URL, which may hold credentials.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn base_url(key: &'static str, text: &str) -> Result<String, ApiError> {
    let text = text.trim().trim_end_matches('/');
    let url = Url::parse(text).map_err(|_| ApiError::bad_url(key, "is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(ApiError::bad_url(key, "is not an http or https URL"));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(ApiError::bad_url(key, "must hold neither a user name nor a query"));
    }
    Ok(text.to_owned())
}

/// An opaque id as one segment of a URL's path: everything but RFC 3986's unreserved characters percent-encoded.
///
/// # Errors
/// [`Cause::Settings`] for what no path can hold: nothing, and the dots that mean "here" and "up".
pub(crate) fn path_segment(endpoint: Endpoint, id: &str) -> Result<String, ApiError> {
    if matches!(id, "" | "." | "..") {
        return Err(ApiError::bad_id(endpoint));
    }
    Ok(path_part(id))
}

#[cfg(test)]
mod tests;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
