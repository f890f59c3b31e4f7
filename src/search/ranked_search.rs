//! Executes a search: takes candidates from the index, page by page and the newest first, scores
//! their texts, and returns the best hits with a passage each.
//!
//! It reads `db`. The index returns candidates only; each one is scored by its current text. So
//! both databases return the same hits, and a replaced text is not shown for its previous content.
//! Memory use does not depend on the size of the archive.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, DocumentSource};
use super::facets;
use super::query::Query;
use super::score::{DocumentMatch, score_document};
use super::segment_fields::{has_participant, matches_metadata, names_agent};
use super::truncate_body::truncate_body;
use crate::clock::Time;
use crate::db::{AccountKey, Db, DbError, IndexHit, IndexQuery, SegmentRow};
use crate::render::{Conversation, Metadata, Phrase};

/// The newest matches that are ranked.
pub const MAX_RANKED_MATCHES: usize = 500;
/// Index matches that are examined to find those that pass the filters.
pub const MAX_SCANNED_MATCHES: usize = 20_000;
/// Documents whose texts are in memory at a time, and their bytes. A larger document is read alone.
const DOCUMENTS_PER_READ: usize = 50;
const MAX_READ_BYTES: u64 = 16_000_000;

/// Filters of a search, in addition to the query.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// Segments that ended at or after this.
    pub from: Option<Time>,
    /// Segments that ended before this.
    pub to: Option<Time>,
    /// Segments of this account.
    pub account: Option<AccountKey>,
    /// The value of `channelClass` or `channelType`.
    pub channel: Option<String>,
    /// The value of `dialogOrigination`.
    pub direction: Option<String>,
    /// The agent's id, or the name of a participant.
    pub agent: Option<String>,
    /// The disposition that the agent or the system set.
    pub disposition: Option<String>,
    /// Documents of these sources; empty for all.
    pub sources: Vec<DocumentSource>,
}

impl Filters {
    /// Whether any filter needs the metadata or the names in a transcript.
    pub(crate) fn needs_metadata(&self) -> bool {
        [&self.channel, &self.direction, &self.agent, &self.disposition].iter().any(|one| one.is_some())
    }
}

/// The order of the hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortOrder {
    /// By score, the best first, of the newest [`MAX_RANKED_MATCHES`] matches.
    Best,
    /// By end time, the newest first.
    Newest,
}

/// A hit of a search.
#[derive(Debug, Clone)]
pub struct SearchHit {
    /// The segment.
    pub segment: SegmentRow,
    /// The document of the segment.
    pub source: DocumentSource,
    /// The version of the artifact; 0 for notes.
    pub version: i64,
    /// Its score and passage.
    pub best_match: DocumentMatch,
}

/// The result of a search.
#[derive(Debug, Clone, Default)]
pub struct SearchResults {
    /// The hits, in order.
    pub hits: Vec<SearchHit>,
    /// Whether there are more than the limit.
    pub has_more: bool,
    /// Whether only the newest matches were ranked.
    pub ranking_truncated: bool,
    /// Whether it stopped at [`MAX_SCANNED_MATCHES`], before all matches were filtered.
    pub(crate) scan_limit_reached: bool,
}

/// A scored hit whose segment has not been read yet.
struct UnresolvedHit {
    hit: IndexHit,
    version: i64,
    best_match: DocumentMatch,
}

