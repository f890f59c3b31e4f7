//! A sink that sends each event as one HTTP request: a CloudEvent in structured mode, signed as
//! Standard Webhooks defines.
//!
//! It follows no redirects, and connects to private addresses only if that is allowed (see
//! `public_address`). The URL is a secret: errors name only its host. Of a response, only the
//! status and `Retry-After` matter. A little of the body is read and discarded, so that the
//! connection can be reused.

mod public_address;
mod response_status;

use std::error::Error;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;

use super::{SinkError, SinkErrorKind};
use crate::clock::Clock;
use crate::config::signing_key;
use crate::event::Event;
use crate::file_descriptors;
use crate::ringcx::rate_limit::{MAX_RETRY_AFTER, parse_retry_after};
use crate::ringcx::{install_tls, is_certificate_error};
use public_address::PublicAddressResolver;

const USER_AGENT: &str = concat!("ringcx-extractor/", env!("CARGO_PKG_VERSION"));
const CLOUDEVENTS_MEDIA_TYPE: &str = "application/cloudevents+json";

/// How much of a response's body is read at most.
const MAX_BODY_BYTES_READ: usize = 16 * 1024;

/// The longest time to establish a connection, however long the request timeout is.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The client of one webhook.
pub(crate) struct WebhookSink {
    client: Client,
    url: Url,
    host: String,
    keys: Vec<Webhook>,
    clock: Clock,
}

impl WebhookSink {
    /// Builds the client from the settings.
    ///
    /// # Errors
    /// If the URL is invalid or on a private network, or the HTTP client cannot be built.
    pub(crate) fn new(
        url: &SecretString,
        secrets: &[SecretString],
        timeout: Duration,
        allow_private: bool,
        clock: Clock,
    ) -> Result<WebhookSink, SinkError> {
        let url = Url::parse(url.expose_secret()).map_err(|_| SinkError::unavailable("the sink's url is invalid"))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let timeout = clock.real(timeout).max(timeout.min(Duration::from_secs(1)));
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .timeout(timeout)
            .connect_timeout(timeout.min(MAX_CONNECT_TIMEOUT))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(file_descriptors::socket_limits().idle_per_sink);
        let builder = if allow_private {
            builder
        } else {
            public_address::check_literal_address(&url).map_err(SinkError::unavailable)?;
            // A proxy would resolve the name itself, and its target could not be checked.
            builder.no_proxy().dns_resolver(PublicAddressResolver)
        };
        // Plain HTTP needs no root certificates, which a minimal machine may lack. A proxy is never
        // in front of this machine.
        let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
        let builder = if public_address::is_loopback_url(&url) { builder.no_proxy() } else { builder };
        install_tls();
        let client = builder.build().map_err(|error| {
            SinkError::unavailable(format!("failed to set up the HTTP client: {}", root_cause(&error)))
        })?;
        Ok(WebhookSink { client, url, host, keys: secrets.iter().filter_map(signing_webhook).collect(), clock })
    }

    /// Sends one event.
    ///
    /// # Errors
    /// If the event was not accepted. The error's kind tells what that means.
    pub(crate) async fn send(&self, event: &Event) -> Result<(), SinkError> {
        let _place = file_descriptors::acquire_delivery_slot().await;
        let (id, body) = (event.id().to_string(), event.cloud_event());
        let now = self.clock.now();
        let stamp = now.floor_secs();
        let signatures: Vec<String> = self.keys.iter().filter_map(|key| key.sign(&id, stamp, &body).ok()).collect();
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, CLOUDEVENTS_MEDIA_TYPE)
            .header("webhook-id", id)
            .header("webhook-timestamp", stamp.to_string())
            .header("webhook-signature", signatures.join(" "))
            .body(body);
        let mut response = request.send().await.map_err(|error| self.transport_error(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut read = 0;
        while read < MAX_BODY_BYTES_READ {
            match response.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                // The status is known, whatever happens to the body.
                Ok(None) | Err(_) => break,
            }
        }
        self.check_response(status, &headers)
    }

    fn check_response(&self, status: u16, headers: &HeaderMap) -> Result<(), SinkError> {
        let retry_after = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| parse_retry_after(value, self.clock.now()))
            .map(|wait| wait.min(MAX_RETRY_AFTER));
        let Some(kind) = response_status::classify_status(status, retry_after.is_some()) else { return Ok(()) };
        let to = headers.get("location").and_then(|value| value.to_str().ok()).and_then(|to| self.url.join(to).ok());
        let message = match (status, to) {
            (300..=399, Some(to)) => format!(
                "{} answered {status} and redirects to {}; redirects are not followed: set the sink's url to the final address",
                self.host,
                to.host_str().unwrap_or("another host")
            ),
            _ => format!("{} answered {status}", self.host),
        };
        Err(SinkError { status: Some(status), retry_after, ..SinkError::new(kind, message) })
    }

    fn transport_error(&self, error: &reqwest::Error) -> SinkError {
        let host = &self.host;
        if error.is_timeout() && !error.is_connect() {
            return SinkError::new(SinkErrorKind::Retryable, format!("{host} did not answer in time"));
        }
        if error.is_connect() {
            let failed = SinkError::unavailable(format!("failed to connect to {host}: {}", root_cause(error)));
            return match is_certificate_error(error) {
                true => failed.with_hint(UNTRUSTED_HINT),
                false => failed,
            };
        }
        SinkError::new(SinkErrorKind::Retryable, format!("the connection to {host} broke: {}", root_cause(error)))
    }
}

const UNTRUSTED_HINT: &str =
    "renew the certificate, or add its authority to the trusted roots of this machine (SSL_CERT_FILE)";

/// The innermost cause: some of the outer errors quote the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(next) = cause.and_then(Error::source) {
        cause = Some(next);
    }
    match cause {
        Some(cause) => cause.to_string(),
        None => "the request could not be sent".to_owned(),
    }
}

fn signing_webhook(secret: &SecretString) -> Option<Webhook> {
    let text = secret.expose_secret().trim();
    Webhook::from_bytes(signing_key(text).unwrap_or_else(|| text.as_bytes().to_vec())).ok()
}
