//! Moves what is stored on to other systems: from each account's feed, past each sink's cursor, to the sink.
//!
//! Reads and writes `db`, sends through `sink`; knows nothing of the stages before it. A sink is a cursor per account and
//! the few events that did not go through. What was sent is recorded after it was sent: a crash repeats deliveries, under
//! the same ids, and loses none. A sink that takes nothing rests, with its cursors where they are; its backlog is the
//! feed itself and costs nothing. Each sink is a [`Deliverer`] of its own, so that none waits for another.

mod board;
mod gather;
mod judge;
mod objects;
mod outlet;
mod pass;
mod replay;
mod share;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::clock::{Clock, Tick, Time};
use crate::config::{Sink, SinkKind, SinkStart};
use crate::db::{Db, DbError, Owned, Pass};
use crate::sink::SinkError;

pub use board::{Board, Resting};
use gather::Filter;
use judge::{Flow, Streak};
use outlet::Outlet;

/// How often a sink that has nothing to do looks around.
const TICK: Duration = Duration::from_secs(5);

/// Rests begin this short and get this long.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How often the log says that a sink rests: one that takes some events and refuses others rests every few seconds.
const REST_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Delays between tries of one event begin this short and get this long.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(86_400));

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was something; there may be more.
    Did,
    /// There is nothing to do until then, unless something is stored or a person asks.
    Idle(Tick),
}

/// What a deliverer works with.
#[derive(Clone)]
pub struct Means {
    /// Where the feeds and the cursors are.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// This replica's name: only accounts that it owns are delivered.
    pub owner: String,
    /// The accounts that this replica works on now.
    pub mine: Arc<dyn Fn() -> Vec<Owned> + Send + Sync>,
    /// Where it is said how the sink does.
    pub board: Arc<Board>,
    /// Cancelled when the daemon ends: what is under way is finished, nothing new is sent.
    pub stop: CancellationToken,
}

/// One sink's way from the feeds to the outside.
pub struct Deliverer {
    means: Means,
    settings: Sink,
    filter: Arc<Filter>,
    outlet: Option<Outlet>,
    /// Its number in the database; `None` until it has been looked up.
    key: Option<i64>,
    /// Whether it is stopped.
    stopped: bool,
    /// When its row is looked at again.
    look: Tick,
    rest: Option<Rest>,
    /// Before then no further rest is worth a warning.
    next_warning: Tick,
    streak: Streak,
    /// Which account comes first, so that all take turns.
    turn: usize,
    /// Whether there may be something to be sent once more, and when that may go on.
    replaying: bool,
    replay_after: Tick,
    /// Accounts whose next object is not due before then.
    objects_after: BTreeMap<i64, Tick>,
    /// What has been sent, but could not be recorded: before anything else is.
    unrecorded: Option<Pass>,
}

/// A sink that takes nothing at present.
#[derive(Debug, Clone)]
struct Rest {
    until: Tick,
    times: u32,
    since: Time,
    /// Whether the log has said so.
    warned: bool,
}

