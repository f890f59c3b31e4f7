//! What has been read of an account's time line, as a strip of coloured bands. Pure.
//!
//! The strip is made of a fixed number of cells, and all accounts' strips show the same stretch of time, so that they
//! can be compared at a glance. A gap is never rounded away, however short it is; what was read may be.

use std::time::Duration;

use crate::clock::Time;
use crate::coverage::{Coverage, Pass};
use crate::db::CoverageRow;
use crate::model::{Stretch, Stretches};

/// Into how many cells a strip is divided: five minutes each, where it shows a day.
pub(super) const CELLS: i64 = 288;

/// What a strip may show: the shortest of these that holds all that was ever read, in milliseconds.
const SPANS: [i64; 5] = [1, 3, 6, 12, 24];
const HOUR: i64 = 3_600_000;

/// The longest stretch that a strip shows.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What a band stands for, in the order in which they cover one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Read once.
    Read,
    /// Read again, for late arrivals.
    Reread,
    /// Asked for by a person, and not read since.
    Backfill,
    /// Never read, though it should have been.
    Gap,
}

/// A band from one cell to before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Band {
    pub(super) kind: Kind,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// An account's strip.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Strip {
    /// In the order in which they are painted.
    pub(super) bands: Vec<Band>,
    /// For those who do not see it.
    pub(super) words: String,
}

/// The stretch of time that all strips show: it ends now, rounded up to a cell, and holds `first` unless that is more
/// than a day ago.
pub(super) fn frame(now: Time, first: Option<Time>) -> Stretch {
    let needed = first.map_or(0, |first| now.0.saturating_sub(first.0));
    let hours = SPANS.into_iter().find(|hours| hours * HOUR >= needed).unwrap_or(24);
    let cell = hours * HOUR / CELLS;
    let to = now.0.div_euclid(cell).saturating_add(1).saturating_mul(cell);
    Stretch { from: Time(to.saturating_sub(hours * HOUR)), to: Time(to) }
}

/// An account's coverage, from its rows; complete for what ended after the rows' beginning.
pub(super) fn coverage(
    live_start: Option<Time>,
    rows: &[CoverageRow],
    backfills: impl IntoIterator<Item = (i64, Stretch)>,
) -> Sets {
    let of = |wanted: fn(&Pass) -> bool| {
        let rows = rows.iter().filter(|row| Pass::parse(&row.pass).is_some_and(|pass| wanted(&pass)));
        Stretches::from_unsorted(rows.map(|row| row.stretch).collect())
    };
    let live = of(|pass| *pass == Pass::Live);
    let reread = of(|pass| matches!(pass, Pass::Recheck(_)));
    let pending = backfills.into_iter().flat_map(|(id, range)| {
        let key = Pass::Backfill(id).key();
        let done = rows.iter().filter(|row| row.pass == key).map(|row| row.stretch).collect();
        let owed = Stretches::from_unsorted(vec![range]).minus(&Stretches::from_unsorted(done));
        owed.as_slice().to_vec()
    });
    let pending = Stretches::from_unsorted(pending.collect());
    let gaps = live_start.map(|start| Coverage { live: live.clone(), ..Coverage::new(start) }).and_then(|coverage| {
        let edge = coverage.live_edge()?;
        Some(coverage.gaps(edge))
    });
    Sets { live, reread, pending, gaps: gaps.unwrap_or_default() }
}

/// An account's time line, by what became of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sets {
    live: Stretches,
    reread: Stretches,
    pending: Stretches,
    gaps: Stretches,
}

impl Sets {
    /// As the strip for `frame`.
    pub(super) fn strip(&self, frame: Stretch) -> Strip {
        let mut bands = Vec::new();
        let layers = [
            (Kind::Read, &self.live),
            (Kind::Reread, &self.reread),
            (Kind::Backfill, &self.pending),
            (Kind::Gap, &self.gaps),
        ];
        for (kind, set) in layers {
            bands.extend(set.within(frame).as_slice().iter().filter_map(|stretch| band(kind, frame, *stretch)));
        }
        Strip { words: self.words(frame), bands }
    }

    fn words(&self, frame: Stretch) -> String {
        let total = |set: &Stretches| crate::status::words::span(set.within(frame).total());
        let mut words = format!("read {}", total(&self.live));
        for (what, set) in [("re-read", &self.reread), ("to be backfilled", &self.pending), ("gap", &self.gaps)] {
            if !set.within(frame).is_empty() {
                words.push_str(&format!(", {what} {}", total(set)));
            }
        }
        words
    }
}

