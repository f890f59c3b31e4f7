//! Failpoints: faults that the soak tests inject to check that they detect them.
//!
//! They exist only in builds with the feature `failpoints`, which no release has; the crate `fail`
//! reads from `FAILPOINTS` when they trigger. In other builds every check is a constant `false`.

/// The faults that can be injected. `FAILPOINTS` names them by their variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// A batch of results is rolled back and reported as committed.
    LostCommit,
    /// A result is not stored, although its work item is completed.
    LostResult,
    /// Items in flight are handed out again.
    DoubledClaim,
    /// A window is recorded as read, although nothing of it was stored.
    SkippedWindow,
}

/// Whether to inject this fault now.
#[cfg_attr(not(feature = "failpoints"), expect(unused_variables))]
pub fn is_triggered(failpoint: Failpoint) -> bool {
    // An optional dependency, since `fail` needs one more version of `rand` even where it does nothing.
    #[cfg(feature = "failpoints")]
    fail::fail_point!(&format!("{failpoint:?}"), |_| true);
    false
}
