//! The provider as discovery describes it, and the requests to it.
//!
//! Discovery and keys are read at the first login and kept for an hour. A token that is signed with
//! an unknown key has them read again, though not more often than twice a minute: forged tokens must
//! not become requests. A failed discovery is repeated at the next login, after some seconds.

use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreRevocableToken,
    CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AuthType, AuthorizationCode, Client, ClientId, ClientSecret, DiscoveryError, EmptyExtraTokenFields,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IdTokenFields, IdTokenVerifier,
    IssuerUrl, OAuth2TokenResponse as _, PkceCodeVerifier, RedirectUrl, RequestTokenError, StandardErrorResponse,
    StandardTokenResponse, SubjectIdentifier, UserInfoClaims,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::Claims;
use super::login_error::{LoginError, LoginFault};
use crate::clock::{Clock, Tick};
use crate::config::Oidc;

/// How long discovery and keys are used.
const MAX_METADATA_AGE: Duration = Duration::from_hours(1);
/// The shortest interval between two reads because of an unknown key.
const MIN_KEY_REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// How long a failed discovery is not repeated.
const DISCOVERY_RETRY_DELAY: Duration = Duration::from_secs(5);
/// How long one request to the provider may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer of the provider.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// How much the provider's clock may be ahead or behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// All claims without a meaning of their own here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ExtraClaims(pub(super) Map<String, Value>);

type ProviderTokenFields = IdTokenFields<
    ExtraClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
