//! Reads the fields of a segment's metadata, in the documented form and in the newer one, which
//! renames some of them.

use std::time::Duration;

use serde_json::Value;

use super::scalar_text;
use crate::clock::Time;
use crate::lenient_json;
use crate::lenient_time;

/// The displayed fields, each with its label. A field without a label belongs to the one before it.
const DISPLAYED_FIELDS: [(&str, &str); 13] = [
    ("type", "segmentType"),
    ("channel", "channelClass"),
    ("", "channelType"),
    ("direction", "dialogOrigination"),
    ("call", "uii"),
    ("agent", "segmentParticipantId"),
    ("agent's name", "agentFullName"),
    ("agent group", "segmentAgentGroupId"),
    ("started", "segmentStartTimeMs"),
    ("ended by", "termParty"),
    ("system disposition", "systemDisposition"),
    ("agent disposition", "agentDisposition"),
    ("agent notes", "agentNotes"),
];

/// Documented names, each with its name in the newer form.
const RENAMED_FIELDS: [(&str, &str); 4] = [
    ("dialogOrigination", "callType"),
    ("segmentParticipantId", "agentId"),
    ("segmentStartTimeMs", "interactionStartTimeMs"),
    ("systemDisposition", "callResult"),
];

/// Metadata fields with the channel.
pub const CHANNEL_FIELDS: &[&str] = &["channelClass", "channelType"];

/// The metadata of a segment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata(Value);

impl Metadata {
    /// Parses metadata as received; invalid metadata has no fields.
    pub fn parse(text: &str) -> Metadata {
        Metadata(lenient_json::parse_value(text).unwrap_or_default())
    }

    /// Reads a field by its documented name; returns `None` unless it is a string or a number.
    pub fn field(&self, name: &str) -> Option<String> {
        self.raw_field(name)
            .or_else(|| self.raw_field(RENAMED_FIELDS.iter().find(|(documented, _)| *documented == name)?.1))
    }

    /// The channels that it names.
    pub fn channels(&self) -> Vec<String> {
        CHANNEL_FIELDS.iter().filter_map(|field| self.field(field)).collect()
    }

    /// Reads a field as a time.
    pub fn time(&self, name: &str) -> Option<Time> {
        lenient_time::parse(&self.field(name)?)
    }

    /// How long the segment lasted.
    pub fn duration(&self) -> Option<Duration> {
        let millis: f64 = self.field("segmentDurationMs")?.trim().parse().ok()?;
        (0.0..1e15).contains(&millis).then(|| Duration::from_millis(millis as u64))
    }

    /// The fields to display that are present, each with its label.
    pub fn displayed_fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        DISPLAYED_FIELDS.iter().filter_map(|(label, name)| {
            let time = name.ends_with("TimeMs").then(|| self.time(name)).flatten();
            Some((*label, time.map_or_else(|| self.field(name), |time| Some(time.rfc3339()))?))
        })
    }

    /// Whether the segment is an e-mail conversation, whose messages are HTML.
    pub(crate) fn is_email(&self) -> bool {
        let names_mail =
            |name| self.raw_field(name).is_some_and(|channel| channel.to_ascii_lowercase().contains("mail"));
        names_mail("channelType") || names_mail("channelClass")
    }

    /// Whether metadata as received describes an e-mail conversation. Parses it only if it may.
    pub fn describes_email(text: &str) -> bool {
        ["mail", "MAIL", "Mail"].iter().any(|name| text.contains(name)) && Metadata::parse(text).is_email()
    }

    /// Whether one of these ids belongs to the agent of the segment.
    pub(super) fn is_agent(&self, participant: Option<&str>, rc_user: Option<&str>) -> bool {
        let same = |name, id: Option<&str>| {
            id.is_some_and(|id| self.field(name).is_some_and(|agent| agent.trim() == id.trim()))
        };
        same("segmentParticipantId", participant)
            || match self.field("segmentParticipantRcExtensionId") {
                Some(_) => same("segmentParticipantRcExtensionId", rc_user),
                // Only agents have a RingCentral user id.
                None => rc_user.is_some_and(|id| id.trim() != "0"),
            }
    }

    fn raw_field(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(scalar_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_alike() {
        let older = Metadata::parse(
            r#"{"dialogOrigination":"INBOUND","segmentParticipantId":"901","segmentStartTimeMs":"2024-07-22T11:24:47+0000"}"#,
        );
        let newer = Metadata::parse(
            r#"{"callType":"INBOUND","agentId":901,"interactionStartTimeMs":1721647487,"segmentParticipantId":null}"#,
        );
        assert_eq!(older.displayed_fields().collect::<Vec<_>>(), newer.displayed_fields().collect::<Vec<_>>());
        assert_eq!(older.time("segmentStartTimeMs"), Time::parse("2024-07-22T11:24:47Z"));
        assert_eq!(older.displayed_fields().count(), 3);
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
            assert_eq!(Metadata::describes_email(metadata), expected, "{metadata}");
        }
    }

    #[test]
    fn what_is_at_fault_costs_its_field() {
        let deep = "[".repeat(300) + &"]".repeat(300);
        let text =
            format!(r#"{{"x":{deep},"agentNotes":"cut \ud83d","segmentDurationMs":1e999,"channelClass":"VOICE"}}"#);
        let metadata = Metadata::parse(&text);
        assert_eq!(metadata.field("agentNotes").as_deref(), Some("cut \u{fffd}"));
        assert_eq!((metadata.field("channelClass").as_deref(), metadata.duration()), (Some("VOICE"), None));
        assert_eq!(Metadata::parse(r#"{"segmentDurationMs":"61000"}"#).duration(), Some(Duration::from_secs(61)));
        assert_eq!(Metadata::parse("oops"), Metadata::default());
    }
}
