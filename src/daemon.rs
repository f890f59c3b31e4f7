//! The daemon: opens the database, acquires accounts, runs a discovery task and a fetch worker for
//! each, and shuts down in an orderly way.
//!
//! Tasks are spawned only here. A task that ends before it is stopped stops all others, and its
//! error becomes the exit status. Normal start and crash recovery are the same: accounts are
//! acquired under a new epoch, whoever owned them before.

pub(crate) mod account_registry;
pub mod app_context;
pub(crate) mod assignment;
pub mod consistency_check;
pub(crate) mod credential_expiry;
pub(crate) mod credential_reload;
pub(crate) mod delivery;
pub(crate) mod discovery;
pub(crate) mod fetch_worker;
pub(crate) mod heartbeat;
pub(crate) mod indexing;
pub(crate) mod manifest_exporter;
pub mod manifest_writer;
pub(crate) mod recording_sweep;
pub(crate) mod replica_stats;
pub(crate) mod report_writer;
pub(crate) mod retention;
pub(crate) mod signals;
pub(crate) mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Auth, DatabaseUrl, Settings};
use crate::db::{Db, DbError, FileLock};
use crate::error::first_hint;
use crate::http::DatabaseProblem;
use app_context::AppContext;

/// The time between two attempts to open an unavailable database.
const DATABASE_OPEN_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How often systemd's watchdog is notified.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(2);

/// The time between two attempts of a task while the database is unavailable.
const DATABASE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long the tasks of the accounts may take to end at shutdown, before they are aborted. Then
/// the supervisor writes the last results and releases the leases, and the database is closed: each
/// with a time limit of its own. The deployments in `deploy` wait longer than all of them together.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(9);
/// How long closing the database may take at shutdown.
const DATABASE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the database from the settings; on SQLite under a file lock that excludes a second daemon.
///
/// # Errors
/// If it cannot be opened, or another daemon holds the lock.
pub(crate) async fn open_database(settings: &Settings) -> anyhow::Result<(Db, Option<Arc<FileLock>>)> {
    match &settings.database.url {
        DatabaseUrl::Sqlite(path) => {
            let lock = Arc::new(FileLock::acquire(path)?);
            Ok((Db::open_sqlite_for_daemon(path, &lock).await?, Some(lock)))
        }
        DatabaseUrl::Postgres(url) => {
            // Another attempt may come after its file was rewritten.
            let reloaded = settings.database.reload_url().ok().flatten();
            Ok((Db::open_postgres_for_daemon(reloaded.as_ref().unwrap_or(url), 12).await?, None))
        }
    }
}

