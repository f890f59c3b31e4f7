//! The view of completeness: the audit by account and day, the ledger, what is missing with its reason, the
//! last verification, and the legal holds.

mod page;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use serde::Deserialize;

use super::frame::View;
use super::view::{self, Format, respond};
use super::viewer::{self, Viewer};
use crate::access::Caller;
use crate::archive_reader::{AuditQuestion, CompletenessView};
use crate::clock::Time;
use crate::config::{self, ReportFormat};
use crate::http::api::problem::Problem;
use crate::http::state::HttpState;

/// The range that is shown if none is asked for. An audit of years takes long.
const DEFAULT_RANGE: Duration = Duration::from_secs(31 * 86_400);

const DAY_MS: i64 = 86_400_000;

/// The routes of the view; empty where the settings let nobody in.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    if state.authenticator.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/completeness", get(show))
        .route("/completeness.json", get(show))
        .route("/completeness/report/{file}", get(download_report))
        .layer(middleware::from_fn_with_state(state.clone(), viewer::require_reader))
}

/// The range and the account.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct CompletenessParameters {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) account: String,
}

impl CompletenessParameters {
    fn question(&self, now: Time) -> Result<AuditQuestion, Problem> {
        let time = |text: &str| match text.trim() {
            "" | "all" => Ok(None),
            text => config::parse_time(text, now)
                .map(Some)
                .map_err(|why| Problem::bad_request(format!("a time is not valid: {why}"))),
        };
        let (from, to) = (time(&self.from)?, time(&self.to)?);
        let is_all = self.from.trim() == "all";
        let first = to.unwrap_or(now) - DEFAULT_RANGE;
        let from = if is_all { None } else { Some(from.unwrap_or(Time(first.0.div_euclid(DAY_MS) * DAY_MS))) };
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            return Err(Problem::bad_request("the range of from and to is empty"));
        }
        let account = Some(self.account.trim()).filter(|account| !account.is_empty());
        // The month may begin before an account was read at all.
        let starts_with_first_read = self.from.trim().is_empty();
        let accounts = account.map(str::to_owned).into_iter().collect();
        Ok(AuditQuestion { from, to, accounts, starts_with_first_read })
    }
}

async fn show(
    State(state): State<Arc<HttpState>>,
    Extension(viewer): Extension<Viewer>,
    Extension(caller): Extension<Caller>,
    format: Format,
    uri: Uri,
) -> Response {
    let (parameters, valid): (CompletenessParameters, _) = view::parameters(&uri);
    let found = match valid {
        Ok(()) => read(&state, &caller, &parameters).await,
        Err(problem) => Err(problem),
    };
    respond(&state, &viewer, (View::Completeness, format), found, |view| {
        ("Completeness".to_owned(), page::render(view, &parameters))
    })
    .await
}

async fn read(
    state: &HttpState,
    caller: &Caller,
    parameters: &CompletenessParameters,
) -> Result<CompletenessView, Problem> {
    let question = parameters.question(state.app.clock.now())?;
    Ok(state.reader.completeness(caller, &question).await?)
}

/// The reconciliation report as a file, as the command `report` writes it.
async fn download_report(
    State(state): State<Arc<HttpState>>,
    Extension(caller): Extension<Caller>,
    Path(file): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let formats = [
        ("report.html", ReportFormat::Html, "text/html; charset=utf-8"),
        ("report.txt", ReportFormat::Text, "text/plain; charset=utf-8"),
        ("report.json", ReportFormat::Json, "application/json"),
    ];
    let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no such file");
    let (_, format, media) = formats.into_iter().find(|(name, ..)| *name == file).ok_or_else(missing)?;
    let (parameters, valid) = view::parameters(&uri);
    valid?;
    let view = read(&state, &caller, &parameters).await?;
    let report = view.report.ok_or_else(|| {
        Problem::new(StatusCode::FORBIDDEN, "a report counts all channels, and your role shows only some")
    })?;
    let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed to write the report");
    let text = report.render(format).map_err(failed)?;
    let disposition = format!("attachment; filename=\"{file}\"");
    Ok(([(CONTENT_TYPE, media), (CONTENT_DISPOSITION, disposition.as_str())], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_month_is_shown_unless_another_range_is_asked_for() {
        let now = Time::parse("2026-11-20T10:00:00Z").unwrap();
        let from = |from: &str, to: &str| {
            let parameters =
                CompletenessParameters { from: from.to_owned(), to: to.to_owned(), account: String::new() };
            parameters.question(now).map(|question| question.from.map(Time::rfc3339_secs))
        };
        assert_eq!(from("", "").unwrap().as_deref(), Some("2026-10-20T00:00:00Z"));
        assert_eq!(from("7d", "").unwrap().as_deref(), Some("2026-11-13T10:00:00Z"));
        assert_eq!(from("all", "").unwrap(), None);
        assert!(from("2026-11-20", "2026-11-19").is_err());
    }
}
