//! One history: a simulated API and a sequence of operations from one seed, checked after every operation.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::SeedableRng;
use rand::rngs::StdRng;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Lease, QueueFilter};
use ringcx_extractor::model::{ArtifactSet, Endpoint, ItemState, TimeRange};
use ringcx_extractor::pipeline::fetch::fetch_machine::FetchEvent;
use ringcx_extractor::ringcx::rate_limit::{Pacer, PreviousOwner};

use super::discovery_driver::{DiscoveryDriver, PollResult};
use super::fetch_driver::FetchDriver;
use super::operation::{CommitOutcome, FetchOutcome, Operation, ReadOutcome, random_operations};
use super::reference_model::{InvariantViolation, ensure};
use super::run_context::{DriverFault, EventCounts, Interruption, REQUESTS_PER_MINUTE, RunContext, SharedDatabase};
use super::simulated_api::SimulatedApi;

/// Segments end during this time.
const TRAFFIC_SECONDS: i64 = 7200;
/// The largest error of the wall clock. Smaller than the windows' offset from now.
const MAX_CLOCK_ERROR_MS: i64 = 240_000;
/// A daemon notices that its clock was set back by so much.
const NOTICED_CLOCK_STEP_MS: i64 = 60_000;
/// The undisturbed time at the end. Long enough for a recheck, and then the longest pause and the longest delay.
const FINAL_CALM: Duration = Duration::from_secs(150 * 60);
/// Answers within a few minutes after which a `Date` is believed.
const ANSWERS_TO_BELIEVE: usize = 10;
/// Segments that ended this long before the watermark must be complete: a recheck's delay, width and wait, then a few attempts.
const SETTLE_TIME: Duration = Duration::from_secs(85 * 60);

/// One lifetime of a daemon, for one account.
struct DaemonLifetime {
    name: String,
    owned: Lease,
    pacer: Pacer,
    discovery: DiscoveryDriver,
    fetcher: FetchDriver,
}

struct HistoryRun {
    ctx: RunContext,
    daemon: Option<DaemonLifetime>,
    stale_owner: Option<DaemonLifetime>,
}

/// Runs the operations of a seed.
pub async fn play_history(
    database: &SharedDatabase,
    label: &str,
    seed: u64,
    operations: &[Operation],
    fault: Option<DriverFault>,
) -> Result<EventCounts, InvariantViolation> {
    let mut history = HistoryRun::new(database, label, seed, fault).await?;
    for operation in operations {
        history.run_operation(operation).await?;
    }
    history.finish().await
}

/// Runs two seeds alternately on one database, each with its own account and owners. Sometimes the results of both are committed
/// in one transaction, as a process does for all its accounts.
pub async fn play_pair(
    database: &SharedDatabase,
    labels: [&str; 2],
    seeds: [u64; 2],
) -> Result<EventCounts, InvariantViolation> {
    let mut one = HistoryRun::new(database, labels[0], seeds[0], None).await?;
    let mut other = HistoryRun::new(database, labels[1], seeds[1], None).await?;
    let (first, second) = (operations_of_seed(seeds[0]), operations_of_seed(seeds[1]));
    for nth in 0..first.len().max(second.len()) {
        for (history, operations) in [(&mut one, &first), (&mut other, &second)] {
            if let Some(operation) = operations.get(nth) {
                history.run_operation(operation).await?;
            }
        }
        if nth % 4 == 3 {
            HistoryRun::commit_together(&mut one, &mut other).await?;
        }
    }
    let mut events = one.finish().await?;
    events.merge(&other.finish().await?);
    Ok(events)
}

