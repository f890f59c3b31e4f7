//! One request: from the connection to an answer, and every breach of good manners noted on the way.

mod data;
mod login;
mod reply;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::{Extension, Router};

pub(super) use self::data::record_text;
use self::reply::Reply;
use super::chance::Dice;
use super::faults::{Fate, OutageKind};
use super::options::RetryAfter;
use super::shared::{Shared, http_date};
use super::tokens::Worth;
use super::wire::Conn;
use super::world::Account;
use crate::model::Endpoint;

/// No request is larger than this.
const LARGEST_REQUEST: usize = 1 << 20;

/// One request that has come in whole.
struct Call {
    shared: Arc<Shared>,
    conn: Conn,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// Either is an answer; `Err` is one that ends the matter early.
type Flow = Result<Reply, Reply>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(dispatch).with_state(shared)
}

async fn dispatch(State(shared): State<Arc<Shared>>, Extension(conn): Extension<Conn>, request: Request) -> Response {
    match shared.faults().outage(shared.now()) {
        Some(OutageKind::Closed) => return Reply::reset(None, 0).into_response(&shared, &conn),
        Some(OutageKind::Unavailable) => {
            return Reply::text(None, 503, "service unavailable").into_response(&shared, &conn);
        }
        None => {}
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_REQUEST).await else {
        return Reply::text(None, 413, "too large, or broken off").into_response(&shared, &conn);
    };
    let call = Call { shared, conn, method: parts.method, uri: parts.uri, headers: parts.headers, body };
    call.check_manners();
    let reply = match decode_path(call.uri.path()) {
        Some(path) => {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            call.route(&path).await.unwrap_or_else(|early| early)
        }
        None => {
            call.violation("a path that is not percent-encoded UTF-8");
            Reply::text(None, 400, "bad path")
        }
    };
    reply.into_response(&call.shared, &call.conn)
}

impl Call {
    async fn route(&self, path: &[&str]) -> Flow {
        let get = self.method == Method::GET;
        let post = self.method == Method::POST;
        match path {
            ["restapi", "oauth", "token"] if post => self.rc_token().await,
            ["restapi", "v1.0", "account", "~"] if get => self.rc_account().await,
            ["api", "auth", "login", "rc", "accesstoken"] if post => self.exchange().await,
            ["api", "auth", "token", "refresh"] if post => self.refresh().await,
            ["api", "auth", "login", "admin"] if post => self.engage_login().await,
            ["voice", "api", "v1", "admin", "accounts"] if get => self.accounts().await,
            ["voice", "api", "cx", "integration", "v1", "accounts", rc, "sub-accounts", sub, rest @ ..] => match rest {
                ["interaction-metadata"] if post => self.metadata(rc, sub).await,
                ["transcripts", "dialogs", dialog, "segments", segment] if get => {
                    self.transcript(rc, sub, dialog, segment).await
                }
                _ => self.nowhere(),
            },
            ["voice", "api", "v1", "summary", "accounts", sub, "segments", segment, which] if get => match *which {
                "agent" => self.summary(sub, segment, Endpoint::AgentSummary).await,
                "auto" => self.summary(sub, segment, Endpoint::AutoSummary).await,
                _ => self.nowhere(),
            },
            _ => self.nowhere(),
        }
    }

    fn nowhere(&self) -> Flow {
        self.violation(format!("no such endpoint: {} {}", self.method, self.uri.path()));
        Err(self.error(None, 404, "resource.not.found", "The resource you requested does not exist."))
    }

