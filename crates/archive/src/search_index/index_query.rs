//! What the search asks the index and the archive for: matches, texts, segments, and how far the
//! index is behind.

use std::collections::BTreeMap;

use super::super::segment_reader::SEGMENT_COLUMNS;
use super::super::sql::count;
use super::super::{AccountKey, Db, DbError, SegmentRow, Stmt, item, sql};
use crate::clock::Time;

/// A word or a phrase. Its last word may be a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchTerm {
    /// The words in their indexed form: letters and digits only.
    pub words: Vec<String>,
    /// Whether the last word is a prefix.
    pub is_prefix: bool,
}

/// A query of the index.
#[derive(Debug, Clone, Default)]
pub struct IndexQuery {
    /// Each clause must match in at least one of its alternatives. For the filters, there are
    /// clauses, too.
    pub required: Vec<Vec<SearchTerm>>,
    /// None of these may occur.
    pub excluded: Vec<SearchTerm>,
    /// Only segments of this account.
    pub account: Option<AccountKey>,
    /// Only segments that ended at or after this.
    pub from: Option<Time>,
    /// Only segments that ended before this.
    pub to: Option<Time>,
}

/// A document that matches. Documents are in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexHit {
    /// When the segment ended, according to the index.
    pub ended: Time,
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
}

impl IndexHit {
    /// Its segment.
    pub fn segment(self) -> i64 {
        self.item.div_euclid(4)
    }
}

/// How far the index is behind the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexLag {
    /// Changes that are not indexed yet.
    pub changes: u64,
    /// When the oldest of them was stored, as far as is known; `None` where there is none.
    pub since: Option<Time>,
}

impl Db {
    /// The end times of those of these segments that the archive has.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn end_times(&self, segments: &[i64]) -> Result<BTreeMap<i64, Time>, DbError> {
        let stmt = Stmt::list("select id, ended from segment where id in ", Vec::new(), segments.iter().copied(), "");
        Ok(self.all(stmt).await?.into_iter().collect())
    }

    /// The version number and body of each item's newest version. Items whose newest version has no
    /// body are left out.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn newest_bodies(&self, items: &[i64]) -> Result<BTreeMap<i64, (i64, Vec<u8>)>, DbError> {
        let head = "select item, version, outcome, codec, body from artifact where item in ";
        let stmt = Stmt::list(head, Vec::new(), items.iter().copied(), " order by item, version");
        let rows: Vec<(i64, i64, i64, i64, Vec<u8>)> = self.all(stmt).await?;
        let newest: BTreeMap<i64, _> = rows.into_iter().map(|row| (row.0, row)).collect();
        // A damaged body cannot be searched; `verify` reports it.
        let unpack = |(item, (_, version, outcome, codec, body))| {
            let body = if outcome == 0 { item::unpack_text(codec, body).ok()? } else { return None };
            Some((item, (version, body)))
        };
        Ok(newest.into_iter().filter_map(unpack).collect())
    }

    /// How many bytes reading the body of each item takes: the sum of all its versions.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn body_sizes(&self, items: &[i64]) -> Result<BTreeMap<i64, u64>, DbError> {
        let mut sizes = BTreeMap::<i64, u64>::new();
        let head = "select item, size from artifact where item in ";
        let stmt = Stmt::list(head, Vec::new(), items.iter().copied(), "");
        for (item, size) in self.all::<(i64, i64)>(stmt).await? {
            *sizes.entry(item).or_default() += count(size);
        }
        Ok(sizes)
    }

    /// These segments, by key.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segments_by_key(&self, keys: &[i64]) -> Result<BTreeMap<i64, SegmentRow>, DbError> {
        let head = format!("select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account where s.id in ");
        let segments: Vec<SegmentRow> = self.all(Stmt::list(&head, Vec::new(), keys.iter().copied(), "")).await?;
        Ok(segments.into_iter().map(|segment| (segment.key, segment)).collect())
    }

    /// How many changes are not indexed yet.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn unindexed_changes(&self) -> Result<u64, DbError> {
        Ok(self.index_lag().await?.changes)
    }

    /// How far the index is behind the archive. Costs one lookup per account, and another one for
    /// each that is behind.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_lag(&self) -> Result<IndexLag, DbError> {
        // A sum of BIGINT is NUMERIC on Postgres. A deleted version has no time; the next remaining
        // one counts.
        let stmt = sql(
            "select cast(sum(l.changes) as bigint), min(l.since) from (
             select a.feed - coalesce(c.feed, 0) as changes,
             (select x.fetched from artifact x where x.account = a.id and x.feed > coalesce(c.feed, 0) order by x.feed limit 1) as since
             from account a left join search_cursor c on c.account = a.id where a.feed > coalesce(c.feed, 0)
             union all select count(*), min(s.changed) from search_todo t left join segment s on s.id = t.segment) l",
        );
        let (changes, since) = self.first(stmt).await?.unwrap_or_default();
        Ok(IndexLag { changes: count(changes), since })
    }
}
