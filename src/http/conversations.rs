//! The pages with conversations, for callers that may read them: search and conversation.
//!
//! They write nothing but the access log, and an answer leaves only when its entry is stored. Where
//! the settings let nobody in, these pages do not exist, and no other page mentions them. Nothing
//! that a user searches for is in the program's log. The pages have no script, except for the player of
//! a recording.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::access::Caller;
use crate::archive_reader::{FoundHits, ReadError, SearchQuestion, SegmentFilter};
use crate::clock::Time;
use crate::db::DbError;
use crate::export::SegmentEntry;
use crate::search::SortOrder;

use super::api::problem::status_of;
use super::login;
use super::state::HttpState;
use super::templates::{self, ConversationView, SearchForm, SearchOutcome};

const MAX_HITS: usize = 50;
/// How long reading a conversation may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The routes; empty where the settings let nobody in.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    if state.authenticator.is_none() {
        return Router::new();
    }
    // The referrer policy lets browsers report to this site where a form comes from, so that forms
    // of other sites can be refused.
    let policies = [(CONTENT_SECURITY_POLICY, templates::conversation_policy()), (REFERRER_POLICY, "same-origin")];
    let router = Router::new()
        .route("/search", get(search_page))
        .route("/conversation", get(conversation_page))
        .layer(middleware::from_fn_with_state(state.clone(), login::require_reader))
        .merge(login::routes());
    policies.into_iter().fold(router, |router, (name, value)| {
        router.layer(SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value)))
    })
}

/// Why a page cannot be shown.
#[derive(Debug)]
pub(super) struct PageError {
    status: StatusCode,
    message: Cow<'static, str>,
}

impl PageError {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> PageError {
        PageError { status, message: message.into() }
    }

    fn bad_request(message: impl Into<Cow<'static, str>>) -> PageError {
        PageError::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<ReadError> for PageError {
    fn from(error: ReadError) -> PageError {
        let status = status_of(error.fault());
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        PageError::new(status, format!("{error}{hint}"))
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

async fn search_page(
    State(state): State<Arc<HttpState>>,
    Extension(caller): Extension<Caller>,
    form: Result<Query<SearchForm>, QueryRejection>,
) -> Response {
    // An invalid query string counts as an empty form.
    let form = form.map_or_else(|_| SearchForm::default(), |Query(form)| form);
    if form.q.trim().is_empty() {
        return Html(templates::search_page(&form, &SearchOutcome::NoQuery)).into_response();
    }
    match run_search(&state, &caller, &form).await {
        Ok(FoundHits { results, accounts, index_is_current }) => {
            let outcome =
                SearchOutcome::Results { results: &results, accounts: &accounts, index_is_current, limit: MAX_HITS };
            Html(templates::search_page(&form, &outcome)).into_response()
        }
        Err(PageError { status, message }) => {
            (status, Html(templates::search_page(&form, &SearchOutcome::Error(&message)))).into_response()
        }
    }
}

async fn run_search(state: &HttpState, caller: &Caller, form: &SearchForm) -> Result<FoundHits, PageError> {
    let non_empty = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let filter = SegmentFilter {
        from: parse_day(&form.from)?,
        to: parse_day(&form.to)?.map(|day| day + Duration::from_secs(86_400)),
        accounts: non_empty(&form.account).into_iter().collect(),
        agent: non_empty(&form.agent),
        channel: non_empty(&form.channel),
        ..SegmentFilter::default()
    };
    let order = if form.newest.is_empty() { SortOrder::Best } else { SortOrder::Newest };
    let question =
        SearchQuestion { text: form.q.trim().to_owned(), filter, sources: Vec::new(), order, facets: Vec::new() };
    Ok(state.reader.find_hits(caller, &question, MAX_HITS).await?)
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

/// The query of a conversation page.
#[derive(Deserialize)]
struct SegmentQuery {
    account: String,
    segment: String,
}

async fn conversation_page(
    State(state): State<Arc<HttpState>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<SegmentQuery>, QueryRejection>,
) -> Response {
    let page = async {
        let Query(query) =
            query.map_err(|_| PageError::bad_request("expected the parameters `account` and `segment`"))?;
        render_conversation(&state, &caller, &query).await
    };
    let too_slow = "failed to read the conversation: it takes too long\nhint: try again in a moment";
    let page = tokio::time::timeout(READ_TIMEOUT, page).await;
    match page.unwrap_or_else(|_| Err(PageError::new(StatusCode::SERVICE_UNAVAILABLE, too_slow))) {
        Ok(page) => ([(CONTENT_SECURITY_POLICY, templates::player_policy())], Html(page)).into_response(),
        Err(PageError { status, message }) => (status, Html(templates::not_found_page(&message))).into_response(),
    }
}

async fn render_conversation(state: &HttpState, caller: &Caller, query: &SegmentQuery) -> Result<String, PageError> {
    let entry = state.reader.read_segment(caller, &query.segment, Some(&query.account)).await?;
    let dialog = match &entry.segment.dialog_id {
        Some(dialog) => state.reader.dialog_entries(caller, dialog).await?,
        None => Vec::new(),
    };
    let accounts = state.reader.scope(caller, std::slice::from_ref(&query.account)).await?;
    let SegmentEntry { segment, slots } = entry;
    Ok(templates::conversation_page(&ConversationView {
        segment: &segment,
        slots: &slots,
        dialog: &dialog.into_iter().map(|entry| entry.segment).collect::<Vec<_>>(),
        may_listen: caller.may_listen(&segment),
        account: accounts.accounts().first().and_then(|account| account.name.as_deref()),
        now: state.app.clock.now(),
    }))
}
