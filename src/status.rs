//! The status of accounts, sinks, backfills and replicas, as `status --json`, the dashboard and
//! `/api/status` show it.
//!
//! Reads `db` in a fixed number of statements, however many accounts there are. Values that only a
//! running daemon knows, such as requests in flight, come from its heartbeat as [`ReplicaStats`].

mod assemble;
mod backfill_status;
mod finding_rules;
pub(crate) mod humanize;
mod sink_status;

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

pub use backfill_status::{BackfillStatus, planning_rules};
pub use finding_rules::{FindingStatus, lag_threshold};

/// A replica without a heartbeat for longer counts as gone.
const MAX_HEARTBEAT_AGE: Duration = Duration::from_secs(30);

/// The values that only a running daemon knows, as its heartbeat carries them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStats {
    /// By sub-account id.
    #[serde(default)]
    pub(crate) accounts: BTreeMap<String, AccountStats>,
    /// Paused sinks, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sinks: BTreeMap<String, SinkPauseStats>,
    /// The findings that the daemon reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) findings: Vec<FindingStatus>,
    /// How many times faster the daemon's clock runs than the machine's, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) speed: Option<u32>,
}

/// The pause of a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SinkPauseStats {
    /// When the sink stopped accepting events, RFC 3339.
    pub(crate) since: String,
    /// When it is tried again, RFC 3339.
    pub(crate) until: String,
    /// The reason.
    pub(crate) reason: String,
}

/// The values of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AccountStats {
    /// Claimed items that are not complete.
    pub(crate) running: u64,
    /// Requests in the last 60 seconds.
    pub(crate) requests_last_minute: u64,
    /// Requests that were refused with 429 since the daemon started.
    pub(crate) refused: u64,
    /// Until when no requests are sent, RFC 3339.
    pub(crate) paused_until: Option<String>,
    /// Requests in the last 60 seconds by lane, without those of other commands.
    pub(crate) by_lane: BTreeMap<Lane, u64>,
    /// Metadata that should have been read and was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stalled: Option<MetadataStall>,
    /// Artifacts whose answers are all unusable, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) broken: BTreeMap<String, BrokenAnswerStats>,
}

/// Consecutive unusable answers for an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BrokenAnswerStats {
    /// When it began, RFC 3339.
    pub(crate) since: String,
    /// The number of answers.
    pub(crate) answers: u64,
    /// The reason.
    pub(crate) reason: String,
}

/// Metadata that should have been read and was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MetadataStall {
    /// When it began, RFC 3339.
    pub(crate) since: String,
    /// Whether the account makes no progress.
    pub(crate) lasting: bool,
    /// The reason.
    pub(crate) reason: String,
    /// The remedy.
    pub(crate) hint: String,
}

/// The content of `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The version of this program.
    pub(crate) version: String,
    /// When it was gathered, RFC 3339.
    pub(crate) now: String,
    /// The replica that the settings name.
    pub(crate) instance: String,
    /// By sub-account id.
    pub accounts: Vec<AccountStatus>,
    /// Sinks in the order of the settings.
    pub(crate) sinks: Vec<SinkStatus>,
    /// Requested past ranges that are not completely read, in the order of the requests.
    pub(crate) backfills: Vec<BackfillStatus>,
    /// Findings, worst first.
    pub findings: Vec<FindingStatus>,
    /// Replicas by name, including those that were shut down properly.
    pub replicas: Vec<ReplicaStatus>,
    /// How far the full-text index is behind the archive.
    pub(crate) search_index: IndexStatus,
}

/// How far the full-text index is behind the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct IndexStatus {
    /// Changes that the index does not contain yet.
    pub(crate) lag_changes: u64,
    /// How long the oldest of them has waited; 0 if there is none.
    pub(crate) lag_seconds: u64,
}

/// The status of an account.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountStatus {
    /// The id of the main RingCentral account.
    pub(crate) rc_account_id: String,
    /// The sub-account's id.
    pub(crate) sub_account_id: String,
    /// The display name.
    pub name: Option<String>,
    /// The replica that owns the account.
    pub owner: Option<String>,
    /// Every segment that ended earlier was discovered, RFC 3339.
    pub(crate) watermark: Option<String>,
    /// How far the watermark is behind the current time.
    pub lag_seconds: Option<u64>,
    /// Items by state.
    pub work: WorkCounts,
    /// The age of the oldest item that has no answer.
    pub oldest_unfinished_seconds: Option<u64>,
    /// Requests in the last minute that count against the limit.
    pub requests_last_minute: u64,
    /// The minimum time to send the requests for all unfinished items.
    pub drain_seconds: u64,
    /// The limit; shared by all accounts if its scope is the login.
    pub(crate) requests_per_minute: u32,
    /// The requests of the last minute, by lane.
    pub(crate) requests_by_lane: BTreeMap<Lane, u64>,
    /// Requests that were refused with 429 since the daemon started.
    pub(crate) refused: u64,
    /// Until when no requests are sent because of a 429 or a fresh start, RFC 3339.
    pub(crate) holds_until: Option<String>,
    /// Where the first live window begins, RFC 3339.
    pub(crate) live_start: Option<String>,
    /// Unread ranges before the newest range that was read.
    pub gaps: Vec<CoverageGap>,
    /// Endpoints whose circuit breaker is open.
    pub(crate) paused: Vec<EndpointPause>,
    /// Since when the login no longer sees the account, RFC 3339.
    pub(crate) missing_since: Option<String>,
    /// Quarantined metadata records that no later read has resolved.
    pub(crate) set_aside: u64,
    /// Further inputs of findings.
    #[serde(skip)]
    pub(crate) facts: AccountFacts,
}

