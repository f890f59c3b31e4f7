//! The report of `verify`: the JSON of `verify --json` and the content of its table. Pure data.

use serde::Serialize;

use crate::clock::Time;
use crate::db::{AccountChain, AccountKey, EntryRow};
use crate::model::Artifact;
use crate::proof::hex;

/// The number of problems that are listed; further ones are only counted.
const MAX_LISTED_PROBLEMS: usize = 1000;

/// The report of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// This program's version.
    pub(crate) version: &'static str,
    /// The time of the verification.
    pub(crate) now: String,
    /// Whether there is no problem; the exit status agrees.
    pub intact: bool,
    /// The summary in one line.
    pub verdict: String,
    /// What was checked.
    pub(crate) covers: Vec<String>,
    /// What was not checked, and what the result does not prove.
    pub not_covered: Vec<String>,
    /// The check that was run on the database files; `None` if none was.
    pub database_checked_by: Option<&'static str>,
    /// Whether the archive was compared with an earlier export.
    pub(crate) compared_with_export: bool,
    /// The number of entries in the journal of erasures and holds.
    pub journal_entries: i64,
    /// The number of active holds.
    pub holds: u64,
    /// The number of entries in the access log.
    pub(crate) access_entries: i64,
    /// The number of problems.
    pub(crate) problem_count: u64,
    /// The first thousand problems.
    pub problems: Vec<IntegrityProblem>,
    /// The accounts.
    pub accounts: Vec<AccountReport>,
}

/// What was checked of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountReport {
    /// The key in the database.
    #[serde(skip)]
    pub(super) key: AccountKey,
    /// The id of the main account.
    pub(crate) rc_account_id: String,
    /// The id of the sub-account.
    pub(crate) sub_account_id: String,
    /// The display name.
    pub(crate) name: Option<String>,
    /// The newest number in the feed.
    pub feed: i64,
    /// The number after which the chain starts; older entries are checked only by their own hash.
    pub chain_from: i64,
    /// The head of the chain.
    pub head: String,
    /// The number of entries that were read.
    pub entries: u64,
    /// The number of entries that were erased lawfully; their leaves are kept.
    pub erased: u64,
    /// The number of daily manifests.
    pub manifests: u64,
    /// The number of segments whose metadata was read.
    pub segments: u64,
    /// The newest number in the record chain, which holds metadata versions and tombstones.
    pub records: i64,
    /// The newest number that an upgrade sealed; the earlier content of those rows is not proven.
    pub sealed_at_upgrade: i64,
}

