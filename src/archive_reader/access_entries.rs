//! The access log for callers that may see it. Reading it is an entry, too.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{AccessAction, AccessSubject, ArchiveReader, Page, PageRequest, ReadError, forbidden};
use crate::access::{AccessEntry, Caller, Permission, dialog_of};
use crate::clock::Time;
use crate::db::AccessLogQuery;

/// Which entries a reader asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccessLogQuestion {
    /// Entries at or after this.
    pub(crate) from: Option<Time>,
    /// Entries before this.
    pub(crate) to: Option<Time>,
    /// Entries of this reader.
    pub(crate) who: Option<String>,
    /// Entries about this segment or its dialog.
    pub(crate) segment: Option<String>,
}

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct LogPosition {
    after: i64,
    /// The entry of the first page itself. Later entries are not in the list: each page adds one, so
    /// it would never end.
    upto: i64,
}

impl AccessLogQuestion {
    /// The filters as text for the entry about the reading. Without the segment's id: it may be one
    /// that was erased.
    fn describe(&self) -> String {
        let time = |time: Option<Time>| time.map(Time::rfc3339_secs);
        let mut text = "access log".to_owned();
        for (name, value) in [("from", time(self.from)), ("to", time(self.to)), ("who", self.who.clone())] {
            if let Some(value) = value {
                let _ = write!(text, " {name}={value}");
            }
        }
        if self.segment.is_some() {
            text.push_str(" about a segment");
        }
        text
    }
}

impl ArchiveReader {
    /// A page of the access log, the oldest entries first. Entries name all accounts and channels, so
    /// a role that is limited to some does not see them.
    pub(crate) async fn access_log(
        &self,
        caller: &Caller,
        question: &AccessLogQuestion,
        page: &PageRequest,
    ) -> Result<Page<AccessEntry>, ReadError> {
        if !caller.may_everywhere(Permission::Log) {
            return Err(forbidden(Permission::Log));
        }
        let binding = format!("access log {}", page.question);
        let position: Option<LogPosition> = self.open_cursor(&binding, page.cursor.as_deref()).await?;
        let subject = AccessSubject::Other { what: &question.describe(), sub: None };
        let entry = self.log.append(caller, AccessAction::ReadLog, subject).await?;
        let LogPosition { after, upto } = position.unwrap_or(LogPosition { after: 0, upto: entry });
        let segment = question.segment.as_deref();
        let dialog = dialog_of(&self.db, segment).await?;
        let query = AccessLogQuery {
            from: question.from,
            to: question.to,
            who: question.who.as_deref(),
            about: segment.map(|segment| (segment, dialog.as_deref())),
        };
        let mut rows = self.db.access_log(&query, after).await?;
        rows.retain(|row| row.id <= upto);
        let has_more = rows.len() > page.limit;
        rows.truncate(page.limit);
        let next = match rows.last() {
            Some(last) if has_more => Some(self.seal_cursor(&binding, &LogPosition { after: last.id, upto }).await?),
            _ => None,
        };
        Ok(Page { items: rows.into_iter().map(AccessEntry::from).collect(), next })
    }
}
