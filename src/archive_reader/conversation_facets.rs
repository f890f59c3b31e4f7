//! Counts of conversations by account, agent, channel, direction, disposition and stored artifacts.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::search::FacetValue;
use super::segment_filter::{Dimension, SegmentFilter};
use super::{ArchiveReader, ReadError, Scope};
use crate::db::{Db, SegmentPosition, SegmentQuery, SegmentRow};
use crate::render::Metadata;
use crate::search::ConversationKey;

/// The newest segments that are counted.
const MAX_COUNTED: usize = 10_000;
/// The same where their texts must be read.
const MAX_COUNTED_WITH_TEXTS: usize = 1_000;
/// Segments that a statement reads.
const SEGMENTS_PER_READ: usize = 1_000;
const ENTRIES_PER_READ: usize = 50;
/// The values of a facet that are returned, the most frequent first.
const MAX_VALUES: usize = 100;

/// The facets of the metadata.
const DIMENSIONS: [Dimension; 5] =
    [Dimension::Account, Dimension::Agent, Dimension::Channel, Dimension::Direction, Dimension::Disposition];
/// The facet of the stored artifacts.
const HAS: &str = "has";

/// Counts conversations, each once for a value however many segments have it.
#[derive(Debug, Default)]
pub(super) struct FacetCounter {
    numbers: HashMap<ConversationKey, usize>,
    values: BTreeMap<&'static str, BTreeMap<Option<String>, HashSet<usize>>>,
    pub(super) is_complete: bool,
}

impl FacetCounter {
    /// Adds segments with their metadata as the caller sees it.
    pub(super) async fn add<'s>(
        &mut self,
        db: &Db,
        segments: impl Iterator<Item = &'s SegmentRow>,
    ) -> Result<(), ReadError> {
        let segments: Vec<(&SegmentRow, Metadata)> =
            segments.map(|segment| (segment, Metadata::parse(&segment.metadata))).collect();
        self.add_parsed(db, &segments).await
    }

    async fn add_parsed(&mut self, db: &Db, segments: &[(&SegmentRow, Metadata)]) -> Result<(), ReadError> {
        let keys: Vec<i64> = segments.iter().map(|(segment, _)| segment.key).collect();
        let stored = db.stored_artifacts(&keys).await?;
        for (segment, metadata) in segments {
            let next = self.numbers.len();
            let number = *self.numbers.entry(ConversationKey::of(segment)).or_insert(next);
            let mut count = |facet: &'static str, value: Option<String>| {
                self.values.entry(facet).or_default().entry(value).or_default().insert(number);
            };
            for dimension in DIMENSIONS {
                let value = dimension.value_of(segment.ended, &segment.account.sub, metadata);
                count(dimension.name(), value);
            }
            for artifact in stored.get(&segment.key).into_iter().flat_map(|stored| stored.iter()) {
                count(HAS, Some(artifact.name().to_owned()));
            }
        }
        Ok(())
    }

    /// The number of conversations.
    pub(super) fn conversations(&self) -> u64 {
        self.numbers.len() as u64
    }

    /// The values of each facet, the most frequent first.
    pub(super) fn into_values(self) -> BTreeMap<&'static str, Vec<FacetValue>> {
        let names = DIMENSIONS.map(Dimension::name).into_iter().chain([HAS]);
        let mut facets: BTreeMap<&'static str, Vec<FacetValue>> = names.map(|name| (name, Vec::new())).collect();
        for (facet, values) in self.values {
            let values = values.into_iter().map(|(value, numbers)| FacetValue { value, count: numbers.len() as u64 });
            let mut values: Vec<FacetValue> = values.collect();
            values.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
            values.truncate(MAX_VALUES);
            facets.insert(facet, values);
        }
        facets
    }
}

impl ArchiveReader {
    /// Counts the newest matching segments that the caller sees.
    pub(super) async fn count_facets(
        &self,
        scope: &Scope<'_>,
        filter: &SegmentFilter,
    ) -> Result<FacetCounter, ReadError> {
        let query = SegmentQuery { accounts: scope.keys(), newest_first: true, ..filter.query() };
        let (per_read, max) = match filter.needs_texts() {
            true => (ENTRIES_PER_READ, MAX_COUNTED_WITH_TEXTS),
            false => (SEGMENTS_PER_READ, MAX_COUNTED),
        };
        let mut counter = FacetCounter::default();
        let (mut position, mut examined): (Option<SegmentPosition>, usize) = (None, 0);
        loop {
            let rows = self.db.segments_page(&query, position.as_ref(), per_read).await?;
            let is_last = rows.len() < per_read;
            examined += rows.len();
            position = rows.last().map(SegmentPosition::from);
            if filter.needs_texts() {
                let entries = self.matching_entries(scope, filter, rows).await?;
                counter.add(&self.db, entries.iter().map(|entry| &entry.segment)).await?;
            } else {
                let shown = |row| scope.show_metadata(row).map(|metadata| (row, metadata));
                let mut shown: Vec<(&SegmentRow, Metadata)> = rows.iter().filter_map(shown).collect();
                shown.retain(|(_, metadata)| filter.matches_metadata(metadata));
                counter.add_parsed(&self.db, &shown).await?;
            }
            if is_last || examined >= max {
                counter.is_complete = is_last;
                return Ok(counter);
            }
        }
    }
}
