//! The record chain read back: its leaves, the journal with the holds, the reads with the coverage, and counts.

use std::collections::{BTreeMap, HashMap};

use super::super::keep::ArchiveKey;
use super::super::{Db, DbError, Snapshot, sql};
use super::JOURNAL;
use super::upgrade::journal_leaf;
use crate::hash_chain::{Hash, ReadRecord, START, TombstoneRecord, link};
use crate::model::Subject;

/// How many leaves, and how many tombstones, a page holds.
const LEAVES: i64 = 10_000;

/// Where a record chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordState {
    /// The newest number.
    pub newest: i64,
    /// The head after it.
    pub head: Vec<u8>,
    /// Up to which number rows were sealed at an upgrade.
    pub taken_over: i64,
    /// The newest read of metadata that is chained.
    pub reads: i64,
    /// The head after it.
    pub reads_head: Vec<u8>,
}

/// A piece of an account's record chain.
#[derive(Debug, Clone)]
pub struct LeafPage {
    /// The last number that it tells of.
    pub upto: i64,
    /// Number and leaf, in order.
    pub leaves: Vec<(i64, Option<Vec<u8>>)>,
}

/// The archive's journal as it lies in the database.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Where its chain stands.
    pub state: RecordState,
    /// Number and leaf of each entry, in order.
    pub leaves: Vec<(i64, Option<Vec<u8>>)>,
    /// How many holds stand.
    pub holds: u64,
    /// In what the holds differ from what the journal says of them.
    pub faults: Vec<String>,
}

/// An account's log of reads, and its coverage.
#[derive(Debug, Clone, Default)]
pub struct Reads {
    /// The head after each read that is still logged.
    pub heads: BTreeMap<i64, Hash>,
    /// What is wrong with them.
    pub faults: Vec<String>,
}

impl Snapshot {
    pub(super) async fn record_state(&mut self, account: i64) -> Result<RecordState, DbError> {
        let stmt = sql("select newest, head, taken_over, reads, reads_head from record_chain where account = $1");
        let Some(row) = self.0.first(stmt.bind(account)).await? else {
            let (head, reads_head) = (START.to_vec(), START.to_vec());
            return Ok(RecordState { newest: 0, head, taken_over: 0, reads: 0, reads_head });
        };
        Ok(RecordState {
            newest: row.int(0)?,
            head: row.bytes(1)?,
            taken_over: row.int(2)?,
            reads: row.int(3)?,
            reads_head: row.bytes(4)?,
        })
    }

    /// The journal, and the holds compared with it.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn journal_proof(&mut self) -> Result<Journal, DbError> {
        let state = self.record_state(JOURNAL).await?;
        let stmt = sql("select j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason, j.value_hash, j.account
             from journal j left join account a on a.id = j.account order by j.id");
        let mut leaves = Vec::new();
        let mut placed: BTreeMap<i64, (HeldAs, Hashes)> = BTreeMap::new();
        for (record, row) in (1..).zip(self.0.all(stmt).await?) {
            let (at, who, what, kind) = (row.int(0)?, row.text(1)?, row.text(2)?, row.maybe_text(4)?);
            let (hold, reason) = (row.maybe_int(8)?, row.maybe_text(9)?);
            let hashes = Hashes { subject: row.maybe_bytes(5)?, typed: row.maybe_bytes(10)? };
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
        let key = self.0.held_key().await?;
        let rows =
            self.0.all(sql("select id, account, kind, placed, who, reason, value from hold order by id")).await?;
        let mut faults = Vec::new();
        for row in &rows {
            let (id, kind, value) = (row.int(0)?, row.text(2)?, row.text(6)?);
            let held: HeldAs = (row.maybe_int(1)?, kind.clone(), row.int(3)?, row.text(4)?, row.maybe_text(5)?);
            match placed.remove(&id) {
                None => faults.push(format!("hold {id} stands, but the journal does not say that it was placed")),
                Some((entry, hashes)) => {
                    if entry != held || !key.as_ref().is_some_and(|key| hashes.are_of(key, &kind, value)) {
                        faults.push(format!("hold {id} is not the one that was placed: it was altered"));
                    }
                }
            }
        }
        for id in placed.keys() {
            faults.push(format!("hold {id} was placed and never released, and is missing"));
        }
        Ok(Journal { state, leaves, holds: rows.len() as u64, faults })
    }

    /// An account's log of reads and its coverage. What was logged before reads were chained is left out.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn reads_proof(&mut self, account: i64, sub: &str) -> Result<Reads, DbError> {
        let state = self.record_state(account).await?;
        let coverage = self.0.coverage_digest(account).await?;
        let stmt = sql("select nth, at, took, from_ms, to_ms, announced, added, changed, flipped, aside, digest_high, digest_low,
             lane, previous, coverage_before, coverage from reading where account = $1 and previous is not null order by nth");
        let mut reads = Reads::default();
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
                    let what = "the log of reads does not hang together after read";
                    reads.faults.push(format!("{what} {last}: one was altered or is missing"));
                } else if *covered != before {
                    let what = "what counts as read was altered between the reads";
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
            None if state.reads > 0 => reads.faults.push("the log of reads is missing".to_owned()),
            Some((nth, head, _)) if nth != state.reads || head[..] != state.reads_head[..] => {
                reads.faults.push("the newest reads are missing from the log, or were altered".to_owned());
            }
            Some((nth, _, covered)) if covered != coverage => {
                reads.faults.push(format!("what counts as read was altered since read {nth}"));
            }
            _ => {}
        }
        Ok(reads)
    }
}

