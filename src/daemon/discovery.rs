//! Runs the discovery of one account: a step, then the wait that the step returned. Before a step,
//! items that a wrong clock has deferred are released.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::DATABASE_RETRY_INTERVAL;
use super::clock_watch::ClockWatch;
use crate::account::Account;
use crate::db::{DbFault, MaxDelays};
use crate::discover::{Discoverer, DiscoveryProgress};

/// Runs until `stop`.
///
/// # Errors
/// If the database fails with an error that is not transient.
pub(crate) async fn run(
    account: Arc<Account>,
    mut discoverer: Discoverer,
    max_delays: MaxDelays,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut clock_watch = ClockWatch::new(&account.clock);
    // An earlier process may have had a wrong clock.
    let mut has_parked = true;
    loop {
        has_parked |= clock_watch.stepped_back(&account.clock);
        // A read that is under way is dropped at shutdown: its window is read again later.
        let step = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            step = async {
                if has_parked {
                    has_parked = !release_parked(&account, max_delays).await;
                }
                discoverer.step().await
            } => step,
        };
        let pause = match step {
            Ok(DiscoveryProgress::Advanced) => continue,
            Ok(DiscoveryProgress::Idle(pause)) => pause,
            Err(error) if account.db.is_recoverable(&error) => {
                // The supervisor logs it, once for all accounts.
                tracing::debug!(account = %account.id, %error, "discovery waits for the database");
                DATABASE_RETRY_INTERVAL
            }
            Err(error) if error.fault() == DbFault::LeaseLost => {
                tracing::warn!(account = %account.id, "the account has another owner now");
                stop.cancelled().await;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = account.clock.sleep(pause) => {}
            () = account.reads_requested.notified() => {
                if let Err(error) = discoverer.reload().await {
                    tracing::warn!(account = %account.id, %error, hint = error.hint(), "failed to load new requests");
                }
            }
        }
    }
}

/// Releases items that a wrong clock has deferred. Returns whether that is done: without a time of
/// the API, this machine's clock may be the wrong one.
async fn release_parked(account: &Account, max_delays: MaxDelays) -> bool {
    let (now, tick) = (account.clock.now(), account.clock.tick());
    let Some(newest) = account.api.api_time(now, tick).newest else { return false };
    match account.db.repair_future_dated_work(account.lease, now, newest.max(now), max_delays).await {
        Ok(0) => {}
        Ok(rows) => tracing::warn!(account = %account.id, rows,
            "items that were deferred by a clock that was ahead are due again"),
        Err(error) => {
            tracing::debug!(account = %account.id, %error, "failed to release items that a wrong clock has deferred");
            return false;
        }
    }
    // Items in memory were deferred by that clock, too.
    account.work_queued.notify_one();
    true
}
