//! Facets: words of the index that the filters search for. Each document has them besides the words
//! of its text, so the index itself applies the filters. Pure.
//!
//! A facet begins with a marker character that never occurs in texts. It may match too many
//! documents, but never too few: matches are compared with the metadata and the transcript again
//! (`ranked_search`).

use std::collections::BTreeSet;

use super::document::{DocumentSource, SPEAKER_BREAK};
use super::ranked_search::Filters;
use super::tokenizer::tokenize;
use crate::db::SearchTerm;
use crate::render::{Conversation, Metadata};

const SOURCE: char = '\u{e001}';
const CHANNEL: char = '\u{e002}';
const DIRECTION: char = '\u{e003}';
const DISPOSITION: char = '\u{e004}';
/// The agent's participant id.
const AGENT_ID: char = '\u{e005}';
/// A word of a participant's name. Each word of a name is a facet, so that parts of names match.
const NAME: char = '\u{e006}';
/// Replaces the names where there are too many: any name may be among them.
const TOO_MANY_NAMES: char = '\u{e007}';
/// Separates the words of a value, which is one facet.
const WORD_SEPARATOR: char = '\u{e00f}';
/// Precedes the hash of a value that is too long or has no words.
const HASH_MARKER: char = '\u{e00e}';

/// Longer values are replaced by their hash.
const MAX_VALUE_BYTES: usize = 64;
/// Words of all names of a conversation. A chunk of the Postgres index has no room for more
/// positions of one word.
const MAX_NAME_WORDS: usize = 200;
/// Words of a name that are searched for in the index.
const MAX_SEARCHED_NAME_WORDS: usize = 16;

/// Metadata fields with the channel.
pub(super) const CHANNEL_FIELDS: &[&str] = &["channelClass", "channelType"];
/// Metadata fields with the direction.
pub(super) const DIRECTION_FIELDS: &[&str] = &["dialogOrigination"];
/// Metadata fields with the disposition.
pub(super) const DISPOSITION_FIELDS: &[&str] = &["agentDisposition", "systemDisposition"];
/// Metadata fields with the agent's participant id.
pub(super) const AGENT_ID_FIELDS: &[&str] = &["segmentParticipantId"];

/// The metadata field with the agent's name, where there is one.
pub(super) const AGENT_NAME_FIELD: &str = "agentFullName";

const FACET_FIELDS: [(char, &[&str]); 4] = [
    (CHANNEL, CHANNEL_FIELDS),
    (DIRECTION, DIRECTION_FIELDS),
    (DISPOSITION, DISPOSITION_FIELDS),
    (AGENT_ID, AGENT_ID_FIELDS),
];

/// The facets of a segment's documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facets {
    fields: String,
    names: String,
    /// The agent's name in the metadata.
    agent: Option<String>,
}

impl Facets {
    /// The facets from a segment's metadata as received, without the names: see
    /// [`Facets::add_names`].
    pub(crate) fn from_metadata(metadata: &str) -> Facets {
        let metadata = Metadata::parse(metadata);
        let mut fields = BTreeSet::new();
        for (kind, keys) in FACET_FIELDS {
            fields.extend(keys.iter().filter_map(|key| metadata.field(key)).map(|text| value_facet(kind, &text)));
        }
        Facets {
            fields: fields.into_iter().collect::<Vec<_>>().join(" "),
            names: String::new(),
            agent: metadata.field(AGENT_NAME_FIELD),
        }
    }

    /// Adds the names of the participants of a conversation.
    pub(crate) fn add_names(&mut self, conversation: &Conversation) {
        let mut names: Vec<&str> = conversation.phrases.iter().filter_map(|phrase| phrase.name.as_deref()).collect();
        names.extend(self.agent.as_deref());
        names.sort_unstable();
        names.dedup();
        let (mut seen, mut count) = (BTreeSet::new(), 0);
        for name in names {
            let words = tokenize(name);
            count += words.len();
            if count > MAX_NAME_WORDS {
                self.names = TOO_MANY_NAMES.to_string();
                return;
            }
            if !words.is_empty() {
                seen.insert(words.iter().map(|word| format!("{NAME}{word}")).collect::<Vec<_>>().join(" "));
            }
        }
        self.names = seen.into_iter().collect::<Vec<_>>().join(&format!(" {SPEAKER_BREAK} "));
    }

