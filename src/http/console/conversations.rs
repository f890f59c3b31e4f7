//! The view of conversations: a list to browse and to search, and one conversation to read.
//!
//! It writes nothing but the access log, and an answer leaves only when its entry is stored. Where the
//! settings let nobody in, these pages do not exist. What a person searches for is never in the
//! program's log.

mod list_page;
mod reading_page;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde::Deserialize;

use super::frame::View;
use super::view::{self, Format, respond};
use super::viewer::{self, Viewer};
use crate::access::Caller;
use crate::archive_reader::{
    ConversationQuestion, DialogPhraseView, PageRequest, ReadError, ReadingView, SegmentFilter, format_offset,
};
use crate::clock::Time;
use crate::http::api::problem::Problem;
use crate::http::state::HttpState;
use crate::model::{Artifact, ArtifactSet};
use crate::render::caption;
use crate::search::SortOrder;

/// Conversations on a page.
const PAGE_SIZE: usize = 25;
/// How long reading a conversation may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The routes; empty where the settings let nobody in.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    if state.authenticator.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/conversations", get(list))
        .route("/conversations.json", get(list))
        .route("/search", get(list))
        .route("/dialogs/{id}", get(read_dialog))
        .route("/conversation", get(read_segment))
        .route("/conversation.json", get(read_segment))
        .layer(middleware::from_fn_with_state(state.clone(), viewer::require_reader))
}

/// The parameters of the list: the words, the filters, and the place.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListParameters {
    pub(super) q: String,
    pub(super) account: String,
    pub(super) agent: String,
    pub(super) channel: String,
    pub(super) direction: String,
    pub(super) disposition: String,
    pub(super) has: String,
    pub(super) from: String,
    pub(super) to: String,
    /// `newest`, or empty for the best first.
    pub(super) sort: String,
    pub(super) cursor: String,
}

impl ListParameters {
    /// The parameters with their names, without the place.
    pub(super) fn pairs(&self) -> [(&'static str, &str); 10] {
        [
            ("q", &self.q),
            ("account", &self.account),
            ("agent", &self.agent),
            ("channel", &self.channel),
            ("direction", &self.direction),
            ("disposition", &self.disposition),
            ("has", &self.has),
            ("from", &self.from),
            ("to", &self.to),
            ("sort", &self.sort),
        ]
    }

    fn question(&self, now: Time) -> Result<(ConversationQuestion, PageRequest), Problem> {
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut names = self.has.split(',').map(str::trim).filter(|name| !name.is_empty());
        let has = names.try_fold(ArtifactSet::NONE, |set, name| {
            let known = Artifact::ALL.into_iter().find(|artifact| artifact.name() == name);
            known.map(|artifact| set.with(artifact)).ok_or_else(|| Problem::bad_request("has names no artifact"))
        })?;
        let filter = SegmentFilter {
            from: parse_time(&self.from, false, now)?,
            to: parse_time(&self.to, true, now)?,
            accounts: text(&self.account).into_iter().collect(),
            agent: text(&self.agent),
            channel: text(&self.channel),
            direction: text(&self.direction),
            disposition: text(&self.disposition),
            has,
            ..SegmentFilter::default()
        };
        let order = if self.sort == "newest" { SortOrder::Newest } else { SortOrder::Best };
        let question = ConversationQuestion { text: text(&self.q), filter, order };
        let asked = serde_json::to_string(&self.pairs()).unwrap_or_default();
        let page = PageRequest { limit: PAGE_SIZE, cursor: text(&self.cursor), question: asked };
        Ok((question, page))
    }
}

/// A time of a filter: a day of a browser's date field, which is meant as a whole, or what the API takes.
fn parse_time(text: &str, is_end: bool, now: Time) -> Result<Option<Time>, Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(day) = Time::parse(&format!("{text}T00:00:00Z")) {
        return Ok(Some(if is_end { day + Duration::from_secs(86_400) } else { day }));
    }
    let parsed = crate::config::parse_time(text, now);
    parsed.map(Some).map_err(|why| Problem::bad_request(format!("a time is not valid: {why}")))
}

async fn list(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    Extension(caller): Extension<Caller>,
    format: Format,
    uri: Uri,
) -> Response {
    let (parameters, valid): (ListParameters, _) = view::parameters(&uri);
    let found = async {
        valid?;
        let (question, page) = parameters.question(state.app.clock.now())?;
        Ok::<_, Problem>(state.reader.conversations(&caller, &question, &page).await?)
    };
    let found = found.await;
    let status = match &found {
        Ok(_) => StatusCode::OK,
        Err(problem) => StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::BAD_REQUEST),
    };
    match (found, format) {
        (Ok(list), Format::Json) => Json(list).into_response(),
        (Err(problem), Format::Json) => problem.into_response(),
        // Also with a problem: the form stays, so that the words can be corrected.
        (found, Format::Page) => {
            let content = list_page::render(&parameters, found.as_ref());
            (status, Html(state.frame(&viewer, View::Conversations).await.render("Conversations", &content)))
                .into_response()
        }
    }
}

/// The parameters of a conversation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReadingParameters {
    pub(super) account: String,
    pub(super) segment: String,
    /// Words to highlight.
    pub(super) q: String,
    /// An older version of an artifact.
    pub(super) artifact: String,
    pub(super) version: String,
}

