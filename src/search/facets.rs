//! Facets: words of the index that the filters search for. Each document has them besides the words
//! of its text, so the index itself applies the filters. Pure.
//!
//! A facet begins with a marker character that never occurs in texts. It may match too many
//! documents, but never too few: matches are compared with the metadata and the transcript again
//! (`ranked_search`).

use std::collections::BTreeSet;

use super::document::DocumentSource;
use super::ranked_search::Filters;
use super::segment_fields::{AGENT_ID_FIELDS, AGENT_NAME_FIELD, CHANNEL_FIELDS, DIRECTION_FIELDS, DISPOSITION_FIELDS};
use super::tokenizer::tokenize;
use crate::db::{DocumentKeys, SearchTerm};
use crate::render::{Conversation, Metadata};

const SOURCE: char = '\u{e001}';
const CHANNEL: char = '\u{e002}';
const DIRECTION: char = '\u{e003}';
const DISPOSITION: char = '\u{e004}';
/// The agent's participant id.
const AGENT_ID: char = '\u{e005}';
/// A word of a participant's name. Each word of a name is a facet, so that parts of names match.
const NAME: char = '\u{e006}';
/// Separates the words of a value, which is one facet.
const WORD_SEPARATOR: char = '\u{e00f}';
/// Precedes a value that has no words.
const RAW_VALUE: char = '\u{e00e}';

/// Words of a name that are searched for in the index.
const MAX_SEARCHED_NAME_WORDS: usize = 16;

const FACET_FIELDS: [(char, &[&str]); 4] = [
    (CHANNEL, CHANNEL_FIELDS),
    (DIRECTION, DIRECTION_FIELDS),
    (DISPOSITION, DISPOSITION_FIELDS),
    (AGENT_ID, AGENT_ID_FIELDS),
];

/// The facets of a segment's documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facets {
    /// Each one has a word, and a name as many as it consists of.
    facets: BTreeSet<Vec<String>>,
    /// The agent's name in the metadata.
    agent: Option<String>,
}

impl Facets {
    /// The facets from a segment's metadata as received, without the names: see
    /// [`Facets::add_names`].
    pub(crate) fn from_metadata(metadata: &str) -> Facets {
        let metadata = Metadata::parse(metadata);
        let mut facets = BTreeSet::new();
        for (kind, keys) in FACET_FIELDS {
            facets.extend(keys.iter().filter_map(|key| metadata.field(key)).map(|text| vec![value_facet(kind, &text)]));
        }
        Facets { facets, agent: metadata.field(AGENT_NAME_FIELD) }
    }

    /// Adds the names of the participants of a conversation.
    pub(crate) fn add_names(&mut self, conversation: &Conversation) {
        let names = conversation.phrases.iter().filter_map(|phrase| phrase.name.as_deref());
        let names: BTreeSet<&str> = names.chain(self.agent.as_deref()).collect();
        let words = |name| tokenize(name).iter().map(|word| format!("{NAME}{word}")).collect();
        self.facets.extend(names.into_iter().map(words).filter(|words: &Vec<String>| !words.is_empty()));
    }

    /// Adds the facets to the keys of a document.
    pub(crate) fn add_to(&self, keys: &mut DocumentKeys) {
        for words in &self.facets {
            keys.add_break();
            words.iter().for_each(|word| keys.add_word(word));
        }
        keys.add_break();
    }
}

/// The facet of a document's source.
pub(crate) fn source_facet(source: DocumentSource) -> String {
    let code = DocumentSource::ALL.iter().position(|known| *known == source).unwrap_or_default();
    format!("{SOURCE}{code}")
}

/// The facet of a value. Values that differ in case, accents or punctuation only have the same one.
fn value_facet(kind: char, text: &str) -> String {
    let words = tokenize(text);
    if words.is_empty() {
        return format!("{kind}{RAW_VALUE}{}", text.trim());
    }
    format!("{kind}{}", words.join(&WORD_SEPARATOR.to_string()))
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
            alternatives.push(SearchTerm { words: name, is_prefix: false });
        }
        all.push(alternatives);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(facets: &Facets) -> String {
        facets.facets.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn equivalent_values_have_the_same_facet() {
        let facets = |metadata: Value| of(&Facets::from_metadata(&metadata.to_string()));
        assert_eq!(
            facets(
                json!({"channelClass": "VOICE", "channelType": "voice", "agentDisposition": "Call-back É", "segmentParticipantId": 42})
            ),
            "\u{e002}voice | \u{e004}call\u{e00f}back\u{e00f}e | \u{e005}42"
        );
        assert_eq!(facets(json!({"channelClass": null, "dialogOrigination": " ", "agentDisposition": []})), "");
        assert_eq!(value_facet(CHANNEL, " - "), value_facet(CHANNEL, "-"));
        assert_ne!(value_facet(CHANNEL, "-"), value_facet(CHANNEL, "+"));
        let long = "x y ".repeat(100);
        assert_eq!(value_facet(CHANNEL, &long), value_facet(CHANNEL, &long.to_uppercase()));
        assert!(Facets::from_metadata("oops") == Facets::default());
    }

    #[test]
    fn names_are_separate_words_and_separated_from_each_other() {
        let names = ["Zoë Ångström", "BOB", "Bob", "…"];
        let phrases: Vec<Value> = names.iter().map(|name| json!({"participantName": name, "message": "hi"})).collect();
        let mut facets = Facets::default();
        let transcript = json!({"transcript": phrases}).to_string();
        facets.add_names(&Conversation::parse(transcript.as_bytes()).unwrap());
        assert_eq!(of(&facets), "\u{e006}bob | \u{e006}zoe \u{e006}angstrom");
    }
}
