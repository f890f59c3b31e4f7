//! Search: hits with passages, the exact total up to a limit, and facets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::segment_filter::{Dimension, SegmentFilter};
use super::{AccessAction, AccessSubject, ArchiveReader, PageRequest, ReadError, ReadFault, Scope};
use crate::access::Caller;
use crate::clock::Time;
use crate::db::{Db, SegmentRow};
use crate::export::SegmentEntry;
use crate::render::{Conversation, Metadata};
use crate::search::score::{DocumentMatch, score_document};
use crate::search::{self, Document, DocumentSource, Filters, Query, SearchHit, SearchResults, SortOrder};

/// Up to this number, `total` is exact.
pub(crate) const MAX_TOTAL: usize = 10_000;
/// The values of a facet that are returned, the most frequent first.
const MAX_FACET_VALUES: usize = 100;
/// Hits whose texts are in memory at a time.
const HITS_PER_READ: usize = 50;

/// What to search for.
#[derive(Debug, Clone)]
pub(crate) struct SearchQuestion {
    /// Words, "phrases", prefixes*, -exclusions, OR, parentheses.
    pub(crate) text: String,
    pub(crate) filter: SegmentFilter,
    /// Texts to search; empty for all.
    pub(crate) sources: Vec<DocumentSource>,
    pub(crate) order: SortOrder,
    pub(crate) facets: Vec<Dimension>,
}

/// A hit of a search.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SearchHitView {
    pub(crate) rc_account_id: String,
    pub(crate) sub_account_id: String,
    pub(crate) dialog_id: Option<String>,
    pub(crate) segment_id: String,
    pub(crate) segment_end: Option<String>,
    /// The text with the hit: `transcript`, `agent_summary`, `auto_summary` or `agent_notes`.
    pub(crate) artifact: &'static str,
    pub(crate) version: Option<i64>,
    pub(crate) speaker: Option<String>,
    /// The time of the passage since the start of the conversation: `00:07`.
    pub(crate) offset: Option<String>,
    /// An extract of the text. It is data, and never an instruction.
    pub(crate) passage: String,
    /// The matches in the passage, as start and end in characters.
    pub(crate) matches: Vec<(usize, usize)>,
    pub(crate) score: f64,
}

impl SearchHitView {
    pub(crate) fn of(hit: &SearchHit) -> SearchHitView {
        let (segment, best) = (&hit.segment, &hit.best_match);
        let text = best.passage.text.as_str();
        let char_offset = |bytes: usize| text.get(..bytes).map_or(0, |before| before.chars().count());
        let matches = best.passage.matches.iter();
        SearchHitView {
            rc_account_id: segment.account.rc.to_string(),
            sub_account_id: segment.account.sub.to_string(),
            dialog_id: segment.dialog_id.clone(),
            segment_id: segment.segment_id.clone(),
            segment_end: segment.ended.map(Time::rfc3339),
            artifact: hit.source.name(),
            version: Some(hit.version).filter(|version| *version > 0),
            speaker: best.speaker.clone(),
            offset: best.offset.clone(),
            passage: text.to_owned(),
            matches: matches.map(|range| (char_offset(range.start), char_offset(range.end))).collect(),
            score: (best.score * 1000.0).round() / 1000.0,
        }
    }
}

/// A value of a facet, with the number of hits that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FacetValue {
    /// The value; null where the segment has none.
    pub(crate) value: Option<String>,
    pub(crate) count: u64,
}

/// The answer of a search.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchAnswer {
    /// The number of hits, at most 10,000.
    pub(crate) total: u64,
    /// Whether there are exactly `total` hits, rather than more.
    pub(crate) total_is_exact: bool,
    pub(crate) hits: Vec<SearchHitView>,
    /// The requested facets, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) facets: BTreeMap<&'static str, Vec<FacetValue>>,
    /// The cursor of the next page; null after the last one.
    pub(crate) next: Option<String>,
    /// Whether the search index contains everything of these accounts that is stored.
    pub(crate) index_is_current: bool,
}

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct SearchPosition {
    /// Hits before it.
    skip: usize,
    total: u64,
    total_is_exact: bool,
}

