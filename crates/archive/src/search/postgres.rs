//! How Postgres is asked for the newest documents that match.
//!
//! Its index finds all that match before it knows which are the newest. So it is asked for those of the last hour or so, then
//! of a longer time before that, and at last for all that is left. What it knows by keys (`keys.rs`) is compared with the
//! block's words: they are long, and lie elsewhere, so this is done last.

use std::fmt::Write as _;

use super::super::{Arg, Db, DbError, Stmt, sql};
use super::look::docs;
use super::neighbours::pairs;
use super::{Doc, Lookup, Needle, buckets, keys};

/// How many of the newest blocks are asked for first.
const NEWEST: &[i64] = &[1000];
/// How many times as long as the last one a stretch is, where nothing was found in that.
const LONGER: i64 = 16;
/// The same where something was: as long as should be enough, by what was found, within these bounds.
const BY_FOUND: (i64, i64) = (3, 64);

/// Of a thousand blocks, how many must match so that beginnings are looked for by their keys alone. The second for those
/// that stand by themselves: their keys say less.
const MANY: (i64, i64) = (10, 250);

/// The planner does not know what reading a long list of words costs, nor that matches are found soon: it is told the way,
/// for one transaction. With enough memory to remember each match by itself, not by the page that it is on: those would be
/// looked at again.
const ASK: &str = "select set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true),
     set_config('jit', 'off', true), set_config('work_mem', '64MB', true)";

/// How closely a query is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sense {
    /// To the letter.
    Exact,
    /// What the index can tell: for a phrase stands its longest word, for the rest there are keys. An exclusion must then be
    /// exact or left out.
    Loose,
    /// The same without beginnings. The index gathers all words that begin so from all the archive, which is not worth it
    /// where there are many: their keys tell enough.
    Looser,
}

/// What the index is asked for in place of a needle; `None` where that is left to its keys.
fn worded(needle: &Needle, sense: Sense, alone: bool) -> Option<String> {
    let (last, whole) = match needle.words.split_last() {
        Some((last, whole)) if needle.prefix => (Some(last), whole),
        _ => (None, needle.words.as_slice()),
    };
    let mut parts: Vec<String> = pairs(whole).map(|pair| format!("'{pair}'")).collect();
    if parts.is_empty() {
        parts.extend(whole.iter().max_by_key(|word| word.len()).map(|word| format!("'{word}'")));
    }
    // Keys may tell nothing of a beginning: of a short one, or of one among several choices.
    let untold = || !alone || keys::of_choice(std::slice::from_ref(needle)).is_empty();
    let asked = |last: &&String| (whole.is_empty() && untold()) || (sense == Sense::Loose && !keys::is_known(last));
    parts.extend(last.filter(asked).map(|last| format!("'{last}':*")));
    (!parts.is_empty()).then(|| format!("({})", parts.join(" & ")))
}

/// A choice as the index is asked for it.
fn tsquery(choice: &[Needle], sense: Sense) -> Option<String> {
    if sense == Sense::Exact {
        return Some(exact(choice));
    }
    let parts: Option<Vec<String>> = choice.iter().map(|needle| worded(needle, sense, choice.len() == 1)).collect();
    parts.map(|parts| format!("({})", parts.join(" | ")))
}

/// A choice to the letter.
fn exact(choice: &[Needle]) -> String {
    let needle = |needle: &Needle| {
        let words: Vec<String> = needle.words.iter().map(|word| format!("'{word}'")).collect();
        format!("({}{})", words.join(" <-> "), if needle.prefix { ":*" } else { "" })
    };
    format!("({})", choice.iter().map(needle).collect::<Vec<_>>().join(" | "))
}

/// Whether the index says all there is to say of a choice.
fn is_settled(choice: &[Needle]) -> bool {
    choice.iter().all(|needle| match needle.words.as_slice() {
        [word] => !needle.prefix || choice.len() == 1 && keys::is_known(word),
        [_, _] => !needle.prefix && pairs(&needle.words).next().is_some(),
        _ => false,
    })
}

/// Whether the index can be asked to leave out what has this.
fn is_plain(needle: &Needle) -> bool {
    needle.words.len() == 1 && !needle.prefix
}

