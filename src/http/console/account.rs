//! One account: its incidents, what was read, each gap with its reason and remedy, pauses, lateness,
//! and the request budget.

mod page;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::coverage_timeline::{self, CoverageTimeline};
use super::frame::View;
use super::history::{History, HistoryRange};
use super::incidents::{Incident, incidents};
use super::view::{Format, respond};
use super::viewer::Viewer;
use crate::archive_reader::{restrict_status, without_channel_sums};
use crate::clock::Time;
use crate::coverage::estimate_backfill_duration;
use crate::health::{AccountStatus, BackfillStatus, EndpointPause, HealthLevel, add_unknown, rfc3339};
use crate::http::api::idempotency::unavailable;
use crate::http::api::problem::Problem;
use crate::http::state::{HttpState, VisibleReport};
use crate::model::{Endpoint, TimeRange, TimeRangeSet};
use crate::status::planning_rules;

/// Gaps that a page lists.
const MAX_LISTED_GAPS: usize = 50;

/// What the page of an account shows.
#[derive(Debug, Serialize)]
pub(super) struct AccountPage {
    #[serde(with = "rfc3339")]
    now: Time,
    level: HealthLevel,
    range: HistoryRange,
    /// Whether the role shows counts over all channels.
    #[serde(skip)]
    shows_counts: bool,
    #[serde(skip)]
    status: AccountStatus,
    /// The status, with null for counts that the role does not show.
    #[serde(rename = "status")]
    visible_status: Value,
    incidents: Vec<Incident>,
    timeline: CoverageTimeline,
    /// The newest first.
    gaps: Vec<Gap>,
    more_gaps: usize,
    backfills: Vec<BackfillStatus>,
    /// How late segments appeared, and how late they got a transcript; `None` without any.
    lateness: Vec<LatenessLine>,
}

/// A range that was never read although later time was.
#[derive(Debug, Serialize)]
struct Gap {
    #[serde(with = "rfc3339")]
    from: Time,
    #[serde(with = "rfc3339")]
    to: Time,
    seconds: u64,
    reason: String,
    /// About how long it takes until it is read, with the newer gaps before it; null while nothing reads.
    eta_seconds: Option<u64>,
}

/// A kind of lateness: half of the segments, and 95 in 100, were at most so late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct LatenessLine {
    kind: String,
    segments: u64,
    half_within_seconds: u64,
    most_within_seconds: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccountQuery {
    range: Option<String>,
}

pub(super) async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    Path(sub): Path<String>,
    format: Format,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Response {
    let range = HistoryRange::parse(query.unwrap_or_default().range.as_deref());
    let data = gather(&state, &viewer, format.strip(&sub), range).await;
    respond(&state, &viewer, (View::Account, format), data, |data| page::render(data, &viewer)).await
}

async fn gather(state: &HttpState, viewer: &Viewer, sub: &str, range: HistoryRange) -> Result<AccountPage, Problem> {
    let missing = || {
        Problem::new(StatusCode::NOT_FOUND, "there is no such account")
            .with_hint("the overview lists the accounts that you may see")
    };
    if !viewer.sees_account(sub) {
        return Err(missing());
    }
    let report = report_of(state.viewer_report(viewer).await, sub);
    let (db, settings) = (&state.app.db, &state.app.settings);
    let accounts = db.accounts().await.map_err(unavailable)?;
    let row = accounts.iter().find(|account| *account.id.sub == *sub).ok_or_else(missing)?;
    let coverage = db.coverage(row.key).await.map_err(unavailable)?;
    let backfills = db.backfills(Some(row.key), false).await.map_err(unavailable)?;
    let lateness = match viewer.sees_all_channels(sub) {
        true => db.lateness_of(row.key).await.map_err(unavailable)?,
        false => Vec::new(),
    };
    let history = state.history(HistoryRange::Quarter, viewer).await;
    let status = report.status.as_ref().and_then(|status| status.accounts.iter().find(|one| one.sub_account_id == sub));
    let status = status.cloned().ok_or_else(missing)?;
    let visible = coverage_timeline::visible_range(report.now, range.duration());
    let requested = backfills.iter().map(|backfill| (backfill.id, backfill.range));
    let rules = planning_rules(settings, row.retention_days);
    let rechecks = &settings.discovery.rechecks;
    let duration_of =
        |ranges: Vec<TimeRange>| estimate_backfill_duration(&TimeRangeSet::from_unsorted(ranges), &rules, rechecks);
    let shows_counts = viewer.sees_all_channels(sub);
    let status_json = serde_json::to_value(&status).unwrap_or_default();
    let gaps = gaps(&status, history.as_deref(), duration_of);
    let more_gaps = status.gaps.len() - gaps.len();
    Ok(AccountPage {
        now: report.now,
        level: HealthLevel::worst(&report.findings),
        range,
        shows_counts,
        visible_status: if shows_counts { status_json } else { without_channel_sums(status_json) },
        incidents: incidents(&report),
        timeline: coverage_timeline::timeline(row.live_start, &coverage, requested, visible),
        gaps,
        more_gaps,
        backfills: own_backfills(&report, sub),
        lateness: lateness_lines(&lateness),
        status,
    })
}

