//! The model of health. A [`Finding`] is what is wrong with the daemons, or worth knowing, with its
//! cause and a remedy.
//!
//! Findings have two sources. A part of a daemon that notices a problem reports it to the
//! [`FindingRegistry`], and clears it when it is over. [`rules`] derives the others from a
//! [`Snapshot`]. Readiness, the dashboard, `status`, `audit` and the metrics show the findings, and
//! judge nothing themselves. Pure: no I/O but the log, and time is passed in.

mod account_rules;
mod finding_code;
mod health_level;
pub(crate) mod humanize;
mod rules;
mod snapshot;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::Time;

pub(crate) use finding_code::FindingCategory;
pub use finding_code::FindingCode;
pub(crate) use health_level::{AccountLevels, HealthLevel};
pub(crate) use rules::{STOPPED_SINK_HINT, derive_findings};
pub(crate) use snapshot::{
    AccountFacts, BrokenAnswerStats, EndpointPause, IndexStatus, MetadataStall, SinkState, SinkStatus, rfc3339,
};
pub use snapshot::{AccountStatus, BackfillStatus, CoverageGap, ReplicaStatus, Snapshot, WorkCounts};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of finding it is.
    pub code: FindingCode,
    /// How bad it is.
    pub severity: Severity,
    #[serde(with = "rfc3339")]
    pub(crate) since: Time,
    /// What it concerns, if it is one of several: the names of the first accounts, a sink, a host or
    /// an endpoint.
    pub(crate) subject: Option<String>,
    /// What is wrong, in one sentence without the full stop.
    pub sentence: String,
    pub(crate) hint: String,
    /// Whether none of this replica's accounts make progress while it lasts, so that `/readyz`
    /// answers 503.
    #[serde(skip)]
    pub blocks_progress: bool,
    /// The sub-accounts that a derived finding concerns; see [`Finding::accounts`].
    #[serde(skip)]
    accounts: Vec<String>,
}

impl Finding {
    /// Creates a finding without a subject.
    pub(crate) fn new(
        code: FindingCode,
        severity: Severity,
        since: Time,
        sentence: impl Into<String>,
        hint: impl Into<String>,
    ) -> Finding {
        let (sentence, hint) = (sentence.into(), hint.into());
        Finding { code, severity, since, subject: None, sentence, hint, blocks_progress: false, accounts: Vec::new() }
    }

    /// Sets the subject.
    pub(crate) fn about(self, subject: impl Into<String>) -> Finding {
        Finding { subject: Some(subject.into()), ..self }
    }

    /// Sets the names of the accounts that it concerns, and their ids.
    pub(crate) fn about_accounts(self, names: String, subs: Vec<String>) -> Finding {
        Finding { accounts: subs, ..self.about(names) }
    }

    /// Sets whether it blocks progress.
    pub(crate) fn blocking(self, blocks_progress: bool) -> Finding {
        Finding { blocks_progress, ..self }
    }

    /// The sub-accounts that it concerns.
    pub(crate) fn accounts(&self) -> &[String] {
        if self.code.names_account() { self.subject.as_slice() } else { &self.accounts }
    }

    /// Whether someone may see it who sees only some accounts.
    pub(crate) fn is_visible_to(&self, sees_account: impl Fn(&str) -> bool) -> bool {
        match self.accounts() {
            [] => self.code.concerns_every_account(),
            accounts => accounts.iter().all(|sub| sees_account(sub)),
        }
    }

    /// Whether both are about the same thing, at different times or from different replicas.
    fn is_same(&self, other: &Finding) -> bool {
        (&self.code, &self.subject) == (&other.code, &other.subject)
    }
}

/// Adds the findings that are not known yet.
pub(crate) fn add_unknown(known: &mut Vec<Finding>, others: impl IntoIterator<Item = Finding>) {
    for other in others {
        if !known.iter().any(|known| known.is_same(&other)) {
            known.push(other);
        }
    }
}

/// What a process knows better than the last snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessState {
    /// Whether it works on accounts, rather than being on standby.
    pub(crate) is_active: bool,
    /// Whether the database answers and accepts results.
    pub(crate) is_database_up: bool,
}

/// The current findings of a process, worst first: its own, then those of the last snapshot.
pub(crate) fn current_findings(
    mut own: Vec<Finding>,
    snapshot: &[Finding],
    process: ProcessState,
    now: Time,
) -> Vec<Finding> {
    if !process.is_active && process.is_database_up {
        let sentence = "this replica owns no account: it is starting, or on standby";
        let hint = "nothing to do: it takes over automatically when it is needed";
        own.push(Finding::new(FindingCode::Standby, Severity::Info, now, sentence, hint));
    }
    let is_own = |code: &FindingCode| matches!(code, FindingCode::DatabaseAway | FindingCode::DiskFull);
    add_unknown(&mut own, snapshot.iter().filter(|finding| !is_own(&finding.code)).cloned());
    // An unavailable database explains why no metadata is read.
    own.retain(|finding| process.is_database_up || finding.code != FindingCode::NoMetadataRead);
    own.sort_by_key(|finding| Reverse((finding.severity, finding.blocks_progress)));
    own
}

/// The reported findings that are open. Shared by all parts of a daemon.
#[derive(Debug, Default)]
pub struct FindingRegistry {
    open: Mutex<BTreeMap<(FindingCode, Option<String>), Finding>>,
}

impl FindingRegistry {
    /// Opens a finding, or replaces the one with the same code and subject, which keeps its
    /// `since`. Returns whether it is new, so that the caller can log it once.
    pub(crate) fn report(&self, mut finding: Finding) -> bool {
        let mut open = self.open();
        let key = (finding.code.clone(), finding.subject.clone());
        let known = open.get(&key).map(|known| known.since);
        finding.since = known.unwrap_or(finding.since);
        open.insert(key, finding);
        known.is_none()
    }

    /// The same, and logs the finding if it is new.
    pub(crate) fn report_and_log(&self, finding: Finding) {
        let Finding { severity, subject, sentence, hint, .. } = finding.clone();
        if !self.report(finding) {
            return;
        }
        match severity {
            Severity::Trouble => tracing::error!(subject, hint, "{sentence}"),
            Severity::Warning => tracing::warn!(subject, hint, "{sentence}"),
            Severity::Info => tracing::info!(subject, hint, "{sentence}"),
        }
    }

    /// Closes a finding. Returns whether it was open.
    pub(crate) fn clear(&self, code: FindingCode, subject: Option<&str>) -> bool {
        self.open().remove(&(code, subject.map(str::to_owned))).is_some()
    }

    /// Closes the findings of this code whose subject is not current any more.
    pub(crate) fn clear_outdated(&self, code: &FindingCode, is_current: impl Fn(&str) -> bool) {
        self.open().retain(|(held, subject), _| held != code || subject.as_deref().is_none_or(&is_current));
    }

    /// All open findings, worst first.
    pub fn list(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.open().values().cloned().collect();
        findings.sort_by_key(|finding| Reverse(finding.severity));
        findings
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<(FindingCode, Option<String>), Finding>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
