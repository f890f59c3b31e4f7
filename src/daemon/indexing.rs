//! Keeps the full-text index up to date with the archive: steps for as long as there is work, then
//! a wait for more.
//!
//! Nothing else depends on the index: a failure is reported and retried, and other tasks continue.
//! Idle accounts cost nothing: all accounts are checked together, periodically and when results are
//! stored.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use crate::db::Lease;
use crate::health::{Finding, FindingCode, Severity};
use crate::search::DocumentSource;
use crate::search_indexer::{IndexProgress, Indexer};

/// The time between two checks without a notification, for changes of metadata.
const INDEX_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How long indexing waits for further results. Results are indexed together: each step costs a
/// transaction and later merges of the index, and the texts of a segment should be indexed once.
const BATCH_DELAY: Duration = Duration::from_millis(500);
/// The time between two attempts while the index cannot be written.
const INDEX_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until `stop`.
///
/// # Errors
/// None. An index that cannot be written is retried.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let indexer = Indexer::new(context.db.clone());
    let mut stored = context.subscribe_stored();
    let mut is_reported = false;
    let mut skipped = None;
    while !stop.is_cancelled() {
        stored.mark_unchanged();
        let leases = active_leases(&context);
        // A step that is under way is dropped at shutdown: it is done again later.
        let step = tokio::select! {
            () = stop.cancelled() => break,
            step = indexer.step(&leases), if !leases.is_empty() => step,
            () = std::future::ready(()), if leases.is_empty() => Ok(IndexProgress::Idle),
        };
        match step {
            Ok(progress) => {
                if std::mem::take(&mut is_reported) {
                    context.findings.clear(FindingCode::SearchIndexFailed, None);
                }
                if progress != IndexProgress::Idle || skipped.is_none() {
                    skipped = Some(report_skipped(&context, skipped.unwrap_or(0)).await);
                }
                match progress {
                    IndexProgress::MoreToDo => {}
                    IndexProgress::CaughtUp if stored.has_changed().unwrap_or(false) => wait(&stop, BATCH_DELAY).await,
                    IndexProgress::CaughtUp => {}
                    IndexProgress::Idle => tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(INDEX_POLL_INTERVAL) => {}
                        changed = stored.changed() => if changed.is_ok() { wait(&stop, BATCH_DELAY).await },
                    },
                }
            }
            Err(error) => {
                if !error.is_transient() && !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!(%error, hint = error.hint(), "failed to update the full-text index; retrying");
                    context.findings.report(Finding::new(
                        FindingCode::SearchIndexFailed,
                        Severity::Warning,
                        context.clock.now(),
                        "the full-text index cannot be written: searches do not find new conversations",
                        "see the log; the index is retried automatically, and nothing else waits for it",
                    ));
                }
                wait(&stop, INDEX_RETRY_INTERVAL).await;
            }
        }
    }
    Ok(())
}

/// Reports the documents that could not be indexed, if any. Returns their number.
async fn report_skipped(context: &AppContext, known: u64) -> u64 {
    let (count, first, segment) = match context.db.skipped_documents().await {
        Ok(Some(skipped)) => skipped,
        Ok(None) => {
            context.findings.clear(FindingCode::DocumentsNotIndexed, None);
            return 0;
        }
        // The count is read again after the next step.
        Err(_) => return known,
    };
    let source = DocumentSource::of_item(first.item).name();
    let sentence = format!(
        "{count} of the texts in the archive are not indexed, so searches do not find them; the first is {source} of segment {segment}: {}",
        first.reason
    );
    if count > known {
        tracing::warn!(count, %segment, source, reason = %first.reason, "a text could not be indexed for search");
    }
    let (code, since) = (FindingCode::DocumentsNotIndexed, context.clock.now());
    let hint = "`show` and `export` include them; report this with the version, since an upgrade may index them";
    context.findings.report(Finding::new(code, Severity::Warning, since, sentence, hint));
    count
}

/// The leases of the accounts that this process currently works on.
fn active_leases(context: &AppContext) -> Vec<Lease> {
    if !context.is_active() {
        return Vec::new();
    }
    context.accounts().iter().map(|account| account.lease).collect()
}

async fn wait(stop: &CancellationToken, span: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(span) => {}
    }
}
