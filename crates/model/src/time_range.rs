//! Ranges of segment end times, sets of such ranges, and the windows that the metadata API accepts.
//! Pure data.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Time, millis};

/// A half-open range of segment end times: `from` is included, `to` is not. A range that is to be
/// read has whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::FromRow))]
pub struct TimeRange {
    /// The first moment in the range.
    #[cfg_attr(feature = "sqlx", sqlx(rename = "from_ms"))]
    pub from: Time,
    /// The first moment after the range.
    #[cfg_attr(feature = "sqlx", sqlx(rename = "to_ms"))]
    pub to: Time,
}

impl TimeRange {
    /// Returns `None` if `to` is not after `from`.
    pub fn new(from: Time, to: Time) -> Option<TimeRange> {
        (from < to).then_some(TimeRange { from, to })
    }

    /// The length of the range.
    pub fn width(self) -> Duration {
        self.to.since(self.from)
    }

    /// The part that both ranges have in common.
    pub fn intersect(self, other: TimeRange) -> Option<TimeRange> {
        TimeRange::new(self.from.max(other.from), self.to.min(other.to))
    }

    /// Whether `time` lies in the range.
    pub fn contains(self, time: Time) -> bool {
        self.from <= time && time < self.to
    }
}

impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from.rfc3339_secs(), self.to.rfc3339_secs())
    }
}

/// A window as the metadata API accepts it: the search runs forward from `start` for `seconds`
/// seconds.
///
/// The API does not document whether a segment that ends exactly on an edge belongs to the window.
/// A window therefore covers only what lies strictly within it: [`Window::covered_range`] leaves
/// the first second to the window before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// `segmentEndTime`: the start of the window, in seconds since 1970.
    pub start: i64,
    /// `timeInterval`, at least 1.
    pub seconds: u32,
}

impl Window {
    /// The narrowest window that covers `range`. It begins one second earlier.
    pub fn covering(range: TimeRange) -> Window {
        let start = range.from.floor_secs() - 1;
        let end = range.to.plus_millis(999).floor_secs();
        Window { start, seconds: u32::try_from(end - start).unwrap_or(u32::MAX).max(1) }
    }

    /// The range of end times that the answer certainly contains, whether or not the API includes
    /// the edges.
    pub fn covered_range(self) -> Option<TimeRange> {
        TimeRange::new(Time::from_secs(self.start + 1), self.end())
    }

    /// The start of the window.
    pub fn begin(self) -> Time {
        Time::from_secs(self.start)
    }

    /// The end of the window.
    pub fn end(self) -> Time {
        Time::from_secs(self.start + i64::from(self.seconds))
    }
}

/// A set of moments, stored as sorted, disjoint, non-adjacent ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeRangeSet(Vec<TimeRange>);

impl TimeRangeSet {
    /// Builds the set from ranges in any order, which may overlap.
    pub fn from_unsorted(mut ranges: Vec<TimeRange>) -> TimeRangeSet {
        ranges.sort_unstable();
        let mut merged: Vec<TimeRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.from <= last.to => last.to = last.to.max(range.to),
                _ => merged.push(range),
            }
        }
        TimeRangeSet(merged)
    }

    /// The ranges in order of time.
    pub fn as_slice(&self) -> &[TimeRange] {
        &self.0
    }

    /// Whether the set contains no moment.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a range and merges it with the ranges that it touches.
    pub fn insert(&mut self, range: TimeRange) {
        let first = self.0.partition_point(|existing| existing.to < range.from);
        let last = self.0.partition_point(|existing| existing.from <= range.to);
        let merged = self.0[first..last].iter().fold(range, |merged, existing| TimeRange {
            from: merged.from.min(existing.from),
            to: merged.to.max(existing.to),
        });
        self.0.splice(first..last, [merged]);
    }

    /// The moments of this set that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &TimeRangeSet) -> TimeRangeSet {
        let mut left = Vec::new();
        let mut cuts = other.0.iter().peekable();
        for &range in &self.0 {
            let mut from = range.from;
            while let Some(cut) = cuts.peek() {
                if cut.to <= from {
                    cuts.next();
                    continue;
                }
                if cut.from >= range.to {
                    break;
                }
                left.extend(TimeRange::new(from, cut.from));
                from = from.max(cut.to);
                if cut.to > range.to {
                    break;
                }
                cuts.next();
            }
            left.extend(TimeRange::new(from, range.to));
        }
        TimeRangeSet(left)
    }

    /// The part of the set that lies within `bounds`.
    #[must_use]
    pub fn within(&self, bounds: TimeRange) -> TimeRangeSet {
        TimeRangeSet(self.0.iter().filter_map(|range| range.intersect(bounds)).collect())
    }

    /// The range that contains `time`.
    pub fn range_containing(&self, time: Time) -> Option<TimeRange> {
        let next = self.0.partition_point(|existing| existing.to <= time);
        self.0.get(next).copied().filter(|existing| existing.contains(time))
    }

    /// The total length of all ranges.
    pub fn total(&self) -> Duration {
        Duration::from_millis(self.0.iter().map(|range| u64::try_from(millis(range.width())).unwrap_or(0)).sum())
    }
}
