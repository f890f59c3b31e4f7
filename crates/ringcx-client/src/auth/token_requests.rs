//! The requests of a login, and the interpretation of their answers.
//!
//! Only this module puts a secret into a request's body or URL. An Engage login has the password in
//! its URL, so no URL is shown here. Credentials are removed from every text of an answer that is
//! shown.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::backoff::Fault;
use crate::clock::Tick;
use crate::error::{ApiError, ErrorCause, printable_code, vendor_code};
use crate::model::Endpoint;
use crate::rate_limit::ReservedQuota;

use super::renewal::RingCentralToken;
use super::{Credentials, Login};

/// The largest answer to a login; `agentDetails` can be long.
const MAX_LOGIN_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The scope that RingCX requires of a RingCentral token (contract.md, Authentication 1).
const REQUIRED_SCOPE: &str = "ReadAccounts";

/// The tokens that a login returned.
pub(super) struct TokenGrant {
    pub(super) access_token: SecretString,
    pub(super) refresh_token: Option<SecretString>,
    /// When they were requested: their lifetime counts from there.
    pub(super) requested_at: Tick,
}

/// The step of a login that a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoginStep {
    RingCentral,
    Exchange,
    Refresh,
    Engage,
}

impl LoginStep {
    fn purpose(self) -> &'static str {
        match self {
            LoginStep::RingCentral => "log in to RingCentral",
            LoginStep::Exchange => "exchange the RingCentral token for a RingCX token",
            LoginStep::Refresh => "refresh the RingCX token",
            LoginStep::Engage => "log in to RingCX",
        }
    }

    /// The hint for a redirect: the setting that names the host.
    fn redirect_hint(self) -> &'static str {
        match self {
            LoginStep::RingCentral => {
                "if that host is RingCentral's, set api.platform_url to it (https:// and the host) and restart"
            }
            _ => "if that host is RingCentral's, set api.ringcx_url to it (https:// and the host) and restart",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            LoginStep::RingCentral => {
                "check auth.client_id, auth.client_secret and auth.jwt: in the RingCentral developer portal, the app's \
                 Credentials page has the first two, your name's menu, Credentials, the JWT (which must be for this app and \
                 for the same environment)"
            }
            LoginStep::Exchange | LoginStep::Refresh => {
                "the RingCentral user needs access to RingCX: give it a RingCX admin role in the RingCX admin portal, \
                 under Users, and check that api.ringcx_url belongs to the account's region"
            }
            LoginStep::Engage => {
                "check auth.username, auth.password and auth.platform_id: those with which the user logs in to the RingCX admin \
                 portal itself, without single sign-on"
            }
        }
    }
}

impl Login {
    /// Step 1: requests a RingCentral token with the JWT credential. Limited, so the send is
    /// reserved first.
    pub(super) async fn request_ringcentral_token(
        &self,
        credentials: &Credentials,
    ) -> Result<RingCentralToken, ApiError> {
        let Credentials::RingCentral { client_id, client_secret, jwt } = credentials else {
            let why = "this login has no RingCentral account";
            return Err(ApiError::new(Fault::Permanent, Endpoint::Login, ErrorCause::Settings, why)
                .with_hint("set rc_account_id in [[accounts]], or log in with auth.client_id, client_secret and jwt"));
        };
        let url = format!("{}/restapi/oauth/token", self.api().hosts().platform);
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", jwt.expose_secret())];
        let request = self.api().client().post(url).form(&form);
        let request = request.basic_auth(client_id, Some(client_secret.expose_secret()));
        let secrets = [client_secret.expose_secret(), jwt.expose_secret()];
        let (requested_at, answer) =
            self.send_reserved(&self.0.token_quota, LoginStep::RingCentral, request, &secrets).await?;
        check_scope(&answer)?;
        let lifetime = parse_number(&answer["expires_in"]).unwrap_or(3600.0).clamp(0.0, 1e7);
        // It is not used in its last tenth, or its last minute if that is shorter.
        let lifetime = Duration::from_secs_f64((lifetime * 0.9).max(lifetime - 60.0));
        Ok(RingCentralToken {
            secret: parse_secret(&answer, "access_token", LoginStep::RingCentral)?,
            requested_at,
            usable_until: requested_at + lifetime,
            accepted: false,
        })
    }

