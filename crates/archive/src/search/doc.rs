//! How documents are numbered: the later a segment ended, the greater, so that the newest matches are read first off the
//! index on either database, without sorting and without looking at the rest. This is so on Postgres; how it is on SQLite,
//! stands in `number.rs`.

use crate::clock::Time;

/// Bits that tell the documents of one second apart: the lowest of the item's number.
pub(super) const BITS: u32 = 31;
const MASK: i64 = (1 << BITS) - 1;
/// Seconds count from the year 2000; whatever ended before, or at an unknown time, stands there.
const EPOCH: i64 = 946_684_800;
/// The last second that can be told from later ones, in the year 2136.
pub(super) const LAST: i64 = (1 << (63 - BITS)) - 1;

/// A document's number. Two items share one only if their segments ended in the same second and are a multiple of half a
/// thousand million segments apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Doc(pub i64);

impl Doc {
    /// The document of an item whose segment ended then.
    pub fn of(item: i64, ended: Time) -> Doc {
        Doc(second(ended) << BITS | item & MASK)
    }

    /// The first number of those whose segments ended in the second of `time` or later.
    pub fn first_at(time: Time) -> Doc {
        Doc(second(time) << BITS)
    }

    /// The items that it may stand for, where no item is greater than `highest`.
    pub fn items(self, highest: i64) -> impl Iterator<Item = i64> {
        let low = self.0 & MASK;
        (0..=(highest >> BITS)).map(move |high| high << BITS | low).filter(move |item| *item <= highest)
    }
}

fn second(time: Time) -> i64 {
    time.floor_secs().saturating_sub(EPOCH).clamp(0, LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_end_time() {
        let at = |text: &str| Time::parse(text).unwrap();
        let (early, late) = (at("2024-07-22T11:24:47Z"), at("2024-07-22T11:24:48Z"));
        assert!(Doc::of(900, early) < Doc::of(3, late));
        assert!(Doc::of(3, early) < Doc::of(4, early));
        assert!(Doc::of(1, Time::NONE) < Doc::of(1, early));
        assert!(Doc::first_at(late) <= Doc::of(0, late) && Doc::first_at(late) > Doc::of(i64::MAX, early));
        assert!(Doc::of(i64::MAX, Time(i64::MAX)).0 > 0);
    }

    #[test]
    fn a_number_leads_back_to_its_item() {
        let ended = Time::from_secs(1_800_000_000);
        for item in [0, 5, MASK, MASK + 1, 3 << BITS | 77] {
            assert!(Doc::of(item, ended).items(5 << BITS).any(|found| found == item));
        }
        assert_eq!(Doc::of(7, ended).items(1000).collect::<Vec<_>>(), [7]);
        assert_eq!(Doc::of(2000, ended).items(1000).next(), None);
    }
}
