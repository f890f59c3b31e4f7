//! Discovery as a process does it: the real planner, budget and store, with the made-up RingCX in place of HTTP.
//!
//! Follows `src/discover.rs` step by step; what it keeps in memory dies with it.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use reqwest::header::{DATE, HeaderMap, HeaderValue};
use ringcx_extractor::backoff::Fault;
use ringcx_extractor::clock::{Tick, Time};
use ringcx_extractor::coverage::{
    Backfill, ClockReadings, CoolingDown, Coverage, Ending, Pass, Plan, PlanningClock, Recheck, Repair, Want, plan,
};
use ringcx_extractor::db::{Announced, Chunk, Db, DbError, Owned, Reading};
use ringcx_extractor::model::{ArtifactSet, Endpoint, Lane, Stretch, Stretches, SummariesFor, Wants};
use ringcx_extractor::ringcx::limits::{Budget, Pacer, Permit, Reserved};
use ringcx_extractor::ringcx::{ApiError, Cause, Skew};
use ringcx_extractor::standing::Standing;

use super::model::Broken;
use super::operation::ReadLuck;
use super::scene::{Plant, RECHECK, Scene, Stop};
use super::world::Element;

const LONGEST: Duration = Duration::from_secs(900);
const WANTS: Wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

/// What a poll came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    Read,
    Failed,
    /// Nothing to be done before then, by the wall clock.
    Idle(Time),
}

type Answer = [(String, Element)];

pub struct Reader {
    coverage: Coverage,
    cooling: CoolingDown,
    standing: Standing,
    failures: u32,
    refused: u32,
    not_before: Time,
    turn: u64,
    skew: Skew,
    planning: PlanningClock,
    budget: Budget,
}

impl Reader {
    pub async fn load(scene: &Scene) -> Result<Reader, Broken> {
        let limits = scene.rules.sliding.clone();
        let key = format!("metadata:{}", scene.sub);
        let budget = Budget::new(Arc::new(scene.shelf.clone()), key, limits, scene.clock.clone());
        // The first step, which comes at once, begins with this.
        budget.log().await.map_err(|error| Broken(format!("failed to read the metadata budget: {error}")))?;
        Ok(Reader {
            coverage: load_coverage(scene, scene.clock.now()).await?,
            cooling: CoolingDown::default(),
            standing: Standing::default(),
            failures: 0,
            refused: 0,
            not_before: Time(i64::MIN),
            turn: 0,
            skew: Skew::new(),
            planning: PlanningClock::default(),
            budget,
        })
    }

    pub async fn reload(&mut self, scene: &Scene) -> Result<(), DbError> {
        self.coverage = load_coverage(scene, self.planning.now(&self.readings(scene))).await?;
        Ok(())
    }

    /// What the clocks say; the database's is left out.
    fn readings(&self, scene: &Scene) -> ClockReadings {
        let (machine, tick) = (scene.clock.now(), scene.clock.tick());
        let api = self.skew.read(machine, tick).at_the_earliest(machine);
        let (newest, measured, believed) = (api.newest, api.measured, api.believed);
        ClockReadings { tick, machine, database: None, newest, measured, believed }
    }

    /// Reads the window that is due most, if one is and the limits allow it.
    pub async fn poll(
        &mut self,
        scene: &mut Scene,
        owned: Owned,
        pacer: &Pacer,
        luck: ReadLuck,
    ) -> Result<Polled, Stop> {
        let local = scene.clock.now();
        if local < self.not_before {
            return Ok(Polled::Idle(self.not_before));
        }
        if !self.standing.open(local) {
            let until = self.standing.pause().map_or(local, |pause| pause.until);
            return Ok(Polled::Idle(until.max(local + Duration::from_secs(1))));
        }
        let readings = self.readings(scene);
        let now = self.planning.now(&readings);
        self.cooling.cap(now + LONGEST);
        let skew = now.0 - local.0;
        self.check_coverage(scene, owned, &readings, now).await?;
        let mut coverage = self.coverage.clone();
        coverage.cut(now);
        let repairs = scene.db().repairs(scene.account).await?;
        let repairs: Vec<Repair> =
            repairs.into_iter().map(|(stretch, due)| Repair { stretch, due: due.plus_millis(skew) }).collect();
        let log = self.budget.log().await.map_err(|_| Stop::Away)?;
        let log: Vec<Time> = log.into_iter().map(|at| at.plus_millis(skew)).collect();
        let want = match plan(now, &scene.rules, &coverage, &log, self.cooling.as_slice(), &repairs, self.turn) {
            Plan::Read(want) => want,
            Plan::Wait { until } => {
                let has_room = scene.rules.sliding.earliest(&log, now) <= now;
                match has_room.then(|| self.planning.probe(&readings, &scene.rules)).flatten() {
                    Some(want) => want,
                    None => {
                        let wait = until.since(now).clamp(Duration::from_millis(10), scene.rules.interval);
                        return Ok(Polled::Idle(local + wait));
                    }
                }
            }
        };
        let planned = self.planning.lead(&readings);
        let Some(permit) = scene.permit(pacer) else { return Ok(Polled::Idle(local + Duration::from_secs(1))) };
        let reserved = if scene.planted(Plant::NoReservation) {
            None
        } else {
            match self.budget.try_reserve().await.map_err(|_| Stop::Away)? {
                Ok(reserved) => Some(reserved),
                Err(due) => return Ok(Polled::Idle(due)),
            }
        };
        self.standing.admit(local);
        self.read(scene, owned, (want, planned), permit, reserved, luck).await
    }

