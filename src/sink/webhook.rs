//! A sink that sends each event as one HTTP request: a CloudEvent in structured mode, or what a
//! template makes of it, signed as Standard Webhooks defines.
//!
//! It follows no redirects, and connects to private addresses only if that is allowed (see
//! `public_address`). The URL is a secret: errors name only its host. Of a response, only the
//! status and `Retry-After` matter. A little of the body is read and discarded, so that the
//! connection can be reused.

mod body_template;
mod oauth_token;
mod public_address;
mod response_status;

use std::error::Error;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;

use super::{SinkError, SinkErrorKind};
use crate::clock::Clock;
use crate::config::{WebhookSettings, signing_key};
use crate::event::Event;
use crate::file_descriptors;
use crate::ringcx::rate_limit::{MAX_RETRY_AFTER, parse_retry_after};
use crate::ringcx::{install_tls, is_certificate_error};
use body_template::BodyTemplate;
use oauth_token::OauthTokens;
use public_address::PublicAddressResolver;

const USER_AGENT: &str = concat!("ringcx-extractor/", env!("CARGO_PKG_VERSION"));
const CLOUDEVENTS_MEDIA_TYPE: &str = "application/cloudevents+json";

const JSON_MEDIA_TYPE: &str = "application/json";

/// How much of a response's body is read at most.
const MAX_BODY_BYTES_READ: usize = 16 * 1024;

/// The longest time to establish a connection, however long the request timeout is.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The client of one webhook.
pub(crate) struct WebhookSink {
    client: Client,
    method: Method,
    url: Url,
    host: String,
    headers: HeaderMap,
    keys: Vec<Webhook>,
    template: Option<BodyTemplate>,
    tokens: Option<OauthTokens>,
    max_body: Option<usize>,
    clock: Clock,
}

/// What a webhook answered.
pub(crate) struct WebhookAnswer {
    /// The status.
    pub(crate) status: u16,
    /// The start of the body.
    pub(crate) body: Vec<u8>,
    /// The meaning.
    pub(crate) result: Result<(), SinkError>,
}

