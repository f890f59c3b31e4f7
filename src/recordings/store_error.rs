//! Errors of the recording store. They concern the store, not a recording: nothing is lost, and the
//! recording is asked for again.

use std::io;

use crate::sink::SinkError;
use crate::sink::object_store::store_errors;

/// Why the store could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// The message. It holds neither a secret nor what was said.
    pub message: String,
    /// What an operator can do, if that is known.
    pub hint: Option<String>,
    is_missing: bool,
}

impl StoreError {
    /// Whether the store works, and the object does not exist.
    pub fn is_missing(&self) -> bool {
        self.is_missing
    }

    pub(super) fn missing(name: &str, store: &str) -> StoreError {
        StoreError {
            message: format!("failed to read {name} from {store}: it does not exist"),
            hint: Some("the daemon finds missing recordings once a day, and asks for them again".to_owned()),
            is_missing: true,
        }
    }

    /// A name that the program never gives.
    pub(super) fn invalid_name(name: &str) -> StoreError {
        let message = format!("failed to use the recording store: {name} is not a valid name");
        StoreError { message, hint: None, is_missing: false }
    }

    pub(super) fn from_disk(doing: &str, error: &io::Error, folder: &str) -> StoreError {
        StoreError::from_sink(doing, &store_errors::folder_error(error, folder))
    }

    pub(super) fn from_bucket(doing: &str, error: &object_store::Error, bucket: &str) -> StoreError {
        let described = StoreError::from_sink(doing, &store_errors::store_error(error, bucket));
        StoreError { is_missing: matches!(error, object_store::Error::NotFound { .. }), ..described }
    }

    /// The same fault of an object store sink, which writes to the same kinds of places.
    pub(super) fn from_sink(doing: &str, error: &SinkError) -> StoreError {
        let message = error.message.replacen("failed to write", &format!("failed to {doing}"), 1);
        let of_recordings = |text: &str| {
            let text = text.replace("no event is lost meanwhile", "no recording is lost meanwhile");
            text.replace("the sink's", "the store's").replace("delivery then continues", "it then continues")
        };
        StoreError {
            message: of_recordings(&message),
            hint: error.hint.as_deref().map(of_recordings),
            is_missing: false,
        }
    }
}
