//! Recomputes a hash chain number by number: the feed of an account, its record chain, the journal
//! of the archive, or its access log. Pure.
//!
//! Stored heads (in manifests, in the row of the account, in an earlier export) are checkpoints. If
//! the recomputed head differs from a checkpoint, the walk continues from the checkpoint, so that
//! each range between two checkpoints is checked on its own.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::short_hash;
use super::verify_report::{IntegrityProblem, IntegrityProblemKind};
use crate::db::{AccessChainState, AccountChain, EntryPage, EntryRow, RecordChainState, unpack};
use crate::model::Artifact;
use crate::proof::{ChainName, ExportedLine, GENESIS_HASH, Hash, format_day, link, sha256, unhex};

/// A stored head.
#[derive(Debug, Clone)]
struct Checkpoint {
    head: Vec<u8>,
    /// Whether it comes from an earlier export, not from the database.
    is_exported: bool,
    /// The name of its source, for messages.
    source: String,
}

/// A walk over one chain.
pub(super) struct ChainWalk<'a> {
    terms: &'static ChainTerms,
    sub: &'a str,
    /// The number after which the chain starts.
    from: i64,
    /// The newest number.
    newest: i64,
    /// The number and the head at which the walk begins.
    start: (i64, Vec<u8>),
    checkpoints: BTreeMap<i64, Vec<Checkpoint>>,
}

/// The terms in which the problems of a chain are reported.
struct ChainTerms {
    chain: ChainName,
    missing: IntegrityProblemKind,
    altered: IntegrityProblemKind,
    one_missing: &'static str,
    many_missing: &'static str,
    what_altered: &'static str,
    /// What the numbers count, unless they are feed numbers.
    numbers: Option<&'static str>,
}

const FEED_TERMS: ChainTerms = ChainTerms {
    chain: ChainName::Feed,
    missing: IntegrityProblemKind::Missing,
    altered: IntegrityProblemKind::Chain,
    one_missing: "an entry is missing from the feed",
    many_missing: "entries are missing from the feed",
    what_altered: "these entries do not produce the head in {}: the time, version, outcome, size, hash or salt of one was altered, or two were swapped",
    numbers: None,
};

const RECORDS_TERMS: ChainTerms = ChainTerms {
    chain: ChainName::Records,
    missing: IntegrityProblemKind::Records,
    altered: IntegrityProblemKind::Records,
    one_missing: "a segment, a metadata version, a tombstone or a leaf is missing",
    many_missing: "segments, metadata versions, tombstones or leaves are missing",
    what_altered: "they do not produce the head in {}: metadata was altered together with its hashes, or a tombstone was altered",
    numbers: Some("records"),
};

const JOURNAL_TERMS: ChainTerms = ChainTerms {
    chain: ChainName::Journal,
    missing: IntegrityProblemKind::Journal,
    altered: IntegrityProblemKind::Journal,
    one_missing: "an entry is missing from the journal of erasures and holds",
    many_missing: "entries are missing from the journal of erasures and holds",
    what_altered: "the journal of erasures and holds does not produce the head in {}: an entry was altered or removed",
    numbers: Some("journal entries"),
};

const ACCESS_TERMS: ChainTerms = ChainTerms {
    chain: ChainName::Access,
    missing: IntegrityProblemKind::Access,
    altered: IntegrityProblemKind::Access,
    one_missing: "an entry is missing from the access log",
    many_missing: "entries are missing from the access log",
    what_altered: "the access log does not produce the head in {}: an entry was altered or removed",
    numbers: Some("entries of the access log"),
};

/// The position of a walk.
#[derive(Debug, Clone)]
pub(super) struct WalkPosition {
    /// The number of the last entry.
    pub(crate) feed: i64,
    /// The number of entries that were read.
    pub(crate) entries: u64,
    /// The number of erased entries.
    pub(crate) erased: u64,
    /// The recomputed head; `None` if an entry is missing before the next checkpoint.
    head: Option<Vec<u8>>,
    /// The number of the last checkpoint.
    last_checkpoint: i64,
    /// The number of the last exported checkpoint that agreed.
    last_agreement: i64,
    /// Whether an exported checkpoint differed; later ones are then not compared.
    diverged: bool,
    found: Vec<IntegrityProblem>,
}

