//! What every stage needs to work on one account: its ids, its lease, its database handle, its API
//! clients and limits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::broken_answers::BrokenAnswers;
use crate::clock::{Clock, Tick, Time};
use crate::config::{AccountPolicy, LimitScope, Limits};
use crate::db::{Db, DbFault, Lease, PauseRow, SavedThrottle};
use crate::health::{Finding, FindingCode, FindingRegistry, Severity};
use crate::model::{AccountId, Endpoint, Lane};
use crate::read_progress::ReadProgress;
use crate::recordings::RecordingTarget;
use crate::ringcx::rate_limit::{Pacer, ReservedQuota, SlidingWindowLimiter, ThrottleState};
use crate::ringcx::{ApiClient, ApiError, Login};

/// The database stores a share of the request limit in millionths.
const PARTS_PER_MILLION: f64 = 1e6;

/// An account that this process works on.
pub(crate) struct Account {
    /// The ids in RingCX.
    pub(crate) id: AccountId,
    /// Its settings: artifacts, retention.
    pub(crate) policy: AccountPolicy,
    /// How many days the vendor keeps its data, if the vendor reported it.
    pub(crate) retention_days: Option<i64>,
    /// The lease under which this process writes for the account.
    pub(crate) lease: Lease,
    /// The archive.
    pub(crate) db: Db,
    /// The API client.
    pub(crate) api: ApiClient,
    /// The login that has access to the account.
    pub(crate) login: Login,
    /// Paces requests; shared between accounts if the limit applies to the login.
    pub(crate) pacer: Pacer,
    /// Name of the request budget: the account's or the login's.
    pub(crate) budget_name: String,
    /// The budget of metadata reads.
    pub(crate) metadata_budget: Arc<ReservedQuota>,
    /// Where recordings are stored.
    pub(crate) recordings: RecordingTarget,
    /// The clock.
    pub(crate) clock: Clock,
    /// Notified when items may have been queued.
    pub(crate) work_queued: Notify,
    /// Notified when new reads may have been requested.
    pub(crate) reads_requested: Notify,
    /// Where problems are reported.
    pub(crate) findings: Arc<FindingRegistry>,
    /// Figures that only this process has.
    pub(crate) stats: RuntimeStats,
    /// Pauses and their ends that are not written to the database yet.
    pub(crate) pauses: PauseLog,
}

impl Account {
    /// Records that an endpoint is paused: now, or as soon as the database is available.
    pub(crate) async fn record_pause(&self, pause: PauseRow) {
        self.pauses.push(PauseChange::Began(pause));
        self.pauses.flush(self).await;
    }

    /// Records that a pause is over: now, or as soon as the database is available. Until then
    /// `/readyz` shows a stale pause. The time `waited` does not count towards the horizon of the
    /// items that waited.
    pub(crate) async fn record_pause_end(&self, endpoint: Endpoint, waited: Option<(Time, Time)>) {
        self.pauses.push(PauseChange::Ended(endpoint, waited));
        self.pauses.flush(self).await;
    }

    /// Handles a 429: slows down all requests of the account, and stores the state for the
    /// account's next owner.
    pub(crate) async fn record_rate_limited(&self, retry_after: Option<Duration>) {
        let Some(throttle) = self.pacer.record_refusal(retry_after) else { return };
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let until = now + throttle.pause_until.since(tick);
        let rate_share_ppm = (throttle.rate_factor * PARTS_PER_MILLION) as u32;
        self.persist_throttle(
            &self.budget_name,
            &SavedThrottle { at: now, until, times: throttle.consecutive_pauses, rate_share_ppm },
        )
        .await;
    }

    /// Handles a 429 to a metadata read: counts it, and stores the state. The discoverer itself
    /// waits until then.
    pub(crate) async fn record_metadata_rate_limited(&self, until: Time, times: u32) {
        self.stats.metadata_rate_limited.fetch_add(1, Ordering::Relaxed);
        let throttle = SavedThrottle { at: self.clock.now(), until, times, rate_share_ppm: PARTS_PER_MILLION as u32 };
        self.persist_throttle(&metadata_budget_name(&self.id.sub), &throttle).await;
    }

    /// Ends all waits after a 429 or a pause, because an operator asked for a retry. The limits
    /// still apply.
    pub(crate) fn retry_now(&self) {
        self.pacer.lift_pause();
        self.login.retry_now();
        self.stats.resumes.fetch_add(1, Ordering::Relaxed);
        self.work_queued.notify_one();
        self.reads_requested.notify_one();
    }

