//! Reads interaction metadata, window by window, and queues what there is to fetch.
//!
//! Asks `ringcx`, writes `db`. What to read next is decided by the pure planner in `coverage`; a window counts as read
//! only when its whole answer is stored, and a chunk stored twice is the same as once, so a crash repeats a read at most.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;

use crate::account::{Account, metadata_budget_name};
use crate::backoff::{Backoff, Fault};
use crate::clock::{Tick, Time, millis};
use crate::config::Start;
use crate::coverage::{
    Backfill, CLOCK_NOISE, ClockReadings, CoolingDown, Coverage, Ending, Pass, Plan, PlanningClock, Recheck, Repair,
    Rules, Want, plan,
};
use crate::db::{Announced, Chunk, DbError, DbFault, PauseRow, Reading, Refusal};
use crate::model::{AsideRecord, Endpoint, SegmentRecord, Stretch, Stretches};
use crate::planted::{self, Plant};
use crate::ringcx::{self, ApiError, Cause, Record};
use crate::standing::Standing;

/// How often the database is asked what time it is: in between its clock goes on as this machine's ticks do.
const DATABASE_CLOCK_INTERVAL: Duration = Duration::from_secs(10);

/// Batches of records between the parser and the database: few, so that memory does not grow with the answer.
const BATCHES: usize = 2;
/// How long a window's failure keeps it waiting at the most.
const LONGEST: Duration = Duration::from_secs(900);
/// Of the time that the vendor keeps a segment, how much may pass before it becomes urgent.
const URGENT: f64 = 0.9;
/// Between tries while the database is away.
const PATIENCE: Duration = Duration::from_secs(1);
/// Clocks that differ by no more agree on where an account begins: a day too many is read in minutes.
const BEGINS_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// No stretch that failed rests for longer, whatever a clock said.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// Whether a step did anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It did; there may be more to do at once.
    Did,
    /// Nothing is to be done for so long, which is never longer than an interval: clocks may be set meanwhile.
    Idle(Duration),
}

/// What discovery goes by.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Windows and budget.
    pub rules: Rules,
    /// How long after its end each stretch is read again.
    pub rechecks: Vec<Duration>,
    /// Where the first window begins.
    pub start: Start,
    /// How long a failed window waits.
    pub backoff: Backoff,
}

/// Discovers one account's segments.
pub struct Discoverer {
    account: Arc<Account>,
    policy: Policy,
    coverage: Coverage,
    cooling: CoolingDown,
    standing: Standing,
    /// Failures in a row.
    failures: u32,
    refused: u32,
    not_before: Tick,
    turn: u64,
    /// How often a person has asked for everything to be tried again at once, as far as is known here.
    resumes: u64,
    planning: PlanningClock,
    /// When this process found the account new and fixed where it begins, if it did.
    began: Option<Tick>,
    /// The number of the last read that was recorded.
    last_read: i64,
    /// What the database's clock said: when, after how long, what.
    database: Option<(Tick, Duration, Time)>,
    /// This machine's time at tick zero, as it was at the start: pauses go by it, whatever its clock is set to later.
    anchor: Time,
}

/// What came of an answer.
struct Stored {
    announced: Announced,
    /// When the newest conversation ended that lies in the window.
    newest_end: Option<Time>,
}

