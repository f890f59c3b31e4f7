//! What answers while the database cannot be opened yet: that the process lives, and what it waits for.
//!
//! A database may be away for hours. Whoever starts this program and keeps watch must not take that for a program that
//! hangs, and start it again and again.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::guard::{self, Hosts};
use super::ready::{Readiness, Trouble};
use super::{LAST_ORDERS, accept, ends, machine};
use crate::clock::Clock;
use crate::config;
use crate::descriptors;

/// Answers probes until `opened` is there; nothing where there is no listener. `waits` is what keeps it from being opened;
/// `None` while it is being opened, and brought up to date where it is an earlier version's.
pub async fn meanwhile<T>(
    listener: Option<&TcpListener>,
    http: &config::Http,
    waits: watch::Receiver<Option<Trouble>>,
    opened: impl Future<Output = T>,
) -> T {
    let Some(listener) = listener else { return opened.await };
    // One without an address answers to nobody anyway.
    let address = listener.local_addr().ok();
    let hosts = address.map_or(Hosts::Any, |address| Hosts::of(address, http.listen.as_deref(), machine()));
    let (stop, mut connections) = (CancellationToken::new(), JoinSet::new());
    let places = descriptors::shares().connections;
    let opened = {
        let mut opened = std::pin::pin!(opened);
        let say = say(listener, waits.clone());
        // Neither of the other two ends.
        tokio::select! {
            opened = opened.as_mut() => opened,
            () = say => opened.await,
            () = accept(listener, places, routes(waits, hosts), &mut connections, &stop) => opened.await,
        }
    };
    stop.cancel();
    // Whoever is in the middle of a request gets the answer.
    let _ = tokio::time::timeout(LAST_ORDERS, ends(&mut connections)).await;
    connections.shutdown().await;
    opened
}

/// Says where the probes answer, once there is something to wait for.
async fn say(listener: &TcpListener, mut waits: watch::Receiver<Option<Trouble>>) {
    if waits.wait_for(Option::is_some).await.is_ok()
        && let Ok(address) = listener.local_addr()
    {
        tracing::info!(%address, "/healthz and /readyz answer at http://{address}/ meanwhile");
    }
    std::future::pending::<()>().await;
}

fn routes(waits: watch::Receiver<Option<Trouble>>, hosts: Hosts) -> Router {
    let readiness = move || std::future::ready(Readiness::starting(waits.borrow().as_ref(), Clock::system().now()));
    let starting = || async { (StatusCode::SERVICE_UNAVAILABLE, "it is starting; /readyz says what it waits for\n") };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .fallback(starting)
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard::known_host))
        .layer(middleware::from_fn(guard::every))
}
