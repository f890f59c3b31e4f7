//! Two words of a name in a row, as a word of the index on Postgres.
//!
//! Pure. Its index does not know where words stand: of a name it finds all who have either part of it, which may be half of
//! an archive. Names are short and few: so each two words of one are a word of the index too.

use super::is_mark;

/// Marks a pair; no text has it.
const PAIR: char = '\u{e009}';

/// The word for these two next to one another; `None` where they are not marks of one kind.
fn pair(first: &str, second: &str) -> Option<String> {
    let alike = is_mark(first) && first.chars().next() == second.chars().next();
    alike.then(|| format!("{PAIR}{first}_{}", second.chars().skip(1).collect::<String>()))
}

/// The words for all of them that stand in a row.
pub(super) fn pairs<'a, W: AsRef<str>>(words: &'a [W]) -> impl Iterator<Item = String> + 'a {
    words.array_windows().filter_map(|[first, second]| pair(first.as_ref(), second.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_marks_of_one_kind_in_a_row_are_one() {
        let words = ["\u{e000}7", "\u{e006}jane", "\u{e006}van", "\u{e006}doe", "\u{2029}", "\u{e006}bob", "is", "it"];
        let pairs: Vec<String> = pairs(&words).collect();
        assert_eq!(pairs, ["\u{e009}\u{e006}jane_van", "\u{e009}\u{e006}van_doe"]);
    }
}
