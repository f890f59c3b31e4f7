//! The findings as the dashboard shows them: one headline, and the health level of each account.
//! Pure.
//!
//! There are four levels, and the worst counts: in trouble (it will not recover without a person),
//! incomplete (the archive lacks something), behind (it makes progress, but late), healthy.

use std::collections::HashMap;

use crate::clock::Time;
use crate::health::humanize::format_duration;
use crate::health::{Finding, FindingCategory, FindingCode, Severity};

use super::status_snapshot::StatusSnapshot;

/// Health levels, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum HealthLevel {
    Healthy,
    Behind,
    Incomplete,
    Trouble,
}

impl HealthLevel {
    /// All levels, best first: each at its own index.
    pub(super) const ALL: [HealthLevel; 4] =
        [HealthLevel::Healthy, HealthLevel::Behind, HealthLevel::Incomplete, HealthLevel::Trouble];

    /// The display name, the name in CSS classes, and a symbol to distinguish levels without colours.
    const fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            HealthLevel::Healthy => ("Healthy", "healthy", "✓"),
            HealthLevel::Behind => ("Behind", "behind", "~"),
            HealthLevel::Incomplete => ("Incomplete", "incomplete", "!"),
            HealthLevel::Trouble => ("In trouble", "trouble", "✕"),
        }
    }

    pub(super) const fn display_name(self) -> &'static str {
        self.texts().0
    }

    pub(super) const fn css_class(self) -> &'static str {
        self.texts().1
    }

    pub(super) const fn symbol(self) -> &'static str {
        self.texts().2
    }

    /// The level of a finding. Events that a sink refused are missing there for good.
    pub(super) fn of_finding(finding: &Finding) -> HealthLevel {
        match finding.severity {
            _ if finding.code.is_incompleteness() || finding.code == FindingCode::SinkEventsFailed => {
                HealthLevel::Incomplete
            }
            Severity::Trouble => HealthLevel::Trouble,
            Severity::Warning => HealthLevel::Behind,
            Severity::Info => HealthLevel::Healthy,
        }
    }
}

/// The summary of the daemon's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HealthSummary {
    pub(super) level: HealthLevel,
    /// Without the level's name.
    pub(super) headline: String,
    /// Worst first.
    pub(super) findings: Vec<Finding>,
    levels: HashMap<String, HealthLevel>,
}

impl HealthSummary {
    /// Builds the summary from the findings.
    pub(super) fn new(mut findings: Vec<Finding>, snapshot: Option<&StatusSnapshot>, now: Time) -> HealthSummary {
        findings.sort_by_key(|finding| std::cmp::Reverse(HealthLevel::of_finding(finding)));
        let mut levels: HashMap<String, HealthLevel> = HashMap::new();
        for finding in &findings {
            for account in finding.accounts() {
                let level = levels.entry(account.clone()).or_insert(HealthLevel::Healthy);
                *level = HealthLevel::of_finding(finding).max(*level);
            }
        }
        let worst = findings.first().filter(|worst| HealthLevel::of_finding(worst) > HealthLevel::Healthy);
        let level = worst.map_or(HealthLevel::Healthy, HealthLevel::of_finding);
        let headline = worst.map_or_else(|| healthy_headline(&findings, snapshot, now), |worst| worst.sentence.clone());
        HealthSummary { level, headline, findings, levels }
    }

    /// The level of an account.
    pub(super) fn account_level(&self, sub: &str) -> HealthLevel {
        self.levels.get(sub).copied().unwrap_or(HealthLevel::Healthy)
    }

    /// The level of a sink.
    pub(super) fn sink_level(&self, name: &str) -> HealthLevel {
        let is_about = |finding: &&Finding| {
            finding.code.category() == FindingCategory::Sink && finding.subject.as_deref() == Some(name)
        };
        self.findings.iter().filter(is_about).map(HealthLevel::of_finding).max().unwrap_or(HealthLevel::Healthy)
    }
}

/// The headline if nothing is wrong.
fn healthy_headline(findings: &[Finding], snapshot: Option<&StatusSnapshot>, now: Time) -> String {
    if let Some(standby) = findings.iter().find(|finding| finding.code == FindingCode::Standby) {
        return standby.sentence.clone();
    }
    let worst = snapshot.and_then(|snapshot| snapshot.status.accounts.iter().filter_map(|row| row.lag(now)).max());
    worst.map_or_else(
        || "no account is known yet".to_owned(),
        |worst| format!("every segment that ended up to {} ago was discovered, without a gap", format_duration(worst)),
    )
}

#[cfg(test)]
mod tests;
