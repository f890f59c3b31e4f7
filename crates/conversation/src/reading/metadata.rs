//! A segment's metadata by field, in the documented form and in the newer one, which has other names for some of them.
//!
//! Whoever reads a field of metadata reads it here.

use std::time::Duration;

use serde_json::Value;

use super::word;
use crate::clock::Time;
use crate::lenient_json;
use crate::lenient_time;

/// What people read of it, each with what it is called; one without a name goes with the one before it.
const FIELDS: [(&str, &str); 13] = [
    ("type", "segmentType"),
    ("channel", "channelClass"),
    ("", "channelType"),
    ("begun by", "dialogOrigination"),
    ("call", "uii"),
    ("agent", "segmentParticipantId"),
    ("agent's name", "agentFullName"),
    ("agent group", "segmentAgentGroupId"),
    ("started", "segmentStartTimeMs"),
    ("ended by", "termParty"),
    ("system says", "systemDisposition"),
    ("agent says", "agentDisposition"),
    ("agent's notes", "agentNotes"),
];

/// The documented name, and the one in the newer form.
const NEWER: [(&str, &str); 4] = [
    ("dialogOrigination", "callType"),
    ("segmentParticipantId", "agentId"),
    ("segmentStartTimeMs", "interactionStartTimeMs"),
    ("systemDisposition", "callResult"),
];

/// The metadata of a segment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata(Value);

impl Metadata {
    /// Reads it as received; without any field where it cannot be read.
    pub fn read(text: &str) -> Metadata {
        Metadata(lenient_json::value(text).unwrap_or_default())
    }

    /// A field by its documented name, where it is a text or a number.
    pub fn field(&self, name: &str) -> Option<String> {
        self.under(name).or_else(|| self.under(NEWER.iter().find(|(documented, _)| *documented == name)?.1))
    }

    /// A field that is a time.
    pub fn time(&self, name: &str) -> Option<Time> {
        lenient_time::parse(&self.field(name)?)
    }

    /// How long the segment lasted.
    pub fn duration(&self) -> Option<Duration> {
        let millis: f64 = self.field("segmentDurationMs")?.trim().parse().ok()?;
        (0.0..1e15).contains(&millis).then(|| Duration::from_millis(millis as u64))
    }

    /// [`FIELDS`] that there are, as people read them.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, String)> {
        FIELDS.iter().filter_map(|(label, name)| {
            let time = name.ends_with("TimeMs").then(|| self.time(name)).flatten();
            Some((*label, time.map_or_else(|| self.field(name), |time| Some(time.rfc3339()))?))
        })
    }

    /// Whether the segment is an exchange of e-mails, whose messages are HTML.
    pub fn is_email(&self) -> bool {
        let names_mail = |name| self.under(name).is_some_and(|channel| channel.to_ascii_lowercase().contains("mail"));
        names_mail("channelType") || names_mail("channelClass")
    }

    /// The same of metadata as received, which is read only where it may be.
    pub fn tells_of_email(text: &str) -> bool {
        ["mail", "MAIL", "Mail"].iter().any(|name| text.contains(name)) && Metadata::read(text).is_email()
    }

    /// Whether the agent whose segment it is goes by one of these ids.
    pub(super) fn is_agent(&self, participant: Option<&str>, rc_user: Option<&str>) -> bool {
        let same = |name, id: Option<&str>| {
            id.is_some_and(|id| self.field(name).is_some_and(|agent| agent.trim() == id.trim()))
        };
        same("segmentParticipantId", participant)
            || match self.field("segmentParticipantRcExtensionId") {
                Some(_) => same("segmentParticipantRcExtensionId", rc_user),
                // Customers are no users.
                None => rc_user.is_some_and(|id| id.trim() != "0"),
            }
    }

    fn under(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_alike() {
        let older = Metadata::read(
            r#"{"dialogOrigination":"INBOUND","segmentParticipantId":"901","segmentStartTimeMs":"2024-07-22T11:24:47+0000"}"#,
        );
        let newer = Metadata::read(
            r#"{"callType":"INBOUND","agentId":901,"interactionStartTimeMs":1721647487,"segmentParticipantId":null}"#,
        );
        assert_eq!(older.shown().collect::<Vec<_>>(), newer.shown().collect::<Vec<_>>());
        assert_eq!(older.time("segmentStartTimeMs"), Time::parse("2024-07-22T11:24:47Z"));
        assert_eq!(older.shown().count(), 3);
    }

    #[test]
    fn an_exchange_of_e_mails_is_known_by_its_channel() {
        for (metadata, expected) in [
            (r#"{"channelType":"EMAIL","channelClass":"DIGITAL"}"#, true),
            (r#"{"channelType":"E-Mail"}"#, true),
            (r#"{"channelClass":"EMAIL"}"#, true),
            (r#"{"channelType":"WHATSAPP","agentNotes":"sent an EMAIL"}"#, false),
            (r#"{"channelType":null}"#, false),
            ("oops mail", false),
        ] {
            assert_eq!(Metadata::tells_of_email(metadata), expected, "{metadata}");
        }
    }

    #[test]
    fn what_is_at_fault_costs_its_field() {
        let deep = "[".repeat(300) + &"]".repeat(300);
        let text =
            format!(r#"{{"x":{deep},"agentNotes":"cut \ud83d","segmentDurationMs":1e999,"channelClass":"VOICE"}}"#);
        let metadata = Metadata::read(&text);
        assert_eq!(metadata.field("agentNotes").as_deref(), Some("cut \u{fffd}"));
        assert_eq!((metadata.field("channelClass").as_deref(), metadata.duration()), (Some("VOICE"), None));
        assert_eq!(Metadata::read(r#"{"segmentDurationMs":"61000"}"#).duration(), Some(Duration::from_secs(61)));
        assert_eq!(Metadata::read("oops"), Metadata::default());
    }
}