/// Finds at most `limit` documents that match the query and the filters.
///
/// # Errors
/// Where the database cannot be read.
pub async fn find(
    db: &Db,
    query: &Query,
    filters: &Filters,
    order: SortOrder,
    limit: usize,
) -> Result<SearchResults, DbError> {
    let index_query = IndexQuery {
        required: [facets::filter_clauses(filters), query.index_clauses()].concat(),
        excluded: query.excluded.clone(),
        account: filters.account,
        from: filters.from,
        to: filters.to,
    };
    // One more than the limit shows whether there are more.
    let kept = limit.saturating_add(1);
    let wanted = if order == SortOrder::Best { MAX_RANKED_MATCHES.max(kept) } else { kept };
    let page = wanted.clamp(DOCUMENTS_PER_READ, MAX_RANKED_MATCHES);
    let (mut results, mut match_count, mut scanned) = (SearchResults::default(), 0, 0);
    let mut best: Vec<UnresolvedHit> = Vec::new();
    let mut before: Option<IndexHit> = None;
    'pages: loop {
        let found = db.query_index(&index_query, before, page).await?;
        let Some(last) = found.last().copied() else { break };
        before = Some(last);
        let count = found.len();
        scanned += count;
        let hits = apply_filters(db, filters, found).await?;
        for part in split_by_bytes(db, &hits).await? {
            for candidate in score_documents(db, query, filters, part).await? {
                match_count += 1;
                best.push(candidate);
            }
            if best.len() > wanted.saturating_mul(2) {
                keep_best(&mut best, order, kept);
            }
            if match_count >= wanted {
                results.ranking_truncated = order == SortOrder::Best;
                break 'pages;
            }
        }
        if count < page {
            break;
        }
        if scanned >= MAX_SCANNED_MATCHES.max(wanted) {
            results.scan_limit_reached = true;
            break;
        }
    }
    keep_best(&mut best, order, kept);
    results.has_more = best.len() > limit;
    best.truncate(limit);
    results.hits = resolve_hits(db, query, best, order).await?;
    Ok(results)
}

fn keep_best(candidates: &mut Vec<UnresolvedHit>, order: SortOrder, limit: usize) {
    candidates.sort_by(|a, b| {
        let by_score = match order {
            SortOrder::Best => b.best_match.score.total_cmp(&a.best_match.score),
            SortOrder::Newest => std::cmp::Ordering::Equal,
        };
        by_score.then(b.hit.cmp(&a.hit))
    });
    candidates.truncate(limit);
}

/// A hit that passes the filters according to the metadata.
#[derive(Clone, Copy)]
struct FilteredHit {
    hit: IndexHit,
    /// Whether the transcript must still be searched for the agent's name.
    needs_participant_check: bool,
}

async fn apply_filters(db: &Db, filters: &Filters, hits: Vec<IndexHit>) -> Result<Vec<FilteredHit>, DbError> {
    // A segment that moved in time is in the index where it was, until it is indexed again.
    let ends = db.end_times(&segment_keys(hits.iter())).await?;
    let is_wanted = |hit: &IndexHit| {
        let has_source = filters.sources.is_empty() || filters.sources.contains(&DocumentSource::of_item(hit.item));
        let is_bounded = filters.from.is_some() || filters.to.is_some();
        has_source && ends.get(&hit.segment()) == Some(&hit.ended) && (!is_bounded || hit.ended.known().is_some())
    };
    let hits: Vec<IndexHit> = hits.into_iter().filter(is_wanted).collect();
    if !filters.needs_metadata() {
        return Ok(hits.into_iter().map(|hit| FilteredHit { hit, needs_participant_check: false }).collect());
    }
    let metadata: BTreeMap<i64, Metadata> = db
        .segments_by_key(&segment_keys(hits.iter()))
        .await?
        .into_iter()
        .map(|(key, segment)| (key, Metadata::parse(&segment.metadata)))
        .collect();
    let to_filtered = |hit: IndexHit| {
        let (channel, direction, disposition) = (&filters.channel, &filters.direction, &filters.disposition);
        let metadata = metadata.get(&hit.segment()).filter(|metadata| {
            matches_metadata(metadata, channel.as_deref(), direction.as_deref(), disposition.as_deref())
        })?;
        let needs_participant_check = filters.agent.as_deref().is_some_and(|agent| !names_agent(metadata, agent));
        Some(FilteredHit { hit, needs_participant_check })
    };
    Ok(hits.into_iter().filter_map(to_filtered).collect())
}

