//! Sending once more what was stored in some stretch of time: slowly, beside what is new, under the same ids.

use std::time::Duration;

use super::gather::{self, Gathered};
use super::judge::{Ruling, probes};
use super::outlet::Outlet;
use super::pass::new_miss;
use super::{Deliverer, Progress, TICK, objects, stopped};
use crate::clock::Tick;
use crate::db::{DbError, Head, Move, Pass, ReplayRow, Replayed, Window};

/// So many numbers of the feed are looked at in one step, where few of them are to be sent.
const LOOK: i64 = 2_000;

impl Deliverer {
    /// Goes on with the oldest replay, if it is time to.
    pub(super) async fn step_replay(&mut self, sink: i64) -> Result<Progress, DbError> {
        let now = self.means.clock.tick();
        if !self.replaying {
            return Ok(Progress::Idle(now + TICK));
        }
        if now < self.replay_after {
            return Ok(Progress::Idle(self.replay_after));
        }
        let replay = self.means.db.open_replay(sink, &self.means.owner).await?;
        let Some(replay) = replay.filter(|replay| (self.means.mine)().contains(&replay.owned)) else {
            self.replaying = false;
            return Ok(Progress::Idle(now + TICK));
        };
        self.send_once_more(sink, &replay, now).await
    }

    async fn send_once_more(&mut self, sink: i64, replay: &ReplayRow, now: Tick) -> Result<Progress, DbError> {
        let (gathered, upto) = self.next_of(replay).await?;
        let mut pass = Pass { sink, at: self.means.clock.now(), ..Pass::default() };
        let store = match &self.outlet {
            Some(Outlet::Objects(store)) => Some(store.clone()),
            _ => None,
        };
        let (rulings, flow) = match store {
            Some(store) => {
                let sent = objects::put_by_hour(&store, &gathered.events, &format!("-replay-{}", replay.id)).await;
                objects::ruled(sent, gathered.events.len())
            }
            None => self.judged(&gathered.events, sink).await?,
        };
        let mut step = Replayed { id: replay.id, upto, sent: 0, over: false };
        for (event, ruling) in gathered.events.iter().zip(&rulings) {
            let key = (event.account_key, event.feed);
            match ruling {
                None => step.upto = step.upto.min(event.feed - 1),
                Some(Ruling::Delivered) => step.sent += 1,
                Some(ruling) => pass.missed.extend(new_miss(key, gathered.items.get(&key), ruling, pass.at)),
            }
        }
        step.over = step.upto >= replay.until;
        pass.moves.push(Move { owned: replay.owned, upto: 0, delivered: step.sent });
        pass.replayed = Some(step);
        pass.stopped = stopped(&flow);
        let events = u32::try_from(gathered.events.len()).unwrap_or(u32::MAX);
        self.replay_after = now + Duration::from_secs(1) * events / replay.rate;
        self.tell(&pass);
        self.record(pass).await?;
        if step.over {
            tracing::info!(sink = self.settings.name, account = %replay.account, "a replay is over");
        }
        Ok(if self.follow(&flow, step.sent > 0) { Progress::Did } else { Progress::Idle(now) })
    }

    /// The events that come next, half a second's worth at the most, so that what is new does not wait long; and up to which
    /// number of the feed that is.
    async fn next_of(&self, replay: &ReplayRow) -> Result<(Gathered, i64), DbError> {
        let end = replay.until.min(replay.feed.saturating_add(LOOK));
        let window = Window { account: replay.owned.account, after: replay.feed, upto: end };
        let heads = match self.filter.wants_account(&replay.account.sub) {
            true => self.means.db.feed_heads(&[window]).await?,
            false => Vec::new(),
        };
        let wanted = |head: &&Head| self.filter.wants(head) && replay.stored.contains(head.fetched);
        let wanted: Vec<&Head> = heads.iter().filter(wanted).collect();
        let most = usize::try_from(replay.rate.div_ceil(2)).unwrap_or(1);
        // A sink that rests is only tried, with this as with what is new.
        let most = if self.rests() > 0 { most.min(probes(self.rests())) } else { most };
        let upto = wanted.get(most).map_or(end, |next| next.feed - 1);
        let keys: Vec<(i64, i64)> = wanted.iter().take(most).map(|head| (head.account, head.feed)).collect();
        Ok((gather::build(&self.means.db, &self.filter, &keys).await?, upto))
    }
}
