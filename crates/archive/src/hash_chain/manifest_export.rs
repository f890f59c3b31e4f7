//! The export format of manifests: JSON lines that can be verified without the archive. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Manifest, RecordHeads, hex, unhex};
use crate::clock::Time;
use crate::model::AccountId;

/// A line of an exported file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExportedLine {
    /// A day's manifest.
    Manifest(ManifestLine),
    /// An account's heads at the time of the export.
    Head(HeadLine),
}

/// The chains whose heads a line can state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainName {
    /// An account's feed.
    Feed,
    /// An account's record chain: metadata and tombstones.
    Records,
    /// The archive's journal of erasures and holds.
    Journal,
    /// An account's log of window reads, with its coverage.
    Reads,
    /// The archive's access log.
    Access,
}

/// A day's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLine {
    /// The main account, for display. No hash covers it.
    pub(crate) rc_account_id: String,
    /// The sub-account.
    pub(crate) sub_account_id: String,
    /// The UTC day, `2026-11-25`.
    pub day: String,
    /// The sequence number after which the chain begins.
    pub(crate) from: i64,
    /// The newest sequence number of the feed.
    pub(crate) feed: i64,
    /// The chain's head after it.
    pub(crate) head: String,
    /// Segments announced until then.
    pub(crate) segments: i64,
    /// Hash of the daily digests at that time.
    pub(crate) ledger: String,
    /// When it was written.
    pub(crate) sealed_at: String,
    /// The newest number of the record chain; missing in exports of versions without a record
    /// chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) records: Option<i64>,
    /// The record chain's head after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) record_head: Option<String>,
    /// Number of entries of the archive's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal: Option<i64>,
    /// The journal's head after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal_head: Option<String>,
    /// The hash of the manifest before it.
    pub(crate) previous: String,
    /// Its own hash.
    pub hash: String,
}

/// An account's heads at the time of the export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadLine {
    /// The main account, for display.
    pub(crate) rc_account_id: String,
    /// The sub-account.
    pub(crate) sub_account_id: String,
    /// The sequence number after which the chain begins.
    pub(crate) from: i64,
    /// The newest sequence number of the feed.
    pub(crate) feed: i64,
    /// The chain's head after it.
    pub(crate) head: String,
    /// The newest number of the record chain; missing in exports of versions without a record
    /// chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,
    /// The record chain's head after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_head: Option<String>,
    /// Number of entries of the archive's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal: Option<i64>,
    /// The journal's head after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal_head: Option<String>,
    /// The newest window read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<i64>,
    /// The read log's head after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads_head: Option<String>,
    /// The newest entry of the archive's access log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access: Option<i64>,
    /// The access log's head after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_head: Option<String>,
    /// When it was exported.
    pub(crate) at: String,
    /// The hash of the newest manifest.
    pub(crate) manifest: String,
}

/// Why a line was rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It cannot be parsed as an exported line.
    #[error("is not a manifest of this program: {0}")]
    NotAManifest(String),
    /// Its hash does not match its content.
    #[error("was altered: its hash does not match its content")]
    Altered,
}

const DAY_MS: i64 = 86_400_000;

impl ExportedLine {
    /// A manifest's line.
    pub fn manifest(account: &AccountId, manifest: &Manifest) -> ExportedLine {
        ExportedLine::Manifest(ManifestLine {
            rc_account_id: account.rc.to_string(),
            sub_account_id: manifest.sub.clone(),
            day: format_day(manifest.day),
            from: manifest.from,
            feed: manifest.feed,
            head: hex(&manifest.head),
            segments: manifest.segments,
            ledger: hex(&manifest.ledger),
            sealed_at: Time(manifest.sealed).rfc3339(),
            records: manifest.record_heads.as_ref().map(|record_heads| record_heads.records),
            record_head: manifest.record_heads.as_ref().map(|record_heads| hex(&record_heads.record_head)),
            journal: manifest.record_heads.as_ref().map(|record_heads| record_heads.journal),
            journal_head: manifest.record_heads.as_ref().map(|record_heads| hex(&record_heads.journal_head)),
            previous: hex(&manifest.previous),
            hash: hex(&manifest.hash),
        })
    }

    /// A line with an account's current heads: the feed's chain start, newest number and head; the
    /// record chain and the journal; the newest window read and the newest entry of the access log,
    /// each with the head after it; and the hash of the newest manifest.
    pub fn head(
        account: &AccountId,
        (from, feed, head): (i64, i64, &[u8]),
        record_heads: &RecordHeads,
        [(reads, reads_head), (access, access_head)]: [(i64, &[u8]); 2],
        now: Time,
        manifest: &[u8],
    ) -> ExportedLine {
        ExportedLine::Head(HeadLine {
            rc_account_id: account.rc.to_string(),
            sub_account_id: account.sub.to_string(),
            from,
            feed,
            head: hex(head),
            records: Some(record_heads.records),
            record_head: Some(hex(&record_heads.record_head)),
            journal: Some(record_heads.journal),
            journal_head: Some(hex(&record_heads.journal_head)),
            reads: Some(reads),
            reads_head: Some(hex(reads_head)),
            access: Some(access),
            access_head: Some(hex(access_head)),
            at: now.rfc3339(),
            manifest: hex(manifest),
        })
    }

