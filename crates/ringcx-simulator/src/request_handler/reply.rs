//! Replies, and how they are sent: whole, in chunks, truncated, or reset.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;

use super::data_endpoints::RecordStream;
use crate::faults::InjectedFault;
use crate::faulty_connection::ConnectionControl;
use crate::model::Endpoint;
use crate::recording_audio::RecordingAudio;
use crate::rng::Rng;
use crate::simulator_state::SimulatorState;

/// A reply before it is sent.
pub(super) struct SimulatedReply {
    endpoint: Option<Endpoint>,
    status: u16,
    media: &'static str,
    body: ReplyBody,
    header: Option<(&'static str, String)>,
    end: ReplyEnd,
}

enum ReplyBody {
    Whole(Bytes),
    Streamed(Box<RecordStream>),
    /// Audio, which may stop in the middle without an end.
    Audio {
        audio: Box<RecordingAudio>,
        stalls: bool,
    },
}

/// How a reply ends.
#[derive(Clone, Copy)]
enum ReplyEnd {
    Complete,
    /// Reset after this many bytes, headers included.
    Reset(u64),
    /// Truncated in the body; `chunked` sends no length.
    Truncated {
        chunked: bool,
    },
}

const JSON: &str = "application/json";
/// The size of the parts of a recording.
const AUDIO_PART_BYTES: u64 = 64 * 1024;

impl SimulatedReply {
    fn new(endpoint: Option<Endpoint>, status: u16, media: &'static str, body: ReplyBody) -> SimulatedReply {
        SimulatedReply { endpoint, status, media, body, header: None, end: ReplyEnd::Complete }
    }

    pub(super) fn json(endpoint: Option<Endpoint>, status: u16, body: impl Into<Bytes>) -> SimulatedReply {
        SimulatedReply::new(endpoint, status, JSON, ReplyBody::Whole(body.into()))
    }

    pub(super) fn text(endpoint: Option<Endpoint>, status: u16, body: impl Into<Bytes>) -> SimulatedReply {
        SimulatedReply::new(endpoint, status, "text/plain", ReplyBody::Whole(body.into()))
    }

    /// Text in the charset that `media` declares.
    pub(super) fn text_with_media_type(
        endpoint: Option<Endpoint>,
        status: u16,
        media: &'static str,
        body: impl Into<Bytes>,
    ) -> SimulatedReply {
        SimulatedReply::new(endpoint, status, media, ReplyBody::Whole(body.into()))
    }

    pub(super) fn html(endpoint: Option<Endpoint>, status: u16, body: &'static str) -> SimulatedReply {
        SimulatedReply::new(endpoint, status, "text/html", ReplyBody::Whole(body.into()))
    }

    /// A metadata answer.
    pub(super) fn records(records: RecordStream) -> SimulatedReply {
        SimulatedReply::new(Some(Endpoint::Metadata), 200, JSON, ReplyBody::Streamed(Box::new(records)))
    }

    /// A recording.
    pub(super) fn audio(audio: RecordingAudio, stalls: bool) -> SimulatedReply {
        let body = ReplyBody::Audio { audio: Box::new(audio), stalls };
        SimulatedReply::new(Some(Endpoint::Recording), 200, "audio/wav", body)
    }

    /// No reply, or only its first bytes.
    pub(super) fn reset(endpoint: Option<Endpoint>, after: u64) -> SimulatedReply {
        SimulatedReply { end: ReplyEnd::Reset(after), ..SimulatedReply::text(endpoint, 200, "") }
    }

    pub(super) fn with_header(self, name: &'static str, value: String) -> SimulatedReply {
        SimulatedReply { header: Some((name, value)), ..self }
    }

    /// Applies a fault to a successful reply.
    pub(super) fn apply_fault(mut self, fault: InjectedFault, rng: &mut Rng) -> SimulatedReply {
        match (fault, &mut self.body) {
            (InjectedFault::Truncate, ReplyBody::Whole(body)) if body.is_empty() => self.end = ReplyEnd::Reset(40),
            (InjectedFault::Truncate, body) => {
                if let ReplyBody::Streamed(records) = body {
                    records.suppress_announcement();
                }
                self.end = ReplyEnd::Truncated { chunked: rng.random_bool(0.5) };
            }
            (InjectedFault::Malformed, ReplyBody::Audio { audio, .. }) => {
                if rng.random_bool(0.5) {
                    return SimulatedReply::html(self.endpoint, 200, "<html><body>Please log in</body></html>");
                }
                // The header still has the whole length.
                audio.cut_in_half();
            }
            (InjectedFault::Malformed, ReplyBody::Whole(body)) => {
                if rng.random_bool(0.5) {
                    return SimulatedReply::html(self.endpoint, 200, "<html><body>Please log in</body></html>");
                }
                *body = body.slice(..body.len() / 2);
            }
            (InjectedFault::Malformed, ReplyBody::Streamed(records)) => {
                records.suppress_announcement();
                let text = if rng.random_bool(0.5) { "<html>" } else { "{\"segments\":" };
                self.body = ReplyBody::Whole(Bytes::from_static(text.as_bytes()));
            }
            _ => {}
        }
        self
    }

