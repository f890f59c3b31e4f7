//! An artifact as exports and events show it: the API's JSON as it came, a summary as its text.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::Time;
use crate::model::Artifact;
use crate::reading::json_line;
use crate::ringcx::summary_text;

/// An artifact in a line of an export, or in an event.
#[derive(Debug, Serialize)]
pub struct Part {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Part {
    /// One of which there is nothing but how it stands.
    pub fn bare(outcome: &'static str, fetched: Option<Time>) -> Part {
        Part { outcome, fetched_at: fetched.map(Time::rfc3339), body: None, text: None }
    }

    /// One that is stored: a transcript's body as it came, or a summary's text.
    pub fn stored(artifact: Artifact, fetched: Option<Time>, body: &[u8]) -> Part {
        let bare = Part::bare("stored", fetched);
        match artifact {
            Artifact::Transcript => Part { body: Some(json_line(body)), ..bare },
            Artifact::AgentSummary | Artifact::AutoSummary => Part { text: Some(text_of(body)), ..bare },
        }
    }
}

/// A summary's text, whatever its bytes.
pub fn text_of(body: &[u8]) -> String {
    summary_text(body)
}
