//! Chooses the next read among the candidates: live before rechecks before the past, without
//! starving any of them.
//!
//! Pure. It keeps the metadata limits exactly, and other reads never delay a live read.

use super::candidates::{Candidate, PlanContext};
use super::quota_forecast::{QuotaForecast, sustainable_interval_secs};
use super::{Coverage, FailedWindow, Plan, PlannedRead, PlanningRules, Repair};
use crate::clock::Time;

/// Of so many reads that are not live, one prefers the past and the others prefer rechecks.
const PAST_READ_EVERY: u64 = 4;

/// The window to read now, or when to plan again.
///
/// - `now`: the API's time.
/// - `log`: when metadata requests were sent (or certainly counted), by any process, at least for
///   the length of the longest limit.
/// - `failed`: the windows that failed recently. One whose wait is over may be kept for its
///   `max_width`.
/// - `repairs`: without those that were read again.
/// - `other_reads`: the number of reads so far that were not live.
///
/// Even if the clock is changed, no window ends after [`PlanningRules::horizon`], and no wait ends
/// at or before `now`.
pub(crate) fn plan_next_read(
    now: Time,
    rules: &PlanningRules,
    coverage: &Coverage,
    log: &[Time],
    failed: &[FailedWindow],
    repairs: &[Repair],
    other_reads: u64,
) -> Plan {
    let context = PlanContext::new(now, rules, coverage, failed);
    let forecast = QuotaForecast::new(&rules.limits, log, now);
    let earliest = forecast.earliest_send(now);

    let rechecks = context.recheck_reads(repairs);
    let past = context.past_reads();
    let other = choose_other_read(other_reads, &rechecks, &past);
    let interval_secs = if other.is_some() { sustainable_interval_secs(rules) } else { rules.interval_secs() };
    let (live, live_due) = context.live_read(interval_secs);

    if let Some(planned) = live {
        return if earliest <= now { Plan::Read(planned) } else { Plan::Wait { until: earliest } };
    }
    let mut wake = vec![Some(live_due), rechecks.next_due, past.next_due, context.earliest_retry()];
    if let Some(planned) = other
        && earliest < live_due
        && forecast.keeps_live_reads_on_time(rules, earliest, live_due, interval_secs)
    {
        if earliest <= now {
            return Plan::Read(planned);
        }
        wake.push(Some(earliest));
    }
    let until = wake.into_iter().flatten().filter(|due| *due > now).min();
    Plan::Wait { until: until.unwrap_or(now.plus_millis(1000)) }
}

fn choose_other_read(other_reads: u64, rechecks: &Candidate, past: &Candidate) -> Option<PlannedRead> {
    if other_reads % PAST_READ_EVERY == PAST_READ_EVERY - 1 {
        past.read.or(rechecks.read)
    } else {
        rechecks.read.or(past.read)
    }
}
