//! What failed is tried again later or given up, and its last tries are remembered.

use std::collections::HashSet;

use super::super::{Arg, BULK, DbError, Item, Stmt, Tx};
use super::{Settled, Settlement};
use crate::model::State;

/// How many failed tries an item's record keeps.
const STORY: u32 = 16;

impl Tx {
    /// Says when what failed is to be tried again, or that it is over; which of it was still there.
    pub(super) async fn postpone(&mut self, failed: &[&Settled]) -> Result<HashSet<Item>, DbError> {
        let mut updated = HashSet::new();
        // A revisit that leads nowhere is over: what is held stays.
        let over: Vec<&Settled> = failed
            .iter()
            .copied()
            .filter(|settled| {
                settled.claim.visit > 0
                    && matches!(&settled.settlement, Settlement::Failed { state, .. } if *state != State::Open)
            })
            .collect();
        updated.extend(self.remove(&over).await?);
        for part in failed.chunks(BULK) {
            let rows: Vec<Vec<Arg>> = part
                .iter()
                .filter(|settled| !updated.contains(&settled.claim.item))
                .filter_map(|settled| postponed(settled))
                .collect();
            if rows.is_empty() {
                continue;
            }
            let stmt = Stmt::rows(
                "with v (item, state, due, tries, misses, refusals, broken, alike, first_try, last_try, status, reason, last_body) as (values ",
                rows,
                ") update work set state = v.state, due = v.due, tries = v.tries, again = 1, misses = v.misses, refusals = v.refusals,
                 broken = v.broken, alike = v.alike, last_body = case when v.reason is null then work.last_body else v.last_body end,
                 first_try = v.first_try, last_try = coalesce(v.last_try, work.last_try), status = coalesce(v.status, work.status),
                 reason = coalesce(v.reason, work.reason)
                 from v where work.item = v.item and work.state = 0 returning work.item",
            );
            for row in self.all(stmt).await? {
                updated.insert(Item(row.int(0)?));
            }
        }
        Ok(updated)
    }

    /// Keeps the last few failed tries of each item, so that its story can be told.
    pub(super) async fn remember(&mut self, failed: &[&Settled]) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = failed
            .iter()
            .filter_map(|settled| {
                let Settlement::Failed { status, reason, .. } = &settled.settlement else { return None };
                let nth = settled.claim.tries + 1;
                Some(vec![
                    Arg::from(settled.claim.item.0),
                    (nth % STORY).into(),
                    nth.into(),
                    settled.at.into(),
                    Arg::Int(status.map(i64::from)),
                    Arg::from(reason),
                ])
            })
            .collect();
        self.run_rows(
            "insert into attempt (item, slot, nth, at, status, reason) values ",
            rows,
            " on conflict (item, slot) do update set nth = excluded.nth, at = excluded.at, status = excluded.status, reason = excluded.reason",
        )
        .await.map(drop)
    }
}

fn postponed(settled: &Settled) -> Option<Vec<Arg>> {
    let claim = &settled.claim;
    let before = (claim.broken, claim.alike);
    let (state, due, misses, refusals, status, reason, first_try, (kind, alike), body) = match &settled.settlement {
        Settlement::Answered { .. } => return None,
        Settlement::Failed { state, due, misses, refusals, status, reason, broken } => {
            let first_try = Some(claim.first_try.unwrap_or(settled.at));
            let alike = broken.as_ref().map_or((0, 0), |broken| (broken.kind, broken.alike));
            let body = broken.as_ref().map(|broken| broken.start.clone());
            (state, due, misses, refusals, status, Some(reason.as_str()), first_try, alike, body)
        }
        Settlement::Deferred { due, first_try } => {
            (&State::Open, due, &claim.misses, &claim.refusals, &None, None, *first_try, before, None)
        }
    };
    let tries = if reason.is_some() { claim.tries.saturating_add(1) } else { claim.tries };
    Some(vec![
        claim.item.0.into(),
        state.code().into(),
        (*due).into(),
        tries.into(),
        (*misses).into(),
        (*refusals).into(),
        kind.into(),
        alike.into(),
        Arg::Int(first_try.map(|at| at.0)),
        Arg::Int(reason.map(|_| settled.at.0)),
        Arg::Int(status.map(i64::from)),
        reason.into(),
        Arg::Bytes(body),
    ])
}
