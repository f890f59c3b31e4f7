use super::*;

const NOW: Time = Time(0);

fn finding(code: FindingCode, blocks_progress: bool) -> Finding {
    let found = Finding::new(code, Severity::Trouble, NOW, "it is wrong", "mend it").blocking(blocks_progress);
    found.about_accounts("One".to_owned(), vec!["one".to_owned()])
}

#[test]
fn a_blocking_finding_makes_the_daemon_unready() {
    assert!(Readiness::from_findings(&[], []).ready);
    let readiness = Readiness::from_findings(
        &[finding(FindingCode::EndpointPaused, false), finding(FindingCode::SinkStopped, false)],
        [],
    );
    assert!(readiness.ready, "a sink or one account of several does not make the daemon unready");
    assert_eq!(
        readiness.reasons.iter().map(|reason| reason.what).collect::<Vec<_>>(),
        [FindingCategory::Accounts, FindingCategory::Sink]
    );
    assert!(
        !Readiness::from_findings(
            &[finding(FindingCode::ItemsFailed, false), finding(FindingCode::ClockSkew, true)],
            []
        )
        .ready
    );
}

#[test]
fn an_unavailable_database_and_a_full_disk_are_distinguished() {
    let away = Readiness::starting(Some(&DatabaseProblem::timed_out()), NOW);
    assert_eq!((away.ready, away.reasons[0].what), (false, FindingCategory::Database));
    let rejected = |fault, reason: &str| {
        let problem = StorageProblem { fault, reason: reason.to_owned(), hint: None };
        Readiness::starting(Some(&DatabaseProblem::rejecting_results(&problem)), NOW)
    };
    let busy = rejected(DbFault::Unavailable, "cannot execute INSERT in a read-only transaction on disk");
    assert_eq!(busy.reasons[0].what, FindingCategory::Database, "the wording does not matter");
    let full = rejected(DbFault::StorageFull, "database or disk is full");
    assert_eq!((full.ready, full.reasons[0].what), (false, FindingCategory::Disk));
    assert_eq!(full.reasons[0].detail, "the database does not accept results: database or disk is full");
    assert!(!Readiness::starting(None, NOW).ready);
}

#[test]
fn the_body_has_the_original_field_names_and_those_of_findings() {
    let json = serde_json::to_value(Readiness::from_findings(&[finding(FindingCode::LoginRefused, true)], [])).unwrap();
    assert_eq!(json["ready"], false);
    let reason = &json["reasons"][0];
    assert_eq!((&reason["what"], &reason["account"]), (&"login".into(), &"one".into()));
    assert_eq!((&reason["detail"], &reason["sentence"]), (&"it is wrong".into(), &"it is wrong".into()));
    assert_eq!((&reason["code"], &reason["severity"]), (&"login_refused".into(), &"trouble".into()));
    assert_eq!((&reason["since"], &reason["hint"]), (&"1970-01-01T00:00:00Z".into(), &"mend it".into()));
    assert_eq!(json["paused"], serde_json::json!([]));
}
