//! Replays events that were stored in a time range: at a limited rate, beside new events, and under
//! the same ids.

use std::time::Duration;

use super::delivery_records::damaged_failures;
use super::event_builder::read_events;
use super::sink_client::BatchClient;
use super::{Deliverer, DeliveryProgress, IDLE_POLL_INTERVAL};
use crate::clock::Tick;
use crate::db::{CursorAdvance, DbError, DeliveryRound, FeedEntry, FeedRange, ReplayProgress, ReplayRow, SinkKey};

/// The most feed entries that one step reads, if few of them are to be sent.
const MAX_FEED_ENTRIES_PER_STEP: i64 = 2_000;

impl Deliverer {
    /// Continues the oldest replay with a batch, if its next step is due.
    pub(super) async fn step_replay(
        &mut self,
        client: &BatchClient,
        sink: SinkKey,
    ) -> Result<DeliveryProgress, DbError> {
        let now = self.context.clock.tick();
        if !self.may_replay {
            return Ok(DeliveryProgress::Idle(now + IDLE_POLL_INTERVAL));
        }
        if now < self.replay_after {
            return Ok(DeliveryProgress::Idle(self.replay_after));
        }
        let Some(replay) = self.open_replay(sink).await? else {
            return Ok(DeliveryProgress::Idle(now + IDLE_POLL_INTERVAL));
        };
        let (entries, upto) = self.next_replay_entries(&replay, replay.feed).await?;
        let keys: Vec<_> = entries.iter().map(|entry| (entry.account, entry.feed)).collect();
        let batch = read_events(&self.context.db, &self.filter, &keys).await?;
        let written = client.write(&batch.events, &format!("-replay-{}", replay.id), &self.context.clock).await;
        if let Err(error) = written {
            return Ok(DeliveryProgress::Idle(self.pause_delivery(&error, false)));
        }
        let sent = batch.events.len() as u64;
        let progress =
            ReplayProgress { lease: replay.lease, id: replay.id, upto, sent, is_finished: upto >= replay.until };
        let mut round = DeliveryRound { sink, at: self.context.clock.now(), ..DeliveryRound::default() };
        round.failed_deliveries.extend(damaged_failures(&batch, round.at));
        round.advances.push(CursorAdvance { lease: replay.lease, upto: 0, delivered: sent });
        round.replay_progress = Some(progress);
        self.delay_replay(&replay, batch.events.len(), now);
        self.log_failures(&round);
        let held = self.record_round(round).await?;
        if progress.is_finished && held.contains(&replay.lease.account) {
            self.log_finished_replay(&replay);
        }
        self.apply_result(None, sent > 0);
        Ok(DeliveryProgress::Worked)
    }

    /// The oldest open replay of this process's accounts.
    pub(super) async fn open_replay(&mut self, sink: SinkKey) -> Result<Option<ReplayRow>, DbError> {
        let replay = self.context.db.open_replay(sink, &self.context.owner).await?;
        let replay = replay.filter(|replay| (self.context.leases)().contains(&replay.lease));
        self.may_replay = replay.is_some();
        Ok(replay)
    }

    /// The next entries after `after`, at most half a second's worth, so that new events do not wait
    /// long. Also returns the feed number up to which they reach.
    pub(super) async fn next_replay_entries(
        &self,
        replay: &ReplayRow,
        after: i64,
    ) -> Result<(Vec<FeedEntry>, i64), DbError> {
        let end = replay.until.min(after.saturating_add(MAX_FEED_ENTRIES_PER_STEP));
        let window = FeedRange { account: replay.lease.account, after, upto: end };
        let entries = match self.filter.wants_account(&replay.account.sub) {
            true => self.context.db.feed_entries(&[window]).await?,
            false => Vec::new(),
        };
        let wanted = |entry: &FeedEntry| self.filter.wants(entry) && replay.stored.contains(entry.fetched);
        let mut wanted: Vec<FeedEntry> = entries.into_iter().filter(wanted).collect();
        let limit = usize::try_from(replay.rate.div_ceil(2)).unwrap_or(1);
        let upto = wanted.get(limit).map_or(end, |next| next.feed - 1);
        wanted.truncate(limit);
        Ok((wanted, upto))
    }

    /// Sets when the next events of the replay are due.
    pub(super) fn delay_replay(&mut self, replay: &ReplayRow, events: usize, now: Tick) {
        self.replay_after = now + Duration::from_secs(1) * u32::try_from(events).unwrap_or(u32::MAX) / replay.rate;
    }

    pub(super) fn log_finished_replay(&self, replay: &ReplayRow) {
        tracing::info!(sink = self.settings.name, account = %replay.account, "replay finished");
    }
}
