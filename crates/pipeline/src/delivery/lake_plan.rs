//! Decides what is written to the tables in an object store: when a file is due, which files a change
//! rewrites, and which small files are merged. Pure.
//!
//! A slice is the segments of one day that share one file in each table. Each segment is in one slice
//! only. A change never alters a file: the slices that hold a changed segment are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Time;

/// So many small slices of a day are merged although more may follow.
const SLICES_PER_MERGE: usize = 8;

/// The remaining small slices of a day are merged once none was added for this many times
/// `roll_after`.
const QUIET_ROLLS: u32 = 4;

/// The changes of an account that wait for the next file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingChanges {
    /// When the first one was stored.
    pub since: Time,
    /// The approximate size of the texts, in bytes.
    pub size: u64,
    /// Whether an erasure is among them.
    pub has_erasure: bool,
    /// Whether more of the feed follows than one file takes.
    pub is_full: bool,
}

/// When the next file is due: `None` for now.
///
/// An erasure does not wait. A change that was stored by a clock that is ahead does not delay the
/// file.
pub fn roll_due(changes: WaitingChanges, now: Time, roll_after: Duration, roll_size: u64) -> Option<Time> {
    let due = changes.since + roll_after;
    let is_due = changes.has_erasure
        || changes.is_full
        || changes.size >= roll_size
        || now >= due
        || changes.since > now + roll_after;
    (!is_due).then_some(due)
}

/// A segment that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedSegment {
    /// Its key.
    pub segment: i64,
    /// The day of its rows; `None` if it has none, because it was erased or is filtered out.
    pub day: Option<i64>,
}

/// A slice, with all that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldSlice {
    /// The day of its rows.
    pub day: i64,
    /// The segments.
    pub segments: BTreeSet<i64>,
}

/// What a change writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewritePlan {
    /// The segments to write, by day.
    pub days: BTreeMap<i64, BTreeSet<i64>>,
    /// The slices that are replaced.
    pub replaced: Vec<i64>,
    /// The segments that no slice holds afterwards.
    pub dropped: Vec<i64>,
}

/// What these changes write, if these are the slices that hold the changed segments.
pub fn plan_rewrite(changes: &[ChangedSegment], held: &BTreeMap<i64, HeldSlice>) -> RewritePlan {
    let changed: BTreeSet<i64> = changes.iter().map(|change| change.segment).collect();
    let mut plan = RewritePlan { replaced: held.keys().copied().collect(), ..RewritePlan::default() };
    for slice in held.values() {
        let rest: Vec<i64> = slice.segments.difference(&changed).copied().collect();
        if !rest.is_empty() {
            plan.days.entry(slice.day).or_default().extend(rest);
        }
    }
    let was_held = |segment: i64| held.values().any(|slice| slice.segments.contains(&segment));
    for change in changes {
        match change.day {
            Some(day) => {
                plan.days.entry(day).or_default().insert(change.segment);
            }
            None if was_held(change.segment) => plan.dropped.push(change.segment),
            None => {}
        }
    }
    plan
}

/// The size of a slice, for [`plan_merge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSize {
    /// Its key.
    pub id: i64,
    /// The day of its rows.
    pub day: i64,
    /// When it was written.
    pub at: Time,
    /// The bytes of its largest file.
    pub size: u64,
}

