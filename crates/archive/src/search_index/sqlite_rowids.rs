//! Row ids of documents on SQLite: the end time in steps of four milliseconds, or the next free row
//! id after it.
//!
//! FTS5 stores for every word of a document the difference between its row id and the previous one
//! with that word. Ids as far apart as those of `doc_id.rs` would take half of the index. So row
//! ids are small and close together; the table `search_doc` maps them to items. The largest
//! distance from a preferred row id is stored, and a search up to a time looks that much further.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::{Arg, Db, DbError, Stmt, Tx, sql};
use super::DocId;
use crate::clock::Time;

/// Milliseconds per row id.
const MILLIS_PER_ROWID: i64 = 4;
/// Row ids start in the year 2000, as in `doc_id.rs`, and reach the year 2139.
const EPOCH_MILLIS: i64 = 946_684_800_000;
const MAX_PREFERRED_ROWID: i64 = 1 << 40;
/// Row ids to try, starting at the preferred one, before searching a range with many documents.
/// Also in the SQL below.
const NEARBY_ROWIDS: i64 = 8;
/// Row ids that one query scans.
const MAX_SCANNED_ROWIDS: i64 = 1 << 14;
/// Full ranges that are remembered.
const MAX_FULL_RANGES: usize = 1000;

/// The preferred row id of a document whose segment ended then.
pub(super) fn preferred_rowid(ended: Time) -> i64 {
    (ended.0.saturating_sub(EPOCH_MILLIS) / MILLIS_PER_ROWID).clamp(0, MAX_PREFERRED_ROWID)
}

/// Ranges without a free row id, where many segments ended at the same time: from the first row id
/// to the first that may be free. They are a hint that saves counting the range again for each
/// batch. Row ids that were freed since are not reused.
#[derive(Default)]
pub(crate) struct FullRanges(Mutex<BTreeMap<i64, i64>>);

impl FullRanges {
    fn lock_ranges(&self) -> MutexGuard<'_, BTreeMap<i64, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to start the search for a free row id.
    fn first_maybe_free(&self, from: i64) -> i64 {
        self.lock_ranges().range(..=from).next_back().map_or(from, |(_, end)| from.max(*end))
    }

    /// Forgets all ranges, after all row ids were freed.
    pub(super) fn clear(&self) {
        self.lock_ranges().clear();
    }

    /// Adds full ranges (start and exclusive end). Call it after the commit.
    pub(super) fn add_all(&self, taken: &[(i64, i64)]) {
        for (first, end) in taken {
            self.add(*first, *end);
        }
    }

    fn add(&self, first: i64, end: i64) {
        let mut ranges = self.lock_ranges();
        let (mut first, mut end) = (first, end);
        while let Some((start, known_end)) = ranges.range(..=end).next_back().map(|(start, end)| (*start, *end)) {
            if known_end < first {
                break;
            }
            ranges.remove(&start);
            (first, end) = (first.min(start), end.max(known_end));
        }
        ranges.insert(first, end);
        // Segments arrive roughly in order, so the oldest range is the least likely to grow.
        while ranges.len() > MAX_FULL_RANGES {
            ranges.pop_first();
        }
    }
}

/// The row ids of items.
pub(super) struct RowidAssignment {
    /// By item.
    pub(crate) doc_ids: HashMap<i64, DocId>,
    /// Those that the items had before.
    pub(crate) reused: Vec<DocId>,
    /// Ranges that are full now, for [`FullRanges::add_all`].
    pub(crate) full_ranges: Vec<(i64, i64)>,
}

