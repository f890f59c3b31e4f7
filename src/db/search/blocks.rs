//! Cuts a document's words into what one tsvector of Postgres can hold.
//!
//! A tsvector counts positions up to 16,383, keeps 256 of each word, and holds a megabyte. A document beyond that lies in
//! several blocks, each of which begins with the last words of the one before, so that no phrase is lost between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::keys::keys;
use super::neighbours::pairs;
use super::{OVERLAP, is_word};

/// Positions of a block.
const POSITIONS: usize = 12_000;
/// Positions of one word in a block.
const SAME: usize = 250;
/// Bytes that a block may take, with what each word costs besides.
const BYTES: usize = 600_000;
const EACH: usize = 12;

/// A block of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// A tsvector in its text form.
    pub words: String,
    /// Its keys.
    pub keys: BTreeSet<i32>,
}

/// Where the marks stand in a block: beyond its words.
const MARKS: usize = POSITIONS + 1;

/// The blocks; `marks` are words of each of them, and fewer than two thousand. A word without a letter or digit of its own
/// is a gap between what two speakers said.
pub(super) fn blocks(words: &str, marks: &str) -> Vec<Block> {
    let mut marked = String::new();
    let marks: Vec<&str> = marks.split(' ').filter(|mark| !mark.is_empty()).collect();
    lexemes(&mut marked, places(marks.iter().copied(), MARKS));
    for pair in pairs(&marks).collect::<BTreeSet<String>>() {
        let _ = write!(marked, " '{pair}'");
    }
    let words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
    let mut blocks = Vec::new();
    let mut start = 0;
    loop {
        let (block, end) = block(&words, start, &marked);
        blocks.push(block);
        if end >= words.len() {
            return blocks;
        }
        start = end - OVERLAP;
    }
}

/// One block from `start` on, and where it ends: always beyond what it overlaps with the next.
fn block(words: &[&str], start: usize, marked: &str) -> (Block, usize) {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let (mut end, mut bytes) = (start, 0);
    for (index, word) in words.iter().enumerate().skip(start).take(POSITIONS) {
        let held = places.entry(word).or_default();
        if held.len() >= SAME || bytes > BYTES {
            break;
        }
        held.push(index - start + 1);
        bytes += word.len() + EACH;
        end = index + 1;
    }
    let words = words.get(start..end).unwrap_or_default();
    let mut text = String::with_capacity(marked.len() + bytes);
    text.push_str(marked);
    lexemes(&mut text, places);
    (Block { words: text, keys: keys(words) }, end)
}

/// Where each of the words stands, the first of them at `first`.
fn places<'a>(words: impl Iterator<Item = &'a str>, first: usize) -> BTreeMap<&'a str, Vec<usize>> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, word) in (first..).zip(words) {
        places.entry(word).or_default().push(place);
    }
    places
}

/// Adds words and where they stand, as Postgres reads them. Words are letters and digits: nothing in them needs more than the
/// quotes.
fn lexemes(text: &mut String, places: BTreeMap<&str, Vec<usize>>) {
    for (word, places) in places.iter().filter(|(word, _)| is_word(word)) {
        let _ = write!(text, "{}'{word}'", if text.is_empty() { "" } else { " " });
        for (nth, place) in places.iter().enumerate() {
            let _ = write!(text, "{}{place}", if nth == 0 { ':' } else { ',' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(words: &str, mark: &str) -> Vec<String> {
        super::blocks(words, mark).into_iter().map(|block| block.words).collect()
    }

    #[test]
    fn a_short_document_is_one_block_with_its_positions() {
        assert_eq!(blocks("b a b \u{2029} c", "m"), ["'m':12001 'a':2 'b':1,3 'c':5"]);
        assert_eq!(blocks("", "m n \u{2029} o"), ["'m':12001 'n':12002 'o':12004"]);
        let named = "'\u{e006}doe':12002 '\u{e006}jane':12001 '\u{e009}\u{e006}jane_doe'";
        assert_eq!(blocks("", "\u{e006}jane \u{e006}doe"), [named]);
    }

    #[test]
    fn blocks_overlap_and_end_before_a_limit() {
        let same = vec!["la"; 1000].join(" ");
        let cut = blocks(&same, "m");
        assert!(cut.len() > 4 && cut.iter().all(|block| block.matches(',').count() < 256));
        let many: Vec<String> = (0..30_000).map(|n| format!("w{n}")).collect();
        let cut = blocks(&many.join(" "), "m");
        assert_eq!(cut.len(), 3);
        let held: Vec<std::collections::HashSet<&str>> =
            cut.iter().map(|block| block.split(' ').filter_map(|word| word.split('\'').nth(1)).collect()).collect();
        for pair in many.windows(OVERLAP) {
            assert!(held.iter().any(|block| pair.iter().all(|word| block.contains(word.as_str()))), "{pair:?}");
        }
        let long: Vec<String> = (0..9000).map(|n| format!("{n}{}", "é".repeat(120))).collect();
        let long = long.join(" ");
        assert!(blocks(&long, "m").iter().all(|block| block.len() < 900_000));
    }
}
