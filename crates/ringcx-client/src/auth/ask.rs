//! The requests of a login, and what their answers mean.
//!
//! The only place that puts a secret into a request's body or URL. An Engage login has the password in its URL: nothing
//! here shows an URL, and whatever text of an answer is shown has the credentials cut out of it.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::backoff::Fault;
use crate::clock::Tick;
use crate::error::{ApiError, Cause, sane_code, vendor_code};
use crate::limits::Budget;
use crate::model::Endpoint;

use super::flow::RcToken;
use super::{Credentials, Login};

/// The largest answer to a login; `agentDetails` can be long.
const CAP: usize = 16 * 1024 * 1024;
/// The scope without which RingCX takes no RingCentral token (contract.md, Authentication 1).
const SCOPE: &str = "ReadAccounts";

/// What a login gave.
pub(super) struct Granted {
    pub(super) access: SecretString,
    pub(super) refresh: Option<SecretString>,
    /// When it was asked for: its life is counted from there.
    pub(super) asked: Tick,
}

/// Which part of a login a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    RingCentral,
    Exchange,
    Refresh,
    Engage,
}

impl Step {
    fn purpose(self) -> &'static str {
        match self {
            Step::RingCentral => "log in to RingCentral",
            Step::Exchange => "exchange the RingCentral token for a RingCX token",
            Step::Refresh => "refresh the RingCX token",
            Step::Engage => "log in to RingCX",
        }
    }

    /// A redirect: the setting that names the host.
    fn moved(self) -> &'static str {
        match self {
            Step::RingCentral => {
                "if that host is RingCentral's, set api.platform_url to it (https:// and the host) and restart"
            }
            _ => "if that host is RingCentral's, set api.ringcx_url to it (https:// and the host) and restart",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Step::RingCentral => {
                "check auth.client_id, auth.client_secret and auth.jwt: in the RingCentral developer portal, the app's \
                 Credentials page has the first two, your name's menu, Credentials, the JWT (which must be for this app and \
                 for the same environment)"
            }
            Step::Exchange | Step::Refresh => {
                "the RingCentral user needs access to RingCX: give it a RingCX admin role in the RingCX admin portal, \
                 under Users, and check that api.ringcx_url is of the account's region"
            }
            Step::Engage => {
                "check auth.username, auth.password and auth.platform_id: those with which the user logs in to the RingCX admin \
                 portal itself, without single sign-on"
            }
        }
    }
}

impl Login {
    /// Step 1: a RingCentral token for the JWT credential. It is limited: the send is reserved first.
    pub(super) async fn ask_ringcentral(&self, credentials: &Credentials) -> Result<RcToken, ApiError> {
        let Credentials::RingCentral { client_id, client_secret, jwt } = credentials else {
            let why = "this login has no RingCentral account";
            return Err(ApiError::new(Fault::Permanent, Endpoint::Login, Cause::Settings, why)
                .with_hint("set rc_account_id in [[accounts]], or log in with auth.client_id, client_secret and jwt"));
        };
        let url = format!("{}/restapi/oauth/token", self.api().hosts().platform);
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", jwt.expose_secret())];
        let request = self.api().client().post(url).form(&form);
        let request = request.basic_auth(client_id, Some(client_secret.expose_secret()));
        let secrets = [client_secret.expose_secret(), jwt.expose_secret()];
        let (asked, answer) = self.ask_counted(&self.0.tokens, Step::RingCentral, request, &secrets).await?;
        check_scope(&answer)?;
        let life = number(&answer["expires_in"]).unwrap_or(3600.0).clamp(0.0, 1e7);
        // A tenth, or a minute, before its end it is no longer begun with.
        let life = Duration::from_secs_f64((life * 0.9).max(life - 60.0));
        Ok(RcToken {
            secret: secret(&answer, "access_token", Step::RingCentral)?,
            asked,
            until: asked + life,
            accepted: false,
        })
    }

    /// Step 2, which is limited: the send is reserved first.
    pub(super) async fn ask_exchange(&self, rc: &RcToken) -> Result<Granted, ApiError> {
        let url = format!("{}/api/auth/login/rc/accesstoken?includeRefresh=true", self.api().hosts().ringcx);
        let form = [("rcAccessToken", rc.secret.expose_secret()), ("rcTokenType", "Bearer")];
        let request = self.api().client().post(url).form(&form);
        let secrets = [rc.secret.expose_secret()];
        let (asked, answer) = self.ask_counted(&self.0.exchanges, Step::Exchange, request, &secrets).await?;
        granted(&answer, asked, Step::Exchange)
    }

    /// Step 3.
    pub(super) async fn ask_refresh(&self, refresh: &SecretString) -> Result<Granted, ApiError> {
        let url = format!("{}/api/auth/token/refresh", self.api().hosts().ringcx);
        let request = self.api().client().post(url).form(&[("refresh_token", refresh.expose_secret())]);
        let asked = self.clock().tick();
        let sent = self.api().send(Endpoint::Login, request).await;
        let answer = self.read(Step::Refresh, sent, &[refresh.expose_secret()]).await?;
        granted(&answer, asked, Step::Refresh)
    }

    /// Step 4, which counts as an exchange.
    pub(super) async fn ask_engage(
        &self,
        username: &str,
        password: &SecretString,
        platform_id: &str,
    ) -> Result<Granted, ApiError> {
        let url = format!("{}/api/auth/login/admin", self.api().hosts().ringcx);
        let password = password.expose_secret();
        let query = [("username", username), ("password", password), ("platformId", platform_id)];
        let request = self.api().client().post(url).query(&query);
        let secrets = [password, username];
        let (asked, answer) = self.ask_counted(&self.0.exchanges, Step::Engage, request, &secrets).await?;
        granted(&answer, asked, Step::Engage)
    }

