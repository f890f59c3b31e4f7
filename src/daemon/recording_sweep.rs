//! Keeps the recording store in step with the archive: deletes what was erased soon, and compares
//! the two once a day.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use crate::clock::{Tick, Time};
use crate::config::Accounts;
use crate::health::{Finding, FindingCode, Severity};
use crate::model::Artifact;
use crate::recordings::sweep::{self, SweepError, SweepSummary};

/// How often it is looked for objects that are to be deleted.
const DELETION_INTERVAL: Duration = Duration::from_secs(30);
/// How often uploads that never ended are discarded.
const UPLOAD_INTERVAL: Duration = Duration::from_secs(3600);
/// How often the store and the archive are compared.
const COMPARISON_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Runs until `stop`.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let started = context.clock.now();
    let mut task =
        RecordingSweep { context, started, last_uploads: None, last_comparison: None, most_were_missing: false };
    tokio::select! {
        () = stop.cancelled() => {}
        () = task.repeat() => {}
    }
    Ok(())
}

struct RecordingSweep {
    context: Arc<AppContext>,
    started: Time,
    last_uploads: Option<Tick>,
    last_comparison: Option<Tick>,
    /// Whether the last comparison found that most objects were missing.
    most_were_missing: bool,
}

impl RecordingSweep {
    async fn repeat(&mut self) {
        let clock = self.context.clock.clone();
        let mut changes = self.context.subscribe_changes();
        loop {
            match self.step().await {
                Ok(()) => {
                    self.context.findings.clear(FindingCode::RecordingStoreFailed, None);
                }
                // The supervisor reports an unavailable database.
                Err(SweepError::Database(error)) => {
                    tracing::debug!(%error, "failed to compare the recording store with the archive; retrying later");
                }
                Err(error @ SweepError::Store(_)) => self.report(&error),
            }
            tokio::select! {
                () = clock.sleep(DELETION_INTERVAL) => {}
                // A person may have erased something.
                Ok(()) = changes.changed() => {}
            }
        }
    }

    async fn step(&mut self) -> Result<(), SweepError> {
        let AppContext { db, recordings, clock, settings, .. } = &*self.context;
        let (store, tick, now) = (&recordings.store, clock.tick(), clock.now());
        let deleted = sweep::delete_unnamed_objects(db, store, now).await?;
        if deleted > 0 {
            tracing::info!(objects = deleted, "deleted erased recordings from the store");
        }
        // Without recordings the store is left alone: its folder may not even exist.
        if !wants_recordings(&settings.accounts) && !db.has_recordings().await? {
            return Ok(());
        }
        let is_due = |last: Option<Tick>, interval| last.is_none_or(|last| tick.since(last) >= interval);
        if is_due(self.last_uploads, UPLOAD_INTERVAL) {
            let started = self.last_uploads.is_none().then_some(self.started);
            // A SQLite archive has one daemon.
            let is_alone = db.sqlite_path().is_some();
            let owner = &recordings.owner;
            let discarded = sweep::discard_dead_uploads(db, store, owner, (started, is_alone), now).await?;
            if discarded > 0 {
                tracing::info!(uploads = discarded, "discarded recordings that were not stored completely");
            }
            self.last_uploads = Some(tick);
        }
        if is_due(self.last_comparison, COMPARISON_INTERVAL) {
            let summary = sweep::compare(db, store, now, self.most_were_missing).await?;
            self.report_comparison(summary);
            self.most_were_missing = summary.postponed > 0;
            self.last_comparison = Some(tick);
        }
        Ok(())
    }

    fn report_comparison(&self, summary: SweepSummary) {
        let SweepSummary { orphans, kept_orphans, missing, postponed, requested } = summary;
        if summary != SweepSummary::default() {
            let what = "compared the recording store with the archive";
            tracing::info!(orphans, kept_orphans, missing, postponed, requested, "{what}");
        }
        if kept_orphans > 0 {
            let store = self.context.recordings.store.display_name();
            tracing::warn!(
                objects = kept_orphans,
                store,
                hint = "give each archive a store of its own; if these objects are left over, delete them by hand",
                "most objects of the recording store are of no recording of this archive; they are kept"
            );
        }
        if missing == 0 {
            self.context.findings.clear(FindingCode::RecordingsMissing, None);
            return;
        }
        if postponed > 0 {
            let sentence = format!("most recordings ({missing}) are not in the recording store");
            let hint = "check that recordings.store is the right place, mounted, and shared by all replicas, then \
                        restart the daemon; otherwise it requests these recordings again in a day";
            self.finding(FindingCode::RecordingsMissing, Severity::Trouble, sentence, hint);
            return;
        }
        let sentence = format!("{missing} recordings are not in the recording store; they are requested again");
        let hint = "check recordings.store; `ringcx-extractor verify` lists those that stay missing";
        self.finding(FindingCode::RecordingsMissing, Severity::Warning, sentence, hint);
    }

    fn report(&self, error: &SweepError) {
        let hint = error.hint().unwrap_or("check recordings.store").to_owned();
        self.finding(FindingCode::RecordingStoreFailed, Severity::Trouble, error.to_string(), &hint);
    }

    fn finding(&self, code: FindingCode, severity: Severity, sentence: String, hint: &str) {
        let finding = Finding::new(code, severity, self.context.clock.now(), sentence, hint);
        self.context.findings.report_and_log(finding);
    }
}

/// Whether an account requests recordings.
pub(super) fn wants_recordings(accounts: &Accounts) -> bool {
    match accounts {
        Accounts::Listed(listed) => {
            listed.iter().any(|account| account.policy.wants.artifacts.contains(Artifact::Recording))
        }
        Accounts::Discovered(discovered) => discovered.policy.wants.artifacts.contains(Artifact::Recording),
    }
}