    /// The facets of the segment's document from this source, joined by single spaces, with
    /// [`SPEAKER_BREAK`] between two names.
    pub(crate) fn joined(&self, source: DocumentSource) -> String {
        let parts = [source_facet(source), self.fields.clone(), self.names.clone()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

fn source_facet(source: DocumentSource) -> String {
    let code = DocumentSource::ALL.iter().position(|known| *known == source).unwrap_or_default();
    format!("{SOURCE}{code}")
}

/// The facet of a value. Values that differ in case, accents or punctuation only have the same one.
fn value_facet(kind: char, text: &str) -> String {
    let words = tokenize(text);
    if words.is_empty() {
        return format!("{kind}{HASH_MARKER}{:x}", fnv1a(text.trim()));
    }
    let joined = words.join(&WORD_SEPARATOR.to_string());
    if joined.len() > MAX_VALUE_BYTES {
        format!("{kind}{HASH_MARKER}{:x}", fnv1a(&joined))
    } else {
        format!("{kind}{joined}")
    }
}

/// FNV-1a. Values with the same hash are distinguished by the metadata later.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The clauses that a document must match in the index to pass the filters.
pub(super) fn filter_clauses(filters: &Filters) -> Vec<Vec<SearchTerm>> {
    let term = |word: String| SearchTerm { words: vec![word], is_prefix: false };
    let mut all = Vec::new();
    if !filters.sources.is_empty() {
        all.push(filters.sources.iter().map(|source| term(source_facet(*source))).collect());
    }
    let fields = [(CHANNEL, &filters.channel), (DIRECTION, &filters.direction), (DISPOSITION, &filters.disposition)];
    for (kind, wanted) in fields {
        all.extend(wanted.as_deref().map(|wanted| vec![term(value_facet(kind, wanted))]));
    }
    if let Some(wanted) = filters.agent.as_deref() {
        let name: Vec<String> =
            tokenize(wanted).iter().take(MAX_SEARCHED_NAME_WORDS).map(|word| format!("{NAME}{word}")).collect();
        let mut alternatives = vec![term(value_facet(AGENT_ID, wanted))];
        if !name.is_empty() {
            alternatives.extend([SearchTerm { words: name, is_prefix: false }, term(TOO_MANY_NAMES.to_string())]);
        }
        all.push(alternatives);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with_names(names: &[&str]) -> Facets {
        let phrases: Vec<Value> = names.iter().map(|name| json!({"participantName": name, "message": "hi"})).collect();
        let mut facets = Facets::default();
        let transcript = json!({"transcript": phrases}).to_string();
        facets.add_names(&Conversation::parse(transcript.as_bytes()).unwrap());
        facets
    }

    #[test]
    fn equivalent_values_have_the_same_facet() {
        let facets = |metadata: Value| Facets::from_metadata(&metadata.to_string()).joined(DocumentSource::Notes);
        assert_eq!(
            facets(
                json!({"channelClass": "VOICE", "channelType": "voice", "agentDisposition": "Call-back É", "segmentParticipantId": 42})
            ),
            "\u{e001}3 \u{e002}voice \u{e004}call\u{e00f}back\u{e00f}e \u{e005}42"
        );
        assert_eq!(
            facets(json!({"channelClass": null, "dialogOrigination": " ", "agentDisposition": []})),
            "\u{e001}3"
        );
        assert_eq!(value_facet(CHANNEL, " - "), value_facet(CHANNEL, "-"));
        assert_ne!(value_facet(CHANNEL, "-"), value_facet(CHANNEL, "+"));
        let long = "x y ".repeat(100);
        assert_eq!(value_facet(CHANNEL, &long), value_facet(CHANNEL, &long.to_uppercase()));
        assert!(value_facet(CHANNEL, &long).len() < 24 && Facets::from_metadata("oops") == Facets::default());
    }

    #[test]
    fn names_are_separate_words_and_separated_from_each_other() {
        assert_eq!(
            with_names(&["Zoë Ångström", "BOB", "Bob", "…"]).names,
            "\u{e006}bob \u{2029} \u{e006}zoe \u{e006}angstrom"
        );
        let many: Vec<String> = (0..=MAX_NAME_WORDS).map(|n| format!("guest{n}")).collect();
        assert_eq!(with_names(&many.iter().map(String::as_str).collect::<Vec<_>>()).names, "\u{e007}");
    }
}
