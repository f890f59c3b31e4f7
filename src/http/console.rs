//! The console: the pages for people who operate the daemon, each with its own URL and, with
//! `.json` at its end, as data.
//!
//! | part | job |
//! | --- | --- |
//! | `viewer` | who looks, and what they may see and do |
//! | `frame` | what all pages have: navigation, health, who is signed in |
//! | `view` | a page and its JSON from the same data |
//! | `action` | buttons that change something: forms with a token, confirmation, redirect |
//! | `live_updates`, `assets` | the stream that says when to look again, and the scripts |
//!
//! Everything can be read, and every action carried out, without scripts. Where no role is limited
//! and there is no identity provider, everyone who reaches the server sees the figures, as
//! `/metrics` shows them; conversations and actions need a login in any case.

mod account;
pub(super) mod action;
pub(super) mod assets;
mod backfill_list;
mod charts;
mod completeness;
mod conversations;
mod coverage_timeline;
pub(super) mod delivery;
mod elements;
pub(super) mod frame;
mod heat_map;
pub(super) mod history;
mod incidents;
pub(super) mod live_updates;
mod operator_forms;
mod overview;
mod queue;
mod system;
pub(super) mod view;
pub(super) mod viewer;

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tower_http::set_header::SetResponseHeaderLayer;

use super::api::problem::Problem;
use super::state::{HttpState, MAX_API_SNAPSHOT_AGE};
use viewer::Viewer;

/// Scripts, styles and recordings come from this server alone, and forms go to it alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The routes of the console.
pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    let views = Router::new()
        .route("/", get(overview::show))
        .route("/overview.json", get(overview::show))
        .route("/accounts/{sub}", get(account::show))
        .route("/system", get(system::show))
        .route("/system.json", get(system::show))
        .route("/system/access-log", get(system::show_access_log))
        .route("/system/access-log.json", get(system::show_access_log))
        .route("/events", get(live_updates::events))
        .route("/api/status", get(status))
        .layer(middleware::from_fn_with_state(state.clone(), viewer::require_viewer));
    let actions = Router::new()
        .merge(action::route::<operator_forms::Backfill>(state))
        .merge(action::route::<operator_forms::CancelBackfill>(state))
        .merge(action::route::<operator_forms::Resume>(state));
    let views = views
        .merge(conversations::routes(state))
        .merge(queue::routes(state))
        .merge(delivery::routes(state))
        .merge(completeness::routes(state));
    with_policies(views.merge(actions)).merge(assets::routes())
}

/// Sets the headers of the console's pages. The referrer policy lets browsers report to this site
/// where a form comes from, so that forms of other sites can be refused.
pub(super) fn with_policies(router: Router<Arc<HttpState>>) -> Router<Arc<HttpState>> {
    let policies = [(CONTENT_SECURITY_POLICY, POLICY), (REFERRER_POLICY, "same-origin")];
    policies.into_iter().fold(router, |router, (name, value)| {
        router.layer(SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value)))
    })
}

/// The JSON of `status --json`: the part that the viewer sees.
async fn status(State(state): State<Arc<HttpState>>, Extension(viewer): Extension<Viewer>) -> Response {
    if let Some(caller) = viewer.caller().filter(|_| !viewer.sees_everything()) {
        return match state.reader.status(caller).await {
            Ok(status) => Json(status).into_response(),
            Err(error) => Problem::from(error).into_response(),
        };
    }
    match state.snapshot(MAX_API_SNAPSHOT_AGE).await {
        Ok(snapshot) => Json(&snapshot.status).into_response(),
        Err(problem) => {
            let body = serde_json::json!({ "error": problem.detail, "hint": "see /readyz for what to do" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// The path of an account's page.
fn account_path(sub: &str) -> String {
    format!("/accounts/{}", utf8_percent_encode(sub, NON_ALPHANUMERIC))
}
