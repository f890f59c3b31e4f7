use super::*;

const NOW: Time = Time(0);

fn finding(code: &str, blocks_progress: bool) -> FindingStatus {
    let found = FindingStatus::new(code, Severity::Trouble, NOW, "it is wrong".to_owned(), "mend it");
    FindingStatus { blocks_progress, accounts: vec!["one".to_owned()], ..found }
}

#[test]
fn readiness_is_whether_any_finding_blocks() {
    assert!(Readiness::of(&[], []).ready);
    let readiness = Readiness::of(&[finding("endpoint_paused", false), finding("sink_stopped", false)], []);
    assert!(readiness.ready, "a sink or one account of several make nothing unready");
    assert_eq!(readiness.reasons.iter().map(|reason| reason.what).collect::<Vec<_>>(), [What::Accounts, What::Sink]);
    assert!(!Readiness::of(&[finding("items_failed", false), finding("clock_skew", true)], []).ready);
}

#[test]
fn a_database_that_is_away_or_full_is_told_apart() {
    let away = Readiness::starting(Some(&Trouble::silent()), NOW);
    assert_eq!((away.ready, away.reasons[0].what), (false, What::Database));
    let full = Readiness::starting(Some(&Trouble::refusing("database or disk is full\nhint: x")), NOW);
    assert_eq!((full.ready, full.reasons[0].what), (false, What::Disk));
    assert_eq!(full.reasons[0].detail, "the database does not take results: database or disk is full");
    assert!(!Readiness::starting(None, NOW).ready);
}

#[test]
fn the_body_has_the_names_that_it_always_had_and_those_of_findings() {
    let json = serde_json::to_value(Readiness::of(&[finding("login_refused", true)], [])).unwrap();
    assert_eq!(json["ready"], false);
    let reason = &json["reasons"][0];
    assert_eq!((&reason["what"], &reason["account"]), (&"login".into(), &"one".into()));
    assert_eq!((&reason["detail"], &reason["sentence"]), (&"it is wrong".into(), &"it is wrong".into()));
    assert_eq!((&reason["code"], &reason["severity"]), (&"login_refused".into(), &"trouble".into()));
    assert_eq!((&reason["since"], &reason["hint"]), (&"1970-01-01T00:00:00Z".into(), &"mend it".into()));
    assert_eq!(json["paused"], serde_json::json!([]));
}