/// The cells of a stretch; what was read counts where it fills a cell at least by half, what is missing counts wherever
/// it touches one.
fn band(kind: Kind, frame: Stretch, stretch: Stretch) -> Option<Band> {
    let width = (frame.to.0 - frame.from.0).max(CELLS);
    let cell = |time: Time, round: i64| ((time.0 - frame.from.0) * CELLS + round).div_euclid(width);
    let (from, to) = match kind {
        Kind::Read | Kind::Reread => (cell(stretch.from, width / 2), cell(stretch.to, width / 2)),
        Kind::Backfill | Kind::Gap => (cell(stretch.from, 0), cell(stretch.to, width - 1)),
    };
    (from < to).then_some(Band { kind, from, to })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(pass: &str, from: i64, to: i64) -> CoverageRow {
        CoverageRow { account: 1, pass: pass.to_owned(), stretch: Stretch { from: Time(from), to: Time(to) } }
    }

    const DAY: Stretch = Stretch { from: Time(0), to: Time(24 * HOUR) };
    const CELL: i64 = 300_000;

    #[test]
    fn a_strip_shows_what_was_read_re_read_asked_for_and_missed() {
        let rows = [row("live", 0, 10 * CELL), row("live", 12 * CELL, 20 * CELL), row("recheck:3600", 0, 5 * CELL)];
        let backfill = (7, Stretch { from: Time(30 * CELL), to: Time(40 * CELL) });
        let strip = coverage(Some(Time(0)), &rows, [backfill]).strip(DAY);
        let expected = [
            Band { kind: Kind::Read, from: 0, to: 10 },
            Band { kind: Kind::Read, from: 12, to: 20 },
            Band { kind: Kind::Reread, from: 0, to: 5 },
            Band { kind: Kind::Backfill, from: 30, to: 40 },
            Band { kind: Kind::Gap, from: 10, to: 12 },
        ];
        assert_eq!(strip.bands, expected);
        assert_eq!(strip.words, "read 1 h 30 min, re-read 25 min, to be backfilled 50 min, gap 10 min");
    }

    #[test]
    fn what_a_backfill_has_read_is_no_longer_to_be_backfilled() {
        let backfill = (7, Stretch { from: Time(0), to: Time(10 * CELL) });
        let strip = coverage(None, &[row("backfill:7", 4 * CELL, 10 * CELL)], [backfill]).strip(DAY);
        assert_eq!(strip.bands, [Band { kind: Kind::Backfill, from: 0, to: 4 }]);
    }

    #[test]
    fn a_short_gap_is_not_rounded_away() {
        let rows = [row("live", 0, 10 * CELL + 1), row("live", 10 * CELL + 1000, 20 * CELL)];
        let strip = coverage(Some(Time(0)), &rows, []).strip(DAY);
        assert!(strip.bands.contains(&Band { kind: Kind::Gap, from: 10, to: 11 }), "{strip:?}");
    }

    #[test]
    fn an_account_of_which_nothing_was_read_has_no_gap() {
        assert_eq!(coverage(Some(Time(0)), &[], []).strip(DAY).bands, []);
        assert_eq!(coverage(None, &[], []).strip(DAY).bands, []);
    }

    #[test]
    fn the_frame_is_as_short_as_what_there_is_to_show_and_at_most_a_day() {
        let now = Time(100 * HOUR);
        let hours = |first: Option<i64>| frame(now, first.map(Time)).width().as_secs() / 3600;
        assert_eq!(hours(None), 1);
        assert_eq!(hours(Some(99 * HOUR)), 1);
        assert_eq!(hours(Some(98 * HOUR)), 3);
        assert_eq!(hours(Some(0)), 24);
        assert_eq!(hours(Some(200 * HOUR)), 1);
    }

    proptest! {
        #[test]
        fn a_frame_holds_now_and_moves_by_whole_cells(now in 0_i64..4_000_000_000_000, back in 0_i64..100 * HOUR) {
            let frame = frame(Time(now), Some(Time(now - back)));
            prop_assert!(frame.contains(Time(now)));
            let cell = (frame.to.0 - frame.from.0) / CELLS;
            prop_assert_eq!(frame.to.0 % cell, 0);
        }

        #[test]
        fn bands_lie_within_the_strip(from in -50 * HOUR..50 * HOUR, width in 1..50 * HOUR) {
            let strip = coverage(Some(Time(from)), &[row("live", from, from + width)], []).strip(DAY);
            for band in strip.bands {
                prop_assert!(0 <= band.from && band.from < band.to && band.to <= CELLS);
            }
        }
    }
}
