//! Examples of single rules.

use super::*;

/// Whole minutes, far from 1970.
fn t(secs: i64) -> Time {
    Time::from_secs(1_700_000_000 + secs)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn range(from: i64, to: i64) -> TimeRange {
    TimeRange { from: t(from), to: t(to) }
}

/// The default settings.
fn rules() -> PlanningRules {
    PlanningRules {
        window: secs(900),
        offset: secs(300),
        interval: secs(300),
        max_window: secs(3600),
        limits: SlidingWindowLimiter::new([(3, secs(60)), (9, secs(900))]),
        retention: None,
    }
}

/// Live coverage from 0 to `edge`, with nothing else configured.
fn read_up_to(edge: i64) -> Coverage {
    let mut coverage = Coverage::new(t(0));
    coverage.record(range(0, edge), t(edge + 300));
    coverage
}

fn with_level(mut coverage: Coverage, delay: u64) -> Coverage {
    coverage.rechecks.push((secs(delay), Recheck { base: t(-1_000_000), done: TimeRangeSet::default() }));
    coverage
}

fn with_backfill(mut coverage: Coverage, range: TimeRange, newest_first: bool) -> Coverage {
    let id = i64::try_from(coverage.backfills.len()).unwrap() + 1;
    coverage.backfills.push(Backfill { id, range, newest_first, done: TimeRangeSet::default() });
    coverage
}

fn at(now: i64, rules: &PlanningRules, coverage: &Coverage) -> Plan {
    plan_next_read(t(now), rules, coverage, &[], &[], &[], 0)
}

fn window(from: i64, seconds: u32) -> Window {
    Window { start: t(from).floor_secs(), seconds }
}

#[track_caller]
fn read(plan: Plan) -> PlannedRead {
    match plan {
        Plan::Read(planned) => planned,
        Plan::Wait { until } => panic!("waits until {until}"),
    }
}

#[track_caller]
fn wait(plan: Plan) -> i64 {
    match plan {
        Plan::Read(planned) => panic!("reads {planned:?}"),
        Plan::Wait { until } => (until.0 - t(0).0) / 1000,
    }
}

#[test]
fn a_purpose_parses_only_from_its_own_key() {
    let purposes = [
        (ReadPurpose::Live, "live"),
        (ReadPurpose::Recheck(secs(3600)), "recheck:3600"),
        (ReadPurpose::Recheck(Duration::from_millis(250)), "recheck:0.25"),
        (ReadPurpose::Recheck(Duration::new(7, 1)), "recheck:7.000000001"),
        (ReadPurpose::Backfill(17), "backfill:17"),
    ];
    for (purpose, key) in purposes {
        assert_eq!(purpose.key(), key);
        assert_eq!(ReadPurpose::parse(key), Some(purpose));
    }
    for key in
        ["", "Live", "live:1", "recheck:", "recheck:1.0", "recheck:+1", "recheck:1.0000000001", "backfill:x", "x:1"]
    {
        assert_eq!(ReadPurpose::parse(key), None, "{key}");
    }
}

#[test]
fn a_read_covers_each_purpose_as_far_as_it_was_late_enough() {
    let mut coverage = with_backfill(with_level(Coverage::new(t(0)), 60), range(50, 80), true);
    let gained = coverage.record(range(0, 100), t(130).plus_millis(999));
    let expected = [
        (ReadPurpose::Live, range(0, 100)),
        (ReadPurpose::Recheck(secs(60)), range(0, 70)),
        (ReadPurpose::Backfill(1), range(50, 80)),
    ];
    assert_eq!(gained, expected);
    assert_eq!(coverage.record(range(0, 100), t(130)), []);
    assert_eq!(coverage.record(range(90, 110), t(130)), [(ReadPurpose::Live, range(100, 110))]);
    assert_eq!(coverage.finished_backfills(), [1]);
}

#[test]
fn restored_coverage_equals_recorded_coverage() {
    let empty = with_backfill(with_level(Coverage::new(t(0)), 60), range(50, 80), true);
    let mut recorded = empty.clone();
    let mut gained = recorded.record(range(0, 60), t(200));
    gained.extend(recorded.record(range(30, 100), t(130)));
    let mut restored = empty;
    for (purpose, range) in gained {
        restored.restore(purpose, range);
    }
    restored.restore(ReadPurpose::Backfill(99), range(0, 1));
    assert_eq!(restored, recorded);
}

#[test]
fn the_watermark_stops_at_the_first_gap_and_is_none_before_the_first_read() {
    let mut coverage = Coverage::new(t(0));
    assert_eq!(coverage.watermark(), None);
    coverage.record(range(-500, -100), t(1000));
    assert_eq!((coverage.watermark(), coverage.live_edge()), (None, None));
    coverage.record(range(0, 100), t(1000));
    coverage.record(range(150, 200), t(1000));
    assert_eq!(coverage.watermark(), Some(t(100)));
    assert_eq!(coverage.live_edge(), Some(t(200)));
    assert_eq!(coverage.gaps(t(250)).as_slice(), [range(100, 150), range(200, 250)]);
}

#[test]
fn the_first_live_read_is_sent_at_once_and_covers_the_whole_first_window() {
    let coverage = Coverage::new(rules().first_start(t(1200)));
    assert_eq!(coverage.live_start, t(0));
    let planned = read(at(1200, &rules(), &coverage));
    assert_eq!(
        planned,
        PlannedRead { lane: Lane::Live, window: window(-1, 901), range: range(0, 900), purpose: ReadPurpose::Live }
    );
}

#[test]
fn a_first_window_of_the_maximum_width_needs_one_read() {
    let rules = PlanningRules { window: secs(3600), ..rules() };
    let coverage = Coverage::new(rules.first_start(t(10_000)));
    let planned = read(at(10_000, &rules, &coverage));
    assert_eq!(planned.window.seconds, 3600);
    assert_eq!(planned.range.from, coverage.live_start);
}

#[test]
fn a_first_start_far_back_is_read_newest_first_and_the_rest_is_a_gap() {
    let mut coverage = Coverage::new(t(0));
    let planned = read(at(100_300, &rules(), &coverage));
    assert_eq!(planned.window, window(96_400, 3600));
    coverage.record(planned.range, t(100_300));
    let planned = read(at(100_301, &rules(), &coverage));
    assert_eq!((planned.lane, planned.range), (Lane::Backfill, range(96_401 - 3599, 96_401)));
}

#[test]
fn the_live_window_slides_by_the_interval_and_is_as_wide_as_set() {
    let coverage = read_up_to(900);
    assert_eq!(wait(at(1499, &rules(), &coverage)), 1500);
    let planned = read(at(1500, &rules(), &coverage));
    assert_eq!(
        planned,
        PlannedRead { lane: Lane::Live, window: window(300, 900), range: range(301, 1200), purpose: ReadPurpose::Live }
    );
}

#[test]
fn a_live_window_that_is_behind_begins_a_second_before_what_was_read() {
    let coverage = read_up_to(900);
    assert_eq!(read(at(900 + 300 + 2000, &rules(), &coverage)).window, window(899, 2001));
    assert_eq!(read(at(900 + 300 + 9000, &rules(), &coverage)).window, window(900 + 9000 - 3600, 3600));
}

#[test]
fn a_window_setting_of_one_second_is_read_two_seconds_wide() {
    let rules = PlanningRules { window: secs(1), max_window: secs(1), interval: secs(1), offset: secs(0), ..rules() };
    assert_eq!(read(at(901, &rules, &read_up_to(900))).window, window(899, 2));
}

#[test]
fn a_recheck_waits_until_it_is_as_wide_as_a_quarter_of_its_delay() {
    let coverage = with_level(read_up_to(8000), 3600);
    let now = 900 + 3600;
    let rules = PlanningRules { interval: secs(9000), ..rules() };
    let narrow = PlanningRules { interval: secs(300), ..rules.clone() };
    // 8000 is read, so live is quiet; the interval of 9000 s would make rechecks as wide as a
    // request may be.
    assert_eq!(wait(at(now - 1, &narrow, &coverage)), now);
    let planned = read(at(now, &narrow, &coverage));
    assert_eq!(
        (planned.lane, planned.range, planned.purpose),
        (Lane::Recheck, range(0, 900), ReadPurpose::Recheck(secs(3600)))
    );
    assert_eq!(wait(at(now, &rules, &coverage)), 3599 + 3600);
}

#[test]
fn a_recheck_of_a_range_that_cannot_grow_does_not_wait() {
    let mut coverage = with_level(Coverage::new(t(0)), 3600);
    coverage.record(range(0, 100), t(400));
    coverage.record(range(200, 9000), t(9300));
    assert_eq!(wait(at(3699, &PlanningRules { window: secs(1), ..rules() }, &covered_elsewhere(&coverage))), 3700);
    assert_eq!(read(at(3700, &rules(), &covered_elsewhere(&coverage))).range, range(0, 100));
}

/// The same coverage with the gap covered, so that only rechecks are planned.
fn covered_elsewhere(coverage: &Coverage) -> Coverage {
    let mut coverage = coverage.clone();
    for (_, recheck) in &mut coverage.rechecks {
        recheck.done.insert(range(100, 200));
    }
    coverage.live.insert(range(100, 200));
    coverage
}

#[test]
fn the_longer_of_two_due_delays_is_read() {
    let coverage = with_level(with_level(read_up_to(90_000), 3600), 86_400);
    let planned = read(at(90_400, &rules(), &coverage));
    assert_eq!((planned.range, planned.purpose), (range(0, 3599), ReadPurpose::Recheck(secs(86_400))));
}

#[test]
fn nothing_before_the_base_of_a_recheck_is_read() {
    let mut coverage = with_level(read_up_to(9000), 3600);
    coverage.rechecks[0].1.base = t(2000);
    assert_eq!(read(at(9000, &rules(), &coverage)).range, range(2000, 2900));
}

#[test]
fn a_repair_is_read_when_due() {
    let coverage = read_up_to(900);
    let repairs = [Repair { range: range(100, 200), due: t(1250) }];
    let plan_at = |now| plan_next_read(t(now), &rules(), &coverage, &[], &[], &repairs, 0);
    assert_eq!(wait(plan_at(1210)), 1250);
    let planned = read(plan_at(1250));
    assert_eq!((planned.lane, planned.window, planned.purpose), (Lane::Recheck, window(99, 101), ReadPurpose::Live));
}

#[test]
fn gaps_are_read_newest_first_and_before_backfills() {
    let mut coverage = with_backfill(Coverage::new(t(0)), range(-9000, -1000), false);
    coverage.record(range(5000, 20_000), t(20_300));
    coverage.record(range(0, 100), t(20_300));
    let mut seen = Vec::new();
    while let Plan::Read(planned) = at(20_301, &rules(), &coverage) {
        coverage.record(planned.range, t(20_301));
        seen.push((planned.purpose, planned.range));
    }
    let expected = [
        (ReadPurpose::Live, range(1401, 5000)),
        (ReadPurpose::Live, range(100, 1401)),
        (ReadPurpose::Backfill(1), range(-9000, -5401)),
        (ReadPurpose::Backfill(1), range(-5401, -1802)),
        (ReadPurpose::Backfill(1), range(-1802, -1000)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_backfill_into_the_present_leaves_it_to_live_reads() {
    let mut coverage = with_backfill(read_up_to(900), range(800, 1150), true);
    assert_eq!(read(at(1201, &rules(), &coverage)).range, range(800, 900));
    coverage.record(range(800, 900), t(1201));
    assert_eq!(wait(at(1450, &rules(), &coverage)), 1500);
    coverage.record(read(at(1500, &rules(), &coverage)).range, t(1500));
    assert_eq!(coverage.finished_backfills(), [1]);
}

#[test]
fn ranges_that_the_vendor_is_about_to_delete_are_read_first() {
    let rules = PlanningRules { retention: Some(secs(100_000)), ..rules() };
    let coverage = with_backfill(read_up_to(900), range(-200_000, 0), true);
    let planned = read(at(1201, &rules, &coverage));
    assert_eq!(planned.range, range(1201 - 100_000, 1201 - 100_000 + 3599));
    let safe = with_backfill(read_up_to(900), range(-80_000, 0), true);
    assert_eq!(read(at(1201, &rules, &safe)).range, range(-3599, 0));
}

#[test]
fn one_in_four_reads_is_of_the_past_while_rechecks_never_end() {
    let coverage = with_backfill(with_level(read_up_to(90_000), 3600), range(-9000, 0), true);
    let lanes = |turn| read(plan_next_read(t(90_301), &rules(), &coverage, &[], &[], &[], turn)).lane;
    let lanes: Vec<Lane> = (0..8).map(lanes).collect();
    let quarter = [Lane::Recheck, Lane::Recheck, Lane::Recheck, Lane::Backfill];
    assert_eq!(lanes, [quarter, quarter].concat());
}

#[test]
fn a_read_that_would_make_a_live_read_late_waits() {
    let coverage = with_backfill(read_up_to(900), range(-90_000, 0), true);
    // Two slots of three are taken; the third is needed by the live read that is due at 1500.
    let log = [t(1460), t(1461)];
    assert_eq!(wait(plan_next_read(t(1470), &rules(), &coverage, &log, &[], &[], 0)), 1500);
    assert_eq!(read(plan_next_read(t(1430), &rules(), &coverage, &log[..1], &[], &[], 0)).lane, Lane::Backfill);
    // Six others in 15 minutes at most: with three live reads they make nine.
    let log: Vec<Time> = [1200].into_iter().chain((0..6).map(|nth| 1201 - 100 + 10 * nth)).map(t).collect();
    assert_eq!(wait(plan_next_read(t(1300), &rules(), &coverage, &log, &[], &[], 0)), 1500);
    assert_eq!(read(plan_next_read(t(1300), &rules(), &coverage, &log[..6], &[], &[], 0)).lane, Lane::Backfill);
}

#[test]
fn a_live_read_waits_for_the_limits_too() {
    let log = [t(1450), t(1451), t(1452)];
    assert_eq!(wait(plan_next_read(t(1500), &rules(), &read_up_to(900), &log, &[], &[], 0)), 1510);
    assert_eq!(read(plan_next_read(t(1511), &rules(), &read_up_to(900), &log, &[], &[], 0)).lane, Lane::Live);
}

#[test]
fn requests_logged_in_the_future_count_as_under_way_now() {
    let log = [t(9000), t(9001), t(9002)];
    assert_eq!(wait(plan_next_read(t(1500), &rules(), &read_up_to(900), &log, &[], &[], 0)), 1562);
}

#[test]
fn a_failed_live_read_is_retried_after_its_wait_and_narrower_if_it_was_truncated() {
    let coverage = read_up_to(900);
    let failed = [FailedWindow { range: range(301, 1200), retry_at: t(1530), max_width: secs(450) }];
    let plan_at = |now| plan_next_read(t(now), &rules(), &coverage, &[], &failed, &[], 0);
    assert_eq!(wait(plan_at(1501)), 1530);
    assert_eq!(read(plan_at(1530)).window, window(1230 - 450, 450));
}

#[test]
fn a_range_that_keeps_failing_does_not_delay_new_segments() {
    let coverage = read_up_to(900);
    let failed = [FailedWindow { range: range(301, 1200), retry_at: t(9999), max_width: secs(3600) }];
    let plan_at = |now| plan_next_read(t(now), &rules(), &coverage, &[], &failed, &[], 0);
    assert_eq!(wait(plan_at(1501)), 1800);
    assert_eq!(read(plan_at(1800)).range, range(1200, 1500));
}

#[test]
fn a_clock_stepped_back_waits_and_reads_nothing_above_the_horizon() {
    let coverage = with_backfill(read_up_to(900), range(-100, 900), true);
    assert_eq!(wait(at(300 - 200, &rules(), &coverage)), 900 + 300);
    let coverage = with_level(coverage, 10);
    assert_eq!(wait(at(300 - 200, &rules(), &coverage)), 300 + 300);
    assert_eq!(read(at(300 + 300, &rules(), &coverage)).range, range(0, 300));
    let gap = {
        let mut coverage = Coverage::new(t(0));
        coverage.record(range(500, 900), t(1200));
        coverage
    };
    assert_eq!(wait(at(300 + 450, &rules(), &gap)), 800);
    assert_eq!(read(at(300 + 500, &rules(), &gap)).range, range(0, 500));
}

#[test]
fn extreme_times_and_settings_neither_panic_nor_wait_into_the_past() {
    let odd = [0, 1, 999, u64::MAX / 1000, u64::MAX].map(Duration::from_millis);
    for now in [Time(i64::MIN), Time(0), t(0), Time(i64::MAX - 1)] {
        for span in odd {
            let rules = PlanningRules {
                window: span,
                offset: span,
                interval: span,
                max_window: span,
                limits: SlidingWindowLimiter::new([(0, span), (u32::MAX, span)]),
                retention: Some(span),
            };
            for coverage in [Coverage::new(now), with_backfill(with_level(read_up_to(900), 5), range(-9, 9), false)] {
                match plan_next_read(now, &rules, &coverage, &[now, t(0)], &[], &[], u64::MAX) {
                    Plan::Read(planned) => assert!(planned.window.end() <= rules.horizon(now)),
                    Plan::Wait { until } => assert!(until > now),
                }
            }
            let _ = rules.first_start(now);
            let _ = estimate_backfill_duration(&single_range(range(0, 100)), &rules, &odd);
        }
    }
}
