//! An event: a stored artifact version, announced metadata, or an erasure, as CloudEvents 1.0 JSON.
//!
//! Pure. The id is derived from the event's subject, so it is the same at every redelivery.

mod artifact_payload;

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Time;
use crate::model::{AccountId, Artifact, encode_path_segment};
use crate::render::{escape_line_separators, to_json_line};

pub use artifact_payload::{ArtifactPayload, RecordingPayload, decode_summary};

/// The namespace of event ids. It must never change: receivers would take every event for a new
/// one.
pub(crate) const NAMESPACE: Uuid = Uuid::from_u128(0x5c1f_0a7e_9d3b_4e62_8a4d_2b6f_71c0_e935);

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A version of an artifact was stored.
    Artifact(Artifact),
    /// The segment was announced, or its metadata changed.
    Metadata,
    /// The segment was erased.
    Erased(ErasureReason),
    /// All texts of a segment.
    Segment,
    /// All texts of a dialog, over its segments.
    Dialog,
    /// A person tries the sink.
    Test,
}

/// Why a segment was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureReason {
    /// A person requested it.
    Erasure,
    /// It was past retention.
    Retention,
}

impl EventKind {
    /// The artifact, if the event is about one.
    pub fn artifact(self) -> Option<Artifact> {
        match self {
            EventKind::Artifact(artifact) => Some(artifact),
            EventKind::Test => Some(Artifact::Transcript),
            EventKind::Metadata | EventKind::Segment | EventKind::Dialog | EventKind::Erased(_) => None,
        }
    }

    /// The last part of the event's type.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Artifact(artifact) => artifact.name(),
            EventKind::Metadata => "metadata",
            EventKind::Segment => "segment",
            EventKind::Dialog => "dialog",
            EventKind::Erased(_) => "segment.erased",
            EventKind::Test => "test",
        }
    }
}

/// One event, with the metadata of its segment. An erasure has no content: no dialog, end, metadata
/// or body.
#[derive(Debug, Clone)]
pub struct Event {
    /// The sequence number in the account's feed.
    pub feed_seq: i64,
    /// The account's key in the database.
    pub account_key: i64,
    /// The account.
    pub account: AccountId,
    /// The dialog's id.
    pub dialog_id: Option<String>,
    /// The segment's id.
    pub segment_id: String,
    /// When the segment ended; `None` if the API never reported it.
    pub ended: Option<Time>,
    /// What it tells.
    pub kind: EventKind,
    /// The version of the artifact or the metadata, 1 for the first.
    pub version: i64,
    /// When the version was stored, or the segment erased.
    pub stored: Time,
    /// The segment's newest metadata, JSON; redacted if the sink requires it.
    pub metadata: String,
    /// The body as received: a transcript's JSON or a summary's bytes; redacted if the sink
    /// requires it. Of a recording the reference as JSON.
    pub body: Vec<u8>,
    /// Of a segment or a dialog, the events of its texts, in order of the segments.
    pub parts: Vec<Event>,
}

/// The CloudEvents 1.0 attributes, in their documented order.
#[derive(Serialize)]
struct CloudEventEnvelope<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    subject: &'a str,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    sequence: String,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataref: Option<String>,
    data: CloudEventData<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum CloudEventData<'a> {
    Segment(Box<SegmentData<'a>>),
    Dialog {
        rc_account_id: &'a str,
        sub_account_id: &'a str,
        dialog_id: Option<&'a str>,
        version: i64,
        segments: Vec<SegmentData<'a>>,
    },
    Erased {
        rc_account_id: &'a str,
        sub_account_id: &'a str,
        segment_id: &'a str,
        reason: &'static str,
    },
}

#[derive(Serialize)]
struct SegmentData<'a> {
    rc_account_id: &'a str,
    sub_account_id: &'a str,
    dialog_id: Option<&'a str>,
    segment_id: &'a str,
    segment_end: Option<String>,
    version: i64,
    metadata: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transcript: Option<ArtifactPayload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_summary: Option<ArtifactPayload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auto_summary: Option<ArtifactPayload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<RecordingPayload>,
}

