//! What happened to a segment: when it was first seen, how its metadata changed, what was fetched, what failed.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::Time;
use crate::db::{Db, DbError, SegmentRow};
use crate::model::Artifact;
use crate::reading::json_line;

/// A segment's history; times in RFC 3339.
#[derive(Debug, Clone, Serialize)]
pub(super) struct History {
    pub(super) first_seen: String,
    pub(super) metadata_changes: Vec<Change>,
    pub(super) versions: Vec<Version>,
    pub(super) attempts: Vec<Attempt>,
}

/// Metadata as it was before a change.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Change {
    pub(super) seen: String,
    pub(super) what: String,
    pub(super) before: Option<Box<RawValue>>,
}

/// Something that was fetched.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Version {
    pub(super) artifact: Artifact,
    pub(super) version: i64,
    pub(super) fetched_at: String,
    pub(super) size: i64,
    pub(super) sha256: String,
}

/// A try that failed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Attempt {
    pub(super) artifact: Artifact,
    #[serde(rename = "try")]
    pub(super) nth: i64,
    pub(super) at: String,
    pub(super) status: Option<i64>,
    pub(super) reason: String,
}

impl History {
    /// Reads it.
    pub(super) async fn read(db: &Db, segment: &SegmentRow) -> Result<History, DbError> {
        let changes = db.changes(segment.key).await?;
        let versions = db.versions(segment.key).await?;
        let attempts = db.attempts(segment.key).await?;
        Ok(History {
            first_seen: segment.first_seen.rfc3339(),
            metadata_changes: changes
                .into_iter()
                .map(|row| Change {
                    seen: row.seen.rfc3339(),
                    what: row.what,
                    before: Some(json_line(row.metadata.as_bytes())),
                })
                .collect(),
            versions: versions
                .into_iter()
                .map(|row| Version {
                    artifact: row.artifact,
                    version: row.version,
                    fetched_at: row.fetched.rfc3339(),
                    size: row.size,
                    sha256: row.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
                })
                .collect(),
            attempts: attempts
                .into_iter()
                .map(|row| Attempt {
                    artifact: row.artifact,
                    nth: row.nth,
                    at: row.at.rfc3339(),
                    status: row.status,
                    reason: row.reason,
                })
                .collect(),
        })
    }

    /// As sentences in order of time.
    pub(super) fn sentences(&self) -> Vec<(String, String)> {
        let mut told = vec![(self.first_seen.clone(), "first seen".to_owned())];
        for change in &self.metadata_changes {
            told.push((change.seen.clone(), format!("metadata changed: {}", change.what)));
        }
        for version in &self.versions {
            let hash = version.sha256.get(..12).unwrap_or(&version.sha256);
            told.push((
                version.fetched_at.clone(),
                format!(
                    "{} fetched, version {}, {} bytes, sha256 {hash}",
                    version.artifact, version.version, version.size
                ),
            ));
        }
        for attempt in &self.attempts {
            let status = attempt.status.map_or(String::new(), |status| format!(" ({status})"));
            told.push((
                attempt.at.clone(),
                format!("{} try {}{status}: {}", attempt.artifact, attempt.nth, attempt.reason),
            ));
        }
        // All are written alike, so their order as text is their order in time.
        told.sort_by(|a, b| Time::parse(&a.0).cmp(&Time::parse(&b.0)));
        told
    }
}
