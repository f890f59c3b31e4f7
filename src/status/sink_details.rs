//! Sinks with the reasons of their failures, their replays, and the numbers of each account, as
//! `deliver status` and the console show them. Reads `db`.

use std::time::Duration;

use serde::Serialize;

use super::gather_sinks;
use crate::clock::Time;
use crate::config::Settings;
use crate::db::{Db, DbError, ReplayRow, SinkAccountProgress, SinkFailure};
use crate::health::SinkStatus;

/// How long a finished replay is shown.
const FINISHED_REPLAY_SHOWN_FOR: Duration = Duration::from_secs(86_400);

/// A sink with its details.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SinkDetails {
    #[serde(flatten)]
    pub(crate) status: SinkStatus,
    /// The most frequent reasons first.
    pub(crate) failures: Vec<SinkFailureView>,
    pub(crate) replays: Vec<ReplayView>,
    pub(crate) accounts: Vec<SinkAccountView>,
}

/// Failed deliveries with the same reason.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SinkFailureView {
    /// `failed`, or `waiting` for an automatic retry.
    pub(crate) state: &'static str,
    pub(crate) status: Option<i64>,
    pub(crate) reason: String,
    pub(crate) events: u64,
    /// The segment of one of them.
    pub(crate) segment_id: Option<String>,
}

/// A replay of one account.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReplayView {
    pub(crate) sub_account_id: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) sent: u64,
    pub(crate) percent: u64,
    pub(crate) finished: Option<String>,
}

/// The progress of a sink in one account.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SinkAccountView {
    pub(crate) sub_account_id: String,
    pub(crate) pending: u64,
    pub(crate) waiting: u64,
    pub(crate) failed: u64,
    pub(crate) delivered: u64,
    pub(crate) last_delivered: Option<String>,
}

/// The sinks of [`gather_sinks`] with their details.
///
/// # Errors
/// If the database cannot be read.
pub(crate) async fn gather_sink_details(db: &Db, settings: &Settings, now: Time) -> Result<Vec<SinkDetails>, DbError> {
    let (all, views) = (gather_sinks(db, settings, now).await?, db.sink_overviews().await?);
    let mut sinks = Vec::with_capacity(all.len());
    for status in all {
        let Some(view) = views.iter().find(|view| view.row.name == status.name) else {
            sinks.push(SinkDetails { status, failures: Vec::new(), replays: Vec::new(), accounts: Vec::new() });
            continue;
        };
        let replays = db.replays(view.row.key, now - FINISHED_REPLAY_SHOWN_FOR).await?;
        sinks.push(SinkDetails {
            status,
            failures: view.failures.iter().map(SinkFailureView::of).collect(),
            replays: replays.iter().map(ReplayView::of).collect(),
            accounts: view.accounts.iter().map(SinkAccountView::of).collect(),
        });
    }
    Ok(sinks)
}

impl SinkFailureView {
    fn of(row: &SinkFailure) -> SinkFailureView {
        SinkFailureView {
            state: if row.failed { "failed" } else { "waiting" },
            status: row.status,
            reason: row.reason.clone(),
            events: row.events,
            segment_id: row.example.clone(),
        }
    }
}

impl ReplayView {
    fn of(row: &ReplayRow) -> ReplayView {
        // The share of the feed that it has processed.
        let percent = match row.finished {
            Some(_) => 100,
            None => u64::try_from(row.feed.saturating_mul(100) / row.until.max(1)).unwrap_or(0).min(99),
        };
        ReplayView {
            sub_account_id: row.account.sub.to_string(),
            from: row.stored.from.rfc3339_secs(),
            to: row.stored.to.rfc3339_secs(),
            sent: row.sent,
            percent,
            finished: row.finished.map(Time::rfc3339_secs),
        }
    }
}

impl SinkAccountView {
    fn of(row: &SinkAccountProgress) -> SinkAccountView {
        SinkAccountView {
            sub_account_id: row.sub.clone(),
            pending: row.behind + row.waiting,
            waiting: row.waiting,
            failed: row.failed,
            delivered: row.delivered,
            last_delivered: row.last_delivered.map(Time::rfc3339_secs),
        }
    }
}
