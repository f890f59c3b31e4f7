//! How documents are numbered on SQLite: by end time in steps of four milliseconds, each the next number that is free.
//!
//! FTS5 writes with every word of a document by how much its number is greater than that of the last one with the same word.
//! Numbers as far apart as those of `doc.rs` make up half of an index. So they are kept small and close, at the price of a
//! table that says which document has which. One that finds its place taken goes behind it; how far one ever had to go is
//! kept, so that a search up to a moment looks so much further.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::{Arg, BULK, Db, DbError, Stmt, Tx, sql};
use super::Doc;
use crate::clock::Time;

/// Milliseconds between two numbers.
const STEP: i64 = 4;
/// Places count from the year 2000, as in `doc.rs`; up to the year 2140.
const EPOCH: i64 = 946_684_800_000;
const LAST: i64 = 1 << 40;
/// How far to look for a free number before it counts as crowded there.
const NEAR: i64 = 8;
/// Numbers that are looked through at once.
const MOST: i64 = 1 << 14;
/// How many crowds are remembered.
const CROWDS: usize = 1000;

/// The place of a document whose segment ended then.
pub(super) fn place(ended: Time) -> i64 {
    (ended.0.saturating_sub(EPOCH) / STEP).clamp(0, LAST)
}

/// Where so many documents ended at once that their numbers are taken far on: from a number up to the first that may be free.
/// Only a hint, so that they are not counted through again for each batch: what was freed since is passed over.
#[derive(Default)]
pub struct Crowds(Mutex<BTreeMap<i64, i64>>);

impl Crowds {
    fn held(&self) -> MutexGuard<'_, BTreeMap<i64, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From where on to look for a free number.
    fn past(&self, from: i64) -> i64 {
        self.held().range(..=from).next_back().map_or(from, |(_, end)| from.max(*end))
    }

    /// That no number is taken any more.
    pub(super) fn forget(&self) {
        self.held().clear();
    }

    /// That all are taken from each first number on, before the second: to be said once that has been committed.
    pub(super) fn note(&self, taken: &[(i64, i64)]) {
        for (first, end) in taken {
            self.note_one(*first, *end);
        }
    }

    fn note_one(&self, first: i64, end: i64) {
        let mut crowds = self.held();
        let (mut first, mut end) = (first, end);
        while let Some((start, held)) = crowds.range(..=end).next_back().map(|(start, end)| (*start, *end)) {
            if held < first {
                break;
            }
            crowds.remove(&start);
            (first, end) = (first.min(start), end.max(held));
        }
        crowds.insert(first, end);
        // Segments come roughly in order: the oldest crowd is the one that least is added to.
        while crowds.len() > CROWDS {
            crowds.pop_first();
        }
    }
}

/// Which documents items have.
pub(super) struct Numbered {
    /// By item.
    pub docs: HashMap<i64, Doc>,
    /// Where all numbers are taken now, for [`Crowds::note`].
    pub crowds: Vec<(i64, i64)>,
}

impl Tx {
    /// The numbers of these items' documents; those that have none get one.
    pub(super) async fn numbered(&mut self, items: &[(i64, Time)], crowds: &Crowds) -> Result<Numbered, DbError> {
        let mut docs: HashMap<i64, Doc> = HashMap::with_capacity(items.len());
        for part in items.chunks(BULK) {
            let part = part.iter().map(|(item, _)| *item);
            let stmt = Stmt::list("select item, number from search_doc where item in ", Vec::new(), part, "");
            for row in self.all(stmt).await? {
                docs.insert(row.int(0)?, Doc(row.int(1)?));
            }
        }
        let mut new: BTreeMap<i64, Vec<(i64, Time)>> = BTreeMap::new();
        for (item, ended) in items.iter().filter(|(item, _)| !docs.contains_key(item)) {
            new.entry(place(*ended)).or_default().push((*item, *ended));
        }
        let mut taken = self.taken_near(new.keys().copied().collect()).await?;
        let (mut rows, mut furthest, mut crowded) = (Vec::new(), 0, Vec::new());
        for (place, mut items) in new {
            // In the order of the items, whatever order they came in.
            items.sort_unstable();
            let near: Vec<i64> = (place..place + NEAR).filter(|number| !taken.contains(number)).collect();
            let mut free = near;
            if free.len() < items.len() {
                let beyond = crowds.past(place + NEAR);
                let found = self.free_from(beyond, items.len() - free.len(), &taken).await?;
                crowded.push((place, found.last().map_or(beyond, |last| last + 1)));
                free.extend(found);
            }
            for ((item, ended), number) in items.into_iter().zip(free) {
                taken.insert(number);
                docs.insert(item, Doc(number));
                rows.push(vec![Arg::from(item), number.into()]);
                // Without an end time it is found by no search that asks for one.
                furthest = furthest.max(ended.known().map_or(0, |_| number - place));
            }
        }
        self.run_rows("insert into search_doc (item, number) values ", rows, "").await?;
        self.went(furthest).await?;
        Ok(Numbered { docs, crowds: crowded })
    }

