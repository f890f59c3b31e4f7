//! What `verify` says: the JSON of `verify --json`, and what its table is made of. Pure data.

use serde::Serialize;

use crate::clock::Time;
use crate::db::{Chain, EntryRow};
use crate::proof::hex;

/// How many problems are told one by one; the others are counted.
const MOST: usize = 1000;

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// This program's version.
    pub version: &'static str,
    /// When it was asked.
    pub now: String,
    /// Whether nothing is wrong; the exit status says the same.
    pub intact: bool,
    /// The first line for people.
    pub verdict: String,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first thousand of them.
    pub problems: Vec<Problem>,
    /// Account by account.
    pub accounts: Vec<AccountReport>,
}

/// What was looked at of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountReport {
    /// Its number in the database.
    #[serde(skip)]
    pub(super) key: i64,
    /// The main account.
    pub rc_account_id: String,
    /// The sub-account.
    pub sub_account_id: String,
    /// For people.
    pub name: Option<String>,
    /// The newest number in its feed.
    pub feed: i64,
    /// The number after which its chain begins; what is older is checked by its hash alone.
    pub chain_from: i64,
    /// The chain's head.
    pub head: String,
    /// Entries that were read.
    pub entries: u64,
    /// Entries that were erased lawfully: their leaves are held.
    pub erased: u64,
    /// Daily manifests.
    pub manifests: u64,
    /// Segments whose metadata was read.
    pub segments: u64,
}

impl AccountReport {
    pub(super) fn of(chain: &Chain) -> AccountReport {
        AccountReport {
            key: chain.account,
            rc_account_id: chain.id.rc.to_string(),
            sub_account_id: chain.id.sub.to_string(),
            name: chain.name.clone(),
            feed: chain.feed,
            chain_from: chain.from,
            head: hex(&chain.head),
            entries: 0,
            erased: 0,
            manifests: chain.manifests.len() as u64,
            segments: 0,
        }
    }
}

/// Kinds of problems, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// An entry's body is not the one whose hash was kept when it came.
    Body,
    /// Entries are missing from the feed.
    Missing,
    /// Entries lie where none should be.
    Outside,
    /// The entries of a range do not lead to the head that was kept.
    Chain,
    /// A manifest was altered or is missing.
    Manifest,
    /// The archive is not the one that was exported earlier.
    Recorded,
    /// A segment's metadata is not that whose hash was kept when it came.
    Metadata,
    /// Segments are missing, or are others than were announced.
    Segments,
    /// An entry's segment is not held.
    SegmentGone,
    /// Something belongs to no account.
    Stray,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which kind it is of.
    pub kind: ProblemKind,
    /// The sub-account; empty where none can be named.
    pub sub_account_id: String,
    /// The segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment_id: Option<String>,
    /// The artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<&'static str>,
    /// Which version of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The feed number, or the first of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<i64>,
    /// The last of several feed numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_feed: Option<i64>,
    /// The UTC day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, sub: &str, what: impl Into<String>) -> Problem {
        Problem {
            kind,
            sub_account_id: sub.to_owned(),
            segment_id: None,
            artifact: None,
            version: None,
            feed: None,
            to_feed: None,
            day: None,
            what: what.into(),
        }
    }

    pub(super) fn entry(self, row: &EntryRow) -> Problem {
        Problem {
            segment_id: row.segment_id.clone(),
            artifact: row.item.artifact().map(|artifact| artifact.name()),
            version: Some(row.version),
            feed: Some(row.feed),
            ..self
        }
    }

    pub(super) fn range(self, from: i64, to: i64) -> Problem {
        Problem { feed: Some(from), to_feed: (to != from).then_some(to), ..self }
    }

    pub(super) fn day(self, day: String) -> Problem {
        Problem { day: Some(day), ..self }
    }

    pub(super) fn segment(self, segment_id: &str) -> Problem {
        Problem { segment_id: Some(segment_id.to_owned()), ..self }
    }
}

/// Problems as they are found: memory does not grow with an archive that is wrong throughout.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    count: u64,
}

impl Problems {
    pub(super) fn add(&mut self, problem: Problem) {
        self.count += 1;
        if self.list.len() < MOST {
            self.list.push(problem);
        }
    }

    pub(super) fn extend(&mut self, problems: Vec<Problem>) {
        problems.into_iter().for_each(|problem| self.add(problem));
    }
}

pub(super) fn report(now: Time, accounts: Vec<AccountReport>, problems: Problems) -> Report {
    let intact = problems.count == 0;
    let verdict = match problems.count {
        0 => "intact: nothing was altered".to_owned(),
        1 => "NOT intact: 1 problem".to_owned(),
        count => format!("NOT intact: {count} problems"),
    };
    Report {
        version: env!("CARGO_PKG_VERSION"),
        now: now.rfc3339(),
        intact,
        verdict,
        problem_count: problems.count,
        problems: problems.list,
        accounts,
    }
}
