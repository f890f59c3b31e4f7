//! Writes each account's manifest soon after a UTC day is over: where its hash chain stands.
//!
//! Only the account's owner does. An account to which nothing has come since its last manifest writes none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::clock::Time;
use crate::db::{Db, DbError, DbFault, Owned};

/// How often is looked whether a day is over or an account has come.
const LOOK: Duration = Duration::from_secs(60);

/// Goes on until `stop`.
///
/// # Errors
/// Where waiting will not help.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut sealer = Sealer::default();
    // An account is taken a moment after the start, and has nothing to seal that cannot wait.
    loop {
        let look = shared.clock.tick() + LOOK;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = shared.clock.sleep_until(look) => {}
        }
        let owned: Vec<Owned> = shared.accounts().iter().map(|account| account.owned).collect();
        let sealed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            sealed = sealer.step(&shared.db, &owned, shared.clock.now()) => sealed,
        };
        match sealed {
            Ok(0) => {}
            Ok(manifests) => tracing::info!(manifests, "a day is over: sealed where each account stands"),
            // The session says it, once for all.
            Err(error) if error.is_passing() => tracing::debug!(%error, "the manifests wait for the database"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Knows which accounts have been looked at today, so that it costs the database next to nothing.
#[derive(Debug, Default)]
pub struct Sealer {
    /// By account: epoch, and the day that had begun.
    done: BTreeMap<i64, (i64, i64)>,
}

impl Sealer {
    /// Seals what is due; returns how many manifests were written.
    ///
    /// # Errors
    /// Where the database does not take them. What was lost to another owner is no error: that one seals it.
    pub async fn step(&mut self, db: &Db, owned: &[Owned], now: Time) -> Result<u64, DbError> {
        let today = now.0.div_euclid(86_400_000);
        let mut sealed = 0;
        for owned in owned {
            if self.done.get(&owned.account) == Some(&(owned.epoch, today)) {
                continue;
            }
            match db.seal_day(*owned, now).await {
                Ok(manifest) => sealed += u64::from(manifest.is_some()),
                Err(error) if error.fault() == DbFault::Lost => {}
                Err(error) => return Err(error),
            }
            self.done.insert(owned.account, (owned.epoch, today));
        }
        Ok(sealed)
    }
}
