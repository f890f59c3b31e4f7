//! Object stores: what gathers of an account within a while becomes one object.
//!
//! An object's bounds are decided and kept before it is written. Whatever happens after that, the same events are written
//! under the same name, over whatever a broken try has left there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use super::gather::{self, Filter};
use super::judge::{Flow, Ruling};
use super::pass::has_delivered;
use super::{Deliverer, Progress};
use crate::clock::Time;
use crate::db::{Batch, Behind, Db, DbError, Head, Move, Owned, Pass, Window};
use crate::event::Event;
use crate::sink::SinkError;
use crate::sink::object_store::{ObjectStoreSink, object_name};

/// An object holds at most so many events.
const EVENTS: i64 = 2_000;
/// And about so many bytes of bodies.
const BYTES: u64 = 8 * 1024 * 1024;
/// An object is written at the latest so long after its first event was stored.
const LINGER: Duration = Duration::from_secs(60);
/// An object holds what was stored within one hour.
const HOUR: i64 = 3_600_000;
/// So many objects are written at once.
const PUTS: usize = 4;
/// So many accounts are looked at in one step.
const ACCOUNTS: usize = 16;

/// What is to become of the part of a feed that is next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// An object up to this number; it is named after the time.
    Object { upto: i64, stored: Time },
    /// Nothing of it is wanted.
    Skip,
    /// It may still grow until then.
    Wait { until: Time },
}

impl Deliverer {
    pub(super) async fn step_objects(&mut self, sink: i64, store: &Arc<ObjectStoreSink>) -> Result<Progress, DbError> {
        let behind = self.behind(sink).await?;
        let mut pass = Pass { sink, at: self.means.clock.now(), batched: true, ..Pass::default() };
        let batches = self.decided(sink, &behind, &mut pass).await?;
        let mut flow = Flow::On;
        let mut failures = Vec::new();
        let puts: Vec<_> = batches
            .into_iter()
            .map(|(owned, batch)| write(self.means.db.clone(), self.filter.clone(), store.clone(), owned, batch))
            .collect();
        let mut puts = stream::iter(puts).buffer_unordered(PUTS);
        while let Some(done) = puts.next().await {
            match done? {
                (step, Ok(delivered)) => pass.moves.push(Move { delivered, ..step }),
                (_, Err(error)) => failures.push(error),
            }
        }
        drop(puts);
        if let Some(error) = failures.pop() {
            flow = Flow::Rest(error);
        }
        let nothing = pass.moves.is_empty();
        let taken = has_delivered(&pass);
        if !nothing {
            self.record(pass).await?;
        }
        if !self.follow(&flow, taken) {
            return Ok(Progress::Idle(self.means.clock.tick()));
        }
        if !nothing {
            return Ok(Progress::Did);
        }
        let next = self.objects_after.values().min().copied();
        match (self.idle(sink).await?, next) {
            (Progress::Idle(until), Some(next)) => Ok(Progress::Idle(until.min(next))),
            (idle, _) => Ok(idle),
        }
    }

    /// The objects to be written now, with what earlier steps have decided. What is not wanted is passed over.
    async fn decided(&mut self, sink: i64, behind: &[Behind], pass: &mut Pass) -> Result<Vec<(Owned, Batch)>, DbError> {
        let mut held: BTreeMap<i64, Batch> =
            self.means.db.batches(sink).await?.into_iter().map(|batch| (batch.account, batch)).collect();
        let (tick, now) = (self.means.clock.tick(), pass.at);
        self.objects_after.retain(|_, until| *until > tick);
        let waits: HashSet<i64> = self.objects_after.keys().copied().collect();
        let mut fresh = Vec::new();
        let mut looked = 0;
        for account in behind {
            let key = account.owned.account;
            if !self.filter.wants_account(&account.id.sub) {
                pass.moves.push(Move { owned: account.owned, upto: account.feed, delivered: 0 });
                continue;
            }
            let full = account.feed - account.cursor >= EVENTS;
            if held.contains_key(&key) || looked >= ACCOUNTS || (waits.contains(&key) && !full) {
                continue;
            }
            looked += 1;
            let end = account.feed.min(account.cursor + EVENTS);
            match self.next(account, end, full, now).await? {
                Next::Skip => pass.moves.push(Move { owned: account.owned, upto: end, delivered: 0 }),
                Next::Wait { until } => {
                    self.objects_after.insert(key, tick + until.since(now));
                }
                Next::Object { upto, stored } => {
                    let first = account.cursor + 1;
                    let name = object_name(&account.id.sub, stored, first, upto);
                    fresh.push(Batch { account: key, first, last: upto, name });
                }
            }
        }
        if !fresh.is_empty() {
            self.means.db.decide_batches(sink, &fresh, now).await?;
            held.extend(fresh.into_iter().map(|batch| (batch.account, batch)));
        }
        let batches = behind.iter().filter_map(|account| Some((account.owned, held.remove(&account.owned.account)?)));
        Ok(batches.take(ACCOUNTS).collect())
    }
}

