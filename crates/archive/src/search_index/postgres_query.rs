//! Queries of the Postgres index for the newest matching documents.
//!
//! A GIN index returns all matches before it knows which are the newest. So the query first covers
//! a time window with the newest documents, then longer windows before it, and finally the rest.
//! Matches by key (`bigram_keys.rs`) are approximate; they are verified with the chunk's words
//! last, because those are long and stored out of line.

use std::fmt::Write as _;

use super::super::{Arg, Db, DbError, Stmt, sql};
use super::name_bigrams::name_bigrams;
use super::{DocId, IndexQuery, SearchTerm, bigram_keys, time_partitions};

/// Chunks in the first window.
const FIRST_WINDOW_DOCS: &[i64] = &[1000];
/// Factor by which the next window is longer, where the previous one had no match.
const EMPTY_WINDOW_GROWTH: i64 = 16;
/// Smallest and largest factor where it had matches. The factor is chosen so that the window should
/// contain enough matches.
const WINDOW_GROWTH_LIMITS: (i64, i64) = (3, 64);

/// Matches per thousand chunks from which prefixes are matched by their keys only. The second value
/// is for prefixes that are not part of a phrase: their keys are less selective.
const FREQUENT_PER_MILLE: (i64, i64) = (10, 250);

/// Planner settings of the transaction. The planner underestimates the cost of reading a chunk's
/// words, and does not know that the first matches suffice. `work_mem` keeps the bitmap exact: a
/// lossy bitmap would recheck all rows of a page.
const PLANNER_SETTINGS: &str =
    "select set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true),
     set_config('jit', 'off', true), set_config('work_mem', '64MB', true)";

/// How exactly the index query matches the search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MatchMode {
    /// Exactly, with positions.
    Exact,
    /// What a GIN index can answer without rechecking: the longest word of a phrase, the rest by
    /// keys. Exclusions that are not exact are left out.
    Approximate,
    /// The same, with prefixes matched by their keys only. For a prefix the index collects all
    /// words that begin with it in the whole archive, which does not pay where matches are
    /// frequent.
    ApproximateNoPrefixes,
}

/// The approximate tsquery of a term; `None` where its keys suffice.
fn approximate_term(term: &SearchTerm, mode: MatchMode, is_alone: bool) -> Option<String> {
    let (last, whole) = match term.words.split_last() {
        Some((last, whole)) if term.is_prefix => (Some(last), whole),
        _ => (None, term.words.as_slice()),
    };
    let mut parts: Vec<String> = name_bigrams(whole).map(|pair| format!("'{pair}'")).collect();
    if parts.is_empty() {
        parts.extend(whole.iter().max_by_key(|word| word.len()).map(|word| format!("'{word}'")));
    }
    // A prefix may have no keys: where it is short, or one of several alternatives.
    let has_no_keys = || !is_alone || bigram_keys::alternative_keys(std::slice::from_ref(term)).is_empty();
    let is_needed = |last: &&String| {
        (whole.is_empty() && has_no_keys()) || (mode == MatchMode::Approximate && !bigram_keys::is_exact_prefix(last))
    };
    parts.extend(last.filter(is_needed).map(|last| format!("'{last}':*")));
    (!parts.is_empty()).then(|| format!("({})", parts.join(" & ")))
}

/// The tsquery of a clause; `None` where its keys suffice.
fn tsquery(alternatives: &[SearchTerm], mode: MatchMode) -> Option<String> {
    if mode == MatchMode::Exact {
        return Some(exact_tsquery(alternatives));
    }
    let parts: Option<Vec<String>> =
        alternatives.iter().map(|term| approximate_term(term, mode, alternatives.len() == 1)).collect();
    parts.map(|parts| format!("({})", parts.join(" | ")))
}

/// The exact tsquery of a clause.
fn exact_tsquery(alternatives: &[SearchTerm]) -> String {
    let term = |term: &SearchTerm| {
        let words: Vec<String> = term.words.iter().map(|word| format!("'{word}'")).collect();
        format!("({}{})", words.join(" <-> "), if term.is_prefix { ":*" } else { "" })
    };
    format!("({})", alternatives.iter().map(term).collect::<Vec<_>>().join(" | "))
}

