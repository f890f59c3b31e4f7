//! Time partitions: keys of the Postgres index that restrict a query to a time range, so that it
//! need not collect all matches to find the newest. Pure.
//!
//! Each document has one key per level: for the partition of about an hour in which its segment
//! ended, of nine hours, of three days, and so on. A few keys cover a range.

use super::DocId;
use super::bigram_keys::PARTITION_KEY;
use super::doc_id::{ITEM_BITS, LAST_SECOND};

/// Lengths of the partitions per level, as powers of two seconds.
const LEVEL_SHIFTS: [u32; 5] = [12, 15, 18, 21, 24];
/// A range is covered by partitions that are at most this fraction of it.
const MIN_PARTS: i64 = 8;
/// Bits of a partition's number in its key.
const PARTITION_BITS: u32 = 20;

fn partition_key(level: u32, partition: i64) -> i32 {
    let number = i32::try_from(partition).unwrap_or_default() & ((1 << PARTITION_BITS) - 1);
    PARTITION_KEY | i32::try_from(level).unwrap_or_default() << PARTITION_BITS | number
}

/// The partition keys of a document.
pub(super) fn partition_keys(doc_id: DocId) -> [i32; LEVEL_SHIFTS.len()] {
    let second = doc_id.0 >> ITEM_BITS;
    LEVEL_SHIFTS.map(|level| partition_key(level, second >> level))
}

fn finest_level(first: i64, last: i64) -> u32 {
    let part = (last - first) / MIN_PARTS;
    LEVEL_SHIFTS.iter().copied().rfind(|level| 1 << level <= part).unwrap_or(LEVEL_SHIFTS[0])
}

/// The start of a range before `end` that few keys cover and that is at least about `length` long.
pub(super) fn range_start(end: i64, length: i64) -> i64 {
    let low = end.saturating_sub(length).max(0);
    let level = finest_level(low >> ITEM_BITS, end >> ITEM_BITS) + ITEM_BITS;
    low >> level << level
}

/// Keys of which each document from `first` on and before `end` has at least one.
pub(super) fn covering_keys(first: i64, end: i64) -> Vec<i32> {
    let (first, last) = ((first >> ITEM_BITS).clamp(0, LAST_SECOND), ((end - 1) >> ITEM_BITS).clamp(0, LAST_SECOND));
    let finest_level = finest_level(first, last);
    let mut keys = Vec::new();
    let mut at = first >> finest_level << finest_level;
    while at <= last {
        // The longest partition that begins here and ends in the range; the shortest one may end
        // after it.
        let fits = |level: &u32| *level > finest_level && at & ((1 << level) - 1) == 0 && at + (1 << level) - 1 <= last;
        let level = LEVEL_SHIFTS.iter().copied().rfind(fits).unwrap_or(finest_level);
        keys.push(partition_key(level, at >> level));
        at += 1 << level;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    #[test]
    fn few_keys_cover_a_range_closely() {
        let base = DocId::first_at(Time::from_secs(1_750_000_321)).0 >> ITEM_BITS;
        for (from, length) in [(0, 1), (5, 4096), (100, 50_000), (7, 86_400 * 9), (3, 86_400 * 400), (1, 86_400 * 3650)]
        {
            let (first, last) = (base + from, base + from + length);
            let keys = covering_keys(first << ITEM_BITS, (last << ITEM_BITS) + 1);
            assert!(keys.len() <= 75, "{length}: {}", keys.len());
            let covered =
                |second: i64| partition_keys(DocId(second << ITEM_BITS | 77)).iter().any(|own| keys.contains(own));
            for part in 0..=100 {
                assert!(covered(first + length * part / 100), "{length}: {part}");
            }
            let slack = (length / 8).max(1 << LEVEL_SHIFTS[0]);
            assert!(!covered(first - slack - 1) && !covered(last + slack + 1), "{length}");
        }
        assert!(!covering_keys(0, i64::MAX).is_empty());
    }
}
