//! The pages behind `http.token`: search and conversations. They only read.
//!
//! Without a token these pages do not exist, and no other page mentions them. Nothing that a user
//! searches for is logged. The pages have no script.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, Request, State};
use axum::handler::Handler as _;
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use crate::clock::Time;
use crate::db::{AccountKey, AccountRow, Db, DbError, DeletionReason, SegmentRow};
use crate::health::humanize::format_number;
use crate::search::{self, Filters, QueryError, SearchResults, SortOrder};

use super::authenticator::{AuthOutcome, Authenticator};
use super::state::HttpState;
use super::templates::{self, ConversationView, SearchForm, SearchOutcome};

const MAX_HITS: usize = 50;
/// How long a search, or reading a conversation, may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long receiving and handling a form may take.
const FORM_TIMEOUT: Duration = Duration::from_secs(15);

/// The routes; empty without a token.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    let Some(authenticator) = state.authenticator.clone() else { return Router::new() };
    let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, FORM_TIMEOUT);
    let login_routes = Router::new()
        .route("/login", get(login_form).post(log_in.layer(timeout)))
        .route("/logout", post(log_out.layer(timeout)))
        .with_state::<Arc<HttpState>>(authenticator.clone());
    // The referrer policy lets browsers report to this site where a form comes from, so that forms
    // of other sites can be refused.
    let policies = [(CONTENT_SECURITY_POLICY, templates::conversation_policy()), (REFERRER_POLICY, "same-origin")];
    let router = Router::new()
        .route("/search", get(search_page))
        .route("/conversation", get(conversation_page))
        .layer(middleware::from_fn_with_state(authenticator, require_login))
        .merge(login_routes);
    policies.into_iter().fold(router, |router, (name, value)| {
        router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)))
    })
}

/// Passes authenticated requests on, and answers others with the login form.
async fn require_login(State(authenticator): State<Arc<Authenticator>>, request: Request, next: Next) -> Response {
    match authenticator.authenticate(request.headers()).await {
        Err(error) => PageError::from(error).into_response(),
        Ok(AuthOutcome::Granted) => next.run(request).await,
        Ok(outcome) => {
            let next_path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
            login_response(outcome, next_path, false)
        }
    }
}

/// The login form; `was_submitted` if it answers a submitted token.
fn login_response(outcome: AuthOutcome, next_path: &str, was_submitted: bool) -> Response {
    let (status, retry_after) = match outcome {
        AuthOutcome::RateLimited(wait) => (StatusCode::TOO_MANY_REQUESTS, Some(wait.as_secs().max(1))),
        _ => (StatusCode::UNAUTHORIZED, None),
    };
    let failure = Some(outcome).filter(|_| was_submitted || retry_after.is_some());
    let page = Html(templates::login_page(next_path, failure));
    let retry_after = retry_after.map(|seconds| [(RETRY_AFTER, HeaderValue::from(seconds))]);
    (status, [(WWW_AUTHENTICATE, "Bearer")], retry_after, page).into_response()
}

async fn login_form(State(authenticator): State<Arc<Authenticator>>, headers: HeaderMap) -> Response {
    match authenticator.authenticate(&headers).await {
        Ok(AuthOutcome::Granted) => redirect_to("/search").into_response(),
        _ => Html(templates::login_page("", None)).into_response(),
    }
}

/// The fields of the login form.
#[derive(Deserialize)]
struct LoginForm {
    token: String,
    #[serde(default)]
    next: String,
}

async fn log_in(
    State(authenticator): State<Arc<Authenticator>>,
    headers: HeaderMap,
    form: Result<Form<LoginForm>, FormRejection>,
) -> Response {
    let Form(form) = match form {
        Ok(form) => form,
        Err(rejection) => return (rejection.status(), "expected a form with the field `token`\n").into_response(),
    };
    let outcome = authenticator.check_token(form.token.trim());
    if outcome != AuthOutcome::Granted {
        if let Some(suppressed) = authenticator.log.try_acquire() {
            tracing::warn!(suppressed, "login refused: wrong http.token, or too many wrong ones before");
        }
        return login_response(outcome, &form.next, true);
    }
    tracing::info!("login with http.token: a session for reading conversations is valid for 12 hours");
    (authenticator.create_session(&headers), redirect_to(&form.next)).into_response()
}

