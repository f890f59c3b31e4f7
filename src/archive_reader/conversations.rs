//! Conversations for people: a list to browse or to search, each conversation once, with facets.
//!
//! A conversation is a dialog, or a segment without one; it stands where its newest, or its best
//! matching, segment does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::conversation_facets::FacetCounter;
use super::search::{FacetValue, SearchHitView, SearchQuestion, parse_query};
use super::segment_filter::SegmentFilter;
use super::segments::StoredPosition;
use super::{AccessAction, AccessSubject, ArchiveReader, PageRequest, ReadError, Scope};
use crate::access::Caller;
use crate::clock::Time;
use crate::db::{SegmentPosition, SegmentQuery, SegmentRow};
use crate::export::{SegmentEntry, SegmentOverview};
use crate::model::{Artifact, ArtifactSet};
use crate::search::{ConversationKey, SortOrder, group_by_conversation};

/// Segments that a statement reads.
const SEGMENTS_PER_READ: usize = 50;
/// Segments that one page examines; a page of rare matches may be short, and continues.
const MAX_EXAMINED: usize = 5_000;
/// Hits that a list is made of, at most.
const MAX_LISTED_HITS: usize = 1_000;
/// Hits that are shown of a conversation.
const MAX_SHOWN_HITS: usize = 3;

/// What to list.
#[derive(Debug, Clone)]
pub(crate) struct ConversationQuestion {
    /// The words to search for; without them the newest conversations are listed.
    pub(crate) text: Option<String>,
    pub(crate) filter: SegmentFilter,
    pub(crate) order: SortOrder,
}

/// A conversation of the list.
#[derive(Debug, Serialize)]
pub(crate) struct ConversationItem {
    pub(crate) rc_account_id: String,
    pub(crate) sub_account_id: String,
    pub(crate) account_name: Option<String>,
    pub(crate) dialog_id: Option<String>,
    /// Its newest segment, or the one with the best hit.
    pub(crate) segment_id: String,
    pub(crate) segment_end: Option<String>,
    #[serde(flatten)]
    pub(crate) overview: SegmentOverview,
    /// The artifacts of the segment that are stored.
    pub(crate) has: Vec<&'static str>,
    /// The best hits.
    pub(crate) hits: Vec<SearchHitView>,
    /// Further hits.
    pub(crate) more_hits: usize,
}

/// A page of conversations.
#[derive(Debug, Serialize)]
pub(crate) struct ConversationList {
    pub(crate) items: Vec<ConversationItem>,
    /// The number of conversations, as far as they were counted.
    pub(crate) total: u64,
    /// Whether there are exactly `total`, rather than more.
    pub(crate) total_is_exact: bool,
    /// The values of each facet, with the number of conversations among those that were counted.
    pub(crate) facets: BTreeMap<&'static str, Vec<FacetValue>>,
    /// The cursor of the next page; null after the last one.
    pub(crate) next: Option<String>,
    /// Whether the search index contains everything of these accounts that is stored.
    pub(crate) index_is_current: bool,
}

/// Where the next page of a search begins.
#[derive(Debug, Serialize, Deserialize)]
struct SkippedConversations {
    skip: usize,
}

impl ArchiveReader {
    /// A page of conversations: of those with hits, or of all, the newest first.
    pub(crate) async fn conversations(
        &self,
        caller: &Caller,
        question: &ConversationQuestion,
        page: &PageRequest,
    ) -> Result<ConversationList, ReadError> {
        let scope = self.scope(caller, &question.filter.accounts).await?;
        match &question.text {
            Some(text) => self.search_conversations(caller, &scope, text, question, page).await,
            None => self.browse_conversations(caller, &scope, &question.filter, page).await,
        }
    }

