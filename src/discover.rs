//! Reads interaction metadata, window by window, and queues what there is to fetch.
//!
//! Asks `ringcx`, writes `db`. What to read next is decided by the pure planner in `coverage`; a window counts as read
//! only when its whole answer is stored, and a chunk stored twice is the same as once, so a crash repeats a read at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;

use crate::account::{Account, metadata_budget_name};
use crate::backoff::{Backoff, Fault};
use crate::clock::Time;
use crate::config::Start;
use crate::coverage::{Backfill, CoolingDown, Coverage, Ending, Pass, Plan, Recheck, Repair, Rules, Want, plan};
use crate::db::{Announced, Chunk, DbError, DbFault, PauseRow, Reading, Refusal};
use crate::model::{AsideRecord, Endpoint, SegmentRecord, Stretches};
use crate::planted::{self, Plant};
use crate::ringcx::{self, ApiError, Cause, Record};
use crate::standing::Standing;

/// Batches of records between the parser and the database: few, so that memory does not grow with the answer.
const BATCHES: usize = 2;
/// How long a window's failure keeps it waiting at the most.
const LONGEST: Duration = Duration::from_secs(900);
/// Of the time that the vendor keeps a segment, how much may pass before it becomes urgent.
const URGENT: f64 = 0.9;
/// Between tries while the database is away.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a step did anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It did; there may be more to do at once.
    Did,
    /// Nothing is to be done before then, by this machine's clock.
    Idle(Time),
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
    not_before: Time,
    turn: u64,
    /// How often a person has asked for everything to be tried again at once, as far as is known here.
    resumes: u64,
}

