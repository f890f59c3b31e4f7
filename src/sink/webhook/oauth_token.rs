//! Bearer tokens by OAuth 2.0 client credentials (RFC 6749, section 4.4). A token is used until shortly
//! before it expires, or until the webhook refuses it.

use std::time::Duration;

use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::transport_error;
use crate::clock::{Clock, Tick};
use crate::config::OauthSettings;
use crate::sink::{SinkError, SinkErrorKind};

/// How long a token is used whose answer does not tell.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// A token is renewed so long before it expires, or after nine tenths of its life if that is earlier.
const RENEWAL_MARGIN: Duration = Duration::from_secs(60);
/// The longest answer of a token endpoint.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The tokens of one webhook.
pub(super) struct OauthTokens {
    settings: OauthSettings,
    url: Url,
    /// Locked while a token is requested: one request serves all who wait.
    current: Mutex<Option<Token>>,
}

struct Token {
    value: SecretString,
    renewed_at: Tick,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: SecretString,
    expires_in: Option<u64>,
}

/// The error codes of RFC 6749, section 5.2. Only these are shown.
const ERROR_CODES: &[&str] = &[
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_grant_type",
];

#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
}

impl OauthTokens {
    pub(super) fn new(settings: OauthSettings) -> Result<OauthTokens, SinkError> {
        let url = Url::parse(&settings.token_url).map_err(|_| SinkError::unavailable("oauth.token_url is invalid"))?;
        Ok(OauthTokens { settings, url, current: Mutex::new(None) })
    }

    /// The URL of the token endpoint.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// A valid token. `refused`: a token that the webhook did not accept; it is replaced.
    pub(super) async fn token(
        &self,
        client: &Client,
        clock: &Clock,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, SinkError> {
        let mut current = self.current.lock().await;
        let is_usable = |token: &&Token| {
            let is_refused = refused.is_some_and(|refused| refused.expose_secret() == token.value.expose_secret());
            !is_refused && clock.tick() < token.renewed_at
        };
        if let Some(token) = current.as_ref().filter(is_usable) {
            return Ok(token.value.clone());
        }
        let answer = self.request(client).await?;
        let life = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let margin = RENEWAL_MARGIN.min(life / 10);
        *current =
            Some(Token { value: answer.access_token.clone(), renewed_at: clock.tick() + life.saturating_sub(margin) });
        Ok(answer.access_token)
    }

    async fn request(&self, client: &Client) -> Result<TokenAnswer, SinkError> {
        let host = self.url.host_str().unwrap_or_default();
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &self.settings.client_id),
            ("client_secret", self.settings.client_secret.expose_secret()),
        ];
        form.extend(self.settings.scope.as_deref().map(|scope| ("scope", scope)));
        let mut response =
            client.post(self.url.clone()).form(&form).send().await.map_err(|error| transport_error(&error, host))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(&error, host))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(SinkError::unavailable(format!("the token endpoint {host} sent too long an answer")));
            }
        }
        if !status.is_success() {
            let code = serde_json::from_slice::<ErrorAnswer>(&body).ok().map(|answer| answer.error);
            let code = code.filter(|code| ERROR_CODES.contains(&code.as_str()));
            let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
            let message = format!("the token endpoint {host} answered {}{code}", status.as_u16());
            return Err(SinkError::new(SinkErrorKind::Unavailable, message)
                .with_hint("check token_url, client_id, client_secret and scope of oauth"));
        }
        serde_json::from_slice(&body).map_err(|_| {
            SinkError::unavailable(format!("the token endpoint {host} sent no access_token"))
                .with_hint("oauth.token_url must be the endpoint for client credentials")
        })
    }
}
