//! How bad a state is, in one word. Pure.
//!
//! There are four levels, and the worst counts: in trouble (it will not recover without a person),
//! incomplete (the archive lacks something), behind (it makes progress, but late), healthy.

use std::collections::HashMap;

use serde::Serialize;

use super::{Finding, FindingCode, Severity};

/// Health levels, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthLevel {
    Healthy,
    Behind,
    Incomplete,
    Trouble,
}

impl HealthLevel {
    /// All levels, best first: each at its own index.
    pub(crate) const ALL: [HealthLevel; 4] =
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

    pub(crate) const fn display_name(self) -> &'static str {
        self.texts().0
    }

    pub(crate) const fn css_class(self) -> &'static str {
        self.texts().1
    }

    pub(crate) const fn symbol(self) -> &'static str {
        self.texts().2
    }

    /// The level of the worst finding.
    pub(crate) fn worst(findings: &[Finding]) -> HealthLevel {
        findings.iter().map(HealthLevel::of_finding).max().unwrap_or(HealthLevel::Healthy)
    }

    /// The level of a finding. Events that a sink refused are missing there for good.
    pub(crate) fn of_finding(finding: &Finding) -> HealthLevel {
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

/// The level of each account that a finding concerns; the others are healthy.
pub(crate) fn account_levels(findings: &[Finding]) -> HashMap<String, HealthLevel> {
    let mut levels: HashMap<String, HealthLevel> = HashMap::new();
    for finding in findings {
        for account in finding.accounts() {
            let level = levels.entry(account.clone()).or_insert(HealthLevel::Healthy);
            *level = HealthLevel::of_finding(finding).max(*level);
        }
    }
    levels
}