/// Whether the index answers the clause exactly, without a recheck.
fn is_exact_in_index(alternatives: &[SearchTerm]) -> bool {
    alternatives.iter().all(|term| match term.words.as_slice() {
        [word] => !term.is_prefix || alternatives.len() == 1 && bigram_keys::is_exact_prefix(word),
        [_, _] => !term.is_prefix && name_bigrams(&term.words).next().is_some(),
        _ => false,
    })
}

/// Whether the index can exclude documents with this term exactly.
fn is_single_word(term: &SearchTerm) -> bool {
    term.words.len() == 1 && !term.is_prefix
}

/// A query, or a part of one.
#[derive(Clone, Copy)]
struct Condition<'a> {
    clauses: &'a [Vec<SearchTerm>],
    excluded: &'a [SearchTerm],
}

impl Condition<'_> {
    /// The whole condition as one tsquery, for documents of one chunk.
    fn tsquery(self, mode: MatchMode) -> String {
        let mut parts: Vec<String> = self.clauses.iter().filter_map(|clause| tsquery(clause, mode)).collect();
        let excluded = self.excluded.iter().filter(|term| mode == MatchMode::Exact || is_single_word(term));
        parts.extend(excluded.map(|term| format!("!{}", exact_tsquery(std::slice::from_ref(term)))));
        parts.join(" & ")
    }

    fn is_exact_in_index(self) -> bool {
        self.clauses.iter().all(|clause| is_exact_in_index(clause)) && self.excluded.iter().all(is_single_word)
    }
}

/// Builds the statement and collects its arguments. The range of `doc` is an expression (`doc + 0`)
/// without an index: otherwise the planner would scan that index and read the words of every
/// document in the range.
struct QueryBuilder {
    args: Vec<Arg>,
    mode: MatchMode,
    /// Keys of the time partitions to search; empty for all.
    partition_keys: Vec<i32>,
}

impl QueryBuilder {
    fn arg(&mut self, text: String, sql_type: &str) -> String {
        self.args.push(text.into());
        format!("cast(cast(${} as text) as {sql_type})", self.args.len())
    }

    /// Selects the matching chunks, the newest first: of documents with one chunk, or with several
    /// (`multi_chunk`).
    fn matching_chunks(&mut self, multi_chunk: u8, condition: Condition) -> String {
        let mut conditions = format!("many = {multi_chunk} and doc + 0 >= $1 and doc + 0 < $2");
        let words = condition.tsquery(self.mode);
        if !words.is_empty() {
            let _ = write!(conditions, " and words @@ {}", self.arg(words, "tsquery"));
        }
        let sets: Vec<Vec<i32>> =
            condition.clauses.iter().flat_map(|clause| bigram_keys::alternative_keys(clause)).collect();
        let (single, any): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| set.len() == 1);
        if !single.is_empty() {
            let _ = write!(
                conditions,
                " and keys @> {}",
                self.arg(bigram_keys::int_array_literal(single.concat()), "integer[]")
            );
        }
        for set in any.into_iter().chain([self.partition_keys.clone()]).filter(|set| !set.is_empty()) {
            let _ = write!(conditions, " and keys && {}", self.arg(bigram_keys::int_array_literal(set), "integer[]"));
        }
        if condition.is_exact_in_index() {
            return format!("select doc from search_block where {conditions} order by doc desc");
        }
        let exact_tsquery = self.arg(condition.tsquery(MatchMode::Exact), "tsquery");
        // Words are read from the newest chunk on, and only as many as needed. `offset 0` keeps the
        // planner from reading them earlier, and `ts_match_vq`, the function behind `@@`, does not
        // use an index.
        format!(
            "select doc from (select doc, words from search_block where {conditions} order by doc desc offset 0) b
             where ts_match_vq(words, {exact_tsquery}) order by doc desc"
        )
    }
}

