//! Where a text holds numbers of payment cards and telephones.
//!
//! Both are sought in groups of digits and what stands between them, so that a number within a longer one, a date, an
//! amount or an id is left alone.

use std::ops::Range;

/// Digits that stand together.
struct Groups<'t> {
    text: &'t str,
    places: Vec<Range<usize>>,
}

impl<'t> Groups<'t> {
    fn of(text: &'t str) -> Groups<'t> {
        let mut places: Vec<Range<usize>> = Vec::new();
        for (at, _) in text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
            match places.last_mut() {
                Some(last) if last.end == at => last.end = at + 1,
                _ => places.push(at..at + 1),
            }
        }
        Groups { text, places }
    }

    fn digits(&self, index: usize) -> &'t str {
        self.places.get(index).map_or("", |place| &self.text[place.clone()])
    }

    /// What stands between this group and the next.
    fn gap(&self, index: usize) -> Option<&'t str> {
        Some(&self.text[self.places.get(index)?.end..self.places.get(index + 1)?.start])
    }

    fn start(&self, index: usize) -> usize {
        self.places.get(index).map_or(self.text.len(), |place| place.start)
    }

    fn end(&self, index: usize) -> usize {
        self.places.get(index).map_or(self.text.len(), |place| place.end)
    }
}

/// A space, or what was lost where one may have stood.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\u{a0}' | char::REPLACEMENT_CHARACTER)
}