impl Event {
    /// A test event, marked as such by its type.
    pub(crate) fn test(now: Time) -> Event {
        let sample = Event::sample(EventKind::Test);
        Event { version: now.0, stored: now, ended: Some(now), ..sample }
    }

    /// An event of each kind, to check templates with.
    pub(crate) fn samples() -> impl Iterator<Item = Event> {
        let artifacts = Artifact::ALL.into_iter().map(EventKind::Artifact);
        let others = [EventKind::Metadata, EventKind::Erased(ErasureReason::Erasure), EventKind::Test];
        artifacts.chain(others).map(Event::sample)
    }

    fn sample(kind: EventKind) -> Event {
        let body: &[u8] = match kind {
            EventKind::Artifact(Artifact::AgentSummary | Artifact::AutoSummary) => b"\"A \\\"test\\\" summary.\"",
            EventKind::Artifact(Artifact::Recording) => {
                br#"{"object":"te/test.wav","sha256":"test","bytes":44,"type":"audio/wav","duration_ms":0,"channels":1}"#
            }
            _ => br#"{"channelClass":"VOICE","transcript":[{"participantType":"AGENT","message":"A \"test\" message.","timestamp":0}]}"#,
        };
        Event {
            feed_seq: 0,
            account_key: 0,
            account: AccountId::new("test", "test"),
            dialog_id: Some("test-dialog".to_owned()),
            segment_id: "test-segment".to_owned(),
            ended: Some(Time(0)),
            kind,
            version: 1,
            stored: Time(0),
            metadata: r#"{"segmentId":"test-segment","channelClass":"VOICE"}"#.to_owned(),
            body: body.to_vec(),
            parts: Vec::new(),
        }
    }

    /// The event's id: the same at every redelivery, and unique per segment, artifact and version.
    pub fn id(&self) -> Uuid {
        // A JSON array, so that two different lists of ids never give the same text.
        let name =
            serde_json::json!([&*self.account.rc, &*self.account.sub, self.segment_id, self.kind.name(), self.version]);
        Uuid::new_v5(&NAMESPACE, name.to_string().as_bytes())
    }

    /// The event's type.
    pub(crate) fn type_name(&self) -> String {
        format!("com.ringcx.{}", self.kind.name())
    }

    /// The event without content: an artifact's outcome remains.
    pub(crate) fn without_content(&self) -> Event {
        Event { body: Vec::new(), parts: Vec::new(), ..self.clone() }
    }

    /// The event as one line of JSON, without a line break at its end.
    pub(crate) fn cloud_event(&self) -> Vec<u8> {
        self.to_json(false)
    }

    /// The event with a reference in place of its content.
    pub(crate) fn cloud_event_with_reference(&self) -> Vec<u8> {
        self.to_json(true)
    }

    /// The segment with its texts, which are among `parts`.
    fn segment_data<'a>(&'a self, parts: &'a [Event], is_reference: bool) -> SegmentData<'a> {
        let part_of = |artifact: Artifact| parts.iter().find(|part| part.kind.artifact() == Some(artifact));
        let payload = |artifact: Artifact| {
            let part = part_of(artifact)?;
            Some(match is_reference {
                true => ArtifactPayload::without_content("stored", Some(part.stored)),
                false => ArtifactPayload::from_body(artifact, Some(part.stored), &part.body),
            })
        };
        SegmentData {
            rc_account_id: &self.account.rc,
            sub_account_id: &self.account.sub,
            dialog_id: self.dialog_id.as_deref(),
            segment_id: &self.segment_id,
            segment_end: self.ended.map(Time::rfc3339),
            version: self.version,
            metadata: to_json_line(self.metadata.as_bytes()),
            transcript: payload(Artifact::Transcript),
            agent_summary: payload(Artifact::AgentSummary),
            auto_summary: payload(Artifact::AutoSummary),
            // It is a reference itself.
            recording: part_of(Artifact::Recording)
                .map(|part| RecordingPayload::new("stored", Some(part.stored), &part.body)),
        }
    }

    /// What the event is about: the segment, or the dialog.
    fn subject(&self) -> &str {
        match (&self.kind, &self.dialog_id) {
            (EventKind::Dialog, Some(dialog)) => dialog,
            _ => &self.segment_id,
        }
    }

