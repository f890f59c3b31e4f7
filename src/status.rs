//! Gathers the [`Snapshot`] of accounts, sinks, backfills and replicas, as `status --json`, the
//! dashboard and `/api/status` show it.
//!
//! Reads `db` in a fixed number of statements, however many accounts there are. Values that only a
//! running daemon knows, such as requests in flight, come from its heartbeat as [`ReplicaStats`].

mod assemble;
mod backfill_status;
mod sink_details;
mod sink_status;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::config::Settings;
use crate::db::{Db, DbError, ReplicaRow};
use crate::deliver::SinkPause;
use crate::health::{BrokenAnswerStats, Finding, MetadataStall, SinkStatus, Snapshot};
use crate::lenient_json;
use crate::model::Lane;

pub use backfill_status::planning_rules;
pub(crate) use sink_details::{ReplayView, SinkDetails, SinkFailureView, gather_sink_details};

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
    pub(crate) sinks: BTreeMap<String, SinkPause>,
    /// The findings that the daemon reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) findings: Vec<Finding>,
    /// How many times faster the daemon's clock runs than the machine's, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) speed: Option<u32>,
}

/// The values of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AccountStats {
    /// Claimed items that are not complete.
    pub(crate) running: u64,
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

/// Gathers a snapshot with its findings. `own` holds a daemon's own values, which are newer than its last heartbeat.
///
/// # Errors
/// If the database cannot be read.
pub async fn gather(
    db: &Db,
    settings: &Settings,
    instance: &str,
    own: Option<ReplicaStats>,
    now: Time,
) -> Result<Snapshot, DbError> {
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
    Ok(assemble::build_snapshot(rows, settings, instance, now))
}
