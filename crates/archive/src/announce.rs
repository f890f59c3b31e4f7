//! What metadata announced becomes segments, and work to do.
//!
//! A chunk of an answer is one transaction: its segments, their work and the ledger of what was announced commit
//! together. A chunk stored twice is the same as once.

mod ledger;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use sha2::{Digest, Sha256};

use super::keep::Gate;
use super::proof::RecordChain;
use super::{Arg, BULK, Db, DbError, Item, Owned, Row, Stmt, Tx, item};
use crate::clock::Time;
use crate::model::{
    Artifact, ArtifactSet, AsideRecord, Lane, SegmentRecord, State, Stretch, Stretches, Wants, may_have_notes,
};

use crate::hash_chain::{MetadataRecord, SALT};

pub(super) use ledger::{Late, Ledger, day_of, id_digest};

/// A part of a metadata answer.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// In whose name it is stored.
    pub owned: Owned,
    /// Why the window was read.
    pub lane: Lane,
    /// The window's stretch.
    pub stretch: Stretch,
    /// The present.
    pub now: Time,
    /// What to ask for.
    pub wants: Wants,
    /// What had been read before this answer: a segment that is new in there came late.
    pub known: &'a Stretches,
    /// What ended before is soon deleted by the vendor, and goes before the rest of its lane.
    pub urgent_before: Option<Time>,
    /// How soon a window that held a record set aside is read again, at first.
    pub repair: Duration,
    /// What could be understood.
    pub records: &'a [SegmentRecord],
    /// What could not.
    pub asides: &'a [AsideRecord],
}

/// What a chunk, or a whole answer, changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announced {
    /// Segments in the answer.
    pub segments: u64,
    /// Segments seen for the first time.
    pub added: u64,
    /// Segments whose metadata had changed.
    pub changed: u64,
    /// Among those, the ones whose `hasTranscript` turned true.
    pub flipped: u64,
    /// Work items queued.
    pub queued: u64,
    /// Records set aside.
    pub aside: u64,
    /// Order-free digest of the ids, upper half.
    pub digest_high: i64,
    /// Order-free digest of the ids, lower half.
    pub digest_low: i64,
}

impl Announced {
    /// Adds another part of the same answer.
    pub fn add(&mut self, other: Announced) {
        self.segments += other.segments;
        self.added += other.added;
        self.changed += other.changed;
        self.flipped += other.flipped;
        self.queued += other.queued;
        self.aside += other.aside;
        self.digest_high = self.digest_high.wrapping_add(other.digest_high);
        self.digest_low = self.digest_low.wrapping_add(other.digest_low);
    }
}

/// The first half of a hash: enough to tell whether metadata changed.
pub(super) fn short_hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes)[..16].to_vec()
}

struct Known {
    key: i64,
    has_transcript: bool,
    is_agent: bool,
    asked: ArtifactSet,
    ended: Time,
    digest: Vec<u8>,
    dialog_id: Option<String>,
    since: Option<Time>,
}

impl Known {
    /// Whether the record says anything of the segment that is not held.
    fn differs(&self, record: &SegmentRecord, hash: &[u8]) -> bool {
        self.digest != hash
            || self.ended != record.end.unwrap_or(Time::NONE)
            || self.has_transcript != record.has_transcript
            || self.is_agent != record.is_agent
            || record.dialog_id.is_some() && record.dialog_id != self.dialog_id
    }
}

/// What goes into the record chain with a version of metadata.
struct Sealed {
    record: i64,
    salt: [u8; SALT],
    leaf: [u8; 32],
}

