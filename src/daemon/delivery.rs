//! Keeps delivery going: each sink by itself, so that none holds up another.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::config::{Sink, SinkKind};
use crate::db::DbFault;
use crate::deliver::{Deliverer, Means, Progress};

/// Between tries while the database is away.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is stored within so long goes out together, so that delivery does not write once for every artifact.
const GATHER: Duration = Duration::from_millis(100);

/// Objects wait for more anyway.
const GATHER_OBJECTS: Duration = Duration::from_secs(1);

/// How long what is under way may take when everything ends.
const LAST_ORDERS: Duration = Duration::from_secs(6);

/// Goes on until `stop`.
///
/// # Errors
/// Where a sink's task ended of itself.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for sink in &shared.settings.sinks {
        tasks.spawn(follow(shared.clone(), sink.clone(), stop.clone()));
    }
    // A sink's task ends before only where it panics; that ends everything, as any other part of the daemon would.
    while !tasks.is_empty() && !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = tasks.join_next() => ended.context("a sink's task ended abnormally")?,
        }
    }
    stop.cancelled().await;
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ORDERS, all).await.is_err() {
        tracing::warn!("a sink did not take in time what was under way; it is delivered again");
        tasks.abort_all();
    }
    Ok(())
}

/// Steps one sink, then waits for what the step asked for, for what is stored, or for a person.
async fn follow(shared: Arc<Shared>, sink: Sink, stop: CancellationToken) {
    let gather = match sink.kind {
        SinkKind::ObjectStore { .. } => GATHER_OBJECTS,
        SinkKind::Jsonl { .. } | SinkKind::Webhook { .. } => GATHER,
    };
    let (mut stored, mut rings) = (shared.stored(), shared.rings());
    let mut deliverer = Deliverer::new(sink, means(&shared, &stop));
    while !stop.is_cancelled() {
        stored.borrow_and_update();
        let until = match deliverer.step().await {
            Ok(Progress::Did) => continue,
            Ok(Progress::Idle(until)) => until,
            Err(error) if error.is_passing() || error.fault() == DbFault::Lost => {
                // The session says it, once for all.
                tracing::debug!(sink = deliverer.name(), %error, "delivery waits for the database");
                shared.clock.sleep(PATIENCE).await;
                continue;
            }
            Err(error) => deliverer.trouble(&error),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.clock.sleep_until(until) => {}
            Ok(()) = rings.changed() => deliverer.rung(),
            Ok(()) = stored.changed() => tokio::select! {
                () = stop.cancelled() => return,
                () = shared.clock.sleep(gather) => {}
            },
        }
    }
}

fn means(shared: &Arc<Shared>, stop: &CancellationToken) -> Means {
    let accounts = shared.clone();
    Means {
        db: shared.db.clone(),
        clock: shared.clock.clone(),
        owner: shared.settings.database.instance.clone(),
        mine: Arc::new(move || accounts.accounts().iter().map(|account| account.owned).collect()),
        board: shared.sinks.clone(),
        stop: stop.clone(),
    }
}