    /// Step 2: exchanges the RingCentral token. Limited, so the send is reserved first.
    pub(super) async fn request_exchange(&self, rc: &RingCentralToken) -> Result<TokenGrant, ApiError> {
        let url = format!("{}/api/auth/login/rc/accesstoken?includeRefresh=true", self.api().hosts().ringcx);
        let form = [("rcAccessToken", rc.secret.expose_secret()), ("rcTokenType", "Bearer")];
        let request = self.api().client().post(url).form(&form);
        let secrets = [rc.secret.expose_secret()];
        let (requested_at, answer) =
            self.send_reserved(&self.0.exchange_quota, LoginStep::Exchange, request, &secrets).await?;
        parse_grant(&answer, requested_at, LoginStep::Exchange)
    }

    /// Step 3: refreshes the RingCX token.
    pub(super) async fn request_refresh(&self, refresh_token: &SecretString) -> Result<TokenGrant, ApiError> {
        let url = format!("{}/api/auth/token/refresh", self.api().hosts().ringcx);
        let request = self.api().client().post(url).form(&[("refresh_token", refresh_token.expose_secret())]);
        let requested_at = self.clock().tick();
        let sent = self.api().send(Endpoint::Login, request).await;
        let answer = self.read_answer(LoginStep::Refresh, sent, &[refresh_token.expose_secret()]).await?;
        parse_grant(&answer, requested_at, LoginStep::Refresh)
    }

    /// Step 4: logs in without RingCentral. Counts as an exchange.
    pub(super) async fn request_engage_login(
        &self,
        username: &str,
        password: &SecretString,
        platform_id: &str,
    ) -> Result<TokenGrant, ApiError> {
        let url = format!("{}/api/auth/login/admin", self.api().hosts().ringcx);
        let password = password.expose_secret();
        let query = [("username", username), ("password", password), ("platformId", platform_id)];
        let request = self.api().client().post(url).query(&query);
        let secrets = [password, username];
        let (requested_at, answer) =
            self.send_reserved(&self.0.exchange_quota, LoginStep::Engage, request, &secrets).await?;
        parse_grant(&answer, requested_at, LoginStep::Engage)
    }

    /// Sends a request once the quota allows it. Returns the time of sending and the answer.
    async fn send_reserved(
        &self,
        quota: &ReservedQuota,
        step: LoginStep,
        request: RequestBuilder,
        secrets: &[&str],
    ) -> Result<(Tick, Value), ApiError> {
        let reserved = quota.reserve().await;
        let reserved = reserved.map_err(|error| ApiError::reservation_failed(Endpoint::Login, error))?;
        let requested_at = self.clock().tick();
        let sent = self.api().send(Endpoint::Login, request).await;
        reserved.mark_counted().await;
        Ok((requested_at, self.read_answer(step, sent, secrets).await?))
    }

    async fn read_answer(
        &self,
        step: LoginStep,
        sent: Result<crate::api_call::ApiResponse, ApiError>,
        secrets: &[&str],
    ) -> Result<Value, ApiError> {
        let answer = sent.map_err(|error| with_step(error, step))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.read_body(MAX_LOGIN_ANSWER_BYTES).await;
        if !status.is_success() {
            let body = body.unwrap_or_default();
            let now = self.api().api_now();
            let error = ApiError::from_response(Endpoint::Login, status, &headers, &body, now);
            return Err(refusal_error(error, step, status, &body, secrets));
        }
        let body = body.map_err(|error| with_step(error, step))?;
        serde_json::from_slice(&body).map_err(|_| undecodable_answer(step, "it is not JSON"))
    }
}

fn parse_grant(answer: &Value, requested_at: Tick, step: LoginStep) -> Result<TokenGrant, ApiError> {
    let access_token = parse_secret(answer, "accessToken", step)?;
    Ok(TokenGrant { access_token, refresh_token: parse_secret(answer, "refreshToken", step).ok(), requested_at })
}