fn sealed(
    chain: &mut RecordChain,
    record: &SegmentRecord,
    dialog_id: Option<&str>,
    since: Option<Time>,
    digest: &[u8],
) -> Sealed {
    let salt: [u8; SALT] = rand::rng().random();
    let (record, leaf) = chain.append(|number, sub| {
        let sealed = MetadataRecord {
            salt: &salt,
            record: number,
            sub,
            segment_id: &record.segment_id,
            dialog_id,
            ended: Some(record.end.unwrap_or(Time::NONE).0),
            has_transcript: Some(record.has_transcript.into()),
            is_agent: Some(record.is_agent.into()),
            since: since.map(|since| since.0),
            digest,
        };
        sealed.leaf()
    });
    Sealed { record, salt, leaf }
}

impl Db {
    /// Stores a chunk of an answer.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now; nothing is stored then.
    pub async fn announce(&self, chunk: Chunk<'_>) -> Result<Announced, DbError> {
        self.announce_kept(chunk, None).await
    }

    /// Stores a chunk of an answer, but nothing new that ended before `kept_since`, where one is given, and nothing that
    /// was erased; either still counts as announced by the answer.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now; nothing is stored then.
    pub async fn announce_kept(&self, chunk: Chunk<'_>, kept_since: Option<Time>) -> Result<Announced, DbError> {
        let mut sum = Announced::default();
        // An answer that names a segment twice: the last one counts, as it would in two answers.
        let mut last: BTreeMap<&str, &SegmentRecord> = BTreeMap::new();
        for record in chunk.records {
            last.insert(&record.segment_id, record);
        }
        let mut records: Vec<&SegmentRecord> = last.into_values().collect();
        // Of what is due at once, the database hands out first what was numbered first: the segment that ended first.
        records.sort_by_key(|record| record.end);
        let mut tx = self.begin().await?;
        tx.hold(chunk.owned).await?;
        let gate = tx.gate(chunk.owned.account, kept_since).await?;
        let mut ledger = Ledger::default();
        for part in records.chunks(BULK) {
            tx.announce_part(&chunk, &gate, part, &mut sum, &mut ledger).await?;
        }
        tx.add_to_ledger(chunk.owned.account, ledger).await?;
        let asides = tx.may_be_aside(&gate, chunk.stretch, chunk.asides).await?;
        sum.aside = asides.len() as u64;
        tx.set_aside(&chunk, &asides).await?;
        tx.commit().await?;
        Ok(sum)
    }
}

impl Tx {
    async fn announce_part(
        &mut self,
        chunk: &Chunk<'_>,
        gate: &Gate,
        part: &[&SegmentRecord],
        sum: &mut Announced,
        ledger: &mut Ledger,
    ) -> Result<(), DbError> {
        let account = chunk.owned.account;
        let known = self.known_segments(account, part).await?;
        let unknown: Vec<&SegmentRecord> =
            part.iter().copied().filter(|record| !known.contains_key(record.segment_id.as_str())).collect();
        let kept_out = self.kept_out(gate, &unknown).await?;
        let (mut fresh, mut changed, mut work) = (Vec::new(), Vec::new(), Vec::new());
        let mut late = Late::default();
        for &record in part {
            let digest = id_digest(&record.segment_id);
            sum.segments += 1;
            sum.digest_high = sum.digest_high.wrapping_add(digest.0);
            sum.digest_low = sum.digest_low.wrapping_add(digest.1);
            let ended = record.end.unwrap_or(Time::NONE);
            let wanted = chunk.wants.of(record.has_transcript, record.is_agent);
            let Some(held) = known.get(record.segment_id.as_str()) else {
                if kept_out.contains(&record.segment_id) {
                    continue;
                }
                sum.added += 1;
                ledger.count(ended, digest, 1);
                if let Some(end) = record.end.filter(|end| chunk.known.holding(*end).is_some()) {
                    late.count(account, "appear", chunk.now.since(end));
                }
                fresh.push((record, wanted));
                continue;
            };
            let hash = short_hash(record.raw.as_bytes());
            let before = chunk.wants.of(held.has_transcript, held.is_agent);
            // A setting that asks for more applies to what is found from then on; `backfill` asks for older ones.
            let eligible = if chunk.lane == Lane::Backfill { wanted } else { wanted.minus(before) };
            let missing = eligible.minus(held.asked);
            work.extend(missing.iter().map(|artifact| (held.key, artifact, ended)));
            if held.digest != hash {
                sum.changed += 1;
                if record.has_transcript && !held.has_transcript {
                    sum.flipped += 1;
                    if let Some(end) = record.end {
                        late.count(account, "flip", chunk.now.since(end));
                    }
                }
            }
            if held.digest != hash || !missing.is_empty() {
                if held.ended != ended {
                    ledger.count(held.ended, digest, -1);
                    ledger.count(ended, digest, 1);
                }
                changed.push((record, held, hash, held.asked.union(missing)));
            }
        }
        self.update_segments(chunk, &changed).await?;
        // What the index holds of a segment depends on its notes and its end time.
        let mut anew: Vec<(i64, Time)> = changed
            .iter()
            .filter(|(_, held, hash, _)| held.digest != *hash)
            .map(|(_, held, ..)| (held.key, held.ended))
            .collect();
        for (key, wanted, ended, notes) in self.insert_segments(chunk, &fresh).await? {
            work.extend(wanted.iter().map(|artifact| (key, artifact, ended)));
            anew.extend(notes.then_some((key, ended)));
        }
        self.index_anew(account, &anew).await?;
        sum.queued += self.queue(chunk, &work).await?;
        self.add_lateness(late).await
    }

