//! Login and logout of people, and the check of every request for conversations.
//!
//! Without `http.token`, keys and an identity provider these routes do not exist. Whoever logs in is
//! sent to the page that they asked for, never to another site.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Extension, Form, Query, Request, State};
use axum::handler::Handler as _;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, http::Method};
use serde::Deserialize;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use super::connection::PeerAddress;
use super::state::HttpState;
use super::templates::{self, LoginView};
use crate::access::{
    AccessAction, AccessSubject, AuthRefusal, Authenticator, Callback, Caller, LoginError, LoginFault,
};
use crate::db::DbError;

/// How long receiving and handling a form may take.
const FORM_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a step of the login at the provider may take, with its requests to the provider.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(40);
/// Where a person goes who asked for no page.
const START_PAGE: &str = "/";

/// The database did not answer.
struct DatabaseAway;

impl From<DbError> for DatabaseAway {
    fn from(error: DbError) -> DatabaseAway {
        tracing::warn!(%error, hint = error.hint(), "failed to read the database for a login");
        DatabaseAway
    }
}

impl IntoResponse for DatabaseAway {
    fn into_response(self) -> Response {
        let message = "failed to read the archive: the database did not answer\nhint: see /readyz for what to do";
        (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
    }
}

/// The routes of login and logout; empty where the settings let nobody in.
pub(super) fn routes(state: &HttpState) -> Router<Arc<HttpState>> {
    if state.authenticator.is_none() {
        return Router::new();
    }
    let timeout = |limit| TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, limit);
    // The referrer policy lets browsers report to this site where a form comes from, so that forms
    // of other sites can be refused.
    let policies = [(CONTENT_SECURITY_POLICY, templates::login_policy()), (REFERRER_POLICY, "same-origin")];
    let router = Router::new()
        .route("/login", get(login_form).post(log_in_with_token.layer(timeout(FORM_TIMEOUT))))
        .route("/auth/login", get(start_login.layer(timeout(PROVIDER_TIMEOUT))))
        .route("/auth/callback", get(complete_login.layer(timeout(PROVIDER_TIMEOUT))))
        .route("/logout", post(log_out.layer(timeout(FORM_TIMEOUT))));
    policies.into_iter().fold(router, |router, (name, value)| {
        router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)))
    })
}

/// The address of a request's connection.
pub(super) fn peer_of(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<PeerAddress>().map(|peer| peer.0)
}

/// Answers a request that has no caller with the login page.
pub(super) fn ask_to_log_in(state: &HttpState, request: &Request, refusal: AuthRefusal) -> Response {
    let Some(authenticator) = &state.authenticator else { return StatusCode::NOT_FOUND.into_response() };
    state.app.metrics.count_refused_access(refusal.name());
    let next_path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    // With a provider alone there is nothing to choose.
    let is_missing = matches!(refusal, AuthRefusal::Missing);
    if is_missing && !authenticator.has_token() && authenticator.has_provider() && is_page_view(request) {
        return Redirect::to(&templates::provider_login_path(next_path)).into_response();
    }
    refuse(authenticator, refusal, next_path, false)
}

/// The path of the login page, which leads back to a page.
pub(super) fn login_path(next_path: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", next_path).finish();
    format!("/login?{query}")
}

/// Whether a browser wants to show the answer, rather than a program to read it.
fn is_page_view(request: &Request) -> bool {
    let accepts = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    request.method() == Method::GET && !request.headers().contains_key(AUTHORIZATION) && accepts.contains("text/html")
}

