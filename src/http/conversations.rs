//! The pages behind `http.token`: search and conversations. They only read.
//!
//! Without a token these pages do not exist, and no other page mentions them. Nothing that a user
//! searches for is logged. The pages have no script.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, http::HeaderValue};
use serde::Deserialize;

use crate::clock::Time;
use crate::db::{AccountRow, Db, DbError, DeletionReason};
use crate::search::{self, Filters, QueryError, SearchResults, SortOrder};

use super::authenticator::{AuthOutcome, Authenticator};
use super::state::HttpState;
use super::templates::{self, ConversationView, LoginError, SearchForm, SearchOutcome};

const MAX_HITS: usize = 50;
/// How long a search, or reading a conversation, may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);

/// The routes; empty without a token.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    let Some(authenticator) = state.authenticator.clone() else { return Router::new() };
    let login_routes = Router::new()
        .route("/login", get(login_form).post(log_in))
        .route("/logout", post(log_out))
        .with_state::<Arc<HttpState>>(authenticator.clone());
    Router::new()
        .route("/search", get(search_page))
        .route("/conversation", get(conversation_page))
        .layer(middleware::from_fn_with_state(authenticator, require_login))
        .merge(login_routes)
        .layer(middleware::map_response(set_page_policies))
}

/// Sets the policies of these pages. Their referrer policy lets browsers report to this site where
/// a form comes from, so that forms of other sites can be refused.
async fn set_page_policies(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(templates::conversation_policy()) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Passes authenticated requests on, and answers others with the login form.
async fn require_login(State(authenticator): State<Arc<Authenticator>>, request: Request, next: Next) -> Response {
    match authenticator.authenticate(request.headers()).await {
        Err(error) => database_error(error),
        Ok(AuthOutcome::Granted) => next.run(request).await,
        Ok(outcome) => {
            let next_path = request.uri().path_and_query().map(ToString::to_string);
            login_response(outcome, next_path.as_deref().unwrap_or_default(), false)
        }
    }
}

/// The login form; `was_submitted` if it answers a submitted token.
fn login_response(outcome: AuthOutcome, next_path: &str, was_submitted: bool) -> Response {
    let (status, error) = match outcome {
        AuthOutcome::RateLimited(wait) => (StatusCode::TOO_MANY_REQUESTS, LoginError::RateLimited(wait)),
        _ if was_submitted => (StatusCode::UNAUTHORIZED, LoginError::WrongToken),
        _ => (StatusCode::UNAUTHORIZED, LoginError::None),
    };
    let mut response = (status, Html(templates::login_page(next_path, error))).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    if let AuthOutcome::RateLimited(wait) = outcome {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

async fn login_form(State(authenticator): State<Arc<Authenticator>>, headers: HeaderMap) -> Response {
    match authenticator.authenticate(&headers).await {
        Ok(AuthOutcome::Granted) => redirect_to("/search"),
        _ => Html(templates::login_page("", LoginError::None)).into_response(),
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
    with_cookie(redirect_to(&form.next), &authenticator.create_session_cookie(&headers))
}

async fn log_out(State(authenticator): State<Arc<Authenticator>>, headers: HeaderMap) -> Response {
    match authenticator.end_sessions(&headers).await {
        Ok(cookie) => with_cookie(redirect_to("/"), &cookie),
        Err(error) => database_error(error),
    }
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Redirects to a page of this server, never to another site.
fn redirect_to(path: &str) -> Response {
    let is_own_page =
        ["/search", "/conversation"].iter().any(|page| path == *page || path.starts_with(&format!("{page}?")));
    let path = if is_own_page || path == "/" { path } else { "/search" };
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/search"));
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}

/// The response if the database cannot check or store the end of a session.
fn database_error(error: DbError) -> Response {
    let error = PageError::Db(error);
    (error.status(), error.message()).into_response()
}

/// Why a page cannot be shown.
enum PageError {
    Db(DbError),
    Query(QueryError),
    BadRequest(String),
    SearchTooSlow,
    ConversationTooSlow,
}

impl From<DbError> for PageError {
    fn from(error: DbError) -> PageError {
        PageError::Db(error)
    }
}

impl PageError {
    fn status(&self) -> StatusCode {
        match self {
            PageError::Query(_) | PageError::BadRequest(_) => StatusCode::BAD_REQUEST,
            PageError::Db(_) | PageError::SearchTooSlow | PageError::ConversationTooSlow => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn message(&self) -> String {
        match self {
            PageError::Db(error) => {
                tracing::warn!(%error, hint = error.hint(), "failed to read the database for a page");
                "failed to read the archive: the database did not answer\nhint: see /readyz for what to do".to_owned()
            }
            PageError::Query(error) => format!("{error}\nhint: {}", error.hint()),
            PageError::BadRequest(why) => why.clone(),
            PageError::ConversationTooSlow => {
                "failed to read the conversation: it takes too long\nhint: try again in a moment".to_owned()
            }
            PageError::SearchTooSlow => {
                "failed to search: it takes too long, or too many searches are running\nhint: choose a time or an \
                              account, or try again in a moment"
                    .to_owned()
            }
        }
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
        let _permit = authenticator.search_permits.acquire().await.map_err(|_| PageError::SearchTooSlow)?;
        run_search(&state.app.db, &form).await
    };
    let found = tokio::time::timeout(SEARCH_TIMEOUT, search).await.unwrap_or(Err(PageError::SearchTooSlow));
    match found {
        Ok((results, accounts, index_state)) => {
            let outcome = SearchOutcome::Results {
                results: &results,
                accounts: &accounts,
                index_state: index_state.as_deref(),
                limit: MAX_HITS,
            };
            Html(templates::search_page(&form, &outcome)).into_response()
        }
        Err(error) => (error.status(), Html(templates::search_page(&form, &SearchOutcome::Error(&error.message()))))
            .into_response(),
    }
}

async fn run_search(db: &Db, form: &SearchForm) -> Result<(SearchResults, Vec<AccountRow>, Option<String>), PageError> {
    let query = search::parse(&form.q).map_err(PageError::Query)?;
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
fn find_account(accounts: &[AccountRow], wanted: &str) -> Result<i64, PageError> {
    if let Some(account) = accounts.iter().find(|account| &*account.id.sub == wanted) {
        return Ok(account.key);
    }
    let mut named = accounts.iter().filter(|account| account.name.as_deref() == Some(wanted));
    match (named.next(), named.next()) {
        (Some(account), None) => Ok(account.key),
        (Some(_), Some(_)) => {
            Err(PageError::BadRequest("several accounts have that name\nhint: give the id".to_owned()))
        }
        (None, _) => {
            Err(PageError::BadRequest("no account has that id or name\nhint: the dashboard lists them all".to_owned()))
        }
    }
}

/// The start of a day in UTC, in the format of a browser's date field.
fn parse_day(text: &str) -> Result<Option<Time>, PageError> {
    match text.trim() {
        "" => Ok(None),
        text => Time::parse(&format!("{text}T00:00:00Z"))
            .map(Some)
            .ok_or_else(|| PageError::BadRequest("a day must look like 2026-11-20".to_owned())),
    }
}

/// What the index lacks. This is read before the search, since changes indexed in between may be
/// missing from its results.
async fn index_state(db: &Db) -> Result<Option<String>, DbError> {
    if db.index_version().await? != Some(search::tokenizer::TOKENIZER_VERSION) {
        return Ok(Some("The archive is not indexed yet; the daemon is indexing it.".to_owned()));
    }
    let behind = db.unindexed_changes().await?;
    Ok((behind > 0).then(|| {
        format!("The index is {} changes behind the archive.", crate::health::humanize::format_number(behind))
    }))
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
    let Ok(Query(query)) = query else {
        return (
            StatusCode::BAD_REQUEST,
            Html(templates::not_found_page("expected the parameters `account` and `segment`")),
        )
            .into_response();
    };
    let page = tokio::time::timeout(SEARCH_TIMEOUT, render_conversation(&state.app.db, &query, state.app.clock.now()));
    match page.await.unwrap_or(Err(PageError::ConversationTooSlow)) {
        Ok(Ok(page)) => Html(page).into_response(),
        Ok(Err(why)) => (StatusCode::NOT_FOUND, Html(templates::not_found_page(&why))).into_response(),
        Err(error) => (error.status(), Html(templates::not_found_page(&error.message()))).into_response(),
    }
}

/// Renders the page, or explains why there is none.
async fn render_conversation(db: &Db, query: &SegmentQuery, now: Time) -> Result<Result<String, String>, PageError> {
    let is_of_account = |segment: &crate::db::SegmentRow| *segment.account.sub == *query.account;
    let Some(segment) = db.segments_by_id(&query.segment).await?.into_iter().find(is_of_account) else {
        return Ok(Err(match db.tombstone(&query.segment, None).await? {
            Some(tombstone) => {
                let why = match tombstone.reason {
                    DeletionReason::Erased => "was erased on request",
                    DeletionReason::Expired => "was removed by retention",
                };
                format!("this conversation {why}, at {}", tombstone.at.rfc3339_secs())
            }
            None => "there is no such conversation in the archive".to_owned(),
        }));
    };
    let dialog = match &segment.dialog_id {
        Some(dialog) => db.segments_of_dialog(dialog).await?,
        None => Vec::new(),
    };
    let accounts = db.accounts().await?;
    let name =
        accounts.iter().find(|account| account.key == segment.account_key).and_then(|account| account.name.as_deref());
    let slots = db.segment_artifacts(std::slice::from_ref(&segment)).await?;
    let Some(slots) = slots.first() else { return Ok(Err("there is no such conversation in the archive".to_owned())) };
    Ok(Ok(templates::conversation_page(&ConversationView {
        segment: &segment,
        slots,
        dialog: &dialog,
        account: name,
        now,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_that_takes_too_long_is_not_called_a_search() {
        let error = PageError::ConversationTooSlow;
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        let message = error.message();
        assert!(message.contains("conversation") && !message.contains("search"), "{message}");
    }
}
