//! Redacts card numbers, e-mail addresses, telephone numbers and custom patterns in exported and
//! delivered texts. Pure.
//!
//! The archive keeps the original. Each match is replaced by a label in brackets. Redaction is
//! idempotent. JSON stays valid, and everything in it that is not free text stays byte for byte the
//! same. `docs/export.md` lists what is not detected.

mod card_and_phone;
mod email;
mod json;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use regex::Regex;

use crate::config::RedactionRule;
use crate::model::{PhoneNumber, fold_char, is_plain};
use json::StringRole;

/// The configured redactions.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    email: bool,
    card: bool,
    phone: bool,
    patterns: Vec<Regex>,
    /// The labels: e-mail, card, telephone, then those of the custom patterns.
    labels: Vec<String>,
    /// The labels of the configured redactions.
    active_labels: Vec<String>,
}

const EMAIL_INDEX: usize = 0;
const CARD_INDEX: usize = 1;
const PHONE_INDEX: usize = 2;
const FIRST_PATTERN_INDEX: usize = 3;

/// A range of a text, and the index of the label that replaces it.
#[derive(Debug, Clone)]
struct Redaction {
    range: Range<usize>,
    label_index: usize,
}

impl Redactor {
    /// From the settings of a sink or the options of an export.
    pub fn new(rules: &[RedactionRule]) -> Redactor {
        let mut redactor =
            Redactor { labels: ["[email]", "[card]", "[phone]"].map(str::to_owned).to_vec(), ..Redactor::default() };
        for rule in rules {
            match rule {
                RedactionRule::Card => redactor.card = true,
                RedactionRule::Email => redactor.email = true,
                RedactionRule::Phone => redactor.phone = true,
                RedactionRule::Pattern { name, pattern } => {
                    // Brackets are removed: they would make the end of a label ambiguous.
                    let name: String = name.chars().filter(|letter| !matches!(letter, '[' | ']')).collect();
                    redactor.labels.push(format!("[{name}]"));
                    redactor.patterns.push(pattern.clone());
                }
            }
        }
        let is_enabled = |label_index| match label_index {
            EMAIL_INDEX => redactor.email,
            CARD_INDEX => redactor.card,
            PHONE_INDEX => redactor.phone,
            _ => true,
        };
        redactor.active_labels = redactor
            .labels
            .iter()
            .enumerate()
            .filter(|(label_index, _)| is_enabled(*label_index))
            .map(|(_, name)| name.clone())
            .collect();
        redactor
    }

    /// Whether it redacts nothing.
    pub(crate) fn is_noop(&self) -> bool {
        self.active_labels.is_empty()
    }