impl Deliverer {
    /// For the sink of these settings; touches nothing yet.
    pub fn new(settings: Sink, means: Means) -> Deliverer {
        Deliverer {
            filter: Arc::new(Filter::new(&settings)),
            settings,
            means,
            outlet: None,
            key: None,
            stopped: false,
            look: Tick::default(),
            rest: None,
            next_warning: Tick::default(),
            streak: Streak::default(),
            turn: 0,
            replaying: true,
            replay_after: Tick::default(),
            objects_after: BTreeMap::new(),
            unrecorded: None,
        }
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Delivers what there is, up to a bound; says whether there was anything.
    ///
    /// # Errors
    /// Where the database fails; what was sent and could not be recorded is recorded first the next time.
    pub async fn step(&mut self) -> Result<Progress, DbError> {
        if let Some(pass) = &self.unrecorded {
            self.means.db.record_pass(pass).await?;
            self.unrecorded = None;
            // It may have stopped the sink.
            self.look = Tick::default();
        }
        let now = self.means.clock.tick();
        let sink = self.look_up(now).await?;
        if self.stopped {
            return Ok(Progress::Idle(now + TICK));
        }
        if let Some(until) = self.rests_until(now) {
            return Ok(Progress::Idle(until));
        }
        if let Err(error) = self.open().await {
            return Ok(Progress::Idle(self.lie_down(&error, false)));
        }
        let progress = match &self.outlet {
            Some(Outlet::Objects(store)) => {
                let store = store.clone();
                self.step_objects(sink, &store).await?
            }
            _ => self.step_events(sink).await?,
        };
        if self.stopped || self.rests_until(self.means.clock.tick()).is_some() {
            return Ok(progress);
        }
        Ok(match (progress, self.step_replay(sink).await?) {
            (Progress::Idle(one), Progress::Idle(other)) => {
                self.clear_rest_that_is_over();
                Progress::Idle(one.min(other))
            }
            _ => Progress::Did,
        })
    }

    /// Where there is nothing that a sink could be tried with, it is not said to rest any more. Whether it takes anything is
    /// still to be seen: the next event is a probe.
    fn clear_rest_that_is_over(&self) {
        if self.rest.is_some() && !self.replaying && self.rests_until(self.means.clock.tick()).is_none() {
            self.means.board.set(&self.settings.name, None);
        }
    }

    /// A person has changed something: a sink that rests or is stopped is tried at once.
    pub fn rung(&mut self) {
        self.look = Tick::default();
        self.objects_after.clear();
        if let Some(rest) = &mut self.rest {
            rest.until = Tick::default();
        }
    }

    /// Has something unexpected keep the sink from working: it rests, and the others go on.
    pub fn trouble(&mut self, error: &DbError) -> Tick {
        self.lie_down(&SinkError::away(format!("the database failed: {error}")), false)
    }

    /// The sink's number; its row is made where its name is new, and read again now and then.
    async fn look_up(&mut self, now: Tick) -> Result<i64, DbError> {
        if let Some(key) = self.key.filter(|_| now < self.look) {
            return Ok(key);
        }
        let from_beginning = self.settings.start == SinkStart::Beginning;
        let place = place(&self.settings.kind);
        let row = self.means.db.sink(&self.settings.name, from_beginning, &place, self.means.clock.now()).await?;
        if std::mem::replace(&mut self.stopped, row.stopped.is_some()) && !self.stopped {
            tracing::info!(sink = self.settings.name, "the sink is started again");
        } else if self.stopped && self.key.is_none() {
            let reason = row.reason.unwrap_or_default();
            tracing::error!(sink = self.settings.name, reason, "the sink is stopped; {STOPPED}");
        }
        self.key = Some(row.key);
        self.look = now + TICK;
        self.replaying = true;
        Ok(row.key)
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        if self.outlet.is_none() {
            // On Postgres several replicas may share a folder; on SQLite there is only one.
            let shared = self.means.db.file().is_none().then_some(self.means.owner.as_str());
            let outlet = Outlet::new(&self.settings.kind, shared, &self.means.clock)?;
            outlet.mend().await;
            self.outlet = Some(outlet);
        }
        Ok(())
    }

    /// Those of the owner's accounts that this process works on.
    fn mine(&self) -> HashSet<(i64, i64)> {
        (self.means.mine)().into_iter().map(|owned| (owned.account, owned.epoch)).collect()
    }

    /// How often in a row it has rested.
    fn rests(&self) -> u32 {
        self.rest.as_ref().map_or(0, |rest| rest.times)
    }

    /// Until when it rests, if it does at `now`.
    fn rests_until(&self, now: Tick) -> Option<Tick> {
        self.rest.as_ref().map(|rest| rest.until).filter(|until| now < *until)
    }

    /// Lets the sink rest: as long as it asks for, else longer each time in a row. One that has just `taken` something begins
    /// with a short rest again: it is not away, however often it refuses. Returns until when.
    fn lie_down(&mut self, error: &SinkError, taken: bool) -> Tick {
        let (tick, now) = (self.means.clock.tick(), self.means.clock.now());
        let before = self.rest.take().filter(|_| !taken);
        let (since, times, warned) =
            before.map_or((now, 1, false), |rest| (rest.since, rest.times.saturating_add(1), rest.warned));
        let delay = error.retry_after.filter(|asked| !asked.is_zero()).unwrap_or_else(|| delay(REST, times));
        let warns = !warned && tick >= self.next_warning;
        if warns {
            self.next_warning = tick + REST_WARNING_INTERVAL;
            tracing::warn!(
                sink = self.settings.name,
                reason = error.reason(),
                "the sink takes nothing at present; it rests and is tried again by itself, and nothing is lost"
            );
        } else {
            tracing::debug!(sink = self.settings.name, reason = error.reason(), times, "the sink still takes nothing");
        }
        let until = tick + delay;
        self.rest = Some(Rest { until, times, since, warned: warned || warns });
        let resting = Resting { since, until: now + delay, reason: error.reason() };
        self.means.board.set(&self.settings.name, Some(resting));
        until
    }

    fn get_up(&mut self) {
        if let Some(rest) = self.rest.take() {
            if rest.warned {
                let after = self.means.clock.now().since(rest.since).as_secs();
                tracing::info!(sink = self.settings.name, after_seconds = after, "the sink takes events again");
            }
            self.means.board.set(&self.settings.name, None);
        }
    }

    /// Does with the sink what its answers say; `taken` where it took something. Returns whether it goes on. A sink that was
    /// tried with nothing has not shown that it takes anything: it gets up when it has.
    fn follow(&mut self, flow: &Flow, taken: bool) -> bool {
        match flow {
            Flow::On => {
                if taken {
                    self.get_up();
                }
                true
            }
            Flow::Rest(error) => {
                self.lie_down(error, taken);
                false
            }
            Flow::Stop(error) => {
                self.stopped = true;
                self.means.board.set(&self.settings.name, None);
                self.rest = None;
                tracing::error!(sink = self.settings.name, reason = error.reason(), "the sink is stopped; {STOPPED}");
                false
            }
        }
    }

    /// Records what a pass came to; where that fails it is kept, so that nothing is sent again for it.
    async fn record(&mut self, pass: Pass) -> Result<(), DbError> {
        let recorded = self.means.db.record_pass(&pass).await.map(drop);
        if recorded.is_err() {
            self.unrecorded = Some(pass);
        }
        recorded
    }

    /// When to look again where there is nothing to do: at the next event's due time, or soon.
    async fn idle(&self, sink: i64) -> Result<Progress, DbError> {
        let (tick, now) = (self.means.clock.tick(), self.means.clock.now());
        let (due, _) = self.means.db.missed_waiting(sink).await?;
        let due = due.filter(|due| *due > now).map(|due| tick + due.since(now));
        Ok(Progress::Idle(due.map_or(tick + TICK, |due| due.min(tick + TICK))))
    }
}

/// What to do about a sink that said that it wants nothing more.
pub const STOPPED: &str =
    "give it another url, take it out of the settings, or start it again with `ringcx-extractor deliver retry`";

/// Why the sink wants nothing more, where it said so.
fn stopped(flow: &Flow) -> Option<String> {
    match flow {
        Flow::Stop(error) => Some(error.reason()),
        Flow::On | Flow::Rest(_) => None,
    }
}

/// The delay after so many tries, between the bounds, with jitter.
fn delay((first, longest): (Duration, Duration), tries: u32) -> Duration {
    let backoff = Backoff::new(first, longest, longest);
    backoff.map_or(longest, |backoff| backoff.delay(tries, rand::rng().random()))
}

/// Stands for where a sink delivers to, without saying it.
fn place(kind: &SinkKind) -> String {
    let text = match kind {
        SinkKind::Jsonl { path, .. } => format!("jsonl {}", path.display()),
        SinkKind::Webhook { url, .. } => format!("webhook {}", url.expose_secret()),
        SinkKind::ObjectStore { url, .. } => format!("object_store {url}"),
    };
    Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delays_grow_and_stay_within_their_bounds(tries in 1u32..100_000) {
            for bounds in [REST, AGAIN] {
                let delay = delay(bounds, tries);
                prop_assert!(delay >= bounds.0 / 2 && delay <= bounds.1);
                if tries > 20 {
                    prop_assert!(delay >= bounds.1 / 2);
                }
            }
        }
    }
}
