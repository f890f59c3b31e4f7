//! What Postgres's index knows of a block beside its words: which of them stand next to one another, how they begin, and when
//! it was; as numbers, which take a third of the room that words would.
//!
//! Pure. The index does not know where words stand: of a phrase it finds all blocks that have the words, which is half of an
//! archive where all of them are frequent; and of a beginning it gathers the blocks of all words that begin so. So each two
//! words in a row are a key, and so are the first letters of each. Keys are few, and several pairs share one: they let some
//! through that do not match, and miss none.

use super::{Needle, is_mark, is_word};

/// Letters by which beginnings are known.
const BEGINNING: usize = 3;
/// Letters of a pair's second word by which it is known more closely.
const LONGER: usize = 5;
/// Bits of a pair's key: of the first word with the second's beginning, of the longer beginning, and of the whole second word.
const TRUNK: u32 = 16;
const BRANCH: u32 = 2;
const TWIG: u32 = 1;
/// Kinds of keys, that of pairs being none.
const BEGUN: i32 = 1 << 28;
pub(super) const STRETCH: i32 = 2 << 28;
/// Beginnings of ASCII letters and digits are numbered, others are not told apart by more than this many bits.
const OTHERS: u32 = 16;

/// The first letters of a word; `None` for one that has too few.
fn start(word: &str, letters: usize) -> Option<&str> {
    let (at, letter) = word.char_indices().nth(letters - 1)?;
    word.get(..at + letter.len_utf8())
}

/// So many bits of a number for these words.
fn hashed(parts: [&str; 2], bits: u32) -> i32 {
    // FNV-1a, and a last stir so that every bit depends on every letter.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts[0].bytes().chain([b' ']).chain(parts[1].bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    i32::try_from(hash >> (64 - bits)).unwrap_or_default()
}

/// What the key of two words begins with, where the second begins so.
fn trunk(first: &str, begun: &str) -> i32 {
    hashed([first, begun], TRUNK) << BRANCH
}

/// The same with the longer beginning.
fn branch(first: &str, begun: &str, longer: &str) -> i32 {
    (trunk(first, begun) | hashed([longer, ""], BRANCH)) << TWIG
}

/// The key of two words in a row.
fn pair(first: &str, second: &str) -> i32 {
    let begun = start(second, BEGINNING).unwrap_or(second);
    branch(first, begun, start(second, LONGER).unwrap_or(second)) | hashed(["", second], TWIG)
}

/// The keys that a word may have with the next, which begins so; `None` where there would be too many.
fn begun_pair(first: &str, beginning: &str) -> Option<Vec<i32>> {
    let begun = start(beginning, BEGINNING)?;
    let (low, bits) = match start(beginning, LONGER) {
        Some(longer) => (branch(first, begun, longer), TWIG),
        None => (trunk(first, begun) << TWIG, BRANCH + TWIG),
    };
    Some((low..low + (1 << bits)).collect())
}

/// The key of a word's beginning, and whether no other beginning has it.
fn beginning(word: &str) -> Option<(i32, bool)> {
    let begun = start(word, BEGINNING)?;
    let plain = begun.chars().try_fold(0, |number, letter| letter.to_digit(36).map(|digit| number * 36 + digit));
    match plain.and_then(|number| i32::try_from(number).ok()) {
        Some(number) => Some((BEGUN | number, true)),
        None => Some((BEGUN | 1 << OTHERS | hashed([begun, ""], OTHERS), false)),
    }
}

/// Whether the key of a beginning says all there is to say of it.
pub(super) fn is_known(begun: &str) -> bool {
    start(begun, BEGINNING) == Some(begun) && beginning(begun).is_some_and(|(_, alone)| alone)
}

