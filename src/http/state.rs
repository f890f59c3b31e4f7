//! The shared state of the HTTP handlers: the database ping, the status snapshot, and the
//! dashboard's viewers.
//!
//! It only reads. Ping and snapshot are taken on demand, once for all callers (see
//! `single_flight_cache`), and kept for a second or two. So neither probes nor viewers, however
//! many, cost the daemon more than an occasional read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::{Time, millis};
use crate::daemon::app_context::AppContext;
use crate::health::{self, AccountStatus, BackfillStatus, Finding, ProcessState, SinkState};
use crate::metrics::{AccountMetrics, MetricsSnapshot, SinkMetrics, WorkItemCounts};
use crate::ringcx::LoginState;

use super::authenticator::Authenticator;
use super::health_summary::HealthSummary;
use super::lag_history::{self, LagHistory, LagSample};
use super::live_updates::LiveUpdates;
use super::readiness::{self, DATABASE_TIMEOUT, DatabaseProblem, Readiness};
use super::single_flight_cache::SingleFlightCache;
use super::status_snapshot::{self, DashboardRow, StatusSnapshot};
use super::templates::DashboardView;

/// The maximum age of the database ping.
const MAX_PING_AGE: Duration = Duration::from_secs(1);
/// The maximum age of a snapshot, and the interval between updates for viewers.
pub(super) const UPDATE_INTERVAL: Duration = Duration::from_secs(2);
/// The maximum age of a snapshot for API clients, which may check for a change that they just made.
pub(super) const MAX_API_SNAPSHOT_AGE: Duration = Duration::from_millis(250);
/// The most viewers at a time.
pub(super) const MAX_VIEWERS: usize = 64;

/// The shared state of the handlers.
pub(super) struct HttpState {
    pub(super) app: Arc<AppContext>,
    pub(super) stop: CancellationToken,
    pub(super) live_updates: LiveUpdates,
    /// Guards the conversations; `None` if no token is set.
    pub(super) authenticator: Option<Arc<Authenticator>>,
    pub(super) viewer_permits: Arc<Semaphore>,
    database_ping: SingleFlightCache<Result<(), DatabaseProblem>>,
    snapshots: SingleFlightCache<Result<Arc<StatusSnapshot>, DatabaseProblem>>,
    /// The last successful snapshot.
    last_snapshot: Mutex<Option<Arc<StatusSnapshot>>>,
    pub(super) history: LagHistory,
}

/// The current health, as far as it is known.
pub(super) struct HealthReport {
    /// Why the database cannot be used, if it cannot.
    pub(super) database: Result<(), DatabaseProblem>,
    /// Worst first.
    pub(super) findings: Vec<Finding>,
    pub(super) readiness: Readiness,
    pub(super) snapshot: Option<Arc<StatusSnapshot>>,
    pub(super) now: Time,
}

impl HttpState {
    pub(super) fn new(app: Arc<AppContext>, stop: CancellationToken) -> HttpState {
        let authenticator = app
            .settings
            .http
            .token
            .clone()
            .map(|token| Arc::new(Authenticator::new(token, app.clock.clone()).with_db(app.db.clone())));
        HttpState {
            app,
            authenticator,
            stop,
            live_updates: LiveUpdates::new(),
            viewer_permits: Arc::new(Semaphore::new(MAX_VIEWERS)),
            database_ping: SingleFlightCache::new(),
            snapshots: SingleFlightCache::new(),
            last_snapshot: Mutex::new(None),
            history: LagHistory::default(),
        }
    }

    /// Serves the caches, updates viewers, and records the history, until the stop.
    pub(super) async fn run(&self) {
        tokio::join!(
            self.database_ping.run(|| self.ping_database(), &self.stop),
            self.snapshots.run(|| self.take_snapshot(), &self.stop),
            self.until_stop(self.publish_updates()),
            self.until_stop(self.record_history()),
        );
    }

    async fn until_stop(&self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn ping_database(&self) -> Result<(), DatabaseProblem> {
        self.app.db.ping().await.map_err(|error| DatabaseProblem::from(&error))
    }

    async fn take_snapshot(&self) -> Result<Arc<StatusSnapshot>, DatabaseProblem> {
        let snapshot =
            status_snapshot::take_snapshot(&self.app).await.map_err(|error| DatabaseProblem::from(&error))?;
        let snapshot = Arc::new(snapshot);
        let worst_lag = snapshot.rows.iter().filter_map(|row| row.lag(snapshot.at)).max();
        let backlog = snapshot.rows.iter().map(|row| row.work.unfinished()).sum();
        self.history.record(LagSample { at: snapshot.at, lag: worst_lag.unwrap_or_default(), backlog });
        *self.last_snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot.clone());
        Ok(snapshot)
    }

    async fn publish_updates(&self) {
        loop {
            self.live_updates.wait_for_viewer().await;
            let report = self.health_report(UPDATE_INTERVAL).await;
            let summary = self.health_summary(&report);
            self.live_updates.publish(&self.view(&report, &summary, &self.history.samples()), report.snapshot.clone());
            tokio::time::sleep(UPDATE_INTERVAL).await;
        }
    }

    async fn record_history(&self) {
        loop {
            let _ = self.snapshots.get(UPDATE_INTERVAL, DATABASE_TIMEOUT).await;
            self.app.clock.sleep(lag_history::SAMPLE_INTERVAL).await;
        }
    }

    /// A snapshot that is at most `max_age` old, or why there is none.
    pub(super) async fn snapshot(&self, max_age: Duration) -> Result<Arc<StatusSnapshot>, DatabaseProblem> {
        let snapshot = self.snapshots.get(max_age, DATABASE_TIMEOUT).await;
        snapshot.map_or_else(|| Err(DatabaseProblem::timed_out()), |snapshot| (*snapshot).clone())
    }

