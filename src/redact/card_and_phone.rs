//! Detects card numbers and telephone numbers in a text.
//!
//! Both are found by groups of digits and the characters between them, so that parts of longer
//! numbers, dates, amounts and ids do not match. A regular expression cannot limit the digits of
//! each group and of all groups at once, and the crate `regex` cannot look around a match.

use std::ops::Range;

/// The groups of adjacent digits in a text.
struct DigitGroups<'t> {
    text: &'t str,
    ranges: Vec<Range<usize>>,
}

impl<'t> DigitGroups<'t> {
    fn of(text: &'t str) -> DigitGroups<'t> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (at, _) in text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
            match ranges.last_mut() {
                Some(last) if last.end == at => last.end = at + 1,
                _ => ranges.push(at..at + 1),
            }
        }
        DigitGroups { text, ranges }
    }

    fn digits(&self, index: usize) -> &'t str {
        self.ranges.get(index).map_or("", |range| &self.text[range.clone()])
    }

    /// The text between this group and the next.
    fn gap(&self, index: usize) -> Option<&'t str> {
        Some(&self.text[self.ranges.get(index)?.end..self.ranges.get(index + 1)?.start])
    }

    fn start(&self, index: usize) -> usize {
        self.ranges.get(index).map_or(self.text.len(), |range| range.start)
    }

    fn end(&self, index: usize) -> usize {
        self.ranges.get(index).map_or(self.text.len(), |range| range.end)
    }
}

/// A space, or a lost character that may have been one.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\u{a0}' | char::REPLACEMENT_CHARACTER)
}

fn is_dash(letter: char) -> bool {
    matches!(letter, '-' | '\u{2010}'..='\u{2013}')
}

