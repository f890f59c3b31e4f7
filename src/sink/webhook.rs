//! HTTP requests, signed as Standard Webhooks: one event each, as CloudEvents in structured mode.
//!
//! Follows no redirect, and connects to no private address unless it may (see `address`). The URL is a secret: errors
//! name its host at most. Of an answer only the status and `Retry-After` matter; its body is read a little way, so that the
//! connection can be used again, and thrown away.

mod address;
mod answer;

use std::error::Error;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;

use super::{SinkError, SinkErrorKind};
use crate::clock::Clock;
use crate::config::signing_key;
use crate::descriptors;
use crate::event::Event;
use crate::ringcx::install_tls;
use crate::ringcx::limits::{LONGEST_WAIT, retry_after};
use address::Guarded;

const USER_AGENT: &str = concat!("ringcx-extractor/", env!("CARGO_PKG_VERSION"));
const CONTENT: &str = "application/cloudevents+json";

/// So much of an answer's body is read at the most.
const BODY: usize = 16 * 1024;

/// The longest that making a connection may take, however long a request may.
const CONNECT: Duration = Duration::from_secs(10);

/// An address that events are sent to.
pub struct WebhookSink {
    client: Client,
    url: Url,
    host: String,
    keys: Vec<Webhook>,
    clock: Clock,
}

impl WebhookSink {
    /// From the settings.
    ///
    /// # Errors
    /// Where the URL is none or lies on a private network, or no client can be made.
    pub fn new(
        url: &SecretString,
        secrets: &[SecretString],
        timeout: Duration,
        allow_private: bool,
        clock: Clock,
    ) -> Result<WebhookSink, SinkError> {
        let url = Url::parse(url.expose_secret()).map_err(|_| SinkError::away("its url is none"))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let timeout = clock.real(timeout).max(timeout.min(Duration::from_secs(1)));
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(descriptors::shares().idle_per_sink);
        let builder = if allow_private {
            builder
        } else {
            address::literal(&url).map_err(SinkError::away)?;
            // A proxy would resolve the name by itself, and nobody could tell what it connects to.
            builder.no_proxy().dns_resolver(Guarded)
        };
        // Plain HTTP needs no certificate authorities, which a bare machine may not have; this machine is behind no proxy.
        let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
        let builder = if address::is_this_machine(&url) { builder.no_proxy() } else { builder };
        install_tls();
        let client =
            builder.build().map_err(|error| SinkError::away(format!("failed to set up HTTP: {}", root(&error))))?;
        Ok(WebhookSink { client, url, host, keys: secrets.iter().filter_map(key).collect(), clock })
    }

    /// Sends one event.
    ///
    /// # Errors
    /// Where it was not taken; what that means is in the error's kind.
    pub async fn send(&self, event: &Event) -> Result<(), SinkError> {
        let _place = descriptors::delivery_place().await;
        let (id, body) = (event.id().to_string(), event.cloud_event());
        let now = self.clock.now();
        let stamp = now.floor_secs();
        let signatures: Vec<String> = self.keys.iter().filter_map(|key| key.sign(&id, stamp, &body).ok()).collect();
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, CONTENT)
            .header("webhook-id", id)
            .header("webhook-timestamp", stamp.to_string())
            .header("webhook-signature", signatures.join(" "))
            .body(body);
        let mut response = request.send().await.map_err(|error| self.unanswered(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut read = 0;
        while read < BODY {
            match response.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                // The status has been heard, whatever becomes of the rest.
                Ok(None) | Err(_) => break,
            }
        }
        self.judged(status, &headers)
    }

    fn judged(&self, status: u16, headers: &HeaderMap) -> Result<(), SinkError> {
        let asked = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after(value, self.clock.now()))
            .map(|wait| wait.min(LONGEST_WAIT));
        let Some(kind) = answer::meaning(status, asked.is_some()) else { return Ok(()) };
        let to = headers.get("location").and_then(|value| value.to_str().ok()).and_then(|to| self.url.join(to).ok());
        let message = match (status, to) {
            (300..=399, Some(to)) => format!(
                "{} answered {status} and points to {}; redirects are not followed, so give the final address as its url",
                self.host,
                to.host_str().unwrap_or("another place")
            ),
            _ => format!("{} answered {status}", self.host),
        };
        Err(SinkError { message, kind, status: Some(status), retry_after: asked })
    }

    fn unanswered(&self, error: &reqwest::Error) -> SinkError {
        let host = &self.host;
        if error.is_timeout() && !error.is_connect() {
            return SinkError::new(SinkErrorKind::Event, format!("{host} did not answer in time"));
        }
        if error.is_connect() {
            let why = root(error);
            let hint = if why.contains("certificate") {
                "; have it renewed, or add its authority to those that this machine trusts (SSL_CERT_FILE)"
            } else {
                ""
            };
            return SinkError::away(format!("failed to connect to {host}: {why}{hint}"));
        }
        SinkError::new(SinkErrorKind::Event, format!("the connection to {host} broke: {}", root(error)))
    }
}

/// The cause of it all: of the errors in between some quote the URL.
fn root(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(next) = cause.and_then(Error::source) {
        cause = Some(next);
    }
    match cause {
        Some(cause) => cause.to_string(),
        None => "the request could not be made".to_owned(),
    }
}

fn key(secret: &SecretString) -> Option<Webhook> {
    let text = secret.expose_secret().trim();
    Webhook::from_bytes(signing_key(text).unwrap_or_else(|| text.as_bytes().to_vec())).ok()
}