    async fn persist_throttle(&self, budget: &str, throttle: &SavedThrottle) {
        if let Err(error) = self.db.save_throttle(budget, throttle, self.clock.now()).await {
            tracing::warn!(account = %self.id, %error, hint = error.hint(), "failed to store the state of a 429; a restart would not know of it");
        }
    }

    /// Reports that the API has moved to another address, if `error` is a redirect. A redirected
    /// login reports itself.
    pub(crate) fn report_redirect(&self, error: &ApiError, now: Time) -> bool {
        let moved = error.is_redirect() && error.endpoint != Endpoint::Login;
        let (code, hint) = (FindingCode::ApiMoved, error.hint().unwrap_or_default());
        let finding =
            || Finding::new(code, Severity::Trouble, now, error.message.clone(), hint).about(error.endpoint.name());
        if moved && self.findings.report(finding()) {
            tracing::error!(account = %self.id, %error, hint = error.hint(), "the API has moved");
        }
        moved
    }

    /// Clears the finding of [`Account::report_redirect`].
    pub(crate) fn clear_redirect(&self, endpoint: Endpoint) {
        self.findings.clear(FindingCode::ApiMoved, Some(endpoint.name()));
    }

    /// Restores the state that a 429 left with the account's previous owner.
    pub(crate) fn restore_throttle(&self, saved: &BTreeMap<String, SavedThrottle>) {
        let Some(saved) = saved.get(&self.budget_name) else { return };
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let pause_until = match saved.until > now {
            true => tick + saved.until.since(now),
            false => Tick(tick.0.saturating_sub(now.since(saved.until))),
        };
        self.pacer.restore_throttle(ThrottleState {
            pause_until,
            rate_factor: f64::from(saved.rate_share_ppm) / PARTS_PER_MILLION,
            consecutive_pauses: saved.times,
        });
    }
}

/// A pause of an endpoint, or its end with the time that items waited.
#[derive(Debug, Clone)]
pub enum PauseChange {
    /// The pause began, or is prolonged.
    Began(PauseRow),
    /// The pause is over; items waited during that time.
    Ended(Endpoint, Option<(Time, Time)>),
}

/// A queue of pauses and their ends that are not in the database yet. The account's owner flushes
/// it until it is empty, or until the account has another owner. The next owner starts from the
/// recorded pauses.
#[derive(Debug, Default)]
pub struct PauseLog {
    changes: Mutex<VecDeque<PauseChange>>,
    /// One writer at a time, to keep the order. Holds whether an error that is not transient has
    /// been logged.
    writer: tokio::sync::Mutex<bool>,
}

impl PauseLog {
    /// Queues a change.
    pub fn push(&self, change: PauseChange) {
        let mut changes = self.changes();
        // A longer pause replaces the one that it prolongs.
        if let (PauseChange::Began(new), Some(PauseChange::Began(last))) = (&change, changes.back())
            && new.endpoint == last.endpoint
        {
            changes.pop_back();
        }
        changes.push_back(change);
    }

    /// Writes the queued changes. Changes that the database rejects stay queued, except when the
    /// lease is lost.
    pub(crate) async fn flush(&self, account: &Account) {
        self.write(&account.db, account.lease, &account.id).await;
    }

