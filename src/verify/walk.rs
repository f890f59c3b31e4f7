//! Walks a chain number by number and computes it anew: an account's feed, its record chain, the archive's journal. Pure.
//!
//! Heads that were kept (in manifests, in the account's row, in an earlier export) are milestones on the way. After one that
//! is not reached the walk goes on from it, so that each stretch between two of them is judged by itself.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::report::{Problem, ProblemKind};
use super::short;
use crate::db::{Chain, EntryPage, EntryRow, RecordState, unpack};
use crate::proof::{ChainName, Hash, Line, START, day_name, link, unhex};

/// A head that was kept.
#[derive(Debug, Clone)]
struct Milestone {
    head: Vec<u8>,
    /// Whether an earlier export says so, rather than the database itself.
    recorded: bool,
    /// Who says so.
    source: String,
}

/// What is to be walked.
pub(super) struct Walk<'a> {
    words: &'static Words,
    sub: &'a str,
    /// The number after which the chain begins, and the newest.
    from: i64,
    newest: i64,
    milestones: BTreeMap<i64, Vec<Milestone>>,
}

/// How a chain's problems are named.
struct Words {
    chain: ChainName,
    missing: ProblemKind,
    altered: ProblemKind,
    one_missing: &'static str,
    many_missing: &'static str,
    what_altered: &'static str,
    /// What its numbers count, where that is not the feed.
    numbers: Option<&'static str>,
}

const FEED: Words = Words {
    chain: ChainName::Feed,
    missing: ProblemKind::Missing,
    altered: ProblemKind::Chain,
    one_missing: "an entry is missing from the feed",
    many_missing: "entries are missing from the feed",
    what_altered: "these entries do not lead to the head that {} keeps: one of them, its time, version, outcome, size, hash or salt was altered, or two were exchanged",
    numbers: None,
};

const RECORDS: Words = Words {
    chain: ChainName::Records,
    missing: ProblemKind::Records,
    altered: ProblemKind::Records,
    one_missing: "a segment, a version of its metadata, a tombstone or its leaf is missing",
    many_missing: "segments, versions of their metadata, tombstones or their leaves are missing",
    what_altered: "they do not lead to the head that {} keeps: metadata was altered together with its hashes, or a tombstone",
    numbers: Some("records"),
};

const JOURNAL: Words = Words {
    chain: ChainName::Journal,
    missing: ProblemKind::Journal,
    altered: ProblemKind::Journal,
    one_missing: "an entry is missing from the journal of erasures and holds",
    many_missing: "entries are missing from the journal of erasures and holds",
    what_altered: "the journal of erasures and holds does not lead to the head that {} keeps: an entry was altered or removed",
    numbers: Some("journal entries"),
};

/// How far a walk has come.
#[derive(Debug, Clone)]
pub(super) struct At {
    /// The number of the last entry.
    pub feed: i64,
    /// Entries that were read.
    pub entries: u64,
    /// Entries that were erased.
    pub erased: u64,
    /// The head; `None` where something is missing before the next milestone.
    head: Option<Vec<u8>>,
    /// The last milestone.
    since: i64,
    /// The last recorded milestone that was reached.
    agreed: i64,
    /// Whether one was not; those after it will hardly be.
    diverged: bool,
    found: Vec<Problem>,
}

