//! Answers, and how they go out: whole, in pieces, broken off, or not at all.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;

use super::data::Records;
use crate::chance::Dice;
use crate::faults::Fate;
use crate::model::Endpoint;
use crate::shared::Shared;
use crate::wire::Conn;

/// An answer in the making.
pub(super) struct Reply {
    endpoint: Option<Endpoint>,
    status: u16,
    media: &'static str,
    body: Payload,
    extra: Option<(&'static str, String)>,
    end: End,
}

enum Payload {
    Whole(Bytes),
    Records(Box<Records>),
}

/// How it ends.
#[derive(Clone, Copy)]
enum End {
    Well,
    /// Reset after so many bytes, headers included.
    Reset(u64),
    /// Broken off in the body; `chunked` tells no length before.
    Truncated {
        chunked: bool,
    },
}

const JSON: &str = "application/json";

impl Reply {
    fn new(endpoint: Option<Endpoint>, status: u16, media: &'static str, body: Payload) -> Reply {
        Reply { endpoint, status, media, body, extra: None, end: End::Well }
    }

    pub(super) fn json(endpoint: Option<Endpoint>, status: u16, body: impl Into<Bytes>) -> Reply {
        Reply::new(endpoint, status, JSON, Payload::Whole(body.into()))
    }

    pub(super) fn text(endpoint: Option<Endpoint>, status: u16, body: impl Into<Bytes>) -> Reply {
        Reply::new(endpoint, status, "text/plain", Payload::Whole(body.into()))
    }

    /// Text in the charset that `media` declares.
    pub(super) fn text_as(
        endpoint: Option<Endpoint>,
        status: u16,
        media: &'static str,
        body: impl Into<Bytes>,
    ) -> Reply {
        Reply::new(endpoint, status, media, Payload::Whole(body.into()))
    }

    pub(super) fn html(endpoint: Option<Endpoint>, status: u16, body: &'static str) -> Reply {
        Reply::new(endpoint, status, "text/html", Payload::Whole(body.into()))
    }

    /// A metadata answer.
    pub(super) fn records(records: Records) -> Reply {
        Reply::new(Some(Endpoint::Metadata), 200, JSON, Payload::Records(Box::new(records)))
    }

    /// No answer at all, or the first bytes of one.
    pub(super) fn reset(endpoint: Option<Endpoint>, after: u64) -> Reply {
        Reply { end: End::Reset(after), ..Reply::text(endpoint, 200, "") }
    }

    pub(super) fn with(self, name: &'static str, value: String) -> Reply {
        Reply { extra: Some((name, value)), ..self }
    }

    /// Does to a good answer what its fate wants.
    pub(super) fn suffer(mut self, fate: Fate, dice: &mut Dice) -> Reply {
        match (fate, &mut self.body) {
            (Fate::Truncate, Payload::Whole(body)) if body.is_empty() => self.end = End::Reset(40),
            (Fate::Truncate, body) => {
                if let Payload::Records(records) = body {
                    records.announce_nothing();
                }
                self.end = End::Truncated { chunked: dice.hit(0.5) };
            }
            (Fate::Malformed, Payload::Whole(body)) => {
                if dice.hit(0.5) {
                    return Reply::html(self.endpoint, 200, "<html><body>Please log in</body></html>");
                }
                *body = body.slice(..body.len() / 2);
            }
            (Fate::Malformed, Payload::Records(records)) => {
                records.announce_nothing();
                let text = if dice.hit(0.5) { "<html>" } else { "{\"segments\":" };
                self.body = Payload::Whole(Bytes::from_static(text.as_bytes()));
            }
            _ => {}
        }
        self
    }

    pub(super) fn into_response(self, shared: &Arc<Shared>, conn: &Conn) -> Response {
        if let End::Reset(after) = self.end {
            conn.cut_after(after);
        }
        if let Some(endpoint) = self.endpoint {
            let status = if matches!(self.end, End::Reset(_)) { 0 } else { self.status };
            *shared.stats.lock().statuses.entry((endpoint, status)).or_default() += 1;
        }
        let whole = match self.body {
            Payload::Whole(body) => Ok(body),
            Payload::Records(mut records) if records.is_short() => Ok(records.all(shared)),
            Payload::Records(records) => Err(records),
        };
        let (body, length) = match (whole, self.end) {
            (Ok(body), End::Truncated { chunked }) => {
                let length = (!chunked).then_some(body.len());
                (broken_off(body.slice(..body.len() / 2)), length)
            }
            (Ok(body), _) => {
                let length = body.len();
                (Body::from(body), Some(length))
            }
            (Err(mut records), End::Truncated { .. }) => (broken_off(records.part(shared)), None),
            (Err(records), _) => (in_pieces(records, Arc::clone(shared)), None),
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(DATE, shared.date());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media));
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if let Some((name, value)) = self.extra
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(HeaderName::from_static(name), value);
        }
        response
    }
}

/// A body that ends in an error, on which the server drops the connection.
fn broken_off(part: Bytes) -> Body {
    let steps = stream::unfold(Some(part), |part| async {
        match part {
            Some(part) if !part.is_empty() => Some((Ok(part), Some(Bytes::new()))),
            _ => {
                // Lets the first part out before the end.
                tokio::task::yield_now().await;
                Some((Err(io::Error::from(io::ErrorKind::BrokenPipe)), None))
            }
        }
    });
    Body::from_stream(steps)
}

fn in_pieces(records: Box<Records>, shared: Arc<Shared>) -> Body {
    Body::from_stream(stream::unfold((records, shared), |(mut records, shared)| async move {
        let piece = records.next(&shared)?;
        Some((Ok::<_, Infallible>(piece), (records, shared)))
    }))
}
