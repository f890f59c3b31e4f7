//! Keys of terms: numbers whose ranges stand for a word, a prefix, or two words in a row. Pure.
//!
//! The high bits of a word's key depend on its first three letters, the next ones on the fourth and
//! the fifth, and the rest on the whole word. So words with the same prefix are in one range of
//! keys, and different words have different keys for all practical purposes. Pairs of adjacent
//! words have short keys, because there are so many: a phrase also matches some texts without it.

use std::ops::Range;

use super::super::AccountKey;
use super::{SearchTerm, account_facet};

/// Bits of a word's key, from high to low.
const PREFIX_BITS: u32 = 16;
const LETTER_BITS: u32 = 4;
const WORD_BITS: u32 = 25;
/// Letters that the first part of a key depends on. A shorter prefix has a key of its own.
const PREFIX_LETTERS: usize = 3;
/// Bits of a pair's key, from high to low: hash of the first word and the second's prefix, of the
/// second's first five letters, and of the whole second word.
const PAIR_PREFIX_BITS: u32 = 16;
const PAIR_LETTER_BITS: u32 = 3;
const PAIR_WORD_BITS: u32 = 3;
/// The keys of pairs come after those of words.
const FIRST_PAIR_KEY: u64 = 1 << (PREFIX_BITS + 2 * LETTER_BITS + WORD_BITS);
/// Bits of a key.
pub(super) const KEY_BITS: u32 = PREFIX_BITS + 2 * LETTER_BITS + WORD_BITS + 1;

/// Precedes a prefix that is shorter than [`PREFIX_LETTERS`]. It never occurs in texts.
const SHORT_PREFIX_MARKER: &str = "\u{e00a}";

/// A word's hashes: of its first three, four and five letters, and of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WordHash {
    prefix: u64,
    four: u64,
    five: u64,
    word: u64,
}

/// Mixes the bits of a number, so that each depends on every other one.
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    number = (number ^ (number >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}

fn high_bits(hash: u64, bits: u32) -> u64 {
    hash >> (64 - bits)
}

/// Up to eight bytes as a number, the first one lowest.
fn number_of(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0, |hash, bytes| mix(hash ^ number_of(bytes)))
}

impl WordHash {
    fn of(word: &str) -> WordHash {
        let bytes = word.as_bytes();
        if word.is_ascii() {
            // The same as below, at half the cost.
            let number = number_of(bytes);
            let [prefix, four, five] = [24, 32, 40].map(|bits| mix(number & ((1 << bits) - 1)));
            let word = if bytes.len() <= 8 { mix(number) } else { hash_bytes(bytes) };
            return WordHash { prefix, four, five, word };
        }
        let letters = |count| word.char_indices().nth(count).and_then(|(at, _)| bytes.get(..at)).unwrap_or(bytes);
        let [prefix, four, five] = [PREFIX_LETTERS, 4, 5].map(|count| hash_bytes(letters(count)));
        WordHash { prefix, four, five, word: hash_bytes(bytes) }
    }

    /// The keys of words that begin with the first `letters` letters; at most the first five count.
    fn key_range(self, letters: usize) -> Range<u64> {
        let key = high_bits(self.prefix, PREFIX_BITS);
        let four = key << LETTER_BITS | high_bits(self.four, LETTER_BITS);
        let five = four << LETTER_BITS | high_bits(self.five, LETTER_BITS);
        let (key, rest) = match letters {
            ..=PREFIX_LETTERS => (key, 2 * LETTER_BITS + WORD_BITS),
            4 => (four, LETTER_BITS + WORD_BITS),
            _ => (five, WORD_BITS),
        };
        key << rest..(key + 1) << rest
    }

    fn key(self) -> u64 {
        self.key_range(usize::MAX).start | high_bits(self.word, WORD_BITS)
    }

    /// The keys of pairs of this word and one that begins with the first `letters` letters of
    /// `second`; at most the first five count.
    fn pair_range(self, second: WordHash, letters: usize) -> Range<u64> {
        let prefix = high_bits(mix(self.word.rotate_left(1) ^ second.prefix), PAIR_PREFIX_BITS);
        let (key, rest) = match letters {
            ..5 => (prefix, PAIR_LETTER_BITS + PAIR_WORD_BITS),
            _ => (prefix << PAIR_LETTER_BITS | high_bits(second.five, PAIR_LETTER_BITS), PAIR_WORD_BITS),
        };
        FIRST_PAIR_KEY + (key << rest)..FIRST_PAIR_KEY + ((key + 1) << rest)
    }

    fn pair_key(self, second: WordHash) -> u64 {
        self.pair_range(second, 5).start | high_bits(second.word, PAIR_WORD_BITS)
    }
}

/// Prefixes of one and two letters, where they contain another letter than ASCII ones: a query may
/// ask for them.
fn short_prefixes(word: &str) -> impl Iterator<Item = &str> {
    word.char_indices()
        .skip(1)
        .take(PREFIX_LETTERS - 1)
        .filter_map(|(at, _)| word.get(..at))
        .filter(|part| !part.is_ascii())
}

fn short_prefix_key(prefix: &str) -> u64 {
    WordHash::of(&format!("{SHORT_PREFIX_MARKER}{prefix}")).key()
}

fn single_key(key: u64) -> Range<u64> {
    key..key + 1
}

/// Collects the keys of a document.
#[derive(Debug, Clone, Default)]
pub struct DocumentKeys {
    pub(super) keys: Vec<u64>,
    previous: Option<WordHash>,
}

