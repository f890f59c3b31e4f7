//! Properties: the planner driven through random histories by a simulated clock.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::budget::sustainable;
use super::simulated::{Event, History, Luck, World, at, secs};
use super::*;
use crate::sliding::GUARD;

/// Requests a second that live reads and rechecks need, gaps that live reads leave included.
fn demand(history: &History) -> f64 {
    let rules = &history.rules;
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let per = |every: i64| 1.0 / every as f64;
    let again = history.delays.iter().filter(|delay| secs(**delay) > rules.offset);
    let again: f64 = again.map(|delay| per(rules.recheck_width(secs(*delay)))).sum();
    let behind = if sustainable(rules) >= rules.widest() { per(rules.widest() - 1) } else { 0.0 };
    per(sustainable(rules)) + again + behind
}

fn supply(history: &History) -> f64 {
    let late = history.counted_after() + GUARD;
    let rules = &history.rules;
    rules
        .sliding
        .rules()
        .iter()
        .map(|(most, width)| f64::from(*most) / (*width + late).as_secs_f64())
        .fold(f64::INFINITY, f64::min)
}

prop_compose! {
    fn any_rules()(
        window in 1_i64..200, offset in 0_i64..60, interval in 1_i64..120, max_window in 2_i64..400,
        few in (1_u32..5, 5_i64..60), many in (2_u32..12, 60_i64..300), retention in prop::option::of(50_i64..20_000),
    ) -> Rules {
        Rules {
            window: secs(window),
            offset: secs(offset),
            interval: secs(interval),
            max_window: secs(max_window),
            sliding: Sliding::new([(few.0, secs(few.1)), (many.0, secs(many.1))]),
            retention: retention.map(secs),
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_i64..3000).prop_map(Event::Down),
        (-6000_i64..3000, 1_i64..3000, any::<bool>()).prop_map(|(from, width, newest_first)| Event::Backfill {
            from,
            width,
            newest_first
        }),
        (60_i64..1000, 1_i64..60, 0_i64..500).prop_map(|(ago, width, after)| Event::Repair { ago, width, after }),
    ]
}

fn any_luck() -> impl Strategy<Value = Vec<Luck>> {
    let luck = prop_oneof![5 => Just(Luck::Answered), 1 => Just(Luck::Refused), 1 => Just(Luck::BrokenOff)];
    prop_oneof![Just(vec![Luck::Answered]), prop::collection::vec(luck, 1..12)]
}

fn any_history() -> impl Strategy<Value = History> {
    let delays = prop::collection::btree_set(1_i64..2000, 0..3);
    let events = prop::collection::btree_map(0_i64..6000, any_event(), 0..6);
    let takes = prop_oneof![Just(0), 1_i64..4000];
    (any_rules(), 0_i64..3000, delays, events, any_luck(), takes)
        .prop_map(|(rules, start, delays, events, luck, takes)| History {
            rules,
            start,
            delays: delays.into_iter().collect(),
            events,
            luck,
            takes,
        })
        .prop_filter("more is wanted than the limits allow", |history| demand(history) < 0.6 * supply(history))
}

/// The same histories each time; more of them with `PROPTEST_CASES`.
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
    fn whatever_happens_every_rule_is_kept_and_in_the_end_nothing_is_missing(history in any_history()) {
        let mut world = World::new(&history);
        for (second, event) in &history.events {
            world.run(Some(at(*second)));
            world.happen(event);
            world.check_coverage();
        }
        world.run(None);
        world.check_coverage();
        world.check_complete();
    }
}

/// The default settings.
fn usual() -> Rules {
    Rules {
        window: secs(900),
        offset: secs(300),
        interval: secs(300),
        max_window: secs(3600),
        sliding: Sliding::new([(3, secs(60)), (9, secs(900))]),
        retention: None,
    }
}

fn calm(rules: Rules, delays: &[i64]) -> History {
    let luck = vec![Luck::Answered];
    History { rules, start: 0, delays: delays.to_vec(), events: BTreeMap::new(), luck, takes: 0 }
}

/// How long a backfill takes as a share of what was said; it starts when rechecks have come into their stride.
fn share_of_estimate(history: &History, days: i64, newest_first: bool) -> f64 {
    let mut world = World::new(history);
    let settled_in = 2 * history.delays.iter().max().copied().unwrap_or(0) + 3600;
    world.run(Some(at(settled_in)));
    world.happen(&Event::Backfill { from: -(days + 1) * 86_400, width: days * 86_400, newest_first });
    let delays: Vec<Duration> = history.delays.iter().copied().map(secs).collect();
    let said = estimate(&world.coverage.backfills[0].remaining(), &history.rules, &delays);
    while !world.coverage.backfills.is_empty() {
        world.run(Some(world.now + secs(60)));
    }
    world.check_coverage();
    world.now.since(at(settled_in)).as_secs_f64() / said.as_secs_f64()
}

