//! The start-up server: answers `/healthz` and `/readyz` while the database cannot be opened yet.
//!
//! A database may be unavailable for hours. A supervisor must not mistake this for a hanging
//! program, and restart it repeatedly.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::{accept_connections, close_connections};
use super::local_host_name;
use super::middleware::{AllowedHosts, apply_policy};
use super::readiness::{DatabaseProblem, Readiness};
use crate::clock::Clock;
use crate::config;
use crate::file_descriptors;

/// Answers probes until `startup` is complete; does nothing but wait without a listener. `problem`
/// is what keeps the database from being opened. It is `None` while the database is being opened or
/// migrated.
pub async fn serve_during_startup<T>(
    listener: Option<&TcpListener>,
    http: &config::Http,
    problem: watch::Receiver<Option<DatabaseProblem>>,
    startup: impl Future<Output = T>,
) -> T {
    let Some(listener) = listener else { return startup.await };
    // A listener without an address cannot be reached anyway.
    let address = listener.local_addr().ok();
    let hosts = address
        .map_or(AllowedHosts::Any, |address| AllowedHosts::of(address, http.listen.as_deref(), local_host_name()));
    let (stop, mut connections) = (CancellationToken::new(), JoinSet::new());
    let slots = file_descriptors::socket_limits().connections;
    let probes = async {
        let router = routes(problem.clone(), hosts);
        tokio::join!(
            log_address(address, problem),
            accept_connections(listener, slots, router, &mut connections, &stop)
        );
        std::future::pending().await
    };
    let startup = tokio::select! {
        startup = startup => startup,
        startup = probes => startup,
    };
    stop.cancel();
    close_connections(connections).await;
    startup
}

/// Logs the address of the probes, once there is a problem to wait for.
async fn log_address(address: Option<SocketAddr>, mut problem: watch::Receiver<Option<DatabaseProblem>>) {
    if let (Some(address), true) = (address, problem.wait_for(Option::is_some).await.is_ok()) {
        tracing::info!(%address, "/healthz and /readyz are available at http://{address}/ during start-up");
    }
}

fn routes(problem: watch::Receiver<Option<DatabaseProblem>>, hosts: AllowedHosts) -> Router {
    let readiness = move || std::future::ready(Readiness::starting(problem.borrow().as_ref(), Clock::system().now()));
    let not_ready =
        || async { (StatusCode::SERVICE_UNAVAILABLE, "the daemon is starting; /readyz shows what it waits for\n") };
    let router =
        Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(readiness)).fallback(not_ready);
    apply_policy(router, hosts)
}
