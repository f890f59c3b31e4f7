//! Handles one request, and records its violations of the contract.

mod data_endpoints;
mod login_endpoints;
mod reply;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::{Extension, Router};
use percent_encoding::percent_decode_str;

pub(super) use self::data_endpoints::record_text;
use self::reply::SimulatedReply;
use super::faults::{InjectedFault, OutageKind};
use super::faulty_connection::ConnectionControl;
use super::options::RetryAfterFormat;
use super::rng::Rng;
use super::simulated_tenant::SimulatedAccount;
use super::simulator_state::{SimulatorState, http_date};
use super::token_store::TokenValidity;
use crate::model::Endpoint;

/// The largest accepted request.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// One completely received request.
struct IncomingRequest {
    state: Arc<SimulatorState>,
    connection: ConnectionControl,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// Both variants are replies; `Err` ends the handling early.
type HandlerResult = Result<SimulatedReply, SimulatedReply>;

pub(super) fn router(state: Arc<SimulatorState>) -> Router {
    Router::new().fallback(dispatch).with_state(state)
}

async fn dispatch(
    State(state): State<Arc<SimulatorState>>,
    Extension(connection): Extension<ConnectionControl>,
    request: Request,
) -> Response {
    match state.faults().outage_at(state.now()) {
        Some(OutageKind::Closed) => return SimulatedReply::reset(None, 0).into_response(&state, &connection),
        Some(OutageKind::Unavailable) => {
            return SimulatedReply::text(None, 503, "service unavailable").into_response(&state, &connection);
        }
        None => {}
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST_BYTES).await else {
        return SimulatedReply::text(None, 413, "too large, or broken off").into_response(&state, &connection);
    };
    let incoming =
        IncomingRequest { state, connection, method: parts.method, uri: parts.uri, headers: parts.headers, body };
    incoming.check_headers();
    let reply = match decode_path(incoming.uri.path()) {
        Some(path) => {
            let path: Vec<&str> = path.iter().map(Cow::as_ref).collect();
            incoming.route(&path).await.unwrap_or_else(|early| early)
        }
        None => {
            incoming.record_violation("a path that is not percent-encoded UTF-8");
            SimulatedReply::text(None, 400, "bad path")
        }
    };
    reply.into_response(&incoming.state, &incoming.connection)
}

impl IncomingRequest {
    async fn route(&self, path: &[&str]) -> HandlerResult {
        let get = self.method == Method::GET;
        let post = self.method == Method::POST;
        match path {
            ["restapi", "oauth", "token"] if post => self.handle_rc_token().await,
            ["restapi", "v1.0", "account", "~"] if get => self.handle_rc_account().await,
            ["api", "auth", "login", "rc", "accesstoken"] if post => self.handle_exchange().await,
            ["api", "auth", "token", "refresh"] if post => self.handle_refresh().await,
            ["api", "auth", "login", "admin"] if post => self.handle_engage_login().await,
            ["voice", "api", "v1", "admin", "accounts"] if get => self.handle_accounts().await,
            ["voice", "api", "cx", "integration", "v1", "accounts", rc, "sub-accounts", sub, rest @ ..] => match rest {
                ["interaction-metadata"] if post => self.handle_metadata(rc, sub).await,
                ["transcripts", "dialogs", dialog, "segments", segment] if get => {
                    self.handle_transcript(rc, sub, dialog, segment).await
                }
                ["recordings", "dialogs", dialog, "segments", segment] if get => {
                    self.handle_recording(rc, sub, dialog, segment).await
                }
                _ => self.no_such_endpoint(),
            },
            ["voice", "api", "v1", "summary", "accounts", sub, "segments", segment, which] if get => match *which {
                "agent" => self.handle_summary(sub, segment, Endpoint::AgentSummary).await,
                "auto" => self.handle_summary(sub, segment, Endpoint::AutoSummary).await,
                _ => self.no_such_endpoint(),
            },
            _ => self.no_such_endpoint(),
        }
    }

    fn no_such_endpoint(&self) -> HandlerResult {
        self.record_violation(format!("no such endpoint: {} {}", self.method, self.uri.path()));
        Err(self.error_reply(None, 404, "resource.not.found", "The resource you requested does not exist."))
    }