/// The provider's answer to a code.
pub(super) type ProviderTokens = StandardTokenResponse<ProviderTokenFields, CoreTokenType>;
/// A client of the provider, with its keys.
pub(super) type ProviderClient = Client<
    ExtraClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    ProviderTokens,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Why a request to the provider failed. It does not quote a URL, which may have a code.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{0}")]
    Transport(#[from] reqwest::Error),
    #[error("the answer is larger than 1 MiB")]
    TooLarge,
    #[error("the answer is not HTTP: {0}")]
    Malformed(#[from] axum::http::Error),
}

/// What is known of the provider.
#[derive(Default)]
struct Known {
    client: Option<Arc<ProviderClient>>,
    /// When it was read.
    read_at: Option<Tick>,
    /// When it was last read because of an unknown key.
    refreshed_at: Option<Tick>,
    /// The last failure, and when.
    failed: Option<(Tick, LoginError)>,
}

/// The provider.
pub(super) struct Provider {
    issuer: String,
    client_id: String,
    client_secret: SecretString,
    redirect_url: RedirectUrl,
    http: reqwest::Client,
    clock: Clock,
    /// Held during a read, so that several logins cause one.
    known: Mutex<Known>,
}

impl Provider {
    /// # Errors
    /// If no client can be built from the settings.
    pub(super) fn new(settings: &Oidc, clock: Clock) -> Result<Provider, LoginError> {
        let unusable = |what: String| {
            LoginError::new(LoginFault::Settings, what, "check [access.oidc] and the certificates of this machine")
        };
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(REQUEST_TIMEOUT)
            // Redirects could lead the client secret to another host.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| {
                unusable(format!("failed to set up the client of the provider: {}", error.without_url()))
            })?;
        let redirect_url = RedirectUrl::new(format!("{}/auth/callback", settings.public_url));
        Ok(Provider {
            issuer: settings.issuer.clone(),
            client_id: settings.client_id.clone(),
            client_secret: settings.client_secret.value.clone(),
            redirect_url: redirect_url.map_err(|_| unusable("access.oidc.public_url is not a URL".to_owned()))?,
            http,
            clock,
            known: Mutex::default(),
        })
    }

    /// A client with recent keys.
    ///
    /// # Errors
    /// If the provider was never read, and cannot be now.
    pub(super) async fn client(&self) -> Result<Arc<ProviderClient>, LoginError> {
        let mut known = self.known.lock().await;
        let now = self.clock.tick();
        let is_recent = known.read_at.is_some_and(|read| now.since(read) < MAX_METADATA_AGE);
        if let Some(client) = known.client.as_ref().filter(|_| is_recent) {
            return Ok(client.clone());
        }
        if let Some((failed, error)) = &known.failed
            && now.since(*failed) < DISCOVERY_RETRY_DELAY
        {
            return known.client.clone().ok_or_else(|| error.clone());
        }
        match self.discover(&mut known).await {
            // Old keys are better than none: a token signed with a new one is refused.
            Err(error) => known.client.clone().ok_or(error),
            discovered => discovered,
        }
    }

    /// A client with keys that were read after those of `used`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) async fn refreshed_client(&self, used: &Arc<ProviderClient>) -> Result<Arc<ProviderClient>, LoginError> {
        let mut known = self.known.lock().await;
        let now = self.clock.tick();
        let is_too_soon = known.refreshed_at.is_some_and(|last| now.since(last) < MIN_KEY_REFRESH_INTERVAL);
        match &known.client {
            Some(client) if is_too_soon || !Arc::ptr_eq(client, used) => Ok(client.clone()),
            _ => {
                known.refreshed_at = Some(now);
                self.discover(&mut known).await
            }
        }
    }

    async fn discover(&self, known: &mut Known) -> Result<Arc<ProviderClient>, LoginError> {
        let discovered = self.read_metadata().await;
        let now = self.clock.tick();
        match discovered {
            Ok(client) => {
                (known.client, known.read_at, known.failed) = (Some(client.clone()), Some(now), None);
                Ok(client)
            }
            Err(error) => {
                tracing::warn!(%error, hint = %error.hint, "failed to read the OpenID Connect provider's metadata");
                known.failed = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    async fn read_metadata(&self) -> Result<Arc<ProviderClient>, LoginError> {
        let hint = "access.oidc.issuer must be exactly the provider's issuer";
        let issuer = IssuerUrl::new(self.issuer.clone())
            .map_err(|_| LoginError::new(LoginFault::Settings, "access.oidc.issuer is not a URL", hint))?;
        let metadata = CoreProviderMetadata::discover_async(issuer, &self.http_client()).await;
        let metadata = metadata.map_err(|error| discovery_failed(&self.issuer, &error))?;
        let only_in_body = metadata.token_endpoint_auth_methods_supported().is_some_and(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretPost)
                && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
        });
        let secret = ClientSecret::new(self.client_secret.expose_secret().to_owned());
        let client =
            ProviderClient::from_provider_metadata(metadata, ClientId::new(self.client_id.clone()), Some(secret))
                .set_redirect_uri(self.redirect_url.clone())
                .set_auth_type(if only_in_body { AuthType::RequestBody } else { AuthType::BasicAuth });
        Ok(Arc::new(client))
    }

    /// Exchanges a code for tokens.
    pub(super) async fn exchange(
        &self,
        client: &ProviderClient,
        code: AuthorizationCode,
        verifier: PkceCodeVerifier,
    ) -> Result<ProviderTokens, LoginError> {
        let request = client.exchange_code(code).map_err(|_| {
            LoginError::new(
                LoginFault::Settings,
                "the provider has no token endpoint",
                "use a provider of OpenID Connect",
            )
        })?;
        request
            .set_pkce_verifier(verifier)
            .request_async(&self.http_client())
            .await
            .map_err(|error| exchange_failed(&error))
    }

    /// A verifier of ID tokens. Only asymmetric signatures count: the client secret is no key.
    pub(super) fn verifier<'c>(&self, client: &'c ProviderClient) -> IdTokenVerifier<'c, CoreJsonWebKey> {
        use CoreJwsSigningAlgorithm::{
            EcdsaP256Sha256, EcdsaP384Sha384, EdDsa, RsaSsaPkcs1V15Sha256, RsaSsaPkcs1V15Sha384, RsaSsaPkcs1V15Sha512,
            RsaSsaPssSha256, RsaSsaPssSha384, RsaSsaPssSha512,
        };
        let algorithms = [
            RsaSsaPkcs1V15Sha256,
            RsaSsaPkcs1V15Sha384,
            RsaSsaPkcs1V15Sha512,
            RsaSsaPssSha256,
            RsaSsaPssSha384,
            RsaSsaPssSha512,
            EcdsaP256Sha256,
            EcdsaP384Sha384,
            EdDsa,
        ];
        let clock = self.clock.clone();
        // A token counts as valid for a little longer than it says.
        let now = move || {
            let now = (clock.now() - CLOCK_TOLERANCE).0;
            chrono::DateTime::from_timestamp_millis(now).unwrap_or(chrono::DateTime::<chrono::Utc>::MAX_UTC)
        };
        client.id_token_verifier().set_allowed_algs(algorithms).set_time_fn(now)
    }

    /// Adds what only the provider's user-info endpoint tells: some leave groups and e-mail address
    /// out of the ID token. A failure leaves them out.
    pub(super) async fn add_user_info(
        &self,
        client: &ProviderClient,
        tokens: &ProviderTokens,
        mut claims: Claims,
        groups_claim: &str,
    ) -> Claims {
        if claims.email.is_some() && !claims.groups(groups_claim).is_empty() {
            return claims;
        }
        let subject = SubjectIdentifier::new(claims.sub.clone());
        let Ok(request) = client.user_info(tokens.access_token().clone(), Some(subject)) else { return claims };
        let answer: Result<UserInfoClaims<ExtraClaims, CoreGenderClaim>, _> =
            request.request_async(&self.http_client()).await;
        match answer {
            Ok(info) => {
                if claims.email.is_none() {
                    claims.email = info.email().map(|email| email.to_string());
                    claims.email_verified = info.email_verified();
                }
                for (name, value) in &info.additional_claims().0 {
                    claims.others.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            // The error may quote the answer, which describes a person.
            Err(_) => tracing::warn!("failed to read the user-info endpoint of the OpenID Connect provider"),
        }
        claims
    }

    /// Sends requests with `reqwest`, bounded in time and size.
    fn http_client(
        &self,
    ) -> impl Fn(HttpRequest) -> std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse, RequestError>> + Send>>
    + Send
    + Sync
    + use<> {
        let http = self.http.clone();
        move |request| {
            let http = http.clone();
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                let request = http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
                let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
                let mut answer = axum::http::Response::builder().status(response.status());
                if let Some(headers) = answer.headers_mut() {
                    *headers = response.headers().clone();
                }
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
                    if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                        return Err(RequestError::TooLarge);
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok(answer.body(body)?)
            })
        }
    }
}

