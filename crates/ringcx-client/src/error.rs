//! Errors of API calls: whose fault they are, and what an operator can do about them.
//!
//! Messages name the call, the status and the vendor's error code. They never hold an id, a URL, a
//! secret, or any part of a body except that code. So customer text stays out of logs.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde_json::Value;

use crate::backoff::Fault;
use crate::clock::Time;
use crate::model::Endpoint;

use super::ResponseBody;
use super::rate_limit::{MAX_RETRY_AFTER, StoreError, parse_retry_after};

mod hint;

use hint::{hint, redirect_hint};

/// A call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Whose fault it is, and whether another attempt helps.
    pub fault: Fault,
    /// The call. [`Endpoint::Login`] where no token could be obtained: the call itself was then
    /// never made.
    pub endpoint: Endpoint,
    /// What went wrong, in more detail than the fault.
    pub cause: ErrorCause,
    /// The HTTP status where there was one.
    pub status: Option<u16>,
    /// The wait in the server's `Retry-After`, counted from the answer.
    pub retry_after: Option<Duration>,
    /// The time until the next login or renewal, counted from now, where a login failed. An earlier
    /// call returns the same error.
    pub retry_in: Option<Duration>,
    /// "failed to …: why", without a hint.
    pub message: String,
    hint: Option<&'static str>,
    body: Option<CapturedBody>,
    #[source]
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCause {
    /// The server answered with an error.
    Answered,
    /// No connection: nothing was sent.
    Unreachable,
    /// No connection, because the server's certificate is not trusted: nothing was sent.
    UntrustedCertificate,
    /// No data came for too long.
    TimedOut,
    /// The connection was lost before the answer was complete.
    ConnectionLost,
    /// The answer is larger than the limit for its kind.
    TooLarge,
    /// The answer does not have the documented form.
    Undecodable,
    /// The reservation of the send could not be stored: nothing was sent.
    ReservationFailed,
    /// The receiver of the records was dropped.
    ReceiverDropped,
    /// Fresh tokens are refused repeatedly, so renewals are suspended for a while.
    RenewalSuspended,
    /// The service cannot verify tokens at the moment: an outage of the vendor, not a fault of the
    /// login.
    Outage,
    /// A transcript without content, although one was announced.
    Empty,
    /// The recording store cannot be written to.
    StoreFailed,
    /// The settings or an id do not allow the request.
    Settings,
    /// The app of the login lacks a scope.
    MissingScope,
}

/// How much of an unusable body is kept for inspection.
pub(crate) const MAX_CAPTURED_BODY_BYTES: usize = 2048;

/// An unusable body. It may hold customer text, so `Debug` shows only its length.
#[derive(Clone)]
struct CapturedBody(Box<ResponseBody>);

impl fmt::Debug for CapturedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.bytes.len())
    }
}

/// The call's purpose, for "failed to …".
fn purpose(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Login => "log in",
        Endpoint::Accounts => "list the sub-accounts",
        Endpoint::Metadata => "read interaction metadata",
        Endpoint::Transcript => "fetch a transcript",
        Endpoint::AgentSummary => "fetch an agent summary",
        Endpoint::AutoSummary => "fetch an auto summary",
        Endpoint::Recording => "fetch a recording",
    }
}

