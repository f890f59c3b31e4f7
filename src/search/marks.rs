//! What the filters go by, as words of the index: marks that stand beside the words of each document, so that a filter narrows
//! the search inside the index. Pure.
//!
//! A mark begins with a letter of its own that no text has. Whoever is proposed by marks is compared with the metadata and the
//! transcript once more (`find`): a mark may let too many through, never too few.

use std::collections::BTreeSet;

use super::document::{BREAK, Source};
use super::find::Filters;
use super::words::words;
use crate::db::Needle;
use crate::reading::{Conversation, Metadata};

const SOURCE: char = '\u{e001}';
const CHANNEL: char = '\u{e002}';
const DIRECTION: char = '\u{e003}';
const DISPOSITION: char = '\u{e004}';
/// The participant's id.
const AGENT: char = '\u{e005}';
/// A word of the name of someone who takes part; names stand word by word, so that parts of one are found.
const NAME: char = '\u{e006}';
/// More names than are kept: whoever is looked for may be among them.
const CROWD: char = '\u{e007}';
/// Stands between the words of a value, which is one mark.
const JOINT: char = '\u{e00f}';
/// Stands before a number in place of a value that is too long, or has no words.
const NUMBER: char = '\u{e00e}';

/// Bytes of a value that are kept as they are.
const LONGEST: usize = 64;
/// Words of all names of a conversation: a block of the index on Postgres has room for no more of one word.
const NAMES: usize = 200;
/// Words of a name that are looked for in the index.
const ASKED: usize = 16;

/// What of the metadata is the channel.
pub(super) const CHANNELS: &[&str] = &["channelClass", "channelType"];
/// What is the direction.
pub(super) const DIRECTIONS: &[&str] = &["dialogOrigination"];
/// What is the disposition.
pub(super) const DISPOSITIONS: &[&str] = &["agentDisposition", "systemDisposition"];
/// What is the participant's id.
pub(super) const AGENTS: &[&str] = &["segmentParticipantId"];

/// What is the agent's name, where the metadata has it.
pub(super) const AGENT_NAME: &str = "agentFullName";

const FIELDS: [(char, &[&str]); 4] =
    [(CHANNEL, CHANNELS), (DIRECTION, DIRECTIONS), (DISPOSITION, DISPOSITIONS), (AGENT, AGENTS)];

/// The marks of a segment's documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    fields: String,
    names: String,
    /// The agent's name in the metadata.
    agent: Option<String>,
}

impl Marks {
    /// Those of a segment with this metadata, as received; the names are added with [`Marks::name`].
    pub fn of(metadata: &str) -> Marks {
        let metadata = Metadata::read(metadata);
        let mut fields = BTreeSet::new();
        for (kind, keys) in FIELDS {
            fields.extend(keys.iter().filter_map(|key| metadata.field(key)).map(|text| value(kind, &text)));
        }
        Marks {
            fields: fields.into_iter().collect::<Vec<_>>().join(" "),
            names: String::new(),
            agent: metadata.field(AGENT_NAME),
        }
    }

    /// Adds those who take part in this conversation.
    pub fn name(&mut self, conversation: &Conversation) {
        let mut names: Vec<&str> = conversation.phrases.iter().filter_map(|phrase| phrase.name.as_deref()).collect();
        names.extend(self.agent.as_deref());
        names.sort_unstable();
        names.dedup();
        let (mut seen, mut count) = (BTreeSet::new(), 0);
        for name in names {
            let words = words(name);
            count += words.len();
            if count > NAMES {
                self.names = CROWD.to_string();
                return;
            }
            if !words.is_empty() {
                seen.insert(words.iter().map(|word| format!("{NAME}{word}")).collect::<Vec<_>>().join(" "));
            }
        }
        self.names = seen.into_iter().collect::<Vec<_>>().join(&format!(" {BREAK} "));
    }