    fn violation(&self, what: impl Into<String>) {
        self.shared.stats.violation(what);
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Which login the token goes back to: whoever it is that asks.
    fn login(&self) -> u64 {
        let bearer = self.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let token = bearer.or_else(|| self.header("cookie").and_then(|value| value.strip_prefix("access_token=")));
        token.map_or(0, |token| self.shared.tokens.login(token))
    }

    fn check_manners(&self) {
        let agent = self.header("user-agent").unwrap_or("");
        let versioned = agent.split_once('/').is_some_and(|(name, version)| {
            !name.is_empty() && version.starts_with(|first: char| first.is_ascii_digit())
        });
        if !versioned {
            self.violation(format!("User-Agent does not give name and version: \"{agent}\""));
        }
        for name in ["authorization", "cookie", "x-auth-token"] {
            if self.headers.get_all(name).iter().count() > 1 {
                self.violation(format!("more than one header {name}"));
            }
        }
    }

    /// An error as the vendor words it.
    fn error(&self, endpoint: Option<Endpoint>, status: u16, code: &str, message: &str) -> Reply {
        let body = serde_json::json!({
            "errorCode": code,
            "generalMessage": message,
            "developerMessage": message,
            "details": "",
            "requestUri": format!("{} - {}", self.uri.path(), self.method),
            "timestamp": self.shared.now().0,
        });
        Reply::json(endpoint, status, body.to_string())
    }

    fn arrived(&self, endpoint: Endpoint) {
        *self.shared.stats.lock().requests.entry(endpoint).or_default() += 1;
    }

    /// A refusal for want of room.
    fn too_many(&self, endpoint: Endpoint, wait: Duration) -> Reply {
        let reply = self.error(Some(endpoint), 429, "request.rate.exceeded", "Request rate exceeded");
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        match self.shared.options.limits.retry_after {
            RetryAfter::Seconds => reply.with("retry-after", seconds.to_string()),
            RetryAfter::HttpDate => {
                // Whole seconds: one more, so that it is never too early.
                let when = self.shared.now() + Duration::from_secs(seconds + 1);
                reply.with("retry-after", http_date(when))
            }
            RetryAfter::Absent => reply,
        }
    }

    /// Finds the account and counts the request into its budget.
    fn account(&self, endpoint: Endpoint, rc: Option<&str>, sub: &str) -> Result<Arc<Account>, Reply> {
        self.arrived(endpoint);
        let known = self.shared.world.account(sub);
        let Some(account) = known.filter(|account| rc.is_none_or(|rc| &*account.id.rc == rc)) else {
            self.violation(format!("{endpoint}: no such account: {}/{sub}", rc.unwrap_or("-")));
            return Err(self.not_found(endpoint));
        };
        if let Err(wait) = self.shared.admit(&account, endpoint == Endpoint::Metadata, self.login()) {
            *self.shared.stats.lock().refused.entry(endpoint).or_default() += 1;
            return Err(self.too_many(endpoint, wait));
        }
        Ok(account)
    }

    fn not_found(&self, endpoint: Endpoint) -> Reply {
        self.error(Some(endpoint), 404, "resource.not.found", "The resource you requested does not exist.")
    }

    /// Lets a request meet its fate; what remains to be done to the answer is left to [`Reply::suffer`].
    async fn endure(&self, endpoint: Endpoint, fate: Fate, dice: &mut Dice) -> Result<(), Reply> {
        if !self.shared.options.latency.is_zero() {
            self.shared.clock.sleep(self.shared.options.latency).await;
        }
        match fate {
            Fate::Status(status) => Err(self.broken(endpoint, status, dice)),
            Fate::Reset(after) => Err(Reply::reset(Some(endpoint), after)),
            Fate::NotFound => Err(self.not_found(endpoint)),
            Fate::TooMany => Err(self.too_many(endpoint, Duration::from_secs(1))),
            Fate::Unauthorised => Err(Reply::text(Some(endpoint), 401, "Jwt is expired")),
            Fate::Slow(delay) => {
                self.shared.clock.sleep(delay).await;
                Ok(())
            }
            Fate::None | Fate::Truncate | Fate::Malformed | Fate::ErrorCode => Ok(()),
        }
    }

    /// A server that failed, in one of the ways that servers have.
    fn broken(&self, endpoint: Endpoint, status: u16, dice: &mut Dice) -> Reply {
        let reply = match dice.below(4) {
            0 => self.error(Some(endpoint), status, "internal.error", "An Internal Server Error occurred"),
            1 => Reply::json(Some(endpoint), status, "{\"generalMessage\":null}"),
            2 => Reply::html(Some(endpoint), status, "<html><h1>Bad Gateway</h1></html>"),
            _ => Reply::text(Some(endpoint), status, ""),
        };
        if status == 503 && dice.hit(0.5) { reply.with("retry-after", "1".into()) } else { reply }
    }

    fn unauthorised(&self, endpoint: Endpoint, why: &'static str) -> Reply {
        Reply::text(Some(endpoint), 401, why)
    }

    /// Looks at the token in `Authorization` or `X-Auth-Token`.
    fn check_bearer(&self, endpoint: Endpoint) -> Result<(), Reply> {
        let bearer = self.header("authorization");
        match (bearer, self.header("x-auth-token")) {
            (Some(_), Some(_)) => {
                self.violation(format!("{endpoint}: both Authorization and X-Auth-Token"));
                Err(self.unauthorised(endpoint, "Jwt is not in the form of Header.Payload.Signature"))
            }
            (None, Some(token)) => self.check_permanent(endpoint, token),
            (Some(bearer), None) => match bearer.strip_prefix("Bearer ") {
                Some(token) => {
                    if self.shared.tokens.worth(token, self.shared.clock.tick()) == Worth::Unknown {
                        self.violation(format!("{endpoint}: a token that was never issued"));
                    }
                    self.check_token(endpoint, token)
                }
                None => {
                    self.violation(format!("{endpoint}: Authorization is not Bearer"));
                    Err(self.unauthorised(endpoint, "Jwt is missing"))
                }
            },
            (None, None) => {
                self.violation(format!("{endpoint}: no token"));
                Err(self.unauthorised(endpoint, "Jwt is missing"))
            }
        }
    }

    /// Looks at the token in the cookie, which summaries want, and at nothing else.
    fn check_cookie(&self, endpoint: Endpoint) -> Result<(), Reply> {
        for name in ["authorization", "x-auth-token"] {
            if self.headers.contains_key(name) {
                self.violation(format!("{endpoint}: a header {name}"));
                return Err(self.unauthorised(endpoint, "Unauthorized"));
            }
        }
        if self.conn.take_capital_cookie() {
            self.violation(format!("{endpoint}: the cookie header is not lowercase"));
            return Err(self.unauthorised(endpoint, "Unauthorized"));
        }
        let Some(token) = self.header("cookie").and_then(|cookie| cookie.strip_prefix("access_token=")) else {
            self.violation(format!("{endpoint}: no cookie with access_token alone"));
            return Err(self.unauthorised(endpoint, "Unauthorized"));
        };
        let permanent = token == self.shared.credentials().api_token;
        if permanent { self.check_permanent(endpoint, token) } else { self.check_token(endpoint, token) }
    }

    fn check_permanent(&self, endpoint: Endpoint, token: &str) -> Result<(), Reply> {
        let refused = self.shared.refuse_tokens.load(Ordering::Relaxed);
        if !refused && token == self.shared.credentials().api_token {
            return Ok(());
        }
        Err(self.unauthorised(endpoint, "Invalid token"))
    }

    fn check_token(&self, endpoint: Endpoint, token: &str) -> Result<(), Reply> {
        if self.shared.refuse_tokens.load(Ordering::Relaxed) {
            return Err(self.unauthorised(endpoint, "Jwt issuer is not configured"));
        }
        match self.shared.tokens.worth(token, self.shared.clock.tick()) {
            Worth::Good => Ok(()),
            Worth::Expired => Err(self.unauthorised(endpoint, "Jwt is expired")),
            Worth::Revoked | Worth::Unknown => Err(self.unauthorised(endpoint, "Jwt verification fails")),
        }
    }

    fn check_permission(&self, endpoint: Endpoint, account: &Account, segment: Option<&str>) -> Result<(), Reply> {
        let forbidden = self.shared.faults().forbids(endpoint, &account.id.sub, segment);
        if !forbidden && !self.shared.is_hidden(account) {
            return Ok(());
        }
        let message = "You do not have permission to access this resource";
        Err(self.error(Some(endpoint), 403, "access.denied.exception", message))
    }
}

/// The path's parts, decoded one by one, so that an encoded slash stays within its part.
fn decode_path(path: &str) -> Option<Vec<String>> {
    path.strip_prefix('/')?.split('/').map(|part| percent_decode(part, false)).collect()
}

/// Decodes `%xx`, and `+` to a space where it is a form's.
fn percent_decode(text: &str, form: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
                out.push(u8::try_from(value).ok()?);
            }
            b'+' if form => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// The fields of a form, or of a query.
fn parse_form(text: &str) -> Option<Vec<(String, String)>> {
    text.split('&')
        .filter(|field| !field.is_empty())
        .map(|field| {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            Some((percent_decode(name, true)?, percent_decode(value, true)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_forms_are_decoded_part_by_part() {
        assert_eq!(decode_path("/a%2Fb/%25/c+d").unwrap(), ["a/b", "%", "c+d"]);
        assert_eq!(decode_path("/%zz"), None);
        assert_eq!(decode_path("/%ff"), None, "not UTF-8");
        let form = parse_form("a=1%262&b=x+y").unwrap();
        assert_eq!(form, [("a".into(), "1&2".into()), ("b".into(), "x y".into())]);
    }
}
