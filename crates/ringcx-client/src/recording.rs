//! Recordings: audio of any length, streamed to a writer and checked on the way.
//!
//! Memory does not grow with the recording, but the permitted time does.

mod audio_check;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_LENGTH};

use crate::backoff::Fault;
use crate::model::{AccountId, Endpoint};

use super::api_call::{ApiCall, ApiResponse, empty_answer_error, error_code_error};
use super::error::{ApiError, ErrorCause, MAX_CAPTURED_BODY_BYTES, printable_code};
use super::rate_limit::{Pacer, Permit};
use super::transcript::{ResponseShape, is_error_code};
use super::{ApiClient, Login, checked_path_segment};
use audio_check::AudioCheck;

pub use audio_check::AudioHeader;

/// A recording may take as long as a telephone call of its size plays...
const MIN_BYTES_PER_SECOND: u64 = 8_000;
/// ...and this time more...
const MIN_TIME: Duration = Duration::from_secs(60);
/// ...but not longer than this. Uploads that are a day old count as dead (`recordings::sweep`).
const MAX_TIME: Duration = Duration::from_secs(12 * 3600);

/// Which recording is requested, and how.
#[derive(Debug, Clone, Copy)]
pub struct RecordingRequest<'a> {
    /// The account.
    pub account: &'a AccountId,
    /// The dialog's id.
    pub dialog: &'a str,
    /// The segment's id.
    pub segment: &'a str,
    /// The media type to ask for.
    pub accept: &'static str,
    /// The largest accepted recording in bytes.
    pub max_bytes: u64,
}

/// Receives a recording in parts.
pub trait RecordingWriter: Send {
    /// Writes the next bytes. An error ends the request.
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// Fetches the recording of a segment (contract.md, Recordings), and writes it to `writer` while it
/// arrives. What was written counts only if this succeeds.
///
/// # Errors
/// By [`ApiError::fault`]. A body that is no audio, is cut off, or is shorter or longer than its
/// headers say is undecodable or incomplete, and holds the start of the body. One that keeps
/// arriving too slowly is a time-out. A 200 without content is [`Fault::NotYet`].
pub async fn fetch_recording(
    api: &ApiClient,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
    request: RecordingRequest<'_>,
    writer: &mut impl RecordingWriter,
) -> Result<AudioHeader, ApiError> {
    let endpoint = Endpoint::Recording;
    let encoded = |id| checked_path_segment(endpoint, id);
    let url = format!(
        "{}/voice/api/cx/integration/v1/accounts/{}/sub-accounts/{}/recordings/dialogs/{}/segments/{}",
        api.hosts().ringcx,
        encoded(&request.account.rc)?,
        encoded(&request.account.sub)?,
        encoded(request.dialog)?,
        encoded(request.segment)?,
    );
    let call = ApiCall { api, login, pacer, endpoint, quota: None };
    // Its own connections: a large body on a shared HTTP/2 connection would delay all other answers.
    let build =
        |token: &super::AccessToken| Ok(token.authorise(api.bulk_client().get(&url)).header(ACCEPT, request.accept));
    let answer = call.send(permit, build).await?;
    if answer.status() == StatusCode::NO_CONTENT {
        return Err(empty_answer_error(endpoint));
    }
    answer.check_content_encoding()?;
    let status = answer.status();
    let declared = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let limit = longest_time(declared.unwrap_or(request.max_bytes));
    let mut start = Vec::new();
    let streaming = stream_body(answer, declared, request.max_bytes, writer, &mut start);
    let streamed = match tokio::time::timeout(limit, streaming).await {
        Ok(streamed) => streamed,
        Err(_) => Err(ApiError::timed_out(endpoint, "the recording came too slowly")),
    };
    streamed.map_err(|error| match error.cause {
        // An error code in a 200 means that there is no recording yet.
        ErrorCause::Undecodable => error_in_json(&start).unwrap_or(error.with_status(status)).with_body_start(&start),
        ErrorCause::StoreFailed | ErrorCause::Empty => error,
        _ => error.with_status(status).with_body_start(&start),
    })
}

/// How long a body of this size may take.
fn longest_time(bytes: u64) -> Duration {
    (MIN_TIME + Duration::from_secs(bytes / MIN_BYTES_PER_SECOND)).min(MAX_TIME)
}

async fn stream_body(
    mut answer: ApiResponse,
    declared: Option<u64>,
    max_bytes: u64,
    writer: &mut impl RecordingWriter,
    start: &mut Vec<u8>,
) -> Result<AudioHeader, ApiError> {
    let endpoint = Endpoint::Recording;
    let too_large = || {
        let why = format!("the recording has more than the {max_bytes} bytes of recordings.max_bytes");
        ApiError::too_large(endpoint, &why)
    };
    if declared.is_some_and(|length| length > max_bytes) {
        return Err(too_large());
    }
    let (mut size, mut check) = (0_u64, AudioCheck::default());
    while let Some(chunk) = answer.next_chunk().await? {
        size += chunk.len() as u64;
        let kept = MAX_CAPTURED_BODY_BYTES.saturating_sub(start.len()).min(chunk.len());
        start.extend_from_slice(chunk.get(..kept).unwrap_or_default());
        if size > max_bytes {
            return Err(too_large());
        }
        check.push(&chunk).map_err(|why| ApiError::undecodable(endpoint, why))?;
        writer.write(chunk).await?;
    }
    if size == 0 {
        return Err(empty_answer_error(endpoint));
    }
    if declared.is_some_and(|length| length != size) {
        let why = "its length differs from the declared one";
        return Err(ApiError::new(Fault::Transient, endpoint, ErrorCause::ConnectionLost, why));
    }
    check.finish(size).map_err(|error| match error {
        audio_check::AudioFault::NotAudio(why) => ApiError::undecodable(endpoint, why),
        audio_check::AudioFault::CutOff => {
            let why = "the recording is shorter than its header says";
            ApiError::new(Fault::Transient, endpoint, ErrorCause::ConnectionLost, why)
        }
    })
}

/// The error of a 200 whose body is JSON with an error code in place of audio.
fn error_in_json(start: &[u8]) -> Option<ApiError> {
    let shape: ResponseShape = crate::lenient_json::from_slice(start)?;
    let code = shape.error_code.filter(is_error_code)?;
    Some(error_code_error(Endpoint::Recording, printable_code(&code)))
}
