//! Lists of segments, one segment with its transcript, and a dialog.

use serde::{Deserialize, Serialize};

use super::conversation_view::{DialogView, SegmentView, TranscriptView};
use super::segment_filter::SegmentFilter;
use super::{AccessAction, AccessSubject, ArchiveReader, Page, PageRequest, ReadError, ReadFault, Scope};
use crate::access::Caller;
use crate::clock::Time;
use crate::db::{
    AccountKey, ArtifactStatus, ArtifactVersion, DeletionReason, SegmentPosition, SegmentQuery, SegmentRow,
};
use crate::export::SegmentEntry;
use crate::model::{Artifact, ArtifactSet};

/// Segments that a statement reads.
const SEGMENTS_PER_READ: usize = 50;
/// Segments that one page examines; a page of rare matches may be short, and continues.
const MAX_EXAMINED: usize = 5_000;
/// Bytes of texts in one page.
const MAX_PAGE_BYTES: usize = 32_000_000;

/// A version of an artifact.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct VersionView {
    pub(crate) artifact: &'static str,
    pub(crate) version: i64,
    pub(crate) fetched_at: String,
}

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredPosition(Option<i64>, String, String);

impl From<StoredPosition> for SegmentPosition {
    fn from(StoredPosition(ended, sub, segment_id): StoredPosition) -> SegmentPosition {
        SegmentPosition { ended: ended.map(Time), sub, segment_id }
    }
}

impl From<&SegmentPosition> for StoredPosition {
    fn from(position: &SegmentPosition) -> StoredPosition {
        StoredPosition(position.ended.map(|ended| ended.0), position.sub.clone(), position.segment_id.clone())
    }
}

impl ArchiveReader {
    /// A page of the segments that match, in order of end time, sub-account and segment id.
    pub(crate) async fn segments(
        &self,
        caller: &Caller,
        filter: &SegmentFilter,
        page: &PageRequest,
        expand: ArtifactSet,
    ) -> Result<Page<SegmentView>, ReadError> {
        let scope = self.scope(caller, &filter.accounts).await?;
        let binding = format!("segments {}", page.question);
        let stored: Option<StoredPosition> = self.open_cursor(&binding, page.cursor.as_deref()).await?;
        let start = stored.map(SegmentPosition::from);
        let (entries, end) = self.find_segments(&scope, filter, start, page.limit, MAX_EXAMINED).await?;
        let items: Vec<SegmentView> = entries.iter().map(|entry| SegmentView::of(entry, expand)).collect();
        let text = filter.describe();
        let hits = items.len() as u64;
        let subject = AccessSubject::Query { text: &text, sub: scope.single_sub(), hits };
        self.record(caller, AccessAction::List, subject).await?;
        let next = match end {
            Some(end) => Some(self.seal_cursor(&binding, &StoredPosition::from(&end)).await?),
            None => None,
        };
        Ok(Page { items, next })
    }

    /// Up to `limit` matching segments after a position, and where to continue if there are more.
    pub(super) async fn find_segments(
        &self,
        scope: &Scope<'_>,
        filter: &SegmentFilter,
        start: Option<SegmentPosition>,
        limit: usize,
        max_examined: usize,
    ) -> Result<(Vec<SegmentEntry>, Option<SegmentPosition>), ReadError> {
        let query = SegmentQuery { accounts: scope.keys(), ..filter.query() };
        let (mut found, mut bytes, mut examined) = (Vec::new(), 0, 0);
        let mut read_to = start;
        // The last segment of the page, until it is known whether there is another one.
        let mut page_end: Option<SegmentPosition> = None;
        loop {
            let rows = self.db.segments_page(&query, read_to.as_ref(), SEGMENTS_PER_READ).await?;
            let is_last = rows.len() < SEGMENTS_PER_READ;
            examined += rows.len();
            let mut shown: Vec<SegmentRow> = Vec::new();
            for row in rows {
                read_to = Some(SegmentPosition::from(&row));
                // Texts are read only of segments that the metadata does not rule out.
                if scope.show_metadata(&row).is_some_and(|metadata| filter.matches_metadata(&metadata)) {
                    shown.push(row);
                }
            }
            let slots = self.db.segment_artifacts(&shown).await?;
            for (segment, slots) in shown.into_iter().zip(slots) {
                let position = SegmentPosition::from(&segment);
                let Some(entry) = scope.show(SegmentEntry { segment, slots }) else { continue };
                if !filter.matches(&entry) {
                    continue;
                }
                if page_end.is_some() {
                    return Ok((found, page_end));
                }
                bytes += entry.size();
                found.push(entry);
                if found.len() >= limit || bytes >= MAX_PAGE_BYTES {
                    page_end = Some(position);
                }
            }
            if is_last {
                return Ok((found, None));
            }
            if examined >= max_examined {
                return Ok((found, page_end.or(read_to)));
            }
        }
    }

