//! The routes of the HTTP server. They only read.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use crate::metrics::MetricsFormat;

use super::middleware::{AllowedHosts, apply_policy};
use super::state::{HttpState, MAX_API_SNAPSHOT_AGE, UPDATE_INTERVAL};
use super::{api, conversations, mcp_endpoint, templates};

/// All routes; see `middleware` for the rules that every request must meet.
pub(super) fn routes(state: Arc<HttpState>, hosts: AllowedHosts) -> Router {
    let browser_routes = Router::new()
        .route("/", get(dashboard))
        .route("/events", get(events))
        .route("/api/status", get(status))
        .merge(conversations::routes(&state))
        .merge(api::routes(&state))
        .merge(mcp_endpoint::routes(&state));
    let router = browser_routes
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; the dashboard is at /\n") })
        .with_state(state);
    apply_policy(router, hosts)
}

async fn readiness(State(state): State<Arc<HttpState>>) -> Response {
    state.health_report(UPDATE_INTERVAL).await.readiness.into_response()
}

async fn status(State(state): State<Arc<HttpState>>) -> Response {
    match state.snapshot(MAX_API_SNAPSHOT_AGE).await {
        Ok(snapshot) => Json(&snapshot.status).into_response(),
        Err(problem) => {
            let body = serde_json::json!({ "error": problem.detail, "hint": "see /readyz for what to do" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
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

async fn dashboard(State(state): State<Arc<HttpState>>) -> Response {
    // Read the number first: the rendered page is then at least as new.
    let seq = state.live_updates.seq();
    let report = state.health_report(UPDATE_INTERVAL).await;
    let page = templates::render_dashboard(&state.view(&report), seq);
    ([(CONTENT_SECURITY_POLICY, templates::dashboard_policy())], Html(page)).into_response()
}

/// The query of `/events`: the number of the state that the page shows.
#[derive(Deserialize)]
struct EventsQuery {
    after: Option<String>,
}

async fn events(State(state): State<Arc<HttpState>>, Query(EventsQuery { after }): Query<EventsQuery>) -> Response {
    let Ok(permit) = state.viewer_permits.clone().try_acquire_owned() else {
        let why = "too many viewers; close another dashboard page, or reload this one later\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], why).into_response();
    };
    let stop = state.stop.clone();
    let (first, updates) = state.live_updates.subscribe(after.and_then(|after| after.parse().ok()));
    // The permit is released when the stream is dropped.
    let later = stream::unfold((state, updates, permit), |(state, mut updates, permit)| async move {
        let update = match updates.recv().await {
            Ok(update) => update,
            Err(RecvError::Closed) => return None,
            // A viewer that cannot keep up continues with the whole state.
            Err(RecvError::Lagged(_)) => {
                let full;
                (full, updates) = state.live_updates.subscribe(None);
                full?
            }
        };
        Some((update, (state, updates, permit)))
    });
    let updates = stream::iter(first).chain(later).take_until(stop.cancelled_owned());
    let events = updates.map(|update| Ok::<_, Infallible>(Event::default().data(&*update)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
