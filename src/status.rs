//! How every account stands, as `status --json`, the dashboard and `/api/status` show it.
//!
//! Reads `db` in a fixed number of statements, however many accounts there are. What only a running daemon knows, such as
//! requests under way, it leaves in its heartbeat as [`ReplicaStats`].

mod assemble;
mod backfills;
mod findings;
mod sinks;
pub(crate) mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::config::Settings;
use crate::db::{Db, DbError, ReplicaRow};
use crate::lenient_json;
use crate::model::Lane;

pub use backfills::{BackfillStatus, rules};
pub use findings::{FindingStatus, late_after};

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
    /// What it reports of itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingStatus>,
    /// How many times as fast as the machine's its clock runs, where that is not once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<u32>,
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
    /// Metadata that should have been read and was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Stalled>,
    /// Artifacts of which no answer can be used, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub broken: BTreeMap<String, Broken>,
}

/// Answers for an artifact in a row that cannot be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Broken {
    /// Since when, RFC 3339.
    pub since: String,
    /// How many.
    pub answers: u64,
    /// Why.
    pub reason: String,
}

/// Metadata that should have been read and was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stalled {
    /// Since when, RFC 3339.
    pub since: String,
    /// Whether the account makes no progress.
    pub lasting: bool,
    /// Why.
    pub reason: String,
    /// What to do.
    pub hint: String,
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
    /// Past ranges that were asked for and are not read yet, in the order in which they were asked for.
    pub backfills: Vec<BackfillStatus>,
    /// What is wrong, the worst first.
    pub findings: Vec<FindingStatus>,
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
    /// Metadata records that could not be understood and that no later read has settled.
    pub set_aside: u64,
    /// What findings are made of besides.
    #[serde(skip)]
    pub facts: AccountFacts,
}

/// What findings are made of besides what is shown of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountFacts {
    /// The endpoints of the artifacts that it asks for.
    pub asks: BTreeSet<&'static str>,
    /// Metadata that should have been read and was not.
    pub stalled: Option<Stalled>,
    /// Artifacts of which no answer can be used, by name.
    pub broken: BTreeMap<String, Broken>,
    /// Whether the settings do not name it, or exclude it: what is stored of it stays, and nothing more is read.
    pub is_left_out: bool,
    /// When a 429 came, and until when nothing is asked for because of it.
    pub refused: Option<(Time, Time)>,
    /// When the oldest item that has failed was queued.
    pub failed_since: Option<Time>,
    /// When the first record set aside was seen.
    pub aside_since: Option<Time>,
}

impl AccountStatus {
    /// For people.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.sub_account_id)
    }

    /// Everything that ended before it has been discovered.
    pub fn watermark(&self) -> Option<Time> {
        self.watermark.as_deref().and_then(Time::parse)
    }

    /// How far it is behind at `now`; `None` before the first read.
    pub fn lag(&self, now: Time) -> Option<Duration> {
        self.watermark().map(|watermark| now.since(watermark))
    }

    /// How much time was never read although later time was.
    pub fn gap(&self) -> Duration {
        Duration::from_secs(self.gaps.iter().map(|gap| gap.seconds).sum())
    }

    fn is_paused(&self, endpoint: &str) -> bool {
        self.paused.iter().any(|pause| pause.endpoint == endpoint)
    }

    /// Whether its metadata should have been read, and has not been for so long that this is no moment's affair.
    fn stalls(&self) -> bool {
        self.facts.stalled.as_ref().is_some_and(|stalled| stalled.lasting)
    }

    /// Whether nothing of it gets on: nothing new is found, or nothing of what was found is fetched.
    fn stands_still(&self) -> bool {
        let asks = &self.facts.asks;
        self.missing_since.is_some()
            || self.stalls()
            || self.is_paused("metadata")
            || (!asks.is_empty()
                && asks.iter().all(|endpoint| self.is_paused(endpoint) || self.facts.broken.contains_key(*endpoint)))
    }
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

impl Pause {
    /// Whether it will not pass by itself: the API refused.
    pub fn is_refusal(&self) -> bool {
        matches!(self.status, Some(300..=399 | 401 | 403))
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match (self.status, self.endpoint.as_str()) {
            (Some(401), _) => "check that the login's user is active and still belongs to this account",
            (Some(300..=399), _) => {
                "the API has moved: the reason names the host; set the URL of [api] that named the old one"
            }
            (Some(403), "metadata") => {
                "give the login's user the permission for this data in the RingCX admin portal, and ask RingCentral's customer \
                 success manager for the account's entitlement \"WEM Access\"; `ringcx-extractor check` names what is missing"
            }
            (Some(403), "transcript") => {
                "give the login's user the permission for this data in the RingCX admin portal; `ringcx-extractor check` names \
                 what is missing"
            }
            (Some(403), _) => {
                "the login's user lacks the permission, or summaries are not enabled: `ringcx-extractor check` says which; take \
                 them out of `artifacts` if they are not wanted"
            }
            _ => {
                "nothing to do if it passes: it is tried again by itself; `ringcx-extractor check` looks at it now, \
                 `ringcx-extractor resume` tries again now"
            }
        }
    }
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
    let rests = assemble::live_stats(&replicas, db.here(now).await?, None).sinks;
    Ok(sinks::all(settings, &views, &accounts, &rests))
}

/// Whether a replica works or stands by, as its last heartbeat tells at `here`, by the clock of the heartbeats.
pub fn is_alive(row: &ReplicaRow, here: Time) -> bool {
    let speed = || lenient_json::from_str::<ReplicaStats>(&row.stats).unwrap_or_default().speed.unwrap_or(1);
    row.released.is_none()
        && row.heartbeat.since(here) <= Duration::from_secs(3600)
        && (here.since(row.heartbeat) <= SILENCE || here.since(row.heartbeat) <= SILENCE * speed())
}

/// Gathers it. `own` is what a daemon knows of itself, which is newer than its last heartbeat.
///
/// # Errors
/// Where the database cannot be read.
pub async fn gather(
    db: &Db,
    settings: &Settings,
    instance: &str,
    own: Option<ReplicaStats>,
    now: Time,
) -> Result<Status, DbError> {
    let read = assemble::Read {
        own,
        refusals: db.refusals(now).await?,
        asides: db.open_asides().await?,
        backfills: db.backfills(None, false).await?,
        backfilled: db.backfill_coverage().await?,
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
