//! What a restore did to the copy. Pure data.

/// What became of the erasures that were made since the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// They were repeated.
    Repeated,
    /// The journal is older than the copy, so it cannot tell.
    JournalOlder,
    /// The database in the copy's place is a new and empty archive, so it cannot tell.
    OtherArchive,
    /// There was nothing that could tell.
    Unknown,
}

/// What a restore did to the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSummary {
    /// What became of the erasures.
    pub outcome: RestoreOutcome,
    /// Segments that were deleted again.
    pub segments: u64,
    /// Quarantined records that were deleted again.
    pub records: u64,
    /// Segments that the copy does not hold and that will not be stored.
    pub refused_ids: u64,
    /// Holds that were placed since.
    pub holds_placed: u64,
    /// Holds that were released since.
    pub holds_released: u64,
    /// Backfills that were requested since, and are queued again.
    pub backfills: u64,
    /// Sinks, and how many events each one received since the copy.
    pub sinks: Vec<(String, u64)>,
}

impl RestoreSummary {
    pub(super) fn new(outcome: RestoreOutcome) -> RestoreSummary {
        RestoreSummary {
            outcome,
            segments: 0,
            records: 0,
            refused_ids: 0,
            holds_placed: 0,
            holds_released: 0,
            backfills: 0,
            sinks: Vec::new(),
        }
    }
}
