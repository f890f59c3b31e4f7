//! Keeps every request within what RingCX allows, and uses all of it.
//!
//! Three kinds of budget: [`Pacer`] for the many (120 requests a minute, in memory), [`Budget`] for the few (metadata
//! reads and token exchanges, reserved in a [`ReserveStore`] before each send), and [`Sliding`], the arithmetic of the
//! latter. Reads time from a `Clock` only; knows no database and no HTTP.
//!
//! Guarantee: the server, which counts requests as they *arrive*, never sees more of ours than its limit in any
//! sliding window, restarts and changes of owner included, as long as a request arrives within [`LATEST_ARRIVAL`] of
//! being sent or its answer is reported. Whoever calls must send at once after `Permit::sent`.

use std::time::Duration;

mod lapse;
mod pacer;
mod reservations;
mod retry_after;
mod sliding;

pub use lapse::Lapse;
pub use pacer::{Pacer, Permit, Usage};
pub use reservations::{Budget, MemoryStore, ReserveStore, Reserved, StoreError};
pub use retry_after::retry_after;
pub use sliding::Sliding;

/// How long after it was sent a request may still arrive and be counted, where nothing better is known: TCP and TLS
/// have to be set up first, and a lost packet costs a second. An answer says more: it ends the doubt, early or late.
pub const LATEST_ARRIVAL: Duration = Duration::from_secs(2);

/// Added to every window. Our clock and the server's do not run equally fast (NTP may slew either by 500 parts in a
/// million, 30 ms in a minute), and the server may count in whole milliseconds. Costs less than 0.1 % of a minute.
pub const GUARD: Duration = Duration::from_millis(50);

/// The window in which a [`Pacer`]'s limit counts.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
