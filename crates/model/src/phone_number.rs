//! Telephone numbers as people and systems write them, and when two of them are one. Pure.
//!
//! docs/keeping.md promises the rule. No numbering plans are known here but the lengths of country codes: a library that
//! knows them (`phonenumber`, 1.5 MB of tables) needs to be told a country, and nobody knows it for a number without one.

use super::folding::fold_char;

/// Fewer digits are no number, not even an extension that calls come from.
const MIN_DIGITS: usize = 3;
/// A number has 15 digits at most, and two zeros before them. What is longer is an id.
const MAX_DIGITS: usize = 17;
/// Of fewer digits at the end, many different numbers have the same.
const MIN_COMMON_DIGITS: usize = 7;
/// So many at the end are enough to be alike whatever stands before them, as Russia's 8 in place of 7.
const ENOUGH_COMMON_DIGITS: usize = 10;
const MAX_EXTENSION_DIGITS: usize = 6;

const SCHEMES: [&str; 9] = ["tel", "sip", "sips", "whatsapp", "sms", "smsto", "callto", "mailto", "fax"];
/// Where WhatsApp's ids are at home: numbers without `+`.
const NUMBER_HOSTS: [&str; 2] = ["@s.whatsapp.net", "@c.us"];
const EXTENSIONS: [&str; 6] = ["extension", "ext.", "ext", "durchwahl", "x", "#"];

/// What a number begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    /// `+` or `00`, so that its country's code follows.
    Country,
    /// One zero, which is dialled within its country only.
    Trunk,
    /// Neither: the number with its country's code, or without.
    Unknown,
}

/// A telephone number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneNumber {
    prefix: Prefix,
    /// What follows the prefix.
    digits: String,
}

/// How much two values have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Likeness {
    /// Nothing.
    Different,
    /// The same number in another country; with its code.
    OtherCountry(String),
    /// Perhaps the same: one ends as the other, or the last ten digits of both are one.
    Alike,
    /// The same number within its country and with its country's code; the latter.
    National(String),
    /// The same.
    Same,
}

impl PhoneNumber {
    /// Reads a text that is one number and nothing else.
    pub fn parse(text: &str) -> Option<PhoneNumber> {
        let folded: String = text.chars().filter_map(fold_char).flat_map(char::to_lowercase).collect();
        let stripped = without_scheme(&folded);
        let has_host = stripped.is_some() || NUMBER_HOSTS.iter().any(|host| folded.trim().ends_with(host));
        let text = stripped.unwrap_or(folded).replace("%2b", "+").replace("%20", " ");
        let (mut digits, mut has_plus) = (String::new(), false);
        let mut rest = text.trim();
        while let Some(letter) = rest.chars().next() {
            // The zero that is left out by who dials the country's code.
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
            (2, _) | (0, true) => Prefix::Country,
            (0, false) => Prefix::Unknown,
            _ => Prefix::Trunk,
        };
        Some(PhoneNumber { prefix, digits: significant.to_owned() })
    }

    /// The same for every way of writing it, as far as that can be told from it alone.
    pub fn normal(&self) -> String {
        if self.prefix == Prefix::Trunk { format!("0{}", self.digits) } else { self.digits.clone() }
    }

    /// Whether it has so many digits that hardly two people share them.
    pub fn is_long(&self) -> bool {
        self.digits.len() >= MIN_COMMON_DIGITS
    }

    /// Whether it is the same number as another.
    pub fn compare(&self, other: &PhoneNumber) -> Likeness {
        let (one, two) = (self.full(), other.full());
        let is_same = match (self.prefix, other.prefix) {
            (Prefix::Trunk, Prefix::Trunk) | (Prefix::Unknown, Prefix::Unknown) => self.digits == other.digits,
            (Prefix::Trunk, _) | (_, Prefix::Trunk) => false,
            _ => self.digits == other.digits || one == two,
        };
        if is_same {
            return Likeness::Same;
        }
        let is_long = |digits: &str| digits.len() >= MIN_COMMON_DIGITS;
        match (self.prefix, other.prefix) {
            (Prefix::Trunk, Prefix::Country | Prefix::Unknown)
                if is_long(&self.digits) && has_trunk(&two, &self.digits) =>
            {
                return Likeness::National(two);
            }
            (Prefix::Country | Prefix::Unknown, Prefix::Trunk)
                if is_long(&other.digits) && has_trunk(&one, &other.digits) =>
            {
                return Likeness::National(one);
            }
            (Prefix::Country, Prefix::Country) if national(&one) == national(&two) && is_long(national(&one)) => {
                let is_one_country = country_code(&one) == country_code(&two);
                return if is_one_country { Likeness::Alike } else { Likeness::OtherCountry(two) };
            }
            _ => {}
        }
        let (short, long) = if one.len() < two.len() { (one, two) } else { (two, one) };
        let has_common_end = |count: usize| short.len() >= count && long.ends_with(&short[short.len() - count..]);
        let is_alike = (is_long(&short) && long.ends_with(&short)) || has_common_end(ENOUGH_COMMON_DIGITS);
        if is_alike { Likeness::Alike } else { Likeness::Different }
    }

