//! Keeping and erasing: holds, tombstones, retention, and the journal of all of it.
//!
//! An erasure is one transaction for some hundred segments of one account: everything of them goes, a tombstone and a count
//! stay, the journal says so. It keeps everyone who writes for the account waiting, so that whatever was on its way either
//! came before and is erased too, or comes after and finds the tombstone.

mod find;
mod gate;
mod hold;
mod notice;
mod scrub;

use std::collections::BTreeMap;

pub use find::{AsideText, SegmentRef, Texts};
pub use gate::Tombstone;
pub(super) use gate::{ArchiveKey, Gate};
pub use hold::{Done, Entry, Hold, JournalRow};
pub use notice::RetentionNoticeRow;
pub use scrub::Scrubbed;

use super::announce::{Ledger, day_of, id_digest};
use super::{Arg, BULK, Db, DbError, Owned, Stmt, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::TombstoneRecord;
use crate::model::{Artifact, ArtifactSet};

/// Why a segment is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// A person asked for it.
    Erased,
    /// It was past retention.
    Expired,
}

impl Gone {
    const fn code(self) -> i64 {
        match self {
            Gone::Erased => 0,
            Gone::Expired => 1,
        }
    }

    fn from_code(code: i16) -> Option<Gone> {
        [Gone::Erased, Gone::Expired].into_iter().find(|gone| gone.code() == i64::from(code))
    }
}

/// What is to go in one transaction, all of it one account's.
#[derive(Debug)]
pub struct Erasing<'a> {
    /// The account.
    pub account: i64,
    /// In whose name, where a daemon does it.
    pub owned: Option<Owned>,
    /// The segments' numbers.
    pub segments: &'a [i64],
    /// Records set aside, by their digests.
    pub asides: &'a [Vec<u8>],
    /// Ids of segments that the archive does not hold, not to be taken in when they are announced.
    pub unknown: &'a [String],
    /// Why.
    pub gone: Gone,
    /// The newest hold that was looked at; 0 where there is none.
    pub newest_hold: i64,
    /// The present.
    pub at: Time,
    /// What the journal is to say; counts are filled in.
    pub entry: &'a Entry,
}

/// What an erasure took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// Segments.
    pub segments: u64,
    /// Records that had been set aside.
    pub records: u64,
    /// Ids that will not be taken in.
    pub unknown: u64,
}

impl Erased {
    /// Adds what another transaction took.
    pub fn add(&mut self, other: Erased) {
        self.segments += other.segments;
        self.records += other.records;
        self.unknown += other.unknown;
    }

    fn is_nothing(self) -> bool {
        self == Erased::default()
    }
}

/// A segment about to go.
struct Going {
    key: i64,
    segment_id: String,
    ended: Time,
    asked: ArtifactSet,
}

impl Db {
    /// Erases; `None` where something has changed since it was looked at, and nothing was erased: look again.
    ///
    /// # Errors
    /// `DbFault::Lost` where it was to be in the name of an ownership that is over; nothing is erased then.
    pub async fn erase(&self, erasing: &Erasing<'_>) -> Result<Option<Erased>, DbError> {
        let mut tx = self.begin().await?;
        tx.lock_key("keeping").await?;
        if tx.newest_hold().await? > erasing.newest_hold {
            return Ok(None);
        }
        tx.shut_account(erasing.account, erasing.owned).await?;
        if tx.holds_any(erasing.account, erasing.unknown).await? {
            return Ok(None);
        }
        let key = tx.archive_key().await?;
        let going = tx.going(erasing.account, erasing.segments).await?;
        let mut erased = Erased { segments: going.len() as u64, ..Erased::default() };
        tx.take_out(erasing.account, &going).await?;
        // First those that are counted: a record set aside under a segment's id would leave a stone that is not, and the segment
        // be counted once more when it is announced again.
        tx.bury(&key, erasing, &going).await?;
        erased.records = tx.take_asides(&key, erasing, &going).await?;
        erased.unknown = tx.bar(&key, erasing).await?;
        if !erased.is_nothing() {
            tx.enter(erasing.entry, &key, erasing.at, Some(erasing.account), (erased.segments, erased.records)).await?;
        }
        tx.commit().await?;
        Ok(Some(erased))
    }

    /// Has everything forget for good what was erased; call it after the last of several erasures.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn forget_for_good(&self) -> Result<(), DbError> {
        self.purge_index().await
    }
}

