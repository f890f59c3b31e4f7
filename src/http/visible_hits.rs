//! Search hits as a caller may see them: of its accounts and channels, and with its redaction.
//!
//! A text is compared with the query as the caller would read it, so a search cannot find out what
//! is redacted.

use crate::access::Caller;
use crate::db::{AccountRow, ArtifactStatus, Db, DbError};
use crate::export::{SegmentEntry, conversation_of};
use crate::model::Artifact;
use crate::render::Metadata;
use crate::search::{
    self, Document, DocumentSource, Filters, MAX_RANKED_MATCHES, Query, SearchHit, SearchResults, SortOrder,
};

/// Hits whose texts are in memory at a time.
const HITS_PER_READ: usize = 50;

/// Finds at most `limit` documents that match the query and the filters. `accounts` are those that
/// the caller sees.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn find(
    db: &Db,
    caller: &Caller,
    accounts: &[AccountRow],
    query: &Query,
    filters: &Filters,
    order: SortOrder,
    limit: usize,
) -> Result<SearchResults, DbError> {
    if caller.is_unlimited_reader() {
        return search::find(db, query, filters, order, limit).await;
    }
    let mut results = SearchResults::default();
    let is_wanted = |account: &&AccountRow| filters.account.is_none_or(|wanted| wanted == account.key);
    for account in accounts.iter().filter(is_wanted) {
        let filters = Filters { account: Some(account.key), ..filters.clone() };
        let found = search::find(db, query, &filters, order, MAX_RANKED_MATCHES).await?;
        results.has_more |= found.has_more;
        results.ranking_truncated |= found.ranking_truncated;
        results.scan_limit_reached |= found.scan_limit_reached;
        for part in found.hits.chunks(HITS_PER_READ) {
            results.hits.extend(show_hits(db, caller, query, &filters, part).await?);
        }
    }
    search::sort_hits(&mut results.hits, order);
    results.has_more |= results.hits.len() > limit;
    results.hits.truncate(limit);
    Ok(results)
}

/// The hits that the caller sees, as it sees them.
async fn show_hits(
    db: &Db,
    caller: &Caller,
    query: &Query,
    filters: &Filters,
    hits: &[SearchHit],
) -> Result<Vec<SearchHit>, DbError> {
    let hits: Vec<&SearchHit> = hits.iter().filter(|hit| caller.sees_segment(&hit.segment)).collect();
    let segments: Vec<_> = hits.iter().map(|hit| hit.segment.clone()).collect();
    let slots = db.segment_artifacts(&segments).await?;
    let show = |(hit, slots): (&SearchHit, _)| {
        let redactor = caller.segment_redactor(&hit.segment);
        if redactor.is_noop() {
            return Some(hit.clone());
        }
        let entry = SegmentEntry { segment: hit.segment.clone(), slots }.redact(&redactor);
        let metadata = Metadata::parse(&entry.segment.metadata);
        let [transcript, ..] = &entry.slots;
        if !search::passes_filters(filters, &metadata, conversation_of(transcript, &metadata).as_ref()) {
            return None;
        }
        let best_match = search::score::score_document(&document_of(&entry, hit.source, &metadata)?, query)?;
        Some(SearchHit { segment: entry.segment, best_match, ..hit.clone() })
    };
    Ok(hits.into_iter().zip(slots).filter_map(show).collect())
}

/// The text of a hit in a redacted segment.
fn document_of(entry: &SegmentEntry, source: DocumentSource, metadata: &Metadata) -> Option<Document> {
    let [transcript, agent_summary, auto_summary] = &entry.slots;
    let summary = match source {
        DocumentSource::Notes => return Some(Document::parse(source, entry.segment.metadata.as_bytes(), false)),
        DocumentSource::Artifact(Artifact::Transcript) => {
            return conversation_of(transcript, metadata).as_ref().map(Document::from_conversation);
        }
        DocumentSource::Artifact(Artifact::AgentSummary) => agent_summary,
        DocumentSource::Artifact(Artifact::AutoSummary) => auto_summary,
    };
    match &summary.status {
        ArtifactStatus::Stored(body) => Some(Document::parse(source, body, false)),
        _ => None,
    }
}
