//! Manifests as they leave the archive: JSON, one a line, with all that is needed to check them elsewhere. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Beside, Manifest, hex, unhex};
use crate::clock::Time;
use crate::model::AccountId;

/// A line of an exported file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// A day's manifest.
    Manifest(ManifestLine),
    /// Where an account stood when the file was written.
    Head(HeadLine),
}

/// The chains of which a line can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainName {
    /// An account's feed: the texts.
    Feed,
    /// An account's record chain: metadata and tombstones.
    Records,
    /// The archive's journal of erasures and holds.
    Journal,
    /// An account's reads of metadata, and its coverage.
    Reads,
}

/// A day's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLine {
    /// The main account, for people: no hash covers it.
    pub rc_account_id: String,
    /// The sub-account.
    pub sub_account_id: String,
    /// The UTC day, `2026-11-25`.
    pub day: String,
    /// The feed number after which the chain begins.
    pub from: i64,
    /// The newest feed number.
    pub feed: i64,
    /// The chain's head after it.
    pub head: String,
    /// Segments announced until then.
    pub segments: i64,
    /// Digest of what had been announced until then.
    pub ledger: String,
    /// When it was written.
    pub sealed_at: String,
    /// The newest record of what is stored beside the texts; missing where the writer's version did not chain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,
    /// The record chain's head after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_head: Option<String>,
    /// Entries of the archive's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<i64>,
    /// The journal's head after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_head: Option<String>,
    /// The hash of the manifest before it.
    pub previous: String,
    /// Its own.
    pub hash: String,
}

/// Where an account stood when the file was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadLine {
    /// The main account, for people.
    pub rc_account_id: String,
    /// The sub-account.
    pub sub_account_id: String,
    /// The feed number after which the chain begins.
    pub from: i64,
    /// The newest feed number.
    pub feed: i64,
    /// The chain's head after it.
    pub head: String,
    /// The newest record of what is stored beside the texts; missing where the writer's version did not chain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,
    /// The record chain's head after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_head: Option<String>,
    /// Entries of the archive's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<i64>,
    /// The journal's head after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_head: Option<String>,
    /// The newest read of metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<i64>,
    /// The head after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads_head: Option<String>,
    /// When the file was written.
    pub at: String,
    /// The hash of the newest manifest.
    pub manifest: String,
}

/// Why a line cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is something else.
    #[error("is no manifest of this program: {0}")]
    Foreign(String),
    /// Its hash is not that of what it says.
    #[error("was altered: its hash is not that of what it says")]
    Altered,
}

const DAY: i64 = 86_400_000;

impl Line {
    /// A manifest's line.
    pub fn manifest(account: &AccountId, manifest: &Manifest) -> Line {
        Line::Manifest(ManifestLine {
            rc_account_id: account.rc.to_string(),
            sub_account_id: manifest.sub.clone(),
            day: day_name(manifest.day),
            from: manifest.from,
            feed: manifest.feed,
            head: hex(&manifest.head),
            segments: manifest.segments,
            ledger: hex(&manifest.ledger),
            sealed_at: Time(manifest.sealed).rfc3339(),
            records: manifest.beside.as_ref().map(|beside| beside.records),
            record_head: manifest.beside.as_ref().map(|beside| hex(&beside.record_head)),
            journal: manifest.beside.as_ref().map(|beside| beside.journal),
            journal_head: manifest.beside.as_ref().map(|beside| hex(&beside.journal_head)),
            previous: hex(&manifest.previous),
            hash: hex(&manifest.hash),
        })
    }

    /// The line for where an account stands: its chain's beginning, newest number and head, what is stored beside, the
    /// newest read and the head after it, and its newest manifest.
    pub fn head(
        account: &AccountId,
        (from, feed, head): (i64, i64, &[u8]),
        beside: &Beside,
        (reads, reads_head): (i64, &[u8]),
        now: Time,
        manifest: &[u8],
    ) -> Line {
        Line::Head(HeadLine {
            rc_account_id: account.rc.to_string(),
            sub_account_id: account.sub.to_string(),
            from,
            feed,
            head: hex(head),
            records: Some(beside.records),
            record_head: Some(hex(&beside.record_head)),
            journal: Some(beside.journal),
            journal_head: Some(hex(&beside.journal_head)),
            reads: Some(reads),
            reads_head: Some(hex(reads_head)),
            at: now.rfc3339(),
            manifest: hex(manifest),
        })
    }

