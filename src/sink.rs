//! Clients of the systems that receive events, one file per kind. None of them knows the database,
//! or when to retry.

pub(crate) mod json_lines;
pub mod object_store;
pub(crate) mod webhook;

use std::io;
use std::time::Duration;

use crate::config::SinkKind;

/// Why a sink did not accept something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// The message. It holds no content, and of an address only the host.
    pub message: String,
    /// What an operator can do, if that is known.
    pub hint: Option<String>,
    /// What the error means for the event and the sink.
    pub kind: SinkErrorKind,
    /// The response's status, if there was a response.
    pub status: Option<u16>,
    /// How long the sink asks to wait.
    pub(crate) retry_after: Option<Duration>,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkErrorKind {
    /// The sink cannot be reached, or refuses everything for now.
    Unavailable,
    /// The event is refused, and a retry will not change that.
    Refused,
    /// The event failed, and a retry may succeed.
    Retryable,
    /// The event was not answered in time, and a retry may succeed.
    TimedOut,
    /// The sink wants no more events (410).
    Gone,
}

impl SinkError {
    /// An error without a response.
    pub(crate) fn new(kind: SinkErrorKind, message: impl Into<String>) -> SinkError {
        SinkError { message: message.into(), hint: None, kind, status: None, retry_after: None }
    }

    /// An error of the whole sink, without a response.
    pub(crate) fn unavailable(message: impl Into<String>) -> SinkError {
        SinkError::new(SinkErrorKind::Unavailable, message)
    }

    /// Sets what to do about it.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> SinkError {
        SinkError { hint: Some(hint.into()), ..self }
    }

    /// Message and hint in one line.
    pub(crate) fn reason(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// Whether the refusal concerns the whole address rather than this event: a redirect, wrong
    /// credentials, or an address that does not exist.
    pub(crate) fn looks_like_a_wrong_setting(&self) -> bool {
        self.kind == SinkErrorKind::Refused && matches!(self.status, Some(300..=399 | 401 | 403 | 404 | 405 | 407))
    }
}

/// What happens to an erased segment at a sink that has received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErasureCapability {
    /// The daemon rewrites its files without the segment.
    Rewrite,
    /// The daemon rewrites the objects that hold the segment.
    RewriteObjects,
    /// The receiver is told, and has to erase it.
    Tombstone,
    /// The event is written beside the copies, which stay.
    None,
}

/// What a kind of sink does about erased segments.
pub(crate) fn erasure_capability(kind: &SinkKind) -> ErasureCapability {
    match kind {
        SinkKind::Jsonl { .. } => ErasureCapability::Rewrite,
        SinkKind::Webhook(_) => ErasureCapability::Tombstone,
        SinkKind::ObjectStore { .. } => ErasureCapability::None,
        SinkKind::Lake(_) => ErasureCapability::RewriteObjects,
    }
}

/// Describes a disk error, with a hint.
fn describe_disk_error(error: &io::Error) -> (String, &'static str) {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            "the disk is full".to_owned(),
            "free some disk space; delivery then continues automatically, and no event is lost",
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            error.kind().to_string(),
            "let this user write there, or configure another path; no event is lost meanwhile",
        ),
        _ => (error.to_string(), "check the sink's settings and the disk; no event is lost meanwhile"),
    }
}