/// A query, or a part of one.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    clauses: &'a [Vec<Needle>],
    none: &'a [Needle],
}

impl Wanted<'_> {
    /// All of it at once, for documents in one block.
    fn tsquery(self, sense: Sense) -> String {
        let mut parts: Vec<String> = self.clauses.iter().filter_map(|clause| tsquery(clause, sense)).collect();
        let none = self.none.iter().filter(|needle| sense == Sense::Exact || is_plain(needle));
        parts.extend(none.map(|needle| format!("!{}", exact(std::slice::from_ref(needle)))));
        parts.join(" & ")
    }

    fn is_settled(self) -> bool {
        self.clauses.iter().all(|clause| is_settled(clause)) && self.none.iter().all(is_plain)
    }
}

/// Puts the statement together, argument by argument. A place is asked for such that no index is used for it: the planner
/// would rather read the words of every document in that range.
struct Question {
    args: Vec<Arg>,
    sense: Sense,
    /// Keys of the stretches of time that are asked for; none for all.
    buckets: Vec<i32>,
}

impl Question {
    fn arg(&mut self, text: String, form: &str) -> String {
        self.args.push(text.into());
        format!("cast(cast(${} as text) as {form})", self.args.len())
    }

    /// The matches among those blocks that are `many`, or not, in order of time.
    fn blocks(&mut self, many: u8, wanted: Wanted) -> String {
        let mut conditions = format!("many = {many} and doc + 0 >= $1 and doc + 0 < $2");
        let words = wanted.tsquery(self.sense);
        if !words.is_empty() {
            let _ = write!(conditions, " and words @@ {}", self.arg(words, "tsquery"));
        }
        let sets: Vec<Vec<i32>> = wanted.clauses.iter().flat_map(|clause| keys::of_choice(clause)).collect();
        let (single, any): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| set.len() == 1);
        if !single.is_empty() {
            let _ = write!(conditions, " and keys @> {}", self.arg(keys::array(single.concat()), "integer[]"));
        }
        for set in any.into_iter().chain([self.buckets.clone()]).filter(|set| !set.is_empty()) {
            let _ = write!(conditions, " and keys && {}", self.arg(keys::array(set), "integer[]"));
        }
        if wanted.is_settled() {
            return format!("select doc from search_block where {conditions} order by doc desc");
        }
        let exact = self.arg(wanted.tsquery(Sense::Exact), "tsquery");
        // Words are read one after the other, the newest first, and no more of them than needed: so the planner is kept from
        // looking at them sooner, and the operator is called by a name for which no index is used.
        format!(
            "select doc from (select doc, words from search_block where {conditions} order by doc desc offset 0) b
             where ts_match_vq(words, {exact}) order by doc desc"
        )
    }
}