/// The statement for a range of ids. A document of one chunk must meet all conditions in it. A
/// document of several chunks, which is rare, may meet each condition in another chunk, and
/// excluded terms must be in none.
fn build_statement(
    query: &IndexQuery,
    (first, end): (i64, i64),
    limit: usize,
    mode: MatchMode,
    is_partial: bool,
) -> Stmt {
    let partition_keys = if is_partial { time_partitions::covering_keys(first, end) } else { Vec::new() };
    let mut builder = QueryBuilder { args: vec![first.into(), end.into(), limit.into()], mode, partition_keys };
    let (clauses, excluded) = (query.clauses(), query.excluded.as_slice());
    let single = builder.matching_chunks(0, Condition { clauses: &clauses, excluded });
    let mut multi_chunk = String::new();
    let excluded = (!excluded.is_empty()).then(|| excluded.to_vec());
    for (nth, clause) in clauses.iter().chain(&excluded).enumerate() {
        let chunks = builder.matching_chunks(1, Condition { clauses: std::slice::from_ref(clause), excluded: &[] });
        let join = match nth {
            0 => "",
            nth if nth == clauses.len() => " except ",
            _ => " intersect ",
        };
        let _ = write!(multi_chunk, "{join}({chunks})");
    }
    let text = format!(
        "select doc from (
         ({single} limit $3)
         union all (select distinct doc from ({multi_chunk}) m order by doc desc limit $3)) f order by doc desc limit $3"
    );
    builder.args.into_iter().fold(Stmt::built(text), |stmt, arg| stmt.bind(arg))
}

/// The factor by which the next window is longer than the last one, which had `hits` of the
/// `wanted` matches.
fn window_growth(wanted: usize, hits: usize) -> i64 {
    match i64::try_from(wanted.saturating_mul(3) / (hits * 2).max(1)) {
        _ if hits == 0 => EMPTY_WINDOW_GROWTH,
        Ok(times) => times.clamp(WINDOW_GROWTH_LIMITS.0, WINDOW_GROWTH_LIMITS.1),
        Err(_) => WINDOW_GROWTH_LIMITS.1,
    }
}

/// How to match prefixes, where `hits` of about `chunks` chunks matched.
fn prefix_mode(query: &IndexQuery, hits: usize, chunks: i64) -> MatchMode {
    let is_single_prefix = |clause: &Vec<SearchTerm>| clause.iter().any(|term| term.is_prefix && term.words.len() == 1);
    let frequent =
        if query.required.iter().any(is_single_prefix) { FREQUENT_PER_MILLE.1 } else { FREQUENT_PER_MILLE.0 };
    let rate = i64::try_from(hits).unwrap_or(i64::MAX).saturating_mul(1000) / chunks.max(1);
    if rate >= frequent { MatchMode::ApproximateNoPrefixes } else { MatchMode::Approximate }
}

impl Db {
    /// The newest matching documents, in descending order of their ids.
    pub(super) async fn query_postgres_index(
        &self,
        query: &IndexQuery,
        (mut first, mut end): (i64, i64),
        limit: usize,
    ) -> Result<Vec<DocId>, DbError> {
        let bounds: Option<(Option<i64>, Option<i64>)> =
            self.first(sql("select min(doc), max(doc) from search_block")).await?;
        let Some((Some(oldest), Some(newest))) = bounds else { return Ok(Vec::new()) };
        (first, end) = (first.max(oldest), end.min(newest.saturating_add(1)));
        let mut found: Vec<DocId> = Vec::new();
        let (mut last, mut ids_per_chunk) = (None, 1);
        for window in query.scan_windows.as_deref().unwrap_or(FIRST_WINDOW_DOCS) {
            let stmt = sql("select min(doc), count(*) from (select doc from search_block where doc >= $1 and doc < $2
                 order by doc desc limit $3) w");
            let scanned: Option<(Option<i64>, i64)> = self.first(stmt.bind(first).bind(end).bind(*window)).await?;
            let Some((Some(low), chunk_count)) = scanned else { return Ok(found) };
            let before = found.len();
            found.extend(
                self.run_planned(build_statement(
                    query,
                    (low, end),
                    limit - before,
                    MatchMode::ApproximateNoPrefixes,
                    true,
                ))
                .await?,
            );
            if found.len() >= limit || chunk_count < *window {
                return Ok(found);
            }
            last = Some((end - low, found.len() - before));
            ids_per_chunk = (end - low) / chunk_count.max(1);
            end = low;
        }
        while let Some((length, hits)) = last {
            let low =
                time_partitions::range_start(end, length.saturating_mul(window_growth(limit - found.len(), hits)));
            // The rest would be smaller than this window: query it together with the rest.
            if low.saturating_sub(end - low) <= first {
                break;
            }
            let before = found.len();
            let mode = prefix_mode(query, hits, length / ids_per_chunk.max(1));
            found.extend(self.run_planned(build_statement(query, (low, end), limit - before, mode, true)).await?);
            if found.len() >= limit {
                return Ok(found);
            }
            last = Some((end - low, found.len() - before));
            end = low;
        }
        // Time partitions do not pay for more than half of the archive.
        let is_partial = (end - first).saturating_mul(2) < newest - oldest;
        let mode = last
            .map_or(MatchMode::Approximate, |(length, hits)| prefix_mode(query, hits, length / ids_per_chunk.max(1)));
        found.extend(
            self.run_planned(build_statement(query, (first, end), limit - found.len(), mode, is_partial)).await?,
        );
        Ok(found)
    }

