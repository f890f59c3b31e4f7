use super::*;

#[test]
fn a_range_is_widened_to_the_days_that_it_touches() {
    let range = |from: Option<i64>, to: Option<i64>| {
        let whole = widen_to_days(ExportRange { from: from.map(Time), to: to.map(Time), account: None });
        (whole.from.map(|from| from.0), whole.to.map(|to| to.0))
    };
    assert_eq!(range(Some(DAY_MS + 1), Some(2 * DAY_MS - 1)), (Some(DAY_MS), Some(2 * DAY_MS)));
    assert_eq!(range(Some(DAY_MS), Some(2 * DAY_MS)), (Some(DAY_MS), Some(2 * DAY_MS)));
    assert_eq!(range(Some(-1), Some(2 * DAY_MS + 1)), (Some(-DAY_MS), Some(3 * DAY_MS)));
    assert_eq!(range(None, None), (None, None));
}

#[test]
fn no_bound_overflows() {
    let whole = widen_to_days(ExportRange { from: Some(Time(i64::MIN)), to: Some(Time(i64::MAX)), account: None });
    assert!(whole.from.is_some_and(|from| from.0 <= i64::MIN + DAY_MS));
    assert!(whole.to.is_some_and(|to| to.0 >= i64::MAX - DAY_MS));
}