    /// The numbers of these items' documents, which they lose.
    pub(super) async fn numbers_off(&mut self, items: &[i64]) -> Result<Vec<Doc>, DbError> {
        let mut docs = Vec::new();
        for part in items.chunks(BULK) {
            let head = "delete from search_doc where item in ";
            let stmt = Stmt::list(head, Vec::new(), part.iter().copied(), " returning number");
            for row in self.all(stmt).await? {
                docs.push(Doc(row.int(0)?));
            }
        }
        Ok(docs)
    }

    async fn taken_near(&mut self, places: Vec<i64>) -> Result<BTreeSet<i64>, DbError> {
        let mut taken = BTreeSet::new();
        for part in places.chunks(BULK) {
            let stmt = Stmt::rows(
                "with v (low) as (values ",
                part.iter().map(|place| vec![Arg::from(*place)]).collect(),
                ") select d.number from v cross join search_doc d where d.number >= v.low and d.number < v.low + 8",
            );
            for row in self.all(stmt).await? {
                taken.insert(row.int(0)?);
            }
        }
        Ok(taken)
    }

    /// The next so many numbers that are free, from this one on. Where thousands ended in one moment, the database counts its
    /// way past them.
    async fn free_from(&mut self, from: i64, wanted: usize, taken: &BTreeSet<i64>) -> Result<Vec<i64>, DbError> {
        let (mut from, mut width) = (from, NEAR);
        loop {
            let stmt = sql("select count(*) from search_doc where number >= $1 and number < $2");
            let row = self.first(stmt.bind(from).bind(from + width)).await?;
            let full = row.map_or(Ok(0), |row| row.int(0))? == width;
            if full {
                from += width;
                width = (width * 2).min(MOST);
            } else if width > NEAR {
                width = (width / 8).max(NEAR);
            } else {
                break;
            }
        }
        let mut free = Vec::with_capacity(wanted);
        while free.len() < wanted {
            let stmt = sql("select number from search_doc where number >= $1 and number < $2");
            let rows = self.all(stmt.bind(from).bind(from + MOST)).await?;
            let held = rows.iter().map(|row| row.int(0)).collect::<Result<BTreeSet<i64>, DbError>>()?;
            let open = (from..from + MOST).filter(|number| !held.contains(number) && !taken.contains(number));
            free.extend(open.take(wanted - free.len()));
            from += MOST;
        }
        Ok(free)
    }

