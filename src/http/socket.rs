//! A connection that does not wait for ever for the other side to read.
//!
//! The server bounds the time that a request's head may take; a client that asks and then reads nothing would hold its
//! place all the same. Here a write that makes no progress for too long fails, and the connection with it.

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

/// A line of the log that anybody can cause comes so often at the most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What a connection is doing, for whoever needs its place.
pub(super) struct Activity {
    clock: Clock,
    /// When bytes last went either way.
    last: Mutex<Tick>,
    /// Whether a request is being answered.
    busy: AtomicBool,
    close: CancellationToken,
}

impl Activity {
    pub(super) fn new() -> Activity {
        let clock = Clock::system();
        let last = Mutex::new(clock.tick());
        Activity { clock, last, busy: AtomicBool::new(false), close: CancellationToken::new() }
    }

    /// A request is being answered until the guard goes.
    pub(super) fn begin(self: &Arc<Activity>) -> BusyGuard {
        self.busy.store(true, Ordering::Relaxed);
        BusyGuard(self.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Relaxed) && !self.close.is_cancelled()
    }

    pub(super) fn last(&self) -> Tick {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
    }

    pub(super) fn close(&self) {
        self.close.cancel();
    }

    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }
}

/// Ends with the answer to a request.
pub(super) struct BusyGuard(Arc<Activity>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// Keeps a line of the log that anybody can cause from filling the disk.
#[derive(Default)]
pub(super) struct LogThrottle(Mutex<(Option<Tick>, u64)>);

impl LogThrottle {
    /// Whether to log now: with how many times it was not logged before.
    pub(super) fn admit(&self) -> Option<u64> {
        self.admit_at(Clock::system().tick())
    }

    fn admit_at(&self, now: Tick) -> Option<u64> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0.is_some_and(|last| now.since(last) < LOG_INTERVAL) {
            held.1 += 1;
            return None;
        }
        let unlogged = std::mem::take(&mut held.1);
        held.0 = Some(now);
        Some(unlogged)
    }
}

/// A stream whose writes fail when they stand still for longer than it has patience.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
    activity: Arc<Activity>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration, activity: Arc<Activity>) -> Patient<S> {
        Patient { stream, patience, waits: None, activity }
    }

    /// The outcome of a write, or an error where it has waited for too long.
    fn within<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.activity.touch();
            self.waits = None;
            return outcome;
        }
        let patience = self.patience;
        let waits = self.waits.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if read.is_ready() {
            self.activity.touch();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.within(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.within(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.within(outcome, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_reads_fails() {
        let (_far, near) = tokio::io::duplex(8);
        let mut near = Patient::new(near, Duration::from_millis(1), Arc::new(Activity::new()));
        near.write_all(b"12345678").await.unwrap();
        let error = near.write_all(b"one that is left lying").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_anybody_can_cause_is_logged_once_a_minute_with_how_often_it_was() {
        let throttle = LogThrottle::default();
        let at = |seconds| Tick(Duration::from_secs(seconds));
        assert_eq!(throttle.admit_at(at(1000)), Some(0));
        for _ in 0..8_100 {
            assert_eq!(throttle.admit_at(at(1059)), None);
        }
        assert_eq!((throttle.admit_at(at(1060)), throttle.admit_at(at(1060))), (Some(8_100), None));
    }

    #[tokio::test]
    async fn a_write_that_is_read_in_time_goes_through() {
        let (mut far, near) = tokio::io::duplex(8);
        let mut near = Patient::new(near, Duration::from_secs(3600), Arc::new(Activity::new()));
        let mut read = [0; 16];
        let (written, got) = tokio::join!(near.write_all(b"12345678abcdefgh"), far.read_exact(&mut read));
        written.unwrap();
        got.unwrap();
        assert_eq!(&read, b"12345678abcdefgh");
    }
}
