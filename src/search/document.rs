//! What is looked through of an artifact: what each speaker said, a summary's text, the agent's notes.
//!
//! Pure. The index, the ranking and the passage that is shown all read a body through here, so they see the same words.

use super::words;
use crate::model::Artifact;
use crate::reading::{Conversation, Metadata, Phrase, cleaned, lossy, one_line};
use crate::ringcx::summary_text;

/// Stands between what two speakers said, so that no phrase is found across them. No query can ask for it.
pub const BREAK: &str = "\u{2029}";

/// What a document is of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An artifact.
    Artifact(Artifact),
    /// What the agent noted in the metadata.
    Notes,
}

impl Source {
    /// All of them, in the order of their codes.
    pub const ALL: [Source; 4] = [
        Source::Artifact(Artifact::Transcript),
        Source::Artifact(Artifact::AgentSummary),
        Source::Artifact(Artifact::AutoSummary),
        Source::Notes,
    ];

    /// What the item with this number is.
    pub fn of_item(item: i64) -> Source {
        match item.rem_euclid(4) {
            0 => Source::ALL[0],
            1 => Source::ALL[1],
            2 => Source::ALL[2],
            _ => Source::Notes,
        }
    }

    /// The name in output and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Source::Artifact(artifact) => artifact.name(),
            Source::Notes => "agent_notes",
        }
    }
}

/// One utterance, or the whole of a text without speakers. On one line, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Who said it, where that is known.
    pub speaker: Option<String>,
    /// How far into the conversation.
    pub offset: Option<String>,
    /// The text.
    pub text: String,
}

/// The text of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// In order.
    pub parts: Vec<Part>,
}

impl Document {
    /// Reads an artifact's body; `is_email` where the segment is an exchange of e-mails.
    pub fn read(source: Source, body: &[u8], is_email: bool) -> Document {
        match source {
            Source::Artifact(Artifact::Transcript) => {
                Document::conversation(&Conversation::parse_messages(body, is_email).unwrap_or_default())
            }
            Source::Artifact(_) => Document::text(&summary_text(body)),
            Source::Notes => Document::text(&notes(&String::from_utf8_lossy(body)).unwrap_or_default()),
        }
    }

    fn text(text: &str) -> Document {
        let text = one_line(text);
        let part = Part { speaker: None, offset: None, text };
        Document { parts: if part.text.is_empty() { Vec::new() } else { vec![part] } }
    }

    /// What was said in a conversation.
    pub fn conversation(conversation: &Conversation) -> Document {
        let start = conversation.start();
        let part = |phrase: &crate::reading::Phrase| Part {
            speaker: Some(phrase.speaker()),
            offset: phrase.offset(start),
            text: one_line(&phrase.text),
        };
        Document { parts: conversation.phrases.iter().map(part).collect() }
    }

    /// Its words joined by single spaces, with [`BREAK`] where the speaker changes: what is indexed.
    #[cfg(test)]
    fn words(&self) -> String {
        let mut joined = String::new();
        let mut before: Option<&Option<String>> = None;
        for part in &self.parts {
            if before.is_some_and(|before| *before != part.speaker) {
                append(&mut joined, BREAK);
            }
            words::each(&part.text, |word, _| append(&mut joined, word));
            before = Some(&part.speaker);
        }
        joined
    }
}

/// The words of an artifact's body joined by single spaces, with [`BREAK`] where the speaker changes: what is indexed. The same
/// as those of its [`Document`], without making that: every text that is stored passes through here.
pub fn indexed(source: Source, body: &[u8]) -> String {
    let mut joined = String::new();
    let mut take = |text: &str| words::each(&cleaned(text), |word, _| append(&mut joined, word));
    match source {
        Source::Artifact(Artifact::Transcript) => return spoken(&Conversation::parse(body).unwrap_or_default()),
        Source::Artifact(_) => take(&summary_text(body)),
        Source::Notes => take(&notes(&lossy(body)).unwrap_or_default()),
    }
    joined
}

/// The same of a transcript that has been read.
pub fn spoken(conversation: &Conversation) -> String {
    let mut joined = String::with_capacity(conversation.phrases.iter().map(|phrase| phrase.text.len() + 4).sum());
    let mut speakers = Speakers::default();
    for phrase in &conversation.phrases {
        if speakers.changes(phrase) {
            append(&mut joined, BREAK);
        }
        words::each(&cleaned(&phrase.text), |word, _| append(&mut joined, word));
    }
    joined
}

/// How many speakers are remembered: more rarely talk with one another.
const SPEAKERS: usize = 8;

/// Tells where the speaker changes, with each one's name put together once.
#[derive(Default)]
struct Speakers<'a> {
    known: Vec<(Who<'a>, String)>,
    last: Option<String>,
}

