//! Queries of the index for the newest documents that match.
//!
//! Runs are read in the order of their newest documents, a growing number at a time, until no
//! document of the remaining runs can be newer than those found. Matches of a clause are a set of
//! bits, one per document of a run.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::ops::Range;

use super::super::{Arg, Db, DbError, Stmt, Tx, sql};
use super::document_list::DocumentList;
use super::posting::{MAX_RUN_DOCS, PostingChunk, document_of, posting_range};
use super::term_key::{KeySets, exact_key, term_key_sets};
use super::{IndexHit, IndexQuery, SearchTerm, account_facet};
use crate::clock::Time;

/// Runs that are read first, and at most at a time. Each group has twice as many as the one before.
const FIRST_GROUP: usize = 2;
const MAX_GROUP: usize = 64;

/// A set of a run's documents.
struct DocumentSet(Vec<u64>);

impl DocumentSet {
    fn empty() -> DocumentSet {
        DocumentSet(vec![0; MAX_RUN_DOCS / 64])
    }

    fn full() -> DocumentSet {
        DocumentSet(vec![u64::MAX; MAX_RUN_DOCS / 64])
    }

    fn insert(&mut self, document: usize) {
        if let Some(bits) = self.0.get_mut(document / 64) {
            *bits |= 1 << (document % 64);
        }
    }

    /// Combines it with another set, 64 documents at a time.
    fn combine(&mut self, other: &DocumentSet, with: impl Fn(u64, u64) -> u64) {
        for (bits, other) in self.0.iter_mut().zip(&other.0) {
            *bits = with(*bits, *other);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }

    fn contains(&self, document: usize) -> bool {
        self.0.get(document / 64).is_some_and(|bits| bits >> (document % 64) & 1 == 1)
    }
}

/// The documents that have a key of a range, by run and range of postings.
type MatchesByRange = HashMap<(i64, Range<u64>), DocumentSet>;

/// A query, prepared for many runs.
struct QueryPlan {
    /// The alternatives of each clause; the clause that probably matches least comes first.
    clauses: Vec<Vec<KeySets>>,
    excluded: Vec<Range<u64>>,
    from: Option<Time>,
    to: Option<Time>,
    before: Option<IndexHit>,
}

impl QueryPlan {
    fn of(query: &IndexQuery, before: Option<IndexHit>) -> QueryPlan {
        let account = query.account.map(|account| SearchTerm { words: vec![account_facet(account)], is_prefix: false });
        let mut clauses: Vec<Vec<SearchTerm>> = query.required.clone();
        clauses.extend(account.map(|account| vec![account]));
        // Long terms are rare, and a phrase is rarer than its words.
        let length = |term: &SearchTerm| term.words.iter().map(String::len).sum::<usize>();
        clauses.sort_by_key(|clause| std::cmp::Reverse(clause.iter().map(length).min()));
        let key_sets = |clause: &Vec<SearchTerm>| clause.iter().map(term_key_sets).collect();
        QueryPlan {
            clauses: clauses.iter().map(key_sets).collect(),
            excluded: query.excluded.iter().filter_map(exact_key).collect(),
            from: query.from,
            to: query.to,
            before,
        }
    }

    fn is_wanted(&self, hit: IndexHit) -> bool {
        self.from.is_none_or(|from| hit.ended >= from)
            && self.to.is_none_or(|to| hit.ended < to)
            && self.before.is_none_or(|before| hit < before)
    }

    /// The earliest and the latest end time that a hit may have.
    fn bounds(&self) -> (Time, Time) {
        let latest = [self.to, self.before.map(|before| before.ended)].into_iter().flatten().min();
        (self.from.unwrap_or(Time(i64::MIN)), latest.unwrap_or(Time(i64::MAX)))
    }

