//! What every stage needs to work for one account: its ids, its place in the database, its share of the API.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::broken_answers::BrokenAnswers;
use crate::clock::{Clock, Tick, Time};
use crate::config::{AccountPolicy, LimitScope, Limits};
use crate::db::{Db, DbFault, Owned, PauseRow, Refusal};
use crate::health::{Finding, FindingRegistry, Severity};
use crate::model::{AccountId, Endpoint, Lane};
use crate::read_progress::ReadProgress;
use crate::ringcx::limits::{Budget, Pacer, Setback, Sliding};
use crate::ringcx::{Api, ApiError, Login};

/// The finding that an endpoint redirects to another host.
const API_MOVED: &str = "api_moved";

/// A share of one, as it is kept: in millionths.
const SHARE: f64 = 1e6;

/// An account that this process works on.
pub struct Account {
    /// Its ids in RingCX.
    pub id: AccountId,
    /// For people.
    pub name: Option<String>,
    /// What is wanted of it.
    pub policy: AccountPolicy,
    /// How many days the vendor keeps its data, where it said so.
    pub retention_days: Option<i64>,
    /// The right to write for it.
    pub owned: Owned,
    /// Where everything is kept.
    pub db: Db,
    /// The API.
    pub api: Api,
    /// The login that sees it.
    pub login: Login,
    /// Its requests a minute; shared with other accounts where the limit is the login's.
    pub pacer: Pacer,
    /// The name of that budget, which is the account's or the login's.
    pub budget: String,
    /// Its metadata reads.
    pub metadata: Arc<Budget>,
    /// The time.
    pub clock: Clock,
    /// Rung when work may have been queued.
    pub work: Notify,
    /// Rung when there may be more to discover than was planned.
    pub discover: Notify,
    /// Where to report what is wrong.
    pub findings: Arc<FindingRegistry>,
    /// Figures that only this process knows.
    pub live: Live,
    /// Pauses and their ends on their way into the database.
    pub pauses: PauseLog,
}

impl Account {
    /// An endpoint is paused; recorded at once, or as soon as the database takes it.
    pub async fn paused(&self, pause: PauseRow) {
        self.pauses.push(PauseChange::Paused(pause));
        self.pauses.write(self).await;
    }

    /// A pause is over; `waited` does not count against the items that waited. Recorded at once, or as soon as the database
    /// takes it: until then `/readyz` would show a pause that there is not.
    pub async fn resumed(&self, endpoint: Endpoint, waited: Option<(Time, Time)>) {
        self.pauses.push(PauseChange::Resumed(endpoint, waited));
        self.pauses.write(self).await;
    }

    /// A request was refused with 429: slows down all that leaves for the account, and sees to it that whoever works on it
    /// next goes on from there.
    pub async fn refused(&self, retry_after: Option<Duration>) {
        let Some(setback) = self.pacer.refused(retry_after) else { return };
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let until = now + setback.pause_until.since(tick);
        let share = (setback.share * SHARE) as u32;
        self.keep_refusal(&self.budget, &Refusal { at: now, until, times: setback.times, share }).await;
    }

    /// Metadata was refused with 429: the same, for nothing but metadata, at which whoever asks holds of itself.
    pub async fn metadata_refused(&self, until: Time, times: u32) {
        self.live.metadata_refused.fetch_add(1, Ordering::Relaxed);
        let refusal = Refusal { at: self.clock.now(), until, times, share: SHARE as u32 };
        self.keep_refusal(&metadata_budget_name(&self.id.sub), &refusal).await;
    }

    /// A person wants everything tried again now: no wait that a refusal or a pause asked for holds any more. The limits do.
    pub fn resume(&self) {
        self.pacer.lift_pause();
        self.login.retry_now();
        self.live.resumes.fetch_add(1, Ordering::Relaxed);
        self.work.notify_one();
        self.discover.notify_one();
    }

