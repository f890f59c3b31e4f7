//! Runs the discovery of one account: a step, then the wait that the step returned.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::DATABASE_RETRY_INTERVAL;
use crate::account::Account;
use crate::db::DbFault;
use crate::discover::Discoverer;

/// Runs until `stop`.
///
/// # Errors
/// If the database fails with an error that is not transient.
pub(crate) async fn run(
    account: Arc<Account>,
    mut discoverer: Discoverer,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        // A read that is under way is dropped at shutdown: its window is read again later.
        let step = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            step = discoverer.step() => step,
        };
        let pause = match step {
            Ok(None) => continue,
            Ok(Some(pause)) => pause,
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
            () = account.reads_requested.notified() => discoverer.reload(),
        }
    }
}
