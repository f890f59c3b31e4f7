//! A span for each important transaction, at level debug: its operation, the number of rows that it was
//! given, and how long it took. It never holds content.

use tracing::Span;
use tracing::field::Empty;

use crate::clock::{Clock, Tick};

/// The span of a transaction, from before it waits for a connection until it is dropped. Only the
/// closing line is logged within it.
pub(crate) struct TransactionSpan {
    span: Span,
    started: (Clock, Tick),
}

impl TransactionSpan {
    /// Starts the span; `None` if spans of this level are disabled.
    pub(crate) fn start(operation: &'static str, rows: usize) -> Option<TransactionSpan> {
        let span = tracing::debug_span!("transaction", operation, rows, duration_ms = Empty);
        (!span.is_disabled()).then(|| {
            let clock = Clock::system();
            let tick = clock.tick();
            TransactionSpan { span, started: (clock, tick) }
        })
    }
}

impl Drop for TransactionSpan {
    fn drop(&mut self) {
        let (clock, tick) = &self.started;
        self.span.record("duration_ms", u64::try_from(clock.tick().since(*tick).as_millis()).unwrap_or(u64::MAX));
        self.span.in_scope(|| tracing::debug!("transaction ended"));
    }
}
