//! The documents of a run, in the order of their segments' end times, as the database stores them.
//! Pure.

use super::IndexHit;
use super::posting::{push_number, take_number};
use crate::clock::Time;

/// Stands for a document that was removed. No artifact has this number.
const REMOVED: i64 = 0;

/// The documents of a run; the position of one is its ordinal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DocumentList {
    documents: Vec<IndexHit>,
}

impl DocumentList {
    /// These documents, which must be in order.
    pub(super) fn new(documents: Vec<IndexHit>) -> DocumentList {
        DocumentList { documents }
    }

    /// All documents that were not removed, with their ordinals.
    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = (usize, IndexHit)> {
        self.documents.iter().copied().enumerate().filter(|(_, document)| document.item != REMOVED)
    }

    /// The document with this ordinal, unless it was removed.
    pub(super) fn get(&self, ordinal: usize) -> Option<IndexHit> {
        self.documents.get(ordinal).copied().filter(|document| document.item != REMOVED)
    }

    /// The number of ordinals.
    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    /// Removes documents. Returns how many there were.
    pub(super) fn remove(&mut self, is_removed: impl Fn(IndexHit) -> bool) -> usize {
        let mut count = 0;
        for document in self.documents.iter_mut().filter(|document| document.item != REMOVED) {
            if is_removed(*document) {
                (document.item, count) = (REMOVED, count + 1);
            }
        }
        count
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.documents.len() * 8);
        let mut previous = i64::MIN;
        for document in &self.documents {
            push_number(&mut bytes, document.ended.0.wrapping_sub(previous).cast_unsigned());
            push_number(&mut bytes, document.item.cast_unsigned());
            previous = document.ended.0;
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> DocumentList {
        let (mut rest, mut previous) = (bytes, i64::MIN);
        let next = || {
            previous = previous.wrapping_add(take_number(&mut rest)?.cast_signed());
            Some(IndexHit { ended: Time(previous), item: take_number(&mut rest)?.cast_signed() })
        };
        DocumentList { documents: std::iter::from_fn(next).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let hit = |ended, item| IndexHit { ended, item };
        let documents =
            [hit(Time::NONE, 7), hit(Time(-5), 8), hit(Time(1_700_000_000_000), 4 << 40), hit(Time(i64::MAX), 9)];
        let mut list = DocumentList::new(documents.to_vec());
        assert_eq!(DocumentList::decode(&list.encode()), list);
        assert_eq!((list.remove(|hit| hit.item == 8), list.remove(|hit| hit.item == 8)), (1, 0));
        let list = DocumentList::decode(&list.encode());
        assert_eq!((list.get(1), list.get(3), list.get(4)), (None, Some(documents[3]), None));
        assert_eq!(list.live().map(|(ordinal, _)| ordinal).collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!(DocumentList::decode(&[0xff; 30]).len(), 0);
    }
}