fn parse_secret(answer: &Value, key: &str, step: LoginStep) -> Result<SecretString, ApiError> {
    match answer.get(key).and_then(Value::as_str).map(str::trim) {
        Some(text) if !text.is_empty() => Ok(SecretString::from(text)),
        _ => Err(undecodable_answer(step, "it holds no token")),
    }
}

fn parse_number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number| number.is_finite())
}

/// Checks that the answer's scopes, if it has any, include the required one.
fn check_scope(answer: &Value) -> Result<(), ApiError> {
    let Some(scope) = answer.get("scope").and_then(Value::as_str) else { return Ok(()) };
    if scope.split([' ', ',']).any(|one| one == REQUIRED_SCOPE) {
        return Ok(());
    }
    let why = "the RingCentral app lacks the scope ReadAccounts";
    Err(ApiError::new(Fault::Forbidden, Endpoint::Login, ErrorCause::MissingScope, why).with_hint(
        "in the RingCentral developer portal open the app, Settings, App permissions (OAuth scopes), add Read Accounts, \
         save, and log in again",
    ))
}

fn undecodable_answer(step: LoginStep, why: &str) -> ApiError {
    with_step(ApiError::undecodable(Endpoint::Login, why), step)
}

/// Names the step of the login in the message.
fn with_step(error: ApiError, step: LoginStep) -> ApiError {
    let message = error.message.replacen("failed to log in", &format!("failed to {}", step.purpose()), 1);
    error.with_message(message)
}

/// The error of a refused login, with the vendor's message without secrets.
fn refusal_error(error: ApiError, step: LoginStep, status: StatusCode, body: &[u8], secrets: &[&str]) -> ApiError {
    let mut error = with_step(error, step);
    if error.cause == ErrorCause::Outage {
        return error;
    }
    if status.is_redirection() {
        return error.with_hint(step.redirect_hint());
    }
    if status == StatusCode::NOT_FOUND {
        // Not a resource that appears later: the path does not exist on that host.
        error.fault = Fault::Permanent;
        return error.with_hint("check api.platform_url and api.ringcx_url");
    }
    if let Some(message_of_vendor) = vendor_message(body, secrets) {
        let message = format!("{}: {message_of_vendor}", error.message);
        error = error.with_message(message);
    }
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => {
            error.fault = Fault::Unauthorised;
            error.with_hint(step.hint())
        }
        StatusCode::FORBIDDEN => error.with_hint(step.hint()),
        _ => error,
    }
}

/// OAuth's `error` and `error_description` without secrets.
fn vendor_message(body: &[u8], secrets: &[&str]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    // The message has this code already, unless it has the vendor's own code instead.
    let code = answer.get("error").and_then(printable_code).filter(|code| vendor_code(body).as_ref() != Some(code));
    let description = answer.get("error_description").and_then(Value::as_str).map(str::trim);
    let description = description.filter(|text| !text.is_empty()).map(|text| remove_secrets(text, secrets));
    match (code, description) {
        (Some(code), Some(description)) => Some(format!("{code}: {description}")),
        (code, description) => code.or(description),
    }
}

fn remove_secrets(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "[removed]");
    }
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_scope_is_required_only_where_scopes_are_named() {
        assert!(check_scope(&json!({})).is_ok());
        assert!(check_scope(&json!({"scope": null})).is_ok());
        assert!(check_scope(&json!({"scope": "ReadMessages ReadAccounts"})).is_ok());
        let error = check_scope(&json!({"scope": "ReadAccountsNot"})).unwrap_err();
        assert_eq!((error.fault, error.cause), (Fault::Forbidden, ErrorCause::MissingScope));
        assert!(error.message.contains("ReadAccounts") && error.hint().unwrap().contains("developer portal"));
    }

    #[test]
    fn a_description_is_shown_without_the_secrets_in_it() {
        let body = br#"{"error":"invalid_grant","error_description":"Bad assertion s3cret\n given","errors":[{"errorCode":"OAU-251"}]}"#;
        assert_eq!(vendor_message(body, &["s3cret", ""]).unwrap(), "invalid_grant: Bad assertion [removed] given");
    }
}
