//! Completion of claimed jobs: artifact, feed, work row and attempts, for many jobs in one
//! transaction.
//!
//! A result is accepted only if the account's epoch still equals the claim's, and only if the work
//! row still exists. The deletion of that row makes completion idempotent, also if a successful
//! commit was reported as failed. Each new feed entry extends the account's hash chain in the same
//! transaction.

mod reschedule;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use rand::Rng as _;

use super::{AccountKey, Arg, Claim, Db, DbError, Item, PackedBody, Stmt, Tx, ingest::LatencyHistogram, item};
use crate::charset::Charset;
use crate::clock::Time;
use crate::failpoint::{self, Failpoint};
use crate::hash_chain::{FeedRecord, GENESIS_HASH, Hash, SALT_LEN, link, sha256};
use crate::model::{Artifact, ItemState, Lane, Outcome, RecordingFacts};
use crate::transaction_span::TransactionSpan;

/// The result of one attempt.
#[derive(Debug, Clone)]
pub enum JobOutcome {
    /// The API returned a body, or reported that there is none.
    Answered {
        /// Whether there is a body.
        outcome: Outcome,
        /// The body, packed.
        packed: PackedBody,
        /// SHA-256 of the body as received.
        sha256: Hash,
        /// The body's size as received, in bytes.
        size: usize,
        /// When to refresh the artifact, if it may change.
        refresh_at: Option<Time>,
        /// What is known about a recording. Its bytes are in the recording store.
        recording: Option<Box<RecordingFacts>>,
    },
    /// It was not attempted, because artifacts of its kind or age are currently not found.
    Deferred {
        /// When to consider it again.
        due: Time,
        /// Start of its horizon, if that has begun.
        first_try: Option<Time>,
    },
    /// The attempt failed. It will be retried, or was given up.
    Failed {
        /// `Open` to retry, else the final state.
        state: ItemState,
        /// When to retry.
        due: Time,
        /// Number of 404 responses and the like, including this one.
        misses: u32,
        /// Number of responses that a retry will hardly change, including this one.
        refusals: u32,
        /// The HTTP status, if there was a response.
        status: Option<u16>,
        /// The cause, for display. It never holds content.
        reason: String,
        /// Details of an unusable response.
        broken: Option<BrokenAnswer>,
    },
}

/// A response that was received and could not be used.
#[derive(Clone)]
pub struct BrokenAnswer {
    /// Identifies the kind of defect; not 0.
    pub kind: u32,
    /// How many consecutive responses had this defect, including this one.
    pub consecutive: u32,
    /// The first bytes. They are content: shown only on explicit request, and never logged.
    pub prefix: Bytes,
}

impl fmt::Debug for BrokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BrokenAnswer {{ kind: {}, consecutive: {}, {} bytes }}",
            self.kind,
            self.consecutive,
            self.prefix.len()
        )
    }
}

/// A claim with the result of its attempt.
#[derive(Debug, Clone)]
pub struct CompletedJob {
    /// The consumed claim.
    pub claim: Claim,
    /// When the response arrived.
    pub at: Time,
    /// The result of the attempt.
    pub outcome: JobOutcome,
}

impl JobOutcome {
    /// The API returned this body. Hashes and compresses it, which takes time for a large one.
    pub fn stored(body: &Bytes, refresh_at: Option<Time>) -> JobOutcome {
        JobOutcome::stored_with_charset(body, None, refresh_at)
    }

    /// As [`JobOutcome::stored`], with the charset that the response declared.
    pub fn stored_with_charset(body: &Bytes, charset: Option<Charset>, refresh_at: Option<Time>) -> JobOutcome {
        JobOutcome::Answered {
            outcome: Outcome::Stored,
            packed: item::pack_body(body, charset),
            sha256: sha256(body),
            size: body.len(),
            refresh_at,
            recording: None,
        }
    }

    /// The API returned this recording, and its bytes are in the recording store.
    pub fn recorded(facts: RecordingFacts) -> JobOutcome {
        JobOutcome::Answered {
            outcome: Outcome::Stored,
            packed: item::pack_body(b"", None),
            sha256: facts.sha256,
            size: usize::try_from(facts.size).unwrap_or(usize::MAX),
            refresh_at: None,
            recording: Some(Box::new(facts)),
        }
    }