impl<'a> ChainWalk<'a> {
    /// A walk over the feed of an account.
    pub(super) fn feed(chain: &'a AccountChain, recorded: &[&ExportedLine]) -> ChainWalk<'a> {
        let manifests = chain.manifests.iter();
        let manifests = manifests.map(|manifest| (manifest.day, manifest.feed, manifest.head.clone()));
        let end = (chain.feed, chain.head.clone(), "the account");
        ChainWalk::new(&FEED_TERMS, &chain.id.sub, chain.from, manifests, end, recorded)
    }

    /// A walk over the record chain of an account.
    pub(super) fn records(chain: &'a AccountChain, recorded: &[&ExportedLine]) -> ChainWalk<'a> {
        let manifests = chain.manifests.iter().filter_map(|manifest| {
            let beside = manifest.record_heads.as_ref()?;
            Some((manifest.day, beside.records, beside.record_head.clone()))
        });
        let end = (chain.records.newest, chain.records.head.clone(), "the record chain");
        ChainWalk::new(&RECORDS_TERMS, &chain.id.sub, 0, manifests, end, recorded)
    }

    /// A walk over the journal of the archive. The manifests of all accounts contain its head, so
    /// all are compared.
    pub(super) fn journal(
        state: &RecordChainState,
        chains: &[AccountChain],
        recorded: &[&ExportedLine],
    ) -> ChainWalk<'a> {
        let manifests = chains.iter().flat_map(|chain| &chain.manifests).filter_map(|manifest| {
            let beside = manifest.record_heads.as_ref()?;
            Some((manifest.day, beside.journal, beside.journal_head.clone()))
        });
        let end = (state.newest, state.head.clone(), "the archive");
        ChainWalk::new(&JOURNAL_TERMS, "", 0, manifests, end, recorded)
    }

    /// A walk over the entries of the access log that retention has left.
    pub(super) fn access(state: &AccessChainState, recorded: &[&ExportedLine]) -> ChainWalk<'a> {
        let end = (state.newest, state.head.clone(), "the archive");
        let walk = ChainWalk::new(&ACCESS_TERMS, "", state.removed, std::iter::empty(), end, recorded);
        ChainWalk { start: (state.removed, state.removed_head.clone()), ..walk }
    }

