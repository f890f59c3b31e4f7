//! Parses telephone numbers as people and systems write them, and compares them. Pure.
//!
//! docs/keeping.md documents the rule. This module knows no numbering plans except the lengths of
//! country codes. The crate `phonenumber` knows them, but needs a default country for `030 …` and
//! `0049 …`, and rejects no-break spaces, other scripts' digits and `sip:`. It adds 3.3 MB to a
//! program and 0.15 s to its first call.

use super::folding::fold_char;

/// The fewest digits of a number; an internal extension may have as few.
const MIN_DIGITS: usize = 3;
/// The most digits: 15 (ITU-T E.164) and two leading zeros. Anything longer is an id.
const MAX_DIGITS: usize = 17;
/// The fewest trailing digits that distinguish numbers; many numbers share fewer digits.
const MIN_COMMON_DIGITS: usize = 7;
/// With this many equal trailing digits two numbers are alike whatever precedes them, such as the
/// Russian 8 in place of 7.
const ENOUGH_COMMON_DIGITS: usize = 10;
const MAX_EXTENSION_DIGITS: usize = 6;

const SCHEMES: [&str; 9] = ["tel", "sip", "sips", "whatsapp", "sms", "smsto", "callto", "mailto", "fax"];
/// The hosts of WhatsApp ids, which are numbers without `+`.
const NUMBER_HOSTS: [&str; 2] = ["@s.whatsapp.net", "@c.us"];
const EXTENSIONS: [&str; 6] = ["extension", "ext.", "ext", "durchwahl", "x", "#"];

/// The prefix of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DialPrefix {
    /// `+` or `00`; the country code follows.
    Country,
    /// One zero: the trunk prefix of national dialling.
    Trunk,
    /// Neither: the number may or may not include the country code.
    Unknown,
}

/// A telephone number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneNumber {
    prefix: DialPrefix,
    /// The digits after the prefix.
    digits: String,
}

/// The result of comparing two values, ordered by strength.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ValueMatch {
    /// The values are different.
    Different,
    /// The same national number in another country; holds the number with that country code.
    OtherCountry(String),
    /// Possibly the same: one ends with the other, or both share the last ten digits.
    Alike,
    /// The same number, once in national form and once with the country code; holds the latter.
    National(String),
    /// The values are the same.
    Same,
}

impl PhoneNumber {
    /// Parses a text that consists of exactly one number.
    pub fn parse(text: &str) -> Option<PhoneNumber> {
        let folded: String = text.chars().filter_map(fold_char).flat_map(char::to_lowercase).collect();
        let stripped = strip_scheme(&folded);
        let has_host = stripped.is_some() || NUMBER_HOSTS.iter().any(|host| folded.trim().ends_with(host));
        let text = stripped.unwrap_or(folded).replace("%2b", "+").replace("%20", " ");
        let (mut digits, mut has_plus) = (String::new(), false);
        let mut rest = text.trim();
        while let Some(letter) = rest.chars().next() {
            // The trunk prefix, which is not dialled after a country code.
            if let Some(after) = rest.strip_prefix("(0)").filter(|_| !digits.is_empty()) {
                rest = after;
                continue;
            }
            match letter {
                '0'..='9' => digits.push(letter),
                '+' if digits.is_empty() => has_plus = true,
                '@' if has_host || has_plus => break,
                _ if "-().[]/~".contains(letter) || letter.is_whitespace() => {}
                _ if is_extension(rest) => break,
                _ => return None,
            }
            rest = &rest[letter.len_utf8()..];
        }
        let significant = digits.trim_start_matches('0');
        if significant.is_empty() || !(MIN_DIGITS..=MAX_DIGITS).contains(&digits.len()) {
            return None;
        }
        let prefix = match (digits.len() - significant.len(), has_plus) {
            (2, _) | (0, true) => DialPrefix::Country,
            (0, false) => DialPrefix::Unknown,
            _ => DialPrefix::Trunk,
        };
        Some(PhoneNumber { prefix, digits: significant.to_owned() })
    }

    /// The same text for every way of writing the number, as far as the number alone shows.
    pub(crate) fn normalized(&self) -> String {
        if self.prefix == DialPrefix::Trunk { format!("0{}", self.digits) } else { self.digits.clone() }
    }

    /// Whether the number has enough digits to be distinctive.
    pub fn is_distinctive(&self) -> bool {
        self.digits.len() >= MIN_COMMON_DIGITS
    }

