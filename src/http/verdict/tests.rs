use super::super::picture::Paused;
use super::super::testing::{NOW, picture, row};
use super::*;
use crate::status::IndexStatus;

const PACE: Pace = Pace { lag: Duration::from_secs(960) };

fn ready() -> Readiness {
    Readiness { ready: true, reasons: Vec::new(), paused: Vec::new() }
}

fn verdict(rows: Vec<Row>) -> Verdict {
    judge(&ready(), Some(&picture(rows)), PACE, NOW)
}

fn pause(endpoint: &str, status: Option<i64>) -> Paused {
    Paused { endpoint: endpoint.to_owned(), until: None, reason: "403 access.denied".to_owned(), status }
}

#[test]
fn nothing_wrong_is_healthy_and_says_how_far_it_is() {
    let verdict = verdict(vec![row("one"), row("two")]);
    assert_eq!(verdict.level, Level::Healthy);
    assert_eq!(verdict.line, "everything that ended up to 5 min ago has been found, without a gap");
    assert_eq!(verdict.findings, []);
}

#[test]
fn the_worst_finding_is_the_verdict_and_the_others_follow() {
    let mut refused = row("one");
    refused.paused = vec![pause("transcript", Some(403))];
    let mut failed = row("two");
    failed.work.failed = 3;
    let mut late = row("three");
    late.watermark = Some(NOW - Duration::from_secs(7200));
    let verdict = verdict(vec![late, failed, refused]);
    assert_eq!(verdict.level, Level::Trouble);
    assert_eq!(verdict.line, "transcript paused for 1 account: 403 access.denied");
    let levels: Vec<Level> = verdict.findings.iter().map(|finding| finding.level).collect();
    assert_eq!(levels, [Level::Trouble, Level::Incomplete, Level::Behind]);
    assert_eq!(verdict.findings[2].what, "three is 2 h behind");
}

#[test]
fn a_pause_that_passes_by_itself_is_no_trouble() {
    let mut away = row("one");
    away.paused = vec![pause("transcript", Some(503))];
    assert_eq!(verdict(vec![away]).level, Level::Behind);
}

#[test]
fn a_gap_is_incomplete_and_explains_the_lag() {
    let mut gap = row("one");
    gap.gaps = Duration::from_secs(3600);
    gap.watermark = Some(NOW - Duration::from_secs(7200));
    let verdict = verdict(vec![gap]);
    assert_eq!((verdict.level, verdict.findings.len()), (Level::Incomplete, 1));
    assert_eq!(verdict.line, "1 h of 1 account never read so far");
}

#[test]
fn a_long_queue_is_behind_and_items_that_back_off_are_not() {
    let mut busy = row("one");
    busy.work.ready = 120 * 60;
    assert_eq!(verdict(vec![busy]).line, "7,200 items are due; at the limit that takes 1 h at least");
    let mut waiting = row("one");
    waiting.work.waiting = 120 * 60;
    assert_eq!(verdict(vec![waiting]).level, Level::Healthy);
}

#[test]
fn accounts_that_share_one_budget_share_one_queue() {
    let rows: Vec<Row> = (0..10)
        .map(|_| {
            let mut row = row("one");
            row.work.ready = 120 * 2;
            row
        })
        .collect();
    let mut picture = picture(rows);
    assert_eq!(judge(&ready(), Some(&picture), PACE, NOW).level, Level::Healthy);
    picture.one_budget = true;
    assert_eq!(judge(&ready(), Some(&picture), PACE, NOW).level, Level::Behind);
}

#[test]
fn a_database_that_is_away_is_trouble_even_without_a_picture() {
    let reason = super::super::ready::Reason {
        what: What::Database,
        account: None,
        detail: "the database did not answer".to_owned(),
        hint: "bring it back".to_owned(),
    };
    let readiness = Readiness { ready: false, reasons: vec![reason], paused: Vec::new() };
    let verdict = judge(&readiness, None, PACE, NOW);
    assert_eq!((verdict.level, verdict.line.as_str()), (Level::Trouble, "the database did not answer"));
}

#[test]
fn an_account_of_which_nothing_was_read_is_starting_and_not_behind() {
    let mut fresh = row("one");
    fresh.watermark = None;
    let verdict = verdict(vec![fresh]);
    assert_eq!(
        (verdict.level, verdict.line.as_str()),
        (Level::Healthy, "starting; nothing has been read yet of 1 account")
    );
}

#[test]
fn accounts_with_the_same_reason_are_one_finding_and_the_first_are_named() {
    let refused = |number: usize| {
        let mut row = row(&format!("account {number}"));
        row.paused = vec![pause("transcript", Some(403)), pause("auto_summary", Some(403))];
        row
    };
    let mut rows: Vec<Row> = (1..=1312).map(refused).collect();
    let mut other = row("other");
    other.paused = vec![Paused { reason: "401 unauthorized".to_owned(), ..pause("metadata", Some(401)) }];
    rows.push(other);
    let findings = verdict(rows).findings;
    let told: Vec<(&str, &str)> =
        findings.iter().map(|finding| (finding.what.as_str(), finding.who.as_str())).collect();
    let expected = [
        (
            "transcript and auto summary paused for 1,312 accounts: 403 access.denied",
            "account 1, account 2, account 3 and 1,309 more",
        ),
        ("metadata paused for 1 account: 401 unauthorized", "other"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn those_that_are_worst_are_named_first() {
    let late = |sub: &str, hours: u64| {
        let mut row = row(sub);
        row.watermark = Some(NOW - Duration::from_secs(hours * 3600));
        row
    };
    let findings = verdict(vec![late("two", 2), late("nine", 9), late("four", 4), row("well")]).findings;
    assert_eq!(findings[0].what, "3 accounts are behind, by 9 h at most");
    assert_eq!(findings[0].who, "nine, four and two");
}

#[test]
fn an_index_that_stays_behind_is_said_to_be_and_one_that_is_busy_is_not() {
    let with = |lag_seconds| {
        let mut picture = picture(vec![row("one"), row("two")]);
        picture.status.search_index = IndexStatus { lag_changes: 41_500, lag_seconds };
        judge(&ready(), Some(&picture), PACE, NOW)
    };
    assert_eq!(with(30).level, Level::Healthy);
    let late = with(7200);
    assert_eq!(late.level, Level::Behind);
    assert_eq!(late.line, "the full-text index is 41,500 changes behind the archive, the first for 2 h");
}
