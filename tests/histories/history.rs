//! One history: a world and a sequence of operations from one seed, checked after every step.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Owned, QueueFilter};
use ringcx_extractor::model::{ArtifactSet, Endpoint, State, Stretch};
use ringcx_extractor::ringcx::limits::{Lapse, Pacer};

use super::drain::Drain;
use super::model::{Broken, hold};
use super::operation::{Luck, Operation, ReadLuck, WriteLuck, operations};
use super::reader::{Polled, Reader};
use super::scene::{PER_MINUTE, Plant, Scene, Seen, Shelf, Stop};
use super::world::World;

/// How long the world goes on making segments, in seconds.
const LASTS: i64 = 7200;
/// How wrong the wall clock may be, in milliseconds: less than the offset that windows keep from the present.
const WRONG: i64 = 240_000;
/// How long it is calm at the end: so that there is time enough for a recheck, and then for the longest pause and the longest
/// delay.
const CALM: Duration = Duration::from_secs(150 * 60);
/// What ended so long before the watermark should be settled: a recheck's delay and width and what it may wait for, then a
/// few tries.
const SETTLED: Duration = Duration::from_secs(85 * 60);

/// One lifetime of the daemon, as far as one account is concerned.
struct Process {
    name: String,
    owned: Owned,
    pacer: Pacer,
    reader: Reader,
    drain: Drain,
}

struct History {
    scene: Scene,
    process: Option<Process>,
    zombie: Option<Process>,
}

/// Plays the operations of a seed.
pub async fn play(
    shelf: &Shelf,
    label: &str,
    seed: u64,
    operations: &[Operation],
    plant: Option<Plant>,
) -> Result<Seen, Broken> {
    let mut history = History::new(shelf, label, seed, plant).await?;
    for operation in operations {
        history.step(operation).await?;
    }
    history.end().await
}

/// Plays two seeds at once on one database, each with an account and owners of its own: an operation of the one, an operation
/// of the other. Now and then both have their results committed together, as one process does for all its accounts.
pub async fn play_two(shelf: &Shelf, labels: [&str; 2], seeds: [u64; 2]) -> Result<Seen, Broken> {
    let mut one = History::new(shelf, labels[0], seeds[0], None).await?;
    let mut other = History::new(shelf, labels[1], seeds[1], None).await?;
    let (first, second) = (script(seeds[0]), script(seeds[1]));
    for nth in 0..first.len().max(second.len()) {
        for (history, script) in [(&mut one, &first), (&mut other, &second)] {
            if let Some(operation) = script.get(nth) {
                history.step(operation).await?;
            }
        }
        if nth % 4 == 3 {
            History::settle_together(&mut one, &mut other).await?;
        }
    }
    let mut seen = one.end().await?;
    seen.merge(&other.end().await?);
    Ok(seen)
}

