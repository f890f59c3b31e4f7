//! A snapshot of the whole status at one moment, for the console and the metrics. Reads `db` and
//! `status`, writes nothing.
//!
//! It takes a few statements for all accounts together.

use crate::daemon::app_context::AppContext;
use crate::daemon::replica_stats;
use crate::db::DbError;
use crate::health::Snapshot;
use crate::status;

/// The status at one moment.
#[derive(Debug, Clone)]
pub(super) struct StatusSnapshot {
    /// The content of `status --json`.
    pub(super) status: Snapshot,
    /// Counts of delays; see `MetricsSnapshot::lateness`.
    pub(super) lateness: Vec<(String, i64, u64)>,
}

/// Takes a snapshot.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn take_snapshot(app: &AppContext) -> Result<StatusSnapshot, DbError> {
    let (db, settings, now) = (&app.db, &app.settings, app.clock.now());
    let own = replica_stats::replica_stats(app);
    let status = status::gather(db, settings, &settings.database.instance, Some(own), now).await?;
    Ok(StatusSnapshot { status, lateness: db.lateness_of_all().await? })
}
