//! Postings: sorted numbers of a key and a document of the run, encoded in chunks. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::Range;

/// Bits of a document's ordinal in its run.
const DOC_BITS: u32 = 13;
/// Documents of a run.
pub(super) const MAX_RUN_DOCS: usize = 1 << DOC_BITS;
const DOC_MASK: u64 = MAX_RUN_DOCS as u64 - 1;
/// Bytes of a chunk: two chunks fit into a page of either database.
const MAX_CHUNK_BYTES: usize = 3990;

const _: () = assert!(super::term_key::KEY_BITS + DOC_BITS < 64, "a posting is a BIGINT");

/// The posting of a key in a document.
pub(super) fn posting(key: u64, document: usize) -> u64 {
    key << DOC_BITS | document as u64
}

/// The document of a posting.
pub(super) fn document_of(posting: u64) -> usize {
    (posting & DOC_MASK) as usize
}

/// The same posting for another document.
fn with_document(posting: u64, document: usize) -> u64 {
    posting & !DOC_MASK | document as u64
}

/// The postings of a range of keys.
pub(super) fn posting_range(keys: &Range<u64>) -> Range<u64> {
    keys.start << DOC_BITS..keys.end << DOC_BITS
}

/// Appends a number in seven bits a byte, the low ones first.
pub(super) fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the beginning; `None` at the end.
pub(super) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

/// A part of a run's postings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PostingChunk {
    /// Its first posting.
    pub(super) first: u64,
    /// The differences of the others from the one before.
    pub(super) rest: Vec<u8>,
}

impl PostingChunk {
    /// Its postings, in order.
    pub(super) fn postings(&self) -> Postings<'_> {
        Postings { next: Some(self.first), rest: &self.rest }
    }
}

/// The postings of a chunk.
pub(super) struct Postings<'a> {
    next: Option<u64>,
    rest: &'a [u8],
}

impl Iterator for Postings<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let posting = self.next?;
        self.next = take_number(&mut self.rest).and_then(|more| posting.checked_add(more));
        Some(posting)
    }
}

/// Encodes postings that are in order; duplicates are dropped.
pub(super) fn encode_postings(postings: impl Iterator<Item = u64>) -> Vec<PostingChunk> {
    let mut chunks: Vec<PostingChunk> = Vec::new();
    let mut previous = None;
    for posting in postings {
        match (chunks.last_mut(), previous) {
            (_, Some(previous)) if previous == posting => continue,
            (Some(chunk), Some(previous)) if chunk.rest.len() < MAX_CHUNK_BYTES => {
                push_number(&mut chunk.rest, posting - previous);
            }
            _ => chunks.push(PostingChunk { first: posting, rest: Vec::with_capacity(MAX_CHUNK_BYTES + 10) }),
        }
        previous = Some(posting);
    }
    chunks
}

/// The postings of a run, and the new ordinals of its documents; `None` for those that are dropped.
/// New ordinals are in the order of the old ones.
pub(super) struct MergeInput {
    pub(super) chunks: Vec<PostingChunk>,
    pub(super) ordinals: Vec<Option<usize>>,
}

/// Merges the postings of several runs.
pub(super) fn merge_postings<'a>(inputs: &'a [MergeInput]) -> Vec<PostingChunk> {
    let renumbered = |input: &'a MergeInput| {
        let renumber = move |posting| {
            let ordinal = input.ordinals.get(document_of(posting)).copied().flatten()?;
            Some(with_document(posting, ordinal))
        };
        input.chunks.iter().flat_map(PostingChunk::postings).filter_map(renumber)
    };
    let mut inputs: Vec<_> = inputs.iter().map(renumbered).collect();
    let heads = inputs.iter_mut().enumerate().filter_map(|(nth, input)| Some(Reverse((input.next()?, nth))));
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> = heads.collect();
    encode_postings(std::iter::from_fn(|| {
        let mut head = heap.peek_mut()?;
        let Reverse((posting, nth)) = *head;
        match inputs.get_mut(nth).and_then(Iterator::next) {
            Some(next) => *head = Reverse((next, nth)),
            None => drop(PeekMut::pop(head)),
        }
        Some(posting)
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn postings_are_read_as_they_were_written(mut postings in proptest::collection::vec(0..u64::MAX >> 1, 0..3000)) {
            postings.sort_unstable();
            let chunks = encode_postings(postings.iter().copied());
            postings.dedup();
            prop_assert_eq!(chunks.iter().flat_map(PostingChunk::postings).collect::<Vec<_>>(), postings);
            prop_assert!(chunks.iter().all(|chunk| chunk.rest.len() <= MAX_CHUNK_BYTES + 10));
        }

        #[test]
        fn reading_damaged_chunks_ends(rest in proptest::collection::vec(any::<u8>(), 0..100)) {
            let count = PostingChunk { first: 0, rest }.postings().take(200).count();
            prop_assert!(count <= 101);
        }
    }

    #[test]
    fn merged_runs_have_the_postings_of_their_remaining_documents() {
        let run = |postings: &[(u64, usize)], ordinals: &[Option<usize>]| MergeInput {
            chunks: encode_postings(postings.iter().map(|(key, doc)| posting(*key, *doc))),
            ordinals: ordinals.to_vec(),
        };
        let one = run(&[(3, 0), (3, 1), (9, 1)], &[Some(0), Some(2)]);
        let other = run(&[(2, 1), (3, 0), (3, 1)], &[Some(1), None]);
        let merged: Vec<u64> = merge_postings(&[one, other]).iter().flat_map(PostingChunk::postings).collect();
        assert_eq!(merged, [posting(3, 0), posting(3, 1), posting(3, 2), posting(9, 2)]);
    }
}