impl Deliverer {
    /// What is to become of an account's feed between the cursor and `end`.
    async fn next(&self, account: &Behind, end: i64, full: bool, now: Time) -> Result<Next, DbError> {
        let window = Window { account: account.owned.account, after: account.cursor, upto: end };
        let heads = self.means.db.feed_heads(&[window]).await?;
        let wanted: Vec<&Head> = heads.iter().filter(|head| self.filter.wants(head)).collect();
        Ok(next(&wanted, end, full, now))
    }
}

/// Decides about what is wanted of a part of a feed that ends with `end`; `full` where more follows.
fn next(wanted: &[&Head], end: i64, full: bool, now: Time) -> Next {
    let Some(first) = wanted.first() else { return Next::Skip };
    let hour = |time: Time| time.0.div_euclid(HOUR);
    let mut size = 0;
    let fits = wanted.iter().position(|head| {
        size += head.size;
        hour(head.fetched) != hour(first.fetched) || (size > BYTES && head.feed != first.feed)
    });
    let due = first.fetched + LINGER;
    match fits.and_then(|index| wanted.get(index)) {
        Some(beyond) => Next::Object { upto: beyond.feed - 1, stored: first.fetched },
        // One that was stored by a clock that was ahead is not waited for.
        None if full || now >= due || first.fetched > now + LINGER => Next::Object { upto: end, stored: first.fetched },
        None => Next::Wait { until: due },
    }
}

/// Writes an object; how far the cursor may go then, and how many events are in it.
async fn write(
    db: Db,
    filter: Arc<Filter>,
    store: Arc<ObjectStoreSink>,
    owned: Owned,
    batch: Batch,
) -> Result<(Move, Result<u64, SinkError>), DbError> {
    let window = Window { account: batch.account, after: batch.first - 1, upto: batch.last };
    let gathered = gather::gather(&db, &filter, &[window], u64::MAX).await?;
    let step = Move { owned, upto: batch.last, delivered: 0 };
    // What was erased since, or is damaged, is not in it; an object without anything is none.
    if gathered.events.is_empty() {
        return Ok((step, Ok(0)));
    }
    let put = store.put(&batch.name, &gathered.events).await;
    Ok((step, put.map(|()| gathered.events.len() as u64)))
}

/// Writes events of one account once more, as objects by hour of storing; their names end with `mark`.
pub(super) async fn put_by_hour(store: &ObjectStoreSink, events: &[Event], mark: &str) -> Result<(), SinkError> {
    let hour = |event: &Event| event.stored.0.div_euclid(HOUR);
    for part in events.chunk_by(|one, other| hour(one) == hour(other)) {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
        let name = object_name(&first.account.sub, first.stored, first.feed, last.feed);
        store.put(&format!("{name}{mark}"), part).await?;
    }
    Ok(())
}

/// The rulings over events that were put as a whole.
pub(super) fn ruled(sent: Result<(), SinkError>, events: usize) -> (Vec<Option<Ruling>>, Flow) {
    match sent {
        Ok(()) => (vec![Some(Ruling::Delivered); events], Flow::On),
        Err(error) => (vec![None; events], Flow::Rest(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Item;

    fn head(feed: i64, fetched: i64, size: u64) -> Head {
        Head { account: 1, feed, item: Item(4), stored: true, fetched: Time(fetched), size }
    }

    fn decide(heads: &[Head], end: i64, full: bool, now: i64) -> Next {
        next(&heads.iter().collect::<Vec<_>>(), end, full, Time(now))
    }

    #[test]
    fn an_object_is_due_a_minute_after_its_first_event_or_when_it_is_full() {
        let heads = [head(3, 1_000, 10), head(4, 2_000, 10)];
        assert_eq!(decide(&heads, 5, false, 3_000), Next::Wait { until: Time(61_000) });
        let whole = Next::Object { upto: 5, stored: Time(1_000) };
        assert_eq!(decide(&heads, 5, false, 61_000), whole);
        assert_eq!(decide(&heads, 5, true, 3_000), whole);
        assert_eq!(decide(&heads, 5, false, -86_400_000), whole, "the clock was set back");
        assert_eq!(decide(&[], 5, false, 3_000), Next::Skip);
    }

    #[test]
    fn an_object_ends_with_its_hour_and_where_it_gets_large() {
        let heads = [head(3, 3_599_000, 10), head(6, 3_600_000, 10)];
        assert_eq!(decide(&heads, 9, false, 3_600_500), Next::Object { upto: 5, stored: Time(3_599_000) });
        let heads = [head(3, 0, BYTES + 1), head(4, 1, 1)];
        assert_eq!(decide(&heads, 4, false, 2), Next::Object { upto: 3, stored: Time(0) });
    }
}
