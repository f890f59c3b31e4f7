//! Stretches of time as words of the index on Postgres, so that it can be asked for the newest matches without gathering all
//! of them first.
//!
//! Pure. Each document has a word for the hour or so in which its segment ended, the nine hours, the three days and so on: a
//! range is asked for by few of them.

use super::Doc;
use super::doc::{BITS, LAST};

/// Marks a stretch; no text has it.
const BUCKET: char = '\u{e008}';
/// How long the stretches are, as powers of two seconds.
const LEVELS: [u32; 5] = [12, 15, 18, 21, 24];
/// A range is cut as finely as a part of this size of it.
const FINE: i64 = 32;

fn word(level: u32, bucket: i64) -> String {
    format!("{BUCKET}{level}x{bucket}")
}

/// The words of a document, joined by single spaces.
pub(super) fn of(doc: Doc) -> String {
    let second = doc.0 >> BITS;
    LEVELS.map(|level| word(level, second >> level)).join(" ")
}

/// Words of which each document from the first number on, before the second, has at least one.
pub(super) fn cover(first: i64, end: i64) -> Vec<String> {
    let (first, last) = ((first >> BITS).clamp(0, LAST), ((end - 1) >> BITS).clamp(0, LAST));
    let part = (last - first) / FINE;
    let finest = LEVELS.iter().copied().rfind(|level| 1 << level <= part).unwrap_or(LEVELS[0]);
    let mut words = Vec::new();
    let mut at = first >> finest << finest;
    while at <= last {
        // The longest that begins here and ends in the range; the finest may reach beyond.
        let fits = |level: &u32| *level > finest && at & ((1 << level) - 1) == 0 && at + (1 << level) - 1 <= last;
        let level = LEVELS.iter().copied().rfind(fits).unwrap_or(finest);
        words.push(word(level, at >> level));
        at += 1 << level;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    #[test]
    fn few_words_cover_a_range_and_little_else() {
        let base = Doc::first_at(Time::from_secs(1_750_000_321)).0 >> BITS;
        for (from, length) in [(0, 1), (5, 4096), (100, 50_000), (7, 86_400 * 9), (3, 86_400 * 400), (1, 86_400 * 3650)]
        {
            let (first, last) = (base + from, base + from + length);
            let words = cover(first << BITS, (last << BITS) + 1);
            assert!(words.len() <= 75, "{length}: {}", words.len());
            let covered = |second: i64| {
                let own = of(Doc(second << BITS | 77));
                own.split(' ').any(|word| words.iter().any(|other| other == word))
            };
            for part in 0..=100 {
                assert!(covered(first + length * part / 100), "{length}: {part}");
            }
            let slack = (length / 16).max(1 << LEVELS[0]);
            assert!(!covered(first - slack - 1) && !covered(last + slack + 1), "{length}");
        }
        assert!(!cover(0, i64::MAX).is_empty());
    }
}
