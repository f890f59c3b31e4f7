//! Object stores: the events that an account gains within a while become one object.
//!
//! The bounds of an object are stored before it is written. Whatever happens then, the same events
//! are written under the same name, and replace what a failed attempt left.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use super::delivery_records::{damaged_failures, has_delivered};
use super::event_builder::{EventFilter, read_window_events};
use super::sink_client::BatchClient;
use super::{Deliverer, DeliveryProgress};
use crate::clock::Time;
use crate::db::{
    AccountKey, CursorAdvance, Db, DbError, DeliveryRound, FailedDelivery, FeedEntry, FeedRange, LaggingFeed, Lease,
    ObjectBatch, SinkKey,
};
use crate::event::Event;
use crate::sink::SinkError;
use crate::sink::object_store::{ObjectStoreSink, object_name};

/// The most events in one object.
const MAX_EVENTS_PER_OBJECT: i64 = 2_000;
/// The approximate limit of body bytes in one object.
const MAX_BODY_BYTES_PER_OBJECT: u64 = 8 * 1024 * 1024;
/// An object is written at most this long after its first event was stored.
const MAX_OBJECT_DELAY: Duration = Duration::from_secs(60);
/// An object holds events that were stored within one hour.
const HOUR_MS: i64 = 3_600_000;
/// The most objects written concurrently.
const MAX_CONCURRENT_WRITES: usize = 4;
/// The most accounts examined in one step.
const MAX_ACCOUNTS_PER_STEP: usize = 16;

/// What to do with the next part of a feed.
#[derive(Debug, PartialEq, Eq)]
enum NextObject {
    /// Write an object up to this feed number, named after this time.
    Write { upto: i64, stored: Time },
    /// Skip the part: the sink wants none of it.
    Skip,
    /// Wait: the object may still grow until then.
    Wait { until: Time },
}

impl Deliverer {
    pub(super) async fn step_objects(
        &mut self,
        client: &BatchClient,
        store: &Arc<ObjectStoreSink>,
        sink: SinkKey,
    ) -> Result<DeliveryProgress, DbError> {
        let behind = self.accounts_behind(sink).await?;
        let mut round = DeliveryRound {
            sink,
            at: self.context.clock.now(),
            object_batches_written: true,
            ..DeliveryRound::default()
        };
        let mut failure = self.retry_due_batch(client, &mut round).await?;
        let batches = match failure {
            None => self.plan_objects(sink, &behind, &mut round).await?,
            Some(_) => Vec::new(),
        };
        let writes: Vec<_> = batches
            .into_iter()
            .map(|(owned, batch)| {
                write_object(self.context.db.clone(), self.filter.clone(), store.clone(), owned, batch, round.at)
            })
            .collect();
        let mut writes = stream::iter(writes).buffer_unordered(MAX_CONCURRENT_WRITES);
        while let Some(done) = writes.next().await {
            match done? {
                Ok((step, damaged)) => {
                    round.advances.push(step);
                    round.failed_deliveries.extend(damaged);
                }
                Err(error) => failure = Some(error),
            }
        }
        drop(writes);
        let is_empty = round.advances.is_empty();
        let accepted = has_delivered(&round);
        if !is_empty {
            self.log_failures(&round);
            self.record_round(round).await?;
        }
        let is_paused = failure.is_some();
        self.apply_result(failure, accepted);
        if !is_empty || is_paused {
            return Ok(DeliveryProgress::Worked);
        }
        let next = self.next_object_at.values().min().copied();
        match (self.next_wakeup(sink).await?, next) {
            (DeliveryProgress::Idle(until), Some(next)) => Ok(DeliveryProgress::Idle(until.min(next))),
            (idle, _) => Ok(idle),
        }
    }

    /// The objects to write now, including those planned by earlier steps. Unwanted parts of feeds
    /// are skipped.
    async fn plan_objects(
        &mut self,
        sink: SinkKey,
        behind: &[LaggingFeed],
        round: &mut DeliveryRound,
    ) -> Result<Vec<(Lease, ObjectBatch)>, DbError> {
        let mut planned: BTreeMap<AccountKey, ObjectBatch> =
            self.context.db.object_batches(sink).await?.into_iter().map(|batch| (batch.account, batch)).collect();
        let (tick, now) = (self.context.clock.tick(), round.at);
        self.next_object_at.retain(|_, until| *until > tick);
        let not_due: HashSet<AccountKey> = self.next_object_at.keys().copied().collect();
        let mut new_batches = Vec::new();
        let mut examined = 0;
        for account in behind {
            let key = account.lease.account;
            if !self.filter.wants_account(&account.id.sub) {
                round.advances.push(CursorAdvance { lease: account.lease, upto: account.feed, delivered: 0 });
                continue;
            }
            let is_full = account.feed - account.cursor >= MAX_EVENTS_PER_OBJECT;
            if planned.contains_key(&key) || examined >= MAX_ACCOUNTS_PER_STEP || (not_due.contains(&key) && !is_full) {
                continue;
            }
            examined += 1;
            let end = account.feed.min(account.cursor + MAX_EVENTS_PER_OBJECT);
            match self.next_object(account, end, is_full, now).await? {
                NextObject::Skip => {
                    round.advances.push(CursorAdvance { lease: account.lease, upto: end, delivered: 0 })
                }
                NextObject::Wait { until } => {
                    self.next_object_at.insert(key, tick + until.since(now));
                }
                NextObject::Write { upto, stored } => {
                    let first = account.cursor + 1;
                    let name = object_name(&account.id.sub, stored, first, upto);
                    new_batches.push(ObjectBatch { account: key, first, last: upto, name });
                }
            }
        }
        if !new_batches.is_empty() {
            self.context.db.plan_object_batches(sink, &new_batches, now).await?;
            planned.extend(new_batches.into_iter().map(|batch| (batch.account, batch)));
        }
        let batches =
            behind.iter().filter_map(|account| Some((account.lease, planned.remove(&account.lease.account)?)));
        Ok(batches.take(MAX_ACCOUNTS_PER_STEP).collect())
    }
}

