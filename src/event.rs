//! An event: one stored artifact version on its way out, in CloudEvents 1.0 JSON.
//!
//! Pure. The id is derived from what the event is about, so it is the same at every redelivery.

mod part;

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Time;
use crate::model::{AccountId, Artifact, path_part};
use crate::reading::{json_line, unbroken};

pub use part::{Part, text_of};

/// The project's own namespace of event ids; never to be changed, or everything would look new to those who have it.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x5c1f_0a7e_9d3b_4e62_8a4d_2b6f_71c0_e935);

/// One stored version of one artifact, with what a sink may want to know of its segment.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number in the account's feed.
    pub feed: i64,
    /// The account's number in the database.
    pub account_key: i64,
    /// The account.
    pub account: AccountId,
    /// The dialog's id.
    pub dialog_id: Option<String>,
    /// The segment's id.
    pub segment_id: String,
    /// When the segment ended; `None` if the API never said.
    pub ended: Option<Time>,
    /// Which artifact.
    pub artifact: Artifact,
    /// Which version of it, 1 for the first.
    pub version: i64,
    /// When it was stored.
    pub stored: Time,
    /// The segment's metadata as last read, JSON; redacted already where the sink asks for it.
    pub metadata: String,
    /// The body as it came: a transcript's JSON, a summary's bytes; redacted likewise.
    pub body: Vec<u8>,
}

/// CloudEvents 1.0, keys in their documented order.
#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    subject: &'a str,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    rc_account_id: &'a str,
    sub_account_id: &'a str,
    dialog_id: Option<&'a str>,
    segment_id: &'a str,
    segment_end: Option<String>,
    metadata: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transcript: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_summary: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auto_summary: Option<Part>,
}

impl Event {
    /// The event's id: the same at every redelivery, another for every version of every artifact of every segment.
    pub fn id(&self) -> Uuid {
        // As a JSON array, so that no two lists of opaque ids run together into one text.
        let name = serde_json::json!([
            &*self.account.rc,
            &*self.account.sub,
            self.segment_id,
            self.artifact.name(),
            self.version
        ]);
        Uuid::new_v5(&NAMESPACE, name.to_string().as_bytes())
    }

    /// The event as one line of JSON, without a line break at its end.
    pub fn cloud_event(&self) -> Vec<u8> {
        let part = |artifact: Artifact| {
            (self.artifact == artifact).then(|| Part::stored(artifact, Some(self.stored), &self.body))
        };
        let envelope = Envelope {
            specversion: "1.0",
            id: self.id().to_string(),
            source: format!("/accounts/{}/sub-accounts/{}", path_part(&self.account.rc), path_part(&self.account.sub)),
            subject: &self.segment_id,
            kind: format!("com.ringcx.{}", self.artifact.name()),
            time: self.stored.rfc3339(),
            datacontenttype: "application/json",
            data: Data {
                rc_account_id: &self.account.rc,
                sub_account_id: &self.account.sub,
                dialog_id: self.dialog_id.as_deref(),
                segment_id: &self.segment_id,
                segment_end: self.ended.map(Time::rfc3339),
                metadata: json_line(self.metadata.as_bytes()),
                transcript: part(Artifact::Transcript),
                agent_summary: part(Artifact::AgentSummary),
                auto_summary: part(Artifact::AutoSummary),
            },
        };
        // Texts, numbers and JSON that was checked: nothing of it can fail to be written.
        let mut line = serde_json::to_vec(&envelope).unwrap_or_default();
        unbroken(&mut line, 0);
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
            feed: 7,
            account_key: 1,
            account: AccountId::new("980634004", "99 9"),
            dialog_id: Some("dia".into()),
            segment_id: "seg/1".into(),
            ended: Time::parse("2024-07-22T11:24:47Z"),
            artifact,
            version: 1,
            stored: Time(1_800_000_000_123),
            metadata: "{\"segmentId\":\"seg/1\",\n \"n\":1.50,\"z\":null}".into(),
            body: body.to_vec(),
        }
    }

    #[test]
    fn a_transcripts_event_is_to_the_letter() {
        let line = String::from_utf8(event(Artifact::Transcript, b"{\"b\":1e3,\r\n\"a\":[]}").cloud_event()).unwrap();
        assert_eq!(
            line,
            "{\"specversion\":\"1.0\",\"id\":\"ID\",\"source\":\"/accounts/980634004/sub-accounts/99%209\",\
             \"subject\":\"seg/1\",\"type\":\"com.ringcx.transcript\",\"time\":\"2027-01-15T08:00:00.123Z\",\
             \"datacontenttype\":\"application/json\",\"data\":{\"rc_account_id\":\"980634004\",\"sub_account_id\":\"99 9\",\
             \"dialog_id\":\"dia\",\"segment_id\":\"seg/1\",\"segment_end\":\"2024-07-22T11:24:47.000Z\",\
             \"metadata\":{\"segmentId\":\"seg/1\",  \"n\":1.50,\"z\":null},\"transcript\":{\"outcome\":\"stored\",\
             \"fetched_at\":\"2027-01-15T08:00:00.123Z\",\"body\":{\"b\":1e3,  \"a\":[]}}}}"
                .replace("ID", &event(Artifact::Transcript, b"").id().to_string())
        );
    }

    #[test]
    fn a_summarys_event_holds_its_text_and_a_body_that_is_no_json_is_kept_as_a_string() {
        let read = |event: Event| serde_json::from_slice::<Value>(&event.cloud_event()).unwrap();
        let summary = read(event(Artifact::AgentSummary, b"\"all \\u00e4 good\""));
        assert_eq!(summary["type"], "com.ringcx.agent_summary");
        assert_eq!(summary["data"]["agent_summary"]["text"], "all ä good");
        assert!(summary["data"].get("transcript").is_none());
        let broken = read(event(Artifact::Transcript, b"{oops"));
        assert_eq!(broken["data"]["transcript"]["body"], "{oops");
    }

    #[test]
    fn ids_are_stable_and_one_of_a_kind() {
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
