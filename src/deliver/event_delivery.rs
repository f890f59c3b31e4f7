//! One delivery round of events: due retries, then new events, then one transaction that records
//! both.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::event_builder::{EventBatch, read_events, read_window_events};
use super::failure_policy::{EventDecision, EventKey, FailurePolicy, SinkAction, decide_retried, probe_count};
use super::fair_share::fair_share;
use super::{Deliverer, DeliveryProgress, RETRY_DELAY_BOUNDS, backoff_delay, stop_reason};
use crate::clock::Time;
use crate::db::{
    AccountKey, CursorAdvance, DbError, DeliveryRound, FailedDelivery, FeedRange, Item, LaggingFeed, SinkKey,
};
use crate::event::Event;
use crate::sink::SinkError;

/// The most feed entries that one round reads.
const MAX_EVENTS_PER_ROUND: usize = 500;
/// The most compressed body bytes in memory at a time.
const MAX_BODY_BYTES: u64 = 8 * 1024 * 1024;
/// The most retries in one round, so that new events do not wait for them.
const MAX_RETRIES_PER_ROUND: usize = 16;
/// The most events of a sink that may wait for a retry. If there are more, the fault is the sink's.
const MAX_EVENTS_AWAITING_RETRY: u64 = 1000;

impl Deliverer {
    pub(super) async fn step_events(&mut self, sink: SinkKey) -> Result<DeliveryProgress, DbError> {
        let accounts_behind = self.accounts_behind(sink).await?;
        let consecutive_pauses = self.consecutive_pauses();
        let capacity = if consecutive_pauses > 0 { probe_count(consecutive_pauses) } else { MAX_EVENTS_PER_ROUND };
        let (wanted, unwanted): (Vec<&LaggingFeed>, Vec<&LaggingFeed>) =
            accounts_behind.iter().partition(|account| self.filter.wants_account(&account.id.sub));
        let windows = fair_share(&wanted, capacity, self.rotation);
        self.rotation = self.rotation.wrapping_add(windows.len());
        let batch = read_window_events(&self.context.db, &self.filter, &windows, MAX_BODY_BYTES).await?;
        let probing = consecutive_pauses > 0 && !batch.events.is_empty();
        let mut round = DeliveryRound { sink, at: self.context.clock.now(), ..DeliveryRound::default() };
        let mut leases_by_account = LeaseMap::of(&accounts_behind);
        let retry_action = if probing {
            SinkAction::Continue
        } else {
            self.retry_due_events(&mut round, &mut leases_by_account).await?
        };
        let action = match retry_action {
            SinkAction::Continue => self.deliver_batch(&batch, &windows, &leases_by_account, &mut round).await?,
            action => action,
        };
        let skipped =
            unwanted.iter().map(|account| CursorAdvance { lease: account.lease, upto: account.feed, delivered: 0 });
        round.advances.extend(skipped);
        let is_empty = round.advances.is_empty() && round.failed_deliveries.is_empty() && round.cleared.is_empty();
        let accepted = has_delivered(&round);
        round.stopped = stop_reason(&action);
        if !is_empty || round.stopped.is_some() {
            self.log_failures(&round);
            self.record_round(round).await?;
        }
        if !self.apply_action(&action, accepted) {
            return Ok(DeliveryProgress::Idle(self.context.clock.tick()));
        }
        if is_empty { self.next_wakeup(sink).await } else { Ok(DeliveryProgress::Worked) }
    }

    /// This process's accounts that the sink is behind in.
    pub(super) async fn accounts_behind(&self, sink: SinkKey) -> Result<Vec<LaggingFeed>, DbError> {
        let owned = self.owned_epochs();
        let mut accounts_behind = self.context.db.lagging_feeds(sink, &self.context.owner).await?;
        accounts_behind.retain(|account| owned.contains(&(account.lease.account, account.lease.epoch)));
        Ok(accounts_behind)
    }

    /// Sends the new events.
    async fn deliver_batch(
        &mut self,
        batch: &EventBatch,
        windows: &[FeedRange],
        leases_by_account: &LeaseMap,
        round: &mut DeliveryRound,
    ) -> Result<SinkAction, DbError> {
        let (decisions, action) = self.send_new_events(&batch.events, round.sink).await?;
        let mut first_open = batch.first_unread.clone();
        let mut delivered: HashMap<AccountKey, u64> = HashMap::new();
        for (event, decision) in batch.events.iter().zip(&decisions) {
            let key = (AccountKey(event.account_key), event.feed_seq);
            match decision {
                None => {
                    let first = first_open.entry(key.0).or_insert(key.1);
                    *first = (*first).min(key.1);
                }
                Some(EventDecision::Delivered) => *delivered.entry(key.0).or_default() += 1,
                Some(decision) => {
                    round.failed_deliveries.extend(first_failure(key, batch.items.get(&key), decision, round.at))
                }
            }
        }
        round.failed_deliveries.extend(damaged_failures(batch, round.at));
        for window in windows {
            let Some(owned) = leases_by_account.0.get(&window.account) else { continue };
            let upto = first_open.get(&window.account).map_or(window.upto, |first| window.upto.min(first - 1));
            let delivered = delivered.get(&window.account).copied().unwrap_or(0);
            if upto > window.after || delivered > 0 {
                round.advances.push(CursorAdvance { lease: *owned, upto, delivered });
            }
        }
        Ok(action)
    }

