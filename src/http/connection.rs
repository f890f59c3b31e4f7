//! A connection whose writes time out.
//!
//! The server bounds the time for a request's head. A client that sends a request and then does not
//! read the response would still hold its connection slot. Here, a write without progress fails
//! after a timeout, and ends the connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick};

/// The shortest interval between two log lines that any client can cause.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The state of a connection, for the task that frees slots.
pub(super) struct ConnectionActivity {
    clock: Clock,
    /// When bytes were last transferred, in either direction.
    last_activity: Mutex<Tick>,
    /// Whether a request is being handled.
    busy: AtomicBool,
    close: CancellationToken,
}

impl ConnectionActivity {
    pub(super) fn new() -> ConnectionActivity {
        let clock = Clock::system();
        let last_activity = Mutex::new(clock.tick());
        ConnectionActivity { clock, last_activity, busy: AtomicBool::new(false), close: CancellationToken::new() }
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(super) fn begin_request(self: &Arc<ConnectionActivity>) -> RequestGuard {
        self.busy.store(true, Ordering::Relaxed);
        RequestGuard(self.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Relaxed) && !self.close.is_cancelled()
    }

    pub(super) fn last_activity(&self) -> Tick {
        *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_activity(&self) {
        *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
    }

    pub(super) fn close(&self) {
        self.close.cancel();
    }

    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }
}

/// Held while a request is handled.
pub(super) struct RequestGuard(Arc<ConnectionActivity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
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

/// A stream whose writes fail after a timeout without progress.
pub(super) struct WriteTimeoutStream<S> {
    stream: S,
    write_timeout: Duration,
    /// Runs while a write is pending.
    timer: Option<Pin<Box<Sleep>>>,
    activity: Arc<ConnectionActivity>,
}

impl<S> WriteTimeoutStream<S> {
    pub(super) fn new(stream: S, write_timeout: Duration, activity: Arc<ConnectionActivity>) -> WriteTimeoutStream<S> {
        WriteTimeoutStream { stream, write_timeout, timer: None, activity }
    }

    /// Returns the outcome of a write, or an error after the timeout.
    fn check_timeout<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.activity.record_activity();
            self.timer = None;
            return outcome;
        }
        let write_timeout = self.write_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(write_timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeoutStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if read.is_ready() {
            self.activity.record_activity();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeoutStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check_timeout(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.check_timeout(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.check_timeout(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.check_timeout(outcome, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_reads_times_out() {
        let (_far, near) = tokio::io::duplex(8);
        let mut near = WriteTimeoutStream::new(near, Duration::from_millis(1), Arc::new(ConnectionActivity::new()));
        near.write_all(b"12345678").await.unwrap();
        let error = near.write_all(b"one that is left lying").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
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
        let mut near = WriteTimeoutStream::new(near, Duration::from_secs(3600), Arc::new(ConnectionActivity::new()));
        let mut read = [0; 16];
        let (written, got) = tokio::join!(near.write_all(b"12345678abcdefgh"), far.read_exact(&mut read));
        written.unwrap();
        got.unwrap();
        assert_eq!(&read, b"12345678abcdefgh");
    }
}
