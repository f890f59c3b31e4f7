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
use crate::health::{HealthFinding, Severity};
use crate::status::{AccountStatus, FindingStatus};

/// A database that takes longer to answer counts as unavailable.
pub(super) const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseProblem {
    /// Whether the disk is the cause.
    pub(super) is_disk: bool,
    /// The error message.
    pub(super) detail: String,
}

impl DatabaseProblem {
    /// The database did not answer in time.
    pub(super) fn timed_out() -> DatabaseProblem {
        let detail = format!("the database did not answer within {} s", DATABASE_TIMEOUT.as_secs());
        DatabaseProblem { is_disk: false, detail }
    }

    /// The database does not accept results, for this reason.
    fn rejecting_results(problem: &StorageProblem) -> DatabaseProblem {
        DatabaseProblem {
            is_disk: problem.fault == DbFault::StorageFull,
            detail: format!("the database does not accept results: {}", first_line(&problem.reason)),
        }
    }
}

impl From<&DbError> for DatabaseProblem {
    fn from(error: &DbError) -> DatabaseProblem {
        DatabaseProblem {
            is_disk: error.fault() == DbFault::StorageFull,
            detail: first_line(&error.to_string()).to_owned(),
        }
    }
}

impl DatabaseProblem {
    fn code(&self) -> &'static str {
        if self.is_disk { DISK_FULL_CODE } else { DATABASE_AWAY_CODE }
    }

    fn to_finding(&self, now: Time) -> HealthFinding {
        let hint = if self.is_disk {
            "free some disk space, and make the file and its folder writable; the daemon then continues automatically"
        } else {
            "make the database available again; the daemon then continues automatically"
        };
        HealthFinding {
            code: self.code(),
            severity: Severity::Trouble,
            since: now,
            subject: None,
            sentence: self.detail.clone(),
            hint: hint.to_owned(),
            blocks_progress: true,
        }
    }
}

const DATABASE_AWAY_CODE: &str = "database_away";
const DISK_FULL_CODE: &str = "disk_full";
/// The code of the finding of a replica on standby.
pub(super) const STANDBY_CODE: &str = "standby";

/// What a reason concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ReasonCategory {
    Database,
    Disk,
    Login,
    Accounts,
    Leases,
    Sink,
    /// Anything else.
    #[serde(rename = "finding")]
    Other,
}

impl ReasonCategory {
    fn of(code: &str) -> ReasonCategory {
        match code {
            DATABASE_AWAY_CODE => ReasonCategory::Database,
            DISK_FULL_CODE => ReasonCategory::Disk,
            "login_refused" | "login_failing" => ReasonCategory::Login,
            "account_missing" | "answers_broken" | "endpoint_paused" | "no_metadata_read" | "rate_limited" => {
                ReasonCategory::Accounts
            }
            STANDBY_CODE => ReasonCategory::Leases,
            code if code.starts_with("sink_") => ReasonCategory::Sink,
            _ => ReasonCategory::Other,
        }
    }
}

/// A finding under the original field names of `/readyz`, and under its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ReadinessReason {
    pub(super) what: ReasonCategory,
    /// The sub-account, if the finding concerns only one.
    pub(super) account: Option<String>,
    pub(super) detail: String,
    #[serde(flatten)]
    pub(super) finding: FindingStatus,
}

impl From<&FindingStatus> for ReadinessReason {
    fn from(finding: &FindingStatus) -> ReadinessReason {
        let account = match finding.accounts.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        };
        ReadinessReason {
            what: ReasonCategory::of(&finding.code),
            account,
            detail: finding.sentence.clone(),
            finding: finding.clone(),
        }
    }
}

/// An endpoint of an account whose circuit breaker is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PausedEndpoint {
    pub(super) account: String,
    pub(super) endpoint: String,
    pub(super) until: String,
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
        findings: &[FindingStatus],
        accounts: impl IntoIterator<Item = &'a AccountStatus>,
    ) -> Readiness {
        let paused = |account: &'a AccountStatus| {
            account.paused.iter().map(|pause| PausedEndpoint {
                account: account.sub_account_id.clone(),
                endpoint: pause.endpoint.clone(),
                until: pause.until.clone(),
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
        let opening = || HealthFinding {
            hint: "nothing to do: start-up continues automatically".to_owned(),
            ..DatabaseProblem { is_disk: false, detail: OPENING.to_owned() }.to_finding(now)
        };
        let finding = problem.map_or_else(opening, |problem| problem.to_finding(now));
        Readiness::from_findings(&[finding.into()], [])
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
        (ping, _) => ping,
    };
    let code = database.as_ref().err().map(DatabaseProblem::code);
    for other in [DATABASE_AWAY_CODE, DISK_FULL_CODE] {
        if code != Some(other) {
            app.findings.clear(other, None);
        }
    }
    if let Err(problem) = &database {
        app.findings.report(problem.to_finding(app.clock.now()));
    }
    database
}

/// Merges the findings of the last snapshot with those of this process.
pub(super) fn merge_findings(
    snapshot_findings: &[FindingStatus],
    app: &AppContext,
    is_database_up: bool,
) -> Vec<FindingStatus> {
    let mut own: Vec<FindingStatus> = app.findings.list().into_iter().map(FindingStatus::from).collect();
    if !app.is_active() && is_database_up {
        own.push(FindingStatus::new(
            STANDBY_CODE,
            Severity::Info,
            app.clock.now(),
            "this replica owns no account: it is starting, or on standby".to_owned(),
            "nothing to do: it takes over automatically when it is needed",
        ));
    }
    let is_same = |one: &FindingStatus, other: &FindingStatus| one.code == other.code && one.subject == other.subject;
    // This process knows the state of the database better than an older snapshot.
    let is_current = |finding: &FindingStatus| !matches!(finding.code.as_str(), DATABASE_AWAY_CODE | DISK_FULL_CODE);
    let from_snapshot =
        snapshot_findings.iter().filter(|finding| is_current(finding) && !own.iter().any(|own| is_same(own, finding)));
    let mut all: Vec<FindingStatus> = own.iter().chain(from_snapshot).cloned().collect();
    // An unavailable database explains why no metadata is read.
    all.retain(|finding| is_database_up || finding.code != "no_metadata_read");
    all.sort_by_key(|finding| std::cmp::Reverse((finding.severity, finding.blocks_progress)));
    all
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
