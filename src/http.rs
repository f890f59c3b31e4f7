//! The HTTP server: health, readiness, metrics, status and the dashboard. It only reads: the
//! database, and the state that the daemon shares.
//!
//! | path | content |
//! | --- | --- |
//! | `/healthz` | 200 while the process serves requests |
//! | `/readyz` | 200, or 503 if nothing can make progress; JSON with each reason and its remedy |
//! | `/metrics` | metrics for Prometheus |
//! | `/api/status` | the JSON of `status --json` |
//! | `/api/v1`, `/api`, `/api/openapi.json` | the API for programs, with a key |
//! | `/mcp` | the Model Context Protocol, with a key |
//! | `/` | the dashboard, updated by `/events` |
//! | `/search`, `/conversation` | conversations, for callers with a role or `http.token` (see `access`) |
//! | `/login`, `/auth/login`, `/auth/callback`, `/logout` | login and logout; like the pages before, 404 if the settings let nobody in |
//!
//! A client can block neither the daemon nor other clients. Connections, viewers, the size and time
//! of a request's head, and the time that a response may stay unread are all bounded (see
//! `connection`). See `middleware` for the rules that every request must meet.

mod api;
mod byte_range;
mod connection;
mod conversations;
mod coverage_timeline;
#[cfg(test)]
mod fixtures;
mod health_summary;
mod lag_history;
mod live_updates;
mod login;
mod mcp_endpoint;
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
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::daemon::app_context::AppContext;
use crate::error::UserError;
use crate::file_descriptors;

use middleware::AllowedHosts;
use state::HttpState;

pub use readiness::DatabaseProblem;
pub use startup_server::serve_during_startup;

/// How long a stop waits for actions of the API that are being carried out.
const ACTION_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Binds `http.listen`; returns `None` if it is not set.
///
/// # Errors
/// If the address is in use, not this machine's, or not permitted.
pub(crate) async fn bind(http: &config::Http) -> anyhow::Result<Option<TcpListener>> {
    let Some(listen) = http.listen.as_deref().filter(|listen| !listen.is_empty()) else { return Ok(None) };
    match listen_on(listen).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::AddrInUse => {
                    "another program, maybe another ringcx-extractor, listens there: stop it, or set http.listen to another port"
                }
                ErrorKind::PermissionDenied => "ports below 1024 need a privilege: set http.listen to a higher port",
                ErrorKind::AddrNotAvailable => {
                    "http.listen must name an address of this machine, such as 127.0.0.1, or [::] for all of them"
                }
                _ => "http.listen must be host:port, such as 127.0.0.1:8480",
            };
            let failed = UserError::failed(format!("failed to listen on http.listen = {listen:?}"));
            Err(failed.with_hint(format!("{hint}; \"\" disables the HTTP server")).with_source(error).into())
        }
    }
}

/// Listens. On a machine without IPv6, `[::]` means all its IPv4 addresses.
async fn listen_on(address: &str) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    match (&listener, address.strip_prefix("[::]:")) {
        (Err(error), Some(port)) if Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT) => {
            TcpListener::bind(format!("0.0.0.0:{port}")).await
        }
        _ => listener,
    }
}

/// Serves until `stop`, then closes every connection and event stream, and waits for actions, each
/// within two seconds.
///
/// # Errors
/// If the listener has no address, or a background task of the server exits unexpectedly.
pub(crate) async fn serve(listener: TcpListener, app: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("failed to read the address that the HTTP server listens on")?;
    let has_readers = HttpState::has_readers(&app.settings);
    log_address(address, has_readers);
    let hosts = AllowedHosts::of(address, app.settings.http.listen.as_deref(), local_host_name());
    let state =
        HttpState::new(app, stop.clone()).map_err(|error| UserError::failed(error.message).with_hint(error.hint))?;
    serve_until_stop(listener, Arc::new(state), hosts, stop).await
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
    tokio::select! {
        () = connection::accept_connections(&listener, slots, router, &mut connections, &stop) => {}
        () = state.run() => {
            anyhow::ensure!(stop.is_cancelled(), "the background tasks of the HTTP server exited unexpectedly");
        }
    }
    drop(listener);
    connection::close_connections(connections).await;
    state.actions.close();
    if tokio::time::timeout(ACTION_STOP_TIMEOUT, state.actions.wait()).await.is_err() {
        tracing::warn!("an action of the API did not end in time, and was interrupted by the stop");
    }
    Ok(())
}

fn log_address(address: SocketAddr, has_readers: bool) {
    tracing::info!(%address, "the dashboard is at http://{address}/");
    if !address.ip().to_canonical().is_loopback() {
        tracing::info!("everyone who can reach this address can read account names and figures, but no conversations");
        if has_readers {
            tracing::warn!(
                "conversations, tokens and sessions are sent unencrypted here: put a TLS proxy in front, and let only the proxy reach \
                 this address"
            );
        }
    }
}

fn local_host_name() -> Option<String> {
    hostname::get().ok().and_then(|name| name.into_string().ok())
}

#[cfg(test)]
mod tests;
