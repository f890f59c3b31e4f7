//! Decides from a sink's responses what happens to each event, and to the sink as a whole. Pure.
//!
//! If one event fails while others succeed, the fault is the event's: it is retried later, and
//! delivery continues. If several different events fail in a row, the fault is the sink's: delivery
//! to it is paused, and no event is retried or given up for it. A refusal lies in between: the sink
//! is alive and has rejected that event.

use std::collections::BTreeSet;

use crate::db::AccountKey;
use crate::sink::{SinkError, SinkErrorKind};

/// Identifies an event: account key and number in the account's feed.
pub(crate) type EventKey = (AccountKey, i64);

/// This many different events that fail in a row pause the sink.
const FAILED_EVENTS_UNTIL_PAUSE: usize = 3;
/// More refused events in a row than this, with none accepted, pause the sink.
const MAX_CONSECUTIVE_REFUSALS: u32 = 20;
/// The most events that probe a paused sink.
const MAX_PROBE_EVENTS: usize = 32;

/// The failures since the sink last accepted an event. Kept from one round to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FailureStreak {
    failed_events: BTreeSet<EventKey>,
    consecutive_refusals: u32,
}

impl FailureStreak {
    /// Whether this event failed since the sink last accepted one.
    fn contains(&self, key: EventKey) -> bool {
        self.failed_events.contains(&key)
    }

    fn clear_failures(&mut self) {
        self.failed_events.clear();
    }
}

/// What happens to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventDecision {
    /// The sink accepted it.
    Delivered,
    /// It is retried automatically.
    Retry(SinkError),
    /// It is not sent again.
    GiveUp(SinkError),
}

/// What happens to the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SinkAction {
    /// Delivery continues with the next event.
    Continue,
    /// The sink accepts nothing. Delivery is paused, and undecided events stay as they were.
    Pause(SinkError),
    /// The sink asked for no more events. Delivery stops.
    Stop(SinkError),
}

/// How many events probe a sink after this many pauses in a row. The number grows with each pause,
/// so that a few bad events at the head of the feed cannot keep the sink paused.
pub(crate) fn probe_count(consecutive_pauses: u32) -> usize {
    usize::try_from(consecutive_pauses)
        .unwrap_or(MAX_PROBE_EVENTS)
        .saturating_add(FAILED_EVENTS_UNTIL_PAUSE)
        .min(MAX_PROBE_EVENTS)
}

/// Collects the responses of one delivery round, in the order of the events.
#[derive(Debug)]
pub(crate) struct FailurePolicy<'a> {
    streak: &'a mut FailureStreak,
    /// Pauses in a row before this round.
    consecutive_pauses: u32,
    /// How many more events may be queued for a retry.
    retry_capacity: usize,
    decisions: Vec<Option<EventDecision>>,
    /// Failed events for which either the sink or the event may be at fault.
    undecided: Vec<(usize, SinkError)>,
}