    /// Size of the packed body, in bytes.
    pub fn stored_bytes(&self) -> usize {
        match self {
            JobOutcome::Answered { packed, .. } => packed.body.len(),
            _ => 0,
        }
    }

    /// The API reported that the artifact is empty.
    pub fn not_populated(refresh_at: Option<Time>) -> JobOutcome {
        JobOutcome::Answered {
            outcome: Outcome::NotPopulated,
            packed: item::pack_body(b"", None),
            sha256: sha256(b""),
            size: 0,
            refresh_at,
            recording: None,
        }
    }
}

/// An account's feed and chain head: as read at first, then updated with each appended entry.
#[derive(sqlx::FromRow)]
struct AccountFeedState {
    account: AccountKey,
    epoch: i64,
    sub: String,
    feed: i64,
    /// `None` before the chain's first entry.
    chain: Option<Vec<u8>>,
}

/// What a batch adds to an account: feed entries, and items answered for the first time.
#[derive(Default)]
struct AccountDelta {
    entries: i64,
    done: i64,
}

#[derive(sqlx::FromRow)]
struct NewestVersion {
    item: Item,
    version: i64,
    sha256: Vec<u8>,
    outcome: i64,
}

impl Db {
    /// Records the results of claims. Returns `true` for those that were accepted. The others were
    /// refused, because the account has another owner, or because an operator discarded the item.
    ///
    /// # Errors
    /// Nothing was committed; or, if the connection broke during the commit, everything may have
    /// been. Completing the same jobs again is safe.
    pub async fn complete_jobs(&self, batch: &[CompletedJob]) -> Result<Vec<bool>, DbError> {
        let _span = TransactionSpan::start("complete_jobs", batch.len());
        let mut tx = self.begin().await?;
        let mut feed_states = tx.lock_feed_states(batch).await?;
        let current: Vec<&CompletedJob> = batch
            .iter()
            .filter(|job| {
                let lease = job.claim.lease;
                feed_states.get(&lease.account).is_some_and(|state| state.epoch == lease.epoch)
            })
            .collect();
        let (answered, failed): (Vec<&CompletedJob>, Vec<&CompletedJob>) =
            current.iter().partition(|job| matches!(job.outcome, JobOutcome::Answered { .. }));
        let removed = tx.delete_work(&answered).await?;
        let accepted: Vec<&CompletedJob> = answered
            .into_iter()
            .filter(|job| removed.contains(&job.claim.item) && !failpoint::is_triggered(Failpoint::LostResult))
            .collect();
        tx.store_artifacts(&accepted, &mut feed_states).await?;
        tx.schedule_refreshes(&accepted).await?;
        let refused: Vec<&CompletedJob> = batch.iter().filter(|job| !removed.contains(&job.claim.item)).collect();
        tx.delete_refused_recordings(&refused).await?;
        let updated = tx.reschedule(&failed).await?;
        // An item that was erased in the meantime has no work row, and must not get attempt rows
        // either.
        let rescheduled: Vec<&CompletedJob> =
            failed.into_iter().filter(|job| updated.contains(&job.claim.item)).collect();
        tx.record_attempts(&rescheduled).await?;
        if failpoint::is_triggered(Failpoint::LostCommit) {
            drop(tx);
        } else {
            tx.commit().await?;
        }
        Ok(batch.iter().map(|job| removed.contains(&job.claim.item) || updated.contains(&job.claim.item)).collect())
    }
}

impl Tx {
    /// Reads and locks the batch's accounts until the transaction ends. They are locked in key
    /// order, and with a write lock from the start: upgrading a shared lock would deadlock with
    /// other transactions that do the same.
    async fn lock_feed_states(
        &mut self,
        batch: &[CompletedJob],
    ) -> Result<HashMap<AccountKey, AccountFeedState>, DbError> {
        let accounts: BTreeSet<AccountKey> = batch.iter().map(|job| job.claim.lease.account).collect();
        let head = "select id as account, epoch, sub, feed, chain from account where id in ";
        let stmt = Stmt::list(head, Vec::new(), accounts, self.for_no_key_update_clause());
        Ok(self.all(stmt).await?.into_iter().map(|state: AccountFeedState| (state.account, state)).collect())
    }