/// Inputs of findings that are not part of the JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AccountFacts {
    /// The endpoints of the artifacts that the account requests.
    pub(crate) requested_endpoints: BTreeSet<&'static str>,
    /// Metadata that should have been read and was not.
    pub(crate) stalled: Option<MetadataStall>,
    /// Artifacts whose answers are all unusable, by name.
    pub(crate) broken: BTreeMap<String, BrokenAnswerStats>,
    /// Whether the settings do not name the account, or exclude it: its stored data stays, and
    /// nothing more is read.
    pub(crate) is_left_out: bool,
    /// When a 429 was received, and until when requests wait because of it.
    pub(crate) refused: Option<(Time, Time)>,
    /// When the oldest item that has failed was queued.
    pub(crate) failed_since: Option<Time>,
    /// When the oldest quarantined record was first seen.
    pub(crate) aside_since: Option<Time>,
}

impl AccountStatus {
    /// The display name.
    pub(crate) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.sub_account_id)
    }

    /// Every segment that ended earlier was discovered.
    pub fn watermark(&self) -> Option<Time> {
        self.watermark.as_deref().and_then(Time::parse)
    }

    /// How far the account is behind at `now`; `None` before the first read.
    pub(crate) fn lag(&self, now: Time) -> Option<Duration> {
        self.watermark().map(|watermark| now.since(watermark))
    }

    /// Total time that was never read although later time was.
    pub(crate) fn gap(&self) -> Duration {
        Duration::from_secs(self.gaps.iter().map(|gap| gap.seconds).sum())
    }

    fn is_paused(&self, endpoint: &str) -> bool {
        self.paused.iter().any(|pause| pause.endpoint == endpoint)
    }

    /// Whether metadata was not read for so long that a person should know.
    fn has_lasting_stall(&self) -> bool {
        self.facts.stalled.as_ref().is_some_and(|stalled| stalled.lasting)
    }

    /// Whether the account makes no progress: nothing new is discovered, or nothing that was
    /// discovered is fetched.
    fn is_blocked(&self) -> bool {
        let requested_endpoints = &self.facts.requested_endpoints;
        self.missing_since.is_some()
            || self.has_lasting_stall()
            || self.is_paused("metadata")
            || (!requested_endpoints.is_empty()
                && requested_endpoints
                    .iter()
                    .all(|endpoint| self.is_paused(endpoint) || self.facts.broken.contains_key(*endpoint)))
    }
}

/// Items by state. An item is one artifact of one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WorkCounts {
    /// Due now.
    pub ready: u64,
    /// Backing off.
    pub(crate) waiting: u64,
    /// Claimed.
    pub running: u64,
    /// Stored or known to be empty.
    pub done: u64,
    /// Given up at the horizon.
    pub(crate) unavailable: u64,
    /// Failed until a person intervenes.
    pub(crate) failed: u64,
    /// Given up by a person.
    pub(crate) discarded: u64,
}

impl WorkCounts {
    /// Items without an answer that may still get one.
    pub(crate) fn unfinished(self) -> u64 {
        self.ready + self.waiting + self.running
    }
}

/// A range that was not read, RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoverageGap {
    /// First moment in it.
    pub(crate) from: String,
    /// First moment after it.
    pub(crate) to: String,
    /// Its length in seconds.
    pub(crate) seconds: u64,
}

/// An open circuit breaker of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointPause {
    /// The endpoint.
    pub(crate) endpoint: String,
    /// When it began, RFC 3339.
    pub(crate) since: String,
    /// When it is tried again, RFC 3339.
    pub(crate) until: String,
    /// The reason.
    pub(crate) reason: String,
    /// The status of the answer that caused it.
    pub(crate) status: Option<i64>,
}

