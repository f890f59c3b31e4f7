//! What keeps a store from taking an object, said for people.
//!
//! Of what a store answers, only its status and its word for the error are told; of what the library says, nothing: URLs
//! hold signatures, and answers what was sent.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};
use secrecy::{ExposeSecret, SecretString};

use super::super::of_disk;
use super::{SinkError, SinkErrorKind};

/// The whole sink waits; nothing is lost.
pub(super) fn away(message: String, status: Option<u16>) -> SinkError {
    SinkError { message, kind: SinkErrorKind::Away, status, retry_after: None }
}

/// A setting that is of no use.
pub(super) fn setting(what: &str, hint: &str) -> SinkError {
    away(format!("{what}\nhint: {hint}"), None)
}

/// An option that is of no use.
pub(super) fn option(name: &str, why: &str, hint: &str) -> SinkError {
    setting(&format!("failed to read the sink's option {name}: {why}"), hint)
}

/// Options that do not make a store, told without any of their values.
pub(super) fn of_options(error: &object_store::Error, options: &BTreeMap<String, SecretString>) -> SinkError {
    const HINT: &str = "docs/export.md says which options a store needs";
    if let object_store::Error::Generic { store: "GCS", .. } = error {
        let what = "failed to set up the object store: the service account's key is not there, or is none";
        return setting(what, "give google_service_account, the path of its JSON file, or google_service_account_key");
    }
    let mut why = error.to_string();
    for value in options.values().map(ExposeSecret::expose_secret).filter(|value| !value.is_empty()) {
        why = why.replace(value, "…");
    }
    setting(&format!("failed to set up the object store: {}", why.lines().next().unwrap_or_default()), HINT)
}

/// A folder that cannot be written to.
pub(super) fn of_folder(error: &io::Error, folder: &str) -> SinkError {
    let (why, hint) = of_disk(error);
    away(format!("failed to write below {folder}: {why}\nhint: {hint}"), None)
}

/// A bucket that did not take an object.
pub(super) fn of_store(error: &object_store::Error, bucket: &str) -> SinkError {
    let seen = Seen::of(error);
    let (why, hint) = seen.said();
    away(format!("failed to write to {bucket}: {why}\nhint: {hint}"), seen.status)
}

/// What can be seen of an error.
#[derive(Debug, Default)]
struct Seen {
    status: Option<u16>,
    /// The store's word for it, such as `NoSuchBucket`.
    word: Option<String>,
    kind: Option<HttpErrorKind>,
    /// Where nothing was answered: what the library says. Never told.
    text: String,
}

impl Seen {
    fn of(error: &object_store::Error) -> Seen {
        let mut seen = Seen::default();
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            seen.status = seen.status.or_else(|| status_in(&text));
            seen.word = seen.word.or_else(|| word_in(&text));
            seen.kind = seen.kind.or_else(|| error.downcast_ref::<HttpError>().map(HttpError::kind));
            seen.text.push_str(&text);
            seen.text.push('\n');
            next = error.source();
        }
        seen.status = seen.status.or(match error {
            object_store::Error::NotFound { .. } => Some(404),
            object_store::Error::PermissionDenied { .. } => Some(403),
            object_store::Error::Unauthenticated { .. } => Some(401),
            _ => None,
        });
        seen
    }

    fn said(&self) -> (String, &'static str) {
        let word = self.word.as_deref().unwrap_or_default();
        let holds = |part: &str| self.text.contains(part);
        if ["/latest/", "metadata.google", "/computeMetadata/", "/metadata/identity"].iter().any(|part| holds(part)) {
            let hint =
                "give the credentials in options, or run where the provider lends some; nothing is lost meanwhile";
            return ("there are no credentials for it".to_owned(), hint);
        }
        if word == "RequestTimeTooSkewed" {
            return (self.answered("this machine's clock is wrong"), "set the clock; nothing is lost meanwhile");
        }
        if holds("redirect without LOCATION") || ["PermanentRedirect", "AuthorizationHeaderMalformed"].contains(&word) {
            return (self.answered("it is in another region"), "give aws_region in options; nothing is lost meanwhile");
        }
        match self.status {
            Some(401) => self.credentials(),
            Some(400 | 403) if CREDENTIALS.contains(&word) => self.credentials(),
            Some(403) => {
                let hint =
                    "allow these credentials to write objects there; it is a setting, and nothing is lost meanwhile";
                (self.answered("the credentials do not permit it"), hint)
            }
            Some(404) => {
                let hint = "create it, or correct the sink's url; nothing is lost meanwhile";
                (self.answered("it does not exist"), hint)
            }
            Some(429 | 503) => (self.answered("it is busy"), "nothing; it is tried again"),
            Some(500..) => (self.answered("it failed"), "nothing, unless it lasts: then look at the provider's status"),
            Some(_) => (self.answered("it refused"), "look at the sink's url and options; nothing is lost meanwhile"),
            None => self.unanswered(),
        }
    }

    fn credentials(&self) -> (String, &'static str) {
        let hint = "correct the credentials in the sink's options; it is a setting, and nothing is lost meanwhile";
        (self.answered("it does not accept the credentials"), hint)
    }

    fn answered(&self, why: &str) -> String {
        let status = self.status.map(|status| status.to_string());
        let parts: Vec<&str> = status.as_deref().into_iter().chain(self.word.as_deref()).collect();
        if parts.is_empty() { why.to_owned() } else { format!("{why} ({})", parts.join(" ")) }
    }

    fn unanswered(&self) -> (String, &'static str) {
        let text = self.text.to_lowercase();
        let holds = |part: &str| text.contains(part);
        let (why, hint) = if holds("dns error") || holds("failed to lookup") {
            ("its name is not known", "look at the endpoint, the region and this machine's DNS")
        } else if holds("certificate") {
            ("its certificate is not trusted", "install its authority among the system's trusted ones")
        } else if matches!(self.kind, Some(HttpErrorKind::Timeout)) {
            ("it does not answer in time", "look at the way there; it is tried again")
        } else if matches!(self.kind, Some(HttpErrorKind::Connect)) {
            ("it cannot be reached", "look at the endpoint and at the firewall; it is tried again")
        } else if holds("builder error") || holds("scheme is not allowed") {
            ("its endpoint is not https", "give aws_allow_http = \"true\" in options if that is meant")
        } else {
            ("the connection broke off", "nothing; it is tried again")
        };
        (why.to_owned(), hint)
    }
}

/// Words for credentials that are wrong or over, whatever the status.
const CREDENTIALS: [&str; 8] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
];

fn status_in(text: &str) -> Option<u16> {
    let digits: String = text.split("status code: ").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What stands in `<Code>`, if it is a word and nothing else.
fn word_in(text: &str) -> Option<String> {
    let word = text.split("<Code>").nth(1)?.split("</Code>").next()?;
    let is_word = (1..=60).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then(|| word.to_owned())
}