/// What a speaker's name is put together from.
type Who<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

impl<'a> Speakers<'a> {
    /// Whether someone else said this than what was asked about before.
    fn changes(&mut self, said: &'a Phrase) -> bool {
        let nameless = said.name.is_none() && said.kind.is_none();
        let id = said.participant.as_deref().filter(|_| nameless);
        let who = (said.name.as_deref(), said.kind.as_deref(), id);
        let known = self.known.iter().find(|(known, _)| *known == who);
        if known.is_some_and(|(_, speaker)| self.last.as_ref() == Some(speaker)) {
            return false;
        }
        let speaker = match known {
            Some((_, speaker)) => speaker.clone(),
            None => {
                let speaker = said.speaker();
                if self.known.len() == SPEAKERS {
                    self.known.remove(0);
                }
                self.known.push((who, speaker.clone()));
                speaker
            }
        };
        let before = self.last.replace(speaker);
        before.is_some_and(|before| self.last.as_ref() != Some(&before))
    }
}

fn append(joined: &mut String, word: &str) {
    if !joined.is_empty() {
        joined.push(' ');
    }
    joined.push_str(word);
}

/// The agent's notes in a segment's metadata.
pub fn notes(metadata: &str) -> Option<String> {
    if !metadata.contains("agentNotes") {
        return None;
    }
    Metadata::read(metadata).field("agentNotes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn no_phrase_reaches_across_two_speakers() {
        let body = r#"{"transcript":[{"participantName":"A","message":"I want"},{"participantName":"A","message":"my money"},
            {"participantName":"B","message":"Back it comes\u001b[2J"},{"participantName":"B","message":null}]}"#;
        let document = Document::read(Source::ALL[0], body.as_bytes(), false);
        assert_eq!(indexed(Source::ALL[0], body.as_bytes()), document.words());
        assert_eq!(document.words(), "i want my money \u{2029} back it comes");
        assert_eq!(document.parts[2].speaker.as_deref(), Some("B"));
    }

    #[test]
    fn summaries_and_notes_are_one_text() {
        assert_eq!(Document::read(Source::ALL[1], b"\"Two\\nlines\"", false).words(), "two lines");
        assert_eq!(Document::read(Source::Notes, br#"{"agentNotes":"Call\tback"}"#, false).words(), "call back");
        assert_eq!(Document::read(Source::Notes, br#"{"agentNotes":null}"#, false), Document::default());
        assert_eq!(Document::read(Source::ALL[0], b"oops", false), Document::default());
    }

    #[test]
    fn half_a_letter_costs_no_word_beside_it() {
        let body = br#"{"transcript":[{"message":"marker okay"},{"message":"cut \ud83d","timestamp":1e999}]}"#;
        assert_eq!(indexed(Source::ALL[0], body), "marker okay cut");
        assert_eq!(indexed(Source::Notes, b"{\"x\":\"\\ud83d\",\"agentNotes\":\"call\nback \xe9\"}"), "call back");
        assert_eq!(
            indexed(Source::ALL[1], b"caf\xe9 closed"),
            Document::read(Source::ALL[1], b"caf\xe9 closed", false).words()
        );
    }

    #[test]
    fn an_item_says_what_it_is() {
        for (item, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(Source::of_item(40 + item as i64), source);
        }
    }

    fn odd() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => "(\\PC|[\\x00-\\x1f\\x7f\\u{80}-\\u{9f}\\u{202e}\\u{2028}]|\\x1b[\\[\\]P]| ){0,30}".prop_map(Value::from),
            2 => "[ab]".prop_map(Value::from),
            1 => prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from)],
            1 => prop_oneof![Just(json!(null)), Just(json!(true)), Just(json!([1, "x"])), Just(json!({"message": "x"}))],
        ]
    }

    proptest! {
        #[test]
        fn what_is_indexed_is_what_is_read(phrases in proptest::collection::vec(
            prop_oneof![
                1 => odd(),
                8 => (odd(), odd(), odd(), odd()).prop_map(|(name, kind, id, text)|
                    json!({"participantName": name, "participantType": kind, "participantId": id, "new": id, "message": text})),
            ], 0..6), summary in odd(),
        ) {
            for (source, body) in [
                (Source::ALL[0], json!({"transcript": phrases}).to_string()),
                (Source::ALL[1], summary.to_string()),
                (Source::ALL[2], summary.as_str().unwrap_or_default().to_owned()),
                (Source::Notes, json!({"agentNotes": summary}).to_string()),
            ] {
                prop_assert_eq!(indexed(source, body.as_bytes()), Document::read(source, body.as_bytes(), false).words());
            }
        }
    }
}
