//! Readiness: whether the daemon can make progress, and the findings as `/readyz` shows them.
//!
//! The daemon is not ready while a finding blocks progress: the database does not answer or does
//! not accept results, the login is refused, or no account makes progress. A replica on standby is
//! ready: it does what it should.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::clock::Time;
use crate::daemon::app_context::AppContext;
use crate::db::{DbError, DbFault};
use crate::fetch::batch_writer::{StorageProblem, StorageState};
use crate::health::{AccountStatus, Finding, FindingCategory, FindingCode, Severity, rfc3339};
use crate::model::Endpoint;

/// A database that takes longer to answer counts as unavailable.
pub(super) const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseProblem {
    /// Whether the disk is the cause.
    pub(super) is_disk: bool,
    /// The error message.
    pub(super) detail: String,
    /// What an operator can do, if that is known.
    pub(super) hint: Option<String>,
}

impl DatabaseProblem {
    /// The database did not answer in time.
    pub(super) fn timed_out() -> DatabaseProblem {
        let detail = format!("the database did not answer within {} s", DATABASE_TIMEOUT.as_secs());
        DatabaseProblem { is_disk: false, detail, hint: None }
    }

    /// The database does not accept results, for this reason.
    fn rejecting_results(problem: &StorageProblem) -> DatabaseProblem {
        DatabaseProblem {
            is_disk: problem.fault == DbFault::StorageFull,
            detail: format!("the database does not accept results: {}", problem.reason),
            hint: problem.hint.clone(),
        }
    }
}

impl From<&DbError> for DatabaseProblem {
    fn from(error: &DbError) -> DatabaseProblem {
        let hint = error.hint().map(str::to_owned);
        DatabaseProblem { is_disk: error.fault() == DbFault::StorageFull, detail: error.to_string(), hint }
    }
}

impl DatabaseProblem {
    fn code(&self) -> FindingCode {
        if self.is_disk { FindingCode::DiskFull } else { FindingCode::DatabaseAway }
    }

    fn to_finding(&self, now: Time) -> Finding {
        let general = if self.is_disk {
            "free some disk space, and make the file and its folder writable; the daemon then continues automatically"
        } else {
            "make the database available again; the daemon then continues automatically"
        };
        let hint = self.hint.as_deref().unwrap_or(general);
        Finding::new(self.code(), Severity::Trouble, now, self.detail.clone(), hint).blocking(true)
    }
}

/// A finding under the original field names of `/readyz`, and under its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ReadinessReason {
    pub(super) what: FindingCategory,
    /// The sub-account, if the finding concerns only one.
    pub(super) account: Option<String>,
    pub(super) detail: String,
    #[serde(flatten)]
    pub(super) finding: Finding,
}

impl From<&Finding> for ReadinessReason {
    fn from(finding: &Finding) -> ReadinessReason {
        let account = match finding.accounts() {
            [one] => Some(one.clone()),
            _ => None,
        };
        let (what, detail) = (finding.code.category(), finding.sentence.clone());
        ReadinessReason { what, account, detail, finding: finding.clone() }
    }
}

/// An endpoint of an account whose circuit breaker is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PausedEndpoint {
    pub(super) account: String,
    pub(super) endpoint: Endpoint,
    #[serde(with = "rfc3339")]
    pub(super) until: Time,
    pub(super) reason: String,
    pub(super) hint: &'static str,
}

/// The response of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) reasons: Vec<ReadinessReason>,
    pub(super) paused: Vec<PausedEndpoint>,
}

impl Readiness {
    /// Derives readiness from the findings, and lists the paused endpoints of these accounts.
    pub(super) fn from_findings<'a>(
        findings: &[Finding],
        accounts: impl IntoIterator<Item = &'a AccountStatus>,
    ) -> Readiness {
        let paused = |account: &'a AccountStatus| {
            account.paused.iter().map(|pause| PausedEndpoint {
                account: account.sub_account_id.clone(),
                endpoint: pause.endpoint,
                until: pause.until,
                reason: pause.reason.clone(),
                hint: pause.hint(),
            })
        };
        Readiness {
            ready: !findings.iter().any(|finding| finding.blocks_progress),
            reasons: findings.iter().map(ReadinessReason::from).collect(),
            paused: accounts.into_iter().flat_map(paused).collect(),
        }
    }

    /// The readiness while the database is being opened, or cannot be.
    pub(super) fn starting(problem: Option<&DatabaseProblem>, now: Time) -> Readiness {
        const OPENING: &str = "the database is being opened, or migrated after an upgrade";
        const HINT: &str = "nothing to do: start-up continues automatically";
        let opening = || Finding::new(FindingCode::DatabaseAway, Severity::Trouble, now, OPENING, HINT).blocking(true);
        let finding = problem.map_or_else(opening, |problem| problem.to_finding(now));
        Readiness::from_findings(&[finding], [])
    }
}

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        let status = if self.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(self)).into_response()
    }
}

/// Combines the database's answer with whether it accepts results, and reports a problem as a
/// finding.
pub(super) fn check_database(app: &AppContext, ping: Result<(), DatabaseProblem>) -> Result<(), DatabaseProblem> {
    let storage = app.subscribe_storage().borrow().clone();
    let database = match (ping, storage) {
        (Ok(()), StorageState::Unavailable(problem)) => Err(DatabaseProblem::rejecting_results(&problem)),
        // The heartbeat may know why there is no answer.
        (Err(ping), StorageState::Unavailable(problem)) => {
            Err(DatabaseProblem { hint: ping.hint.or(problem.hint), ..ping })
        }
        (ping, _) => ping,
    };
    let code = database.as_ref().err().map(DatabaseProblem::code);
    for other in [FindingCode::DatabaseAway, FindingCode::DiskFull] {
        if code.as_ref() != Some(&other) {
            app.findings.clear(other, None);
        }
    }
    if let Err(problem) = &database {
        app.findings.report(problem.to_finding(app.clock.now()));
    }
    database
}

#[cfg(test)]
mod tests;
