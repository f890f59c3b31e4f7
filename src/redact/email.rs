//! Detects e-mail addresses in a text: written ones, and spoken ones (`jane dot doe at example dot
//! com`).

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// Spoken addresses. They must end in a common top-level domain, because "at … dot …" alone is too
/// ambiguous.
static SPOKEN_ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let word = r"[\p{L}\p{N}_+-]+";
    let domains = "com|net|org|edu|gov|info|biz|io|co|us|uk|ca|de|fr|es|it|nl|be|ch|at|au|eu|mx|br|in";
    Regex::new(&format!(
        r"(?i)\b{word}(?:\s+(?:dot|underscore|dash)\s+{word}){{0,4}}\s+at\s+(?:{word}\s+dot\s+){{1,4}}(?:{domains})\b"
    ))
    .ok()
});

/// The ranges of the addresses, in order and without overlaps.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let start =
            text[..at].char_indices().rev().take_while(|(_, c)| is_local_part_char(*c)).last().map_or(at, |(i, _)| i);
        let start = at - text[start..at].trim_start_matches(['.', '\'', '-']).len();
        let Some(end) = domain_length(&text[at + 1..]) else { continue };
        if start < at && found.last().is_none_or(|last| last.end <= start) {
            found.push(start..at + 1 + end);
        }
    }
    if let Some(spoken) = SPOKEN_ADDRESS.as_ref().filter(|_| text.contains(['d', 'D'])) {
        let written = found.clone();
        let spoken_ranges = spoken.find_iter(text).map(|found| found.range());
        found.extend(
            spoken_ranges.filter(|range| {
                !written.iter().any(|existing| existing.start < range.end && range.start < existing.end)
            }),
        );
        found.sort_by_key(|range| range.start);
    }
    found
}

/// A lost character counts as a letter, so that the whole address is redacted.
fn is_lost_char(letter: char) -> bool {
    letter == char::REPLACEMENT_CHARACTER
}

fn is_local_part_char(letter: char) -> bool {
    letter.is_alphanumeric() || is_lost_char(letter) || "._%+-'!#$&*/=?^`{|}~".contains(letter)
}

/// The length of the domain at the beginning of the text: at least two labels, the last one of
/// letters.
fn domain_length(text: &str) -> Option<usize> {
    let run_length =
        text.find(|c: char| !(c.is_alphanumeric() || is_lost_char(c) || c == '-' || c == '.')).unwrap_or(text.len());
    let mut longest = None;
    let mut end = 0;
    for (index, label) in text[..run_length].split('.').enumerate() {
        if label.is_empty() {
            break;
        }
        end += label.len() + usize::from(index > 0);
        let letters = label.trim_end_matches('-');
        let is_top_level = letters.chars().count() >= 2
            && letters.chars().all(|c| c.is_alphabetic() || is_lost_char(c))
            || label.starts_with("xn--");
        if index > 0 && is_top_level {
            longest = Some(end - (label.len() - letters.len()));
        }
    }
    longest
}
