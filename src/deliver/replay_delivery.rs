//! Replays events that were stored in a time range: at a limited rate, beside new events, and under
//! the same ids.

use std::time::Duration;

use super::event_builder::{EventBatch, read_events};
use super::event_delivery::{damaged_failures, first_failure};
use super::failure_policy::{EventDecision, probe_count};
use super::object_delivery::{decide_whole_batch, write_by_hour};
use super::sink_client::SinkClient;
use super::{Deliverer, DeliveryProgress, IDLE_POLL_INTERVAL, stop_reason};
use crate::clock::Tick;
use crate::db::{
    AccountKey, CursorAdvance, DbError, DeliveryRound, FeedEntry, FeedRange, ReplayProgress, ReplayRow, SinkKey,
};

/// The most feed entries that one step reads, if few of them are to be sent.
const MAX_FEED_ENTRIES_PER_STEP: i64 = 2_000;

impl Deliverer {
    /// Continues the oldest replay, if its next step is due.
    pub(super) async fn step_replay(&mut self, sink: SinkKey) -> Result<DeliveryProgress, DbError> {
        let now = self.context.clock.tick();
        if !self.may_replay {
            return Ok(DeliveryProgress::Idle(now + IDLE_POLL_INTERVAL));
        }
        if now < self.replay_after {
            return Ok(DeliveryProgress::Idle(self.replay_after));
        }
        let replay = self.context.db.open_replay(sink, &self.context.owner).await?;
        let Some(replay) = replay.filter(|replay| (self.context.leases)().contains(&replay.lease)) else {
            self.may_replay = false;
            return Ok(DeliveryProgress::Idle(now + IDLE_POLL_INTERVAL));
        };
        self.resend(sink, &replay, now).await
    }

    async fn resend(&mut self, sink: SinkKey, replay: &ReplayRow, now: Tick) -> Result<DeliveryProgress, DbError> {
        let (batch, upto) = self.next_replay_batch(replay).await?;
        let mut round = DeliveryRound { sink, at: self.context.clock.now(), ..DeliveryRound::default() };
        let store = match &self.client {
            Some(SinkClient::ObjectStore(store)) => Some(store.clone()),
            _ => None,
        };
        let (decisions, action) = match store {
            Some(store) => {
                let result = write_by_hour(&store, &batch.events, &format!("-replay-{}", replay.id)).await;
                decide_whole_batch(result, batch.events.len())
            }
            None => self.send_new_events(&batch.events, sink).await?,
        };
        let mut step = ReplayProgress { lease: replay.lease, id: replay.id, upto, sent: 0, is_finished: false };
        for (event, decision) in batch.events.iter().zip(&decisions) {
            let key = (AccountKey(event.account_key), event.feed_seq);
            match decision {
                None => step.upto = step.upto.min(event.feed_seq - 1),
                Some(EventDecision::Delivered) => step.sent += 1,
                Some(decision) => {
                    round.failed_deliveries.extend(first_failure(key, batch.items.get(&key), decision, round.at))
                }
            }
        }
        round.failed_deliveries.extend(damaged_failures(&batch, round.at));
        step.is_finished = step.upto >= replay.until;
        round.advances.push(CursorAdvance { lease: replay.lease, upto: 0, delivered: step.sent });
        round.replay_progress = Some(step);
        round.stopped = stop_reason(&action);
        let events = u32::try_from(batch.events.len()).unwrap_or(u32::MAX);
        self.replay_after = now + Duration::from_secs(1) * events / replay.rate;
        self.log_failures(&round);
        let held = self.record_round(round).await?;
        if step.is_finished && held.contains(&replay.lease.account) {
            tracing::info!(sink = self.settings.name, account = %replay.account, "replay finished");
        }
        Ok(if self.apply_action(&action, step.sent > 0) {
            DeliveryProgress::Worked
        } else {
            DeliveryProgress::Idle(now)
        })
    }

    /// The next events, at most half a second's worth, so that new events do not wait long. Also
    /// returns the feed number up to which they reach.
    async fn next_replay_batch(&self, replay: &ReplayRow) -> Result<(EventBatch, i64), DbError> {
        let end = replay.until.min(replay.feed.saturating_add(MAX_FEED_ENTRIES_PER_STEP));
        let window = FeedRange { account: replay.lease.account, after: replay.feed, upto: end };
        let heads = match self.filter.wants_account(&replay.account.sub) {
            true => self.context.db.feed_entries(&[window]).await?,
            false => Vec::new(),
        };
        let wanted = |head: &&FeedEntry| self.filter.wants(head) && replay.stored.contains(head.fetched);
        let wanted: Vec<&FeedEntry> = heads.iter().filter(wanted).collect();
        let limit = usize::try_from(replay.rate.div_ceil(2)).unwrap_or(1);
        // A paused sink is only probed, as with new events.
        let limit =
            if self.consecutive_pauses() > 0 { limit.min(probe_count(self.consecutive_pauses())) } else { limit };
        let upto = wanted.get(limit).map_or(end, |next| next.feed - 1);
        let keys: Vec<(AccountKey, i64)> = wanted.iter().take(limit).map(|head| (head.account, head.feed)).collect();
        Ok((read_events(&self.context.db, &self.filter, &keys).await?, upto))
    }
}
