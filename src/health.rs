//! Findings: what is wrong with this daemon, or worth knowing, each with its cause and a remedy.
//!
//! The part of the daemon that notices a problem reports it here, and clears it when it is over.
//! Readiness, the dashboard, `status` and the metrics show what is reported. Pure: no I/O, and time
//! is passed in.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Something is late or incomplete, and recovers without a person.
    Warning,
    /// Data is at risk, or a person has to act.
    Trouble,
}

/// One finding. It never holds anything that a customer said, nor a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthFinding {
    /// Stable identifier in `snake_case`, for programs (`clock_skew`, `account_list_failed`).
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// When it began.
    pub(crate) since: Time,
    /// The sub-account, host or sink that it concerns, if it concerns one of several.
    pub(crate) subject: Option<String>,
    /// What is wrong, in one sentence without the full stop.
    pub sentence: String,
    /// The remedy.
    pub(crate) hint: String,
    /// Whether nothing makes progress while it lasts, so that `/readyz` answers 503.
    pub(crate) blocks_progress: bool,
}

/// The open findings. Shared by all parts of a daemon.
#[derive(Debug, Default)]
pub struct FindingRegistry {
    open: Mutex<BTreeMap<FindingKey, HealthFinding>>,
}

type FindingKey = (&'static str, Option<String>);

impl FindingRegistry {
    /// Opens a finding, or replaces the one with the same code and subject, which keeps its
    /// `since`. Returns whether it is new, so that the caller can log it once.
    pub(crate) fn report(&self, mut finding: HealthFinding) -> bool {
        let mut open = self.open();
        let key = (finding.code, finding.subject.clone());
        let known = open.get(&key).map(|known| known.since);
        finding.since = known.unwrap_or(finding.since);
        open.insert(key, finding);
        known.is_none()
    }

    /// Closes a finding. Returns whether it was open.
    pub(crate) fn clear(&self, code: &'static str, subject: Option<&str>) -> bool {
        self.open().remove(&(code, subject.map(str::to_owned))).is_some()
    }

    /// All open findings, worst first.
    pub fn list(&self) -> Vec<HealthFinding> {
        let mut findings: Vec<HealthFinding> = self.open().values().cloned().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<FindingKey, HealthFinding>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, since: i64, subject: Option<&str>) -> HealthFinding {
        HealthFinding {
            code: "clock_skew",
            severity,
            since: Time(since),
            subject: subject.map(str::to_owned),
            sentence: "the clock is wrong".to_owned(),
            hint: "put it right".to_owned(),
            blocks_progress: false,
        }
    }

    #[test]
    fn a_finding_is_new_once_and_keeps_its_beginning_until_it_is_cleared() {
        let registry = FindingRegistry::default();
        assert!(registry.report(finding(Severity::Info, 1, Some("a"))));
        assert!(!registry.report(finding(Severity::Trouble, 2, Some("a"))));
        assert!(registry.report(finding(Severity::Warning, 3, None)));
        let listed: Vec<_> = registry.list().into_iter().map(|found| (found.severity, found.since.0)).collect();
        assert_eq!(listed, [(Severity::Trouble, 1), (Severity::Warning, 3)]);
        assert!(registry.clear("clock_skew", Some("a")) && !registry.clear("clock_skew", Some("a")));
        assert_eq!(registry.list().len(), 1);
    }
}