#[test]
fn thirty_days_of_the_past_take_as_long_as_was_said_and_live_reads_stay_punctual() {
    // Punctuality is checked at each read.
    for (newest_first, takes) in [(true, 0), (false, 0), (true, 150), (true, 800)] {
        let history = History { takes, ..calm(usual(), &[3600, 86_400]) };
        let share = share_of_estimate(&history, 30, newest_first);
        assert!((0.85..=1.15).contains(&share), "took {share:.3} of the estimate, at {takes} ms a request");
    }
}

#[test]
fn the_estimate_holds_for_other_settings_too() {
    let settings: [(&str, Rules, &[i64]); 6] = [
        ("no rechecks", usual(), &[]),
        ("live reads that alone would take all", Rules { interval: secs(60), ..usual() }, &[3600, 86_400]),
        ("many rechecks", usual(), &[600, 1200, 1800, 3600]),
        ("rare live reads", Rules { interval: secs(3000), ..usual() }, &[86_400]),
        ("wide windows", Rules { max_window: secs(10_800), ..usual() }, &[3600, 86_400]),
        ("one limit", Rules { sliding: Sliding::new([(5, secs(600))]), ..usual() }, &[86_400]),
    ];
    for (name, rules, delays) in settings {
        let share = share_of_estimate(&calm(rules, delays), 5, true);
        assert!((0.85..=1.15).contains(&share), "{name}: took {share:.3} of the estimate");
    }
}

#[test]
fn nobody_starves_whatever_the_interval_and_the_limits_are() {
    let limits =
        [vec![(1, 60)], vec![(1, 900)], vec![(2, 60)], vec![(3, 60), (9, 900)], vec![(4, 600)], vec![(120, 60)]];
    for (limits, interval) in limits.iter().flat_map(|limits| [1, 5, 90, 120].map(|interval| (limits, interval))) {
        let sliding = Sliding::new(limits.iter().map(|(most, width)| (*most, secs(*width))));
        let long_enough = 25 * limits.iter().map(|(_, width)| *width).max().unwrap();
        let rules = Rules { interval: secs(interval), max_window: secs(60), window: secs(60), sliding, ..usual() };
        let history = History { start: 400_000, ..calm(rules, &[30, 900]) };
        let mut world = World::new(&history);
        world.happen(&Event::Backfill { from: -900_000, width: 400_000, newest_first: true });
        world.run(Some(at(long_enough)));
        let lanes = |lane| world.reads.iter().filter(|(_, want)| want.lane == lane).count();
        let (live, again, past, all) =
            (lanes(Lane::Live), lanes(Lane::Recheck), lanes(Lane::Backfill), world.reads.len());
        assert!(6 * (again + past) >= all, "{limits:?} every {interval} s: {live} live, {again} again, {past} past");
        assert!(4 * (past + 1) > again + past, "{limits:?} every {interval} s: {again} again, {past} past");
        assert!(live >= 10, "{limits:?} every {interval} s: {live} live");
    }
}

proptest! {
    #![proptest_config(config())]

    /// NTP, an administrator, a machine that slept: whatever the clock says, plans stay legal and time goes on.
    #[test]
    fn a_clock_that_steps_breaks_no_rule_of_windows_and_stops_nothing(
        history in any_history(), steps in prop::collection::vec((-3000_i64..3000, 1_i64..500), 1..10),
    ) {
        let mut world = World::new(&history);
        for (step, then) in steps {
            world.now = world.now.plus_millis(step * 1000 + 123);
            world.log.iter_mut().for_each(|sent| *sent = (*sent).min(world.now));
            world.up_since = Time(i64::MAX);
            let until = world.now + secs(then);
            while world.now < until {
                match world.plan() {
                    Plan::Read(want) => {
                        world.check_legal(want);
                        world.log.push(world.now);
                        world.turn += u64::from(want.lane != Lane::Live);
                        world.coverage.record(want.stretch, world.now);
                    }
                    Plan::Wait { until: due } => {
                        prop_assert!(due > world.now);
                        world.now = due.min(until);
                    }
                }
            }
        }
        // A clock that stays right finds everything read in the end.
        world.now = world.now + secs(20_000);
        let since = world.now;
        let finds = |world: &World<'_>| world.coverage.live_edge().is_some_and(|edge| edge > since - history.rules.offset);
        while !finds(&world) || !world.coverage.gaps(since - history.rules.offset).is_empty() {
            prop_assert!(world.now.since(since) < secs(1_000_000), "does not catch up");
            match world.plan() {
                Plan::Read(want) => {
                    world.check_legal(want);
                    world.log.push(world.now);
                    world.turn += u64::from(want.lane != Lane::Live);
                    world.coverage.record(want.stretch, world.now);
                }
                Plan::Wait { until } => world.now = until,
            }
        }
    }
}
