//! How Postgres is asked for the newest documents that match.
//!
//! Its index finds all that match before it knows which are the newest, and of a phrase only those that have its words. So
//! the newest documents are gone through first, one after the other; where too few of them match, the index is asked for
//! those of the time before, then of a longer time before that, and at last for all that is left. A phrase is compared with
//! a block's sketch before the block's words are read: they are long, and lie elsewhere. Of two short words in a row the
//! index knows (`neighbours.rs`).

use super::super::{Arg, Db, DbError, Stmt, sql};
use super::look::docs;
use super::neighbours::pairs;
use super::sketch::condition;
use super::{Doc, Lookup, Needle, buckets};

/// Blocks that are gone through before the index is asked: the newest.
const NEWEST: &[i64] = &[1000];
/// How many times as long as the last one a stretch is for which the index is asked, where nothing was found in that.
const LONGER: i64 = 16;
/// The same where something was: as long as should be enough, by what was found, within these bounds.
const BY_FOUND: (i64, i64) = (3, 64);

/// Matches in the last stretch after which so many are expected in the next that it is gone through for them.
const MANY: usize = 10;

/// The planner does not know what reading a long list of words costs, nor that matches are found soon: it is told the way,
/// for one transaction.
const WALK: &str = "select set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
     set_config('jit', 'off', true)";
/// With enough memory to remember each match by itself, not by the page that it is on: those would be looked at again.
const ASK: &str = "select set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true),
     set_config('jit', 'off', true), set_config('work_mem', '64MB', true)";

/// How closely a query is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sense {
    /// To the letter.
    Exact,
    /// A phrase stands for its words and short neighbours, in any order: what the index can tell. An exclusion must then be
    /// exact or left out.
    Loose,
    /// The same without the beginning in which a phrase ends. The index gathers all words that begin so from all the archive,
    /// which is not worth it where there are many: the sketches tell.
    Looser,
}

fn tsquery(choice: &[Needle], sense: Sense) -> String {
    let join = if sense == Sense::Exact { " <-> " } else { " & " };
    let needle = |needle: &Needle| {
        let whole = needle.words.len() - usize::from(needle.prefix);
        let begun = needle.prefix && (sense != Sense::Looser || whole == 0);
        let words = needle.words.iter().take(if begun { whole + 1 } else { whole });
        let words: Vec<String> = words.map(|word| format!("'{word}'")).collect();
        let mut text = format!("{}{}", words.join(join), if begun { ":*" } else { "" });
        if sense != Sense::Exact {
            pairs(needle.words.get(..whole).unwrap_or_default()).for_each(|pair| text += &format!(" & '{pair}'"));
        }
        format!("({text})")
    };
    format!("({})", choice.iter().map(needle).collect::<Vec<_>>().join(" | "))
}

fn is_phrase(needle: &Needle) -> bool {
    needle.words.len() > 1
}

/// All of a query at once, for documents in one block.
fn whole(clauses: &[Vec<Needle>], none: &[Needle], sense: Sense) -> String {
    let mut parts: Vec<String> = clauses.iter().map(|clause| tsquery(clause, sense)).collect();
    let none = none.iter().filter(|needle| sense == Sense::Exact || !is_phrase(needle));
    parts.extend(none.map(|needle| format!("!{}", tsquery(std::slice::from_ref(needle), sense))));
    parts.join(" & ")
}

/// Puts the statement together, argument by argument.
struct Question {
    args: Vec<Arg>,
    /// How the index is to be asked; where it is not, the documents are gone through.
    asked: Option<Asked>,
}

/// How the index is asked.
#[derive(Clone)]
struct Asked {
    /// Words of the stretches of time that are asked for; none for all.
    buckets: Vec<String>,
    sense: Sense,
}

const PLACE: &str = "doc >= $1 and doc < $2";
/// The same such that no index is used for it: the planner would rather read the words of every document in that range.
const ANYWHERE: &str = "doc + 0 >= $1 and doc + 0 < $2";

impl Question {
    fn query(&mut self, text: String) -> String {
        self.args.push(text.into());
        format!("cast(cast(${} as text) as tsquery)", self.args.len())
    }

    /// That a block matches: by the index where it is asked, by the sketches, and last by its words.
    fn matches(&mut self, clauses: &[Vec<Needle>], loose: String, exact: String) -> String {
        let sketches: Vec<String> = clauses.iter().filter_map(|clause| condition(clause, &mut self.args)).collect();
        let mut parts = Vec::new();
        let same = loose == exact;
        if let Some(asked) = &self.asked {
            let buckets = match asked.buckets.as_slice() {
                [] => String::new(),
                buckets => format!(" & ('{}')", buckets.join("' | '")),
            };
            parts.push(format!("words @@ {}", self.query(format!("{loose}{buckets}"))));
        }
        if self.asked.is_none() || !same {
            // The operator's function is what no index is used for.
            let exact = format!("ts_match_vq(words, {})", self.query(exact));
            parts.push(match sketches.is_empty() {
                true => exact,
                // The order counts, and only `case` has one.
                false => format!("case when {} then {exact} else false end", sketches.join(" and ")),
            });
        }
        parts.join(" and ")
    }
}

