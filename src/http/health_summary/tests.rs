use super::super::fixtures::{NOW, account, snapshot};
use super::*;
use crate::health::Severity;

fn finding(code: FindingCode, severity: Severity, accounts: &[&str]) -> Finding {
    let found = Finding::new(code.clone(), severity, NOW, format!("{code} it is"), "mend it");
    found.about_accounts(accounts.join(", "), accounts.iter().map(|account| (*account).to_owned()).collect())
}

#[test]
fn a_healthy_summary_says_how_far_discovery_is() {
    let status = snapshot(vec![account("one"), account("two")]).status;
    let summary = HealthSummary::new(Vec::new(), Some(&status), NOW);
    assert_eq!(summary.level, HealthLevel::Healthy);
    assert_eq!(summary.headline, "every segment that ended up to 5 min ago was discovered, without a gap");
    let standby = finding(FindingCode::Standby, Severity::Info, &[]);
    let summary = HealthSummary::new(vec![standby], None, NOW);
    assert_eq!((summary.level, summary.headline.as_str()), (HealthLevel::Healthy, "standby it is"));
}

#[test]
fn the_worst_finding_is_the_headline_and_each_account_has_the_level_of_its_worst() {
    let findings = vec![
        finding(FindingCode::Lagging, Severity::Warning, &["one", "two"]),
        finding(FindingCode::ItemsFailed, Severity::Trouble, &["two"]),
        finding(FindingCode::EndpointPaused, Severity::Trouble, &["three"]),
    ];
    let summary = HealthSummary::new(findings, None, NOW);
    assert_eq!((summary.level, summary.headline.as_str()), (HealthLevel::Trouble, "endpoint_paused it is"));
    let levels: Vec<HealthLevel> = summary.findings.iter().map(HealthLevel::of_finding).collect();
    assert_eq!(levels, [HealthLevel::Trouble, HealthLevel::Incomplete, HealthLevel::Behind]);
    let account_levels = ["one", "two", "three", "four"].map(|account| summary.account_level(account));
    assert_eq!(
        account_levels,
        [HealthLevel::Behind, HealthLevel::Incomplete, HealthLevel::Trouble, HealthLevel::Healthy]
    );
}

#[test]
fn no_account_is_healthy_while_nobody_can_log_in_or_nothing_can_be_stored() {
    for code in [FindingCode::LoginRefused, FindingCode::DatabaseAway, FindingCode::DiskFull] {
        let general = Finding::new(code, Severity::Trouble, NOW, "it is", "mend it");
        let findings = vec![general, finding(FindingCode::Lagging, Severity::Warning, &["one"])];
        let summary = HealthSummary::new(findings, None, NOW);
        assert_eq!(["one", "two"].map(|account| summary.account_level(account)), [HealthLevel::Trouble; 2]);
    }
}