    /// Keeps how far behind its place a document has gone.
    async fn went(&mut self, far: i64) -> Result<(), DbError> {
        if far == 0 {
            return Ok(());
        }
        let stmt = sql("insert into meta (key, value) values ('search_spread', $1) on conflict (key) do update
             set value = excluded.value where cast(excluded.value as integer) > cast(meta.value as integer)");
        self.run(stmt.bind(far.to_string())).await.map(drop)
    }
}

impl Db {
    /// How far behind its place a document may be.
    pub(super) async fn spread(&self) -> Result<i64, DbError> {
        let row = self.first(sql("select cast(value as integer) from meta where key = 'search_spread'")).await?;
        row.map_or(Ok(0), |row| row.int(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_follow_the_end_time() {
        let ended = Time::from_secs(1_800_000_000);
        assert_eq!(place(ended.plus_millis(1000)) - place(ended), 250);
        assert_eq!((place(Time::NONE), place(Time(0)), place(Time(i64::MAX))), (0, 0, LAST));
    }

    #[test]
    fn crowds_grow_together_and_those_of_long_ago_are_forgotten() {
        let crowds = Crowds::default();
        let past = |from| crowds.past(from);
        crowds.note(&[(10, 20)]);
        assert_eq!((past(9), past(10), past(15), past(20), past(25)), (9, 20, 20, 20, 25));
        crowds.note(&[(40, 50), (20, 30)]);
        assert_eq!((past(12), past(35), past(45)), (30, 35, 50));
        crowds.note(&[(12, 45)]);
        assert_eq!((past(10), past(50)), (50, 50));
        for crowd in 1..=CROWDS as i64 {
            crowds.note(&[(crowd * 1000, crowd * 1000 + 10)]);
        }
        assert_eq!((past(10), past(1005)), (10, 1010));
    }

    proptest! {
        #[test]
        fn nothing_counts_as_taken_that_nobody_said_was(notes in vec((0..200i64, 1..30i64), 0..40)) {
            let crowds = Crowds::default();
            let mut taken = BTreeSet::new();
            for (first, length) in notes {
                crowds.note(&[(first, first + length)]);
                taken.extend(first..first + length);
            }
            for from in 0..250 {
                let free = (from..).find(|number| !taken.contains(number)).unwrap();
                prop_assert_eq!(crowds.past(from), free);
            }
        }
    }

    async fn numbers(db: &Db, items: &[(i64, Time)]) -> Vec<i64> {
        let mut tx = db.begin().await.unwrap();
        let crowds = if let Db::Sqlite(pools) = db { &pools.crowds } else { unreachable!("on SQLite alone") };
        let numbers = tx.numbered(items, crowds).await.unwrap();
        tx.commit().await.unwrap();
        crowds.note(&numbers.crowds);
        items.iter().map(|(item, _)| numbers.docs[item].0).collect()
    }

    #[tokio::test]
    async fn however_many_ended_at_once_each_has_a_number_of_its_own_and_is_looked_for_so_far() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), crate::Access::Own).await.unwrap();
        let (ended, later) = (Time::from_secs(1_800_000_000), Time::from_secs(1_800_000_002));
        let one = numbers(&db, &[(0, ended), (1, ended)]).await;
        assert_eq!(one, [place(ended), place(ended) + 1]);
        let after = numbers(&db, &[(4, later)]).await;
        assert_eq!((after[0], db.spread().await.unwrap()), (place(later), 1));

        let mut seen: BTreeSet<i64> = one.iter().chain(&after).copied().collect();
        let items = |batch: i64| (0..700).map(|nth| (100 + batch * 700 + nth, ended)).collect::<Vec<(i64, Time)>>();
        for batch in 0..5 {
            let items = items(batch);
            let given = numbers(&db, &items).await;
            assert!(given.iter().all(|number| seen.insert(*number)), "a number was given twice");
            assert_eq!(numbers(&db, &items).await, given);
        }
        // Without a gap: as near as can be.
        assert_eq!((seen.len(), *seen.last().unwrap()), (3503, place(ended) + 3502));
        assert_eq!(db.spread().await.unwrap(), 3502);

        let mut tx = db.begin().await.unwrap();
        assert_eq!(tx.numbers_off(&[1, 4, 77]).await.unwrap().len(), 2);
        tx.commit().await.unwrap();
        assert_eq!(numbers(&db, &[(9, ended)]).await, [place(ended) + 1]);
        // Where all are taken off, their places are free again.
        db.prepare_index(-1).await.unwrap();
        assert_eq!(numbers(&db, &items(0)).await[..2], [place(ended), place(ended) + 1]);
        // What has no end time is in nobody's way.
        numbers(&db, &(0..50).map(|nth| (9000 + nth, Time::NONE)).collect::<Vec<_>>()).await;
        assert_eq!(db.spread().await.unwrap(), 699);
        db.close().await;
    }
}
