//! Looking things up: which documents match, newest first, and what they are.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::super::read::{SEGMENT, segment};
use super::super::{BULK, Db, DbError, Row, SegmentRow, Stmt, item, sql};
use super::number::place;
use super::{Doc, account_word};
use crate::clock::Time;

/// A word, or several in a row; the last may be the beginning of a longer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needle {
    /// As they are indexed: letters and digits only.
    pub words: Vec<String>,
    /// Whether the last word may go on.
    pub prefix: bool,
}

/// What to look up.
#[derive(Debug, Clone, Default)]
pub struct Lookup {
    /// Each must occur, in any of its alternatives.
    pub all: Vec<Vec<Needle>>,
    /// None may occur.
    pub none: Vec<Needle>,
    /// What the filters go by: each must be there, in any of its alternatives.
    pub marks: Vec<Vec<Needle>>,
    /// Only of this account.
    pub account: Option<i64>,
    /// Ended at or after, to the second.
    pub from: Option<Time>,
    /// Ended before, to the second.
    pub to: Option<Time>,
    /// On Postgres, how many of the newest documents are gone through before the index is asked, step by step; as suits
    /// the query where nothing is said.
    pub walk: Option<Vec<i64>>,
}

/// A document that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundRow {
    /// The document.
    pub doc: Doc,
    /// Its item; code 3 is the agent's notes.
    pub item: i64,
    /// When the segment ended.
    pub ended: Option<Time>,
}

/// How far the index is behind the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexLag {
    /// Changes that it has not followed.
    pub changes: u64,
    /// When the first of them came, as far as is known; `None` where there is none.
    pub since: Option<Time>,
}

impl Lookup {
    /// The numbers that documents may have on SQLite, where none is further than `spread` behind its place: from the first on,
    /// before the second.
    fn places(&self, before: Option<Doc>, spread: i64) -> (i64, i64) {
        let end = self.to.map_or(i64::MAX, |to| place(to) + 1 + spread);
        (self.from.map_or(0, place), before.map_or(end, |before| before.0.min(end)))
    }

    /// The numbers that documents may have on Postgres: from the first on, before the second.
    fn bounds(&self, before: Option<Doc>) -> (i64, i64) {
        let first = self.from.map_or(0, |from| Doc::first_at(from).0);
        // The second in which it ends may hold some that ended before it.
        let end = self.to.map_or(i64::MAX, |to| Doc::first_at(to.plus_millis(1000)).0);
        (first, before.map_or(end, |before| before.0.min(end)))
    }

    pub(super) fn clauses(&self) -> Vec<Vec<Needle>> {
        let account = self.account.map(|account| vec![Needle { words: vec![account_word(account)], prefix: false }]);
        account.into_iter().chain(self.marks.iter().chain(&self.all).cloned()).collect()
    }
}

/// As FTS5 reads it.
fn fts(lookup: &Lookup) -> String {
    let needle = |needle: &Needle| format!("\"{}\"{}", needle.words.join(" "), if needle.prefix { " *" } else { "" });
    let choice = |choice: &[Needle]| format!("({})", choice.iter().map(needle).collect::<Vec<_>>().join(" OR "));
    let clauses: Vec<String> = lookup.clauses().iter().map(|clause| choice(clause)).collect();
    let mut text = format!("({})", clauses.join(" AND "));
    if !lookup.none.is_empty() {
        let _ = write!(text, " NOT {}", choice(&lookup.none));
    }
    text
}

pub(super) fn docs(rows: &[Row]) -> Result<Vec<Doc>, DbError> {
    rows.iter().map(|row| row.int(0).map(Doc)).collect()
}

impl Db {
    /// The newest documents that match, those with greater numbers first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn look_up(&self, lookup: &Lookup, before: Option<Doc>, limit: usize) -> Result<Vec<Doc>, DbError> {
        if matches!(self, Db::Postgres(_)) {
            return self.look_up_postgres(lookup, lookup.bounds(before), limit).await;
        }
        let spread = if lookup.to.is_some() { self.spread().await? } else { 0 };
        let bounds = lookup.places(before, spread);
        let stmt = sql("select rowid from search_text where search_text match $1 and rowid >= $2 and rowid < $3
             order by rowid desc limit $4");
        docs(&self.all(stmt.bind(fts(lookup)).bind(bounds.0).bind(bounds.1).bind(limit)).await?)
    }