    pub(super) fn into_response(self, state: &Arc<SimulatorState>, connection: &ConnectionControl) -> Response {
        if let ReplyEnd::Reset(after) = self.end {
            connection.reset_after(after);
        }
        if let Some(endpoint) = self.endpoint {
            let status = if matches!(self.end, ReplyEnd::Reset(_)) { 0 } else { self.status };
            *state.stats.lock().statuses.entry((endpoint, status)).or_default() += 1;
        }
        let whole = match self.body {
            ReplyBody::Whole(body) => Ok(body),
            ReplyBody::Streamed(mut records) if records.is_short() => Ok(records.read_all(state)),
            ReplyBody::Streamed(records) => Err(records),
            ReplyBody::Audio { audio, stalls } => {
                return audio_response(self.status, self.media, *audio, stalls, self.end, state);
            }
        };
        let (body, length) = match (whole, self.end) {
            (Ok(body), ReplyEnd::Truncated { chunked }) => {
                let length = (!chunked).then_some(body.len());
                (truncated_body(body.slice(..body.len() / 2)), length)
            }
            (Ok(body), _) => {
                let length = body.len();
                (Body::from(body), Some(length))
            }
            (Err(mut records), ReplyEnd::Truncated { .. }) => (truncated_body(records.read_truncated(state)), None),
            (Err(records), _) => (chunked_body(records, Arc::clone(state)), None),
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(DATE, state.date_header());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media));
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(HeaderName::from_static(name), value);
        }
        response
    }
}

/// A recording, sent in parts. A truncated one ends in an error after its first half.
fn audio_response(
    status: u16,
    media: &'static str,
    audio: RecordingAudio,
    stalls: bool,
    end: ReplyEnd,
    state: &Arc<SimulatorState>,
) -> Response {
    let size = audio.size();
    let (is_cut, chunked) = match end {
        ReplyEnd::Truncated { chunked } => (true, chunked),
        ReplyEnd::Complete | ReplyEnd::Reset(_) => (false, false),
    };
    let upto = if is_cut || stalls { size / 2 } else { size };
    let pause = state.tenant.traffic.recording_part_delay;
    let (clock, stop) = (state.clock.clone(), state.clone());
    let parts = stream::unfold((audio, 0), move |(audio, at)| {
        let (clock, _alive) = (clock.clone(), stop.clone());
        async move {
            if !pause.is_zero() {
                clock.sleep(pause).await;
            }
            if at >= upto {
                if stalls {
                    std::future::pending::<()>().await;
                }
                // Lets the parts be sent before the error.
                tokio::task::yield_now().await;
                let error = io::Error::from(io::ErrorKind::BrokenPipe);
                return (is_cut && at != u64::MAX).then(|| (Err(error), (audio, u64::MAX)));
            }
            let part = audio.read(at, upto.min(at + AUDIO_PART_BYTES));
            let next = at + part.len() as u64;
            Some((Ok(part), (audio, next)))
        }
    });
    let mut response = Response::new(Body::from_stream(parts));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(DATE, state.date_header());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    if !chunked {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
    response
}

/// A body that ends in an error, so that the server closes the connection.
fn truncated_body(part: Bytes) -> Body {
    let steps = stream::unfold(Some(part), |part| async {
        match part {
            Some(part) if !part.is_empty() => Some((Ok(part), Some(Bytes::new()))),
            _ => {
                // Lets the first part be sent before the error.
                tokio::task::yield_now().await;
                Some((Err(io::Error::from(io::ErrorKind::BrokenPipe)), None))
            }
        }
    });
    Body::from_stream(steps)
}

fn chunked_body(records: Box<RecordStream>, state: Arc<SimulatorState>) -> Body {
    Body::from_stream(stream::unfold((records, state), |(mut records, state)| async move {
        let chunk = records.next_chunk(&state)?;
        Some((Ok::<_, Infallible>(chunk), (records, state)))
    }))
}