impl ApiError {
    /// What an operator can check or do, if anything.
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }

    /// Whether access was refused. Another attempt then helps only after an operator has acted.
    pub fn is_refusal(&self) -> bool {
        matches!(self.fault, Fault::Unauthorised | Fault::Forbidden)
    }

    /// Whether the API has moved to another address, which requires a change of the settings.
    pub fn is_redirect(&self) -> bool {
        matches!(self.status, Some(300..=399))
    }

    /// The status to record for a pause. A refused login counts as 401, whatever its status,
    /// because the credentials are at fault. An outage of token verification has none.
    pub fn pause_status(&self) -> Option<i64> {
        let status = match self.cause {
            ErrorCause::Outage => None,
            _ if self.endpoint == Endpoint::Login && self.is_refusal() => Some(401),
            _ => self.status,
        };
        status.map(i64::from)
    }

    /// The body, or its start, of an answer that could not be used. It may hold customer text and
    /// is never logged.
    pub fn body(&self) -> Option<&ResponseBody> {
        self.body.as_ref().map(|captured| &*captured.0)
    }

    /// A number for the way in which the answer is broken, to compare answers; `None` where no
    /// broken answer came.
    pub fn broken_kind(&self) -> Option<u32> {
        let cause = match self.cause {
            ErrorCause::ConnectionLost => 1,
            ErrorCause::TooLarge => 2,
            ErrorCause::Undecodable => 3,
            _ => return None,
        };
        self.status.map(|status| cause * 1000 + u32::from(status))
    }

    /// Converts the error of a call for one artifact: a broken answer is the item's fault, not the
    /// service's.
    pub fn into_item_error(mut self) -> ApiError {
        let ours = self.fault == Fault::Transient && self.endpoint != Endpoint::Login;
        if ours && self.broken_kind().is_some() {
            self.fault = Fault::Broken;
        }
        self
    }

    /// Adds the start of the received body. Not for a login, whose body holds tokens.
    pub fn with_body_start(mut self, body: &[u8]) -> ApiError {
        if self.endpoint == Endpoint::Login {
            return self;
        }
        let start = body.get(..MAX_CAPTURED_BODY_BYTES).unwrap_or(body);
        self.body = Some(CapturedBody(Box::new(ResponseBody { bytes: Bytes::copy_from_slice(start), charset: None })));
        self
    }

    /// Adds the whole received body.
    pub fn with_whole_body(mut self, body: &ResponseBody) -> ApiError {
        self.body = Some(CapturedBody(Box::new(body.clone())));
        self
    }

    /// A 401 because tokens cannot be verified, which says nothing about this token.
    pub(crate) fn outage(endpoint: Endpoint) -> ApiError {
        let why = "the service cannot verify any token just now (401, Jwks remote fetch is failed)";
        ApiError::new(Fault::Transient, endpoint, ErrorCause::Outage, why).with_status(StatusCode::UNAUTHORIZED)
    }

    /// An error of a call to `endpoint`. `why` becomes part of the message: no secret and no
    /// customer text.
    pub fn new(fault: Fault, endpoint: Endpoint, cause: ErrorCause, why: &str) -> ApiError {
        ApiError {
            fault,
            endpoint,
            cause,
            status: None,
            retry_after: None,
            retry_in: None,
            message: format!("failed to {}: {why}", purpose(endpoint)),
            hint: hint(fault, endpoint, cause),
            body: None,
            source: None,
        }
    }

    /// Adds the answer's status.
    pub fn with_status(mut self, status: StatusCode) -> ApiError {
        self.status = Some(status.as_u16());
        self
    }

    pub(crate) fn with_hint(mut self, hint: &'static str) -> ApiError {
        self.hint = Some(hint);
        self
    }

    fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> ApiError {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// No answer came in time.
    pub fn timed_out(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, ErrorCause::TimedOut, why)
    }

    /// The body cannot be decoded, or is not what was requested.
    pub fn undecodable(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, ErrorCause::Undecodable, &format!("the answer is undecodable: {why}"))
    }

    /// The answer exceeds its size limit.
    pub fn too_large(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, ErrorCause::TooLarge, why)
    }

    /// The recording store cannot be written to: a fault of this process, not of the answer.
    pub fn store_failed(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, ErrorCause::StoreFailed, why)
    }

    pub(crate) fn receiver_dropped(endpoint: Endpoint) -> ApiError {
        ApiError::new(
            Fault::Transient,
            endpoint,
            ErrorCause::ReceiverDropped,
            "the receiver of the records was dropped",
        )
    }

    pub(crate) fn reservation_failed(endpoint: Endpoint, error: StoreError) -> ApiError {
        let why = "the send could not be reserved in the database";
        ApiError::new(Fault::Transient, endpoint, ErrorCause::ReservationFailed, why).with_source(error)
    }

    pub(crate) fn invalid_id(endpoint: Endpoint) -> ApiError {
        let why = "the id cannot be part of a URL (empty, or only dots)";
        ApiError::new(Fault::Permanent, endpoint, ErrorCause::Settings, why)
    }

    pub(crate) fn invalid_url(key: &'static str, why: &str) -> ApiError {
        let mut error = ApiError::new(Fault::Permanent, Endpoint::Login, ErrorCause::Settings, why);
        error.message = format!("failed to set up the API client: {key} {why}");
        error.with_hint("give a base URL such as https://ringcx.ringcentral.com")
    }

    pub(crate) fn client_setup_failed(error: reqwest::Error) -> ApiError {
        let mut refused = ApiError::new(Fault::Permanent, Endpoint::Login, ErrorCause::Settings, "");
        refused.message = format!("failed to set up the API client: {}", root_cause(&error));
        refused
            .with_hint(
                "install the package ca-certificates, or point SSL_CERT_FILE at a bundle of authorities to trust",
            )
            .with_source(error.without_url())
    }

    /// A request without an answer, or a body that ended early.
    pub(crate) fn from_transport(endpoint: Endpoint, error: reqwest::Error) -> ApiError {
        let host = error.url().and_then(|url| url.host_str()).map(str::to_owned);
        let error = error.without_url();
        let root = root_cause(&error);
        let (cause, why) = if error.is_builder() {
            (ErrorCause::Settings, format!("the request could not be built: {root}"))
        } else if is_certificate_error(&error) {
            (
                ErrorCause::UntrustedCertificate,
                format!("the certificate of {} is not trusted: {root}", host.as_deref().unwrap_or("the server")),
            )
        } else if error.is_connect() {
            (ErrorCause::Unreachable, format!("no connection to {}: {root}", host.as_deref().unwrap_or("the server")))
        } else if error.is_timeout() {
            (ErrorCause::TimedOut, "no answer came in time".to_owned())
        } else if is_invalid_data(&error) {
            (ErrorCause::Undecodable, format!("the answer is undecodable: {root}"))
        } else {
            (ErrorCause::ConnectionLost, format!("the connection broke off: {root}"))
        };
        ApiError::new(Fault::Transient, endpoint, cause, &why).with_source(error)
    }

    /// An answer other than a success. `body` may be truncated.
    pub fn from_response(
        endpoint: Endpoint,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Time,
    ) -> ApiError {
        if status == StatusCode::UNAUTHORIZED && is_outage(body) {
            return ApiError::outage(endpoint);
        }
        let code = vendor_code(body).map(|code| format!(", {code}")).unwrap_or_default();
        let number = status.as_u16();
        let fault = fault_of(number);
        let what = match number {
            300..=399 => return ApiError::redirect(endpoint, status, headers),
            401 if endpoint == Endpoint::Login => "the credentials were refused",
            401 => "the token was refused",
            403 => "access was denied",
            404 => "it is not there",
            408 | 425 => "the server asks to try again",
            429 => "too many requests",
            500.. => "the service failed",
            _ => "the request was refused",
        };
        let mut error = ApiError::new(fault, endpoint, ErrorCause::Answered, &format!("{what} ({number}{code})"))
            .with_status(status);
        error.retry_after = bounded_retry_after(headers, now);
        error
    }

    /// A redirect. The message names only the target's host: the rest of the URL may hold anything.
    fn redirect(endpoint: Endpoint, status: StatusCode, headers: &HeaderMap) -> ApiError {
        let to = headers.get(LOCATION).and_then(|location| location.to_str().ok()).and_then(host_of);
        let to = to.map_or_else(|| "another address".to_owned(), |host| format!("the host {host}"));
        let number = status.as_u16();
        let why = format!(
            "redirected to {to}, and redirects are not followed so that the token goes nowhere else ({number})"
        );
        ApiError::new(fault_of(number), endpoint, ErrorCause::Answered, &why)
            .with_status(status)
            .with_hint(redirect_hint(endpoint))
    }

    /// Sets the time until the next attempt.
    pub(crate) fn with_retry_in(mut self, retry_in: Duration) -> ApiError {
        self.retry_in = Some(retry_in);
        self
    }

    /// Takes over the time until the next attempt from another error.
    pub(crate) fn with_retry_in_of(mut self, other: &ApiError) -> ApiError {
        self.retry_in = other.retry_in;
        self
    }

    /// Replaces the message.
    pub(crate) fn with_message(mut self, message: String) -> ApiError {
        self.message = message;
        self
    }
}

