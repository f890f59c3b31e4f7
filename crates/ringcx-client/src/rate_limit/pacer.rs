//! One limit of requests per minute, shared by all callers of an account: exact at the server, and
//! nearly all of it used.
//!
//! A request passes two checks. The sliding-window log (`sliding_window_log.rs`) makes the limit
//! exact: a request is allowed only while fewer than the limit can still be in the server's window.
//! GCRA (`gcra.rs`) spreads requests and makes restarts safe. Before both, holds (start-up, a pause
//! after a 429) and the sender's lease deadline can stop all requests.
//!
//! Waiters are served in the order of their arrival. Only the first has a timer, so ten thousand
//! waiters cost one timer. While GCRA has tokens left, permits need no timer.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::adaptive_throttle::{AdaptiveThrottle, ThrottleState};
use super::gcra::Gcra;
use super::sliding_window_log::{LogEntry, RollingCounter, SlidingWindowLog};
use super::{MAX_ARRIVAL_DELAY, PreviousOwner, REQUEST_WINDOW};
use crate::clock::{Clock, Tick};

#[cfg(test)]
mod tests;

/// When a caller of [`Pacer::try_acquire`] may ask again, where no clock tells when its reason to
/// wait ends.
const UNTIMED_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A limit of requests per minute, and the lease of its sender. Clones share both;
/// [`Pacer::with_own_lease`] shares the limit only.
#[derive(Clone)]
pub struct Pacer(Arc<PacerInner>, LeaseDeadline);

/// The end of the right to send; `None` for no end.
type LeaseDeadline = Arc<watch::Sender<Option<Tick>>>;

struct PacerInner {
    clock: Clock,
    limit: NonZeroU32,
    state: Mutex<PacerState>,
    /// Its holder is the first in the queue.
    queue_head: tokio::sync::Mutex<()>,
    /// Notified when the first in the queue may be able to send sooner than computed.
    state_changed: Notify,
}

struct PacerState {
    window_log: SlidingWindowLog,
    gcra: Gcra,
    throttle: AdaptiveThrottle,
    hold_until: Tick,
    sent: RollingCounter,
    refused: RollingCounter,
}

/// Why a request may not be sent now.
enum WaitReason {
    Until(Tick),
    /// For a permit to be used or returned.
    PermitChange,
    /// For the lease to be renewed. Senders with another lease do not wait for it.
    LeaseRenewal,
}

/// A snapshot of a [`Pacer`], for status output and metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Requests sent in the last 60 s.
    pub sent_last_minute: u64,
    /// Allowed requests per minute.
    pub limit: u32,
    /// Answers of 429 since the start.
    pub refused_total: u64,
    /// Until when nothing is sent (after a start, a take-over, a 429); `None` if requests may be
    /// sent.
    pub paused_until: Option<Tick>,
    /// The share of the limit that may be used now, above 0 and at most 1: below 1 after a 429.
    pub rate_factor: f64,
}

impl Pacer {
    /// At most `per_minute` requests in any 60 s, as the server counts them. Assumes that nobody
    /// used the limit in the last minute; otherwise call [`Pacer::start_after`].
    pub fn new(per_minute: NonZeroU32, clock: Clock) -> Pacer {
        let now = clock.tick();
        let state = PacerState {
            window_log: SlidingWindowLog::new(per_minute.get()),
            gcra: Gcra::new(per_minute, now),
            throttle: AdaptiveThrottle::new(per_minute.get()),
            hold_until: Tick::default(),
            sent: RollingCounter::default(),
            refused: RollingCounter::default(),
        };
        let (queue_head, state_changed) = (tokio::sync::Mutex::new(()), Notify::new());
        let inner = PacerInner { clock, limit: per_minute, state: Mutex::new(state), queue_head, state_changed };
        Pacer(Arc::new(inner), Arc::new(watch::Sender::new(None)))
    }

    /// The same limit under its own lease: accounts that share a limit keep separate rights to
    /// send.
    pub fn with_own_lease(&self) -> Pacer {
        Pacer(self.0.clone(), Arc::new(watch::Sender::new(None)))
    }

    /// Waits until a request may be sent; first in, first out. Safe to cancel.
    pub async fn acquire(&self) -> Permit {
        loop {
            self.wait_for_lease().await;
            let _queue_head = self.0.queue_head.lock().await;
            loop {
                let state_changed = self.0.state_changed.notified();
                let wait = match self.try_grant() {
                    Ok(permit) => return permit,
                    Err(wait) => wait,
                };
                match wait {
                    WaitReason::Until(due) => tokio::select! {
                        () = self.0.clock.sleep_until(due) => {}
                        () = state_changed => {}
                    },
                    WaitReason::PermitChange => state_changed.await,
                    WaitReason::LeaseRenewal => break,
                }
            }
        }
    }

