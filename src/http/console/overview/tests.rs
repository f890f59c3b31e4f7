use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::*;
use crate::health::{EndpointPause, Finding, FindingCode, Severity};
use crate::http::fixtures::{NOW, account, snapshot};
use crate::model::Endpoint;

const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\" autofocus onfocus=\"alert(3)";

fn report(accounts: Vec<AccountStatus>, findings: Vec<Finding>) -> VisibleReport {
    VisibleReport { status: Some(snapshot(accounts).status), findings, is_database_up: true, now: NOW }
}

fn viewer() -> Viewer {
    Viewer::unknown(false, "/".to_owned())
}

fn finding(code: FindingCode, severity: Severity, subs: &[&str]) -> Finding {
    let found =
        Finding::new(code.clone(), severity, NOW - Duration::from_secs(600), format!("{code} it is"), "mend it");
    found.about_accounts(subs.join(", "), subs.iter().map(|sub| (*sub).to_owned()).collect())
}

fn render(report: &VisibleReport, history: Option<&History>, query: OverviewQuery) -> String {
    let overview = Overview::new(report, history, &viewer(), query);
    page::render(&overview, &viewer()).1.into_string()
}

fn history(cells: impl IntoIterator<Item = (String, Vec<Option<HealthLevel>>)>) -> History {
    let range = HistoryRange::Day;
    History {
        range,
        since: NOW - range.duration(),
        width: Duration::from_secs(600),
        now: NOW,
        sums: BTreeMap::new(),
        cells: HashMap::from_iter(cells),
        first_cell: range.first_cell(NOW),
    }
}

#[test]
fn external_text_is_escaped() {
    let paused = EndpointPause {
        endpoint: Endpoint::Transcript,
        since: NOW,
        until: NOW,
        reason: HOSTILE.to_owned(),
        status: Some(403),
        is_login_failure: false,
    };
    let hostile = AccountStatus {
        name: Some(HOSTILE.into()),
        sub_account_id: HOSTILE.into(),
        paused: vec![paused],
        ..account("x")
    };
    let wrong = Finding::new(FindingCode::Other(HOSTILE.to_owned()), Severity::Trouble, NOW, HOSTILE, HOSTILE);
    let report = report(vec![hostile], vec![wrong.about_accounts(HOSTILE.to_owned(), vec![HOSTILE.to_owned()])]);
    let cells = history([(HOSTILE.to_owned(), vec![Some(HealthLevel::Healthy), Some(HealthLevel::Trouble)])]);
    let query = OverviewQuery { q: HOSTILE.to_owned(), ..OverviewQuery::default() };
    for page in [render(&report, Some(&cells), OverviewQuery::default()), render(&report, Some(&cells), query)] {
        assert!(["<script", "<img", "\" autofocus"].iter().all(|markup| !page.contains(markup)), "{page}");
        assert!(page.contains("&lt;/script&gt;"));
        assert!(!page.contains(" style=") && !page.contains(" onclick="), "the policy allows neither");
    }
}

#[test]
fn the_worst_cause_comes_first_and_among_equals_the_one_with_most_data_at_risk() {
    let mut far_behind = account("two");
    far_behind.watermark = Some(NOW - Duration::from_secs(90_000));
    let findings = vec![
        finding(FindingCode::Lagging, Severity::Warning, &["two"]),
        finding(FindingCode::EndpointPaused, Severity::Trouble, &["one"]),
        finding(FindingCode::AccountMissing, Severity::Trouble, &["two"]),
        finding(FindingCode::Standby, Severity::Info, &[]),
    ];
    let overview =
        Overview::new(&report(vec![account("one"), far_behind], findings), None, &viewer(), OverviewQuery::default());
    let order: Vec<_> = overview.incidents.iter().map(|incident| incident.code.to_string()).collect();
    assert_eq!(order, ["account_missing", "endpoint_paused", "lagging"]);
    assert_eq!(overview.level, HealthLevel::Trouble);
    assert_eq!(overview.accounts.iter().map(|one| one.sub_account_id.as_str()).collect::<Vec<_>>(), ["two", "one"]);
}

