//! The operations of a history, and random sequences of them.
//!
//! An operation contains every random choice about the outside. So the rest of a sequence means the same when operations are
//! removed, and a failing sequence can be shortened.

use rand::Rng;
use rand::rngs::StdRng;

/// The outcome of a metadata request, or a fault of the process that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    Whole,
    Status(u16),
    /// No response.
    Reset,
    /// The answer ends after this many chunks.
    Truncated(usize),
    /// The process dies after this many chunks were stored.
    DiesAfter(usize),
    /// The process dies when everything is stored, before the window is recorded as read.
    DiesBeforeRecord,
    /// The process dies when the record is committed, before it learns that.
    DiesAfterRecord,
    /// The record was committed, and the commit was reported as failed.
    RecordReportedFailed,
    /// The read is dropped after this many chunks, as at a shutdown.
    DroppedAfter(usize),
    /// The task panics after this many chunks.
    PanicsAfter(usize),
    /// If this answer ends a pause, its end cannot be written at once.
    PauseNotCleared,
    /// Another replica acquires the account after this many chunks.
    TakenOver(usize),
    /// The database is unavailable for a while after this many chunks.
    DatabaseAway(usize),
}

/// The outcome of a request for an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchOutcome {
    Answered,
    /// A status, and perhaps a `Retry-After` in seconds.
    Status(u16, Option<u64>),
    Reset,
    Truncated,
    /// A 200 whose body has an `errorCode`.
    ErrorCodeInBody,
    /// The request's task panics.
    Panicked,
}

/// What disturbs the fetch loop once, at the next occasion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchDisturbance {
    /// The result of a query for due items arrives only after the next commit.
    LateLoad,
    /// The end of a pause cannot be recorded.
    PauseEndUnrecorded,
    /// The probe of a paused endpoint panics.
    ProbePanics,
}

/// The outcome of a commit of results, or a fault of the process that commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    Committed,
    DiesBefore,
    DiesAfter,
    /// The commit succeeded and was reported as failed, so the same results are committed again.
    ReportedFailed,
    /// Another replica acquires the account before the commit.
    TakenOver,
    /// The database is unavailable at the first attempt.
    DatabaseAway,
    /// The results are not accepted.
    Rejected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Seconds that pass.
    AdvanceTime(u64),
    /// Milliseconds by which the wall clock is set.
    StepClock(i64),
    Poll(ReadOutcome),
    Fetch(Vec<FetchOutcome>),
    Commit(CommitOutcome),
    /// The process shuts down in order, and another one acquires the account.
    ShutDown,
    /// The process dies; a new one starts when it is needed.
    Crash,
    /// The machine loses power: the database is opened again too.
    PowerCut,
    /// Another replica acquires the account after the owner's lease has expired.
    TakeOver,
    /// Another replica tries to acquire the account from a live owner.
    RivalAcquires,
    /// A previous owner resumes and writes its results.
    StaleOwnerWrites,
    /// A poll and a fetch while the database is unavailable.
    DatabaseAway,
    /// A backfill request: how many seconds ago it begins, and its length in seconds.
    Backfill(i64, i64),
    /// A retry of everything that was given up.
    Retry,
    /// An operator asks for an immediate retry of what waits or is paused.
    Resume,
    DisturbFetch(FetchDisturbance),
    /// From now on the API's `Date` is wrong by so many milliseconds.
    WrongDate(i64),
    /// A process starts while the wall clock is so many milliseconds ahead. Then the clock is corrected.
    StartWithClockAhead(i64),
}

/// A sequence of operations.
pub fn random_operations(rng: &mut StdRng) -> Vec<Operation> {
    let mut operations = Vec::new();
    for _ in 0..rng.random_range(20..70) {
        let operation = random_operation(rng);
        let next = match operation {
            // Rejected results are on cooldown, which a clock set back must not prolong.
            Operation::Commit(CommitOutcome::Rejected) => {
                Some(Operation::StepClock(rng.random_range(-240_000..-60_000)))
            }
            // The previous owner has results.
            Operation::Commit(CommitOutcome::TakenOver) if rng.random() => Some(Operation::StaleOwnerWrites),
            _ => None,
        };
        operations.push(operation);
        operations.extend(next);
    }
    operations
}

