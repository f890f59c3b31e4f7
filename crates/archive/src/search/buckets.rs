//! Stretches of time as keys of the index on Postgres, so that it can be asked for the newest matches without gathering all
//! of them first.
//!
//! Pure. Each document has a key for the hour or so in which its segment ended, the nine hours, the three days and so on: a
//! range is asked for by few of them.

use super::Doc;
use super::doc::{BITS, LAST};
use super::keys::STRETCH;

/// How long the stretches are, as powers of two seconds.
const LEVELS: [u32; 5] = [12, 15, 18, 21, 24];
/// A range is cut as finely as a part of this size of it.
const FINE: i64 = 8;
/// Bits that the number of a stretch takes.
const NUMBER: u32 = 20;

fn key(level: u32, bucket: i64) -> i32 {
    let number = i32::try_from(bucket).unwrap_or_default() & ((1 << NUMBER) - 1);
    STRETCH | i32::try_from(level).unwrap_or_default() << NUMBER | number
}

/// The keys of a document.
pub(super) fn of(doc: Doc) -> [i32; LEVELS.len()] {
    let second = doc.0 >> BITS;
    LEVELS.map(|level| key(level, second >> level))
}

fn finest(first: i64, last: i64) -> u32 {
    let part = (last - first) / FINE;
    LEVELS.iter().copied().rfind(|level| 1 << level <= part).unwrap_or(LEVELS[0])
}

/// The first number of a range before `end` that takes few keys and is about so long, or longer.
pub(super) fn before(end: i64, length: i64) -> i64 {
    let low = end.saturating_sub(length).max(0);
    let level = finest(low >> BITS, end >> BITS) + BITS;
    low >> level << level
}

/// Keys of which each document from the first number on, before the second, has at least one.
pub(super) fn cover(first: i64, end: i64) -> Vec<i32> {
    let (first, last) = ((first >> BITS).clamp(0, LAST), ((end - 1) >> BITS).clamp(0, LAST));
    let finest = finest(first, last);
    let mut keys = Vec::new();
    let mut at = first >> finest << finest;
    while at <= last {
        // The longest that begins here and ends in the range; the finest may reach beyond.
        let fits = |level: &u32| *level > finest && at & ((1 << level) - 1) == 0 && at + (1 << level) - 1 <= last;
        let level = LEVELS.iter().copied().rfind(fits).unwrap_or(finest);
        keys.push(key(level, at >> level));
        at += 1 << level;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    #[test]
    fn few_keys_cover_a_range_and_little_else() {
        let base = Doc::first_at(Time::from_secs(1_750_000_321)).0 >> BITS;
        for (from, length) in [(0, 1), (5, 4096), (100, 50_000), (7, 86_400 * 9), (3, 86_400 * 400), (1, 86_400 * 3650)]
        {
            let (first, last) = (base + from, base + from + length);
            let keys = cover(first << BITS, (last << BITS) + 1);
            assert!(keys.len() <= 75, "{length}: {}", keys.len());
            let covered = |second: i64| of(Doc(second << BITS | 77)).iter().any(|own| keys.contains(own));
            for part in 0..=100 {
                assert!(covered(first + length * part / 100), "{length}: {part}");
            }
            let slack = (length / 8).max(1 << LEVELS[0]);
            assert!(!covered(first - slack - 1) && !covered(last + slack + 1), "{length}");
        }
        assert!(!cover(0, i64::MAX).is_empty());
    }
}
