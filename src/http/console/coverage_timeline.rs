//! The coverage of an account over time, as coloured ranges of a bar. Pure.
//!
//! A timeline has a fixed number of cells. A gap is never rounded away, however short it is; covered
//! time may be.

use std::time::Duration;

use serde::Serialize;

use crate::clock::Time;
use crate::coverage::{Coverage, ReadPurpose};
use crate::health::humanize::format_duration;
use crate::model::{TimeRange, TimeRangeSet};

/// The number of cells of a timeline: five minutes each if it shows a day.
pub(super) const CELLS: i64 = 288;

/// The state of a range. Later states are painted over earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CoverageState {
    /// Read once.
    Read,
    /// Read again, for late arrivals.
    Reread,
    /// Requested by a backfill, and not read since.
    Backfill,
    /// Never read, though it should have been.
    Gap,
}

impl CoverageState {
    /// The CSS class, and the name for people.
    pub(super) const fn texts(self) -> (&'static str, &'static str) {
        match self {
            CoverageState::Read => ("read", "read"),
            CoverageState::Reread => ("reread", "read again"),
            CoverageState::Backfill => ("backfill", "to be backfilled"),
            CoverageState::Gap => ("gap", "gap"),
        }
    }
}

/// A range from one cell up to, but not including, another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct TimelineRange {
    pub(super) state: CoverageState,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// An account's timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CoverageTimeline {
    /// What it shows.
    pub(super) visible: TimeRange,
    /// In painting order.
    pub(super) ranges: Vec<TimelineRange>,
    /// The text alternative for screen readers.
    pub(super) description: String,
}

/// The time range of this width that a timeline shows. It ends now, rounded up to a cell.
pub(super) fn visible_range(now: Time, width: Duration) -> TimeRange {
    let width_ms = i64::try_from(width.as_millis()).unwrap_or(i64::MAX).max(CELLS);
    let cell_ms = width_ms / CELLS;
    let to = now.0.div_euclid(cell_ms).saturating_add(1).saturating_mul(cell_ms);
    TimeRange { from: Time(to.saturating_sub(cell_ms * CELLS)), to: Time(to) }
}

/// Builds an account's timeline from its coverage rows and its backfills. It is complete for
/// segments that ended after the first row's start.
pub(super) fn timeline(
    live_start: Option<Time>,
    rows: &[(String, TimeRange)],
    backfills: impl IntoIterator<Item = (i64, TimeRange)>,
    visible_range: TimeRange,
) -> CoverageTimeline {
    let ranges_of = |wanted: &dyn Fn(ReadPurpose) -> bool| {
        let rows = rows.iter().filter(|(purpose, _)| ReadPurpose::parse(purpose).is_some_and(wanted));
        TimeRangeSet::from_unsorted(rows.map(|(_, range)| *range).collect())
    };
    let live = ranges_of(&|purpose| purpose == ReadPurpose::Live);
    let reread = ranges_of(&|purpose| matches!(purpose, ReadPurpose::Recheck(_)));
    let requested = backfills.into_iter().flat_map(|(id, range)| {
        let done = ranges_of(&|purpose| purpose == ReadPurpose::Backfill(id));
        TimeRangeSet::from_unsorted(vec![range]).minus(&done).as_slice().to_vec()
    });
    let requested = TimeRangeSet::from_unsorted(requested.collect());
    let coverage = live_start.map(|start| Coverage { live: live.clone(), ..Coverage::new(start) });
    let gaps = coverage.and_then(|coverage| Some(coverage.gaps(coverage.live_edge()?))).unwrap_or_default();
    let layers = [
        (CoverageState::Read, live),
        (CoverageState::Reread, reread),
        (CoverageState::Backfill, requested),
        (CoverageState::Gap, gaps),
    ];
    let (mut ranges, mut description) = (Vec::new(), Vec::new());
    for (state, set) in layers {
        let visible = set.within(visible_range);
        ranges.extend(visible.as_slice().iter().filter_map(|range| timeline_range(state, visible_range, *range)));
        if state == CoverageState::Read || !visible.is_empty() {
            description.push(format!("{} {}", state.texts().1, format_duration(visible.total())));
        }
    }
    CoverageTimeline { visible: visible_range, ranges, description: description.join(", ") }
}

