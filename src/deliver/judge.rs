//! What a sink's answers say about events, and about the sink as a whole. Pure.
//!
//! One event that fails while others go through is its own trouble: it is set aside, and the rest goes on. Several
//! different ones in a row are the sink's: it rests, and nothing is set aside or given up for it. In between stand
//! refusals: the sink is alive and has judged that event.

use std::collections::BTreeSet;

use crate::sink::{SinkError, SinkErrorKind};

/// Names an event: its account's number, and its own in the account's feed.
pub type Key = (i64, i64);

/// So many different events that failed in a row say that it is the sink.
const IN_A_ROW: usize = 3;
/// So many different events refused in a row, with none taken, say that it is the sink.
const REFUSALS: u32 = 20;
/// How many events a sink that rests is tried with at the most.
const PROBES: usize = 32;

/// What is known of a sink from one pass to the next: since it last took something, what failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streak {
    failing: BTreeSet<Key>,
    refused: u32,
}

impl Streak {
    /// Whether this event is among those that failed since the sink last took one.
    fn holds(&self, key: Key) -> bool {
        self.failing.contains(&key)
    }

    fn broken(&mut self) {
        self.failing.clear();
    }
}

/// What is to become of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// The sink has it.
    Delivered,
    /// It is tried again by itself.
    SetAside(SinkError),
    /// It is given up.
    Failed(SinkError),
}

/// What is to become of the pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// On to the next event.
    On,
    /// The sink as a whole does not take anything; what has no ruling yet is left as it was.
    Rest(SinkError),
    /// The sink wants nothing more.
    Stop(SinkError),
}

/// How many events a sink that has rested so often in a row is tried with: more each time, so that a few bad events at the
/// head cannot keep it resting.
pub fn probes(rests: u32) -> usize {
    usize::try_from(rests).unwrap_or(PROBES).saturating_add(IN_A_ROW).min(PROBES)
}

/// Judges one pass over events in order.
#[derive(Debug)]
pub struct Judge<'a> {
    streak: &'a mut Streak,
    /// How often in a row the sink has rested.
    rests: u32,
    /// How many events more may be set aside.
    room: usize,
    rulings: Vec<Option<Ruling>>,
    /// Those that failed and may be the sink's trouble or their own.
    doubtful: Vec<(usize, SinkError)>,
}

impl<'a> Judge<'a> {
    /// For a pass over so many events.
    pub fn new(streak: &'a mut Streak, rests: u32, room: usize, events: usize) -> Judge<'a> {
        Judge { streak, rests, room, rulings: vec![None; events], doubtful: Vec::new() }
    }

    /// Takes in the answer to the event at `index`; answers come in order.
    pub fn hear(&mut self, index: usize, key: Key, answer: Result<(), SinkError>) -> Flow {
        let error = match answer {
            Ok(()) => {
                self.streak.refused = 0;
                return self.settle(index, Ruling::Delivered);
            }
            Err(error) => error,
        };
        match error.kind {
            SinkErrorKind::Away => Flow::Rest(error),
            SinkErrorKind::Gone => {
                self.settle(index, Ruling::Failed(error.clone()));
                Flow::Stop(error)
            }
            SinkErrorKind::Refused if !error.looks_like_a_wrong_setting() => {
                self.streak.refused = self.streak.refused.saturating_add(1);
                if self.streak.refused > REFUSALS {
                    return Flow::Rest(error);
                }
                self.settle(index, Ruling::Failed(error))
            }
            SinkErrorKind::Refused | SinkErrorKind::Event => {
                self.streak.failing.insert(key);
                self.doubtful.push((index, error.clone()));
                let too_many = match self.rests {
                    0 => self.streak.failing.len() >= IN_A_ROW,
                    rests => self.doubtful.len() >= probes(rests),
                };
                if too_many { Flow::Rest(error) } else { Flow::On }
            }
        }
    }

    /// The sink is alive: what failed before this event was those events' own trouble.
    fn settle(&mut self, index: usize, ruling: Ruling) -> Flow {
        self.streak.broken();
        if let Some(slot) = self.rulings.get_mut(index) {
            *slot = Some(ruling);
        }
        for (index, error) in std::mem::take(&mut self.doubtful) {
            let ruling = match error.kind {
                SinkErrorKind::Refused => Ruling::Failed(error),
                _ => Ruling::SetAside(error),
            };
            if let Some(full) = self.rule(index, ruling) {
                return full;
            }
        }
        Flow::On
    }

    fn rule(&mut self, index: usize, ruling: Ruling) -> Option<Flow> {
        if let Ruling::SetAside(error) = &ruling {
            if self.room == 0 {
                let message = format!("too many events wait for another try; the last: {}", error.reason());
                return Some(Flow::Rest(SinkError { message, ..error.clone() }));
            }
            self.room -= 1;
        }
        if let Some(slot) = self.rulings.get_mut(index) {
            *slot = Some(ruling);
        }
        None
    }

    /// The rulings, in the order of the events, and whether the sink is to rest after all. Events without a ruling are left
    /// as they were. `flow` is what the last answer came to.
    pub fn end(mut self, flow: Flow) -> (Vec<Option<Ruling>>, Flow) {
        if flow != Flow::On {
            return (self.rulings, flow);
        }
        let doubtful = std::mem::take(&mut self.doubtful);
        if let (1.., Some((_, error))) = (self.rests, doubtful.last()) {
            return (self.rulings, Flow::Rest(error.clone()));
        }
        for (index, error) in doubtful {
            // Nothing has shown yet that the sink is alive: not even what looks refused is given up.
            if let Some(full) = self.rule(index, Ruling::SetAside(error)) {
                return (self.rulings, full);
            }
        }
        (self.rulings, Flow::On)
    }
}

/// What becomes of an event that was set aside, now that it has been tried again; `patience_over` where that has been done
/// for as long as the settings allow.
pub fn again(
    streak: &mut Streak,
    key: Key,
    answer: Result<(), SinkError>,
    patience_over: bool,
) -> (Option<Ruling>, Flow) {
    let Err(error) = answer else {
        *streak = Streak::default();
        return (Some(Ruling::Delivered), Flow::On);
    };
    match error.kind {
        SinkErrorKind::Away => (None, Flow::Rest(error)),
        SinkErrorKind::Gone => (Some(Ruling::Failed(error.clone())), Flow::Stop(error)),
        SinkErrorKind::Refused if error.looks_like_a_wrong_setting() && streak.holds(key) && !patience_over => {
            (Some(Ruling::SetAside(error)), Flow::On)
        }
        SinkErrorKind::Refused => (Some(Ruling::Failed(error)), Flow::On),
        SinkErrorKind::Event if patience_over => (Some(Ruling::Failed(error)), Flow::On),
        SinkErrorKind::Event => (Some(Ruling::SetAside(error)), Flow::On),
    }
}

#[cfg(test)]
mod tests;
