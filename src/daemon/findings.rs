//! Looks, now and then, whether what is held is what was announced, as `audit` does: so that what was taken out of the
//! database by hand, or by a bug, is known before anyone audits.
//!
//! Everything has to be counted for that, so it takes no more than a hundredth of the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::audit::{self, ProblemKind};
use crate::clock::Time;
use crate::db::{Db, DbError};
use crate::health::{Finding, FindingRegistry, Severity};

/// How often it is looked at most.
const LEDGER_INTERVAL: Duration = Duration::from_secs(300);
/// The time from one look to the next, in times of what a look takes.
const LEDGER_SHARE: u32 = 100;
/// Between looks whether this replica works.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);
/// So many accounts are named.
const MAX_NAMED: usize = 3;

/// The finding that what is held is not what was announced.
const LEDGER_DIFFERS: &str = "ledger_differs";

/// Goes on until `stop`.
///
/// # Errors
/// None: what cannot be read is the session's to report.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = shared.clock.clone();
    let work = async {
        loop {
            if !shared.in_session() {
                clock.sleep(STANDBY_INTERVAL).await;
                continue;
            }
            let begun = clock.tick();
            if let Err(error) = check_ledger(&shared.db, &shared.findings, clock.now()).await {
                tracing::debug!(%error, "failed to compare what is held with what was announced; trying again later");
            }
            let took = clock.tick().since(begun);
            clock.sleep(LEDGER_INTERVAL.max(took.saturating_mul(LEDGER_SHARE))).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = work => Ok(()),
    }
}

/// Compares what is held with what was announced and asked for; reports a difference, or clears the report.
///
/// # Errors
/// Where the database cannot be read.
pub async fn check_ledger(db: &Db, findings: &FindingRegistry, now: Time) -> Result<(), DbError> {
    let problems = audit::discrepancies(db).await?;
    if problems.is_empty() {
        if findings.clear(LEDGER_DIFFERS, None) {
            tracing::info!("what is held is what was announced again");
        }
        return Ok(());
    }
    let mut counts: BTreeMap<ProblemKind, u64> = BTreeMap::new();
    for problem in &problems {
        *counts.entry(problem.kind).or_default() += problem.count;
    }
    let counts: Vec<String> = counts.into_iter().map(|(kind, count)| kind.counted(count)).collect();
    let subs: BTreeSet<&str> = problems.iter().map(|problem| problem.sub_account_id.as_str()).collect();
    let mut named: Vec<String> = subs.iter().take(MAX_NAMED).map(|sub| (*sub).to_owned()).collect();
    if subs.len() > MAX_NAMED {
        named.push(format!("{} more", subs.len() - MAX_NAMED));
    }
    let sentence =
        format!("what is held is not what was announced: {} (account {})", counts.join(", "), named.join(", "));
    let hint = "`ringcx-extractor audit` names each; the database was changed by something else, or this is a bug: restore a \
                backup, or have what is missing read again with `ringcx-extractor backfill`";
    let finding = Finding {
        code: LEDGER_DIFFERS,
        severity: Severity::Trouble,
        since: now,
        subject: None,
        sentence: sentence.clone(),
        hint: hint.to_owned(),
        blocks_progress: false,
    };
    if findings.report(finding) {
        tracing::error!(hint, "{sentence}");
    }
    Ok(())
}