    /// Waits outside the queue while the lease has expired.
    async fn wait_for_lease(&self) {
        let mut deadline_watch = self.1.subscribe();
        // The pacer owns the sender, so the channel stays open.
        let _ = deadline_watch.wait_for(|until| until.is_none_or(|until| self.0.clock.tick() < until)).await;
    }

    fn has_lease(&self, now: Tick) -> bool {
        self.1.borrow().is_none_or(|until| now < until)
    }

    /// A permit if a request may be sent now and nobody waits for one. Otherwise the earliest tick,
    /// after now, at which to try again.
    pub fn try_acquire(&self) -> Result<Permit, Tick> {
        let now = self.0.clock.tick();
        let Ok(_queue_head) = self.0.queue_head.try_lock() else {
            return Err(now + self.0.state.lock().gcra.request_interval().max(Duration::from_millis(1)));
        };
        self.try_grant().map_err(|wait| match wait {
            WaitReason::Until(due) => due.max(now + Duration::from_nanos(1)),
            WaitReason::PermitChange | WaitReason::LeaseRenewal => now + UNTIMED_RETRY_INTERVAL,
        })
    }

    /// Sends nothing before `tick`. Never shortens a hold that is in force.
    pub fn hold_until(&self, tick: Tick) {
        let mut state = self.0.state.lock();
        state.advance(self.0.clock.tick());
        state.hold_until = state.hold_until.max(tick);
    }

    /// Accounts for the requests of the limit's previous owner, which the server still counts and a
    /// new pacer does not know. Call it once, directly after [`Pacer::new`].
    pub fn start_after(&self, previous: PreviousOwner) {
        let (limit, now) = (self.0.limit.get(), self.0.clock.tick());
        let mut state = self.0.state.lock();
        state.advance(now);
        let Some(start) = previous.start_delay(state.gcra.request_interval(), limit) else { return };
        state.gcra.start_empty(start.filled_for);
        state.hold_until = state.hold_until.max(now + start.hold);
        let reserved_slots = previous.reserved_slots(limit);
        if reserved_slots > 0 {
            // Whenever they arrive in the next minute, no window exceeds the limit.
            state.window_log.occupy(now + REQUEST_WINDOW, reserved_slots.into());
        }
    }

    /// Sets the lease's deadline: at `until` and later no permit is granted, and
    /// [`Permit::mark_sent`] returns false. Waiters wait until the deadline moves. `None` for no
    /// deadline.
    pub fn set_lease_deadline(&self, until: Option<Tick>) {
        self.1.send_replace(until);
    }

    /// Records one request by another client within the last minute, or in the next moment.
    pub fn record_foreign_use(&self) {
        let now = self.0.clock.tick();
        self.0.state.lock().window_log.occupy(now + MAX_ARRIVAL_DELAY, 1);
    }

    /// Records a 429: pauses (for `retry_after` at least, otherwise for a second or longer), then
    /// continues at the rate that seems to be left, and recovers over minutes. A single refusal
    /// among many successes causes a pause only. Returns the new state if it has changed. Store it
    /// for the next process, because the server's count outlives this one.
    pub fn record_refusal(&self, retry_after: Option<Duration>) -> Option<ThrottleState> {
        let now = self.0.clock.tick();
        let mut state = self.0.state.lock();
        state.advance(now);
        let through = state.sent.last_minute(now).saturating_sub(state.refused.last_minute(now) + 1);
        state.refused.add(now);
        let share = through as f64 / f64::from(self.0.limit.get());
        if state.throttle.record_refusal(now, retry_after, share) { state.throttle.state() } else { None }
    }

    /// Continues from the state of an earlier process. Never ends a later pause.
    pub fn restore_throttle(&self, saved: ThrottleState) {
        let mut state = self.0.state.lock();
        state.advance(self.0.clock.tick());
        state.throttle.restore(saved);
    }

    /// Ends the pause after a 429, on an operator's request. The limit itself still holds.
    pub fn lift_pause(&self) {
        let now = self.0.clock.tick();
        let mut state = self.0.state.lock();
        state.advance(now);
        state.throttle.lift_pause(now);
        drop(state);
        self.0.state_changed.notify_one();
    }

    /// Records an answer other than 429: the next pause is short again, and enough successes offset
    /// a refusal.
    pub fn record_success(&self) {
        self.0.state.lock().throttle.record_success();
    }