    /// Sends events, and decides on the responses.
    pub(super) async fn send_new_events(
        &mut self,
        events: &[Event],
        sink: SinkKey,
    ) -> Result<(Vec<Option<EventDecision>>, SinkAction), DbError> {
        let (_, waiting) = self.context.db.waiting_deliveries(sink).await?;
        let retry_capacity = usize::try_from(MAX_EVENTS_AWAITING_RETRY.saturating_sub(waiting)).unwrap_or(0);
        let consecutive_pauses = self.consecutive_pauses();
        let events: Arc<[Event]> = events.into();
        let Some(client) = self.client.as_ref().filter(|_| !events.is_empty()) else {
            return Ok((vec![None; events.len()], SinkAction::Continue));
        };
        let mut policy = FailurePolicy::new(&mut self.streak, consecutive_pauses, retry_capacity, events.len());
        let (mut action, mut responses) = (SinkAction::Continue, 0);
        let on_response = |index: usize, response: Result<(), SinkError>| {
            let Some(event) = events.get(index) else { return false };
            action = policy.on_response(index, (AccountKey(event.account_key), event.feed_seq), response);
            responses += 1;
            action == SinkAction::Continue
        };
        client.send(events.clone(), &self.context.clock, &self.context.stop, on_response).await;
        let (decisions, action) = policy.finish(action);
        if responses == 0 && consecutive_pauses > 0 {
            // The daemon is shutting down: nothing new is known about the sink.
            return Ok((decisions, SinkAction::Continue));
        }
        Ok((decisions, action))
    }

    /// Retries the events that are due.
    pub(super) async fn retry_due_events(
        &mut self,
        round: &mut DeliveryRound,
        leases_by_account: &mut LeaseMap,
    ) -> Result<SinkAction, DbError> {
        let epochs: HashMap<AccountKey, i64> = self.owned_epochs().into_iter().collect();
        let limit = if self.pause.is_some() { 1 } else { MAX_RETRIES_PER_ROUND };
        let mut due = self.context.db.due_failed_deliveries(round.sink, &self.context.owner, round.at, limit).await?;
        due.retain(|missed| epochs.contains_key(&missed.account));
        if due.is_empty() {
            return Ok(SinkAction::Continue);
        }
        for missed in &due {
            leases_by_account.add(missed.account, epochs.get(&missed.account).copied());
        }
        let keys: Vec<EventKey> = due.iter().map(|missed| (missed.account, missed.feed)).collect();
        let batch = read_events(&self.context.db, &self.filter, &keys).await?;
        let found: HashSet<EventKey> = batch.items.keys().copied().collect();
        let unreadable: HashSet<EventKey> = batch.damaged.iter().map(|(key, ..)| *key).collect();
        round.cleared.extend(keys.iter().filter(|key| !found.contains(key) && !unreadable.contains(key)));
        round.failed_deliveries.extend(damaged_failures(&batch, round.at));
        let failures: HashMap<EventKey, &FailedDelivery> =
            due.iter().map(|missed| ((missed.account, missed.feed), missed)).collect();
        let action = self.resend_events(&batch.events, &failures, round).await;
        // Rows count only for an account in `moves`, and this one may have nothing new.
        let moved: HashSet<AccountKey> = round.advances.iter().map(|step| step.lease.account).collect();
        let touched: HashSet<AccountKey> = round
            .failed_deliveries
            .iter()
            .map(|missed| missed.account)
            .chain(round.cleared.iter().map(|key| key.0))
            .collect();
        for account in touched.difference(&moved) {
            if let Some(owned) = leases_by_account.0.get(account) {
                round.advances.push(CursorAdvance { lease: *owned, upto: 0, delivered: 0 });
            }
        }
        Ok(action)
    }