    async fn known_segments(
        &mut self,
        account: i64,
        part: &[&SegmentRecord],
    ) -> Result<HashMap<String, Known>, DbError> {
        let stmt = Stmt::list(
            "select segment_id, id, has_transcript, is_agent, asked, ended, digest, dialog_id, since from segment where account = $1 and segment_id in ",
            vec![account.into()],
            part.iter().map(|record| record.segment_id.as_str()),
            "",
        );
        let read = |row: &Row| -> Result<(String, Known), DbError> {
            let key = row.int(1)?;
            Ok((
                row.text(0)?,
                Known {
                    key,
                    has_transcript: row.flag(2)?,
                    is_agent: row.flag(3)?,
                    asked: row.code(4, ("segment.asked", key), ArtifactSet::from_code)?,
                    ended: row.time(5)?,
                    digest: row.bytes(6)?,
                    dialog_id: row.maybe_text(7)?,
                    since: row.maybe_time(8)?,
                },
            ))
        };
        self.all(stmt).await?.iter().map(read).collect()
    }

    async fn insert_segments(
        &mut self,
        chunk: &Chunk<'_>,
        fresh: &[(&SegmentRecord, ArtifactSet)],
    ) -> Result<Vec<(i64, ArtifactSet, Time, bool)>, DbError> {
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        let next = self.next_segment().await?;
        let mut chain = self.record_chain(chunk.owned.account).await?;
        let rows = fresh.iter().enumerate().map(|(nth, (record, wanted))| {
            let packed = item::pack(record.raw.as_bytes());
            let digest = short_hash(record.raw.as_bytes());
            let sealed = sealed(&mut chain, record, record.dialog_id.as_deref(), Some(chunk.now), &digest);
            // The database numbers the rows after the first by itself.
            let number = next.map(|next| Arg::Int((nth == 0).then_some(next)));
            let values = [
                chunk.owned.account.into(),
                Arg::from(&record.segment_id),
                record.dialog_id.clone().into(),
                record.end.unwrap_or(Time::NONE).into(),
                record.has_transcript.into(),
                record.is_agent.into(),
                wanted.0.into(),
                chunk.now.into(),
                chunk.now.into(),
                digest.into(),
                packed.codec.into(),
                packed.body.into(),
                sealed.record.into(),
                chunk.now.into(),
                sealed.salt.to_vec().into(),
                sealed.leaf.to_vec().into(),
            ];
            number.into_iter().chain(values).collect()
        });
        let head = if next.is_some() {
            "insert into segment (id, account, segment_id, dialog_id, ended, has_transcript, is_agent, asked, first_seen, changed, digest, codec, metadata, record, since, salt, leaf) values "
        } else {
            "insert into segment (account, segment_id, dialog_id, ended, has_transcript, is_agent, asked, first_seen, changed, digest, codec, metadata, record, since, salt, leaf) values "
        };
        let stmt = Stmt::rows(head, rows.collect(), " returning id, segment_id");
        self.keep_record_chain(chain).await?;
        let wanted: HashMap<&str, (ArtifactSet, Time, bool)> = fresh
            .iter()
            .map(|(record, wanted)| {
                let ended = record.end.unwrap_or(Time::NONE);
                (record.segment_id.as_str(), (*wanted, ended, may_have_notes(&record.raw)))
            })
            .collect();
        let rows = self.all(stmt).await?;
        rows.iter()
            .map(|row| {
                let (key, id) = (row.int(0)?, row.text(1)?);
                // A segment without its work would never be fetched, and nobody would know.
                let known = wanted.get(id.as_str()).copied();
                let (wanted, ended, notes) =
                    known.ok_or_else(|| DbError::inconsistent("segment.segment_id", key, format_args!("{id:?}")))?;
                Ok((key, wanted, ended, notes))
            })
            .collect()
    }

