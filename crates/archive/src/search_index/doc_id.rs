//! Ids of documents, ordered by the end time of their segments, so that the index returns the
//! newest matches first without sorting. This is the form on Postgres; `sqlite_rowids.rs` has the
//! one on SQLite.

use crate::clock::Time;

/// Bits for the documents of one second: the low bits of the item's number.
pub(super) const ITEM_BITS: u32 = 31;
const ITEM_MASK: i64 = (1 << ITEM_BITS) - 1;
/// Start of the year 2000. Earlier and unknown end times count as this.
const EPOCH_SECS: i64 = 946_684_800;
/// The last second that can be represented, in the year 2136.
pub(super) const LAST_SECOND: i64 = (1 << (63 - ITEM_BITS)) - 1;

/// The id of a document. Two items share an id only if their segments ended in the same second and
/// their keys differ by a multiple of 2^29.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct DocId(pub(crate) i64);

impl DocId {
    /// The id of an item's document.
    pub(crate) fn of(item: i64, ended: Time) -> DocId {
        DocId(seconds_since_epoch(ended) << ITEM_BITS | item & ITEM_MASK)
    }

    /// The first id of documents whose segments ended in the second of `time` or later.
    pub(crate) fn first_at(time: Time) -> DocId {
        DocId(seconds_since_epoch(time) << ITEM_BITS)
    }

    /// The items that may have this id, up to `highest_item`.
    pub(crate) fn items(self, highest_item: i64) -> impl Iterator<Item = i64> {
        let low = self.0 & ITEM_MASK;
        (0..=(highest_item >> ITEM_BITS))
            .map(move |high| high << ITEM_BITS | low)
            .filter(move |item| *item <= highest_item)
    }
}

fn seconds_since_epoch(time: Time) -> i64 {
    time.floor_secs().saturating_sub(EPOCH_SECS).clamp(0, LAST_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_by_end_time() {
        let at = |text: &str| Time::parse(text).unwrap();
        let (early, late) = (at("2024-07-22T11:24:47Z"), at("2024-07-22T11:24:48Z"));
        assert!(DocId::of(900, early) < DocId::of(3, late));
        assert!(DocId::of(3, early) < DocId::of(4, early));
        assert!(DocId::of(1, Time::NONE) < DocId::of(1, early));
        assert!(DocId::first_at(late) <= DocId::of(0, late) && DocId::first_at(late) > DocId::of(i64::MAX, early));
        assert!(DocId::of(i64::MAX, Time(i64::MAX)).0 > 0);
    }

    #[test]
    fn an_id_leads_back_to_its_item() {
        let ended = Time::from_secs(1_800_000_000);
        for item in [0, 5, ITEM_MASK, ITEM_MASK + 1, 3 << ITEM_BITS | 77] {
            assert!(DocId::of(item, ended).items(5 << ITEM_BITS).any(|found| found == item));
        }
        assert_eq!(DocId::of(7, ended).items(1000).collect::<Vec<_>>(), [7]);
        assert_eq!(DocId::of(2000, ended).items(1000).next(), None);
    }
}
