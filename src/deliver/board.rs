//! Which sinks rest at present, and why: for the daemon's heartbeat, and through it for everyone who looks.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Time;

/// Why and until when a sink is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resting {
    /// Since when it takes nothing.
    pub since: Time,
    /// When it is tried again.
    pub until: Time,
    /// For people.
    pub reason: String,
}

/// What is to be seen of all sinks of one daemon.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<String, Resting>>);

impl Board {
    /// Says how a sink does: `None` where it takes what it is given.
    pub fn set(&self, sink: &str, resting: Option<Resting>) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match resting {
            Some(resting) => board.insert(sink.to_owned(), resting),
            None => board.remove(sink),
        };
    }

    /// The sinks that rest, by name.
    pub fn resting(&self) -> BTreeMap<String, Resting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
