//! Cuts a document's words into what one tsvector of Postgres can hold.
//!
//! A tsvector counts positions up to 16,383, keeps 256 of each word, and holds a megabyte. A document beyond that lies in
//! several blocks, each of which begins with the last words of the one before, so that no phrase is lost between them.

use std::collections::BTreeSet;

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
    /// Its keys, in order.
    pub keys: Vec<i32>,
}

/// Where the marks stand in a block: beyond its words.
const MARKS: usize = POSITIONS + 1;

/// The blocks; `marks` are words of each of them, and fewer than two thousand. A word without a letter or digit of its own
/// is a gap between what two speakers said.
pub(super) fn blocks(words: &str, marks: &str) -> Vec<Block> {
    let mut marked = String::new();
    let marks: Vec<&str> = marks.split(' ').filter(|mark| !mark.is_empty()).collect();
    lexemes(&mut marked, &sorted(&marks), MARKS);
    for pair in pairs(&marks).collect::<BTreeSet<String>>() {
        marked.push_str(" '");
        marked.push_str(&pair);
        marked.push('\'');
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
    let (mut end, mut bytes) = (start, 0);
    for word in words.iter().skip(start).take(POSITIONS) {
        if bytes > BYTES {
            break;
        }
        bytes += word.len() + EACH;
        end += 1;
    }
    let mut places = sorted(words.get(start..end).unwrap_or_default());
    // It ends before what would be one word too often.
    let too_often =
        places.chunk_by(|one, next| one.0 == next.0).filter_map(|same| same.get(SAME)).map(|(_, at)| *at).min();
    if let Some(at) = too_often {
        end = start + at;
        places.retain(|(_, place)| *place < at);
    }
    let mut text = String::with_capacity(marked.len() + bytes);
    text.push_str(marked);
    lexemes(&mut text, &places, 1);
    (Block { words: text, keys: keys(words.get(start..end).unwrap_or_default()) }, end)
}

/// Words in order, each with its number among them.
fn sorted<'a>(words: &[&'a str]) -> Vec<(&'a str, usize)> {
    let mut places: Vec<(&str, usize)> = words.iter().copied().zip(0..).collect();
    places.sort_unstable();
    places
}

/// Adds words and where they stand, the first of all at `first`, as Postgres reads them. Words are letters and digits: nothing in
/// them needs more than the quotes.
fn lexemes(text: &mut String, places: &[(&str, usize)], first: usize) {
    let mut number = itoa::Buffer::new();
    let words = places.chunk_by(|one, next| one.0 == next.0);
    for (word, places) in words.filter_map(|same| Some((same.first()?.0, same))).filter(|(word, _)| is_word(word)) {
        text.push_str(if text.is_empty() { "'" } else { " '" });
        text.push_str(word);
        text.push('\'');
        for (nth, (_, place)) in places.iter().enumerate() {
            text.push(if nth == 0 { ':' } else { ',' });
            text.push_str(number.format(first + place));
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
