//! The daemon: opens what is needed, takes its accounts, runs a discovery loop and a drain loop for each, and ends in good
//! order.
//!
//! Only here are tasks spawned. A task that ends before it was told to stops all others and becomes the exit status.
//! Normal work and recovery after a crash are the same: accounts are taken under a new epoch, and nobody assumes who
//! worked on them before.

pub mod beat;
mod clock_watch;
pub mod credential;
pub mod delivery;
pub mod discovery;
pub mod drain;
pub mod findings;
pub mod heartbeat;
pub mod indexing;
pub mod manifests;
pub mod retention;
pub mod roster;
pub mod session;
pub mod shared;
pub mod sharing;
pub mod signals;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{DatabaseUrl, Settings};
use crate::db::{Db, DbError, FileLock};
use crate::http::Trouble;
use shared::Shared;

/// Between tries to open a database that is away.
const AGAIN: Duration = Duration::from_secs(2);

/// How often systemd's watchdog is told that the daemon lives.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(2);

/// How long the end of everything may take before the process gives up on order.
const LAST_ORDERS: Duration = Duration::from_secs(9);

/// Opens the database that the settings name; on SQLite under a lock that keeps a second daemon out.
///
/// # Errors
/// Where it cannot be opened, or another daemon holds it.
pub async fn open(settings: &Settings) -> anyhow::Result<(Db, Option<Arc<FileLock>>)> {
    match &settings.database.url {
        DatabaseUrl::Sqlite(path) => {
            let lock = Arc::new(FileLock::take(path)?);
            Ok((Db::open_sqlite_to_serve(path, &lock).await?, Some(lock)))
        }
        DatabaseUrl::Postgres(url) => Ok((Db::open_postgres_to_serve(url, 12).await?, None)),
    }
}

/// Opens the database, waiting for one that is merely away, or without room: a server may start later than this program,
/// and whoever keeps watch sees by `waits` what it waits for.
async fn open_patiently(
    settings: &Settings,
    clock: &Clock,
    waits: watch::Sender<Option<Trouble>>,
) -> anyhow::Result<(Db, Option<Arc<FileLock>>)> {
    loop {
        match open(settings).await {
            Err(error) if is_passing(&error) => {
                let text = error.to_string();
                let (what, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
                tracing::warn!(hint, "{what}; trying again");
                waits.send_replace(error.downcast_ref::<DbError>().map(Trouble::from));
                clock.sleep(AGAIN).await;
            }
            opened => return opened,
        }
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<DbError>().is_some_and(DbError::is_passing)
}

/// Runs until `stop`.
///
/// # Errors
/// Where it cannot start, or a part of it ended of itself.
pub async fn run(settings: Settings, clock: Clock, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = crate::http::bind(&settings.http).await?;
    let (waits, seen) = watch::channel(None);
    let opened = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = crate::http::meanwhile(listener.as_ref(), &settings.http, seen, open_patiently(&settings, &clock, waits)) => opened,
    };
    let (db, lock) = opened?;
    let shared = Shared::new(settings, db.clone(), clock)?;
    let name = db.for_heartbeat().lock_name(&shared.settings.database.instance).await?;
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(listener) = listener {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { crate::http::serve(listener, shared, stop).await.context("the HTTP server failed") });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { roster::run(shared, stop).await.context("the account registry ended") });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { session::run(shared, name, stop).await });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { delivery::run(shared, stop).await.context("delivery ended") });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { indexing::run(shared, stop).await.context("indexing ended") });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { retention::run(shared, stop).await.context("retention ended") });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { manifests::run(shared, stop).await.context("the daily manifests ended") });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { findings::run(shared, stop).await });
    }
    {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { credential::run(shared, stop).await });
    }
    let mut outcome = Ok(());
    loop {
        // Waits for nothing: systemd is told that the daemon lives, also while the database or the API does not answer.
        let ended = tokio::select! {
            ended = tasks.join_next() => ended,
            () = tokio::time::sleep(WATCHDOG_INTERVAL) => {
                signals::alive();
                continue;
            }
        };
        let Some(ended) = ended else { break };
        let ended = ended.context("a part of the daemon ended abnormally").and_then(|result| result);
        if outcome.is_ok() {
            outcome = match ended {
                Ok(()) if !stop.is_cancelled() => Err(anyhow::anyhow!("a part of the daemon ended of itself")),
                ended => ended,
            };
        }
        stop.cancel();
    }
    // Close what is open, so that SQLite folds its log back, unless another file stands in its place by now; a database that
    // hangs must not keep us.
    if !db.is_replaced() {
        let _ = tokio::time::timeout(Duration::from_secs(2), db.close()).await;
    }
    drop(lock);
    outcome
}
