//! Accepts and serves connections.
//!
//! A client must not hold a connection slot for long without use. hyper bounds the time for a
//! request's head. A write without progress, because the client does not read, fails after a
//! timeout, which ends the connection. If all slots are taken, the connection that is idle the
//! longest is closed.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::io::{InspectReader, InspectWriter};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick};

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
/// The shortest interval between two log lines that any client can cause.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The address of a request's connection: an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) IpAddr);

/// Accepts connections, up to the number of slots, until `stop`. If all slots are taken, closes the
/// connection that is idle the longest, or the next one that becomes idle.
pub(super) async fn accept_connections(
    listener: &TcpListener,
    slots: usize,
    router: Router,
    connections: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let mut open: Vec<(AbortHandle, Arc<ConnectionActivity>)> = Vec::new();
    let mut pending: Option<(TcpStream, PeerAddress)> = None;
    let accept_failures = LogThrottle::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "an HTTP connection task failed");
                }
            }
            accepted = listener.accept(), if pending.is_none() => match accepted {
                Ok((stream, peer)) => pending = Some((stream, PeerAddress(peer.ip()))),
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
        open.retain(|(task, _)| !task.is_finished());
        if open.len() < slots {
            let activity = Arc::new(ConnectionActivity::new());
            let (stream, peer) = stream;
            let connection = serve_connection(stream, peer, activity.clone(), router.clone(), stop.clone());
            open.push((connections.spawn(connection), activity));
            continue;
        }
        let idle = open.iter().filter_map(|(task, activity)| Some((activity.idle_since()?, task)));
        if let Some((_, longest_idle)) = idle.min_by_key(|(since, _)| *since) {
            longest_idle.abort();
        }
        pending = Some(stream);
    }
}

/// Lets connections end after the stop, so that requests in flight get their response; aborts what
/// remains.
pub(super) async fn close_connections(mut connections: JoinSet<()>) {
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(CONNECTION_SHUTDOWN_GRACE, all_ended).await.is_err() {
        tracing::debug!("some HTTP connections did not close in time");
    }
    connections.shutdown().await;
}

/// Serves one connection until it ends, or the daemon stops.
async fn serve_connection(
    stream: TcpStream,
    peer: PeerAddress,
    activity: Arc<ConnectionActivity>,
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(observed_stream(stream, WRITE_TIMEOUT, &activity));
    let router_service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        // A slowly sent form must not protect its connection from being closed.
        if request.method() != hyper::Method::POST {
            activity.set_busy();
        }
        let (response, activity) = (router_service.call(request), activity.clone());
        async move {
            let response = response.await;
            activity.set_idle();
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
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "an HTTP connection was interrupted");
    }
}

/// A stream whose writes fail after a timeout without progress, and which records when bytes were
/// transferred.
fn observed_stream<S: AsyncRead + AsyncWrite>(
    stream: S,
    write_timeout: Duration,
    activity: &Arc<ConnectionActivity>,
) -> impl AsyncRead + AsyncWrite + Unpin + use<S> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(write_timeout));
    let (reads, writes) = (activity.clone(), activity.clone());
    let stream = InspectWriter::new(stream, move |_: &[u8]| writes.record_transfer());
    Box::pin(InspectReader::new(stream, move |_: &[u8]| reads.record_transfer()))
}

/// Since when a connection is idle, for the task that frees slots.
struct ConnectionActivity {
    clock: Clock,
    /// When bytes were last transferred, in either direction; `None` while a request is handled.
    idle_since: Mutex<Option<Tick>>,
}

impl ConnectionActivity {
    fn new() -> ConnectionActivity {
        let clock = Clock::system();
        let idle_since = Mutex::new(Some(clock.tick()));
        ConnectionActivity { clock, idle_since }
    }

    fn state(&self) -> MutexGuard<'_, Option<Tick>> {
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_busy(&self) {
        *self.state() = None;
    }

    fn set_idle(&self) {
        *self.state() = Some(self.clock.tick());
    }

    fn record_transfer(&self) {
        if let Some(idle_since) = self.state().as_mut() {
            *idle_since = self.clock.tick();
        }
    }

    fn idle_since(&self) -> Option<Tick> {
        *self.state()
    }
}

/// Limits a log line that any client can cause, so that it cannot fill the disk.
#[derive(Default)]
pub(super) struct LogThrottle(Mutex<(Option<Tick>, u64)>);

impl LogThrottle {
    /// Whether to log now. Returns how many lines were suppressed since the last one.
    pub(super) fn try_acquire(&self) -> Option<u64> {
        self.try_acquire_at(Clock::system().tick())
    }

    fn try_acquire_at(&self, now: Tick) -> Option<u64> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0.is_some_and(|last| now.since(last) < MIN_LOG_INTERVAL) {
            held.1 += 1;
            return None;
        }
        let suppressed = std::mem::take(&mut held.1);
        held.0 = Some(now);
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_reads_times_out() {
        let (_far, near) = tokio::io::duplex(8);
        let mut near = observed_stream(near, Duration::from_millis(1), &Arc::new(ConnectionActivity::new()));
        near.write_all(b"12345678").await.unwrap();
        let error = near.write_all(b"one that is left lying").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_throttled_line_is_logged_once_a_minute_with_the_number_of_suppressed_ones() {
        let throttle = LogThrottle::default();
        let at = |seconds| Tick(Duration::from_secs(seconds));
        assert_eq!(throttle.try_acquire_at(at(1000)), Some(0));
        for _ in 0..8_100 {
            assert_eq!(throttle.try_acquire_at(at(1059)), None);
        }
        assert_eq!((throttle.try_acquire_at(at(1060)), throttle.try_acquire_at(at(1060))), (Some(8_100), None));
    }

    #[tokio::test]
    async fn a_write_that_is_read_in_time_succeeds() {
        let (mut far, near) = tokio::io::duplex(8);
        let mut near = observed_stream(near, Duration::from_secs(3600), &Arc::new(ConnectionActivity::new()));
        let mut read = [0; 16];
        let (written, got) = tokio::join!(near.write_all(b"12345678abcdefgh"), far.read_exact(&mut read));
        written.unwrap();
        got.unwrap();
        assert_eq!(&read, b"12345678abcdefgh");
    }
}
