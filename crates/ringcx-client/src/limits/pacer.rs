//! One budget of requests per minute, shared by everything that calls for an account: exact at the server, fully used.
//!
//! Two gates, one behind the other. The ring (`ring.rs`) makes it exact: a request may go only while fewer than the
//! limit can still be in the server's window. The pace (`pace.rs`) spreads requests and makes restarts safe. In front
//! of both stand holds (start-up, a pause after a 429) and the lease of whoever sends (the right to send ends).
//!
//! Waiters are served in the order in which they came; only the first has a timer, so that ten thousand of them cost
//! one, and when the pace is behind, permits go without any.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{LATEST_ARRIVAL, Lapse};
use crate::clock::{Clock, Tick};

mod pace;
mod ring;
mod slowdown;
#[cfg(test)]
mod tests;

use pace::Pace;
use ring::{Mark, Ring, Tally};
pub use slowdown::Setback;
use slowdown::Slowdown;

/// How soon a caller that must not wait may ask again when nobody can know what it waits for.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A request budget, and the lease of whoever sends from it. Clones share both; [`Pacer::leased`] shares the budget only.
#[derive(Clone)]
pub struct Pacer(Arc<Shared>, Lease);

/// The right to send, until a moment; `None` for no end.
type Lease = Arc<watch::Sender<Option<Tick>>>;

struct Shared {
    clock: Clock,
    limit: NonZeroU32,
    state: Mutex<State>,
    /// Whoever holds it is the first in the queue.
    turn: tokio::sync::Mutex<()>,
    /// Told when the first in the queue may have become able to go sooner than it thinks.
    changed: Notify,
}

struct State {
    ring: Ring,
    pace: Pace,
    slowdown: Slowdown,
    hold_until: Tick,
    sent: Tally,
    refused: Tally,
}

/// Why a request may not go now.
enum Wait {
    Until(Tick),
    /// For something that no clock brings: a permit that is used or given back.
    Change,
    /// For the lease to be renewed. Others who send from the budget do not wait for that.
    Lease,
}

/// A snapshot of a [`Pacer`], for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Requests sent in the last 60 s.
    pub sent_last_minute: u64,
    /// Requests a minute that the budget allows.
    pub limit: u32,
    /// Answers of 429 since the start.
    pub refused_total: u64,
    /// Until when nothing leaves (a start, a take-over, a 429); `None` if requests may leave.
    pub paused_until: Option<Tick>,
    /// The share of the limit that is used at present, above 0 and at most 1: below 1 after a 429.
    pub rate_factor: f64,
}

impl Pacer {
    /// A budget of `per_minute` requests in any 60 s as the server sees them. Assumes that nobody used it lately: see
    /// [`Pacer::start_after_lapse`].
    pub fn new(per_minute: NonZeroU32, clock: Clock) -> Pacer {
        let now = clock.tick();
        let state = State {
            ring: Ring::new(per_minute.get()),
            pace: Pace::new(per_minute, now),
            slowdown: Slowdown::new(per_minute.get()),
            hold_until: Tick::default(),
            sent: Tally::default(),
            refused: Tally::default(),
        };
        let (turn, changed) = (tokio::sync::Mutex::new(()), Notify::new());
        let shared = Shared { clock, limit: per_minute, state: Mutex::new(state), turn, changed };
        Pacer(Arc::new(shared), Arc::new(watch::Sender::new(None)))
    }

    /// The same budget under a lease of its own: accounts that share a budget do not lose the right to send together.
    pub fn leased(&self) -> Pacer {
        Pacer(self.0.clone(), Arc::new(watch::Sender::new(None)))
    }

    /// Waits until a request may be sent; first come, first served. Dropping the future loses nothing.
    pub async fn enter(&self) -> Permit {
        loop {
            self.lease_held().await;
            let _turn = self.0.turn.lock().await;
            loop {
                let changed = self.0.changed.notified();
                let wait = match self.take() {
                    Ok(permit) => return permit,
                    Err(wait) => wait,
                };
                match wait {
                    Wait::Until(due) => tokio::select! {
                        () = self.0.clock.sleep_until(due) => {}
                        () = changed => {}
                    },
                    Wait::Change => changed.await,
                    Wait::Lease => break,
                }
            }
        }
    }

