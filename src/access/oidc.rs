//! Login of people at an OpenID Connect provider: authorisation code with PKCE, state and nonce.
//!
//! Sends requests to the provider. The provider is discovered at the first login and again from
//! time to time (see `provider`), so the daemon starts without it. Between the two requests of a
//! login, an encrypted cookie of the browser holds state, nonce and verifier.

mod login_error;
mod provider;

use std::collections::BTreeSet;
use std::time::Duration;

use openidconnect::core::CoreAuthenticationFlow;
use openidconnect::{
    AccessTokenHash, AuthorizationCode, CsrfToken, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge,
    PkceCodeVerifier, Scope, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::provider::{ExtraClaims, Provider, ProviderClient, ProviderTokens};
use super::session::Person;
use crate::clock::{Clock, Time};
use crate::config::Oidc;

pub(crate) use login_error::{LoginError, LoginFault};

/// How long a person may take at the provider.
pub(super) const LOGIN_LIFETIME: Duration = Duration::from_mins(15);

/// What the browser keeps between the two requests of a login.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PendingLogin {
    state: String,
    nonce: String,
    verifier: String,
    until: i64,
    /// The page to go to after the login.
    pub(super) next: String,
}

/// What the provider adds to the URL that it sends a person back to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Callback {
    code: Option<String>,
    state: Option<String>,
    /// The issuer (RFC 9207).
    iss: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// Logs people in at the provider of the settings.
pub(super) struct OidcLogin {
    settings: Oidc,
    /// The groups that some role names.
    groups: BTreeSet<String>,
    provider: Provider,
    clock: Clock,
}

impl OidcLogin {
    pub(super) fn new(settings: Oidc, groups: BTreeSet<String>, clock: Clock) -> Result<OidcLogin, LoginError> {
        let provider = Provider::new(&settings, clock.clone())?;
        Ok(OidcLogin { settings, groups, provider, clock })
    }

    /// Starts a login: the URL of the provider, and what the browser has to keep.
    ///
    /// # Errors
    /// If the provider cannot be reached or used.
    pub(super) async fn start(&self, next: String) -> Result<(String, PendingLogin), LoginError> {
        let client = self.provider.client().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let request =
            client.authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random);
        let scopes = self.settings.scopes.iter().cloned().map(Scope::new);
        let (url, state, nonce) = request.add_scopes(scopes).set_pkce_challenge(challenge).url();
        let pending = PendingLogin {
            state: state.into_secret(),
            nonce: nonce.secret().clone(),
            verifier: verifier.into_secret(),
            until: (self.clock.now() + LOGIN_LIFETIME).0,
            next,
        };
        Ok((url.into(), pending))
    }

    /// Completes a login: who the person is, as the provider has signed it.
    ///
    /// # Errors
    /// If the answer does not belong to this login, or anything about it is wrong.
    pub(super) async fn complete(&self, callback: Callback, pending: &PendingLogin) -> Result<Person, LoginError> {
        let is_own = callback.state.as_deref().is_some_and(|state| constant_time_eq(state, &pending.state));
        if !is_own || Time(pending.until) <= self.clock.now() {
            return Err(LoginError::stale());
        }
        if callback.iss.as_ref().is_some_and(|issuer| *issuer != self.settings.issuer) {
            return Err(LoginError::rejected("the answer came from another issuer"));
        }
        if let Some(error) = callback.error {
            return Err(LoginError::refused_by_provider(&error, callback.error_description.as_deref()));
        }
        let code = callback.code.ok_or_else(|| LoginError::rejected("the answer has no code"))?;
        let client = self.provider.client().await?;
        let tokens = self.provider.exchange(&client, AuthorizationCode::new(code), pending.verifier()).await?;
        let nonce = Nonce::new(pending.nonce.clone());
        let claims = match self.verify(&client, &tokens, &nonce) {
            // The provider may sign with a new key that is not known yet.
            Err(error) if error.is_unknown_key() => {
                let client = self.provider.refreshed_client(&client).await?;
                self.verify(&client, &tokens, &nonce)?
            }
            verified => verified?,
        };
        Ok(self.person(self.provider.add_user_info(&client, &tokens, claims, &self.settings.groups_claim).await))
    }

    /// The claims of the ID token, if it is valid in every respect.
    fn verify(&self, client: &ProviderClient, tokens: &ProviderTokens, nonce: &Nonce) -> Result<Claims, LoginError> {
        let id_token = tokens.id_token().ok_or_else(|| LoginError::rejected("the provider sent no ID token"))?;
        let verifier = self.provider.verifier(client);
        let claims = id_token.claims(&verifier, nonce).map_err(|error| LoginError::invalid_token(&error))?;
        if let Some(expected) = claims.access_token_hash() {
            let key =
                id_token.signing_key(&verifier).map_err(|_| LoginError::rejected("the ID token's key is unusable"))?;
            let algorithm = id_token.signing_alg().map_err(|_| LoginError::rejected("the ID token is not signed"))?;
            let actual = AccessTokenHash::from_token(tokens.access_token(), algorithm, key);
            if actual.ok().as_ref() != Some(expected) {
                return Err(LoginError::rejected("the access token is not the ID token's"));
            }
        }
        Ok(Claims {
            sub: claims.subject().to_string(),
            email: claims.email().map(|email| email.to_string()),
            email_verified: claims.email_verified(),
            others: claims.additional_claims().0.clone(),
        })
    }

    fn person(&self, claims: Claims) -> Person {
        let groups = claims.groups(&self.settings.groups_claim);
        Person {
            email: claims.email.filter(|_| claims.email_verified == Some(true)),
            sub: claims.sub,
            groups: groups.into_iter().filter(|group| self.groups.contains(group)).collect(),
        }
    }
}

