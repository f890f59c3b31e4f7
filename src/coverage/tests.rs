//! Examples: one rule each.

use super::*;

/// Whole minutes, far from 1970.
fn t(secs: i64) -> Time {
    Time::from_secs(1_700_000_000 + secs)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn stretch(from: i64, to: i64) -> Stretch {
    Stretch { from: t(from), to: t(to) }
}

/// The default settings.
fn rules() -> Rules {
    Rules {
        window: secs(900),
        offset: secs(300),
        interval: secs(300),
        max_window: secs(3600),
        sliding: Sliding::new([(3, secs(60)), (9, secs(900))]),
        retention: None,
    }
}

/// Live coverage from 0 to `edge`, with nothing else configured.
fn read_up_to(edge: i64) -> Coverage {
    let mut coverage = Coverage::new(t(0));
    coverage.record(stretch(0, edge), t(edge + 300));
    coverage
}

fn with_level(mut coverage: Coverage, delay: u64) -> Coverage {
    coverage.rechecks.push((secs(delay), Recheck { base: t(-1_000_000), done: Stretches::default() }));
    coverage
}

fn with_backfill(mut coverage: Coverage, range: Stretch, newest_first: bool) -> Coverage {
    let id = i64::try_from(coverage.backfills.len()).unwrap() + 1;
    coverage.backfills.push(Backfill { id, range, newest_first, done: Stretches::default() });
    coverage
}

fn at(now: i64, rules: &Rules, coverage: &Coverage) -> Plan {
    plan(t(now), rules, coverage, &[], &[], &[], 0)
}

fn window(from: i64, seconds: u32) -> Window {
    Window { start: t(from).floor_secs(), seconds }
}

#[track_caller]
fn read(plan: Plan) -> Want {
    match plan {
        Plan::Read(want) => want,
        Plan::Wait { until } => panic!("waits until {until}"),
    }
}

#[track_caller]
fn wait(plan: Plan) -> i64 {
    match plan {
        Plan::Read(want) => panic!("reads {want:?}"),
        Plan::Wait { until } => (until.0 - t(0).0) / 1000,
    }
}

#[test]
fn a_pass_is_read_back_from_its_key_and_from_nothing_else() {
    let passes = [
        (Pass::Live, "live"),
        (Pass::Recheck(secs(3600)), "recheck:3600"),
        (Pass::Recheck(Duration::from_millis(250)), "recheck:0.25"),
        (Pass::Recheck(Duration::new(7, 1)), "recheck:7.000000001"),
        (Pass::Backfill(17), "backfill:17"),
    ];
    for (pass, key) in passes {
        assert_eq!(pass.key(), key);
        assert_eq!(Pass::parse(key), Some(pass));
    }
    for key in
        ["", "Live", "live:1", "recheck:", "recheck:1.0", "recheck:+1", "recheck:1.0000000001", "backfill:x", "x:1"]
    {
        assert_eq!(Pass::parse(key), None, "{key}");
    }
}

#[test]
fn a_read_satisfies_each_pass_as_far_as_it_came_late_enough() {
    let mut coverage = with_backfill(with_level(Coverage::new(t(0)), 60), stretch(50, 80), true);
    let gained = coverage.record(stretch(0, 100), t(130).plus_millis(999));
    let expected = [
        (Pass::Live, stretch(0, 100)),
        (Pass::Recheck(secs(60)), stretch(0, 70)),
        (Pass::Backfill(1), stretch(50, 80)),
    ];
    assert_eq!(gained, expected);
    assert_eq!(coverage.record(stretch(0, 100), t(130)), []);
    assert_eq!(coverage.record(stretch(90, 110), t(130)), [(Pass::Live, stretch(100, 110))]);
    assert_eq!(coverage.finished(), [1]);
}

#[test]
fn what_is_put_back_equals_what_was_recorded() {
    let empty = with_backfill(with_level(Coverage::new(t(0)), 60), stretch(50, 80), true);
    let mut recorded = empty.clone();
    let mut gained = recorded.record(stretch(0, 60), t(200));
    gained.extend(recorded.record(stretch(30, 100), t(130)));
    let mut restored = empty;
    for (pass, stretch) in gained {
        restored.restore(pass, stretch);
    }
    restored.restore(Pass::Backfill(99), stretch(0, 1));
    assert_eq!(restored, recorded);
}

#[test]
fn the_watermark_stops_at_the_first_gap_and_is_none_before_the_first_read() {
    let mut coverage = Coverage::new(t(0));
    assert_eq!(coverage.watermark(), None);
    coverage.record(stretch(-500, -100), t(1000));
    assert_eq!((coverage.watermark(), coverage.live_edge()), (None, None));
    coverage.record(stretch(0, 100), t(1000));
    coverage.record(stretch(150, 200), t(1000));
    assert_eq!(coverage.watermark(), Some(t(100)));
    assert_eq!(coverage.live_edge(), Some(t(200)));
    assert_eq!(coverage.gaps(t(250)).as_slice(), [stretch(100, 150), stretch(200, 250)]);
}

#[test]
fn the_first_live_read_goes_at_once_and_vouches_for_the_whole_first_window() {
    let coverage = Coverage::new(rules().first_start(t(1200)));
    assert_eq!(coverage.live_start, t(0));
    let want = read(at(1200, &rules(), &coverage));
    assert_eq!(want, Want { lane: Lane::Live, window: window(-1, 901), stretch: stretch(0, 900), why: Pass::Live });
}

#[test]
fn a_first_window_as_wide_as_the_widest_still_takes_one_read() {
    let rules = Rules { window: secs(3600), ..rules() };
    let coverage = Coverage::new(rules.first_start(t(10_000)));
    let want = read(at(10_000, &rules, &coverage));
    assert_eq!(want.window.seconds, 3600);
    assert_eq!(want.stretch.from, coverage.live_start);
}

#[test]
fn a_first_start_far_back_is_read_newest_first_and_the_rest_is_a_gap() {
    let mut coverage = Coverage::new(t(0));
    let want = read(at(100_300, &rules(), &coverage));
    assert_eq!(want.window, window(96_400, 3600));
    coverage.record(want.stretch, t(100_300));
    let want = read(at(100_301, &rules(), &coverage));
    assert_eq!((want.lane, want.stretch), (Lane::Backfill, stretch(96_401 - 3599, 96_401)));
}

#[test]
fn the_live_window_slides_by_the_interval_and_is_as_wide_as_set() {
    let coverage = read_up_to(900);
    assert_eq!(wait(at(1499, &rules(), &coverage)), 1500);
    let want = read(at(1500, &rules(), &coverage));
    assert_eq!(want, Want { lane: Lane::Live, window: window(300, 900), stretch: stretch(301, 1200), why: Pass::Live });
}

#[test]
fn a_live_window_that_is_behind_begins_a_second_before_what_was_read() {
    let coverage = read_up_to(900);
    assert_eq!(read(at(900 + 300 + 2000, &rules(), &coverage)).window, window(899, 2001));
    assert_eq!(read(at(900 + 300 + 9000, &rules(), &coverage)).window, window(900 + 9000 - 3600, 3600));
}

#[test]
fn a_window_setting_of_one_second_is_read_two_seconds_wide() {
    let rules = Rules { window: secs(1), max_window: secs(1), interval: secs(1), offset: secs(0), ..rules() };
    assert_eq!(read(at(901, &rules, &read_up_to(900))).window, window(899, 2));
}

#[test]
fn a_recheck_waits_until_it_is_as_wide_as_a_quarter_of_its_delay() {
    let coverage = with_level(read_up_to(8000), 3600);
    let now = 900 + 3600;
    let rules = Rules { interval: secs(9000), ..rules() };
    let narrow = Rules { interval: secs(300), ..rules.clone() };
    // 8000 is read, so live is quiet; the interval of 9000 s would make rechecks as wide as a request may be.
    assert_eq!(wait(at(now - 1, &narrow, &coverage)), now);
    let want = read(at(now, &narrow, &coverage));
    assert_eq!((want.lane, want.stretch, want.why), (Lane::Recheck, stretch(0, 900), Pass::Recheck(secs(3600))));
    assert_eq!(wait(at(now, &rules, &coverage)), 3599 + 3600);
}

#[test]
fn a_recheck_of_what_can_grow_no_further_does_not_wait_for_its_width() {
    let mut coverage = with_level(Coverage::new(t(0)), 3600);
    coverage.record(stretch(0, 100), t(400));
    coverage.record(stretch(200, 9000), t(9300));
    assert_eq!(wait(at(3699, &Rules { window: secs(1), ..rules() }, &covered_elsewhere(&coverage))), 3700);
    assert_eq!(read(at(3700, &rules(), &covered_elsewhere(&coverage))).stretch, stretch(0, 100));
}

/// The same with the gap counted as read just now, so that only rechecks are wanted.
fn covered_elsewhere(coverage: &Coverage) -> Coverage {
    let mut coverage = coverage.clone();
    for (_, recheck) in &mut coverage.rechecks {
        recheck.done.insert(stretch(100, 200));
    }
    coverage.live.insert(stretch(100, 200));
    coverage
}

#[test]
fn of_two_delays_the_longer_is_read_where_both_are_due() {
    let coverage = with_level(with_level(read_up_to(90_000), 3600), 86_400);
    let want = read(at(90_400, &rules(), &coverage));
    assert_eq!((want.stretch, want.why), (stretch(0, 3599), Pass::Recheck(secs(86_400))));
}

#[test]
fn nothing_before_a_levels_base_is_owed() {
    let mut coverage = with_level(read_up_to(9000), 3600);
    coverage.rechecks[0].1.base = t(2000);
    assert_eq!(read(at(9000, &rules(), &coverage)).stretch, stretch(2000, 2900));
}

#[test]
fn a_repair_is_read_when_due() {
    let coverage = read_up_to(900);
    let repairs = [Repair { stretch: stretch(100, 200), due: t(1250) }];
    let plan_at = |now| plan(t(now), &rules(), &coverage, &[], &[], &repairs, 0);
    assert_eq!(wait(plan_at(1210)), 1250);
    let want = read(plan_at(1250));
    assert_eq!((want.lane, want.window, want.why), (Lane::Recheck, window(99, 101), Pass::Live));
}

#[test]
fn gaps_go_newest_first_and_before_backfills() {
    let mut coverage = with_backfill(Coverage::new(t(0)), stretch(-9000, -1000), false);
    coverage.record(stretch(5000, 20_000), t(20_300));
    coverage.record(stretch(0, 100), t(20_300));
    let mut seen = Vec::new();
    while let Plan::Read(want) = at(20_301, &rules(), &coverage) {
        coverage.record(want.stretch, t(20_301));
        seen.push((want.why, want.stretch));
    }
    let expected = [
        (Pass::Live, stretch(1401, 5000)),
        (Pass::Live, stretch(100, 1401)),
        (Pass::Backfill(1), stretch(-9000, -5401)),
        (Pass::Backfill(1), stretch(-5401, -1802)),
        (Pass::Backfill(1), stretch(-1802, -1000)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_backfill_into_the_present_leaves_it_to_live_reads() {
    let mut coverage = with_backfill(read_up_to(900), stretch(800, 1150), true);
    assert_eq!(read(at(1201, &rules(), &coverage)).stretch, stretch(800, 900));
    coverage.record(stretch(800, 900), t(1201));
    assert_eq!(wait(at(1450, &rules(), &coverage)), 1500);
    coverage.record(read(at(1500, &rules(), &coverage)).stretch, t(1500));
    assert_eq!(coverage.finished(), [1]);
}

#[test]
fn what_the_vendor_is_about_to_delete_goes_first() {
    let rules = Rules { retention: Some(secs(100_000)), ..rules() };
    let coverage = with_backfill(read_up_to(900), stretch(-200_000, 0), true);
    let want = read(at(1201, &rules, &coverage));
    assert_eq!(want.stretch, stretch(1201 - 100_000, 1201 - 100_000 + 3599));
    let safe = with_backfill(read_up_to(900), stretch(-80_000, 0), true);
    assert_eq!(read(at(1201, &rules, &safe)).stretch, stretch(-3599, 0));
}

#[test]
fn one_in_four_reads_goes_to_the_past_while_rechecks_never_end() {
    let coverage = with_backfill(with_level(read_up_to(90_000), 3600), stretch(-9000, 0), true);
    let lanes = |turn| read(plan(t(90_301), &rules(), &coverage, &[], &[], &[], turn)).lane;
    let lanes: Vec<Lane> = (0..8).map(lanes).collect();
    let quarter = [Lane::Recheck, Lane::Recheck, Lane::Recheck, Lane::Backfill];
    assert_eq!(lanes, [quarter, quarter].concat());
}

#[test]
fn a_read_that_would_make_a_live_read_late_waits() {
    let coverage = with_backfill(read_up_to(900), stretch(-90_000, 0), true);
    // Two slots of three are taken; the third is needed by the live read that is due at 1500.
    let log = [t(1460), t(1461)];
    assert_eq!(wait(plan(t(1470), &rules(), &coverage, &log, &[], &[], 0)), 1500);
    assert_eq!(read(plan(t(1430), &rules(), &coverage, &log[..1], &[], &[], 0)).lane, Lane::Backfill);
    // Six others in 15 minutes at most: with three live reads they make nine.
    let log: Vec<Time> = [1200].into_iter().chain((0..6).map(|nth| 1201 - 100 + 10 * nth)).map(t).collect();
    assert_eq!(wait(plan(t(1300), &rules(), &coverage, &log, &[], &[], 0)), 1500);
    assert_eq!(read(plan(t(1300), &rules(), &coverage, &log[..6], &[], &[], 0)).lane, Lane::Backfill);
}

#[test]
fn a_live_read_waits_for_the_limits_too() {
    let log = [t(1450), t(1451), t(1452)];
    assert_eq!(wait(plan(t(1500), &rules(), &read_up_to(900), &log, &[], &[], 0)), 1510);
    assert_eq!(read(plan(t(1511), &rules(), &read_up_to(900), &log, &[], &[], 0)).lane, Lane::Live);
}

#[test]
fn requests_logged_in_the_future_count_as_under_way_now() {
    let log = [t(9000), t(9001), t(9002)];
    assert_eq!(wait(plan(t(1500), &rules(), &read_up_to(900), &log, &[], &[], 0)), 1562);
}

#[test]
fn a_live_read_that_failed_is_tried_again_when_it_has_cooled_and_narrower_if_it_broke_off() {
    let coverage = read_up_to(900);
    let cooling = [Cooling { stretch: stretch(301, 1200), until: t(1530), max_width: secs(450) }];
    let plan_at = |now| plan(t(now), &rules(), &coverage, &[], &cooling, &[], 0);
    assert_eq!(wait(plan_at(1501)), 1530);
    assert_eq!(read(plan_at(1530)).window, window(1230 - 450, 450));
}

#[test]
fn a_stretch_that_keeps_failing_does_not_hold_up_what_is_new() {
    let coverage = read_up_to(900);
    let cooling = [Cooling { stretch: stretch(301, 1200), until: t(9999), max_width: secs(3600) }];
    let plan_at = |now| plan(t(now), &rules(), &coverage, &[], &cooling, &[], 0);
    assert_eq!(wait(plan_at(1501)), 1800);
    assert_eq!(read(plan_at(1800)).stretch, stretch(1200, 1500));
}

#[test]
fn a_clock_stepped_back_waits_and_reads_nothing_above_the_horizon() {
    let coverage = with_backfill(read_up_to(900), stretch(-100, 900), true);
    assert_eq!(wait(at(300 - 200, &rules(), &coverage)), 900 + 300);
    let coverage = with_level(coverage, 10);
    assert_eq!(wait(at(300 - 200, &rules(), &coverage)), 300 + 300);
    assert_eq!(read(at(300 + 300, &rules(), &coverage)).stretch, stretch(0, 300));
    let gap = {
        let mut coverage = Coverage::new(t(0));
        coverage.record(stretch(500, 900), t(1200));
        coverage
    };
    assert_eq!(wait(at(300 + 450, &rules(), &gap)), 800);
    assert_eq!(read(at(300 + 500, &rules(), &gap)).stretch, stretch(0, 500));
}

#[test]
fn extreme_times_and_settings_neither_panic_nor_wait_into_the_past() {
    let odd = [0, 1, 999, u64::MAX / 1000, u64::MAX].map(Duration::from_millis);
    for now in [Time(i64::MIN), Time(0), t(0), Time(i64::MAX - 1)] {
        for span in odd {
            let rules = Rules {
                window: span,
                offset: span,
                interval: span,
                max_window: span,
                sliding: Sliding::new([(0, span), (u32::MAX, span)]),
                retention: Some(span),
            };
            for coverage in [Coverage::new(now), with_backfill(with_level(read_up_to(900), 5), stretch(-9, 9), false)] {
                match plan(now, &rules, &coverage, &[now, t(0)], &[], &[], u64::MAX) {
                    Plan::Read(want) => assert!(want.window.end() <= rules.horizon(now)),
                    Plan::Wait { until } => assert!(until > now),
                }
            }
            let _ = rules.first_start(now);
            let _ = estimate(&only(stretch(0, 100)), &rules, &odd);
        }
    }
}
