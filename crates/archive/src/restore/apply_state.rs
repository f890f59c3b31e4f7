//! Gives a restored copy what was decided in the archive since the copy was made.
//!
//! One transaction: an interrupted one changes nothing, and a second one finds nothing to do. The
//! journal must continue that of the copy, which its hash chain shows. Then the deletion state of the
//! archive replaces that of the copy as a whole: tombstones, counts, holds and journal. What the copy
//! still holds of an erased segment is deleted.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::chain_store::JOURNAL;
use super::super::deletion::{ArchiveKey, PendingDeletion};
use super::super::delivery_state::{NewNotice, NoticeKind};
use super::super::hash_chain::{GENESIS_HASH, JournalRecord, TombstoneRecord, link};
use super::super::ingest::{DailyDigest, segment_id_digest};
use super::super::{AccountKey, Arg, Db, DbError, SinkKey, Stmt, Tx, sql};
use super::carried_state::{CarriedJournalEntry, CarriedState, CarriedTombstone, HexBytes};
use super::restore_summary::{RestoreOutcome, RestoreSummary};
use crate::clock::Time;

/// Segments whose ids are compared at a time.
const SEGMENTS_PER_PAGE: i64 = 2000;
/// Segments that are deleted at a time.
const SEGMENTS_PER_DELETION: usize = 100;
/// Added to the number of the last export where nobody knows how many came later, so that no number
/// is given twice.
const EXPORT_NUMBER_GAP: i64 = 1_000_000;

/// Tombstones by their hash.
type WantedTombstones<'a> = HashMap<&'a [u8], &'a CarriedTombstone>;

/// A segment of the copy.
#[derive(sqlx::FromRow)]
struct SegmentId {
    id: i64,
    segment_id: String,
}

impl Db {
    /// Applies the state of the archive that this copy replaces. Its accounts get a new epoch and
    /// count as just used by `instance`, so that the limits hold for what it sent until now.
    ///
    /// # Errors
    /// Where the state is that of another archive, or contradicts the copy. Nothing is changed then.
    pub async fn apply_carried_state(
        &self,
        state: Option<&CarriedState>,
        instance: &str,
        now: Time,
    ) -> Result<RestoreSummary, DbError> {
        let has_access_log = self.has_access_log().await?;
        let has_lake = self.has_table("lake_slice").await?;
        let mut tx = self.begin().await?;
        tx.advisory_lock("keeping").await?;
        let summary = match state {
            Some(state) => tx.apply_state(state).await?,
            None => RestoreSummary::new(RestoreOutcome::Unknown),
        };
        if let Some(state) = state.filter(|_| has_access_log && summary.outcome == RestoreOutcome::Repeated) {
            tx.adopt_access_log(state).await?;
        }
        let known = state.filter(|_| summary.outcome != RestoreOutcome::OtherArchive).map(|state| state.export_number);
        let last: i64 = tx.meta("export").await?.and_then(|text| text.parse().ok()).unwrap_or(0);
        let next = known.map_or(last.saturating_add(EXPORT_NUMBER_GAP), |known| known.max(last));
        if next > last {
            tx.put_meta("export", &next.to_string()).await?;
        }
        if has_lake {
            tx.restart_lakes(now).await?;
        }
        tx.put_restore_mark(next, now).await?;
        tx.run(sql("update account set owner = $1, epoch = epoch + 1").bind(instance)).await?;
        tx.commit().await?;
        Ok(summary)
    }
}

impl Tx {
    async fn apply_state(&mut self, state: &CarriedState) -> Result<RestoreSummary, DbError> {
        if !self.adopt_archive_key(state).await? {
            return Ok(RestoreSummary::new(RestoreOutcome::OtherArchive));
        }
        self.adopt_accounts(state).await?;
        let accounts = self.account_keys().await?;
        let new_entries = self.new_journal_entries(state).await?;
        let mut summary = RestoreSummary::new(match new_entries {
            Some(_) => RestoreOutcome::Repeated,
            None => RestoreOutcome::JournalOlder,
        });
        if let Some(entries) = new_entries {
            self.repeat_deletions(state, &accounts, &mut summary).await?;
            self.adopt_holds(state, &accounts, &mut summary).await?;
            self.append_entries(entries, &accounts).await?;
            self.adopt_export_erasures(state, &accounts).await?;
        }
        summary.backfills = self.adopt_backfills(state, &accounts).await?;
        summary.sinks = self.adopt_sinks(state, &accounts).await?;
        self.adopt_reservations(state).await?;
        for session in &state.ended_sessions {
            self.put_meta(&session.key, &session.value).await?;
        }
        Ok(summary)
    }