/// Reads the provider's discovery document and keys, as the first login would.
///
/// # Errors
/// If the provider cannot be reached or used.
pub(crate) async fn check_provider(settings: &Oidc, clock: &Clock) -> Result<(), LoginError> {
    Provider::new(settings, clock.clone())?.client().await.map(drop)
}

impl PendingLogin {
    fn verifier(&self) -> PkceCodeVerifier {
        PkceCodeVerifier::new(self.verifier.clone())
    }
}

fn constant_time_eq(given: &str, expected: &str) -> bool {
    subtle::ConstantTimeEq::ct_eq(given.as_bytes(), expected.as_bytes()).into()
}

/// What the provider has signed about a person.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claims {
    sub: String,
    email: Option<String>,
    email_verified: Option<bool>,
    others: Map<String, Value>,
}

impl Claims {
    /// The person's groups: an array of texts, or one text. A claim inside others is named by its
    /// path, such as `realm_access.roles`; a claim whose own name has dots comes first.
    fn groups(&self, claim: &str) -> Vec<String> {
        let nested = || {
            claim.split('.').try_fold(None, |held: Option<&Value>, name| match held {
                None => self.others.get(name).map(Some),
                Some(value) => value.get(name).map(Some),
            })
        };
        match self.others.get(claim).or_else(|| nested().flatten()) {
            Some(Value::String(group)) => vec![group.clone()],
            Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }
}

impl openidconnect::AdditionalClaims for ExtraClaims {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_an_array_or_one_text_at_any_path() {
        let groups = |claim: &str, value: Value| {
            let Value::Object(others) = value else { panic!("an object") };
            Claims { sub: "1".to_owned(), email: None, email_verified: None, others }.groups(claim)
        };
        assert_eq!(groups("groups", json!({"groups": ["a", 1, "b"]})), ["a", "b"]);
        assert_eq!(groups("groups", json!({"groups": "a"})), ["a"]);
        assert_eq!(groups("realm_access.roles", json!({"realm_access": {"roles": ["a"]}})), ["a"]);
        assert_eq!(groups("https://x.example/g", json!({"https://x.example/g": ["a"]})), ["a"]);
        for none in [json!({}), json!({"groups": null}), json!({"groups": {"a": 1}}), json!({"groups": 7})] {
            assert!(groups("groups", none).is_empty());
        }
    }
}
