//! How every account stands, as `status --json`, the dashboard and `/api/status` show it.
//!
//! Reads `db` in a fixed number of statements, however many accounts there are. What only a running daemon knows, such as
//! requests under way, it leaves in its heartbeat as [`ReplicaStats`].

mod assemble;
mod sinks;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::config::Settings;
use crate::db::{Db, DbError};
use crate::model::Lane;

/// A replica that was silent for longer counts as gone.
const SILENCE: Duration = Duration::from_secs(30);

/// The figures that only a running daemon knows, as its heartbeat carries them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStats {
    /// By sub-account id.
    #[serde(default)]
    pub accounts: BTreeMap<String, AccountStats>,
    /// Sinks that take nothing at present, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sinks: BTreeMap<String, SinkRest>,
}

/// Why and until when a sink is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkRest {
    /// Since when it takes nothing, RFC 3339.
    pub since: String,
    /// When it is tried again, RFC 3339.
    pub until: String,
    /// Why.
    pub reason: String,
}

/// Of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountStats {
    /// Items claimed and not yet settled.
    pub running: u64,
    /// Requests in the last 60 seconds.
    pub requests_last_minute: u64,
    /// Requests that were refused with 429 since the daemon started.
    pub refused: u64,
    /// Until when nothing is asked, in RFC 3339.
    pub paused_until: Option<String>,
    /// Requests in the last 60 seconds by lane, those of other commands left out.
    pub by_lane: BTreeMap<Lane, u64>,
}

/// Everything that `status` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Of this program.
    pub version: String,
    /// When it was gathered, RFC 3339.
    pub now: String,
    /// The replica that the settings name.
    pub instance: String,
    /// By sub-account id.
    pub accounts: Vec<AccountStatus>,
    /// In the order of the settings.
    pub sinks: Vec<SinkStatus>,
    /// By name; those that let go in good order are in it too.
    pub replicas: Vec<ReplicaStatus>,
    /// How far the full-text index is behind the archive.
    pub search_index: IndexStatus,
}

/// How far the full-text index is behind the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IndexStatus {
    /// Changes that it has not followed.
    pub lag_changes: u64,
    /// How long the first of them has waited; 0 where there is none.
    pub lag_seconds: u64,
}

impl IndexStatus {
    /// A lag of so many seconds is not the daemon being busy for a moment.
    pub const LONG: u64 = 60;
}

/// How an account stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountStatus {
    /// RingCentral's number of the main account.
    pub rc_account_id: String,
    /// The sub-account's id.
    pub sub_account_id: String,
    /// For people.
    pub name: Option<String>,
    /// The replica that works on it.
    pub owner: Option<String>,
    /// Everything that ended before it has been discovered, RFC 3339.
    pub watermark: Option<String>,
    /// How far the watermark is behind now.
    pub lag_seconds: Option<u64>,
    /// Items by state.
    pub work: Work,
    /// How long ago the oldest item that has no answer was queued.
    pub oldest_unfinished_seconds: Option<u64>,
    /// Of the limit below.
    pub requests_last_minute: u64,
    /// The time that the requests for unfinished items need at least.
    pub drain_seconds: u64,
    /// The limit; one for all accounts where its scope is the login.
    pub requests_per_minute: u32,
    /// Of the last minute's requests, what each lane took.
    pub requests_by_lane: BTreeMap<Lane, u64>,
    /// Requests that were refused with 429 since the daemon started.
    pub refused: u64,
    /// Until when nothing is asked because of a 429 or a fresh start, RFC 3339.
    pub holds_until: Option<String>,
    /// Where the first live window begins, RFC 3339.
    pub live_start: Option<String>,
    /// Stretches before the newest one read that have not been read.
    pub gaps: Vec<Gap>,
    /// What is not asked for at present.
    pub paused: Vec<Pause>,
    /// Since when the login no longer sees the account, RFC 3339.
    pub missing_since: Option<String>,
}