    /// The sub-account that it concerns.
    pub fn sub(&self) -> &str {
        match self {
            ExportedLine::Manifest(line) => &line.sub_account_id,
            ExportedLine::Head(line) => &line.sub_account_id,
        }
    }

    /// The sequence number after which the feed's chain begins.
    pub fn from(&self) -> i64 {
        match self {
            ExportedLine::Manifest(line) => line.from,
            ExportedLine::Head(line) => line.from,
        }
    }

    /// The number and head that it states for a chain; `None` if it states none.
    pub fn claimed_head(&self, chain: ChainName) -> Option<(i64, &str)> {
        fn pair(number: Option<i64>, head: Option<&String>) -> Option<(i64, &str)> {
            Some((number?, head?))
        }
        match (self, chain) {
            (ExportedLine::Manifest(line), ChainName::Feed) => Some((line.feed, &line.head)),
            (ExportedLine::Manifest(line), ChainName::Records) => pair(line.records, line.record_head.as_ref()),
            (ExportedLine::Manifest(line), ChainName::Journal) => pair(line.journal, line.journal_head.as_ref()),
            (ExportedLine::Manifest(_), ChainName::Reads | ChainName::Access) => None,
            (ExportedLine::Head(line), ChainName::Feed) => Some((line.feed, &line.head)),
            (ExportedLine::Head(line), ChainName::Records) => pair(line.records, line.record_head.as_ref()),
            (ExportedLine::Head(line), ChainName::Journal) => pair(line.journal, line.journal_head.as_ref()),
            (ExportedLine::Head(line), ChainName::Reads) => pair(line.reads, line.reads_head.as_ref()),
            (ExportedLine::Head(line), ChainName::Access) => pair(line.access, line.access_head.as_ref()),
        }
    }

    /// Parses a line, and verifies a manifest's own hash.
    ///
    /// # Errors
    /// If it cannot be parsed, or was altered.
    pub fn parse(text: &str) -> Result<ExportedLine, LineError> {
        let line: ExportedLine =
            serde_json::from_str(text).map_err(|error| LineError::NotAManifest(error.to_string()))?;
        let not_a_manifest = |what: &str| LineError::NotAManifest(format!("{what} cannot be parsed"));
        let parse_hash = |text: &str| unhex(text).filter(|bytes| bytes.len() == 32);
        match &line {
            ExportedLine::Head(head) => {
                let others = [&head.record_head, &head.journal_head, &head.reads_head, &head.access_head];
                let mut all = [&head.head, &head.manifest].into_iter().chain(others.into_iter().flatten());
                if !all.all(|hash| parse_hash(hash).is_some()) {
                    return Err(not_a_manifest("a hash"));
                }
            }
            ExportedLine::Manifest(line) => {
                let manifest = line.to_manifest(parse_hash).ok_or_else(|| not_a_manifest("a hash or a time"))?;
                if manifest.hash != manifest.digest() {
                    return Err(LineError::Altered);
                }
            }
        }
        Ok(line)
    }
}

impl fmt::Display for ExportedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExportedLine::Manifest(line) => write!(f, "the exported manifest of {}", line.day),
            ExportedLine::Head(line) => write!(f, "the head exported at {}", line.at),
        }
    }
}

impl ManifestLine {
    fn to_manifest(&self, parse_hash: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Manifest> {
        Some(Manifest {
            sub: self.sub_account_id.clone(),
            day: Time::parse(&format!("{}T00:00:00Z", self.day))?.0.div_euclid(DAY_MS),
            from: self.from,
            feed: self.feed,
            head: parse_hash(&self.head)?,
            segments: self.segments,
            ledger: parse_hash(&self.ledger)?,
            sealed: Time::parse(&self.sealed_at)?.0,
            previous: parse_hash(&self.previous)?,
            record_heads: match (self.records, &self.record_head, self.journal, &self.journal_head) {
                (Some(records), Some(record_head), Some(journal), Some(journal_head)) => Some(RecordHeads {
                    records,
                    record_head: parse_hash(record_head)?,
                    journal,
                    journal_head: parse_hash(journal_head)?,
                }),
                _ => None,
            },
            hash: parse_hash(&self.hash)?,
        })
    }
}

/// Formats a day as `YYYY-MM-DD`.
pub fn format_day(day: i64) -> String {
    Time(day.saturating_mul(DAY_MS)).rfc3339().chars().take(10).collect()
}