    fn new(
        terms: &'static ChainTerms,
        sub: &'a str,
        from: i64,
        manifests: impl Iterator<Item = (i64, i64, Vec<u8>)>,
        (newest, head, source): (i64, Vec<u8>, &str),
        recorded: &[&ExportedLine],
    ) -> ChainWalk<'a> {
        let mut checkpoints: BTreeMap<i64, Vec<Checkpoint>> = BTreeMap::new();
        let mut add = |number: i64, head: Vec<u8>, is_exported: bool, source: String| {
            // An empty chain cannot have been altered.
            if number > 0 || terms.numbers.is_none() {
                checkpoints.entry(number).or_default().push(Checkpoint { head, is_exported, source });
            }
        };
        for line in recorded {
            if let Some((number, head)) = line.claimed_head(terms.chain) {
                add(number, unhex(head).unwrap_or_default(), true, line.to_string());
            }
        }
        for (day, number, head) in manifests {
            add(number, head, false, format!("the manifest of {}", format_day(day)));
        }
        add(newest, head, false, source.to_owned());
        ChainWalk { terms, sub, from, newest, start: (0, GENESIS_HASH.to_vec()), checkpoints }
    }

    /// The newest number of the walk.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// Creates a problem of this chain in a range of its numbers.
    fn problem(&self, kind: IntegrityProblemKind, what: String, (from, to): (i64, i64)) -> IntegrityProblem {
        match self.terms.numbers {
            None => IntegrityProblem::new(kind, self.sub, what).range(from, to),
            Some(numbers) if from == to => {
                IntegrityProblem::new(kind, self.sub, format!("{numbers}, number {from}: {what}"))
            }
            Some(numbers) => {
                IntegrityProblem::new(kind, self.sub, format!("{numbers}, numbers {from} to {to}: {what}"))
            }
        }
    }

    /// The position before the first entry, and the problems found there.
    pub(super) fn begin(&self) -> (WalkPosition, Vec<IntegrityProblem>) {
        let mut at = WalkPosition {
            feed: self.start.0,
            entries: 0,
            erased: 0,
            head: Some(self.start.1.clone()),
            last_checkpoint: self.from,
            last_agreement: self.from,
            diverged: false,
            found: Vec::new(),
        };
        self.compare_checkpoints(&mut at, self.start.0);
        let found = std::mem::take(&mut at.found);
        (at, found)
    }

    /// Walks over one page; returns the new position and the problems found.
    pub(super) fn step(&self, from: &WalkPosition, page: &EntryPage) -> (WalkPosition, Vec<IntegrityProblem>) {
        let mut at = from.clone();
        let (mut rows, mut erased) = (page.rows.iter().peekable(), page.erased.iter().peekable());
        loop {
            let order = match (rows.peek(), erased.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(row), Some((feed, _))) => row.feed.cmp(feed),
            };
            // An entry that was erased during the read counts as it was read first.
            let leaf = if order == Ordering::Less { None } else { erased.next() };
            let row = if order == Ordering::Greater { None } else { rows.next() };
            match (row, leaf) {
                (Some(row), _) => self.check_entry(&mut at, row),
                (None, Some((feed, leaf))) => self.check_leaf(&mut at, *feed, leaf.as_deref()),
                (None, None) => break,
            }
        }
        self.report_missing(&mut at, page.upto);
        let found = std::mem::take(&mut at.found);
        (at, found)
    }

    fn check_entry(&self, at: &mut WalkPosition, row: &EntryRow) {
        self.report_missing(at, row.feed - 1);
        at.entries += 1;
        let found =
            body_problem(row).map(|what| IntegrityProblem::new(IntegrityProblemKind::Body, self.sub, what).entry(row));
        at.found.extend(found);
        if row.segment_id.is_none() {
            let what = format!("the segment of this entry does not exist (key {} in the database)", row.item.segment());
            at.found.push(IntegrityProblem::new(IntegrityProblemKind::SegmentGone, self.sub, what).entry(row));
        }
        self.advance(at, row.feed, row.leaf(self.sub));
    }

    fn check_leaf(&self, at: &mut WalkPosition, feed: i64, leaf: Option<&[u8]>) {
        self.report_missing(at, feed - 1);
        at.erased += 1;
        self.advance(at, feed, leaf.and_then(|leaf| Hash::try_from(leaf).ok()));
    }

    /// Moves to the next number. Without a leaf the head becomes unknown.
    fn advance(&self, at: &mut WalkPosition, feed: i64, leaf: Option<Hash>) {
        if feed > self.from {
            at.head = match (&at.head, leaf) {
                (Some(head), Some(leaf)) => Some(link(head, &leaf).to_vec()),
                _ => None,
            };
        }
        at.feed = feed;
        self.compare_checkpoints(at, feed);
    }

    /// Reports the numbers up to `upto` that are missing.
    fn report_missing(&self, at: &mut WalkPosition, upto: i64) {
        if upto <= at.feed {
            return;
        }
        let first = at.feed + 1;
        let what = if first == upto { self.terms.one_missing } else { self.terms.many_missing };
        at.found.push(self.problem(self.terms.missing, what.to_owned(), (first, upto)));
        let passed: Vec<i64> = self.checkpoints.range(first..=upto).map(|(feed, _)| *feed).collect();
        for feed in passed {
            self.advance(at, feed, None);
        }
        if at.feed < upto {
            self.advance(at, upto, None);
        }
    }

    fn compare_checkpoints(&self, at: &mut WalkPosition, feed: i64) {
        let Some(checkpoints) = self.checkpoints.get(&feed) else { return };
        let reached = at.head.clone();
        let mut reported = false;
        for checkpoint in checkpoints {
            let agrees = reached.as_ref().is_some_and(|head| *head == checkpoint.head);
            if checkpoint.is_exported {
                self.compare_exported(at, feed, checkpoint, agrees);
                continue;
            }
            // A missing entry has been reported already.
            if !agrees && reached.is_some() && !reported {
                reported = true;
                let source = format!("{} ({})", checkpoint.source, short_hash(&checkpoint.head));
                let what = self.terms.what_altered.replace("{}", &source);
                at.found.push(self.problem(self.terms.altered, what, (at.last_checkpoint + 1, feed)));
            }
            at.head = Some(checkpoint.head.clone());
        }
        if checkpoints.iter().any(|checkpoint| !checkpoint.is_exported) {
            at.last_checkpoint = feed.max(self.from);
        }
    }

    fn compare_exported(&self, at: &mut WalkPosition, feed: i64, checkpoint: &Checkpoint, agrees: bool) {
        if at.diverged {
            return;
        }
        if agrees {
            at.last_agreement = feed;
            return;
        }
        at.diverged = true;
        let numbers = self.terms.numbers.map(|numbers| format!("{numbers}, ")).unwrap_or_default();
        let what = format!(
            "the archive does not match {} ({}): it was rewritten after {numbers}number {}",
            checkpoint.source,
            short_hash(&checkpoint.head),
            at.last_agreement
        );
        let from = (at.last_agreement + 1).min(feed);
        at.found.push(self.problem(IntegrityProblemKind::Recorded, what, (from, feed)));
    }
}

/// Checks the body of an entry; returns what is wrong with it.
fn body_problem(row: &EntryRow) -> Option<&'static str> {
    if row.item.artifact() == Some(Artifact::Recording) {
        // Its bytes are in the recording store, which is checked by itself.
        return (!row.body.is_empty()).then_some("a recording has a body in the database");
    }
    let Ok(body) = unpack(row.codec, row.body.clone()) else {
        return Some("the body cannot be unpacked");
    };
    if sha256(&body)[..] != row.sha256[..] {
        return Some("the body does not match its stored SHA-256");
    }
    (i64::try_from(body.len()) != Ok(row.size)).then_some("the body does not match its stored size")
}