/// The operations of a seed.
pub fn script(seed: u64) -> Vec<Operation> {
    operations(&mut StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

impl History {
    async fn new(shelf: &Shelf, label: &str, seed: u64, plant: Option<Plant>) -> Result<History, Broken> {
        let world = World::new(&mut StdRng::seed_from_u64(seed), LASTS);
        let chance = StdRng::seed_from_u64(seed ^ 0x5eed);
        let scene = Scene::new(shelf.clone(), label.to_owned(), world, chance, plant).await?;
        Ok(History { scene, process: None, zombie: None })
    }

    /// One operation, and what must be true after it.
    async fn step(&mut self, operation: &Operation) -> Result<(), Broken> {
        self.scene.show_time();
        self.happen(operation).await?;
        // Time alone changes nothing, and asking changes nothing before it is committed.
        if !matches!(operation, Operation::Pass(_) | Operation::StepClock(_) | Operation::Fetch(_) | Operation::Rival) {
            self.check().await?;
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<(), Broken> {
        let db = self.scene.db();
        self.scene.model.check(&db).await
    }

    /// A calm, and then everything must be where it belongs.
    async fn end(mut self) -> Result<Seen, Broken> {
        self.scene.show_time();
        self.calm().await?;
        let (db, scene) = (self.scene.db(), &mut self.scene);
        let compared = scene.model.check_end(&db, &scene.world, SETTLED).await?;
        scene.seen.count("histories");
        scene.seen.add("segments compared with the world at the end", compared);
        Ok(self.scene.seen)
    }

    /// Commits what both have been answered in one transaction.
    async fn settle_together(one: &mut History, other: &mut History) -> Result<(), Broken> {
        let (Some(first), Some(second)) = (&mut one.process, &mut other.process) else { return Ok(()) };
        let (mine, theirs) = (first.drain.take_answered(), second.drain.take_answered());
        if !mine.is_empty() && !theirs.is_empty() {
            one.scene.seen.count("commits of two accounts together");
        }
        let both = [mine.as_slice(), theirs.as_slice()].concat();
        let counted = one.scene.db().settle(&both).await?;
        let (ours, rest) = counted.split_at(mine.len());
        for (scene, drain, batch, counted) in
            [(&mut one.scene, &mut first.drain, mine, ours), (&mut other.scene, &mut second.drain, theirs, rest)]
        {
            drain.heard(scene, &batch, counted).map_err(|stop| Broken(format!("{stop:?}")))?;
        }
        one.check().await?;
        other.check().await
    }

    async fn happen(&mut self, operation: &Operation) -> Result<(), Broken> {
        match operation {
            Operation::Pass(seconds) => self.scene.clock.advance(Duration::from_secs(*seconds)),
            Operation::StepClock(millis) => self.step_clock(*millis),
            Operation::Poll(luck) => return self.poll(*luck).await.map(drop),
            Operation::Fetch(lucks) => return self.fetch(lucks).await.map(drop),
            Operation::Settle(luck) => return self.settle(*luck).await,
            Operation::LetGo => return self.let_go().await,
            Operation::Die => {
                if self.process.is_some() {
                    self.scene.seen.count("deaths between operations");
                }
                self.die();
            }
            Operation::PowerCut => {
                self.die();
                self.zombie = None;
                self.scene.seen.count("power cuts");
                self.scene.shelf.reopen().await?;
            }
            Operation::TakeOver => return self.take_over().await,
            Operation::Rival => return self.rival().await,
            Operation::Zombie => return self.haunt().await,
            Operation::Gone => return self.gone().await,
            Operation::Backfill(ago, width) => return self.backfill(*ago, *width).await,
            Operation::Retry => return self.retry().await,
        }
        Ok(())
    }

    fn step_clock(&mut self, millis: i64) {
        let step = (self.scene.error_of_clock() + millis).clamp(-WRONG, WRONG) - self.scene.error_of_clock();
        self.scene.clock.step(step);
        self.scene.seen.count(if step > 0 { "clocks set forward" } else { "clocks set back" });
        self.scene.stepped = Some(self.scene.clock.tick());
    }

    /// The process; a new one where there is none.
    async fn process(&mut self) -> Result<(), Broken> {
        if self.process.is_some() {
            return Ok(());
        }
        let name = self.scene.new_name();
        loop {
            if let Some(owned) = self.scene.take(&name).await? {
                return self.begin(name, owned).await;
            }
            // Whoever died still seems alive.
            self.scene.seen.count("waits for a dead owner's lapse");
            self.scene.clock.advance(Duration::from_secs(11));
        }
    }

    async fn begin(&mut self, name: String, owned: Owned) -> Result<(), Broken> {
        let scene = &mut self.scene;
        scene.beat(&name, false).await?;
        scene.seen.count("starts");
        let now = scene.clock.tick();
        if scene.stepped.is_some_and(|stepped| scene.model.mistakes_the_past(stepped, now)) {
            scene.seen.count("starts after a clock was set, which may read metadata too often");
        }
        let pacer = Pacer::new(PER_MINUTE.try_into().map_err(|_| Broken("no limit".to_owned()))?, scene.clock.clone());
        pacer.start_after_lapse(Lapse::Died { last_seen_ago: Duration::ZERO, sends_for: Duration::ZERO, in_flight: 0 });
        let reader = Reader::load(scene).await?;
        let drain = Drain::new(scene);
        self.process = Some(Process { name, owned, pacer, reader, drain });
        Ok(())
    }

    fn die(&mut self) {
        self.process = None;
        self.scene.model.all_given_back();
    }

    /// What an operation's early end means.
    async fn ended<T>(&mut self, ended: Result<T, Stop>) -> Result<Option<T>, Broken> {
        match ended {
            Ok(done) => return Ok(Some(done)),
            Err(Stop::Broken(broken)) => return Err(broken),
            Err(Stop::Died) => self.die(),
            Err(Stop::Away) => return Err(Broken("the database seems to be away, and is not".to_owned())),
            Err(Stop::Lost) => {
                let Some((name, owned)) = self.scene.successor.take() else {
                    return Err(Broken("the account was lost to nobody".to_owned()));
                };
                self.scene.model.all_given_back();
                self.zombie = self.process.take();
                self.begin(name, owned).await?;
            }
        }
        Ok(None)
    }

    async fn poll(&mut self, luck: ReadLuck) -> Result<Option<Polled>, Broken> {
        self.process().await?;
        let Some(process) = &mut self.process else { return Ok(None) };
        let polled = process.reader.poll(&mut self.scene, process.owned, &process.pacer, luck).await;
        self.ended(polled).await
    }

    async fn fetch(&mut self, lucks: &[Luck]) -> Result<usize, Broken> {
        self.process().await?;
        let Some(process) = &mut self.process else { return Ok(0) };
        let asked = process.drain.fetch(&mut self.scene, process.owned, &process.pacer, lucks).await;
        Ok(self.ended(asked).await?.unwrap_or_default())
    }

    async fn settle(&mut self, luck: WriteLuck) -> Result<(), Broken> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let settled = process.drain.settle(&mut self.scene, luck).await;
        self.ended(settled).await.map(drop)
    }

    async fn let_go(&mut self) -> Result<(), Broken> {
        self.settle(WriteLuck::Committed).await?;
        let Some(process) = self.process.take() else { return Ok(()) };
        self.scene.seen.count("accounts let go in good order");
        self.scene.model.all_given_back();
        let now = self.scene.clock.now();
        self.scene.timed().await?.let_go(&[process.owned], now).await?;
        self.scene.beat(&process.name, true).await?;
        let name = self.scene.new_name();
        let owned = self.scene.take(&name).await?;
        let owned = owned.ok_or_else(|| Broken("an account that was let go could not be taken".to_owned()))?;
        self.begin(name, owned).await
    }

    async fn take_over(&mut self) -> Result<(), Broken> {
        if self.process.is_none() {
            return Ok(());
        }
        let taken = self.scene.take_over().await;
        let lost = self.scene.successor.is_some();
        self.ended(taken.and(if lost { Err(Stop::Lost) } else { Ok(()) })).await.map(drop)
    }

    async fn rival(&mut self) -> Result<(), Broken> {
        let Some(process) = &self.process else { return Ok(()) };
        self.scene.beat(&process.name, false).await?;
        let name = self.scene.new_name();
        hold!(self.scene.take(&name).await?.is_none(), "an account was taken from a living owner");
        self.scene.seen.count("rivals refused");
        Ok(())
    }

    async fn haunt(&mut self) -> Result<(), Broken> {
        let (Some(mut zombie), Some(process)) = (self.zombie.take(), &self.process) else { return Ok(()) };
        let late = zombie.drain.haunt(&mut self.scene, process.owned).await;
        let late = self.ended(late).await?.unwrap_or_default();
        self.scene.seen.add("late results of earlier owners", late as u64);
        let refused = zombie.reader.haunt(&mut self.scene, zombie.owned).await;
        self.scene.seen.count("belated writes of earlier owners");
        self.ended(refused).await.map(drop)
    }

    async fn gone(&mut self) -> Result<(), Broken> {
        self.process().await?;
        let Some(process) = &mut self.process else { return Ok(()) };
        self.scene.shelf.close().await;
        let polled = process.reader.poll(&mut self.scene, process.owned, &process.pacer, ReadLuck::Whole).await;
        let fetched = process.drain.fetch(&mut self.scene, process.owned, &process.pacer, &[Luck::Answered]).await;
        self.scene.shelf.reopen().await?;
        hold!(matches!(polled, Err(Stop::Away) | Ok(Polled::Idle(_))), "a poll without a database came to {polled:?}");
        hold!(matches!(fetched, Err(Stop::Away)), "a fetch without a database came to {fetched:?}");
        self.scene.seen.count("times the database was away");
        Ok(())
    }

    async fn backfill(&mut self, ago: i64, width: i64) -> Result<(), Broken> {
        self.process().await?;
        let now = self.scene.clock.now();
        let from = now.plus_millis(-ago * 1000);
        let Some(range) = Stretch::new(from, from.plus_millis(width * 1000).min(now)) else { return Ok(()) };
        self.scene.db().request_backfill(self.scene.account, range, width % 2 == 0, now).await?;
        self.scene.seen.count("backfills asked for");
        let Some(process) = &mut self.process else { return Ok(()) };
        Ok(process.reader.reload(&self.scene).await?)
    }

    async fn retry(&mut self) -> Result<(), Broken> {
        let states = vec![State::Unavailable, State::Failed];
        let filter = QueueFilter { account: Some(self.scene.account), states, ..QueueFilter::default() };
        let revived = self.scene.db().retry_items(&filter, self.scene.clock.now()).await?;
        let expected = self.scene.model.retried();
        hold!(revived == expected, "{revived} items were revived, not {expected}");
        self.scene.seen.add("items revived by a person", revived);
        Ok(())
    }

    /// Everything works for long enough that all there is to do gets done.
    async fn calm(&mut self) -> Result<(), Broken> {
        self.scene.successor = None;
        self.settle(WriteLuck::Committed).await?;
        // What bad luck made fail for good or missing to the end gets another chance, so that all there is can be had.
        self.retry().await?;
        let end = self.scene.truth() + CALM;
        let mut poll_at = Time(i64::MIN);
        while self.scene.truth() < end {
            while self.scene.clock.now() >= poll_at {
                if let Some(Polled::Idle(until)) = self.poll(ReadLuck::Whole).await? {
                    poll_at = until;
                }
            }
            self.settle(WriteLuck::Committed).await?;
            while self.fetch(&[Luck::Answered; 30]).await? > 0 {
                self.settle(WriteLuck::Committed).await?;
            }
            let now = self.scene.clock.now();
            let due: Option<Time> = self.scene.db().next_due(self.scene.account, ArtifactSet::ALL, now).await?;
            let wait = due.map_or(poll_at, |due| due.min(poll_at)).since(now);
            self.scene.clock.advance(wait.clamp(Duration::from_secs(240), Duration::from_secs(900)));
        }
        let pauses = self.scene.db().pauses().await?;
        let paused =
            pauses.iter().any(|pause| pause.account == self.scene.account && pause.endpoint != Endpoint::Metadata);
        // A pause ends with the next answer; one may be left where nothing was asked since.
        self.scene.seen.add("pauses left at the end", u64::from(paused));
        Ok(())
    }
}