    /// The current health, with a snapshot that is at most `max_age` old if one is available, or
    /// else the last one.
    pub(super) async fn health_report(&self, max_age: Duration) -> HealthReport {
        let (ping, snapshot) =
            tokio::join!(self.database_ping.get(MAX_PING_AGE, DATABASE_TIMEOUT), self.snapshot(max_age));
        let ping = ping.map_or_else(|| Err(DatabaseProblem::timed_out()), |ping| (*ping).clone());
        // The database must answer both.
        let database = ping.and(snapshot.as_ref().map(|_| ()).map_err(DatabaseProblem::clone));
        let last = || self.last_snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let snapshot = snapshot.ok().or_else(last);
        let database = readiness::check_database(&self.app, database);
        let status = snapshot.as_deref().map(|snapshot| &snapshot.status);
        let snapshot_findings = status.map(|status| status.findings.as_slice()).unwrap_or_default();
        let process = ProcessState { is_active: self.app.is_active(), is_database_up: database.is_ok() };
        let now = self.app.clock.now();
        let findings = health::current_findings(self.app.findings.list(), snapshot_findings, process, now);
        let own = self.app.accounts();
        let own = |account: &&AccountStatus| own.iter().any(|own| *own.id.sub == *account.sub_account_id);
        let accounts = status.into_iter().flat_map(|status| status.accounts.iter().filter(own));
        let readiness = Readiness::from_findings(&findings, accounts);
        HealthReport { database, findings, readiness, snapshot, now }
    }

    pub(super) fn health_summary(&self, report: &HealthReport) -> HealthSummary {
        HealthSummary::new(report.findings.clone(), report.snapshot.as_deref(), report.now)
    }

    pub(super) fn samples(&self) -> Vec<LagSample> {
        self.history.samples()
    }

    pub(super) fn view<'a>(
        &'a self,
        report: &'a HealthReport,
        summary: &'a HealthSummary,
        samples: &'a [LagSample],
    ) -> DashboardView<'a> {
        DashboardView {
            summary,
            snapshot: report.snapshot.as_deref(),
            samples,
            now: report.now,
            instance: &self.app.settings.database.instance,
            has_search: self.authenticator.is_some(),
        }
    }

    /// The values for the metrics. If the database is unavailable, accounts keep their last known
    /// values, and their lag grows.
    pub(super) fn metrics_snapshot(&self, report: &HealthReport) -> MetricsSnapshot {
        let snapshot = report.snapshot.as_deref();
        let backfills = snapshot.map(|snapshot| snapshot.status.backfills.as_slice()).unwrap_or_default();
        let account = |(row, status): (&DashboardRow, &AccountStatus)| account_metrics(row, status, backfills);
        let accounts =
            snapshot.map(|snapshot| snapshot.rows.iter().zip(&snapshot.status.accounts).map(account).collect());
        let sinks = snapshot.map(|snapshot| snapshot.status.sinks.as_slice()).unwrap_or_default();
        MetricsSnapshot {
            now: report.now,
            database_up: report.database.is_ok(),
            disk_up: !matches!(&report.database, Err(problem) if problem.is_disk),
            login_up: !matches!(self.app.login.state(), LoginState::Failing { .. }),
            ready: report.readiness.ready,
            working: self.app.is_active(),
            credential_expires: self.app.credential_expiry(),
            clock_skew_seconds: self.app.api.clock_offset_ms() as f64 / 1000.0,
            index_lag: snapshot
                .map(|snapshot| snapshot.status.search_index)
                .map(|index| (index.lag_changes, index.lag_seconds)),
            accounts: accounts.unwrap_or_default(),
            sinks: sinks
                .iter()
                .map(|sink| SinkMetrics {
                    name: sink.name.clone(),
                    pending: sink.pending,
                    failed: sink.failed,
                    last_delivered: sink.last_delivered,
                    resting: sink.state == SinkState::Resting,
                    stopped: sink.state == SinkState::Stopped,
                })
                .collect(),
            lateness: snapshot.map(|snapshot| snapshot.lateness.clone()).unwrap_or_default(),
            findings: report.findings.iter().map(|finding| finding.code.to_string()).collect(),
        }
    }
}

fn account_metrics(row: &DashboardRow, status: &AccountStatus, backfills: &[BackfillStatus]) -> AccountMetrics {
    let own_backfills = backfills.iter().filter(|backfill| backfill.sub_account_id == row.sub);
    let unread = own_backfills.clone().map(|backfill| backfill.seconds.saturating_sub(backfill.read_seconds));
    AccountMetrics {
        sub: row.sub.clone(),
        watermark: row.watermark,
        work: WorkItemCounts {
            ready: row.work.ready,
            waiting: row.work.waiting,
            running: row.work.running,
            done: row.work.done,
            unavailable: row.work.unavailable,
            failed: row.work.failed,
        },
        requests_last_minute: row.requests_last_minute,
        request_limit: row.request_limit,
        refused: status.refused,
        paused: row.paused.iter().map(|pause| pause.endpoint).collect(),
        oldest_unfinished_seconds: status.oldest_unfinished_seconds.unwrap_or(0),
        gaps_seconds: u64::try_from(millis(row.gaps) / 1000).unwrap_or(0),
        drain_seconds: row.drain_time.as_secs(),
        set_aside: row.set_aside,
        missing: row.missing,
        backfills: own_backfills.count() as u64,
        backfill_unread_seconds: unread.sum(),
    }
}
