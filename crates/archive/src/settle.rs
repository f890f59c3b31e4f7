//! What became of claims: the archive, the feed, the end of the work and its record, in one transaction for many.
//!
//! A result counts only where the account's epoch still is the claim's, and only where its work row is still there:
//! that row's removal is what makes a result arrive once, also when a commit that succeeded was reported as failed. Each
//! new entry of a feed lengthens the account's hash chain in the same transaction.

mod failed;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use rand::Rng as _;
use sha2::{Digest, Sha256};

use super::{Arg, BULK, Claim, Db, DbError, Item, Packed, Stmt, Tx, announce::Late, item};
use crate::charset::Charset;
use crate::clock::Time;
use crate::hash_chain::{Entry, SALT, START, link};
use crate::model::{Artifact, Lane, Outcome, State};
use crate::planted::{self, Plant};

/// What became of one try.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// The API answered: with a body, or with the word that there is none.
    Answered {
        /// Which of the two.
        outcome: Outcome,
        /// The body, packed.
        packed: Packed,
        /// SHA-256 of the body as it came.
        sha256: [u8; 32],
        /// The body's size as it came, in bytes.
        size: usize,
        /// When the next visit is due, if there is to be one.
        revisit: Option<Time>,
    },
    /// It was not tried, because all its like are missing at present, or at its age; it waits until then.
    Deferred {
        /// When to look at it again.
        due: Time,
        /// From when its horizon counts, if it does already.
        first_try: Option<Time>,
    },
    /// It did not work and will be tried again, or has been given up.
    Failed {
        /// `Open` to try again, else why not.
        state: State,
        /// When to try again.
        due: Time,
        /// Answers of 404 and the like, this one included.
        misses: u32,
        /// Answers that asking again will hardly change, this one included.
        refusals: u32,
        /// The answer's status, if there was an answer.
        status: Option<u16>,
        /// Why, for people; never content.
        reason: String,
        /// How the answer was broken, if it was.
        broken: Option<BrokenAnswer>,
    },
}

/// An answer that came and could not be used.
#[derive(Clone)]
pub struct BrokenAnswer {
    /// The same number where answers are broken alike; not 0.
    pub kind: u32,
    /// How many in a row were broken like this one, itself included.
    pub alike: u32,
    /// How it began: content, to be shown to whoever asks for it by name and never logged.
    pub start: Bytes,
}

impl fmt::Debug for BrokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokenAnswer {{ kind: {}, alike: {}, {} bytes }}", self.kind, self.alike, self.start.len())
    }
}

/// A claim and what became of it.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The claim, used up.
    pub claim: Claim,
    /// When the answer came.
    pub at: Time,
    /// What became of it.
    pub settlement: Settlement,
}

impl Settlement {
    /// The API answered with this body; hashes and packs it, which takes a little while for a large one.
    pub fn stored(body: &Bytes, revisit: Option<Time>) -> Settlement {
        Settlement::stored_as(body, None, revisit)
    }

    /// The same of a body whose charset was declared.
    pub fn stored_as(body: &Bytes, charset: Option<Charset>, revisit: Option<Time>) -> Settlement {
        Settlement::Answered {
            outcome: Outcome::Stored,
            packed: item::pack_as(body, charset),
            sha256: Sha256::digest(body).into(),
            size: body.len(),
            revisit,
        }
    }

    /// How many bytes of a body it brings, as they are stored.
    pub fn stored_bytes(&self) -> usize {
        match self {
            Settlement::Answered { packed, .. } => packed.body.len(),
            _ => 0,
        }
    }

    /// The API answered that there is nothing.
    pub fn not_populated(revisit: Option<Time>) -> Settlement {
        Settlement::Answered {
            outcome: Outcome::NotPopulated,
            packed: item::pack(b""),
            sha256: Sha256::digest(b"").into(),
            size: 0,
            revisit,
        }
    }
}

/// An account as the batch finds it, and, with each of its entries, as the batch leaves it.
struct Owner {
    epoch: i64,
    sub: String,
    feed: i64,
    head: Vec<u8>,
}

/// What a batch does to an account: new entries, and items answered for the first time.
#[derive(Default)]
struct Tally {
    entries: i64,
    done: i64,
}

struct Held {
    version: i64,
    sha256: Vec<u8>,
    outcome: i64,
}

