//! How text is cut into words: once, here, for both databases and for what people look for, so that none of the three can
//! disagree.
//!
//! A word is a run of letters and digits, without accents and in small letters; every other character stands between
//! words, apostrophes and hyphens too. Each Han, Hiragana or Katakana character is a word of its own. Cutting words up
//! again changes nothing.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};

/// Grows whenever text is cut differently: the index is then built anew.
pub const VERSION: i64 = 1;

/// Letters of a word that count; the rest of a longer one is not looked at.
pub const LONGEST: usize = 64;

/// Hands each word of `text` to `take`, with the bytes that it stands in.
pub fn each(text: &str, take: impl FnMut(&str, Range<usize>)) {
    let mut cutter = Cutter { word: String::new(), letters: 0, range: 0..0, take };
    let (bytes, mut at) = (text.as_bytes(), 0);
    while let Some(byte) = bytes.get(at) {
        if byte.is_ascii_alphanumeric() {
            let run = bytes.iter().skip(at).take_while(|byte| byte.is_ascii_alphanumeric()).count();
            let (start, end) = (at, at + run);
            let run = text.get(start..end).unwrap_or_default();
            // Nearly every word of most languages, taken as a whole.
            if cutter.word.is_empty() && run.len() <= LONGEST && bytes.get(end).is_none_or(u8::is_ascii) {
                cutter.whole(run, start..end);
            } else {
                (start..end).zip(run.chars()).for_each(|(at, letter)| {
                    cutter.push(letter.to_ascii_lowercase(), &(at..at + 1));
                });
            }
            at = end;
        } else if byte.is_ascii() {
            cutter.end();
            at += 1;
        } else {
            let Some(letter) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
            let end = at + letter.len_utf8();
            cutter.fold(letter, &(at..end));
            at = end;
        }
    }
    cutter.end();
}

/// The words of `text`.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each(text, |word, _| words.push(word.to_owned()));
    words
}

struct Cutter<F> {
    word: String,
    letters: usize,
    range: Range<usize>,
    take: F,
}

impl<F: FnMut(&str, Range<usize>)> Cutter<F> {
    fn push(&mut self, letter: char, here: &Range<usize>) {
        if self.word.is_empty() {
            self.range = here.clone();
        }
        self.range.end = here.end;
        if self.letters < LONGEST {
            self.word.push(letter);
            self.letters += 1;
        }
    }

    /// A word of ASCII letters and digits, with nothing of it before or after.
    fn whole(&mut self, word: &str, range: Range<usize>) {
        self.word.push_str(word);
        self.word.make_ascii_lowercase();
        (self.take)(&self.word, range);
        self.word.clear();
    }

    fn end(&mut self) {
        if !self.word.is_empty() {
            (self.take)(&self.word, self.range.clone());
            self.word.clear();
            self.letters = 0;
        }
    }

    fn fold(&mut self, letter: char, here: &Range<usize>) {
        if is_ignored(letter) {
            return;
        }
        for part in std::iter::once(letter).nfkd() {
            if canonical_combining_class(part) != 0 {
                // An accent that stands for itself belongs to the letter before it.
                if !self.word.is_empty() {
                    self.range.end = here.end;
                }
                continue;
            }
            for small in part.to_lowercase().filter(|small| canonical_combining_class(*small) == 0) {
                match spelled(small) {
                    Some(letters) => letters.chars().for_each(|letter| self.push(letter, here)),
                    None => self.one(small, here),
                }
            }
        }
    }

    fn one(&mut self, letter: char, here: &Range<usize>) {
        if stands_alone(letter) {
            self.end();
            self.push(letter, here);
            self.end();
        } else if letter.is_alphanumeric() && letter != '\u{2bc}' {
            self.push(letter, here);
        } else if !is_combining_mark(letter) {
            self.end();
        }
    }
}

/// Letters that people type as others and that no normalisation knows.
fn spelled(letter: char) -> Option<&'static str> {
    Some(match letter {
        'ß' => "ss",
        'ς' => "σ",
        'ł' => "l",
        'ø' => "o",
        'đ' | 'ð' => "d",
        'þ' => "th",
        'æ' => "ae",
        'œ' => "oe",
        'ħ' => "h",
        'ı' => "i",
        _ => return None,
    })
}

/// Shows nothing and separates nothing: soft hyphens, joiners, variation selectors.
fn is_ignored(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// Written without spaces: a character is a word.
fn stands_alone(letter: char) -> bool {
    matches!(
        letter,
        '\u{3005}'..='\u{3007}'
            | '\u{3040}'..='\u{30ff}'
            | '\u{31f0}'..='\u{31ff}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3ffff}'
    ) && letter.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_letters_and_digits_without_accents_in_small_letters() {
        assert_eq!(words("Don't, O'Connor: £12.50!"), ["don", "t", "o", "connor", "12", "50"]);
        assert_eq!(words("Grüß Gott, Łódź STRASSE Straße"), ["gruss", "gott", "lodz", "strasse", "strasse"]);
        assert_eq!(words("l’entrepôt déjà e\u{301}te\u{301}"), ["l", "entrepot", "deja", "ete"]);
        assert_eq!(words("ΟΔΟΣ οδός Ола"), ["οδοσ", "οδοσ", "ола"]);
        assert_eq!(words("john@example.com order-123"), ["john", "example", "com", "order", "123"]);
        assert_eq!(words("Zoë Ångström ﬁne Ⅷ ½"), ["zoe", "angstrom", "fine", "viii", "1", "2"]);
        assert_eq!(words("— ’ … 👍🏽 \t\n"), Vec::<String>::new());
    }

    #[test]
    fn each_character_of_a_script_without_spaces_is_a_word() {
        assert_eq!(words("李小龍です。OK"), ["李", "小", "龍", "て", "す", "ok"]);
        assert_eq!(words("ｶﾞｰド"), words("ガード"));
        assert_eq!(words("हिन्दी").len(), 1);
    }

    #[test]
    fn what_shows_nothing_separates_nothing() {
        assert_eq!(words("co\u{ad}operate 1\u{fe0f}\u{20e3}2"), ["cooperate", "12"]);
    }

    #[test]
    fn a_very_long_word_is_cut() {
        assert_eq!(words(&"x".repeat(500)), ["x".repeat(LONGEST)]);
        assert_eq!(words(&"ß".repeat(500))[0].chars().count(), LONGEST);
    }

    proptest! {
        #[test]
        fn cutting_words_up_again_changes_nothing(text in "\\PC*") {
            let once = words(&text);
            prop_assert_eq!(words(&once.join(" ")), once);
        }

        #[test]
        fn every_word_says_where_it_stands(text in "(\\PC|\\s){0,60}") {
            let mut last = 0;
            each(&text, |word, range| {
                assert!(!word.is_empty() && range.start < range.end && range.start >= last.min(range.start));
                assert!(text.get(range.clone()).is_some());
                last = range.end;
            });
        }

        #[test]
        fn small_and_capital_letters_are_alike(text in "[a-zäöüßéèłøñčşА-я ]{0,40}") {
            prop_assert_eq!(words(&text), words(&text.to_uppercase()));
        }
    }
}
