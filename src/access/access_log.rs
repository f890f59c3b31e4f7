//! Records who read what, before the answer leaves.

use crate::clock::Clock;
use crate::db::{AccessAction, Db, DbError, NewAccessEntry, SubjectKind};

use super::Caller;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessSubject<'a> {
    /// A segment, by its ids.
    Segment { sub: &'a str, id: &'a str },
    /// A dialog, over all its segments that the caller sees.
    Dialog { id: &'a str, segments: u64 },
    /// A contact. Only a keyed hash is stored.
    Contact { contact: &'a str },
    /// A query with its filters as text, and the number of hits that the answer has. One entry
    /// stands for all of them.
    Query { text: &'a str, sub: Option<&'a str>, hits: u64 },
    /// Something else, described in a few words without personal data: a work item, a sink, a hold.
    Other { what: &'a str, sub: Option<&'a str> },
}

/// The access log.
#[derive(Clone)]
pub(crate) struct AccessLog {
    db: Db,
    clock: Clock,
}

impl AccessLog {
    pub(crate) fn new(db: Db, clock: Clock) -> AccessLog {
        AccessLog { db, clock }
    }

    /// Records an entry. If it cannot be recorded, the answer must not leave.
    ///
    /// # Errors
    /// If the database does not accept it.
    pub(crate) async fn record(
        &self,
        caller: &Caller,
        action: AccessAction,
        subject: AccessSubject<'_>,
    ) -> Result<(), DbError> {
        let (subject_kind, subject, sub, hits) = match subject {
            AccessSubject::Segment { sub, id } => (SubjectKind::Segment, id, Some(sub), None),
            AccessSubject::Dialog { id, segments } => (SubjectKind::Dialog, id, None, Some(segments)),
            AccessSubject::Contact { contact } => (SubjectKind::Contact, contact, None, None),
            AccessSubject::Query { text, sub, hits } => (SubjectKind::Query, text, sub, Some(hits)),
            AccessSubject::Other { what, sub } => (SubjectKind::Other, what, sub, None),
        };
        // The log of an erasure must not keep what was erased.
        let names_erased = action == AccessAction::Erase && subject_kind != SubjectKind::Other;
        self.db
            .append_access_entry(&NewAccessEntry {
                at: self.clock.now(),
                reader_kind: caller.reader.kind(),
                reader: caller.reader.name(),
                origin: &caller.origin,
                action,
                sub,
                subject_kind,
                subject,
                is_hashed: names_erased || subject_kind == SubjectKind::Contact,
                hits,
            })
            .await
            .map(drop)
    }
}