impl Discoverer {
    /// Takes up where the account's coverage stands.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn load(account: Arc<Account>, policy: Policy) -> Result<Discoverer, DbError> {
        let planning = PlanningClock::default();
        let loaded = planning.now(&readings(&account, None));
        let coverage = load_coverage(&account, &policy, loaded).await?;
        let (now, tick) = (account.clock.now(), account.clock.tick());
        let is_new = coverage.live_start == first_window(&policy, loaded);
        account.live.reads.started(tick);
        Ok(Discoverer {
            resumes: account.live.resumes(),
            anchor: now.plus_millis(-millis(tick.0)),
            database: None,
            last_read: 0,
            planning,
            began: is_new.then_some(tick),
            account,
            policy,
            coverage,
            cooling: CoolingDown::default(),
            standing: Standing::default(),
            failures: 0,
            refused: 0,
            not_before: Tick::default(),
            turn: 0,
        })
    }

    /// Takes up a pause that was recorded before this process began.
    pub fn take_up(&mut self, pause: &PauseRow) {
        let longest = LONGEST.max(self.policy.backoff.initial());
        self.standing.resume_from(pause.since, pause.until.min(self.local() + longest), pause.times);
    }

    /// Goes on from where a refusal left whoever read the account's metadata before.
    pub fn take_up_refusal(&mut self, refusals: &BTreeMap<String, Refusal>) {
        let Some(refusal) = refusals.get(&metadata_budget_name(&self.account.id.sub)) else { return };
        let (now, tick) = (self.account.clock.now(), self.account.clock.tick());
        // One that is long over says nothing about the next.
        if now.since(refusal.until) < LONGEST {
            (self.not_before, self.refused) = (tick + refusal.until.since(now), refusal.times);
        }
    }

    /// Notices what people have asked for since.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn reload(&mut self) -> Result<(), DbError> {
        let now = self.planning.now(&readings(&self.account, None));
        self.coverage = load_coverage(&self.account, &self.policy, now).await?;
        Ok(())
    }

    /// Reads the window that is due most, if one is.
    ///
    /// # Errors
    /// Where the database fails; what the API does wrong is dealt with here.
    pub async fn step(&mut self) -> Result<Progress, DbError> {
        let (local, tick) = (self.local(), self.account.clock.tick());
        self.resume_if_asked(local);
        if tick < self.not_before {
            return Ok(self.idle(self.not_before.since(tick)));
        }
        if !self.standing.open(local) {
            let until = self.standing.pause().map_or(local, |pause| pause.until);
            return Ok(self.idle(until.since(local).max(PATIENCE)));
        }
        if self.account.api.time(local, tick).answers == 0 {
            // The answer to a login tells what time it is before the first window is chosen. Where it fails, the read says so.
            // In its turn, as the login of a read would be: after a crash the pace may have to wait first.
            drop(self.account.pacer.enter().await);
            let _ = self.account.login.token().await;
        }
        let readings = self.readings().await?;
        let now = self.planning.now(&readings);
        self.check_coverage(&readings, now).await?;
        self.cooling.cap(now + LONGEST_REST);
        let skew = now.0.saturating_sub(readings.machine.0);
        let repairs = self.repairs(skew).await?;
        let log = self.account.metadata.log().await.map_err(store_error)?;
        let log: Vec<Time> = log.into_iter().map(|at| at.plus_millis(skew)).collect();
        let rules = &self.policy.rules;
        // What is not past by the earliest clock counts as not read for now.
        let mut coverage = Cow::Borrowed(&self.coverage);
        if coverage.reaches_beyond(now) {
            coverage.to_mut().cut(now);
        }
        let (want, is_probe) = match plan(now, rules, &coverage, &log, self.cooling.as_slice(), &repairs, self.turn) {
            Plan::Read(want) => (want, false),
            Plan::Wait { until } => {
                let has_room = rules.sliding.earliest(&log, now) <= now;
                match has_room.then(|| self.planning.probe(&readings, rules)).flatten() {
                    Some(want) => (want, true),
                    None => return Ok(self.idle(until.since(now))),
                }
            }
        };
        self.standing.admit(local);
        if let Err(error) = self.read(want, is_probe, self.planning.lead(&readings)).await {
            self.standing.abandon();
            return Err(error);
        }
        Ok(Progress::Did)
    }

    fn idle(&self, span: Duration) -> Progress {
        let longest = self.policy.rules.interval.max(Duration::from_secs(1));
        Progress::Idle(span.clamp(Duration::from_millis(10), longest))
    }

    /// This machine's time, as if nobody had set its clock since the start.
    fn local(&self) -> Time {
        self.anchor + self.account.clock.tick().0
    }

    /// What all clocks say, the database's among them.
    async fn readings(&mut self) -> Result<ClockReadings, DbError> {
        let (db, clock) = (&self.account.db, &self.account.clock);
        if db.file().is_some() {
            return Ok(readings(&self.account, None));
        }
        let asked = clock.tick();
        let (read, took, then) = match self.database.filter(|(read, ..)| asked.since(*read) < DATABASE_CLOCK_INTERVAL) {
            Some(known) => known,
            None => {
                let here = db.here(clock.now()).await?;
                let answered = clock.tick();
                *self.database.insert((answered, answered.since(asked), here))
            }
        };
        let (here, now) = (then + clock.tick().since(read), clock.now());
        // The answer is as old as the question took, at the most.
        let noise = millis(CLOCK_NOISE).saturating_add(millis(took));
        let differs = here.0.saturating_sub(now.0).saturating_abs() > noise;
        Ok(readings(&self.account, differs.then_some(here)))
    }

    /// Forgets what lies in the future by every clock, and begins at another time where the clock was wrong when the
    /// account was new.
    async fn check_coverage(&mut self, readings: &ClockReadings, now: Time) -> Result<(), DbError> {
        let account = &self.account;
        if readings.newest.is_none() {
            return Ok(());
        }
        if let Some(start) = corrected_start(&self.policy, &self.coverage, self.began, readings, now) {
            account.db.move_live_start(account.owned, start).await?;
            tracing::info!(account = %account.id, from = %self.coverage.live_start, to = %start,
                "the account begins at another time than it was to: the clock has been put right since");
            self.coverage.live_start = start;
        }
        let latest = readings.latest().plus_millis(999).floor_to_second();
        if account.api.time(readings.machine, readings.tick).is_measured() && self.coverage.reaches_beyond(latest) {
            account.db.cut_coverage(account.owned, latest).await?;
            self.coverage.cut(latest);
            tracing::warn!(account = %account.id, after = %latest,
                "time that is still to come counted as read, from a clock that was ahead; it will be read again");
        }
        Ok(())
    }

    fn resume_if_asked(&mut self, now: Time) {
        let resumes = self.account.live.resumes();
        if std::mem::replace(&mut self.resumes, resumes) != resumes {
            self.not_before = Tick::default();
            self.standing.retry_now(now);
            self.cooling = CoolingDown::default();
            (self.failures, self.refused) = (0, 0);
        }
    }

    async fn repairs(&self, skew: i64) -> Result<Vec<Repair>, DbError> {
        let repairs = self.account.db.repairs(self.account.owned.account).await?;
        Ok(repairs.into_iter().map(|(stretch, due)| Repair { stretch, due: due.plus_millis(skew) }).collect())
    }

    /// `planned` is the lead over the tick of the time that the window was planned for. A probe is no progress by itself:
    /// it is read where nothing else is due.
    async fn read(&mut self, want: Want, is_probe: bool, planned: i64) -> Result<(), DbError> {
        if !is_probe {
            self.account.live.reads.wanted(self.account.clock.tick());
        }
        let permit = self.account.pacer.enter().await;
        self.account.live.count(want.lane, self.account.clock.tick());
        let sent = (self.account.clock.now(), self.account.clock.tick());
        let (sender, receiver) = mpsc::channel(BATCHES);
        let account = self.account.clone();
        let request = ringcx::metadata(
            &account.api,
            &account.login,
            &account.pacer,
            permit,
            &account.metadata,
            &account.id,
            want.window,
            sender,
        );
        let (read, stored) = tokio::join!(request, self.store(&want, is_probe, receiver));
        let stored = stored?;
        match read {
            Ok(_) => {
                if self.finished(&want, sent, planned, stored).await? || !is_probe {
                    self.account.live.reads.succeeded(self.account.clock.tick());
                }
                Ok(())
            }
            Err(error) => {
                self.failed(&want, &error).await;
                Ok(())
            }
        }
    }

    /// Stores an answer as it arrives.
    async fn store(
        &self,
        want: &Want,
        is_probe: bool,
        mut batches: mpsc::Receiver<Vec<Record>>,
    ) -> Result<Stored, DbError> {
        let mut sum = Announced::default();
        let mut newest_end = None;
        let skips = planted::strikes(Plant::SkippedWindow);
        while let Some(batch) = batches.recv().await {
            if skips {
                continue;
            }
            let (mut records, mut asides) = (Vec::with_capacity(batch.len()), Vec::new());
            for record in batch {
                match record {
                    Record::Segment(segment) => {
                        newest_end = newest_end.max(segment.end.filter(|end| *end <= want.window.end()));
                        records.push(segment);
                    }
                    Record::Aside(aside) => asides.push(aside),
                }
            }
            let stored = self.store_batch(want, &records, &asides).await?;
            if !is_probe {
                self.account.live.reads.stored_part(self.account.clock.tick());
            }
            if stored.aside > 0 {
                tracing::warn!(account = %self.account.id, window = %want.stretch, records = stored.aside,
                    "metadata records could not be understood; kept aside, to be read again");
            }
            if stored.queued > 0 {
                self.account.work.notify_one();
            }
            sum.add(stored);
        }
        Ok(Stored { announced: sum, newest_end })
    }

    async fn store_batch(
        &self,
        want: &Want,
        records: &[SegmentRecord],
        asides: &[AsideRecord],
    ) -> Result<Announced, DbError> {
        loop {
            let now = self.account.clock.now();
            let earliest = self.planning.now(&readings(&self.account, None));
            let kept_since = self.account.policy.retention.map(|kept| earliest - kept);
            let chunk = Chunk {
                owned: self.account.owned,
                lane: want.lane,
                stretch: want.stretch,
                now,
                wants: self.account.policy.wants,
                known: &self.coverage.live,
                urgent_before: self.policy.rules.retention.map(|kept| earliest - kept.mul_f64(URGENT)),
                repair: self.policy.rules.interval.min(Duration::from_secs(60)),
                records,
                asides,
            };
            match self.account.db.announce_kept(chunk, kept_since).await {
                Err(error) if error.is_passing() => {
                    tracing::warn!(account = %self.account.id, %error, "failed to store metadata; trying again");
                    self.account.clock.sleep(PATIENCE).await;
                }
                result => return result,
            }
        }
    }

    /// Returns whether anything newer counts as read than before.
    async fn finished(
        &mut self,
        want: &Want,
        (at, sent): (Time, Tick),
        planned: i64,
        Stored { announced, newest_end }: Stored,
    ) -> Result<bool, DbError> {
        let after = match self.readings().await {
            // What the database's clock said before counts in any case.
            Err(error) if error.is_passing() => readings(&self.account, None),
            readings => readings?,
        };
        let (credited, read_at) = self.planning.credit(want.stretch, (planned, sent), &after, &self.policy.rules);
        if newest_end.is_some_and(|ended| self.planning.observe(&after, ended)) {
            tracing::warn!(account = %self.account.id, "conversations have ended that are yet to come by this machine's \
                clock: it is behind, and the API's clock counts. hint: keep it right with NTP (timedatectl set-ntp true)");
        }
        let gained = match credited {
            Some(stretch) => self.record(want, stretch, at, read_at, announced).await?,
            None => {
                tracing::debug!(account = %self.account.id, window = %want.stretch, segments = announced.segments,
                    "a window does not count as read: by the earliest clock it is not past");
                false
            }
        };
        (self.failures, self.refused) = (0, 0);
        self.account.clear_redirect(Endpoint::Metadata);
        if let crate::standing::Meaning::Recovered(_) = self.standing.answered() {
            tracing::info!(account = %self.account.id, endpoint = %Endpoint::Metadata, "works again");
            self.account.resumed(Endpoint::Metadata, None).await;
        }
        Ok(gained)
    }

    /// Returns whether anything newer counts as read than before.
    async fn record(
        &mut self,
        want: &Want,
        stretch: Stretch,
        at: Time,
        read_at: Time,
        announced: Announced,
    ) -> Result<bool, DbError> {
        let mut coverage = self.coverage.clone();
        let gained = coverage.record(stretch, read_at);
        let is_newer = coverage.live_edge() > self.coverage.live_edge();
        let reading = Reading {
            at,
            done: self.account.clock.now(),
            lane: want.lane,
            stretch,
            announced,
            passes: gained.into_iter().map(|(pass, stretch)| (pass.key(), stretch)).collect(),
            finished: coverage.finished(),
        };
        let nth = loop {
            match self.account.db.record_reading(self.account.owned, &reading).await {
                Ok(nth) => break nth,
                Err(error) if error.is_passing() => {
                    tracing::warn!(account = %self.account.id, %error, "failed to record a window that was read; trying again");
                    self.account.clock.sleep(PATIENCE).await;
                }
                Err(error) => return Err(error),
            }
        };
        coverage.backfills.retain(|backfill| !reading.finished.contains(&backfill.id));
        self.coverage = coverage;
        if nth <= std::mem::replace(&mut self.last_read, nth) {
            tracing::warn!(account = %self.account.id, "the database was put back to an earlier state; what it does not know is read again");
            self.reload().await?;
        }
        self.cooling.answered(stretch);
        self.turn = self.turn.wrapping_add(u64::from(want.lane != crate::model::Lane::Live));
        for id in &reading.finished {
            tracing::info!(account = %self.account.id, backfill = id, "backfill is complete");
        }
        tracing::debug!(account = %self.account.id, lane = %want.lane, window = %stretch, segments = announced.segments,
            added = announced.added, changed = announced.changed, queued = announced.queued, "read a window");
        Ok(is_newer)
    }

    async fn failed(&mut self, want: &Want, error: &ApiError) {
        let (now, tick) = (self.local(), self.account.clock.tick());
        let jitter = rand::rng().random();
        let first = self.policy.backoff.initial();
        self.account.report_redirect(error, now);
        self.account.live.reads.failed(&error.message, error.hint());
        match error.fault {
            // Nothing was asked: no token, or no room in the database to note the request.
            _ if error.cause == Cause::Store || (error.endpoint == Endpoint::Login && !error.is_refusal()) => {
                self.standing.abandon();
                let pause = error.retry_in.unwrap_or(PATIENCE).max(PATIENCE);
                self.not_before = tick + pause;
                tracing::warn!(account = %self.account.id, again = %(now + pause), %error, "failed to ask for a window");
            }
            Fault::RateLimited => {
                self.refused = self.refused.saturating_add(1);
                let pause = self.policy.backoff.delay(self.refused, jitter).min(LONGEST);
                let pause = pause.max(error.retry_after.unwrap_or_default());
                self.not_before = tick + pause;
                self.standing.abandon();
                let until = self.account.clock.now() + pause;
                self.account.metadata_refused(until, self.refused).await;
                tracing::warn!(account = %self.account.id, %until, "metadata refused with 429; slowing down");
            }
            Fault::Forbidden | Fault::Unauthorised => {
                // One metadata read refused is the account's affair, not the window's.
                self.standing.failed(Fault::Unauthorised, "", now, first, jitter);
                self.pause(error, now).await;
            }
            Fault::Transient | Fault::Broken | Fault::NotYet | Fault::Permanent => {
                self.standing.abandon();
                self.failures = self.failures.saturating_add(1);
                let wait = self.policy.backoff.delay(self.failures, jitter).min(LONGEST);
                let wait = wait.max(error.retry_after.unwrap_or_default());
                let planned_for = self.planning.now(&readings(&self.account, None));
                let until = planned_for + wait;
                // A window that lies ahead of the earliest clock says nothing about one that is due.
                if want.stretch.to <= self.policy.rules.horizon(planned_for) + CLOCK_NOISE {
                    self.cooling.failed(want.stretch, until, ending(error));
                }
                tracing::warn!(account = %self.account.id, lane = %want.lane, window = %want.stretch, again = %until, %error,
                    hint = error.hint(), "failed to read a window; trying again later");
            }
        }
    }

    async fn pause(&self, error: &ApiError, now: Time) {
        let Some(pause) = self.standing.pause() else { return };
        tracing::error!(account = %self.account.id, endpoint = %Endpoint::Metadata, until = %pause.until, %error,
            hint = error.hint(), "paused");
        let row = PauseRow {
            account: self.account.owned.account,
            endpoint: Endpoint::Metadata,
            since: pause.since.min(now),
            until: pause.until,
            times: pause.times,
            status: error.pause_status(),
            reason: error.to_string(),
        };
        self.account.paused(row).await;
    }
}

