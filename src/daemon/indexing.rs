//! Keeps the full-text index up with the archive: a step, another while there is something to do, then a wait for more.
//!
//! The index is no condition of anything else: whatever befalls it is said, tried again, and keeps nothing else from going
//! on. An account where nothing happens costs nothing: one look at all accounts now and then, and one when results come.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::db::Owned;
use crate::health::{Finding, Severity};
use crate::index::{Indexer, Progress};
use crate::search::Source;

/// Between two looks when nobody says that there is something: for what metadata brings.
const TICK: Duration = Duration::from_secs(2);
/// What comes within so long is indexed together: where nothing came for a while, and where results keep coming. A step has its
/// price, however little it does: a transaction, and what the index merges after it.
const GATHER: Duration = Duration::from_millis(500);
const FLOW: Duration = Duration::from_millis(200);
/// Between tries when the index cannot be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// Goes on until `stop`.
///
/// # Errors
/// None, yet: an index that cannot be written is tried again.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let indexer = Indexer::new(shared.db.clone());
    let mut stored = shared.stored();
    let mut complained = false;
    let mut skipped = None;
    while !stop.is_cancelled() {
        stored.mark_unchanged();
        let owned = owned(&shared);
        // A step that is under way is dropped when the daemon ends: it is simply done again.
        let step = tokio::select! {
            () = stop.cancelled() => break,
            step = indexer.step(&owned), if !owned.is_empty() => step,
            () = std::future::ready(()), if owned.is_empty() => Ok(Progress::Idle),
        };
        match step {
            Ok(progress) => {
                if std::mem::take(&mut complained) {
                    shared.findings.clear("search_index_failed", None);
                }
                if progress != Progress::Idle || skipped.is_none() {
                    skipped = Some(report_skipped(&shared, skipped.unwrap_or(0)).await);
                }
                match progress {
                    Progress::Did => {}
                    Progress::Caught if stored.has_changed().unwrap_or(false) => pause(&stop, FLOW).await,
                    Progress::Caught => {}
                    Progress::Idle => tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(TICK) => {}
                        changed = stored.changed() => if changed.is_ok() { pause(&stop, GATHER).await },
                    },
                }
            }
            Err(error) => {
                if !error.is_passing() && !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "failed to bring the full-text index up to date; it is tried again");
                    shared.findings.report(Finding {
                        code: "search_index_failed",
                        severity: Severity::Warning,
                        since: shared.clock.now(),
                        subject: None,
                        sentence: "the full-text index cannot be written: new conversations are not found".to_owned(),
                        hint: "see the log; it is tried again, and nothing else waits for it".to_owned(),
                        blocks_progress: false,
                    });
                }
                pause(&stop, PATIENCE).await;
            }
        }
    }
    Ok(())
}

/// Shows what was set aside, where there is anything; returns how much it is.
async fn report_skipped(shared: &Shared, known: u64) -> u64 {
    const CODE: &str = "documents_not_indexed";
    let (count, first, segment) = match shared.db.skipped_documents().await {
        Ok(Some(skipped)) => skipped,
        Ok(None) => {
            shared.findings.clear(CODE, None);
            return 0;
        }
        // It is asked again after the next step.
        Err(_) => return known,
    };
    let source = Source::of_item(first.item).name();
    let sentence = format!(
        "{count} of the texts in the archive cannot be found by searching; the first is {source} of segment {segment}: {}",
        first.reason
    );
    if count > known {
        tracing::warn!(count, %segment, source, reason = %first.reason, "a text was left out of the full-text index");
    }
    shared.findings.report(Finding {
        code: CODE,
        severity: Severity::Warning,
        since: shared.clock.now(),
        subject: None,
        sentence,
        hint: "`show` and `export` have them; report it with the version, an upgrade may index them anew".to_owned(),
        blocks_progress: false,
    });
    count
}

/// The accounts that this process works for now.
fn owned(shared: &Shared) -> Vec<Owned> {
    if !shared.in_session() {
        return Vec::new();
    }
    shared.accounts().iter().map(|account| account.owned).collect()
}

async fn pause(stop: &CancellationToken, span: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(span) => {}
    }
}
