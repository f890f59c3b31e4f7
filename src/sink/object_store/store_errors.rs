//! Describes the errors of an object store.
//!
//! Only the status and the store's error code are reported. Neither the response nor the library's
//! message is: URLs hold signatures, and responses may quote what was sent.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};
use secrecy::{ExposeSecret, SecretString};

use super::super::describe_disk_error;
use super::SinkError;
use crate::ringcx::is_certificate_error;

/// An invalid setting.
pub(super) fn setting_error(what: &str, hint: &str) -> SinkError {
    SinkError::unavailable(what).with_hint(hint)
}

/// An invalid option.
pub(super) fn option_error(name: &str, why: &str, hint: &str) -> SinkError {
    setting_error(&format!("failed to read the sink's option {name}: {why}"), hint)
}

/// Options that do not give a usable store. The message holds none of their values.
pub(super) fn options_error(error: &object_store::Error, options: &BTreeMap<String, SecretString>) -> SinkError {
    const HINT: &str = "docs/export.md lists the options that a store needs";
    if let object_store::Error::Generic { store: "GCS", .. } = error {
        let what = "failed to set up the object store: the service account's key is missing or invalid";
        return setting_error(
            what,
            "set google_service_account, the path of its JSON file, or google_service_account_key",
        );
    }
    let mut why = error.to_string();
    for value in options.values().map(ExposeSecret::expose_secret).filter(|value| !value.is_empty()) {
        why = why.replace(value, "…");
    }
    setting_error(&format!("failed to set up the object store: {}", why.lines().next().unwrap_or_default()), HINT)
}

/// A folder that cannot be written to.
pub(crate) fn folder_error(error: &io::Error, folder: &str) -> SinkError {
    let (why, hint) = describe_disk_error(error);
    SinkError::unavailable(format!("failed to write below {folder}: {why}")).with_hint(hint)
}

/// A bucket that did not accept an object.
pub(crate) fn store_error(error: &object_store::Error, bucket: &str) -> SinkError {
    let details = ErrorDetails::of(error);
    let (why, hint) = details.describe();
    let failed = SinkError::unavailable(format!("failed to write to {bucket}: {why}")).with_hint(hint);
    SinkError { status: details.status, ..failed }
}

/// What is known about an error.
#[derive(Debug, Default)]
struct ErrorDetails {
    status: Option<u16>,
    /// The store's error code, such as `NoSuchBucket`.
    code: Option<String>,
    kind: Option<HttpErrorKind>,
    is_untrusted: bool,
    /// Whether the request could not be built: the endpoint is not https.
    is_unbuilt: bool,
    /// The library's messages, for what only they tell: its error types are private. Never
    /// reported.
    text: String,
}

impl ErrorDetails {
    fn of(error: &object_store::Error) -> ErrorDetails {
        let mut details = ErrorDetails { is_untrusted: is_certificate_error(error), ..ErrorDetails::default() };
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            details.status = details.status.or_else(|| parse_status(&text));
            details.code = details.code.or_else(|| parse_error_code(&text));
            details.kind = details.kind.or_else(|| error.downcast_ref::<HttpError>().map(HttpError::kind));
            details.is_unbuilt |= error.downcast_ref().is_some_and(reqwest::Error::is_builder);
            details.text.push_str(&text);
            details.text.push('\n');
            next = error.source();
        }
        details.status = details.status.or(match error {
            object_store::Error::NotFound { .. } => Some(404),
            object_store::Error::PermissionDenied { .. } => Some(403),
            object_store::Error::Unauthenticated { .. } => Some(401),
            _ => None,
        });
        details
    }

    fn describe(&self) -> (String, &'static str) {
        let code = self.code.as_deref().unwrap_or_default();
        let contains = |part: &str| self.text.contains(part);
        if ["/latest/", "metadata.google", "/computeMetadata/", "/metadata/identity"].iter().any(|part| contains(part))
        {
            let hint =
                "set the credentials in options, or run where the provider supplies them; no event is lost meanwhile";
            return ("there are no credentials for it".to_owned(), hint);
        }
        if code == "RequestTimeTooSkewed" {
            return (self.with_response("this machine's clock is wrong"), "set the clock; no event is lost meanwhile");
        }
        if contains("redirect without LOCATION")
            || ["PermanentRedirect", "AuthorizationHeaderMalformed"].contains(&code)
        {
            return (
                self.with_response("it is in another region"),
                "set aws_region in options; no event is lost meanwhile",
            );
        }
        match self.status {
            Some(401) => self.wrong_credentials(),
            Some(400 | 403) if CREDENTIAL_ERROR_CODES.contains(&code) => self.wrong_credentials(),
            Some(403) => {
                let hint = "allow these credentials to write objects there; no event is lost meanwhile";
                (self.with_response("the credentials do not permit it"), hint)
            }
            Some(404) => {
                let hint = "create it, or correct the sink's url; no event is lost meanwhile";
                (self.with_response("it does not exist"), hint)
            }
            Some(429 | 503) => (self.with_response("it is busy"), "nothing to do: it is retried automatically"),
            Some(500..) => (
                self.with_response("it failed"),
                "nothing to do unless it lasts: then check the provider's status page",
            ),
            Some(_) => {
                (self.with_response("it refused"), "check the sink's url and options; no event is lost meanwhile")
            }
            None => self.without_response(),
        }
    }

    fn wrong_credentials(&self) -> (String, &'static str) {
        let hint = "correct the credentials in the sink's options; no event is lost meanwhile";
        (self.with_response("it does not accept the credentials"), hint)
    }

    fn with_response(&self, why: &str) -> String {
        let status = self.status.map(|status| status.to_string());
        let parts: Vec<&str> = status.as_deref().into_iter().chain(self.code.as_deref()).collect();
        if parts.is_empty() { why.to_owned() } else { format!("{why} ({})", parts.join(" ")) }
    }

    fn without_response(&self) -> (String, &'static str) {
        // No error type tells a name that does not resolve.
        let is_unresolved = ["dns error", "failed to lookup"].iter().any(|part| self.text.contains(part));
        let (why, hint) = if is_unresolved {
            ("its host name does not resolve", "check the endpoint, the region and this machine's DNS")
        } else if self.is_untrusted {
            ("its certificate is not trusted", "add its authority to the system's trusted roots")
        } else if matches!(self.kind, Some(HttpErrorKind::Timeout)) {
            ("it does not answer in time", "check the network; it is retried automatically")
        } else if matches!(self.kind, Some(HttpErrorKind::Connect)) {
            ("it cannot be reached", "check the endpoint and the firewall; it is retried automatically")
        } else if self.is_unbuilt {
            ("its endpoint is not https", "set aws_allow_http = \"true\" in options if that is intended")
        } else {
            ("the connection broke off", "nothing to do: it is retried automatically")
        };
        (why.to_owned(), hint)
    }
}

/// Error codes for wrong or expired credentials, whatever the status.
const CREDENTIAL_ERROR_CODES: [&str; 8] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
];

fn parse_status(text: &str) -> Option<u16> {
    let digits: String = text.split("status code: ").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The content of `<Code>`, if it is a single word.
fn parse_error_code(text: &str) -> Option<String> {
    let code = text.split("<Code>").nth(1)?.split("</Code>").next()?;
    let is_code = (1..=60).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_code.then(|| code.to_owned())
}
