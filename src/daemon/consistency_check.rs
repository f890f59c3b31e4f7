//! Periodically checks that the archive holds what was announced, as `audit` does, so that data
//! removed from the database by hand or by a bug is noticed early.
//!
//! The check counts everything, so it may use at most one percent of the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use crate::audit::{self, AuditProblemKind};
use crate::clock::Time;
use crate::db::{Db, DbError};
use crate::health::{Finding, FindingCode, FindingRegistry, Severity};

/// The shortest time between two checks.
const MIN_CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// The time between two checks, as a multiple of the duration of a check.
const CHECK_INTERVAL_FACTOR: u32 = 100;
/// How often a standby replica checks whether it has become active.
const STANDBY_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The most accounts named in a finding.
const MAX_ACCOUNTS_NAMED: usize = 3;

/// Runs until `stop`.
///
/// # Errors
/// None. The supervisor reports an unavailable database.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = context.clock.clone();
    let work = async {
        loop {
            if !context.is_active() {
                clock.sleep(STANDBY_POLL_INTERVAL).await;
                continue;
            }
            let started = clock.tick();
            if let Err(error) = check_consistency(&context.db, &context.findings, clock.now()).await {
                tracing::debug!(%error, "failed to compare the archive with the announced segments; retrying later");
            }
            let elapsed = clock.tick().since(started);
            clock.sleep(MIN_CHECK_INTERVAL.max(elapsed.saturating_mul(CHECK_INTERVAL_FACTOR))).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = work => Ok(()),
    }
}

/// Compares the archive with what was announced and requested. Reports a difference, or clears the
/// finding.
///
/// # Errors
/// If the database cannot be read.
pub async fn check_consistency(db: &Db, findings: &FindingRegistry, now: Time) -> Result<(), DbError> {
    let problems = audit::find_discrepancies(db).await?;
    if problems.is_empty() {
        if findings.clear(FindingCode::LedgerDiffers, None) {
            tracing::info!("the archive matches the announced segments again");
        }
        return Ok(());
    }
    let mut counts: BTreeMap<AuditProblemKind, u64> = BTreeMap::new();
    for problem in &problems {
        *counts.entry(problem.kind).or_default() += problem.count;
    }
    let counts: Vec<String> = counts.into_iter().map(|(kind, count)| kind.format_count(count)).collect();
    let subs: BTreeSet<&str> = problems.iter().map(|problem| problem.sub_account_id.as_str()).collect();
    let mut named: Vec<String> = subs.iter().take(MAX_ACCOUNTS_NAMED).map(|sub| (*sub).to_owned()).collect();
    if subs.len() > MAX_ACCOUNTS_NAMED {
        named.push(format!("{} more", subs.len() - MAX_ACCOUNTS_NAMED));
    }
    let sentence = format!(
        "the archive does not match the announced segments: {} (account {})",
        counts.join(", "),
        named.join(", ")
    );
    let hint = "`ringcx-extractor audit` lists each difference; the database was changed by another program, or this is a bug: restore a \
                backup, or read the missing segments again with `ringcx-extractor backfill`";
    findings.report_and_log(Finding::new(FindingCode::LedgerDiffers, Severity::Trouble, now, sentence, hint));
    Ok(())
}
