//! What is answered under which path. Reads only.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use futures_util::Stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use crate::metrics::Format;

use super::guard::{self, Hosts};
use super::site::{BEAT, RECENT, Site};
use super::{inside, page};

/// All paths; see `guard` for what every request has to pass.
pub(super) fn routes(site: Arc<Site>, hosts: Hosts) -> Router {
    let for_people = Router::new()
        .route("/", get(dashboard))
        .route("/events", get(events))
        .route("/api/status", get(status))
        .merge(inside::routes(&site));
    Router::new()
        .merge(for_people)
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing here; the dashboard is at /\n") })
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard::known_host))
        .layer(middleware::from_fn(guard::every))
        .with_state(site)
}

async fn readiness(State(site): State<Arc<Site>>) -> Response {
    site.look(BEAT).await.readiness.into_response()
}

async fn status(State(site): State<Arc<Site>>) -> Response {
    match site.picture(RECENT).await {
        Ok(picture) => Json(&picture.status).into_response(),
        Err(trouble) => {
            let body = serde_json::json!({ "error": trouble.detail, "hint": "see /readyz for what to do" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let look = site.look(BEAT).await;
    match site.shared.metrics.render(&site.figures(&look), format) {
        Ok(page) => ([(CONTENT_TYPE, format.content_type())], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn dashboard(State(site): State<Arc<Site>>) -> Response {
    // The number first: what is drawn is then at least as new as it says.
    let seq = site.board.seq();
    let look = site.look(BEAT).await;
    let (verdict, samples) = (site.verdict(&look), site.samples());
    let page = page::page(&site.view(&look, &verdict, &samples), seq);
    ([(CONTENT_SECURITY_POLICY, page::policy())], Html(page)).into_response()
}

/// Which state the viewer's page shows.
#[derive(Deserialize)]
struct After {
    after: Option<String>,
}

async fn events(State(site): State<Arc<Site>>, Query(After { after }): Query<After>) -> Response {
    let Ok(seat) = site.seats.clone().try_acquire_owned() else {
        let why = "too many are watching; close a page elsewhere, or reload this one later\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], why).into_response();
    };
    let (first, changes) = site.board.subscribe(after.and_then(|after| after.parse().ok()));
    let viewer = Viewer { site, changes, first, _seat: seat };
    Sse::new(viewer.stream()).keep_alive(KeepAlive::default()).into_response()
}

/// One who watches; the seat is free again when the stream is dropped.
struct Viewer {
    site: Arc<Site>,
    changes: broadcast::Receiver<Arc<str>>,
    first: Option<Arc<str>>,
    _seat: OwnedSemaphorePermit,
}

impl Viewer {
    /// Everything that the viewer is told, until the stop.
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures_util::stream::unfold(self, |mut viewer| async move {
            let change = viewer.next().await?;
            Some((Ok(Event::default().data(&*change)), viewer))
        })
    }

    async fn next(&mut self) -> Option<Arc<str>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let change = tokio::select! {
                () = self.site.stop.cancelled() => return None,
                change = self.changes.recv() => change,
            };
            match change {
                Ok(change) => return Some(change),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => {
                    let (whole, changes) = self.site.board.subscribe(None);
                    self.changes = changes;
                    if whole.is_some() {
                        return whole;
                    }
                }
            }
        }
    }
}