    /// The current use of the limit.
    pub fn usage(&self) -> Usage {
        let now = self.0.clock.tick();
        let mut state = self.0.state.lock();
        Usage {
            sent_last_minute: state.sent.last_minute(now),
            limit: self.0.limit.get(),
            refused_total: state.throttle.total_refusals(),
            paused_until: Some(state.held_until()).filter(|until| *until > now),
            rate_factor: state.throttle.rate_factor(now),
        }
    }

    fn try_grant(&self) -> Result<Permit, WaitReason> {
        let now = self.0.clock.tick();
        if !self.has_lease(now) {
            return Err(WaitReason::LeaseRenewal);
        }
        self.0.state.lock().try_grant(now)?;
        Ok(Permit { pacer: self.clone(), stage: PermitStage::Granted })
    }
}

impl std::fmt::Debug for Pacer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pacer").field(&self.usage()).finish()
    }
}

impl PacerState {
    fn try_grant(&mut self, now: Tick) -> Result<(), WaitReason> {
        self.advance(now);
        let held = self.held_until();
        if now < held {
            return Err(WaitReason::Until(held));
        }
        self.window_log.evict_expired(now);
        if self.window_log.is_full() {
            return Err(self.window_log.next_free_at().map_or(WaitReason::PermitChange, WaitReason::Until));
        }
        self.gcra.try_take().map_err(|wait| WaitReason::Until(now + self.real_time_for(wait, now)))?;
        self.window_log.reserve_slot();
        Ok(())
    }

    /// The real time that a span of paced time takes.
    fn real_time_for(&self, paced: Duration, now: Tick) -> Duration {
        let factor = self.throttle.rate_factor(now);
        // One more nanosecond: rounding down would wake the waiter too early.
        if factor < 1.0 { paced.div_f64(factor) + Duration::from_nanos(1) } else { paced }
    }

    fn advance(&mut self, now: Tick) {
        let factor = self.throttle.rate_factor(now);
        self.gcra.advance(now, self.held_until(), factor);
    }

    fn held_until(&self) -> Tick {
        self.throttle.pause_until().map_or(self.hold_until, |pause| pause.max(self.hold_until))
    }
}

/// The right to send one request now.
///
/// Call [`Permit::mark_sent`] immediately before sending, and [`Permit::mark_counted`] as soon as
/// the headers came or the request failed. Dropped before `mark_sent`, it releases its slot: no
/// request was made. Dropped after `mark_sent` without `mark_counted` (its task was cancelled), the
/// request counts as arrived 2 s after it was sent. The moment of the drop does not matter:
/// cancelling a request does not recall it from the network.
#[must_use = "a permit that is dropped releases its slot"]
pub struct Permit {
    pacer: Pacer,
    stage: PermitStage,
}

enum PermitStage {
    Granted,
    Sent(LogEntry),
    Counted,
}

impl Permit {
    /// Marks the request as sent now: it holds its slot from here on. Returns `false` if the lease
    /// has ended since the permit was granted (the machine or the process was suspended): then the
    /// request must not be sent. It holds its slot all the same, in case it is.
    pub fn mark_sent(&mut self) -> bool {
        let now = self.pacer.0.clock.tick();
        let mut state = self.pacer.0.state.lock();
        if let PermitStage::Granted = self.stage {
            self.stage = PermitStage::Sent(state.window_log.record_sent(now));
            state.sent.add(now);
            state.throttle.record_sent(now);
            if state.window_log.is_full() {
                // The first waiter now knows until when to wait.
                self.pacer.0.state_changed.notify_one();
            }
        }
        drop(state);
        self.pacer.has_lease(now)
    }

    /// The server has certainly counted the request: its headers came, or it failed.
    pub fn mark_counted(mut self) {
        // A caller that did not mark it as sent has sent it all the same.
        self.mark_sent();
        if let PermitStage::Sent(entry) = std::mem::replace(&mut self.stage, PermitStage::Counted) {
            let now = self.pacer.0.clock.tick();
            let mut state = self.pacer.0.state.lock();
            let was_full = state.window_log.is_full();
            state.window_log.record_counted(entry, now);
            if was_full {
                self.pacer.0.state_changed.notify_one();
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let PermitStage::Granted = self.stage {
            let mut state = self.pacer.0.state.lock();
            state.window_log.release_slot();
            state.gcra.refund();
            self.pacer.0.state_changed.notify_one();
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.stage {
            PermitStage::Granted => "Permit(granted)",
            PermitStage::Sent(_) => "Permit(sent)",
            PermitStage::Counted => "Permit(counted)",
        })
    }
}