impl Db {
    /// Records what became of claims; `true` for those that counted. The others were no longer theirs to settle: the
    /// account has another owner, or a person took the item away.
    ///
    /// # Errors
    /// Then nothing of it happened, or, where the connection broke while committing, all of it may have: settling the
    /// same again is safe.
    pub async fn settle(&self, batch: &[Settled]) -> Result<Vec<bool>, DbError> {
        let mut tx = self.begin().await?;
        let mut owners = tx.owners(batch).await?;
        let theirs: Vec<&Settled> = batch
            .iter()
            .filter(|settled| {
                let owned = settled.claim.owned;
                owners.get(&owned.account).is_some_and(|owner| owner.epoch == owned.epoch)
            })
            .collect();
        let (answered, failed): (Vec<&Settled>, Vec<&Settled>) =
            theirs.iter().partition(|settled| matches!(settled.settlement, Settlement::Answered { .. }));
        let removed = tx.remove(&answered).await?;
        let counted: Vec<&Settled> = answered
            .into_iter()
            .filter(|settled| removed.contains(&settled.claim.item) && !planted::strikes(Plant::LostResult))
            .collect();
        tx.archive(&counted, &mut owners).await?;
        tx.revisit(&counted).await?;
        let updated = tx.postpone(&failed).await?;
        // What was erased meanwhile has no work row to postpone, and must get no story either.
        let remembered: Vec<&Settled> =
            failed.into_iter().filter(|settled| updated.contains(&settled.claim.item)).collect();
        tx.remember(&remembered).await?;
        if planted::strikes(Plant::LostCommit) {
            drop(tx);
        } else {
            tx.commit().await?;
        }
        Ok(batch
            .iter()
            .map(|settled| removed.contains(&settled.claim.item) || updated.contains(&settled.claim.item))
            .collect())
    }
}

impl Tx {
    /// The batch's accounts; what is read of them goes on to hold until the transaction ends. They are locked in order, and
    /// at once as strongly as it takes to write them: whoever shares a lock and then wants more waits in a circle with others
    /// who do.
    async fn owners(&mut self, batch: &[Settled]) -> Result<HashMap<i64, Owner>, DbError> {
        let mut accounts: Vec<i64> = batch.iter().map(|settled| settled.claim.owned.account).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let tail = self.in_order_to_write();
        let mut owners = HashMap::with_capacity(accounts.len());
        for part in accounts.chunks(BULK) {
            let head = "select id, epoch, sub, feed, chain from account where id in ";
            let stmt = Stmt::list(head, Vec::new(), part.iter().copied(), tail);
            for row in self.all(stmt).await? {
                let head = row.maybe_bytes(4)?.unwrap_or(START.to_vec());
                owners.insert(row.int(0)?, Owner { epoch: row.int(1)?, sub: row.text(2)?, feed: row.int(3)?, head });
            }
        }
        Ok(owners)
    }

    /// Ends the work that these were claimed for, and no later visit to the same item: a batch that was committed and reported
    /// as failed comes again.
    async fn remove(&mut self, over: &[&Settled]) -> Result<HashSet<Item>, DbError> {
        let mut by_visit: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
        for settled in over {
            by_visit.entry(settled.claim.visit).or_default().push(settled.claim.item.0);
        }
        let mut removed = HashSet::with_capacity(over.len());
        for (visit, items) in by_visit {
            for part in items.chunks(BULK) {
                // A discarded item is a person's word, which a late answer does not overrule.
                let stmt = Stmt::list(
                    "delete from work where visit = $1 and item in ",
                    vec![visit.into()],
                    part.iter().copied(),
                    " and state = 0 returning item",
                );
                for row in self.all(stmt).await? {
                    removed.insert(Item(row.int(0)?));
                }
            }
        }
        Ok(removed)
    }

    async fn archive(&mut self, counted: &[&Settled], owners: &mut HashMap<i64, Owner>) -> Result<(), DbError> {
        let held = self.newest_versions(counted.iter().filter(|settled| settled.claim.visit > 0)).await?;
        let mut fresh: Vec<(&Settled, i64)> = Vec::with_capacity(counted.len());
        let mut tallies: BTreeMap<i64, Tally> = BTreeMap::new();
        let mut late = Late::default();
        for &settled in counted {
            let claim = &settled.claim;
            let tally = tallies.entry(claim.owned.account).or_default();
            if claim.visit == 0 {
                tally.done += 1;
                for kind in kinds(settled) {
                    let Some(ended) = claim.ended.known() else { continue };
                    late.count(claim.owned.account, kind, settled.at.since(ended));
                }
            }
            if let Some(version) = next_version(settled, held.get(&claim.item)) {
                tally.entries += 1;
                fresh.push((settled, version));
            }
        }
        let rows: Vec<Vec<Arg>> = fresh
            .into_iter()
            .filter_map(|(settled, version)| {
                owners.get_mut(&settled.claim.owned.account)?.append(settled, version, rand::rng().random())
            })
            .collect();
        self.advance(&tallies, owners).await?;
        const HEAD: &str = "insert into artifact (item, version, account, feed, outcome, fetched, size, sha256, salt, codec, body) values ";
        self.run_rows(HEAD, rows, "").await?;
        self.add_lateness(late).await
    }

