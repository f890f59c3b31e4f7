//! Queries of the index: which documents match, newest first, and to which items they belong.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use super::super::segment_reader::SEGMENT_COLUMNS;
use super::super::sql::count;
use super::super::{AccountKey, Db, DbError, SegmentRow, Stmt, item, sql};
use super::sqlite_rowids::preferred_rowid;
use super::{DocId, account_facet};
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
    /// Each clause must match in at least one of its alternatives.
    pub required: Vec<Vec<SearchTerm>>,
    /// None of these may occur.
    pub excluded: Vec<SearchTerm>,
    /// Clauses of the filters. Each must match in at least one of its alternatives.
    pub facets: Vec<Vec<SearchTerm>>,
    /// Only segments of this account.
    pub account: Option<AccountKey>,
    /// Only segments that ended at or after this, with a resolution of one second.
    pub from: Option<Time>,
    /// Only segments that ended before this, with a resolution of one second.
    pub to: Option<Time>,
    /// On Postgres: how many documents each of the first time windows has that are queried, before
    /// larger ones; `None` for the default.
    pub scan_windows: Option<Vec<i64>>,
}

/// A document that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHit {
    /// The document's id.
    pub doc_id: DocId,
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
    /// When the segment ended.
    pub ended: Option<Time>,
}

/// How far the index is behind the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexLag {
    /// Changes that are not indexed yet.
    pub changes: u64,
    /// When the oldest of them was stored, as far as is known; `None` where there is none.
    pub since: Option<Time>,
}

impl IndexQuery {
    /// The range of row ids that documents may have on SQLite, its end exclusive. No row id is more
    /// than `rowid_spread` after the preferred one.
    fn rowid_bounds(&self, before: Option<DocId>, rowid_spread: i64) -> (i64, i64) {
        let end = self.to.map_or(i64::MAX, |to| preferred_rowid(to) + 1 + rowid_spread);
        (self.from.map_or(0, preferred_rowid), before.map_or(end, |before| before.0.min(end)))
    }

    /// The range of ids that documents may have on Postgres, its end exclusive.
    fn doc_id_bounds(&self, before: Option<DocId>) -> (i64, i64) {
        let first = self.from.map_or(0, |from| DocId::first_at(from).0);
        // Some segments may have ended before `to` in its second.
        let end = self.to.map_or(i64::MAX, |to| DocId::first_at(to.plus_millis(1000)).0);
        (first, before.map_or(end, |before| before.0.min(end)))
    }

    pub(super) fn clauses(&self) -> Vec<Vec<SearchTerm>> {
        let account =
            self.account.map(|account| vec![SearchTerm { words: vec![account_facet(account)], is_prefix: false }]);
        account.into_iter().chain(self.facets.iter().chain(&self.required).cloned()).collect()
    }
}

/// The query in the syntax of FTS5.
fn fts5_query(query: &IndexQuery) -> String {
    let phrase = |term: &SearchTerm| format!("\"{}\"{}", term.words.join(" "), if term.is_prefix { " *" } else { "" });
    let any_of =
        |alternatives: &[SearchTerm]| format!("({})", alternatives.iter().map(phrase).collect::<Vec<_>>().join(" OR "));
    let clauses: Vec<String> = query.clauses().iter().map(|clause| any_of(clause)).collect();
    let mut text = format!("({})", clauses.join(" AND "));
    if !query.excluded.is_empty() {
        let _ = write!(text, " NOT {}", any_of(&query.excluded));
    }
    text
}

impl Db {
    /// The newest documents that match, in descending order of their ids.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn query_index(
        &self,
        query: &IndexQuery,
        before: Option<DocId>,
        limit: usize,
    ) -> Result<Vec<DocId>, DbError> {
        if matches!(self, Db::Postgres(_)) {
            return self.query_postgres_index(query, query.doc_id_bounds(before), limit).await;
        }
        let rowid_spread = if query.to.is_some() { self.rowid_spread().await? } else { 0 };
        let bounds = query.rowid_bounds(before, rowid_spread);
        let stmt = sql("select rowid from search_text where search_text match $1 and rowid >= $2 and rowid < $3
             order by rowid desc limit $4");
        self.values(stmt.bind(fts5_query(query)).bind(bounds.0).bind(bounds.1).bind(limit)).await
    }

    /// The items of these documents, in the same order. Documents of deleted segments are left out.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn resolve_doc_ids(&self, doc_ids: &[DocId]) -> Result<Vec<IndexHit>, DbError> {
        if matches!(self, Db::Sqlite(_)) {
            return self.resolve_rowids(doc_ids).await;
        }
        let highest_key: Option<i64> = self.value(sql("select max(id) from segment")).await?.flatten();
        let highest_item = highest_key.unwrap_or(0) * 4 + 3;
        let segments: BTreeSet<i64> =
            doc_ids.iter().flat_map(|doc_id| doc_id.items(highest_item)).map(|item| item.div_euclid(4)).collect();
        let stmt = Stmt::list("select id, ended from segment where id in ", Vec::new(), segments, "");
        let ends: HashMap<i64, Time> = self.all(stmt).await?.into_iter().collect();
        let to_hit = |doc_id: &DocId| {
            doc_id.items(highest_item).find_map(|item| {
                let ended = *ends.get(&item.div_euclid(4))?;
                (DocId::of(item, ended) == *doc_id).then_some(IndexHit { doc_id: *doc_id, item, ended: ended.known() })
            })
        };
        Ok(doc_ids.iter().filter_map(to_hit).collect())
    }

    async fn resolve_rowids(&self, doc_ids: &[DocId]) -> Result<Vec<IndexHit>, DbError> {
        let head =
            "select d.number, d.item, s.ended from search_doc d join segment s on s.id = d.item / 4 where d.number in ";
        let stmt = Stmt::list(head, Vec::new(), doc_ids.iter().map(|doc_id| doc_id.0), "");
        let rows: Vec<(DocId, i64, Time)> = self.all(stmt).await?;
        let to_hit =
            |(doc_id, item, ended): (DocId, i64, Time)| (doc_id, IndexHit { doc_id, item, ended: ended.known() });
        let hits: HashMap<DocId, IndexHit> = rows.into_iter().map(to_hit).collect();
        Ok(doc_ids.iter().filter_map(|doc_id| hits.get(doc_id).copied()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn term(words: &[&str], is_prefix: bool) -> SearchTerm {
        SearchTerm { words: words.iter().map(|word| (*word).to_owned()).collect(), is_prefix }
    }

    #[test]
    fn sqlite_gets_an_fts5_query() {
        let query = IndexQuery {
            required: vec![vec![term(&["late", "ref"], true), term(&["soon"], false)]],
            excluded: vec![term(&["ok"], false)],
            account: Some(AccountKey(7)),
            facets: vec![vec![term(&["\u{e005}9"], false), term(&["\u{e006}jane", "\u{e006}doe"], false)]],
            ..IndexQuery::default()
        };
        assert_eq!(
            fts5_query(&query),
            "((\"\u{e000}7\") AND (\"\u{e005}9\" OR \"\u{e006}jane \u{e006}doe\") AND (\"late ref\" * OR \"soon\")) NOT (\"ok\")"
        );
    }
}
