//! Errors of the API: problem details (RFC 9457), also for what the router and the extractors refuse.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoResponses, ToSchema};

use crate::archive_reader::{ReadError, ReadFault};

/// What is wrong with a request, or with the server (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    status: u16,
    /// What is wrong.
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Seconds until another attempt, for `Retry-After`.
    #[serde(skip)]
    retry_after: Option<u64>,
    /// Whether a confirmation is all that is missing.
    #[serde(skip)]
    is_unconfirmed: bool,
}

impl Problem {
    pub(in crate::http) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        let title = status.canonical_reason().unwrap_or("Error");
        let status = status.as_u16();
        Problem {
            kind: "about:blank",
            title,
            status,
            detail: detail.into(),
            hint: None,
            retry_after: None,
            is_unconfirmed: false,
        }
    }

    pub(in crate::http) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(in crate::http) fn with_hint(self, hint: impl Into<String>) -> Problem {
        Problem { hint: Some(hint.into()), ..self }
    }

    pub(in crate::http) fn retry_after(self, seconds: u64) -> Problem {
        Problem { retry_after: Some(seconds.max(1)), ..self }
    }

    /// Marks that a confirmation is all that is missing.
    pub(in crate::http) fn unconfirmed(self) -> Problem {
        Problem { is_unconfirmed: true, ..self }
    }

    pub(in crate::http) fn is_unconfirmed(&self) -> bool {
        self.is_unconfirmed
    }

    pub(in crate::http) fn title(&self) -> &'static str {
        self.title
    }

    pub(in crate::http) fn status(&self) -> u16 {
        self.status
    }

    pub(in crate::http) fn detail(&self) -> &str {
        &self.detail
    }

    pub(in crate::http) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// The HTTP status for a fault of reading.
pub(in crate::http) fn status_of(fault: ReadFault) -> StatusCode {
    match fault {
        ReadFault::Invalid => StatusCode::BAD_REQUEST,
        ReadFault::Forbidden => StatusCode::FORBIDDEN,
        ReadFault::NotFound => StatusCode::NOT_FOUND,
        ReadFault::Conflict => StatusCode::CONFLICT,
        ReadFault::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        let status = status_of(error.fault());
        let problem = Problem::new(status, error.message());
        let problem = match error.hint() {
            Some(hint) => problem.with_hint(hint),
            None => problem,
        };
        if status == StatusCode::SERVICE_UNAVAILABLE { problem.retry_after(5) } else { problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let authenticate = (status == StatusCode::UNAUTHORIZED).then_some([(WWW_AUTHENTICATE, "Bearer")]);
        let retry_after = self.retry_after.map(|seconds| [(RETRY_AFTER, HeaderValue::from(seconds))]);
        let mut response = (status, authenticate, retry_after, Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// The problems that every operation may answer with.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it is only a part of the description")]
pub(super) enum Problems {
    /// A parameter, the cursor or the body is not valid.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// No valid key, token or session.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// The role may not do this.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// There is no such thing, or the role does not see it.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// Too many requests with this key; `Retry-After` says when to go on.
    #[response(status = 429, content_type = "application/problem+json")]
    TooManyRequests(Problem),
    /// The database does not answer, or the question takes too long.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// The problems of a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it is only a part of the description")]
pub(super) enum BodyProblems {
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is not JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(Problem),
}

/// Query parameters. Unknown and repeated ones are refused: a misspelt filter must not select
/// everything.
pub(super) struct ApiQuery<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<ApiQuery<T>, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::try_from_uri(&parts.uri);
        let refused = |error: QueryRejection| {
            Problem::bad_request(format!("the query is not valid: {}", source_text(&error)))
                .with_hint("/api lists the parameters of each operation")
        };
        query.map(|Query(query)| ApiQuery(query)).map_err(refused)
    }
}

/// A part of the path.
pub(super) struct ApiPath(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for ApiPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<ApiPath, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let refused =
            |error: PathRejection| Problem::bad_request(format!("the path is not valid: {}", error.body_text()));
        path.map(|Path(part)| ApiPath(part)).map_err(refused)
    }
}

/// A body of JSON.
pub(super) struct ApiJson<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for ApiJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<ApiJson<T>, Problem> {
        let body = Json::from_request(request, state).await;
        let refused = |error: JsonRejection| {
            let status = match error.status() {
                StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                status => status,
            };
            Problem::new(status, format!("the body is not valid: {}", source_text(&error)))
                .with_hint("send JSON with `Content-Type: application/json`; /api lists the fields")
        };
        body.map(|Json(body)| ApiJson(body)).map_err(refused)
    }
}

/// The innermost cause of an error.
fn source_text(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
