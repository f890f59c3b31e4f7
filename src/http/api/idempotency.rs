//! Carries out actions: each to its end, also if its client has gone, and once for each
//! `Idempotency-Key`. A repeated request gets the answer of the first one, and changes nothing.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::access::Caller;
use crate::archive_reader::ReadError;
use crate::db::{DbError, IdempotentAnswer, IdempotentRequest};
use crate::http::state::HttpState;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const MAX_KEY_CHARS: usize = 255;

/// What an action answered, maybe to an earlier request with the same key.
pub(in crate::http) struct Answer {
    status: u16,
    /// JSON.
    pub(in crate::http) body: String,
    is_replayed: bool,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let replayed = self.is_replayed.then_some([(REPLAYED, HeaderValue::from_static("true"))]);
        (status, [(CONTENT_TYPE, "application/json")], replayed, self.body).into_response()
    }
}

/// What holds the key of a request: the headers of the API's, or the key of a form of the console.
pub(in crate::http) trait KeySource {
    /// The key; `None` if the request has none.
    fn idempotency_key(&self) -> Option<&str>;
}

impl KeySource for HeaderMap {
    fn idempotency_key(&self) -> Option<&str> {
        self.get(IDEMPOTENCY_KEY).map(|key| key.to_str().unwrap_or_default())
    }
}

impl KeySource for str {
    fn idempotency_key(&self) -> Option<&str> {
        Some(self)
    }
}

/// Carries out an action, or answers as before if the caller has sent it with the same key.
///
/// `request` identifies the request, and is passed on to `act`.
pub(in crate::http) async fn once<R, T, F>(
    state: Arc<HttpState>,
    caller: Caller,
    source: &(impl KeySource + ?Sized),
    request: R,
    act: impl FnOnce(Arc<HttpState>, Caller, R) -> F,
) -> Result<Answer, Problem>
where
    R: Serialize,
    T: Serialize + Send + 'static,
    F: Future<Output = Result<(StatusCode, T), Problem>> + Send + 'static,
{
    let keys = idempotency_keys(&caller, source.idempotency_key(), &request)?;
    run_to_end(&state, keys, act(state.clone(), caller, request)).await
}

/// The action is a task of its own: the server drops the handler of a client that disconnects.
async fn run_to_end<T: Serialize + Send + 'static>(
    state: &Arc<HttpState>,
    keys: Option<(String, String)>,
    action: impl Future<Output = Result<(StatusCode, T), Problem>> + Send + 'static,
) -> Result<Answer, Problem> {
    let task = state.actions.spawn(carry_out(state.clone(), keys, action));
    task.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "an action of the API was interrupted");
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the action was interrupted")
            .with_hint("see the log, and whether the action had an effect, before you repeat it"))
    })
}

/// The hashes of the key and of the request; `None` if the request has no key.
fn idempotency_keys(
    caller: &Caller,
    key: Option<&str>,
    request: &impl Serialize,
) -> Result<Option<(String, String)>, Problem> {
    let Some(key) = key.map(str::trim) else { return Ok(None) };
    let key = Some(key).filter(|key| (1..=MAX_KEY_CHARS).contains(&key.len()));
    let key = key.ok_or_else(|| Problem::bad_request("Idempotency-Key must have 1 to 255 visible characters"))?;
    // Another caller's key is another key.
    let key = digest(&format!("{:?}\n{key}", caller.reader));
    Ok(Some((key, digest(&to_json(request)?))))
}

async fn carry_out<T: Serialize>(
    state: Arc<HttpState>,
    keys: Option<(String, String)>,
    act: impl Future<Output = Result<(StatusCode, T), Problem>>,
) -> Result<Answer, Problem> {
    let answer = |status: u16, body: String, is_replayed: bool| Answer { status, body, is_replayed };
    let Some((key, request)) = keys else {
        let (status, body) = act.await?;
        return Ok(answer(status.as_u16(), to_json(&body)?, false));
    };
    let db = &state.app.db;
    match db.begin_idempotent(&key, &request, state.reader.now()).await.map_err(unavailable)? {
        IdempotentRequest::Done(kept) => return Ok(answer(kept.status, kept.body, true)),
        IdempotentRequest::New => {}
        IdempotentRequest::InProgress => {
            return Err(Problem::new(StatusCode::CONFLICT, "a request with this Idempotency-Key is being carried out")
                .with_hint("repeat it in a moment to get its answer"));
        }
        IdempotentRequest::OtherRequest => {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key was used for another request",
            )
            .with_hint("use a new key for a new request"));
        }
    }
    match act.await {
        Ok((status, body)) => {
            let body = to_json(&body)?;
            let kept = IdempotentAnswer { status: status.as_u16(), body: body.clone() };
            db.finish_idempotent(&key, &request, kept, state.reader.now()).await.map_err(unavailable)?;
            Ok(answer(status.as_u16(), body, false))
        }
        Err(problem) => {
            db.abandon_idempotent(&key).await.map_err(unavailable)?;
            Err(problem)
        }
    }
}

pub(in crate::http) fn unavailable(error: DbError) -> Problem {
    ReadError::from(error).into()
}

fn to_json(value: &impl Serialize) -> Result<String, Problem> {
    let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed to write the answer");
    serde_json::to_string(value).map_err(failed)
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
