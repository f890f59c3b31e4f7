//! The searchable text of an artifact: the utterances of a transcript, the text of a summary, or
//! the agent's notes. Pure.
//!
//! The index, the ranking and the displayed passage all read a body through this module, so they
//! have the same words.

use super::tokenizer;
use crate::model::Artifact;
use crate::render::{Conversation, Metadata, Phrase, clean_line, clean_text_cow, decode_utf8};
use crate::ringcx::summary_text;

/// The part of a segment that a document contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentSource {
    /// An artifact.
    Artifact(Artifact),
    /// The agent's notes in the metadata.
    Notes,
}

impl DocumentSource {
    /// All of them, in the order of their codes.
    pub const ALL: [DocumentSource; 4] = [
        DocumentSource::Artifact(Artifact::Transcript),
        DocumentSource::Artifact(Artifact::AgentSummary),
        DocumentSource::Artifact(Artifact::AutoSummary),
        DocumentSource::Notes,
    ];

    /// The source of the item with this number.
    pub(crate) fn of_item(item: i64) -> DocumentSource {
        match item.rem_euclid(4) {
            0 => DocumentSource::ALL[0],
            1 => DocumentSource::ALL[1],
            2 => DocumentSource::ALL[2],
            _ => DocumentSource::Notes,
        }
    }

    /// The name in output and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DocumentSource::Artifact(artifact) => artifact.name(),
            DocumentSource::Notes => "agent_notes",
        }
    }
}

/// One utterance, or the whole text where it has no speakers. It is one line without control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DocumentPart {
    /// The speaker, where it is known.
    pub(crate) speaker: Option<String>,
    /// Time since the start of the conversation.
    pub(crate) offset: Option<String>,
    /// The text.
    pub(crate) text: String,
}

/// The text of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Its parts, in order.
    pub(crate) parts: Vec<DocumentPart>,
}

impl Document {
    /// Parses an artifact's body. `is_email` is true where the segment is an exchange of e-mails.
    pub fn parse(source: DocumentSource, body: &[u8], is_email: bool) -> Document {
        match source {
            DocumentSource::Artifact(Artifact::Transcript) => {
                Document::from_conversation(&Conversation::parse_messages(body, is_email).unwrap_or_default())
            }
            DocumentSource::Artifact(_) => Document::from_text(&summary_text(body)),
            DocumentSource::Notes => {
                Document::from_text(&agent_notes(&String::from_utf8_lossy(body)).unwrap_or_default())
            }
        }
    }

    fn from_text(text: &str) -> Document {
        let text = clean_line(text);
        let part = DocumentPart { speaker: None, offset: None, text };
        Document { parts: if part.text.is_empty() { Vec::new() } else { vec![part] } }
    }

    /// The utterances of a conversation.
    pub(crate) fn from_conversation(conversation: &Conversation) -> Document {
        let start = conversation.start();
        let part = |phrase: &crate::render::Phrase| DocumentPart {
            speaker: Some(phrase.speaker()),
            offset: phrase.offset(start),
            text: clean_line(&phrase.text),
        };
        Document { parts: conversation.phrases.iter().map(part).collect() }
    }
}

/// Calls `on_word` with each word of a summary or of notes, as they are indexed. They equal those of
/// its [`Document`]. Every stored text passes through here, so this does not build the document.
pub fn for_each_text_word(source: DocumentSource, body: &[u8], mut on_word: impl FnMut(&str)) {
    let text = match source {
        DocumentSource::Artifact(_) => summary_text(body),
        DocumentSource::Notes => agent_notes(&decode_utf8(body)).unwrap_or_default(),
    };
    tokenizer::for_each_word(&clean_text_cow(&text), |word, _| on_word(word));
}

/// The same for a parsed transcript, with `None` where the speaker changes.
pub fn for_each_conversation_word(conversation: &Conversation, mut on_word: impl FnMut(Option<&str>)) {
    let mut speakers = SpeakerTracker::default();
    for phrase in &conversation.phrases {
        if speakers.is_change(phrase) {
            on_word(None);
        }
        tokenizer::for_each_word(&clean_text_cow(&phrase.text), |word, _| on_word(Some(word)));
    }
}

/// Speakers whose names are cached. Conversations rarely have more.
const MAX_KNOWN_SPEAKERS: usize = 8;

/// Detects changes of the speaker. It builds the name of each speaker once.
#[derive(Default)]
struct SpeakerTracker<'a> {
    known: Vec<(SpeakerKey<'a>, String)>,
    last: Option<String>,
}

/// The fields that a speaker's name is built from: name, kind, id.
type SpeakerKey<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

impl<'a> SpeakerTracker<'a> {
    /// Whether this phrase has another speaker than the previous one.
    fn is_change(&mut self, phrase: &'a Phrase) -> bool {
        let nameless = phrase.name.is_none() && phrase.kind.is_none();
        let id = phrase.participant.as_deref().filter(|_| nameless);
        let key = (phrase.name.as_deref(), phrase.kind.as_deref(), id);
        let known = self.known.iter().find(|(known, _)| *known == key);
        if known.is_some_and(|(_, speaker)| self.last.as_ref() == Some(speaker)) {
            return false;
        }
        let speaker = match known {
            Some((_, speaker)) => speaker.clone(),
            None => {
                let speaker = phrase.speaker();
                if self.known.len() == MAX_KNOWN_SPEAKERS {
                    self.known.remove(0);
                }
                self.known.push((key, speaker.clone()));
                speaker
            }
        };
        let previous = self.last.replace(speaker);
        previous.is_some_and(|previous| self.last.as_ref() != Some(&previous))
    }
}

