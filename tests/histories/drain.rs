//! Fetching as a process does it: the real schedule, standing, patience and store, with the made-up RingCX in place of HTTP.
//!
//! Follows `src/daemon/drain.rs` step by step; what it keeps in memory dies with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use ringcx_extractor::backoff::Fault;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Claim, Item, Owned, PauseRow, Settled, Settlement};
use ringcx_extractor::fetch::Patience;
use ringcx_extractor::fetch::absence::Absence;
use ringcx_extractor::fetch::schedule::Schedule;
use ringcx_extractor::model::{Artifact, ArtifactSet, State};
use ringcx_extractor::ringcx::limits::{Pacer, Permit};
use ringcx_extractor::ringcx::{ApiError, Cause, Fetched};
use ringcx_extractor::standing::{Meaning, Standing};

use super::model::Broken;
use super::operation::{Luck, WriteLuck};
use super::scene::{Plant, Scene, Stop};

pub struct Drain {
    patience: Patience,
    schedule: Schedule,
    held: BTreeSet<Item>,
    standing: BTreeMap<Artifact, Standing>,
    absence: BTreeMap<Artifact, Absence>,
    /// Answered, and not committed.
    answered: Vec<Settled>,
}

impl Drain {
    pub fn new(scene: &Scene) -> Drain {
        let revisit = vec![Duration::from_secs(1200), Duration::from_secs(3600)];
        Drain {
            patience: Patience { backoff: scene.backoff, revisit },
            schedule: Schedule::default(),
            held: BTreeSet::new(),
            standing: BTreeMap::new(),
            absence: BTreeMap::new(),
            answered: Vec::new(),
        }
    }

    fn open(&self, now: Time) -> ArtifactSet {
        let open = |artifact: &Artifact| self.standing.get(artifact).is_none_or(|standing| standing.open(now));
        Artifact::ALL.into_iter().filter(open).collect()
    }

    async fn refill(&mut self, scene: &mut Scene, owned: Owned) -> Result<(), Stop> {
        let now = scene.clock.now();
        for claim in scene.db().due(owned, self.open(now), now, 50).await? {
            if !self.held.contains(&claim.item) || scene.planted(Plant::DoubledClaim) {
                self.held.insert(claim.item);
                self.schedule.push(claim);
            }
        }
        Ok(())
    }

    /// Asks for what is due, one request for each luck, as far as the pace allows; how many were asked for.
    pub async fn fetch(
        &mut self,
        scene: &mut Scene,
        owned: Owned,
        pacer: &Pacer,
        lucks: &[Luck],
    ) -> Result<usize, Stop> {
        self.refill(scene, owned).await?;
        let mut asked = 0;
        for luck in lucks {
            if !self.schedule.has(self.open(scene.clock.now())) {
                break;
            }
            let Some(permit) = scene.permit(pacer) else { break };
            let Some(claim) = self.next(scene)? else { break };
            asked += 1;
            let result = ask(scene, &claim, permit, *luck)?;
            self.tried(scene, owned, pacer, claim, result).await?;
        }
        Ok(asked)
    }

    fn next(&mut self, scene: &mut Scene) -> Result<Option<Claim>, Broken> {
        let now = scene.clock.now();
        while let Some(claim) = self.schedule.pop(self.open(now)) {
            let last = now >= self.patience.last_try(&claim, now);
            if !self.absence.entry(claim.artifact).or_default().admit(last, now) {
                scene.seen.count("items put off untried");
                let settlement = self.patience.defer(&claim, now, scene.chance.random());
                self.answered.push(Settled { claim, at: now, settlement });
                continue;
            }
            if !self.standing.entry(claim.artifact).or_default().admit(now) {
                self.schedule.put_back(claim);
                return Ok(None);
            }
            self.schedule.went(&claim);
            scene.model.handed(&claim)?;
            return Ok(Some(claim));
        }
        Ok(None)
    }