/// The wait in `Retry-After`, at most [`MAX_RETRY_AFTER`].
pub(crate) fn bounded_retry_after(headers: &HeaderMap, now: Time) -> Option<Duration> {
    headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_retry_after(value, now))
        .map(|wait| wait.min(MAX_RETRY_AFTER))
}

/// The host of a URL, if it has one that is safe to show.
fn host_of(url: &str) -> Option<String> {
    // A URL without a scheme can name a host as well.
    let url = Url::parse(url).or_else(|_| Url::parse("https://relative.invalid/")?.join(url)).ok()?;
    let host = url.host_str().filter(|host| *host != "relative.invalid")?;
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte));
    (plain && host.len() <= 80).then(|| host.to_owned())
}

/// Whether a 401 reports that the keys (JWKS) could not be fetched, so that no token can be
/// verified.
fn is_outage(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body.get(..MAX_CAPTURED_BODY_BYTES).unwrap_or(body)).to_ascii_lowercase();
    text.contains("jwks") && (text.contains("fail") || text.contains("unable") || text.contains("timeout"))
}

fn fault_of(status: u16) -> Fault {
    match status {
        401 => Fault::Unauthorised,
        403 => Fault::Forbidden,
        404 => Fault::NotYet,
        429 => Fault::RateLimited,
        408 | 409 | 425 => Fault::Transient,
        400..500 => Fault::Permanent,
        _ => Fault::Transient,
    }
}

