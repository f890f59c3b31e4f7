//! An event: one stored artifact version on its way out, in CloudEvents 1.0 JSON.
//!
//! Pure. The id is derived from what the event is about, so it is the same at every redelivery.

use crate::clock::Time;
use crate::model::{AccountId, Artifact};

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

impl Event {
    /// Placeholder until the delivery's own is merged.
    pub fn id(&self) -> uuid::Uuid {
        let name = format!("{}/{}/{}/{}", self.account, self.segment_id, self.artifact, self.version);
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes())
    }

    /// Placeholder until the delivery's own is merged.
    pub fn cloud_event(&self) -> Vec<u8> {
        let data = serde_json::json!({"segment_id": self.segment_id});
        serde_json::json!({"specversion": "1.0", "id": self.id().to_string(), "data": data}).to_string().into_bytes()
    }
}
