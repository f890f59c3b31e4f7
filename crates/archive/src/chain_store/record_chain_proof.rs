//! Reads record chains back for verification: leaves, the journal with the holds, the read log with
//! the coverage, and counts.

use std::collections::{BTreeMap, HashMap};

use super::super::deletion::ArchiveKey;
use super::super::sql::count;
use super::super::{AccountKey, Db, DbError, Snapshot, Tx, sql};
use super::JOURNAL;
use crate::hash_chain::{GENESIS_HASH, Hash, JournalRecord, ReadRecord, TombstoneRecord, link};
use crate::model::Subject;

/// Leaves, or tombstones, of a page.
const MAX_LEAVES_PER_PAGE: i64 = 10_000;

/// The state of a record chain.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RecordChainState {
    /// The newest number.
    pub newest: i64,
    /// The head after it.
    pub head: Vec<u8>,
    /// Up to this number, rows were chained by an upgrade.
    pub taken_over: i64,
    /// The newest chained window read.
    pub reads: i64,
    /// The head after it.
    pub reads_head: Vec<u8>,
}

impl Default for RecordChainState {
    fn default() -> RecordChainState {
        let head = GENESIS_HASH.to_vec();
        RecordChainState { newest: 0, head: head.clone(), taken_over: 0, reads: 0, reads_head: head }
    }
}

/// A page of an account's record chain.
#[derive(Debug, Clone)]
pub struct LeafPage {
    /// The last number of the page.
    pub upto: i64,
    /// Number and leaf, in order.
    pub leaves: Vec<(i64, Option<Vec<u8>>)>,
}

/// The stored journal of the archive, and the holds compared with it.
#[derive(Debug, Clone)]
pub struct JournalProof {
    /// State of its chain.
    pub state: RecordChainState,
    /// Number and leaf of each entry, in order.
    pub leaves: Vec<(i64, Option<Vec<u8>>)>,
    /// Number of holds in force.
    pub holds: u64,
    /// Differences between the holds and the journal.
    pub faults: Vec<String>,
}

/// An account's read log, compared with its coverage.
#[derive(Debug, Clone, Default)]
pub struct ReadLogProof {
    /// The head after each window read that is still logged.
    pub heads: BTreeMap<i64, Hash>,
    /// The faults found.
    pub faults: Vec<String>,
}

impl Snapshot {
    pub(super) async fn record_state(&mut self, account: AccountKey) -> Result<RecordChainState, DbError> {
        let stmt = sql("select newest, head, taken_over, reads, reads_head from record_chain where account = $1");
        Ok(self.0.first(stmt.bind(account)).await?.unwrap_or_default())
    }

    /// Reads the journal, and compares the holds with it.
    pub async fn journal_proof(&mut self) -> Result<JournalProof, DbError> {
        let state = self.record_state(JOURNAL).await?;
        let mut leaves = Vec::new();
        let mut placed: BTreeMap<i64, StoredJournalEntry> = BTreeMap::new();
        for (record, entry) in (1..).zip(self.0.journal_entries().await?) {
            leaves.push((record, Some(entry.leaf(record).to_vec())));
            match (entry.what.as_str(), entry.hold) {
                ("hold", Some(hold)) => drop(placed.insert(hold, entry)),
                ("release", Some(hold)) => drop(placed.remove(&hold)),
                _ => {}
            }
        }
        let key = self.0.stored_archive_key().await?;
        let stmt = sql("select id, account, kind, placed, who, reason, value from hold order by id");
        let holds: Vec<StoredHold> = self.0.all(stmt).await?;
        let mut faults = Vec::new();
        for hold in &holds {
            let id = hold.id;
            match placed.remove(&id) {
                None => faults.push(format!("hold {id} is in force, but the journal has no entry that placed it")),
                Some(entry) if !key.as_ref().is_some_and(|key| entry.matches(hold, key)) => {
                    faults.push(format!("hold {id} does not match its journal entry: it was altered"));
                }
                Some(_) => {}
            }
        }
        for id in placed.keys() {
            faults.push(format!("hold {id} was placed and not released, but is missing"));
        }
        Ok(JournalProof { state, leaves, holds: holds.len() as u64, faults })
    }