    async fn update_segments(
        &mut self,
        chunk: &Chunk<'_>,
        changed: &[(&SegmentRecord, &Known, Vec<u8>, ArtifactSet)],
    ) -> Result<(), DbError> {
        if changed.is_empty() {
            return Ok(());
        }
        // What is about to be replaced goes into the segment's history.
        for (what, turned) in [("hasTranscript turned true", true), ("metadata changed", false)] {
            let keys: Vec<i64> = changed
                .iter()
                .filter(|(record, held, hash, _)| {
                    held.digest != *hash && (record.has_transcript && !held.has_transcript) == turned
                })
                .map(|(_, held, ..)| held.key)
                .collect();
            if keys.is_empty() {
                continue;
            }
            let stmt = Stmt::list(
                "insert into segment_version (segment, seen, what, codec, metadata, account, record, since, salt, leaf, dialog_id, ended, has_transcript, is_agent)
                 select id, cast($1 as bigint), cast($2 as text), codec, metadata, account, record, since, salt, leaf, dialog_id, ended, has_transcript, is_agent
                 from segment where id in ",
                vec![chunk.now.into(), what.into()],
                keys,
                " on conflict (segment, seen) do nothing",
            );
            self.run(stmt).await?;
        }
        let renewed: Vec<i64> = changed
            .iter()
            .filter(|(record, held, hash, _)| held.differs(record, hash))
            .map(|(_, held, ..)| held.key)
            .collect();
        self.keep_replaced_leaves(&renewed).await?;
        let mut chain = self.record_chain(chunk.owned.account).await?;
        let rows = changed.iter().map(|(record, held, hash, asked)| {
            let packed = item::pack(record.raw.as_bytes());
            let since = if held.digest == *hash { held.since } else { Some(chunk.now) };
            let dialog_id = record.dialog_id.as_deref().or(held.dialog_id.as_deref());
            let sealed = held.differs(record, hash).then(|| sealed(&mut chain, record, dialog_id, since, hash));
            vec![
                held.key.into(),
                Arg::from(record.dialog_id.clone()),
                record.end.unwrap_or(Time::NONE).into(),
                record.has_transcript.into(),
                record.is_agent.into(),
                asked.0.into(),
                chunk.now.into(),
                hash.clone().into(),
                packed.codec.into(),
                packed.body.into(),
                sealed.as_ref().map(|sealed| sealed.record).into(),
                since.into(),
                sealed.as_ref().map(|sealed| Bytes::from(sealed.salt.to_vec())).into(),
                sealed.as_ref().map(|sealed| Bytes::from(sealed.leaf.to_vec())).into(),
            ]
        });
        let stmt = Stmt::rows(
            "with v (id, dialog_id, ended, has_transcript, is_agent, asked, changed, digest, codec, metadata, record, since, salt, leaf) as (values ",
            rows.collect(),
            ") update segment set dialog_id = coalesce(v.dialog_id, segment.dialog_id), ended = v.ended, has_transcript = v.has_transcript,
             is_agent = v.is_agent, asked = v.asked, changed = v.changed, digest = v.digest, codec = v.codec, metadata = v.metadata,
             record = coalesce(v.record, segment.record), since = v.since, salt = coalesce(v.salt, segment.salt), leaf = coalesce(v.leaf, segment.leaf)
             from v where segment.id = v.id",
        );
        self.run(stmt).await?;
        self.keep_record_chain(chain).await
    }