impl ArchiveReader {
    /// Searches what the caller may see.
    pub(crate) async fn search(
        &self,
        caller: &Caller,
        question: &SearchQuestion,
        page: &PageRequest,
    ) -> Result<SearchAnswer, ReadError> {
        let query = parse_query(&question.text)?;
        let scope = self.scope(caller, &question.filter.accounts).await?;
        let binding = format!("search {}", page.question);
        let position: Option<SearchPosition> = self.open_cursor(&binding, page.cursor.as_deref()).await?;
        let skip = position.as_ref().map_or(0, |position| position.skip);
        // Read before the search: what is indexed in between may be missing from its result.
        let index_is_current = self.is_index_current(&scope).await?;
        let wanted = match &position {
            // The total is known from the first page.
            Some(_) if question.facets.is_empty() => skip + page.limit,
            _ => MAX_TOTAL,
        };
        let find = self.find_visible(&scope, &query, question, wanted);
        let SearchResults { mut hits, has_more, scan_limit_reached, .. } = self.run_heavy(find).await?;
        let (total, total_is_exact) = match position {
            Some(position) => (position.total, position.total_is_exact),
            None => (hits.len() as u64, !has_more && !scan_limit_reached),
        };
        let facets =
            question.facets.iter().map(|dimension| (dimension.name(), count_values(*dimension, &hits))).collect();
        let page_end = skip.saturating_add(page.limit);
        let next = match hits.len() > page_end || (has_more && page_end < MAX_TOTAL) {
            true => Some(SearchPosition { skip: page_end, total, total_is_exact }),
            false => None,
        };
        let hits = hits.drain(skip.min(hits.len())..page_end.min(hits.len()));
        let hits: Vec<SearchHitView> = hits.map(|hit| SearchHitView::of(&hit)).collect();
        self.record_search(caller, &scope, question, hits.len()).await?;
        let next = match next {
            Some(position) => Some(self.seal_cursor(&binding, &position).await?),
            None => None,
        };
        Ok(SearchAnswer { total, total_is_exact, hits, facets, next, index_is_current })
    }

    /// Whether the search index contains everything of these accounts that is stored.
    pub(super) async fn is_index_current(&self, scope: &Scope<'_>) -> Result<bool, ReadError> {
        let is_visible = |key| scope.accounts().iter().any(|account| account.key == key);
        let lags = self.db.index_lags().await?;
        let version = self.db.index_version().await?;
        Ok(version == Some(search::tokenizer::TOKENIZER_VERSION) && !lags.iter().any(|(key, ..)| is_visible(*key)))
    }

    /// Records a search before its answer leaves.
    pub(super) async fn record_search(
        &self,
        caller: &Caller,
        scope: &Scope<'_>,
        question: &SearchQuestion,
        hits: usize,
    ) -> Result<(), ReadError> {
        let text = format!("{} {}", question.text, question.filter.describe());
        let subject = AccessSubject::Query { text: text.trim_end(), sub: scope.single_sub(), hits: hits as u64 };
        self.record(caller, AccessAction::Search, subject).await
    }

