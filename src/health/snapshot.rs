//! The facts that health is judged by, as `status --json` shows them. `status` gathers them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::clock::Time;
use crate::model::{Endpoint, Lane};

/// Times as RFC 3339 in whole seconds. A text that is no time is read as the default.
pub(crate) mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::clock::Time;

    pub(crate) fn serialize<S: Serializer>(
        time: &(impl Copy + Into<Option<Time>>),
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (*time).into().map(Time::rfc3339_secs).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<Time> + Default>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.as_deref().and_then(Time::parse).map(T::from).unwrap_or_default())
    }
}

/// The state of all accounts, sinks, backfills and replicas at one moment, with the findings: the
/// content of `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    pub(crate) version: String,
    #[serde(with = "rfc3339")]
    pub(crate) now: Time,
    /// The replica that the settings name.
    pub(crate) instance: String,
    /// By sub-account id.
    pub accounts: Vec<AccountStatus>,
    /// Sinks in the order of the settings.
    pub(crate) sinks: Vec<SinkStatus>,
    /// Requested past ranges that are not completely read, in the order of the requests.
    pub(crate) backfills: Vec<BackfillStatus>,
    /// Findings, worst first.
    pub findings: Vec<Finding>,
    /// Replicas by name, including those that were shut down properly.
    pub replicas: Vec<ReplicaStatus>,
    /// How far the full-text index is behind the archive.
    pub(crate) search_index: IndexStatus,
    /// How far a watermark may be behind normally.
    #[serde(skip)]
    pub(crate) lag_threshold: Duration,
    /// Whether all accounts share one request limit.
    #[serde(skip)]
    pub(crate) is_limit_shared: bool,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AccountStatus {
    pub(crate) rc_account_id: String,
    pub(crate) sub_account_id: String,
    /// The display name.
    pub name: Option<String>,
    /// The replica that owns the account.
    pub owner: Option<String>,
    /// Every segment that ended earlier was discovered.
    #[serde(with = "rfc3339")]
    pub watermark: Option<Time>,
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
    /// Until when no requests are sent because of a 429 or a fresh start.
    pub(crate) holds_until: Option<String>,
    /// Where the first live window begins.
    #[serde(with = "rfc3339")]
    pub(crate) live_start: Option<Time>,
    /// Unread ranges before the newest range that was read.
    pub gaps: Vec<CoverageGap>,
    /// Endpoints whose circuit breaker is open.
    pub(crate) paused: Vec<EndpointPause>,
    /// Since when the login no longer sees the account.
    #[serde(with = "rfc3339")]
    pub(crate) missing_since: Option<Time>,
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
    pub(crate) requested_endpoints: BTreeSet<Endpoint>,
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

    /// How far the account is behind at `now`; `None` before the first read.
    pub(crate) fn lag(&self, now: Time) -> Option<Duration> {
        self.watermark.map(|watermark| now.since(watermark))
    }

    /// Total time that was never read although later time was.
    pub(crate) fn gap(&self) -> Duration {
        Duration::from_secs(self.gaps.iter().map(|gap| gap.seconds).sum())
    }

    pub(super) fn is_paused(&self, endpoint: Endpoint) -> bool {
        self.paused.iter().any(|pause| pause.endpoint == endpoint)
    }

    /// Whether metadata was not read for so long that a person should know.
    pub(super) fn has_lasting_stall(&self) -> bool {
        self.facts.stalled.as_ref().is_some_and(|stalled| stalled.lasting)
    }

    /// Whether the account makes no progress: nothing new is discovered, or nothing that was
    /// discovered is fetched.
    pub(super) fn is_blocked(&self) -> bool {
        let requested_endpoints = &self.facts.requested_endpoints;
        self.missing_since.is_some()
            || self.has_lasting_stall()
            || self.is_paused(Endpoint::Metadata)
            || (!requested_endpoints.is_empty()
                && requested_endpoints
                    .iter()
                    .all(|endpoint| self.is_paused(*endpoint) || self.facts.broken.contains_key(endpoint.name())))
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

/// A range that was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoverageGap {
    #[serde(with = "rfc3339")]
    pub(crate) from: Time,
    #[serde(with = "rfc3339")]
    pub(crate) to: Time,
    pub(crate) seconds: u64,
}

/// An open circuit breaker of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointPause {
    pub(crate) endpoint: Endpoint,
    #[serde(with = "rfc3339")]
    pub(crate) since: Time,
    #[serde(with = "rfc3339")]
    pub(crate) until: Time,
    pub(crate) reason: String,
    /// The status of the answer that caused it.
    pub(crate) status: Option<i64>,
    /// Whether no token could be obtained, so that the endpoint itself was not requested.
    #[serde(skip)]
    pub(crate) is_login_failure: bool,
}

impl EndpointPause {
    /// Whether the API refused the request, so that the pause does not end by itself.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.status, Some(300..=399 | 401 | 403))
    }

    /// The remedy.
    pub(crate) fn hint(&self) -> &'static str {
        match (self.status, self.endpoint) {
            (Some(401), _) => "check that the login's user is active and still belongs to this account",
            (Some(300..=399), _) => "the API has moved: replace the old host in [api] by the one that the reason names",
            (Some(403), Endpoint::Metadata) => {
                "give the login's user the permission for this data in the RingCX admin portal, and ask RingCentral's customer \
                 success manager for the account's entitlement \"WEM Access\"; `ringcx-extractor check` names what is missing"
            }
            (Some(403), Endpoint::Transcript) => {
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

/// A requested past range that is not completely read yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillStatus {
    pub(crate) id: i64,
    pub(crate) sub_account_id: String,
    #[serde(with = "rfc3339")]
    pub(crate) from: Time,
    #[serde(with = "rfc3339")]
    pub(crate) to: Time,
    #[serde(with = "rfc3339")]
    pub(crate) requested: Time,
    pub(crate) seconds: u64,
    /// How many seconds of it are read.
    pub(crate) read_seconds: u64,
    /// How many seconds the rest takes under the limits, together with everything else that is
    /// queued for the account.
    pub(crate) left_seconds: u64,
}

/// The status of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SinkStatus {
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
    /// When an event was last delivered.
    #[serde(with = "rfc3339")]
    pub(crate) last_delivered: Option<Time>,
    /// Since when the sink is paused or stopped.
    #[serde(with = "rfc3339")]
    pub(crate) since: Option<Time>,
    /// When a paused sink is tried again.
    #[serde(with = "rfc3339")]
    pub(crate) resting_until: Option<Time>,
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
    pub(crate) name: String,
    /// The version of the program that it runs, or ran.
    pub(crate) version: String,
    /// Whether its last heartbeat is at most half a minute old.
    pub alive: bool,
    #[serde(with = "rfc3339")]
    pub(crate) started: Time,
    #[serde(with = "rfc3339")]
    pub(crate) heartbeat: Time,
}

/// Consecutive unusable answers for an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BrokenAnswerStats {
    #[serde(with = "rfc3339")]
    pub(crate) since: Time,
    pub(crate) answers: u64,
    pub(crate) reason: String,
}

/// Metadata that should have been read and was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MetadataStall {
    #[serde(with = "rfc3339")]
    pub(crate) since: Time,
    /// Whether the account makes no progress.
    pub(crate) lasting: bool,
    pub(crate) reason: String,
    pub(crate) hint: String,
}
