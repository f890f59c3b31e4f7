//! Records who read what, before the answer leaves, and shows the entries.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::Caller;
use crate::clock::Clock;
use crate::db::{AccessAction, AccessLogRow, Db, DbError, NewAccessEntry, SubjectKind};
use crate::metrics::Metrics;
use crate::model::Subject;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessSubject<'a> {
    /// A segment, by its ids.
    Segment { sub: &'a str, id: &'a str },
    /// A dialog, over all its segments that the caller sees.
    Dialog { id: &'a str, segments: u64 },
    /// What an erasure or a hold is about. Of a contact only a keyed hash is stored.
    Subject { subject: &'a Subject, sub: Option<&'a str> },
    /// A query with its filters as text, and the number of hits that the answer has. One entry
    /// stands for all of them.
    Query { text: &'a str, sub: Option<&'a str>, hits: u64 },
    /// Something else, described in a few words without personal data: a work item, a sink, a hold.
    Other { what: &'a str, sub: Option<&'a str> },
}

/// An entry of the access log as the command and the API show it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccessEntry {
    id: i64,
    /// When, RFC 3339.
    at: String,
    /// `person`, `key`, `shared_token`, `system_user` or `daemon`.
    reader_kind: String,
    reader: String,
    /// Where the reader was.
    origin: String,
    action: String,
    sub_account_id: Option<String>,
    /// `segment`, `dialog`, `contact`, `query` or `other`.
    subject_kind: String,
    /// The id, the query or the description; null where only its hash is stored.
    subject: Option<String>,
    /// How many hits the answer had.
    hits: Option<i64>,
    /// Whether an erasure blanked the subject.
    erased: bool,
}

impl From<AccessLogRow> for AccessEntry {
    fn from(row: AccessLogRow) -> AccessEntry {
        AccessEntry {
            id: row.id,
            at: row.at.rfc3339(),
            reader_kind: row.reader_kind,
            reader: row.reader,
            origin: row.origin,
            action: row.action,
            sub_account_id: row.sub,
            subject_kind: row.subject_kind,
            subject: row.subject,
            hits: row.hits,
            erased: row.erased_by.is_some(),
        }
    }
}

impl AccessEntry {
    pub(crate) fn at(&self) -> &str {
        &self.at
    }

    pub(crate) fn reader(&self) -> &str {
        &self.reader
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn action(&self) -> &str {
        &self.action
    }

    /// The subject for people.
    pub(crate) fn what(&self) -> String {
        let subject = match &self.subject {
            Some(subject) => subject.clone(),
            None if self.erased => "(erased)".to_owned(),
            None => "(hidden)".to_owned(),
        };
        let account = self.sub_account_id.as_ref().map(|sub| format!(", account {sub}")).unwrap_or_default();
        let hits = self.hits.map(|hits| format!(", {hits} hits")).unwrap_or_default();
        format!("{} {subject}{account}{hits}", self.subject_kind)
    }
}

/// The dialog of a segment, if the archive has it: the entries about a segment include those about
/// its dialog.
///
/// # Errors
/// If the database cannot be read.
pub(crate) async fn dialog_of(db: &Db, segment: Option<&str>) -> Result<Option<String>, DbError> {
    let Some(segment) = segment else { return Ok(None) };
    Ok(db.segments_by_id(segment).await?.into_iter().find_map(|segment| segment.dialog_id))
}

/// The access log.
#[derive(Clone)]
pub(crate) struct AccessLog {
    db: Db,
    clock: Clock,
    metrics: Option<Arc<Metrics>>,
}

impl AccessLog {
    pub(crate) fn new(db: Db, clock: Clock) -> AccessLog {
        AccessLog { db, clock, metrics: None }
    }

    /// Counts each entry, too.
    pub(crate) fn with_metrics(self, metrics: Arc<Metrics>) -> AccessLog {
        AccessLog { metrics: Some(metrics), ..self }
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
        self.append(caller, action, subject).await.map(drop)
    }

    /// Records an erasure before it begins. Returns the number of the entry, for the erasure: the
    /// entries about what it erases lose their texts and refer to it.
    ///
    /// # Errors
    /// If the database does not accept it.
    pub(crate) async fn record_erasure(&self, caller: &Caller, subject: AccessSubject<'_>) -> Result<i64, DbError> {
        self.append(caller, AccessAction::Erase, subject).await
    }

    /// Records an entry, and returns its number.
    ///
    /// # Errors
    /// If the database does not accept it.
    pub(crate) async fn append(
        &self,
        caller: &Caller,
        action: AccessAction,
        subject: AccessSubject<'_>,
    ) -> Result<i64, DbError> {
        let (subject_kind, subject, sub, hits) = match subject {
            AccessSubject::Segment { sub, id } => (SubjectKind::Segment, id, Some(sub), None),
            AccessSubject::Dialog { id, segments } => (SubjectKind::Dialog, id, None, Some(segments)),
            AccessSubject::Subject { subject, sub } => {
                let kind = match subject {
                    Subject::Segment(_) => SubjectKind::Segment,
                    Subject::Dialog(_) => SubjectKind::Dialog,
                    Subject::Contact(_) => SubjectKind::Contact,
                };
                (kind, subject.value(), sub, None)
            }
            AccessSubject::Query { text, sub, hits } => (SubjectKind::Query, text, sub, Some(hits)),
            AccessSubject::Other { what, sub } => (SubjectKind::Other, what, sub, None),
        };
        // The log of an erasure must not keep what was erased.
        let (reader_kind, is_other) = (caller.reader.kind(), subject_kind == SubjectKind::Other);
        let names_erased = action == AccessAction::Erase && !is_other;
        let id = self
            .db
            .append_access_entry(&NewAccessEntry {
                at: self.clock.now(),
                reader_kind,
                reader: caller.reader.name(),
                origin: &caller.origin,
                action,
                sub,
                subject_kind,
                subject,
                is_hashed: names_erased || subject_kind == SubjectKind::Contact,
                hits,
            })
            .await?;
        if let Some(metrics) = &self.metrics {
            metrics.count_access(reader_kind.name(), action.name());
        }
        Ok(id)
    }
}
