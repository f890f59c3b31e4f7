//! An artifact as exports and events contain it: a transcript as the API's JSON, a summary as text.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::clock::Time;
use crate::model::Artifact;
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

/// A summary's text, decoded from any bytes.
pub fn decode_summary(body: &[u8]) -> String {
    summary_text(body)
}