    /// Makes sure that both have the same key. Returns `false` where the state is that of a new
    /// archive in which nothing was decided yet.
    async fn adopt_archive_key(&mut self, state: &CarriedState) -> Result<bool, DbError> {
        let Some(key_id) = &state.key_id else { return Ok(true) };
        match (self.stored_archive_key().await?, &state.key) {
            (Some(key), _) if super::super::hash_chain::hex(&key.id()) == *key_id => Ok(true),
            (Some(_), _) if state.has_decisions() => Err(other_archive()),
            (Some(_), _) => Ok(false),
            (None, Some(key)) => {
                self.put_archive_key_text(key).await?;
                Ok(true)
            }
            (None, None) if state.has_decisions() => Err(key_missing()),
            (None, None) => Ok(true),
        }
    }

    /// Adds accounts that are newer than the copy, with the start of their coverage, so that they are
    /// read from there again.
    async fn adopt_accounts(&mut self, state: &CarriedState) -> Result<(), DbError> {
        for account in &state.accounts {
            let stmt = sql("insert into account (rc, sub, name, created, live_start) values ($1, $2, $3, $4, $5)
                 on conflict (sub) do update set live_start = coalesce(account.live_start, excluded.live_start)");
            let stmt = stmt.bind(&account.rc).bind(&account.sub).bind(account.name.clone());
            self.run(stmt.bind(account.created).bind(account.live_start)).await?;
        }
        Ok(())
    }

    async fn account_keys(&mut self) -> Result<HashMap<String, AccountKey>, DbError> {
        Ok(self.all::<(String, AccountKey)>(sql("select sub, id from account")).await?.into_iter().collect())
    }

    /// The journal's entries that the copy lacks; `None` where the journal is older than the copy.
    async fn new_journal_entries<'a>(
        &mut self,
        state: &'a CarriedState,
    ) -> Result<Option<&'a [CarriedJournalEntry]>, DbError> {
        let (newest, head) = self.record_head(JOURNAL).await?;
        let held = usize::try_from(newest).unwrap_or(0);
        let Some((known, new)) = state.journal.split_at_checked(held) else { return Ok(None) };
        let mut expected = GENESIS_HASH.to_vec();
        for (entry, record) in known.iter().zip(1..) {
            expected = link(&expected, &journal_record(entry, record).leaf()).to_vec();
        }
        if expected == head { Ok(Some(new)) } else { Err(diverged()) }
    }

    /// Deletes what was deleted since, and takes over the tombstones and their counts.
    async fn repeat_deletions(
        &mut self,
        state: &CarriedState,
        accounts: &HashMap<String, AccountKey>,
        summary: &mut RestoreSummary,
    ) -> Result<(), DbError> {
        let Some(key) = self.stored_archive_key().await? else { return Ok(()) };
        let mut by_account: BTreeMap<AccountKey, Vec<&CarriedTombstone>> = BTreeMap::new();
        for tombstone in &state.tombstones {
            by_account.entry(account_of(accounts, &tombstone.sub)?).or_default().push(tombstone);
        }
        for (account, tombstones) in by_account {
            let hashes = tombstones.iter().map(|tombstone| tombstone.hash.0.clone());
            let known: HashMap<Vec<u8>, bool> = self.find_tombstones(account, hashes).await?.into_iter().collect();
            // Announced since: the counts that replace those of the copy include it.
            let is_counted_since =
                |tombstone: &&&CarriedTombstone| tombstone.counted == 1 && known.get(&tombstone.hash.0) == Some(&false);
            let counted = tombstones.iter().filter(is_counted_since).map(|tombstone| tombstone.hash.0.clone());
            let head = "update tombstone set counted = 1 where account = $1 and hash in ";
            self.run(Stmt::list(head, vec![account.into()], counted, "")).await?;
            let new: Vec<&CarriedTombstone> =
                tombstones.into_iter().filter(|tombstone| !known.contains_key(&tombstone.hash.0)).collect();
            if new.is_empty() {
                continue;
            }
            let wanted: WantedTombstones<'_> =
                new.iter().map(|tombstone| (tombstone.hash.0.as_slice(), *tombstone)).collect();
            let (segments, records) = self.delete_hashed(account, &key, &wanted).await?;
            summary.segments += segments;
            summary.records += records;
            summary.refused_ids += (new.len() as u64).saturating_sub(segments + records);
            self.adopt_tombstones(account, &new).await?;
        }
        let mut rows: Vec<Vec<Arg>> = Vec::new();
        for count in &state.deletion_counts {
            let account = account_of(accounts, &count.sub)?;
            let numbers =
                [count.day, count.kind, count.segments, count.transcripts, count.agent_summaries, count.auto_summaries];
            rows.push(std::iter::once(account.0).chain(numbers).map(Arg::from).collect());
        }
        let head =
            "insert into erased (account, day, kind, segments, transcripts, agent_summaries, auto_summaries) values ";
        let tail = " on conflict (account, day, kind) do update set segments = excluded.segments,
             transcripts = excluded.transcripts, agent_summaries = excluded.agent_summaries,
             auto_summaries = excluded.auto_summaries";
        self.run(Stmt::rows(head, rows, tail)).await.map(drop)
    }

    /// Deletes the segments and quarantined records with these hashes. Returns how many there were.
    async fn delete_hashed(
        &mut self,
        account: AccountKey,
        key: &ArchiveKey,
        wanted: &WantedTombstones<'_>,
    ) -> Result<(u64, u64), DbError> {
        let (mut keys, mut after) = (Vec::new(), i64::MIN);
        loop {
            let stmt = sql("select id, segment_id from segment where account = $1 and id > $2 order by id limit $3");
            let page: Vec<SegmentId> = self.all(stmt.bind(account).bind(after).bind(SEGMENTS_PER_PAGE)).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let is_wanted =
                |segment: &&SegmentId| wanted.contains_key(key.hash_segment_id(&segment.segment_id).as_slice());
            keys.extend(page.iter().filter(is_wanted).map(|segment| segment.id));
        }
        for chunk in keys.chunks(SEGMENTS_PER_DELETION) {
            let pending: Vec<PendingDeletion> = self.pending_deletions(account, chunk).await?;
            let mut digest = DailyDigest::default();
            for segment in &pending {
                digest.add(segment.ended, segment_id_digest(&segment.segment_id), -1);
            }
            self.delete_segments(account, &pending).await?;
            self.add_to_daily_digest(account, digest).await?;
            self.announce_again(account, key, wanted, &pending).await?;
        }
        // There are few records in quarantine.
        let stmt = sql("select digest, segment_id, raw from aside where account = $1").bind(account);
        let records: Vec<(Vec<u8>, Option<String>, Vec<u8>)> = self.all(stmt).await?;
        let is_wanted = |id: &Option<String>, raw: &[u8]| {
            let hash = id.as_ref().map_or_else(|| key.hash_record(raw), |id| key.hash_segment_id(id));
            wanted.contains_key(hash.as_slice())
        };
        let digests = records.into_iter().filter(|(_, id, raw)| is_wanted(id, raw)).map(|(digest, ..)| digest);
        let stmt = Stmt::list("delete from aside where account = $1 and digest in ", vec![account.into()], digests, "");
        Ok((keys.len() as u64, self.run(stmt).await?))
    }

    /// Tells the sinks about the deletions: one may have received a segment, and not its erasure.
    async fn announce_again(
        &mut self,
        account: AccountKey,
        key: &ArchiveKey,
        wanted: &WantedTombstones<'_>,
        pending: &[PendingDeletion],
    ) -> Result<(), DbError> {
        if !self.announces_erasures().await? {
            return Ok(());
        }
        for segment in pending {
            let hash = key.hash_segment_id(&segment.segment_id);
            let Some(tombstone) = wanted.get(hash.as_slice()) else { continue };
            let kind = if tombstone.kind == 0 { NoticeKind::Erased } else { NoticeKind::Expired };
            let notice = NewNotice { kind, segment: segment.key, segment_id: &segment.segment_id, version: 1 };
            self.append_notices(account, &[notice], Time(tombstone.at)).await?;
        }
        Ok(())
    }

    async fn adopt_tombstones(&mut self, account: AccountKey, new: &[&CarriedTombstone]) -> Result<(), DbError> {
        let mut chain = self.record_chain(account).await?;
        let row = |tombstone: &&CarriedTombstone| -> Vec<Arg> {
            let CarriedTombstone { hash: HexBytes(hash), at, kind, day, counted, .. } = (*tombstone).clone();
            let (record, leaf) =
                chain.append(|record, sub| TombstoneRecord { record, sub, hash: &hash, at, kind, day }.leaf());
            let numbers = [at, kind, day, counted, record].map(Arg::from);
            [Arg::from(account), hash.into()].into_iter().chain(numbers).chain([leaf.into()]).collect()
        };
        let rows = new.iter().map(row).collect();
        self.save_record_chain(chain).await?;
        let head = "insert into tombstone (account, hash, at, kind, day, counted, record, leaf) values ";
        self.run(Stmt::rows(head, rows, "")).await.map(drop)
    }

    /// The holds of the archive replace those of the copy.
    async fn adopt_holds(
        &mut self,
        state: &CarriedState,
        accounts: &HashMap<String, AccountKey>,
        summary: &mut RestoreSummary,
    ) -> Result<(), DbError> {
        let held: HashSet<i64> = self.values(sql("select id from hold")).await?.into_iter().collect();
        let carried: HashSet<i64> = state.holds.iter().map(|hold| hold.id).collect();
        for id in held.difference(&carried) {
            summary.holds_released += self.run(sql("delete from hold where id = $1").bind(*id)).await?;
        }
        for hold in state.holds.iter().filter(|hold| !held.contains(&hold.id)) {
            let account = hold.sub.as_deref().map(|sub| account_of(accounts, sub)).transpose()?;
            let stmt = sql(
                "insert into hold (id, account, kind, value, reason, placed, who) values ($1, $2, $3, $4, $5, $6, $7)",
            );
            let stmt = stmt.bind(hold.id).bind(account).bind(&hold.kind).bind(&hold.value);
            summary.holds_placed += self.run(stmt.bind(hold.reason.clone()).bind(hold.placed).bind(&hold.who)).await?;
        }
        // Numbers of released holds are in the journal, and must not be given again.
        let highest = state.journal.iter().filter_map(|entry| entry.hold).max();
        self.reserve_hold_ids(highest.unwrap_or(0)).await
    }

    async fn append_entries(
        &mut self,
        entries: &[CarriedJournalEntry],
        accounts: &HashMap<String, AccountKey>,
    ) -> Result<(), DbError> {
        let mut chain = self.record_chain(JOURNAL).await?;
        for entry in entries {
            chain.append(|record, _| journal_record(entry, record).leaf());
            let account = entry.sub.as_deref().map(|sub| account_of(accounts, sub)).transpose()?;
            let stmt = sql(
                "insert into journal (at, who, what, account, kind, subject, segments, records, hold, reason, value_hash)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            );
            let bytes = |bytes: &Option<HexBytes>| bytes.as_ref().map(|bytes| bytes.0.clone());
            let stmt = stmt.bind(entry.at).bind(&entry.who).bind(&entry.what).bind(account).bind(entry.kind.clone());
            let stmt = stmt.bind(bytes(&entry.subject)).bind(entry.segments).bind(entry.records).bind(entry.hold);
            self.run(stmt.bind(entry.reason.clone()).bind(bytes(&entry.value_hash))).await?;
        }
        self.save_record_chain(chain).await
    }

    /// Later exports tell the erasures made since.
    async fn adopt_export_erasures(
        &mut self,
        state: &CarriedState,
        accounts: &HashMap<String, AccountKey>,
    ) -> Result<(), DbError> {
        for erasure in &state.export_erasures {
            let stmt = sql("insert into export_erasure (account, sealed_ids, at, kind)
                 select a.id, $2, $3, $4 from account a where a.id = $1
                 and not exists (select 1 from export_erasure x where x.account = $1 and x.sealed_ids = $2)");
            let stmt = stmt.bind(account_of(accounts, &erasure.sub)?).bind(erasure.sealed_ids.0.clone());
            self.run(stmt.bind(erasure.at).bind(erasure.kind)).await?;
        }
        Ok(())
    }

    /// Queues backfills again that were requested since.
    async fn adopt_backfills(
        &mut self,
        state: &CarriedState,
        accounts: &HashMap<String, AccountKey>,
    ) -> Result<u64, DbError> {
        let mut queued = 0;
        for backfill in &state.backfills {
            let stmt = sql("insert into backfill (account, from_ms, to_ms, newest_first, created)
                 select a.id, $2, $3, $4, $5 from account a where a.id = $1 and not exists
                 (select 1 from backfill b where b.account = $1 and b.from_ms = $2 and b.to_ms = $3 and b.created = $5)");
            let stmt = stmt.bind(account_of(accounts, &backfill.sub)?).bind(backfill.from_ms).bind(backfill.to_ms);
            queued += self.run(stmt.bind(backfill.newest_first).bind(backfill.created)).await?;
        }
        Ok(queued)
    }

    /// Adds sinks that are newer than the copy. They get everything that is stored from now on, which
    /// includes what they had received. Returns how many events each sink had received since.
    async fn adopt_sinks(
        &mut self,
        state: &CarriedState,
        accounts: &HashMap<String, AccountKey>,
    ) -> Result<Vec<(String, u64)>, DbError> {
        let mut resent = BTreeMap::new();
        for sink in &state.sinks {
            let stmt = sql("insert into sink (name, created, place) values ($1, $2, $3)
                 on conflict (name) do nothing returning id");
            let stmt = stmt.bind(&sink.name).bind(sink.created).bind(&sink.place);
            let new: Option<SinkKey> = self.value(stmt).await?;
            let cursors = state.cursors.iter().filter(|cursor| cursor.sink == sink.name);
            let mut events = 0;
            for cursor in cursors {
                let account = account_of(accounts, &cursor.sub)?;
                if let Some(key) = new {
                    let stmt = sql("insert into sink_cursor (sink, account, feed, delivered)
                         select $1, a.id, case when a.feed < $3 then a.feed else $3 end, 0 from account a where a.id = $2");
                    self.run(stmt.bind(key).bind(account).bind(cursor.feed)).await?;
                }
                let stmt = sql("select c.delivered from sink_cursor c join sink s on s.id = c.sink
                     where s.name = $1 and c.account = $2");
                let delivered: i64 = self.value(stmt.bind(&sink.name).bind(account)).await?.unwrap_or(0);
                events += u64::try_from(cursor.delivered.saturating_sub(delivered)).unwrap_or(0);
            }
            resent.insert(sink.name.clone(), events);
        }
        Ok(resent.into_iter().collect())
    }

    /// Adds the reservations of the archive to those of the copy, which may be newer than an exported journal.
    async fn adopt_reservations(&mut self, state: &CarriedState) -> Result<(), DbError> {
        let held = self.all::<(String, i64)>(sql("select key, reserved from reservation")).await?;
        let held: HashSet<(String, i64)> = held.into_iter().collect();
        let new = state.reservations.iter().filter(|row| !held.contains(&(row.key.clone(), row.reserved)));
        let rows = new.map(|row| vec![Arg::from(&row.key), row.reserved.into(), row.counted.into()]).collect();
        self.run(Stmt::rows("insert into reservation (key, reserved, counted) values ", rows, "")).await.map(drop)
    }
}

fn account_of(accounts: &HashMap<String, AccountKey>, sub: &str) -> Result<AccountKey, DbError> {
    let account = accounts.get(sub).copied();
    account.ok_or_else(|| DbError::missing_row("account", format!("the sub-account {sub} of the journal")))
}

fn journal_record(entry: &CarriedJournalEntry, record: i64) -> JournalRecord<'_> {
    JournalRecord {
        record,
        at: entry.at,
        who: &entry.who,
        what: &entry.what,
        sub: entry.sub.as_deref(),
        kind: entry.kind.as_deref(),
        subject: entry.subject.as_ref().map(|bytes| bytes.0.as_slice()),
        segments: entry.segments,
        records: entry.records,
        hold: entry.hold,
        reason: entry.reason.as_deref(),
        value_hash: entry.value_hash.as_ref().map(|bytes| bytes.0.as_slice()),
    }
}

const WITHOUT_JOURNAL_HINT: &str = "restore the copy of the same archive, or give its file of `backup --journal`; \
    --without-journal restores without it: then repeat by hand every erasure and hold made since the copy";

fn other_archive() -> DbError {
    DbError::broken("the journal of erasures belongs to another archive than the copy", WITHOUT_JOURNAL_HINT)
}

fn key_missing() -> DbError {
    DbError::broken(
        "the copy is from before the archive's first erasure and has no key, so the journal cannot be applied to it",
        WITHOUT_JOURNAL_HINT,
    )
}

pub(super) fn diverged() -> DbError {
    DbError::broken(
        "the journal of erasures does not continue that of the copy: both had entries that the other lacks, or one was altered",
        WITHOUT_JOURNAL_HINT,
    )
}

impl Db {
    /// When the archive was last written to: the newest read, artifact, journal entry or heartbeat.
    pub async fn last_written(&self) -> Result<Option<Time>, DbError> {
        let stmt = sql("select max(at) from (select max(at) as at from reading union all select max(at) from journal
             union all select max(heartbeat) from replica union all select max(last_read) from coverage) newest");
        Ok(self.value::<Option<Time>>(stmt).await?.flatten())
    }
}
