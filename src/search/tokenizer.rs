//! The tokenizer: splits text into words, for the indexes of both databases and for queries.
//!
//! A word is a run of letters and digits, in lower case and without accents. Every other character
//! separates words, including apostrophes and hyphens. Each Han, Hiragana, Katakana, Thai, Lao,
//! Khmer or Burmese letter is a separate word, together with its combining signs; a word of these
//! languages is searched as a phrase. Korean syllables form a word up to the next space or another
//! script. Tokenizing is idempotent.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, compose, is_combining_mark};

/// Increase this whenever the same body results in different words, or a word in another key. The
/// index is rebuilt then.
pub const TOKENIZER_VERSION: i64 = 4;

/// Letters of a word; the rest of a longer one is ignored.
pub(crate) const MAX_WORD_LETTERS: usize = 64;

/// Calls `on_word` with each word of `text` and its byte range.
pub(crate) fn for_each_word(text: &str, on_word: impl FnMut(&str, Range<usize>)) {
    let mut tokenizer = Tokenizer { word: String::new(), letters: 0, range: 0..0, script: Script::Spaced, on_word };
    let (bytes, mut at) = (text.as_bytes(), 0);
    while let Some(byte) = bytes.get(at) {
        if byte.is_ascii_alphanumeric() {
            let run = bytes.iter().skip(at).take_while(|byte| byte.is_ascii_alphanumeric()).count();
            let (start, end) = (at, at + run);
            let run = text.get(start..end).unwrap_or_default();
            tokenizer.enter_script(Script::Spaced);
            // Fast path for a whole ASCII word.
            if tokenizer.word.is_empty() && run.len() <= MAX_WORD_LETTERS && bytes.get(end).is_none_or(u8::is_ascii) {
                tokenizer.ascii_word(run, start..end);
            } else {
                (start..end).zip(run.chars()).for_each(|(at, letter)| {
                    tokenizer.push(letter.to_ascii_lowercase(), &(at..at + 1));
                });
            }
            at = end;
        } else if byte.is_ascii() {
            tokenizer.finish_word();
            at += 1;
        } else {
            let Some(letter) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
            let end = at + letter.len_utf8();
            tokenizer.push_folded(letter, &(at..end));
            at = end;
        }
    }
    tokenizer.finish_word();
}

/// The words of `text`.
pub fn tokenize(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for_each_word(text, |word, _| words.push(word.to_owned()));
    words
}

struct Tokenizer<F> {
    word: String,
    letters: usize,
    range: Range<usize>,
    /// The script of the current word.
    script: Script,
    on_word: F,
}

/// How a script separates words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    /// By spaces.
    Spaced,
    /// By spaces; particles follow a word of any script without a space.
    Hangul,
    /// Not at all: each letter counts as a word.
    Unspaced,
}

impl<F: FnMut(&str, Range<usize>)> Tokenizer<F> {
    /// Finishes the current word where a letter of this script cannot continue it.
    fn enter_script(&mut self, script: Script) {
        if script != self.script || script == Script::Unspaced {
            self.finish_word();
            self.script = script;
        }
    }

    fn push(&mut self, letter: char, range_here: &Range<usize>) {
        if self.word.is_empty() {
            self.range = range_here.clone();
        }
        self.range.end = range_here.end;
        if self.letters < MAX_WORD_LETTERS {
            self.word.push(letter);
            self.letters += 1;
        }
    }

    /// Emits a complete word of ASCII letters and digits.
    fn ascii_word(&mut self, word: &str, range: Range<usize>) {
        self.word.push_str(word);
        self.word.make_ascii_lowercase();
        (self.on_word)(&self.word, range);
        self.word.clear();
    }

    fn finish_word(&mut self) {
        if !self.word.is_empty() {
            (self.on_word)(&self.word, self.range.clone());
            self.word.clear();
            self.letters = 0;
        }
        self.script = Script::Spaced;
    }

