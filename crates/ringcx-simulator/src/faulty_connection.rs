//! Accepts connections, and resets them where a fault requires it.
//!
//! A reset happens below HTTP, after an exact number of bytes. So a client sees realistic resets:
//! before, within or after the headers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A request handler's control of its connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionControl(Arc<ConnectionState>);

#[derive(Debug)]
struct ConnectionState {
    /// How many bytes may still be written before the connection is reset; `NO_RESET` for no reset.
    bytes_until_reset: AtomicU64,
    /// Whether a `cookie` header with a capital letter in its name was received.
    capital_cookie: AtomicBool,
}

const NO_RESET: u64 = u64::MAX;

impl ConnectionControl {
    /// Resets the connection after `bytes` more bytes.
    pub(super) fn reset_after(&self, bytes: u64) {
        self.0.bytes_until_reset.store(bytes, Ordering::Relaxed);
    }

    /// Whether a `Cookie` header that is not lowercase was received since the last call.
    pub(super) fn take_capital_cookie(&self) -> bool {
        self.0.capital_cookie.swap(false, Ordering::Relaxed)
    }
}

/// Accepts connections on a listening socket.
pub(super) struct ConnectionListener {
    listener: TcpListener,
    stop: CancellationToken,
    admits: Box<dyn Fn() -> bool + Send + Sync>,
}

impl ConnectionListener {
    /// Accepts on `listener` until `stop`, which also ends every open connection. A connection for
    /// which `admits` returns false is reset immediately.
    pub(super) fn new(
        listener: TcpListener,
        stop: CancellationToken,
        admits: impl Fn() -> bool + Send + Sync + 'static,
    ) -> ConnectionListener {
        ConnectionListener { listener, stop, admits: Box::new(admits) }
    }

    /// Serves the accepted connections; each request gets its [`ConnectionControl`]. Errors of the
    /// listener are retried, so this never returns. All connections end when it is dropped.
    pub(super) async fn serve(self, router: Router) {
        let mut connections = JoinSet::new();
        loop {
            let connection = tokio::select! {
                connection = self.accept() => connection,
                Some(_) = connections.join_next() => continue,
            };
            let service = TowerToHyperService::new(router.clone().layer(Extension(connection.control.clone())));
            // Only HTTP/1: an HTTP/2 server would be linked into every program with the demo.
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    }

    async fn accept(&self) -> FaultyStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if !(self.admits)() => drop(stream.set_zero_linger()),
                Ok((stream, _)) => {
                    // Without this option the socket is only slower.
                    drop(stream.set_nodelay(true));
                    return FaultyStream::new(stream, self.stop.clone());
                }
                // Probably out of file descriptors: other connections must close first.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// A connection that can be reset.
pub(super) struct FaultyStream {
    stream: TcpStream,
    control: ConnectionControl,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl FaultyStream {
    fn new(stream: TcpStream, stop: CancellationToken) -> FaultyStream {
        let state =
            ConnectionState { bytes_until_reset: AtomicU64::new(NO_RESET), capital_cookie: AtomicBool::new(false) };
        FaultyStream { stream, control: ConnectionControl(Arc::new(state)), stopped: Box::pin(stop.cancelled_owned()) }
    }

    fn reset(&self) -> io::Error {
        drop(self.stream.set_zero_linger());
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(self.reset()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if has_capital_cookie(&buf.filled()[before..]) {
            self.control.0.capital_cookie.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.control.0.bytes_until_reset.load(Ordering::Relaxed);
        if left == NO_RESET {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        if left == 0 {
            return Poll::Ready(Err(self.reset()));
        }
        let part = usize::try_from(left).map_or(bytes, |left| &bytes[..bytes.len().min(left)]);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, part))?;
        self.control.0.bytes_until_reset.store(left.saturating_sub(written as u64), Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether a header line names the cookie other than in lowercase. HTTP permits that; the vendor's
/// summary service is said not to.
fn has_capital_cookie(received: &[u8]) -> bool {
    const NAME: &[u8] = b"cookie:";
    received
        .split(|byte| *byte == b'\n')
        .any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME) && name != NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cookie_header_with_a_capital_is_detected() {
        assert!(has_capital_cookie(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n"));
        assert!(!has_capital_cookie(b"GET / HTTP/1.1\r\ncookie: a=b\r\nx: Cookie: y\r\n\r\n"));
    }
}