    async fn browse_conversations(
        &self,
        caller: &Caller,
        scope: &Scope<'_>,
        filter: &SegmentFilter,
        page: &PageRequest,
    ) -> Result<ConversationList, ReadError> {
        let binding = format!("conversations {}", page.question);
        let stored: Option<StoredPosition> = self.open_cursor(&binding, page.cursor.as_deref()).await?;
        let start = stored.map(SegmentPosition::from);
        let read = async {
            let found = self.newest_conversations(scope, filter, start, page.limit).await?;
            Ok((found, self.count_facets(scope, filter).await?))
        };
        let ((entries, end), counted) = self.run_heavy(read).await?;
        let text = filter.describe();
        let hits = entries.len() as u64;
        let subject = AccessSubject::Query { text: &text, sub: scope.single_sub(), hits };
        self.record(caller, AccessAction::List, subject).await?;
        let next = match end {
            Some(end) => Some(self.seal_cursor(&binding, &StoredPosition::from(&end)).await?),
            None => None,
        };
        Ok(ConversationList {
            items: entries.into_iter().map(|entry| ConversationItem::of(scope, entry)).collect(),
            total: counted.conversations(),
            total_is_exact: counted.is_complete,
            facets: counted.into_values(),
            next,
            index_is_current: true,
        })
    }

    /// The newest matching segment of each conversation after a position, and where to continue if there
    /// are more.
    async fn newest_conversations(
        &self,
        scope: &Scope<'_>,
        filter: &SegmentFilter,
        start: Option<SegmentPosition>,
        limit: usize,
    ) -> Result<(Vec<SegmentEntry>, Option<SegmentPosition>), ReadError> {
        let query = SegmentQuery { accounts: scope.keys(), newest_first: true, ..filter.query() };
        let (mut found, mut read_to, mut examined): (Vec<SegmentEntry>, _, _) = (Vec::new(), start, 0);
        loop {
            let rows = self.db.segments_page(&query, read_to.as_ref(), SEGMENTS_PER_READ).await?;
            let is_last = rows.len() < SEGMENTS_PER_READ;
            examined += rows.len();
            read_to = rows.last().map(SegmentPosition::from).or(read_to);
            let entries = self.matching_entries(scope, filter, rows).await?;
            let newest = self.newest_of_dialogs(scope, filter, &entries).await?;
            for entry in entries {
                let key = ConversationKey::of(&entry.segment);
                if newest.get(&key).is_some_and(|newest| *newest != entry.segment.key) {
                    continue;
                }
                if found.len() >= limit {
                    let end = found.last().map(|last| SegmentPosition::from(&last.segment));
                    return Ok((found, end));
                }
                found.push(entry);
            }
            if is_last {
                return Ok((found, None));
            }
            if examined >= MAX_EXAMINED {
                return Ok((found, read_to));
            }
        }
    }

    /// Those of the segments that the caller sees and that match, with their artifacts.
    pub(super) async fn matching_entries(
        &self,
        scope: &Scope<'_>,
        filter: &SegmentFilter,
        mut rows: Vec<SegmentRow>,
    ) -> Result<Vec<SegmentEntry>, ReadError> {
        // Texts are read only of segments that the metadata does not rule out.
        rows.retain(|row| scope.show_metadata(row).is_some_and(|metadata| filter.matches_metadata(&metadata)));
        let mut entries = self.show_all(scope, rows).await?;
        entries.retain(|entry| filter.matches(entry));
        Ok(entries)
    }

    /// The newest matching segment of each of these segments' dialogs.
    async fn newest_of_dialogs(
        &self,
        scope: &Scope<'_>,
        filter: &SegmentFilter,
        entries: &[SegmentEntry],
    ) -> Result<HashMap<ConversationKey, i64>, ReadError> {
        let dialogs: BTreeSet<String> = entries.iter().filter_map(|entry| entry.segment.dialog_id.clone()).collect();
        if dialogs.is_empty() {
            return Ok(HashMap::new());
        }
        let mut rows = self.db.segments_of_dialogs(&dialogs.into_iter().collect::<Vec<_>>()).await?;
        // In order of time, so the last one of a dialog is its newest.
        rows.retain(|row| filter.is_in_range(row));
        let mut newest = HashMap::new();
        if !filter.needs_texts() && filter.has == ArtifactSet::NONE {
            rows.retain(|row| scope.show_metadata(row).is_some_and(|metadata| filter.matches_metadata(&metadata)));
            newest.extend(rows.iter().map(|row| (ConversationKey::of(row), row.key)));
            return Ok(newest);
        }
        let is_stored = |entry: &SegmentEntry| filter.has.iter().all(|artifact| entry.stored_body(artifact).is_some());
        for part in rows.chunks(SEGMENTS_PER_READ) {
            for entry in self.matching_entries(scope, filter, part.to_vec()).await?.iter().filter(|one| is_stored(one))
            {
                newest.insert(ConversationKey::of(&entry.segment), entry.segment.key);
            }
        }
        Ok(newest)
    }

