//! `deliver test`: sends one event that is marked as a test, and prints what came back.

use std::path::Path;

use crate::cli::terminal;
use crate::clock::Clock;
use crate::config::{ObjectFormat, Settings, SinkKind};
use crate::error::UserError;
use crate::event::Event;
use crate::render::{clean_line, decode_utf8};
use crate::sink::SinkError;
use crate::sink::json_lines::write_test_file;
use crate::sink::object_store::ObjectStoreSink;
use crate::sink::webhook::WebhookSink;

/// How much of an answer is printed.
const MAX_ANSWER_CHARS: usize = 2_000;

/// Sends a test event. Returns exit status 1 if the sink did not accept it.
pub(super) async fn send_test_event(name: &str, settings: &Settings, clock: &Clock) -> anyhow::Result<u8> {
    let Some(sink) = settings.sinks.iter().find(|sink| sink.name == name) else { return Ok(1) };
    let event = Event::test(clock.now());
    let result = match &sink.kind {
        SinkKind::Jsonl { path, .. } => write_line(path, &event).await,
        SinkKind::Webhook(webhook) => match WebhookSink::new(webhook, clock.clone()) {
            Ok(webhook) => send_request(&webhook, &event, clock).await?,
            Err(error) => Err(error),
        },
        SinkKind::ObjectStore { url, format, options } => {
            put_object(ObjectStoreSink::new(url, *format, options), &event).await
        }
        SinkKind::Lake(lake) => {
            put_object(ObjectStoreSink::new(&lake.url, ObjectFormat::Parquet, &lake.options), &event).await
        }
    };
    match result {
        Ok(done) => {
            terminal::print_stdout(&format!("{done}\nsink {name} accepted the test event {}\n", event.id()))?;
            Ok(0)
        }
        Err(error) => {
            let failed = UserError::failed(format!("sink {name} did not accept the test event: {}", error.message));
            Err(match error.hint {
                Some(hint) => failed.with_hint(hint),
                None => failed,
            }
            .into())
        }
    }
}

/// Writes it as an object.
async fn put_object(store: Result<ObjectStoreSink, SinkError>, event: &Event) -> Result<String, SinkError> {
    let name = format!("test/{}", event.id());
    store?.put(&name, std::slice::from_ref(event)).await.map(|()| format!("wrote the object {name}"))
}

/// Sends it, and prints the answer.
async fn send_request(
    webhook: &WebhookSink,
    event: &Event,
    clock: &Clock,
) -> anyhow::Result<Result<String, SinkError>> {
    let begun = clock.tick();
    let answer = match webhook.exchange(event).await {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(error)),
    };
    let took = clock.tick().since(begun).as_millis();
    let body: String = clean_line(&decode_utf8(&answer.body)).chars().take(MAX_ANSWER_CHARS).collect();
    let body = if body.is_empty() { "without a body".to_owned() } else { format!("with the body: {body}") };
    let line = format!("answer {} after {took} ms, {body}", answer.status);
    if answer.result.is_err() {
        terminal::print_stdout(&format!("{line}\n"))?;
    }
    Ok(answer.result.map(|()| line))
}

/// Writes the event to a file of its own: the daemon may be writing to the others.
async fn write_line(folder: &Path, event: &Event) -> Result<String, SinkError> {
    let (folder, mut line) = (folder.to_owned(), event.cloud_event());
    line.push(b'\n');
    let written = tokio::task::spawn_blocking(move || write_test_file(&folder, &line)).await;
    let path = written.map_err(|error| SinkError::unavailable(format!("failed to write: {error}")))??;
    Ok(format!("wrote {}", path.display()))
}