    async fn keep_refusal(&self, budget: &str, refusal: &Refusal) {
        if let Err(error) = self.db.keep_refusal(budget, refusal, self.clock.now()).await {
            tracing::warn!(account = %self.id, %error, "failed to record a refusal; a restart would not know of it");
        }
    }

    /// Reports that the API answers from another address now, if that is what went wrong. A login says so itself.
    pub fn report_redirect(&self, error: &ApiError, now: Time) -> bool {
        let moved = error.is_redirect() && error.endpoint != Endpoint::Login;
        let finding = || Finding {
            code: API_MOVED,
            severity: Severity::Trouble,
            since: now,
            subject: Some(error.endpoint.name().to_owned()),
            sentence: error.message.clone(),
            hint: error.hint().unwrap_or_default().to_owned(),
            blocks_progress: false,
        };
        if moved && self.findings.report(finding()) {
            tracing::error!(account = %self.id, %error, hint = error.hint(), "the API has moved");
        }
        moved
    }

    /// The API answers from where it is asked.
    pub fn clear_redirect(&self, endpoint: Endpoint) {
        self.findings.clear(API_MOVED, Some(endpoint.name()));
    }

    /// Goes on from where a refusal left whoever worked on the account before.
    pub fn take_up(&self, refusals: &BTreeMap<String, Refusal>) {
        let Some(refusal) = refusals.get(&self.budget) else { return };
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let pause_until = match refusal.until > now {
            true => tick + refusal.until.since(now),
            false => Tick(tick.0.saturating_sub(now.since(refusal.until))),
        };
        self.pacer.resume(Setback { pause_until, share: f64::from(refusal.share) / SHARE, times: refusal.times });
    }
}

/// What happened to an endpoint, in the order in which it is recorded.
#[derive(Debug, Clone)]
enum PauseChange {
    Paused(PauseRow),
    Resumed(Endpoint, Option<(Time, Time)>),
}

/// Pauses and their ends that the database has not taken yet. Whoever works on the account writes them again until it does,
/// or until the account has another owner: the next one begins with what is recorded.
#[derive(Debug, Default)]
pub struct PauseLog {
    changes: Mutex<VecDeque<PauseChange>>,
    /// One writer at a time keeps the order. Holds whether a failure that does not pass by itself has been logged.
    writer: tokio::sync::Mutex<bool>,
}

impl PauseLog {
    fn push(&self, change: PauseChange) {
        let mut changes = self.changes();
        // A longer pause replaces the one that it prolongs.
        if let (PauseChange::Paused(new), Some(PauseChange::Paused(last))) = (&change, changes.back())
            && new.endpoint == last.endpoint
        {
            changes.pop_back();
        }
        changes.push_back(change);
    }

    /// Writes what waits; what the database does not take now goes on waiting.
    pub async fn write(&self, account: &Account) {
        let mut is_logged = self.writer.lock().await;
        loop {
            let Some(change) = self.changes().front().cloned() else { return };
            let written = match &change {
                PauseChange::Paused(pause) => account.db.pause(account.owned, pause).await,
                PauseChange::Resumed(endpoint, waited) => account.db.resume(account.owned, *endpoint, *waited).await,
            };
            match written {
                Ok(()) => *is_logged = false,
                Err(error) if error.fault() == DbFault::Lost => {
                    self.changes().clear();
                    return;
                }
                Err(error) => {
                    const FAILED: &str = "failed to record a pause or its end; trying again";
                    if error.is_passing() || std::mem::replace(&mut *is_logged, true) {
                        tracing::debug!(account = %account.id, %error, "{FAILED}");
                    } else {
                        tracing::warn!(account = %account.id, %error, "{FAILED}");
                    }
                    return;
                }
            }
            let mut changes = self.changes();
            let same = |front: &PauseChange| match (front, &change) {
                (PauseChange::Paused(front), PauseChange::Paused(written)) => front == written,
                (PauseChange::Resumed(..), PauseChange::Resumed(..)) => true,
                _ => false,
            };
            if changes.front().is_some_and(same) {
                changes.pop_front();
            }
        }
    }

