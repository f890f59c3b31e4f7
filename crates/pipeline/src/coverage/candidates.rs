//! The candidate reads of each lane, before the quota is considered.
//!
//! Pure. Every window has whole seconds, ends at the horizon or earlier, and is no wider than the
//! settings, the API and recent failures allow.

use std::cmp::Reverse;
use std::time::Duration;

use super::failed_window_backoff::max_width_secs;
use super::{
    Coverage, FailedWindow, MIN_WINDOW_SECS, PlannedRead, PlanningRules, ReadPurpose, Repair, single_range,
    whole_seconds,
};
use crate::clock::{Time, millis};
use crate::model::{Lane, TimeRange, TimeRangeSet, Window};

/// The candidate of a lane.
#[derive(Debug, Default)]
pub(super) struct Candidate {
    /// The read that is due now.
    pub(crate) read: Option<PlannedRead>,
    /// When the next read becomes due; later than now.
    pub(crate) next_due: Option<Time>,
}

impl Candidate {
    fn add_due(&mut self, due: Time) {
        self.next_due = Some(self.next_due.map_or(due, |earlier| earlier.min(due)));
    }
}

/// Past ranges that wait to be read for one purpose.
struct PendingRanges {
    purpose: ReadPurpose,
    pieces: Vec<TimeRange>,
    newest_first: bool,
}

/// The state from which candidates are derived.
pub(super) struct PlanContext<'a> {
    now: Time,
    horizon: Time,
    rules: &'a PlanningRules,
    coverage: &'a Coverage,
    failed: &'a [FailedWindow],
    /// Failed ranges that may not be requested yet.
    blocked: TimeRangeSet,
}

