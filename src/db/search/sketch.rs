//! A sketch of which words stand next to one another in a block: a Bloom filter, by which Postgres tells quickly where a
//! phrase cannot be.
//!
//! Pure. Beside each pair of words there is one of the first and the second's beginning, for phrases that end in a beginning.
//! A sketch never misses a pair that is there; of those that are not, it takes about one in forty for there.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Needle, is_mark, is_word};
use crate::db::Arg;

/// Bits that a pair gets: what keeps mistakes rare.
const EACH: usize = 9;
/// Bits that are set for a pair.
const MARKS: usize = 3;
/// Bits of a number that says where a mark is; a block has fewer places.
const PLACE: u32 = 21;
/// Pairs of one phrase that are looked for: each makes mistakes many times rarer.
const ENOUGH: usize = 4;
/// Letters of a word's beginning.
const BEGINNING: usize = 3;

/// The numbers of a pair; its marks stand at their remainders by the sketch's length.
fn marks(first: &str, second: &str) -> [u64; MARKS] {
    stirred(first.bytes().chain([b' ']).chain(second.bytes()))
}

/// A pair of a word and the beginning of the next.
fn begun(first: &str, beginning: &str) -> [u64; MARKS] {
    stirred(first.bytes().chain([b' ']).chain(beginning.bytes()).chain([b'*']))
}

fn stirred(bytes: impl Iterator<Item = u8>) -> [u64; MARKS] {
    // FNV-1a, and a last stir so that every bit depends on every letter.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^= hash >> 32;
    [0, 1, 2].map(|nth| hash >> (nth * PLACE) & ((1 << PLACE) - 1))
}

/// The first letters of a word; `None` for one that has too few.
fn beginning(word: &str) -> Option<&str> {
    let (end, letter) = word.char_indices().nth(BEGINNING - 1)?;
    word.get(..end + letter.len_utf8())
}

/// The sketch of words in a row; what is no word stands between two that are not next to one another.
pub(super) fn sketch(words: &[&str]) -> Vec<u8> {
    let pairs = words.array_windows().filter(|pair: &&[&str; 2]| pair.iter().all(|word| is_word(word)));
    let both = pairs.flat_map(|[first, second]| {
        [Some(marks(first, second)), beginning(second).map(|beginning| begun(first, beginning))]
    });
    let pairs: BTreeSet<[u64; MARKS]> = both.flatten().collect();
    let mut sketch = vec![0_u8; (pairs.len() * EACH).div_ceil(8).max(1)];
    let length = sketch.len() as u64 * 8;
    for mark in pairs.into_iter().flatten() {
        let place = mark % length;
        // As `get_bit` counts.
        if let Some(byte) = usize::try_from(place / 8).ok().and_then(|at| sketch.get_mut(at)) {
            *byte |= 1 << (place % 8);
        }
    }
    sketch
}

/// The pairs of a phrase that a sketch must show, few of them.
fn pairs(needle: &Needle) -> Vec<[u64; MARKS]> {
    // Only what is said is sketched, not who takes part.
    let mut words: Vec<&str> = needle.words.iter().map(String::as_str).filter(|word| !is_mark(word)).collect();
    let last = if needle.prefix { words.pop() } else { None };
    let begun = words.last().zip(last.and_then(beginning)).map(|(word, beginning)| begun(word, beginning));
    let whole = words.array_windows().map(|[first, second]| marks(first, second));
    begun.into_iter().chain(whole).take(ENOUGH).collect()
}

/// The condition that a sketch must meet where any of these can be; `None` where it says nothing. What it is compared with
/// goes to `args`.
pub(super) fn condition(choice: &[Needle], args: &mut Vec<Arg>) -> Option<String> {
    let pairs: Vec<Vec<[u64; MARKS]>> = choice.iter().map(pairs).collect();
    if pairs.iter().any(Vec::is_empty) {
        return None;
    }
    let mut text = String::from("(");
    for (nth, pairs) in pairs.iter().enumerate() {
        for (mark, value) in pairs.iter().flatten().enumerate() {
            args.push((*value).into());
            let join = match (nth, mark) {
                (0, 0) => "",
                (_, 0) => " or ",
                _ => " and ",
            };
            let _ =
                write!(text, "{join}get_bit(pairs, cast(${} % (octet_length(pairs) * 8) as integer)) = 1", args.len());
        }
    }
    text.push(')');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(sketch: &[u8], first: &str, second: &str) -> bool {
        all_set(sketch, marks(first, second))
    }

    fn all_set(sketch: &[u8], marks: [u64; MARKS]) -> bool {
        marks.into_iter().all(|mark| {
            let place = (mark % (sketch.len() as u64 * 8)) as usize;
            sketch[place / 8] >> (place % 8) & 1 == 1
        })
    }

    #[test]
    fn no_pair_is_missed_and_few_are_seen_that_are_not_there() {
        let words: Vec<String> = (0..3000).map(|n| format!("w{n}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let sketch = sketch(&words);
        assert!(sketch.len() <= 2 * 2999 * EACH / 8 + 1);
        let begins = |pair: &[&str]| all_set(&sketch, begun(pair[0], beginning(pair[1]).unwrap_or(pair[1])));
        assert!(words.windows(2).all(|pair| pair[1].len() < BEGINNING || begins(pair)));
        assert!(words.windows(2).all(|pair| shows(&sketch, pair[0], pair[1])));
        let wrong = (0..2998).filter(|n| shows(&sketch, words[n + 2], words[*n])).count();
        assert!(wrong < 200, "{wrong}");
    }

    #[test]
    fn a_break_between_speakers_separates() {
        assert_eq!(sketch(&["one"]), [0]);
        assert_eq!(sketch(&["one", "\u{2029}", "two"]), [0]);
        assert_ne!(sketch(&["one", "two"]), [0, 0]);
    }

    #[test]
    fn a_condition_needs_two_whole_words_of_each_alternative() {
        let needle =
            |words: &[&str], prefix| Needle { words: words.iter().map(|word| (*word).to_owned()).collect(), prefix };
        let mut args = Vec::new();
        assert_eq!(condition(&[needle(&["one"], false)], &mut args), None);
        assert_eq!(condition(&[needle(&["one", "tw"], true)], &mut args), None);
        assert_eq!(condition(&[needle(&["\u{e006}one", "\u{e006}two"], false)], &mut args), None);
        assert_eq!(condition(&[needle(&["one", "two"], false), needle(&["three"], false)], &mut args), None);
        assert!(args.is_empty());
        let either = condition(&[needle(&["one", "two"], false), needle(&["to", "be", "o"], true)], &mut args).unwrap();
        assert_eq!((args.len(), either.matches(" or ").count(), either.matches(" and ").count()), (6, 1, 4));
        args.clear();
        let begun = condition(&[needle(&["one", "two", "thre"], true)], &mut args).unwrap();
        assert_eq!((args.len(), begun.matches(" and ").count()), (6, 5));
    }
}
