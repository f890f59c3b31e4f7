//! Builds the status of open backfills: the requested ranges, and how much of each is read. Pure.

use std::time::Duration;

use super::Settings;
use crate::account::metadata_limits;
use crate::coverage::{PlanningRules, estimate_backfill_duration};
use crate::db::{AccountRow, BackfillRequest};
use crate::health::BackfillStatus;
use crate::model::{TimeRange, TimeRangeSet};

/// The open backfills. `read` holds the ranges that were read, by backfill id.
pub(super) fn open_backfills(
    accounts: &[AccountRow],
    requests: &[BackfillRequest],
    read: &[(i64, TimeRange)],
    settings: &Settings,
) -> Vec<BackfillStatus> {
    let unread = |request: &BackfillRequest| {
        let done = read.iter().filter(|(id, _)| *id == request.id).map(|(_, stretch)| *stretch).collect();
        TimeRangeSet::from_unsorted(vec![request.range]).minus(&TimeRangeSet::from_unsorted(done))
    };
    let status = |request: &BackfillRequest| {
        let account = accounts.iter().find(|account| account.key == request.account)?;
        let requests_of_account = requests.iter().filter(|other| other.account == request.account);
        let all_unread = requests_of_account.flat_map(|other| unread(other).as_slice().to_vec()).collect();
        let rules = planning_rules(settings, account.retention_days);
        let remaining_time =
            estimate_backfill_duration(&TimeRangeSet::from_unsorted(all_unread), &rules, &settings.discovery.rechecks);
        Some(BackfillStatus {
            id: request.id,
            sub_account_id: account.id.sub.to_string(),
            from: request.range.from,
            to: request.range.to,
            requested: request.created,
            seconds: request.range.width().as_secs(),
            read_seconds: request.range.width().saturating_sub(unread(request).total()).as_secs(),
            left_seconds: remaining_time.as_secs(),
        })
    };
    requests.iter().filter_map(status).collect()
}

/// The planning rules of discovery for an account whose data RingCX keeps for `retention_days`.
pub fn planning_rules(settings: &Settings, retention_days: Option<i64>) -> PlanningRules {
    let discovery = &settings.discovery;
    let days = retention_days.and_then(|days| u64::try_from(days).ok()).filter(|days| *days > 0);
    PlanningRules {
        window: discovery.window,
        offset: discovery.offset,
        interval: discovery.interval,
        max_window: discovery.max_window,
        limits: metadata_limits(&settings.limits),
        retention: days.map(|days| Duration::from_secs(days.saturating_mul(86_400))),
    }
}
