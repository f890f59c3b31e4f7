//! Health, readiness, metrics, status and the dashboard. Reads only: the database, and what the daemon shares.
//!
//! | path | what |
//! | --- | --- |
//! | `/healthz` | 200 while the process serves at all |
//! | `/readyz` | 200, or 503 where nothing can make progress; JSON that names each reason and what to do |
//! | `/metrics` | for Prometheus |
//! | `/api/status` | the JSON of `status --json` |
//! | `/` | the dashboard, kept up to date by `/events` |
//! | `/search`, `/conversation` | what customers said, for those who know `http.token` (`/login`, `/logout`); 404 without one |
//!
//! A client can hold up neither the daemon nor other clients: connections (the one that lies idle the longest goes first), viewers, the size and time of a request's head,
//! and the time that an answer may lie unread are all bounded. `guard` says what else every request has to pass.

mod board;
mod door;
mod fresh;
mod guard;
mod history;
mod inside;
mod page;
mod pages;
mod picture;
mod ready;
mod site;
mod socket;
mod starting;
mod strip;
#[cfg(test)]
mod testing;
mod verdict;

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
use crate::daemon::shared::Shared;
use crate::descriptors;

use guard::Hosts;
use site::Site;
use socket::{Activity, LogThrottle, Patient};

pub use ready::Trouble;
pub use starting::meanwhile;

/// How long a request's head may take to come, and a connection may lie idle between two.
const HEAD: Duration = Duration::from_secs(15);
/// How large a request's head may be.
const HEAD_SIZE: usize = 16 * 1024;
/// How many headers it may have.
const HEADERS: usize = 64;
/// How long an answer may lie unread.
const UNREAD: Duration = Duration::from_secs(30);
/// How soon it is looked again for one that lies idle, while a new connection waits for a place.
const PLACE_RETRY: Duration = Duration::from_millis(100);
/// How long connections may take to end when the daemon does.
const LAST_ORDERS: Duration = Duration::from_millis(1500);

/// Listens where the settings say; `None` where they say nowhere.
///
/// # Errors
/// Where the address is taken, not this machine's, or not permitted.
pub async fn bind(http: &config::Http) -> anyhow::Result<Option<TcpListener>> {
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
            Err(anyhow::Error::new(error)
                .context(format!("failed to listen on http.listen = {listen:?}\nhint: {hint}; \"\" turns it off")))
        }
    }
}

/// Answers until `stop`, then ends every connection, streams too, and returns within two seconds.
///
/// # Errors
/// Where the listener has no address, or a part of it ended of itself.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("failed to read the address that the HTTP server listens on")?;
    announce(address, shared.settings.http.token.is_some());
    let hosts = Hosts::of(address, shared.settings.http.listen.as_deref(), machine());
    keep(listener, Arc::new(Site::new(shared, stop.clone())), hosts, stop).await
}

async fn keep(listener: TcpListener, site: Arc<Site>, hosts: Hosts, stop: CancellationToken) -> anyhow::Result<()> {
    let router = pages::routes(site.clone(), hosts);
    let mut connections = JoinSet::new();
    let places = descriptors::shares().connections;
    let ended_early = tokio::select! {
        () = accept(&listener, places, router, &mut connections, &stop) => false,
        () = site.run() => !stop.is_cancelled(),
    };
    drop(listener);
    if !ended_early && tokio::time::timeout(LAST_ORDERS, ends(&mut connections)).await.is_err() {
        tracing::debug!("some HTTP connections did not end in time");
    }
    // Whatever is left ends with the set.
    connections.shutdown().await;
    if ended_early { Err(anyhow::anyhow!("what feeds the pages ended of itself")) } else { Ok(()) }
}

async fn ends(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

fn announce(address: SocketAddr, shows_conversations: bool) {
    tracing::info!(%address, "the dashboard is at http://{address}/");
    if !address.ip().to_canonical().is_loopback() {
        tracing::info!(
            "whoever can reach this address can read the names of accounts and their figures, and nothing else"
        );
        if shows_conversations {
            tracing::warn!(
                "whoever knows http.token can read conversations here, and both travel unencrypted: put a proxy that speaks \
                 TLS in front, and let only it reach this address"
            );
        }
    }
}

fn machine() -> Option<String> {
    hostname::get().ok().and_then(|name| name.into_string().ok())
}

/// Accepts connections, as many at once as there are places. Where all are taken, the connection that has lain idle the longest
/// is closed for the new one, or the next one that becomes idle.
async fn accept(
    listener: &TcpListener,
    places: usize,
    router: Router,
    connections: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(places));
    let mut open: Vec<Weak<Activity>> = Vec::new();
    let mut waiting: Option<TcpStream> = None;
    let failures = LogThrottle::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "an HTTP connection ended abnormally");
                }
            }
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok((stream, _)) => waiting = Some(stream),
                Err(error) => {
                    if let Some(unlogged) = failures.admit() {
                        tracing::warn!(%error, unlogged, "failed to accept an HTTP connection");
                    }
                    // Out of file descriptors, as a rule: give others time to close theirs.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            () = tokio::time::sleep(PLACE_RETRY), if waiting.is_some() => {}
        }
        let Some(stream) = waiting.take() else { continue };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let activity = Arc::new(Activity::new());
                open.retain(|activity| activity.strong_count() > 0);
                open.push(Arc::downgrade(&activity));
                connections.spawn(converse(stream, place, activity, router.clone(), stop.clone()));
            }
            Err(_) => {
                let idle = open.iter().filter_map(Weak::upgrade).filter(|activity| activity.is_idle());
                if let Some(longest) = idle.min_by_key(|activity| activity.last()) {
                    longest.close();
                }
                waiting = Some(stream);
            }
        }
    }
}

/// Answers one connection's requests until it ends, its place is needed, or the daemon ends.
async fn converse(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    activity: Arc<Activity>,
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(Patient::new(stream, UNREAD, activity.clone()));
    let answers = TowerToHyperService::new(router);
    let at_work = activity.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        // Whoever sends a form slowly is waited for by nobody.
        let work = (request.method() != hyper::Method::POST).then(|| at_work.begin());
        let answer = answers.call(request);
        async move {
            let answer = answer.await;
            drop(work);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEADERS)
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
        tracing::trace!(%error, "an HTTP connection broke off");
    }
    drop(place);
}

#[cfg(test)]
mod tests;
