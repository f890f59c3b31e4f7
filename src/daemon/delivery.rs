//! Runs delivery: one task per sink, so that no sink delays another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DATABASE_RETRY_INTERVAL;
use super::app_context::AppContext;
use crate::config::{AccountSettings, Accounts, Settings, Sink, SinkKind};
use crate::db::{DbError, DbFault};
use crate::deliver::{Deliverer, DeliveryContext, DeliveryProgress};

/// How long delivery waits for further results after a new one, so that it does not write once per
/// artifact.
const BATCH_DELAY: Duration = Duration::from_millis(100);

/// The same for object stores, which collect larger objects anyway.
const OBJECT_BATCH_DELAY: Duration = Duration::from_secs(1);

/// How often it is checked which sinks were told about erasures.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(5);

/// How long deliveries under way may take at shutdown.
const DELIVERY_SHUTDOWN_GRACE: Duration = Duration::from_secs(6);

/// Runs until `stop`.
///
/// # Errors
/// If the task of a sink panics.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for sink in &context.settings.sinks {
        tasks.spawn(deliver_to_sink(context.clone(), sink.clone(), stop.clone()));
    }
    tasks.spawn(maintain_feed(context.clone(), stop.clone()));
    // A sink's task ends before `stop` only if it panics. That stops the daemon, as for any other
    // background task.
    while !tasks.is_empty() && !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = tasks.join_next() => ended.context("the task of a sink panicked")?,
        }
    }
    stop.cancelled().await;
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DELIVERY_SHUTDOWN_GRACE, all).await.is_err() {
        tracing::warn!("a delivery under way did not finish in time; it is delivered again");
        tasks.abort_all();
    }
    Ok(())
}

/// Has metadata announced in the feeds if a sink asks for it.
pub(super) async fn announce_wanted_metadata(context: &AppContext) -> Result<(), DbError> {
    context.db.announce_metadata(context.settings.sinks.iter().any(wants_metadata)).await
}

/// Whether the sink is told about announced and changed metadata. Tables have a row for each segment.
fn wants_metadata(sink: &Sink) -> bool {
    sink.metadata || matches!(sink.kind, SinkKind::Lake(_))
}

/// Removes the ids of erased segments once every sink was told about the erasure.
async fn maintain_feed(context: Arc<AppContext>, stop: CancellationToken) {
    let sinks: Vec<&str> = context.settings.sinks.iter().map(|sink| sink.name.as_str()).collect();
    while !stop.is_cancelled() {
        let maintained = async {
            announce_wanted_metadata(&context).await?;
            context.db.forget_delivered_erasures(&sinks, context.clock.now()).await
        };
        match maintained.await {
            Ok(0) => {}
            Ok(segments) => tracing::debug!(segments, "removed the ids of erased segments; every sink was told"),
            Err(error) => tracing::debug!(%error, "the feeds are maintained later"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = context.clock.sleep(MAINTENANCE_INTERVAL) => {}
        }
    }
}

/// Delivers to one sink: a step, then a wait for its time, a new result, or a command.
async fn deliver_to_sink(context: Arc<AppContext>, sink: Sink, stop: CancellationToken) {
    let batch_delay = match sink.kind {
        SinkKind::ObjectStore { .. } | SinkKind::Lake(_) => OBJECT_BATCH_DELAY,
        SinkKind::Jsonl { .. } | SinkKind::Webhook(_) => BATCH_DELAY,
    };
    let (mut stored, mut changes) = (context.subscribe_stored(), context.subscribe_changes());
    let mut deliverer = Deliverer::new(sink, delivery_context(&context, &stop));
    while !stop.is_cancelled() {
        stored.borrow_and_update();
        let until = match deliverer.step().await {
            Ok(DeliveryProgress::Worked) => continue,
            Ok(DeliveryProgress::Idle(until)) => until,
            Err(error) if error.is_transient() || error.fault() == DbFault::LeaseLost => {
                // The supervisor logs it, once for all tasks.
                tracing::debug!(sink = deliverer.name(), %error, "delivery waits for the database");
                context.clock.sleep(DATABASE_RETRY_INTERVAL).await;
                continue;
            }
            Err(error) => deliverer.pause_on_error(&error),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.clock.sleep_until(until) => {}
            Ok(()) = changes.changed() => deliverer.retry_now(),
            Ok(()) = stored.changed() => tokio::select! {
                () = stop.cancelled() => return,
                () = context.clock.sleep(batch_delay) => {}
            },
        }
    }
}

fn delivery_context(context: &Arc<AppContext>, stop: &CancellationToken) -> DeliveryContext {
    let accounts = context.clone();
    DeliveryContext {
        db: context.db.clone(),
        clock: context.clock.clone(),
        owner: context.settings.database.instance.clone(),
        leases: Arc::new(move || accounts.accounts().iter().map(|account| account.lease).collect()),
        account_names: Arc::new(configured_names(&context.settings)),
        sink_pauses: context.sinks.clone(),
        stop: stop.clone(),
    }
}

/// The names of accounts in the settings, by sub-account id.
fn configured_names(settings: &Settings) -> BTreeMap<String, String> {
    match &settings.accounts {
        Accounts::Listed(listed) => {
            let name = |account: &AccountSettings| Some((account.id.sub.to_string(), account.name.clone()?));
            listed.iter().filter_map(name).collect()
        }
        Accounts::Discovered(_) => BTreeMap::new(),
    }
}