impl Tx {
    /// The row ids of these items; items without one get one.
    pub(super) async fn assign_rowids(
        &mut self,
        items: &[(i64, Time)],
        full_ranges: &FullRanges,
    ) -> Result<RowidAssignment, DbError> {
        let known = items.iter().map(|(item, _)| *item);
        let stmt = Stmt::list("select item, number from search_doc where item in ", Vec::new(), known, "");
        let mut doc_ids: HashMap<i64, DocId> = self.all(stmt).await?.into_iter().collect();
        let reused = doc_ids.values().copied().collect();
        let mut new: BTreeMap<i64, Vec<(i64, Time)>> = BTreeMap::new();
        for (item, ended) in items.iter().filter(|(item, _)| !doc_ids.contains_key(item)) {
            new.entry(preferred_rowid(*ended)).or_default().push((*item, *ended));
        }
        let lows = new.keys().map(|preferred_rowid| vec![Arg::from(*preferred_rowid)]).collect();
        let nearby = Stmt::rows(
            "with v (low) as (values ",
            lows,
            ") select d.number from v cross join search_doc d where d.number >= v.low and d.number < v.low + 8",
        );
        let mut taken: BTreeSet<i64> = self.values(nearby).await?.into_iter().collect();
        let (mut rows, mut max_offset, mut filled) = (Vec::new(), 0, Vec::new());
        for (preferred_rowid, mut items) in new {
            // Assigned in the order of the items, so that the result does not depend on the order
            // of arrival.
            items.sort_unstable();
            let nearby: Vec<i64> =
                (preferred_rowid..preferred_rowid + NEARBY_ROWIDS).filter(|rowid| !taken.contains(rowid)).collect();
            let mut free = nearby;
            if free.len() < items.len() {
                let search_start = full_ranges.first_maybe_free(preferred_rowid + NEARBY_ROWIDS);
                let found = self.free_rowids_from(search_start, items.len() - free.len(), &taken).await?;
                filled.push((preferred_rowid, found.last().map_or(search_start, |last| last + 1)));
                free.extend(found);
            }
            for ((item, ended), rowid) in items.into_iter().zip(free) {
                taken.insert(rowid);
                doc_ids.insert(item, DocId(rowid));
                rows.push(vec![Arg::from(item), rowid.into()]);
                // A search with a time range never matches a segment without an end time.
                max_offset = max_offset.max(ended.known().map_or(0, |_| rowid - preferred_rowid));
            }
        }
        self.run(Stmt::rows("insert into search_doc (item, number) values ", rows, "")).await?;
        self.record_rowid_spread(max_offset).await?;
        Ok(RowidAssignment { doc_ids, reused, full_ranges: filled })
    }

    /// Releases the row ids of these items, and returns them.
    pub(super) async fn release_rowids(&mut self, items: &[i64]) -> Result<Vec<DocId>, DbError> {
        let head = "delete from search_doc where item in ";
        self.values(Stmt::list(head, Vec::new(), items.iter().copied(), " returning number")).await
    }

    /// The next `wanted` free row ids at or after `from`. It first skips full ranges by counting,
    /// for the case that thousands of segments ended at the same time.
    async fn free_rowids_from(&mut self, from: i64, wanted: usize, taken: &BTreeSet<i64>) -> Result<Vec<i64>, DbError> {
        let (mut from, mut width) = (from, NEARBY_ROWIDS);
        loop {
            let stmt = sql("select count(*) from search_doc where number >= $1 and number < $2");
            let full = self.value::<i64>(stmt.bind(from).bind(from + width)).await? == Some(width);
            if full {
                from += width;
                width = (width * 2).min(MAX_SCANNED_ROWIDS);
            } else if width > NEARBY_ROWIDS {
                width = (width / 8).max(NEARBY_ROWIDS);
            } else {
                break;
            }
        }
        let mut free = Vec::with_capacity(wanted);
        while free.len() < wanted {
            let stmt = sql("select number from search_doc where number >= $1 and number < $2");
            let rows: Vec<i64> = self.values(stmt.bind(from).bind(from + MAX_SCANNED_ROWIDS)).await?;
            let in_use: BTreeSet<i64> = rows.into_iter().collect();
            let open =
                (from..from + MAX_SCANNED_ROWIDS).filter(|rowid| !in_use.contains(rowid) && !taken.contains(rowid));
            free.extend(open.take(wanted - free.len()));
            from += MAX_SCANNED_ROWIDS;
        }
        Ok(free)
    }