impl Deliverer {
    /// What to do with an account's feed between the cursor and `end`.
    async fn next_object(
        &self,
        account: &LaggingFeed,
        end: i64,
        is_full: bool,
        now: Time,
    ) -> Result<NextObject, DbError> {
        let window = FeedRange { account: account.lease.account, after: account.cursor, upto: end };
        let heads = self.context.db.feed_entries(&[window]).await?;
        let wanted: Vec<&FeedEntry> = heads.iter().filter(|head| self.filter.wants(head)).collect();
        Ok(decide_next_object(&wanted, end, is_full, now))
    }
}

/// Decides on the wanted entries of a feed part that ends with `end`; `is_full` if more entries
/// follow.
fn decide_next_object(wanted: &[&FeedEntry], end: i64, is_full: bool, now: Time) -> NextObject {
    let Some(first) = wanted.first() else { return NextObject::Skip };
    let hour = |time: Time| time.0.div_euclid(HOUR_MS);
    let mut size = 0;
    let first_beyond = wanted.iter().position(|head| {
        size += head.size;
        hour(head.fetched) != hour(first.fetched) || (size > MAX_BODY_BYTES_PER_OBJECT && head.feed != first.feed)
    });
    let due = first.fetched + MAX_OBJECT_DELAY;
    match first_beyond.and_then(|index| wanted.get(index)) {
        Some(beyond) => NextObject::Write { upto: beyond.feed - 1, stored: first.fetched },
        // An entry stored by a clock that was ahead must not delay the object.
        None if is_full || now >= due || first.fetched > now + MAX_OBJECT_DELAY => {
            NextObject::Write { upto: end, stored: first.fetched }
        }
        None => NextObject::Wait { until: due },
    }
}

/// Writes an object. Returns the cursor move, and the failed deliveries of damaged entries.
async fn write_object(
    db: Db,
    filter: Arc<EventFilter>,
    store: Arc<ObjectStoreSink>,
    owned: Lease,
    batch: ObjectBatch,
    at: Time,
) -> Result<Result<(CursorAdvance, Vec<FailedDelivery>), SinkError>, DbError> {
    let window = FeedRange { account: batch.account, after: batch.first - 1, upto: batch.last };
    let event_batch = read_window_events(&db, &filter, &[window], u64::MAX).await?;
    let step = CursorAdvance { lease: owned, upto: batch.last, delivered: event_batch.events.len() as u64 };
    // Erased and damaged entries are left out. An object without events is not written.
    if !event_batch.events.is_empty()
        && let Err(error) = store.put(&batch.name, &event_batch.events).await
    {
        return Ok(Err(error));
    }
    Ok(Ok((step, damaged_failures(&event_batch, at).collect())))
}

/// Writes events again, as one object per account and hour of storing. The object names end with
/// `suffix`.
pub(super) async fn write_by_hour(store: &ObjectStoreSink, events: &[Event], suffix: &str) -> Result<(), SinkError> {
    let place = |event: &Event| (event.account_key, event.stored.0.div_euclid(HOUR_MS));
    for part in events.chunk_by(|one, other| place(one) == place(other)) {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
        let name = object_name(&first.account.sub, first.stored, first.feed_seq, last.feed_seq);
        store.put(&format!("{name}{suffix}"), part).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Item;

    fn head(feed: i64, fetched: i64, size: u64) -> FeedEntry {
        FeedEntry {
            account: AccountKey(1),
            feed,
            item: Item(4),
            notice: None,
            stored: true,
            fetched: Time(fetched),
            size,
        }
    }

    fn decide(heads: &[FeedEntry], end: i64, is_full: bool, now: i64) -> NextObject {
        decide_next_object(&heads.iter().collect::<Vec<_>>(), end, is_full, Time(now))
    }

    #[test]
    fn an_object_is_due_a_minute_after_its_first_event_or_when_it_is_full() {
        let heads = [head(3, 1_000, 10), head(4, 2_000, 10)];
        assert_eq!(decide(&heads, 5, false, 3_000), NextObject::Wait { until: Time(61_000) });
        let whole = NextObject::Write { upto: 5, stored: Time(1_000) };
        assert_eq!(decide(&heads, 5, false, 61_000), whole);
        assert_eq!(decide(&heads, 5, true, 3_000), whole);
        assert_eq!(decide(&heads, 5, false, -86_400_000), whole, "the clock was set back");
        assert_eq!(decide(&[], 5, false, 3_000), NextObject::Skip);
    }

    #[test]
    fn an_object_ends_with_its_hour_and_where_it_gets_large() {
        let heads = [head(3, 3_599_000, 10), head(6, 3_600_000, 10)];
        assert_eq!(decide(&heads, 9, false, 3_600_500), NextObject::Write { upto: 5, stored: Time(3_599_000) });
        let heads = [head(3, 0, MAX_BODY_BYTES_PER_OBJECT + 1), head(4, 1, 1)];
        assert_eq!(decide(&heads, 4, false, 2), NextObject::Write { upto: 3, stored: Time(0) });
    }
}
