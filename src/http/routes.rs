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
use futures_util::Stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use crate::metrics::MetricsFormat;

use super::middleware::{AllowedHosts, apply_policy};
use super::state::{HttpState, MAX_API_SNAPSHOT_AGE, UPDATE_INTERVAL};
use super::{conversations, templates};

/// All routes; see `middleware` for the rules that every request must meet.
pub(super) fn routes(state: Arc<HttpState>, hosts: AllowedHosts) -> Router {
    let browser_routes = Router::new()
        .route("/", get(dashboard))
        .route("/events", get(events))
        .route("/api/status", get(status))
        .merge(conversations::routes(&state));
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
    let (summary, samples) = (state.health_summary(&report), state.samples());
    let page = templates::render_dashboard(&state.view(&report, &summary, &samples), seq);
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
    let (first, updates) = state.live_updates.subscribe(after.and_then(|after| after.parse().ok()));
    let events = EventStream { state, updates, first, _permit: permit };
    Sse::new(events.into_stream()).keep_alive(KeepAlive::default()).into_response()
}

/// A viewer's event stream. Its permit is released when the stream is dropped.
struct EventStream {
    state: Arc<HttpState>,
    updates: broadcast::Receiver<Arc<str>>,
    first: Option<Arc<str>>,
    _permit: OwnedSemaphorePermit,
}

impl EventStream {
    /// The viewer's updates, until the stop.
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures_util::stream::unfold(self, |mut events| async move {
            let update = events.next_update().await?;
            Some((Ok(Event::default().data(&*update)), events))
        })
    }

    async fn next_update(&mut self) -> Option<Arc<str>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let update = tokio::select! {
                () = self.state.stop.cancelled() => return None,
                update = self.updates.recv() => update,
            };
            match update {
                Ok(update) => return Some(update),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => {
                    let (full, updates) = self.state.live_updates.subscribe(None);
                    self.updates = updates;
                    if full.is_some() {
                        return full;
                    }
                }
            }
        }
    }
}