    /// Redacts a text.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut current = Cow::Borrowed(text);
        // Repeated until nothing matches: a removed match may have separated the parts of another
        // one. Each round leaves less of the original, so it terminates.
        while let Some(redacted) = self.redact_once(&current) {
            current = Cow::Owned(redacted);
        }
        current
    }

    /// Redacts a transcript's body; other fields stay as received. A body that is not JSON is a
    /// text.
    pub fn transcript<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        self.redact_bytes(body, |text| self.redact_json_or_text(text))
    }

    /// Redacts a segment's metadata. Metadata that is not JSON is a text.
    pub fn metadata<'m>(&self, metadata: &'m str) -> Cow<'m, str> {
        if self.is_noop() {
            return Cow::Borrowed(metadata);
        }
        self.redact_json_or_text(metadata)
    }

    /// Redacts a summary's body: a JSON string, which stays one, or a text.
    pub fn summary<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        self.redact_bytes(body, |text| match json::is_string(text) {
            true => self.redact_json_or_text(text),
            false => self.text(text),
        })
    }

    fn redact_bytes<'b>(&self, body: &'b [u8], redact: impl Fn(&str) -> Cow<'_, str>) -> Cow<'b, [u8]> {
        if self.is_noop() {
            return Cow::Borrowed(body);
        }
        let text = String::from_utf8_lossy(body);
        match redact(&text) {
            Cow::Borrowed(_) => Cow::Borrowed(body),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    }

    /// Redacts each free text of a JSON document, or the whole text where it is not JSON.
    fn redact_json_or_text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut current = Cow::Borrowed(text);
        loop {
            let edited = match json::edit(&current, |role, text| self.redact_value(role, text)) {
                Some(Cow::Borrowed(_)) => return current,
                Some(Cow::Owned(edited)) => return Cow::Owned(edited),
                None => match self.text(&current) {
                    Cow::Borrowed(_) => return current,
                    Cow::Owned(redacted) => redacted,
                },
            };
            // With some labels of custom patterns, a redacted text may become valid JSON.
            current = Cow::Owned(edited);
        }
    }

    /// The redacted string of a JSON field; `None` if it stays.
    fn redact_value(&self, role: StringRole, text: &str) -> Option<String> {
        match role {
            StringRole::Fixed => None,
            StringRole::Endpoint if self.phone => Some(self.redact_endpoint(text)).filter(|redacted| redacted != text),
            StringRole::Participant
                if self.phone && parse_phone(text).is_some_and(|number| number.is_distinctive()) =>
            {
                self.labels.get(PHONE_INDEX).cloned()
            }
            // An id without an address stays.
            StringRole::Participant if !text.contains('@') => None,
            StringRole::Endpoint | StringRole::Participant | StringRole::Text => match self.text(text) {
                Cow::Borrowed(_) => None,
                Cow::Owned(redacted) => Some(redacted),
            },
        }
    }

    /// Redacts an endpoint: a number, several numbers, or numbers with names, as in `Jane <+49…>`.
    fn redact_endpoint(&self, text: &str) -> String {
        const BETWEEN: [char; 4] = [',', ';', '<', '>'];
        let phone = self.labels.get(PHONE_INDEX).map_or("[]", String::as_str);
        if parse_phone(text).is_some() {
            return phone.to_owned();
        }
        let mut redacted = String::with_capacity(text.len());
        for piece in text.split_inclusive(BETWEEN) {
            let bare = piece.trim_end_matches(BETWEEN);
            redacted.push_str(if parse_phone(bare).is_some() { phone } else { bare });
            redacted.push_str(&piece[bare.len()..]);
        }
        self.text(&redacted).into_owned()
    }

    fn redact_once(&self, text: &str) -> Option<String> {
        let labels_in_text = self.existing_labels(text);
        let mut redactions = self.pattern_matches(text, &labels_in_text);
        let mut from = 0;
        for end in labels_in_text.iter().chain(std::iter::once(&(text.len()..text.len()))) {
            self.builtin_matches(&text[from..end.start], from, &mut redactions);
            from = end.end;
        }
        if redactions.is_empty() {
            return None;
        }
        let mut redacted = String::with_capacity(text.len());
        let mut from = 0;
        for redaction in merge_overlaps(redactions) {
            redacted.push_str(&text[from..redaction.range.start]);
            redacted.push_str(self.labels.get(redaction.label_index).map_or("[]", String::as_str));
            from = redaction.range.end;
        }
        redacted.push_str(&text[from..]);
        Some(redacted)
    }

    /// The ranges of labels from an earlier redaction.
    fn existing_labels(&self, text: &str) -> Vec<Range<usize>> {
        let mut labels_in_text = Vec::new();
        let mut from = 0;
        while let Some(at) = text[from..].find('[').map(|at| from + at) {
            let name = self.active_labels.iter().find(|name| text[at..].starts_with(name.as_str()));
            from = at + name.map_or(1, String::len);
            if name.is_some() {
                labels_in_text.push(at..from);
            }
        }
        labels_in_text
    }

    /// The matches of the custom patterns, except those that overlap an existing label.
    fn pattern_matches(&self, text: &str, labels_in_text: &[Range<usize>]) -> Vec<Redaction> {
        let is_new = |range: &Range<usize>| {
            let next = labels_in_text.partition_point(|old| old.end <= range.start);
            labels_in_text.get(next).is_none_or(|old| old.start >= range.end)
        };
        let mut redactions = Vec::new();
        for (index, pattern) in self.patterns.iter().enumerate() {
            let ranges = pattern.find_iter(text).map(|found| found.range());
            let new = ranges.filter(|range| !range.is_empty() && is_new(range));
            redactions.extend(new.map(|range| Redaction { range, label_index: FIRST_PATTERN_INDEX + index }));
        }
        redactions
    }

    /// E-mail addresses, cards and telephones in a piece that begins at `offset`. Earlier kinds
    /// take precedence.
    fn builtin_matches(&self, piece: &str, offset: usize, redactions: &mut Vec<Redaction>) {
        let folded = FoldedText::of(piece);
        let mut remaining = folded.text.clone();
        for (is_enabled, label_index) in [(self.email, EMAIL_INDEX), (self.card, CARD_INDEX), (self.phone, PHONE_INDEX)]
        {
            let ranges = match label_index {
                _ if !is_enabled => continue,
                EMAIL_INDEX => email::find(&remaining),
                CARD_INDEX => card_and_phone::cards(&remaining),
                _ => card_and_phone::phones(&remaining),
            };
            for range in ranges {
                let original_range = folded.original_range(&range);
                redactions
                    .push(Redaction { range: offset + original_range.start..offset + original_range.end, label_index });
                let blank = "\u{1}".repeat(range.len());
                remaining.to_mut().replace_range(range, &blank);
            }
        }
    }
}