impl EndpointPause {
    /// Whether the API refused the request, so that the pause does not end by itself.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, Some(300..=399 | 401 | 403))
    }

    /// The remedy.
    pub(crate) fn hint(&self) -> &'static str {
        match (self.status, self.endpoint.as_str()) {
            (Some(401), _) => "check that the login's user is active and still belongs to this account",
            (Some(300..=399), _) => "the API has moved: replace the old host in [api] by the one that the reason names",
            (Some(403), "metadata") => {
                "give the login's user the permission for this data in the RingCX admin portal, and ask RingCentral's customer \
                 success manager for the account's entitlement \"WEM Access\"; `ringcx-extractor check` names what is missing"
            }
            (Some(403), "transcript") => {
                "give the login's user the permission for this data in the RingCX admin portal; `ringcx-extractor check` names \
                 what is missing"
            }
            (Some(403), _) => {
                "the login's user lacks the permission, or summaries are not enabled: `ringcx-extractor check` shows which; \
                 remove them from `artifacts` if they are not wanted"
            }
            _ => {
                "nothing to do if it passes: it is retried automatically; `ringcx-extractor check` tests it now, \
                 `ringcx-extractor resume` retries it now"
            }
        }
    }
}

/// The status of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SinkStatus {
    /// The name in the settings.
    pub(crate) name: String,
    /// `jsonl`, `webhook` or `object_store`; null for a sink that is no longer in the settings.
    #[serde(rename = "type")]
    pub(crate) kind: Option<&'static str>,
    /// Whether the sink accepts events.
    pub(crate) state: SinkState,
    /// Events still to be delivered. Some may turn out to be filtered.
    pub(crate) pending: u64,
    /// The pending events that failed and are retried.
    pub(crate) waiting: u64,
    /// Events that were permanently refused.
    pub(crate) failed: u64,
    /// When the first of them was.
    #[serde(skip)]
    pub(crate) failed_since: Option<Time>,
    /// Events that were delivered, redeliveries included.
    pub(crate) delivered: u64,
    /// RFC 3339.
    pub(crate) last_delivered: Option<String>,
    /// Since when the sink is paused or stopped, RFC 3339.
    pub(crate) since: Option<String>,
    /// When a paused sink is tried again, RFC 3339.
    pub(crate) resting_until: Option<String>,
    /// Why the sink is paused or stopped.
    pub(crate) reason: Option<String>,
}

/// Whether a sink accepts events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SinkState {
    /// It does, as far as is known.
    Active,
    /// No daemon has seen it yet.
    New,
    /// Delivery is paused, and retried automatically.
    Resting,
    /// The sink asked for no more events; a person has to act.
    Stopped,
    /// The sink is no longer in the settings; its cursors are kept.
    NotInTheSettings,
}

impl SinkState {
    /// The display name.
    pub(crate) const fn display_name(self) -> &'static str {
        match self {
            SinkState::Active => "active",
            SinkState::New => "new",
            SinkState::Resting => "resting",
            SinkState::Stopped => "stopped",
            SinkState::NotInTheSettings => "not in the settings",
        }
    }
}

/// The status of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub(crate) name: String,
    /// The version of the program that it runs, or ran.
    pub(crate) version: String,
    /// Whether its last heartbeat is at most half a minute old.
    pub alive: bool,
    /// RFC 3339.
    pub(crate) started: String,
    /// The last heartbeat, RFC 3339.
    pub(crate) heartbeat: String,
}

/// The status of all sinks: those of the settings in their order, then those that are no longer in
/// them.
///
/// # Errors
/// If the database cannot be read.
pub(crate) async fn gather_sinks(db: &Db, settings: &Settings, now: Time) -> Result<Vec<SinkStatus>, DbError> {
    let (views, accounts, replicas) = (db.sink_overviews().await?, db.accounts().await?, db.replicas().await?);
    let pauses = assemble::live_stats(&replicas, db.database_now(now).await?, None).sinks;
    Ok(sink_status::all_sinks(settings, &views, &accounts, &pauses))
}

/// Whether a replica is running, according to its last heartbeat; `here` is the time by the clock
/// of the heartbeats.
pub(crate) fn is_alive(row: &ReplicaRow, here: Time) -> bool {
    let speed = || lenient_json::from_str::<ReplicaStats>(&row.stats).unwrap_or_default().speed.unwrap_or(1);
    row.released.is_none()
        && row.heartbeat.since(here) <= Duration::from_secs(3600)
        && (here.since(row.heartbeat) <= MAX_HEARTBEAT_AGE || here.since(row.heartbeat) <= MAX_HEARTBEAT_AGE * speed())
}

/// Gathers the status. `own` holds a daemon's own values, which are newer than its last heartbeat.
///
/// # Errors
/// If the database cannot be read.
pub async fn gather(
    db: &Db,
    settings: &Settings,
    instance: &str,
    own: Option<ReplicaStats>,
    now: Time,
) -> Result<Status, DbError> {
    let rows = assemble::StatusRows {
        own,
        refusals: db.saved_throttles(now).await?,
        asides: db.open_quarantine_counts().await?,
        backfills: db.backfills(None, false).await?,
        backfilled: db.backfill_coverage().await?,
        accounts: db.accounts().await?,
        coverage: db.live_coverage().await?,
        counts: db.queue_counts(now).await?,
        pauses: db.pauses().await?,
        replicas: db.replicas().await?,
        sinks: db.sink_overviews().await?,
        index: db.index_lag().await?,
        here: db.database_now(now).await?,
    };
    Ok(assemble::build_status(rows, settings, instance, now))
}