    /// Joined by single spaces, with [`BREAK`] between two names; for the document that is this of the segment.
    pub fn joined(&self, source: Source) -> String {
        let parts = [of_source(source), self.fields.clone(), self.names.clone()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

fn of_source(source: Source) -> String {
    let code = Source::ALL.iter().position(|one| *one == source).unwrap_or_default();
    format!("{SOURCE}{code}")
}

/// The mark of a value: the same for two that people would call the same.
fn value(kind: char, text: &str) -> String {
    let words = words(text);
    if words.is_empty() {
        return format!("{kind}{NUMBER}{:x}", number(text.trim()));
    }
    let joined = words.join(&JOINT.to_string());
    if joined.len() > LONGEST { format!("{kind}{NUMBER}{:x}", number(&joined)) } else { format!("{kind}{joined}") }
}

/// FNV-1a; two values that share a number are told apart by the metadata.
fn number(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What the index must hold of a document that the filters let through: each in any of its alternatives.
pub(super) fn asked(filters: &Filters) -> Vec<Vec<Needle>> {
    let one = |word: String| Needle { words: vec![word], prefix: false };
    let mut all = Vec::new();
    if !filters.sources.is_empty() {
        all.push(filters.sources.iter().map(|source| one(of_source(*source))).collect());
    }
    let fields = [(CHANNEL, &filters.channel), (DIRECTION, &filters.direction), (DISPOSITION, &filters.disposition)];
    for (kind, wanted) in fields {
        all.extend(wanted.as_deref().map(|wanted| vec![one(value(kind, wanted))]));
    }
    if let Some(wanted) = filters.agent.as_deref() {
        let name: Vec<String> = words(wanted).iter().take(ASKED).map(|word| format!("{NAME}{word}")).collect();
        let mut choice = vec![one(value(AGENT, wanted))];
        if !name.is_empty() {
            choice.extend([Needle { words: name, prefix: false }, one(CROWD.to_string())]);
        }
        all.push(choice);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn named(names: &[&str]) -> Marks {
        let phrases: Vec<Value> = names.iter().map(|name| json!({"participantName": name, "message": "hi"})).collect();
        let mut marks = Marks::default();
        let transcript = json!({"transcript": phrases}).to_string();
        marks.name(&Conversation::parse(transcript.as_bytes()).unwrap());
        marks
    }

    #[test]
    fn values_that_people_call_the_same_have_one_mark() {
        let marks = |metadata: Value| Marks::of(&metadata.to_string()).joined(Source::Notes);
        assert_eq!(
            marks(
                json!({"channelClass": "VOICE", "channelType": "voice", "agentDisposition": "Call-back É", "segmentParticipantId": 42})
            ),
            "\u{e001}3 \u{e002}voice \u{e004}call\u{e00f}back\u{e00f}e \u{e005}42"
        );
        assert_eq!(marks(json!({"channelClass": null, "dialogOrigination": " ", "agentDisposition": []})), "\u{e001}3");
        assert_eq!(value(CHANNEL, " - "), value(CHANNEL, "-"));
        assert_ne!(value(CHANNEL, "-"), value(CHANNEL, "+"));
        let long = "x y ".repeat(100);
        assert_eq!(value(CHANNEL, &long), value(CHANNEL, &long.to_uppercase()));
        assert!(value(CHANNEL, &long).len() < 24 && Marks::of("oops") == Marks::default());
    }

    #[test]
    fn each_name_stands_word_by_word_and_apart_from_the_next() {
        assert_eq!(
            named(&["Zoë Ångström", "BOB", "Bob", "…"]).names,
            "\u{e006}bob \u{2029} \u{e006}zoe \u{e006}angstrom"
        );
        let many: Vec<String> = (0..=NAMES).map(|n| format!("guest{n}")).collect();
        assert_eq!(named(&many.iter().map(String::as_str).collect::<Vec<_>>()).names, "\u{e007}");
    }
}
