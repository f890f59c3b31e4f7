//! The audio of a segment: streamed from the recording store, whole or a range.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa::ToSchema;

use super::answers::file_name;
use super::parameters::RecordingParameters;
use super::problem::{ApiPath, ApiQuery, Problem, Problems};
use crate::access::Caller;
use crate::http::byte_range::{RequestedBytes, requested_bytes};
use crate::http::state::HttpState;

/// Lets a browser play the audio on a page of its own, which it makes for a link to it.
const PLAYER_POLICY: &str = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// The bytes of a recording.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it is only a part of the description")]
pub(super) struct Audio(Vec<u8>);

/// Get the recording of a segment.
///
/// It needs a role with `listen`. A single range (`Range: bytes=…`) is answered with 206, and `If-Range`
/// with the `ETag` makes sure that the parts belong together. The ranges of a player are one entry of the
/// access log, a new one every ten minutes.
#[utoipa::path(get, path = "/segments/{id}/recording", tag = "conversations",
    params(("id" = String, Path, description = "The segment's id"), RecordingParameters,
        ("Range" = Option<String>, Header, description = "`bytes=first-last`, `bytes=first-` or `bytes=-length`"),
        ("If-Range" = Option<String>, Header, description = "The `ETag` of the parts before")),
    responses(
        (status = 200, description = "The audio", content((Audio = "audio/wav"), (Audio = "audio/mpeg")), headers(("ETag" = String, description = "The SHA-256 of the audio"), ("Accept-Ranges" = String), ("Content-Disposition" = String))),
        (status = 206, description = "A range of the audio", content((Audio = "audio/wav"), (Audio = "audio/mpeg")), headers(("Content-Range" = String))),
        (status = 304, description = "The client has this audio: `If-None-Match`"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several accounts have a segment with this id"),
        (status = 416, body = Problem, content_type = "application/problem+json", description = "The range begins after the end"),
        Problems))]
pub(super) async fn get_recording(
    State(state): State<Arc<HttpState>>,
    Extension(caller): Extension<Caller>,
    method: Method,
    headers: HeaderMap,
    ApiPath(id): ApiPath,
    ApiQuery(parameters): ApiQuery<RecordingParameters>,
) -> Result<Response, Problem> {
    let found = state.reader.find_recording(&caller, &id, parameters.account.as_deref()).await?;
    let reference = &found.reference;
    let (size, tag) = (reference.bytes, format!("\"{}\"", reference.sha256));
    let wanted = requested_bytes(&method, &headers, size, &tag);
    let range = match wanted {
        RequestedBytes::NotModified | RequestedBytes::Unsatisfiable => {
            state.reader.record_facts_of_recording(&caller, &found).await?;
            let mut response = if wanted == RequestedBytes::NotModified {
                StatusCode::NOT_MODIFIED.into_response()
            } else {
                let why = "the range begins after the end of the recording";
                let mut refusal = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, why).into_response();
                set(refusal.headers_mut(), CONTENT_RANGE, &format!("bytes */{size}"));
                refusal
            };
            set(response.headers_mut(), ETAG, &tag);
            return Ok(response);
        }
        RequestedBytes::Part(range) => Some(range),
        RequestedBytes::Whole => None,
    };
    let body = if method == Method::HEAD {
        state.reader.record_facts_of_recording(&caller, &found).await?;
        Body::empty()
    } else {
        Body::from_stream(state.reader.open_recording(&caller, &found, range.clone()).await?)
    };
    let mut response = Response::new(body);
    let length = range.as_ref().map_or(size, |range| range.end - range.start);
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(response.headers_mut(), CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    let disposition = format!("inline; filename=\"{}\"", file_name(&id, reference.extension()));
    for (name, value) in [
        (CONTENT_TYPE, reference.media_type.as_str()),
        (CONTENT_LENGTH, &length.to_string()),
        (ACCEPT_RANGES, "bytes"),
        (ETAG, &tag),
        (CONTENT_DISPOSITION, &disposition),
        (CONTENT_SECURITY_POLICY, PLAYER_POLICY),
    ] {
        set(response.headers_mut(), name, value);
    }
    Ok(response)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Numbers, hashes and names without special characters: they are always valid.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
