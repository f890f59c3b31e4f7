//! The start-up server: answers `/healthz` and `/readyz` while the database cannot be opened yet.
//!
//! A database may be unavailable for hours. A supervisor must not mistake this for a hanging
//! program, and restart it repeatedly.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::middleware::{AllowedHosts, apply_request_policy, check_host};
use super::readiness::{DatabaseProblem, Readiness};
use super::{CONNECTION_SHUTDOWN_GRACE, accept_connections, local_host_name, wait_for_connections};
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
    let max_connections = file_descriptors::socket_limits().connections;
    let startup = {
        let mut startup = std::pin::pin!(startup);
        let log_address = log_address(listener, problem.clone());
        // Neither of the other two futures ends.
        tokio::select! {
            startup = startup.as_mut() => startup,
            () = log_address => startup.await,
            () = accept_connections(listener, max_connections, routes(problem, hosts), &mut connections, &stop) => startup.await,
        }
    };
    stop.cancel();
    // Requests in flight get their response.
    let _ = tokio::time::timeout(CONNECTION_SHUTDOWN_GRACE, wait_for_connections(&mut connections)).await;
    connections.shutdown().await;
    startup
}

/// Logs the address of the probes, once there is a problem to wait for.
async fn log_address(listener: &TcpListener, mut problem: watch::Receiver<Option<DatabaseProblem>>) {
    if problem.wait_for(Option::is_some).await.is_ok()
        && let Ok(address) = listener.local_addr()
    {
        tracing::info!(%address, "/healthz and /readyz are available at http://{address}/ during start-up");
    }
    std::future::pending::<()>().await;
}

fn routes(problem: watch::Receiver<Option<DatabaseProblem>>, hosts: AllowedHosts) -> Router {
    let readiness = move || std::future::ready(Readiness::starting(problem.borrow().as_ref(), Clock::system().now()));
    let not_ready =
        || async { (StatusCode::SERVICE_UNAVAILABLE, "the daemon is starting; /readyz shows what it waits for\n") };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .fallback(not_ready)
        .layer(from_fn_with_state(Arc::new(hosts), check_host))
        .layer(from_fn(apply_request_policy))
}