    /// The documents of these runs that match.
    async fn matches(&self, tx: &mut Tx, runs: &[i64]) -> Result<BTreeMap<i64, DocumentSet>, DbError> {
        let mut matches: BTreeMap<i64, DocumentSet> = runs.iter().map(|run| (*run, DocumentSet::full())).collect();
        for clause in &self.clauses {
            let found = tx.read_ranges(matches.keys().copied(), clause.iter().flatten().flatten()).await?;
            for (run, matches) in &mut matches {
                matches.combine(&match_clause(&found, *run, clause), |one, other| one & other);
            }
            matches.retain(|_, matches| !matches.is_empty());
        }
        let excluded = tx.read_ranges(matches.keys().copied(), self.excluded.iter()).await?;
        for ((run, _), excluded) in &excluded {
            if let Some(matches) = matches.get_mut(run) {
                matches.combine(excluded, |one, other| one & !other);
            }
        }
        Ok(matches)
    }
}

/// The documents of a run that match one of the alternatives.
fn match_clause(found: &MatchesByRange, run: i64, clause: &[KeySets]) -> DocumentSet {
    let mut any = DocumentSet::empty();
    for sets in clause {
        let mut all = DocumentSet::full();
        for set in sets {
            let mut of_set = DocumentSet::empty();
            for matches in set.iter().filter_map(|range| found.get(&(run, posting_range(range)))) {
                of_set.combine(matches, |one, other| one | other);
            }
            all.combine(&of_set, |one, other| one & other);
        }
        any.combine(&all, |one, other| one | other);
    }
    any
}

impl Db {
    /// The newest documents that probably match, in descending order; fewer than `limit` if there
    /// are no more. None that matches is missing. Their texts, end times and segments may have
    /// changed since they were indexed.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn query_index(
        &self,
        query: &IndexQuery,
        before: Option<IndexHit>,
        limit: usize,
    ) -> Result<Vec<IndexHit>, DbError> {
        let plan = QueryPlan::of(query, before);
        let mut snapshot = self.snapshot().await?;
        let tx = &mut snapshot.0;
        let (mut hits, mut pending) = (Vec::new(), BinaryHeap::<IndexHit>::new());
        let ((earliest, latest), mut group) = (plan.bounds(), FIRST_GROUP);
        let mut next = Some((i64::MAX, i64::MAX));
        while let Some((ended, id)) = next {
            let stmt = sql("select last_ended, id from search_run
                 where (last_ended, id) < ($1, $2) and last_ended >= $3 and first_ended <= $4
                 order by last_ended desc, id desc limit $5");
            let stmt = stmt.bind(ended).bind(id).bind(earliest).bind(latest).bind(group);
            let runs: Vec<(i64, i64)> = tx.all(stmt).await?;
            next = runs.last().copied().filter(|_| runs.len() == group);
            group = (group * 2).min(MAX_GROUP);
            let matches = plan.matches(tx, &runs.iter().map(|(_, run)| *run).collect::<Vec<_>>()).await?;
            let head = "select id, documents from search_run where id in ";
            let lists: Vec<(i64, Vec<u8>)> = tx.all(Stmt::list(head, Vec::new(), matches.keys().copied(), "")).await?;
            for (run, documents) in lists {
                let Some(matches) = matches.get(&run) else { continue };
                let documents = DocumentList::decode(&documents);
                let matching = documents.live().filter(|(ordinal, _)| matches.contains(*ordinal));
                pending.extend(matching.map(|(_, hit)| hit).filter(|hit| plan.is_wanted(*hit)));
            }
            // Only the newest can become hits.
            if pending.len() > limit {
                let mut newest = std::mem::take(&mut pending).into_sorted_vec();
                pending = newest.split_off(newest.len() - limit).into();
            }
            // Documents of the next runs did not end later than this.
            while hits.len() < limit
                && let Some(hit) = pending.peek()
                && next.is_none_or(|(ended, _)| hit.ended.0 > ended)
            {
                hits.extend(pending.pop());
            }
            if hits.len() >= limit {
                break;
            }
        }
        snapshot.0.commit().await?;
        Ok(hits)
    }
}

impl Tx {
    /// Reads which documents of these runs have a key in these ranges.
    async fn read_ranges(
        &mut self,
        runs: impl Iterator<Item = i64>,
        ranges: impl Iterator<Item = &Range<u64>>,
    ) -> Result<MatchesByRange, DbError> {
        let ranges: BTreeSet<(u64, u64)> =
            ranges.map(posting_range).map(|postings| (postings.start, postings.end)).collect();
        let of_run = |run: i64| ranges.iter().map(move |(low, high)| vec![run.into(), (*low).into(), Arg::from(*high)]);
        let wanted = runs.flat_map(of_run).collect();
        let tail = if self.is_postgres() { SELECT_CHUNKS_LATERAL } else { SELECT_CHUNKS };
        let stmt = Stmt::rows("with v (run, low, high) as (values ", wanted, tail);
        let rows: Vec<(i64, i64, i64, i64, Vec<u8>)> = self.all(stmt).await?;
        let mut found = MatchesByRange::new();
        for (run, low, high, first, rest) in rows {
            let range = low.cast_unsigned()..high.cast_unsigned();
            let matches = found.entry((run, range.clone())).or_insert_with(DocumentSet::empty);
            let chunk = PostingChunk { first: first.cast_unsigned(), rest };
            let within = chunk.postings().skip_while(|posting| *posting < range.start);
            within.take_while(|posting| *posting < range.end).for_each(|posting| matches.insert(document_of(posting)));
        }
        Ok(found)
    }
}

/// The chunks with the postings of a range: from the last one that begins at or before its start.
const SELECT_CHUNKS: &str = ") select v.run, v.low, v.high, p.first, p.rest from v cross join search_posting p
     where p.run = v.run and p.first < v.high and p.first >= coalesce(
     (select max(q.first) from search_posting q where q.run = v.run and q.first <= v.low), v.low)";
// The same, so that Postgres does not read all postings of a run.
const SELECT_CHUNKS_LATERAL: &str = ") select v.run, v.low, v.high, p.first, p.rest from v cross join lateral
     (select first, rest from search_posting where run = v.run and first < v.high and first >= coalesce(
     (select q.first from search_posting q where q.run = v.run and q.first <= v.low order by q.first desc limit 1), v.low)
     offset 0) p";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_documents_are_combined() {
        let of = |documents: &[usize]| {
            let mut set = DocumentSet::empty();
            documents.iter().for_each(|document| set.insert(*document));
            set
        };
        let mut set = of(&[0, 64, 8191]);
        set.insert(MAX_RUN_DOCS);
        assert!(set.contains(8191) && !set.contains(MAX_RUN_DOCS) && !set.contains(1));
        set.combine(&of(&[64, 65]), |one, other| one & !other);
        assert!(!set.contains(64) && !set.contains(65) && set.contains(0) && !set.is_empty());
        set.combine(&of(&[]), |one, other| one & other);
        assert!(set.is_empty());
    }
}