    async fn run_planned(&self, stmt: Stmt) -> Result<Vec<DocId>, DbError> {
        let mut tx = self.begin().await?;
        tx.run(sql(PLANNER_SETTINGS)).await?;
        let found = tx.values(stmt).await?;
        tx.commit().await?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(words: &[&str], is_prefix: bool) -> SearchTerm {
        SearchTerm { words: words.iter().map(|word| (*word).to_owned()).collect(), is_prefix }
    }

    #[test]
    fn the_index_query_never_excludes_a_match() {
        let clauses = [vec![term(&["late", "refu"], true), term(&["soon"], false)]];
        let excluded = [term(&["ok"], false), term(&["not", "now"], false), term(&["ref"], true)];
        let condition = Condition { clauses: &clauses, excluded: &excluded };
        let exact_tsquery = "(('late' <-> 'refu':*) | ('soon')) & !(('ok')) & !(('not' <-> 'now')) & !(('ref':*))";
        assert_eq!(condition.tsquery(MatchMode::Exact), exact_tsquery);
        assert_eq!(condition.tsquery(MatchMode::Approximate), "(('late' & 'refu':*) | ('soon')) & !(('ok'))");
        assert_eq!(condition.tsquery(MatchMode::ApproximateNoPrefixes), "(('late') | ('soon')) & !(('ok'))");
        let tsquery_of = |term: SearchTerm, mode| tsquery(&[term], mode).unwrap_or_default();
        assert_eq!(tsquery_of(term(&["it", "is", "not"], false), MatchMode::Approximate), "(('not'))");
        assert_eq!(tsquery_of(term(&["refu"], true), MatchMode::Approximate), "(('refu':*))");
        assert_eq!(
            (
                tsquery_of(term(&["refu"], true), MatchMode::ApproximateNoPrefixes),
                tsquery_of(term(&["ref"], true), MatchMode::Approximate)
            ),
            Default::default()
        );
        assert_eq!(
            tsquery(&[term(&["refu"], true), term(&["a"], false)], MatchMode::ApproximateNoPrefixes).unwrap(),
            "(('refu':*) | ('a'))"
        );
        let name = term(&["\u{e006}jane", "\u{e006}doe"], false);
        assert_eq!(tsquery_of(name.clone(), MatchMode::Approximate), "(('\u{e009}\u{e006}jane_doe'))");
        let is_exact = |term: SearchTerm| is_exact_in_index(&[term]);
        assert!(is_exact(name) && is_exact(term(&["ref"], true)) && is_exact(term(&["refund"], false)));
        assert!(!is_exact(term(&["refu"], true)) && !is_exact(term(&["not", "now"], false)));
        assert!(!is_exact_in_index(&[term(&["ref"], true), term(&["a"], false)]) && !condition.is_exact_in_index());
    }
}