impl<'a> FailurePolicy<'a> {
    /// For a round with this number of events.
    pub(crate) fn new(
        streak: &'a mut FailureStreak,
        consecutive_pauses: u32,
        retry_capacity: usize,
        events: usize,
    ) -> FailurePolicy<'a> {
        FailurePolicy {
            streak,
            consecutive_pauses,
            retry_capacity,
            decisions: vec![None; events],
            undecided: Vec::new(),
        }
    }

    /// Handles the response to the event at `index`. Responses must come in order.
    pub(crate) fn on_response(&mut self, index: usize, key: EventKey, response: Result<(), SinkError>) -> SinkAction {
        let error = match response {
            Ok(()) => {
                self.streak.consecutive_refusals = 0;
                return self.decide_and_confirm_alive(index, EventDecision::Delivered);
            }
            Err(error) => error,
        };
        match error.kind {
            SinkErrorKind::Unavailable => SinkAction::Pause(error),
            SinkErrorKind::Gone => {
                self.decide_and_confirm_alive(index, EventDecision::GiveUp(error.clone()));
                SinkAction::Stop(error)
            }
            SinkErrorKind::Refused if !error.looks_like_a_wrong_setting() => {
                self.streak.consecutive_refusals = self.streak.consecutive_refusals.saturating_add(1);
                if self.streak.consecutive_refusals > MAX_CONSECUTIVE_REFUSALS {
                    return SinkAction::Pause(error);
                }
                self.decide_and_confirm_alive(index, EventDecision::GiveUp(error))
            }
            SinkErrorKind::Refused | SinkErrorKind::Retryable => {
                self.streak.failed_events.insert(key);
                self.undecided.push((index, error.clone()));
                let too_many = match self.consecutive_pauses {
                    0 => self.streak.failed_events.len() >= FAILED_EVENTS_UNTIL_PAUSE,
                    consecutive_pauses => self.undecided.len() >= probe_count(consecutive_pauses),
                };
                if too_many { SinkAction::Pause(error) } else { SinkAction::Continue }
            }
        }
    }

    /// Stores the decision on the event at `index`, which proves that the sink is alive: earlier
    /// failures were the fault of those events.
    fn decide_and_confirm_alive(&mut self, index: usize, decision: EventDecision) -> SinkAction {
        self.streak.clear_failures();
        if let Some(slot) = self.decisions.get_mut(index) {
            *slot = Some(decision);
        }
        for (index, error) in std::mem::take(&mut self.undecided) {
            let decision = match error.kind {
                SinkErrorKind::Refused => EventDecision::GiveUp(error),
                _ => EventDecision::Retry(error),
            };
            if let Some(full) = self.store_decision(index, decision) {
                return full;
            }
        }
        SinkAction::Continue
    }

    fn store_decision(&mut self, index: usize, decision: EventDecision) -> Option<SinkAction> {
        if let EventDecision::Retry(error) = &decision {
            if self.retry_capacity == 0 {
                let message = format!("too many events are waiting for a retry; the last error: {}", error.reason());
                return Some(SinkAction::Pause(SinkError { message, hint: None, ..error.clone() }));
            }
            self.retry_capacity -= 1;
        }
        if let Some(slot) = self.decisions.get_mut(index) {
            *slot = Some(decision);
        }
        None
    }

    /// The decisions in the order of the events, and the final action. Events without a decision
    /// stay as they were. `action` is the result of the last response.
    pub(crate) fn finish(mut self, action: SinkAction) -> (Vec<Option<EventDecision>>, SinkAction) {
        if action != SinkAction::Continue {
            return (self.decisions, action);
        }
        let undecided = std::mem::take(&mut self.undecided);
        if let (1.., Some((_, error))) = (self.consecutive_pauses, undecided.last()) {
            return (self.decisions, SinkAction::Pause(error.clone()));
        }
        for (index, error) in undecided {
            // Nothing has proved the sink alive: even a refused event is retried.
            if let Some(full) = self.store_decision(index, EventDecision::Retry(error)) {
                return (self.decisions, full);
            }
        }
        (self.decisions, SinkAction::Continue)
    }
}

/// Decides on an event that was retried. `retry_limit_reached` is set once the event was retried
/// for as long as the settings allow.
pub(crate) fn decide_retried(
    streak: &mut FailureStreak,
    key: EventKey,
    response: Result<(), SinkError>,
    retry_limit_reached: bool,
) -> (Option<EventDecision>, SinkAction) {
    let Err(error) = response else {
        *streak = FailureStreak::default();
        return (Some(EventDecision::Delivered), SinkAction::Continue);
    };
    match error.kind {
        SinkErrorKind::Unavailable => (None, SinkAction::Pause(error)),
        SinkErrorKind::Gone => (Some(EventDecision::GiveUp(error.clone())), SinkAction::Stop(error)),
        SinkErrorKind::Refused
            if error.looks_like_a_wrong_setting() && streak.contains(key) && !retry_limit_reached =>
        {
            (Some(EventDecision::Retry(error)), SinkAction::Continue)
        }
        SinkErrorKind::Refused => (Some(EventDecision::GiveUp(error)), SinkAction::Continue),
        SinkErrorKind::Retryable if retry_limit_reached => (Some(EventDecision::GiveUp(error)), SinkAction::Continue),
        SinkErrorKind::Retryable => (Some(EventDecision::Retry(error)), SinkAction::Continue),
    }
}

#[cfg(test)]
mod tests;