/// What a failure says about the width of its window.
fn ending(error: &ApiError) -> Ending {
    match (error.cause, error.status) {
        (Cause::BrokeOff | Cause::TimedOut, Some(200)) => Ending::BrokenOff,
        // The second is a gateway's word for the first.
        (Cause::TimedOut, None) | (_, Some(504)) => Ending::Silent,
        _ => Ending::Refused,
    }
}

/// What this machine's clock and the API's say, beside the database's.
fn readings(account: &Account, database: Option<Time>) -> ClockReadings {
    let (machine, tick) = (account.clock.now(), account.clock.tick());
    let api = account.api.time(machine, tick).at_the_earliest(machine);
    ClockReadings { tick, machine, database, newest: api.newest, measured: api.measured, believed: api.believed }
}

async fn load_coverage(account: &Account, policy: &Policy, now: Time) -> Result<Coverage, DbError> {
    let (db, key) = (&account.db, account.owned.account);
    let mut live = Vec::new();
    let mut others = Vec::new();
    for (pass, stretch) in db.coverage(key).await? {
        match Pass::parse(&pass) {
            Some(Pass::Live) => live.push(stretch),
            Some(pass) => others.push((pass, stretch)),
            None => {}
        }
    }
    let live = Stretches::from_unsorted(live);
    let live_start = db.start_live(key, first_window(policy, now)).await?;
    let of = |wanted: &Pass| {
        Stretches::from_unsorted(
            others.iter().filter(|(pass, _)| pass == wanted).map(|(_, stretch)| *stretch).collect(),
        )
    };
    let mut rechecks = Vec::new();
    for delay in &policy.rechecks {
        let pass = Pass::Recheck(*delay);
        // A delay that is new in the settings owes nothing for what was read long ago. What was read last tells how long
        // ago that is: this machine's clock may be ahead.
        let edge = live.as_slice().last().map(|newest| newest.to.min(now));
        let owed_from = edge.map_or(Time(0), |edge| (edge - *delay).floor_to_second());
        let base = db.level(key, &pass.key(), owed_from).await?;
        rechecks.push((*delay, Recheck { base, done: of(&pass) }));
    }
    let backfills = db.backfills(Some(key), false).await?;
    let backfills = backfills.into_iter().map(|asked| Backfill {
        id: asked.id,
        range: asked.range,
        newest_first: asked.newest_first,
        done: of(&Pass::Backfill(asked.id)),
    });
    Ok(Coverage { live_start, live, rechecks, backfills: backfills.collect() })
}