/// A hold as its row and its entry in the journal both say it: account, kind, when, who, why.
type HeldAs = (Option<i64>, String, i64, String, Option<String>);

/// What the journal has in the place of a hold's value.
struct Hashes {
    /// Of what it means.
    subject: Option<Vec<u8>>,
    /// Of what was typed; not in entries from before an upgrade.
    typed: Option<Vec<u8>>,
}

impl Hashes {
    fn are_of(&self, key: &ArchiveKey, kind: &str, value: String) -> bool {
        match (&self.typed, &self.subject) {
            (Some(typed), _) => key.typed(kind, &value) == *typed,
            (None, Some(hash)) => Subject::of(kind, value).is_some_and(|subject| key.subjects(&subject).contains(hash)),
            (None, None) => false,
        }
    }
}

impl Db {
    /// The piece of an account's record chain after the number `after`, up to `upto` at the furthest, as of one moment.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn record_leaves(&self, account: i64, after: i64, upto: i64) -> Result<LeafPage, DbError> {
        let stmt = sql("select record, leaf from (
                 select record, leaf from segment where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from segment_version where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from tombstone where account = $1 and record > $2 and record <= $3
                 union all select record, leaf from erased_record where account = $1 and record > $2 and record <= $3
             ) leaves order by record");
        // A window of numbers, not a limit: each table is read by its index, and nothing is sorted but this page.
        let upto = upto.min(after.saturating_add(LEAVES));
        let rows = self.all(stmt.bind(account).bind(after).bind(upto)).await?;
        let leaves = rows.iter().map(|row| Ok((row.int(0)?, row.maybe_bytes(1)?))).collect::<Result<_, DbError>>()?;
        Ok(LeafPage { upto, leaves })
    }

    /// How many rows of an account are not in its record chain, or have a number that it never gave: of metadata, history,
    /// tombstones, and leaves.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn unrecorded(&self, account: i64) -> Result<u64, DbError> {
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

    /// How many of an account's tombstones are not what the chain took.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn altered_tombstones(&self, account: i64, sub: &str) -> Result<u64, DbError> {
        let (mut after, mut altered) = (0, 0);
        loop {
            let stmt = sql("select record, hash, at, kind, day, leaf from tombstone where account = $1 and record > $2
                 order by record limit $3");
            let rows = self.all(stmt.bind(account).bind(after).bind(LEAVES)).await?;
            for row in &rows {
                let (record, hash) = (row.int(0)?, row.bytes(1)?);
                let stone =
                    TombstoneRecord { record, sub, hash: &hash, at: row.int(2)?, kind: row.int(3)?, day: row.int(4)? };
                altered += u64::from(row.maybe_bytes(5)?.unwrap_or_default() != stone.leaf());
                after = record;
            }
            if rows.is_empty() {
                return Ok(altered);
            }
        }
    }

    /// By account: segments that the journal says were erased, segments that are counted as erased, and tombstones that came
    /// before their segments were announced and are counted since.
    ///
    /// # Errors
    /// Where the database cannot be read.
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
