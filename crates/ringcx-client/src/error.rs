//! What can go wrong with a call, whose fault it is, and what a person can do about it.
//!
//! Messages name the call, the status and the vendor's error code. They never hold an id, an URL, a secret, or any part
//! of a body but that code: whatever a customer said stays out of logs.

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

use super::Body;
use super::limits::{LONGEST_WAIT, StoreError, retry_after};

mod hint;

use hint::{hint, moved};

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
    body: Option<KeptBody>,
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
    /// The service cannot tell good tokens from bad ones just now: the vendor's outage, not the login's fault.
    Outage,
    /// A transcript without a word in it, although there is to be one.
    Empty,
    /// The settings or an id do not allow the request to be made.
    Settings,
}

/// Of a body that cannot be used so many bytes are kept, for a person to see what came.
pub(crate) const KEPT_BYTES: usize = 2048;

/// What came in place of what was asked for. It may hold what a customer said: printed, it shows its length alone.
#[derive(Clone)]
struct KeptBody(Box<Body>);

impl fmt::Debug for KeptBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.bytes.len())
    }
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

    /// Whether the API has moved to another address, which takes a change of the settings.
    pub fn is_redirect(&self) -> bool {
        matches!(self.status, Some(300..=399))
    }

    /// The status under which a pause is recorded: whatever refused the login, that is a matter of the credentials; an
    /// outage of those who verify tokens is none.
    pub fn pause_status(&self) -> Option<i64> {
        let status = match self.cause {
            Cause::Outage => None,
            _ if self.endpoint == Endpoint::Login && self.is_refusal() => Some(401),
            _ => self.status,
        };
        status.map(i64::from)
    }

    /// The body, or its beginning, where an answer could not be used. May hold what a customer said: never logged.
    pub fn body(&self) -> Option<&Body> {
        self.body.as_ref().map(|kept| &*kept.0)
    }

    /// How the answer is broken, as a number that is the same where it is broken alike; `None` where none came.
    pub fn broken_kind(&self) -> Option<u32> {
        let cause = match self.cause {
            Cause::BrokeOff => 1,
            Cause::TooLarge => 2,
            Cause::Undecodable => 3,
            _ => return None,
        };
        self.status.map(|status| cause * 1000 + u32::from(status))
    }

    /// The same error of a call for one artifact: an answer that is broken is the item's, not the service's.
    pub fn of_item(mut self) -> ApiError {
        let ours = self.fault == Fault::Transient && self.endpoint != Endpoint::Login;
        if ours && self.broken_kind().is_some() {
            self.fault = Fault::Broken;
        }
        self
    }

    /// The same, with the beginning of what came; not of a login, which holds tokens.
    pub fn of_body(mut self, body: &[u8]) -> ApiError {
        if self.endpoint == Endpoint::Login {
            return self;
        }
        let start = body.get(..KEPT_BYTES).unwrap_or(body);
        self.body = Some(KeptBody(Box::new(Body { bytes: Bytes::copy_from_slice(start), charset: None })));
        self
    }

    /// The same, with all of what came.
    pub fn of_whole_body(mut self, body: &Body) -> ApiError {
        self.body = Some(KeptBody(Box::new(body.clone())));
        self
    }

    /// A 401 that says nothing of the token: whoever is to verify it cannot.
    pub(crate) fn outage(endpoint: Endpoint) -> ApiError {
        let why = "the service cannot verify any token just now (401, Jwks remote fetch is failed)";
        ApiError::new(Fault::Transient, endpoint, Cause::Outage, why).with_status(StatusCode::UNAUTHORIZED)
    }

    /// A call to `endpoint` that failed; `why` is shown to people, and holds no secret and nothing that a customer said.
    pub fn new(fault: Fault, endpoint: Endpoint, cause: Cause, why: &str) -> ApiError {
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

    /// The same error, of an answer with this status.
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

    /// No answer in time.
    pub fn timed_out(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, Cause::TimedOut, why)
    }

    /// An answer whose body is not what was asked for.
    pub fn undecodable(endpoint: Endpoint, why: &str) -> ApiError {
        ApiError::new(Fault::Transient, endpoint, Cause::Undecodable, &format!("the answer is undecodable: {why}"))
    }

    /// An answer that is larger than what is taken.
    pub fn too_large(endpoint: Endpoint, why: &str) -> ApiError {
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
    pub fn answered(endpoint: Endpoint, status: StatusCode, headers: &HeaderMap, body: &[u8], now: Time) -> ApiError {
        if status == StatusCode::UNAUTHORIZED && is_outage(body) {
            return ApiError::outage(endpoint);
        }
        let code = vendor_code(body).map(|code| format!(", {code}")).unwrap_or_default();
        let number = status.as_u16();
        let fault = fault_of(number);
        let what = match number {
            300..=399 => return ApiError::redirected(endpoint, status, headers),
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

    /// An answer that points elsewhere. Of where it points to, the host is told alone: the rest may hold anything.
    fn redirected(endpoint: Endpoint, status: StatusCode, headers: &HeaderMap) -> ApiError {
        let to = headers.get(LOCATION).and_then(|location| location.to_str().ok()).and_then(host_of);
        let to = to.map_or_else(|| "another address".to_owned(), |host| format!("the host {host}"));
        let number = status.as_u16();
        let why = format!(
            "redirected to {to}, and redirects are not followed so that the token goes nowhere else ({number})"
        );
        ApiError::new(fault_of(number), endpoint, Cause::Answered, &why).with_status(status).with_hint(moved(endpoint))
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

/// The host of a URL, if it has one that is fit to be shown.
fn host_of(url: &str) -> Option<String> {
    // One without a scheme still names a host.
    let url = Url::parse(url).or_else(|_| Url::parse("https://relative.invalid/")?.join(url)).ok()?;
    let host = url.host_str().filter(|host| *host != "relative.invalid")?;
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte));
    (plain && host.len() <= 80).then(|| host.to_owned())
}

/// Whether a 401 tells of keys (JWKS) that could not be fetched, so that no token can be verified, good or bad.
fn is_outage(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body.get(..KEPT_BYTES).unwrap_or(body)).to_ascii_lowercase();
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

/// The vendor's error code out of an error's body, if it looks like one and not like an id or a telephone number.
pub(crate) fn vendor_code(body: &[u8]) -> Option<String> {
    let body: Value = crate::lenient_json::from_slice(body)?;
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
    fn a_redirect_names_the_host_alone_and_the_setting_to_change() {
        let redirected = |endpoint, location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            ApiError::answered(endpoint, StatusCode::PERMANENT_REDIRECT, &headers, b"", Time(0))
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
    fn keys_that_cannot_be_fetched_are_the_vendors_outage() {
        for body in ["Jwks remote fetch is failed", "  JWKS remote fetch is failed\n", "failed to fetch jwks"] {
            let error = answer(401, body);
            assert_eq!((error.fault, error.cause, error.status), (Fault::Transient, Cause::Outage, Some(401)));
            assert!(!error.is_refusal() && error.pause_status().is_none() && error.hint().is_some());
        }
        for body in ["Jwt is expired", "Jwks doesn't have key to match kid or alg from Jwt", ""] {
            assert_eq!(answer(401, body).fault, Fault::Unauthorised, "{body}");
        }
        assert_eq!(answer(403, "Jwks remote fetch is failed").fault, Fault::Forbidden);
    }

    #[test]
    fn a_kept_body_is_bounded_and_not_shown() {
        let error = ApiError::undecodable(Endpoint::Transcript, "x").with_status(StatusCode::OK).of_body(&[b'A'; 9000]);
        assert_eq!(error.body().map(|body| body.bytes.len()), Some(KEPT_BYTES));
        assert!(!format!("{error:?}").contains("AAA"));
        assert_eq!((error.broken_kind(), error.of_item().fault), (Some(3200), Fault::Broken));
        let login = ApiError::undecodable(Endpoint::Login, "x").with_status(StatusCode::OK).of_body(b"token");
        assert!(login.body().is_none() && login.of_item().fault == Fault::Transient);
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
