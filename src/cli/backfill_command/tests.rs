use super::*;
use crate::operator_actions::readable_range;

const NOW: Time = Time::from_secs(1_790_000_000);
const OFFSET: Duration = Duration::from_secs(300);

pub(super) fn hours(from: i64, to: i64) -> TimeRange {
    TimeRange { from: Time::from_secs(from * 3600), to: Time::from_secs(to * 3600) }
}

fn account(retention_days: Option<i64>) -> AccountRow {
    AccountRow {
        key: crate::db::AccountKey(1),
        id: AccountId::new("1", "2"),
        name: Some("Support".to_owned()),
        owner: None,
        live_start: None,
        retention_days,
        missing_since: None,
        done: 0,
        feed: 0,
    }
}

pub(super) fn queued(range: TimeRange) -> QueuedBackfill {
    let rules = PlanningRules {
        window: Duration::from_secs(900),
        offset: OFFSET,
        interval: OFFSET,
        max_window: Duration::from_secs(3600),
        limits: crate::ringcx::rate_limit::SlidingWindowLimiter::new([
            (3, Duration::from_secs(60)),
            (9, Duration::from_secs(900)),
        ]),
        retention: None,
    };
    QueuedBackfill { id: 7, account: account(None), range, rules }
}

#[test]
fn a_range_that_reaches_into_the_present_is_cut_off_with_a_note() {
    let (range, unread_from) = readable_range(NOW - Duration::from_secs(7200), NOW, NOW, OFFSET).unwrap();
    assert_eq!((range.to, unread_from), (NOW - OFFSET, Some(NOW - OFFSET)));
}

#[test]
fn a_range_of_the_past_is_taken_as_it_is_in_whole_seconds() {
    let from = Time((NOW - Duration::from_secs(7200)).0 + 250);
    let to = Time((NOW - Duration::from_secs(3600)).0 + 250);
    let (range, note) = readable_range(from, to, NOW, OFFSET).unwrap();
    assert_eq!((range.from, range.to), (from.floor_to_second(), to.floor_to_second().plus_millis(1000)));
    assert_eq!(note, None);
}

#[test]
fn a_range_with_nothing_in_it_is_refused() {
    assert!(readable_range(NOW, NOW, NOW, OFFSET).is_err());
    let error = readable_range(NOW - Duration::from_secs(60), NOW, NOW, OFFSET).unwrap_err();
    assert!(error.to_string().contains("nothing to read yet"), "{error}");
}

#[test]
fn an_account_is_meant_by_its_id_or_by_its_name() {
    let known = || {
        vec![
            (AccountId::new("1", "10"), Some("Sales".to_owned())),
            (AccountId::new("1", "20"), Some("10".to_owned())),
            (AccountId::new("1", "30"), Some("sales".to_owned())),
            (AccountId::new("1", "40"), None),
        ]
    };
    let subs = |wanted| {
        select_by_id_or_name(known(), wanted).unwrap().iter().map(|(id, _)| id.sub.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(subs(None).len(), 4);
    assert_eq!(subs(Some("10")), ["10"]);
    assert_eq!(subs(Some(" 40 ")), ["40"]);
    assert!(select_by_id_or_name(known(), Some("Sales")).unwrap_err().to_string().contains("several"));
    let error = select_by_id_or_name(known(), Some("50")).unwrap_err();
    assert!(crate::error::hint_of(&error).unwrap().contains("10, 20, 30, 40"));
    assert!(select_by_id_or_name(Vec::new(), None).unwrap_err().to_string().contains("no account is known"));
}

#[test]
fn data_that_the_vendor_has_deleted_is_warned_of() {
    let back = |days: u64| NOW - Duration::from_secs(days * SECONDS_PER_DAY);
    assert!(retention_warning(&account(Some(30)), back(31), NOW).unwrap().contains("30 days"));
    assert_eq!(retention_warning(&account(Some(30)), back(29), NOW), None);
    assert_eq!(retention_warning(&account(None), back(300), NOW), None);
    assert!(retention_warning(&account(None), back(400), NOW).unwrap().contains("likely deleted"));
}

#[test]
fn what_is_asked_for_twice_is_reckoned_once() {
    let one = |id, range| (id, TimeRangeSet::from_unsorted(vec![range]));
    let open = [one(1, hours(0, 3)), one(2, hours(2, 4))];
    assert_eq!(union_of_open(&open).total(), Duration::from_secs(4 * 3600));
}
