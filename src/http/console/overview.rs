//! The overview: what is wrong and what to do first, then the figures and the accounts.

mod page;

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::charts::{self, Chart};
use super::frame::View;
use super::heat_map;
use super::history::{History, HistoryRange};
use super::incidents::{self, Incident};
use super::view::{Format, respond};
use super::viewer::Viewer;
use crate::clock::Time;
use crate::health::HealthLevel;
use crate::health::{AccountStatus, SinkStatus, rfc3339};
use crate::http::health_summary::HealthSummary;
use crate::http::state::{HttpState, VisibleReport};

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
    range: HistoryRange,
    charts: Vec<Chart>,
    /// Where the heat map begins.
    #[serde(with = "rfc3339")]
    first_cell: Time,
    /// Worst first: those that match the filter, up to a limit.
    accounts: Vec<AccountLine>,
    /// How many match.
    matching_accounts: usize,
    /// How many accounts have each level, best first.
    levels: [u64; HealthLevel::ALL.len()],
    /// Changes of level, the newest first.
    events: Vec<LevelEvent>,
    #[serde(skip)]
    query: OverviewQuery,
}

/// What a page shows of the accounts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct OverviewQuery {
    range: Option<String>,
    /// Accounts whose name or id contains this.
    q: String,
    /// Accounts with this level.
    level: String,
    /// Not empty for all accounts.
    all: String,
}

/// An account whose level has changed.
#[derive(Debug, Serialize)]
struct LevelEvent {
    #[serde(with = "rfc3339")]
    at: Time,
    sub_account_id: String,
    name: Option<String>,
    before: HealthLevel,
    after: HealthLevel,
}

/// Accounts that the page shows at first.
const FIRST_ACCOUNTS: usize = 25;
const MAX_EVENTS: usize = 12;

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
    /// The worst level in each cell of the heat map; null where nothing was recorded.
    cells: Vec<Option<HealthLevel>>,
}

pub(super) async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    format: Format,
    query: Result<Query<OverviewQuery>, QueryRejection>,
) -> Response {
    // An invalid query counts as none.
    let Query(mut query) = query.unwrap_or_default();
    if format == Format::Json {
        query.all = "1".to_owned();
    }
    let report = state.viewer_report(&viewer).await;
    let history = state.history(HistoryRange::parse(query.range.as_deref()), &viewer).await;
    let overview = Overview::new(&report, history.as_deref(), &viewer, query);
    respond(&state, &viewer, (View::Overview, format), Ok(overview), |overview| page::render(overview, &viewer)).await
}

impl Overview {
    pub(super) fn new(
        report: &VisibleReport,
        history: Option<&History>,
        viewer: &Viewer,
        query: OverviewQuery,
    ) -> Overview {
        let summary = HealthSummary::new(report.findings.clone(), report.status.as_ref(), report.now);
        let status = report.status.as_ref();
        let all = || status.into_iter().flat_map(|status| &status.accounts);
        let level = |account: &AccountStatus| summary.account_level(&account.sub_account_id);
        let mut levels = [0; HealthLevel::ALL.len()];
        all().for_each(|account| levels[level(account) as usize] += 1);
        let wanted = query.q.trim().to_lowercase();
        let is_wanted = |account: &&AccountStatus| {
            let text_matches = [account.title(), &account.sub_account_id]
                .into_iter()
                .any(|text| text.to_lowercase().contains(&wanted));
            text_matches && (query.level.is_empty() || query.level == level(account).css_class())
        };
        let mut accounts: Vec<&AccountStatus> = all().filter(is_wanted).collect();
        accounts.sort_by_cached_key(|account| {
            (std::cmp::Reverse((level(account), account.lag(report.now))), account.sub_account_id.clone())
        });
        let matching_accounts = accounts.len();
        accounts.truncate(if query.all.is_empty() { FIRST_ACCOUNTS } else { usize::MAX });
        let range = HistoryRange::parse(query.range.as_deref());
        Overview {
            now: report.now,
            level: summary.level,
            headline: summary.headline.clone(),
            incidents: incidents::incidents(report),
            figures: status.map(|status| Figures::new(&status.accounts, &status.sinks)),
            range,
            charts: history.map(charts::charts).into_iter().flatten().collect(),
            first_cell: history.map_or_else(|| range.first_cell(report.now), |history| history.first_cell),
            accounts: accounts
                .into_iter()
                .map(|account| AccountLine::new(account, &summary, viewer, history, report.now))
                .collect(),
            matching_accounts,
            levels,
            events: history.map(|history| events(history, all())).unwrap_or_default(),
            query,
        }
    }
}

/// The latest changes of the accounts' levels.
fn events<'a>(history: &History, accounts: impl Iterator<Item = &'a AccountStatus>) -> Vec<LevelEvent> {
    let mut events: Vec<LevelEvent> = accounts
        .flat_map(|account| {
            let cells = history.cells.get(&account.sub_account_id).map(Vec::as_slice).unwrap_or_default();
            heat_map::changes(cells).into_iter().map(|change| LevelEvent {
                at: history.first_cell + history.range.cell_width() * u32::try_from(change.place).unwrap_or_default(),
                sub_account_id: account.sub_account_id.clone(),
                name: account.name.clone(),
                before: change.before,
                after: change.after,
            })
        })
        .collect();
    events.sort_by_key(|event| std::cmp::Reverse((event.at, event.after)));
    events.truncate(MAX_EVENTS);
    events
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
    fn new(
        account: &AccountStatus,
        summary: &HealthSummary,
        viewer: &Viewer,
        history: Option<&History>,
        now: Time,
    ) -> AccountLine {
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
            cells: history.and_then(|history| history.cells.get(&account.sub_account_id).cloned()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
