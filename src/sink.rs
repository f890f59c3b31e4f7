//! Sinks: systems that are told of what is stored. One file a kind; none knows the database or when to try again.

pub mod jsonl;
pub mod object_store;
pub mod webhook;

use std::io;
use std::time::Duration;

/// What kept a sink from taking something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// For people; never content, and of an address its host at most.
    pub message: String,
    /// What it means.
    pub kind: SinkErrorKind,
    /// The answer's status, where there was an answer.
    pub status: Option<u16>,
    /// How long the sink asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkErrorKind {
    /// The whole sink cannot be reached, or refuses for now.
    Away,
    /// This event is refused, and asking again will not change it.
    Refused,
    /// This event fails and may succeed later.
    Event,
    /// Nothing more is wanted (410).
    Gone,
}

impl SinkError {
    /// Without an answer.
    pub fn new(kind: SinkErrorKind, message: impl Into<String>) -> SinkError {
        SinkError { message: message.into(), kind, status: None, retry_after: None }
    }

    /// The whole sink is away.
    pub fn away(message: impl Into<String>) -> SinkError {
        SinkError::new(SinkErrorKind::Away, message)
    }

    /// What it says and what to do, in one line.
    pub fn reason(&self) -> String {
        self.message.replace("\nhint: ", "; ")
    }

    /// Whether the refusal looks like one of the whole address rather than of this event: a redirect, credentials that do
    /// not count, an address where nothing is.
    pub fn looks_like_a_wrong_setting(&self) -> bool {
        self.kind == SinkErrorKind::Refused && matches!(self.status, Some(300..=399 | 401 | 403 | 404 | 405 | 407))
    }
}

/// What is wrong with a disk, for people, and what to do.
fn of_disk(error: &io::Error) -> (String, &'static str) {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ("the disk is full".to_owned(), "make room; it goes on by itself, and nothing is lost meanwhile")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (error.kind().to_string(), "let this user write there, or name another place; nothing is lost meanwhile")
        }
        _ => (error.to_string(), "look at the sink's settings and at that disk; nothing is lost meanwhile"),
    }
}