    async fn tried(
        &mut self,
        scene: &mut Scene,
        owned: Owned,
        pacer: &Pacer,
        claim: Claim,
        result: Result<Fetched, ApiError>,
    ) -> Result<(), Stop> {
        let now = scene.clock.now();
        if !matches!(&result, Err(error) if error.fault == Fault::RateLimited) {
            pacer.succeeded();
        }
        let standing = self.standing.entry(claim.artifact).or_default();
        let meaning = match &result {
            Ok(_) => standing.answered(),
            Err(error) => {
                let jitter = scene.chance.random();
                standing.failed(error.fault, &claim.segment_id, now, scene.backoff.initial(), jitter)
            }
        };
        match (&result, meaning) {
            (Err(error), Meaning::Account) if !scene.planted(Plant::BurntTries) => {
                return self.account_fault(scene, owned, pacer, claim, error).await;
            }
            (_, Meaning::Recovered(since)) => {
                scene.seen.count("endpoints that recovered");
                scene.db().resume(owned, claim.artifact.into(), Some((since, now))).await?;
            }
            _ => {}
        }
        let settlement = match &result {
            Ok(answer) => {
                scene.seen.count("answers");
                if self.absence.entry(claim.artifact).or_default().found() {
                    scene.db().undefer(owned.account, claim.artifact, now, scene.backoff.initial()).await?;
                }
                self.patience.answered(&claim, answer, now)
            }
            Err(error) => {
                scene.seen.count("failed tries of items");
                if error.fault == Fault::NotYet {
                    self.absence.entry(claim.artifact).or_default().missed(self.patience.is_late(&claim, now), now);
                }
                self.patience.failed(&claim, error, now, scene.chance.random())
            }
        };
        if claim.tries > 0 {
            scene.seen.count("retries");
        }
        self.answered.push(Settled { claim, at: now, settlement });
        Ok(())
    }

    async fn account_fault(
        &mut self,
        scene: &mut Scene,
        owned: Owned,
        pacer: &Pacer,
        claim: Claim,
        error: &ApiError,
    ) -> Result<(), Stop> {
        scene.model.given_back(&claim);
        if error.fault == Fault::RateLimited {
            scene.seen.count("429s that burnt no item's try");
            pacer.refused(error.retry_after);
            self.schedule.put_back(claim);
            return Ok(());
        }
        scene.seen.count("faults of the account's");
        let artifact = claim.artifact;
        self.held.remove(&claim.item);
        for claim in self.schedule.drain(artifact) {
            self.held.remove(&claim.item);
        }
        let Some(pause) = self.standing.get(&artifact).and_then(Standing::pause) else { return Ok(()) };
        let row = PauseRow {
            account: owned.account,
            endpoint: artifact.into(),
            since: pause.since,
            until: pause.until,
            times: pause.times,
            status: error.status.map(i64::from),
            reason: error.to_string(),
        };
        Ok(scene.db().pause(owned, &row).await?)
    }

    /// Commits what was answered.
    pub async fn settle(&mut self, scene: &mut Scene, luck: WriteLuck) -> Result<(), Stop> {
        if self.answered.is_empty() {
            return Ok(());
        }
        match luck {
            WriteLuck::DiesBefore => {
                scene.seen.count("deaths before a commit");
                return Err(Stop::Died);
            }
            WriteLuck::TakenOver => {
                scene.take_over().await?;
                if scene.successor.is_some() {
                    return Err(Stop::Lost);
                }
            }
            WriteLuck::Gone => {
                scene.shelf.close().await;
                let tried = scene.db().settle(&self.answered).await;
                scene.shelf.reopen().await?;
                if !tried.is_err_and(|error| error.is_passing()) {
                    return Err(Broken("a database that is away took results".to_owned()).into());
                }
                scene.seen.count("commits while the database was away");
            }
            _ => {}
        }
        let batch = std::mem::take(&mut self.answered);
        self.commit(scene, &batch).await?;
        scene.seen.count("commits of results");
        if luck == WriteLuck::Unheard {
            self.commit_unheard(scene, &batch).await?;
        }
        for settled in &batch {
            self.held.remove(&settled.claim.item);
        }
        if luck == WriteLuck::DiesAfter {
            scene.seen.count("deaths after a commit, before it was known");
            return Err(Stop::Died);
        }
        Ok(())
    }

    /// Commits, and tells the model what counted.
    async fn commit(&self, scene: &mut Scene, batch: &[Settled]) -> Result<(), Stop> {
        let lost = scene
            .planted(Plant::LostCommit)
            .then(|| batch.iter().position(|settled| matches!(settled.settlement, Settlement::Answered { .. })))
            .flatten();
        let written: Vec<Settled> = batch
            .iter()
            .enumerate()
            .filter(|(nth, _)| Some(*nth) != lost)
            .map(|(_, settled)| settled.clone())
            .collect();
        let mut counted = scene.db().settle(&written).await?;
        if let Some(nth) = lost {
            counted.insert(nth, true);
        }
        hear(scene, batch, &counted)?;
        if scene.planted(Plant::DoubledResult) {
            double(scene, batch).await?;
        }
        Ok(())
    }