    /// Sends once there is room in the budget; the answer, and when it was asked for.
    async fn ask_counted(
        &self,
        budget: &Budget,
        step: Step,
        request: RequestBuilder,
        secrets: &[&str],
    ) -> Result<(Tick, Value), ApiError> {
        let reserved = budget.reserve().await;
        let reserved = reserved.map_err(|error| ApiError::store(Endpoint::Login, error))?;
        let asked = self.clock().tick();
        let sent = self.api().send(Endpoint::Login, request).await;
        reserved.counted().await;
        Ok((asked, self.read(step, sent, secrets).await?))
    }

    async fn read(
        &self,
        step: Step,
        sent: Result<crate::call::Answer, ApiError>,
        secrets: &[&str],
    ) -> Result<Value, ApiError> {
        let answer = sent.map_err(|error| of_step(error, step))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes(CAP).await;
        if !status.is_success() {
            let body = body.unwrap_or_default();
            let now = self.api().api_now();
            let error = ApiError::answered(Endpoint::Login, status, &headers, &body, now);
            return Err(refused(error, step, status, &body, secrets));
        }
        let body = body.map_err(|error| of_step(error, step))?;
        serde_json::from_slice(&body).map_err(|_| undecodable(step, "it is not JSON"))
    }
}

fn granted(answer: &Value, asked: Tick, step: Step) -> Result<Granted, ApiError> {
    let access = secret(answer, "accessToken", step)?;
    Ok(Granted { access, refresh: secret(answer, "refreshToken", step).ok(), asked })
}

fn secret(answer: &Value, key: &str, step: Step) -> Result<SecretString, ApiError> {
    match answer.get(key).and_then(Value::as_str).map(str::trim) {
        Some(text) if !text.is_empty() => Ok(SecretString::from(text)),
        _ => Err(undecodable(step, "it holds no token")),
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number| number.is_finite())
}

/// Where the answer names its scopes, the one that RingCX asks for must be among them.
fn check_scope(answer: &Value) -> Result<(), ApiError> {
    let Some(scope) = answer.get("scope").and_then(Value::as_str) else { return Ok(()) };
    if scope.split([' ', ',']).any(|one| one == SCOPE) {
        return Ok(());
    }
    let why = "the RingCentral app lacks the scope ReadAccounts";
    Err(ApiError::new(Fault::Forbidden, Endpoint::Login, Cause::Settings, why).with_hint(
        "in the RingCentral developer portal open the app, Settings, App permissions (OAuth scopes), add Read Accounts, \
         save, and log in again",
    ))
}

fn undecodable(step: Step, why: &str) -> ApiError {
    of_step(ApiError::undecodable(Endpoint::Login, why), step)
}

/// The same error, said of one step of the login.
fn of_step(error: ApiError, step: Step) -> ApiError {
    let message = error.message.replacen("failed to log in", &format!("failed to {}", step.purpose()), 1);
    error.saying(message)
}

/// A refused login in the vendor's own words, as far as they hold no secret.
fn refused(error: ApiError, step: Step, status: StatusCode, body: &[u8], secrets: &[&str]) -> ApiError {
    let mut error = of_step(error, step);
    if error.cause == Cause::Outage {
        return error;
    }
    if status.is_redirection() {
        return error.with_hint(step.moved());
    }
    if status == StatusCode::NOT_FOUND {
        // Nothing is awaited here: the path does not exist on that host.
        error.fault = Fault::Permanent;
        return error.with_hint("check api.platform_url and api.ringcx_url");
    }
    if let Some(words) = words(body, secrets) {
        let message = format!("{}: {words}", error.message);
        error = error.saying(message);
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

/// OAuth's `error` and `error_description` without anything secret in them.
fn words(body: &[u8], secrets: &[&str]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    // The code is in the message already unless the vendor's own took its place.
    let code = answer.get("error").and_then(sane_code).filter(|code| vendor_code(body).as_ref() != Some(code));
    let description = answer.get("error_description").and_then(Value::as_str).map(str::trim);
    let description = description.filter(|text| !text.is_empty()).map(|text| plain(text, secrets));
    match (code, description) {
        (Some(code), Some(description)) => Some(format!("{code}: {description}")),
        (code, description) => code.or(description),
    }
}

fn plain(text: &str, secrets: &[&str]) -> String {
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
    fn the_scope_is_asked_for_only_where_scopes_are_named() {
        assert!(check_scope(&json!({})).is_ok());
        assert!(check_scope(&json!({"scope": null})).is_ok());
        assert!(check_scope(&json!({"scope": "ReadMessages ReadAccounts"})).is_ok());
        let error = check_scope(&json!({"scope": "ReadAccountsNot"})).unwrap_err();
        assert_eq!(error.fault, Fault::Forbidden);
        assert!(error.message.contains("ReadAccounts") && error.hint().unwrap().contains("developer portal"));
    }

    #[test]
    fn a_description_is_shown_without_the_secrets_in_it() {
        let body = br#"{"error":"invalid_grant","error_description":"Bad assertion s3cret\n given","errors":[{"errorCode":"OAU-251"}]}"#;
        assert_eq!(words(body, &["s3cret", ""]).unwrap(), "invalid_grant: Bad assertion [removed] given");
    }
}