fn is_dash(letter: char) -> bool {
    matches!(letter, '-' | '\u{2010}'..='\u{2013}')
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// The last two characters of a text, the last first.
fn last_two(text: &str) -> (Option<char>, Option<char>) {
    let mut back = text.chars().rev();
    (back.next(), back.next())
}

/// The first two characters of a text.
fn first_two(text: &str) -> (Option<char>, Option<char>) {
    let mut ahead = text.chars();
    (ahead.next(), ahead.next())
}

/// Card numbers: 13 to 19 digits whose check digit is right, whole groups, with one space or dash between any two.
pub(super) fn cards(text: &str) -> Vec<Range<usize>> {
    let groups = Groups::of(text);
    let mut found: Vec<Range<usize>> = Vec::new();
    for first in 0..groups.places.len() {
        // Every one that fits, not only the likeliest: of two that overlap, either may be the card.
        let Some(last) = widest_card(&groups, first) else { continue };
        let place = groups.start(first)..groups.end(last);
        match found.last_mut() {
            Some(before) if place.start < before.end => before.end = before.end.max(place.end),
            _ => found.push(place),
        }
    }
    found
}

fn widest_card(groups: &Groups<'_>, first: usize) -> Option<usize> {
    let joins = |index: usize| groups.gap(index).is_some_and(|gap| is_gap_of_card(gap) && is_apart(groups, index + 1));
    if !is_apart(groups, first) {
        return None;
    }
    let begins = first == 0 || !joins(first - 1) || !is_apart(groups, first - 1);
    let mut number = String::new();
    let mut widest = None;
    let mut last = first;
    loop {
        number.push_str(groups.digits(last));
        let goes_on = joins(last);
        if number.len() > 19 {
            break;
        }
        if number.len() >= 13 && is_card(&number, begins && !goes_on) {
            widest = Some(last);
        }
        if !goes_on {
            break;
        }
        last += 1;
    }
    widest
}

fn is_gap_of_card(gap: &str) -> bool {
    let mut letters = gap.chars();
    letters.next().is_some_and(|letter| is_space(letter) || is_dash(letter)) && letters.next().is_none()
}

/// Whether a group is no part of a word, and no fraction.
fn is_apart(groups: &Groups<'_>, index: usize) -> bool {
    let (before, one_more) = last_two(&groups.text[..groups.start(index)]);
    let is_fraction = matches!(before, Some('.' | ',')) && one_more.is_some_and(|c| c.is_ascii_digit()) && {
        index > 0 && groups.digits(index - 1).len() <= 3
    };
    !is_fraction && !before.is_some_and(is_word) && !groups.text[groups.end(index)..].starts_with(is_word)
}

/// A number that stands alone may begin with any digit, but no time in milliseconds is a card; among other digits it
/// begins as payment cards do.
fn is_card(number: &str, is_alone: bool) -> bool {
    let is_time = number.len() == 13 && number.starts_with('1');
    let is_likely = number.starts_with(['2', '3', '4', '5', '6']);
    (is_likely || is_alone && !is_time) && luhn(number)
}

fn luhn(number: &str) -> bool {
    let digits = number.bytes().rev().map(|byte| u32::from(byte.saturating_sub(b'0')));
    let sum: u32 = digits
        .enumerate()
        .map(|(index, digit)| match index % 2 {
            0 => digit,
            _ if digit > 4 => digit * 2 - 9,
            _ => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Telephone numbers: international ones, North American ones, and national ones with their leading zero.
pub(super) fn phones(text: &str) -> Vec<Range<usize>> {
    let groups = Groups::of(text);
    let mut found = Vec::new();
    let mut first = 0;
    while first < groups.places.len() {
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

/// What may stand between the parts of a telephone number.
fn is_between(letter: char) -> bool {
    matches!(letter, '.' | '(' | ')' | '/') || is_space(letter) || is_dash(letter)
}

fn links(groups: &Groups<'_>, index: usize) -> bool {
    groups.gap(index).is_some_and(|gap| gap.chars().count() <= 4 && gap.chars().all(is_between))
}

/// The last group up to which, from `first` on, there are so many digits in one number; the widest.
fn reach(groups: &Groups<'_>, first: usize, digits: std::ops::RangeInclusive<usize>) -> Option<usize> {
    let (mut count, mut widest, mut last) = (0, None, first);
    loop {
        let group = groups.digits(last).len();
        count += group;
        if count > *digits.end() {
            break;
        }
        if digits.contains(&count) {
            widest = Some(last);
        }
        // After so many at once the number is over: what follows is another.
        if group >= 9 || !links(groups, last) {
            break;
        }
        last += 1;
    }
    widest
}

/// `+` or `00`, the country, the rest. With its `+` it needs no more to be known.
fn international(groups: &Groups<'_>, first: usize) -> Option<(usize, usize)> {
    let before = &groups.text[..groups.start(first)];
    let digits = groups.digits(first);
    let plus = before.trim_end_matches([' ', '(']).strip_suffix('+').filter(|rest| before.len() - rest.len() <= 3);
    if let Some(rest) = plus
        && !digits.starts_with('0')
        && !rest.ends_with(is_word)
    {
        return Some((rest.len(), reach(groups, first, 7..=15)?));
    }
    if !digits.starts_with("00") || digits[2..].starts_with('0') || !is_free_before(before) {
        return None;
    }
    let last = match digits.len() {
        3..=6 => reach(groups, first, 11..=17)?,
        12..=17 => first,
        _ => return None,
    };
    is_free_after(&groups.text[groups.end(last)..]).then_some((groups.start(first), last))
}

fn domestic(groups: &Groups<'_>, first: usize) -> Option<(usize, usize)> {
    let mut start = groups.start(first);
    if groups.text[..start].ends_with('(') && groups.gap(first).is_some_and(|gap| gap.starts_with(')')) {
        start -= 1;
    }
    if !is_free_before(&groups.text[..start]) {
        return None;
    }
    let is_free = |last: &usize| is_free_after(&groups.text[groups.end(*last)..]);
    let last = spoken(groups, first).or_else(|| american(groups, first)).or_else(|| national(groups, first));
    last.filter(is_free).map(|last| (start, last))
}

/// One digit at a time, as they are read out.
fn spoken(groups: &Groups<'_>, first: usize) -> Option<usize> {
    let is_one = |index: usize| groups.digits(index).len() == 1;
    let follows = |index: usize| is_one(index) && groups.gap(index) == Some(" ") && is_one(index + 1);
    if first > 0 && follows(first - 1) {
        return None;
    }
    let last = (first..).find(|index| !follows(*index))?;
    let number: String = (first..=last).map(|index| groups.digits(index)).collect();
    let is_national = matches!(number.len(), 10 | 11) && number.starts_with('0') && !number.starts_with("00");
    (is_american(&number) || is_national).then_some(last)
}

/// The shapes in which North American numbers are written, without the 1 that may come first.
const SHAPES: [&[usize]; 5] = [&[3, 3, 4], &[3, 3, 2, 2], &[10], &[3, 7], &[6, 4]];

fn american(groups: &Groups<'_>, first: usize) -> Option<usize> {
    let has_one = groups.digits(first) == "1" && links(groups, first);
    let from = first + usize::from(has_one);
    let fits = |shape: &&&[usize]| {
        let lengths = shape.iter().enumerate().all(|(index, digits)| groups.digits(from + index).len() == *digits);
        lengths && (from..from + shape.len() - 1).all(|index| links(groups, index))
    };
    if groups.digits(first).len() == 11 && is_american(groups.digits(first)) {
        return Some(first);
    }
    if let Some(shape) = SHAPES.iter().find(fits) {
        let last = from + shape.len() - 1;
        let number: String = (from..=last).map(|index| groups.digits(index)).collect();
        return is_american(&number).then_some(last);
    }
    let is_local = groups.digits(first).len() == 3 && groups.digits(first + 1).len() == 4;
    let is_dashed = groups.gap(first).is_some_and(|gap| gap.chars().all(is_dash) && gap.chars().count() == 1);
    (is_local && is_dashed && groups.digits(first).starts_with(|c| c >= '2')).then_some(first + 1)
}

/// Ten digits, neither area nor exchange beginning with 0 or 1; eleven with a 1 before them.
fn is_american(number: &str) -> bool {
    let number = if number.len() == 11 { number.strip_prefix('1').unwrap_or("") } else { number };
    let digit = |index: usize| number.as_bytes().get(index).copied().unwrap_or(b'0');
    number.len() == 10 && digit(0) >= b'2' && digit(3) >= b'2'
}

/// A leading zero, an area, a number; no date.
fn national(groups: &Groups<'_>, first: usize) -> Option<usize> {
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
    [10, 11, 12, 9].into_iter().find_map(|count| reach(groups, first, count..=count)).filter(|last| *last > first)
}

fn is_date(groups: &Groups<'_>, first: usize) -> bool {
    let lengths = [0, 1, 2].map(|index| groups.digits(first + index).len());
    let gaps = (groups.gap(first), groups.gap(first + 1));
    matches!(lengths, [2, 2, 2 | 4]) && gaps.0 == gaps.1 && matches!(gaps.0, Some("-" | "." | "/" | ". " | " / "))
}

/// Whether a number may begin after this: not within a word, an id, an amount, a time.
fn is_free_before(text: &str) -> bool {
    let (last, before) = last_two(text);
    let after_digit = before.is_some_and(|c| c.is_ascii_digit());
    match last {
        Some('$' | '€' | '£' | '¥' | '#') => false,
        Some('.' | ',' | ':') => !after_digit,
        Some('/' | '+') => !before.is_some_and(is_word),
        Some(letter) if is_dash(letter) => !before.is_some_and(is_word),
        Some(letter) => !is_word(letter),
        None => true,
    }
}

/// Whether a number may end before this.
fn is_free_after(text: &str) -> bool {
    let (first, next) = first_two(text);
    let before_digit = next.is_some_and(|c| c.is_ascii_digit());
    match first {
        Some('%') => false,
        Some('x' | 'X') => before_digit,
        Some('.' | ',' | ':') => !before_digit,
        Some('/') => !next.is_some_and(is_word),
        Some(letter) if is_dash(letter) => !next.is_some_and(is_word),
        Some(letter) => !is_word(letter),
        None => true,
    }
}
