//! One call from its place in the budget to its answer: token, send, and the repeat after a 401.
//!
//! A request leaves only with a permit that was given after its token was ready, so that nothing is sent long after the
//! limiter allowed it. A 401 costs one renewal for all who met it, and each repeat takes a place of its own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backoff::Fault;
use crate::charset::Charset;
use crate::clock::Tick;
use crate::model::Endpoint;

use super::Api;
use super::auth::{Login, Token};
use super::error::{ApiError, Cause, KEPT_BYTES};
use super::limits::{Budget, Pacer, Permit, Reserved};

/// How often a call is repeated with a newer token.
const REPEATS: usize = 2;
/// How much of an error's body is looked at.
const ERROR_CAP: usize = 64 * 1024;
/// An answer of more bytes than this is gathered when no other such is.
const LARGE: usize = 4 * 1024 * 1024;
/// How long a permit is held while a reservation is waited for.
const HOLD: Duration = Duration::from_secs(1);

/// What a call needs besides the request itself.
pub(super) struct Call<'a> {
    pub api: &'a Api,
    pub login: &'a Login,
    pub pacer: &'a Pacer,
    pub endpoint: Endpoint,
    /// A second budget, to be reserved before each send.
    pub budget: Option<&'a Budget>,
}

impl Call<'_> {
    /// Makes the call; `request` builds it for a token. What comes back is a 200 or a 204.
    pub(super) async fn answer<F>(&self, mut permit: Permit, request: F) -> Result<Answer, ApiError>
    where
        F: Fn(&Token) -> Result<RequestBuilder, ApiError> + Send + Sync,
    {
        let mut refused: Vec<(Token, Tick)> = Vec::new();
        let mut reserved = None;
        loop {
            let token;
            (token, permit) = self.ready(permit, &mut reserved).await?;
            let request = request(&token)?;
            let socket = self.api.socket().await;
            let sent = self.api.clock().tick();
            if !permit.sent() {
                // The right to send has lapsed since the permit was given, as when the machine was asleep.
                permit = self.pacer.enter().await;
                continue;
            }
            let outcome = self.api.send_on(socket, self.endpoint, request).await;
            permit.counted();
            if let Some(reserved) = reserved.take() {
                reserved.counted().await;
            }
            let answer = outcome?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                self.settle(&answer, &token, &refused);
                return self.judged(answer).await;
            }
            let error = self.failure(answer).await;
            if error.cause == Cause::Outage {
                // No other token would fare better.
                return Err(error);
            }
            self.login.refused(&token);
            if refused.len() == REPEATS {
                return Err(unauthorised(error));
            }
            if let Err(renewal) = self.login.renew(&token).await {
                // Not renewed because that has not helped lately: it is the call that fails, not the login.
                return Err(if renewal.cause == Cause::Futile { unauthorised(error).after(&renewal) } else { renewal });
            }
            refused.push((token, sent));
            permit = self.pacer.enter().await;
        }
    }

    /// A token and a permit, both fresh, and a reservation where one is needed. The token first: a login can take long,
    /// and what is reserved is meant to be used at once.
    async fn ready(&self, permit: Permit, reserved: &mut Option<Reserved>) -> Result<(Token, Permit), ApiError> {
        let (token, permit) = self.token(permit).await?;
        let Some(budget) = self.budget.filter(|_| reserved.is_none()) else { return Ok((token, permit)) };
        let (one, permit) = self.reserve(budget, permit).await?;
        *reserved = Some(one);
        self.token(permit).await
    }

    async fn token(&self, mut permit: Permit) -> Result<(Token, Permit), ApiError> {
        loop {
            if let Some(token) = self.login.at_hand() {
                return Ok((token, permit));
            }
            // Its place goes to whoever can use it meanwhile.
            drop(permit);
            self.login.token().await?;
            permit = self.pacer.enter().await;
        }
    }

    /// A reservation; the permit is given back, and another one waited for, if that takes its time.
    async fn reserve(&self, budget: &Budget, permit: Permit) -> Result<(Reserved, Permit), ApiError> {
        let reserve = pin!(budget.reserve());
        let (reserved, permit) = match select(reserve, pin!(self.api.clock().sleep(HOLD))).await {
            Either::Left((reserved, _)) => (reserved, Some(permit)),
            Either::Right(((), reserve)) => {
                drop(permit);
                (reserve.await, None)
            }
        };
        let reserved = reserved.map_err(|error| ApiError::store(self.endpoint, error))?;
        let permit = match permit {
            Some(permit) => permit,
            None => self.pacer.enter().await,
        };
        Ok((reserved, permit))
    }

    /// Tells the login what the answer says about tokens: this one is good, so the earlier ones had run out.
    fn settle(&self, answer: &Answer, token: &Token, refused: &[(Token, Tick)]) {
        if answer.status().is_server_error() {
            return;
        }
        self.login.accepted(token);
        for (earlier, sent) in refused {
            self.login.ran_out(earlier, *sent);
        }
    }

    async fn judged(&self, answer: Answer) -> Result<Answer, ApiError> {
        match answer.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(answer),
            status if status.is_success() => {
                let error = ApiError::undecodable(self.endpoint, "its status is not one that the contract knows");
                Err(error.with_status(status))
            }
            _ => Err(self.failure(answer).await),
        }
    }

    /// The error that an answer stands for; its body is read so that the connection can be used again.
    async fn failure(&self, answer: Answer) -> ApiError {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes(ERROR_CAP).await.unwrap_or_default();
        ApiError::answered(self.endpoint, status, &headers, &body, self.api.api_now())
    }
}