    fn changes(&self) -> MutexGuard<'_, VecDeque<PauseChange>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the budget that a sub-account's requests come out of.
pub fn budget_name(limits: &Limits, sub: &str) -> String {
    match limits.scope {
        LimitScope::Login => "requests".to_owned(),
        LimitScope::SubAccount => format!("requests:{sub}"),
    }
}

/// What the vendor allows of metadata reads.
pub fn metadata_limits(limits: &Limits) -> Sliding {
    Sliding::new([
        (limits.metadata_per_minute.get(), Duration::from_secs(60)),
        (limits.metadata_per_15_minutes.get(), Duration::from_secs(900)),
    ])
}

/// The name of the budget that a sub-account's metadata reads come out of.
pub fn metadata_budget_name(sub: &str) -> String {
    format!("metadata:{sub}")
}

/// Figures of an account that only its owner knows.
#[derive(Debug, Default)]
pub struct Live {
    /// Whether metadata reads make progress.
    pub reads: ReadProgress,
    /// Whether answers for artifacts can be used.
    pub broken: BrokenAnswers,
    running: AtomicU64,
    metadata_refused: AtomicU64,
    resumes: AtomicU64,
    lanes: Mutex<[Minute; 4]>,
}

impl Live {
    /// Items claimed and not yet settled.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Metadata reads that were refused with 429.
    pub fn metadata_refused(&self) -> u64 {
        self.metadata_refused.load(Ordering::Relaxed)
    }

    /// How often a person has asked for everything to be tried again at once.
    pub fn resumes(&self) -> u64 {
        self.resumes.load(Ordering::Relaxed)
    }

    /// Sets the number of items claimed and not yet settled.
    pub fn set_running(&self, running: usize) {
        self.running.store(running as u64, Ordering::Relaxed);
    }

    /// Counts a request of a lane.
    pub fn count(&self, lane: Lane, now: Tick) {
        self.lanes()[slot(lane)].add(now);
    }

    /// Requests in the last minute, lane by lane.
    pub fn by_lane(&self, now: Tick) -> impl Iterator<Item = (Lane, u64)> {
        let mut lanes = self.lanes();
        Lane::ALL.map(|lane| (lane, lanes[slot(lane)].sum(now))).into_iter()
    }

    fn lanes(&self) -> MutexGuard<'_, [Minute; 4]> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot(lane: Lane) -> usize {
    usize::try_from(lane.code()).unwrap_or(0).min(Lane::ALL.len() - 1)
}

const MINUTE: usize = 60;

/// Counts by second, of the last minute.
#[derive(Debug)]
struct Minute {
    seconds: [u32; MINUTE],
    newest: u64,
}

impl Default for Minute {
    fn default() -> Minute {
        Minute { seconds: [0; MINUTE], newest: 0 }
    }
}

impl Minute {
    fn add(&mut self, now: Tick) {
        self.turn(now);
        let second = &mut self.seconds[now.0.as_secs() as usize % MINUTE];
        *second = second.saturating_add(1);
    }

    fn sum(&mut self, now: Tick) -> u64 {
        self.turn(now);
        self.seconds.iter().map(|count| u64::from(*count)).sum()
    }

    /// Forgets the seconds that are more than a minute ago.
    fn turn(&mut self, now: Tick) {
        let second = now.0.as_secs();
        for passed in self.newest.saturating_add(1).max(second.saturating_sub(MINUTE as u64 - 1))..=second {
            self.seconds[passed as usize % MINUTE] = 0;
        }
        self.newest = self.newest.max(second);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lanes_requests_are_forgotten_after_a_minute() {
        let live = Live::default();
        let at = |secs| Tick(Duration::from_secs(secs));
        for second in 1000..1100 {
            live.count(Lane::Backfill, at(second));
        }
        let sum = |now| live.by_lane(at(now)).find(|(lane, _)| *lane == Lane::Backfill).map(|(_, sum)| sum);
        assert_eq!((sum(1099), sum(1129), sum(1159), sum(9999)), (Some(60), Some(30), Some(0), Some(0)));
    }
}