/// The operations of a seed.
pub fn operations_of_seed(seed: u64) -> Vec<Operation> {
    random_operations(&mut StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

impl HistoryRun {
    async fn new(
        database: &SharedDatabase,
        label: &str,
        seed: u64,
        fault: Option<DriverFault>,
    ) -> Result<HistoryRun, InvariantViolation> {
        let api = SimulatedApi::new(&mut StdRng::seed_from_u64(seed), TRAFFIC_SECONDS);
        let rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let ctx = RunContext::new(database.clone(), label.to_owned(), api, rng, fault).await?;
        Ok(HistoryRun { ctx, daemon: None, stale_owner: None })
    }

    /// Runs one operation and checks the invariants.
    async fn run_operation(&mut self, operation: &Operation) -> Result<(), InvariantViolation> {
        self.ctx.use_own_clock();
        self.apply(operation).await?;
        // Time alone changes nothing in the database, and neither does a request before its result is committed.
        if !matches!(
            operation,
            Operation::AdvanceTime(_) | Operation::StepClock(_) | Operation::Fetch(_) | Operation::RivalAcquires
        ) {
            self.check().await?;
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<(), InvariantViolation> {
        let db = self.ctx.db();
        self.ctx.model.check(&db).await
    }

    /// Runs undisturbed for a while, and compares the archive with the simulated API.
    async fn finish(mut self) -> Result<EventCounts, InvariantViolation> {
        self.ctx.use_own_clock();
        self.run_undisturbed().await?;
        let (db, ctx) = (self.ctx.db(), &mut self.ctx);
        let compared = ctx.model.check_end(&db, &ctx.api, SETTLE_TIME).await?;
        ctx.events.count("histories");
        ctx.events.add("segments compared at the end", compared);
        Ok(self.ctx.events)
    }

    /// Commits the results of both in one transaction.
    async fn commit_together(one: &mut HistoryRun, other: &mut HistoryRun) -> Result<(), InvariantViolation> {
        let (Some(first), Some(second)) = (&mut one.daemon, &mut other.daemon) else { return Ok(()) };
        let (mine, theirs) = (first.fetcher.take_uncommitted(), second.fetcher.take_uncommitted());
        if !mine.is_empty() && !theirs.is_empty() {
            one.ctx.events.count("commits of two accounts together");
        }
        let both = [mine.as_slice(), theirs.as_slice()].concat();
        let counted = one.ctx.db().complete_jobs(&both).await?;
        let (ours, rest) = counted.split_at(mine.len());
        for (ctx, fetcher, batch, counted) in
            [(&mut one.ctx, &mut first.fetcher, mine, ours), (&mut other.ctx, &mut second.fetcher, theirs, rest)]
        {
            fetcher
                .on_committed_elsewhere(ctx, &batch, counted)
                .await
                .map_err(|interruption| InvariantViolation(format!("{interruption:?}")))?;
        }
        one.check().await?;
        other.check().await
    }

    async fn apply(&mut self, operation: &Operation) -> Result<(), InvariantViolation> {
        match operation {
            Operation::AdvanceTime(seconds) => self.ctx.clock.advance(Duration::from_secs(*seconds)),
            Operation::StepClock(millis) => return self.step_clock(*millis).await,
            Operation::Poll(outcome) => return self.poll(*outcome).await.map(drop),
            Operation::Fetch(outcomes) => return self.fetch(outcomes).await.map(drop),
            Operation::Commit(outcome) => return self.commit(*outcome).await,
            Operation::ShutDown => return self.shut_down().await,
            Operation::Crash => {
                if self.daemon.is_some() {
                    self.ctx.events.count("crashes between operations");
                }
                self.crash();
            }
            Operation::PowerCut => {
                self.crash();
                self.stale_owner = None;
                self.ctx.events.count("power cuts");
                self.ctx.database.reopen().await?;
            }
            Operation::TakeOver => return self.take_over().await,
            Operation::RivalAcquires => return self.attempt_rival_acquisition().await,
            Operation::StaleOwnerWrites => return self.write_as_stale_owner().await,
            Operation::DatabaseAway => return self.run_without_database().await,
            Operation::Backfill(ago, width) => return self.backfill(*ago, *width).await,
            Operation::Retry => return self.retry().await,
            Operation::Resume | Operation::DisturbFetch(_) => return self.disturb_fetch(operation).await,
            Operation::WrongDate(error_ms) => return self.set_api_date(*error_ms).await,
            Operation::StartWithClockAhead(ahead_ms) => return self.start_with_clock_ahead(*ahead_ms).await,
        }
        Ok(())
    }

    /// Sets the wall clock. Only one clock is wrong at a time: two could agree on a time that has not passed.
    async fn step_clock(&mut self, millis: i64) -> Result<(), InvariantViolation> {
        if self.ctx.date_error_ms != 0 {
            return Ok(());
        }
        let before = self.ctx.clock_error_ms();
        let after = (before + millis).clamp(-MAX_CLOCK_ERROR_MS, MAX_CLOCK_ERROR_MS);
        self.ctx.events.count(if after > before { "clocks set forward" } else { "clocks set back" });
        self.set_clock_error(after).await
    }

    /// Sets the wall clock. The fetch loop notices a large step back.
    async fn set_clock_error(&mut self, error_ms: i64) -> Result<(), InvariantViolation> {
        let step = error_ms - self.ctx.clock_error_ms();
        self.ctx.set_clock_error(error_ms);
        let Some(daemon) = self.daemon.as_mut().filter(|_| step <= -NOTICED_CLOCK_STEP_MS) else { return Ok(()) };
        let told = daemon.fetcher.handle_clock_step_back(&mut self.ctx).await;
        self.handle_interruption(told).await.map(drop)
    }

    async fn disturb_fetch(&mut self, operation: &Operation) -> Result<(), InvariantViolation> {
        self.ensure_daemon().await?;
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let told = match operation {
            Operation::DisturbFetch(disturbance) => daemon.fetcher.disturb(&mut self.ctx, *disturbance).await,
            _ => {
                daemon.discovery.retry_now(&self.ctx);
                self.ctx.events.count("resumes by an operator");
                daemon.fetcher.resume(&mut self.ctx).await
            }
        };
        self.handle_interruption(told).await.map(drop)
    }

    /// Sets the error of the API's `Date`, which several answers show.
    async fn set_api_date(&mut self, error_ms: i64) -> Result<(), InvariantViolation> {
        self.ensure_daemon().await?;
        self.set_clock_error(0).await?;
        self.ctx.date_error_ms = error_ms;
        match error_ms {
            0 => {}
            ..0 => self.ctx.events.count("API dates behind"),
            _ => self.ctx.events.count("API dates ahead"),
        }
        self.ensure_daemon().await?;
        let Some(daemon) = &self.daemon else { return Ok(()) };
        for _ in 0..ANSWERS_TO_BELIEVE {
            self.ctx.clock.advance(Duration::from_secs(15));
            daemon.discovery.observe_date(&self.ctx);
        }
        Ok(())
    }

    async fn start_with_clock_ahead(&mut self, ahead_ms: i64) -> Result<(), InvariantViolation> {
        self.crash();
        self.ctx.date_error_ms = 0;
        self.ctx.set_clock_error(ahead_ms);
        for _ in 0..3 {
            self.poll(ReadOutcome::Whole).await?;
            self.ctx.clock.advance(Duration::from_secs(30));
        }
        self.set_clock_error(0).await?;
        let name = self.daemon.as_ref().map(|daemon| daemon.name.clone());
        self.ctx.write_heartbeat(&name.unwrap_or_default(), false).await?;
        self.ctx.events.count("starts with a clock far ahead");
        self.poll(ReadOutcome::Whole).await.map(drop)
    }

    /// Starts a daemon if none is running.
    async fn ensure_daemon(&mut self) -> Result<(), InvariantViolation> {
        if self.daemon.is_some() {
            return Ok(());
        }
        let name = self.ctx.new_replica_name();
        loop {
            if let Some(owned) = self.ctx.acquire_lease(&name).await? {
                return self.start_daemon(name, owned).await;
            }
            // The crashed owner's lease is still valid.
            self.ctx.events.count("waits for a crashed owner's lease");
            self.ctx.clock.advance(Duration::from_secs(11));
        }
    }

    async fn start_daemon(&mut self, name: String, owned: Lease) -> Result<(), InvariantViolation> {
        let ctx = &mut self.ctx;
        ctx.write_heartbeat(&name, false).await?;
        ctx.events.count("starts");
        let now = ctx.clock.tick();
        if ctx.clock_set_at.is_some_and(|set_at| ctx.model.excuse_unknown_reads(set_at, now)) {
            ctx.events.count("starts after a clock was set, which may read metadata too often");
        }
        let pacer = Pacer::new(
            REQUESTS_PER_MINUTE.try_into().map_err(|_| InvariantViolation("no limit".to_owned()))?,
            ctx.clock.clone(),
        );
        pacer.start_after(PreviousOwner::Lapsed {
            last_seen_ago: Duration::ZERO,
            may_send_for: Duration::ZERO,
            in_flight: 0,
        });
        let discovery = DiscoveryDriver::load(ctx, owned).await?;
        let fetcher = FetchDriver::load(ctx, owned, pacer.clone()).await?;
        self.daemon = Some(DaemonLifetime { name, owned, pacer, discovery, fetcher });
        Ok(())
    }

    fn crash(&mut self) {
        self.daemon = None;
        self.ctx.model.on_owner_gone();
    }

    /// Applies the consequences of an operation's early end.
    async fn handle_interruption<T>(
        &mut self,
        result: Result<T, Interruption>,
    ) -> Result<Option<T>, InvariantViolation> {
        match result {
            Ok(done) => return Ok(Some(done)),
            Err(Interruption::Violation(violation)) => return Err(violation),
            Err(Interruption::ProcessDied) => self.crash(),
            Err(Interruption::DatabaseAway) => {
                return Err(InvariantViolation("the database seems to be unavailable, and is not".to_owned()));
            }
            Err(Interruption::LeaseLost) => {
                let Some((name, owned)) = self.ctx.successor.take() else {
                    return Err(InvariantViolation("the lease was lost without a new owner".to_owned()));
                };
                self.ctx.model.on_owner_gone();
                self.stale_owner = self.daemon.take();
                self.start_daemon(name, owned).await?;
            }
        }
        Ok(None)
    }

    async fn poll(&mut self, outcome: ReadOutcome) -> Result<Option<PollResult>, InvariantViolation> {
        self.ensure_daemon().await?;
        let Some(daemon) = &mut self.daemon else { return Ok(None) };
        let step = daemon.discovery.poll(&mut self.ctx, &daemon.pacer, outcome);
        let Ok(polled) = AssertUnwindSafe(step).catch_unwind().await else {
            self.ctx.events.count("panics in the middle of a step");
            self.crash();
            return Ok(None);
        };
        self.notify_fetcher().await?;
        self.handle_interruption(polled).await
    }

    /// Items may have been queued.
    async fn notify_fetcher(&mut self) -> Result<(), InvariantViolation> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let told = daemon.fetcher.tell(&mut self.ctx, FetchEvent::WorkQueued).await;
        self.handle_interruption(told).await.map(drop)
    }

    async fn fetch(&mut self, outcomes: &[FetchOutcome]) -> Result<usize, InvariantViolation> {
        self.ensure_daemon().await?;
        let Some(daemon) = &mut self.daemon else { return Ok(0) };
        let sent = daemon.fetcher.fetch(&mut self.ctx, outcomes).await;
        Ok(self.handle_interruption(sent).await?.unwrap_or_default())
    }

    async fn commit(&mut self, outcome: CommitOutcome) -> Result<(), InvariantViolation> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let settled = daemon.fetcher.commit(&mut self.ctx, outcome).await;
        self.handle_interruption(settled).await.map(drop)
    }

    async fn shut_down(&mut self) -> Result<(), InvariantViolation> {
        self.commit(CommitOutcome::Committed).await?;
        let Some(daemon) = self.daemon.take() else { return Ok(()) };
        self.ctx.events.count("accounts released in order");
        self.ctx.model.on_owner_gone();
        let now = self.ctx.clock.now();
        self.ctx.db_with_clock().await?.release_leases(&[daemon.owned], now).await?;
        self.ctx.write_heartbeat(&daemon.name, true).await?;
        let name = self.ctx.new_replica_name();
        let owned = self.ctx.acquire_lease(&name).await?;
        let owned = owned.ok_or_else(|| InvariantViolation("a released account could not be acquired".to_owned()))?;
        self.start_daemon(name, owned).await
    }

    async fn take_over(&mut self) -> Result<(), InvariantViolation> {
        if self.daemon.is_none() {
            return Ok(());
        }
        let taken = self.ctx.take_over().await;
        let lost = self.ctx.successor.is_some();
        self.handle_interruption(taken.and(if lost { Err(Interruption::LeaseLost) } else { Ok(()) })).await.map(drop)
    }

    async fn attempt_rival_acquisition(&mut self) -> Result<(), InvariantViolation> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        self.ctx.write_heartbeat(&daemon.name, false).await?;
        let name = self.ctx.new_replica_name();
        ensure!(self.ctx.acquire_lease(&name).await?.is_none(), "an account was acquired from a live owner");
        self.ctx.events.count("rival acquisitions refused");
        Ok(())
    }

    async fn write_as_stale_owner(&mut self) -> Result<(), InvariantViolation> {
        let (Some(mut stale_owner), Some(daemon)) = (self.stale_owner.take(), &self.daemon) else { return Ok(()) };
        let late = stale_owner.fetcher.commit_as_stale_owner(&mut self.ctx, daemon.owned).await;
        let late = self.handle_interruption(late).await?.unwrap_or_default();
        self.ctx.events.add("late results of previous owners", late as u64);
        let refused = stale_owner.discovery.write_as_stale_owner(&mut self.ctx).await;
        self.ctx.events.count("late writes of previous owners");
        self.handle_interruption(refused).await.map(drop)
    }

    async fn run_without_database(&mut self) -> Result<(), InvariantViolation> {
        self.ensure_daemon().await?;
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        self.ctx.database.close().await;
        let polled = daemon.discovery.poll(&mut self.ctx, &daemon.pacer, ReadOutcome::Whole).await;
        let fetched = daemon.fetcher.fetch(&mut self.ctx, &[FetchOutcome::Answered]).await;
        self.ctx.database.reopen().await?;
        ensure!(
            matches!(polled, Err(Interruption::DatabaseAway) | Ok(PollResult::Idle(_))),
            "a poll without a database returned {polled:?}"
        );
        ensure!(fetched.is_ok(), "a fetch without a database returned {fetched:?}");
        self.ctx.events.count("database outages");
        Ok(())
    }

    async fn backfill(&mut self, ago: i64, width: i64) -> Result<(), InvariantViolation> {
        self.ensure_daemon().await?;
        let now = self.ctx.clock.now();
        let from = now.plus_millis(-ago * 1000);
        let Some(range) = TimeRange::new(from, from.plus_millis(width * 1000).min(now)) else { return Ok(()) };
        self.ctx.db().request_backfill(self.ctx.account, range, width % 2 == 0, now).await?;
        self.ctx.events.count("backfills requested");
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        daemon.discovery.reload();
        Ok(())
    }

    async fn retry(&mut self) -> Result<(), InvariantViolation> {
        let states = vec![ItemState::Unavailable, ItemState::Failed];
        let filter = QueueFilter { accounts: Some(vec![self.ctx.account]), states, ..QueueFilter::default() };
        let revived = self.ctx.db().retry_items(&filter, self.ctx.clock.now()).await?;
        let expected = self.ctx.model.on_retry();
        ensure!(revived == expected, "{revived} items were revived, not {expected}");
        self.ctx.events.add("items revived by a retry", revived);
        self.notify_fetcher().await
    }

    /// Runs without faults for long enough that all work gets done.
    async fn run_undisturbed(&mut self) -> Result<(), InvariantViolation> {
        self.ctx.successor = None;
        if self.ctx.date_error_ms != 0 {
            self.set_api_date(0).await?;
        }
        self.commit(CommitOutcome::Committed).await?;
        // Items that faults made fail or expire get another attempt, so that everything available can be fetched.
        self.retry().await?;
        let end = self.ctx.true_time() + FINAL_CALM;
        let mut poll_at = Time(i64::MIN);
        while self.ctx.true_time() < end {
            while self.ctx.clock.now() >= poll_at {
                if let Some(PollResult::Idle(until)) = self.poll(ReadOutcome::Whole).await? {
                    poll_at = until;
                }
            }
            self.commit(CommitOutcome::Committed).await?;
            while self.fetch(&[FetchOutcome::Answered; 30]).await? > 0 {
                self.commit(CommitOutcome::Committed).await?;
            }
            let now = self.ctx.clock.now();
            let due: Option<Time> = self.ctx.db().next_due(self.ctx.account, ArtifactSet::ALL, now).await?;
            let wait = due.map_or(poll_at, |due| due.min(poll_at)).since(now);
            self.ctx.clock.advance(wait.clamp(Duration::from_secs(240), Duration::from_secs(900)));
        }
        let mut pauses = self.ctx.db().pauses().await?;
        pauses.retain(|pause| pause.account == self.ctx.account);
        let discovery_pause = pauses.iter().find(|pause| pause.endpoint == Endpoint::Metadata);
        ensure!(discovery_pause.is_none(), "discovery recovered, and is recorded as paused: {discovery_pause:?}");
        // A pause ends with the next answer, so one may remain if no request was sent since.
        self.ctx.events.add("pauses left at the end", u64::from(!pauses.is_empty()));
        Ok(())
    }
}