fn segment_keys<'a>(hits: impl Iterator<Item = &'a IndexHit>) -> Vec<i64> {
    let mut keys: Vec<i64> = hits.map(|hit| hit.segment()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Splits the hits into groups whose texts are in memory together.
async fn split_by_bytes<'a>(db: &Db, hits: &'a [FilteredHit]) -> Result<Vec<&'a [FilteredHit]>, DbError> {
    let items_to_read = |one: &FilteredHit| {
        let transcript = one.needs_participant_check.then(|| transcript_item(&one.hit));
        [Some(one.hit.item), transcript].into_iter().flatten()
    };
    let sizes = db.body_sizes(&hits.iter().flat_map(items_to_read).collect::<Vec<_>>()).await?;
    Ok(split_by_size(hits, |one| items_to_read(one).filter_map(|item| sizes.get(&item)).sum()))
}

/// Splits a list into parts of at most `DOCUMENTS_PER_READ` documents and `MAX_READ_BYTES` bytes. A
/// larger document is a part of its own.
fn split_by_size<T>(list: &[T], size: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let (mut parts, mut left) = (Vec::new(), list);
    while !left.is_empty() {
        let mut bytes = 0;
        let fits = |one: &T| {
            bytes += size(one);
            bytes <= MAX_READ_BYTES
        };
        let count = left.iter().take(DOCUMENTS_PER_READ).map(fits).take_while(|fits| *fits).count().max(1);
        let (part, rest) = left.split_at(count);
        parts.push(part);
        left = rest;
    }
    parts
}

/// Reads the texts of these documents, scores them, and checks the participants where a filter
/// needs it.
async fn score_documents(
    db: &Db,
    query: &Query,
    filters: &Filters,
    hits: &[FilteredHit],
) -> Result<Vec<UnresolvedHit>, DbError> {
    let is_notes = |one: &&FilteredHit| DocumentSource::of_item(one.hit.item) == DocumentSource::Notes;
    let texts = hits.iter().filter(|one| !is_notes(one)).map(|one| one.hit.item);
    let transcripts = hits.iter().filter(|one| one.needs_participant_check).map(|one| transcript_item(&one.hit));
    let mut items: Vec<i64> = texts.chain(transcripts).collect();
    items.sort_unstable();
    items.dedup();
    let bodies = db.newest_bodies(&items).await?.into_iter();
    let mut bodies: BTreeMap<i64, (i64, Vec<u8>)> =
        bodies.map(|(item, (version, body))| (item, (version, truncate_body(body)))).collect();
    for (key, segment) in db.segments_by_key(&segment_keys(hits.iter().filter(is_notes).map(|one| &one.hit))).await? {
        bodies.insert(key * 4 + 3, (0, segment.metadata.into_bytes()));
    }
    let emails = email_transcripts(db, hits, &bodies).await?;
    let to_candidate = |FilteredHit { hit, needs_participant_check }: &FilteredHit| {
        if let Some(agent) = filters.agent.as_deref().filter(|_| *needs_participant_check) {
            let transcript = bodies.get(&transcript_item(hit));
            transcript.filter(|(_, body)| has_participant(body, agent))?;
        }
        let (version, body) = bodies.get(&hit.item)?;
        let document = Document::parse(DocumentSource::of_item(hit.item), body, emails.contains(&hit.item));
        let best_match = score_document(&document, query)?;
        Some(UnresolvedHit { hit: *hit, version: *version, best_match })
    };
    Ok(hits.iter().filter_map(to_candidate).collect())
}

/// Those transcripts that are exchanges of e-mails. Only transcripts with possible markup are
/// parsed differently for it, so only their metadata is read.
async fn email_transcripts(
    db: &Db,
    hits: &[FilteredHit],
    bodies: &BTreeMap<i64, (i64, Vec<u8>)>,
) -> Result<BTreeSet<i64>, DbError> {
    let may_be = |one: &&FilteredHit| {
        let body = bodies.get(&one.hit.item).filter(|_| one.hit.item == transcript_item(&one.hit));
        body.is_some_and(|(_, body)| Conversation::may_hold_markup(body))
    };
    let segments = db.segments_by_key(&segment_keys(hits.iter().filter(may_be).map(|one| &one.hit))).await?;
    let is_email = |segment: &SegmentRow| Metadata::describes_email(&segment.metadata);
    Ok(segments.into_iter().filter(|(_, segment)| is_email(segment)).map(|(key, _)| key * 4).collect())
}