    async fn newest_versions<'a>(
        &mut self,
        revisited: impl Iterator<Item = &'a &'a Settled>,
    ) -> Result<HashMap<Item, Held>, DbError> {
        let items: Vec<i64> = revisited.map(|settled| settled.claim.item.0).collect();
        let mut held: HashMap<Item, Held> = HashMap::with_capacity(items.len());
        for part in items.chunks(BULK) {
            let stmt = Stmt::list(
                "select item, version, sha256, outcome from artifact where item in ",
                Vec::new(),
                part.iter().copied(),
                " order by item, version",
            );
            for row in self.all(stmt).await? {
                held.insert(
                    Item(row.int(0)?),
                    Held { version: row.int(1)?, sha256: row.bytes(2)?, outcome: row.int(3)? },
                );
            }
        }
        Ok(held)
    }

    /// Moves each account's feed and chain on to where its new entries have brought them, and counts what is done.
    async fn advance(&mut self, tallies: &BTreeMap<i64, Tally>, owners: &HashMap<i64, Owner>) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = tallies
            .iter()
            .map(|(account, tally)| {
                // No entry, no link: a chain that has not begun stays so.
                let owner = owners.get(account).filter(|_| tally.entries > 0);
                let head = Arg::Bytes(owner.map(|owner| owner.head.clone().into()));
                vec![(*account).into(), tally.entries.into(), tally.done.into(), head]
            })
            .collect();
        self.run_rows(
            "with v (id, entries, finished, chain) as (values ",
            rows,
            ") update account set feed = feed + v.entries, done = done + v.finished, chain = coalesce(v.chain, account.chain)
             from v where account.id = v.id",
        )
        .await.map(drop)
    }

    async fn revisit(&mut self, counted: &[&Settled]) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = counted
            .iter()
            .filter_map(|settled| {
                let Settlement::Answered { revisit: Some(due), .. } = &settled.settlement else { return None };
                let claim = &settled.claim;
                Some(vec![
                    Arg::from(claim.item.0),
                    claim.item.segment().into(),
                    claim.artifact.code().into(),
                    claim.owned.account.into(),
                    Lane::Revisit.code().into(),
                    State::Open.code().into(),
                    (*due).into(),
                    settled.at.into(),
                    (claim.visit + 1).into(),
                ])
            })
            .collect();
        self.run_rows(
            "insert into work (item, segment, artifact, account, lane, state, due, created, visit) values ",
            rows,
            " on conflict (item) do nothing",
        )
        .await
        .map(drop)
    }
}

impl Owner {
    /// Takes an answer into the account's feed and chain; its row.
    fn append(&mut self, settled: &Settled, version: i64, salt: [u8; SALT]) -> Option<Vec<Arg>> {
        let Settlement::Answered { outcome, packed, sha256, size, .. } = &settled.settlement else { return None };
        self.feed += 1;
        let entry = Entry {
            salt: &salt,
            feed: self.feed,
            sub: &self.sub,
            segment_id: &settled.claim.segment_id,
            artifact: settled.claim.artifact.code().into(),
            version,
            outcome: outcome.code().into(),
            fetched: settled.at.0,
            size: i64::try_from(*size).unwrap_or(i64::MAX),
            sha256,
        };
        self.head = link(&self.head, &entry.leaf()).to_vec();
        Some(vec![
            settled.claim.item.0.into(),
            version.into(),
            settled.claim.owned.account.into(),
            entry.feed.into(),
            entry.outcome.into(),
            entry.fetched.into(),
            entry.size.into(),
            sha256.to_vec().into(),
            salt.to_vec().into(),
            packed.codec.into(),
            packed.body.clone().into(),
        ])
    }
}

/// What a first answer counts as among the kinds of lateness. How fresh the archive is, is not a matter of backfill, nor of
/// transcripts that were waited for to the end and are not there.
fn kinds(settled: &Settled) -> impl Iterator<Item = &'static str> {
    let claim = &settled.claim;
    let empty = matches!(settled.settlement, Settlement::Answered { outcome: Outcome::NotPopulated, .. });
    let never_there = empty && claim.artifact == Artifact::Transcript;
    let fetchable = (claim.artifact == Artifact::Transcript && !never_there).then_some("fetchable");
    let fresh = match (claim.lane, claim.artifact) {
        (Lane::Backfill | Lane::Revisit, _) => None,
        _ if never_there => None,
        (_, Artifact::Transcript) => Some("fresh_transcript"),
        (_, Artifact::AgentSummary) => Some("fresh_agent_summary"),
        (_, Artifact::AutoSummary) => Some("fresh_auto_summary"),
    };
    fetchable.into_iter().chain(fresh)
}

/// The version under which an answer is kept; `None` where it says nothing new.
fn next_version(settled: &Settled, held: Option<&Held>) -> Option<i64> {
    let Settlement::Answered { outcome, sha256, .. } = &settled.settlement else { return None };
    match held {
        None => Some(1),
        // A text that later reads as empty is not a text that changed; the one that is held stays the newest.
        Some(held)
            if *outcome == Outcome::NotPopulated
                || (held.sha256 == sha256 && held.outcome == i64::from(outcome.code())) =>
        {
            None
        }
        Some(held) => Some(held.version + 1),
    }
}
