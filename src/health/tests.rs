use std::time::Duration;

use super::*;
use crate::model::Endpoint;

const NOW: Time = Time(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn ago(span: Duration) -> Time {
    NOW - span
}

/// A healthy account of this replica.
fn account(sub: &str) -> AccountStatus {
    AccountStatus {
        rc_account_id: "1".to_owned(),
        sub_account_id: sub.to_owned(),
        owner: Some("host-1".to_owned()),
        watermark: Some(ago(5 * MINUTE)),
        work: WorkCounts { done: 812, waiting: 3, ..WorkCounts::default() },
        oldest_unfinished_seconds: Some(41),
        requests_per_minute: 120,
        facts: AccountFacts {
            requested_endpoints: [Endpoint::Transcript, Endpoint::AgentSummary].into(),
            ..AccountFacts::default()
        },
        ..AccountStatus::default()
    }
}

fn snapshot(accounts: Vec<AccountStatus>) -> Snapshot {
    let replica = ReplicaStatus {
        name: "host-1".to_owned(),
        version: "1".to_owned(),
        alive: true,
        started: ago(60 * MINUTE),
        heartbeat: ago(Duration::ZERO),
    };
    Snapshot {
        now: NOW,
        instance: "host-1".to_owned(),
        accounts,
        replicas: vec![replica],
        lag_threshold: 16 * MINUTE,
        ..Snapshot::default()
    }
}

fn findings_of(accounts: Vec<AccountStatus>) -> Vec<Finding> {
    derive_findings(&snapshot(accounts), Vec::new())
}

fn codes(findings: &[Finding]) -> Vec<(FindingCode, Severity)> {
    findings.iter().map(|finding| (finding.code.clone(), finding.severity)).collect()
}

fn pause(endpoint: Endpoint, status: Option<i64>, reason: &str) -> EndpointPause {
    let (since, until, reason) = (ago(MINUTE), NOW + MINUTE, reason.to_owned());
    EndpointPause { endpoint, since, until, reason, status, is_login_failure: false }
}

fn stalled(lasting: bool) -> Option<MetadataStall> {
    let (since, reason) = (ago(16 * MINUTE), "failed to read interaction metadata: 503".to_owned());
    Some(MetadataStall { since, lasting, reason, hint: "wait".to_owned() })
}

fn login_refused() -> Finding {
    let sentence = "failed to log in to RingCentral: the credentials were refused (401)".to_owned();
    Finding::new(FindingCode::LoginRefused, Severity::Trouble, NOW - MINUTE, sentence, "check auth.jwt")
}

#[test]
fn a_healthy_status_has_no_finding() {
    assert_eq!(findings_of(vec![account("one"), account("two")]), []);
}

#[test]
fn every_reason_for_a_failed_audit_is_a_finding() {
    let mut failed = account("one");
    failed.work.failed = 3;
    let aside = AccountStatus { set_aside: 2, ..account("two") };
    let mut gap = account("three");
    gap.gaps = vec![CoverageGap { from: ago(30 * MINUTE), to: ago(20 * MINUTE), seconds: 600 }];
    let unread = AccountStatus { watermark: None, ..account("four") };
    let mut snapshot = snapshot(vec![failed, aside, gap, unread]);
    snapshot.backfills = vec![BackfillStatus {
        id: 7,
        sub_account_id: "one".to_owned(),
        from: ago(100 * MINUTE),
        to: ago(90 * MINUTE),
        requested: ago(MINUTE),
        seconds: 7200,
        read_seconds: 3600,
        left_seconds: 600,
    }];
    let found = derive_findings(&snapshot, Vec::new());
    assert!(found.iter().all(|finding| finding.code.is_incompleteness()), "{found:?}");
    let sentences: Vec<&str> = found.iter().map(|finding| finding.sentence.as_str()).collect();
    let expected = [
        "3 items failed and will not be retried automatically",
        "2 metadata records were set aside because they could not be understood",
        "backfill 7: 1 h of 2 h read, about 10 min left",
        "gaps of 10 min in the metadata of 1 account",
        "no metadata has been read yet for 1 account",
    ];
    assert_eq!(sentences, expected);
    assert!(found.iter().all(|finding| !finding.blocks_progress && !finding.hint.is_empty()));
}

#[test]
fn a_refused_login_is_one_finding_with_one_hint() {
    let reason = "the wording does not matter";
    let all = [Endpoint::Metadata, Endpoint::Transcript, Endpoint::AgentSummary]
        .map(|endpoint| EndpointPause { is_login_failure: true, ..pause(endpoint, Some(401), reason) });
    let mut one = AccountStatus { paused: all.to_vec(), watermark: None, ..account("one") };
    one.facts.stalled = stalled(true);
    let two = AccountStatus { watermark: Some(ago(90 * MINUTE)), ..one.clone() };
    let found = derive_findings(&snapshot(vec![one, two]), vec![login_refused()]);
    assert_eq!(codes(&found), [(FindingCode::LoginRefused, Severity::Trouble)]);
    assert!(found[0].blocks_progress);
}

#[test]
fn a_login_refused_to_another_replica_does_not_block_this_one() {
    let found = derive_findings(&snapshot(vec![account("one")]), vec![login_refused()]);
    assert_eq!(
        (codes(&found), found[0].blocks_progress),
        (vec![(FindingCode::LoginRefused, Severity::Trouble)], false)
    );
}

#[test]
fn unread_metadata_is_trouble_and_blocks_if_no_other_account_makes_progress() {
    let still =
        || AccountStatus { facts: AccountFacts { stalled: stalled(true), ..account("x").facts }, ..account("one") };
    let found = findings_of(vec![still()]);
    assert_eq!(
        (codes(&found), found[0].blocks_progress),
        (vec![(FindingCode::NoMetadataRead, Severity::Trouble)], true)
    );
    assert_eq!(
        found[0].sentence,
        "no metadata of 1 account was read for 16 min: failed to read interaction metadata: 503"
    );
    let found = findings_of(vec![still(), account("two")]);
    assert_eq!(
        (codes(&found), found[0].blocks_progress),
        (vec![(FindingCode::NoMetadataRead, Severity::Trouble)], false)
    );
    let others = AccountStatus { owner: Some("host-2".to_owned()), ..account("two") };
    assert!(
        findings_of(vec![still(), others])[0].blocks_progress,
        "another replica's account is no progress of this one"
    );
    let mut fresh = account("one");
    fresh.facts.stalled = stalled(false);
    let found = findings_of(vec![fresh]);
    assert_eq!(
        (codes(&found), found[0].blocks_progress),
        (vec![(FindingCode::NoMetadataRead, Severity::Warning)], false)
    );
}

#[test]
fn a_finding_that_explains_a_stall_replaces_it_with_its_severity() {
    let mut waiting = account("one");
    waiting.facts.refused = Some((NOW - 20 * MINUTE, NOW + 40 * MINUTE));
    let found = findings_of(vec![waiting.clone()]);
    assert_eq!((codes(&found), found[0].blocks_progress), (vec![(FindingCode::RateLimited, Severity::Warning)], false));
    assert!(found[0].sentence.ends_with(&format!("asked to wait until {}", (NOW + 40 * MINUTE).rfc3339_secs())));
    waiting.facts.stalled = stalled(true);
    let found = findings_of(vec![waiting]);
    assert_eq!((codes(&found), found[0].blocks_progress), (vec![(FindingCode::RateLimited, Severity::Trouble)], true));
    let mut short = account("one");
    short.facts.refused = Some((NOW - MINUTE, NOW - MINUTE + Duration::from_secs(62)));
    assert_eq!(findings_of(vec![short]).len(), 1);
    let mut over = account("one");
    over.facts.refused = Some((NOW - 20 * MINUTE, NOW));
    assert_eq!(findings_of(vec![over]), []);
}

#[test]
fn a_temporary_pause_is_trouble_only_when_it_lasts() {
    let away = |since: Duration| {
        let pause = EndpointPause { since: ago(since), ..pause(Endpoint::Transcript, Some(503), "the service failed") };
        findings_of(vec![AccountStatus { paused: vec![pause], ..account("one") }])[0].severity
    };
    assert_eq!((away(9 * MINUTE), away(10 * MINUTE)), (Severity::Warning, Severity::Trouble));
}

#[test]
fn all_accounts_paused_blocks_by_metadata_or_by_all_requested_artifacts() {
    let metadata = AccountStatus { paused: vec![pause(Endpoint::Metadata, Some(403), "denied")], ..account("one") };
    let one = findings_of(vec![metadata.clone(), account("two")]);
    assert_eq!((codes(&one), one[0].blocks_progress), (vec![(FindingCode::EndpointPaused, Severity::Trouble)], false));
    let both = vec![pause(Endpoint::Transcript, Some(403), "denied"), pause(Endpoint::AgentSummary, Some(503), "away")];
    let artifacts = AccountStatus { paused: both.clone(), ..account("two") };
    let blocking = |finding: &Finding| finding.blocks_progress && finding.severity == Severity::Trouble;
    assert!(findings_of(vec![metadata, artifacts]).iter().all(blocking));
    let one = AccountStatus { paused: both[..1].to_vec(), ..account("two") };
    assert!(!findings_of(vec![one])[0].blocks_progress, "summaries still come");
    let missing = AccountStatus { missing_since: Some(ago(MINUTE)), ..account("one") };
    let found = findings_of(vec![missing]);
    assert_eq!(
        (codes(&found), found[0].blocks_progress),
        (vec![(FindingCode::AccountMissing, Severity::Trouble)], true)
    );
}

#[test]
fn accounts_with_the_same_reason_are_one_finding_and_the_first_are_named() {
    let refused = |number: usize| AccountStatus {
        paused: vec![
            pause(Endpoint::Transcript, Some(403), "403 denied"),
            pause(Endpoint::AutoSummary, Some(403), "403 denied"),
        ],
        ..account(&format!("account {number}"))
    };
    let mut accounts: Vec<AccountStatus> = (1..=1312).map(refused).collect();
    let other = vec![pause(Endpoint::Metadata, Some(401), "401 unauthorized")];
    accounts.push(AccountStatus { paused: other, ..account("other") });
    let found = findings_of(accounts);
    let reported: Vec<(&str, &str)> =
        found.iter().map(|finding| (finding.sentence.as_str(), finding.subject.as_deref().unwrap())).collect();
    let expected = [
        (
            "transcript and auto summary paused for 1,312 accounts: 403 denied",
            "account 1, account 2, account 3 and 1,309 more",
        ),
        ("metadata paused for 1 account: 401 unauthorized", "other"),
    ];
    assert_eq!(reported, expected);
    assert_eq!(found[0].accounts().len(), 1312);
}

#[test]
fn the_worst_accounts_are_named_first_and_a_gap_explains_the_lag() {
    let late = |sub: &str, hours: u32| AccountStatus { watermark: Some(ago(60 * MINUTE * hours)), ..account(sub) };
    let mut gap = late("gap", 30);
    gap.gaps = vec![CoverageGap { from: ago(40 * MINUTE), to: ago(30 * MINUTE), seconds: 600 }];
    let found = findings_of(vec![late("two", 2), late("nine", 9), late("four", 4), account("well"), gap]);
    let lag = found.iter().find(|finding| finding.code == FindingCode::Lagging).unwrap();
    assert_eq!(lag.sentence, "3 accounts are behind, by 9 h at most");
    assert_eq!(lag.subject.as_deref(), Some("nine, four and two"));
}

#[test]
fn a_long_queue_is_a_backlog_and_items_that_back_off_are_not() {
    let busy = |items| AccountStatus { work: WorkCounts { ready: items, ..WorkCounts::default() }, ..account("one") };
    let found = findings_of(vec![busy(120 * 60)]);
    assert_eq!(found[0].sentence, "7,200 items are due; at the limit that takes 1 h at least");
    let waiting = AccountStatus { work: WorkCounts { waiting: 120 * 60, ..WorkCounts::default() }, ..account("one") };
    assert_eq!(findings_of(vec![waiting]), []);
    let mut ten = snapshot((0..10).map(|_| busy(240)).collect());
    assert_eq!(derive_findings(&ten, Vec::new()), []);
    ten.is_limit_shared = true;
    assert_eq!(codes(&derive_findings(&ten, Vec::new())), [(FindingCode::Backlog, Severity::Warning)]);
}

#[test]
fn an_index_that_stays_behind_and_a_daemon_that_does_not_run_are_findings() {
    let mut snapshot = snapshot(vec![account("one")]);
    snapshot.search_index = IndexStatus { lag_changes: 41_500, lag_seconds: 30 };
    assert_eq!(derive_findings(&snapshot, Vec::new()), []);
    snapshot.search_index.lag_seconds = 7200;
    let found = derive_findings(&snapshot, Vec::new());
    assert_eq!(found[0].sentence, "the full-text index is 41,500 changes behind the archive, the first for 2 h");
    snapshot.search_index = IndexStatus::default();
    snapshot.replicas[0].alive = false;
    snapshot.replicas[0].heartbeat = ago(5 * MINUTE);
    let found = derive_findings(&snapshot, Vec::new());
    assert_eq!(found[0].sentence, "no daemon is running; the last heartbeat was 5 min ago");
}

#[test]
fn a_finding_survives_the_heartbeat_under_the_documented_keys() {
    let new = |code| Finding::new(code, Severity::Trouble, NOW, "the clocks differ", "set the clock");
    let finding = new(FindingCode::ClockSkew).about("api.example").blocking(true);
    let text = serde_json::to_string(&finding).unwrap();
    let since = NOW.rfc3339_secs();
    let expected = format!(
        r#"{{"code":"clock_skew","severity":"trouble","since":"{since}","subject":"api.example","sentence":"the clocks differ","hint":"set the clock"}}"#
    );
    assert_eq!(text, expected);
    let parsed: Finding = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed, finding.blocking(false), "what blocks another replica does not block this one");
    let newer: Finding = serde_json::from_str(&text.replace("clock_skew", "moon_phase")).unwrap();
    assert_eq!(
        (newer.code.to_string(), FindingCode::ClockSkew.to_string()),
        ("moon_phase".into(), "clock_skew".into())
    );
    let waits: Finding = serde_json::from_str(&text.replace("clock_skew", "retention_waits")).unwrap();
    assert_eq!((waits.accounts(), parsed.accounts()), (["api.example".to_owned()].as_slice(), [].as_slice()));
}

