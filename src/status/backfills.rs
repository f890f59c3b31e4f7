//! Past ranges that were asked for, and how much of each is read. Pure.

use std::time::Duration;

use serde::Serialize;

use super::Settings;
use crate::account::metadata_limits;
use crate::coverage::{Rules, estimate};
use crate::db::{AccountRow, BackfillRequest};
use crate::model::{Stretch, Stretches};

/// A past range that was asked for and is not read yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillStatus {
    /// Its number.
    pub id: i64,
    /// The sub-account's id.
    pub sub_account_id: String,
    /// First moment in it, RFC 3339.
    pub from: String,
    /// First moment after it, RFC 3339.
    pub to: String,
    /// When it was asked for, RFC 3339.
    pub requested: String,
    /// Its length.
    pub seconds: u64,
    /// How much of that is read.
    pub read_seconds: u64,
    /// How long the rest takes under the limits, together with what else is queued for the account.
    pub left_seconds: u64,
}

/// Those that are open; `read` is what has been read of each, by its number.
pub(super) fn open(
    accounts: &[AccountRow],
    requests: &[BackfillRequest],
    read: &[(i64, Stretch)],
    settings: &Settings,
) -> Vec<BackfillStatus> {
    let left = |request: &BackfillRequest| {
        let done = read.iter().filter(|(id, _)| *id == request.id).map(|(_, stretch)| *stretch).collect();
        Stretches::from_unsorted(vec![request.range]).minus(&Stretches::from_unsorted(done))
    };
    let status = |request: &BackfillRequest| {
        let account = accounts.iter().find(|account| account.key == request.account)?;
        let of_account = requests.iter().filter(|other| other.account == request.account);
        let together = of_account.flat_map(|other| left(other).as_slice().to_vec()).collect();
        let rules = rules(settings, account.retention_days);
        let takes = estimate(&Stretches::from_unsorted(together), &rules, &settings.discovery.rechecks);
        Some(BackfillStatus {
            id: request.id,
            sub_account_id: account.id.sub.to_string(),
            from: request.range.from.rfc3339_secs(),
            to: request.range.to.rfc3339_secs(),
            requested: request.created.rfc3339_secs(),
            seconds: request.range.width().as_secs(),
            read_seconds: request.range.width().saturating_sub(left(request).total()).as_secs(),
            left_seconds: takes.as_secs(),
        })
    };
    requests.iter().filter_map(status).collect()
}

/// What discovery keeps to for an account of which the vendor keeps so many days.
pub fn rules(settings: &Settings, retention_days: Option<i64>) -> Rules {
    let discovery = &settings.discovery;
    let days = retention_days.and_then(|days| u64::try_from(days).ok()).filter(|days| *days > 0);
    Rules {
        window: discovery.window,
        offset: discovery.offset,
        interval: discovery.interval,
        max_window: discovery.max_window,
        sliding: metadata_limits(&settings.limits),
        retention: days.map(|days| Duration::from_secs(days.saturating_mul(86_400))),
    }
}