/// Items by state. An item is one artifact of one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Due now.
    pub ready: u64,
    /// Backing off.
    pub waiting: u64,
    /// Claimed.
    pub running: u64,
    /// Stored or known to be empty.
    pub done: u64,
    /// Gave up at the horizon.
    pub unavailable: u64,
    /// Will not work without a person.
    pub failed: u64,
    /// A person gave it up.
    pub discarded: u64,
}

impl Work {
    /// Items that have never been answered and still may be.
    pub fn unfinished(self) -> u64 {
        self.ready + self.waiting + self.running
    }
}

/// A stretch that has not been read, RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// First moment in it.
    pub from: String,
    /// First moment after it.
    pub to: String,
    /// Its length.
    pub seconds: u64,
}

/// Something that is not asked for at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// What.
    pub endpoint: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// When it is tried again, RFC 3339.
    pub until: String,
    /// Why.
    pub reason: String,
    /// The answer's status that caused it.
    pub status: Option<i64>,
}

/// How a sink stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SinkStatus {
    /// From the settings.
    pub name: String,
    /// `jsonl`, `webhook` or `object_store`; null for one that is no longer in the settings.
    #[serde(rename = "type")]
    pub kind: Option<&'static str>,
    /// Whether it takes what it is given.
    pub state: SinkState,
    /// Events still to be delivered; some of them may turn out not to be wanted.
    pub pending: u64,
    /// Among them, those that failed and wait for another try.
    pub waiting: u64,
    /// Events that were refused for good.
    pub failed: u64,
    /// Events that were delivered, redeliveries included.
    pub delivered: u64,
    /// RFC 3339.
    pub last_delivered: Option<String>,
    /// Since when it rests or is stopped, RFC 3339.
    pub since: Option<String>,
    /// When it is tried again where it rests, RFC 3339.
    pub resting_until: Option<String>,
    /// Why it rests or is stopped.
    pub reason: Option<String>,
}

/// Whether a sink takes what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// It does, as far as is known.
    Active,
    /// No daemon has seen it yet.
    New,
    /// Not at present; it is tried again by itself.
    Resting,
    /// It said that it wants nothing more; a person has to act.
    Stopped,
    /// It is no longer in the settings; where it stood is kept.
    NotInTheSettings,
}

impl SinkState {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            SinkState::Active => "active",
            SinkState::New => "new",
            SinkState::Resting => "resting",
            SinkState::Stopped => "stopped",
            SinkState::NotInTheSettings => "not in the settings",
        }
    }
}

/// How a replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: String,
    /// Of the program that it runs, or ran.
    pub version: String,
    /// Whether it was heard of within half a minute.
    pub alive: bool,
    /// RFC 3339.
    pub started: String,
    /// When it was last heard of, RFC 3339.
    pub heartbeat: String,
}

/// How all sinks stand: those of the settings in their order, then those that are no longer in them.
///
/// # Errors
/// Where the database cannot be read.
pub async fn sinks(db: &Db, settings: &Settings, now: Time) -> Result<Vec<SinkStatus>, DbError> {
    let (views, accounts, replicas) = (db.sink_views().await?, db.accounts().await?, db.replicas().await?);
    let rests = sinks::rests(&replicas, db.here(now).await?);
    Ok(sinks::all(settings, &views, &accounts, &rests))
}

/// Gathers it.
///
/// # Errors
/// Where the database cannot be read.
pub async fn gather(db: &Db, settings: &Settings, instance: &str, now: Time) -> Result<Status, DbError> {
    let read = assemble::Read {
        accounts: db.accounts().await?,
        coverage: db.live_coverage().await?,
        counts: db.counts(now).await?,
        pauses: db.pauses().await?,
        replicas: db.replicas().await?,
        sinks: db.sink_views().await?,
        index: db.index_lag().await?,
        here: db.here(now).await?,
    };
    Ok(assemble::status(read, settings, instance, now))
}