/// A document in one block is judged by that; for the few in several, each condition may be met in another one, and what
/// must not occur may in none.
fn statement(lookup: &Lookup, (first, end): (i64, i64), limit: usize, sense: Sense, part: bool) -> Stmt {
    let buckets = if part { buckets::cover(first, end) } else { Vec::new() };
    let mut question = Question { args: vec![first.into(), end.into(), limit.into()], sense, buckets };
    let (clauses, none) = (lookup.clauses(), lookup.none.as_slice());
    let single = question.blocks(0, Wanted { clauses: &clauses, none });
    let mut many = String::new();
    let excluded = (!none.is_empty()).then(|| none.to_vec());
    for (nth, clause) in clauses.iter().chain(&excluded).enumerate() {
        let blocks = question.blocks(1, Wanted { clauses: std::slice::from_ref(clause), none: &[] });
        let join = match nth {
            0 => "",
            nth if nth == clauses.len() => " except ",
            _ => " intersect ",
        };
        let _ = write!(many, "{join}({blocks})");
    }
    let text = format!(
        "select doc from (
         ({single} limit $3)
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

/// How beginnings are looked for, where so many of about so many blocks matched.
fn begun(lookup: &Lookup, hits: usize, blocks: i64) -> Sense {
    let by_itself = |clause: &Vec<Needle>| clause.iter().any(|needle| needle.prefix && needle.words.len() == 1);
    let many = if lookup.all.iter().any(by_itself) { MANY.1 } else { MANY.0 };
    let rate = i64::try_from(hits).unwrap_or(i64::MAX).saturating_mul(1000) / blocks.max(1);
    if rate >= many { Sense::Looser } else { Sense::Loose }
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
        let (mut last, mut each) = (None, 1);
        for window in lookup.walk.as_deref().unwrap_or(NEWEST) {
            let stmt = sql("select min(doc), count(*) from (select doc from search_block where doc >= $1 and doc < $2
                 order by doc desc limit $3) w");
            let Some(row) = self.first(stmt.bind(first).bind(end).bind(*window)).await? else { return Ok(found) };
            let (Some(low), held) = (row.maybe_int(0)?, row.int(1)?) else { return Ok(found) };
            let before = found.len();
            found.extend(self.told(statement(lookup, (low, end), limit - before, Sense::Looser, true)).await?);
            if found.len() >= limit || held < *window {
                return Ok(found);
            }
            last = Some((end - low, found.len() - before));
            each = (end - low) / held.max(1);
            end = low;
        }
        while let Some((length, hits)) = last {
            let low = buckets::before(end, length.saturating_mul(longer(limit - found.len(), hits)));
            // What would be left is not worth another question.
            if low.saturating_sub(end - low) <= first {
                break;
            }
            let before = found.len();
            let sense = begun(lookup, hits, length / each.max(1));
            found.extend(self.told(statement(lookup, (low, end), limit - before, sense, true)).await?);
            if found.len() >= limit {
                return Ok(found);
            }
            last = Some((end - low, found.len() - before));
            end = low;
        }
        // Where it is most of the archive, it is asked for as a whole.
        let part = (end - first).saturating_mul(2) < newest - oldest;
        let sense = last.map_or(Sense::Loose, |(length, hits)| begun(lookup, hits, length / each.max(1)));
        found.extend(self.told(statement(lookup, (first, end), limit - found.len(), sense, part)).await?);
        Ok(found)
    }

    async fn told(&self, stmt: Stmt) -> Result<Vec<Doc>, DbError> {
        let mut tx = self.begin().await?;
        tx.all(sql(ASK)).await?;
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
        let clauses = [vec![needle(&["late", "refu"], true), needle(&["soon"], false)]];
        let none = [needle(&["ok"], false), needle(&["not", "now"], false), needle(&["ref"], true)];
        let wanted = Wanted { clauses: &clauses, none: &none };
        let exact = "(('late' <-> 'refu':*) | ('soon')) & !(('ok')) & !(('not' <-> 'now')) & !(('ref':*))";
        assert_eq!(wanted.tsquery(Sense::Exact), exact);
        assert_eq!(wanted.tsquery(Sense::Loose), "(('late' & 'refu':*) | ('soon')) & !(('ok'))");
        assert_eq!(wanted.tsquery(Sense::Looser), "(('late') | ('soon')) & !(('ok'))");
        let alone = |needle: Needle, sense| tsquery(&[needle], sense).unwrap_or_default();
        assert_eq!(alone(needle(&["it", "is", "not"], false), Sense::Loose), "(('not'))");
        assert_eq!(alone(needle(&["refu"], true), Sense::Loose), "(('refu':*))");
        assert_eq!(
            (alone(needle(&["refu"], true), Sense::Looser), alone(needle(&["ref"], true), Sense::Loose)),
            Default::default()
        );
        assert_eq!(
            tsquery(&[needle(&["refu"], true), needle(&["a"], false)], Sense::Looser).unwrap(),
            "(('refu':*) | ('a'))"
        );
        let name = needle(&["\u{e006}jane", "\u{e006}doe"], false);
        assert_eq!(alone(name.clone(), Sense::Loose), "(('\u{e009}\u{e006}jane_doe'))");
        let settled = |needle: Needle| is_settled(&[needle]);
        assert!(settled(name) && settled(needle(&["ref"], true)) && settled(needle(&["refund"], false)));
        assert!(!settled(needle(&["refu"], true)) && !settled(needle(&["not", "now"], false)));
        assert!(!is_settled(&[needle(&["ref"], true), needle(&["a"], false)]) && !wanted.is_settled());
    }
}