    fn push_folded(&mut self, letter: char, range_here: &Range<usize>) {
        if is_invisible(letter) {
            return;
        }
        if is_hangul_syllable(letter) {
            self.enter_script(Script::Hangul);
            return self.push(letter, range_here);
        }
        for part in std::iter::once(letter).nfkd() {
            if is_accent(part) {
                // A separate combining character belongs to the letter before it.
                if !self.word.is_empty() {
                    self.range.end = range_here.end;
                }
                continue;
            }
            for small in part.to_lowercase().filter(|small| !is_accent(*small)) {
                match transliterate(small) {
                    Some(letters) => {
                        self.enter_script(Script::Spaced);
                        letters.chars().for_each(|letter| self.push(letter, range_here));
                    }
                    None => self.push_decomposed(small, range_here),
                }
            }
        }
    }

    fn push_decomposed(&mut self, letter: char, range_here: &Range<usize>) {
        if is_jamo(letter) {
            self.push_jamo(letter, range_here);
        } else if is_combining_mark(letter) {
            if letter.is_alphanumeric() {
                self.push(letter, range_here);
            }
        } else if letter.is_alphanumeric() && letter != '\u{2bc}' {
            self.enter_script(if is_unspaced_script(letter) { Script::Unspaced } else { Script::Spaced });
            self.push(letter, range_here);
        } else {
            self.finish_word();
        }
    }

    /// Adds a part of a Korean syllable, composed with the parts before it.
    fn push_jamo(&mut self, letter: char, range_here: &Range<usize>) {
        self.enter_script(Script::Hangul);
        let syllable = self.word.chars().next_back().and_then(|before| compose(before, letter));
        match syllable.filter(|_| self.letters < MAX_WORD_LETTERS) {
            Some(syllable) => {
                self.word.pop();
                self.word.push(syllable);
                self.range.end = range_here.end;
            }
            None => self.push(letter, range_here),
        }
    }
}

/// Letters that people type as other letters, but Unicode normalisation does not decompose.
fn transliterate(letter: char) -> Option<&'static str> {
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

/// Whether it is an accent. Unicode gives vowels below Thai and Lao letters a combining class, but
/// they are no accents.
fn is_accent(letter: char) -> bool {
    canonical_combining_class(letter) != 0 && !matches!(letter, '\u{e38}' | '\u{e39}' | '\u{eb8}' | '\u{eb9}')
}

/// Whether it is a Korean syllable or a part of one, in the form that words have.
pub(crate) fn is_hangul(letter: char) -> bool {
    is_hangul_syllable(letter) || is_jamo(letter)
}

fn is_hangul_syllable(letter: char) -> bool {
    matches!(letter, '\u{ac00}'..='\u{d7a3}')
}

/// Whether it is a part of a syllable.
fn is_jamo(letter: char) -> bool {
    matches!(letter, '\u{1100}'..='\u{11ff}' | '\u{a960}'..='\u{a97c}' | '\u{d7b0}'..='\u{d7fb}')
}