/// A format of a whole dialog, by the end of its path.
fn caption_format(id: &str) -> Option<(&str, &'static str)> {
    let formats = [(".txt", "text/plain"), (".srt", "application/x-subrip"), (".vtt", "text/vtt")];
    formats.into_iter().find_map(|(ending, media)| Some((id.strip_suffix(ending)?, media)))
}

async fn read_dialog(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    Extension(caller): Extension<Caller>,
    format: Format,
    Path(id): Path<String>,
    uri: Uri,
) -> Response {
    let (parameters, valid): (ReadingParameters, _) = view::parameters(&uri);
    if let Err(problem) = valid {
        return problem.into_response();
    }
    if let Some((id, media)) = caption_format(&id) {
        let reading = within_time(open_dialog(&state, &caller, id, &parameters)).await;
        return reading.map_or_else(Problem::into_response, |reading| download(&reading, media));
    }
    let id = format.strip(&id).to_owned();
    let reading = within_time(open_dialog(&state, &caller, &id, &parameters)).await;
    respond(&state, &viewer, (View::Conversations, format), reading, |reading| {
        (
            "Conversation".to_owned(),
            reading_page::render(reading, &parameters, &[], &|segment| caller.may_listen(segment)),
        )
    })
    .await
}

async fn open_dialog(
    state: &HttpState,
    caller: &Caller,
    id: &str,
    parameters: &ReadingParameters,
) -> Result<ReadingView, ReadError> {
    let entries = state.reader.read_dialog(caller, id).await?;
    ReadingView::new(Some(id), entries, Vec::new(), words(parameters))
}

async fn read_segment(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    Extension(caller): Extension<Caller>,
    format: Format,
    uri: Uri,
) -> Response {
    let (parameters, valid): (ReadingParameters, _) = view::parameters(&uri);
    if let Err(problem) = valid {
        return problem.into_response();
    }
    let mut siblings = Vec::new();
    let reading = async {
        let account = Some(parameters.account.as_str()).filter(|account| !account.is_empty());
        let version = parse_version(&parameters)?;
        let entry = state.reader.read_segment_version(&caller, &parameters.segment, account, version).await?;
        if let Some(dialog) = &entry.segment.dialog_id {
            siblings = state.reader.dialog_segments(&caller, dialog).await?;
        }
        let versions = state.reader.versions(&entry).await?;
        let dialog = entry.segment.dialog_id.clone();
        ReadingView::new(dialog.as_deref(), vec![entry], versions, words(&parameters))
    };
    let reading = within_time(reading).await;
    respond(&state, &viewer, (View::Conversations, format), reading, |reading| {
        (
            "Conversation".to_owned(),
            reading_page::render(reading, &parameters, &siblings, &|segment| caller.may_listen(segment)),
        )
    })
    .await
}

fn words(parameters: &ReadingParameters) -> Option<&str> {
    Some(parameters.q.trim()).filter(|words| !words.is_empty())
}

fn parse_version(parameters: &ReadingParameters) -> Result<Option<(Artifact, i64)>, ReadError> {
    if parameters.version.is_empty() {
        return Ok(None);
    }
    // A recording has one object, whatever its versions.
    let mut texts = Artifact::ALL.into_iter().filter(|artifact| *artifact != Artifact::Recording);
    let artifact = texts.find(|artifact| artifact.name() == parameters.artifact);
    let version = artifact.zip(parameters.version.parse().ok());
    version.map(Some).ok_or_else(|| ReadError::not_found("there is no such version"))
}

async fn within_time<T>(read: impl Future<Output = Result<T, ReadError>>) -> Result<T, Problem> {
    match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(read) => read.map_err(Problem::from),
        Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "it takes too long to read the conversation")
            .with_hint("try again in a moment")),
    }
}

/// A whole dialog as a file of text or captions.
fn download(reading: &ReadingView, media: &'static str) -> Response {
    let text = match media {
        "application/x-subrip" => caption::to_srt(&reading.captions()),
        "text/vtt" => caption::to_webvtt(&reading.captions()),
        _ => {
            let line = |DialogPhraseView { phrase, .. }: &DialogPhraseView| {
                let offset = phrase.offset_ms.map(|millis| format!("{} ", format_offset(millis))).unwrap_or_default();
                let text = phrase.text.split_whitespace().collect::<Vec<_>>().join(" ");
                format!("{offset}{}: {text}\n", phrase.speaker)
            };
            reading.phrases.iter().map(line).collect()
        }
    };
    let headers = [(CONTENT_TYPE, format!("{media}; charset=utf-8")), (CONTENT_DISPOSITION, "attachment".to_owned())];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_meant_as_a_whole() {
        let now = Time::parse("2026-11-20T10:00:00Z").unwrap();
        let parse = |text: &str, is_end| parse_time(text, is_end, now).unwrap().map(Time::rfc3339_secs);
        assert_eq!(parse("2026-11-20", false).as_deref(), Some("2026-11-20T00:00:00Z"));
        assert_eq!(parse("2026-11-20", true).as_deref(), Some("2026-11-21T00:00:00Z"));
        assert_eq!(parse("7d", false).as_deref(), Some("2026-11-13T10:00:00Z"));
        assert_eq!(parse(" ", true), None);
        assert!(parse_time("soon", false, now).is_err());
    }

    #[test]
    fn the_end_of_a_path_chooses_the_format_of_a_dialog() {
        assert_eq!(caption_format("a.b.srt"), Some(("a.b", "application/x-subrip")));
        assert_eq!(caption_format("a.json"), None);
        assert_eq!(caption_format("a"), None);
    }
}
