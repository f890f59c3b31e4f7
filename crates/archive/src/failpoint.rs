//! Failpoints: faults that the soak tests inject to check that they detect them.
//!
//! They exist only in builds with the feature `planted`, which no release has. In other builds
//! every check is a constant `false`, and nothing can activate a failpoint.

/// The faults that can be injected. `RINGCX_PLANTED` names one by its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// Some batches of results are rolled back and reported as committed.
    LostCommit,
    /// Some results are not stored, although their work items are completed.
    LostResult,
    /// Items in flight are handed out again.
    DoubledClaim,
    /// Some windows are recorded as read, although nothing of them was stored.
    SkippedWindow,
}

/// Whether to inject this fault now.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn is_triggered(_failpoint: Failpoint) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use self::active::{is_triggered, set_for_thread};

#[cfg(feature = "planted")]
mod active {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Failpoint;

    /// A failpoint other than `DoubledClaim` triggers once in this many evaluations.
    const TRIGGER_EVERY: u64 = 4;

    static EVALUATIONS: AtomicU64 = AtomicU64::new(0);

    thread_local! {
        static THREAD_FAILPOINT: Cell<Option<Failpoint>> = const { Cell::new(None) };
    }

    /// Activates a failpoint for this thread; `None` deactivates it.
    pub(crate) fn set_for_thread(failpoint: Option<Failpoint>) {
        THREAD_FAILPOINT.set(failpoint);
    }

    /// Whether to inject this fault now. This thread or `RINGCX_PLANTED` must have activated it.
    pub(crate) fn is_triggered(failpoint: Failpoint) -> bool {
        let is_named = || std::env::var("RINGCX_PLANTED").is_ok_and(|name| name == format!("{failpoint:?}"));
        if THREAD_FAILPOINT.get() != Some(failpoint) && !is_named() {
            return false;
        }
        failpoint == Failpoint::DoubledClaim || EVALUATIONS.fetch_add(1, Ordering::Relaxed) % TRIGGER_EVERY == 1
    }
}