/// The keys of what is said in a block; what is no word stands between two that are not next to one another.
pub(super) fn keys(words: &[&str]) -> Vec<i32> {
    let mut keys = Vec::with_capacity(words.len() * 2);
    let mut before = None;
    for word in words {
        let word = is_word(word).then_some(*word);
        keys.extend(before.zip(word).map(|(first, second)| pair(first, second)));
        keys.extend(word.and_then(beginning).map(|(key, _)| key));
        before = word;
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Keys of which a block that has the needle has at least one, set by set.
fn of_needle(needle: &Needle) -> Vec<Vec<i32>> {
    // Only of what is said, not of who takes part.
    let mut words: Vec<&str> = needle.words.iter().map(String::as_str).filter(|word| !is_mark(word)).collect();
    let last = if needle.prefix { words.pop() } else { None };
    let mut sets: Vec<Vec<i32>> = words.array_windows().map(|[first, second]| vec![pair(first, second)]).collect();
    sets.extend(last.and_then(|last| match words.last() {
        Some(word) => begun_pair(word, last),
        None => Some(vec![beginning(last)?.0]),
    }));
    sets
}

/// The same for a choice of needles. None where one of them has no keys.
pub(super) fn of_choice(choice: &[Needle]) -> Vec<Vec<i32>> {
    if let [needle] = choice {
        return of_needle(needle);
    }
    let few = |needle| of_needle(needle).into_iter().min_by_key(Vec::len);
    let all: Option<Vec<Vec<i32>>> = choice.iter().map(few).collect();
    all.map(|sets| sets.concat()).filter(|set| !set.is_empty()).into_iter().collect()
}

/// Keys as Postgres reads an array of them.
pub(super) fn array(keys: impl IntoIterator<Item = i32>) -> String {
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

    fn needle(words: &[&str], prefix: bool) -> Needle {
        Needle { words: words.iter().map(|word| (*word).to_owned()).collect(), prefix }
    }

    #[test]
    fn no_pair_and_no_beginning_is_missed_and_few_are_seen_that_are_not_there() {
        let words: Vec<String> = (0..300).map(|n| format!("{}w{n}", "xyzé".chars().nth(n % 4).unwrap())).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let keys = keys(&words);
        let shows = |needle: Needle| of_needle(&needle).iter().all(|set| set.iter().any(|key| keys.contains(key)));
        for two in words.windows(2) {
            assert!(shows(needle(two, false)));
            for letters in 3..=two[1].chars().count() {
                let begun = start(two[1], letters).unwrap();
                assert!(shows(needle(&[two[0], begun], true)) && shows(needle(&[begun], true)), "{two:?}");
            }
        }
        let wrong = (0..298).filter(|n| shows(needle(&[words[n + 2], words[*n]], false))).count();
        assert!(wrong < 5, "{wrong}");
        let wrong = (0..298).filter(|n| shows(needle(&[words[n + 2], "abc"], true))).count();
        assert!(wrong < 25, "{wrong}");
        assert!(!shows(needle(&["abc"], true)) && !shows(needle(&["äbc"], true)));
    }

    #[test]
    fn a_break_between_speakers_separates() {
        let of = |words: &[&str]| keys(words).len();
        assert_eq!((of(&["on"]), of(&["on", "\u{2029}", "to"]), of(&["on", "to"]), of(&["one", "two"])), (0, 0, 1, 3));
    }

    #[test]
    fn a_choice_has_keys_where_each_of_it_has() {
        assert_eq!(of_choice(&[needle(&["one"], false)]), Vec::<Vec<i32>>::new());
        assert_eq!(of_choice(&[needle(&["\u{e006}one", "\u{e006}two"], false)]), Vec::<Vec<i32>>::new());
        assert_eq!(of_choice(&[needle(&["one", "two"], false), needle(&["three"], false)]), Vec::<Vec<i32>>::new());
        let sizes = |choice: &[Needle]| of_choice(choice).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[needle(&["one", "two", "three"], false)]), [1, 1]);
        assert_eq!(sizes(&[needle(&["one", "two", "thr"], true)]), [1, 8]);
        assert_eq!(sizes(&[needle(&["one", "three"], true)]), [2]);
        assert_eq!(sizes(&[needle(&["to", "be", "o"], true)]), [1]);
        assert_eq!(sizes(&[needle(&["one", "two", "six"], false), needle(&["thr"], true)]), [2]);
    }

    #[test]
    fn three_plain_letters_are_known_by_their_key_alone() {
        assert!(is_known("ref") && !is_known("refu") && !is_known("éta") && !is_known("re"));
    }
}
