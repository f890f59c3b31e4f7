//! Properties of the planner in random histories with a simulated clock.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::planner_simulation::{PlannerSimulation, SimulatedEvent, SimulatedHistory, SimulatedOutcome, at, secs};
use super::quota_forecast::sustainable_interval_secs;
use super::*;
use crate::ringcx::rate_limit::WINDOW_GUARD;

/// Requests per second that live reads and rechecks need, including gaps that live reads leave.
fn demand(history: &SimulatedHistory) -> f64 {
    let rules = &history.rules;
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let per = |every: i64| 1.0 / every as f64;
    let again = history.delays.iter().filter(|delay| secs(**delay) > rules.offset);
    let again: f64 = again.map(|delay| per(rules.recheck_width_secs(secs(*delay)))).sum();
    let behind = if sustainable_interval_secs(rules) >= rules.max_window_secs() {
        per(rules.max_window_secs() - 1)
    } else {
        0.0
    };
    per(sustainable_interval_secs(rules)) + again + behind
}

fn supply(history: &SimulatedHistory) -> f64 {
    let late = history.counted_after() + WINDOW_GUARD;
    let rules = &history.rules;
    rules
        .limits
        .rules()
        .iter()
        .map(|(most, width)| f64::from(*most) / (*width + late).as_secs_f64())
        .fold(f64::INFINITY, f64::min)
}

prop_compose! {
    fn any_rules()(
        window in 1_i64..200, offset in 0_i64..60, interval in 1_i64..120, max_window in 2_i64..400,
        few in (1_u32..5, 5_i64..60), many in (2_u32..12, 60_i64..300), retention in prop::option::of(50_i64..20_000),
    ) -> PlanningRules {
        PlanningRules {
            window: secs(window),
            offset: secs(offset),
            interval: secs(interval),
            max_window: secs(max_window),
            limits: SlidingWindowLimiter::new([(few.0, secs(few.1)), (many.0, secs(many.1))]),
            retention: retention.map(secs),
        }
    }
}

fn any_event() -> impl Strategy<Value = SimulatedEvent> {
    prop_oneof![
        (1_i64..3000).prop_map(SimulatedEvent::Down),
        (-6000_i64..3000, 1_i64..3000, any::<bool>())
            .prop_map(|(from, width, newest_first)| SimulatedEvent::Backfill { from, width, newest_first }),
        (60_i64..1000, 1_i64..60, 0_i64..500).prop_map(|(ago, width, after)| SimulatedEvent::Repair {
            ago,
            width,
            after
        }),
    ]
}

fn any_outcomes() -> impl Strategy<Value = Vec<SimulatedOutcome>> {
    let outcome = prop_oneof![5 => Just(SimulatedOutcome::Answered), 1 => Just(SimulatedOutcome::Failed), 1 => Just(SimulatedOutcome::Truncated)];
    prop_oneof![Just(vec![SimulatedOutcome::Answered]), prop::collection::vec(outcome, 1..12)]
}

fn any_history() -> impl Strategy<Value = SimulatedHistory> {
    let delays = prop::collection::btree_set(1_i64..2000, 0..3);
    let events = prop::collection::btree_map(0_i64..6000, any_event(), 0..6);
    let request_ms = prop_oneof![Just(0), 1_i64..4000];
    (any_rules(), 0_i64..3000, delays, events, any_outcomes(), request_ms)
        .prop_map(|(rules, start, delays, events, outcomes, request_ms)| SimulatedHistory {
            rules,
            start,
            delays: delays.into_iter().collect(),
            events,
            outcomes,
            request_ms,
        })
        .prop_filter("the limits are too low for the reads", |history| demand(history) < 0.6 * supply(history))
}

