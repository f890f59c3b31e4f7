//! Collects the participants of a segment from its metadata and transcripts: contacts, agents, and
//! those who may be either. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::folding::fold;
use crate::lenient_json;

/// Fields that name a contact or an end of the line, in lower case. The API does not say reliably
/// which end is the customer's, so both count.
const CONTACT_FIELDS: [&str; 7] = ["channelid", "ani", "dnis", "from", "to", "did", "msisdn"];
/// Parts of further field names that name a contact.
const CONTACT_PARTS: [&str; 10] =
    ["endpoint", "contact", "customer", "caller", "called", "callee", "phone", "mobile", "email", "e164"];
/// Fields that name the agent, in addition to those with `agent` in their names.
const AGENT_FIELDS: [&str; 2] = ["segmentparticipantid", "segmentparticipantrcextensionid"];
/// Parts of field names that contain `agent` but do not name one.
const NON_AGENT_PARTS: [&str; 4] = ["notes", "disposition", "group", "summary"];

/// From 2^53 on, an `f64` does not represent every integer.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Whether a metadata field of this name may identify the contact or contain an address of the
/// contact.
pub fn is_contact_field(field: &str) -> bool {
    field_role(field) == Some(FieldRole::Contact)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldRole {
    Contact,
    Agent,
}

fn field_role(field: &str) -> Option<FieldRole> {
    let field = fold(field);
    if AGENT_FIELDS.contains(&field.as_str()) {
        return Some(FieldRole::Agent);
    }
    if field.contains("agent") {
        return (!NON_AGENT_PARTS.iter().any(|part| field.contains(part))).then_some(FieldRole::Agent);
    }
    let is_contact = CONTACT_FIELDS.contains(&field.as_str()) || CONTACT_PARTS.iter().any(|part| field.contains(part));
    is_contact.then_some(FieldRole::Contact)
}

/// The values that identify the participants of a segment, as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Participants {
    /// Contacts, and everyone who is not certainly an agent.
    pub(crate) contacts: BTreeSet<String>,
    /// Participants who may be contacts or agents.
    pub(crate) uncertain: BTreeSet<String>,
    /// Agents.
    pub(crate) agents: BTreeSet<String>,
    /// Whether something could not be read and may therefore name anyone.
    pub is_unreadable: bool,
    /// Texts of unknown form. Everyone who occurs in one may be a participant.
    pub fragments: Vec<String>,
}

impl Participants {
    /// Collects the participants from all metadata and all transcripts of one segment.
    pub fn read<'a>(
        metadata: impl IntoIterator<Item = &'a str>,
        transcripts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Participants {
        let mut reader = ParticipantCollector::default();
        for text in metadata {
            reader.read_document(lenient_json::from_str(text));
        }
        let known_agents: BTreeSet<String> = reader.found.agents.iter().map(|agent| fold(agent)).collect();
        reader.assign_speakers(&known_agents);
        for body in transcripts {
            reader.read_document(lenient_json::from_slice(body));
            reader.assign_speakers(&known_agents);
        }
        reader.found
    }
}

/// Collects all strings and numbers of a JSON document, and whether none was missed; returns `None`
/// if the text is not JSON.
pub(super) fn collect_scalars(text: &str) -> Option<(Vec<String>, bool)> {
    let mut texts = Vec::new();
    let is_whole = lenient_json::from_str::<JsonNode>(text)?.collect(&mut texts);
    Some((texts, is_whole))
}

/// Whether the text contains U+FFFD, which marks a lost character.
pub(super) fn is_damaged(text: &str) -> bool {
    text.contains(char::REPLACEMENT_CHARACTER)
}

#[derive(Default)]
struct ParticipantCollector {
    found: Participants,
    /// The speakers of the current document.
    speakers: BTreeSet<Speaker>,
}

/// What a phrase says about its speaker.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Speaker {
    kinds: Vec<String>,
    ids: Vec<String>,
    names: Vec<String>,
    user_ids: Vec<String>,
}

impl Speaker {
    fn field_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
        match fold(name).as_str() {
            "participanttype" => Some(&mut self.kinds),
            "participantid" => Some(&mut self.ids),
            "participantname" => Some(&mut self.names),
            "rcuserid" => Some(&mut self.user_ids),
            _ => None,
        }
    }
}

