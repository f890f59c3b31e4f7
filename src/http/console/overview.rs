//! The overview: what is wrong and what to do first, then the figures and the accounts.

mod incidents;
mod page;

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use serde::Serialize;

use super::frame::View;
use super::view::{Format, respond};
use super::viewer::Viewer;
use crate::clock::Time;
use crate::health::HealthLevel;
use crate::health::{AccountStatus, SinkStatus, rfc3339};
use crate::http::health_summary::HealthSummary;
use crate::http::state::{HttpState, VisibleReport};
use incidents::Incident;

/// What the overview shows.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    #[serde(with = "rfc3339")]
    now: Time,
    level: HealthLevel,
    headline: String,
    /// One for each cause, the one with the most data at risk first.
    incidents: Vec<Incident>,
    figures: Option<Figures>,
    /// Worst first.
    accounts: Vec<AccountLine>,
}

/// Sums over the visible accounts.
#[derive(Debug, Serialize)]
struct Figures {
    accounts: u64,
    /// Items that were announced, and those of them that are stored or known to be empty.
    announced: u64,
    held: u64,
    unfinished: u64,
    failed: u64,
    unavailable: u64,
    /// The end of the newest conversation that was certainly discovered, of the account furthest ahead.
    #[serde(with = "rfc3339")]
    newest: Option<Time>,
    /// The same of the account furthest behind.
    #[serde(with = "rfc3339")]
    furthest_behind: Option<Time>,
    sinks: Option<Delivered>,
}

/// Sums over the sinks; only for those who see all accounts.
#[derive(Debug, Serialize)]
struct Delivered {
    sinks: u64,
    delivered: u64,
    pending: u64,
    refused: u64,
}

/// An account in one line.
#[derive(Debug, Serialize)]
struct AccountLine {
    sub_account_id: String,
    name: Option<String>,
    level: HealthLevel,
    lag_seconds: Option<u64>,
    /// Null where the role hides channels.
    unfinished: Option<u64>,
    given_up: Option<u64>,
    gap_seconds: u64,
    paused: Vec<String>,
}

pub(super) async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    format: Format,
) -> Response {
    let report = state.viewer_report(&viewer).await;
    let overview = Overview::new(&report, &viewer);
    respond(&state, &viewer, (View::Overview, format), Ok(overview), |overview| page::render(overview, &viewer)).await
}

impl Overview {
    pub(super) fn new(report: &VisibleReport, viewer: &Viewer) -> Overview {
        let summary = HealthSummary::new(report.findings.clone(), report.status.as_ref(), report.now);
        let status = report.status.as_ref();
        let mut accounts: Vec<&AccountStatus> = status.into_iter().flat_map(|status| &status.accounts).collect();
        accounts.sort_by_cached_key(|account| {
            let level = summary.account_level(&account.sub_account_id);
            (std::cmp::Reverse((level, account.lag(report.now))), account.sub_account_id.clone())
        });
        Overview {
            now: report.now,
            level: summary.level,
            headline: summary.headline.clone(),
            incidents: incidents::incidents(report),
            figures: status.map(|status| Figures::new(&status.accounts, &status.sinks)),
            accounts: accounts
                .into_iter()
                .map(|account| AccountLine::new(account, &summary, viewer, report.now))
                .collect(),
        }
    }
}

impl Figures {
    fn new(accounts: &[AccountStatus], sinks: &[SinkStatus]) -> Figures {
        let sum = |value: fn(&AccountStatus) -> u64| accounts.iter().map(value).sum::<u64>();
        let (held, unfinished) = (sum(|row| row.work.done), sum(|row| row.work.unfinished()));
        let (failed, unavailable) = (sum(|row| row.work.failed), sum(|row| row.work.unavailable));
        let delivered = |value: fn(&SinkStatus) -> u64| sinks.iter().map(value).sum::<u64>();
        Figures {
            accounts: accounts.len() as u64,
            announced: held + unfinished + failed + unavailable + sum(|row| row.work.discarded),
            held,
            unfinished,
            failed,
            unavailable,
            newest: accounts.iter().filter_map(|row| row.watermark).max(),
            furthest_behind: accounts.iter().filter_map(|row| row.watermark).min(),
            sinks: (!sinks.is_empty()).then(|| Delivered {
                sinks: sinks.len() as u64,
                delivered: delivered(|sink| sink.delivered),
                pending: delivered(|sink| sink.pending),
                refused: delivered(|sink| sink.failed),
            }),
        }
    }
}

impl AccountLine {
    fn new(account: &AccountStatus, summary: &HealthSummary, viewer: &Viewer, now: Time) -> AccountLine {
        let counts = viewer.sees_all_channels(&account.sub_account_id).then_some(account.work);
        AccountLine {
            sub_account_id: account.sub_account_id.clone(),
            name: account.name.clone(),
            level: summary.account_level(&account.sub_account_id),
            lag_seconds: account.lag(now).map(|lag| lag.as_secs()),
            unfinished: counts.map(|work| work.unfinished()),
            given_up: counts.map(|work| work.failed + work.unavailable),
            gap_seconds: account.gap().as_secs(),
            paused: account.paused.iter().map(|pause| pause.endpoint.name().replace('_', " ")).collect(),
        }
    }
}