    /// One segment.
    pub(crate) async fn segment(
        &self,
        caller: &Caller,
        segment_id: &str,
        account: Option<&str>,
        expand: ArtifactSet,
    ) -> Result<SegmentView, ReadError> {
        let entry = self.read_segment(caller, segment_id, account).await?;
        Ok(SegmentView::of(&entry, expand))
    }

    /// The transcript of a segment.
    pub(crate) async fn transcript(
        &self,
        caller: &Caller,
        segment_id: &str,
        account: Option<&str>,
    ) -> Result<TranscriptView, ReadError> {
        let entry = self.read_segment(caller, segment_id, account).await?;
        Ok(TranscriptView::of(&entry))
    }

    /// A segment as the caller sees it, with its entry in the access log.
    pub(crate) async fn read_segment(
        &self,
        caller: &Caller,
        segment_id: &str,
        account: Option<&str>,
    ) -> Result<SegmentEntry, ReadError> {
        self.read_segment_version(caller, segment_id, account, None).await
    }

    /// The same with a version of an artifact in place of its newest one.
    pub(crate) async fn read_segment_version(
        &self,
        caller: &Caller,
        segment_id: &str,
        account: Option<&str>,
        version: Option<(Artifact, i64)>,
    ) -> Result<SegmentEntry, ReadError> {
        let wanted: Vec<String> = account.map(str::to_owned).into_iter().collect();
        let scope = self.scope(caller, &wanted).await?;
        let segment = self.find_segment(&scope, segment_id).await?;
        let mut slots = self.db.segment_artifacts(std::slice::from_ref(&segment)).await?;
        let mut entry = slots.pop().map(|slots| SegmentEntry { segment, slots });
        if let Some((artifact, version)) = version {
            entry = self.with_version(entry, artifact, version).await?;
        }
        let Some(entry) = entry.and_then(|entry| scope.show(entry)) else {
            return Err(self.no_such_segment(&scope, segment_id).await?);
        };
        let subject = AccessSubject::Segment { sub: &entry.segment.account.sub, id: segment_id };
        self.record(caller, AccessAction::Read, subject).await?;
        Ok(entry)
    }

    /// The segment with this id that the caller sees, as it is stored; without an entry in the log.
    pub(super) async fn find_segment(&self, scope: &Scope<'_>, segment_id: &str) -> Result<SegmentRow, ReadError> {
        let mut segments = self.db.segments_by_id(segment_id).await?;
        segments.retain(|segment| scope.shows(segment));
        let Some(segment) = segments.pop() else { return Err(self.no_such_segment(scope, segment_id).await?) };
        if !segments.is_empty() {
            return Err(ReadError::new(ReadFault::Conflict, "several accounts have a segment with this id")
                .with_hint("add the parameter `account`"));
        }
        Ok(segment)
    }

    /// The entry with a version of an artifact in place of its newest one; `None` if it is not stored.
    async fn with_version(
        &self,
        entry: Option<SegmentEntry>,
        artifact: Artifact,
        version: i64,
    ) -> Result<Option<SegmentEntry>, ReadError> {
        let Some(mut entry) = entry else { return Ok(None) };
        let stored = self.db.artifact_version_body(entry.segment.key, artifact, version).await?;
        let slot = Artifact::ALL.iter().zip(&mut entry.slots).find(|(known, _)| **known == artifact);
        let (Some((fetched, body)), Some((_, slot))) = (stored, slot) else { return Ok(None) };
        (slot.status, slot.fetched, slot.version) = (ArtifactStatus::Stored(body), Some(fetched), version);
        Ok(Some(entry))
    }

