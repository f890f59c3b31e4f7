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
    /// What was checked.
    pub covers: Vec<String>,
    /// What was not, and what this does not prove.
    pub not_covered: Vec<String>,
    /// By what the database's files were checked; `None` where they were not.
    pub database_checked_by: Option<&'static str>,
    /// Whether it was compared with what was exported earlier.
    pub compared_with_export: bool,
    /// Entries of the journal of erasures and holds.
    pub journal_entries: i64,
    /// Holds that stand.
    pub holds: u64,
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
    /// The newest number in its record chain: versions of metadata, and tombstones.
    pub records: i64,
    /// Up to which of these numbers rows were sealed at an upgrade: what they were before that is not proven.
    pub sealed_at_upgrade: i64,
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
            records: chain.records.newest,
            sealed_at_upgrade: chain.records.taken_over,
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
    /// Something belongs to no account, or to another's.
    Stray,
    /// What is stored beside the texts is not what the record chain took, or is missing.
    Records,
    /// The journal of erasures and holds was altered, or does not agree with what is erased.
    Journal,
    /// A hold is not what the journal says of it.
    Hold,
    /// What counts as read, or the log of reads, was altered.
    Coverage,
    /// The database's own check found its files damaged.
    Database,
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

/// What was checked beside the accounts' chains.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Whether the archive was read, not the manifests alone.
    pub archive: bool,
    /// Whether the whole archive was asked for, not one account.
    pub whole: bool,
    /// By what the database's files were checked.
    pub database: Option<&'static str>,
    /// Whether it was compared with what was exported earlier.
    pub against: bool,
    /// Entries of the journal.
    pub journal: i64,
    /// Entries of it that were sealed at an upgrade.
    pub journal_taken_over: i64,
    /// Holds that stand.
    pub holds: u64,
}

pub(super) fn report(now: Time, accounts: Vec<AccountReport>, problems: Problems, checked: &Checked) -> Report {
    let intact = problems.count == 0;
    let verdict = match (problems.count, checked.archive, checked.against) {
        (0, true, true) => "intact: nothing was altered since the export".to_owned(),
        (0, true, false) => "intact: nothing was altered, as far as the archive's own hashes show".to_owned(),
        (0, false, _) => "intact: the manifests hang together".to_owned(),
        (1, ..) => "NOT intact: 1 problem".to_owned(),
        (count, ..) => format!("NOT intact: {count} problems"),
    };
    let (covers, not_covered) = scope(&accounts, checked);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        now: now.rfc3339(),
        intact,
        verdict,
        covers,
        not_covered,
        database_checked_by: checked.database,
        compared_with_export: checked.against,
        journal_entries: checked.journal,
        holds: checked.holds,
        problem_count: problems.count,
        problems: problems.list,
        accounts,
    }
}

/// What the verdict covers, and what not.
fn scope(accounts: &[AccountReport], checked: &Checked) -> (Vec<String>, Vec<String>) {
    let mut covers = vec!["the daily manifests".to_owned()];
    let mut not_covered = Vec::new();
    if checked.archive {
        covers.insert(0, "texts".to_owned());
        covers.insert(1, "metadata and its history".to_owned());
        covers.insert(2, "what was erased, and the journal of it".to_owned());
        covers.insert(3, "holds".to_owned());
        covers.insert(4, "what counts as read, and the log of the last reads".to_owned());
        match checked.database {
            Some(by) => covers.push(format!("the database's files ({by})")),
            None => {
                not_covered.push("the database's files: install the extension amcheck to have them checked".to_owned())
            }
        }
        not_covered.push("work, attempts, records set aside, delivery and the search index".to_owned());
        let sealed: Vec<&AccountReport> = accounts.iter().filter(|account| account.sealed_at_upgrade > 0).collect();
        if !sealed.is_empty() || checked.journal_taken_over > 0 {
            let rows: i64 = sealed.iter().map(|account| account.sealed_at_upgrade).sum();
            not_covered.push(format!(
                "what {rows} records and {} journal entries were before an upgrade sealed them as it found them",
                checked.journal_taken_over
            ));
        }
    } else {
        not_covered.push("everything else: the archive was not read".to_owned());
    }
    if !checked.whole {
        not_covered.push("other accounts".to_owned());
    }
    not_covered.push(if checked.against {
        "what came after the export: whoever can write the database can compute every hash anew".to_owned()
    } else {
        "a forger who computed every hash anew: compare with an export that was kept elsewhere, --against FILE"
            .to_owned()
    });
    (covers, not_covered)
}