    /// Deletes the work rows of these claims, but not a later refresh of the same item: a batch may
    /// come again if its commit was reported as failed.
    async fn delete_work(&mut self, jobs: &[&CompletedJob]) -> Result<HashSet<Item>, DbError> {
        let mut by_visit: BTreeMap<u32, Vec<Item>> = BTreeMap::new();
        for job in jobs {
            by_visit.entry(job.claim.visit).or_default().push(job.claim.item);
        }
        let mut removed = HashSet::with_capacity(jobs.len());
        for (visit, items) in by_visit {
            // An item that an operator discarded stays discarded, also if a late result arrives.
            let head = "delete from work where visit = $1 and item in ";
            let stmt = Stmt::list(head, vec![visit.into()], items, " and state = 0 returning item");
            removed.extend(self.values::<Item>(stmt).await?);
        }
        Ok(removed)
    }

    async fn store_artifacts(
        &mut self,
        accepted: &[&CompletedJob],
        feed_states: &mut HashMap<AccountKey, AccountFeedState>,
    ) -> Result<(), DbError> {
        let held = self.newest_versions(accepted.iter().filter(|job| job.claim.visit > 0)).await?;
        let mut new_versions: Vec<(&CompletedJob, i64)> = Vec::with_capacity(accepted.len());
        let mut deltas: BTreeMap<AccountKey, AccountDelta> = BTreeMap::new();
        let mut latencies = LatencyHistogram::default();
        for &job in accepted {
            let claim = &job.claim;
            let delta = deltas.entry(claim.lease.account).or_default();
            if claim.visit == 0 {
                delta.done += 1;
                for kind in latency_kinds(job) {
                    let Some(ended) = claim.ended.known() else { continue };
                    latencies.add(claim.lease.account, kind, job.at.since(ended));
                }
            }
            if let Some(version) = next_version(job, held.get(&claim.item)) {
                delta.entries += 1;
                new_versions.push((job, version));
            }
        }
        let recordings = new_versions.clone();
        let rows: Vec<Vec<Arg>> = new_versions
            .into_iter()
            .filter_map(|(job, version)| {
                feed_states.get_mut(&job.claim.lease.account)?.append_entry(job, version, rand::rng().random())
            })
            .collect();
        self.advance_feeds(&deltas, feed_states).await?;
        const HEAD: &str = "insert into artifact (item, version, account, feed, outcome, fetched, size, sha256, salt, codec, body) values ";
        self.run(Stmt::rows(HEAD, rows, "")).await?;
        self.store_recordings(accepted, &recordings).await?;
        self.add_latencies(latencies).await
    }

