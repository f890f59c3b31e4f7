//! The client of a sink: one that accepts batches as a whole, one that gets a request an event, or one
//! that keeps tables.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::lake_delivery::LakeDelivery;
use super::object_delivery::write_by_hour;
use super::unit_builder::UnitRule;
use super::webhook_delivery::WebhookDelivery;
use crate::clock::Clock;
use crate::config::SinkKind;
use crate::event::{Event, EventKind};
use crate::sink::SinkError;
use crate::sink::json_lines::JsonlSink;
use crate::sink::object_store::ObjectStoreSink;
use crate::sink::webhook::WebhookSink;

/// The client of one sink.
pub(super) enum SinkClient {
    Batch(BatchClient),
    Webhook(Box<WebhookDelivery>),
    Lake(Box<LakeDelivery>),
}

/// The client of a sink that accepts a batch as a whole.
pub(super) enum BatchClient {
    Jsonl(Arc<Mutex<JsonlSink>>),
    ObjectStore(Arc<ObjectStoreSink>),
}

impl SinkClient {
    /// Builds the client from the settings. `instance` is set if several replicas may write to the
    /// same folder.
    pub(super) fn new(kind: &SinkKind, instance: Option<&str>, clock: &Clock) -> Result<SinkClient, SinkError> {
        Ok(match kind {
            SinkKind::Jsonl { path, rotate } => {
                SinkClient::Batch(BatchClient::Jsonl(Arc::new(Mutex::new(JsonlSink::new(path, *rotate, instance)))))
            }
            SinkKind::Webhook(settings) => {
                let rule = UnitRule { unit: settings.unit, settle_after: settings.settle_after };
                SinkClient::Webhook(Box::new(WebhookDelivery::new(WebhookSink::new(settings, clock.clone())?, rule)))
            }
            SinkKind::ObjectStore { url, format, options } => {
                SinkClient::Batch(BatchClient::ObjectStore(Arc::new(ObjectStoreSink::new(url, *format, options)?)))
            }
            SinkKind::Lake(settings) => SinkClient::Lake(Box::new(LakeDelivery::new(settings)?)),
        })
    }
}

impl BatchClient {
    /// Removes torn lines that a crash of an earlier process left, even if there is nothing to
    /// deliver: readers of the files do not wait for a delivery. If this fails, the next delivery
    /// reports why.
    pub(super) async fn repair_files(&self) {
        if let BatchClient::Jsonl(sink) = self {
            let sink = sink.clone();
            let repaired = tokio::task::spawn_blocking(move || {
                sink.lock().unwrap_or_else(PoisonError::into_inner).repair_files();
            });
            let _ = repaired.await;
        }
    }

    /// Writes events as a whole. The names of objects end with `suffix`.
    pub(super) async fn write(&self, events: &[Event], suffix: &str, clock: &Clock) -> Result<(), SinkError> {
        match self {
            _ if events.is_empty() => Ok(()),
            BatchClient::Jsonl(sink) => append_lines(sink.clone(), events, clock.clone()).await,
            BatchClient::ObjectStore(store) => write_by_hour(store, events, suffix).await,
        }
    }
}

async fn append_lines(sink: Arc<Mutex<JsonlSink>>, events: &[Event], clock: Clock) -> Result<(), SinkError> {
    let events = events.to_vec();
    let written = tokio::task::spawn_blocking(move || {
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let erased = events.iter().filter(|event| matches!(event.kind, EventKind::Erased(_)));
        let erased: BTreeSet<(String, String)> =
            erased.map(|event| (event.account.sub.to_string(), event.segment_id.clone())).collect();
        if !erased.is_empty() {
            sink.remove_segments(&erased)?;
        }
        let mut lines = Vec::new();
        for event in &events {
            lines.extend_from_slice(&event.cloud_event());
            lines.push(b'\n');
        }
        sink.append_lines(&lines, clock.now())
    });
    written.await.unwrap_or_else(|error| Err(SinkError::unavailable(format!("failed to write: {error}"))))
}
