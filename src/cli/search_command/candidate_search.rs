//! Searches the segments of a contact, a dialog or a hold. Their texts are read and scored directly,
//! so the result is complete even while the index is behind.

use std::cmp::Ordering;

use super::MAX_DOCUMENTS;
use crate::cli::filter_args::SelectedSegments;
use crate::db::{ArtifactStatus, Db, DbError, SegmentArtifact, SegmentRef, SegmentRow};
use crate::model::Artifact;
use crate::render::{Conversation, Metadata};
use crate::search::score::score_document;
use crate::search::{Document, DocumentSource, Query, SearchHit, SortOrder, truncate_body};

/// The number of segments whose texts are in memory at a time.
const SEGMENTS_PER_READ: usize = 50;

/// Finds the documents of these segments that match, in order; at most [`MAX_DOCUMENTS`].
pub(super) async fn find(
    db: &Db,
    query: &Query,
    segments: &[SegmentRef],
    selected: &SelectedSegments,
    sources: &[DocumentSource],
    order: SortOrder,
) -> Result<Vec<SearchHit>, DbError> {
    let mut hits = Vec::new();
    // The newest first.
    for chunk in segments.rchunks(SEGMENTS_PER_READ) {
        let keys: Vec<i64> = chunk.iter().map(|segment| segment.key).collect();
        let rows: Vec<SegmentRow> = db.segments_by_key(&keys).await?.into_values().collect();
        let rows: Vec<SegmentRow> = rows.into_iter().filter(|row| selected.range.contains(row)).collect();
        let artifacts = db.segment_artifacts(&rows).await?;
        for (segment, slots) in rows.into_iter().zip(artifacts) {
            let metadata = Metadata::parse(&segment.metadata);
            if selected.filter.matches(&metadata, stored(&slots[0])) {
                score_segment(query, &segment, &metadata, &slots, sources, &mut hits);
            }
        }
        if hits.len() >= MAX_DOCUMENTS {
            break;
        }
    }
    hits.sort_by(|a, b| {
        let by_score = match order {
            SortOrder::Best => b.best_match.score.total_cmp(&a.best_match.score),
            SortOrder::Newest => Ordering::Equal,
        };
        by_score.then_with(|| b.segment.export_key().cmp(&a.segment.export_key())).then_with(|| a.source.cmp(&b.source))
    });
    Ok(hits)
}

fn stored(slot: &SegmentArtifact) -> Option<&[u8]> {
    match &slot.status {
        ArtifactStatus::Stored(body) => Some(body),
        _ => None,
    }
}

fn score_segment(
    query: &Query,
    segment: &SegmentRow,
    metadata: &Metadata,
    slots: &[SegmentArtifact; Artifact::ALL.len()],
    sources: &[DocumentSource],
    hits: &mut Vec<SearchHit>,
) {
    let is_wanted = |source: &DocumentSource| sources.is_empty() || sources.contains(source);
    for source in DocumentSource::ALL.into_iter().filter(is_wanted) {
        let (document, version) = match source {
            DocumentSource::Notes => (Document::parse(source, segment.metadata.as_bytes(), false), 0),
            DocumentSource::Artifact(artifact) => {
                let slot = &slots[usize::from(artifact.code().unsigned_abs())];
                let Some(body) = stored(slot).map(|body| truncate_body(body.to_vec())) else { continue };
                let document = match artifact {
                    Artifact::Transcript => {
                        Document::from_conversation(&Conversation::read(&body, metadata).unwrap_or_default())
                    }
                    Artifact::AgentSummary | Artifact::AutoSummary => Document::parse(source, &body, false),
                    Artifact::Recording => continue,
                };
                (document, slot.version)
            }
        };
        if let Some(best_match) = score_document(&document, query) {
            hits.push(SearchHit { segment: segment.clone(), source, version, best_match });
        }
    }
}
