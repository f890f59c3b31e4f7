//! Sinks: systems that are told of what is stored. One file a kind; none knows the database or when to try again.

pub mod jsonl;
pub mod object_store;
pub mod webhook;

use std::time::Duration;

/// What kept a sink from taking something.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What failed, why, and what to do.
    pub message: String,
    /// What it means for what waits.
    pub kind: SinkErrorKind,
    /// The answer's status, where there was one.
    pub status: Option<u16>,
    /// How long the sink asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// What a failure means for what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkErrorKind {
    /// The whole sink cannot be reached or refuses for now.
    Away,
    /// This event is refused and asking again will not change it.
    Refused,
    /// This event fails and may succeed later.
    Event,
    /// 410: nothing more is wanted.
    Gone,
}