/// The report as someone sees it who sees this account alone: its findings sum up nothing else.
fn report_of(report: VisibleReport, sub: &str) -> VisibleReport {
    let Some(status) = report.status else { return report };
    // Channel sums that the viewer must not see were removed before.
    let status = restrict_status(status, |other| other == sub, |_| true);
    let mut findings = report.findings;
    findings.retain(|finding| finding.code.concerns_every_account());
    add_unknown(&mut findings, status.findings.iter().cloned());
    VisibleReport { status: Some(status), findings, ..report }
}

fn own_backfills(report: &VisibleReport, sub: &str) -> Vec<BackfillStatus> {
    let all = report.status.iter().flat_map(|status| &status.backfills);
    all.filter(|backfill| backfill.sub_account_id == sub).cloned().collect()
}

/// The newest gaps, the newest first: they are read in this order.
fn gaps(
    status: &AccountStatus,
    history: Option<&History>,
    duration_of: impl Fn(Vec<TimeRange>) -> Duration,
) -> Vec<Gap> {
    let is_blocked = status.owner.is_none() || metadata_pause(status).is_some();
    let mut newer: Vec<TimeRange> = Vec::new();
    let gaps = status.gaps.iter().rev().take(MAX_LISTED_GAPS).map(|gap| {
        newer.push(TimeRange { from: gap.from, to: gap.to });
        Gap {
            from: gap.from,
            to: gap.to,
            seconds: gap.seconds,
            reason: gap_reason(status, gap.from, gap.to, history),
            eta_seconds: (!is_blocked).then(|| duration_of(newer.clone()).as_secs()),
        }
    });
    gaps.collect()
}

fn metadata_pause(status: &AccountStatus) -> Option<&EndpointPause> {
    status.paused.iter().find(|pause| pause.endpoint == Endpoint::Metadata)
}

/// Why a range was not read, as far as it is known now.
fn gap_reason(status: &AccountStatus, from: Time, to: Time, history: Option<&History>) -> String {
    if let Some(pause) = metadata_pause(status).filter(|pause| pause.since < to) {
        return format!("metadata is paused: {}", pause.reason);
    }
    if status.owner.is_none() {
        return "no daemon works on this account".to_owned();
    }
    let cells = history.and_then(|history| Some((history, history.cells.get(&status.sub_account_id)?)));
    let Some((history, cells)) = cells else { return "not known: nothing was recorded then".to_owned() };
    let width = history.range.cell_width();
    let levels = cells.iter().enumerate().filter_map(|(place, level)| {
        let start = history.first_cell + width * u32::try_from(place).unwrap_or_default();
        (start < to && start + width > from).then_some(*level)
    });
    match levels.max() {
        Some(Some(HealthLevel::Healthy | HealthLevel::Behind | HealthLevel::Incomplete)) => {
            "the daemon was stopped for a part of this day, or RingCX did not answer".to_owned()
        }
        Some(Some(HealthLevel::Trouble)) => "the account was in trouble then".to_owned(),
        Some(None) => "no daemon was running then".to_owned(),
        None => "not known: it is older than the records".to_owned(),
    }
}

/// The quantiles of each kind, from its counts by binary logarithm of the seconds.
fn lateness_lines(histogram: &[(String, i64, u64)]) -> Vec<LatenessLine> {
    let mut lines: Vec<LatenessLine> = Vec::new();
    for kind in ["appear", "flip"] {
        let buckets: Vec<(i64, u64)> =
            histogram.iter().filter(|(of, ..)| of == kind).map(|(_, bucket, count)| (*bucket, *count)).collect();
        let segments: u64 = buckets.iter().map(|(_, count)| count).sum();
        let within = |percent: u64| {
            let mut seen = 0;
            let bucket = buckets.iter().find(|(_, count)| {
                seen += count;
                seen * 100 >= segments * percent
            });
            let exponent = bucket.and_then(|(bucket, _)| u32::try_from(bucket + 1).ok()).unwrap_or_default();
            1_u64.checked_shl(exponent).unwrap_or(u64::MAX)
        };
        if segments > 0 {
            let (half_within_seconds, most_within_seconds) = (within(50), within(95));
            lines.push(LatenessLine { kind: kind.to_owned(), segments, half_within_seconds, most_within_seconds });
        }
    }
    lines
}

#[cfg(test)]
mod tests;
