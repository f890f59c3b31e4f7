//! Why a login failed, for the person who tries and for the log.

use openidconnect::{ClaimsVerificationError, SignatureVerificationError};

use crate::db::DbError;

/// Whose fault a failed login is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginFault {
    /// The provider's, or the way to it: trying again may help.
    Provider,
    /// The settings here and at the provider do not fit.
    Settings,
    /// The answer is not one to a login of this browser.
    Stale,
    /// The provider, or a role, does not let this person in.
    Denied,
}

/// A failed login. Neither text quotes a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LoginError {
    pub(crate) fault: LoginFault,
    pub(crate) message: String,
    pub(crate) hint: String,
    is_unknown_key: bool,
}

impl LoginError {
    pub(super) fn new(fault: LoginFault, message: impl Into<String>, hint: impl Into<String>) -> LoginError {
        LoginError { fault, message: message.into(), hint: hint.into(), is_unknown_key: false }
    }

    /// The login was started in another browser or tab, too long ago, or has been completed.
    pub(crate) fn stale() -> LoginError {
        let message = "this login is too old, or was started in another tab or browser";
        LoginError::new(LoginFault::Stale, message, "start again with the link below; allow cookies for this site")
    }

    /// The database did not answer.
    pub(crate) fn database(error: DbError) -> LoginError {
        tracing::warn!(%error, hint = error.hint(), "failed to read or write the database for a login");
        let message = "failed to log in: the database did not answer";
        LoginError::new(LoginFault::Provider, message, "try again in a moment; /readyz tells what to do")
    }

    /// The provider knows the person, but no role does.
    pub(crate) fn without_role(who: &str) -> LoginError {
        let message = format!("you are logged in as {who}, but no role lets you read here");
        LoginError::new(LoginFault::Denied, message, "ask for a group of [[access.roles]], or log in as someone else")
    }

    /// The answer is not valid.
    pub(super) fn rejected(why: &str) -> LoginError {
        let hint = "start again; if it stays, compare issuer and client_id in [access.oidc] with the provider's";
        LoginError::new(LoginFault::Provider, format!("the login was rejected: {why}"), hint)
    }

    /// The provider reports an error instead of a code.
    pub(super) fn refused_by_provider(code: &str, description: Option<&str>) -> LoginError {
        let hint = match code {
            "access_denied" | "consent_required" => {
                "ask the administrator of the provider for access to this application"
            }
            "login_required" | "interaction_required" => "start again and log in at the provider",
            "invalid_scope" => "set access.oidc.scopes to what the provider offers, such as [\"email\"]",
            "temporarily_unavailable" | "server_error" => "try again in a moment",
            _ => "ask the administrator: the application's registration at the provider must fit [access.oidc]",
        };
        let fault = match code {
            "access_denied" | "login_required" | "consent_required" | "interaction_required" => LoginFault::Denied,
            "temporarily_unavailable" | "server_error" => LoginFault::Provider,
            _ => LoginFault::Settings,
        };
        let shown = |text: &str| text.chars().filter(|letter| !letter.is_control()).take(200).collect::<String>();
        let description = description.map(|text| format!(": {}", shown(text))).unwrap_or_default();
        LoginError::new(fault, format!("the provider refused the login: {}{description}", shown(code)), hint)
    }

    /// The ID token is not valid.
    pub(super) fn invalid_token(error: &ClaimsVerificationError) -> LoginError {
        let why = match error {
            ClaimsVerificationError::Expired(_) => "the ID token has expired: compare the clocks of both machines",
            ClaimsVerificationError::InvalidAudience(_) => "the ID token is for another application",
            ClaimsVerificationError::InvalidIssuer(_) => "the ID token is from another issuer",
            ClaimsVerificationError::InvalidNonce(_) => "the ID token is from another login",
            ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey) => {
                "the ID token is signed with a key that the provider does not publish"
            }
            ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::DisallowedAlg(_) | SignatureVerificationError::UnsupportedAlg(_),
            ) => "the ID token is signed with an algorithm that is not accepted: use RS256 or ES256",
            ClaimsVerificationError::SignatureVerification(_) => "the ID token's signature is wrong",
            _ => "the ID token is not valid",
        };
        let is_unknown_key = matches!(
            error,
            ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey | SignatureVerificationError::AmbiguousKeyId(_)
            )
        );
        LoginError { is_unknown_key, ..LoginError::rejected(why) }
    }

    /// Whether the provider's keys may have changed since they were read.
    pub(super) fn is_unknown_key(&self) -> bool {
        self.is_unknown_key
    }
}
