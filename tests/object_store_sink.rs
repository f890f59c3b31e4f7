//! The object store sink: objects in a folder are whole, private, replaced by a retry, and read back unchanged.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use ringcx_extractor::clock::Time;
use ringcx_extractor::config::ObjectFormat;
use ringcx_extractor::event::{Event, EventKind};
use ringcx_extractor::model::{AccountId, Artifact};
use ringcx_extractor::sink::SinkErrorKind;
use ringcx_extractor::sink::object_store::{ObjectStoreSink, object_name};

const STORED_AT: Time = Time(1_764_150_000_123);

fn folder_sink(folder: &Path, format: ObjectFormat) -> ObjectStoreSink {
    let url = format!("file://{}/some%20events", folder.display());
    ObjectStoreSink::new(&url, format, &BTreeMap::new()).unwrap()
}

fn event_of(segment: &str, artifact: Artifact, body: &str) -> Event {
    Event {
        feed_seq: 1,
        account_key: 1,
        account: AccountId::new("980634004", "99999999"),
        dialog_id: Some("dia-1".to_owned()),
        segment_id: segment.to_owned(),
        ended: None,
        kind: EventKind::Artifact(artifact),
        version: 3,
        stored: STORED_AT,
        metadata: r#"{"big":12345678901234567890,"one":1.0}"#.to_owned(),
        body: body.as_bytes().to_vec(),
        parts: Vec::new(),
    }
}

fn sample_events() -> Vec<Event> {
    vec![
        event_of("s1", Artifact::Transcript, "\u{feff}{\"transcript\":[\n{\"message\":\"naïve\"}]}"),
        event_of("s2", Artifact::AgentSummary, r#""a \u00fc""#),
        event_of("s3", Artifact::AutoSummary, "plain\0"),
    ]
}

fn file_paths(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(file_paths(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

/// A row as JSON, times in milliseconds.
fn row_as_json(row: &Row) -> serde_json::Value {
    let value = |field: &Field| match field {
        Field::Null => serde_json::Value::Null,
        Field::Str(text) => text.as_str().into(),
        Field::Long(number) | Field::TimestampMillis(number) => (*number).into(),
        other => panic!("unexpected field {other:?}"),
    };
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn a_batch_is_one_private_file_and_a_retry_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let sink = folder_sink(folder.path(), ObjectFormat::Jsonl);
    let name = object_name("99999999", STORED_AT, 1, 3);
    sink.put(&name, &sample_events()[..1]).await.unwrap();
    sink.put(&name, &sample_events()).await.unwrap();
    let path = folder.path().join("some events").join(format!("{name}.jsonl"));
    assert_eq!(file_paths(folder.path()), [path.display().to_string()]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o077, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.ends_with('\n'));
    let ids: Vec<String> = text
        .lines()
        .map(|line| {
            ringcx_extractor::lenient_json::from_str::<serde_json::Value>(line).unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(ids, sample_events().iter().map(|event| event.id().to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_parquet_object_reads_back_field_for_field() {
    let folder = tempfile::tempdir().unwrap();
    folder_sink(folder.path(), ObjectFormat::Parquet).put("99999999/x", &sample_events()).await.unwrap();
    let file = File::open(folder.path().join("some events/99999999/x.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(|row| row_as_json(&row.unwrap())).collect();
    let bodies = ["{\"transcript\":[ {\"message\":\"naïve\"}]}", "a ü", "plain"];
    assert_eq!(rows.len(), bodies.len());
    for ((row, event), body) in rows.iter().zip(sample_events()).zip(bodies) {
        let expected = serde_json::json!({
            "id": event.id().to_string(), "rc_account_id": "980634004", "sub_account_id": "99999999",
            "dialog_id": "dia-1", "segment_id": event.segment_id, "segment_end": null,
            "artifact": event.kind.name(), "version": 3, "stored_at": STORED_AT.0,
            "metadata": event.metadata, "body": body,
        });
        assert_eq!(*row, expected);
    }
}

#[tokio::test]
async fn a_name_cannot_lead_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let error = folder_sink(folder.path(), ObjectFormat::Jsonl).put("../x", &sample_events()).await.unwrap_err();
    assert_eq!(error.kind, SinkErrorKind::Unavailable);
    assert_eq!(file_paths(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("some events"), "a file").unwrap();
    let error = folder_sink(folder.path(), ObjectFormat::Jsonl).put("x", &sample_events()).await.unwrap_err();
    assert_eq!(error.kind, SinkErrorKind::Unavailable);
    let path = folder.path().join("some events").display().to_string();
    assert!(error.message.starts_with(&format!("failed to write below {path}: ")), "{error}");
    assert!(error.hint.is_some(), "{error}");
}

/// Ignored by default, because it needs a server. `S3_ENDPOINT=http://127.0.0.1:5000 cargo test --test object_store_sink -- --ignored`
/// with one such as `moto_server`, and a bucket `lake` in it.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_bucket_takes_both_formats_and_a_retry_replaces() {
    let endpoint = std::env::var("S3_ENDPOINT").unwrap();
    let options = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect::<BTreeMap<_, _>>()
    };
    let keys = options(&[
        ("aws_endpoint", &endpoint),
        ("aws_allow_http", "true"),
        ("aws_region", "us-east-1"),
        ("aws_access_key_id", "test"),
        ("aws_secret_access_key", "test"),
    ]);
    let name = object_name("a/b", STORED_AT, 1, 3);
    for format in [ObjectFormat::Jsonl, ObjectFormat::Parquet] {
        let sink = ObjectStoreSink::new("s3://lake/some/prefix", format, &keys).unwrap();
        sink.put(&name, &sample_events()[..1]).await.unwrap();
        sink.put(&name, &sample_events()).await.unwrap();
        let mut large = sample_events();
        // Pseudo-random, so that it does not compress.
        let noise =
            std::iter::successors(Some(1_u64), |n| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
        large[2].body = noise.take(20 << 20).map(|n| b'a' + u8::try_from(n >> 60).unwrap()).collect();
        sink.put("large", &large).await.unwrap();
    }
    let sink = ObjectStoreSink::new("s3://nowhere", ObjectFormat::Jsonl, &keys).unwrap();
    let error = sink.put(&name, &sample_events()).await.unwrap_err();
    println!("{error}");
    assert_eq!(error.status, Some(404));
}
