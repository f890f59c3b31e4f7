//! Keeps every request within what RingCX allows, and uses all of it.
//!
//! Two kinds of budget: [`Pacer`] for the many (120 requests a minute, in memory), and [`Budget`] for the few (metadata
//! reads and token exchanges, reserved in a [`ReserveStore`] before each send), whose arithmetic is [`Sliding`]'s. Reads
//! time from a `Clock` only; knows no database and no HTTP.
//!
//! Guarantee: the server, which counts requests as they *arrive*, never sees more of ours than its limit in any
//! sliding window, restarts and changes of owner included, as long as a request arrives within [`LATEST_ARRIVAL`] of
//! being sent or its answer is reported. Whoever calls must send at once after `Permit::sent`.

use std::time::Duration;

mod lapse;
mod pacer;
mod reservations;
mod retry_after;

pub use crate::sliding::{GUARD, LATEST_ARRIVAL, Sliding};
pub use lapse::Lapse;
pub use pacer::{Pacer, Permit, Setback, Usage};
pub use reservations::{Budget, MemoryStore, ReserveStore, Reserved, StoreError};
pub use retry_after::retry_after;

/// The longest wait that RingCX is granted, whatever its `Retry-After` asks for.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The window in which a [`Pacer`]'s limit counts.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
