//! The rows that record what was not delivered.

use std::time::Duration;

use super::event_builder::EventBatch;
use super::{Deliverer, EventKey};
use crate::clock::Time;
use crate::db::{DeliveryRound, FailedDelivery, Item};
use crate::pipeline::delivery::delivery_machine::Settlement;
use crate::sink::SinkError;

/// Why an event has a row although no attempt failed.
const HELD_REASON: &str = "an earlier event of the same segment is being retried";

/// Why a segment or a dialog is not sent yet.
const UNSETTLED_REASON: &str = "it is sent once all of its texts have arrived";

/// The row of a segment or a dialog that is sent once it is settled.
pub(super) fn unsettled_row(key: EventKey, item: Item, at: Time) -> FailedDelivery {
    new_row(key, item, at, UNSETTLED_REASON)
}

/// Whether the sink accepted any event.
pub(super) fn has_delivered(round: &DeliveryRound) -> bool {
    round.advances.iter().any(|step| step.delivered > 0)
}

/// The rows for events that cannot be sent because their stored data is damaged.
pub(super) fn damaged_failures(batch: &EventBatch, at: Time) -> impl Iterator<Item = FailedDelivery> + '_ {
    batch.damaged.iter().map(move |(key, item, why)| FailedDelivery {
        failed: true,
        tries: 1,
        ..new_row(*key, *item, at, why)
    })
}

/// The row for an event that was not delivered. `before` is its row so far. Returns `None` if the
/// event needs no row. The last attempt is made when `give_up_after` is reached, whatever the delay.
pub(super) fn failed_delivery(
    (key, item): (EventKey, Item),
    before: Option<&FailedDelivery>,
    settlement: Settlement,
    error: Option<&SinkError>,
    give_up_after: Duration,
    at: Time,
) -> Option<FailedDelivery> {
    let mut row = before.cloned().unwrap_or_else(|| new_row(key, item, at, HELD_REASON));
    if let Some(before) = before {
        row.waited = waited(before);
    }
    row.last_try = at;
    if let Some(error) = error {
        (row.status, row.reason) = (error.status, error.reason());
    }
    match settlement {
        Settlement::Delivered | Settlement::Missing => return None,
        Settlement::Held(after) => row.due = at + after,
        Settlement::Retry { after, is_charged } => {
            row.tries = row.tries.saturating_add(u32::from(is_charged));
            let left = give_up_after.saturating_sub(row.waited).max(Duration::from_secs(1));
            row.due = at + if is_charged { after.min(left) } else { after };
        }
        Settlement::GiveUp => {
            row.tries = row.tries.saturating_add(1);
            (row.failed, row.due) = (true, at);
        }
    }
    Some(row)
}

/// How long an event has been retried when it is due.
pub(super) fn waited(row: &FailedDelivery) -> Duration {
    row.waited + row.due.since(row.last_try)
}

fn new_row((account, feed): EventKey, item: Item, at: Time, reason: &str) -> FailedDelivery {
    FailedDelivery {
        account,
        feed,
        item,
        failed: false,
        tries: 0,
        waited: Duration::ZERO,
        first_try: at,
        last_try: at,
        due: at,
        status: None,
        reason: reason.to_owned(),
    }
}

impl Deliverer {
    /// Logs the events that were given up.
    pub(super) fn log_failures(&self, round: &DeliveryRound) {
        let failed: Vec<&FailedDelivery> = round.failed_deliveries.iter().filter(|missed| missed.failed).collect();
        if let Some(last) = failed.last() {
            tracing::error!(
                sink = self.settings.name,
                events = failed.len(),
                reason = last.reason,
                "events were given up; `ringcx-extractor deliver status` shows why, `deliver retry` sends them again"
            );
        }
        if let Some(last) = round.failed_deliveries.iter().rfind(|missed| !missed.failed) {
            tracing::debug!(sink = self.settings.name, reason = last.reason, "events are waiting for a retry");
        }
    }
}
