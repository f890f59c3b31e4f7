//! How bad a state is, in one word. Pure.
//!
//! There are four levels, and the worst counts: in trouble (it will not recover without a person),
//! incomplete (the archive lacks something), behind (it makes progress, but late), healthy.

use std::collections::HashMap;

use serde::Serialize;

use super::{Finding, FindingCategory, FindingCode, Severity};

/// Health levels, best first. The table `measure` holds their positions, which must stay as they are.
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

/// The level of each account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountLevels {
    /// The least that every account has: while nobody can log in, or nothing can be stored, none is
    /// healthy, although no finding names it.
    of_every: HealthLevel,
    of_named: HashMap<String, HealthLevel>,
}

impl AccountLevels {
    pub(crate) fn new(findings: &[Finding]) -> AccountLevels {
        let mut levels = AccountLevels { of_every: HealthLevel::Healthy, of_named: HashMap::new() };
        for finding in findings {
            let level = HealthLevel::of_finding(finding);
            if matches!(
                finding.code.category(),
                FindingCategory::Database | FindingCategory::Disk | FindingCategory::Login
            ) {
                levels.of_every = level.max(levels.of_every);
            }
            for account in finding.accounts() {
                let known = levels.of_named.entry(account.clone()).or_insert(HealthLevel::Healthy);
                *known = level.max(*known);
            }
        }
        levels
    }

    /// The level of an account, by its sub-account id.
    pub(crate) fn of(&self, sub: &str) -> HealthLevel {
        self.of_named.get(sub).copied().unwrap_or(HealthLevel::Healthy).max(self.of_every)
    }
}
