//! One client interface over all kinds of sinks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio_util::sync::CancellationToken;

use super::object_delivery::write_by_hour;
use crate::clock::Clock;
use crate::config::SinkKind;
use crate::event::Event;
use crate::file_descriptors;
use crate::sink::SinkError;
use crate::sink::json_lines::JsonlSink;
use crate::sink::object_store::ObjectStoreSink;
use crate::sink::webhook::WebhookSink;

/// The most concurrent requests to one webhook, if enough file descriptors are available.
const MAX_IN_FLIGHT_REQUESTS: usize = 8;
/// No request starts later than this in a round, so that the results are recorded soon.
const ROUND_DURATION: Duration = Duration::from_secs(2);
/// How long requests in flight may take at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// The client of one sink.
pub(super) enum SinkClient {
    Jsonl(Arc<Mutex<JsonlSink>>),
    Webhook(Box<WebhookSink>),
    ObjectStore(Arc<ObjectStoreSink>),
}

impl SinkClient {
    /// Builds the client from the settings. `instance` is set if several replicas may write to the
    /// same folder.
    pub(super) fn new(kind: &SinkKind, instance: Option<&str>, clock: &Clock) -> Result<SinkClient, SinkError> {
        Ok(match kind {
            SinkKind::Jsonl { path, rotate } => {
                SinkClient::Jsonl(Arc::new(Mutex::new(JsonlSink::new(path, *rotate, instance))))
            }
            SinkKind::Webhook { url, secrets, timeout, allow_private } => {
                SinkClient::Webhook(Box::new(WebhookSink::new(url, secrets, *timeout, *allow_private, clock.clone())?))
            }
            SinkKind::ObjectStore { url, format, options } => {
                SinkClient::ObjectStore(Arc::new(ObjectStoreSink::new(url, *format, options)?))
            }
        })
    }

    /// Removes torn lines that a crash of an earlier process left, even if there is nothing to
    /// deliver: readers of the files do not wait for a delivery. If this fails, the next delivery
    /// reports why.
    pub(super) async fn repair_files(&self) {
        if let SinkClient::Jsonl(sink) = self {
            let sink = sink.clone();
            let repaired = tokio::task::spawn_blocking(move || {
                sink.lock().unwrap_or_else(PoisonError::into_inner).repair_files();
            });
            let _ = repaired.await;
        }
    }

    /// Sends events, and passes each response to `on_response` in the order of the events, until it
    /// returns false. Events without a response must be sent again.
    pub(super) async fn send(
        &self,
        events: Arc<[Event]>,
        clock: &Clock,
        stop: &CancellationToken,
        on_response: impl FnMut(usize, Result<(), SinkError>) -> bool,
    ) {
        match self {
            SinkClient::Jsonl(sink) => {
                let count = events.len();
                respond_to_all(count, append_lines(sink.clone(), events, clock.clone()).await, on_response);
            }
            SinkClient::Webhook(sink) => send_requests(sink, &events, clock, stop, on_response).await,
            // Only retries: `object_delivery` writes new events, in objects whose bounds are stored.
            SinkClient::ObjectStore(store) => {
                respond_to_all(events.len(), write_by_hour(store, &events, "-retry").await, on_response);
            }
        }
    }
}

/// Responds for events that were written as a whole.
fn respond_to_all(
    events: usize,
    result: Result<(), SinkError>,
    mut on_response: impl FnMut(usize, Result<(), SinkError>) -> bool,
) {
    match result {
        Ok(()) => (0..events).for_each(|index| {
            on_response(index, Ok(()));
        }),
        Err(error) => {
            on_response(0, Err(error));
        }
    }
}

async fn append_lines(sink: Arc<Mutex<JsonlSink>>, events: Arc<[Event]>, clock: Clock) -> Result<(), SinkError> {
    let written = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        for event in events.iter() {
            lines.extend_from_slice(&event.cloud_event());
            lines.push(b'\n');
        }
        sink.lock().unwrap_or_else(PoisonError::into_inner).append_lines(&lines, clock.now())
    });
    written.await.unwrap_or_else(|error| Err(SinkError::unavailable(format!("failed to write: {error}"))))
}

async fn send_requests(
    sink: &WebhookSink,
    events: &[Event],
    clock: &Clock,
    stop: &CancellationToken,
    mut on_response: impl FnMut(usize, Result<(), SinkError>) -> bool,
) {
    let deadline = clock.tick() + ROUND_DURATION;
    let max_in_flight = MAX_IN_FLIGHT_REQUESTS.min(file_descriptors::socket_limits().deliveries_per_sink);
    let mut in_flight = FuturesOrdered::new();
    let (mut next, mut responses) = (0, 0);
    loop {
        let draining = stop.is_cancelled() || clock.tick() >= deadline;
        while in_flight.len() < max_in_flight
            && let Some(event) = events.get(next).filter(|_| !draining)
        {
            in_flight.push_back(sink.send(event));
            next += 1;
        }
        let response = tokio::select! {
            response = in_flight.next() => response,
            () = shutdown_grace_passed(stop, clock) => return,
        };
        let Some(response) = response else { return };
        if !on_response(responses, response) {
            return;
        }
        responses += 1;
    }
}

/// Waits for the stop signal, and then for the shutdown grace.
async fn shutdown_grace_passed(stop: &CancellationToken, clock: &Clock) {
    stop.cancelled().await;
    tokio::time::sleep(clock.real(SHUTDOWN_GRACE)).await;
}