    /// Stores the distance of a document from its preferred row id, where it is the largest so far.
    async fn record_rowid_spread(&mut self, offset: i64) -> Result<(), DbError> {
        if offset == 0 {
            return Ok(());
        }
        let stmt = sql("insert into meta (key, value) values ('search_spread', $1) on conflict (key) do update
             set value = excluded.value where cast(excluded.value as integer) > cast(meta.value as integer)");
        self.run(stmt.bind(offset.to_string())).await.map(drop)
    }
}

impl Db {
    /// The largest distance of a document from its preferred row id.
    pub(super) async fn rowid_spread(&self) -> Result<i64, DbError> {
        Ok(self.value(sql("select cast(value as integer) from meta where key = 'search_spread'")).await?.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn preferred_rowids_are_ordered_by_end_time() {
        let ended = Time::from_secs(1_800_000_000);
        assert_eq!(preferred_rowid(ended.plus_millis(1000)) - preferred_rowid(ended), 250);
        assert_eq!(
            (preferred_rowid(Time::NONE), preferred_rowid(Time(0)), preferred_rowid(Time(i64::MAX))),
            (0, 0, MAX_PREFERRED_ROWID)
        );
    }

    #[test]
    fn adjacent_ranges_merge_and_the_oldest_are_dropped() {
        let full_ranges = FullRanges::default();
        let first_maybe_free = |from| full_ranges.first_maybe_free(from);
        full_ranges.add_all(&[(10, 20)]);
        assert_eq!(
            (
                first_maybe_free(9),
                first_maybe_free(10),
                first_maybe_free(15),
                first_maybe_free(20),
                first_maybe_free(25)
            ),
            (9, 20, 20, 20, 25)
        );
        full_ranges.add_all(&[(40, 50), (20, 30)]);
        assert_eq!((first_maybe_free(12), first_maybe_free(35), first_maybe_free(45)), (30, 35, 50));
        full_ranges.add_all(&[(12, 45)]);
        assert_eq!((first_maybe_free(10), first_maybe_free(50)), (50, 50));
        for range in 1..=MAX_FULL_RANGES as i64 {
            full_ranges.add_all(&[(range * 1000, range * 1000 + 10)]);
        }
        assert_eq!((first_maybe_free(10), first_maybe_free(1005)), (10, 1010));
    }

    proptest! {
        #[test]
        fn only_added_ranges_count_as_taken(notes in vec((0..200i64, 1..30i64), 0..40)) {
            let full_ranges = FullRanges::default();
            let mut taken = BTreeSet::new();
            for (first, length) in notes {
                full_ranges.add_all(&[(first, first + length)]);
                taken.extend(first..first + length);
            }
            for from in 0..250 {
                let free = (from..).find(|rowid| !taken.contains(rowid)).unwrap();
                prop_assert_eq!(full_ranges.first_maybe_free(from), free);
            }
        }
    }

    async fn rowids(db: &Db, items: &[(i64, Time)]) -> Vec<i64> {
        let mut tx = db.begin().await.unwrap();
        let full_ranges =
            if let Db::Sqlite(pools) = db { &pools.full_ranges } else { unreachable!("this test uses SQLite") };
        let rowids = tx.assign_rowids(items, full_ranges).await.unwrap();
        tx.commit().await.unwrap();
        full_ranges.add_all(&rowids.full_ranges);
        items.iter().map(|(item, _)| rowids.doc_ids[item].0).collect()
    }

    #[tokio::test]
    async fn documents_with_the_same_end_time_get_distinct_rowids_within_the_recorded_spread() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), crate::OpenMode::CreateOrMigrate).await.unwrap();
        let (ended, later) = (Time::from_secs(1_800_000_000), Time::from_secs(1_800_000_002));
        let one = rowids(&db, &[(0, ended), (1, ended)]).await;
        assert_eq!(one, [preferred_rowid(ended), preferred_rowid(ended) + 1]);
        let after = rowids(&db, &[(4, later)]).await;
        assert_eq!((after[0], db.rowid_spread().await.unwrap()), (preferred_rowid(later), 1));

        let mut seen: BTreeSet<i64> = one.iter().chain(&after).copied().collect();
        let items = |batch: i64| (0..700).map(|nth| (100 + batch * 700 + nth, ended)).collect::<Vec<(i64, Time)>>();
        for batch in 0..5 {
            let items = items(batch);
            let assigned = rowids(&db, &items).await;
            assert!(assigned.iter().all(|rowid| seen.insert(*rowid)), "a row id was assigned twice");
            assert_eq!(rowids(&db, &items).await, assigned);
        }
        // Without a gap.
        assert_eq!((seen.len(), *seen.last().unwrap()), (3503, preferred_rowid(ended) + 3502));
        assert_eq!(db.rowid_spread().await.unwrap(), 3502);

        let mut tx = db.begin().await.unwrap();
        assert_eq!(tx.release_rowids(&[1, 4, 77]).await.unwrap().len(), 2);
        tx.commit().await.unwrap();
        assert_eq!(rowids(&db, &[(9, ended)]).await, [preferred_rowid(ended) + 1]);
        // Emptying the index frees all row ids.
        db.prepare_index(-1).await.unwrap();
        assert_eq!(rowids(&db, &items(0)).await[..2], [preferred_rowid(ended), preferred_rowid(ended) + 1]);
        // Segments without an end time do not increase the spread.
        rowids(&db, &(0..50).map(|nth| (9000 + nth, Time::NONE)).collect::<Vec<_>>()).await;
        assert_eq!(db.rowid_spread().await.unwrap(), 699);
        db.close().await;
    }
}