/// The cells of a time range. Covered time counts where it fills at least half of a cell, missing
/// time wherever it touches one.
fn timeline_range(state: CoverageState, visible_range: TimeRange, stretch: TimeRange) -> Option<TimelineRange> {
    let width = (visible_range.to.0 - visible_range.from.0).max(CELLS);
    let cell = |time: Time, round: i64| ((time.0 - visible_range.from.0) * CELLS + round).div_euclid(width);
    let (from, to) = match state {
        CoverageState::Read | CoverageState::Reread => (cell(stretch.from, width / 2), cell(stretch.to, width / 2)),
        CoverageState::Backfill | CoverageState::Gap => (cell(stretch.from, 0), cell(stretch.to, width - 1)),
    };
    (from < to).then_some(TimelineRange { state, from, to })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn row(pass: &str, from: i64, to: i64) -> (String, TimeRange) {
        (pass.to_owned(), TimeRange { from: Time(from), to: Time(to) })
    }

    const DAY: TimeRange = TimeRange { from: Time(0), to: Time(24 * HOUR_MS) };
    const CELL_MS: i64 = 300_000;

    #[test]
    fn a_timeline_shows_read_reread_requested_and_missed_ranges() {
        let rows = [
            row("live", 0, 10 * CELL_MS),
            row("live", 12 * CELL_MS, 20 * CELL_MS),
            row("recheck:3600", 0, 5 * CELL_MS),
        ];
        let backfill = (7, TimeRange { from: Time(30 * CELL_MS), to: Time(40 * CELL_MS) });
        let timeline = timeline(Some(Time(0)), &rows, [backfill], DAY);
        let expected = [
            TimelineRange { state: CoverageState::Read, from: 0, to: 10 },
            TimelineRange { state: CoverageState::Read, from: 12, to: 20 },
            TimelineRange { state: CoverageState::Reread, from: 0, to: 5 },
            TimelineRange { state: CoverageState::Backfill, from: 30, to: 40 },
            TimelineRange { state: CoverageState::Gap, from: 10, to: 12 },
        ];
        assert_eq!(timeline.ranges, expected);
        assert_eq!(timeline.description, "read 1 h 30 min, read again 25 min, to be backfilled 50 min, gap 10 min");
    }

    #[test]
    fn the_read_part_of_a_backfill_is_no_longer_shown_as_requested() {
        let backfill = (7, TimeRange { from: Time(0), to: Time(10 * CELL_MS) });
        let timeline = timeline(None, &[row("backfill:7", 4 * CELL_MS, 10 * CELL_MS)], [backfill], DAY);
        assert_eq!(timeline.ranges, [TimelineRange { state: CoverageState::Backfill, from: 0, to: 4 }]);
    }

    #[test]
    fn a_short_gap_is_not_rounded_away() {
        let rows = [row("live", 0, 10 * CELL_MS + 1), row("live", 10 * CELL_MS + 1000, 20 * CELL_MS)];
        let timeline = timeline(Some(Time(0)), &rows, [], DAY);
        assert!(
            timeline.ranges.contains(&TimelineRange { state: CoverageState::Gap, from: 10, to: 11 }),
            "{timeline:?}"
        );
    }

    #[test]
    fn an_account_without_reads_has_no_gap() {
        assert_eq!(timeline(Some(Time(0)), &[], [], DAY).ranges, []);
        assert_eq!(timeline(None, &[], [], DAY).ranges, []);
    }

    proptest! {
        #[test]
        fn the_visible_range_holds_now_and_moves_by_whole_cells(now in 0_i64..4_000_000_000_000, hours in 1_u64..2200) {
            let range = visible_range(Time(now), Duration::from_secs(hours * 3600));
            prop_assert!(range.contains(Time(now)));
            let cell = (range.to.0 - range.from.0) / CELLS;
            prop_assert_eq!(range.to.0 % cell, 0);
        }

        #[test]
        fn ranges_lie_within_the_timeline(from in -50 * HOUR_MS..50 * HOUR_MS, width in 1..50 * HOUR_MS) {
            let timeline = timeline(Some(Time(from)), &[row("live", from, from + width)], [], DAY);
            for range in timeline.ranges {
                prop_assert!(0 <= range.from && range.from < range.to && range.to <= CELLS);
            }
        }
    }
}
