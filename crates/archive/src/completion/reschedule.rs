//! Failed and deferred jobs: sets the next due time or the final state, and records recent
//! attempts.

use std::collections::HashSet;

use super::super::{Arg, DbError, Item, Stmt, Tx};
use super::{CompletedJob, JobOutcome};
use crate::model::ItemState;

/// Failed attempts kept per item, in a ring of slots.
const MAX_ATTEMPTS_KEPT: u32 = 16;

impl Tx {
    /// Sets due time and state of failed and deferred jobs. Returns the items that still existed.
    pub(super) async fn reschedule(&mut self, failed: &[&CompletedJob]) -> Result<HashSet<Item>, DbError> {
        let mut updated = HashSet::new();
        // A refresh that failed for good ends; the stored version stays.
        let ended_refreshes: Vec<&CompletedJob> = failed
            .iter()
            .copied()
            .filter(|job| {
                job.claim.visit > 0
                    && matches!(&job.outcome, JobOutcome::Failed { state, .. } if *state != ItemState::Open)
            })
            .collect();
        updated.extend(self.delete_work(&ended_refreshes).await?);
        let open = failed.iter().filter(|job| !updated.contains(&job.claim.item));
        let stmt = Stmt::rows(
            "with v (item, state, due, tries, misses, refusals, broken, alike, first_try, last_try, status, reason, last_body) as (values ",
            open.filter_map(|job| rescheduled_row(job)).collect(),
            ") update work set state = v.state, due = v.due, tries = v.tries, again = 1, misses = v.misses, refusals = v.refusals,
             broken = v.broken, alike = v.alike, last_body = case when v.reason is null then work.last_body else v.last_body end,
             first_try = v.first_try, last_try = coalesce(v.last_try, work.last_try), status = coalesce(v.status, work.status),
             reason = coalesce(v.reason, work.reason)
             from v where work.item = v.item and work.state = 0 returning work.item",
        );
        updated.extend(self.values::<Item>(stmt).await?);
        Ok(updated)
    }

    /// Records failed attempts, the last [`MAX_ATTEMPTS_KEPT`] of each item.
    pub(super) async fn record_attempts(&mut self, failed: &[&CompletedJob]) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = failed
            .iter()
            .filter_map(|job| {
                let JobOutcome::Failed { status, reason, .. } = &job.outcome else { return None };
                let nth = job.claim.tries + 1;
                Some(vec![
                    Arg::from(job.claim.item),
                    (nth % MAX_ATTEMPTS_KEPT).into(),
                    nth.into(),
                    job.at.into(),
                    (*status).into(),
                    Arg::from(reason),
                ])
            })
            .collect();
        self.run(Stmt::rows(
            "insert into attempt (item, slot, nth, at, status, reason) values ",
            rows,
            " on conflict (item, slot) do update set nth = excluded.nth, at = excluded.at, status = excluded.status, reason = excluded.reason",
        ))
        .await
        .map(drop)
    }
}

fn rescheduled_row(job: &CompletedJob) -> Option<Vec<Arg>> {
    let claim = &job.claim;
    let before = (claim.broken_kind, claim.consecutive_broken);
    let (state, due, misses, refusals, status, reason, first_try, (kind, consecutive), body) = match &job.outcome {
        JobOutcome::Answered { .. } => return None,
        JobOutcome::Failed { state, due, misses, refusals, status, reason, broken } => {
            let first_try = Some(claim.first_try.unwrap_or(job.at));
            let defect = broken.as_ref().map_or((0, 0), |broken| (broken.kind, broken.consecutive));
            let body = broken.as_ref().map(|broken| broken.prefix.clone());
            (state, due, misses, refusals, status, Some(reason.as_str()), first_try, defect, body)
        }
        JobOutcome::Deferred { due, first_try } => {
            (&ItemState::Open, due, &claim.misses, &claim.refusals, &None, None, *first_try, before, None)
        }
    };
    let tries = if reason.is_some() { claim.tries.saturating_add(1) } else { claim.tries };
    Some(vec![
        claim.item.into(),
        state.code().into(),
        (*due).into(),
        tries.into(),
        (*misses).into(),
        (*refusals).into(),
        kind.into(),
        consecutive.into(),
        first_try.into(),
        reason.map(|_| job.at).into(),
        (*status).into(),
        reason.into(),
        body.into(),
    ])
}
