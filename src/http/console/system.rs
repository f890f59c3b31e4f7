//! The system: replicas, login, disk, clock, backfills, settings with their secrets hidden, and the
//! access log.

mod access_log;
mod page;

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use serde::Serialize;

use super::frame::View;
use super::view::{Format, respond};
use super::viewer::Viewer;
use crate::access::Permission;
use crate::clock::Time;
use crate::config::{Settings, SinkKind};
use crate::health::{BackfillStatus, FindingCategory, FindingCode, ReplicaStatus, rfc3339};
use crate::http::state::HttpState;
use crate::ringcx::LoginState;

pub(super) use access_log::show as show_access_log;

/// What the page of the system shows.
#[derive(Debug, Serialize)]
pub(super) struct System {
    #[serde(with = "rfc3339")]
    now: Time,
    version: &'static str,
    instance: String,
    is_database_up: bool,
    /// Of this process; null for viewers who see a part of the accounts.
    process: Option<Process>,
    replicas: Vec<ReplicaStatus>,
    backfills: Vec<BackfillStatus>,
    /// Sections by name; empty for those who may not see them.
    settings: Vec<Section>,
    may_see_access_log: bool,
}

/// The state of this process.
#[derive(Debug, Serialize)]
struct Process {
    login: Login,
    #[serde(with = "rfc3339")]
    credential_expires: Option<Time>,
    /// How far RingCX's clock is ahead of this machine's.
    clock_skew_ms: i64,
    database: DatabaseUse,
    index_lag_changes: Option<u64>,
    /// Findings about the database, the disk, the clock and the login, each in a sentence.
    problems: Vec<String>,
}

/// The login at RingCX.
#[derive(Debug, Serialize)]
struct Login {
    state: &'static str,
    #[serde(with = "rfc3339")]
    at: Option<Time>,
    problem: Option<String>,
    hint: Option<&'static str>,
}

/// The space that the archive takes and has.
#[derive(Debug, Serialize)]
struct DatabaseUse {
    kind: &'static str,
    file_bytes: Option<u64>,
    log_bytes: Option<u64>,
    /// What is free on its volume.
    free_bytes: Option<u64>,
}

/// A section of the settings.
#[derive(Debug, Serialize)]
struct Section {
    name: &'static str,
    text: String,
}

pub(super) async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    format: Format,
) -> Response {
    let system = gather(&state, &viewer).await;
    respond(&state, &viewer, (View::System, format), Ok(system), |system| page::render(system, &viewer)).await
}

async fn gather(state: &HttpState, viewer: &Viewer) -> System {
    let report = state.viewer_report(viewer).await;
    let settings = &state.app.settings;
    let (replicas, backfills, index) = match &report.status {
        Some(status) => (status.replicas.clone(), status.backfills.clone(), Some(status.search_index.lag_changes)),
        None => Default::default(),
    };
    let process = viewer.sees_everything().then(|| {
        let is_technical = |code: &FindingCode| {
            matches!(code.category(), FindingCategory::Database | FindingCategory::Disk | FindingCategory::Login)
                || matches!(
                    code,
                    FindingCode::ClockSkew | FindingCode::CredentialExpires | FindingCode::DatabaseUnusable
                )
        };
        let problems = report.findings.iter().filter(|finding| is_technical(&finding.code));
        Process {
            login: login(&state.app.login.state()),
            credential_expires: state.app.credential_expiry(),
            clock_skew_ms: state.app.api.clock_offset_ms(),
            database: database_use(state.app.db.sqlite_path(), state.app.db.wal_bytes()),
            index_lag_changes: index,
            problems: problems.map(|finding| finding.sentence.clone()).collect(),
        }
    });
    // They name hosts, paths, people and what is redacted: nothing for an unknown viewer, or one for whom
    // something is.
    let is_plain_reader = viewer.caller().is_some_and(|caller| !caller.has_redaction());
    let sees_settings = is_plain_reader && viewer.sees_everything();
    System {
        now: report.now,
        version: env!("CARGO_PKG_VERSION"),
        instance: settings.database.instance.clone(),
        is_database_up: report.is_database_up,
        process,
        replicas,
        backfills,
        settings: if sees_settings { sections(settings) } else { Vec::new() },
        may_see_access_log: viewer.may_everywhere(Permission::Log),
    }
}

fn login(state: &LoginState) -> Login {
    match state {
        LoginState::NeverTried => Login { state: "no token was needed yet", at: None, problem: None, hint: None },
        LoginState::Good { at } => Login { state: "good", at: Some(*at), problem: None, hint: None },
        LoginState::Failing { since, refused, message, hint, .. } => Login {
            state: if *refused { "refused" } else { "failing" },
            at: Some(*since),
            problem: Some(message.clone()),
            hint: *hint,
        },
    }
}

fn database_use(sqlite: Option<&Path>, log_bytes: Option<u64>) -> DatabaseUse {
    let Some(path) = sqlite else {
        return DatabaseUse { kind: "Postgres", file_bytes: None, log_bytes: None, free_bytes: None };
    };
    let free = rustix::fs::statvfs(path).ok().map(|volume| volume.f_bavail.saturating_mul(volume.f_frsize));
    let file_bytes = std::fs::metadata(path).ok().map(|file| file.len());
    DatabaseUse { kind: "SQLite", file_bytes, log_bytes, free_bytes: free }
}

/// The settings in effect. Secrets are hidden: their types never print one. Templates, which may hold
/// one, and the hashes of keys, from which a short key can be guessed, are hidden here.
fn sections(settings: &Settings) -> Vec<Section> {
    let mut settings = settings.clone();
    for sink in &mut settings.sinks {
        if let SinkKind::Webhook(webhook) = &mut sink.kind
            && let Some(template) = &mut webhook.template
        {
            *template = "(hidden)".to_owned();
        }
    }
    let keys = std::mem::take(&mut settings.access.keys);
    let keys = keys.iter().map(|key| {
        let expires = key.expires.map_or_else(|| "never".to_owned(), Time::rfc3339_secs);
        format!("{} = {{ role = {:?}, expires = {expires:?} }}\n", key.name, key.role)
    });
    let section = |name, text: String| Section { name, text: text.replace("SecretBox<str>([REDACTED])", "(hidden)") };
    vec![
        section("api", format!("{:#?}", settings.api)),
        section("auth", format!("{:#?}", settings.auth)),
        section("accounts", format!("{:#?}", settings.accounts)),
        section("discovery", format!("{:#?}", settings.discovery)),
        section("limits", format!("{:#?}", settings.limits)),
        section("fetch", format!("{:#?}", settings.fetch)),
        section("database", format!("{:#?}", settings.database)),
        section("http", format!("{:#?}", settings.http)),
        section("access", format!("{:#?}", settings.access)),
        section("access.keys", keys.collect()),
        section("log", format!("{:#?}", settings.log)),
        section("report", format!("{:#?}", settings.report)),
        section("recordings", format!("{:#?}", settings.recordings)),
        section("sinks", format!("{:#?}", settings.sinks)),
    ]
}
