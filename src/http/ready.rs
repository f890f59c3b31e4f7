//! Whether the daemon can make progress, and what stands in its way by name: the findings, as `/readyz` answers them.
//!
//! Not ready is whoever has a finding that blocks progress: a database that does not answer or does not take results, a
//! login that is refused, accounts of which none gets on. A replica that waits for its turn is ready: it does what it should.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::clock::Time;
use crate::daemon::shared::Shared;
use crate::db::{DbError, DbFault};
use crate::fetch::committer::Storage;
use crate::health::{Finding, Severity};
use crate::status::{AccountStatus, FindingStatus};

/// A database that takes longer to answer is away.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What is wrong with the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Whether it is the disk.
    pub(super) disk: bool,
    /// For people.
    pub(super) detail: String,
}

impl Trouble {
    /// It did not answer in time.
    pub(super) fn silent() -> Trouble {
        let detail = format!("the database did not answer within {} s", PATIENCE.as_secs());
        Trouble { disk: false, detail }
    }

    /// It does not take results, for this reason.
    fn refusing(reason: &str) -> Trouble {
        // What the committer passes on are words; these are SQLite's and the operating system's.
        let disk = ["disk", "readonly", "read-only", "No space left"].iter().any(|word| reason.contains(word));
        Trouble { disk, detail: format!("the database does not take results: {}", first_line(reason)) }
    }
}

impl From<&DbError> for Trouble {
    fn from(error: &DbError) -> Trouble {
        Trouble { disk: error.fault() == DbFault::Full, detail: first_line(&error.to_string()).to_owned() }
    }
}

impl Trouble {
    fn code(&self) -> &'static str {
        if self.disk { DISK } else { DATABASE }
    }

    fn finding(&self, now: Time) -> Finding {
        let hint = if self.disk {
            "make room on the disk, and the file and its folder writable; it goes on by itself then"
        } else {
            "bring the database back; it goes on by itself then"
        };
        Finding {
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

const DATABASE: &str = "database_away";
const DISK: &str = "disk_full";
/// The finding of a replica that waits for its turn.
pub(super) const STANDBY: &str = "standby";

/// What a reason is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    Database,
    Disk,
    Login,
    Accounts,
    Leases,
    Sink,
    /// Anything else.
    Finding,
}

impl What {
    fn of(code: &str) -> What {
        match code {
            DATABASE => What::Database,
            DISK => What::Disk,
            "login_refused" | "login_failing" => What::Login,
            "account_missing" | "answers_broken" | "endpoint_paused" | "no_metadata_read" | "rate_limited" => {
                What::Accounts
            }
            STANDBY => What::Leases,
            code if code.starts_with("sink_") => What::Sink,
            _ => What::Finding,
        }
    }
}

/// A finding under the names that `/readyz` has always had, and under its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) what: What,
    /// The sub-account, where it is about one.
    pub(super) account: Option<String>,
    pub(super) detail: String,
    #[serde(flatten)]
    pub(super) finding: FindingStatus,
}

impl From<&FindingStatus> for Reason {
    fn from(finding: &FindingStatus) -> Reason {
        let account = match finding.accounts.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        };
        Reason { what: What::of(&finding.code), account, detail: finding.sentence.clone(), finding: finding.clone() }
    }
}

/// An endpoint of an account that is not asked at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PausedEndpoint {
    pub(super) account: String,
    pub(super) endpoint: String,
    pub(super) until: String,
    pub(super) reason: String,
    pub(super) hint: &'static str,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) reasons: Vec<Reason>,
    pub(super) paused: Vec<PausedEndpoint>,
}

impl Readiness {
    /// By the findings; and what of these accounts is paused.
    pub(super) fn of<'a>(
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
            reasons: findings.iter().map(Reason::from).collect(),
            paused: accounts.into_iter().flat_map(paused).collect(),
        }
    }

    /// While the database is being opened, or cannot be.
    pub(super) fn starting(trouble: Option<&Trouble>, now: Time) -> Readiness {
        const OPENING: &str = "the database is being reached and opened, or brought up to date after an upgrade";
        let opening = || Finding {
            hint: "nothing to do: it goes on by itself".to_owned(),
            ..Trouble { disk: false, detail: OPENING.to_owned() }.finding(now)
        };
        let finding = trouble.map_or_else(opening, |trouble| trouble.finding(now));
        Readiness::of(&[finding.into()], [])
    }
}

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        let status = if self.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(self)).into_response()
    }
}

/// What is wrong with the database, from its answer and from whether it takes results; reported as a finding.
pub(super) fn database(shared: &Shared, ping: Result<(), Trouble>) -> Result<(), Trouble> {
    let storage = shared.storage().borrow().clone();
    let database = match (ping, storage) {
        (Ok(()), Storage::Away(reason)) => Err(Trouble::refusing(&reason)),
        (ping, _) => ping,
    };
    let code = database.as_ref().err().map(Trouble::code);
    for other in [DATABASE, DISK] {
        if code != Some(other) {
            shared.findings.clear(other, None);
        }
    }
    if let Err(trouble) = &database {
        shared.findings.report(trouble.finding(shared.clock.now()));
    }
    database
}

/// All findings: those of the last picture, and what this process knows without the database.
pub(super) fn findings(known: &[FindingStatus], shared: &Shared, database_is_up: bool) -> Vec<FindingStatus> {
    let mut own: Vec<FindingStatus> = shared.findings.list().into_iter().map(FindingStatus::from).collect();
    if !shared.in_session() && database_is_up {
        own.push(FindingStatus::new(
            STANDBY,
            Severity::Info,
            shared.clock.now(),
            "this replica holds no account: it is starting, or another one works".to_owned(),
            "nothing to do: it takes over by itself when it is needed",
        ));
    }
    let same = |one: &FindingStatus, other: &FindingStatus| one.code == other.code && one.subject == other.subject;
    // What concerns the database is known here better than in a picture from before.
    let holds = |finding: &FindingStatus| !matches!(finding.code.as_str(), DATABASE | DISK);
    let older = known.iter().filter(|finding| holds(finding) && !own.iter().any(|own| same(own, finding)));
    let mut all: Vec<FindingStatus> = own.iter().chain(older).cloned().collect();
    // Where the database is away, nothing else needs to explain that nothing gets on.
    all.retain(|finding| database_is_up || finding.code != "no_metadata_read");
    all.sort_by_key(|finding| std::cmp::Reverse((finding.severity, finding.blocks_progress)));
    all
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
