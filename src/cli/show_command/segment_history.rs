//! The history of a segment: when it was first seen, metadata changes, fetched versions and failed
//! attempts.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::Time;
use crate::db::{Db, DbError, SegmentRow};
use crate::model::Artifact;
use crate::render::to_json_line;

/// The history of a segment; times are RFC 3339.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SegmentHistory {
    pub(super) first_seen: String,
    pub(super) metadata_changes: Vec<MetadataChangeJson>,
    pub(super) versions: Vec<FetchedVersionJson>,
    pub(super) attempts: Vec<FailedAttemptJson>,
}

/// A change of the metadata, with its content before the change.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MetadataChangeJson {
    pub(super) seen: String,
    pub(super) what: String,
    pub(super) before: Option<Box<RawValue>>,
}

/// A fetched version of an artifact.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FetchedVersionJson {
    pub(super) artifact: Artifact,
    pub(super) version: i64,
    pub(super) fetched_at: String,
    pub(super) size: i64,
    pub(super) sha256: String,
}

/// A failed attempt.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FailedAttemptJson {
    pub(super) artifact: Artifact,
    #[serde(rename = "try")]
    pub(super) nth: i64,
    pub(super) at: String,
    pub(super) status: Option<i64>,
    pub(super) reason: String,
}

impl SegmentHistory {
    pub(super) async fn read(db: &Db, segment: &SegmentRow) -> Result<SegmentHistory, DbError> {
        let changes = db.metadata_changes(segment.key).await?;
        let versions = db.artifact_versions(segment.key).await?;
        let attempts = db.attempts(segment.key).await?;
        Ok(SegmentHistory {
            first_seen: segment.first_seen.rfc3339(),
            metadata_changes: changes
                .into_iter()
                .map(|row| MetadataChangeJson {
                    seen: row.seen.rfc3339(),
                    what: row.what,
                    before: Some(to_json_line(row.metadata.as_bytes())),
                })
                .collect(),
            versions: versions
                .into_iter()
                .map(|row| FetchedVersionJson {
                    artifact: row.artifact,
                    version: row.version,
                    fetched_at: row.fetched.rfc3339(),
                    size: row.size,
                    sha256: row.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
                })
                .collect(),
            attempts: attempts
                .into_iter()
                .map(|row| FailedAttemptJson {
                    artifact: row.artifact,
                    nth: row.nth,
                    at: row.at.rfc3339(),
                    status: row.status,
                    reason: row.reason,
                })
                .collect(),
        })
    }

    /// The history as text: times and descriptions, in order of time.
    pub(super) fn to_lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![(self.first_seen.clone(), "first seen".to_owned())];
        for change in &self.metadata_changes {
            lines.push((change.seen.clone(), format!("metadata changed: {}", change.what)));
        }
        for version in &self.versions {
            let hash = version.sha256.get(..12).unwrap_or(&version.sha256);
            lines.push((
                version.fetched_at.clone(),
                format!(
                    "{} fetched, version {}, {} bytes, sha256 {hash}",
                    version.artifact, version.version, version.size
                ),
            ));
        }
        for attempt in &self.attempts {
            let status = attempt.status.map_or(String::new(), |status| format!(" ({status})"));
            lines.push((
                attempt.at.clone(),
                format!("{} attempt {}{status}: {}", attempt.artifact, attempt.nth, attempt.reason),
            ));
        }
        lines.sort_by(|a, b| Time::parse(&a.0).cmp(&Time::parse(&b.0)));
        lines
    }
}
