//! Integer keys of a chunk in the Postgres index: for bigrams (two words in a row), word prefixes,
//! and time partitions. They take a third of the space of words. Pure.
//!
//! A GIN index has no positions. For a phrase of frequent words it returns a large part of the
//! archive, and for a prefix it collects the chunks of all words with it. So each bigram and each
//! word prefix has a key. Keys are hashes of few bits: they let some chunks through that do not
//! match, and miss none.

use super::{SearchTerm, is_facet, is_word};

/// Letters of a word in its prefix key.
const PREFIX_LETTERS: usize = 3;
/// Letters of a bigram's second word that a part of its key depends on.
const LONG_PREFIX_LETTERS: usize = 5;
/// Bits of a bigram's key, from high to low: hash of the first word and the second's prefix, of the
/// longer prefix, and of the whole second word.
const BASE_BITS: u32 = 16;
const LONG_PREFIX_BITS: u32 = 2;
const WORD_BITS: u32 = 1;
/// Flags for the kinds of keys; bigrams have none.
const PREFIX_KEY: i32 = 1 << 28;
pub(super) const PARTITION_KEY: i32 = 2 << 28;
/// Prefixes of ASCII letters and digits have exact numbers; other prefixes have a hash of this many
/// bits.
const NON_ASCII_BITS: u32 = 16;

/// The first letters of a word; `None` where it has fewer.
fn prefix_of(word: &str, letters: usize) -> Option<&str> {
    let (at, letter) = word.char_indices().nth(letters - 1)?;
    word.get(..at + letter.len_utf8())
}

/// A hash of these words with `bits` bits.
fn hash_bits(parts: [&str; 2], bits: u32) -> i32 {
    // FNV-1a with a final mix, so that every bit depends on every letter.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts[0].bytes().chain([b' ']).chain(parts[1].bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    i32::try_from(hash >> (64 - bits)).unwrap_or_default()
}

/// The high bits of a bigram's key: they depend on the first word and the second one's prefix.
fn bigram_base(first: &str, prefix: &str) -> i32 {
    hash_bits([first, prefix], BASE_BITS) << LONG_PREFIX_BITS
}

/// The same with the bits of the longer prefix.
fn bigram_prefix(first: &str, prefix: &str, long_prefix: &str) -> i32 {
    (bigram_base(first, prefix) | hash_bits([long_prefix, ""], LONG_PREFIX_BITS)) << WORD_BITS
}

/// The key of a bigram.
fn bigram_key(first: &str, second: &str) -> i32 {
    let prefix = prefix_of(second, PREFIX_LETTERS).unwrap_or(second);
    bigram_prefix(first, prefix, prefix_of(second, LONG_PREFIX_LETTERS).unwrap_or(second))
        | hash_bits(["", second], WORD_BITS)
}

/// The keys that a bigram may have if its second word has this prefix; `None` where the prefix is
/// too short.
fn bigram_prefix_keys(first: &str, second_prefix: &str) -> Option<Vec<i32>> {
    let prefix = prefix_of(second_prefix, PREFIX_LETTERS)?;
    let (low, bits) = match prefix_of(second_prefix, LONG_PREFIX_LETTERS) {
        Some(long_prefix) => (bigram_prefix(first, prefix, long_prefix), WORD_BITS),
        None => (bigram_base(first, prefix) << WORD_BITS, LONG_PREFIX_BITS + WORD_BITS),
    };
    Some((low..low + (1 << bits)).collect())
}

/// The key of a word's prefix, and whether it is exact, without collisions.
fn prefix_key(word: &str) -> Option<(i32, bool)> {
    let prefix = prefix_of(word, PREFIX_LETTERS)?;
    let base36 = prefix.chars().try_fold(0, |number, letter| letter.to_digit(36).map(|digit| number * 36 + digit));
    match base36.and_then(|number| i32::try_from(number).ok()) {
        Some(number) => Some((PREFIX_KEY | number, true)),
        None => Some((PREFIX_KEY | 1 << NON_ASCII_BITS | hash_bits([prefix, ""], NON_ASCII_BITS), false)),
    }
}

/// Whether the key of a prefix identifies it exactly.
pub(super) fn is_exact_prefix(prefix: &str) -> bool {
    prefix_of(prefix, PREFIX_LETTERS) == Some(prefix) && prefix_key(prefix).is_some_and(|(_, is_exact)| is_exact)
}

