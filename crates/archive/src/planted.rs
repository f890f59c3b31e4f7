//! Faults put into the program on purpose, to see whether the trials notice them.
//!
//! Only in builds with the feature `planted`, which no release has. Without it each question here is answered `false` by the
//! compiler, and nothing can ask for a fault.

/// What can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Now and then a batch of results is rolled back and reported as committed.
    LostCommit,
    /// Now and then the work of a result is ended, and the result never stored.
    LostResult,
    /// What is under way is handed out again.
    DoubledClaim,
    /// Now and then a window is recorded as read, and nothing of it was stored.
    SkippedWindow,
}

/// Whether this fault is to befall now.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn strikes(_plant: Plant) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use self::fault::{here, strikes};

#[cfg(feature = "planted")]
mod fault {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Plant;

    /// One in so many, where it is now and then.
    const ONE_IN: u64 = 4;

    static ASKED: AtomicU64 = AtomicU64::new(0);

    thread_local! {
        static HERE: Cell<Option<Plant>> = const { Cell::new(None) };
    }

    /// Plants a fault for this thread, or takes it away.
    pub fn here(plant: Option<Plant>) {
        HERE.set(plant);
    }

    /// Whether this fault is to befall now: one that this thread has planted, or that `$RINGCX_PLANTED` names.
    pub fn strikes(plant: Plant) -> bool {
        let named = || std::env::var("RINGCX_PLANTED").is_ok_and(|name| name == format!("{plant:?}"));
        if HERE.get() != Some(plant) && !named() {
            return false;
        }
        plant == Plant::DoubledClaim || ASKED.fetch_add(1, Ordering::Relaxed) % ONE_IN == 1
    }
}