    /// The versions of each text of a segment that the caller reads. Size and hash would tell about
    /// redacted texts, so they are left out.
    pub(crate) async fn versions(&self, entry: &SegmentEntry) -> Result<Vec<VersionView>, ReadError> {
        let versions = self.db.artifact_versions(entry.segment.key).await?;
        let view = |row: ArtifactVersion| VersionView {
            artifact: row.artifact.name(),
            version: row.version,
            fetched_at: row.fetched.rfc3339(),
        };
        // A recording has one object, whatever its versions.
        let texts = versions.into_iter().filter(|row| row.artifact != Artifact::Recording);
        Ok(texts.map(view).collect())
    }

    /// A whole conversation over its segments.
    pub(crate) async fn dialog(&self, caller: &Caller, dialog_id: &str) -> Result<DialogView, ReadError> {
        Ok(DialogView::of(dialog_id, &self.read_dialog(caller, dialog_id).await?))
    }

    /// The segments of a dialog as the caller sees them, with their entry in the access log.
    pub(crate) async fn read_dialog(&self, caller: &Caller, dialog_id: &str) -> Result<Vec<SegmentEntry>, ReadError> {
        let scope = self.scope(caller, &[]).await?;
        let segments = self.db.segments_of_dialog(dialog_id).await?;
        let entries = self.show_all(&scope, segments).await?;
        if entries.is_empty() {
            return Err(ReadError::not_found("there is no such dialog"));
        }
        let subject = AccessSubject::Dialog { id: dialog_id, segments: entries.len() as u64 };
        self.record(caller, AccessAction::Read, subject).await?;
        Ok(entries)
    }

    /// The segments of a dialog that the caller sees, for links to them; without an entry in the log, so
    /// nothing of them but ids and times may be shown.
    pub(crate) async fn dialog_segments(&self, caller: &Caller, dialog_id: &str) -> Result<Vec<SegmentRow>, ReadError> {
        let scope = self.scope(caller, &[]).await?;
        let mut segments = self.db.segments_of_dialog(dialog_id).await?;
        segments.retain(|segment| scope.shows(segment));
        Ok(segments)
    }

    /// Those of the segments that the caller sees, as it sees them.
    pub(super) async fn show_all(
        &self,
        scope: &Scope<'_>,
        segments: Vec<SegmentRow>,
    ) -> Result<Vec<SegmentEntry>, ReadError> {
        let slots = self.db.segment_artifacts(&segments).await?;
        let entries = segments.into_iter().zip(slots).map(|(segment, slots)| SegmentEntry { segment, slots });
        Ok(entries.filter_map(|entry| scope.show(entry)).collect())
    }

    /// Why there is no segment with this id, as far as the caller may know.
    async fn no_such_segment(&self, scope: &Scope<'_>, segment_id: &str) -> Result<ReadError, ReadError> {
        // What was erased had a channel that is no longer known, so only a caller that sees all of them
        // learns about it.
        let accounts: Vec<Option<AccountKey>> = if scope.is_unlimited() && !scope.checks_texts() {
            vec![None]
        } else {
            let whole = scope.accounts().iter().filter(|account| scope.shows_all_channels(&account.id.sub));
            whole.map(|account| Some(account.key)).collect()
        };
        for account in accounts {
            if let Some(tombstone) = self.db.tombstone(segment_id, account).await? {
                let why = match tombstone.reason {
                    DeletionReason::Erased => "was erased on request",
                    DeletionReason::Expired => "was removed by retention",
                };
                let at = tombstone.at.rfc3339_secs();
                return Ok(ReadError::not_found(format!("this segment {why}, at {at}")));
            }
        }
        Ok(ReadError::not_found("there is no such segment"))
    }
}

impl SegmentEntry {
    /// The stored body of an artifact.
    pub(crate) fn stored_body(&self, artifact: Artifact) -> Option<&[u8]> {
        let slot = Artifact::ALL.iter().zip(&self.slots).find(|(known, _)| **known == artifact);
        match slot.map(|(_, slot)| &slot.status) {
            Some(ArtifactStatus::Stored(body)) => Some(body),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        let bodies = Artifact::ALL.into_iter().filter_map(|artifact| self.stored_body(artifact));
        self.segment.metadata.len() + bodies.map(<[u8]>::len).sum::<usize>()
    }
}