/// Small slices of one day that are merged into one, the smallest first; empty if there is nothing to
/// merge. Each merge leaves fewer slices, so repeating it ends.
pub fn plan_merge(slices: &[SliceSize], now: Time, roll_after: Duration, roll_size: u64) -> Vec<i64> {
    let mut days: BTreeMap<i64, Vec<SliceSize>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.size < roll_size / 2) {
        days.entry(slice.day).or_default().push(*slice);
    }
    let is_ready = |small: &[SliceSize]| {
        let newest = small.iter().map(|slice| slice.at).max().unwrap_or_default();
        let quiet_time = roll_after.saturating_mul(QUIET_ROLLS);
        let is_quiet = now >= newest + quiet_time || newest > now + quiet_time;
        small.len() >= SLICES_PER_MERGE || (small.len() >= 2 && is_quiet)
    };
    let Some(mut small) = days.into_values().find(|small| is_ready(small)) else { return Vec::new() };
    small.sort_by_key(|slice| (slice.size, slice.id));
    let mut size = 0;
    let fitting = small.iter().take_while(|slice| {
        size += slice.size;
        size <= roll_size
    });
    fitting.map(|slice| slice.id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROLL: Duration = Duration::from_secs(900);

    fn waiting(since: i64, size: u64) -> WaitingChanges {
        WaitingChanges { since: Time(since), size, has_erasure: false, is_full: false }
    }

    #[test]
    fn a_file_is_due_by_age_or_size_and_an_erasure_at_once() {
        let due = |changes, now| roll_due(changes, Time(now), ROLL, 1_000);
        assert_eq!(due(waiting(0, 999), 1), Some(Time(900_000)));
        assert_eq!(due(waiting(0, 1_000), 1), None);
        assert_eq!(due(waiting(0, 1), 900_000), None);
        assert_eq!(due(WaitingChanges { has_erasure: true, ..waiting(0, 1) }, 1), None);
        assert_eq!(due(WaitingChanges { is_full: true, ..waiting(0, 1) }, 1), None);
        assert_eq!(due(waiting(10_000_000, 1), 1), None, "the clock was set back");
    }

    /// Slices and changes of some twenty segments over three days.
    fn histories() -> impl Strategy<Value = (BTreeMap<i64, HeldSlice>, Vec<ChangedSegment>)> {
        let places = proptest::collection::vec(0..4_i64, 20);
        let changes = proptest::collection::btree_map(0..24_i64, proptest::option::of(0..3_i64), 0..10);
        (places, changes).prop_map(|(places, changes)| {
            let mut held: BTreeMap<i64, HeldSlice> = BTreeMap::new();
            for (segment, slice) in (0..).zip(places) {
                let slice = held.entry(slice).or_insert(HeldSlice { day: slice % 3, segments: BTreeSet::new() });
                slice.segments.insert(segment);
            }
            held.retain(|_, slice| slice.segments.iter().any(|segment| changes.contains_key(segment)));
            let changes = changes.into_iter().map(|(segment, day)| ChangedSegment { segment, day }).collect();
            (held, changes)
        })
    }

    proptest! {
        #[test]
        fn every_segment_is_in_one_place_afterwards((held, changes) in histories()) {
            let plan = plan_rewrite(&changes, &held);
            prop_assert_eq!(&plan.replaced, &held.keys().copied().collect::<Vec<_>>());
            let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
            for slice in held.values() {
                expected.extend(slice.segments.iter().map(|segment| (*segment, slice.day)));
            }
            let before = expected.clone();
            let mut dropped = Vec::new();
            for change in &changes {
                match change.day {
                    Some(day) => { expected.insert(change.segment, day); }
                    None => {
                        expected.remove(&change.segment);
                        dropped.extend(before.contains_key(&change.segment).then_some(change.segment));
                    }
                }
            }
            let written: Vec<(i64, i64)> =
                plan.days.iter().flat_map(|(day, segments)| segments.iter().map(move |segment| (*segment, *day))).collect();
            prop_assert_eq!(written.len(), expected.len());
            prop_assert_eq!(written.into_iter().collect::<BTreeMap<_, _>>(), expected);
            prop_assert_eq!(plan.dropped, dropped);
        }

        #[test]
        fn merging_ends_with_one_small_slice_a_day(sizes in proptest::collection::vec((0..3_i64, 0..2_000_u64), 0..40)) {
            let mut slices: Vec<SliceSize> =
                (0..).zip(sizes).map(|(id, (day, size))| SliceSize { id, day, at: Time(0), size }).collect();
            let total: u64 = slices.iter().map(|slice| slice.size).sum();
            for id in 100.. {
                let merged = plan_merge(&slices, Time(3_600_000), ROLL, 1_000);
                if merged.is_empty() {
                    break;
                }
                prop_assert!(merged.len() >= 2);
                let parts: Vec<SliceSize> = slices.iter().filter(|slice| merged.contains(&slice.id)).copied().collect();
                prop_assert!(parts.iter().all(|slice| slice.day == parts[0].day));
                let size = parts.iter().map(|slice| slice.size).sum::<u64>();
                prop_assert!(size <= 1_000);
                slices.retain(|slice| !merged.contains(&slice.id));
                slices.push(SliceSize { id, day: parts[0].day, at: Time(0), size });
            }
            prop_assert_eq!(slices.iter().map(|slice| slice.size).sum::<u64>(), total);
            for day in 0..3 {
                prop_assert!(slices.iter().filter(|slice| slice.day == day && slice.size < 500).count() <= 1);
            }
        }
    }

    #[test]
    fn a_day_that_still_grows_is_merged_when_it_has_many_slices() {
        let slices = |count: i64| -> Vec<SliceSize> {
            (0..count).map(|id| SliceSize { id, day: 1, at: Time(id), size: 10 }).collect()
        };
        let merged = |count: i64, now: i64| plan_merge(&slices(count), Time(now), ROLL, 1_000).len();
        assert_eq!((merged(7, 1_000), merged(8, 1_000)), (0, 8));
        assert_eq!((merged(1, 3_600_010), merged(2, 3_600_010)), (0, 2), "a quiet day");
    }
}
