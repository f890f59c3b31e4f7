//! Delivery to sinks that accept a batch of events as a whole: lines of a file, and the retries and
//! replays of an object store. If the batch fails, the sink is at fault, and delivery pauses.

use std::collections::{BTreeSet, HashMap};

use super::delivery_records::{damaged_failures, has_delivered};
use super::event_builder::{read_events, read_window_events};
use super::fair_share::fair_share;
use super::sink_client::BatchClient;
use super::{Deliverer, DeliveryProgress, EventKey};
use crate::db::{AccountKey, CursorAdvance, DbError, DeliveryRound, FailedDelivery, Item, LaggingFeed, SinkKey};
use crate::event::Event;
use crate::sink::SinkError;

/// The most feed entries that one round reads.
const MAX_EVENTS_PER_ROUND: usize = 500;
/// The most compressed body bytes in memory at a time.
const MAX_BODY_BYTES: u64 = 8 * 1024 * 1024;
/// The most retries in one round, so that new events do not wait for them.
const MAX_RETRIES_PER_ROUND: usize = 100;

impl Deliverer {
    /// Writes the next lines: due retries, then new events.
    pub(super) async fn step_lines(
        &mut self,
        client: &BatchClient,
        sink: SinkKey,
    ) -> Result<DeliveryProgress, DbError> {
        let accounts_behind = self.accounts_behind(sink).await?;
        let (wanted, unwanted): (Vec<&LaggingFeed>, Vec<&LaggingFeed>) =
            accounts_behind.iter().partition(|account| self.filter.wants_account(&account.id.sub));
        let windows = fair_share(&wanted, MAX_EVENTS_PER_ROUND, self.rotation);
        self.rotation = self.rotation.wrapping_add(windows.len());
        let batch = read_window_events(&self.context.db, &self.filter, &windows, MAX_BODY_BYTES).await?;
        let mut round = DeliveryRound { sink, at: self.context.clock.now(), ..DeliveryRound::default() };
        let skipped = |account: &&LaggingFeed| CursorAdvance { lease: account.lease, upto: account.feed, delivered: 0 };
        round.advances.extend(unwanted.iter().map(skipped));
        let mut failure = self.retry_due_batch(client, &mut round).await?;
        if failure.is_none() {
            failure = client.write(&batch.events, "", &self.context.clock).await.err();
        }
        if failure.is_none() {
            round.superseding.extend(superseding(&batch.events, &batch.items));
            round.failed_deliveries.extend(damaged_failures(&batch, round.at));
            let delivered = count_by_account(&batch.events);
            for window in &windows {
                let lease = wanted.iter().map(|account| account.lease).find(|lease| lease.account == window.account);
                let first_unread = batch.first_unread.get(&window.account);
                let upto = first_unread.map_or(window.upto, |first| window.upto.min(first - 1));
                let delivered = delivered.get(&window.account).copied().unwrap_or(0);
                round.advances.extend(lease.map(|lease| CursorAdvance { lease, upto, delivered }));
            }
        }
        let is_empty = round.advances.is_empty();
        let accepted = has_delivered(&round);
        if !is_empty {
            self.log_failures(&round);
            self.record_round(round).await?;
        }
        self.apply_result(failure, accepted);
        if is_empty { self.next_wakeup(sink).await } else { Ok(DeliveryProgress::Worked) }
    }

    /// Writes the events that are due for a retry. Returns the error if the sink refused them.
    pub(super) async fn retry_due_batch(
        &mut self,
        client: &BatchClient,
        round: &mut DeliveryRound,
    ) -> Result<Option<SinkError>, DbError> {
        let db = &self.context.db;
        let due = db.due_failed_deliveries(round.sink, &self.context.owner, round.at, MAX_RETRIES_PER_ROUND).await?;
        let leases = (self.context.leases)();
        let due: Vec<FailedDelivery> =
            due.into_iter().filter(|row| leases.iter().any(|lease| lease.account == row.account)).collect();
        if due.is_empty() {
            return Ok(None);
        }
        let keys: Vec<EventKey> = due.iter().map(|row| (row.account, row.feed)).collect();
        let batch = read_events(db, &self.filter, &keys).await?;
        if let Err(error) = client.write(&batch.events, "-retry", &self.context.clock).await {
            return Ok(Some(error));
        }
        // Erased and unwanted events have rows no longer.
        round.cleared.extend(&keys);
        round.cleared.retain(|key| !batch.damaged.iter().any(|(damaged, ..)| damaged == key));
        round.failed_deliveries.extend(damaged_failures(&batch, round.at));
        round.superseding.extend(superseding(&batch.events, &batch.items));
        let delivered = count_by_account(&batch.events);
        let accounts: BTreeSet<AccountKey> = keys.iter().map(|key| key.0).collect();
        for lease in leases.into_iter().filter(|lease| accounts.contains(&lease.account)) {
            // The cursor stays: it never moves back.
            let delivered = delivered.get(&lease.account).copied().unwrap_or(0);
            round.advances.push(CursorAdvance { lease, upto: 0, delivered });
        }
        Ok(None)
    }
}

fn count_by_account(events: &[Event]) -> HashMap<AccountKey, u64> {
    let mut counts = HashMap::new();
    for event in events {
        *counts.entry(AccountKey(event.account_key)).or_default() += 1;
    }
    counts
}

/// The events that replace an earlier version.
fn superseding<'a>(events: &'a [Event], items: &'a HashMap<EventKey, Item>) -> impl Iterator<Item = (Item, i64)> + 'a {
    let newer = events.iter().filter(|event| event.version > 1);
    newer.filter_map(|event| Some((*items.get(&(AccountKey(event.account_key), event.feed_seq))?, event.feed_seq)))
}
