//! Neighbours among short words, as words of the index on Postgres.
//!
//! Pure. Its index does not know where words stand: of a phrase it finds all texts that have the words, which is half of an
//! archive where all of them are frequent. Frequent words are short in every language; so each two short ones that stand
//! next to one another are a word of the index too.

use super::{is_mark, is_word};

/// Marks a pair; no text has it.
const PAIR: char = '\u{e009}';
/// Letters of a word that counts as short.
const SHORT: usize = 5;

/// The word for these two next to one another; `None` where one of them is long.
pub(super) fn pair(first: &str, second: &str) -> Option<String> {
    let short = |word: &str| is_word(word) && !is_mark(word) && word.chars().nth(SHORT).is_none();
    (short(first) && short(second)).then(|| format!("{PAIR}{first}_{second}"))
}

/// The words for all of them that stand in a row.
pub(super) fn pairs<'a, W: AsRef<str>>(words: &'a [W]) -> impl Iterator<Item = String> + 'a {
    words.array_windows().filter_map(|[first, second]| pair(first.as_ref(), second.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_short_words_in_a_row_are_one() {
        let words = ["this", "is", "not", "yours", "refund", "it", "\u{2029}", "is", "\u{e006}jane", "doe"];
        let pairs: Vec<String> = pairs(&words).collect();
        assert_eq!(pairs, ["\u{e009}this_is", "\u{e009}is_not", "\u{e009}not_yours"]);
    }
}
