//! Counts of segments by a dimension.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::search::FacetValue;
use super::segment_filter::{Dimension, SegmentFilter};
use super::{AccessAction, AccessSubject, ArchiveReader, ReadError};
use crate::access::Caller;
use crate::db::{SegmentPosition, SegmentQuery};
use crate::render::Metadata;

/// Segments that one count examines.
const MAX_COUNTED: usize = 200_000;
/// Segments that a statement reads.
const SEGMENTS_PER_READ: usize = 1_000;

/// How many segments match, by a dimension.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountAnswer {
    pub(crate) by: &'static str,
    pub(crate) total: u64,
    /// Whether all segments of the range were counted.
    pub(crate) is_complete: bool,
    pub(crate) counts: Vec<FacetValue>,
}

impl ArchiveReader {
    /// Counts the matching segments that the caller sees.
    pub(crate) async fn count(
        &self,
        caller: &Caller,
        filter: &SegmentFilter,
        by: Dimension,
    ) -> Result<CountAnswer, ReadError> {
        let answer = self.run_heavy(self.count_visible(caller, filter, by)).await?;
        let text = format!("count by {} {}", by.name(), filter.describe());
        let subject = AccessSubject::Query { text: &text, sub: None, hits: answer.total };
        self.record(caller, AccessAction::Count, subject).await?;
        Ok(answer)
    }

    async fn count_visible(
        &self,
        caller: &Caller,
        filter: &SegmentFilter,
        by: Dimension,
    ) -> Result<CountAnswer, ReadError> {
        let scope = self.scope(caller, &filter.accounts).await?;
        let query = SegmentQuery { accounts: scope.keys(), ..filter.query() };
        let mut counts: BTreeMap<Option<String>, u64> = BTreeMap::new();
        let (mut position, mut examined, mut is_complete): (Option<SegmentPosition>, usize, bool) = (None, 0, true);
        if filter.needs_texts() {
            let (entries, more) = self.find_segments(&scope, filter, None, MAX_COUNTED, MAX_COUNTED).await?;
            is_complete = more.is_none();
            for entry in entries {
                let metadata = Metadata::parse(&entry.segment.metadata);
                let value = by.value_of(entry.segment.ended, &entry.segment.account.sub, &metadata);
                *counts.entry(value).or_default() += 1;
            }
        } else {
            loop {
                let rows = self.db.segments_page(&query, position.as_ref(), SEGMENTS_PER_READ).await?;
                let is_last = rows.len() < SEGMENTS_PER_READ;
                examined += rows.len();
                position = rows.last().map(SegmentPosition::from);
                for row in rows {
                    let Some(metadata) = scope.show_metadata(&row) else { continue };
                    if filter.matches_metadata(&metadata) {
                        *counts.entry(by.value_of(row.ended, &row.account.sub, &metadata)).or_default() += 1;
                    }
                }
                if is_last {
                    break;
                }
                if examined >= MAX_COUNTED {
                    is_complete = false;
                    break;
                }
            }
        }
        let total = counts.values().sum();
        let mut counts: Vec<FacetValue> =
            counts.into_iter().map(|(value, count)| FacetValue { value, count }).collect();
        // Days in order of time, everything else by frequency.
        if by != Dimension::Day {
            counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        }
        Ok(CountAnswer { by: by.name(), total, is_complete, counts })
    }
}
