//! Keeps one account's discovery going: a step, then the wait that the step asked for. Before a step, work that a wrong clock
//! has parked is released.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::clock_watch::ClockWatch;
use crate::account::Account;
use crate::db::{DbFault, LongestWaits};
use crate::discover::{Discoverer, Progress};

/// Between tries while the database is away.
const PATIENCE: Duration = Duration::from_secs(1);

/// Discovers until `stop`.
///
/// # Errors
/// Where the database fails in a way that waiting does not cure.
pub async fn run(
    account: Arc<Account>,
    mut discoverer: Discoverer,
    longest: LongestWaits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut watch = ClockWatch::new(&account.clock);
    // An earlier process may have had a wrong clock.
    let mut parked = true;
    loop {
        parked |= watch.stepped_back(&account.clock);
        // A read that is under way is dropped when the daemon ends: its window is simply read again.
        let step = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            step = async {
                if parked {
                    parked = !release_parked(&account, longest).await;
                }
                discoverer.step().await
            } => step,
        };
        let pause = match step {
            Ok(Progress::Did) => continue,
            Ok(Progress::Idle(pause)) => pause,
            Err(error) if account.db.recovers_from(&error) => {
                // The session says it, once for all accounts.
                tracing::debug!(account = %account.id, %error, "discovery waits for the database");
                PATIENCE
            }
            Err(error) if error.fault() == DbFault::Lost => {
                tracing::warn!(account = %account.id, "the account has another owner now");
                stop.cancelled().await;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = account.clock.sleep(pause) => {}
            () = account.discover.notified() => {
                if let Err(error) = discoverer.reload().await {
                    tracing::warn!(account = %account.id, %error, "failed to look for new requests");
                }
            }
        }
    }
}

/// Releases what a wrong clock has parked; whether that is done. Before the API has said what time it is, this machine's clock
/// may be the wrong one.
async fn release_parked(account: &Account, longest: LongestWaits) -> bool {
    let (now, tick) = (account.clock.now(), account.clock.tick());
    let Some(newest) = account.api.time(now, tick).newest else { return false };
    match account.db.release_parked(account.owned, now, newest.max(now), longest).await {
        Ok(0) => {}
        Ok(rows) => tracing::warn!(account = %account.id, rows,
            "what was put off by a clock that was ahead is due again"),
        Err(error) => {
            tracing::debug!(account = %account.id, %error, "failed to look for what a wrong clock has put off");
            return false;
        }
    }
    // What is held in memory was put off by that clock, too.
    account.work.notify_one();
    true
}