/// The answer to a request that has no reader; `was_submitted` if it answers a submitted token.
fn refuse(authenticator: &Authenticator, refusal: AuthRefusal, next_path: &str, was_submitted: bool) -> Response {
    let (status, retry_after, failure) = match refusal {
        AuthRefusal::Unavailable(error) => return DatabaseAway::from(error).into_response(),
        AuthRefusal::RateLimited(wait) => (StatusCode::TOO_MANY_REQUESTS, Some(wait.as_secs().max(1)), Some(refusal)),
        AuthRefusal::Expired { .. } => (StatusCode::UNAUTHORIZED, None, Some(refusal)),
        AuthRefusal::Missing | AuthRefusal::Wrong => {
            (StatusCode::UNAUTHORIZED, None, Some(refusal).filter(|_| was_submitted))
        }
    };
    let view = login_view(authenticator, next_path, failure.as_ref(), None);
    let retry_after = retry_after.map(|seconds| [(RETRY_AFTER, HeaderValue::from(seconds))]);
    (status, [(WWW_AUTHENTICATE, "Bearer")], retry_after, Html(templates::login_page(&view))).into_response()
}

fn login_view<'a>(
    authenticator: &Authenticator,
    next_path: &'a str,
    refusal: Option<&'a AuthRefusal>,
    failed: Option<&'a LoginError>,
) -> LoginView<'a> {
    LoginView {
        next_path,
        refusal,
        failed,
        has_token: authenticator.has_token(),
        has_provider: authenticator.has_provider(),
    }
}

/// Where to go after the login.
#[derive(Deserialize)]
struct NextPage {
    #[serde(default)]
    next: String,
}

async fn login_form(
    State(state): State<Arc<HttpState>>,
    Query(NextPage { next }): Query<NextPage>,
    headers: HeaderMap,
) -> Response {
    let Some(authenticator) = &state.authenticator else { return StatusCode::NOT_FOUND.into_response() };
    match authenticator.authenticate(&headers, None).await {
        Ok(_) => Redirect::to(own_page(&next)).into_response(),
        Err(_) => Html(templates::login_page(&login_view(authenticator, &next, None, None))).into_response(),
    }
}

/// The fields of the login form.
#[derive(Deserialize)]
struct LoginForm {
    token: String,
    #[serde(default)]
    next: String,
}

async fn log_in_with_token(
    State(state): State<Arc<HttpState>>,
    peer: Option<Extension<PeerAddress>>,
    headers: HeaderMap,
    form: Result<Form<LoginForm>, FormRejection>,
) -> Response {
    let Some(authenticator) = &state.authenticator else { return StatusCode::NOT_FOUND.into_response() };
    let Form(form) = match form {
        Ok(form) => form,
        Err(rejection) => return (rejection.status(), "expected a form with the field `token`\n").into_response(),
    };
    if let Err(refusal) = authenticator.check_token(form.token.trim()) {
        state.app.metrics.count_refused_access(refusal.name());
        if let Some(suppressed) = state.refused_logins.try_acquire() {
            tracing::warn!(suppressed, "login refused: wrong http.token, or too many wrong ones before");
        }
        return refuse(authenticator, refusal, &form.next, true);
    }
    let session = async {
        let cookies = authenticator.create_token_session(&headers).await?;
        let caller = authenticator.token_caller(&headers, peer.map(|peer| peer.0.0));
        record_session(&state, &caller, AccessAction::Login).await?;
        Ok::<_, DbError>(cookies)
    };
    match session.await {
        Ok(cookies) => {
            tracing::info!("login with http.token: a session for reading conversations is valid for 12 hours");
            (cookies, Redirect::to(own_page(&form.next))).into_response()
        }
        Err(error) => DatabaseAway::from(error).into_response(),
    }
}

async fn record_session(state: &HttpState, caller: &Caller, action: AccessAction) -> Result<(), DbError> {
    let what = caller.role_names().collect::<Vec<_>>().join(", ");
    state.access_log.record(caller, action, AccessSubject::Other { what: &what, sub: None }).await
}