    async fn check_coverage(
        &mut self,
        scene: &Scene,
        owned: Owned,
        readings: &ClockReadings,
        now: Time,
    ) -> Result<(), Stop> {
        let start = scene.rules.first_start(now);
        if readings.newest.is_some() && self.coverage.live.is_empty() && self.coverage.live_start > start {
            scene.db().move_live_start(owned, start).await?;
            self.coverage.live_start = start;
        }
        let latest = readings.latest().plus_millis(999).floor_to_second();
        if self.skew.read(readings.machine, readings.tick).is_measured() && self.coverage.reaches_beyond(latest) {
            scene.db().cut_coverage(owned, latest).await?;
            self.coverage.cut(latest);
        }
        Ok(())
    }

    async fn read(
        &mut self,
        scene: &mut Scene,
        owned: Owned,
        (want, planned): (Want, i64),
        mut permit: Permit,
        reserved: Option<Reserved>,
        luck: ReadLuck,
    ) -> Result<Polled, Stop> {
        scene.seen.count("metadata reads");
        let (at, sent) = (scene.clock.now(), scene.clock.tick());
        permit.sent();
        let latency = scene.chance.random_range(5..1500);
        scene.clock.advance(Duration::from_millis(latency / 2));
        scene.model.arrived(scene.clock.tick(), true)?;
        let answer = scene.world.announces(want.window, scene.truth());
        let truth = scene.truth();
        scene.clock.advance(Duration::from_millis(latency - latency / 2));
        permit.counted();
        if let Some(reserved) = reserved {
            reserved.counted().await;
        }
        if luck != ReadLuck::Reset {
            self.skew.observe(&dated(truth), sent, scene.clock.tick(), scene.clock.now());
        }
        let error = match luck {
            ReadLuck::Status(status) => scene.status(Endpoint::Metadata, status),
            ReadLuck::Reset => scene.error(Fault::Transient, Endpoint::Metadata, Cause::BrokeOff, None),
            ReadLuck::Truncated(_) => scene.error(Fault::Transient, Endpoint::Metadata, Cause::BrokeOff, Some(200)),
            _ => return self.answered(scene, owned, &want, (at, (planned, sent)), &answer, luck).await,
        };
        if let ReadLuck::Truncated(chunks) = luck {
            scene.seen.count("metadata answers cut short");
            let part = &answer[..answer.len().min(chunks * CHUNK)];
            let mut sum = Announced::default();
            for chunk in part.chunks(CHUNK) {
                self.announce(scene, owned, &want, chunk, &mut sum).await?;
            }
            if scene.planted(Plant::HalfAnswer) {
                return self.record(scene, owned, &want, (at, (planned, sent)), &answer, sum, ReadLuck::Whole).await;
            }
        }
        self.failed(scene, &want, &error);
        Ok(Polled::Failed)
    }