    /// Waits outside the queue while the lease is over.
    async fn lease_held(&self) {
        let mut lease = self.1.subscribe();
        // The sender is this pacer's own.
        let _ = lease.wait_for(|until| until.is_none_or(|until| self.0.clock.tick() < until)).await;
    }

    fn has_lease(&self, now: Tick) -> bool {
        self.1.borrow().is_none_or(|until| now < until)
    }

    /// A permit if a request may be sent now and nobody waits for one; else the earliest tick, after now, at which it
    /// is worth asking again.
    pub fn try_enter(&self) -> Result<Permit, Tick> {
        let now = self.0.clock.tick();
        let Ok(_turn) = self.0.turn.try_lock() else {
            return Err(now + self.lock().pace.period().max(Duration::from_millis(1)));
        };
        self.take().map_err(|wait| match wait {
            Wait::Until(due) => due.max(now + Duration::from_nanos(1)),
            Wait::Change | Wait::Lease => now + ASK_AGAIN,
        })
    }

    /// Nothing leaves before `tick`. Never shortens a hold that is in force.
    pub fn hold_until(&self, tick: Tick) {
        let mut state = self.lock();
        state.advance(self.0.clock.tick());
        state.hold_until = state.hold_until.max(tick);
    }

    /// Makes room for what a previous user of the budget may have sent, before the first request: a fresh pacer knows
    /// nothing of it, the server does. To be called once, right after [`Pacer::new`].
    pub fn start_after_lapse(&self, previous: Lapse) {
        let (limit, now) = (self.0.limit.get(), self.0.clock.tick());
        let mut state = self.lock();
        state.advance(now);
        let Some(start) = previous.start(state.pace.period(), limit) else { return };
        state.pace.begin_empty(start.filled_for);
        state.hold_until = state.hold_until.max(now + start.hold);
        let room = previous.room(limit);
        if room > 0 {
            // Whenever in the next minute they arrive, no window that holds them overflows.
            state.ring.occupy(now + super::MINUTE, room.into());
        }
    }

    /// The lease ends at `until`: no permit is given at or after it, and [`Permit::sent`] says no. Whoever waits
    /// goes on waiting until it moves; `None` for no end.
    pub fn deadline(&self, until: Option<Tick>) {
        self.1.send_replace(until);
    }

    /// Somebody else used the budget for one request within the last minute, or is about to.
    pub fn note_foreign_use(&self) {
        let now = self.0.clock.tick();
        self.lock().ring.occupy(now + LATEST_ARRIVAL, 1);
    }

    /// A 429 came: pauses (for `retry_after` at least, else from a second upwards), goes on at what seems to be left
    /// of the limit, unless it stands alone among many good answers, and finds its way back over minutes. Returns how it
    /// stands now, unless that was so before: to be kept where the next process finds it, as the server's memory does not
    /// end with this one.
    pub fn refused(&self, retry_after: Option<Duration>) -> Option<Setback> {
        let now = self.0.clock.tick();
        let mut state = self.lock();
        state.advance(now);
        let through = state.sent.last_minute(now).saturating_sub(state.refused.last_minute(now) + 1);
        state.refused.add(now);
        let share = through as f64 / f64::from(self.0.limit.get());
        if state.slowdown.refused(now, retry_after, share) { state.slowdown.setback() } else { None }
    }

    /// Goes on from where a refusal left an earlier user of the budget. Never ends a later pause.
    pub fn resume(&self, setback: Setback) {
        let mut state = self.lock();
        state.advance(self.0.clock.tick());
        state.slowdown.resume(setback);
    }

