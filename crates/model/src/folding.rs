//! Folds texts that look the same into one form: digits of other scripts, full-width letters,
//! unusual spaces and dashes. Pure.

use unicode_normalization::UnicodeNormalization;

/// The zero of each script whose decimal digits occupy ten consecutive code points.
const SCRIPT_ZEROS: [u32; 37] = [
    0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66, 0x0de6, 0x0e50,
    0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50,
    0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x1d7ce,
];
/// The last of the mathematical digits, which occupy five consecutive runs of ten.
const LAST_MATHEMATICAL_DIGIT: u32 = 0x1d7ff;

/// Folds a character; returns `None` for an invisible one, such as NUL or a direction mark. Line
/// breaks and tabs stay.
pub fn fold_char(letter: char) -> Option<char> {
    if is_plain(letter) {
        return Some(letter);
    }
    Some(match letter {
        // Control characters that are white space come first, because they separate words.
        _ if letter.is_whitespace() => ' ',
        _ if letter.is_control() => return None,
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => return None,
        '\u{58a}'
        | '\u{5be}'
        | '\u{1806}'
        | '\u{2010}'..='\u{2015}'
        | '\u{2043}'
        | '\u{2053}'
        | '\u{207b}'
        | '\u{208b}'
        | '\u{2212}'
        | '\u{2e3a}'
        | '\u{2e3b}'
        | '\u{fe31}'
        | '\u{fe32}'
        | '\u{fe58}'
        | '\u{fe63}' => '-',
        '\u{207a}' | '\u{208a}' | '\u{fe62}' | '\u{2795}' => '+',
        '\u{2044}' | '\u{2215}' => '/',
        '\u{2024}' | '\u{2027}' | '\u{b7}' => '.',
        _ => match ascii_digit(letter) {
            Some(digit) => digit,
            // Full-width forms have the order of ASCII.
            None if ('\u{ff01}'..='\u{ff5e}').contains(&letter) => {
                char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter)
            }
            None => letter,
        },
    })
}

/// Whether a character is folded already: printable ASCII, a line break or a tab.
pub fn is_plain(letter: char) -> bool {
    matches!(letter, ' '..='~' | '\n' | '\r' | '\t')
}

/// Folds a text for the comparison of names and addresses: folded characters, lower case, single
/// spaces.
pub(crate) fn fold(text: &str) -> String {
    let letters = text.chars().filter_map(fold_char);
    let folded: String = match text.is_ascii() {
        true => letters.map(|letter| letter.to_ascii_lowercase()).collect(),
        false => letters.nfkc().flat_map(char::to_lowercase).collect(),
    };
    folded.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Converts a decimal digit of another script to ASCII.
fn ascii_digit(letter: char) -> Option<char> {
    let code = u32::from(letter);
    let zero = *SCRIPT_ZEROS.get(SCRIPT_ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?)?;
    let value = code - zero;
    (value < 10 || (zero == 0x1d7ce && code <= LAST_MATHEMATICAL_DIGIT)).then(|| char::from_digit(value % 10, 10))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_the_same_is_the_same() {
        for (text, folded) in [
            ("\u{202a}+49\u{a0}30\u{2009}12\u{2011}34\u{202c}", "+49 30 12-34"),
            ("＋４９（０）３０", "+49(0)30"),
            ("٠١٢٣٤٥٦٧٨٩ ۰۱۲۳۴۵۶۷۸۹ ०१२३४५६७८९", "0123456789 0123456789 0123456789"),
            ("𝟎𝟗𝟘𝟡𝟢𝟫𝟬𝟵𝟶𝟿", "0909090909"),
            (" Jane\u{a0} \u{200b}DOE\t", "jane doe"),
            ("ZOE\u{308} Straße", "zoë straße"),
            ("a\u{ad}b", "ab"),
            ("Jane\u{0} Roe\u{7f}\u{9c}", "jane roe"),
            ("Jane\u{b}Roe\u{c}\u{85}x\r\ny", "jane roe x y"),
            ("J\0a\0n\0e\0\u{3164}\u{1160}", "jane"),
        ] {
            assert_eq!(fold(text), folded, "{text}");
        }
        assert_eq!(SCRIPT_ZEROS.to_vec(), {
            let mut sorted = SCRIPT_ZEROS.to_vec();
            sorted.sort_unstable();
            sorted
        });
        assert_eq!(fold_char('\u{1d800}'), Some('\u{1d800}'));
        assert_eq!(fold_char('\u{66a}'), Some('\u{66a}'));
    }
}
