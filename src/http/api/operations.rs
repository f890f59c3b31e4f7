//! The operations that read. Each says in one place what it is called, takes and answers.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::answers::{file_name, lines_of_pages, wants_lines};
use super::feed_stream;
use super::parameters::{
    AccessLogParameters, AuditParameters, FeedParameters, NoParameters, SearchParameters, SegmentParameters,
    SegmentsParameters, TranscriptParameters, negotiate, parse_artifacts,
};
use super::problem::{ApiPath, ApiQuery, Problem, Problems};
use crate::access::{AccessEntry, Caller};
use crate::archive_reader::{
    AccountView, DialogView, FeedAnswer, Page, PageRequest, SearchAnswer, SegmentView, TranscriptView,
};
use crate::http::state::HttpState;
use crate::render::caption;

type ApiState = State<Arc<HttpState>>;
type ApiResult<T> = Result<axum::Json<T>, Problem>;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const SRT: &str = "application/x-subrip";
const WEBVTT: &str = "text/vtt";

/// List the accounts with their state.
#[utoipa::path(get, path = "/accounts", tag = "accounts", responses((status = 200, body = Page<AccountView>), Problems))]
pub(super) async fn list_accounts(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    _: ApiQuery<NoParameters>,
) -> ApiResult<Page<AccountView>> {
    Ok(axum::Json(Page { items: state.reader.accounts(&caller).await?, next: None }))
}

/// Get one account, by sub-account id or name.
#[utoipa::path(get, path = "/accounts/{sub}", tag = "accounts",
    params(("sub" = String, Path, description = "The sub-account's id, or the account's name")),
    responses((status = 200, body = AccountView), Problems))]
pub(super) async fn get_account(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    ApiPath(sub): ApiPath,
    _: ApiQuery<NoParameters>,
) -> ApiResult<AccountView> {
    Ok(axum::Json(state.reader.account(&caller, &sub).await?))
}

/// List segments with metadata and outcomes, in order of their end.
///
/// With `Accept: application/jsonl` the answer is a stream with one segment a line, from `cursor` to
/// the end, or of `limit` segments.
#[utoipa::path(get, path = "/segments", tag = "conversations", params(SegmentsParameters),
    responses((status = 200, content((Page<SegmentView> = "application/json"), (String = "application/jsonl"))), Problems))]
pub(super) async fn list_segments(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiQuery(parameters): ApiQuery<SegmentsParameters>,
) -> Result<Response, Problem> {
    let (filter, page, expand) = parameters.question(state.reader.now())?;
    if !wants_lines(&headers)? {
        return Ok(axum::Json(state.reader.segments(&caller, &filter, &page, expand).await?).into_response());
    }
    lines_of_pages(page.cursor.clone(), parameters.asked_limit(), move |cursor, limit| {
        let (state, caller, filter) = (state.clone(), caller.clone(), filter.clone());
        let page = PageRequest { cursor, limit, ..page.clone() };
        async move {
            let found = state.reader.segments(&caller, &filter, &page, expand).await?;
            Ok((found.items, found.next))
        }
    })
    .await
}

/// Get one segment.
#[utoipa::path(get, path = "/segments/{id}", tag = "conversations",
    params(("id" = String, Path, description = "The segment's id"), SegmentParameters),
    responses((status = 200, body = SegmentView), (status = 409, body = Problem, content_type = "application/problem+json", description = "Several accounts have a segment with this id"), Problems))]
pub(super) async fn get_segment(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    ApiPath(id): ApiPath,
    ApiQuery(parameters): ApiQuery<SegmentParameters>,
) -> ApiResult<SegmentView> {
    let expand = parse_artifacts("expand", &parameters.expand)?;
    Ok(axum::Json(state.reader.segment(&caller, &id, parameters.account.as_deref(), expand).await?))
}

/// Get the transcript of a segment.
///
/// `Accept` chooses the format: `application/json`, `text/plain`, `application/x-subrip` (SRT) or
/// `text/vtt` (WebVTT). The captions of SRT and WebVTT are timed from the start of the segment, as its
/// recording is.
#[utoipa::path(get, path = "/segments/{id}/transcript", tag = "conversations",
    params(("id" = String, Path, description = "The segment's id"), TranscriptParameters),
    responses(
        (status = 200, content((TranscriptView = "application/json"), (String = "text/plain"), (String = "application/x-subrip"), (String = "text/vtt"))),
        (status = 406, body = Problem, content_type = "application/problem+json", description = "There is no such format"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several accounts have a segment with this id"),
        Problems))]
