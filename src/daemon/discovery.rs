//! Keeps one account's discovery going: a step, then the wait that the step asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::db::DbFault;
use crate::discover::{Discoverer, Progress};

/// Between tries while the database is away.
const PATIENCE: Duration = Duration::from_secs(1);

/// Discovers until `stop`.
///
/// # Errors
/// Where the database fails in a way that waiting does not cure.
pub async fn run(account: Arc<Account>, mut discoverer: Discoverer, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        // A read that is under way is dropped when the daemon ends: its window is simply read again.
        let step = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            step = discoverer.step() => step,
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