fn transcript_item(hit: &IndexHit) -> i64 {
    hit.segment() * 4
}

/// Names the speakers for which the transcript has an id only, by the metadata. It reads the texts
/// of these hits again, as many at a time as the search.
async fn resolve_speakers(
    db: &Db,
    query: &Query,
    best: &mut [UnresolvedHit],
    segments: &BTreeMap<i64, SegmentRow>,
) -> Result<(), DbError> {
    let is_nameless = |one: &&mut UnresolvedHit| one.best_match.speaker.as_deref().is_some_and(Phrase::is_by_id);
    let nameless: Vec<&mut UnresolvedHit> = best.iter_mut().filter(is_nameless).collect();
    let items: Vec<i64> = nameless.iter().map(|candidate| candidate.hit.item).collect();
    let sizes = db.body_sizes(&items).await?;
    let mut nameless = nameless.into_iter();
    for part in split_by_size(&items, |item| sizes.get(item).copied().unwrap_or_default()) {
        let mut bodies = db.newest_bodies(part).await?;
        for candidate in nameless.by_ref().take(part.len()) {
            let segment = segments.get(&candidate.hit.segment());
            let Some((segment, (_, body))) = segment.zip(bodies.remove(&candidate.hit.item)) else { continue };
            let body = truncate_body(body);
            let conversation = Conversation::read(&body, &Metadata::parse(&segment.metadata)).unwrap_or_default();
            if let Some(best_match) = score_document(&Document::from_conversation(&conversation), query) {
                candidate.best_match = best_match;
            }
        }
    }
    Ok(())
}

/// Adds the segments to the hits and sorts them.
async fn resolve_hits(
    db: &Db,
    query: &Query,
    mut best: Vec<UnresolvedHit>,
    order: SortOrder,
) -> Result<Vec<SearchHit>, DbError> {
    let segments = db.segments_by_key(&segment_keys(best.iter().map(|candidate| &candidate.hit))).await?;
    resolve_speakers(db, query, &mut best, &segments).await?;
    let to_search_hit = |candidate: UnresolvedHit| {
        let segment = segments.get(&candidate.hit.segment())?.clone();
        let source = DocumentSource::of_item(candidate.hit.item);
        Some(SearchHit { segment, source, version: candidate.version, best_match: candidate.best_match })
    };
    let mut hits: Vec<SearchHit> = best.into_iter().filter_map(to_search_hit).collect();
    sort_hits(&mut hits, order);
    Ok(hits)
}

/// Sorts hits, including those that ended in the same second.
pub(crate) fn sort_hits(hits: &mut [SearchHit], order: SortOrder) {
    hits.sort_by(|a, b| {
        let by_score = match order {
            SortOrder::Best => b.best_match.score.total_cmp(&a.best_match.score),
            SortOrder::Newest => std::cmp::Ordering::Equal,
        };
        by_score
            .then_with(|| b.segment.ended.cmp(&a.segment.ended))
            .then_with(|| a.segment.account.sub.cmp(&b.segment.account.sub))
            .then_with(|| a.segment.segment_id.cmp(&b.segment.segment_id))
            .then_with(|| a.source.cmp(&b.source))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_in_parts_of_limited_number_and_size() {
        let lengths =
            |sizes: &[u64]| split_by_size(sizes, |size| *size).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), Vec::<usize>::new());
        assert_eq!(lengths(&[1; DOCUMENTS_PER_READ + 1]), [DOCUMENTS_PER_READ, 1]);
        assert_eq!(lengths(&[MAX_READ_BYTES, 1, MAX_READ_BYTES * 2, 1, 1]), [1, 1, 1, 2]);
    }
}