    /// Reads an account's read log, and compares it with the coverage. Reads from before the log
    /// was chained are ignored.
    pub async fn read_log_proof(&mut self, account: AccountKey, sub: &str) -> Result<ReadLogProof, DbError> {
        let state = self.record_state(account).await?;
        let coverage = self.0.coverage_digest(account).await?;
        let stmt = sql("select nth, at, took, from_ms, to_ms, announced, added, changed, flipped, aside, digest_high, digest_low,
             lane, previous, coverage_before, coverage from reading where account = $1 and previous is not null order by nth");
        let mut reads = ReadLogProof::default();
        let mut newest: Option<(i64, Hash, Vec<u8>)> = None;
        for read in self.0.all::<StoredRead>(stmt.bind(account)).await? {
            let (nth, at, took, from, to, announced, added, changed, flipped, quarantined, high, low, ..) = read;
            let numbers = [nth, at, took, from, to, announced, added, changed, flipped, quarantined, high, low];
            let (.., lane, previous, before, after) = read;
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            if let Some((last, head, covered)) = &newest {
                if nth != last + 1 || *head != previous[..] {
                    let what = "the read log is inconsistent after read";
                    reads.faults.push(format!("{what} {last}: one was altered or is missing"));
                } else if *covered != before {
                    let what = "the coverage was altered between the reads";
                    reads.faults.push(format!("{what} {last} and {nth}"));
                }
            } else if let Ok(first) = Hash::try_from(previous.as_slice()) {
                reads.heads.insert(nth - 1, first);
            }
            let leaf = ReadRecord { sub, lane: &lane, numbers, before: &before, after: &after }.leaf();
            let head = link(&previous, &leaf);
            reads.heads.insert(nth, head);
            newest = Some((nth, head, after));
        }
        match newest {
            None if state.reads > 0 => reads.faults.push("the read log is missing".to_owned()),
            Some((nth, head, _)) if nth != state.reads || head[..] != state.reads_head[..] => {
                reads.faults.push("the newest reads are missing from the read log, or were altered".to_owned());
            }
            Some((nth, _, covered)) if covered != coverage => {
                reads.faults.push(format!("the coverage was altered after read {nth}"));
            }
            _ => {}
        }
        Ok(reads)
    }
}

impl Tx {
    /// The entries of the journal, in order.
    pub(super) async fn journal_entries(&mut self) -> Result<Vec<StoredJournalEntry>, DbError> {
        self.all(sql("select j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason, j.value_hash, j.account
             from journal j left join account a on a.id = j.account order by j.id"))
        .await
    }
}

/// A row of the read log: the numbers of a [`ReadRecord`], lane, head before it, and the digests of
/// the coverage before and after it.
#[rustfmt::skip]
type StoredRead = (i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, String, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

/// An entry of the journal, with the columns that its leaf covers.
#[derive(sqlx::FromRow)]
pub(super) struct StoredJournalEntry {
    at: i64,
    who: String,
    what: String,
    account: Option<AccountKey>,
    sub: Option<String>,
    kind: Option<String>,
    subject: Option<Vec<u8>>,
    segments: i64,
    records: i64,
    hold: Option<i64>,
    reason: Option<String>,
    /// Hash of a hold's value as typed; missing in entries from before the record chain.
    value_hash: Option<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
struct StoredTombstone {
    record: i64,
    hash: Vec<u8>,
    at: i64,
    kind: i64,
    day: i64,
    leaf: Option<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
struct StoredHold {
    id: i64,
    account: Option<AccountKey>,
    kind: String,
    value: String,
    placed: i64,
    who: String,
    reason: Option<String>,
}

impl StoredJournalEntry {
    /// The leaf of the entry with this number.
    pub(super) fn leaf(&self, record: i64) -> Hash {
        let entry = JournalRecord {
            record,
            at: self.at,
            who: &self.who,
            what: &self.what,
            sub: self.sub.as_deref(),
            kind: self.kind.as_deref(),
            subject: self.subject.as_deref(),
            segments: self.segments,
            records: self.records,
            hold: self.hold,
            reason: self.reason.as_deref(),
            value_hash: self.value_hash.as_deref(),
        };
        entry.leaf()
    }

    /// Whether this entry placed the hold as it is stored.
    fn matches(&self, hold: &StoredHold, key: &ArchiveKey) -> bool {
        let same_value = match (&self.value_hash, &self.subject) {
            (Some(typed), _) => key.hash_typed(&hold.kind, &hold.value) == *typed,
            (None, Some(hash)) => Subject::from_kind(&hold.kind, hold.value.clone())
                .is_some_and(|subject| key.hash_subject_all_versions(&subject).contains(hash)),
            (None, None) => false,
        };
        same_value
            && (self.account, self.at, &self.who, &self.reason) == (hold.account, hold.placed, &hold.who, &hold.reason)
            && self.kind.as_deref().unwrap_or_default() == hold.kind
    }
}

impl Db {
    /// The page of an account's record chain after the number `after`, up to `upto` at most, in one
    /// consistent read.
    pub async fn record_leaves(&self, account: AccountKey, after: i64, upto: i64) -> Result<LeafPage, DbError> {
        let stmt = sql("select record, leaf from (
                 select record, leaf from segment where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from segment_version where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from tombstone where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from erased_record where account = $1 and record > $2 and record <= $3
             ) leaves order by record");
        // A range of numbers instead of a limit: each table is read by its index, and only this
        // page is sorted.
        let upto = upto.min(after.saturating_add(MAX_LEAVES_PER_PAGE));
        Ok(LeafPage { upto, leaves: self.all(stmt.bind(account).bind(after).bind(upto)).await? })
    }

    /// Number of an account's rows that are not in its record chain, or have a number that it never
    /// assigned: metadata, history, tombstones and kept leaves.
    pub async fn count_unchained_rows(&self, account: AccountKey) -> Result<u64, DbError> {
        let stmt = sql(
            "with newest (record) as (select coalesce((select newest from record_chain where account = $1), 0))
             select (select count(*) from segment where account = $1 and (record is null or record < 1 or record > (select record from newest)))
             + (select count(*) from segment_version v join segment s on s.id = v.segment
                where s.account = $1 and (v.account is null or v.account <> s.account or v.record is null or v.record < 1 or v.record > (select record from newest)))
             + (select count(*) from tombstone where account = $1 and (record is null or record < 1 or record > (select record from newest)))
             + (select count(*) from erased_record where account = $1 and (record < 1 or record > (select record from newest)))",
        );
        self.count(stmt.bind(account)).await
    }

    /// Number of an account's tombstones that do not match their leaf.
    pub async fn count_altered_tombstones(&self, account: AccountKey, sub: &str) -> Result<u64, DbError> {
        let (mut after, mut altered) = (0, 0);
        loop {
            let stmt = sql("select record, hash, at, kind, day, leaf from tombstone where account = $1 and record > $2
                 order by record limit $3");
            let rows: Vec<StoredTombstone> = self.all(stmt.bind(account).bind(after).bind(MAX_LEAVES_PER_PAGE)).await?;
            for StoredTombstone { record, hash, at, kind, day, leaf } in &rows {
                let tombstone = TombstoneRecord { record: *record, sub, hash, at: *at, kind: *kind, day: *day };
                altered += u64::from(leaf.as_deref() != Some(&tombstone.leaf()));
                after = *record;
            }
            if rows.is_empty() {
                return Ok(altered);
            }
        }
    }

    /// By account: erased segments by the journal, erased segments by table `erased`, and
    /// tombstones that were set before their segment was announced and have been counted since.
    pub async fn erased_counts(&self) -> Result<HashMap<AccountKey, [u64; 3]>, DbError> {
        let stmt = sql(
            "select a.id,
             cast((select coalesce(sum(segments), 0) from journal j where j.account = a.id and j.what in ('erase', 'retention')) as bigint),
             cast((select coalesce(sum(segments), 0) from erased e where e.account = a.id) as bigint),
             (select count(*) from tombstone t where t.account = a.id and t.day = -1 and t.counted = 1)
             from account a",
        );
        let rows: Vec<(AccountKey, i64, i64, i64)> = self.all(stmt).await?;
        Ok(rows.into_iter().map(|(account, a, b, c)| (account, [a, b, c].map(count))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_the_hash_of_the_typed_value_matches_by_its_subject() {
        let (key, _) = ArchiveKey::new(&mut rand::rng()).unwrap();
        let subject = Subject::Contact("+1 201 377 0791".into());
        let entry = StoredJournalEntry {
            at: 1,
            who: "me".into(),
            what: "hold".into(),
            account: None,
            sub: None,
            kind: Some("contact".into()),
            subject: Some(key.hash_subject(&subject)),
            segments: 0,
            records: 0,
            hold: Some(1),
            reason: None,
            value_hash: None,
        };
        let hold = |kind: &str, value: &str| StoredHold {
            id: 1,
            account: None,
            kind: kind.into(),
            value: value.into(),
            placed: 1,
            who: "me".into(),
            reason: None,
        };
        assert!(entry.matches(&hold("contact", subject.value()), &key));
        assert!(!entry.matches(&hold("contact", "+1 201 377 0799"), &key));
        assert!(!entry.matches(&hold("dialog", subject.value()), &key));
    }
}
