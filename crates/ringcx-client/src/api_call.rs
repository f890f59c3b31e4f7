//! One API call, from its permit to its answer: token, send, and the repeat after a 401.
//!
//! A request is sent only with a permit that was granted after its token was ready, so it is not
//! sent long after the limiter allowed it. A 401 causes one renewal for all calls that met it, and
//! each repeat needs its own permit.

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

use super::ApiClient;
use super::auth::{AccessToken, Login};
use super::error::{ApiError, ErrorCause, MAX_CAPTURED_BODY_BYTES};
use super::rate_limit::{Pacer, Permit, Reservation, ReservedQuota};

/// A call is repeated at most this often with a newer token.
const MAX_TOKEN_RETRIES: usize = 2;
/// How much of an error's body is read.
pub(super) const MAX_ERROR_BODY_BYTES: usize = 64 * 1024;
/// Only one answer of more than this size is buffered at a time.
const LARGE_BODY_BYTES: usize = 4 * 1024 * 1024;
/// How long a permit is kept while the call waits for a reservation.
const MAX_PERMIT_HOLD: Duration = Duration::from_secs(1);

/// What a call needs besides the request itself.
pub(super) struct ApiCall<'a> {
    pub api: &'a ApiClient,
    pub login: &'a Login,
    pub pacer: &'a Pacer,
    pub endpoint: Endpoint,
    /// A quota to reserve before each send.
    pub quota: Option<&'a ReservedQuota>,
}

impl ApiCall<'_> {
    /// Makes the call; `request` builds it for a token. The result is a 200 or a 204.
    pub(super) async fn send<F>(&self, mut permit: Permit, request: F) -> Result<ApiResponse, ApiError>
    where
        F: Fn(&AccessToken) -> Result<RequestBuilder, ApiError> + Send + Sync,
    {
        let mut refused: Vec<(AccessToken, Tick)> = Vec::new();
        let mut reserved = None;
        loop {
            let token;
            (token, permit) = self.acquire_token_and_permit(permit, &mut reserved).await?;
            let request = request(&token)?;
            let socket = self.api.acquire_socket().await;
            let sent = self.api.clock().tick();
            if !permit.mark_sent() {
                // The lease has ended since the permit was granted, as after a suspended machine
                // resumes.
                permit = self.pacer.acquire().await;
                continue;
            }
            let outcome = self.api.send_with_socket(socket, self.endpoint, request).await;
            permit.mark_counted();
            if let Some(reserved) = reserved.take() {
                reserved.mark_counted().await;
            }
            let answer = outcome?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                self.report_accepted_token(&answer, &token, &refused);
                return self.check_status(answer).await;
            }
            let error = self.read_error(answer).await;
            if error.cause == ErrorCause::Outage {
                // Another token would be refused as well.
                return Err(error);
            }
            self.login.record_refused_token(&token);
            if refused.len() == MAX_TOKEN_RETRIES {
                return Err(fresh_token_refused(error));
            }
            if let Err(renewal) = self.login.renew_token(&token).await {
                // Renewals are suspended because they did not help: the call fails, not the login.
                return Err(if renewal.cause == ErrorCause::RenewalSuspended {
                    fresh_token_refused(error).with_retry_in_of(&renewal)
                } else {
                    renewal
                });
            }
            refused.push((token, sent));
            permit = self.pacer.acquire().await;
        }
    }

    /// A valid token and a permit, and a reservation where one is needed. The token comes first: a
    /// login can take long, and a reservation must be used immediately.
    async fn acquire_token_and_permit(
        &self,
        permit: Permit,
        reserved: &mut Option<Reservation>,
    ) -> Result<(AccessToken, Permit), ApiError> {
        let (token, permit) = self.acquire_token(permit).await?;
        let Some(quota) = self.quota.filter(|_| reserved.is_none()) else { return Ok((token, permit)) };
        let (one, permit) = self.reserve(quota, permit).await?;
        *reserved = Some(one);
        self.acquire_token(permit).await
    }

    async fn acquire_token(&self, mut permit: Permit) -> Result<(AccessToken, Permit), ApiError> {
        loop {
            if let Some(token) = self.login.valid_token() {
                return Ok((token, permit));
            }
            // Another call can use its slot meanwhile.
            drop(permit);
            self.login.token().await?;
            permit = self.pacer.acquire().await;
        }
    }

    /// A reservation. If that takes longer than [`MAX_PERMIT_HOLD`], the permit is returned and a
    /// new one is acquired.
    async fn reserve(&self, quota: &ReservedQuota, permit: Permit) -> Result<(Reservation, Permit), ApiError> {
        let reserve = pin!(quota.reserve());
        let (reserved, permit) = match select(reserve, pin!(self.api.clock().sleep(MAX_PERMIT_HOLD))).await {
            Either::Left((reserved, _)) => (reserved, Some(permit)),
            Either::Right(((), reserve)) => {
                drop(permit);
                (reserve.await, None)
            }
        };
        let reserved = reserved.map_err(|error| ApiError::reservation_failed(self.endpoint, error))?;
        let permit = match permit {
            Some(permit) => permit,
            None => self.pacer.acquire().await,
        };
        Ok((reserved, permit))
    }

    /// Reports to the login that the API accepted this token, so the refused ones had expired.
    fn report_accepted_token(&self, answer: &ApiResponse, token: &AccessToken, refused: &[(AccessToken, Tick)]) {
        if answer.status().is_server_error() {
            return;
        }
        self.login.record_accepted_token(token);
        for (earlier, sent) in refused {
            self.login.record_expired_token(earlier, *sent);
        }
    }

    async fn check_status(&self, answer: ApiResponse) -> Result<ApiResponse, ApiError> {
        match answer.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(answer),
            status if status.is_success() => {
                let error = ApiError::undecodable(self.endpoint, "its status is not documented");
                Err(error.with_status(status))
            }
            _ => Err(self.read_error(answer).await),
        }
    }

    /// Converts an answer into an error. Reads its body, so that the connection can be reused.
    async fn read_error(&self, answer: ApiResponse) -> ApiError {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.read_body(MAX_ERROR_BODY_BYTES).await.unwrap_or_default();
        ApiError::from_response(self.endpoint, status, &headers, &body, self.api.api_now())
    }
}

