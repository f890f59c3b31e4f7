//! Walks an account's feed entry by entry and computes the chain anew. Pure.
//!
//! Heads that were kept (in manifests, in the account's row, in an earlier export) are milestones on the way. After one that
//! is not reached the walk goes on from it, so that each stretch between two of them is judged by itself.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::report::{Problem, ProblemKind};
use super::short;
use crate::db::{Chain, EntryPage, EntryRow, unpack};
use crate::proof::{Hash, Line, START, day_name, link, unhex};

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
    chain: &'a Chain,
    sub: &'a str,
    milestones: BTreeMap<i64, Vec<Milestone>>,
}

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
    pub(super) fn new(chain: &'a Chain, recorded: &[&Line]) -> Walk<'a> {
        let mut milestones: BTreeMap<i64, Vec<Milestone>> = BTreeMap::new();
        for line in recorded {
            let (_, feed, head) = line.claims();
            let source = line.to_string();
            let milestone = Milestone { head: unhex(head).unwrap_or_default(), recorded: true, source };
            milestones.entry(feed).or_default().push(milestone);
        }
        for manifest in &chain.manifests {
            let source = format!("the manifest of {}", day_name(manifest.day));
            let milestone = Milestone { head: manifest.head.clone(), recorded: false, source };
            milestones.entry(manifest.feed).or_default().push(milestone);
        }
        let source = "the account".to_owned();
        let end = Milestone { head: chain.head.clone(), recorded: false, source };
        milestones.entry(chain.feed).or_default().push(end);
        Walk { chain, sub: &chain.id.sub, milestones }
    }

    /// Before the first entry.
    pub(super) fn begin(&self) -> (At, Vec<Problem>) {
        let mut at = At {
            feed: 0,
            entries: 0,
            erased: 0,
            head: Some(START.to_vec()),
            since: self.chain.from,
            agreed: self.chain.from,
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
        if feed > self.chain.from {
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
        let what =
            if first == upto { "an entry is missing from the feed" } else { "entries are missing from the feed" };
        at.found.push(Problem::new(ProblemKind::Missing, self.sub, what).range(first, upto));
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
                let what = format!(
                    "these entries do not lead to the head that {} keeps ({}): one of them, its time, version, outcome, size, hash or salt was altered, or two were exchanged",
                    milestone.source,
                    short(&milestone.head)
                );
                at.found.push(Problem::new(ProblemKind::Chain, self.sub, what).range(at.since + 1, feed));
            }
            at.head = Some(milestone.head.clone());
        }
        if milestones.iter().any(|milestone| !milestone.recorded) {
            at.since = feed.max(self.chain.from);
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
        let what = format!(
            "the archive does not lead to {} ({}): it was rewritten after number {}",
            milestone.source,
            short(&milestone.head),
            at.agreed
        );
        let from = (at.agreed + 1).min(feed);
        at.found.push(Problem::new(ProblemKind::Recorded, self.sub, what).range(from, feed));
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