/// Opens the database. Retries while it is unavailable or full, since a database server may start
/// later than this program. `problem` tells the start-up server what it waits for.
async fn open_database_with_retry(
    settings: &Settings,
    clock: &Clock,
    problem: watch::Sender<Option<DatabaseProblem>>,
) -> anyhow::Result<(Db, Option<Arc<FileLock>>)> {
    loop {
        match open_database(settings).await {
            Err(error) if is_transient(&error) => {
                tracing::warn!(hint = first_hint(&error), "{error}; retrying");
                problem.send_replace(error.downcast_ref::<DbError>().map(DatabaseProblem::from));
                clock.sleep(DATABASE_OPEN_RETRY_INTERVAL).await;
            }
            opened => return opened,
        }
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    error.downcast_ref::<DbError>().is_some_and(DbError::is_transient)
}

fn spawn_task(
    tasks: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
    name: &'static str,
    task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    tasks.spawn(async move { (name, task.await) });
}

/// Runs until `stop`.
///
/// # Errors
/// If it cannot start, or a background task failed or exited unexpectedly.
pub async fn run(settings: Settings, clock: Clock, stop: CancellationToken) -> anyhow::Result<()> {
    let auth = watch::Sender::new(settings.login()?.clone());
    run_with_reload(settings, auth.subscribe(), clock, stop).await
}

/// As [`run`]; `reloaded` has the login of the settings, as they were last loaded.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_with_reload(
    settings: Settings,
    reloaded: watch::Receiver<Auth>,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = crate::http::bind(&settings.http).await?;
    let (problem, problem_seen) = watch::channel(None);
    let opened = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = crate::http::serve_during_startup(listener.as_ref(), &settings.http, problem_seen, open_database_with_retry(&settings, &clock, problem)) => opened,
    };
    let (db, lock) = opened?;
    let context = AppContext::new(settings, db.clone(), clock)?;
    let instance_lock = db.for_heartbeat().lock_instance(&context.settings.database.instance).await?;
    // Before the first metadata is read. If the database does not accept it now, delivery does it
    // later.
    if let Err(error) = delivery::announce_wanted_metadata(&context).await
        && !error.is_transient()
    {
        return Err(error.into());
    }
    if recording_sweep::wants_recordings(&context.settings.accounts) {
        db.require_recording_support().await?;
    }
    let mut tasks = JoinSet::new();
    if let Some(listener) = listener {
        let server = crate::http::serve(listener, context.clone(), stop.clone());
        spawn_task(&mut tasks, "http", async move { server.await.context("the HTTP server failed") });
    }
    let registry = account_registry::run(context.clone(), stop.clone());
    spawn_task(&mut tasks, "account registry", async move { registry.await.context("the account registry failed") });
    spawn_task(&mut tasks, "supervisor", supervisor::run(context.clone(), instance_lock, stop.clone()));
    let delivery = delivery::run(context.clone(), stop.clone());
    spawn_task(&mut tasks, "delivery", async move { delivery.await.context("delivery failed") });
    let indexing = indexing::run(context.clone(), stop.clone());
    spawn_task(&mut tasks, "indexing", async move { indexing.await.context("indexing failed") });
    let retention = retention::run(context.clone(), stop.clone());
    spawn_task(&mut tasks, "retention", async move { retention.await.context("retention failed") });
    let sweep = recording_sweep::run(context.clone(), stop.clone());
    spawn_task(&mut tasks, "recording store", sweep);
    let manifests = manifest_writer::run(context.clone(), stop.clone());
    spawn_task(&mut tasks, "manifests", async move { manifests.await.context("the daily manifests failed") });
    spawn_task(&mut tasks, "consistency check", consistency_check::run(context.clone(), stop.clone()));
    spawn_task(&mut tasks, "daily report", report_writer::run(context.clone(), stop.clone()));
    spawn_task(&mut tasks, "manifest export", manifest_exporter::run(context.clone(), stop.clone()));
    spawn_task(&mut tasks, "credential expiry", credential_expiry::run(context.clone(), stop.clone()));
    spawn_task(&mut tasks, "credential reload", credential_reload::run(context, reloaded, stop.clone()));
    let mut outcome = Ok(());
    loop {
        // The watchdog only shows that the process is alive, so it is notified even while the
        // database or the API is unavailable.
        let ended = tokio::select! {
            ended = tasks.join_next() => ended,
            () = tokio::time::sleep(WATCHDOG_INTERVAL) => {
                signals::notify_watchdog();
                continue;
            }
        };
        let Some(ended) = ended else { break };
        if outcome.is_ok() {
            outcome = match ended.context("a background task panicked") {
                Ok((name, Ok(()))) if !stop.is_cancelled() => {
                    Err(anyhow::anyhow!("background task `{name}` exited unexpectedly"))
                }
                Ok((_, result)) => result,
                Err(error) => Err(error),
            };
        }
        stop.cancel();
    }
    // Close the database, so that SQLite checkpoints its log, unless its file was replaced. A
    // hanging database must not block the exit.
    if !db.is_file_replaced() {
        let _ = tokio::time::timeout(DATABASE_CLOSE_TIMEOUT, db.close()).await;
    }
    drop(lock);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first number after `key` in a file of the repository, in seconds.
    fn seconds_in(file: &str, key: &str) -> Duration {
        let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let value = text.rsplit_once(key).unwrap().1.trim_start();
        let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
        Duration::from_secs(digits.parse().unwrap())
    }

    #[test]
    fn the_deployments_wait_longer_than_a_shutdown_can_take() {
        // The last second is that of the runtime, in `main.rs`.
        let longest = SHUTDOWN_GRACE
            + supervisor::WRITE_SHUTDOWN_GRACE
            + supervisor::RELEASE_TIMEOUT
            + DATABASE_CLOSE_TIMEOUT
            + Duration::from_secs(1);
        for (file, key) in [
            ("deploy/systemd/ringcx-extractor.service", "TimeoutStopSec="),
            ("deploy/kubernetes/base/deployment.yaml", "terminationGracePeriodSeconds:"),
            ("deploy/kubernetes/overlays/postgres/statefulset.yaml", "terminationGracePeriodSeconds:"),
            ("deploy/docker/compose.yaml", "stop_grace_period:"),
            ("deploy/docker/compose.postgres.yaml", "stop_grace_period:"),
        ] {
            let waits = seconds_in(file, key);
            assert!(waits >= longest + Duration::from_secs(5), "{file}: {waits:?}, but up to {longest:?} are needed");
        }
    }
}
