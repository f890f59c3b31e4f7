//! The wire: accepts connections, and cuts them where a fault says so.
//!
//! A cut happens below HTTP, at an exact number of bytes, so that a client meets what it would meet in life: a
//! connection reset before, within or after the headers.

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

/// What a request handler holds of its connection.
#[derive(Debug, Clone)]
pub(super) struct Conn(Arc<State>);

#[derive(Debug)]
struct State {
    /// How many bytes may still be written before the connection is reset; `UNCUT` for all.
    left: AtomicU64,
    /// Whether a `cookie` header was seen with a capital letter in its name.
    capital_cookie: AtomicBool,
}

const UNCUT: u64 = u64::MAX;

impl Conn {
    /// Resets the connection once so many more bytes have been written.
    pub(super) fn cut_after(&self, bytes: u64) {
        self.0.left.store(bytes, Ordering::Relaxed);
    }

    /// Whether a `Cookie` header has come in other than lowercase since this was last asked.
    pub(super) fn take_capital_cookie(&self) -> bool {
        self.0.capital_cookie.swap(false, Ordering::Relaxed)
    }
}

/// The listening socket.
pub(super) struct Gate {
    listener: TcpListener,
    stop: CancellationToken,
    admits: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Gate {
    /// Accepts on `listener` until `stop`, which also ends every open connection. `admits` is asked once for each
    /// connection; one that it does not want is reset at once.
    pub(super) fn new(
        listener: TcpListener,
        stop: CancellationToken,
        admits: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Gate {
        Gate { listener, stop, admits: Box::new(admits) }
    }

    /// Answers whoever is let in, each request knowing its [`Conn`]. Never ends of itself: what fails is waited out. Every
    /// connection ends with it.
    pub(super) async fn serve(self, router: Router) {
        let mut connections = JoinSet::new();
        loop {
            let wire = tokio::select! {
                wire = self.accept() => wire,
                Some(_) = connections.join_next() => continue,
            };
            let service = TowerToHyperService::new(router.clone().layer(Extension(wire.conn.clone())));
            // HTTP/1 alone: the second version's server would be in every program that can play the demo.
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(wire), service));
        }
    }

    async fn accept(&self) -> Wire {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if !(self.admits)() => drop(stream.set_zero_linger()),
                Ok((stream, _)) => {
                    // A socket that cannot be told so is only slower.
                    drop(stream.set_nodelay(true));
                    return Wire::new(stream, self.stop.clone());
                }
                // Out of file descriptors, most likely: others must close first.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// One connection.
pub(super) struct Wire {
    stream: TcpStream,
    conn: Conn,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn new(stream: TcpStream, stop: CancellationToken) -> Wire {
        let state = State { left: AtomicU64::new(UNCUT), capital_cookie: AtomicBool::new(false) };
        Wire { stream, conn: Conn(Arc::new(state)), stopped: Box::pin(stop.cancelled_owned()) }
    }

    fn reset(&self) -> io::Error {
        drop(self.stream.set_zero_linger());
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(self.reset()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if has_capital_cookie(&buf.filled()[before..]) {
            self.conn.0.capital_cookie.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.conn.0.left.load(Ordering::Relaxed);
        if left == UNCUT {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        if left == 0 {
            return Poll::Ready(Err(self.reset()));
        }
        let part = usize::try_from(left).map_or(bytes, |left| &bytes[..bytes.len().min(left)]);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, part))?;
        self.conn.0.left.store(left.saturating_sub(written as u64), Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether a header line names the cookie other than in lowercase. HTTP forgives it; the vendor's summary
/// service is said not to.
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
    fn only_a_cookie_header_with_a_capital_is_noticed() {
        assert!(has_capital_cookie(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n"));
        assert!(!has_capital_cookie(b"GET / HTTP/1.1\r\ncookie: a=b\r\nx: Cookie: y\r\n\r\n"));
    }
}