    fn record_violation(&self, description: impl Into<String>) {
        self.state.stats.record_violation(description);
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The number of the token's login, which identifies the client.
    fn login_number(&self) -> u64 {
        let bearer = self.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let token = bearer.or_else(|| self.header("cookie").and_then(|value| value.strip_prefix("access_token=")));
        token.map_or(0, |token| self.state.tokens.login_number(token))
    }

    fn check_headers(&self) {
        let agent = self.header("user-agent").unwrap_or("");
        let versioned = agent.split_once('/').is_some_and(|(name, version)| {
            !name.is_empty() && version.starts_with(|first: char| first.is_ascii_digit())
        });
        if !versioned {
            self.record_violation(format!("User-Agent does not give name and version: \"{agent}\""));
        }
        for name in ["authorization", "cookie", "x-auth-token"] {
            if self.headers.get_all(name).iter().count() > 1 {
                self.record_violation(format!("more than one header {name}"));
            }
        }
    }

    /// An error in the vendor's form.
    fn error_reply(&self, endpoint: Option<Endpoint>, status: u16, code: &str, message: &str) -> SimulatedReply {
        let body = serde_json::json!({
            "errorCode": code,
            "generalMessage": message,
            "developerMessage": message,
            "details": "",
            "requestUri": format!("{} - {}", self.uri.path(), self.method),
            "timestamp": self.state.now().0,
        });
        SimulatedReply::json(endpoint, status, body.to_string())
    }

    fn count_request(&self, endpoint: Endpoint) {
        *self.state.stats.lock().requests.entry(endpoint).or_default() += 1;
    }

    /// A refusal because of a limit.
    fn rate_limited_reply(&self, endpoint: Endpoint, wait: Duration) -> SimulatedReply {
        let reply = self.error_reply(Some(endpoint), 429, "request.rate.exceeded", "Request rate exceeded");
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        match self.state.options.limits.retry_after {
            RetryAfterFormat::Seconds => reply.with_header("retry-after", seconds.to_string()),
            RetryAfterFormat::HttpDate => {
                // A date has whole seconds: one more, so that it is never too early.
                let when = self.state.now() + Duration::from_secs(seconds + 1);
                reply.with_header("retry-after", http_date(when))
            }
            RetryAfterFormat::Absent => reply,
        }
    }

    /// Finds the account and counts the request against its limits.
    fn admit_to_account(
        &self,
        endpoint: Endpoint,
        rc: Option<&str>,
        sub: &str,
    ) -> Result<Arc<SimulatedAccount>, SimulatedReply> {
        self.count_request(endpoint);
        let known = self.state.tenant.account(sub);
        let Some(account) = known.filter(|account| rc.is_none_or(|rc| &*account.id.rc == rc)) else {
            self.record_violation(format!("{endpoint}: no such account: {}/{sub}", rc.unwrap_or("-")));
            return Err(self.not_found_reply(endpoint));
        };
        if let Err(wait) = self.state.admit_to_account(&account, endpoint == Endpoint::Metadata, self.login_number()) {
            *self.state.stats.lock().refused.entry(endpoint).or_default() += 1;
            return Err(self.rate_limited_reply(endpoint, wait));
        }
        Ok(account)
    }

    fn not_found_reply(&self, endpoint: Endpoint) -> SimulatedReply {
        self.error_reply(Some(endpoint), 404, "resource.not.found", "The resource you requested does not exist.")
    }

    /// Injects a fault into a request. [`SimulatedReply::apply_fault`] does the part that concerns
    /// the answer.
    async fn inject_fault(
        &self,
        endpoint: Endpoint,
        fault: InjectedFault,
        rng: &mut Rng,
    ) -> Result<(), SimulatedReply> {
        if !self.state.options.latency.is_zero() {
            self.state.clock.sleep(self.state.options.latency).await;
        }
        match fault {
            InjectedFault::Status(status) => Err(self.server_error_reply(endpoint, status, rng)),
            InjectedFault::Reset(after) => Err(SimulatedReply::reset(Some(endpoint), after)),
            InjectedFault::NotFound => Err(self.not_found_reply(endpoint)),
            InjectedFault::TooMany => Err(self.rate_limited_reply(endpoint, Duration::from_secs(1))),
            InjectedFault::Unauthorised => Err(SimulatedReply::text(Some(endpoint), 401, "Jwt is expired")),
            InjectedFault::Slow(delay) => {
                self.state.clock.sleep(delay).await;
                Ok(())
            }
            InjectedFault::None | InjectedFault::Truncate | InjectedFault::Malformed | InjectedFault::ErrorCode => {
                Ok(())
            }
        }
    }

    /// A server error in one of several forms.
    fn server_error_reply(&self, endpoint: Endpoint, status: u16, rng: &mut Rng) -> SimulatedReply {
        let reply = match rng.random_below(4) {
            0 => self.error_reply(Some(endpoint), status, "internal.error", "An Internal Server Error occurred"),
            1 => SimulatedReply::json(Some(endpoint), status, "{\"generalMessage\":null}"),
            2 => SimulatedReply::html(Some(endpoint), status, "<html><h1>Bad Gateway</h1></html>"),
            _ => SimulatedReply::text(Some(endpoint), status, ""),
        };
        if status == 503 && rng.random_bool(0.5) { reply.with_header("retry-after", "1".into()) } else { reply }
    }

    fn unauthorised_reply(&self, endpoint: Endpoint, why: &'static str) -> SimulatedReply {
        SimulatedReply::text(Some(endpoint), 401, why)
    }

    /// Checks the token in `Authorization` or `X-Auth-Token`.
    fn check_bearer(&self, endpoint: Endpoint) -> Result<(), SimulatedReply> {
        let bearer = self.header("authorization");
        match (bearer, self.header("x-auth-token")) {
            (Some(_), Some(_)) => {
                self.record_violation(format!("{endpoint}: both Authorization and X-Auth-Token"));
                Err(self.unauthorised_reply(endpoint, "Jwt is not in the form of Header.Payload.Signature"))
            }
            (None, Some(token)) => self.check_permanent_token(endpoint, token),
            (Some(bearer), None) => match bearer.strip_prefix("Bearer ") {
                Some(token) => {
                    if self.state.tokens.validity(token, self.state.clock.tick()) == TokenValidity::Unknown {
                        self.record_violation(format!("{endpoint}: a token that was never issued"));
                    }
                    self.check_access_token(endpoint, token)
                }
                None => {
                    self.record_violation(format!("{endpoint}: Authorization is not Bearer"));
                    Err(self.unauthorised_reply(endpoint, "Jwt is missing"))
                }
            },
            (None, None) => {
                self.record_violation(format!("{endpoint}: no token"));
                Err(self.unauthorised_reply(endpoint, "Jwt is missing"))
            }
        }
    }

    /// Checks the token in the cookie, the only one that summaries accept.
    fn check_cookie(&self, endpoint: Endpoint) -> Result<(), SimulatedReply> {
        for name in ["authorization", "x-auth-token"] {
            if self.headers.contains_key(name) {
                self.record_violation(format!("{endpoint}: a header {name}"));
                return Err(self.unauthorised_reply(endpoint, "Unauthorized"));
            }
        }
        if self.connection.take_capital_cookie() {
            self.record_violation(format!("{endpoint}: the cookie header is not lowercase"));
            return Err(self.unauthorised_reply(endpoint, "Unauthorized"));
        }
        let Some(token) = self.header("cookie").and_then(|cookie| cookie.strip_prefix("access_token=")) else {
            self.record_violation(format!("{endpoint}: no cookie with access_token alone"));
            return Err(self.unauthorised_reply(endpoint, "Unauthorized"));
        };
        let permanent = token == self.state.credentials().api_token;
        if permanent { self.check_permanent_token(endpoint, token) } else { self.check_access_token(endpoint, token) }
    }

    fn check_permanent_token(&self, endpoint: Endpoint, token: &str) -> Result<(), SimulatedReply> {
        let refused = self.state.refuse_tokens.load(Ordering::Relaxed);
        if !refused && token == self.state.credentials().api_token {
            return Ok(());
        }
        Err(self.unauthorised_reply(endpoint, "Invalid token"))
    }

    fn check_access_token(&self, endpoint: Endpoint, token: &str) -> Result<(), SimulatedReply> {
        if self.state.refuse_tokens.load(Ordering::Relaxed) {
            return Err(self.unauthorised_reply(endpoint, "Jwt issuer is not configured"));
        }
        match self.state.tokens.validity(token, self.state.clock.tick()) {
            TokenValidity::Valid => Ok(()),
            TokenValidity::Expired => Err(self.unauthorised_reply(endpoint, "Jwt is expired")),
            TokenValidity::Revoked | TokenValidity::Unknown => {
                Err(self.unauthorised_reply(endpoint, "Jwt verification fails"))
            }
        }
    }

    fn check_permission(
        &self,
        endpoint: Endpoint,
        account: &SimulatedAccount,
        segment: Option<&str>,
    ) -> Result<(), SimulatedReply> {
        let forbidden = self.state.faults().is_forbidden(endpoint, &account.id.sub, segment);
        if !forbidden && !self.state.is_hidden(account) {
            return Ok(());
        }
        let message = "You do not have permission to access this resource";
        Err(self.error_reply(Some(endpoint), 403, "access.denied.exception", message))
    }
}

/// Decodes the parts of a path separately, so that an encoded slash stays within its part.
fn decode_path(path: &str) -> Option<Vec<Cow<'_, str>>> {
    path.strip_prefix('/')?.split('/').map(|part| percent_decode_str(part).decode_utf8().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_part_by_part() {
        assert_eq!(decode_path("/a%2Fb/%25/c+d").unwrap(), ["a/b", "%", "c+d"]);
        assert_eq!(decode_path("/%ff"), None, "not UTF-8");
    }
}
