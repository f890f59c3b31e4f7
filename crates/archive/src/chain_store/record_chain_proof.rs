//! Reads record chains back for verification: leaves, the journal with the holds, the read log with
//! the coverage, and counts.

use std::collections::{BTreeMap, HashMap};

use super::super::deletion::ArchiveKey;
use super::super::{Db, DbError, Snapshot, sql};
use super::JOURNAL;
use super::record_chain_upgrade::journal_leaf;
use crate::hash_chain::{GENESIS_HASH, Hash, ReadRecord, TombstoneRecord, link};
use crate::model::Subject;

/// Leaves, or tombstones, of a page.
const MAX_LEAVES_PER_PAGE: i64 = 10_000;

/// The state of a record chain.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub(super) async fn record_state(&mut self, account: i64) -> Result<RecordChainState, DbError> {
        let stmt = sql("select newest, head, taken_over, reads, reads_head from record_chain where account = $1");
        let Some(row) = self.0.first(stmt.bind(account)).await? else {
            let (head, reads_head) = (GENESIS_HASH.to_vec(), GENESIS_HASH.to_vec());
            return Ok(RecordChainState { newest: 0, head, taken_over: 0, reads: 0, reads_head });
        };
        Ok(RecordChainState {
            newest: row.int(0)?,
            head: row.bytes(1)?,
            taken_over: row.int(2)?,
            reads: row.int(3)?,
            reads_head: row.bytes(4)?,
        })
    }

    /// Reads the journal, and compares the holds with it.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn journal_proof(&mut self) -> Result<JournalProof, DbError> {
        let state = self.record_state(JOURNAL).await?;
        let stmt = sql("select j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason, j.value_hash, j.account
             from journal j left join account a on a.id = j.account order by j.id");
        let mut leaves = Vec::new();
        let mut placed: BTreeMap<i64, (HoldFields, HoldValueHashes)> = BTreeMap::new();
        for (record, row) in (1..).zip(self.0.all(stmt).await?) {
            let (at, who, what, kind) = (row.int(0)?, row.text(1)?, row.text(2)?, row.maybe_text(4)?);
            let (hold, reason) = (row.maybe_int(8)?, row.maybe_text(9)?);
            let hashes = HoldValueHashes { subject: row.maybe_bytes(5)?, typed: row.maybe_bytes(10)? };
            leaves.push((record, Some(journal_leaf(record, &row)?.to_vec())));
            match (&*what, hold) {
                ("hold", Some(hold)) => {
                    placed.insert(hold, ((row.maybe_int(11)?, kind.unwrap_or_default(), at, who, reason), hashes));
                }
                ("release", Some(hold)) => {
                    placed.remove(&hold);
                }
                _ => {}
            }
        }
        let key = self.0.stored_archive_key().await?;
        let rows =
            self.0.all(sql("select id, account, kind, placed, who, reason, value from hold order by id")).await?;
        let mut faults = Vec::new();
        for row in &rows {
            let (id, kind, value) = (row.int(0)?, row.text(2)?, row.text(6)?);
            let held: HoldFields = (row.maybe_int(1)?, kind.clone(), row.int(3)?, row.text(4)?, row.maybe_text(5)?);
            match placed.remove(&id) {
                None => faults.push(format!("hold {id} is in force, but the journal has no entry that placed it")),
                Some((entry, hashes)) => {
                    if entry != held || !key.as_ref().is_some_and(|key| hashes.match_value(key, &kind, value)) {
                        faults.push(format!("hold {id} does not match its journal entry: it was altered"));
                    }
                }
            }
        }
        for id in placed.keys() {
            faults.push(format!("hold {id} was placed and not released, but is missing"));
        }
        Ok(JournalProof { state, leaves, holds: rows.len() as u64, faults })
    }

    /// Reads an account's read log, and compares it with the coverage. Reads from before the log
    /// was chained are ignored.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn read_log_proof(&mut self, account: i64, sub: &str) -> Result<ReadLogProof, DbError> {
        let state = self.record_state(account).await?;
        let coverage = self.0.coverage_digest(account).await?;
        let stmt = sql("select nth, at, took, from_ms, to_ms, announced, added, changed, flipped, aside, digest_high, digest_low,
             lane, previous, coverage_before, coverage from reading where account = $1 and previous is not null order by nth");
        let mut reads = ReadLogProof::default();
        let mut newest: Option<(i64, Hash, Vec<u8>)> = None;
        for row in self.0.all(stmt.bind(account)).await? {
            let mut numbers = [0; 12];
            for (index, number) in numbers.iter_mut().enumerate() {
                *number = row.int(index)?;
            }
            let (nth, lane, previous) = (numbers[0], row.text(12)?, row.bytes(13)?);
            let (before, after) = (row.maybe_bytes(14)?.unwrap_or_default(), row.maybe_bytes(15)?.unwrap_or_default());
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

/// The fields of a hold that its row and its journal entry share: account, kind, time, operator,
/// reason.
type HoldFields = (Option<i64>, String, i64, String, Option<String>);

/// What the journal stores instead of a hold's value.
struct HoldValueHashes {
    /// Hash of the parsed subject.
    subject: Option<Vec<u8>>,
    /// Hash of the value as typed; missing in entries from before an upgrade.
    typed: Option<Vec<u8>>,
}

impl HoldValueHashes {
    fn match_value(&self, key: &ArchiveKey, kind: &str, value: String) -> bool {
        match (&self.typed, &self.subject) {
            (Some(typed), _) => key.hash_typed(kind, &value) == *typed,
            (None, Some(hash)) => Subject::from_kind(kind, value)
                .is_some_and(|subject| key.hash_subject_all_versions(&subject).contains(hash)),
            (None, None) => false,
        }
    }
}

impl Db {
    /// The page of an account's record chain after the number `after`, up to `upto` at most, in one
    /// consistent read.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn record_leaves(&self, account: i64, after: i64, upto: i64) -> Result<LeafPage, DbError> {
        let stmt = sql("select record, leaf from (
                 select record, leaf from segment where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from segment_version where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from tombstone where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from erased_record where account = $1 and record > $2 and record <= $3
             ) leaves order by record");
        // A range of numbers instead of a limit: each table is read by its index, and only this
        // page is sorted.
        let upto = upto.min(after.saturating_add(MAX_LEAVES_PER_PAGE));
        let rows = self.all(stmt.bind(account).bind(after).bind(upto)).await?;
        let leaves = rows.iter().map(|row| Ok((row.int(0)?, row.maybe_bytes(1)?))).collect::<Result<_, DbError>>()?;
        Ok(LeafPage { upto, leaves })
    }

    /// Number of an account's rows that are not in its record chain, or have a number that it never
    /// assigned: metadata, history, tombstones and kept leaves.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn count_unchained_rows(&self, account: i64) -> Result<u64, DbError> {
        let stmt = sql(
            "with newest (record) as (select coalesce((select newest from record_chain where account = $1), 0))
             select (select count(*) from segment where account = $1 and (record is null or record < 1 or record > (select record from newest)))
             + (select count(*) from segment_version v join segment s on s.id = v.segment
                where s.account = $1 and (v.account is null or v.account <> s.account or v.record is null or v.record < 1 or v.record > (select record from newest)))
             + (select count(*) from tombstone where account = $1 and (record is null or record < 1 or record > (select record from newest)))
             + (select count(*) from erased_record where account = $1 and (record < 1 or record > (select record from newest)))",
        );
        self.first(stmt.bind(account)).await?.map_or(Ok(0), |row| row.count(0))
    }

    /// Number of an account's tombstones that do not match their leaf.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn count_altered_tombstones(&self, account: i64, sub: &str) -> Result<u64, DbError> {
        let (mut after, mut altered) = (0, 0);
        loop {
            let stmt = sql("select record, hash, at, kind, day, leaf from tombstone where account = $1 and record > $2
                 order by record limit $3");
            let rows = self.all(stmt.bind(account).bind(after).bind(MAX_LEAVES_PER_PAGE)).await?;
            for row in &rows {
                let (record, hash) = (row.int(0)?, row.bytes(1)?);
                let tombstone =
                    TombstoneRecord { record, sub, hash: &hash, at: row.int(2)?, kind: row.int(3)?, day: row.int(4)? };
                altered += u64::from(row.maybe_bytes(5)?.unwrap_or_default() != tombstone.leaf());
                after = record;
            }
            if rows.is_empty() {
                return Ok(altered);
            }
        }
    }

    /// By account: erased segments by the journal, erased segments by table `erased`, and
    /// tombstones that were set before their segment was announced and have been counted since.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn erased_counts(&self) -> Result<HashMap<i64, [u64; 3]>, DbError> {
        let stmt = sql(
            "select a.id,
             cast((select coalesce(sum(segments), 0) from journal j where j.account = a.id and j.what in ('erase', 'retention')) as bigint),
             cast((select coalesce(sum(segments), 0) from erased e where e.account = a.id) as bigint),
             (select count(*) from tombstone t where t.account = a.id and t.day = -1 and t.counted = 1)
             from account a",
        );
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| Ok((row.int(0)?, [row.count(1)?, row.count(2)?, row.count(3)?]))).collect()
    }
}
