//! What a delivery machine is told, and what it answers.

use std::time::Duration;

use crate::clock::Tick;

/// An event that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingEvent {
    /// Identifies this request to send it; unique.
    pub id: u64,
    /// The segment's key.
    pub segment: i64,
    /// The event's sequence number in the feed.
    pub feed: i64,
    /// Why it is sent.
    pub origin: Origin,
    /// Failed attempts so far.
    pub tries: u32,
    /// Whether it is given up if this attempt fails.
    pub is_last_attempt: bool,
}

/// Why an event is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is new in the feed.
    New,
    /// An earlier attempt failed.
    Retry,
    /// A person asked for it again.
    Replay,
}

/// What a failed attempt means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The event failed, and a retry may succeed.
    Retryable,
    /// No answer in time.
    TimedOut,
    /// The sink asks for fewer requests.
    Throttled,
    /// The sink cannot be reached.
    Unreachable,
    /// The event is refused, and a retry will not change that.
    Refused,
    /// Refused for a reason that may concern all events, such as wrong credentials.
    WrongSetting,
    /// The sink wants no more events.
    Gone,
}

/// A failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub kind: FailureKind,
    /// How long the sink asks to wait.
    pub retry_after: Option<Duration>,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum DeliveryEvent {
    /// An event was loaded. Events of a segment come in the order of the feed.
    Loaded(PendingEvent),
    /// A stored event waits for a retry, as after a restart.
    Waiting {
        /// The segment's key.
        segment: i64,
        /// The event's sequence number in the feed.
        feed: i64,
        /// When it is retried.
        due: Tick,
        /// Failed attempts so far.
        tries: u32,
    },
    /// The sink answered.
    Answered {
        /// The event.
        id: u64,
        /// The answer.
        answer: Result<(), Failure>,
        /// How long the request took.
        took: Duration,
    },
    /// The event does not exist any more, or is no longer this process's to send.
    Missing(u64),
    /// The event cannot be sent before this time has passed.
    Postponed {
        /// The event.
        id: u64,
        /// The delay.
        after: Duration,
    },
    /// Time passed. `is_feed_exhausted`: nothing more can be loaded now.
    Tick {
        /// Whether everything in the feed was loaded.
        is_feed_exhausted: bool,
    },
    /// A person asked to try again at once. Retries are announced anew.
    RetryNow,
}

/// What the shell has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryAction {
    /// Send this event.
    Send(u64),
    /// End this request; its event is handled as timed out.
    Abandon(u64),
    /// Record what became of an event. It is no longer known to the machine.
    Settle(u64, Settlement),
    /// Delivery pauses until then, because of this event's answer.
    Pause {
        /// The end of the pause.
        until: Tick,
        /// The event whose answer is the reason.
        cause: u64,
    },
    /// The sink accepts events again.
    Resume,
    /// The sink wants no more events, as its answer to this one says.
    Stop(u64),
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It was delivered.
    Delivered,
    /// It is retried after this time. `is_charged`: it counts as an attempt.
    Retry {
        /// The delay.
        after: Duration,
        /// Whether the attempt counts.
        is_charged: bool,
    },
    /// It waits for this time: for an earlier event of its segment, or because it was postponed.
    Held(Duration),
    /// It is not sent again.
    GiveUp,
    /// It does not exist any more.
    Missing,
}