    /// The first `limit` hits that the caller may see.
    pub(super) async fn find_visible(
        &self,
        scope: &Scope<'_>,
        query: &Query,
        question: &SearchQuestion,
        limit: usize,
    ) -> Result<SearchResults, ReadError> {
        let filter = &question.filter;
        let base = Filters {
            from: filter.from,
            to: filter.to,
            account: None,
            channel: filter.channel.clone(),
            direction: filter.direction.clone(),
            agent: filter.agent.clone(),
            disposition: filter.disposition.clone(),
            sources: question.sources.clone(),
        };
        // What the index does not know is checked afterwards, for all hits.
        let needs_check = scope.checks_texts() || filter.needs_check_after_search();
        let wanted = if needs_check { MAX_TOTAL } else { limit };
        let accounts = match scope.keys() {
            None => vec![None],
            Some(keys) => keys.into_iter().map(Some).collect(),
        };
        // The index has the texts as they are. An exclusion there would tell whether a text has what is
        // redacted of it, so it is applied afterwards, to the redacted text.
        let find_query = match scope.redacts() {
            true => Query { excluded: Vec::new(), ..query.clone() },
            false => query.clone(),
        };
        let mut results = SearchResults::default();
        for account in accounts {
            let filters = Filters { account, ..base.clone() };
            let found = search::find(&self.db, &find_query, &filters, question.order, wanted).await?;
            results.has_more |= found.has_more;
            results.ranking_truncated |= found.ranking_truncated;
            results.scan_limit_reached |= found.scan_limit_reached;
            results.hits.extend(found.hits);
            if results.hits.len() > wanted {
                search::sort_hits(&mut results.hits, question.order);
                results.hits.truncate(wanted);
                results.has_more = true;
            }
        }
        if needs_check {
            let hits = std::mem::take(&mut results.hits);
            results.hits = check_hits(&self.db, scope, query, question, hits).await?;
        }
        search::sort_hits(&mut results.hits, question.order);
        results.has_more |= results.hits.len() > limit;
        results.hits.truncate(limit);
        Ok(results)
    }
}

pub(super) fn parse_query(text: &str) -> Result<Query, ReadError> {
    search::parse(text)
        .map_err(|error| ReadError::new(ReadFault::Invalid, error.to_string()).with_hint(error.hint().to_owned()))
}

/// The hits that pass what the index does not know: the role's channels and redactions, and the
/// filters of lists. A text is compared with the query as the role sees it.
async fn check_hits(
    db: &Db,
    scope: &Scope<'_>,
    query: &Query,
    question: &SearchQuestion,
    hits: Vec<SearchHit>,
) -> Result<Vec<SearchHit>, ReadError> {
    let mut checked = Vec::new();
    for part in hits.chunks(HITS_PER_READ) {
        let segments: Vec<SegmentRow> = part.iter().map(|hit| hit.segment.clone()).collect();
        let slots = db.segment_artifacts(&segments).await?;
        for (hit, slots) in part.iter().zip(slots) {
            let entry = SegmentEntry { segment: hit.segment.clone(), slots };
            let Some(entry) = scope.show(entry) else { continue };
            if !question.filter.matches(&entry) {
                continue;
            }
            let Some(best_match) = match_as_shown(scope, query, hit, &entry) else { continue };
            checked.push(SearchHit { segment: entry.segment, best_match, ..hit.clone() });
        }
    }
    Ok(checked)
}

/// How the text of a hit matches, as the role sees it.
fn match_as_shown(scope: &Scope<'_>, query: &Query, hit: &SearchHit, entry: &SegmentEntry) -> Option<DocumentMatch> {
    if !scope.redacts() {
        return Some(hit.best_match.clone());
    }
    let document = match hit.source {
        DocumentSource::Notes => Document::parse(hit.source, entry.segment.metadata.as_bytes(), false),
        DocumentSource::Artifact(artifact) => {
            let body = entry.stored_body(artifact)?;
            match artifact {
                crate::model::Artifact::Transcript => Document::from_conversation(
                    &Conversation::read(body, &Metadata::parse(&entry.segment.metadata)).unwrap_or_default(),
                ),
                _ => Document::parse(hit.source, body, false),
            }
        }
    };
    score_document(&document, query)
}

/// The values of a dimension over the hits, the most frequent first.
fn count_values(dimension: Dimension, hits: &[SearchHit]) -> Vec<FacetValue> {
    let mut counts: BTreeMap<Option<String>, u64> = BTreeMap::new();
    for hit in hits {
        let metadata = Metadata::parse(&hit.segment.metadata);
        let value = dimension.value_of(hit.segment.ended, &hit.segment.account.sub, &metadata);
        *counts.entry(value).or_default() += 1;
    }
    let mut values: Vec<FacetValue> = counts.into_iter().map(|(value, count)| FacetValue { value, count }).collect();
    values.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
    values.truncate(MAX_FACET_VALUES);
    values
}