    async fn resend_events(
        &mut self,
        events: &[Event],
        failures: &HashMap<EventKey, &FailedDelivery>,
        round: &mut DeliveryRound,
    ) -> SinkAction {
        let give_up_after = self.settings.give_up_after;
        let events: Arc<[Event]> = events.into();
        let Some(client) = self.client.as_ref().filter(|_| !events.is_empty()) else { return SinkAction::Continue };
        let streak = &mut self.streak;
        let (mut action, mut delivered) = (SinkAction::Continue, HashMap::<AccountKey, u64>::new());
        let (mut missed, mut cleared) = (Vec::new(), Vec::new());
        let at = round.at;
        let on_response = |index: usize, response: Result<(), SinkError>| {
            let Some(event) = events.get(index) else { return false };
            let key = (AccountKey(event.account_key), event.feed_seq);
            let Some(row) = failures.get(&key) else { return true };
            let waited = row.waited + row.due.since(row.last_try);
            let (decision, next_action) = decide_retried(streak, key, response, waited >= give_up_after);
            match decision {
                Some(EventDecision::Delivered) => {
                    cleared.push(key);
                    *delivered.entry(key.0).or_default() += 1;
                }
                Some(decision) => missed.extend(repeated_failure(row, waited, &decision, give_up_after, at)),
                None => {}
            }
            action = next_action;
            action == SinkAction::Continue
        };
        client.send(events.clone(), &self.context.clock, &self.context.stop, on_response).await;
        round.failed_deliveries.extend(missed);
        round.cleared.extend(cleared);
        for (account, delivered) in delivered {
            // The cursor stays: it never moves back.
            let owned = (self.context.leases)().into_iter().find(|owned| owned.account == account);
            round.advances.extend(owned.map(|owned| CursorAdvance { lease: owned, upto: 0, delivered }));
        }
        action
    }

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

/// Whether the sink accepted any event.
pub(super) fn has_delivered(round: &DeliveryRound) -> bool {
    round.advances.iter().any(|step| step.delivered > 0)
}

/// The leases under which the cursors of accounts are moved.
pub(super) struct LeaseMap(HashMap<AccountKey, crate::db::Lease>);

impl LeaseMap {
    pub(super) fn of(accounts_behind: &[LaggingFeed]) -> LeaseMap {
        LeaseMap(accounts_behind.iter().map(|account| (account.lease.account, account.lease)).collect())
    }

    fn add(&mut self, account: AccountKey, epoch: Option<i64>) {
        if let Some(epoch) = epoch {
            self.0.entry(account).or_insert(crate::db::Lease { account, epoch });
        }
    }
}

/// The row for an event whose first attempt failed.
pub(super) fn first_failure(
    key: EventKey,
    item: Option<&Item>,
    decision: &EventDecision,
    at: Time,
) -> Option<FailedDelivery> {
    let (failed, error) = split_failure(decision)?;
    Some(FailedDelivery {
        account: key.0,
        feed: key.1,
        item: *item?,
        failed,
        tries: 1,
        waited: Duration::ZERO,
        first_try: at,
        last_try: at,
        due: at + backoff_delay(RETRY_DELAY_BOUNDS, 1).max(error.retry_after.unwrap_or_default()),
        status: error.status,
        reason: error.reason(),
    })
}

/// The row for an event whose retry failed. The last attempt is made when the retry limit is
/// reached, whatever the backoff delay.
fn repeated_failure(
    row: &FailedDelivery,
    waited: Duration,
    decision: &EventDecision,
    give_up_after: Duration,
    at: Time,
) -> Option<FailedDelivery> {
    let (failed, error) = split_failure(decision)?;
    let tries = row.tries.saturating_add(1);
    let left = give_up_after.saturating_sub(waited).max(Duration::from_secs(1));
    let delay = backoff_delay(RETRY_DELAY_BOUNDS, tries).min(left).max(error.retry_after.unwrap_or_default());
    Some(FailedDelivery {
        failed,
        tries,
        waited,
        last_try: at,
        due: at + delay,
        status: error.status,
        reason: error.reason(),
        ..row.clone()
    })
}

fn split_failure(decision: &EventDecision) -> Option<(bool, &SinkError)> {
    match decision {
        EventDecision::Delivered => None,
        EventDecision::Retry(error) => Some((false, error)),
        EventDecision::GiveUp(error) => Some((true, error)),
    }
}

/// The rows for events that cannot be sent because their stored data is damaged.
pub(super) fn damaged_failures(batch: &EventBatch, at: Time) -> impl Iterator<Item = FailedDelivery> + '_ {
    batch.damaged.iter().map(move |((account, feed), item, why)| FailedDelivery {
        account: *account,
        feed: *feed,
        item: *item,
        failed: true,
        tries: 1,
        waited: Duration::ZERO,
        first_try: at,
        last_try: at,
        due: at,
        status: None,
        reason: why.clone(),
    })
}
