//! The shared state of the HTTP handlers: the database ping, the status snapshot, and the
//! dashboard's viewers.
//!
//! It only reads. Ping and snapshot are taken on demand, once for all callers (see
//! `single_flight_cache`), and kept for a second or two. So neither probes nor viewers, however
//! many, cost the daemon more than an occasional read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{AccessLog, Authenticator, LoginError};
use crate::archive_reader::ArchiveReader;
use crate::clock::Time;
use crate::config;
use crate::daemon::app_context::AppContext;
use crate::health::{self, AccountStatus, Finding, ProcessState, SinkState, SinkStatus, Snapshot};
use crate::metrics::{AccountMetrics, MetricsSnapshot, SinkMetrics};
use crate::ringcx::LoginState;

use super::api::request_rules::RequestLimiter;
use super::connection::LogThrottle;
use super::health_summary::HealthSummary;
use super::lag_history::{self, LagHistory, LagSample};
use super::live_updates::LiveUpdates;
use super::readiness::{self, DATABASE_TIMEOUT, DatabaseProblem, Readiness};
use super::single_flight_cache::SingleFlightCache;
use super::status_snapshot::{self, StatusSnapshot};
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
    /// Guards the conversations; `None` if the settings let nobody in.
    pub(super) authenticator: Option<Authenticator>,
    pub(super) access_log: AccessLog,
    /// Reads conversations for the API and MCP.
    pub(super) reader: Arc<ArchiveReader>,
    pub(super) request_limiter: RequestLimiter,
    /// The actions that the API carries out, each to its end, also if its client has gone.
    pub(super) actions: TaskTracker,
    /// Throttles the log of refused logins.
    pub(super) refused_logins: LogThrottle,
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
    /// # Errors
    /// If no client of the identity provider can be built.
    pub(super) fn new(app: Arc<AppContext>, stop: CancellationToken) -> Result<HttpState, LoginError> {
        let config::Settings { http, access, .. } = &app.settings;
        let authenticator = Authenticator::new(http.token.as_ref(), access, app.clock.clone(), app.db.clone())?;
        let access_log = AccessLog::new(app.db.clone(), app.clock.clone()).with_metrics(app.metrics.clone());
        Ok(HttpState {
            authenticator,
            reader: Arc::new(ArchiveReader::new(
                app.db.clone(),
                Arc::new(app.settings.clone()),
                app.clock.clone(),
                access_log.clone(),
                app.recordings.store.clone(),
            )),
            access_log,
            request_limiter: RequestLimiter::new(),
            actions: TaskTracker::new(),
            refused_logins: LogThrottle::default(),
            app,
            stop,
            live_updates: LiveUpdates::new(),
            viewer_permits: Arc::new(Semaphore::new(MAX_VIEWERS)),
            database_ping: SingleFlightCache::new(),
            snapshots: SingleFlightCache::new(),
            last_snapshot: Mutex::new(None),
            history: LagHistory::default(),
        })
    }

    /// Whether the settings let anybody read conversations.
    pub(super) fn has_readers(settings: &config::Settings) -> bool {
        settings.http.token.is_some() || settings.access.oidc.is_some() || !settings.access.keys.is_empty()
    }

    /// Serves the caches, updates viewers, and records the history, until the stop.
    pub(super) async fn run(&self) {
        tokio::join!(
            self.database_ping.run(|| self.ping_database(), &self.stop),
            self.snapshots.run(|| self.take_snapshot(), &self.stop),
            self.stop.run_until_cancelled(self.publish_updates()),
            self.stop.run_until_cancelled(self.record_history()),
        );
    }

    async fn ping_database(&self) -> Result<(), DatabaseProblem> {
        self.app.db.ping().await.map_err(|error| DatabaseProblem::from(&error))
    }

    async fn take_snapshot(&self) -> Result<Arc<StatusSnapshot>, DatabaseProblem> {
        let snapshot = status_snapshot::take_snapshot(&self.app).await;
        let snapshot = Arc::new(snapshot.map_err(|error| DatabaseProblem::from(&error))?);
        let accounts = &snapshot.status.accounts;
        let worst_lag = accounts.iter().filter_map(|account| account.lag(snapshot.at)).max();
        let backlog = accounts.iter().map(|account| account.work.unfinished()).sum();
        self.history.record(LagSample { at: snapshot.at, lag: worst_lag.unwrap_or_default(), backlog });
        *self.last_snapshot() = Some(snapshot.clone());
        Ok(snapshot)
    }

    fn last_snapshot(&self) -> MutexGuard<'_, Option<Arc<StatusSnapshot>>> {
        self.last_snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish_updates(&self) {
        loop {
            self.live_updates.wait_for_viewer().await;
            let report = self.health_report(UPDATE_INTERVAL).await;
            self.live_updates.publish(&self.view(&report));
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
        self.snapshots.get(max_age, DATABASE_TIMEOUT).await.unwrap_or_else(|| Err(DatabaseProblem::timed_out()))
    }

    /// The current health, with a snapshot that is at most `max_age` old if one is available, or
    /// else the last one.
    pub(super) async fn health_report(&self, max_age: Duration) -> HealthReport {
        let (ping, snapshot) =
            tokio::join!(self.database_ping.get(MAX_PING_AGE, DATABASE_TIMEOUT), self.snapshot(max_age));
        let ping = ping.unwrap_or_else(|| Err(DatabaseProblem::timed_out()));
        // The database must answer both.
        let database = ping.and(snapshot.as_ref().map(|_| ()).map_err(DatabaseProblem::clone));
        let snapshot = snapshot.ok().or_else(|| self.last_snapshot().clone());
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

    pub(super) fn view<'a>(&'a self, report: &'a HealthReport) -> DashboardView<'a> {
        let snapshot = report.snapshot.as_deref();
        DashboardView {
            summary: HealthSummary::new(report.findings.clone(), snapshot, report.now),
            snapshot,
            samples: self.history.samples(),
            now: report.now,
            instance: &self.app.settings.database.instance,
            has_search: self.authenticator.is_some(),
        }
    }

    /// The values for the metrics. If the database is unavailable, accounts keep their last known
    /// values, and their lag grows.
    pub(super) fn metrics_snapshot(&self, report: &HealthReport) -> MetricsSnapshot {
        let snapshot = report.snapshot.as_deref();
        let status = snapshot.map(|snapshot| &snapshot.status);
        let accounts = status.map(|status| status.accounts.iter().map(|account| account_metrics(account, status)));
        let sinks = status.map(|status| status.sinks.iter().map(sink_metrics));
        MetricsSnapshot {
            now: report.now,
            database_up: report.database.is_ok(),
            wal_bytes: self.app.db.wal_bytes(),
            disk_up: !matches!(&report.database, Err(problem) if problem.is_disk),
            login_up: !matches!(self.app.login.state(), LoginState::Failing { .. }),
            ready: report.readiness.ready,
            working: self.app.is_active(),
            credential_expires: self.app.credential_expiry(),
            clock_skew_seconds: self.app.api.clock_offset_ms() as f64 / 1000.0,
            index_lag: status.map(|status| (status.search_index.lag_changes, status.search_index.lag_seconds)),
            accounts: accounts.into_iter().flatten().collect(),
            sinks: sinks.into_iter().flatten().collect(),
            lateness: snapshot.map(|snapshot| snapshot.lateness.clone()).unwrap_or_default(),
            findings: report.findings.iter().map(|finding| finding.code.to_string()).collect(),
        }
    }
}

fn sink_metrics(sink: &SinkStatus) -> SinkMetrics {
    SinkMetrics {
        name: sink.name.clone(),
        pending: sink.pending,
        failed: sink.failed,
        last_delivered: sink.last_delivered,
        resting: sink.state == SinkState::Resting,
        stopped: sink.state == SinkState::Stopped,
    }
}

fn account_metrics(account: &AccountStatus, status: &Snapshot) -> AccountMetrics {
    let backfills = status.backfills.iter().filter(|backfill| backfill.sub_account_id == account.sub_account_id);
    let unread = backfills.clone().map(|backfill| backfill.seconds.saturating_sub(backfill.read_seconds));
    AccountMetrics {
        sub: account.sub_account_id.clone(),
        watermark: account.watermark,
        work: account.work,
        requests_last_minute: account.requests_last_minute,
        request_limit: u64::from(account.requests_per_minute),
        refused: account.refused,
        paused: account.paused.iter().map(|pause| pause.endpoint).collect(),
        oldest_unfinished_seconds: account.oldest_unfinished_seconds.unwrap_or(0),
        gaps_seconds: account.gap().as_secs(),
        drain_seconds: account.drain_seconds,
        set_aside: account.set_aside,
        missing: account.missing_since.is_some(),
        backfills: backfills.count() as u64,
        backfill_unread_seconds: unread.sum(),
    }
}