impl Tx {
    /// Keeps everyone else from writing for the account until this transaction ends.
    async fn shut_account(&mut self, account: i64, owned: Option<Owned>) -> Result<(), DbError> {
        let held = self.first(self.epoch_alone(account)).await?.map(|row| row.int(0)).transpose()?;
        match (held, owned) {
            (None, _) => Err(DbError::lost(account)),
            (Some(epoch), Some(owned)) if epoch != owned.epoch => Err(DbError::lost(account)),
            _ => Ok(()),
        }
    }

    async fn holds_any(&mut self, account: i64, ids: &[String]) -> Result<bool, DbError> {
        if ids.is_empty() {
            return Ok(false);
        }
        let head = "select 1 from segment where account = $1 and segment_id in ";
        let stmt = Stmt::list(head, vec![account.into()], ids.iter().map(String::as_str), " limit 1");
        Ok(self.first(stmt).await?.is_some())
    }

    async fn going(&mut self, account: i64, keys: &[i64]) -> Result<Vec<Going>, DbError> {
        let mut going = Vec::with_capacity(keys.len());
        for part in keys.chunks(BULK) {
            let head = "select id, segment_id, ended, asked from segment where account = $1 and id in ";
            for row in self.all(Stmt::list(head, vec![account.into()], part.iter().copied(), "")).await? {
                let key = row.int(0)?;
                let asked = row.code(3, ("segment.asked", key), ArtifactSet::from_code)?;
                going.push(Going { key, segment_id: row.text(1)?, ended: row.time(2)?, asked });
            }
        }
        Ok(going)
    }

