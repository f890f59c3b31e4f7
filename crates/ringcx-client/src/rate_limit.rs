//! Keeps every request within RingCX's limits, and uses nearly all of them.
//!
//! Two mechanisms: [`Pacer`] for the many requests (120 a minute, counted in memory), and
//! [`ReservedQuota`] for the few (metadata reads and token exchanges, reserved in a
//! [`ReservationStore`] before each send). [`SlidingWindowLimiter`] holds the arithmetic of the
//! latter. This module reads time from a `Clock` only. It knows no database and no HTTP.
//!
//! Guarantee: the server counts requests when they *arrive*. In any sliding window it sees no more
//! of ours than its limit, restarts and changes of owner included, as long as a request arrives
//! within [`MAX_ARRIVAL_DELAY`] of being sent or its answer is reported. The caller must send
//! immediately after `Permit::mark_sent`.

use std::time::Duration;

mod adaptive_throttle;
mod gcra;
mod pacer;
mod previous_owner;
mod reserved_quota;
mod retry_after;
mod sliding_window_limiter;
mod sliding_window_log;

pub use adaptive_throttle::ThrottleState;
pub use pacer::{Pacer, Permit, Usage};
pub use previous_owner::PreviousOwner;
pub use reserved_quota::{MemoryStore, Reservation, ReservationStore, ReservedQuota, StoreError};
pub(crate) use retry_after::parse_http_date;
pub use retry_after::parse_retry_after;
pub use sliding_window_limiter::{MAX_ARRIVAL_DELAY, SlidingWindowLimiter, WINDOW_GUARD};

/// The longest wait that the client accepts from RingCX, whatever its `Retry-After` asks for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The window in which a [`Pacer`]'s limit counts.
pub(crate) const REQUEST_WINDOW: Duration = Duration::from_secs(60);
