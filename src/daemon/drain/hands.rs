//! What a drain has in its hands: claimed and not settled yet. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Time;
use crate::db::{Class, Item};

/// Items that wait, are under way, or are on their way into the database.
#[derive(Debug, Default)]
pub(super) struct Hands {
    items: HashMap<Item, (Class, Option<Time>)>,
    of_class: BTreeMap<Class, usize>,
}

impl Hands {
    /// Takes up an item that the database handed out as one of `class`.
    pub(super) fn take(&mut self, item: Item, class: Class) {
        if self.items.insert(item, (class, None)).is_none() {
            *self.of_class.entry(class).or_default() += 1;
        }
    }

    /// It is on its way into the database, and will be due again at `due`, if at all.
    pub(super) fn settle(&mut self, item: Item, due: Option<Time>) {
        if let Some((_, again)) = self.items.get_mut(&item) {
            *again = due;
        }
    }

    /// Lets go of an item; when it will be due again, if that is known.
    pub(super) fn let_go(&mut self, item: Item) -> Option<Time> {
        let (class, due) = self.items.remove(&item)?;
        if let Some(count) = self.of_class.get_mut(&class) {
            *count = count.saturating_sub(1);
        }
        due
    }

    pub(super) fn holds(&self, item: Item) -> bool {
        self.items.contains_key(&item)
    }

    /// How many of a class are held, which the database may hand out once more.
    pub(super) fn count(&self, class: Class) -> usize {
        self.of_class.get(&class).copied().unwrap_or(0)
    }

    pub(super) fn clear(&mut self) {
        *self = Hands::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Artifact, Lane};

    const LIVE: Class = (Artifact::Transcript, Lane::Live, false);

    #[test]
    fn what_is_held_is_counted_by_class_until_it_is_let_go() {
        let mut hands = Hands::default();
        hands.take(Item(1), LIVE);
        hands.take(Item(1), LIVE);
        hands.take(Item(2), LIVE);
        assert_eq!(hands.count(LIVE), 2);
        hands.settle(Item(1), Some(Time(7)));
        assert_eq!(hands.let_go(Item(1)), Some(Time(7)));
        assert_eq!((hands.let_go(Item(1)), hands.count(LIVE)), (None, 1));
        assert!(hands.holds(Item(2)) && !hands.holds(Item(1)));
        hands.clear();
        assert_eq!(hands.count(LIVE), 0);
    }
}
