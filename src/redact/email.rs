//! Where a text holds e-mail addresses: written ones, and spoken ones (`jane dot doe at example dot com`).

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// Spoken addresses end in one of the common domains: "at … dot …" alone says too little.
static SPOKEN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let word = r"[\p{L}\p{N}_+-]+";
    let domains = "com|net|org|edu|gov|info|biz|io|co|us|uk|ca|de|fr|es|it|nl|be|ch|at|au|eu|mx|br|in";
    Regex::new(&format!(
        r"(?i)\b{word}(?:\s+(?:dot|underscore|dash)\s+{word}){{0,4}}\s+at\s+(?:{word}\s+dot\s+){{1,4}}(?:{domains})\b"
    ))
    .ok()
});

/// The places, in order, none over another.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let start = text[..at].char_indices().rev().take_while(|(_, c)| is_local(*c)).last().map_or(at, |(i, _)| i);
        let start = at - text[start..at].trim_start_matches(['.', '\'', '-']).len();
        let Some(end) = domain(&text[at + 1..]) else { continue };
        if start < at && found.last().is_none_or(|last| last.end <= start) {
            found.push(start..at + 1 + end);
        }
    }
    if let Some(spoken) = SPOKEN.as_ref().filter(|_| text.contains(['d', 'D'])) {
        let written = found.clone();
        let new = spoken.find_iter(text).map(|found| found.range());
        found.extend(new.filter(|new| !written.iter().any(|old| old.start < new.end && new.start < old.end)));
        found.sort_by_key(|place| place.start);
    }
    found
}

/// A letter that was lost is taken for one, so that the rest of the address goes with it.
fn is_lost(letter: char) -> bool {
    letter == char::REPLACEMENT_CHARACTER
}

fn is_local(letter: char) -> bool {
    letter.is_alphanumeric() || is_lost(letter) || "._%+-'!#$&*/=?^`{|}~".contains(letter)
}

/// How long the domain is that the text begins with: at least two labels, the last of letters.
fn domain(text: &str) -> Option<usize> {
    let run = text.find(|c: char| !(c.is_alphanumeric() || is_lost(c) || c == '-' || c == '.')).unwrap_or(text.len());
    let mut best = None;
    let mut end = 0;
    for (index, label) in text[..run].split('.').enumerate() {
        if label.is_empty() {
            break;
        }
        end += label.len() + usize::from(index > 0);
        let letters = label.trim_end_matches('-');
        let is_top = letters.chars().count() >= 2 && letters.chars().all(|c| c.is_alphabetic() || is_lost(c))
            || label.starts_with("xn--");
        if index > 0 && is_top {
            best = Some(end - (label.len() - letters.len()));
        }
    }
    best
}
