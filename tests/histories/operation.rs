//! What may happen in a history, and a random sequence of it.
//!
//! Everything that chance decides about the outside stands in the operation, so that a sequence from which some were taken
//! out still means the same: that is how a failing one is made short.

use rand::Rng;
use rand::rngs::StdRng;

/// What happens to a metadata request, or to whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLuck {
    Whole,
    Status(u16),
    /// No answer at all.
    Reset,
    /// The answer ends after so many chunks.
    Truncated(usize),
    /// The process dies after so many chunks were stored.
    DiesAfter(usize),
    /// It dies when everything is stored and the window is not yet recorded as read.
    DiesBeforeRecord,
    /// It dies when all is committed, before it knows.
    DiesAfterRecord,
    /// The record was committed and reported as failed.
    Unheard,
    /// Another replica takes the account after so many chunks.
    TakenOver(usize),
    /// The database goes away for a while after so many chunks.
    Gone(usize),
}

/// What happens to a request for an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    Answered,
    /// With this status, and perhaps so many seconds of `Retry-After`.
    Status(u16, Option<u64>),
    Reset,
    Truncated,
    /// A 200 that holds an `errorCode`.
    ErrorInside,
}

/// What happens to the commit of what was fetched, or to whoever commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteLuck {
    Committed,
    DiesBefore,
    DiesAfter,
    /// It was committed and reported as failed: the same is committed again.
    Unheard,
    /// Another replica takes the account before.
    TakenOver,
    /// The database is away at first.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// So many seconds pass.
    Pass(u64),
    /// The wall clock is set by so many milliseconds.
    StepClock(i64),
    Poll(ReadLuck),
    Fetch(Vec<Luck>),
    Settle(WriteLuck),
    /// The process ends in good order and another takes its place.
    LetGo,
    /// The process dies and starts again under its name.
    Die,
    /// The machine goes down: the database file is opened anew too.
    PowerCut,
    /// Another replica takes the account when the owner has been silent for long enough.
    TakeOver,
    /// Another replica tries to take the account from a living owner.
    Rival,
    /// An earlier owner wakes up and goes on as if nothing had happened.
    Zombie,
    /// A poll and a fetch meet a database that is away.
    Gone,
    /// A person asks for so many seconds of the past, so many seconds ago.
    Backfill(i64, i64),
    /// A person has what was given up tried again.
    Retry,
}

/// A sequence of operations.
pub fn operations(chance: &mut StdRng) -> Vec<Operation> {
    let count = chance.random_range(20..70);
    (0..count).map(|_| operation(chance)).collect()
}

fn operation(chance: &mut StdRng) -> Operation {
    match chance.random_range(0..100) {
        0..4 => Operation::Pass(chance.random_range(400..3000)),
        4..24 => Operation::Pass(chance.random_range(1..400)),
        24..28 => Operation::StepClock(chance.random_range(-240_000..240_000)),
        28..52 => Operation::Poll(read_luck(chance)),
        52..72 => Operation::Fetch(fetches(chance)),
        72..86 => Operation::Settle(write_luck(chance)),
        86..88 => Operation::LetGo,
        88..90 => Operation::Die,
        90 => Operation::PowerCut,
        91..93 => Operation::TakeOver,
        93 => Operation::Rival,
        94..96 => Operation::Zombie,
        96 => Operation::Gone,
        97 => Operation::Backfill(chance.random_range(400..9000), chance.random_range(1..4000)),
        98 => Operation::Retry,
        _ => Operation::Pass(chance.random_range(3000..9000)),
    }
}

fn read_luck(chance: &mut StdRng) -> ReadLuck {
    let chunks = chance.random_range(0..3);
    match chance.random_range(0..30) {
        0 => ReadLuck::Status(429),
        1 => ReadLuck::Status([401, 403][chance.random_range(0..2)]),
        2 => ReadLuck::Status([500, 503, 404, 400][chance.random_range(0..4)]),
        3 => ReadLuck::Reset,
        4..6 => ReadLuck::Truncated(chunks),
        6 => ReadLuck::DiesAfter(chunks),
        7 => ReadLuck::DiesBeforeRecord,
        8 => ReadLuck::DiesAfterRecord,
        9 => ReadLuck::Unheard,
        10 => ReadLuck::TakenOver(chunks),
        11 => ReadLuck::Gone(chunks),
        _ => ReadLuck::Whole,
    }
}

fn fetches(chance: &mut StdRng) -> Vec<Luck> {
    // Now and then a run of the same: that is how accounts and services fail.
    let run = chance.random_ratio(1, 8).then(|| luck(chance));
    (0..chance.random_range(1..10)).map(|_| run.unwrap_or_else(|| luck(chance))).collect()
}

fn luck(chance: &mut StdRng) -> Luck {
    match chance.random_range(0..24) {
        0 => Luck::Status(429, chance.random::<bool>().then(|| chance.random_range(1..90))),
        1 => Luck::Status([401, 403][chance.random_range(0..2)], None),
        2 => Luck::Status([500, 502, 503][chance.random_range(0..3)], None),
        3 => Luck::Status(404, None),
        4 => Luck::Status(400, None),
        5 => Luck::Reset,
        6 => Luck::Truncated,
        7 => Luck::ErrorInside,
        _ => Luck::Answered,
    }
}

fn write_luck(chance: &mut StdRng) -> WriteLuck {
    match chance.random_range(0..20) {
        0 | 1 => WriteLuck::DiesBefore,
        2 | 3 => WriteLuck::DiesAfter,
        4..7 => WriteLuck::Unheard,
        7 | 8 => WriteLuck::TakenOver,
        9 | 10 => WriteLuck::Gone,
        _ => WriteLuck::Committed,
    }
}