/// Where an account that is new begins, if that is elsewhere than it was to: the clock was wrong.
///
/// Earlier by up to a day at once, where it was ahead. Further away only by a time of the API that several answers over some
/// time agree on: one wrong `Date` must not move it by years. Later only in the process that fixed it, since another cannot
/// know how long ago that was.
fn corrected_start(
    policy: &Policy,
    coverage: &Coverage,
    began: Option<Tick>,
    readings: &ClockReadings,
    now: Time,
) -> Option<Time> {
    let held = coverage.live_start;
    let is_believed =
        readings.believed.is_some_and(|believed| believed.since(now).max(now.since(believed)) <= BEGINS_WITHIN);
    let earlier = first_window(policy, now);
    if earlier < held && coverage.live_edge().is_none() && (is_believed || held.since(earlier) <= BEGINS_WITHIN) {
        return Some(earlier);
    }
    let began = now - readings.tick.since(began?);
    let later = first_window(policy, began);
    (is_believed && later > held + BEGINS_WITHIN).then_some(later)
}

/// Where the first live window begins, in whole seconds.
fn first_window(policy: &Policy, now: Time) -> Time {
    let horizon = (now - policy.rules.offset).floor_to_second();
    let start = match policy.start {
        Start::Now => policy.rules.first_start(now),
        Start::Back(span) => (now - span).max(Time::FIRST).floor_to_second(),
        Start::At(time) => time.floor_to_second(),
    };
    start.min(horizon.plus_millis(-1000))
}

