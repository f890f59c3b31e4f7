//! Interaction metadata: the segments that ended in a window.
//!
//! The answer is one JSON array without paging. It is parsed as a stream and sent in batches
//! through a bounded channel. So memory does not grow with the answer, and a slow receiver slows
//! down the network. Records that were sent before an answer broke off may be sent again later.
//! Only `Ok` means that the whole window was read.

use std::io::{self, BufRead, BufReader};

use encoding_rs_io::DecodeReaderBytesBuilder;
use futures_util::{StreamExt, TryStreamExt, stream as futures_stream};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use crate::charset::Charset;
use crate::clock::Time;
use crate::model::{AccountId, Endpoint, QuarantinedRecord, SegmentRecord, Window};

use super::api_call::{ApiCall, ApiResponse};
use super::error::{ApiError, ErrorCause};
use super::rate_limit::{Pacer, Permit, ReservedQuota};
use super::{ApiClient, Login, checked_path_segment};

mod record;
mod stream;
#[cfg(test)]
mod tests;

/// The longest duration of one answer, as a multiple of the idle time-out.
const MAX_ANSWER_IDLE_TIMEOUTS: u32 = 120;

/// One element of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ParsedRecord {
    /// A segment.
    Segment(SegmentRecord),
    /// An element that could not be understood, to be quarantined.
    Quarantined(QuarantinedRecord),
}

/// Parses one element as received. `None` if it cannot be understood.
pub fn parse_segment_record(raw: &str) -> Option<SegmentRecord> {
    match record::parse_record(raw.as_bytes().to_vec()) {
        ParsedRecord::Segment(segment) => Some(segment),
        ParsedRecord::Quarantined(_) => None,
    }
}

/// The totals of a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadSummary {
    /// Its elements, quarantined ones included.
    pub announced: u64,
    /// The quarantined elements.
    pub quarantined: u64,
    /// Its size after decoding.
    pub bytes: u64,
}

/// Reads one window of a sub-account (contract.md, Interaction metadata). `quota` is reserved
/// before each send. The records are sent to `records` in batches of some hundreds, in the answer's
/// order.
///
/// # Errors
/// By [`ApiError::fault`]. [`ErrorCause::ConnectionLost`] and [`ErrorCause::TimedOut`] with a
/// status are answers that ended early, which a narrower window may avoid.
/// [`ErrorCause::ReservationFailed`] where the send could not be reserved: nothing was sent.
/// [`ErrorCause::ReceiverDropped`] where the receiver was dropped.
#[expect(clippy::too_many_arguments, reason = "all are distinct, and a struct would only be destructured")]
pub async fn read_metadata(
    api: &ApiClient,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
    quota: &ReservedQuota,
    account: &AccountId,
    window: Window,
    records: mpsc::Sender<Vec<ParsedRecord>>,
) -> Result<ReadSummary, ApiError> {
    let endpoint = Endpoint::Metadata;
    let url = format!(
        "{}/voice/api/cx/integration/v1/accounts/{}/sub-accounts/{}/interaction-metadata",
        api.hosts().ringcx,
        checked_path_segment(endpoint, &account.rc)?,
        checked_path_segment(endpoint, &account.sub)?,
    );
    let body = json!({
        "segmentEndTime": format_api_time(window.begin()),
        "timeInterval": window.seconds,
        "timeZone": "UTC",
    });
    let call = ApiCall { api, login, pacer, endpoint, quota: Some(quota) };
    let answer = call.send(permit, |token| Ok(token.authorise(api.bulk_client().post(&url)).json(&body))).await?;
    let status = answer.status();
    let read = async {
        answer.check_content_encoding()?;
        stream_records(answer, api.idle_timeout(), records).await
    };
    match tokio::time::timeout(api.idle_timeout().saturating_mul(MAX_ANSWER_IDLE_TIMEOUTS), read).await {
        Ok(outcome) => outcome.map_err(|error| error.with_status(status)),
        Err(_) => Err(ApiError::timed_out(endpoint, "the answer came too slowly").with_status(status)),
    }
}