#[test]
fn artifacts_without_usable_answers_are_trouble_and_block_if_no_others_are_requested() {
    let broken = |sub: &str, artifacts: &[&str]| {
        let streak =
            |answers| BrokenAnswerStats { since: ago(16 * MINUTE), answers, reason: "they break off".to_owned() };
        let mut account = account(sub);
        account.facts.broken = artifacts.iter().map(|name| ((*name).to_owned(), streak(20))).collect();
        account
    };
    let found = findings_of(vec![broken("one", &["transcript"]), broken("two", &["agent_summary", "transcript"])]);
    assert_eq!(
        (codes(&found), found[0].blocks_progress),
        (vec![(FindingCode::AnswersBroken, Severity::Trouble)], false)
    );
    assert_eq!(
        found[0].sentence,
        "agent summary and transcript of 2 accounts: 60 answers in a row were unusable: they break off"
    );
    let found = findings_of(vec![broken("two", &["agent_summary", "transcript"])]);
    assert_eq!(
        (codes(&found), found[0].blocks_progress),
        (vec![(FindingCode::AnswersBroken, Severity::Trouble)], true)
    );
}

#[test]
fn an_account_left_out_of_the_settings_is_neither_late_nor_missing() {
    let mut out = AccountStatus { watermark: Some(ago(90 * 24 * 60 * MINUTE)), ..account("one") };
    out.owner = None;
    out.missing_since = Some(ago(MINUTE));
    out.work.ready = 120 * 60;
    out.paused = vec![pause(Endpoint::Transcript, Some(403), "denied")];
    out.facts.is_left_out = true;
    let found = findings_of(vec![out.clone(), AccountStatus { sub_account_id: "two".to_owned(), ..out.clone() }]);
    assert_eq!(codes(&found), [(FindingCode::AccountLeftOut, Severity::Info)]);
    assert_eq!(found[0].subject.as_deref(), Some("one and two"));
    // Findings of an audit are reported nevertheless.
    out.work.failed = 1;
    assert_eq!(
        codes(&findings_of(vec![out.clone()])),
        [(FindingCode::ItemsFailed, Severity::Trouble), (FindingCode::AccountLeftOut, Severity::Info)]
    );
    out.work.failed = 0;
    out.watermark = None;
    assert_eq!(
        codes(&findings_of(vec![out])),
        [(FindingCode::AccountUnread, Severity::Warning), (FindingCode::AccountLeftOut, Severity::Info)]
    );
}

