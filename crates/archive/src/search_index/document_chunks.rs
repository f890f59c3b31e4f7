//! Splits a document into chunks that fit into a Postgres tsvector.
//!
//! A tsvector has positions up to 16,383, 256 positions per word, and one megabyte. A larger
//! document becomes several chunks. Each one begins with the last words of the previous one, so
//! that no phrase is lost between them.

use std::collections::BTreeSet;

use super::bigram_keys::index_keys;
use super::name_bigrams::name_bigrams;
use super::{CHUNK_OVERLAP_WORDS, is_word};

/// Words of a chunk.
const MAX_CHUNK_WORDS: usize = 12_000;
/// Positions of one word in a chunk.
const MAX_POSITIONS_PER_WORD: usize = 250;
/// Bytes of a chunk, including an overhead per word.
const MAX_CHUNK_BYTES: usize = 600_000;
const BYTES_PER_WORD: usize = 12;

/// A chunk of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DocumentChunk {
    /// A tsvector in its text form.
    pub(crate) words: String,
    /// Its index keys, in order.
    pub(crate) keys: Vec<i32>,
}

/// Facets have positions after the words of a chunk.
const FIRST_FACET_POSITION: usize = MAX_CHUNK_WORDS + 1;

/// The chunks of a document. Each one contains all `facets`, of which there are fewer than two
/// thousand. A word without a letter or digit is the gap between two speakers.
pub(super) fn chunk_document(words: &str, facets: &str) -> Vec<DocumentChunk> {
    let mut facet_lexemes = String::new();
    let facets: Vec<&str> = facets.split(' ').filter(|facet| !facet.is_empty()).collect();
    append_lexemes(&mut facet_lexemes, &sorted_positions(&facets), FIRST_FACET_POSITION);
    for pair in name_bigrams(&facets).collect::<BTreeSet<String>>() {
        facet_lexemes.push_str(" '");
        facet_lexemes.push_str(&pair);
        facet_lexemes.push('\'');
    }
    let words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
    let mut chunks = Vec::new();
    let mut start = 0;
    loop {
        let (chunk, end) = next_chunk(&words, start, &facet_lexemes);
        chunks.push(chunk);
        if end >= words.len() {
            return chunks;
        }
        start = end - CHUNK_OVERLAP_WORDS;
    }
}

/// The chunk from `start` on, and its end, which is always after its overlap with the next chunk.
fn next_chunk(words: &[&str], start: usize, facet_lexemes: &str) -> (DocumentChunk, usize) {
    let (mut end, mut bytes) = (start, 0);
    for word in words.iter().skip(start).take(MAX_CHUNK_WORDS) {
        if bytes > MAX_CHUNK_BYTES {
            break;
        }
        bytes += word.len() + BYTES_PER_WORD;
        end += 1;
    }
    let mut positions = sorted_positions(words.get(start..end).unwrap_or_default());
    // The chunk ends before the first position that would exceed the limit of a word.
    let first_excess = positions
        .chunk_by(|one, next| one.0 == next.0)
        .filter_map(|same| same.get(MAX_POSITIONS_PER_WORD))
        .map(|(_, at)| *at)
        .min();
    if let Some(at) = first_excess {
        end = start + at;
        positions.retain(|(_, position)| *position < at);
    }
    let mut text = String::with_capacity(facet_lexemes.len() + bytes);
    text.push_str(facet_lexemes);
    append_lexemes(&mut text, &positions, 1);
    (DocumentChunk { words: text, keys: index_keys(words.get(start..end).unwrap_or_default()) }, end)
}

/// The words in alphabetical order, each with its position.
fn sorted_positions<'a>(words: &[&'a str]) -> Vec<(&'a str, usize)> {
    let mut positions: Vec<(&str, usize)> = words.iter().copied().zip(0..).collect();
    positions.sort_unstable();
    positions
}

/// Appends words and their positions in the text form of a tsvector; positions start at `first`.
/// Words consist of letters and digits, so quotes are the only escaping that they need.
fn append_lexemes(text: &mut String, positions: &[(&str, usize)], first: usize) {
    let mut number = itoa::Buffer::new();
    let words = positions.chunk_by(|one, next| one.0 == next.0);
    for (word, positions) in words.filter_map(|same| Some((same.first()?.0, same))).filter(|(word, _)| is_word(word)) {
        text.push_str(if text.is_empty() { "'" } else { " '" });
        text.push_str(word);
        text.push('\'');
        for (nth, (_, position)) in positions.iter().enumerate() {
            text.push(if nth == 0 { ':' } else { ',' });
            text.push_str(number.format(first + position));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk_document(words: &str, facet: &str) -> Vec<String> {
        super::chunk_document(words, facet).into_iter().map(|chunk| chunk.words).collect()
    }

    #[test]
    fn a_short_document_is_one_chunk_with_its_positions() {
        assert_eq!(chunk_document("b a b \u{2029} c", "m"), ["'m':12001 'a':2 'b':1,3 'c':5"]);
        assert_eq!(chunk_document("", "m n \u{2029} o"), ["'m':12001 'n':12002 'o':12004"]);
        let named = "'\u{e006}doe':12002 '\u{e006}jane':12001 '\u{e009}\u{e006}jane_doe'";
        assert_eq!(chunk_document("", "\u{e006}jane \u{e006}doe"), [named]);
    }

    #[test]
    fn chunks_overlap_and_end_before_a_limit() {
        let same = vec!["la"; 1000].join(" ");
        let cut = chunk_document(&same, "m");
        assert!(cut.len() > 4 && cut.iter().all(|chunk| chunk.matches(',').count() < 256));
        let many: Vec<String> = (0..30_000).map(|n| format!("w{n}")).collect();
        let cut = chunk_document(&many.join(" "), "m");
        assert_eq!(cut.len(), 3);
        let held: Vec<std::collections::HashSet<&str>> =
            cut.iter().map(|chunk| chunk.split(' ').filter_map(|word| word.split('\'').nth(1)).collect()).collect();
        for pair in many.windows(CHUNK_OVERLAP_WORDS) {
            assert!(held.iter().any(|chunk| pair.iter().all(|word| chunk.contains(word.as_str()))), "{pair:?}");
        }
        let long: Vec<String> = (0..9000).map(|n| format!("{n}{}", "é".repeat(120))).collect();
        let long = long.join(" ");
        assert!(chunk_document(&long, "m").iter().all(|chunk| chunk.len() < 900_000));
    }
}
