//! What can go wrong with a call, whose fault it is, and what a person can do about it.
//!
//! Messages name the call, the status and the vendor's error code. They never hold an id, an URL, a secret, or any part
//! of a body but that code: whatever a customer said stays out of logs.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::backoff::Fault;
use crate::clock::Time;
use crate::model::Endpoint;

use super::limits::{LONGEST_WAIT, StoreError, retry_after};

mod hint;

use hint::hint;

/// A call that did not give what it was made for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Whose fault it is, and whether trying again helps.
    pub fault: Fault,
    /// The call. [`Endpoint::Login`] where a token could not be had: the call itself was then never made.
    pub endpoint: Endpoint,
    /// How it came about, finer than the fault.
    pub cause: Cause,
    /// The HTTP status where there was one.
    pub status: Option<u16>,
    /// What the server's `Retry-After` asked for, counted from the answer.
    pub retry_after: Option<Duration>,
    /// When the next login or renewal is due, counted from now, where that is what failed. Asking earlier gives this
    /// same error.
    pub retry_in: Option<Duration>,
    /// "failed to …: why", without a hint.
    pub message: String,
    hint: Option<&'static str>,
    #[source]
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// How a failure came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The server said so.
    Answered,
    /// No connection: nothing was sent.
    Unreachable,
    /// No connection, because the server's certificate is not one to trust: nothing was sent.
    Untrusted,
    /// Nothing came for too long.
    TimedOut,
    /// The connection went away before the answer was complete.
    BrokeOff,
    /// The answer is larger than this program will hold.
    TooLarge,
    /// The answer is not what the contract says.
    Undecodable,
    /// The reservation of the send could not be stored: nothing was sent.
    Store,
    /// Whoever wanted the records has gone.
    Gone,
    /// Fresh tokens are refused again and again, so for a while no new one is asked for.
    Futile,
    /// The settings or an id do not allow the request to be made.
    Settings,
}

/// What a call is for, after "failed to".
fn purpose(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Login => "log in",
        Endpoint::Accounts => "list the sub-accounts",
        Endpoint::Metadata => "read interaction metadata",
        Endpoint::Transcript => "fetch a transcript",
        Endpoint::AgentSummary => "fetch an agent summary",
        Endpoint::AutoSummary => "fetch an auto summary",
    }
}

impl ApiError {
    /// What a person can check or do, if anything.
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }

    /// Whether it was refused, rather than not possible just now: trying again helps only after a person has acted.
    pub fn is_refusal(&self) -> bool {
        matches!(self.fault, Fault::Unauthorised | Fault::Forbidden)
    }

    /// The status under which a pause is recorded: whatever refused the login, that is a matter of the credentials.
    pub fn pause_status(&self) -> Option<i64> {
        let status = if self.endpoint == Endpoint::Login && self.is_refusal() { Some(401) } else { self.status };
        status.map(i64::from)
    }

    pub(crate) fn new(fault: Fault, endpoint: Endpoint, cause: Cause, why: &str) -> ApiError {
        ApiError {
            fault,
            endpoint,
            cause,
            status: None,
            retry_after: None,
            retry_in: None,
            message: format!("failed to {}: {why}", purpose(endpoint)),
            hint: hint(fault, endpoint, cause),
            source: None,
        }
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> ApiError {
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

    pub(crate) fn timed_out(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, Cause::TimedOut, why)
    }

    pub(crate) fn undecodable(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, Cause::Undecodable, &format!("the answer is undecodable: {why}"))
    }

    pub(crate) fn too_large(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, Cause::TooLarge, why)
    }

    pub(crate) fn gone(endpoint: Endpoint) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, Cause::Gone, "nobody takes its records any more")
    }

    pub(crate) fn store(endpoint: Endpoint, error: StoreError) -> ApiError {
        let why = "the send could not be reserved in the database";
        ApiError::new(Fault::Transient, endpoint, Cause::Store, why).with_source(error)
    }

    pub(crate) fn bad_id(endpoint: Endpoint) -> ApiError {
        let why = "its id is one that no URL can hold (empty, or only dots)";
        ApiError::new(Fault::Permanent, endpoint, Cause::Settings, why)
    }

    pub(crate) fn bad_url(key: &'static str, why: &str) -> ApiError {
        let mut error = ApiError::new(Fault::Permanent, Endpoint::Login, Cause::Settings, why);
        error.message = format!("failed to set up the API client: {key} {why}");
        error.with_hint("give a base URL such as https://ringcx.ringcentral.com")
    }

    pub(crate) fn no_client(error: reqwest::Error) -> ApiError {
        let mut refused = ApiError::new(Fault::Permanent, Endpoint::Login, Cause::Settings, "");
        refused.message = format!("failed to set up the API client: {}", root_of(&error));
        refused
            .with_hint(
                "install the package ca-certificates, or point SSL_CERT_FILE at a bundle of authorities to trust",
            )
            .with_source(error.without_url())
    }

    /// A request that got no headers, or a body that broke off.
    pub(crate) fn transport(endpoint: Endpoint, error: reqwest::Error) -> ApiError {
        let host = error.url().and_then(|url| url.host_str()).map(str::to_owned);
        let error = error.without_url();
        let root = root_of(&error);
        let (cause, why) = if error.is_builder() {
            (Cause::Settings, format!("the request could not be built: {root}"))
        } else if is_untrusted(&error) {
            (
                Cause::Untrusted,
                format!("the certificate of {} is not trusted: {root}", host.as_deref().unwrap_or("the server")),
            )
        } else if error.is_connect() {
            (Cause::Unreachable, format!("no connection to {}: {root}", host.as_deref().unwrap_or("the server")))
        } else if error.is_timeout() {
            (Cause::TimedOut, "no answer came in time".to_owned())
        } else if is_garbled(&error) {
            (Cause::Undecodable, format!("the answer is undecodable: {root}"))
        } else {
            (Cause::BrokeOff, format!("the connection broke off: {root}"))
        };
        ApiError::new(Fault::Transient, endpoint, cause, &why).with_source(error)
    }

    /// An answer that is not a success. `body` may be cut short.
    pub(crate) fn answered(
        endpoint: Endpoint,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Time,
    ) -> ApiError {
        let code = vendor_code(body).map(|code| format!(", {code}")).unwrap_or_default();
        let number = status.as_u16();
        let fault = fault_of(number);
        let what = match number {
            300..=399 => "redirected, and redirects are not followed so that the token goes nowhere else",
            401 if endpoint == Endpoint::Login => "the credentials were refused",
            401 => "the token was refused",
            403 => "access was denied",
            404 => "it is not there",
            408 | 425 => "the server asks to try again",
            429 => "too many requests",
            500.. => "the service failed",
            _ => "the request was refused",
        };
        let mut error =
            ApiError::new(fault, endpoint, Cause::Answered, &format!("{what} ({number}{code})")).with_status(status);
        error.retry_after = asked(headers, now);
        error
    }

    /// The same error, told to someone who asks while the next attempt is `retry_in` away.
    pub(crate) fn due_in(mut self, retry_in: Duration) -> ApiError {
        self.retry_in = Some(retry_in);
        self
    }

    /// The same, with the time at which the other may be tried again.
    pub(crate) fn after(mut self, other: &ApiError) -> ApiError {
        self.retry_in = other.retry_in;
        self
    }

    /// The same in other words.
    pub(crate) fn saying(mut self, message: String) -> ApiError {
        self.message = message;
        self
    }
}