impl DocumentKeys {
    /// The key by which a search in one account finds the document.
    pub fn of_account(account: AccountKey) -> DocumentKeys {
        let mut keys = DocumentKeys::default();
        keys.add_word(&account_facet(account));
        keys.add_break();
        keys
    }

    /// Adds the next word. Words consist of letters and digits.
    pub fn add_word(&mut self, word: &str) {
        let hash = WordHash::of(word);
        self.keys.push(hash.key());
        self.keys.extend(self.previous.map(|previous| previous.pair_key(hash)));
        if !word.is_ascii() {
            self.keys.extend(short_prefixes(word).map(short_prefix_key));
        }
        self.previous = Some(hash);
    }

    /// Separates the words before from those after: they are not adjacent.
    pub fn add_break(&mut self) {
        self.previous = None;
    }

    /// How many there are. It grows with each word.
    pub fn count(&self) -> usize {
        self.keys.len()
    }
}

/// Sets of key ranges. A document with the term has a key of each set.
pub(super) type KeySets = Vec<Vec<Range<u64>>>;

/// The sets for a term.
pub(super) fn term_key_sets(term: &SearchTerm) -> KeySets {
    let hashes: Vec<WordHash> = term.words.iter().map(|word| WordHash::of(word)).collect();
    let exact = |key: u64| vec![single_key(key)];
    let (Some(last), Some(last_word)) = (hashes.last(), term.words.last()) else { return Vec::new() };
    let letters = last_word.chars().count();
    let mut sets: KeySets = hashes
        .array_windows()
        .enumerate()
        .filter_map(|(nth, [first, second])| match term.is_prefix && nth + 2 == hashes.len() {
            true if letters < PREFIX_LETTERS => None,
            true => Some(vec![first.pair_range(*second, letters)]),
            false => Some(exact(first.pair_key(*second))),
        })
        .collect();
    let whole = if term.is_prefix { hashes.len() - 1 } else { hashes.len() };
    // The longest word is probably the rarest one; the pairs stand for the others.
    let longest = (0..whole).max_by_key(|nth| term.words.get(*nth).map_or(0, String::len));
    sets.extend(longest.and_then(|nth| hashes.get(nth)).map(|hash| exact(hash.key())));
    if sets.is_empty() || (term.is_prefix && letters < PREFIX_LETTERS) {
        sets.push(if letters < PREFIX_LETTERS {
            [short_prefix_key(last_word), last.key()].map(single_key).into()
        } else {
            vec![last.key_range(letters)]
        });
    }
    sets
}

/// The key of a term that is one whole word; other terms have keys that other texts may have, too.
pub(super) fn exact_key(term: &SearchTerm) -> Option<Range<u64>> {
    match term.words.as_slice() {
        [word] if !term.is_prefix => Some(single_key(WordHash::of(word).key())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn term(words: &[&str], is_prefix: bool) -> SearchTerm {
        SearchTerm { words: words.iter().map(|word| (*word).to_owned()).collect(), is_prefix }
    }

    fn keys(words: &[&str]) -> DocumentKeys {
        let mut keys = DocumentKeys::default();
        for word in words {
            if *word == "|" { keys.add_break() } else { keys.add_word(word) }
        }
        keys
    }

    fn matches(document: &DocumentKeys, term: &SearchTerm) -> bool {
        let any = |range: &Range<u64>| document.keys.iter().any(|key| range.contains(key));
        term_key_sets(term).iter().all(|set| set.iter().any(any))
    }

    proptest! {
        #[test]
        fn no_word_prefix_or_phrase_is_missed(words in proptest::collection::vec("[abé환불李т]{1,8}", 1..6), from in 0..5_usize, to in 1..6_usize, letters in 1..9_usize) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let document = keys(&words);
            if let Some(phrase) = words.get(from..to.min(words.len())).filter(|phrase| !phrase.is_empty()) {
                prop_assert!(matches(&document, &term(phrase, false)));
                let last = phrase[phrase.len() - 1];
                let prefix: String = last.chars().take(letters).collect();
                if !prefix.is_ascii() || prefix.len() >= PREFIX_LETTERS {
                    let mut phrase = phrase.to_vec();
                    *phrase.last_mut().unwrap() = &prefix;
                    prop_assert!(matches(&document, &term(&phrase, true)), "{:?} in {:?}", phrase, words);
                }
            }
        }
    }

    #[test]
    fn few_terms_match_that_do_not_occur() {
        let words: Vec<String> = (0..700).map(|n| format!("{}w", n * 7919 % 1000 + 1000)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let document = keys(&words);
        let wrong = |term: &dyn Fn(usize) -> SearchTerm| (0..690).filter(|n| matches(&document, &term(*n))).count();
        assert_eq!(wrong(&|n| term(&[&format!("{}q", words[n])], false)), 0);
        assert!(wrong(&|n| term(&[words[n + 2], words[n]], false)) < 20);
        assert!(wrong(&|n| term(&[&format!("q{}", words[n])], true)) < 10);
        assert!(!matches(&keys(&["on", "|", "to"]), &term(&["on", "to"], false)));
        assert_eq!(keys(&["환불을"]).keys.len(), 3);
    }

    #[test]
    fn keys_are_stable() {
        // A change of these numbers needs a new version of the tokenizer.
        let expected = [489_912_923_429_119, 343_524_654_542_559, 562_949_954_293_668];
        assert_eq!(keys(&["refund", "late"]).keys, expected);
    }
}