impl Discoverer {
    /// Takes up where the account's coverage stands.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn load(account: Arc<Account>, policy: Policy) -> Result<Discoverer, DbError> {
        let coverage = load_coverage(&account, &policy).await?;
        account.live.reads.started(account.clock.tick());
        Ok(Discoverer {
            resumes: account.live.resumes(),
            account,
            policy,
            coverage,
            cooling: CoolingDown::default(),
            standing: Standing::default(),
            failures: 0,
            refused: 0,
            not_before: Time(i64::MIN),
            turn: 0,
        })
    }

    /// Takes up a pause that was recorded before this process began.
    pub fn take_up(&mut self, pause: &PauseRow) {
        self.standing.resume_from(pause.since, pause.until, pause.times);
    }

    /// Goes on from where a refusal left whoever read the account's metadata before.
    pub fn take_up_refusal(&mut self, refusals: &BTreeMap<String, Refusal>) {
        let Some(refusal) = refusals.get(&metadata_budget_name(&self.account.id.sub)) else { return };
        // One that is long over says nothing about the next.
        if self.account.clock.now().since(refusal.until) < LONGEST {
            (self.not_before, self.refused) = (refusal.until, refusal.times);
        }
    }

    /// Notices what people have asked for since.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn reload(&mut self) -> Result<(), DbError> {
        self.coverage = load_coverage(&self.account, &self.policy).await?;
        Ok(())
    }

    /// Reads the window that is due most, if one is.
    ///
    /// # Errors
    /// Where the database fails; what the API does wrong is dealt with here.
    pub async fn step(&mut self) -> Result<Progress, DbError> {
        let local = self.account.clock.now();
        self.resume_if_asked(local);
        if local < self.not_before {
            return Ok(Progress::Idle(self.not_before));
        }
        if !self.standing.open(local) {
            let until = self.standing.pause().map_or(local + PATIENCE, |pause| pause.until.max(local + PATIENCE));
            return Ok(Progress::Idle(until));
        }
        // The planner thinks in the API's time; this machine's clock may differ from it.
        let now = self.account.api.api_now();
        let skew = now.0.saturating_sub(local.0);
        let repairs = self.repairs(skew).await?;
        let log = self.account.metadata.log().await.map_err(store_error)?;
        let log: Vec<Time> = log.into_iter().map(|at| at.plus_millis(skew)).collect();
        match plan(now, &self.policy.rules, &self.coverage, &log, self.cooling.as_slice(), &repairs, self.turn) {
            Plan::Wait { until } => Ok(Progress::Idle(until.plus_millis(-skew).max(local.plus_millis(10)))),
            Plan::Read(want) => {
                self.standing.admit(local);
                self.read(want).await?;
                Ok(Progress::Did)
            }
        }
    }

    fn resume_if_asked(&mut self, now: Time) {
        let resumes = self.account.live.resumes();
        if std::mem::replace(&mut self.resumes, resumes) != resumes {
            self.not_before = Time(i64::MIN);
            self.standing.retry_now(now);
            self.cooling = CoolingDown::default();
            (self.failures, self.refused) = (0, 0);
        }
    }

    async fn repairs(&self, skew: i64) -> Result<Vec<Repair>, DbError> {
        let repairs = self.account.db.repairs(self.account.owned.account).await?;
        Ok(repairs.into_iter().map(|(stretch, due)| Repair { stretch, due: due.plus_millis(skew) }).collect())
    }

    async fn read(&mut self, want: Want) -> Result<(), DbError> {
        self.account.live.reads.wanted(self.account.clock.tick());
        let permit = self.account.pacer.enter().await;
        self.account.live.count(want.lane, self.account.clock.tick());
        let at = self.account.clock.now();
        let api_at = self.account.api.api_now();
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
        let (read, stored) = tokio::join!(request, self.store(&want, receiver));
        let announced = stored?;
        match read {
            Ok(_) => self.finished(&want, at, api_at, announced).await,
            Err(error) => {
                self.failed(&want, &error).await;
                Ok(())
            }
        }
    }

    /// Stores an answer as it arrives.
    async fn store(&self, want: &Want, mut batches: mpsc::Receiver<Vec<Record>>) -> Result<Announced, DbError> {
        let mut sum = Announced::default();
        let skips = planted::strikes(Plant::SkippedWindow);
        while let Some(batch) = batches.recv().await {
            if skips {
                continue;
            }
            let (mut records, mut asides) = (Vec::with_capacity(batch.len()), Vec::new());
            for record in batch {
                match record {
                    Record::Segment(segment) => records.push(segment),
                    Record::Aside(aside) => asides.push(aside),
                }
            }
            let stored = self.store_batch(want, &records, &asides).await?;
            self.account.live.reads.stored_part(self.account.clock.tick());
            if stored.aside > 0 {
                tracing::warn!(account = %self.account.id, window = %want.stretch, records = stored.aside,
                    "metadata records could not be understood; kept aside, to be read again");
            }
            if stored.queued > 0 {
                self.account.work.notify_one();
            }
            sum.add(stored);
        }
        Ok(sum)
    }

    async fn store_batch(
        &self,
        want: &Want,
        records: &[SegmentRecord],
        asides: &[AsideRecord],
    ) -> Result<Announced, DbError> {
        loop {
            let now = self.account.clock.now();
            let kept_since = self.account.policy.retention.map(|kept| now - kept);
            let chunk = Chunk {
                owned: self.account.owned,
                lane: want.lane,
                stretch: want.stretch,
                now,
                wants: self.account.policy.wants,
                known: &self.coverage.live,
                urgent_before: self
                    .policy
                    .rules
                    .retention
                    .map(|kept| self.account.api.api_now() - kept.mul_f64(URGENT)),
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

    async fn finished(&mut self, want: &Want, at: Time, api_at: Time, announced: Announced) -> Result<(), DbError> {
        let mut coverage = self.coverage.clone();
        let gained = coverage.record(want.stretch, api_at);
        let reading = Reading {
            at,
            done: self.account.clock.now(),
            lane: want.lane,
            stretch: want.stretch,
            announced,
            passes: gained.into_iter().map(|(pass, stretch)| (pass.key(), stretch)).collect(),
            finished: coverage.finished(),
        };
        loop {
            match self.account.db.record_reading(self.account.owned, &reading).await {
                Ok(()) => break,
                Err(error) if error.is_passing() => {
                    tracing::warn!(account = %self.account.id, %error, "failed to record a window that was read; trying again");
                    self.account.clock.sleep(PATIENCE).await;
                }
                Err(error) => return Err(error),
            }
        }
        coverage.backfills.retain(|backfill| !reading.finished.contains(&backfill.id));
        self.coverage = coverage;
        self.cooling.answered(want.stretch);
        self.turn = self.turn.wrapping_add(u64::from(want.lane != crate::model::Lane::Live));
        (self.failures, self.refused) = (0, 0);
        self.account.live.reads.succeeded(self.account.clock.tick());
        if let crate::standing::Meaning::Recovered(_) = self.standing.answered() {
            tracing::info!(account = %self.account.id, endpoint = %Endpoint::Metadata, "works again");
            self.account.db.resume(self.account.owned.account, Endpoint::Metadata, None).await?;
        }
        for id in &reading.finished {
            tracing::info!(account = %self.account.id, backfill = id, "backfill is complete");
        }
        tracing::debug!(account = %self.account.id, lane = %want.lane, window = %want.stretch, segments = announced.segments,
            added = announced.added, changed = announced.changed, queued = announced.queued, "read a window");
        Ok(())
    }

    async fn failed(&mut self, want: &Want, error: &ApiError) {
        let now = self.account.clock.now();
        let jitter = rand::rng().random();
        let first = self.policy.backoff.initial();
        self.account.live.reads.failed(&error.message, error.hint());
        match error.fault {
            // Nothing was asked: no token, or no room in the database to note the request.
            _ if error.cause == Cause::Store || (error.endpoint == Endpoint::Login && !error.is_refusal()) => {
                self.standing.abandon();
                self.not_before = now + error.retry_in.unwrap_or(PATIENCE).max(PATIENCE);
                tracing::warn!(account = %self.account.id, again = %self.not_before, %error, "failed to ask for a window");
            }
            Fault::RateLimited => {
                self.refused = self.refused.saturating_add(1);
                let pause = self.policy.backoff.delay(self.refused, jitter).min(LONGEST);
                let pause = pause.max(error.retry_after.unwrap_or_default());
                self.not_before = now + pause;
                self.standing.abandon();
                self.account.metadata_refused(self.not_before, self.refused).await;
                tracing::warn!(account = %self.account.id, until = %self.not_before, "metadata refused with 429; slowing down");
            }
            Fault::Forbidden | Fault::Unauthorised => {
                // One metadata read refused is the account's affair, not the window's.
                self.standing.failed(Fault::Unauthorised, "", now, first, jitter);
                self.pause(error, now).await;
            }
            Fault::Transient | Fault::NotYet | Fault::Permanent => {
                self.standing.abandon();
                self.failures = self.failures.saturating_add(1);
                let wait = self.policy.backoff.delay(self.failures, jitter).min(LONGEST);
                let wait = wait.max(error.retry_after.unwrap_or_default());
                let until = self.account.api.api_now() + wait;
                self.cooling.failed(want.stretch, until, ending(error));
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
        if let Err(error) = self.account.db.pause(&row).await {
            tracing::warn!(account = %self.account.id, %error, "failed to record a pause");
        }
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

async fn load_coverage(account: &Account, policy: &Policy) -> Result<Coverage, DbError> {
    let (db, key) = (&account.db, account.owned.account);
    let now = account.api.api_now();
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
        // A delay that is new in the settings owes nothing for what was read long ago.
        let owed_from = if live.is_empty() { Time(0) } else { (now - *delay).floor_to_second() };
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

/// Where the first live window begins, in whole seconds.
fn first_window(policy: &Policy, now: Time) -> Time {
    let horizon = (now - policy.rules.offset).floor_to_second();
    let start = match policy.start {
        Start::Now => horizon - policy.rules.window,
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