    async fn search_conversations(
        &self,
        caller: &Caller,
        scope: &Scope<'_>,
        text: &str,
        question: &ConversationQuestion,
        page: &PageRequest,
    ) -> Result<ConversationList, ReadError> {
        let query = parse_query(text)?;
        let binding = format!("conversations {}", page.question);
        let position: Option<SkippedConversations> = self.open_cursor(&binding, page.cursor.as_deref()).await?;
        let skip = position.map_or(0, |position| position.skip);
        let search = SearchQuestion {
            text: text.to_owned(),
            filter: question.filter.clone(),
            sources: Vec::new(),
            order: question.order,
            facets: Vec::new(),
        };
        // Read before the search: what is indexed in between may be missing from its result.
        let index_is_current = self.is_index_current(scope).await?;
        let results = self.run_heavy(self.find_visible(scope, &query, &search, MAX_LISTED_HITS)).await?;
        let mut counter = FacetCounter::default();
        for part in results.hits.chunks(SEGMENTS_PER_READ) {
            counter.add(&self.db, part.iter().map(|hit| &hit.segment)).await?;
        }
        let total_is_exact = !results.has_more && !results.scan_limit_reached;
        let conversations = group_by_conversation(results.hits);
        let total = conversations.len();
        let shown: Vec<_> = conversations.into_iter().skip(skip).take(page.limit).collect();
        let keys: Vec<i64> = shown.iter().map(|one| one.best.segment.key).collect();
        let rows = self.db.segments_by_key(&keys).await?;
        let rows: Vec<SegmentRow> = keys.iter().filter_map(|key| rows.get(key).cloned()).collect();
        let entries = self.show_all(scope, rows).await?;
        let mut entries: HashMap<i64, SegmentEntry> =
            entries.into_iter().map(|entry| (entry.segment.key, entry)).collect();
        let mut items = Vec::with_capacity(shown.len());
        for conversation in shown {
            // A segment that was erased in between is not shown.
            let Some(entry) = entries.remove(&conversation.best.segment.key) else { continue };
            let more_hits = (conversation.others.len() + 1).saturating_sub(MAX_SHOWN_HITS);
            let hits = std::iter::once(&conversation.best).chain(&conversation.others).take(MAX_SHOWN_HITS);
            let hits = hits.map(SearchHitView::of).collect();
            items.push(ConversationItem { hits, more_hits, ..ConversationItem::of(scope, entry) });
        }
        self.record_search(caller, scope, &search, items.len()).await?;
        let end = skip.saturating_add(page.limit);
        let next = match end < total {
            true => Some(self.seal_cursor(&binding, &SkippedConversations { skip: end }).await?),
            false => None,
        };
        let (total, facets) = (total as u64, counter.into_values());
        Ok(ConversationList { items, total, total_is_exact, facets, next, index_is_current })
    }
}

impl ConversationItem {
    fn of(scope: &Scope<'_>, entry: SegmentEntry) -> ConversationItem {
        let segment = &entry.segment;
        let account = scope.accounts().iter().find(|account| account.key == segment.account_key);
        let stored = Artifact::ALL.into_iter().filter(|artifact| entry.stored_body(*artifact).is_some());
        ConversationItem {
            rc_account_id: segment.account.rc.to_string(),
            sub_account_id: segment.account.sub.to_string(),
            account_name: account.and_then(|account| account.name.clone()),
            dialog_id: segment.dialog_id.clone(),
            segment_id: segment.segment_id.clone(),
            segment_end: segment.ended.map(Time::rfc3339),
            has: stored.map(Artifact::name).collect(),
            hits: Vec::new(),
            more_hits: 0,
            overview: SegmentOverview::new(entry),
        }
    }
}
