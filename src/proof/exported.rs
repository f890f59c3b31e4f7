//! Manifests as they leave the archive: JSON, one a line, with all that is needed to check them elsewhere. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Manifest, hex, unhex};
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
            previous: hex(&manifest.previous),
            hash: hex(&manifest.hash),
        })
    }

    /// The line for where an account stands: its chain's beginning, newest number and head, and its newest manifest.
    pub fn head(account: &AccountId, (from, feed, head): (i64, i64, &[u8]), now: Time, manifest: &[u8]) -> Line {
        Line::Head(HeadLine {
            rc_account_id: account.rc.to_string(),
            sub_account_id: account.sub.to_string(),
            from,
            feed,
            head: hex(head),
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

    /// Where the chain begins, and which head it says to be the one after which number.
    pub fn claims(&self) -> (i64, i64, &str) {
        match self {
            Line::Manifest(line) => (line.from, line.feed, &line.head),
            Line::Head(line) => (line.from, line.feed, &line.head),
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
                whole(&head.head).and(whole(&head.manifest)).ok_or_else(|| foreign("a hash"))?;
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
            hash: whole(&self.hash)?,
        })
    }
}

/// A day as people write it.
pub fn day_name(day: i64) -> String {
    Time(day.saturating_mul(DAY)).rfc3339().chars().take(10).collect()
}