    /// As [`PauseLog::flush`], for the account of `lease`.
    pub async fn write(&self, db: &Db, lease: Lease, id: &AccountId) {
        let mut is_logged = self.writer.lock().await;
        loop {
            let Some(change) = self.changes().front().cloned() else { return };
            let written = match &change {
                PauseChange::Began(pause) => db.save_pause(lease, pause).await,
                PauseChange::Ended(endpoint, waited) => db.end_pause(lease, *endpoint, *waited).await,
            };
            match written {
                Ok(()) => *is_logged = false,
                Err(error) if error.fault() == DbFault::LeaseLost => {
                    self.changes().clear();
                    return;
                }
                Err(error) => {
                    const WRITE_FAILED: &str = "failed to record a pause or its end; trying again";
                    if error.is_transient() || std::mem::replace(&mut *is_logged, true) {
                        tracing::debug!(account = %id, %error, "{WRITE_FAILED}");
                    } else {
                        tracing::warn!(account = %id, %error, hint = error.hint(), "{WRITE_FAILED}");
                    }
                    return;
                }
            }
            let mut changes = self.changes();
            let same = |front: &PauseChange| match (front, &change) {
                (PauseChange::Began(front), PauseChange::Began(written)) => front == written,
                (PauseChange::Ended(..), PauseChange::Ended(..)) => true,
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

/// The name of the budget that a sub-account's requests count against.
pub fn budget_name(limits: &Limits, sub: &str) -> String {
    match limits.scope {
        LimitScope::Login => "requests".to_owned(),
        LimitScope::SubAccount => format!("requests:{sub}"),
    }
}

/// The vendor's limits of metadata reads.
pub fn metadata_limits(limits: &Limits) -> SlidingWindowLimiter {
    SlidingWindowLimiter::new([
        (limits.metadata_per_minute.get(), Duration::from_secs(60)),
        (limits.metadata_per_15_minutes.get(), Duration::from_secs(900)),
    ])
}

/// The name of the budget that a sub-account's metadata reads count against.
pub fn metadata_budget_name(sub: &str) -> String {
    format!("metadata:{sub}")
}

/// Figures of an account that only its owner has.
#[derive(Debug, Default)]
pub(crate) struct RuntimeStats {
    /// Whether metadata reads make progress.
    pub(crate) reads: ReadProgress,
    /// Whether answers for artifacts are usable.
    pub(crate) broken_answers: BrokenAnswers,
    in_flight: AtomicU64,
    metadata_rate_limited: AtomicU64,
    resumes: AtomicU64,
    requests_by_lane: Mutex<[MinuteCounter; 4]>,
}

impl RuntimeStats {
    /// Requests for artifacts under way.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Metadata reads that were answered with 429.
    pub(crate) fn metadata_rate_limited(&self) -> u64 {
        self.metadata_rate_limited.load(Ordering::Relaxed)
    }

    /// How often an operator asked for an immediate retry.
    pub(crate) fn resumes(&self) -> u64 {
        self.resumes.load(Ordering::Relaxed)
    }

    /// Sets the number of requests for artifacts under way.
    pub(crate) fn set_in_flight(&self, in_flight: usize) {
        self.in_flight.store(in_flight as u64, Ordering::Relaxed);
    }

    /// Counts a request of a lane.
    pub(crate) fn count_request(&self, lane: Lane, now: Tick) {
        self.lanes()[lane_index(lane)].increment(now);
    }

    /// Requests in the last minute, by lane.
    pub(crate) fn requests_by_lane(&self, now: Tick) -> impl Iterator<Item = (Lane, u64)> {
        let mut lanes = self.lanes();
        Lane::ALL.map(|lane| (lane, lanes[lane_index(lane)].total(now))).into_iter()
    }

    fn lanes(&self) -> MutexGuard<'_, [MinuteCounter; 4]> {
        self.requests_by_lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lane_index(lane: Lane) -> usize {
    usize::try_from(lane.code()).unwrap_or(0).min(Lane::ALL.len() - 1)
}

const SECONDS_COUNTED: usize = 60;

/// Requests of the last minute, counted by second.
#[derive(Debug)]
struct MinuteCounter {
    seconds: [u32; SECONDS_COUNTED],
    newest: u64,
}

impl Default for MinuteCounter {
    fn default() -> MinuteCounter {
        MinuteCounter { seconds: [0; SECONDS_COUNTED], newest: 0 }
    }
}

impl MinuteCounter {
    fn increment(&mut self, now: Tick) {
        self.expire_old_seconds(now);
        let second = &mut self.seconds[now.0.as_secs() as usize % SECONDS_COUNTED];
        *second = second.saturating_add(1);
    }

    fn total(&mut self, now: Tick) -> u64 {
        self.expire_old_seconds(now);
        self.seconds.iter().map(|count| u64::from(*count)).sum()
    }

    /// Clears the seconds that are more than a minute old.
    fn expire_old_seconds(&mut self, now: Tick) {
        let second = now.0.as_secs();
        for passed in self.newest.saturating_add(1).max(second.saturating_sub(SECONDS_COUNTED as u64 - 1))..=second {
            self.seconds[passed as usize % SECONDS_COUNTED] = 0;
        }
        self.newest = self.newest.max(second);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests_of_a_lane_expire_after_a_minute() {
        let stats = RuntimeStats::default();
        let at = |secs| Tick(Duration::from_secs(secs));
        for second in 1000..1100 {
            stats.count_request(Lane::Backfill, at(second));
        }
        let total =
            |now| stats.requests_by_lane(at(now)).find(|(lane, _)| *lane == Lane::Backfill).map(|(_, total)| total);
        assert_eq!((total(1099), total(1129), total(1159), total(9999)), (Some(60), Some(30), Some(0), Some(0)));
    }
}