    /// Compares the number with another.
    pub(crate) fn compare(&self, other: &PhoneNumber) -> ValueMatch {
        let (one, two) = (self.international_digits(), other.international_digits());
        let is_same = match (self.prefix, other.prefix) {
            (DialPrefix::Trunk, DialPrefix::Trunk) | (DialPrefix::Unknown, DialPrefix::Unknown) => {
                self.digits == other.digits
            }
            (DialPrefix::Trunk, _) | (_, DialPrefix::Trunk) => false,
            _ => self.digits == other.digits || one == two,
        };
        if is_same {
            return ValueMatch::Same;
        }
        let is_long = |digits: &str| digits.len() >= MIN_COMMON_DIGITS;
        match (self.prefix, other.prefix) {
            (DialPrefix::Trunk, DialPrefix::Country | DialPrefix::Unknown)
                if is_long(&self.digits) && has_national_digits(&two, &self.digits) =>
            {
                return ValueMatch::National(two);
            }
            (DialPrefix::Country | DialPrefix::Unknown, DialPrefix::Trunk)
                if is_long(&other.digits) && has_national_digits(&one, &other.digits) =>
            {
                return ValueMatch::National(one);
            }
            (DialPrefix::Country, DialPrefix::Country)
                if national_part(&one) == national_part(&two) && is_long(national_part(&one)) =>
            {
                let is_one_country = country_code(&one) == country_code(&two);
                return if is_one_country { ValueMatch::Alike } else { ValueMatch::OtherCountry(two) };
            }
            _ => {}
        }
        let (short, long) = if one.len() < two.len() { (one, two) } else { (two, one) };
        let has_common_end = |count: usize| short.len() >= count && long.ends_with(&short[short.len() - count..]);
        let is_alike = (is_long(&short) && long.ends_with(&short)) || has_common_end(ENOUGH_COMMON_DIGITS);
        if is_alike { ValueMatch::Alike } else { ValueMatch::Different }
    }

    /// The digits without a zero after the country code, except for Italy, where the zero is part
    /// of the number.
    fn international_digits(&self) -> String {
        let code = country_code(&self.digits);
        if self.prefix == DialPrefix::Trunk || code == "39" {
            return self.digits.clone();
        }
        format!("{code}{}", national_part(&self.digits))
    }
}

/// Finds the numbers that a text contains.
pub(crate) fn find_numbers(text: &str) -> Vec<PhoneNumber> {
    let folded: String = text.chars().filter_map(fold_char).collect();
    let is_of_number = |letter: char| letter.is_ascii_digit() || "+-()./ ".contains(letter);
    let mut numbers = Vec::new();
    for run in folded.split(|letter| !is_of_number(letter)) {
        for (nth, part) in run.split('+').enumerate() {
            let part = if nth == 0 { part.to_owned() } else { format!("+{part}") };
            numbers.extend(PhoneNumber::parse(&part));
            if part.trim().contains(' ') {
                numbers.extend(part.split(' ').filter_map(PhoneNumber::parse));
            }
        }
    }
    numbers
}

/// Removes the scheme and the parameters of an address such as `tel:` or `mailto:`; returns `None`
/// without a known scheme.
pub(crate) fn strip_scheme(text: &str) -> Option<String> {
    let (scheme, rest) = text.trim().split_once(':')?;
    let is_known = SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme.trim()));
    let rest = rest.trim_start_matches('/').split([';', '?']).next().unwrap_or_default().trim();
    is_known.then(|| rest.to_owned())
}

