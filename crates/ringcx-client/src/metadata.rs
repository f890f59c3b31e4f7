//! Interaction metadata: which segments ended in a window.
//!
//! The answer is one JSON array without paging, as large as the window is busy. It is parsed as it comes and handed on
//! in batches through a bounded channel, so that memory does not grow with it and a slow reader slows the network. What
//! was handed on before an answer broke off may be seen again later; only `Ok` says that the whole window was read.

use std::io::{self, BufRead, BufReader};

use encoding_rs_io::DecodeReaderBytesBuilder;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use crate::charset::Charset;
use crate::clock::Time;
use crate::model::{AccountId, AsideRecord, Endpoint, SegmentRecord, Window};

use super::call::{Answer, Call};
use super::error::{ApiError, Cause};
use super::limits::{Budget, Pacer, Permit};
use super::{Api, Login, path_segment};

mod array;
mod record;
#[cfg(test)]
mod tests;

/// The longest that one answer may take in all, as a multiple of the longest that it may stand still.
const PATIENCE: u32 = 120;

/// One element of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Understood.
    Segment(SegmentRecord),
    /// Not understood: to be set aside.
    Aside(AsideRecord),
}

/// What the archive derives from one element as it was received; `None` where it cannot be understood.
pub fn segment_record(raw: &str) -> Option<SegmentRecord> {
    match record::understood(raw.as_bytes().to_vec()) {
        Record::Segment(segment) => Some(segment),
        Record::Aside(_) => None,
    }
}

/// What a whole answer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadSummary {
    /// Its elements, those set aside among them.
    pub announced: u64,
    /// Those of them that could not be understood.
    pub aside: u64,
    /// Its length after decoding.
    pub bytes: u64,
}

/// Reads one window of a sub-account (contract.md, Interaction metadata). `budget` is reserved before each send; its
/// records go to
/// `sink` in batches of some hundreds, in the answer's order.
///
/// # Errors
/// By [`ApiError::fault`]. [`Cause::BrokeOff`] and [`Cause::TimedOut`] with a status are answers that broke off
/// half-way, which a narrower window may cure. [`Cause::Store`] where the send could not be reserved: nothing was sent.
/// [`Cause::Gone`] where the receiver was dropped.
#[expect(clippy::too_many_arguments, reason = "each is a different thing; a struct of them would only be taken apart")]
pub async fn metadata(
    api: &Api,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
    budget: &Budget,
    account: &AccountId,
    window: Window,
    sink: mpsc::Sender<Vec<Record>>,
) -> Result<ReadSummary, ApiError> {
    let endpoint = Endpoint::Metadata;
    let url = format!(
        "{}/voice/api/cx/integration/v1/accounts/{}/sub-accounts/{}/interaction-metadata",
        api.hosts().ringcx,
        path_segment(endpoint, &account.rc)?,
        path_segment(endpoint, &account.sub)?,
    );
    let body = json!({
        "segmentEndTime": wall_clock(window.begin()),
        "timeInterval": window.seconds,
        "timeZone": "UTC",
    });
    let call = Call { api, login, pacer, endpoint, budget: Some(budget) };
    let answer = call.answer(permit, |token| Ok(token.authorise(api.bulk().post(&url)).json(&body))).await?;
    let status = answer.status();
    let read = async {
        answer.decoded()?;
        receive(answer, api.idle(), sink).await
    };
    match tokio::time::timeout(api.idle().saturating_mul(PATIENCE), read).await {
        Ok(outcome) => outcome.map_err(|error| error.with_status(status)),
        Err(_) => Err(ApiError::timed_out(endpoint, "the answer came too slowly").with_status(status)),
    }
}

/// The API's own notation, in UTC, to the second.
fn wall_clock(time: Time) -> String {
    time.timestamp().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Reads a body on a thread where it may block, for that is how a JSON text is parsed while it comes.
async fn receive(
    answer: Answer,
    idle: std::time::Duration,
    sink: mpsc::Sender<Vec<Record>>,
) -> Result<ReadSummary, ApiError> {
    let charset = answer.charset();
    let stop = CancellationToken::new();
    // If this future is dropped, the thread finds its body at an end.
    let _guard = stop.clone().drop_guard();
    let chunks = answer.into_response().bytes_stream().map_err(Broken::Transport).boxed();
    // The time-out runs only while something is waited for, not while the receiver is busy.
    let patient = stream::unfold(chunks, move |mut chunks| async move {
        match tokio::time::timeout(idle, chunks.next()).await {
            Ok(next) => next.map(|next| (next, chunks)),
            Err(_) => Some((Err(Broken::Idle), stream::empty().boxed())),
        }
    });
    let body = StreamReader::new(patient.take_until(stop.cancelled_owned()).map_err(io::Error::other).boxed());
    let body = SyncIoBridge::new(body);
    let read = tokio::task::spawn_blocking(move || array::read(decoding(body, charset)?, &sink));
    match read.await {
        Ok(outcome) => outcome.map_err(told),
        Err(_) => Err(ApiError::undecodable(Endpoint::Metadata, "its reader failed")),
    }
}

/// The body as UTF-8, decoded while it comes; bytes that are none stay as they are.
fn decoding(body: impl io::Read, charset: Option<Charset>) -> Result<impl io::Read, array::Stopped> {
    let mut body = BufReader::new(body);
    let encoding = match charset {
        Some(charset) => Some(charset.for_beginning(body.fill_buf().map_err(array::Stopped::Broken)?)),
        None => None,
    };
    let mut decoder = DecodeReaderBytesBuilder::new();
    Ok(decoder.encoding(encoding).bom_override(true).strip_bom(true).utf8_passthru(true).build(body))
}

/// The reader as such, for the fuzzer.
#[cfg(fuzzing)]
pub(super) fn read(body: impl io::Read, sink: &mpsc::Sender<Vec<Record>>) -> Option<ReadSummary> {
    array::read(body, sink).ok()
}

/// Why a body broke off, as it travels through the parser inside an I/O error.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("broken off")]
    Transport(reqwest::Error),
    #[error("idle")]
    Idle,
}

fn told(stopped: array::Stopped) -> ApiError {
    let endpoint = Endpoint::Metadata;
    match stopped {
        array::Stopped::Gone => ApiError::gone(endpoint),
        array::Stopped::TooLarge => ApiError::too_large(endpoint, "one record of the answer is larger than 16 MB"),
        array::Stopped::Undecodable(why) => ApiError::undecodable(endpoint, why),
        array::Stopped::Ended => {
            let mut error = ApiError::undecodable(endpoint, "it ends before its array does");
            error.cause = Cause::BrokeOff;
            error
        }
        array::Stopped::Broken(error) => match error.downcast::<Broken>() {
            Ok(Broken::Transport(error)) => ApiError::transport(endpoint, error),
            Ok(Broken::Idle) => ApiError::timed_out(endpoint, "the answer stopped coming"),
            Err(_) => ApiError::undecodable(endpoint, "it could not be read"),
        },
    }
}
