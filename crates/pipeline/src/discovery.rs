//! Discovery of one account as a state machine: what is read next, what an answer means, and how
//! long to wait.
//!
//! A shell carries out each [`Action`] of the [`DiscoveryMachine`] and reports its result as the
//! next [`Event`], together with the clocks' readings. A step begins with [`Event::Wake`] and ends
//! with [`Action::Idle`], [`Action::Completed`] or [`Action::Failed`]. The shell may abandon it
//! anywhere, because it failed, was cancelled or panicked: the next step begins with `Wake` again,
//! and repeats whatever was not recorded.

mod account_start;
mod discovery_machine;
#[cfg(test)]
mod generated_events;

use std::time::Duration;

pub use account_start::CoverageDefaults;
pub use discovery_machine::DiscoveryMachine;

use crate::backoff::Backoff;
use crate::clock::Time;
use crate::coverage::{PlannedRead, PlanningRules};
use crate::db::{IngestSummary, PauseRow, StoredCoverage, WindowRead};
use crate::model::{ArtifactSelection, DiscoveryStart, TimeRange};
use crate::ringcx::ApiError;

/// The time between two attempts while the database is unavailable, or before a login.
pub const DATABASE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The settings of discovery.
#[derive(Debug, Clone)]
pub struct DiscoveryPolicy {
    /// The windows and limits.
    pub rules: PlanningRules,
    /// The delays after which each range is read again.
    pub rechecks: Vec<Duration>,
    /// Where the first window begins.
    pub start: DiscoveryStart,
    /// How long a failed window waits.
    pub backoff: Backoff,
    /// The artifacts to fetch.
    pub wants: ArtifactSelection,
    /// How long the archive keeps a segment; `None` means forever.
    pub retention: Option<Duration>,
}

/// The start of a step, or the result of an action.
#[derive(Debug)]
pub enum Event {
    /// A step begins.
    Wake,
    /// The result of [`Action::LoadCoverage`].
    Loaded(StoredCoverage),
    /// [`Action::RepairDeferredWork`] was done, or failed.
    DeferredWorkRepaired(bool),
    /// [`Action::Login`] was tried.
    LoggedIn,
    /// The result of [`Action::ReadDatabaseClock`]; `None` if the database is unavailable.
    DatabaseClock(Option<Time>),
    /// The result of [`Action::LoadPlanInputs`], by this machine's clock: the ranges with
    /// quarantined records and when each is due to be read again, and when the requests were sent
    /// that count against the limits.
    PlanInputs(Vec<(TimeRange, Time)>, Vec<Time>),
    /// The whole answer to [`Action::Read`] is stored.
    Answered,
    /// [`Action::Read`] failed, or its answer is not complete. With a random number in 0..1.
    ReadFailed(ApiError, f64),
    /// [`Action::Record`] was done, as the account's read with this sequence number.
    Recorded(i64),
}

/// What to do next.
#[derive(Debug)]
pub enum Action {
    /// Load the coverage, and store the defaults where the database has nothing yet.
    LoadCoverage(CoverageDefaults),
    /// Reschedule the work that a clock ahead of the true time put off. With the latest time by any
    /// clock.
    RepairDeferredWork(Time),
    /// Obtain a token: the answer shows the API's time.
    Login,
    /// Read the database's clock.
    ReadDatabaseClock,
    /// Move the start of the live coverage from one time to another. Then begin again.
    MoveStart(Time, Time),
    /// Delete the coverage after this time. Then begin again.
    TruncateCoverage(Time),
    /// Load what the planner needs besides the coverage.
    LoadPlanInputs,
    /// Request this window within the limits, and store its answer as it arrives. Report when the
    /// request is sent ([`DiscoveryMachine::record_sent`]) and what is stored
    /// ([`DiscoveryMachine::record_chunk`]). The flag marks a probe: a window that is read only to
    /// compare clocks, since nothing is due.
    Read(PlannedRead, bool),
    /// Record that a window was read.
    Record(WindowRead),
    /// The step ends. Nothing is due for this long, at most one interval.
    Idle(Duration),
    /// The step ends with a read.
    Completed(CompletedRead),
    /// The step ends with a read that failed, for this reason.
    Failed(PlannedRead, ApiError, FailureConsequence),
}

/// A read whose answer is stored.
#[derive(Debug)]
pub struct CompletedRead {
    /// The window.
    pub planned: PlannedRead,
    /// The range that counts as read; `None` if nothing of it is past by the earliest clock.
    pub credited: Option<TimeRange>,
    /// What was stored.
    pub summary: IngestSummary,
    /// The backfills that it completes.
    pub finished_backfills: Vec<i64>,
    /// Whether it shows that discovery makes progress. A probe does only if it extends the live
    /// coverage.
    pub is_progress: bool,
    /// Whether the endpoint was paused until now.
    pub has_recovered: bool,
    /// Whether it proves that this machine's clock is behind.
    pub proves_clock_behind: bool,
    /// Whether the database was restored to an earlier state.
    pub database_was_restored: bool,
}

/// What follows from a failed read.
#[derive(Debug)]
pub enum FailureConsequence {
    /// Nothing was sent, since there is no token or no reservation. All reads wait until then.
    NotSent(Time),
    /// The API refused it with 429. All reads wait until then, by this machine's clock. With the
    /// number of consecutive refusals.
    RateLimited(Time, u32),
    /// The endpoint is paused, since the account is not allowed to read metadata.
    Paused(PauseRow),
    /// The range waits until then; other ranges are read.
    Deferred(Time),
}