    /// What was answered and not committed, for somebody else to commit.
    pub fn take_answered(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.answered)
    }

    /// Somebody else committed this.
    pub fn heard(&mut self, scene: &mut Scene, batch: &[Settled], counted: &[bool]) -> Result<(), Stop> {
        for settled in batch {
            self.held.remove(&settled.claim.item);
        }
        hear(scene, batch, counted)
    }

    /// The commit was reported as failed: the same once more, and no answer counts twice.
    async fn commit_unheard(&self, scene: &mut Scene, batch: &[Settled]) -> Result<(), Stop> {
        scene.seen.count("commits reported as failed");
        let again = scene.db().settle(batch).await?;
        for (settled, again) in batch.iter().zip(again) {
            let answered = matches!(settled.settlement, Settlement::Answered { .. });
            if answered && again {
                return Err(Broken(format!("a result counted twice: {:?}", settled.claim)).into());
            }
        }
        Ok(())
    }

    /// An earlier owner's results come late: none may count.
    pub async fn haunt(&mut self, scene: &mut Scene, current: Owned) -> Result<usize, Stop> {
        let mut batch = std::mem::take(&mut self.answered);
        if scene.planted(Plant::ForgedEpoch) {
            batch.iter_mut().for_each(|settled| settled.claim.owned = current);
        }
        let counted = scene.db().settle(&batch).await?;
        if counted.contains(&true) && !scene.planted(Plant::ForgedEpoch) {
            return Err(Broken("an earlier owner's result counted".to_owned()).into());
        }
        Ok(batch.len())
    }
}

/// Tells the model what counted: all of it must have.
fn hear(scene: &mut Scene, batch: &[Settled], counted: &[bool]) -> Result<(), Stop> {
    for (settled, counted) in batch.iter().zip(counted) {
        if !counted {
            return Err(Broken(format!("a result of the owner's own did not count: {:?}", settled.claim)).into());
        }
        scene.model.counted(settled)?;
        if let Settlement::Failed { state: State::Unavailable, .. } = &settled.settlement {
            scene.seen.count("items given up at their horizon");
        }
    }
    Ok(())
}

/// Puts the work of a result back and settles it again, with another text.
async fn double(scene: &mut Scene, batch: &[Settled]) -> Result<(), Stop> {
    let answered =
        batch.iter().find(|settled| matches!(settled.settlement, Settlement::Answered { revisit: Some(_), .. }));
    let Some(settled) = answered.cloned() else { return Ok(()) };
    let mut claim = settled.claim;
    claim.visit += 1;
    let settlement = Settlement::stored(&Bytes::from_static(b"another text"), None);
    scene.db().settle(&[Settled { claim, at: settled.at, settlement }]).await?;
    Ok(())
}

/// One request to the made-up RingCX.
fn ask(scene: &mut Scene, claim: &Claim, mut permit: Permit, luck: Luck) -> Result<Result<Fetched, ApiError>, Broken> {
    permit.sent();
    let latency: u64 = scene.chance.random_range(5..900);
    scene.clock.advance(Duration::from_millis(latency / 2));
    scene.model.arrived(scene.clock.tick(), false)?;
    let answer = scene.world.answers(&claim.segment_id, claim.artifact, scene.truth());
    scene.clock.advance(Duration::from_millis(latency - latency / 2));
    permit.counted();
    let endpoint = claim.artifact.into();
    scene.model.answered(claim, if let Luck::Status(status, _) = luck { Some(status) } else { None });
    let status = |status| scene.status(endpoint, status);
    let transient = |cause, status| scene.error(Fault::Transient, endpoint, cause, status);
    Ok(match luck {
        Luck::Answered => answer.ok_or_else(|| status(404)),
        Luck::Status(number, wait) => {
            let mut error = status(number);
            error.retry_after = wait.map(Duration::from_secs);
            Err(error)
        }
        Luck::Reset => Err(transient(Cause::BrokeOff, None)),
        Luck::Truncated => Err(scene.error(Fault::Broken, endpoint, Cause::BrokeOff, Some(200))),
        Luck::ErrorInside => Err(scene.error(Fault::NotYet, endpoint, Cause::Answered, Some(200))),
    })
}
