//! Errors for people: what failed, whose fault it is, and what to do about it.
//!
//! The API's and the database's errors have these fields too. [`hint_of`] finds the hint of any of
//! them.

use std::error::Error;

use crate::db::DbError;
use crate::ringcx::ApiError;
use crate::search::QueryError;
use crate::sink::SinkError;

/// Whose fault an error of a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UserFault {
    /// The command line's; exit status 2.
    Usage,
    /// Anything else's; exit status 1.
    Operation,
}

/// An error for people, with a hint.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct UserError {
    pub(crate) fault: UserFault,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<anyhow::Error>,
}

impl UserError {
    /// The command line is invalid.
    pub(crate) fn usage(message: impl Into<String>) -> UserError {
        UserError { fault: UserFault::Usage, message: message.into(), hint: None, source: None }
    }

    /// The operation failed.
    pub(crate) fn failed(message: impl Into<String>) -> UserError {
        UserError { fault: UserFault::Operation, ..UserError::usage(message) }
    }

    /// Sets what to do about it.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> UserError {
        UserError { hint: Some(hint.into()), ..self }
    }

    /// Sets the cause.
    pub(crate) fn with_source(self, source: impl Into<anyhow::Error>) -> UserError {
        UserError { source: Some(source.into()), ..self }
    }
}

/// The hint of an error, without those of its causes.
pub(crate) fn hint_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    if let Some(error) = error.downcast_ref::<UserError>() {
        return error.hint.as_deref();
    }
    if let Some(error) = error.downcast_ref::<DbError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<SinkError>() {
        return error.hint.as_deref();
    }
    if let Some(error) = error.downcast_ref::<QueryError>() {
        return Some(error.hint());
    }
    error.downcast_ref::<ApiError>().and_then(ApiError::hint)
}

/// The first hint of an error or its causes, for a field of the log.
pub(crate) fn first_hint(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(hint_of)
}