/// The API's format of times: UTC, whole seconds.
fn format_api_time(time: Time) -> String {
    time.timestamp().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Reads a body on a blocking thread, because the stream parser blocks.
async fn stream_records(
    answer: ApiResponse,
    idle_timeout: std::time::Duration,
    records: mpsc::Sender<Vec<ParsedRecord>>,
) -> Result<ReadSummary, ApiError> {
    let charset = answer.charset();
    let stop = CancellationToken::new();
    // If this future is dropped, the body ends for the thread.
    let _guard = stop.clone().drop_guard();
    let (response, socket) = answer.into_parts();
    let chunks = response.bytes_stream().map_err(BodyReadError::Transport).boxed();
    // The time-out runs only while the next chunk is awaited, not while the receiver is busy. The
    // socket's slot ends with the body.
    let timed = futures_stream::unfold((chunks, socket), move |(mut chunks, socket)| async move {
        match tokio::time::timeout(idle_timeout, chunks.next()).await {
            Ok(next) => next.map(|next| (next, (chunks, socket))),
            Err(_) => Some((Err(BodyReadError::Idle), (futures_stream::empty().boxed(), None))),
        }
    });
    let body = StreamReader::new(timed.take_until(stop.cancelled_owned()).map_err(io::Error::other).boxed());
    let body = SyncIoBridge::new(body);
    let read = tokio::task::spawn_blocking(move || stream::read(decode_utf8(body, charset)?, &records));
    match read.await {
        Ok(outcome) => outcome.map_err(into_api_error),
        Err(_) => Err(ApiError::undecodable(Endpoint::Metadata, "its reader failed")),
    }
}

/// The body as UTF-8, decoded as a stream. Invalid bytes stay as they are.
fn decode_utf8(body: impl io::Read, charset: Option<Charset>) -> Result<impl io::Read, stream::StreamError> {
    let mut body = BufReader::new(body);
    let encoding = match charset {
        Some(charset) => Some(charset.encoding_for(body.fill_buf().map_err(stream::StreamError::Body)?)),
        None => None,
    };
    let mut decoder = DecodeReaderBytesBuilder::new();
    Ok(decoder.encoding(encoding).bom_override(true).strip_bom(true).utf8_passthru(true).build(body))
}

/// The stream parser alone, for the fuzzer.
#[cfg(fuzzing)]
pub(super) fn read(body: impl io::Read, sender: &mpsc::Sender<Vec<ParsedRecord>>) -> Option<ReadSummary> {
    stream::read(body, sender).ok()
}

/// Why a body ended early, passed through the parser inside an I/O error.
#[derive(Debug, thiserror::Error)]
enum BodyReadError {
    #[error("broken off")]
    Transport(reqwest::Error),
    #[error("idle")]
    Idle,
}

fn into_api_error(error: stream::StreamError) -> ApiError {
    let endpoint = Endpoint::Metadata;
    match error {
        stream::StreamError::ReceiverDropped => ApiError::receiver_dropped(endpoint),
        stream::StreamError::RecordTooLarge => ApiError::too_large(
            endpoint,
            "one record of the answer, with the white space before it, is larger than 16 MB",
        ),
        stream::StreamError::Undecodable(why) => ApiError::undecodable(endpoint, why),
        stream::StreamError::Truncated => {
            let mut error = ApiError::undecodable(endpoint, "it ends before its array does");
            error.cause = ErrorCause::ConnectionLost;
            error
        }
        stream::StreamError::Body(error) => match error.downcast::<BodyReadError>() {
            Ok(BodyReadError::Transport(error)) => ApiError::from_transport(endpoint, error),
            Ok(BodyReadError::Idle) => ApiError::timed_out(endpoint, "the answer stopped coming"),
            Err(_) => ApiError::undecodable(endpoint, "it could not be read"),
        },
    }
}
