//! Whether the daemon can make progress, and what stands in its way by name.
//!
//! Not ready are: a database that does not answer or does not take results, a login that was refused, and every account
//! paused. One paused account among healthy ones is named, and the answer stays 200. A replica that waits for its turn
//! is ready: it does what it should.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::daemon::shared::Shared;
use crate::db::{DbError, DbFault};
use crate::fetch::committer::Storage;
use crate::health::Finding;
use crate::ringcx::LoginState;
use crate::status::SinkState;

use super::picture::{Paused, Picture};

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
    /// Reported by the part of the daemon that noticed it.
    Finding,
}

/// Something that stands in the way, or that one should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) what: What,
    /// The sub-account, where it is about one.
    pub(super) account: Option<String>,
    pub(super) detail: String,
    pub(super) hint: String,
}

/// An endpoint of an account that is not asked at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PausedEndpoint {
    pub(super) account: String,
    pub(super) endpoint: String,
    pub(super) until: Option<String>,
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
    /// While the database is being opened, or cannot be.
    pub(super) fn starting(trouble: Option<&Trouble>) -> Readiness {
        const OPENING: &str = "the database is being reached and opened, or brought up to date after an upgrade";
        let opening = || reason(What::Database, OPENING.to_owned(), "nothing to do: it goes on by itself");
        Readiness { ready: false, reasons: vec![trouble.map_or_else(opening, database)], paused: Vec::new() }
    }
}

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        let status = if self.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(self)).into_response()
    }
}

/// What readiness is judged by.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) database: Result<(), Trouble>,
    pub(super) login: LoginState,
    /// Whether this replica works, rather than waiting for its turn.
    pub(super) works: bool,
    pub(super) accounts: Vec<Standing>,
    /// Sinks that take nothing: whether a person has to act, name, reason.
    pub(super) sinks: Vec<(bool, String, String)>,
    /// What the parts of the daemon have reported.
    pub(super) findings: Vec<Finding>,
}

/// How an account stands.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) sub: String,
    /// The endpoints of the artifacts that it asks for.
    pub(super) asks: BTreeSet<&'static str>,
    pub(super) paused: Vec<Paused>,
    pub(super) missing: bool,
}

impl Standing {
    /// Whether nothing of it gets on: nothing new is found, or nothing of what was found is fetched.
    fn stands_still(&self) -> bool {
        let paused = |endpoint: &str| self.paused.iter().any(|pause| pause.endpoint == endpoint);
        self.missing
            || paused("metadata")
            || (!self.asks.is_empty() && self.asks.iter().all(|endpoint| paused(endpoint)))
    }
}

/// Takes the facts together; `ping` is the database's answer, `picture` the latest there is.
pub(super) fn facts(shared: &Shared, ping: Result<(), Trouble>, picture: Option<&Picture>) -> Facts {
    let storage = shared.storage().borrow().clone();
    let database = match (ping, storage) {
        (Err(trouble), _) => Err(trouble),
        (Ok(()), Storage::Away(reason)) => Err(Trouble::refusing(&reason)),
        (Ok(()), Storage::Ok) => Ok(()),
    };
    let standing = |account: &std::sync::Arc<crate::account::Account>| {
        let row = picture.and_then(|picture| picture.rows.iter().find(|row| *row.sub == *account.id.sub));
        Standing {
            sub: account.id.sub.to_string(),
            asks: account.policy.wants.artifacts.iter().map(|artifact| artifact.name()).collect(),
            paused: row.map(|row| row.paused.clone()).unwrap_or_default(),
            missing: row.is_some_and(|row| row.missing),
        }
    };
    let accounts = shared.accounts().iter().map(standing).collect();
    let sinks = picture.map(|picture| picture.status.sinks.as_slice()).unwrap_or_default();
    let sinks = sinks
        .iter()
        .filter(|sink| matches!(sink.state, SinkState::Resting | SinkState::Stopped))
        .map(|sink| (sink.state == SinkState::Stopped, sink.name.clone(), sink.reason.clone().unwrap_or_default()));
    Facts {
        database,
        login: shared.login.state(),
        works: shared.in_session(),
        accounts,
        sinks: sinks.collect(),
        findings: shared.findings.list(),
    }
}

/// Judges them.
pub(super) fn judge(facts: &Facts) -> Readiness {
    let mut reasons = Vec::new();
    let mut ready = true;
    if let Err(trouble) = &facts.database {
        ready = false;
        reasons.push(database(trouble));
    }
    if let LoginState::Failing { refused, message, hint, .. } = &facts.login {
        ready &= !refused;
        let hint = match (hint, refused) {
            (Some(hint), _) => *hint,
            (None, true) => "check the credentials in [auth]; files are read again by themselves",
            (None, false) => "nothing to do: it is tried again by itself; if it lasts, check the network and [api]",
        };
        reasons.push(reason(What::Login, message.clone(), hint));
    }
    let still: Vec<&Standing> = facts.accounts.iter().filter(|account| account.stands_still()).collect();
    if !still.is_empty() && still.len() == facts.accounts.len() {
        ready = false;
        let detail = match still.as_slice() {
            [one] => format!("the only account, {}, is paused", one.sub),
            all => format!("all {} accounts are paused", all.len()),
        };
        reasons.push(reason(What::Accounts, detail, "see `paused` for what to do about each"));
    }
    let missing = facts.accounts.iter().filter(|account| account.missing).map(|account| Reason {
        account: Some(account.sub.clone()),
        ..reason(
            What::Accounts,
            "the login no longer sees this account".to_owned(),
            "give the login's user access to it again",
        )
    });
    reasons.extend(missing);
    if !facts.works && facts.database.is_ok() {
        let detail = "this replica holds no account: it is starting, or another one works";
        reasons.push(reason(
            What::Leases,
            detail.to_owned(),
            "nothing to do: it takes over by itself when it is needed",
        ));
    }
    // What was stored is there, whoever takes it: no sink makes the daemon unready.
    reasons.extend(facts.sinks.iter().map(|(stopped, name, why)| match stopped {
        true => reason(What::Sink, format!("sink {name} is stopped: {why}"), crate::deliver::STOPPED),
        false => reason(
            What::Sink,
            format!("sink {name} takes nothing at present: {why}"),
            "nothing to do if it passes: the sink is tried again by itself, and nothing is lost",
        ),
    }));
    for finding in &facts.findings {
        ready &= !finding.blocks_progress;
        let reported = reason(What::Finding, finding.sentence.clone(), &finding.hint);
        reasons.push(Reason { account: finding.subject.clone(), ..reported });
    }
    Readiness { ready, reasons, paused: facts.accounts.iter().flat_map(paused).collect() }
}

fn database(trouble: &Trouble) -> Reason {
    let (what, hint) = if trouble.disk {
        (What::Disk, "make room on the disk, and the file and its folder writable; it goes on by itself then")
    } else {
        (What::Database, "bring the database back; it goes on by itself then")
    };
    reason(what, trouble.detail.clone(), hint)
}

fn reason(what: What, detail: String, hint: &str) -> Reason {
    Reason { what, account: None, detail, hint: hint.to_owned() }
}

fn paused(account: &Standing) -> impl Iterator<Item = PausedEndpoint> + '_ {
    account.paused.iter().map(|pause| PausedEndpoint {
        account: account.sub.clone(),
        endpoint: pause.endpoint.clone(),
        until: pause.until.map(|until| until.rfc3339_secs()),
        reason: pause.reason.clone(),
        hint: pause.hint(),
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
