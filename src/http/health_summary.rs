//! The findings as the console shows them: one headline, and the health level of each account.
//! Pure.

use crate::clock::Time;
use crate::health::humanize::format_duration;
use crate::health::{AccountLevels, Finding, FindingCode, HealthLevel, Snapshot};

/// The summary of the daemon's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HealthSummary {
    pub(super) level: HealthLevel,
    /// Without the level's name.
    pub(super) headline: String,
    /// Worst first.
    pub(super) findings: Vec<Finding>,
    levels: AccountLevels,
}

impl HealthSummary {
    /// Builds the summary from the findings.
    pub(super) fn new(mut findings: Vec<Finding>, status: Option<&Snapshot>, now: Time) -> HealthSummary {
        findings.sort_by_key(|finding| std::cmp::Reverse(HealthLevel::of_finding(finding)));
        let levels = AccountLevels::new(&findings);
        let worst = findings.first().filter(|worst| HealthLevel::of_finding(worst) > HealthLevel::Healthy);
        let level = worst.map_or(HealthLevel::Healthy, HealthLevel::of_finding);
        let headline = worst.map_or_else(|| healthy_headline(&findings, status, now), |worst| worst.sentence.clone());
        HealthSummary { level, headline, findings, levels }
    }

    /// The level of an account.
    pub(super) fn account_level(&self, sub: &str) -> HealthLevel {
        self.levels.of(sub)
    }
}

/// The headline if nothing is wrong.
fn healthy_headline(findings: &[Finding], status: Option<&Snapshot>, now: Time) -> String {
    if let Some(standby) = findings.iter().find(|finding| finding.code == FindingCode::Standby) {
        return standby.sentence.clone();
    }
    let worst = status.and_then(|status| status.accounts.iter().filter_map(|row| row.lag(now)).max());
    worst.map_or_else(
        || "no account is known yet".to_owned(),
        |worst| format!("every segment that ended up to {} ago was discovered, without a gap", format_duration(worst)),
    )
}

#[cfg(test)]
mod tests;