    /// Ends the pause that a 429 asked for: a person wants a request to go now. The limit itself holds as before.
    pub fn lift_pause(&self) {
        let now = self.0.clock.tick();
        let mut state = self.lock();
        state.advance(now);
        state.slowdown.lift_pause(now);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Any answer but a 429 came: the next pause begins small again, and so many of them make up for a refusal.
    pub fn succeeded(&self) {
        self.lock().slowdown.succeeded();
    }

    /// Where the budget stands.
    pub fn usage(&self) -> Usage {
        let now = self.0.clock.tick();
        let mut state = self.lock();
        Usage {
            sent_last_minute: state.sent.last_minute(now),
            limit: self.0.limit.get(),
            refused_total: state.slowdown.total(),
            paused_until: Some(state.held_until()).filter(|until| *until > now),
            rate_factor: state.slowdown.factor(now),
        }
    }

    fn take(&self) -> Result<Permit, Wait> {
        let now = self.0.clock.tick();
        if !self.has_lease(now) {
            return Err(Wait::Lease);
        }
        self.lock().take(now)?;
        Ok(Permit { pacer: self.clone(), stage: Stage::Granted })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Pacer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pacer").field(&self.usage()).finish()
    }
}

impl State {
    fn take(&mut self, now: Tick) -> Result<(), Wait> {
        self.advance(now);
        let held = self.held_until();
        if now < held {
            return Err(Wait::Until(held));
        }
        self.ring.tidy(now);
        if self.ring.is_full() {
            return Err(self.ring.next_free().map_or(Wait::Change, Wait::Until));
        }
        self.pace.take().map_err(|wait| Wait::Until(now + self.real(wait, now)))?;
        self.ring.enter();
        Ok(())
    }

    /// How long paced time takes to pass.
    fn real(&self, paced: Duration, now: Tick) -> Duration {
        let factor = self.slowdown.factor(now);
        // One more nanosecond, or rounding down would make the waiter turn once more for nothing.
        if factor < 1.0 { paced.div_f64(factor) + Duration::from_nanos(1) } else { paced }
    }

    fn advance(&mut self, now: Tick) {
        let factor = self.slowdown.factor(now);
        self.pace.advance(now, self.held_until(), factor);
    }

    fn held_until(&self) -> Tick {
        self.slowdown.pause_until().map_or(self.hold_until, |pause| pause.max(self.hold_until))
    }
}

/// The right to send one request, now.
///
/// Call [`Permit::sent`] immediately before the request leaves and [`Permit::counted`] as soon as its headers came or
/// it failed. Dropped before `sent`, it gives its place back: no request was made. Dropped after `sent` without
/// `counted` (its task was cancelled), it counts as arrived 2 s after it was sent, whenever it is dropped: giving up on a
/// request recalls nothing from the network, so an earlier drop proves nothing, and a later one neither.
#[must_use = "a permit that is dropped gives its place back"]
pub struct Permit {
    pacer: Pacer,
    stage: Stage,
}

enum Stage {
    Granted,
    Sent(Mark),
    Counted,
}

impl Permit {
    /// The request is about to leave: its place is taken from now on. `false` if the lease has ended since the
    /// permit was given (the machine slept, the process was stopped): then the request must not leave. Its place is
    /// taken all the same, in case it does.
    pub fn sent(&mut self) -> bool {
        let now = self.pacer.0.clock.tick();
        let mut state = self.pacer.lock();
        if let Stage::Granted = self.stage {
            self.stage = Stage::Sent(state.ring.send(now));
            state.sent.add(now);
            state.slowdown.sent(now);
            if state.ring.is_full() {
                // Whoever waits for this very permit can now wait for a moment.
                self.pacer.0.changed.notify_one();
            }
        }
        drop(state);
        self.pacer.has_lease(now)
    }

    /// The server has certainly counted the request: its headers came, or it failed.
    pub fn counted(mut self) {
        // Whoever forgot to say when it was sent is believed to have sent it.
        self.sent();
        if let Stage::Sent(mark) = std::mem::replace(&mut self.stage, Stage::Counted) {
            let now = self.pacer.0.clock.tick();
            let mut state = self.pacer.lock();
            let was_full = state.ring.is_full();
            state.ring.count(mark, now);
            if was_full {
                self.pacer.0.changed.notify_one();
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Stage::Granted = self.stage {
            let mut state = self.pacer.lock();
            state.ring.give_back();
            state.pace.put_back();
            self.pacer.0.changed.notify_one();
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.stage {
            Stage::Granted => "Permit(granted)",
            Stage::Sent(_) => "Permit(sent)",
            Stage::Counted => "Permit(counted)",
        })
    }
}
