//! The routes of the HTTP server.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::MetricsFormat;

use super::middleware::{AllowedHosts, apply_policy};
use super::state::{HttpState, UPDATE_INTERVAL};
use super::{api, console, login, mcp_endpoint};

/// All routes; see `middleware` for the rules that every request must meet.
pub(super) fn routes(state: Arc<HttpState>, hosts: AllowedHosts) -> Router {
    let browser_routes = Router::new()
        .merge(console::routes(&state))
        .merge(login::routes(&state))
        .merge(api::routes(&state))
        .merge(mcp_endpoint::routes(&state));
    let router = browser_routes
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; the console is at /\n") })
        .with_state(state);
    apply_policy(router, hosts)
}

async fn readiness(State(state): State<Arc<HttpState>>) -> Response {
    state.health_report(UPDATE_INTERVAL).await.readiness.into_response()
}

async fn metrics(State(state): State<Arc<HttpState>>, headers: HeaderMap) -> Response {
    let format = MetricsFormat::negotiate(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let report = state.health_report(UPDATE_INTERVAL).await;
    match state.app.metrics.render(&state.metrics_snapshot(&report), format) {
        Ok(page) => ([(CONTENT_TYPE, format.content_type())], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to render the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