    async fn newest_versions<'a>(
        &mut self,
        refreshed: impl Iterator<Item = &'a &'a CompletedJob>,
    ) -> Result<HashMap<Item, NewestVersion>, DbError> {
        let items = refreshed.map(|job| job.claim.item);
        let head = "select item, version, sha256, outcome from artifact where item in ";
        let versions = self.all(Stmt::list(head, Vec::new(), items, " order by item, version")).await?;
        Ok(versions.into_iter().map(|version: NewestVersion| (version.item, version)).collect())
    }

    /// Advances each account's feed and chain past its new entries, and its count of finished
    /// items.
    async fn advance_feeds(
        &mut self,
        deltas: &BTreeMap<AccountKey, AccountDelta>,
        feed_states: &HashMap<AccountKey, AccountFeedState>,
    ) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = deltas
            .iter()
            .map(|(account, delta)| {
                // Without an entry the head stays null: the chain has not begun.
                let state = feed_states.get(account).filter(|_| delta.entries > 0);
                let head = state.and_then(|state| state.chain.clone());
                vec![(*account).into(), delta.entries.into(), delta.done.into(), head.into()]
            })
            .collect();
        self.run(Stmt::rows(
            "with v (id, entries, finished, chain) as (values ",
            rows,
            ") update account set feed = feed + v.entries, done = done + v.finished, chain = coalesce(v.chain, account.chain)
             from v where account.id = v.id",
        ))
        .await
        .map(drop)
    }

    async fn schedule_refreshes(&mut self, accepted: &[&CompletedJob]) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = accepted
            .iter()
            .filter_map(|job| {
                let JobOutcome::Answered { refresh_at: Some(due), .. } = &job.outcome else { return None };
                let claim = &job.claim;
                Some(vec![
                    Arg::from(claim.item),
                    claim.item.segment().into(),
                    claim.artifact.code().into(),
                    claim.lease.account.into(),
                    Lane::Revisit.code().into(),
                    ItemState::Open.code().into(),
                    (*due).into(),
                    job.at.into(),
                    (claim.visit + 1).into(),
                ])
            })
            .collect();
        self.run(Stmt::rows(
            "insert into work (item, segment, artifact, account, lane, state, due, created, visit) values ",
            rows,
            " on conflict (item) do nothing",
        ))
        .await
        .map(drop)
    }
}

impl AccountFeedState {
    /// Appends an artifact to the account's feed and chain. Returns its row.
    fn append_entry(&mut self, job: &CompletedJob, version: i64, salt: [u8; SALT_LEN]) -> Option<Vec<Arg>> {
        let JobOutcome::Answered { outcome, packed, sha256, size, .. } = &job.outcome else { return None };
        self.feed += 1;
        let entry = FeedRecord {
            salt: &salt,
            feed: self.feed,
            sub: &self.sub,
            segment_id: &job.claim.segment_id,
            artifact: job.claim.artifact.code().into(),
            version,
            outcome: outcome.code().into(),
            fetched: job.at.0,
            size: i64::try_from(*size).unwrap_or(i64::MAX),
            sha256,
        };
        self.chain = Some(link(self.chain.as_deref().unwrap_or(&GENESIS_HASH), &entry.leaf()).to_vec());
        Some(vec![
            job.claim.item.into(),
            version.into(),
            job.claim.lease.account.into(),
            entry.feed.into(),
            entry.outcome.into(),
            entry.fetched.into(),
            entry.size.into(),
            sha256.as_slice().into(),
            salt.as_slice().into(),
            packed.codec.into(),
            packed.body.clone().into(),
        ])
    }
}

/// The latency kinds that a first response counts for. Backfills do not count for freshness, nor do
/// transcripts that turned out not to exist.
fn latency_kinds(job: &CompletedJob) -> impl Iterator<Item = &'static str> {
    let claim = &job.claim;
    let empty = matches!(job.outcome, JobOutcome::Answered { outcome: Outcome::NotPopulated, .. });
    let never_there = empty && claim.artifact == Artifact::Transcript;
    let fetchable = (claim.artifact == Artifact::Transcript && !never_there).then_some("fetchable");
    let freshness = match (claim.lane, claim.artifact) {
        (Lane::Backfill | Lane::Revisit, _) => None,
        _ if never_there => None,
        (_, Artifact::Transcript) => Some("fresh_transcript"),
        (_, Artifact::AgentSummary) => Some("fresh_agent_summary"),
        (_, Artifact::AutoSummary) => Some("fresh_auto_summary"),
        (_, Artifact::Recording) => Some("fresh_recording"),
    };
    fetchable.into_iter().chain(freshness)
}

/// The version number of a response; `None` if it adds nothing new.
fn next_version(job: &CompletedJob, held: Option<&NewestVersion>) -> Option<i64> {
    let JobOutcome::Answered { outcome, sha256, .. } = &job.outcome else { return None };
    match held {
        None => Some(1),
        // An empty response does not replace a stored text.
        Some(held)
            if *outcome == Outcome::NotPopulated
                || (held.sha256 == sha256 && held.outcome == i64::from(outcome.code())) =>
        {
            None
        }
        Some(held) => Some(held.version + 1),
    }
}