/// The vendor's error code in a body, unless it looks like an id or a telephone number.
pub(crate) fn vendor_code(body: &[u8]) -> Option<String> {
    let body: Value = crate::lenient_json::from_slice(body)?;
    let codes = [body.get("errorCode"), body.pointer("/errors/0/errorCode"), body.get("error")];
    codes.into_iter().flatten().find_map(printable_code)
}

/// A code that is safe to show: short, printable, and with too few digits to identify a person.
pub(crate) fn printable_code(code: &Value) -> Option<String> {
    let code = match code {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let plain = code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let digits = code.bytes().filter(u8::is_ascii_digit).count();
    (plain && digits <= 5 && (1..=64).contains(&code.len())).then_some(code)
}

/// Whether the received bytes are invalid, rather than incomplete; reqwest calls both "decode".
fn is_invalid_data(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
        }
        cause = inner.source();
    }
    false
}

/// Whether the server's certificate is the cause of an error, of whichever library.
pub fn is_certificate_error(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(one) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = one.downcast_ref() {
            return true;
        }
        // The source of an I/O error is that of the error it wraps, which would itself be skipped.
        let wrapped = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| one.source());
    }
    false
}

/// The innermost cause's message, which is the most specific one.
fn root_cause(error: &reqwest::Error) -> String {
    let mut root: &dyn Error = error;
    while let Some(inner) = root.source() {
        root = inner;
    }
    let text = root.to_string();
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, body: &str) -> ApiError {
        let status = StatusCode::from_u16(status).unwrap();
        ApiError::from_response(Endpoint::Transcript, status, &HeaderMap::new(), body.as_bytes(), Time(0))
    }

    #[test]
    fn a_certificate_error_is_found_at_any_depth() {
        let refused = || rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, refused()));
        assert!(is_certificate_error(&refused()) && is_certificate_error(&io::Error::other(refused())));
        assert!(is_certificate_error(&io::Error::other(wrapped)));
        assert!(!is_certificate_error(&io::Error::other(rustls::Error::HandshakeNotComplete)));
        assert!(!is_certificate_error(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }

    #[test]
    fn each_status_has_its_fault() {
        let expected = [
            (302, Fault::Transient),
            (400, Fault::Permanent),
            (401, Fault::Unauthorised),
            (403, Fault::Forbidden),
            (404, Fault::NotYet),
            (408, Fault::Transient),
            (409, Fault::Transient),
            (410, Fault::Permanent),
            (425, Fault::Transient),
            (429, Fault::RateLimited),
            (500, Fault::Transient),
            (503, Fault::Transient),
            (599, Fault::Transient),
        ];
        for (status, fault) in expected {
            assert_eq!(answer(status, "").fault, fault, "{status}");
        }
    }

    #[test]
    fn a_redirect_names_only_the_host_and_the_setting_to_change() {
        let redirected = |endpoint, location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            ApiError::from_response(endpoint, StatusCode::PERMANENT_REDIRECT, &headers, b"", Time(0))
        };
        for (endpoint, setting) in [
            (Endpoint::AutoSummary, "api.summary_url"),
            (Endpoint::AgentSummary, "api.summary_url"),
            (Endpoint::Transcript, "api.ringcx_url"),
            (Endpoint::Metadata, "api.ringcx_url"),
            (Endpoint::Accounts, "api.ringcx_url"),
        ] {
            let error = redirected(endpoint, "https://user:pw@summaries.example.com:8443/voice/x?token=s3cret#anna");
            assert!(error.message.contains("the host summaries.example.com, "), "{error}");
            assert!(!error.message.contains("voice") && !error.message.contains("s3cret"), "{error}");
            assert!(error.hint().unwrap().contains(setting) && error.is_redirect(), "{error}");
        }
        assert!(redirected(Endpoint::Transcript, "//b.example.com/x").message.contains("the host b.example.com"));
        for odd in ["/elsewhere", "mailto:anna@example.com", "", "https://"] {
            assert!(redirected(Endpoint::Transcript, odd).message.contains("redirected to another address"), "{odd}");
        }
    }

    #[test]
    fn keys_that_cannot_be_fetched_are_an_outage_of_the_vendor() {
        for body in ["Jwks remote fetch is failed", "  JWKS remote fetch is failed\n", "failed to fetch jwks"] {
            let error = answer(401, body);
            assert_eq!((error.fault, error.cause, error.status), (Fault::Transient, ErrorCause::Outage, Some(401)));
            assert!(!error.is_refusal() && error.pause_status().is_none() && error.hint().is_some());
        }
        for body in ["Jwt is expired", "Jwks doesn't have key to match kid or alg from Jwt", ""] {
            assert_eq!(answer(401, body).fault, Fault::Unauthorised, "{body}");
        }
        assert_eq!(answer(403, "Jwks remote fetch is failed").fault, Fault::Forbidden);
    }

    #[test]
    fn a_kept_body_is_bounded_and_not_shown() {
        let error =
            ApiError::undecodable(Endpoint::Transcript, "x").with_status(StatusCode::OK).with_body_start(&[b'A'; 9000]);
        assert_eq!(error.body().map(|body| body.bytes.len()), Some(MAX_CAPTURED_BODY_BYTES));
        assert!(!format!("{error:?}").contains("AAA"));
        assert_eq!((error.broken_kind(), error.into_item_error().fault), (Some(3200), Fault::Broken));
        let login = ApiError::undecodable(Endpoint::Login, "x").with_status(StatusCode::OK).with_body_start(b"token");
        assert!(login.body().is_none() && login.into_item_error().fault == Fault::Transient);
    }

    #[test]
    fn a_message_holds_only_the_vendors_code_of_the_body() {
        let body = r#"{"errorCode":"access.denied.exception","generalMessage":"Anna said hello","details":"x"}"#;
        assert_eq!(
            answer(403, body).message,
            "failed to fetch a transcript: access was denied (403, access.denied.exception)"
        );
        assert!(answer(403, body).hint().is_some());
    }

    #[test]
    fn a_code_that_could_identify_a_person_or_is_free_text_is_omitted() {
        for body in [
            r#"{"errorCode":"+16505551234"}"#,
            r#"{"errorCode":16505551234}"#,
            r#"{"errorCode":"p-v-0b338efb877e48f0"}"#,
            r#"{"errorCode":"Anna said hello"}"#,
            r#"{"errorCode":{"a":1}}"#,
            r#"{"errorCode":""}"#,
            "not json",
        ] {
            assert_eq!(answer(400, body).message, "failed to fetch a transcript: the request was refused (400)");
        }
        assert!(answer(400, r#"{"errors":[{"errorCode":"OAU-251"}]}"#).message.contains("OAU-251"));
    }

    proptest! {
        #[test]
        fn no_error_body_makes_it_panic_and_none_is_quoted(
            status in 100_u16..1000,
            body in prop_oneof![
                any::<Vec<u8>>(),
                "\\PC{0,30}".prop_map(|text| {
                    serde_json::json!({"errorCode": format!("§{text}"), "error": format!("§{text}"), "errors": [{"errorCode": text}]})
                        .to_string()
                        .into_bytes()
                }),
            ],
            wait in proptest::option::of("[ -~]{0,30}"),
        ) {
            let mut headers = HeaderMap::new();
            if let Some(wait) = wait.and_then(|wait| wait.parse().ok()) {
                headers.insert(RETRY_AFTER, wait);
            }
            let status = StatusCode::from_u16(status).unwrap();
            let error = ApiError::from_response(Endpoint::Transcript, status, &headers, &body, Time(0));
            prop_assert!(error.message.is_ascii() && error.message.len() < 200, "{}", error.message);
            prop_assert_eq!(error.status, Some(status.as_u16()));
        }
    }
}
