//! How text is cut into words: once, here, for both databases and for what people look for, so that none of the three can
//! disagree.
//!
//! A word is a run of letters and digits, without accents and in small letters; every other character stands between
//! words, apostrophes and hyphens too. Each Han, Hiragana, Katakana, Thai, Lao, Khmer or Burmese letter is a word of its own,
//! with the signs that are written around it: what people take for a word is a phrase there. Korean syllables stay together up to
//! the next space, apart from other scripts. Cutting words up again changes nothing.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, compose, is_combining_mark};

/// Grows whenever text is cut differently, or read differently before it is cut: the index is then built anew.
pub const VERSION: i64 = 3;

/// Letters of a word that count; the rest of a longer one is not looked at.
pub const LONGEST: usize = 64;

/// Hands each word of `text` to `take`, with the bytes that it stands in.
pub fn each(text: &str, take: impl FnMut(&str, Range<usize>)) {
    let mut cutter = Cutter { word: String::new(), letters: 0, range: 0..0, script: Script::Spaced, take };
    let (bytes, mut at) = (text.as_bytes(), 0);
    while let Some(byte) = bytes.get(at) {
        if byte.is_ascii_alphanumeric() {
            let run = bytes.iter().skip(at).take_while(|byte| byte.is_ascii_alphanumeric()).count();
            let (start, end) = (at, at + run);
            let run = text.get(start..end).unwrap_or_default();
            cutter.enter(Script::Spaced);
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
    /// That of the word at hand.
    script: Script,
    take: F,
}

/// How a script tells its words apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    /// By spaces.
    Spaced,
    /// By spaces, with particles that follow a word of any script without one.
    Hangul,
    /// Not at all: each letter is a word.
    Unspaced,
}

impl<F: FnMut(&str, Range<usize>)> Cutter<F> {
    /// Ends the word at hand where a letter of this script does not go on with it.
    fn enter(&mut self, script: Script) {
        if script != self.script || script == Script::Unspaced {
            self.end();
            self.script = script;
        }
    }

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
        self.script = Script::Spaced;
    }

    fn fold(&mut self, letter: char, here: &Range<usize>) {
        if is_ignored(letter) {
            return;
        }
        if is_syllable(letter) {
            self.enter(Script::Hangul);
            return self.push(letter, here);
        }
        for part in std::iter::once(letter).nfkd() {
            if is_accent(part) {
                // One that stands for itself belongs to the letter before it.
                if !self.word.is_empty() {
                    self.range.end = here.end;
                }
                continue;
            }
            for small in part.to_lowercase().filter(|small| !is_accent(*small)) {
                match spelled(small) {
                    Some(letters) => {
                        self.enter(Script::Spaced);
                        letters.chars().for_each(|letter| self.push(letter, here));
                    }
                    None => self.one(small, here),
                }
            }
        }
    }

    fn one(&mut self, letter: char, here: &Range<usize>) {
        if is_jamo(letter) {
            self.jamo(letter, here);
        } else if is_combining_mark(letter) {
            if letter.is_alphanumeric() {
                self.push(letter, here);
            }
        } else if letter.is_alphanumeric() && letter != '\u{2bc}' {
            self.enter(if stands_alone(letter) { Script::Unspaced } else { Script::Spaced });
            self.push(letter, here);
        } else {
            self.end();
        }
    }

    /// A part of a Korean syllable, which is put together with those before it.
    fn jamo(&mut self, letter: char, here: &Range<usize>) {
        self.enter(Script::Hangul);
        let whole = self.word.chars().next_back().and_then(|before| compose(before, letter));
        match whole.filter(|_| self.letters < LONGEST) {
            Some(whole) => {
                self.word.pop();
                self.word.push(whole);
                self.range.end = here.end;
            }
            None => self.push(letter, here),
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

/// Whether it says how a letter sounds rather than which it is. Vowels below Thai and Lao letters count for accents in Unicode.
fn is_accent(letter: char) -> bool {
    canonical_combining_class(letter) != 0 && !matches!(letter, '\u{e38}' | '\u{e39}' | '\u{eb8}' | '\u{eb9}')
}

/// Whether it is a Korean syllable or a part of one, as words hold them.
pub fn is_hangul(letter: char) -> bool {
    is_syllable(letter) || is_jamo(letter)
}

fn is_syllable(letter: char) -> bool {
    matches!(letter, '\u{ac00}'..='\u{d7a3}')
}

/// Whether it is a part of a syllable.
fn is_jamo(letter: char) -> bool {
    matches!(letter, '\u{1100}'..='\u{11ff}' | '\u{a960}'..='\u{a97c}' | '\u{d7b0}'..='\u{d7fb}')
}

/// Shows nothing and separates nothing: soft hyphens, joiners, variation selectors. The space without width is none of them.
fn is_ignored(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// Written without spaces: a letter is a word.
fn stands_alone(letter: char) -> bool {
    match letter {
        '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30ff}'
        | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}' => true,
        // Thai and Lao, Burmese, Khmer; their numbers are told from what follows as everywhere.
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
        assert_eq!(
            words("ขอคืนเงิน100บาท๑๒"),
            ["ข", "อ", "ค\u{e37}", "น", "เ", "ง\u{e34}", "น", "100", "บ", "า", "ท", "๑๒"]
        );
        assert_eq!(words("ປູ່"), ["ປ\u{eb9}"]);
        assert_eq!(words("ငွေပြန်"), ["ငွေ", "ပြ", "န"]);
        assert_eq!(words("ប្រាក់"), ["ប", "រា", "ក"]);
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
            let (sentence, within) = (words(sentence), |word: &str| words(word));
            let holds = |word: Vec<String>| sentence.windows(word.len()).any(|part| part == word.as_slice());
            assert!(holds(within(word)) && !holds(within(other)), "{word} in {sentence:?}");
        }
    }

    #[test]
    fn korean_is_cut_at_spaces_and_apart_from_other_scripts() {
        assert_eq!(words("환불을 교환 불가"), ["환불을", "교환", "불가"]);
        assert_eq!(words("iPhone을 15일에 CS팀"), ["iphone", "을", "15", "일에", "cs", "팀"]);
        assert_eq!(words("\u{1112}\u{116a}\u{11ab}\u{1107}\u{116e}\u{11af}"), ["환불"]);
        assert_eq!(words("ㅋㅋ"), ["\u{110f}\u{110f}"]);
    }

    #[test]
    fn what_shows_nothing_separates_nothing() {
        assert_eq!(words("co\u{ad}operate\u{2060}s 1\u{fe0f}\u{20e3}2"), ["cooperates", "12"]);
        assert_eq!(words("two\u{200b}words"), ["two", "words"]);
    }

    #[test]
    fn a_very_long_word_is_cut() {
        assert_eq!(words(&"x".repeat(500)), ["x".repeat(LONGEST)]);
        assert_eq!(words(&"ß".repeat(500))[0].chars().count(), LONGEST);
    }

    proptest! {
        #[test]
        fn cutting_words_up_again_changes_nothing(text in "(\\PC|[가-힣\u{1100}-\u{11ff}ก-๙က-႟ក-៩a1ㅋ]){0,40}") {
            let once = words(&text);
            prop_assert_eq!(words(&once.join(" ")), once);
        }

        #[test]
        fn every_word_says_where_it_stands(text in "(\\PC|\\s|[가-힣\u{1100}-\u{11ff}ก-๙a]){0,60}") {
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