    /// The sub-account that it is about.
    pub fn sub(&self) -> &str {
        match self {
            Line::Manifest(line) => &line.sub_account_id,
            Line::Head(line) => &line.sub_account_id,
        }
    }

    /// After which number the feed's chain begins.
    pub fn from(&self) -> i64 {
        match self {
            Line::Manifest(line) => line.from,
            Line::Head(line) => line.from,
        }
    }

    /// Which head it says to be the one after which number of a chain; `None` where it says nothing of that chain.
    pub fn claim(&self, chain: ChainName) -> Option<(i64, &str)> {
        fn both(number: Option<i64>, head: Option<&String>) -> Option<(i64, &str)> {
            Some((number?, head?))
        }
        match (self, chain) {
            (Line::Manifest(line), ChainName::Feed) => Some((line.feed, &line.head)),
            (Line::Manifest(line), ChainName::Records) => both(line.records, line.record_head.as_ref()),
            (Line::Manifest(line), ChainName::Journal) => both(line.journal, line.journal_head.as_ref()),
            (Line::Manifest(_), ChainName::Reads) => None,
            (Line::Head(line), ChainName::Feed) => Some((line.feed, &line.head)),
            (Line::Head(line), ChainName::Records) => both(line.records, line.record_head.as_ref()),
            (Line::Head(line), ChainName::Journal) => both(line.journal, line.journal_head.as_ref()),
            (Line::Head(line), ChainName::Reads) => both(line.reads, line.reads_head.as_ref()),
        }
    }

    /// Reads a line and checks what can be checked of it alone.
    ///
    /// # Errors
    /// Where it is something else, or was altered.
    pub fn parse(text: &str) -> Result<Line, LineError> {
        let line: Line = serde_json::from_str(text).map_err(|error| LineError::Foreign(error.to_string()))?;
        let foreign = |what: &str| LineError::Foreign(format!("{what} cannot be read"));
        let whole = |text: &str| unhex(text).filter(|bytes| bytes.len() == 32);
        match &line {
            Line::Head(head) => {
                let others = [&head.record_head, &head.journal_head, &head.reads_head];
                let mut all = [&head.head, &head.manifest].into_iter().chain(others.into_iter().flatten());
                if !all.all(|hash| whole(hash).is_some()) {
                    return Err(foreign("a hash"));
                }
            }
            Line::Manifest(line) => {
                let manifest = line.read(whole).ok_or_else(|| foreign("a hash or a moment"))?;
                if manifest.hash != manifest.digest() {
                    return Err(LineError::Altered);
                }
            }
        }
        Ok(line)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Manifest(line) => write!(f, "the exported manifest of {}", line.day),
            Line::Head(line) => write!(f, "the head exported at {}", line.at),
        }
    }
}

impl ManifestLine {
    fn read(&self, whole: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Manifest> {
        Some(Manifest {
            sub: self.sub_account_id.clone(),
            day: Time::parse(&format!("{}T00:00:00Z", self.day))?.0.div_euclid(DAY),
            from: self.from,
            feed: self.feed,
            head: whole(&self.head)?,
            segments: self.segments,
            ledger: whole(&self.ledger)?,
            sealed: Time::parse(&self.sealed_at)?.0,
            previous: whole(&self.previous)?,
            beside: match (self.records, &self.record_head, self.journal, &self.journal_head) {
                (Some(records), Some(record_head), Some(journal), Some(journal_head)) => Some(Beside {
                    records,
                    record_head: whole(record_head)?,
                    journal,
                    journal_head: whole(journal_head)?,
                }),
                _ => None,
            },
            hash: whole(&self.hash)?,
        })
    }
}

/// A day as people write it.
pub fn day_name(day: i64) -> String {
    Time(day.saturating_mul(DAY)).rfc3339().chars().take(10).collect()
}
