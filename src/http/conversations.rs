//! The pages with conversations, for callers that may read them: search and conversation.
//!
//! They write nothing but the access log, and an answer leaves only when its entry is stored. Where
//! the settings let nobody in, these pages do not exist, and no other page mentions them. Nothing
//! that a user searches for is in the program's log. The pages have no script.

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

use crate::access::{AccessAction, AccessSubject, Caller};
use crate::clock::Time;
use crate::db::{AccountKey, AccountRow, Db, DbError, DeletionReason, SegmentRow};
use crate::export::SegmentEntry;
use crate::health::humanize::format_number;
use crate::search::{self, Filters, Query as SearchQuery, QueryError, SearchResults, SortOrder};

use super::login;
use super::state::HttpState;
use super::templates::{self, ConversationView, SearchForm, SearchOutcome};
use super::visible_hits;

const MAX_HITS: usize = 50;
/// How long a search, or reading a conversation, may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);

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
        router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)))
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
    let search = async {
        let _permit = state.search_permits.acquire().await.map_err(|_| PageError::search_too_slow())?;
        run_search(&state, &caller, &form).await
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

async fn run_search(
    state: &HttpState,
    caller: &Caller,
    form: &SearchForm,
) -> Result<(SearchResults, Vec<AccountRow>, Option<String>), PageError> {
    let db = &state.app.db;
    let bad_query = |error: QueryError| PageError::bad_request(format!("{error}\nhint: {}", error.hint()));
    let query: SearchQuery = search::parse(&form.q).map_err(bad_query)?;
    let mut accounts = db.accounts().await?;
    accounts.retain(|account| caller.sees_account(&account.id.sub));
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
    let results = visible_hits::find(db, caller, &accounts, &query, &filters, order, MAX_HITS).await?;
    let sub =
        account.and_then(|key| accounts.iter().find(|account| account.key == key)).map(|account| &*account.id.sub);
    let subject = AccessSubject::Query { text: &describe_search(form), sub, hits: results.hits.len() as u64 };
    state.access_log.record(caller, AccessAction::Search, subject).await?;
    Ok((results, accounts, index_state))
}

/// A search as the access log has it: the query and the filters.
fn describe_search(form: &SearchForm) -> String {
    let fields = [
        ("account", &form.account),
        ("agent", &form.agent),
        ("channel", &form.channel),
        ("from", &form.from),
        ("to", &form.to),
    ];
    let filters = fields.iter().filter(|(_, value)| !value.trim().is_empty());
    filters.fold(form.q.trim().to_owned(), |text, (name, value)| format!("{text} {name}={}", value.trim()))
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
    Extension(caller): Extension<Caller>,
    query: Result<Query<SegmentQuery>, QueryRejection>,
) -> Response {
    let page = async {
        let Query(query) =
            query.map_err(|_| PageError::bad_request("expected the parameters `account` and `segment`"))?;
        render_conversation(&state, &caller, &query).await
    };
    let too_slow = "failed to read the conversation: it takes too long\nhint: try again in a moment";
    let page = tokio::time::timeout(SEARCH_TIMEOUT, page).await;
    match page.unwrap_or_else(|_| Err(PageError::new(StatusCode::SERVICE_UNAVAILABLE, too_slow))) {
        Ok(page) => Html(page).into_response(),
        Err(PageError { status, message }) => (status, Html(templates::not_found_page(&message))).into_response(),
    }
}

async fn render_conversation(state: &HttpState, caller: &Caller, query: &SegmentQuery) -> Result<String, PageError> {
    let db = &state.app.db;
    // What the caller must not see is answered like what does not exist.
    if !caller.sees_account(&query.account) {
        return Err(no_such_conversation());
    }
    let accounts = db.accounts().await?;
    let account = accounts.iter().find(|account| *account.id.sub == *query.account).ok_or_else(no_such_conversation)?;
    let is_of_account = |segment: &SegmentRow| segment.account_key == account.key;
    let Some(segment) = db.segments_by_id(&query.segment).await?.into_iter().find(is_of_account) else {
        return Err(missing_segment(db, caller, account, &query.segment).await?);
    };
    if !caller.sees_segment(&segment) {
        return Err(no_such_conversation());
    }
    let mut dialog = match &segment.dialog_id {
        Some(dialog) => db.segments_of_dialog(dialog).await?,
        None => Vec::new(),
    };
    dialog.retain(|segment| caller.sees_segment(segment));
    let slots = db.segment_artifacts(std::slice::from_ref(&segment)).await?;
    let slots = slots.into_iter().next().ok_or_else(no_such_conversation)?;
    let redactor = caller.segment_redactor(&segment);
    let SegmentEntry { segment, slots } = SegmentEntry { segment, slots }.redact(&redactor);
    let subject = AccessSubject::Segment { sub: &segment.account.sub, id: &segment.segment_id };
    state.access_log.record(caller, AccessAction::Read, subject).await?;
    Ok(templates::conversation_page(&ConversationView {
        segment: &segment,
        slots: &slots,
        dialog: &dialog,
        account: account.name.as_deref(),
        now: state.app.clock.now(),
    }))
}

/// Why a segment of an account is not in the archive. What was erased had a channel that is no
/// longer known, so only a caller that sees all of them learns about it.
async fn missing_segment(
    db: &Db,
    caller: &Caller,
    account: &AccountRow,
    segment_id: &str,
) -> Result<PageError, DbError> {
    if !caller.sees_all_channels(&account.id.sub) {
        return Ok(no_such_conversation());
    }
    Ok(match db.tombstone(segment_id, Some(account.key)).await? {
        Some(tombstone) => {
            let why = match tombstone.reason {
                DeletionReason::Erased => "was erased on request",
                DeletionReason::Expired => "was removed by retention",
            };
            let message = format!("this conversation {why}, at {}", tombstone.at.rfc3339_secs());
            PageError::new(StatusCode::NOT_FOUND, message)
        }
        None => no_such_conversation(),
    })
}

fn no_such_conversation() -> PageError {
    PageError::new(StatusCode::NOT_FOUND, "there is no such conversation in the archive")
}