fn is_word_char(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// The last two characters of a text, the last first.
fn last_two_chars(text: &str) -> (Option<char>, Option<char>) {
    let mut chars = text.chars().rev();
    (chars.next(), chars.next())
}

/// The first two characters of a text.
fn first_two_chars(text: &str) -> (Option<char>, Option<char>) {
    let mut chars = text.chars();
    (chars.next(), chars.next())
}

/// Card numbers: 13 to 19 digits with a valid check digit, in whole groups, with one space or dash
/// between two groups.
pub(super) fn cards(text: &str) -> Vec<Range<usize>> {
    let groups = DigitGroups::of(text);
    let mut found: Vec<Range<usize>> = Vec::new();
    for first in 0..groups.ranges.len() {
        // All candidates, not only the most likely one: of two that overlap, either may be the
        // card.
        let Some(last) = longest_card(&groups, first) else { continue };
        let range = groups.start(first)..groups.end(last);
        match found.last_mut() {
            Some(before) if range.start < before.end => before.end = before.end.max(range.end),
            _ => found.push(range),
        }
    }
    found
}

fn longest_card(groups: &DigitGroups<'_>, first: usize) -> Option<usize> {
    let is_joined = |index: usize| {
        groups.gap(index).is_some_and(|gap| is_card_separator(gap) && is_separate_number(groups, index + 1))
    };
    if !is_separate_number(groups, first) {
        return None;
    }
    let is_first = first == 0 || !is_joined(first - 1) || !is_separate_number(groups, first - 1);
    let mut number = String::new();
    let mut longest = None;
    let mut last = first;
    loop {
        number.push_str(groups.digits(last));
        let continues = is_joined(last);
        if number.len() > 19 {
            break;
        }
        if number.len() >= 13 && is_card(&number, is_first && !continues) {
            longest = Some(last);
        }
        if !continues {
            break;
        }
        last += 1;
    }
    longest
}

fn is_card_separator(gap: &str) -> bool {
    let mut letters = gap.chars();
    letters.next().is_some_and(|letter| is_space(letter) || is_dash(letter)) && letters.next().is_none()
}

/// Whether a group is neither part of a word nor a fraction.
fn is_separate_number(groups: &DigitGroups<'_>, index: usize) -> bool {
    let (before, second_last) = last_two_chars(&groups.text[..groups.start(index)]);
    let is_fraction = matches!(before, Some('.' | ',')) && second_last.is_some_and(|c| c.is_ascii_digit()) && {
        index > 0 && groups.digits(index - 1).len() <= 3
    };
    !is_fraction && !before.is_some_and(is_word_char) && !groups.text[groups.end(index)..].starts_with(is_word_char)
}

/// A separate number may begin with any digit, unless it is a time in milliseconds. Among other
/// digits, it must begin like a payment card.
fn is_card(number: &str, is_separate: bool) -> bool {
    let is_time = number.len() == 13 && number.starts_with('1');
    let has_card_prefix = number.starts_with(['2', '3', '4', '5', '6']);
    (has_card_prefix || is_separate && !is_time) && luhn::valid(number)
}

/// Telephone numbers: international ones, North American ones, and national ones with their leading
/// zero.
pub(super) fn phones(text: &str) -> Vec<Range<usize>> {
    let groups = DigitGroups::of(text);
    let mut found = Vec::new();
    let mut first = 0;
    while first < groups.ranges.len() {
        let phone = international(&groups, first).or_else(|| domestic(&groups, first));
        match phone {
            Some((start, last)) => {
                found.push(start..groups.end(last));
                first = last + 1;
            }
            None => first += 1,
        }
    }
    found
}

/// Characters that may separate the parts of a telephone number.
fn is_phone_separator(letter: char) -> bool {
    matches!(letter, '.' | '(' | ')' | '/') || is_space(letter) || is_dash(letter)
}

fn is_linked(groups: &DigitGroups<'_>, index: usize) -> bool {
    groups.gap(index).is_some_and(|gap| gap.chars().count() <= 4 && gap.chars().all(is_phone_separator))
}

/// The last group of the longest run of groups from `first` on whose number of digits is in
/// `digits`.
fn longest_group_run(groups: &DigitGroups<'_>, first: usize, digits: std::ops::RangeInclusive<usize>) -> Option<usize> {
    let (mut count, mut longest, mut last) = (0, None, first);
    loop {
        let group = groups.digits(last).len();
        count += group;
        if count > *digits.end() {
            break;
        }
        if digits.contains(&count) {
            longest = Some(last);
        }
        // A group of nine or more digits ends the number.
        if group >= 9 || !is_linked(groups, last) {
            break;
        }
        last += 1;
    }
    longest
}

/// An international number: `+` or `00`, the country code, and the rest. A `+` is sufficient
/// evidence.
fn international(groups: &DigitGroups<'_>, first: usize) -> Option<(usize, usize)> {
    let before = &groups.text[..groups.start(first)];
    let digits = groups.digits(first);
    let plus = before.trim_end_matches([' ', '(']).strip_suffix('+').filter(|rest| before.len() - rest.len() <= 3);
    if let Some(rest) = plus
        && !digits.starts_with('0')
        && !rest.ends_with(is_word_char)
    {
        return Some((rest.len(), longest_group_run(groups, first, 7..=15)?));
    }
    if !digits.starts_with("00") || digits[2..].starts_with('0') || !may_start_after(before) {
        return None;
    }
    let last = match digits.len() {
        3..=6 => longest_group_run(groups, first, 11..=17)?,
        12..=17 => first,
        _ => return None,
    };
    may_end_before(&groups.text[groups.end(last)..]).then_some((groups.start(first), last))
}

fn domestic(groups: &DigitGroups<'_>, first: usize) -> Option<(usize, usize)> {
    let mut start = groups.start(first);
    if groups.text[..start].ends_with('(') && groups.gap(first).is_some_and(|gap| gap.starts_with(')')) {
        start -= 1;
    }
    if !may_start_after(&groups.text[..start]) {
        return None;
    }
    let may_end = |last: &usize| may_end_before(&groups.text[groups.end(*last)..]);
    let last =
        spelled_digits(groups, first).or_else(|| north_american(groups, first)).or_else(|| national(groups, first));
    last.filter(may_end).map(|last| (start, last))
}

/// A number with spaces between all digits, as people read it out.
fn spelled_digits(groups: &DigitGroups<'_>, first: usize) -> Option<usize> {
    let is_single_digit = |index: usize| groups.digits(index).len() == 1;
    let is_followed =
        |index: usize| is_single_digit(index) && groups.gap(index) == Some(" ") && is_single_digit(index + 1);
    if first > 0 && is_followed(first - 1) {
        return None;
    }
    let last = (first..).find(|index| !is_followed(*index))?;
    let number: String = (first..=last).map(|index| groups.digits(index)).collect();
    let is_national = matches!(number.len(), 10 | 11) && number.starts_with('0') && !number.starts_with("00");
    (is_north_american(&number) || is_national).then_some(last)
}

/// Group lengths of North American numbers, without a leading 1.
const NORTH_AMERICAN_SHAPES: [&[usize]; 5] = [&[3, 3, 4], &[3, 3, 2, 2], &[10], &[3, 7], &[6, 4]];

fn north_american(groups: &DigitGroups<'_>, first: usize) -> Option<usize> {
    let has_one = groups.digits(first) == "1" && is_linked(groups, first);
    let from = first + usize::from(has_one);
    let fits = |shape: &&&[usize]| {
        let lengths = shape.iter().enumerate().all(|(index, digits)| groups.digits(from + index).len() == *digits);
        lengths && (from..from + shape.len() - 1).all(|index| is_linked(groups, index))
    };
    if groups.digits(first).len() == 11 && is_north_american(groups.digits(first)) {
        return Some(first);
    }
    if let Some(shape) = NORTH_AMERICAN_SHAPES.iter().find(fits) {
        let last = from + shape.len() - 1;
        let number: String = (from..=last).map(|index| groups.digits(index)).collect();
        return is_north_american(&number).then_some(last);
    }
    let is_local = groups.digits(first).len() == 3 && groups.digits(first + 1).len() == 4;
    let is_dashed = groups.gap(first).is_some_and(|gap| gap.chars().all(is_dash) && gap.chars().count() == 1);
    (is_local && is_dashed && groups.digits(first).starts_with(|c| c >= '2')).then_some(first + 1)
}

/// Ten digits whose area and exchange codes do not begin with 0 or 1; or eleven with a leading 1.
fn is_north_american(number: &str) -> bool {
    let number = if number.len() == 11 { number.strip_prefix('1').unwrap_or("") } else { number };
    let digit = |index: usize| number.as_bytes().get(index).copied().unwrap_or(b'0');
    number.len() == 10 && digit(0) >= b'2' && digit(3) >= b'2'
}

/// A national number: a leading zero, an area code and a number; not a date.
fn national(groups: &DigitGroups<'_>, first: usize) -> Option<usize> {
    let digits = groups.digits(first);
    if !digits.starts_with('0') || digits.starts_with("00") || is_date(groups, first) {
        return None;
    }
    if matches!(digits.len(), 10 | 11) {
        return Some(first);
    }
    if !(2..=6).contains(&digits.len()) {
        return None;
    }
    [10, 11, 12, 9]
        .into_iter()
        .find_map(|count| longest_group_run(groups, first, count..=count))
        .filter(|last| *last > first)
}

fn is_date(groups: &DigitGroups<'_>, first: usize) -> bool {
    let lengths = [0, 1, 2].map(|index| groups.digits(first + index).len());
    let gaps = (groups.gap(first), groups.gap(first + 1));
    matches!(lengths, [2, 2, 2 | 4]) && gaps.0 == gaps.1 && matches!(gaps.0, Some("-" | "." | "/" | ". " | " / "))
}

/// Whether a number may begin after this text: not within a word, an id, an amount or a time.
fn may_start_after(text: &str) -> bool {
    let (last, before) = last_two_chars(text);
    let after_digit = before.is_some_and(|c| c.is_ascii_digit());
    match last {
        Some('$' | '€' | '£' | '¥' | '#') => false,
        Some('.' | ',' | ':') => !after_digit,
        Some('/' | '+') => !before.is_some_and(is_word_char),
        Some(letter) if is_dash(letter) => !before.is_some_and(is_word_char),
        Some(letter) => !is_word_char(letter),
        None => true,
    }
}

/// Whether a number may end before this text.
fn may_end_before(text: &str) -> bool {
    let (first, next) = first_two_chars(text);
    let before_digit = next.is_some_and(|c| c.is_ascii_digit());
    match first {
        Some('%') => false,
        Some('x' | 'X') => before_digit,
        Some('.' | ',' | ':') => !before_digit,
        Some('/') => !next.is_some_and(is_word_char),
        Some(letter) if is_dash(letter) => !next.is_some_and(is_word_char),
        Some(letter) => !is_word_char(letter),
        None => true,
    }
}