    async fn answered(
        &mut self,
        scene: &mut Scene,
        owned: Owned,
        want: &Want,
        at: (Time, (i64, Tick)),
        answer: &Answer,
        luck: ReadLuck,
    ) -> Result<Polled, Stop> {
        let mut sum = Announced::default();
        let skipped = scene.planted(Plant::SkippedWindow);
        let mut chunks = answer.chunks(CHUNK).filter(|_| !skipped).enumerate();
        loop {
            let next = chunks.next();
            let stored = next.map_or(usize::MAX, |(nth, _)| nth);
            match luck {
                ReadLuck::DiesAfter(most) if stored >= most => {
                    scene.seen.count("deaths in the middle of an answer");
                    return Err(Stop::Died);
                }
                ReadLuck::TakenOver(most) if stored >= most && scene.successor.is_none() => {
                    scene.take_over().await?;
                    if scene.successor.is_some() {
                        scene.seen.count("takeovers in the middle of an answer");
                    }
                }
                ReadLuck::Gone(most) if stored >= most => {
                    self.without_database(scene, owned, want, next.map(|(_, chunk)| chunk)).await?
                }
                _ => {}
            }
            let Some((_, chunk)) = next else { break };
            self.announce(scene, owned, want, chunk, &mut sum).await?;
        }
        if luck == ReadLuck::DiesBeforeRecord {
            scene.seen.count("deaths between the last chunk and the record");
            return Err(Stop::Died);
        }
        self.record(scene, owned, want, at, answer, sum, luck).await
    }

    /// What is tried while the database is away fails in passing, and nothing of it is there afterwards.
    async fn without_database(
        &self,
        scene: &mut Scene,
        owned: Owned,
        want: &Want,
        chunk: Option<&Answer>,
    ) -> Result<(), Stop> {
        scene.shelf.close().await;
        let tried = announce(&scene.db(), scene, &self.coverage.live, owned, want, chunk.unwrap_or(&[])).await;
        let passing = tried.as_ref().is_err_and(DbError::is_passing);
        scene.shelf.reopen().await?;
        if !passing {
            return Err(Broken(format!("a database that is away answered {tried:?}")).into());
        }
        scene.seen.count("writes while the database was away");
        Ok(())
    }

