//! Chooses among what is wanted: live before rechecks before the past, and none starved.
//!
//! Pure. Keeps the metadata limits exactly, and what is not live never makes a live read late.

use super::budget::{Budget, sustainable};
use super::wanted::{Ground, Offer};
use super::{Cooling, Coverage, Plan, Repair, Rules, Want};
use crate::clock::Time;

/// Of so many reads that are not live, one goes to the past first and the others to rechecks first.
const TURNS: u64 = 4;

/// What to read now, or until when to wait.
///
/// - `now`: the API's time.
/// - `log`: when metadata requests of at least the longest limit's length were sent (or certainly counted), whoever
///   sent them.
/// - `cooling`: what failed lately. One that is over may be kept for its `max_width`.
/// - `repairs`: not those that have been read again.
/// - `turn`: how many reads that were not live there have been.
///
/// Whatever the clock did, no window ends after [`Rules::horizon`] and no wait ends at or before `now`.
pub fn plan(
    now: Time,
    rules: &Rules,
    coverage: &Coverage,
    log: &[Time],
    cooling: &[Cooling],
    repairs: &[Repair],
    turn: u64,
) -> Plan {
    let ground = Ground::new(now, rules, coverage, cooling);
    let budget = Budget::new(&rules.sliding, log, now);
    let free = budget.earliest(now);

    let rechecks = ground.rechecks(repairs);
    let past = ground.past();
    let other = choose(turn, &rechecks, &past);
    let pace = if other.is_some() { sustainable(rules) } else { rules.slide() };
    let (live, live_due) = ground.live(pace);

    if let Some(want) = live {
        return if free <= now { Plan::Read(want) } else { Plan::Wait { until: free } };
    }
    let mut wake = vec![Some(live_due), rechecks.later, past.later, ground.thaw()];
    if let Some(want) = other
        && free < live_due
        && budget.leaves_room(rules, free, live_due, pace)
    {
        if free <= now {
            return Plan::Read(want);
        }
        wake.push(Some(free));
    }
    let until = wake.into_iter().flatten().filter(|due| *due > now).min();
    Plan::Wait { until: until.unwrap_or(now.plus_millis(1000)) }
}

fn choose(turn: u64, rechecks: &Offer, past: &Offer) -> Option<Want> {
    if turn % TURNS == TURNS - 1 { past.read.or(rechecks.read) } else { rechecks.read.or(past.read) }
}
