use super::super::testing::{NOW, picture, row};
use super::*;

fn finding(code: &str, severity: Severity, accounts: &[&str]) -> FindingStatus {
    let found = FindingStatus::new(code, severity, NOW, format!("{code} it is"), "mend it");
    FindingStatus { accounts: accounts.iter().map(|account| (*account).to_owned()).collect(), ..found }
}

#[test]
fn nothing_wrong_is_healthy_and_says_how_far_it_is() {
    let verdict = Verdict::new(Vec::new(), Some(&picture(vec![row("one"), row("two")])), NOW);
    assert_eq!(verdict.level, Level::Healthy);
    assert_eq!(verdict.line, "everything that ended up to 5 min ago has been found, without a gap");
    let standby = finding(STANDBY, Severity::Info, &[]);
    let verdict = Verdict::new(vec![standby], None, NOW);
    assert_eq!((verdict.level, verdict.line.as_str()), (Level::Healthy, "standby it is"));
}

#[test]
fn the_worst_finding_is_the_verdict_and_each_account_stands_as_its_own_worst() {
    let findings = vec![
        finding("lagging", Severity::Warning, &["one", "two"]),
        finding("items_failed", Severity::Trouble, &["two"]),
        finding("endpoint_paused", Severity::Trouble, &["three"]),
    ];
    let verdict = Verdict::new(findings, None, NOW);
    assert_eq!((verdict.level, verdict.line.as_str()), (Level::Trouble, "endpoint_paused it is"));
    let levels: Vec<Level> = verdict.findings.iter().map(Level::of).collect();
    assert_eq!(levels, [Level::Trouble, Level::Incomplete, Level::Behind]);
    let stands = ["one", "two", "three", "four"].map(|account| verdict.of_account(account));
    assert_eq!(stands, [Level::Behind, Level::Incomplete, Level::Trouble, Level::Healthy]);
}
