//! The HTTP server: health, readiness, metrics, status and the dashboard. It only reads: the
//! database, and the state that the daemon shares.
//!
//! | path | content |
//! | --- | --- |
//! | `/healthz` | 200 while the process serves requests |
//! | `/readyz` | 200, or 503 if nothing can make progress; JSON with each reason and its remedy |
//! | `/metrics` | metrics for Prometheus |
//! | `/api/status` | the JSON of `status --json` |
//! | `/` | the dashboard, updated by `/events` |
//! | `/search`, `/conversation` | conversations, with `http.token` only (`/login`, `/logout`); 404 if none is set |
//!
//! A client can block neither the daemon nor other clients. Connections, viewers, the size and time
//! of a request's head, and the time that a response may stay unread are all bounded. If all
//! connection slots are taken, the connection that is idle the longest is closed. See `middleware`
//! for the rules that every request must meet.

mod authenticator;
mod connection;
mod conversations;
mod coverage_timeline;
#[cfg(test)]
mod fixtures;
mod health_summary;
mod lag_history;
mod live_updates;
mod middleware;
mod readiness;
mod routes;
mod single_flight_cache;
mod startup_server;
mod state;
mod status_snapshot;
mod templates;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::daemon::app_context::AppContext;
use crate::error::UserError;
use crate::file_descriptors;

use connection::{ConnectionActivity, LogThrottle, WriteTimeoutStream};
use middleware::AllowedHosts;
use state::HttpState;

pub use readiness::DatabaseProblem;
pub use startup_server::serve_during_startup;

/// How long receiving a request's head may take, and how long a connection may be idle between
/// requests.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// How long a response may stay unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an idle connection is looked for while a new connection waits for a slot.
const SLOT_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long connections may take to close at shutdown.
const CONNECTION_SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

/// Binds `http.listen`; returns `None` if it is not set.
///
/// # Errors
/// If the address is in use, not this machine's, or not permitted.
pub(crate) async fn bind(http: &config::Http) -> anyhow::Result<Option<TcpListener>> {
    let Some(listen) = http.listen.as_deref().filter(|listen| !listen.is_empty()) else { return Ok(None) };
    match TcpListener::bind(listen).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::AddrInUse => {
                    "another program, maybe another ringcx-extractor, listens there: stop it, or set http.listen to another port"
                }
                ErrorKind::PermissionDenied => "ports below 1024 need a privilege: set http.listen to a higher port",
                ErrorKind::AddrNotAvailable => {
                    "http.listen must name an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
                }
                _ => "http.listen must be host:port, such as 127.0.0.1:8480",
            };
            let failed = UserError::failed(format!("failed to listen on http.listen = {listen:?}"));
            Err(failed.with_hint(format!("{hint}; \"\" disables the HTTP server")).with_source(error).into())
        }
    }
}

/// Serves until `stop`, then closes every connection and event stream, within two seconds.
///
/// # Errors
/// If the listener has no address, or a background task of the server exits unexpectedly.
pub(crate) async fn serve(listener: TcpListener, app: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("failed to read the address that the HTTP server listens on")?;
    log_address(address, app.settings.http.token.is_some());
    let hosts = AllowedHosts::of(address, app.settings.http.listen.as_deref(), local_host_name());
    serve_until_stop(listener, Arc::new(HttpState::new(app, stop.clone())), hosts, stop).await
}

async fn serve_until_stop(
    listener: TcpListener,
    state: Arc<HttpState>,
    hosts: AllowedHosts,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = routes::routes(state.clone(), hosts);
    let mut connections = JoinSet::new();
    let slots = file_descriptors::socket_limits().connections;
    let ended_early = tokio::select! {
        () = accept_connections(&listener, slots, router, &mut connections, &stop) => false,
        () = state.run() => !stop.is_cancelled(),
    };
    drop(listener);
    if !ended_early
        && tokio::time::timeout(CONNECTION_SHUTDOWN_GRACE, wait_for_connections(&mut connections)).await.is_err()
    {
        tracing::debug!("some HTTP connections did not close in time");
    }
    // Aborts the remaining connections.
    connections.shutdown().await;
    if ended_early {
        Err(anyhow::anyhow!("the background tasks of the HTTP server exited unexpectedly"))
    } else {
        Ok(())
    }
}

async fn wait_for_connections(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

fn log_address(address: SocketAddr, has_token: bool) {
    tracing::info!(%address, "the dashboard is at http://{address}/");
    if !address.ip().to_canonical().is_loopback() {
        tracing::info!("everyone who can reach this address can read account names and figures, but no conversations");
        if has_token {
            tracing::warn!(
                "conversations and http.token are sent unencrypted here: put a TLS proxy in front, and let only the proxy reach \
                 this address"
            );
        }
    }
}

fn local_host_name() -> Option<String> {
    hostname::get().ok().and_then(|name| name.into_string().ok())
}

/// Accepts connections, up to the number of slots. If all slots are taken, closes the connection
/// that is idle the longest, or the next one that becomes idle.
async fn accept_connections(
    listener: &TcpListener,
    slots: usize,
    router: Router,
    connections: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(slots));
    let mut open: Vec<Weak<ConnectionActivity>> = Vec::new();
    let mut pending: Option<TcpStream> = None;
    let accept_failures = LogThrottle::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "an HTTP connection task failed");
                }
            }
            accepted = listener.accept(), if pending.is_none() => match accepted {
                Ok((stream, _)) => pending = Some(stream),
                Err(error) => {
                    if let Some(suppressed) = accept_failures.try_acquire() {
                        tracing::warn!(%error, suppressed, "failed to accept an HTTP connection");
                    }
                    // Usually the process is out of file descriptors: give other connections time
                    // to close.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            () = tokio::time::sleep(SLOT_POLL_INTERVAL), if pending.is_some() => {}
        }
        let Some(stream) = pending.take() else { continue };
        match slots.clone().try_acquire_owned() {
            Ok(slot) => {
                let activity = Arc::new(ConnectionActivity::new());
                open.retain(|activity| activity.strong_count() > 0);
                open.push(Arc::downgrade(&activity));
                connections.spawn(serve_connection(stream, slot, activity, router.clone(), stop.clone()));
            }
            Err(_) => {
                let idle = open.iter().filter_map(Weak::upgrade).filter(|activity| activity.is_idle());
                if let Some(longest_idle) = idle.min_by_key(|activity| activity.last_activity()) {
                    longest_idle.close();
                }
                pending = Some(stream);
            }
        }
    }
}

/// Serves one connection until it ends, its slot is needed, or the daemon stops.
async fn serve_connection(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    activity: Arc<ConnectionActivity>,
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(WriteTimeoutStream::new(stream, WRITE_TIMEOUT, activity.clone()));
    let router_service = TowerToHyperService::new(router);
    let request_activity = activity.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        // A slowly sent form must not protect its connection from being closed.
        let guard = (request.method() != hyper::Method::POST).then(|| request_activity.begin_request());
        let response = router_service.call(request);
        async move {
            let response = response.await;
            drop(guard);
            response
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = activity.closed() => Ok(()),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "an HTTP connection was interrupted");
    }
    drop(slot);
}

#[cfg(test)]
mod tests;
