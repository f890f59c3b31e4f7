//! Bigrams of names as additional words of the Postgres index. Pure.
//!
//! A GIN index has no positions: for a name it returns all documents with both of its parts, which
//! may be half of the archive. Names are short and few, so each two adjacent words of a name are
//! also one word of the index.

use super::is_facet;

/// First character of a bigram. It never occurs in texts.
const NAME_BIGRAM_MARKER: char = '\u{e009}';

/// The bigram of two adjacent words; `None` where they are not facets of the same kind.
fn name_bigram(first: &str, second: &str) -> Option<String> {
    let same_kind = is_facet(first) && first.chars().next() == second.chars().next();
    same_kind.then(|| format!("{NAME_BIGRAM_MARKER}{first}_{}", second.chars().skip(1).collect::<String>()))
}

/// The bigrams of all adjacent words.
pub(super) fn name_bigrams<'a, W: AsRef<str>>(words: &'a [W]) -> impl Iterator<Item = String> + 'a {
    words.array_windows().filter_map(|[first, second]| name_bigram(first.as_ref(), second.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_facets_of_one_kind_in_a_row_are_a_bigram() {
        let words = ["\u{e000}7", "\u{e006}jane", "\u{e006}van", "\u{e006}doe", "\u{2029}", "\u{e006}bob", "is", "it"];
        let name_bigrams: Vec<String> = name_bigrams(&words).collect();
        assert_eq!(name_bigrams, ["\u{e009}\u{e006}jane_van", "\u{e009}\u{e006}van_doe"]);
    }
}