    /// Removes everything of these segments.
    async fn take_out(&mut self, account: i64, going: &[Going]) -> Result<(), DbError> {
        if going.is_empty() {
            return Ok(());
        }
        self.keep_numbers_unused().await?;
        let items: Vec<i64> = going.iter().flat_map(|going| (0..4).map(move |slot| going.key * 4 + slot)).collect();
        self.unindex(&items).await?;
        self.undeliver(&items).await?;
        self.seal_erased(account, &items).await?;
        let keys: Vec<i64> = going.iter().map(|going| going.key).collect();
        self.keep_erased_leaves(&keys).await?;
        for head in [
            "delete from artifact where item in ",
            "delete from attempt where item in ",
            "delete from work where item in ",
        ] {
            for part in items.chunks(BULK) {
                self.run(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await?;
            }
        }
        for head in ["delete from segment_version where segment in ", "delete from segment where id in "] {
            for part in going.chunks(BULK) {
                self.run(Stmt::list(head, Vec::new(), part.iter().map(|going| going.key), "")).await?;
            }
        }
        Ok(())
    }

    /// Removes records set aside: those that were named, and those of the segments. What they were about is not to come back.
    async fn take_asides(&mut self, key: &ArchiveKey, erasing: &Erasing<'_>, going: &[Going]) -> Result<u64, DbError> {
        let mut taken = 0;
        for part in erasing.asides.chunks(BULK) {
            let head = "delete from aside where account = $1 and digest in ";
            let args = vec![erasing.account.into()];
            let stmt = Stmt::list(head, args, part.iter().cloned(), " returning segment_id, raw");
            let mut barred = Vec::new();
            for row in self.all(stmt).await? {
                taken += 1;
                barred.push(match row.maybe_text(0)? {
                    // Should it be understood one day, it is announced then, and counted.
                    Some(id) => (key.segment(&id), false),
                    None => (key.record(&row.bytes(1)?), true),
                });
            }
            if erasing.gone == Gone::Erased {
                self.raise(erasing, barred.into_iter().map(|(hash, counted)| (hash, NO_DAY, counted))).await?;
            }
        }
        let holds = self.holds(Some(erasing.account)).await?;
        for part in going.chunks(BULK) {
            let of_account = || vec![erasing.account.into()];
            let ids = part.iter().map(|going| going.segment_id.as_str());
            if holds.is_empty() {
                let head = "delete from aside where account = $1 and segment_id in ";
                taken += self.run(Stmt::list(head, of_account(), ids, "")).await?;
                continue;
            }
            // It may tell of someone on hold of whom the segment itself says nothing.
            let head = "select digest, segment_id, raw from aside where account = $1 and segment_id in ";
            let mut free: Vec<Vec<u8>> = Vec::new();
            for row in self.all(Stmt::list(head, of_account(), ids, "")).await? {
                let raw = find::lossy(row.bytes(2)?);
                if !gate::is_aside_held(&holds, row.maybe_text(1)?.as_deref(), &raw) {
                    free.push(row.bytes(0)?);
                }
            }
            for part in free.chunks(BULK) {
                let head = "delete from aside where account = $1 and digest in ";
                taken += self.run(Stmt::list(head, of_account(), part.iter().cloned(), "")).await?;
            }
        }
        Ok(taken)
    }

    /// Leaves a tombstone for each segment, and moves it in the ledger from what was announced to what is gone.
    async fn bury(&mut self, key: &ArchiveKey, erasing: &Erasing<'_>, going: &[Going]) -> Result<(), DbError> {
        let mut ledger = Ledger::default();
        let mut days: BTreeMap<i64, [i64; 4]> = BTreeMap::new();
        for going in going {
            ledger.count(going.ended, id_digest(&going.segment_id), -1);
            let day = days.entry(day_of(going.ended)).or_default();
            day[0] += 1;
            for artifact in Artifact::ALL {
                day[1 + usize::from(artifact.code().unsigned_abs())] += i64::from(going.asked.contains(artifact));
            }
        }
        self.add_to_ledger(erasing.account, ledger).await?;
        self.count_gone(erasing.account, erasing.gone, days).await?;
        let stones = going.iter().map(|going| (key.segment(&going.segment_id), day_of(going.ended), true));
        self.raise(erasing, stones).await
    }

    /// Leaves tombstones for segments that have not been announced.
    async fn bar(&mut self, key: &ArchiveKey, erasing: &Erasing<'_>) -> Result<u64, DbError> {
        self.raise(erasing, erasing.unknown.iter().map(|id| (key.segment(id), NO_DAY, false))).await?;
        Ok(erasing.unknown.len() as u64)
    }

    async fn raise(
        &mut self,
        erasing: &Erasing<'_>,
        stones: impl Iterator<Item = (Vec<u8>, i64, bool)>,
    ) -> Result<(), DbError> {
        let mut fresh: BTreeMap<Vec<u8>, (i64, bool)> =
            stones.map(|(hash, day, counted)| (hash, (day, counted))).collect();
        let hashes: Vec<Vec<u8>> = fresh.keys().cloned().collect();
        for part in hashes.chunks(BULK) {
            for (hash, _) in self.buried(erasing.account, part.iter().cloned()).await? {
                fresh.remove(&hash);
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let mut chain = self.record_chain(erasing.account).await?;
        let rows: Vec<Vec<Arg>> = fresh
            .into_iter()
            .map(|(hash, (day, counted))| {
                let (at, kind) = (erasing.at.0, erasing.gone.code());
                let (record, leaf) =
                    chain.append(|record, sub| TombstoneRecord { record, sub, hash: &hash, at, kind, day }.leaf());
                vec![
                    erasing.account.into(),
                    hash.into(),
                    at.into(),
                    kind.into(),
                    day.into(),
                    counted.into(),
                    record.into(),
                    leaf.to_vec().into(),
                ]
            })
            .collect();
        self.keep_record_chain(chain).await?;
        let head = "insert into tombstone (account, hash, at, kind, day, counted, record, leaf) values ";
        self.run_rows(head, rows, "").await.map(drop)
    }

    /// Counts segments that are gone: in all, and those of which each artifact had been asked for.
    pub(super) async fn count_gone(
        &mut self,
        account: i64,
        gone: Gone,
        days: BTreeMap<i64, [i64; 4]>,
    ) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = days
            .into_iter()
            .map(|(day, counts)| {
                [account, day, gone.code()].into_iter().chain(counts).map(Arg::from).collect::<Vec<Arg>>()
            })
            .collect();
        self.run_rows(
            "insert into erased (account, day, kind, segments, transcripts, agent_summaries, auto_summaries) values ",
            rows,
            " on conflict (account, day, kind) do update set segments = erased.segments + excluded.segments,
             transcripts = erased.transcripts + excluded.transcripts,
             agent_summaries = erased.agent_summaries + excluded.agent_summaries,
             auto_summaries = erased.auto_summaries + excluded.auto_summaries",
        )
        .await
        .map(drop)
    }

    /// The secret under which the archive remembers what was erased; made at its first use.
    async fn archive_key(&mut self) -> Result<ArchiveKey, DbError> {
        if let Some(key) = self.held_key().await? {
            return Ok(key);
        }
        // A new one would not know what was erased under the one that is missing.
        if self.first(sql("select 1 from tombstone limit 1")).await?.is_some() {
            return Err(gate::damaged());
        }
        let (key, text) = ArchiveKey::new(&mut rand::rng())?;
        self.run(sql("insert into meta (key, value) values ($1, $2)").bind(gate::KEY).bind(text)).await?;
        Ok(key)
    }
}

/// Stands for "no end time", or one that is not known, where days are counted.
const NO_DAY: i64 = -1;