/// What `Retry-After` asks for, an hour at most: whoever waits longer is forgotten.
pub(crate) fn asked(headers: &HeaderMap, now: Time) -> Option<Duration> {
    headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| retry_after(value, now))
        .map(|wait| wait.min(LONGEST_WAIT))
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

/// The vendor's error code out of an error's body, if it looks like one and not like an id or a telephone number.
pub(crate) fn vendor_code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let codes = [body.get("errorCode"), body.pointer("/errors/0/errorCode"), body.get("error")];
    codes.into_iter().flatten().find_map(sane_code)
}

/// A code fit to be shown: short, plain, and with too few digits to name anyone.
pub(crate) fn sane_code(code: &Value) -> Option<String> {
    let code = match code {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let plain = code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let digits = code.bytes().filter(u8::is_ascii_digit).count();
    (plain && digits <= 5 && (1..=64).contains(&code.len())).then_some(code)
}

/// Whether the bytes that came make no sense, rather than that some are missing; the client calls both "decode".
fn is_garbled(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
        }
        cause = inner.source();
    }
    false
}

/// Whether it was the server's certificate that stood in the way.
fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(one) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = one.downcast_ref() {
            return true;
        }
        // An I/O error's source is that of what it wraps, which itself would be passed over.
        let wrapped = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| one.source());
    }
    false
}

/// The innermost cause's words: those that say what really happened.
fn root_of(error: &reqwest::Error) -> String {
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
        ApiError::answered(Endpoint::Transcript, status, &HeaderMap::new(), body.as_bytes(), Time(0))
    }

    #[test]
    fn a_certificate_is_found_however_deep_it_lies_in_an_error() {
        let refused = || rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, refused()));
        assert!(is_untrusted(&refused()) && is_untrusted(&io::Error::other(refused())));
        assert!(is_untrusted(&io::Error::other(wrapped)));
        assert!(!is_untrusted(&io::Error::other(rustls::Error::HandshakeNotComplete)));
        assert!(!is_untrusted(&io::Error::from(io::ErrorKind::ConnectionRefused)));
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
    fn a_message_names_the_vendors_code_and_nothing_else_of_the_body() {
        let body = r#"{"errorCode":"access.denied.exception","generalMessage":"Anna said hello","details":"x"}"#;
        assert_eq!(
            answer(403, body).message,
            "failed to fetch a transcript: access was denied (403, access.denied.exception)"
        );
        assert!(answer(403, body).hint().is_some());
    }

    #[test]
    fn a_code_that_could_be_a_number_of_a_person_or_free_text_is_left_out() {
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
        fn no_error_body_upsets_it_and_none_is_quoted(
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
            let error = ApiError::answered(Endpoint::Transcript, status, &headers, &body, Time(0));
            prop_assert!(error.message.is_ascii() && error.message.len() < 200, "{}", error.message);
            prop_assert_eq!(error.status, Some(status.as_u16()));
        }
    }
}