fn fresh_token_refused(error: ApiError) -> ApiError {
    let message = error.message.replace("the token was refused", "even a fresh token was refused");
    error.with_message(message)
}

/// The headers of an answer, and its body, which is not read yet.
pub(crate) struct ApiResponse {
    pub(super) response: Response,
    pub(super) endpoint: Endpoint,
    pub(super) idle_timeout: Duration,
    /// One permit: one large answer at a time may be buffered in this process.
    pub(super) large_body_turn: Arc<Semaphore>,
    /// Its slot among the concurrent requests, until it is read.
    pub(super) socket: Option<OwnedSemaphorePermit>,
}

impl ApiResponse {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// Checks that the body is decoded: the client removes the header of the encodings that it
    /// knows.
    ///
    /// # Errors
    /// A content encoding that was not requested.
    pub(crate) fn check_content_encoding(&self) -> Result<(), ApiError> {
        match self.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding.as_bytes() != b"identity" => {
                let error = ApiError::undecodable(self.endpoint, "its content encoding was not requested");
                Err(error.with_status(self.status()))
            }
            _ => Ok(()),
        }
    }

    /// The charset that is declared for the body.
    pub(crate) fn charset(&self) -> Option<Charset> {
        Charset::from_content_type(self.content_type()?)
    }

    /// The declared media type, without parameters and in lower case; empty where none is declared.
    pub(crate) fn media_type(&self) -> String {
        let media_type = self.content_type().and_then(|declared| declared.split(';').next());
        media_type.unwrap_or_default().trim().to_ascii_lowercase()
    }

    fn content_type(&self) -> Option<&str> {
        self.headers().get(CONTENT_TYPE)?.to_str().ok()
    }

    /// The response, and its slot among the concurrent requests. Keep the slot until the body is
    /// read.
    pub(crate) fn into_parts(self) -> (Response, Option<OwnedSemaphorePermit>) {
        (self.response, self.socket)
    }

    /// Reads the whole body, at most `max_bytes` bytes after decoding. Large bodies are buffered
    /// one at a time, which bounds the memory if many answers never end.
    ///
    /// # Errors
    /// Transient ones: too large, cut off, or too slow, either between two chunks or (ten times
    /// that) in total, including the wait for another large body. They hold the status, and the
    /// start of the body.
    pub(crate) async fn read_body(mut self, max_bytes: usize) -> Result<Bytes, ApiError> {
        let (endpoint, status) = (self.endpoint, self.status());
        let mut start = Vec::new();
        let outcome =
            match tokio::time::timeout(self.idle_timeout.saturating_mul(10), self.buffer_body(max_bytes, &mut start))
                .await
            {
                Ok(outcome) => outcome,
                Err(_) => Err(ApiError::timed_out(endpoint, "the answer came too slowly")),
            };
        outcome.map_err(|error| error.with_status(status).with_body_start(&start))
    }

    /// `start` receives the first bytes, for the error.
    async fn buffer_body(&mut self, max_bytes: usize, start: &mut Vec<u8>) -> Result<Bytes, ApiError> {
        let Some(first) = self.next_chunk().await? else { return Ok(Bytes::new()) };
        append_start(start, &first);
        let mut length = first.len();
        let mut buffer: Option<BytesMut> = None;
        let mut large_body_permit = None;
        while length <= max_bytes {
            if length > LARGE_BODY_BYTES && large_body_permit.is_none() {
                // It fails only if the semaphore is closed, which does not happen.
                large_body_permit = self.large_body_turn.clone().acquire_owned().await.ok();
            }
            let Some(next) = self.next_chunk().await? else {
                return Ok(buffer.map_or(first, BytesMut::freeze));
            };
            length += next.len();
            append_start(start, &next);
            buffer.get_or_insert_with(|| BytesMut::from(first.as_ref())).extend_from_slice(&next);
        }
        let why = format!("the answer is larger than {} MB", max_bytes.div_ceil(1024 * 1024));
        Err(ApiError::too_large(self.endpoint, &why))
    }

    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        match tokio::time::timeout(self.idle_timeout, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| ApiError::from_transport(self.endpoint, error)),
            Err(_) => Err(ApiError::timed_out(self.endpoint, "the answer stopped coming")),
        }
    }
}

fn append_start(start: &mut Vec<u8>, chunk: &[u8]) {
    let length = MAX_CAPTURED_BODY_BYTES.saturating_sub(start.len()).min(chunk.len());
    start.extend_from_slice(chunk.get(..length).unwrap_or_default());
}

/// The error of a 200 without content.
pub(super) fn empty_answer_error(endpoint: Endpoint) -> ApiError {
    ApiError::new(Fault::NotYet, endpoint, ErrorCause::Empty, "it is empty so far").with_status(StatusCode::OK)
}

/// The error of a 200 that holds an error code.
pub(super) fn error_code_error(endpoint: Endpoint, code: Option<String>) -> ApiError {
    let code = code.map(|code| format!(": {code}")).unwrap_or_default();
    let why = format!("a 200 with an error code{code}");
    ApiError::new(Fault::NotYet, endpoint, ErrorCause::Answered, &why).with_status(StatusCode::OK)
}
