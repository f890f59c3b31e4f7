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
pub use self::active::is_triggered;

#[cfg(feature = "planted")]
mod active {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Failpoint;

    /// A failpoint other than `DoubledClaim` triggers once in this many evaluations.
    const TRIGGER_EVERY: u64 = 4;

    static EVALUATIONS: AtomicU64 = AtomicU64::new(0);

    /// Whether to inject this fault now: only if `RINGCX_PLANTED` names it.
    pub fn is_triggered(failpoint: Failpoint) -> bool {
        if !std::env::var("RINGCX_PLANTED").is_ok_and(|name| name == format!("{failpoint:?}")) {
            return false;
        }
        failpoint == Failpoint::DoubledClaim || EVALUATIONS.fetch_add(1, Ordering::Relaxed) % TRIGGER_EVERY == 1
    }
}