fn unauthorised(error: ApiError) -> ApiError {
    let message = error.message.replace("the token was refused", "even a fresh token was refused");
    error.saying(message)
}

/// The headers of an answer, and its body to come.
pub(crate) struct Answer {
    response: Response,
    endpoint: Endpoint,
    idle: Duration,
    large: Arc<Semaphore>,
    /// Its place among the requests under way, until it is read.
    _socket: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// `large` has one permit, for the one answer of the process that may be held whole though it is large.
    pub(crate) fn new(
        response: Response,
        endpoint: Endpoint,
        idle: Duration,
        large: Arc<Semaphore>,
        socket: Option<OwnedSemaphorePermit>,
    ) -> Answer {
        Answer { response, endpoint, idle, large, _socket: socket }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// Nothing if the body's encoding was undone; the client removes the header of those that it knows.
    ///
    /// # Errors
    /// A content encoding that was never asked for.
    pub(crate) fn decoded(&self) -> Result<(), ApiError> {
        match self.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding.as_bytes() != b"identity" => {
                let error = ApiError::undecodable(self.endpoint, "its content encoding is one that was not asked for");
                Err(error.with_status(self.status()))
            }
            _ => Ok(()),
        }
    }

    /// The charset that is declared for the body.
    pub(crate) fn charset(&self) -> Option<Charset> {
        Charset::declared(self.content_type()?)
    }

    /// What the body is declared to be, without parameters and in small letters; empty where nothing is declared.
    pub(crate) fn media_type(&self) -> String {
        let media_type = self.content_type().and_then(|declared| declared.split(';').next());
        media_type.unwrap_or_default().trim().to_ascii_lowercase()
    }

    fn content_type(&self) -> Option<&str> {
        self.headers().get(CONTENT_TYPE)?.to_str().ok()
    }

    pub(crate) fn into_response(self) -> Response {
        self.response
    }

    /// The whole body, at most `cap` bytes of it after decoding. Large ones come one after the other: however many
    /// servers answer without end at once, memory is needed for one.
    ///
    /// # Errors
    /// Transient ones: too large, broken off, or too slow, be it between two pieces or (ten times that) in all, the wait
    /// for another large one included. They hold the status, and the beginning of what came.
    pub(crate) async fn bytes(mut self, cap: usize) -> Result<Bytes, ApiError> {
        let (endpoint, status) = (self.endpoint, self.status());
        let mut start = Vec::new();
        let outcome = match tokio::time::timeout(self.idle.saturating_mul(10), self.gather(cap, &mut start)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::timed_out(endpoint, "the answer came too slowly")),
        };
        outcome.map_err(|error| error.with_status(status).of_body(&start))
    }

    /// `start` takes the first bytes, for whoever wants to see what came where the rest does not.
    async fn gather(&mut self, cap: usize, start: &mut Vec<u8>) -> Result<Bytes, ApiError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        keep_start(start, &first);
        let mut length = first.len();
        let mut whole: Option<BytesMut> = None;
        let mut turn = None;
        while length <= cap {
            if length > LARGE && turn.is_none() {
                // An error would mean that the semaphore was closed, which nobody does.
                turn = self.large.clone().acquire_owned().await.ok();
            }
            let Some(next) = self.chunk().await? else {
                return Ok(whole.map_or(first, BytesMut::freeze));
            };
            length += next.len();
            keep_start(start, &next);
            whole.get_or_insert_with(|| BytesMut::from(first.as_ref())).extend_from_slice(&next);
        }
        let why = format!("the answer is larger than {} MB", cap.div_ceil(1024 * 1024));
        Err(ApiError::too_large(self.endpoint, &why))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| ApiError::transport(self.endpoint, error)),
            Err(_) => Err(ApiError::timed_out(self.endpoint, "the answer stopped coming")),
        }
    }
}

fn keep_start(start: &mut Vec<u8>, chunk: &[u8]) {
    let room = KEPT_BYTES.saturating_sub(start.len()).min(chunk.len());
    start.extend_from_slice(chunk.get(..room).unwrap_or_default());
}

/// A 200 without a word of what there is to be.
pub(super) fn empty(endpoint: Endpoint) -> ApiError {
    ApiError::new(Fault::NotYet, endpoint, Cause::Empty, "it is empty so far").with_status(StatusCode::OK)
}

/// A 200 that names an error instead of holding what was asked for.
pub(super) fn not_yet(endpoint: Endpoint, code: Option<String>) -> ApiError {
    let code = code.map(|code| format!(": {code}")).unwrap_or_default();
    let why = format!("a 200 with an error code{code}");
    ApiError::new(Fault::NotYet, endpoint, Cause::Answered, &why).with_status(StatusCode::OK)
}