#[test]
fn failed_events_count_from_the_first_of_them() {
    let sink = SinkStatus {
        name: "lake".to_owned(),
        kind: Some("webhook"),
        state: SinkState::Active,
        pending: 0,
        waiting: 0,
        failed: 2,
        failed_since: Some(NOW - 60 * MINUTE),
        delivered: 9,
        last_delivered: Some(ago(MINUTE)),
        since: None,
        resting_until: None,
        reason: None,
    };
    let found = derive_findings(&Snapshot { sinks: vec![sink], ..snapshot(vec![account("1")]) }, Vec::new());
    assert_eq!(codes(&found), [(FindingCode::SinkEventsFailed, Severity::Warning)]);
    assert_eq!(found[0].since, ago(60 * MINUTE));
}

#[test]
fn a_finding_is_new_once_and_keeps_its_beginning_until_it_is_cleared() {
    let registry = FindingRegistry::default();
    let finding =
        |severity, since| Finding::new(FindingCode::ClockSkew, severity, Time(since), "it is wrong", "fix it");
    assert!(registry.report(finding(Severity::Info, 1).about("a")));
    assert!(!registry.report(finding(Severity::Trouble, 2).about("a")));
    assert!(registry.report(finding(Severity::Warning, 3)));
    let listed: Vec<_> = registry.list().into_iter().map(|found| (found.severity, found.since.0)).collect();
    assert_eq!(listed, [(Severity::Trouble, 1), (Severity::Warning, 3)]);
    assert!(registry.clear(FindingCode::ClockSkew, Some("a")) && !registry.clear(FindingCode::ClockSkew, Some("a")));
    assert!(registry.report(finding(Severity::Info, 4).about("b")));
    registry.clear_outdated(&FindingCode::ClockSkew, |subject| subject != "b");
    assert_eq!(registry.list().len(), 1, "only a finding with a subject can be outdated");
}

#[test]
fn a_process_knows_better_than_the_last_snapshot_and_is_on_standby_without_accounts() {
    let new = |code, sentence: &str| Finding::new(code, Severity::Warning, NOW, sentence, "wait");
    let snapshot = [
        new(FindingCode::DatabaseAway, "it is away"),
        new(FindingCode::NoMetadataRead, "nothing was read"),
        new(FindingCode::ClockSkew, "an old difference"),
    ];
    let own = || vec![new(FindingCode::ClockSkew, "a new difference")];
    let sentences = |process| -> Vec<String> {
        current_findings(own(), &snapshot, process, NOW).into_iter().map(|finding| finding.sentence).collect()
    };
    let (active, newest) = (ProcessState { is_active: true, is_database_up: true }, "a new difference");
    assert_eq!(sentences(active), [newest, "nothing was read"]);
    assert_eq!(sentences(ProcessState { is_database_up: false, ..active }), [newest]);
    let standby = sentences(ProcessState { is_active: false, ..active });
    assert!(standby.len() == 3 && standby[2].starts_with("this replica owns no account"), "{standby:?}");
}