    async fn announce(
        &self,
        scene: &mut Scene,
        owned: Owned,
        want: &Want,
        chunk: &Answer,
        sum: &mut Announced,
    ) -> Result<(), Stop> {
        let stored = announce(&scene.db(), scene, &self.coverage.live, owned, want, chunk).await?;
        if scene.successor.is_some() {
            return Err(Broken("a chunk was stored in the name of an earlier owner".to_owned()).into());
        }
        scene.model.stored(chunk);
        scene.seen.add("segments found late or turned", stored.flipped);
        scene.seen.add("records set aside", stored.aside);
        sum.add(stored);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what a read consists of")]
    async fn record(
        &mut self,
        scene: &mut Scene,
        owned: Owned,
        want: &Want,
        (at, sent): (Time, (i64, Tick)),
        answer: &Answer,
        announced: Announced,
        luck: ReadLuck,
    ) -> Result<Polled, Stop> {
        let after = self.readings(scene);
        let (credited, read_at) = self.planning.credit(want.stretch, sent, &after, &scene.rules);
        let ends = answer.iter().filter_map(|(_, element)| match element {
            Element::Record(record) => record.end,
            Element::Aside(_) => None,
        });
        if let Some(ended) = ends.filter(|end| *end <= want.window.end()).max() {
            self.planning.observe(&after, ended);
        }
        let Some(stretch) = credited else {
            scene.seen.count("windows that did not count as read");
            (self.failures, self.refused) = (0, 0);
            self.standing.answered();
            return Ok(Polled::Read);
        };
        let mut coverage = self.coverage.clone();
        let gained = coverage.record(stretch, read_at);
        let reading = Reading {
            at,
            done: scene.clock.now(),
            lane: want.lane,
            stretch,
            announced,
            passes: gained.into_iter().map(|(pass, stretch)| (pass.key(), stretch)).collect(),
            finished: coverage.finished(),
        };
        scene.db().record_reading(owned, &reading).await?;
        if scene.successor.is_some() {
            return Err(Broken("a window was recorded in the name of an earlier owner".to_owned()).into());
        }
        scene.model.read(stretch, answer);
        if luck == ReadLuck::DiesAfterRecord {
            scene.seen.count("deaths after the record, before it was known");
            return Err(Stop::Died);
        }
        if luck == ReadLuck::Unheard {
            scene.seen.count("records that were committed and reported as failed");
            scene.db().record_reading(owned, &reading).await?;
        }
        coverage.backfills.retain(|backfill| !reading.finished.contains(&backfill.id));
        scene.seen.add("backfills completed", reading.finished.len() as u64);
        if want.lane == Lane::Recheck {
            scene.seen.count("rechecks");
        }
        self.coverage = coverage;
        self.cooling.answered(stretch);
        self.turn = self.turn.wrapping_add(u64::from(want.lane != Lane::Live));
        (self.failures, self.refused) = (0, 0);
        self.standing.answered();
        Ok(Polled::Read)
    }

    fn failed(&mut self, scene: &mut Scene, want: &Want, error: &ApiError) {
        scene.seen.count("metadata reads that failed");
        let now = scene.clock.now();
        let jitter = scene.chance.random();
        match error.fault {
            Fault::RateLimited => {
                self.refused += 1;
                self.not_before = now + scene.backoff.delay(self.refused, jitter).min(LONGEST);
                self.standing.abandon();
            }
            Fault::Forbidden | Fault::Unauthorised => {
                self.standing.failed(Fault::Unauthorised, "", now, scene.backoff.initial(), jitter);
            }
            Fault::Transient | Fault::Broken | Fault::NotYet | Fault::Permanent => {
                self.standing.abandon();
                self.failures += 1;
                let broke_off = error.cause == Cause::BrokeOff && error.status == Some(200);
                let until =
                    self.planning.now(&self.readings(scene)) + scene.backoff.delay(self.failures, jitter).min(LONGEST);
                let ending = if broke_off { Ending::BrokenOff } else { Ending::Refused };
                self.cooling.failed(want.stretch, until, ending);
            }
        }
    }

    /// An earlier owner's belated writes: each must be refused.
    pub async fn haunt(&self, scene: &mut Scene, owned: Owned) -> Result<(), Stop> {
        let to = scene.clock.now().floor_to_second();
        let stretch = Stretch { from: to - Duration::from_secs(600), to };
        let window = ringcx_extractor::model::Window::vouching_for(stretch);
        let want = Want { lane: Lane::Live, window, stretch, why: Pass::Live };
        let answer = scene.world.announces(window, scene.truth());
        let chunk = announce(&scene.db(), scene, &self.coverage.live, owned, &want, &answer).await;
        let reading = Reading {
            at: to,
            done: to,
            lane: Lane::Live,
            stretch,
            announced: Announced::default(),
            passes: vec![(Pass::Live.key(), stretch)],
            finished: Vec::new(),
        };
        let record = scene.db().record_reading(owned, &reading).await;
        match (chunk.map(drop).map_err(Stop::from), record.map_err(Stop::from)) {
            (Err(Stop::Lost), Err(Stop::Lost)) => Ok(()),
            other => Err(Broken(format!("an earlier owner's writes came to {other:?}")).into()),
        }
    }
}

/// So many records are stored at once.
const CHUNK: usize = 2;

async fn announce(
    db: &Db,
    scene: &Scene,
    known: &Stretches,
    owned: Owned,
    want: &Want,
    chunk: &Answer,
) -> Result<Announced, DbError> {
    let (mut records, mut asides) = (Vec::new(), Vec::new());
    for (_, element) in chunk {
        match element {
            Element::Record(record) => records.push(record.clone()),
            Element::Aside(aside) => asides.push(aside.clone()),
        }
    }
    db.announce(Chunk {
        owned,
        lane: want.lane,
        stretch: want.stretch,
        now: scene.clock.now(),
        wants: WANTS,
        known,
        urgent_before: None,
        repair: Duration::from_secs(60),
        records: &records,
        asides: &asides,
    })
    .await
}

fn dated(truth: Time) -> HeaderMap {
    let date = truth.timestamp().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderMap::from_iter(HeaderValue::from_str(&date).ok().map(|date| (DATE, date)))
}

async fn load_coverage(scene: &Scene, now: Time) -> Result<Coverage, DbError> {
    let (db, key) = (scene.db(), scene.account);
    let held = db.coverage(key).await?;
    let of = |pass: Pass| {
        let held = held.iter().filter(|(name, _)| *name == pass.key()).map(|(_, stretch)| *stretch);
        Stretches::from_unsorted(held.collect())
    };
    let live = of(Pass::Live);
    let live_start = db.start_live(key, scene.rules.first_start(now)).await?;
    let recheck = Pass::Recheck(RECHECK);
    let edge = live.as_slice().last().map(|newest| newest.to.min(now));
    let owed_from = edge.map_or(Time(0), |edge| (edge - RECHECK).floor_to_second());
    let base = db.level(key, &recheck.key(), owed_from).await?;
    let backfills = db.backfills(Some(key), false).await?.into_iter().map(|asked| Backfill {
        id: asked.id,
        range: asked.range,
        newest_first: asked.newest_first,
        done: of(Pass::Backfill(asked.id)),
    });
    Ok(Coverage {
        live_start,
        live,
        rechecks: vec![(RECHECK, Recheck { base, done: of(recheck) })],
        backfills: backfills.collect(),
    })
}