fn discovery_failed(issuer: &str, error: &DiscoveryError<RequestError>) -> LoginError {
    let (fault, why, hint) = match error {
        DiscoveryError::Request(error) => {
            let why = format!("cannot be reached: {}", with_causes(error));
            (
                LoginFault::Provider,
                why,
                "try again in a moment; if it stays, check access.oidc.issuer and the way to it",
            )
        }
        DiscoveryError::Response(status, ..) if status.is_server_error() => {
            (LoginFault::Provider, format!("answered with status {}", status.as_u16()), "try again in a moment")
        }
        DiscoveryError::Response(status, ..) => {
            let why = format!("answered with status {}", status.as_u16());
            (
                LoginFault::Settings,
                why,
                "access.oidc.issuer plus /.well-known/openid-configuration must be its discovery document",
            )
        }
        DiscoveryError::Validation(_) => {
            let why = "calls itself something else".to_owned();
            (
                LoginFault::Settings,
                why,
                "set access.oidc.issuer to the `issuer` of its discovery document, slash at the end included",
            )
        }
        _ => {
            let why = "has no usable discovery document".to_owned();
            (LoginFault::Settings, why, "access.oidc.issuer must be a provider of OpenID Connect")
        }
    };
    LoginError::new(fault, format!("the provider {issuer} {why}"), hint)
}

fn exchange_failed(
    error: &RequestTokenError<RequestError, StandardErrorResponse<CoreErrorResponseType>>,
) -> LoginError {
    const REFUSED: &str = "the provider refused the code";
    match error {
        RequestTokenError::ServerResponse(answer) => match answer.error() {
            CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient => LoginError::new(
                LoginFault::Settings,
                "the provider refused this application",
                "set client_id and client_secret in [access.oidc] to those of the application at the provider",
            ),
            // The code is used up, too old, or for another redirect URL.
            CoreErrorResponseType::InvalidGrant => {
                LoginError::new(LoginFault::Stale, REFUSED, "start again with the link below")
            }
            other => LoginError::refused_by_provider(other.as_ref(), None),
        },
        RequestTokenError::Request(error) => LoginError::new(
            LoginFault::Provider,
            format!("the provider cannot be reached: {}", with_causes(error)),
            "try again in a moment",
        ),
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            LoginError::rejected("the provider's answer to the code is unusable")
        }
    }
}

/// An error and its causes in one line.
fn with_causes(error: &RequestError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