impl AccountReport {
    pub(super) fn from_chain(chain: &AccountChain) -> AccountReport {
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

/// The kind of an integrity problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegrityProblemKind {
    /// The body of an entry does not match its stored hash.
    Body,
    /// Entries are missing from the feed.
    Missing,
    /// Entries are outside the range of the feed.
    Outside,
    /// The entries of a range do not produce the stored head.
    Chain,
    /// A manifest was altered or is missing.
    Manifest,
    /// The archive does not agree with an earlier export.
    Recorded,
    /// The metadata of a segment does not match its stored hash.
    Metadata,
    /// Segments are missing, or are not those that were announced.
    Segments,
    /// The segment of an entry does not exist.
    SegmentGone,
    /// A row belongs to no account or to another account.
    Stray,
    /// A row does not match the record chain or is missing.
    Records,
    /// The journal of erasures and holds was altered, or does not agree with the counts of erased
    /// segments.
    Journal,
    /// A hold does not agree with the journal.
    Hold,
    /// The coverage or the log of reads was altered.
    Coverage,
    /// The access log was altered.
    Access,
    /// A recording does not match its stored hash, or is not in the recording store.
    Recording,
    /// The integrity check of the database found damaged files.
    Database,
}

/// An integrity problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IntegrityProblem {
    /// The kind.
    pub kind: IntegrityProblemKind,
    /// The id of the sub-account; empty if it is unknown.
    pub sub_account_id: String,
    /// The segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment_id: Option<String>,
    /// The artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<&'static str>,
    /// The version of the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The feed number, or the first of a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<i64>,
    /// The last feed number of a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_feed: Option<i64>,
    /// The UTC day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl IntegrityProblem {
    pub(super) fn new(kind: IntegrityProblemKind, sub: &str, what: impl Into<String>) -> IntegrityProblem {
        IntegrityProblem {
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

    pub(super) fn entry(self, row: &EntryRow) -> IntegrityProblem {
        IntegrityProblem {
            segment_id: row.segment_id.clone(),
            artifact: row.item.artifact().map(|artifact| artifact.name()),
            version: Some(row.version),
            feed: Some(row.feed),
            ..self
        }
    }

    pub(super) fn range(self, from: i64, to: i64) -> IntegrityProblem {
        IntegrityProblem { feed: Some(from), to_feed: (to != from).then_some(to), ..self }
    }

    pub(super) fn day(self, day: String) -> IntegrityProblem {
        IntegrityProblem { day: Some(day), ..self }
    }

    /// A version of the recording of a segment.
    pub(super) fn recording(self, segment_id: Option<String>, version: i64) -> IntegrityProblem {
        let artifact = Some(Artifact::Recording.name());
        IntegrityProblem { segment_id, artifact, version: Some(version), ..self }
    }

    pub(super) fn segment(self, segment_id: &str) -> IntegrityProblem {
        IntegrityProblem { segment_id: Some(segment_id.to_owned()), ..self }
    }
}

/// The problems that were found, up to a limit, so that memory stays bounded.
#[derive(Debug, Default)]
pub(super) struct ProblemList {
    list: Vec<IntegrityProblem>,
    count: u64,
}

impl ProblemList {
    pub(super) fn add(&mut self, problem: IntegrityProblem) {
        self.count += 1;
        if self.list.len() < MAX_LISTED_PROBLEMS {
            self.list.push(problem);
        }
    }

    pub(super) fn extend(&mut self, problems: Vec<IntegrityProblem>) {
        problems.into_iter().for_each(|problem| self.add(problem));
    }
}

/// The scope of a verification beside the chains of the accounts.
#[derive(Debug, Default)]
pub(super) struct CheckedScope {
    /// Whether the archive was read, not only the manifests.
    pub(crate) archive: bool,
    /// Whether all accounts were verified, not only one.
    pub(crate) whole: bool,
    /// The check that was run on the database files.
    pub(crate) database: Option<&'static str>,
    /// Whether the archive was compared with an earlier export.
    pub(crate) against: bool,
    /// The number of journal entries.
    pub(crate) journal: i64,
    /// The number of journal entries that an upgrade sealed.
    pub(crate) journal_taken_over: i64,
    /// The number of active holds.
    pub(crate) holds: u64,
    /// The number of entries of the access log.
    pub(crate) access_entries: i64,
    /// The recordings.
    pub(crate) recordings: CheckedRecordings,
}

/// Which recordings were read.
#[derive(Debug, Default)]
pub(super) struct CheckedRecordings {
    /// The number of recordings.
    pub(crate) total: u64,
    /// Those that were read from the store.
    pub(crate) read: u64,
    /// The share that was to be read.
    pub(crate) sample_percent: u8,
}

pub(super) fn build_report(
    now: Time,
    accounts: Vec<AccountReport>,
    problems: ProblemList,
    checked: &CheckedScope,
) -> VerifyReport {
    let intact = problems.count == 0;
    let verdict = match (problems.count, checked.archive, checked.against) {
        (0, true, true) => "intact: nothing was altered since the export".to_owned(),
        (0, true, false) => "intact: nothing was altered, according to the hashes in the archive".to_owned(),
        (0, false, _) => "intact: the manifests are consistent".to_owned(),
        (1, ..) => "NOT intact: 1 problem".to_owned(),
        (count, ..) => format!("NOT intact: {count} problems"),
    };
    let (covers, not_covered) = describe_scope(&accounts, checked);
    VerifyReport {
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
        access_entries: checked.access_entries,
        problem_count: problems.count,
        problems: problems.list,
        accounts,
    }
}

/// Describes what the verdict covers and what it does not.
fn describe_scope(accounts: &[AccountReport], checked: &CheckedScope) -> (Vec<String>, Vec<String>) {
    let mut covers = vec!["the daily manifests".to_owned()];
    let mut not_covered = Vec::new();
    if checked.archive {
        covers.insert(0, "texts".to_owned());
        covers.insert(1, "metadata and its history".to_owned());
        covers.insert(2, "erased entries and the journal".to_owned());
        covers.insert(3, "holds".to_owned());
        covers.insert(4, "coverage and the log of the last reads".to_owned());
        covers.insert(5, "the access log".to_owned());
        match checked.database {
            Some(by) => covers.push(format!("the database files ({by})")),
            None => not_covered.push("the database files: install the extension amcheck to check them".to_owned()),
        }
        let recordings = &checked.recordings;
        match (recordings.total, recordings.read) {
            (0, _) => {}
            (total, read) if total == read => covers.push(format!("{total} recordings")),
            (total, 0) => not_covered.push(format!("the audio of {total} recordings: their store was not read")),
            (total, read) => {
                covers.push(format!("a sample of {read} recordings"));
                not_covered.push(format!(
                    "the other {} recordings: the sample is {} %",
                    total - read,
                    recordings.sample_percent
                ));
            }
        }
        not_covered.push("work items, attempts, records set aside, delivery state and the search index".to_owned());
        let sealed: Vec<&AccountReport> = accounts.iter().filter(|account| account.sealed_at_upgrade > 0).collect();
        if !sealed.is_empty() || checked.journal_taken_over > 0 {
            let rows: i64 = sealed.iter().map(|account| account.sealed_at_upgrade).sum();
            not_covered.push(format!(
                "the content of {rows} records and {} journal entries before an upgrade sealed them",
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
        "changes after the export: anyone who can write to the database can recompute all hashes".to_owned()
    } else {
        "a forgery that recomputed all hashes: compare with an export that was stored elsewhere, --against FILE"
            .to_owned()
    });
    (covers, not_covered)
}