    fn to_json(&self, is_reference: bool) -> Vec<u8> {
        let (rc_account_id, sub_account_id) = (&*self.account.rc, &*self.account.sub);
        let data = match self.kind {
            EventKind::Erased(reason) => CloudEventData::Erased {
                rc_account_id,
                sub_account_id,
                segment_id: &self.segment_id,
                reason: match reason {
                    ErasureReason::Erasure => "erasure",
                    ErasureReason::Retention => "retention",
                },
            },
            EventKind::Dialog => CloudEventData::Dialog {
                rc_account_id,
                sub_account_id,
                dialog_id: self.dialog_id.as_deref(),
                version: self.version,
                segments: self
                    .parts
                    .chunk_by(|one, other| one.segment_id == other.segment_id)
                    .filter_map(|parts| parts.first().map(|first| first.segment_data(parts, is_reference)))
                    .collect(),
            },
            EventKind::Segment => CloudEventData::Segment(Box::new(self.segment_data(&self.parts, is_reference))),
            EventKind::Artifact(_) | EventKind::Metadata | EventKind::Test => {
                CloudEventData::Segment(Box::new(self.segment_data(std::slice::from_ref(self), is_reference)))
            }
        };
        let envelope = CloudEventEnvelope {
            specversion: "1.0",
            id: self.id().to_string(),
            source: format!(
                "/accounts/{}/sub-accounts/{}",
                encode_path_segment(&self.account.rc),
                encode_path_segment(&self.account.sub)
            ),
            subject: self.subject(),
            kind: self.type_name(),
            time: self.stored.rfc3339(),
            // Its texts sort like its numbers, as the extension requires.
            sequence: format!("{:020}", self.feed_seq),
            datacontenttype: "application/json",
            dataref: is_reference.then(|| {
                let artifact = self.kind.artifact().map(|artifact| format!("/{artifact}")).unwrap_or_default();
                format!("/api/v1/segments/{}{artifact}", encode_path_segment(&self.segment_id))
            }),
            data,
        };
        // Strings, numbers and valid JSON: serialising them cannot fail.
        let mut line = serde_json::to_vec(&envelope).unwrap_or_default();
        escape_line_separators(&mut line, 0);
        line
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn event(artifact: Artifact, body: &[u8]) -> Event {
        Event {
            feed_seq: 7,
            account_key: 1,
            account: AccountId::new("980634004", "99 9"),
            dialog_id: Some("dia".into()),
            segment_id: "seg/1".into(),
            ended: Time::parse("2024-07-22T11:24:47Z"),
            kind: EventKind::Artifact(artifact),
            version: 1,
            stored: Time(1_800_000_000_123),
            metadata: "{\"segmentId\":\"seg/1\",\n \"n\":1.50,\"z\":null}".into(),
            body: body.to_vec(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn a_dialog_holds_the_texts_of_its_segments() {
        let part = |segment: &str, artifact, body: &[u8]| Event { segment_id: segment.into(), ..event(artifact, body) };
        let parts = vec![
            part("one", Artifact::Transcript, b"{}"),
            part("one", Artifact::AutoSummary, b"\"short\""),
            part("two", Artifact::Transcript, b"[]"),
        ];
        let dialog = Event { kind: EventKind::Dialog, parts, ..event(Artifact::Transcript, b"") };
        let line: Value = serde_json::from_slice(&dialog.cloud_event()).unwrap();
        assert_eq!((&line["type"], &line["subject"]), (&"com.ringcx.dialog".into(), &"dia".into()));
        let segments = line["data"]["segments"].as_array().unwrap();
        assert_eq!((segments.len(), &segments[0]["auto_summary"]["text"]), (2, &"short".into()));
        assert_eq!(
            (&segments[1]["segment_id"], &segments[1]["transcript"]["outcome"]),
            (&"two".into(), &"stored".into())
        );
    }

    #[test]
    fn a_transcript_event_has_exactly_this_text() {
        let line = String::from_utf8(event(Artifact::Transcript, b"{\"b\":1e3,\r\n\"a\":[]}").cloud_event()).unwrap();
        assert_eq!(
            line,
            "{\"specversion\":\"1.0\",\"id\":\"ID\",\"source\":\"/accounts/980634004/sub-accounts/99%209\",\
             \"subject\":\"seg/1\",\"type\":\"com.ringcx.transcript\",\"time\":\"2027-01-15T08:00:00.123Z\",\
             \"sequence\":\"00000000000000000007\",\
             \"datacontenttype\":\"application/json\",\"data\":{\"rc_account_id\":\"980634004\",\"sub_account_id\":\"99 9\",\
             \"dialog_id\":\"dia\",\"segment_id\":\"seg/1\",\"segment_end\":\"2024-07-22T11:24:47.000Z\",\"version\":1,\
             \"metadata\":{\"segmentId\":\"seg/1\",  \"n\":1.50,\"z\":null},\"transcript\":{\"outcome\":\"stored\",\
             \"fetched_at\":\"2027-01-15T08:00:00.123Z\",\"body\":{\"b\":1e3,  \"a\":[]}}}}"
                .replace("ID", &event(Artifact::Transcript, b"").id().to_string())
        );
    }

    #[test]
    fn a_summary_event_holds_the_text_and_a_body_that_is_not_json_becomes_a_string() {
        let read = |event: Event| serde_json::from_slice::<Value>(&event.cloud_event()).unwrap();
        let summary = read(event(Artifact::AgentSummary, b"\"all \\u00e4 good\""));
        assert_eq!(summary["type"], "com.ringcx.agent_summary");
        assert_eq!(summary["data"]["agent_summary"]["text"], "all ä good");
        assert!(summary["data"].get("transcript").is_none());
        let broken = read(event(Artifact::Transcript, b"{oops"));
        assert_eq!(broken["data"]["transcript"]["body"], "{oops");
    }

    #[test]
    fn a_recording_event_holds_a_reference() {
        let body = br#"{"object":"ab/ab.wav","sha256":"ab","bytes":7,"type":"audio/wav","duration_ms":61000}"#;
        let line: Value = serde_json::from_slice(&event(Artifact::Recording, body).cloud_event()).unwrap();
        assert_eq!(line["type"], "com.ringcx.recording");
        let expected = serde_json::json!({
            "outcome": "stored", "fetched_at": "2027-01-15T08:00:00.123Z", "object": "ab/ab.wav", "sha256": "ab",
            "bytes": 7, "type": "audio/wav", "duration_ms": 61_000,
        });
        assert_eq!(line["data"]["recording"], expected);
        assert!(line["data"].get("transcript").is_none());
    }

    #[test]
    fn an_erasure_names_the_segment_and_has_no_content() {
        let kind = EventKind::Erased(ErasureReason::Retention);
        let line = Event { kind, ..event(Artifact::Transcript, b"{}") }.cloud_event();
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["type"], "com.ringcx.segment.erased");
        let expected = serde_json::json!({
            "rc_account_id": "980634004", "sub_account_id": "99 9", "segment_id": "seg/1", "reason": "retention",
        });
        assert_eq!(line["data"], expected);
        let metadata = Event { kind: EventKind::Metadata, ..event(Artifact::Transcript, b"{}") }.cloud_event();
        let metadata: Value = serde_json::from_slice(&metadata).unwrap();
        assert_eq!(
            (&metadata["type"], &metadata["data"]["metadata"]["z"]),
            (&"com.ringcx.metadata".into(), &Value::Null)
        );
        assert!(metadata["data"].get("transcript").is_none());
    }

    #[test]
    fn ids_are_stable_and_unique() {
        assert_eq!(
            event(Artifact::Transcript, b"").id().to_string(),
            event(Artifact::Transcript, b"other bodies do not matter").id().to_string()
        );
        let mut ids = HashSet::new();
        for artifact in Artifact::ALL {
            for version in [1, 11] {
                for (rc, sub, segment) in [("1", "2", "3"), ("12", "", "3"), ("1", "2\",\"3", ""), ("1", "2", "3\n")] {
                    let account = AccountId::new(rc, sub);
                    let id = Event { version, account, segment_id: segment.into(), ..event(artifact, b"") }.id();
                    assert!(ids.insert(id), "{rc} {sub} {segment}");
                }
            }
        }
    }
}