/// Whether the text after a number is its extension or a parameter of its address.
fn is_extension(text: &str) -> bool {
    if text.starts_with([';', '?']) {
        return text.chars().nth(1).is_some_and(char::is_alphabetic);
    }
    let Some(rest) = EXTENSIONS.iter().find_map(|word| text.strip_prefix(word)) else { return false };
    let digits = rest.trim_start_matches([' ', '.', ':']).trim_end();
    (1..=MAX_EXTENSION_DIGITS).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// Whether a number with country code has these national digits, in a country that dials a trunk
/// prefix.
fn has_national_digits(full: &str, national_digits: &str) -> bool {
    !matches!(country_code(full), "1" | "7") && national_part(full) == national_digits
}

fn country_code(digits: &str) -> &str {
    let length = match digits.as_bytes() {
        [b'1' | b'7', ..] => 1,
        [b'2', b'0' | b'7', ..]
        | [b'3', b'0'..=b'4' | b'6' | b'9', ..]
        | [b'4', b'0' | b'1' | b'3'..=b'9', ..]
        | [b'5', b'1'..=b'8', ..]
        | [b'6', b'0'..=b'6', ..]
        | [b'8', b'1' | b'2' | b'4' | b'6', ..]
        | [b'9', b'0'..=b'5' | b'8', ..] => 2,
        _ => 3,
    };
    &digits[..length.min(digits.len())]
}

/// The digits after the country code, without leading zeros.
fn national_part(digits: &str) -> &str {
    digits[country_code(digits).len()..].trim_start_matches('0')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compare(one: &str, two: &str) -> ValueMatch {
        let parsed = |text: &str| PhoneNumber::parse(text).unwrap_or_else(|| panic!("{text} is no number"));
        parsed(one).compare(&parsed(two))
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        for text in [
            "+4930123456",
            "4930123456",
            "004930123456",
            "+49 30 123456",
            "+49\u{a0}30\u{2009}123\u{202f}456",
            "\u{202a}+49\u{2011}30\u{2013}12\u{2212}34-56\u{202c}",
            "\u{200e}+49 30 123456\u{200f}",
            "+49 (0)30 123456",
            "+49(0)30/123456",
            "0049 (0) 30 123456",
            "+49 030 123456",
            "(+49) 30 123 456",
            "＋４９ ３０ １２３４５６",
            "+٤٩٣٠١٢٣٤٥٦",
            "tel:+49-30-123456",
            "TEL:+4930123456;ext=12",
            "tel://+4930123456",
            "sip:+4930123456@pbx.example.com",
            "sips:4930123456@pbx.example.com:5061;user=phone",
            "sip:%2B4930123456@pbx",
            "whatsapp:+4930123456",
            "sms:+4930123456?body=hi",
            "4930123456@s.whatsapp.net",
            "+4930123456@txt.example.net",
            "+49 30 123456 ext. 12",
            "+49 30 123456 x12",
            "+49 30 123456;ext=7",
        ] {
            assert_eq!(compare("+49 30 123456", text), ValueMatch::Same, "{text}");
            assert_eq!(compare(text, "+49 30 123456"), ValueMatch::Same, "{text}");
        }
        assert_eq!(compare("+1324", "1324"), ValueMatch::Same);
        assert_eq!(compare("030 123456", "030/12 34 56"), ValueMatch::Same);
        assert_eq!(compare("+39 06 1234567", "0039061234567"), ValueMatch::Same);
    }

    #[test]
    fn with_the_zero_of_its_country_it_is_the_national_form_of_one() {
        for (one, two) in [
            ("030 123456", "+49 30 123456"),
            ("030123456", "4930123456"),
            ("(0)30 123456", "+49 (0)30 123456"),
            ("020 7946 0958", "+44 20 7946 0958"),
            ("06 1234567", "+39 06 1234567"),
        ] {
            let ValueMatch::National(full) = compare(one, two) else { panic!("{one} and {two}") };
            assert_eq!(compare(two, one), ValueMatch::National(full), "{one} and {two}");
        }
        assert_eq!(compare("+49 30 1234", "+43 30 1234"), ValueMatch::Different, "too short to tell anything");
        assert_eq!(compare("+49 30 1234567", "+43 30 1234567"), ValueMatch::OtherCountry("43301234567".to_owned()));
    }

    #[test]
    fn what_only_ends_alike_is_alike() {
        for (one, two) in [
            ("+12013770791", "2013770791"),
            ("2013770791", "+1 (201) 377-0791"),
            ("02013770791", "+12013770791"),
            ("+49 30 1234567", "1234567"),
            ("30 1234567", "030 1234567"),
            ("011 49 30 1234567", "+49 30 1234567"),
            ("8 495 123-45-67", "+7 495 123-45-67"),
            ("+39 06 1234567", "+39 6 1234567"),
        ] {
            assert_eq!(compare(one, two), ValueMatch::Alike, "{one} and {two}");
            assert_eq!(compare(two, one), ValueMatch::Alike, "{one} and {two}");
        }
        for (one, two) in [
            ("+12013770791", "+442013770792"),
            ("+49 30 1234567", "234567"),
            ("+49 30 1234567", "+49 30 1234568"),
            ("0123", "123"),
            ("+49 30 123456", "+49 30 1234567"),
        ] {
            assert_eq!(compare(one, two), ValueMatch::Different, "{one} and {two}");
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "",
            "jane",
            "12",
            "000",
            "jane@example.com",
            "12345678@example.com",
            "sip:jane@pbx",
            "d-6555aa00cd0df30007872d38",
            "202407221928172035020000000572",
            "+49 30 123456 or 7",
            "call +49 30 123456",
            "4930123456 x",
            "49+30",
        ] {
            assert_eq!(PhoneNumber::parse(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_found_within_a_text() {
        let texts = ["Jane (+49\u{a0}30 123456)", "anonymous 12 +4930123456", "4930123456, room 7", "x 77 4930123456"];
        for text in texts {
            let wanted = PhoneNumber::parse("+4930123456").unwrap();
            assert!(find_numbers(text).iter().any(|found| found.compare(&wanted) == ValueMatch::Same), "{text}");
        }
        assert_eq!(find_numbers("no 1 is here"), []);
    }

    proptest! {
        #[test]
        fn marks_between_digits_do_not_matter(
            digits in "[1-9][0-9]{6,13}",
            marks in proptest::collection::vec("[ \u{a0}\u{2009}\u{202a}\u{200f}\u{2011}./-]{0,2}", 14),
            start in prop_oneof![Just(""), Just("+"), Just("00"), Just("tel:"), Just("sip:+"), Just("whatsapp:")],
        ) {
            let spread: String = digits.chars().zip(&marks).flat_map(|(digit, mark)| [digit.to_string(), mark.clone()]).collect();
            prop_assert_eq!(compare(&format!("+{digits}"), &format!("{start}{spread}")), ValueMatch::Same);
        }

        #[test]
        fn no_text_upsets_it(one in ".*", two in "[+0-9() a-z@:;-]{0,20}") {
            find_numbers(&one);
            if let (Some(one), Some(two)) = (PhoneNumber::parse(&one), PhoneNumber::parse(&two)) {
                prop_assert_eq!(one.compare(&one), ValueMatch::Same);
                let is_same = one.compare(&two) == ValueMatch::Same;
                prop_assert_eq!(two.compare(&one) == ValueMatch::Same, is_same);
            }
        }
    }
}