    async fn queue(&mut self, chunk: &Chunk<'_>, work: &[(i64, Artifact, Time)]) -> Result<u64, DbError> {
        let mut queued = 0;
        for part in work.chunks(BULK) {
            let rows = part.iter().map(|(segment, artifact, ended)| {
                // Among what is due, the earliest goes first.
                let urgent = chunk.urgent_before.is_some_and(|before| *ended < before && *ended != Time::NONE);
                vec![
                    Item::of(*segment, *artifact).0.into(),
                    (*segment).into(),
                    artifact.code().into(),
                    chunk.owned.account.into(),
                    chunk.lane.code().into(),
                    Arg::from(State::Open.code()),
                    if urgent { *ended } else { chunk.now }.into(),
                    chunk.now.into(),
                ]
            });
            let stmt = Stmt::rows(
                "insert into work (item, segment, artifact, account, lane, state, due, created) values ",
                rows.collect(),
                " on conflict (item) do nothing",
            );
            queued += self.run(stmt).await?;
        }
        Ok(queued)
    }

    async fn set_aside(&mut self, chunk: &Chunk<'_>, asides: &[&AsideRecord]) -> Result<(), DbError> {
        let account = chunk.owned.account;
        let mut distinct: BTreeMap<Vec<u8>, &AsideRecord> = BTreeMap::new();
        for &aside in asides {
            distinct.insert(short_hash(aside.raw.as_bytes()), aside);
        }
        let rows: Vec<Vec<Arg>> = distinct
            .into_iter()
            .map(|(digest, aside)| {
                vec![
                    account.into(),
                    digest.into(),
                    aside.segment_id.clone().into(),
                    Arg::from(&aside.reason),
                    aside.raw.clone().into_bytes().into(),
                    chunk.now.into(),
                    chunk.now.into(),
                    Arg::from(1_i64),
                    chunk.stretch.from.into(),
                    chunk.stretch.to.into(),
                    (chunk.now + chunk.repair).into(),
                ]
            })
            .collect();
        self.run_rows(
            "insert into aside (account, digest, segment_id, reason, raw, first_seen, last_seen, times, from_ms, to_ms, due) values ",
            rows,
            // Asked for again ever more rarely. Two windows that hold the same record narrow down where it lies.
            " on conflict (account, digest) do update set last_seen = excluded.last_seen, times = aside.times + 1,
             reason = excluded.reason, resolved = null,
             due = excluded.last_seen + (excluded.due - excluded.last_seen) * (cast(1 as bigint) << cast(case when aside.times > 8 then 8 else aside.times end as int)),
             from_ms = case when excluded.from_ms > aside.from_ms and excluded.from_ms < aside.to_ms then excluded.from_ms else aside.from_ms end,
             to_ms = case when excluded.to_ms < aside.to_ms and excluded.to_ms > aside.from_ms then excluded.to_ms else aside.to_ms end",
        )
        .await.map(drop)
    }
}