/// Sends a person to the provider.
async fn start_login(
    State(state): State<Arc<HttpState>>,
    Query(NextPage { next }): Query<NextPage>,
    headers: HeaderMap,
) -> Response {
    let Some(authenticator) = &state.authenticator else { return StatusCode::NOT_FOUND.into_response() };
    if !authenticator.has_provider() {
        return StatusCode::NOT_FOUND.into_response();
    }
    match authenticator.start_login(&headers, own_page(&next).to_owned()).await {
        Ok((cookies, url)) => (cookies, Redirect::to(&url)).into_response(),
        Err(error) => login_failed(&state, authenticator, &error, &next),
    }
}

/// Receives a person from the provider.
async fn complete_login(
    State(state): State<Arc<HttpState>>,
    peer: Option<Extension<PeerAddress>>,
    headers: HeaderMap,
    callback: Result<Query<Callback>, QueryRejection>,
) -> Response {
    let Some(authenticator) = &state.authenticator else { return StatusCode::NOT_FOUND.into_response() };
    if !authenticator.has_provider() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let callback = callback.map(|Query(callback)| callback).unwrap_or_default();
    match authenticator.complete_login(&headers, peer.map(|peer| peer.0.0), callback).await {
        Ok((cookies, caller, next)) => match record_session(&state, &caller, AccessAction::Login).await {
            Ok(()) => (cookies, Redirect::to(own_page(&next))).into_response(),
            Err(error) => DatabaseAway::from(error).into_response(),
        },
        Err(error) => login_failed(&state, authenticator, &error, ""),
    }
}

fn login_failed(state: &HttpState, authenticator: &Authenticator, error: &LoginError, next: &str) -> Response {
    let status = match error.fault {
        LoginFault::Provider | LoginFault::Settings => StatusCode::BAD_GATEWAY,
        LoginFault::Stale => StatusCode::BAD_REQUEST,
        LoginFault::Denied => StatusCode::FORBIDDEN,
    };
    state.app.metrics.count_refused_access("login_failed");
    // The message of a denial names a person.
    if error.fault != LoginFault::Denied
        && let Some(suppressed) = state.refused_logins.try_acquire()
    {
        tracing::warn!(%error, hint = %error.hint, suppressed, "login at the OpenID Connect provider failed");
    }
    let page = templates::login_page(&login_view(authenticator, next, None, Some(error)));
    (status, Html(page)).into_response()
}

async fn log_out(
    State(state): State<Arc<HttpState>>,
    peer: Option<Extension<PeerAddress>>,
    headers: HeaderMap,
) -> Result<Response, DatabaseAway> {
    let Some(authenticator) = &state.authenticator else { return Ok(StatusCode::NOT_FOUND.into_response()) };
    if let Ok((caller, _)) = authenticator.authenticate_session(&headers, peer.map(|peer| peer.0.0)).await {
        record_session(&state, &caller, AccessAction::Logout).await?;
    }
    Ok((authenticator.end_session(&headers).await?, Redirect::to("/")).into_response())
}

/// The page to go to after a login, if it is one of this server's; else the start page.
pub(super) fn own_page(path: &str) -> &str {
    // Browsers read a backslash as a slash, and two slashes as another site.
    let is_own = |uri: &Uri| uri.authority().is_none() && uri.scheme().is_none();
    let is_path = path.starts_with('/') && !path.starts_with("//") && !path.contains('\\');
    let is_login = ["/auth/", "/login", "/actions/"].iter().any(|prefix| path.starts_with(prefix));
    if is_path && !is_login && path.parse().is_ok_and(|uri| is_own(&uri)) { path } else { START_PAGE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_login_a_person_goes_to_a_page_of_this_server_only() {
        for own in ["/", "/search?q=a%20b&x=https://evil.example/", "/conversation?account=1&segment=2", "/api"] {
            assert_eq!(own_page(own), own);
        }
        for other in [
            "",
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example/",
            "\\\\evil.example",
            "javascript:alert(1)",
            "search",
            "/auth/login",
            "/actions/backfill",
            "/a b",
            "/a\r\nset-cookie: x=y",
        ] {
            assert_eq!(own_page(other), START_PAGE, "{other:?}");
        }
    }
}