impl ParticipantCollector {
    fn read_document(&mut self, document: Option<JsonNode>) {
        match document {
            Some(JsonNode::Scalar(_) | JsonNode::Inexact) | None => self.found.is_unreadable = true,
            Some(node) => self.read_node(node, None),
        }
    }

    fn read_node(&mut self, node: JsonNode, role_above: Option<FieldRole>) {
        match node {
            JsonNode::Scalar(text) => match role_above {
                Some(FieldRole::Contact) => drop(self.found.contacts.insert(text)),
                Some(FieldRole::Agent) => drop(self.found.agents.insert(text)),
                None => {}
            },
            JsonNode::Inexact => self.found.is_unreadable |= role_above == Some(FieldRole::Contact),
            JsonNode::List(nodes) => nodes.into_iter().for_each(|node| self.read_node(node, role_above)),
            JsonNode::Object(fields) => {
                let mut speaker = Speaker::default();
                for (name, node) in fields {
                    // A damaged field name may be the name of a contact field.
                    self.found.is_unreadable |= is_damaged(&name);
                    match speaker.field_mut(&name) {
                        // Nested forms such as `{"id":"…"}` and `["…"]` count too.
                        Some(values) => self.found.is_unreadable |= !node.collect(values),
                        None => self.read_node(node, field_role(&name).or(role_above)),
                    }
                }
                if !speaker.ids.is_empty() || !speaker.names.is_empty() {
                    self.speakers.insert(speaker);
                }
            }
        }
    }

    /// Sorts the speakers into contacts, agents and uncertain ones. The speaker's type counts
    /// first, then the ids that the metadata gives for the agent.
    fn assign_speakers(&mut self, known_agents: &BTreeSet<String>) {
        let is_agent = |speaker: &Speaker| match speaker.kinds.as_slice() {
            [] => speaker
                .ids
                .iter()
                .chain(&speaker.user_ids)
                .chain(&speaker.names)
                .any(|id| known_agents.contains(&fold(id))),
            kinds => kinds.iter().all(|kind| kind.trim().eq_ignore_ascii_case("agent")),
        };
        let speakers = std::mem::take(&mut self.speakers);
        let agent_speaks = speakers.iter().any(is_agent);
        for speaker in speakers {
            let found = &mut self.found;
            let is_contact = !speaker.kinds.is_empty();
            let (for_ids, for_names) = if is_agent(&speaker) {
                found.agents.extend(speaker.ids);
                found.agents.extend(speaker.names);
                continue;
            } else {
                let is_identified = speaker.user_ids.is_empty() && !known_agents.is_empty();
                (is_contact || is_identified, is_contact || (is_identified && agent_speaks))
            };
            if for_ids { &mut found.contacts } else { &mut found.uncertain }.extend(speaker.ids);
            if for_names { &mut found.contacts } else { &mut found.uncertain }.extend(speaker.names);
        }
    }
}

/// A JSON document that keeps repeated names, so that no value hides another.
enum JsonNode {
    /// A string or a number.
    Scalar(String),
    /// A number with more digits than the parser keeps.
    Inexact,
    /// An array; an empty one also stands for null, booleans and blank strings.
    List(Vec<JsonNode>),
    Object(Vec<(String, JsonNode)>),
}

impl JsonNode {
    /// Adds all strings and numbers to `into`; returns whether none was missed. A damaged string
    /// shows that itself.
    fn collect(self, into: &mut Vec<String>) -> bool {
        let mut is_whole = true;
        match self {
            JsonNode::Scalar(text) => into.push(text),
            JsonNode::Inexact => is_whole = false,
            JsonNode::List(nodes) => nodes.into_iter().for_each(|node| is_whole &= node.collect(into)),
            JsonNode::Object(fields) => {
                for (name, node) in fields {
                    is_whole &= node.collect(into) && !is_damaged(&name);
                }
            }
        }
        is_whole
    }
}

impl<'de> Deserialize<'de> for JsonNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonNode, D::Error> {
        deserializer.deserialize_any(JsonNodeVisitor)
    }
}