#[test]
fn an_incident_says_what_is_at_risk_since_when_and_when_it_is_tried_again() {
    let mut paused = account("one");
    paused.work.ready = 9;
    paused.paused = vec![EndpointPause {
        endpoint: Endpoint::Metadata,
        since: NOW - Duration::from_secs(600),
        until: NOW + Duration::from_secs(60),
        reason: "503".to_owned(),
        status: Some(503),
        is_login_failure: false,
    }];
    let report = report(vec![paused], vec![finding(FindingCode::EndpointPaused, Severity::Trouble, &["one"])]);
    let page = render(&report, None, OverviewQuery::default());
    assert!(page.contains("2027-01-15 07:50:00 UTC (10 min)"), "{page}");
    assert!(page.contains("5 min not read, 12 items"), "{page}");
    assert!(page.contains("last success</dt><dd>2027-01-15 07:55:00 UTC"), "{page}");
    assert!(page.contains("next try</dt><dd>2027-01-15 08:01:00 UTC"), "{page}");
    assert!(!page.contains("<form class=\"action\""), "no button for a viewer without a session");
}

#[test]
fn hundreds_of_accounts_are_a_small_page_with_the_worst_first_and_a_filter() {
    let accounts: Vec<AccountStatus> = (0..500).map(|number| account(&format!("4{number:04}"))).collect();
    let cells = accounts.iter().enumerate().map(|(number, account)| {
        let level =
            |hour: usize| if (number + hour).is_multiple_of(97) { HealthLevel::Behind } else { HealthLevel::Healthy };
        (account.sub_account_id.clone(), (0..24).map(|hour| Some(level(hour))).collect())
    });
    let history = history(cells);
    let report = report(accounts, vec![finding(FindingCode::CoverageGaps, Severity::Warning, &["40321"])]);
    let page = render(&report, Some(&history), OverviewQuery::default());
    assert!(page.len() < 60_000, "{} bytes", page.len());
    assert_eq!(page.matches("<tr id=").count(), FIRST_ACCOUNTS);
    assert!(page[page.find("<tr id=").unwrap()..].starts_with("<tr id=\"account-40321\""));
    assert!(
        page.contains("Show all 500") && page.contains("All 500") && page.contains("Incomplete</span> 1"),
        "{page}"
    );
    let all = render(&report, Some(&history), OverviewQuery { all: "1".to_owned(), ..OverviewQuery::default() });
    assert_eq!(all.matches("<tr id=").count(), 500);
    assert!(all.len() < 600_000, "{} bytes", all.len());
    let some = OverviewQuery { q: "4002".to_owned(), level: "healthy".to_owned(), ..OverviewQuery::default() };
    let some = render(&report, Some(&history), some);
    assert_eq!(some.matches("<tr id=").count(), 10);
    assert!(some.contains("href=\"/?q=4002#accounts\""), "the filter stays in other choices: {some}");
}

#[test]
fn changes_of_level_are_events_the_newest_first() {
    let mut cells = vec![Some(HealthLevel::Healthy); 24];
    cells[20] = Some(HealthLevel::Trouble);
    let history = history([("one".to_owned(), cells)]);
    let overview =
        Overview::new(&report(vec![account("one")], Vec::new()), Some(&history), &viewer(), OverviewQuery::default());
    let events: Vec<_> = overview.events.iter().map(|event| (event.before, event.after)).collect();
    assert_eq!(events, [(HealthLevel::Trouble, HealthLevel::Healthy), (HealthLevel::Healthy, HealthLevel::Trouble)]);
    assert_eq!(overview.events[0].at.since(overview.events[1].at), Duration::from_secs(3600));
}

#[test]
fn a_page_without_a_snapshot_says_so() {
    let report = VisibleReport { status: None, findings: Vec::new(), is_database_up: false, now: NOW };
    assert!(
        render(&report, None, OverviewQuery::default())
            .contains("the database has not answered since the daemon started")
    );
}
