//! The ways out: what a pass hands events to, whatever kind of sink it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::SinkKind;
use crate::descriptors;
use crate::event::Event;
use crate::sink::SinkError;
use crate::sink::jsonl::JsonlSink;
use crate::sink::object_store::ObjectStoreSink;
use crate::sink::webhook::WebhookSink;

/// Requests of one webhook under way at once, where there are descriptors enough.
const IN_FLIGHT: usize = 8;
/// After so long no new request is begun, so that what has gone out is recorded soon.
const WHILE: Duration = Duration::from_secs(2);
/// How long requests that are under way may take when the daemon ends.
const GRACE: Duration = Duration::from_secs(3);

/// A way out.
pub(super) enum Outlet {
    Lines(Arc<Mutex<JsonlSink>>),
    Requests(Box<WebhookSink>),
    Objects(Arc<ObjectStoreSink>),
}

impl Outlet {
    /// As the settings say; `instance` where several replicas may write to the same folder.
    pub(super) fn new(kind: &SinkKind, instance: Option<&str>, clock: &Clock) -> Result<Outlet, SinkError> {
        Ok(match kind {
            SinkKind::Jsonl { path, rotate } => {
                Outlet::Lines(Arc::new(Mutex::new(JsonlSink::new(path, *rotate, instance))))
            }
            SinkKind::Webhook { url, secrets, timeout, allow_private } => {
                Outlet::Requests(Box::new(WebhookSink::new(url, secrets, *timeout, *allow_private, clock.clone())?))
            }
            SinkKind::ObjectStore { url, format, options } => {
                Outlet::Objects(Arc::new(ObjectStoreSink::new(url, *format, options)?))
            }
        })
    }

    /// Mends what a crash of an earlier process has left, whether or not there is anything to deliver: who reads the files
    /// does not wait for that. Where it cannot be mended, the next delivery says why.
    pub(super) async fn mend(&self) {
        if let Outlet::Lines(sink) = self {
            let sink = sink.clone();
            let mended = tokio::task::spawn_blocking(move || {
                sink.lock().unwrap_or_else(PoisonError::into_inner).mend();
            });
            let _ = mended.await;
        }
    }

    /// Hands events over, and each answer, in the events' order, to `hear`, until it says that it has heard enough. Not all
    /// need be answered: those that are not have to be sent again.
    pub(super) async fn send(
        &self,
        events: Arc<[Event]>,
        clock: &Clock,
        stop: &CancellationToken,
        mut hear: impl FnMut(usize, Result<(), SinkError>) -> bool,
    ) {
        match self {
            Outlet::Lines(sink) => {
                let count = events.len();
                match append(sink.clone(), events, clock.clone()).await {
                    Ok(()) => (0..count).for_each(|index| {
                        hear(index, Ok(()));
                    }),
                    Err(error) => {
                        hear(0, Err(error));
                    }
                }
            }
            Outlet::Requests(sink) => request(sink, &events, clock, stop, hear).await,
            // Objects are put as a whole.
            Outlet::Objects(_) => {}
        }
    }
}

async fn append(sink: Arc<Mutex<JsonlSink>>, events: Arc<[Event]>, clock: Clock) -> Result<(), SinkError> {
    let written = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        for event in events.iter() {
            lines.extend_from_slice(&event.cloud_event());
            lines.push(b'\n');
        }
        sink.lock().unwrap_or_else(PoisonError::into_inner).append(&lines, clock.now())
    });
    written.await.unwrap_or_else(|error| Err(SinkError::away(format!("failed to write: {error}"))))
}

async fn request(
    sink: &WebhookSink,
    events: &[Event],
    clock: &Clock,
    stop: &CancellationToken,
    mut hear: impl FnMut(usize, Result<(), SinkError>) -> bool,
) {
    let close = clock.tick() + WHILE;
    let most = IN_FLIGHT.min(descriptors::shares().deliveries_per_sink);
    let mut under_way = FuturesOrdered::new();
    let (mut next, mut heard) = (0, 0);
    loop {
        let closing = stop.is_cancelled() || clock.tick() >= close;
        while under_way.len() < most
            && let Some(event) = events.get(next).filter(|_| !closing)
        {
            under_way.push_back(sink.send(event));
            next += 1;
        }
        let answer = tokio::select! {
            answer = under_way.next() => answer,
            () = ended(stop, clock) => return,
        };
        let Some(answer) = answer else { return };
        if !hear(heard, answer) {
            return;
        }
        heard += 1;
    }
}

/// The daemon has been told to end, a little while ago.
async fn ended(stop: &CancellationToken, clock: &Clock) {
    stop.cancelled().await;
    tokio::time::sleep(clock.real(GRACE)).await;
}