struct JsonNodeVisitor;

impl<'de> Visitor<'de> for JsonNodeVisitor {
    type Value = JsonNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<JsonNode, E> {
        Ok(JsonNode::List(Vec::new()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<JsonNode, E> {
        Ok(JsonNode::List(Vec::new()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<JsonNode, E> {
        Ok(JsonNode::Scalar(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<JsonNode, E> {
        Ok(JsonNode::Scalar(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<JsonNode, E> {
        Ok(if number.abs() < MAX_EXACT_INTEGER { JsonNode::Scalar(number.to_string()) } else { JsonNode::Inexact })
    }

    fn visit_str<E>(self, text: &str) -> Result<JsonNode, E> {
        Ok(if text.trim().is_empty() { JsonNode::List(Vec::new()) } else { JsonNode::Scalar(text.to_owned()) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<JsonNode, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element()? {
            nodes.push(node);
        }
        Ok(JsonNode::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<JsonNode, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = entries.next_entry()? {
            fields.push(field);
        }
        Ok(JsonNode::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Certainty, Subject};
    use super::*;

    fn read(metadata: &str, transcript: &str) -> Participants {
        Participants::read([metadata], [transcript.as_bytes()])
    }

    fn listed(values: &BTreeSet<String>) -> Vec<&str> {
        values.iter().map(String::as_str).collect()
    }

    #[test]
    fn both_ends_of_the_line_and_the_newer_names_count() {
        let metadata = r#"{"segmentId":"s","channelClass":"VOICE","channelEndpointAddress":"1","contactEndpointAddress":"2",
            "channelId":3,"ani":"4","DNIS":"5","contact":{"name":"6","phones":["7"]},"callerNumber":"8","agentNotes":"no",
            "segmentParticipantId":"901","agentFullName":"John Roe","segmentAgentGroupId":"77","agentDisposition":"no",
            "contactEndpointAddress":"9","segmentEvents":[{"eventType":"no"}]}"#;
        let found = Participants::read([metadata], []);
        assert_eq!(listed(&found.contacts), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        assert_eq!(listed(&found.agents), ["901", "John Roe"]);
        assert!(found.uncertain.is_empty() && !found.is_unreadable);
    }

    #[test]
    fn whoever_is_not_certainly_the_agent_is_a_contact() {
        let transcript = r#"{"transcript":[{"participantType":"agent","participantId":"a","participantName":"A"},
            {"participantType":"CONTACT","participantId":"b","participantName":"B","rcUserId":"901"},
            {"participantType":"customer","participantName":"C"},{"participantType":"bot","participantId":"d"},
            {"participantType":"Agent ","participantId":"e"}]}"#;
        let found = read("{}", transcript);
        assert_eq!(listed(&found.contacts), ["B", "C", "b", "d"]);
        assert_eq!(listed(&found.agents), ["A", "a", "e"]);
    }

    #[test]
    fn without_types_the_metadata_tells_who_the_agent_is() {
        let transcript = r#"{"transcript":[{"participantId":"901","participantName":"A","participantType":null},
            {"participantId":"b","participantName":"B","rcUserId":null},{"participantId":"x","rcUserId":"77"}]}"#;
        let found = read(r#"{"segmentParticipantId":901}"#, transcript);
        assert_eq!((listed(&found.contacts), listed(&found.agents)), (vec!["B", "b"], vec!["901", "A"]));
        assert_eq!(listed(&found.uncertain), ["x"]);
        let found = read(r#"{"segmentParticipantRcExtensionId":"77"}"#, transcript);
        assert_eq!((listed(&found.contacts), listed(&found.agents)), (vec!["901", "A", "B", "b"], vec!["77", "x"]));
        // Nobody speaks under the agent's id: a name may be the agent's.
        let found = read(r#"{"segmentParticipantId":"5"}"#, transcript);
        assert_eq!((listed(&found.contacts), listed(&found.uncertain)), (vec!["901", "b"], vec!["A", "B", "x"]));
        let found = read("{}", transcript);
        assert_eq!(listed(&found.uncertain), ["901", "A", "B", "b", "x"]);
        assert!(found.contacts.is_empty());
    }

    #[test]
    fn what_is_at_fault_costs_itself_and_what_cannot_be_read_is_said() {
        let found = read(
            r#"{"contactEndpointAddress":"Jane","x":1e999,"y":"cut \ud83d"}"#,
            "{\"transcript\":[{\"participantType\":\"contact\",\"participantId\":\"c \0\",\"message\":\"\\ud83d\"}]}",
        );
        assert_eq!(listed(&found.contacts), ["Jane", "c \0"]);
        assert!(!found.is_unreadable);
        for (metadata, transcript) in [("{", "{}"), ("{}", "oops"), ("7", "{}"), ("{}", "\"said\""), ("", "{}")] {
            assert!(read(metadata, transcript).is_unreadable, "{metadata} {transcript}");
        }
        assert!(!read("{}", "[]").is_unreadable);
        for (metadata, transcript) in [
            ("{\"a\u{0}ni\":\"4930\"}", "{}"),
            ("{}", r#"[{"participantId":{"id":"4930"}}]"#),
            ("{}", r#"[{"participantName":[["4930"]],"participantType":["agent","contact"]}]"#),
            (r#"{"contact":{"phones":[["4930"]]}}"#, "{}"),
        ] {
            let found = read(metadata, transcript);
            let said: Vec<&str> = found.contacts.iter().chain(&found.uncertain).map(String::as_str).collect();
            assert_eq!((said, found.is_unreadable), (vec!["4930"], false), "{metadata} {transcript}");
        }
        let deep = format!("{}\"4930\"{}", "[".repeat(130), "]".repeat(130));
        for (metadata, transcript) in [
            (format!(r#"{{"contactEndpointAddress":{deep}}}"#), "{}".to_owned()),
            ("{}".to_owned(), format!(r#"[{{"participantId":{deep}}}]"#)),
            ("{}".to_owned(), format!(r#"[{{"x":{deep},"participantId":"4930"}}]"#)),
        ] {
            let found = read(&metadata, &transcript);
            let said: Vec<&str> = found.contacts.iter().chain(&found.uncertain).map(String::as_str).collect();
            assert_eq!((said, found.is_unreadable), (vec!["4930"], false), "{metadata} {transcript}");
        }
        let deep = format!("{}{{\"x\":\"4930\"}}{}", "[".repeat(130), "]".repeat(130));
        assert!(read(&format!(r#"{{"contactEndpointAddress":{deep}}}"#), "{}").is_unreadable);
        assert!(read(&format!(r#"{{"unknown":{deep}}}"#), "{}").is_unreadable);
        assert!(read("{}", &format!(r#"[{{"participantId":{deep}}}]"#)).is_unreadable);
        let id = "12345678901234567890123";
        assert!(read(&format!(r#"{{"channelId":{id}}}"#), "{}").is_unreadable);
        assert!(read("{}", &format!(r#"[{{"participantId":{id}}}]"#)).is_unreadable);
        assert!(!read(&format!(r#"{{"interactionId":{id},"ani":4.930123456e9}}"#), "{}").is_unreadable);
    }

    proptest! {
        #[test]
        fn whoever_stands_in_it_is_found_or_it_is_called_unreadable(
            before in r#"([\[\]{},:"\\ue0-9d.NaI\x00-\x20é-]|\\ud83d|"a":|"agent":|"ani":){0,20}"#,
            after in r#"(,"[a-z]{1,3}":([0-9]{1,30}|1e999|"\\ude00"|null|\[+\]+|"\x01")){0,4}"#,
        ) {
            let person = Subject::Contact("+49 30 1234567".to_owned());
            let metadata = format!(r#"{{"x":{before},"dnis":"49301234567"{after}}}"#);
            let found = Participants::read([metadata.as_str()], []);
            prop_assert!(person.match_participants(&found).certainty > Certainty::Not, "{}", metadata);
            let phrase = r#"{"participantId":"+49301234567","participantType":null}"#;
            let transcript = format!(r#"{{"x":{before},"transcript":[{phrase}]{after}}}"#);
            let found = Participants::read(["{}"], [transcript.as_bytes()]);
            prop_assert!(person.match_participants(&found).certainty > Certainty::Not, "{}", transcript);
        }
    }
}
