//! Why a question is not answered.

use std::borrow::Cow;

use crate::db::DbError;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadFault {
    /// The question's.
    Invalid,
    /// The role does not permit it.
    Forbidden,
    /// There is no such thing, or the role does not show it: both are one answer.
    NotFound,
    /// The state of the archive does not permit it.
    Conflict,
    /// The database's, or it takes too long.
    Unavailable,
}

/// An error for the caller, with what to do about it. It never holds anything that was said.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ReadError {
    fault: ReadFault,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
}

impl ReadError {
    pub(crate) fn new(fault: ReadFault, message: impl Into<Cow<'static, str>>) -> ReadError {
        ReadError { fault, message: message.into(), hint: None }
    }

    pub(crate) fn not_found(message: impl Into<Cow<'static, str>>) -> ReadError {
        ReadError::new(ReadFault::NotFound, message)
    }

    pub(crate) fn with_hint(self, hint: impl Into<Cow<'static, str>>) -> ReadError {
        ReadError { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn fault(&self) -> ReadFault {
        self.fault
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl From<DbError> for ReadError {
    fn from(error: DbError) -> ReadError {
        tracing::warn!(%error, hint = error.hint(), "failed to answer from the database");
        ReadError::new(ReadFault::Unavailable, "failed to read the archive: the database did not answer")
            .with_hint("see /readyz, or run `ringcx-extractor status`")
    }
}
