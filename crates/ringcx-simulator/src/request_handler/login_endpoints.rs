//! The login endpoints: RingCentral token and exchange, Engage login, refresh.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::data_endpoints::has_required_scope;
use super::reply::SimulatedReply;
use super::{HandlerResult, IncomingRequest};
use crate::faults::InjectedFault;
use crate::model::Endpoint;
use crate::rng::Rng;
use crate::token_store::{RefreshError, TokenValidity};

const LOGIN: Endpoint = Endpoint::Login;
const JWT_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The fields of a form or a query.
type FormFields<'a> = HashMap<Cow<'a, str>, Cow<'a, str>>;

fn form_field<'a>(form: &'a FormFields<'_>, name: &str) -> &'a str {
    form.get(name).map_or("", Cow::as_ref)
}

impl IncomingRequest {
    /// Parses the body as a form; anything else is a violation.
    fn parse_form_body(&self) -> Result<FormFields<'_>, SimulatedReply> {
        let media = self.header("content-type").unwrap_or("");
        if media.starts_with("application/x-www-form-urlencoded") {
            return Ok(form_urlencoded::parse(&self.body).collect());
        }
        self.record_violation(format!("login: the body is no form (content type \"{media}\")"));
        Err(self.error_reply(Some(LOGIN), 415, "bad.request", "Unsupported media type"))
    }

    fn parse_query(&self) -> FormFields<'_> {
        form_urlencoded::parse(self.uri.query().unwrap_or_default().as_bytes()).collect()
    }

    async fn inject_login_fault(&self) -> Result<(InjectedFault, Rng), SimulatedReply> {
        let (fault, mut rng) = self.state.draw_fault(LOGIN, 0);
        self.inject_fault(LOGIN, fault, &mut rng).await?;
        Ok((fault, rng))
    }

    /// Step 1: issues the RingCentral token.
    pub(super) async fn handle_rc_token(&self) -> HandlerResult {
        self.count_request(LOGIN);
        let (fault, mut rng) = self.inject_login_fault().await?;
        let form = self.parse_form_body()?;
        let accepted = self.state.credentials();
        let expected = STANDARD.encode(format!("{}:{}", accepted.client_id, accepted.client_secret));
        if self.header("authorization").and_then(|value| value.strip_prefix("Basic ")) != Some(&expected) {
            return Err(oauth_error_reply(401, "invalid_client", "Invalid client: client_id or secret", "OAU-153"));
        }
        let now = self.state.clock.tick();
        let issued = match form_field(&form, "grant_type") {
            JWT_GRANT if form_field(&form, "assertion") == accepted.jwt => Some(self.state.tokens.issue_rc(now)),
            "refresh_token" => self.state.tokens.rotate_rc(form_field(&form, "refresh_token"), now),
            JWT_GRANT => None,
            other => {
                self.record_violation(format!("login: grant_type \"{other}\""));
                return Err(oauth_error_reply(400, "unsupported_grant_type", "Unsupported grant type", "OAU-250"));
            }
        };
        let Some((token, refresh)) = issued else {
            return Err(oauth_error_reply(400, "invalid_grant", "Token not found", "OAU-213"));
        };
        self.state.stats.lock().rc_logins += 1;
        let lifetime = self.state.options.tokens.rc_lifetime.as_secs();
        let body = serde_json::json!({
            "access_token": token,
            "token_type": "bearer",
            "expires_in": lifetime,
            "refresh_token": refresh,
            "refresh_token_expires_in": lifetime * 24,
            "scope": self.state.options.tokens.scope,
            "owner_id": "665127314",
            "endpoint_id": "sim",
        });
        Ok(SimulatedReply::json(Some(LOGIN), 200, body.to_string()).apply_fault(fault, &mut rng))
    }

    /// Counts against the limit of exchanges.
    fn admit_exchange(&self) -> Result<(), SimulatedReply> {
        self.state.admit_exchange().map_err(|wait| {
            *self.state.stats.lock().refused.entry(LOGIN).or_default() += 1;
            self.rate_limited_reply(LOGIN, wait)
        })
    }

    /// Step 2: exchanges it for the RingCX token.
    pub(super) async fn handle_exchange(&self) -> HandlerResult {
        self.count_request(LOGIN);
        self.admit_exchange()?;
        let (fault, mut rng) = self.inject_login_fault().await?;
        let (query, form) = (self.parse_query(), self.parse_form_body()?);
        if query.keys().any(|name| name.starts_with("rc")) {
            self.record_violation("exchange: a token in the URL");
            return Err(self.unauthorised_reply(LOGIN, "Unauthorized"));
        }
        if form_field(&form, "rcTokenType") != "Bearer" {
            self.record_violation("exchange: rcTokenType is not Bearer");
            return Err(self.unauthorised_reply(LOGIN, "Unauthorized"));
        }
        match self.state.tokens.rc_validity(form_field(&form, "rcAccessToken"), self.state.clock.tick()) {
            TokenValidity::Valid if !has_required_scope(&self.state.options.tokens) => {
                Err(self.error_reply(Some(LOGIN), 403, "access.denied.exception", "Missing permission ReadAccounts"))
            }
            TokenValidity::Valid => {
                Ok(self.grant_tokens(form_field(&query, "includeRefresh") == "true").apply_fault(fault, &mut rng))
            }
            validity => {
                if validity == TokenValidity::Unknown {
                    self.record_violation("exchange: a token that was never issued");
                }
                Err(self.unauthorised_reply(LOGIN, "Unauthorized"))
            }
        }
    }

    /// The Engage login, without RingCentral.
    pub(super) async fn handle_engage_login(&self) -> HandlerResult {
        self.count_request(LOGIN);
        self.admit_exchange()?;
        let (fault, mut rng) = self.inject_login_fault().await?;
        let (query, accepted) = (self.parse_query(), self.state.credentials());
        let good = form_field(&query, "username") == accepted.username
            && form_field(&query, "password") == accepted.password
            && form_field(&query, "platformId") == accepted.platform_id;
        if !good {
            return Err(self.error_reply(Some(LOGIN), 401, "unauthorized", "Invalid username or password"));
        }
        // The contract promises the same answer as the exchange, refresh token included.
        Ok(self.grant_tokens(true).apply_fault(fault, &mut rng))
    }

    fn grant_tokens(&self, with_refresh: bool) -> SimulatedReply {
        let (now, wall) = (self.state.clock.tick(), self.state.now());
        let (access, refresh) = self.state.tokens.issue(now, wall, with_refresh);
        self.state.stats.lock().exchanges += 1;
        SimulatedReply::json(Some(LOGIN), 200, token_body(&access, refresh.as_deref()))
    }

    /// Step 3: issues new tokens for a refresh token, which is spent even if the answer is lost.
    pub(super) async fn handle_refresh(&self) -> HandlerResult {
        self.count_request(LOGIN);
        let (fault, mut rng) = self.state.draw_fault(LOGIN, 0);
        let is_lost = match fault {
            InjectedFault::Truncate | InjectedFault::Malformed | InjectedFault::Slow(_) => true,
            InjectedFault::Status(_) | InjectedFault::Reset(_) => rng.random_bool(0.5),
            _ => false,
        };
        if !is_lost {
            self.inject_fault(LOGIN, fault, &mut rng).await?;
        }
        let form = self.parse_form_body()?;
        let (now, wall) = (self.state.clock.tick(), self.state.now());
        let rotated = self.state.tokens.rotate(form_field(&form, "refresh_token"), now, wall, !is_lost);
        if is_lost {
            self.inject_fault(LOGIN, fault, &mut rng).await?;
        }
        match rotated {
            Ok((access, refresh)) => {
                self.state.stats.lock().refreshes += 1;
                let body = token_body(&access, refresh.as_deref());
                Ok(SimulatedReply::json(Some(LOGIN), 200, body).apply_fault(fault, &mut rng))
            }
            Err(why) => {
                match why {
                    RefreshError::Spent { answered: true } => self.record_violation("refresh token reused"),
                    RefreshError::Unknown => self.record_violation("refresh: a token that was never issued"),
                    RefreshError::Spent { .. } | RefreshError::Expired => {}
                }
                Err(self.unauthorised_reply(LOGIN, "Refresh token is not valid"))
            }
        }
    }

    /// Checks the RingCentral token in `Authorization`.
    pub(super) fn check_rc_token(&self, endpoint: Endpoint) -> Result<(), SimulatedReply> {
        let token = self.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        match token.map(|token| self.state.tokens.rc_validity(token, self.state.clock.tick())) {
            Some(TokenValidity::Valid) => Ok(()),
            Some(_) => Err(self.error_reply(Some(endpoint), 401, "TokenExpired", "Access token expired")),
            None => {
                self.record_violation(format!("{endpoint}: no RingCentral token"));
                Err(self.error_reply(Some(endpoint), 401, "AGW-402", "Invalid Authorization header"))
            }
        }
    }
}

fn token_body(access: &str, refresh: Option<&str>) -> String {
    let mut body = serde_json::json!({
        "accessToken": access,
        "tokenType": "Bearer",
        "mainAccountId": "1000017",
        "platformId": "sim",
        "adminId": 17,
        "ssoLogin": true,
        "port": 443,
        "agentDetails": [],
    });
    if let Some(refresh) = refresh {
        body["refreshToken"] = refresh.into();
    }
    body.to_string()
}

fn oauth_error_reply(status: u16, error: &str, description: &str, code: &str) -> SimulatedReply {
    let body = serde_json::json!({
        "error": error,
        "error_description": description,
        "errors": [{ "errorCode": code, "message": description }],
    });
    SimulatedReply::json(Some(LOGIN), status, body.to_string())
}