async fn log_out(
    State(authenticator): State<Arc<Authenticator>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, PageError> {
    Ok((authenticator.end_session(&headers).await?, redirect_to("/")))
}

/// Redirects to a page of this server, never to another site.
fn redirect_to(path: &str) -> Redirect {
    const PAGES: [&str; 3] = ["/", "/search", "/conversation"];
    let is_own_page = |uri: Uri| uri.authority().is_none() && PAGES.contains(&uri.path());
    Redirect::to(if path.parse().is_ok_and(is_own_page) { path } else { "/search" })
}

/// Why a page cannot be shown.
#[derive(Debug)]
struct PageError {
    status: StatusCode,
    message: Cow<'static, str>,
}

impl PageError {
    fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> PageError {
        PageError { status, message: message.into() }
    }

    fn bad_request(message: impl Into<Cow<'static, str>>) -> PageError {
        PageError::new(StatusCode::BAD_REQUEST, message)
    }

    fn search_too_slow() -> PageError {
        let message = "failed to search: it takes too long, or too many searches are running\n\
                       hint: choose a time or an account, or try again in a moment";
        PageError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
}

impl From<DbError> for PageError {
    fn from(error: DbError) -> PageError {
        tracing::warn!(%error, hint = error.hint(), "failed to read the database for a page");
        let message = "failed to read the archive: the database did not answer\nhint: see /readyz for what to do";
        PageError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        (self.status, self.message).into_response()
    }
}

async fn search_page(State(state): State<Arc<HttpState>>, form: Result<Query<SearchForm>, QueryRejection>) -> Response {
    // An invalid query string counts as an empty form.
    let form = form.map_or_else(|_| SearchForm::default(), |Query(form)| form);
    if form.q.trim().is_empty() {
        return Html(templates::search_page(&form, &SearchOutcome::NoQuery)).into_response();
    }
    let Some(authenticator) = state.authenticator.as_ref() else { return StatusCode::NOT_FOUND.into_response() };
    let search = async {
        let _permit = authenticator.search_permits.acquire().await.map_err(|_| PageError::search_too_slow())?;
        run_search(&state.app.db, &form).await
    };
    let found = tokio::time::timeout(SEARCH_TIMEOUT, search).await;
    match found.unwrap_or_else(|_| Err(PageError::search_too_slow())) {
        Ok((results, accounts, index_state)) => {
            let outcome = SearchOutcome::Results {
                results: &results,
                accounts: &accounts,
                index_state: index_state.as_deref(),
                limit: MAX_HITS,
            };
            Html(templates::search_page(&form, &outcome)).into_response()
        }
        Err(PageError { status, message }) => {
            (status, Html(templates::search_page(&form, &SearchOutcome::Error(&message)))).into_response()
        }
    }
}

async fn run_search(db: &Db, form: &SearchForm) -> Result<(SearchResults, Vec<AccountRow>, Option<String>), PageError> {
    let bad_query = |error: QueryError| PageError::bad_request(format!("{error}\nhint: {}", error.hint()));
    let query = search::parse(&form.q).map_err(bad_query)?;
    let accounts = db.accounts().await?;
    let account = match form.account.trim() {
        "" => None,
        wanted => Some(find_account(&accounts, wanted)?),
    };
    let non_empty = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let filters = Filters {
        from: parse_day(&form.from)?,
        to: parse_day(&form.to)?.map(|day| day + Duration::from_secs(86_400)),
        account,
        agent: non_empty(&form.agent),
        channel: non_empty(&form.channel),
        ..Filters::default()
    };
    let index_state = index_state(db).await?;
    let order = if form.newest.is_empty() { SortOrder::Best } else { SortOrder::Newest };
    Ok((search::find(db, &query, &filters, order, MAX_HITS).await?, accounts, index_state))
}

/// Finds an account by its id, or by a unique name.
fn find_account(accounts: &[AccountRow], wanted: &str) -> Result<AccountKey, PageError> {
    if let Some(account) = accounts.iter().find(|account| &*account.id.sub == wanted) {
        return Ok(account.key);
    }
    let mut named = accounts.iter().filter(|account| account.name.as_deref() == Some(wanted));
    match (named.next(), named.next()) {
        (Some(account), None) => Ok(account.key),
        (Some(_), Some(_)) => Err(PageError::bad_request("several accounts have that name\nhint: give the id")),
        (None, _) => Err(PageError::bad_request("no account has that id or name\nhint: the dashboard lists them all")),
    }
}

/// The start of a day in UTC, in the format of a browser's date field.
fn parse_day(text: &str) -> Result<Option<Time>, PageError> {
    match text.trim() {
        "" => Ok(None),
        text => Time::parse(&format!("{text}T00:00:00Z"))
            .map(Some)
            .ok_or_else(|| PageError::bad_request("a day must look like 2026-11-20")),
    }
}

/// What the index lacks. This is read before the search, since changes indexed in between may be
/// missing from its results.
async fn index_state(db: &Db) -> Result<Option<String>, DbError> {
    if db.index_version().await? != Some(search::tokenizer::TOKENIZER_VERSION) {
        return Ok(Some("The archive is not indexed yet; the daemon is indexing it.".to_owned()));
    }
    let behind = db.unindexed_changes().await?;
    Ok((behind > 0).then(|| format!("The index is {} changes behind the archive.", format_number(behind))))
}

/// The query of a conversation page.
#[derive(Deserialize)]
struct SegmentQuery {
    account: String,
    segment: String,
}

async fn conversation_page(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<SegmentQuery>, QueryRejection>,
) -> Response {
    let page = async {
        let Query(query) =
            query.map_err(|_| PageError::bad_request("expected the parameters `account` and `segment`"))?;
        render_conversation(&state.app.db, &query, state.app.clock.now()).await
    };
    let too_slow = "failed to read the conversation: it takes too long\nhint: try again in a moment";
    let page = tokio::time::timeout(SEARCH_TIMEOUT, page).await;
    match page.unwrap_or_else(|_| Err(PageError::new(StatusCode::SERVICE_UNAVAILABLE, too_slow))) {
        Ok(page) => Html(page).into_response(),
        Err(PageError { status, message }) => (status, Html(templates::not_found_page(&message))).into_response(),
    }
}

async fn render_conversation(db: &Db, query: &SegmentQuery, now: Time) -> Result<String, PageError> {
    let is_of_account = |segment: &SegmentRow| *segment.account.sub == *query.account;
    let Some(segment) = db.segments_by_id(&query.segment).await?.into_iter().find(is_of_account) else {
        return Err(match db.tombstone(&query.segment, None).await? {
            Some(tombstone) => {
                let why = match tombstone.reason {
                    DeletionReason::Erased => "was erased on request",
                    DeletionReason::Expired => "was removed by retention",
                };
                let message = format!("this conversation {why}, at {}", tombstone.at.rfc3339_secs());
                PageError::new(StatusCode::NOT_FOUND, message)
            }
            None => no_such_conversation(),
        });
    };
    let dialog = match &segment.dialog_id {
        Some(dialog) => db.segments_of_dialog(dialog).await?,
        None => Vec::new(),
    };
    let accounts = db.accounts().await?;
    let account = accounts.iter().find(|account| account.key == segment.account_key);
    let account = account.and_then(|account| account.name.as_deref());
    let slots = db.segment_artifacts(std::slice::from_ref(&segment)).await?;
    let slots = slots.first().ok_or_else(no_such_conversation)?;
    Ok(templates::conversation_page(&ConversationView { segment: &segment, slots, dialog: &dialog, account, now }))
}

fn no_such_conversation() -> PageError {
    PageError::new(StatusCode::NOT_FOUND, "there is no such conversation in the archive")
}