/// Invisible characters that do not separate words: soft hyphens, joiners, variation selectors. The
/// zero-width space separates.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// Whether its script has no spaces, so that the letter is a word.
fn is_unspaced_script(letter: char) -> bool {
    match letter {
        '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30ff}'
        | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}' => true,
        // Thai, Lao, Burmese and Khmer letters. Their digits form numbers as in other scripts.
        '\u{e00}'..='\u{eff}'
        | '\u{1000}'..='\u{109f}'
        | '\u{1780}'..='\u{17ff}'
        | '\u{a9e0}'..='\u{a9fe}'
        | '\u{aa60}'..='\u{aa7f}' => !letter.is_numeric(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_lower_case_letters_and_digits_without_accents() {
        assert_eq!(tokenize("Don't, O'Connor: £12.50!"), ["don", "t", "o", "connor", "12", "50"]);
        assert_eq!(tokenize("Grüß Gott, Łódź STRASSE Straße"), ["gruss", "gott", "lodz", "strasse", "strasse"]);
        assert_eq!(tokenize("l’entrepôt déjà e\u{301}te\u{301}"), ["l", "entrepot", "deja", "ete"]);
        assert_eq!(tokenize("ΟΔΟΣ οδός Ола"), ["οδοσ", "οδοσ", "ола"]);
        assert_eq!(tokenize("john@example.com order-123"), ["john", "example", "com", "order", "123"]);
        assert_eq!(tokenize("Zoë Ångström ﬁne Ⅷ ½"), ["zoe", "angstrom", "fine", "viii", "1", "2"]);
        assert_eq!(tokenize("— ’ … 👍🏽 \t\n"), Vec::<String>::new());
    }

    #[test]
    fn each_character_of_a_script_without_spaces_is_a_word() {
        assert_eq!(tokenize("李小龍です。OK"), ["李", "小", "龍", "て", "す", "ok"]);
        assert_eq!(tokenize("ｶﾞｰド"), tokenize("ガード"));
        assert_eq!(tokenize("हिन्दी").len(), 1);
        assert_eq!(
            tokenize("ขอคืนเงิน100บาท๑๒"),
            ["ข", "อ", "ค\u{e37}", "น", "เ", "ง\u{e34}", "น", "100", "บ", "า", "ท", "๑๒"]
        );
        assert_eq!(tokenize("ປູ່"), ["ປ\u{eb9}"]);
        assert_eq!(tokenize("ငွေပြန်"), ["ငွေ", "ပြ", "န"]);
        assert_eq!(tokenize("ប្រាក់"), ["ប", "រា", "ក"]);
    }

    #[test]
    fn a_word_is_found_within_a_sentence_of_a_script_without_spaces() {
        for (sentence, word, other) in [
            ("ผมต้องการขอคืนเงินค่าสินค้า", "คืนเงิน", "หมู"),
            ("ຂ້ອຍຕ້ອງການເງິນຄືນ", "ເງິນຄືນ", "ປູ"),
            ("ကျွန်တော်ငွေပြန်အမ်းလိုပါတယ်", "ငွေပြန်အမ်း", "မြန်မာ"),
            ("ខ្ញុំចង់បានប្រាក់វិញ", "ប្រាក់", "ភាសា"),
            ("ขอ\u{200b}คืน\u{200b}เงิน", "คืนเงิน", "เงินคืน"),
        ] {
            let (sentence, within) = (tokenize(sentence), |word: &str| tokenize(word));
            let holds = |word: Vec<String>| sentence.windows(word.len()).any(|part| part == word.as_slice());
            assert!(holds(within(word)) && !holds(within(other)), "{word} in {sentence:?}");
        }
    }

    #[test]
    fn korean_words_end_at_spaces_and_at_other_scripts() {
        assert_eq!(tokenize("환불을 교환 불가"), ["환불을", "교환", "불가"]);
        assert_eq!(tokenize("iPhone을 15일에 CS팀"), ["iphone", "을", "15", "일에", "cs", "팀"]);
        assert_eq!(tokenize("\u{1112}\u{116a}\u{11ab}\u{1107}\u{116e}\u{11af}"), ["환불"]);
        assert_eq!(tokenize("ㅋㅋ"), ["\u{110f}\u{110f}"]);
    }

    #[test]
    fn invisible_characters_do_not_separate_words() {
        assert_eq!(tokenize("co\u{ad}operate\u{2060}s 1\u{fe0f}\u{20e3}2"), ["cooperates", "12"]);
        assert_eq!(tokenize("two\u{200b}words"), ["two", "words"]);
    }

    #[test]
    fn a_very_long_word_is_truncated() {
        assert_eq!(tokenize(&"x".repeat(500)), ["x".repeat(MAX_WORD_LETTERS)]);
        assert_eq!(tokenize(&"ß".repeat(500))[0].chars().count(), MAX_WORD_LETTERS);
    }

    proptest! {
        #[test]
        fn tokenizing_is_idempotent(text in "(\\PC|[가-힣\u{1100}-\u{11ff}ก-๙က-႟ក-៩a1ㅋ]){0,40}") {
            let once = tokenize(&text);
            prop_assert_eq!(tokenize(&once.join(" ")), once);
        }

        #[test]
        fn every_word_has_a_valid_range(text in "(\\PC|\\s|[가-힣\u{1100}-\u{11ff}ก-๙a]){0,60}") {
            let mut last = 0;
            for_each_word(&text, |word, range| {
                assert!(!word.is_empty() && range.start < range.end && range.start >= last.min(range.start));
                assert!(text.get(range.clone()).is_some());
                last = range.end;
            });
        }

        #[test]
        fn tokenizing_ignores_case(text in "[a-zäöüßéèłøñčşА-я ]{0,40}") {
            prop_assert_eq!(tokenize(&text), tokenize(&text.to_uppercase()));
        }
    }
}