fn random_operation(rng: &mut StdRng) -> Operation {
    if rng.random_ratio(1, 20) {
        return match rng.random_range(0..6) {
            0 => Operation::StartWithClockAhead(rng.random_range(600_000..10_800_000)),
            1 | 2 => Operation::WrongDate(rng.random_range(-7_200_000..7_200_000)),
            3 => Operation::WrongDate(0),
            _ => Operation::Resume,
        };
    }
    match rng.random_range(0..111) {
        0..4 => Operation::AdvanceTime(rng.random_range(400..3000)),
        4..24 => Operation::AdvanceTime(rng.random_range(1..400)),
        24..28 => Operation::StepClock(rng.random_range(-240_000..240_000)),
        28..52 => Operation::Poll(random_read_outcome(rng)),
        52..72 => Operation::Fetch(random_fetch_outcomes(rng)),
        72..86 => Operation::Commit(random_commit_outcome(rng)),
        86..88 => Operation::ShutDown,
        88..90 => Operation::Crash,
        90 => Operation::PowerCut,
        91..93 => Operation::TakeOver,
        93 => Operation::RivalAcquires,
        94..96 => Operation::StaleOwnerWrites,
        96 => Operation::DatabaseAway,
        97 => Operation::Backfill(rng.random_range(400..9000), rng.random_range(1..4000)),
        98 => Operation::Retry,
        99..102 => Operation::Resume,
        102..105 => Operation::DisturbFetch(FetchDisturbance::LateLoad),
        105..108 => Operation::DisturbFetch(FetchDisturbance::PauseEndUnrecorded),
        108..110 => Operation::DisturbFetch(FetchDisturbance::ProbePanics),
        _ => Operation::AdvanceTime(rng.random_range(3000..9000)),
    }
}

fn random_read_outcome(rng: &mut StdRng) -> ReadOutcome {
    let chunks = rng.random_range(0..3);
    match rng.random_range(0..30) {
        0 => ReadOutcome::Status(429),
        1 | 12 => ReadOutcome::Status([401, 403][rng.random_range(0..2)]),
        2 => ReadOutcome::Status([500, 503, 404, 400][rng.random_range(0..4)]),
        3 => ReadOutcome::Reset,
        4..6 => ReadOutcome::Truncated(chunks),
        6 => ReadOutcome::DiesAfter(chunks),
        7 => ReadOutcome::DiesBeforeRecord,
        8 => ReadOutcome::DiesAfterRecord,
        9 => ReadOutcome::RecordReportedFailed,
        10 => ReadOutcome::TakenOver(chunks),
        11 => ReadOutcome::DatabaseAway(chunks),
        13 => ReadOutcome::DroppedAfter(chunks),
        14 => ReadOutcome::PanicsAfter(chunks),
        15..18 => ReadOutcome::PauseNotCleared,
        _ => ReadOutcome::Whole,
    }
}

fn random_fetch_outcomes(rng: &mut StdRng) -> Vec<FetchOutcome> {
    // Sometimes a run of equal outcomes, because accounts and services fail that way.
    let run = rng.random_ratio(1, 8).then(|| random_fetch_outcome(rng));
    (0..rng.random_range(1..10)).map(|_| run.unwrap_or_else(|| random_fetch_outcome(rng))).collect()
}

fn random_fetch_outcome(rng: &mut StdRng) -> FetchOutcome {
    match rng.random_range(0..27) {
        0 => FetchOutcome::Status(429, rng.random::<bool>().then(|| rng.random_range(1..90))),
        1 => FetchOutcome::Status([401, 403][rng.random_range(0..2)], None),
        2 => FetchOutcome::Status([500, 502, 503][rng.random_range(0..3)], None),
        3 => FetchOutcome::Status(404, None),
        4 => FetchOutcome::Status(400, None),
        5 => FetchOutcome::Reset,
        6 => FetchOutcome::Truncated,
        7 => FetchOutcome::ErrorCodeInBody,
        8 => FetchOutcome::Panicked,
        9 | 10 => FetchOutcome::Status(401, None),
        _ => FetchOutcome::Answered,
    }
}

fn random_commit_outcome(rng: &mut StdRng) -> CommitOutcome {
    match rng.random_range(0..22) {
        0 | 1 => CommitOutcome::DiesBefore,
        2 | 3 => CommitOutcome::DiesAfter,
        4..7 => CommitOutcome::ReportedFailed,
        7 | 8 => CommitOutcome::TakenOver,
        9 | 10 => CommitOutcome::DatabaseAway,
        11 | 12 => CommitOutcome::Rejected,
        _ => CommitOutcome::Committed,
    }
}