impl<'a> Walk<'a> {
    /// Over an account's feed.
    pub(super) fn new(chain: &'a Chain, recorded: &[&Line]) -> Walk<'a> {
        let manifests = chain.manifests.iter();
        let manifests = manifests.map(|manifest| (manifest.day, manifest.feed, manifest.head.clone()));
        let end = (chain.feed, chain.head.clone(), "the account");
        Walk::over(&FEED, &chain.id.sub, chain.from, manifests, end, recorded)
    }

    /// Over an account's record chain.
    pub(super) fn records(chain: &'a Chain, recorded: &[&Line]) -> Walk<'a> {
        let manifests = chain.manifests.iter().filter_map(|manifest| {
            let beside = manifest.beside.as_ref()?;
            Some((manifest.day, beside.records, beside.record_head.clone()))
        });
        let end = (chain.records.newest, chain.records.head.clone(), "the record chain");
        Walk::over(&RECORDS, &chain.id.sub, 0, manifests, end, recorded)
    }

    /// Over the archive's journal. What manifests say of it, each account's say: those of all are compared.
    pub(super) fn journal(state: &RecordState, chains: &[Chain], recorded: &[&Line]) -> Walk<'a> {
        let manifests = chains.iter().flat_map(|chain| &chain.manifests).filter_map(|manifest| {
            let beside = manifest.beside.as_ref()?;
            Some((manifest.day, beside.journal, beside.journal_head.clone()))
        });
        let end = (state.newest, state.head.clone(), "the archive");
        Walk::over(&JOURNAL, "", 0, manifests, end, recorded)
    }

    fn over(
        words: &'static Words,
        sub: &'a str,
        from: i64,
        manifests: impl Iterator<Item = (i64, i64, Vec<u8>)>,
        (newest, head, source): (i64, Vec<u8>, &str),
        recorded: &[&Line],
    ) -> Walk<'a> {
        let mut milestones: BTreeMap<i64, Vec<Milestone>> = BTreeMap::new();
        let mut add = |number: i64, head: Vec<u8>, recorded: bool, source: String| {
            // Where there is nothing yet, nothing can have been altered.
            if number > 0 || words.numbers.is_none() {
                milestones.entry(number).or_default().push(Milestone { head, recorded, source });
            }
        };
        for line in recorded {
            if let Some((number, head)) = line.claim(words.chain) {
                add(number, unhex(head).unwrap_or_default(), true, line.to_string());
            }
        }
        for (day, number, head) in manifests {
            add(number, head, false, format!("the manifest of {}", day_name(day)));
        }
        add(newest, head, false, source.to_owned());
        Walk { words, sub, from, newest, milestones }
    }

    /// The newest number that is walked to.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// A problem of this chain in this range of its numbers.
    fn problem(&self, kind: ProblemKind, what: String, (from, to): (i64, i64)) -> Problem {
        match self.words.numbers {
            None => Problem::new(kind, self.sub, what).range(from, to),
            Some(numbers) if from == to => Problem::new(kind, self.sub, format!("{numbers}, number {from}: {what}")),
            Some(numbers) => Problem::new(kind, self.sub, format!("{numbers}, numbers {from} to {to}: {what}")),
        }
    }

    /// Before the first entry.
    pub(super) fn begin(&self) -> (At, Vec<Problem>) {
        let mut at = At {
            feed: 0,
            entries: 0,
            erased: 0,
            head: Some(START.to_vec()),
            since: self.from,
            agreed: self.from,
            diverged: false,
            found: Vec::new(),
        };
        self.milestone(&mut at, 0);
        let found = std::mem::take(&mut at.found);
        (at, found)
    }