/// The keys of a chunk's words. A separator is between words that are no bigram.
pub(super) fn index_keys(words: &[&str]) -> Vec<i32> {
    let mut keys = Vec::with_capacity(words.len() * 2);
    let mut previous = None;
    for word in words {
        let word = is_word(word).then_some(*word);
        keys.extend(previous.zip(word).map(|(first, second)| bigram_key(first, second)));
        keys.extend(word.and_then(prefix_key).map(|(key, _)| key));
        previous = word;
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Sets of keys. A chunk with the term has at least one key of each set.
fn term_keys(term: &SearchTerm) -> Vec<Vec<i32>> {
    // Keys cover the text only, not the facets.
    let mut words: Vec<&str> = term.words.iter().map(String::as_str).filter(|word| !is_facet(word)).collect();
    let last = if term.is_prefix { words.pop() } else { None };
    let mut sets: Vec<Vec<i32>> =
        words.array_windows().map(|[first, second]| vec![bigram_key(first, second)]).collect();
    sets.extend(last.and_then(|last| match words.last() {
        Some(word) => bigram_prefix_keys(word, last),
        None => Some(vec![prefix_key(last)?.0]),
    }));
    sets
}

/// The same for alternatives; empty where one of them has no keys.
pub(super) fn alternative_keys(alternatives: &[SearchTerm]) -> Vec<Vec<i32>> {
    if let [term] = alternatives {
        return term_keys(term);
    }
    let few = |term| term_keys(term).into_iter().min_by_key(Vec::len);
    let all: Option<Vec<Vec<i32>>> = alternatives.iter().map(few).collect();
    all.map(|sets| sets.concat()).filter(|set| !set.is_empty()).into_iter().collect()
}

/// Keys as a Postgres array literal.
pub(super) fn int_array_literal(keys: impl IntoIterator<Item = i32>) -> String {
    let (mut text, mut number) = (String::from("{"), itoa::Buffer::new());
    for key in keys {
        text.push_str(if text.len() == 1 { "" } else { "," });
        text.push_str(number.format(key));
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(words: &[&str], is_prefix: bool) -> SearchTerm {
        SearchTerm { words: words.iter().map(|word| (*word).to_owned()).collect(), is_prefix }
    }

    #[test]
    fn no_bigram_or_prefix_is_missed_and_few_false_ones_match() {
        let words: Vec<String> = (0..300).map(|n| format!("{}w{n}", "xyzé".chars().nth(n % 4).unwrap())).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let keys = index_keys(&words);
        let shows = |term: SearchTerm| term_keys(&term).iter().all(|set| set.iter().any(|key| keys.contains(key)));
        for two in words.windows(2) {
            assert!(shows(term(two, false)));
            for letters in 3..=two[1].chars().count() {
                let prefix = prefix_of(two[1], letters).unwrap();
                assert!(shows(term(&[two[0], prefix], true)) && shows(term(&[prefix], true)), "{two:?}");
            }
        }
        let wrong = (0..298).filter(|n| shows(term(&[words[n + 2], words[*n]], false))).count();
        assert!(wrong < 5, "{wrong}");
        let wrong = (0..298).filter(|n| shows(term(&[words[n + 2], "abc"], true))).count();
        assert!(wrong < 25, "{wrong}");
        assert!(!shows(term(&["abc"], true)) && !shows(term(&["äbc"], true)));
    }

    #[test]
    fn a_break_between_speakers_separates() {
        let of = |words: &[&str]| index_keys(words).len();
        assert_eq!((of(&["on"]), of(&["on", "\u{2029}", "to"]), of(&["on", "to"]), of(&["one", "two"])), (0, 0, 1, 3));
    }

    #[test]
    fn alternatives_have_keys_if_each_of_them_has() {
        assert_eq!(alternative_keys(&[term(&["one"], false)]), Vec::<Vec<i32>>::new());
        assert_eq!(alternative_keys(&[term(&["\u{e006}one", "\u{e006}two"], false)]), Vec::<Vec<i32>>::new());
        assert_eq!(alternative_keys(&[term(&["one", "two"], false), term(&["three"], false)]), Vec::<Vec<i32>>::new());
        let sizes =
            |alternatives: &[SearchTerm]| alternative_keys(alternatives).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[term(&["one", "two", "three"], false)]), [1, 1]);
        assert_eq!(sizes(&[term(&["one", "two", "thr"], true)]), [1, 8]);
        assert_eq!(sizes(&[term(&["one", "three"], true)]), [2]);
        assert_eq!(sizes(&[term(&["to", "be", "o"], true)]), [1]);
        assert_eq!(sizes(&[term(&["one", "two", "six"], false), term(&["thr"], true)]), [2]);
    }

    #[test]
    fn three_ascii_letters_are_an_exact_prefix() {
        assert!(
            is_exact_prefix("ref") && !is_exact_prefix("refu") && !is_exact_prefix("éta") && !is_exact_prefix("re")
        );
    }
}