    /// With no zero between the country's code and the rest, but in Italy, where it is a part of the number.
    fn full(&self) -> String {
        let code = country_code(&self.digits);
        if self.prefix == Prefix::Trunk || code == "39" {
            return self.digits.clone();
        }
        format!("{code}{}", national(&self.digits))
    }
}

/// The numbers that a text holds among other things.
pub fn numbers_in(text: &str) -> Vec<PhoneNumber> {
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

/// What follows the scheme of an address such as `tel:` or `mailto:`, without parameters.
pub fn without_scheme(text: &str) -> Option<String> {
    let (scheme, rest) = text.trim().split_once(':')?;
    let is_known = SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme.trim()));
    let rest = rest.trim_start_matches('/').split([';', '?']).next().unwrap_or_default().trim();
    is_known.then(|| rest.to_owned())
}

/// Whether this, which follows a number, is its extension, or a parameter of its address.
fn is_extension(text: &str) -> bool {
    if text.starts_with([';', '?']) {
        return text.chars().nth(1).is_some_and(char::is_alphabetic);
    }
    let Some(rest) = EXTENSIONS.iter().find_map(|word| text.strip_prefix(word)) else { return false };
    let digits = rest.trim_start_matches([' ', '.', ':']).trim_end();
    (1..=MAX_EXTENSION_DIGITS).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// Whether the number with its country's code is this one, where it is dialled with a zero within the country.
fn has_trunk(full: &str, national_digits: &str) -> bool {
    !matches!(country_code(full), "1" | "7") && national(full) == national_digits
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

/// What follows the country's code, without zeros.
fn national(digits: &str) -> &str {
    digits[country_code(digits).len()..].trim_start_matches('0')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compare(one: &str, two: &str) -> Likeness {
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
            assert_eq!(compare("+49 30 123456", text), Likeness::Same, "{text}");
            assert_eq!(compare(text, "+49 30 123456"), Likeness::Same, "{text}");
        }
        assert_eq!(compare("+1324", "1324"), Likeness::Same);
        assert_eq!(compare("030 123456", "030/12 34 56"), Likeness::Same);
        assert_eq!(compare("+39 06 1234567", "0039061234567"), Likeness::Same);
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
            let Likeness::National(full) = compare(one, two) else { panic!("{one} and {two}") };
            assert_eq!(compare(two, one), Likeness::National(full), "{one} and {two}");
        }
        assert_eq!(compare("+49 30 1234", "+43 30 1234"), Likeness::Different, "too short to tell anything");
        assert_eq!(compare("+49 30 1234567", "+43 30 1234567"), Likeness::OtherCountry("43301234567".to_owned()));
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
            assert_eq!(compare(one, two), Likeness::Alike, "{one} and {two}");
            assert_eq!(compare(two, one), Likeness::Alike, "{one} and {two}");
        }
        for (one, two) in [
            ("+12013770791", "+442013770792"),
            ("+49 30 1234567", "234567"),
            ("+49 30 1234567", "+49 30 1234568"),
            ("0123", "123"),
            ("+49 30 123456", "+49 30 1234567"),
        ] {
            assert_eq!(compare(one, two), Likeness::Different, "{one} and {two}");
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
            assert!(numbers_in(text).iter().any(|found| found.compare(&wanted) == Likeness::Same), "{text}");
        }
        assert_eq!(numbers_in("no 1 is here"), []);
    }

    proptest! {
        #[test]
        fn marks_between_digits_do_not_matter(
            digits in "[1-9][0-9]{6,13}",
            marks in proptest::collection::vec("[ \u{a0}\u{2009}\u{202a}\u{200f}\u{2011}./-]{0,2}", 14),
            start in prop_oneof![Just(""), Just("+"), Just("00"), Just("tel:"), Just("sip:+"), Just("whatsapp:")],
        ) {
            let spread: String = digits.chars().zip(&marks).flat_map(|(digit, mark)| [digit.to_string(), mark.clone()]).collect();
            prop_assert_eq!(compare(&format!("+{digits}"), &format!("{start}{spread}")), Likeness::Same);
        }

        #[test]
        fn no_text_upsets_it(one in ".*", two in "[+0-9() a-z@:;-]{0,20}") {
            numbers_in(&one);
            if let (Some(one), Some(two)) = (PhoneNumber::parse(&one), PhoneNumber::parse(&two)) {
                prop_assert_eq!(one.compare(&one), Likeness::Same);
                let is_same = one.compare(&two) == Likeness::Same;
                prop_assert_eq!(two.compare(&one) == Likeness::Same, is_same);
            }
        }
    }
}
