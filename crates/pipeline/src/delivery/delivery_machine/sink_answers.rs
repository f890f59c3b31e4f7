//! What an answer means for its event and for the sink.

use std::time::Duration;

use rand::Rng;

use super::super::{pause_delay, retry_delay};
use super::{Circuit, DeliveryAction, DeliveryMachine, Failure, FailureKind, InFlight, PendingEvent, Settlement};
use crate::clock::Tick;

/// More refused events in a row than this, with none accepted, open the circuit.
const MAX_CONSECUTIVE_REFUSALS: u32 = 20;

impl DeliveryMachine {
    pub(super) fn on_answer(
        &mut self,
        id: u64,
        answer: Result<(), Failure>,
        took: Duration,
        now: Tick,
        rng: &mut impl Rng,
        actions: &mut Vec<DeliveryAction>,
    ) {
        // An abandoned request may still have been answered.
        if !self.in_flight.contains_key(&id) {
            return;
        }
        let is_full = self.counted_in_flight(now) >= self.limit.get();
        let Some(InFlight { event, .. }) = self.in_flight.remove(&id) else { return };
        let kind = answer.err().map(|failure| failure.kind);
        self.limit.on_answer(matches!(kind, Some(FailureKind::Throttled | FailureKind::TimedOut)), is_full);
        let Err(failure) = answer else {
            self.usual_time = Some(self.usual_time.map_or(took, |usual| (usual * 7 + took) / 8));
            self.consecutive_refusals = 0;
            self.window.push(now, (event.segment, event.feed), true);
            self.settle(event, Settlement::Delivered, now, actions);
            self.close_circuit(now, rng, actions);
            return;
        };
        match failure.kind {
            FailureKind::Gone => {
                self.settle(event, Settlement::GiveUp, now, actions);
                actions.push(DeliveryAction::Stop(id));
            }
            FailureKind::Refused => {
                self.consecutive_refusals = self.consecutive_refusals.saturating_add(1);
                if self.consecutive_refusals > MAX_CONSECUTIVE_REFUSALS {
                    self.undecided.push((event, failure));
                    self.open_circuit(id, failure, now, rng, actions);
                } else {
                    self.settle(event, Settlement::GiveUp, now, actions);
                    self.close_circuit(now, rng, actions);
                }
            }
            _ => self.on_failure(event, failure, now, rng, actions),
        }
    }

    fn on_failure(
        &mut self,
        event: PendingEvent,
        failure: Failure,
        now: Tick,
        rng: &mut impl Rng,
        actions: &mut Vec<DeliveryAction>,
    ) {
        self.window.push(now, (event.segment, event.feed), false);
        let whole_sink = match failure.kind {
            FailureKind::Throttled | FailureKind::Unreachable => !self.window.has_recent_success(),
            _ => false,
        };
        match self.circuit {
            Circuit::Open { openings, .. } => {
                self.undecided.push((event, failure));
                self.return_undecided();
                // The longest wait that the sink asks for counts.
                if let Some(wait) = failure.retry_after
                    && let Circuit::Open { until, .. } = self.circuit
                    && now + wait > until
                {
                    self.circuit = Circuit::Open { until: now + wait, openings };
                    actions.push(DeliveryAction::Pause { until: now + wait, cause: event.id });
                }
            }
            Circuit::HalfOpen { .. } => {
                self.undecided.push((event, failure));
                // The other probes may still succeed.
                if self.in_flight.is_empty() && (!self.may_probe() || !self.has_sendable()) || whole_sink {
                    self.open_circuit(event.id, failure, now, rng, actions);
                }
            }
            Circuit::Closed if whole_sink || self.window.shows_an_outage() => {
                self.undecided.push((event, failure));
                self.open_circuit(event.id, failure, now, rng, actions);
            }
            // A wrong setting concerns all events, although earlier ones were accepted: the next
            // answer decides.
            Circuit::Closed if self.window.has_success() && failure.kind != FailureKind::WrongSetting => {
                let settlement = decide(&event, failure, true, rng);
                self.settle(event, settlement, now, actions);
            }
            Circuit::Closed => self.undecided.push((event, failure)),
        }
    }

    /// Opens the circuit, for as long as the sink asks, or longer each time in a row.
    pub(super) fn open_circuit(
        &mut self,
        cause: u64,
        failure: Failure,
        now: Tick,
        rng: &mut impl Rng,
        actions: &mut Vec<DeliveryAction>,
    ) {
        let openings = match self.circuit {
            Circuit::Closed => 1,
            Circuit::Open { openings, .. } | Circuit::HalfOpen { openings, .. } => openings.saturating_add(1),
        };
        let asked = failure.retry_after.filter(|asked| !asked.is_zero());
        let until = now + asked.unwrap_or_else(|| pause_delay(openings, rng.random()));
        self.circuit = Circuit::Open { until, openings };
        self.window.clear();
        self.return_undecided();
        actions.push(DeliveryAction::Pause { until, cause });
    }

    /// Closes the circuit: the sink is alive, so earlier failures were the fault of those events.
    fn close_circuit(&mut self, now: Tick, rng: &mut impl Rng, actions: &mut Vec<DeliveryAction>) {
        for (event, failure) in std::mem::take(&mut self.undecided) {
            let settlement = decide(&event, failure, true, rng);
            self.settle(event, settlement, now, actions);
        }
        if std::mem::replace(&mut self.circuit, Circuit::Closed) != Circuit::Closed {
            actions.push(DeliveryAction::Resume);
        }
    }
}

/// What becomes of a failed event. `is_sink_alive`: the sink accepted another one.
pub(super) fn decide(event: &PendingEvent, failure: Failure, is_sink_alive: bool, rng: &mut impl Rng) -> Settlement {
    match failure.kind {
        FailureKind::Gone | FailureKind::Refused => return Settlement::GiveUp,
        FailureKind::WrongSetting if is_sink_alive => return Settlement::GiveUp,
        FailureKind::Unreachable => {}
        _ if event.is_last_attempt => return Settlement::GiveUp,
        _ => {}
    }
    match (failure.kind, failure.retry_after) {
        (FailureKind::Throttled, Some(after)) => Settlement::Retry { after, is_charged: false },
        (_, asked) => {
            let delay = retry_delay(event.tries.saturating_add(1), rng.random());
            Settlement::Retry { after: delay.max(asked.unwrap_or_default()), is_charged: true }
        }
    }
}