/// A document in one block is judged by that; for the few in several, each condition may be met in another one, and what
/// must not occur may in none.
fn statement(lookup: &Lookup, (first, end): (i64, i64), limit: usize, asked: Option<Asked>) -> Stmt {
    let (ask, sense) = (asked.is_some(), asked.as_ref().map_or(Sense::Loose, |asked| asked.sense));
    let mut question = Question { args: vec![first.into(), end.into(), limit.into()], asked };
    let (clauses, none) = (lookup.clauses(), lookup.none.as_slice());
    let (place, is_long) = if ask { (ANYWHERE, "many = 1") } else { (PLACE, "many + 0 = 1") };
    let single = question.matches(&clauses, whole(&clauses, none, sense), whole(&clauses, none, Sense::Exact));
    let mut many = String::new();
    let excluded = (!none.is_empty()).then(|| none.to_vec());
    for (nth, clause) in clauses.iter().chain(&excluded).enumerate() {
        let one = std::slice::from_ref(clause);
        let matches = question.matches(one, tsquery(clause, sense), tsquery(clause, Sense::Exact));
        let join = match nth {
            0 => "",
            nth if nth == clauses.len() => " except ",
            _ => " intersect ",
        };
        many += &format!("{join}select doc from search_block where {is_long} and {place} and {matches}");
    }
    let text = format!(
        "select doc from (
         (select doc from search_block where many = 0 and {place} and {single} order by doc desc limit $3)
         union all (select distinct doc from ({many}) m order by doc desc limit $3)) f order by doc desc limit $3"
    );
    question.args.into_iter().fold(Stmt::built(text), |stmt, arg| stmt.bind(arg))
}

/// How many times as long as the last stretch the next one is, where so many are wanted and the last had so many.
fn longer(wanted: usize, hits: usize) -> i64 {
    match i64::try_from(wanted.saturating_mul(3) / (hits * 2).max(1)) {
        _ if hits == 0 => LONGER,
        Ok(times) => times.clamp(BY_FOUND.0, BY_FOUND.1),
        Err(_) => BY_FOUND.1,
    }
}

impl Db {
    /// The newest that match, those with greater numbers first.
    pub(super) async fn look_up_postgres(
        &self,
        lookup: &Lookup,
        (mut first, mut end): (i64, i64),
        limit: usize,
    ) -> Result<Vec<Doc>, DbError> {
        let bounds = self.first(sql("select min(doc), max(doc) from search_block")).await?;
        let Some(bounds) = bounds else { return Ok(Vec::new()) };
        let (Some(oldest), Some(newest)) = (bounds.maybe_int(0)?, bounds.maybe_int(1)?) else { return Ok(Vec::new()) };
        (first, end) = (first.max(oldest), end.min(newest.saturating_add(1)));
        let mut found: Vec<Doc> = Vec::new();
        let mut last = None;
        for window in lookup.walk.as_deref().unwrap_or(NEWEST) {
            let stmt = sql("select min(doc), count(*) from (select doc from search_block where doc >= $1 and doc < $2
                 order by doc desc limit $3) w");
            let Some(row) = self.first(stmt.bind(first).bind(end).bind(*window)).await? else { return Ok(found) };
            let (Some(low), held) = (row.maybe_int(0)?, row.int(1)?) else { return Ok(found) };
            let before = found.len();
            found.extend(self.told(statement(lookup, (low, end), limit - before, None), WALK).await?);
            if found.len() >= limit || held < *window {
                return Ok(found);
            }
            last = Some((end - low, found.len() - before));
            end = low;
        }
        while let Some((length, hits)) = last {
            let low = end.saturating_sub(length.saturating_mul(longer(limit - found.len(), hits)));
            // What would be left is not worth another question.
            if low.saturating_sub(end - low) <= first {
                break;
            }
            let before = found.len();
            let sense = if hits >= MANY { Sense::Looser } else { Sense::Loose };
            let asked = Asked { buckets: buckets::cover(low, end), sense };
            let stmt = statement(lookup, (low, end), limit - before, Some(asked));
            found.extend(self.told(stmt, ASK).await?);
            if found.len() >= limit {
                return Ok(found);
            }
            last = Some((end - low, found.len() - before));
            end = low;
        }
        // Where it is most of the archive, it is asked for as a whole.
        let part = (end - first).saturating_mul(2) < newest - oldest;
        let buckets = if part { buckets::cover(first, end) } else { Vec::new() };
        let asked = Some(Asked { buckets, sense: Sense::Loose });
        found.extend(self.told(statement(lookup, (first, end), limit - found.len(), asked), ASK).await?);
        Ok(found)
    }

    async fn told(&self, stmt: Stmt, settings: &'static str) -> Result<Vec<Doc>, DbError> {
        let mut tx = self.begin().await?;
        tx.all(sql(settings)).await?;
        let found = docs(&tx.all(stmt).await?)?;
        tx.commit().await?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needle(words: &[&str], prefix: bool) -> Needle {
        Needle { words: words.iter().map(|word| (*word).to_owned()).collect(), prefix }
    }

    #[test]
    fn what_the_index_is_asked_for_lets_all_through_that_match() {
        let all = vec![vec![needle(&["late", "ref"], true), needle(&["soon"], false)]];
        let none = [needle(&["ok"], false), needle(&["not", "now"], false)];
        let begun = [needle(&["it", "is", "lat"], true)];
        assert_eq!(tsquery(&begun, Sense::Looser), "(('it' & 'is' & '\u{e009}it_is'))");
        assert_eq!(tsquery(&[needle(&["lat"], true)], Sense::Looser), "(('lat':*))");
        assert_eq!(tsquery(&begun, Sense::Loose), "(('it' & 'is' & 'lat':* & '\u{e009}it_is'))");
        let exact = "(('late' <-> 'ref':*) | ('soon')) & !(('ok')) & !(('not' <-> 'now'))";
        assert_eq!(whole(&all, &none, Sense::Exact), exact);
        assert_eq!(whole(&all, &none, Sense::Loose), "(('late' & 'ref':*) | ('soon')) & !(('ok'))");
    }
}