    /// What these documents are, in the same order; those whose segment is gone are left out.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn found(&self, docs: &[Doc]) -> Result<Vec<FoundRow>, DbError> {
        if matches!(self, Db::Sqlite(_)) {
            return self.found_by_number(docs).await;
        }
        let highest = self.first(sql("select max(id) from segment")).await?;
        let highest = highest.map(|row| row.maybe_int(0)).transpose()?.flatten().unwrap_or(0) * 4 + 3;
        let mut segments: Vec<i64> =
            docs.iter().flat_map(|doc| doc.items(highest)).map(|item| item.div_euclid(4)).collect();
        segments.sort_unstable();
        segments.dedup();
        let mut ends: HashMap<i64, Time> = HashMap::with_capacity(segments.len());
        for part in segments.chunks(BULK) {
            let stmt = Stmt::list("select id, ended from segment where id in ", Vec::new(), part.iter().copied(), "");
            for row in self.all(stmt).await? {
                ends.insert(row.int(0)?, row.time(1)?);
            }
        }
        let found = |doc: &Doc| {
            doc.items(highest).find_map(|item| {
                let ended = *ends.get(&item.div_euclid(4))?;
                (Doc::of(item, ended) == *doc).then_some(FoundRow { doc: *doc, item, ended: ended.known() })
            })
        };
        Ok(docs.iter().filter_map(found).collect())
    }

    async fn found_by_number(&self, docs: &[Doc]) -> Result<Vec<FoundRow>, DbError> {
        let mut found = HashMap::with_capacity(docs.len());
        for part in docs.chunks(BULK) {
            let numbers = part.iter().map(|doc| doc.0);
            let head = "select d.number, d.item, s.ended from search_doc d join segment s on s.id = d.item / 4 where d.number in ";
            for row in self.all(Stmt::list(head, Vec::new(), numbers, "")).await? {
                let doc = Doc(row.int(0)?);
                found.insert(doc, FoundRow { doc, item: row.int(1)?, ended: row.time(2)?.known() });
            }
        }
        Ok(docs.iter().filter_map(|doc| found.get(doc).copied()).collect())
    }

    /// The newest version of each of these items that has a body: its version and the body as received.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn newest_bodies(&self, items: &[i64]) -> Result<BTreeMap<i64, (i64, Vec<u8>)>, DbError> {
        let mut bodies = BTreeMap::new();
        for part in items.chunks(BULK) {
            let stmt = Stmt::list(
                "select item, version, outcome, codec, body from artifact where item in ",
                Vec::new(),
                part.iter().copied(),
                " order by item, version",
            );
            let mut newest = BTreeMap::new();
            for row in self.all(stmt).await? {
                newest.insert(row.int(0)?, row);
            }
            for (item, row) in newest.into_iter().filter(|(_, row)| row.int(2).is_ok_and(|outcome| outcome == 0)) {
                // What is damaged is found by `verify`, not by its words.
                if let Ok(body) = item::unpack_text(row.int(3)?, row.bytes(4)?) {
                    bodies.insert(item, (row.int(1)?, body));
                }
            }
        }
        Ok(bodies)
    }

    /// How many bytes reading the body of each of these items takes: those of all its versions as received.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn body_sizes(&self, items: &[i64]) -> Result<BTreeMap<i64, u64>, DbError> {
        let mut sizes = BTreeMap::<i64, u64>::new();
        for part in items.chunks(BULK) {
            let head = "select item, size from artifact where item in ";
            for row in self.all(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await? {
                *sizes.entry(row.int(0)?).or_default() += row.count(1)?;
            }
        }
        Ok(sizes)
    }

    /// These segments, by number.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segments_of(&self, keys: &[i64]) -> Result<BTreeMap<i64, SegmentRow>, DbError> {
        let mut segments = BTreeMap::new();
        for part in keys.chunks(BULK) {
            let head = format!("select {SEGMENT} from segment s join account a on a.id = s.account where s.id in ");
            for row in self.all(Stmt::list(&head, Vec::new(), part.iter().copied(), "")).await? {
                let segment = segment(&row)?;
                segments.insert(segment.key, segment);
            }
        }
        Ok(segments)
    }

    /// How many changes the index has not followed yet.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_behind(&self) -> Result<u64, DbError> {
        Ok(self.index_lag().await?.changes)
    }

    /// How far the index is behind the archive: one look at each account, and one more at those that are behind.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_lag(&self) -> Result<IndexLag, DbError> {
        // A sum of BIGINT is NUMERIC on Postgres. What was erased since has no time; the next one that is left has.
        let stmt = sql(
            "select cast(sum(l.changes) as bigint), min(l.since) from (
             select a.feed - coalesce(c.feed, 0) as changes,
             (select x.fetched from artifact x where x.account = a.id and x.feed > coalesce(c.feed, 0) order by x.feed limit 1) as since
             from account a left join search_cursor c on c.account = a.id where a.feed > coalesce(c.feed, 0)
             union all select count(*), min(s.changed) from search_todo t left join segment s on s.id = t.segment) l",
        );
        let Some(row) = self.first(stmt).await? else { return Ok(IndexLag::default()) };
        Ok(IndexLag { changes: row.count(0)?, since: row.maybe_time(1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needle(words: &[&str], prefix: bool) -> Needle {
        Needle { words: words.iter().map(|word| (*word).to_owned()).collect(), prefix }
    }

    #[test]
    fn sqlite_gets_the_query_in_its_own_tongue() {
        let lookup = Lookup {
            all: vec![vec![needle(&["late", "ref"], true), needle(&["soon"], false)]],
            none: vec![needle(&["ok"], false)],
            account: Some(7),
            marks: vec![vec![needle(&["\u{e005}9"], false), needle(&["\u{e006}jane", "\u{e006}doe"], false)]],
            ..Lookup::default()
        };
        assert_eq!(
            fts(&lookup),
            "((\"\u{e000}7\") AND (\"\u{e005}9\" OR \"\u{e006}jane \u{e006}doe\") AND (\"late ref\" * OR \"soon\")) NOT (\"ok\")"
        );
    }
}