    /// Over one page; what is wrong with it.
    pub(super) fn step(&self, from: &At, page: &EntryPage) -> (At, Vec<Problem>) {
        let mut at = from.clone();
        let (mut rows, mut erased) = (page.rows.iter().peekable(), page.erased.iter().peekable());
        loop {
            let order = match (rows.peek(), erased.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(row), Some((feed, _))) => row.feed.cmp(feed),
            };
            // Erased while it was read: what was read first is told.
            let gone = if order == Ordering::Less { None } else { erased.next() };
            let row = if order == Ordering::Greater { None } else { rows.next() };
            match (row, gone) {
                (Some(row), _) => self.entry(&mut at, row),
                (None, Some((feed, leaf))) => self.leaf(&mut at, *feed, leaf.as_deref()),
                (None, None) => break,
            }
        }
        self.missing(&mut at, page.upto);
        let found = std::mem::take(&mut at.found);
        (at, found)
    }

    fn entry(&self, at: &mut At, row: &EntryRow) {
        self.missing(at, row.feed - 1);
        at.entries += 1;
        let found = body_problem(row).map(|what| Problem::new(ProblemKind::Body, self.sub, what).entry(row));
        at.found.extend(found);
        if row.segment_id.is_none() {
            let what = format!("the segment of this entry is not held (number {} in the database)", row.item.segment());
            at.found.push(Problem::new(ProblemKind::SegmentGone, self.sub, what).entry(row));
        }
        self.advance(at, row.feed, row.leaf(self.sub));
    }

    fn leaf(&self, at: &mut At, feed: i64, leaf: Option<&[u8]>) {
        self.missing(at, feed - 1);
        at.erased += 1;
        self.advance(at, feed, leaf.and_then(|leaf| Hash::try_from(leaf).ok()));
    }

    /// One number further. Without a leaf the head is not known any more.
    fn advance(&self, at: &mut At, feed: i64, leaf: Option<Hash>) {
        if feed > self.from {
            at.head = match (&at.head, leaf) {
                (Some(head), Some(leaf)) => Some(link(head, &leaf).to_vec()),
                _ => None,
            };
        }
        at.feed = feed;
        self.milestone(at, feed);
    }

    /// Everything up to this number that has not come is missing.
    fn missing(&self, at: &mut At, upto: i64) {
        if upto <= at.feed {
            return;
        }
        let first = at.feed + 1;
        let what = if first == upto { self.words.one_missing } else { self.words.many_missing };
        at.found.push(self.problem(self.words.missing, what.to_owned(), (first, upto)));
        let passed: Vec<i64> = self.milestones.range(first..=upto).map(|(feed, _)| *feed).collect();
        for feed in passed {
            self.advance(at, feed, None);
        }
        if at.feed < upto {
            self.advance(at, upto, None);
        }
    }

    fn milestone(&self, at: &mut At, feed: i64) {
        let Some(milestones) = self.milestones.get(&feed) else { return };
        let reached = at.head.clone();
        let mut reported = false;
        for milestone in milestones {
            let agrees = reached.as_ref().is_some_and(|head| *head == milestone.head);
            if milestone.recorded {
                self.recorded(at, feed, milestone, agrees);
                continue;
            }
            // Where something is missing, that has been said.
            if !agrees && reached.is_some() && !reported {
                reported = true;
                let keeper = format!("{} ({})", milestone.source, short(&milestone.head));
                let what = self.words.what_altered.replace("{}", &keeper);
                at.found.push(self.problem(self.words.altered, what, (at.since + 1, feed)));
            }
            at.head = Some(milestone.head.clone());
        }
        if milestones.iter().any(|milestone| !milestone.recorded) {
            at.since = feed.max(self.from);
        }
    }

    fn recorded(&self, at: &mut At, feed: i64, milestone: &Milestone, agrees: bool) {
        if at.diverged {
            return;
        }
        if agrees {
            at.agreed = feed;
            return;
        }
        at.diverged = true;
        let numbers = self.words.numbers.map(|numbers| format!("{numbers}, ")).unwrap_or_default();
        let what = format!(
            "the archive does not lead to {} ({}): it was rewritten after {numbers}number {}",
            milestone.source,
            short(&milestone.head),
            at.agreed
        );
        let from = (at.agreed + 1).min(feed);
        at.found.push(self.problem(ProblemKind::Recorded, what, (from, feed)));
    }
}

/// What is wrong with an entry's body.
fn body_problem(row: &EntryRow) -> Option<&'static str> {
    let Ok(body) = unpack(row.codec, row.body.clone()) else {
        return Some("the body cannot be unpacked");
    };
    if Sha256::digest(&body)[..] != row.sha256[..] {
        return Some("the body is not the one whose SHA-256 is kept with it");
    }
    (i64::try_from(body.len()) != Ok(row.size)).then_some("the body has not the size that is kept with it")
}