impl<'a> PlanContext<'a> {
    pub(super) fn new(
        now: Time,
        rules: &'a PlanningRules,
        coverage: &'a Coverage,
        failed: &'a [FailedWindow],
    ) -> PlanContext<'a> {
        let blocked = failed.iter().filter(|failed| failed.retry_at > now).map(|failed| failed.range).collect();
        let blocked = TimeRangeSet::from_unsorted(blocked);
        PlanContext { now, horizon: rules.horizon(now), rules, coverage, failed, blocked }
    }

    /// When the first failed range may be requested again.
    pub(super) fn earliest_retry(&self) -> Option<Time> {
        self.failed.iter().map(|failed| failed.retry_at).filter(|retry_at| *retry_at > self.now).min()
    }

    /// The live read, if it is due, and when it is due.
    ///
    /// `interval_secs` is the time between two live reads. A failed range that waits counts as
    /// attempted: after another interval the range behind it is read alone, so that one bad range
    /// does not delay new segments.
    pub(super) fn live_read(&self, interval_secs: i64) -> (Option<PlannedRead>, Time) {
        let edge = self.coverage.live_edge();
        let begin = edge.unwrap_or(self.coverage.live_start);
        let step = if edge.is_some() { interval_secs } else { 1 };
        let due = begin.plus_millis(step.saturating_mul(1000)) + self.rules.offset;
        let waiting = || self.failed.iter().filter(|failed| failed.retry_at > self.now && failed.range.to > begin);
        let due = match (waiting().map(|failed| failed.retry_at).min(), waiting().map(|failed| failed.range.to).max()) {
            (Some(retry_at), Some(to)) => {
                due.max(retry_at).min(to.plus_millis(interval_secs.saturating_mul(1000)) + self.rules.offset)
            }
            _ => due,
        };
        if self.now < due {
            return (None, due);
        }
        let behind = self.horizon.floor_secs().saturating_sub(begin.floor_secs());
        let covered = if edge.is_some() { behind.max(whole_seconds(self.rules.window) - 1) } else { behind };
        let covered = covered.clamp(MIN_WINDOW_SECS - 1, self.rules.max_window_secs() - 1);
        let from = self.horizon.plus_millis(-covered * 1000);
        let piece = TimeRange { from, to: self.horizon };
        let piece = single_range(piece).minus(&self.blocked).as_slice().last().copied().unwrap_or(piece);
        (Some(self.planned_read(Lane::Live, ReadPurpose::Live, self.newest(piece, covered))), due)
    }

    /// The oldest due recheck or repair. Of two rechecks of the same range the one with the longer
    /// delay is chosen, since it covers both.
    pub(super) fn recheck_reads(&self, repairs: &[Repair]) -> Candidate {
        let mut candidate = Candidate::default();
        let mut due = Vec::new();
        for (delay, recheck) in &self.coverage.rechecks {
            match self.recheck_candidate(*delay, recheck) {
                Some(Ok(range)) => due.push((range, Reverse(*delay), ReadPurpose::Recheck(*delay))),
                Some(Err(later)) => candidate.add_due(later),
                None => {}
            }
        }
        for repair in repairs {
            let whole = round_out(repair.range);
            let from = repair.due.max(whole.to + self.rules.offset);
            if from > self.now {
                candidate.add_due(from);
            } else if let Some(piece) = single_range(whole).minus(&self.blocked).as_slice().first() {
                let range = self.oldest(*piece, self.rules.max_window_secs() - 1);
                due.push((range, Reverse(Duration::ZERO), ReadPurpose::Live));
            }
        }
        let first = due.into_iter().min_by_key(|(range, delay, _)| (range.from, *delay));
        candidate.read = first.map(|(range, _, purpose)| self.planned_read(Lane::Recheck, purpose, range));
        candidate
    }

    /// The oldest range to recheck, if it is as wide as one read or cannot grow; otherwise when
    /// that will be.
    fn recheck_candidate(&self, delay: Duration, recheck: &super::Recheck) -> Option<Result<TimeRange, Time>> {
        let lag = delay.max(self.rules.offset);
        let width = self.rules.recheck_width_secs(delay);
        let after = TimeRange::new(recheck.base.floor_to_second(), Time(i64::MAX))?;
        let owed = self.coverage.live.within(after).minus(&recheck.done).minus(&self.blocked);
        let first = owed.as_slice().first()?;
        let full = first.from.plus_millis(width * 1000);
        // At the live edge a range grows with the next live read. Wait until it is full.
        let grows = self.coverage.live_edge() == Some(first.to);
        let ready_at = if grows { full } else { full.min(first.to) };
        if self.now < ready_at + lag {
            return Some(Err(ready_at + lag));
        }
        Some(Ok(self.oldest(TimeRange { from: first.from, to: first.to.min(full) }, width)))
    }

    /// The next read of the past: gaps first, then backfills. Ranges that the vendor is about to
    /// delete precede both.
    ///
    /// Only ranges below the live edge are read. Live reads will cover the time above it, also for
    /// backfills.
    pub(super) fn past_reads(&self) -> Candidate {
        let mut candidate = Candidate::default();
        let mut pending = self.pending_ranges();
        for ranges in &mut pending {
            ranges.pieces = ranges.pieces.iter().filter_map(|piece| self.readable(*piece, &mut candidate)).collect();
        }
        candidate.read =
            self.expiring_read(&pending).or_else(|| pending.iter().find_map(|ranges| self.next_read_of(ranges)));
        candidate
    }

    fn pending_ranges(&self) -> Vec<PendingRanges> {
        let edge = self.coverage.live_edge().unwrap_or(self.coverage.live_start);
        let pieces = |set: TimeRangeSet| set.minus(&self.blocked).as_slice().iter().copied().map(round_out).collect();
        let gaps =
            PendingRanges { purpose: ReadPurpose::Live, pieces: pieces(self.coverage.gaps(edge)), newest_first: true };
        let below = TimeRange { from: Time(i64::MIN), to: edge };
        let backfills = self.coverage.backfills.iter().map(|backfill| PendingRanges {
            purpose: ReadPurpose::Backfill(backfill.id),
            pieces: pieces(backfill.remaining().within(below)),
            newest_first: backfill.newest_first,
        });
        std::iter::once(gaps).chain(backfills).collect()
    }

    /// The part of a piece below the horizon. A piece can extend above it after the clock was set
    /// back. Then the part must be as wide as one read, so that the piece is not read second by
    /// second.
    fn readable(&self, piece: TimeRange, candidate: &mut Candidate) -> Option<TimeRange> {
        let full = piece.from.plus_millis((self.rules.max_window_secs() - 1) * 1000).min(piece.to);
        if full > self.horizon {
            candidate.add_due(full + self.rules.offset);
            return None;
        }
        TimeRange::new(piece.from, piece.to.min(self.horizon))
    }

    /// The oldest pending range in the last tenth of the vendor's retention.
    fn expiring_read(&self, pending: &[PendingRanges]) -> Option<PlannedRead> {
        let retention = self.rules.retention?;
        let from = (self.now - retention).floor_to_second();
        let last_tenth = TimeRange::new(from, from.plus_millis(millis(retention) / 10))?;
        let pieces = pending.iter().flat_map(|ranges| ranges.pieces.iter().map(|piece| (ranges.purpose, *piece)));
        let (purpose, piece) = pieces
            .filter(|(_, piece)| piece.intersect(last_tenth).is_some())
            .map(|(purpose, piece)| (purpose, TimeRange { from: piece.from.max(from), to: piece.to }))
            .min_by_key(|(_, piece)| piece.from)?;
        Some(self.planned_read(Lane::Backfill, purpose, self.oldest(piece, self.rules.max_window_secs() - 1)))
    }

    fn next_read_of(&self, ranges: &PendingRanges) -> Option<PlannedRead> {
        let width = self.rules.max_window_secs() - 1;
        let range = if ranges.newest_first {
            self.newest(*ranges.pieces.last()?, width)
        } else {
            self.oldest(*ranges.pieces.first()?, width)
        };
        Some(self.planned_read(Lane::Backfill, ranges.purpose, range))
    }

    /// The last `width` seconds of a piece, fewer if wide answers failed recently.
    fn newest(&self, piece: TimeRange, width: i64) -> TimeRange {
        let width = max_width_secs(self.failed_in(piece), width, |held| piece.to.since(held.to));
        TimeRange { from: piece.from.max(piece.to.plus_millis(-width * 1000)), to: piece.to }
    }

    /// The first `width` seconds of a piece, fewer if wide answers failed recently.
    fn oldest(&self, piece: TimeRange, width: i64) -> TimeRange {
        let width = max_width_secs(self.failed_in(piece), width, |held| held.from.since(piece.from));
        TimeRange { from: piece.from, to: piece.to.min(piece.from.plus_millis(width * 1000)) }
    }

    fn failed_in(&self, piece: TimeRange) -> impl Iterator<Item = &FailedWindow> {
        self.failed.iter().filter(move |held| held.range.intersect(piece).is_some())
    }

    fn planned_read(&self, lane: Lane, purpose: ReadPurpose, range: TimeRange) -> PlannedRead {
        let window = Window::covering(range);
        PlannedRead { lane, window, range: window.covered_range().unwrap_or(range), purpose }
    }
}

/// Rounds a range outwards to whole seconds.
fn round_out(range: TimeRange) -> TimeRange {
    TimeRange { from: range.from.floor_to_second(), to: range.to.plus_millis(999).floor_to_second() }
}