/// The same histories each time; `PROPTEST_CASES` sets their number.
fn config() -> ProptestConfig {
    let seed = RngSeed::Fixed(4);
    ProptestConfig {
        rng_seed: seed,
        failure_persistence: None,
        max_local_rejects: 1_000_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_history_keeps_the_rules_and_ends_with_complete_coverage(history in any_history()) {
        let mut simulation = PlannerSimulation::new(&history);
        for (second, event) in &history.events {
            simulation.run(Some(at(*second)));
            simulation.apply(event);
            simulation.check_coverage();
        }
        simulation.run(None);
        simulation.check_coverage();
        simulation.check_complete();
    }
}

/// The default settings.
fn usual() -> PlanningRules {
    PlanningRules {
        window: secs(900),
        offset: secs(300),
        interval: secs(300),
        max_window: secs(3600),
        limits: SlidingWindowLimiter::new([(3, secs(60)), (9, secs(900))]),
        retention: None,
    }
}

fn calm(rules: PlanningRules, delays: &[i64]) -> SimulatedHistory {
    let outcomes = vec![SimulatedOutcome::Answered];
    SimulatedHistory { rules, start: 0, delays: delays.to_vec(), events: BTreeMap::new(), outcomes, request_ms: 0 }
}

/// The duration of a backfill as a share of its estimate. The backfill starts once rechecks run
/// regularly.
fn share_of_estimate(history: &SimulatedHistory, days: i64, newest_first: bool) -> f64 {
    let mut simulation = PlannerSimulation::new(history);
    let settled_in = 2 * history.delays.iter().max().copied().unwrap_or(0) + 3600;
    simulation.run(Some(at(settled_in)));
    simulation.apply(&SimulatedEvent::Backfill { from: -(days + 1) * 86_400, width: days * 86_400, newest_first });
    let delays: Vec<Duration> = history.delays.iter().copied().map(secs).collect();
    let estimated = estimate_backfill_duration(&simulation.coverage.backfills[0].remaining(), &history.rules, &delays);
    while !simulation.coverage.backfills.is_empty() {
        simulation.run(Some(simulation.now + secs(60)));
    }
    simulation.check_coverage();
    simulation.now.since(at(settled_in)).as_secs_f64() / estimated.as_secs_f64()
}

#[test]
fn a_backfill_of_thirty_days_takes_as_long_as_estimated_and_live_reads_stay_on_time() {
    // The simulation checks at each read that it is on time.
    for (newest_first, request_ms) in [(true, 0), (false, 0), (true, 150), (true, 800)] {
        let history = SimulatedHistory { request_ms, ..calm(usual(), &[3600, 86_400]) };
        let share = share_of_estimate(&history, 30, newest_first);
        assert!((0.85..=1.15).contains(&share), "took {share:.3} of the estimate, at {request_ms} ms a request");
    }
}

#[test]
fn the_estimate_holds_for_other_settings_too() {
    let settings: [(&str, PlanningRules, &[i64]); 6] = [
        ("no rechecks", usual(), &[]),
        (
            "live reads that alone would use all requests",
            PlanningRules { interval: secs(60), ..usual() },
            &[3600, 86_400],
        ),
        ("many rechecks", usual(), &[600, 1200, 1800, 3600]),
        ("rare live reads", PlanningRules { interval: secs(3000), ..usual() }, &[86_400]),
        ("wide windows", PlanningRules { max_window: secs(10_800), ..usual() }, &[3600, 86_400]),
        ("one limit", PlanningRules { limits: SlidingWindowLimiter::new([(5, secs(600))]), ..usual() }, &[86_400]),
    ];
    for (name, rules, delays) in settings {
        let share = share_of_estimate(&calm(rules, delays), 5, true);
        assert!((0.85..=1.15).contains(&share), "{name}: took {share:.3} of the estimate");
    }
}

#[test]
fn no_lane_starves_with_any_interval_and_limits() {
    let limits =
        [vec![(1, 60)], vec![(1, 900)], vec![(2, 60)], vec![(3, 60), (9, 900)], vec![(4, 600)], vec![(120, 60)]];
    for (limits, interval) in limits.iter().flat_map(|limits| [1, 5, 90, 120].map(|interval| (limits, interval))) {
        let sliding = SlidingWindowLimiter::new(limits.iter().map(|(most, width)| (*most, secs(*width))));
        let long_enough = 25 * limits.iter().map(|(_, width)| *width).max().unwrap();
        let rules = PlanningRules {
            interval: secs(interval),
            max_window: secs(60),
            window: secs(60),
            limits: sliding,
            ..usual()
        };
        let history = SimulatedHistory { start: 400_000, ..calm(rules, &[30, 900]) };
        let mut simulation = PlannerSimulation::new(&history);
        simulation.apply(&SimulatedEvent::Backfill { from: -900_000, width: 400_000, newest_first: true });
        simulation.run(Some(at(long_enough)));
        let lanes = |lane| simulation.reads.iter().filter(|(_, planned)| planned.lane == lane).count();
        let (live, again, past, all) =
            (lanes(Lane::Live), lanes(Lane::Recheck), lanes(Lane::Backfill), simulation.reads.len());
        assert!(6 * (again + past) >= all, "{limits:?} every {interval} s: {live} live, {again} again, {past} past");
        assert!(4 * (past + 1) > again + past, "{limits:?} every {interval} s: {again} again, {past} past");
        assert!(live >= 10, "{limits:?} every {interval} s: {live} live");
    }
}

proptest! {
    #![proptest_config(config())]

    /// Clock steps (NTP, an administrator, a suspended machine) cause no illegal read and no
    /// endless wait.
    #[test]
    fn clock_steps_break_no_window_rule_and_stop_nothing(
        history in any_history(), steps in prop::collection::vec((-3000_i64..3000, 1_i64..500), 1..10),
    ) {
        let mut simulation = PlannerSimulation::new(&history);
        for (step, then) in steps {
            simulation.now = simulation.now.plus_millis(step * 1000 + 123);
            simulation.log.iter_mut().for_each(|sent| *sent = (*sent).min(simulation.now));
            simulation.up_since = Time(i64::MAX);
            let until = simulation.now + secs(then);
            while simulation.now < until {
                match simulation.plan_next_read() {
                    Plan::Read(planned) => {
                        simulation.check_legal(planned);
                        simulation.log.push(simulation.now);
                        simulation.other_reads += u64::from(planned.lane != Lane::Live);
                        simulation.coverage.record(planned.range, simulation.now);
                    }
                    Plan::Wait { until: due } => {
                        prop_assert!(due > simulation.now);
                        simulation.now = due.min(until);
                    }
                }
            }
        }
        // Once the clock stays right, everything is read in the end.
        simulation.now = simulation.now + secs(20_000);
        let since = simulation.now;
        let is_current = |simulation: &PlannerSimulation<'_>| simulation.coverage.live_edge().is_some_and(|edge| edge > since - history.rules.offset);
        while !is_current(&simulation) || !simulation.coverage.gaps(since - history.rules.offset).is_empty() {
            prop_assert!(simulation.now.since(since) < secs(1_000_000), "does not catch up");
            match simulation.plan_next_read() {
                Plan::Read(planned) => {
                    simulation.check_legal(planned);
                    simulation.log.push(simulation.now);
                    simulation.other_reads += u64::from(planned.lane != Lane::Live);
                    simulation.coverage.record(planned.range, simulation.now);
                }
                Plan::Wait { until } => simulation.now = until,
            }
        }
    }
}