fn store_error(error: ringcx::limits::StoreError) -> DbError {
    DbError::new(DbFault::Away, format!("failed to read the metadata budget: {error}"))
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::HeaderMap;

    use super::*;

    const BEGAN: Time = Time(1_800_000_000_000);
    const MINUTE: i64 = 60_000;
    const YEAR: i64 = 365 * 86_400_000;

    /// An hour after the account was new; the errors of the clocks in milliseconds.
    fn read(machine: i64, newest: i64, believed: Option<i64>) -> ClockReadings {
        let at = |error: i64| BEGAN.plus_millis(60 * MINUTE + error);
        let (newest, tick) = (Some(at(newest)), Tick(Duration::from_secs(3700)));
        ClockReadings {
            tick,
            machine: at(machine),
            database: None,
            newest,
            measured: newest,
            believed: believed.map(at),
        }
    }

    /// Of an account that begins with such a window.
    fn policy(window: Duration) -> Policy {
        let rules = Rules {
            window,
            offset: Duration::from_secs(300),
            interval: Duration::from_secs(300),
            max_window: Duration::from_secs(3600),
            sliding: crate::sliding::Sliding::new([(3, Duration::from_secs(60))]),
            retention: None,
        };
        let second = Duration::from_secs(1);
        let backoff = Backoff::new(second, second, second).unwrap();
        Policy { rules, rechecks: Vec::new(), start: Start::Now, backoff }
    }

    /// Where an account begins that was to begin by a clock with such an error.
    fn corrected(begun: i64, read: Option<Stretch>, readings: &ClockReadings) -> Option<i64> {
        let policy = policy(Duration::from_secs(900));
        let start = first_window(&policy, BEGAN);
        let mut coverage = Coverage::new(start.plus_millis(begun));
        coverage.live.insert(read?);
        let now = PlanningClock::default().now(readings);
        let began = Some(Tick(Duration::from_secs(100)));
        Some(corrected_start(&policy, &coverage, began, readings, now)?.0 - start.0)
    }

    #[test]
    fn the_first_window_takes_one_read_also_where_it_is_as_wide_as_the_widest() {
        for (window, width) in [(900, 900), (3600, 3599)] {
            let policy = policy(Duration::from_secs(window));
            let (start, horizon) = (first_window(&policy, BEGAN), policy.rules.horizon(BEGAN));
            assert_eq!(horizon.since(start), Duration::from_secs(width));
            let Plan::Read(want) = plan(BEGAN, &policy.rules, &Coverage::new(start), &[], &[], &[], 0) else {
                panic!("nothing is read");
            };
            assert_eq!(want.stretch, Stretch { from: start, to: horizon });
        }
    }

    #[test]
    fn one_wrong_date_does_not_move_the_beginning_of_an_account_by_years() {
        // Of the year that the wrong clock told something has been read.
        let long_ago = Stretch { from: BEGAN.plus_millis(-6 * YEAR), to: BEGAN.plus_millis(-6 * YEAR + MINUTE) };
        let begins = |begun, readings: ClockReadings| corrected(begun, Some(long_ago), &readings);
        assert_eq!(begins(0, read(0, 0, Some(0))), None);
        assert_eq!(begins(0, read(0, -5 * YEAR, None)), None);
        assert_eq!(begins(0, read(0, -5 * YEAR, Some(0))), None, "believed is another time");
        assert_eq!(begins(0, read(0, -5 * YEAR, Some(-5 * YEAR))), Some(-5 * YEAR + 60 * MINUTE));
        // And back, when the API's clock is right again for some time.
        assert_eq!(begins(-5 * YEAR, read(0, 0, Some(-5 * YEAR))), None);
        assert_eq!(begins(-5 * YEAR, read(0, 0, Some(0))), Some(0));
    }

    #[test]
    fn an_account_begins_when_it_was_new_whatever_this_machines_clock_said() {
        let long_ago = Stretch { from: BEGAN.plus_millis(-6 * YEAR), to: BEGAN.plus_millis(-6 * YEAR + MINUTE) };
        let begins = |begun, readings: ClockReadings| corrected(begun, Some(long_ago), &readings);
        // Ahead: a little at once, by far when the API's time is believed.
        assert_eq!(begins(120 * MINUTE, read(120 * MINUTE, 0, None)), Some(60 * MINUTE));
        assert_eq!(begins(YEAR, read(YEAR, 0, None)), None);
        assert_eq!(begins(YEAR, read(YEAR, 0, Some(0))), Some(60 * MINUTE));
        // Behind by years: when it has been put right.
        assert_eq!(begins(-YEAR, read(-YEAR, 0, Some(0))), None);
        assert_eq!(begins(-YEAR, read(0, 0, None)), None);
        assert_eq!(begins(-YEAR, read(0, 0, Some(0))), Some(0));
        // A refusal that lasts keeps the beginning where it was; so does what has been read since.
        assert_eq!(begins(0, read(0, 0, Some(0))), None);
        let since = Stretch { from: BEGAN.plus_millis(10 * YEAR), to: BEGAN.plus_millis(10 * YEAR + MINUTE) };
        assert_eq!(corrected(YEAR, Some(since), &read(YEAR, 0, Some(0))), None);
    }

    #[test]
    fn only_an_answer_that_breaks_off_or_never_comes_says_something_about_the_width() {
        let silent = || ApiError::timed_out(Endpoint::Metadata, "no answer came in time");
        let answered = |status| ApiError::answered(Endpoint::Metadata, status, &HeaderMap::new(), b"", Time(0));
        assert_eq!(ending(&silent()), Ending::Silent);
        assert_eq!(ending(&silent().with_status(StatusCode::OK)), Ending::BrokenOff);
        assert_eq!(ending(&answered(StatusCode::GATEWAY_TIMEOUT)), Ending::Silent);
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST] {
            assert_eq!(ending(&answered(status)), Ending::Refused, "{status}");
        }
    }
}
