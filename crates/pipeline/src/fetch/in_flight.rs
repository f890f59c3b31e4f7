//! The items that a fetch worker has claimed and not completed. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Time;
use crate::db::{Item, QueueClass};

/// Claimed items: queued, requested, or submitted to the batch writer.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// The class of each item, and when it is due again once its result is submitted.
    items: HashMap<Item, (QueueClass, Option<Time>)>,
    count_by_class: BTreeMap<QueueClass, usize>,
}

impl InFlight {
    /// Adds a claimed item.
    pub(super) fn insert(&mut self, item: Item, class: QueueClass) {
        if self.items.insert(item, (class, None)).is_none() {
            *self.count_by_class.entry(class).or_default() += 1;
        }
    }

    /// Records that the result of an item is submitted, and when the item is due again, if at all.
    pub(super) fn complete(&mut self, item: Item, due: Option<Time>) {
        if let Some((_, next_due)) = self.items.get_mut(&item) {
            *next_due = due;
        }
    }

    /// Removes an item. Returns when it is due again, if that is known.
    pub(super) fn release(&mut self, item: Item) -> Option<Time> {
        let (class, due) = self.items.remove(&item)?;
        if let Some(count) = self.count_by_class.get_mut(&class) {
            *count = count.saturating_sub(1);
        }
        due
    }

    /// Whether an item is claimed.
    pub(super) fn contains(&self, item: Item) -> bool {
        self.items.contains_key(&item)
    }

    /// The number of items of a class. The database may return them once more.
    pub(super) fn count(&self, class: QueueClass) -> usize {
        self.count_by_class.get(&class).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Artifact, Lane};

    const LIVE: QueueClass = QueueClass { artifact: Artifact::Transcript, lane: Lane::Live, is_retry: false };

    #[test]
    fn items_are_counted_by_class_until_they_are_released() {
        let mut in_flight = InFlight::default();
        in_flight.insert(Item(1), LIVE);
        in_flight.insert(Item(1), LIVE);
        in_flight.insert(Item(2), LIVE);
        assert_eq!(in_flight.count(LIVE), 2);
        in_flight.complete(Item(1), Some(Time(7)));
        assert_eq!(in_flight.release(Item(1)), Some(Time(7)));
        assert_eq!((in_flight.release(Item(1)), in_flight.count(LIVE)), (None, 1));
        assert!(in_flight.contains(Item(2)) && !in_flight.contains(Item(1)));
    }
}
