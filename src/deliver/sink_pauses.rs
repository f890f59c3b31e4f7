//! The paused sinks of one daemon. The heartbeat publishes them to `status` and the dashboard.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::health::rfc3339;

/// A pause in the delivery to one sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkPause {
    /// When the sink stopped accepting events.
    #[serde(with = "rfc3339")]
    pub(crate) since: Time,
    /// When delivery is tried again.
    #[serde(with = "rfc3339")]
    pub(crate) until: Time,
    /// The error of the last attempt, as text.
    pub(crate) reason: String,
}

/// The pauses of all sinks of one daemon, by sink name.
#[derive(Debug, Default)]
pub struct SinkPauses(Mutex<BTreeMap<String, SinkPause>>);

impl SinkPauses {
    /// Stores the pause of a sink; `None` removes it.
    pub(crate) fn set(&self, sink: &str, pause: Option<SinkPause>) {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match pause {
            Some(pause) => pauses.insert(sink.to_owned(), pause),
            None => pauses.remove(sink),
        };
    }

    /// A copy of all pauses, by sink name.
    pub fn snapshot(&self) -> BTreeMap<String, SinkPause> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