impl WebhookSink {
    /// Builds the client from the settings.
    ///
    /// # Errors
    /// If the URL is invalid or on a private network, the template fails, or the HTTP client cannot be
    /// built.
    pub(crate) fn new(settings: &WebhookSettings, clock: Clock) -> Result<WebhookSink, SinkError> {
        let invalid = |what: &str| SinkError::unavailable(format!("the sink's {what} is invalid"));
        let url = Url::parse(settings.url.expose_secret()).map_err(|_| invalid("url"))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let default_type = if settings.template.is_some() { JSON_MEDIA_TYPE } else { CLOUDEVENTS_MEDIA_TYPE };
        let content_type = settings.content_type.as_deref().unwrap_or(default_type);
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("header"))?;
            let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| invalid("header"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).map_err(|_| invalid("content_type"))?);
        let tokens = settings.oauth.clone().map(OauthTokens::new).transpose()?;
        Ok(WebhookSink {
            client: build_client(settings, &url, tokens.as_ref().map(OauthTokens::url), &clock)?,
            method: Method::from_bytes(settings.method.name().as_bytes()).map_err(|_| invalid("method"))?,
            url,
            host,
            headers,
            keys: settings.secrets.iter().filter_map(signing_webhook).collect(),
            template: settings.template.as_deref().map(|text| BodyTemplate::new(text, content_type)).transpose()?,
            tokens,
            max_body: settings.max_body,
            clock,
        })
    }

    /// Sends one event.
    ///
    /// # Errors
    /// If the event was not accepted. The error's kind tells what that means.
    pub(crate) async fn send(&self, event: &Event) -> Result<(), SinkError> {
        self.exchange(event).await?.result
    }

    /// Sends one event, and returns the answer.
    ///
    /// # Errors
    /// If there was no answer.
    pub(crate) async fn exchange(&self, event: &Event) -> Result<WebhookAnswer, SinkError> {
        let body = self.body(event)?;
        let token = match &self.tokens {
            Some(tokens) => Some(tokens.token(&self.client, &self.clock, None).await?),
            None => None,
        };
        let mut response = self.request(event, body.clone(), token.as_ref()).await?;
        if let (Some(tokens), Some(refused), 401) = (&self.tokens, &token, response.status().as_u16()) {
            // It may have been revoked. A second refusal is an answer like any other.
            let token = tokens.token(&self.client, &self.clock, Some(refused)).await?;
            response = self.request(event, body, Some(&token)).await?;
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut start = Vec::new();
        while start.len() < MAX_BODY_BYTES_READ {
            match response.chunk().await {
                Ok(Some(chunk)) => start.extend_from_slice(&chunk[..chunk.len().min(MAX_BODY_BYTES_READ)]),
                // The status is known, whatever happens to the body.
                Ok(None) | Err(_) => break,
            }
        }
        Ok(WebhookAnswer { status, body: start, result: self.check_response(status, &headers) })
    }

    /// The body for an event: with its content, or with a reference if that is too large.
    fn body(&self, event: &Event) -> Result<Vec<u8>, SinkError> {
        let build = |json: Vec<u8>, event: &Event| match &self.template {
            Some(template) => template.render(event, &json),
            None => Ok(json),
        };
        let body = build(event.cloud_event(), event)?;
        let Some(max) = self.max_body.filter(|max| body.len() > *max) else { return Ok(body) };
        let body = build(event.cloud_event_with_reference(), &event.without_content())?;
        if body.len() > max {
            let message = format!("the event has {} bytes without its content, more than max_body", body.len());
            return Err(SinkError::new(SinkErrorKind::Refused, message));
        }
        Ok(body)
    }

    async fn request(&self, event: &Event, body: Vec<u8>, token: Option<&SecretString>) -> Result<Response, SinkError> {
        let (id, stamp) = (event.id().to_string(), self.clock.now().floor_secs());
        let signatures: Vec<String> = self.keys.iter().filter_map(|key| key.sign(&id, stamp, &body).ok()).collect();
        let mut request = self
            .client
            .request(self.method.clone(), self.url.clone())
            .headers(self.headers.clone())
            .header("webhook-id", id)
            .header("webhook-timestamp", stamp.to_string());
        if !signatures.is_empty() {
            request = request.header("webhook-signature", signatures.join(" "));
        }
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        request.body(body).send().await.map_err(|error| transport_error(&error, &self.host))
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
}

/// Builds the HTTP client of a webhook, and of its token endpoint.
fn build_client(
    settings: &WebhookSettings,
    url: &Url,
    token_url: Option<&Url>,
    clock: &Clock,
) -> Result<Client, SinkError> {
    let timeout = settings.timeout;
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
    if !settings.allow_private {
        [Some(url), token_url]
            .into_iter()
            .flatten()
            .try_for_each(public_address::check_literal_address)
            .map_err(SinkError::unavailable)?;
    }
    let builder = match &settings.proxy {
        // The proxy resolves the names. Whoever sets one knows where it leads.
        Some(proxy) => {
            let proxy = reqwest::Proxy::all(proxy.expose_secret());
            builder.proxy(proxy.map_err(|_| SinkError::unavailable("the sink's proxy is invalid"))?)
        }
        // A proxy of the environment would resolve the name itself, and its target could not be checked.
        None if !settings.allow_private => builder.no_proxy().dns_resolver(PublicAddressResolver),
        None if public_address::is_loopback_url(url) => builder.no_proxy(),
        None => builder,
    };
    // Plain HTTP needs no root certificates, which a minimal machine may lack.
    let is_plain = [Some(url), token_url].into_iter().flatten().all(|url| url.scheme() == "http");
    let builder = if is_plain { builder.tls_certs_only([]) } else { builder };
    install_tls();
    builder
        .build()
        .map_err(|error| SinkError::unavailable(format!("failed to set up the HTTP client: {}", root_cause(&error))))
}

/// The error of a request without an answer.
fn transport_error(error: &reqwest::Error, host: &str) -> SinkError {
    if error.is_timeout() && !error.is_connect() {
        return SinkError::new(SinkErrorKind::TimedOut, format!("{host} did not answer in time"));
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
