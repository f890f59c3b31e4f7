//! An artifact as exports and events contain it: a transcript as the API's JSON, a summary as text.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::clock::Time;
use crate::model::{Artifact, RecordingReference};
use crate::render::to_json_line;
use crate::ringcx::summary_text;

/// An artifact in an export line or an event.
#[derive(Debug, Serialize, ToSchema)]
pub struct ArtifactPayload {
    /// `stored`, `not_populated`, `pending`, `unavailable`, `failed`, `discarded` or
    /// `not_requested`.
    outcome: &'static str,
    /// When it was fetched, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_at: Option<String>,
    /// The transcript as RingCX sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    body: Option<Box<RawValue>>,
    /// The summary's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl ArtifactPayload {
    /// An artifact without content: only its outcome and the time of the fetch.
    pub(crate) fn without_content(outcome: &'static str, fetched: Option<Time>) -> ArtifactPayload {
        ArtifactPayload { outcome, fetched_at: fetched.map(Time::rfc3339), body: None, text: None }
    }

    /// A stored artifact: a transcript's body as received, or a summary's text.
    pub fn from_body(artifact: Artifact, fetched: Option<Time>, body: &[u8]) -> ArtifactPayload {
        let empty = ArtifactPayload::without_content("stored", fetched);
        match artifact {
            Artifact::Transcript => ArtifactPayload { body: Some(to_json_line(body)), ..empty },
            Artifact::AgentSummary | Artifact::AutoSummary => {
                ArtifactPayload { text: Some(decode_summary(body)), ..empty }
            }
            Artifact::Recording => empty,
        }
    }
}

/// A recording in an export line or an event: what is stored, and where its audio is.
#[derive(Debug, Serialize, ToSchema)]
pub struct RecordingPayload {
    /// As of a transcript.
    outcome: &'static str,
    /// When it was fetched, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_at: Option<String>,
    /// The object in the recording store: a path below its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    /// SHA-256 of the audio, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// The size of the audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// The media type of the audio.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    /// How long it plays, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// The number of channels, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u64>,
    /// A link to the audio that works for a limited time, if the sink asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl RecordingPayload {
    /// A recording with this outcome; `body` is its reference as JSON, if one is stored.
    pub(crate) fn new(outcome: &'static str, fetched: Option<Time>, body: &[u8]) -> RecordingPayload {
        let empty = RecordingPayload {
            outcome,
            fetched_at: fetched.map(Time::rfc3339),
            object: None,
            sha256: None,
            bytes: None,
            media_type: None,
            duration_ms: None,
            channels: None,
            url: None,
        };
        let Some(known) = RecordingReference::from_json(body) else { return empty };
        RecordingPayload {
            object: Some(known.object),
            sha256: Some(known.sha256),
            bytes: Some(known.bytes),
            media_type: Some(known.media_type),
            duration_ms: known.duration_ms,
            channels: known.channels,
            url: known.url,
            ..empty
        }
    }
}

/// A summary's text, decoded from any bytes.
pub fn decode_summary(body: &[u8]) -> String {
    summary_text(body)
}