/// The agent's notes in a segment's metadata.
pub(crate) fn agent_notes(metadata: &str) -> Option<String> {
    if !metadata.contains("agentNotes") {
        return None;
    }
    Metadata::parse(metadata).field("agentNotes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Words joined by spaces; a bar stands for a change of the speaker.
    #[derive(Default)]
    struct Joined(Vec<String>);

    impl Joined {
        fn add(&mut self, word: Option<&str>) {
            self.0.push(word.unwrap_or("|").to_owned());
        }
    }

    fn indexed_words(source: DocumentSource, body: &[u8]) -> String {
        let mut joined = Joined::default();
        match source {
            DocumentSource::Artifact(Artifact::Transcript) => {
                let conversation = Conversation::parse(body).unwrap_or_default();
                for_each_conversation_word(&conversation, |word| joined.add(word));
            }
            source => for_each_text_word(source, body, |word| joined.add(Some(word))),
        }
        joined.0.join(" ")
    }

    fn document_words(document: &Document) -> String {
        let mut joined = Joined::default();
        let mut previous: Option<&Option<String>> = None;
        for part in &document.parts {
            if previous.is_some_and(|previous| *previous != part.speaker) {
                joined.add(None);
            }
            tokenizer::for_each_word(&part.text, |word, _| joined.add(Some(word)));
            previous = Some(&part.speaker);
        }
        joined.0.join(" ")
    }

    #[test]
    fn phrases_do_not_cross_speakers() {
        let body = r#"{"transcript":[{"participantName":"A","message":"I want"},{"participantName":"A","message":"my money"},
            {"participantName":"B","message":"Back it comes\u001b[2J"},{"participantName":"B","message":null}]}"#;
        let document = Document::parse(DocumentSource::ALL[0], body.as_bytes(), false);
        assert_eq!(indexed_words(DocumentSource::ALL[0], body.as_bytes()), document_words(&document));
        assert_eq!(document_words(&document), "i want my money | back it comes");
        assert_eq!(document.parts[2].speaker.as_deref(), Some("B"));
    }

    #[test]
    fn summaries_and_notes_are_one_text() {
        assert_eq!(indexed_words(DocumentSource::ALL[1], b"\"Two\\nlines\""), "two lines");
        assert_eq!(
            document_words(&Document::parse(DocumentSource::Notes, br#"{"agentNotes":"Call\tback"}"#, false)),
            "call back"
        );
        assert_eq!(Document::parse(DocumentSource::Notes, br#"{"agentNotes":null}"#, false), Document::default());
        assert_eq!(Document::parse(DocumentSource::ALL[0], b"oops", false), Document::default());
    }

    #[test]
    fn a_lone_surrogate_does_not_remove_other_words() {
        let body = br#"{"transcript":[{"message":"marker okay"},{"message":"cut \ud83d","timestamp":1e999}]}"#;
        assert_eq!(indexed_words(DocumentSource::ALL[0], body), "marker okay cut");
        assert_eq!(
            indexed_words(DocumentSource::Notes, b"{\"x\":\"\\ud83d\",\"agentNotes\":\"call\nback \xe9\"}"),
            "call back"
        );
        assert_eq!(
            indexed_words(DocumentSource::ALL[1], b"caf\xe9 closed"),
            document_words(&Document::parse(DocumentSource::ALL[1], b"caf\xe9 closed", false))
        );
    }

    #[test]
    fn an_item_has_a_source() {
        for (item, source) in DocumentSource::ALL.into_iter().enumerate() {
            assert_eq!(DocumentSource::of_item(40 + item as i64), source);
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => "(\\PC|[\\x00-\\x1f\\x7f\\u{80}-\\u{9f}\\u{202e}\\u{2028}]|\\x1b[\\[\\]P]| ){0,30}".prop_map(Value::from),
            2 => "[ab]".prop_map(Value::from),
            1 => prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from)],
            1 => prop_oneof![Just(json!(null)), Just(json!(true)), Just(json!([1, "x"])), Just(json!({"message": "x"}))],
        ]
    }

    proptest! {
        #[test]
        fn the_index_and_the_document_have_the_same_words(phrases in proptest::collection::vec(
            prop_oneof![
                1 => any_value(),
                8 => (any_value(), any_value(), any_value(), any_value()).prop_map(|(name, kind, id, text)|
                    json!({"participantName": name, "participantType": kind, "participantId": id, "new": id, "message": text})),
            ], 0..6), summary in any_value(),
        ) {
            for (source, body) in [
                (DocumentSource::ALL[0], json!({"transcript": phrases}).to_string()),
                (DocumentSource::ALL[1], summary.to_string()),
                (DocumentSource::ALL[2], summary.as_str().unwrap_or_default().to_owned()),
                (DocumentSource::Notes, json!({"agentNotes": summary}).to_string()),
            ] {
                prop_assert_eq!(indexed_words(source, body.as_bytes()), document_words(&Document::parse(source, body.as_bytes(), false)));
            }
        }
    }
}
