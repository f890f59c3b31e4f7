use crate::clock::Time;

use super::*;

fn pause(endpoint: &str, status: Option<i64>) -> Paused {
    Paused { endpoint: endpoint.to_owned(), until: Some(Time(60_000)), reason: "refused".to_owned(), status }
}

fn account(sub: &str, paused: Vec<Paused>) -> Standing {
    let asks = ["transcript", "agent_summary"].into_iter().collect();
    Standing { sub: sub.to_owned(), asks, paused, missing: false }
}

fn healthy() -> Facts {
    let accounts = vec![account("one", Vec::new()), account("two", Vec::new())];
    Facts {
        database: Ok(()),
        login: LoginState::Good { at: Time(0) },
        works: true,
        accounts,
        sinks: Vec::new(),
        findings: Vec::new(),
    }
}

fn failing(refused: bool) -> LoginState {
    let message = "failed to log in: invalid_grant".to_owned();
    LoginState::Failing { since: Time(0), refused, message, hint: Some("check auth.jwt"), last_ok: None }
}

fn whats(readiness: &Readiness) -> Vec<What> {
    readiness.reasons.iter().map(|reason| reason.what).collect()
}

#[test]
fn a_healthy_daemon_is_ready_and_has_nothing_to_say() {
    let readiness = judge(&healthy());
    assert_eq!(readiness, Readiness { ready: true, reasons: Vec::new(), paused: Vec::new() });
}

#[test]
fn a_database_that_is_away_or_full_is_not_ready_and_is_told_apart() {
    let away = judge(&Facts { database: Err(Trouble::silent()), ..healthy() });
    assert_eq!((away.ready, whats(&away)), (false, vec![What::Database]));
    let full = judge(&Facts { database: Err(Trouble::refusing("database or disk is full\nhint: x")), ..healthy() });
    assert_eq!((full.ready, whats(&full)), (false, vec![What::Disk]));
    assert_eq!(full.reasons[0].detail, "the database does not take results: database or disk is full");
}

#[test]
fn a_refused_login_is_not_ready_and_one_out_of_reach_is_only_named() {
    let refused = judge(&Facts { login: failing(true), ..healthy() });
    assert_eq!((refused.ready, whats(&refused)), (false, vec![What::Login]));
    assert_eq!(refused.reasons[0].hint, "check auth.jwt");
    let unreachable = judge(&Facts { login: failing(false), ..healthy() });
    assert_eq!((unreachable.ready, whats(&unreachable)), (true, vec![What::Login]));
}

#[test]
fn one_paused_account_among_healthy_ones_is_named_and_no_more() {
    let accounts = vec![account("one", vec![pause("metadata", Some(403))]), account("two", Vec::new())];
    let readiness = judge(&Facts { accounts, ..healthy() });
    assert!(readiness.ready && readiness.reasons.is_empty());
    assert_eq!(readiness.paused.len(), 1);
    assert_eq!((readiness.paused[0].account.as_str(), readiness.paused[0].endpoint.as_str()), ("one", "metadata"));
    assert!(readiness.paused[0].hint.contains("permission"));
}

#[test]
fn every_account_paused_is_not_ready_whether_by_metadata_or_by_all_that_it_asks_for() {
    let artifacts = vec![pause("transcript", Some(403)), pause("agent_summary", Some(503))];
    let accounts = vec![account("one", vec![pause("metadata", Some(403))]), account("two", artifacts.clone())];
    let readiness = judge(&Facts { accounts, ..healthy() });
    assert_eq!((readiness.ready, whats(&readiness)), (false, vec![What::Accounts]));
    assert_eq!(readiness.paused.len(), 3);
    let accounts = vec![account("two", artifacts[..1].to_vec())];
    assert!(judge(&Facts { accounts, ..healthy() }).ready, "summaries still come");
}

#[test]
fn an_account_that_the_login_no_longer_sees_stands_still() {
    let missing = Standing { missing: true, ..account("one", Vec::new()) };
    let readiness = judge(&Facts { accounts: vec![missing.clone()], ..healthy() });
    assert_eq!((readiness.ready, whats(&readiness)), (false, vec![What::Accounts, What::Accounts]));
    let readiness = judge(&Facts { accounts: vec![missing, account("two", Vec::new())], ..healthy() });
    assert_eq!((readiness.ready, readiness.reasons[0].account.as_deref()), (true, Some("one")));
}

#[test]
fn a_replica_that_waits_for_its_turn_is_ready() {
    let waiting = Facts { works: false, accounts: Vec::new(), login: LoginState::NeverTried, ..healthy() };
    let readiness = judge(&waiting);
    assert_eq!((readiness.ready, whats(&readiness)), (true, vec![What::Leases]));
}

#[test]
fn the_body_is_what_the_documentation_says() {
    let accounts = vec![account("one", vec![pause("metadata", Some(403))])];
    let json = serde_json::to_value(judge(&Facts { accounts, ..healthy() })).unwrap();
    assert_eq!(json["ready"], false);
    assert_eq!(json["reasons"][0]["what"], "accounts");
    assert!(json["reasons"][0]["account"].is_null() && json["reasons"][0]["hint"].is_string());
    assert_eq!(json["paused"][0]["until"], "1970-01-01T00:01:00Z");
}

#[test]
fn a_sink_that_takes_nothing_is_named_and_leaves_the_daemon_ready() {
    let sinks =
        vec![(true, "hook".to_owned(), "it answered 410".to_owned()), (false, "lake".to_owned(), "no room".to_owned())];
    let readiness = judge(&Facts { sinks, ..healthy() });
    assert!(readiness.ready);
    assert_eq!(whats(&readiness), [What::Sink, What::Sink]);
    assert!(readiness.reasons[0].detail.contains("hook is stopped: it answered 410"));
    assert!(readiness.reasons[0].hint.contains("deliver retry"));
    assert!(readiness.reasons[1].detail.contains("lake takes nothing at present: no room"));
}