pub(super) async fn get_transcript(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(id): ApiPath,
    ApiQuery(parameters): ApiQuery<TranscriptParameters>,
) -> Result<Response, Problem> {
    let (format, extension) = transcript_format(&headers, parameters.format.as_deref())?;
    let transcript = state.reader.transcript(&caller, &id, parameters.account.as_deref()).await?;
    let disposition = format!("attachment; filename=\"{}\"", file_name(&id, extension));
    let disposition = parameters.format.map(|_| [(CONTENT_DISPOSITION, disposition)]);
    if format == JSON {
        return Ok(([(VARY, "accept")], disposition, axum::Json(transcript)).into_response());
    }
    if !transcript.is_stored() {
        let why = format!("the transcript is not stored: {}", transcript.outcome.replace('_', " "));
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    let text = match format {
        SRT => caption::to_srt(&transcript.captions),
        WEBVTT => caption::to_webvtt(&transcript.captions),
        _ => transcript.to_text(),
    };
    let headers = [(VARY, "accept".to_owned()), (CONTENT_TYPE, format!("{format}; charset=utf-8"))];
    Ok((headers, disposition, text).into_response())
}

/// The format of a transcript with the extension of its file: as `format` says, else as `Accept` does.
fn transcript_format(headers: &HeaderMap, asked: Option<&str>) -> Result<(&'static str, &'static str), Problem> {
    const FORMATS: [(&str, &str, &str); 4] =
        [("json", JSON, "json"), ("text", TEXT, "txt"), ("srt", SRT, "srt"), ("vtt", WEBVTT, "vtt")];
    let found = match asked {
        Some(asked) => Some(
            FORMATS
                .into_iter()
                .find(|(name, ..)| *name == asked)
                .ok_or_else(|| Problem::bad_request("format must be `json`, `text`, `srt` or `vtt`"))?,
        ),
        None => {
            let media = negotiate(headers, &FORMATS.map(|(_, media, _)| media));
            FORMATS.into_iter().find(|(_, known, _)| Some(*known) == media)
        }
    };
    let none = || {
        Problem::new(StatusCode::NOT_ACCEPTABLE, "a transcript has none of the accepted formats")
            .with_hint(format!("accept {JSON}, {TEXT}, {SRT} or {WEBVTT}"))
    };
    found.map(|(_, media, extension)| (media, extension)).ok_or_else(none)
}

/// Get a whole conversation over its segments.
#[utoipa::path(get, path = "/dialogs/{id}", tag = "conversations",
    params(("id" = String, Path, description = "The dialog's id")),
    responses((status = 200, body = DialogView), Problems))]
pub(super) async fn get_dialog(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    ApiPath(id): ApiPath,
    _: ApiQuery<NoParameters>,
) -> ApiResult<DialogView> {
    Ok(axum::Json(state.reader.dialog(&caller, &id).await?))
}

/// Search transcripts, summaries and notes.
///
/// `total` is exact up to 10,000. With `Accept: application/jsonl` the answer is a stream with one
/// hit a line, of all hits or of `limit`.
#[utoipa::path(get, path = "/search", tag = "conversations", params(SearchParameters),
    responses((status = 200, content((SearchAnswer = "application/json"), (String = "application/jsonl"))), Problems))]
pub(super) async fn search(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiQuery(parameters): ApiQuery<SearchParameters>,
) -> Result<Response, Problem> {
    let (question, page) = parameters.question(state.reader.now())?;
    if !wants_lines(&headers)? {
        return Ok(axum::Json(state.reader.search(&caller, &question, &page).await?).into_response());
    }
    lines_of_pages(page.cursor.clone(), parameters.asked_limit(), move |cursor, limit| {
        let (state, caller, question) = (state.clone(), caller.clone(), question.clone());
        let page = PageRequest { cursor, limit, ..page.clone() };
        async move {
            let found = state.reader.search(&caller, &question, &page).await?;
            Ok((found.hits, found.next))
        }
    })
    .await
}

/// Follow what is new: stored artifacts and erasures, as events.
///
/// Pass `next` of each answer as `after` of the next request; one cursor covers all accounts.
#[utoipa::path(get, path = "/feed", tag = "feed", params(FeedParameters),
    responses((status = 200, body = FeedAnswer), Problems))]
pub(super) async fn feed(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    ApiQuery(parameters): ApiQuery<FeedParameters>,
) -> ApiResult<FeedAnswer> {
    Ok(axum::Json(feed_stream::next_events(&state, &caller, parameters.question()?).await?))
}

/// What was read of each account, as the audit shows it.
#[utoipa::path(get, path = "/coverage", tag = "completeness", params(AuditParameters),
    responses((status = 200, body = serde_json::Value), Problems))]
pub(super) async fn coverage(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    ApiQuery(parameters): ApiQuery<AuditParameters>,
) -> ApiResult<serde_json::Value> {
    let question = parameters.question(state.reader.now())?;
    Ok(axum::Json(state.reader.coverage(&caller, &question).await?))
}

/// Whether anything is missing, as `audit --json`.
#[utoipa::path(get, path = "/audit", tag = "completeness", params(AuditParameters),
    responses((status = 200, body = serde_json::Value), Problems))]
pub(super) async fn audit(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    ApiQuery(parameters): ApiQuery<AuditParameters>,
) -> ApiResult<serde_json::Value> {
    let question = parameters.question(state.reader.now())?;
    Ok(axum::Json(state.reader.audit(&caller, &question).await?))
}

/// The state of accounts, sinks, backfills and replicas, as `status --json`.
#[utoipa::path(get, path = "/status", tag = "completeness",
    responses((status = 200, body = serde_json::Value), Problems))]
pub(super) async fn status(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    _: ApiQuery<NoParameters>,
) -> ApiResult<serde_json::Value> {
    Ok(axum::Json(state.reader.status(&caller).await?))
}

/// Who read, searched, exported or erased what, in order of time.
///
/// It needs a role with `log` that is not limited to accounts or channels. Each request is an entry
/// itself.
#[utoipa::path(get, path = "/access-log", tag = "access", params(AccessLogParameters),
    responses((status = 200, body = Page<AccessEntry>), Problems))]
pub(super) async fn access_log(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    ApiQuery(parameters): ApiQuery<AccessLogParameters>,
) -> ApiResult<Page<AccessEntry>> {
    let (question, page) = parameters.question(state.reader.now())?;
    Ok(axum::Json(state.reader.access_log(&caller, &question, &page).await?))
}