/// Parses a text that is one telephone number; characters that were lost count as spaces.
fn parse_phone(text: &str) -> Option<PhoneNumber> {
    PhoneNumber::parse(&text.replace(char::REPLACEMENT_CHARACTER, " "))
}

/// A text with digits and punctuation in their ASCII form, without invisible characters.
struct FoldedText<'t> {
    text: Cow<'t, str>,
    /// For each byte, the range of its original character; empty where nothing was changed.
    original_ranges: Vec<Range<usize>>,
}

impl<'t> FoldedText<'t> {
    fn of(text: &'t str) -> FoldedText<'t> {
        if text.chars().all(is_plain) {
            return FoldedText { text: Cow::Borrowed(text), original_ranges: Vec::new() };
        }
        let (mut folded, mut original_ranges) = (String::with_capacity(text.len()), Vec::with_capacity(text.len()));
        let mut push = |folded: &mut String, letter: char, original_range: Range<usize>| {
            folded.push(letter);
            original_ranges.resize(folded.len(), original_range);
        };
        let mut invisible = None;
        for (at, original) in text.char_indices() {
            let original_range = at..at + original.len_utf8();
            let Some(letter) = fold_char(original) else {
                invisible = Some(original_range);
                continue;
            };
            // An invisible character may separate a word from a number.
            let changes_kind = |before: char| before.is_alphanumeric() && before.is_numeric() != letter.is_numeric();
            if let Some(gap) = invisible
                .take()
                .filter(|_| letter.is_alphanumeric() && folded.chars().next_back().is_some_and(changes_kind))
            {
                push(&mut folded, ' ', gap);
            }
            push(&mut folded, letter, original_range);
        }
        FoldedText { text: Cow::Owned(folded), original_ranges }
    }

    /// The original range of a range.
    fn original_range(&self, range: &Range<usize>) -> Range<usize> {
        match (self.original_ranges.get(range.start), self.original_ranges.get(range.end.saturating_sub(1))) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => range.clone(),
        }
    }
}

/// Sorts the redactions and merges those that overlap, with the label of the longest.
fn merge_overlaps(mut redactions: Vec<Redaction>) -> Vec<Redaction> {
    redactions.sort_by_key(|redaction| (redaction.range.start, redaction.label_index));
    let mut merged: Vec<(Redaction, usize)> = Vec::new();
    for redaction in redactions {
        let length = redaction.range.len();
        match merged.last_mut() {
            Some((last, longest)) if redaction.range.start < last.range.end => {
                last.range.end = last.range.end.max(redaction.range.end);
                if length > *longest || (length == *longest && redaction.label_index < last.label_index) {
                    (last.label_index, *longest) = (redaction.label_index, length);
                }
            }
            _ => merged.push((redaction, length)),
        }
    }
    merged.into_iter().map(|(redaction, _)| redaction).collect()
}
