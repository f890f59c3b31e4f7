//! Object names, options, and error messages.

use wiremock::matchers::{header, method, path, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::event::EventKind;
use crate::model::{AccountId, Artifact};
use crate::sink::SinkErrorKind;

pub(super) fn event(segment: &str) -> Event {
    Event {
        feed_seq: 1,
        account_key: 1,
        account: AccountId::new("1", "77"),
        dialog_id: None,
        segment_id: segment.to_owned(),
        ended: Some(Time(1_700_000_000_000)),
        kind: EventKind::Artifact(Artifact::Transcript),
        version: 1,
        stored: Time(1_700_000_100_000),
        metadata: "{}".to_owned(),
        body: br#"{"transcript":[]}"#.to_vec(),
        parts: Vec::new(),
    }
}

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretString> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

/// A sink whose bucket is served by this endpoint.
fn bucket_sink(endpoint: &str) -> ObjectStoreSink {
    let options = options(&[
        ("aws_endpoint", endpoint),
        ("aws_allow_http", "true"),
        ("aws_region", "eu-central-1"),
        ("aws_access_key_id", "AKIATEST"),
        ("aws_secret_access_key", "very-secret-key"),
    ]);
    ObjectStoreSink::new("s3://bucket/a/b", ObjectFormat::Jsonl, &options).unwrap()
}

async fn server_answering(status: u16, body: &str) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(status).set_body_string(body)).mount(&server).await;
    server
}

fn checked_message(error: SinkError) -> String {
    assert_eq!(error.kind, SinkErrorKind::Unavailable);
    for secret in ["very-secret-key", "AKIATEST", "X-Amz", "said by a customer"] {
        assert!(!error.message.contains(secret), "{error}");
    }
    assert!(error.hint.is_some(), "{error}");
    error.reason()
}

#[test]
fn an_object_is_named_by_its_account_its_hour_and_its_numbers() {
    let stored = Time::parse("2026-11-26T10:59:59.999Z").unwrap();
    let name = object_name("99999999", stored, 7, 12_345);
    assert_eq!(name, "99999999/2026/11/26/10/00000000000000000007-00000000000000012345");
    assert!(object_name("a/b ü%", stored, 1, 1).starts_with("a%2Fb%20%C3%BC%25/2026/"));
    assert!(object_name("..", stored, 1, 1).starts_with("%2E%2E/2026/"));
}

#[test]
fn invalid_options_and_urls_are_refused() {
    let failed = |url: &str, pairs: &[(&str, &str)]| {
        checked_message(ObjectStoreSink::new(url, ObjectFormat::Jsonl, &options(pairs)).err().unwrap())
    };
    assert!(failed("ftp://x/y", &[]).contains("no known object store"));
    assert!(failed("nonsense", &[]).contains("not a URL"));
    assert!(
        failed("s3://bucket", &[("aws_secret", "x")]).contains("option aws_secret: this store knows no such option")
    );
    assert!(failed("file:///tmp/x", &[("aws_region", "x")]).contains("a folder has no options"));
    assert!(failed("gs://bucket", &[("google_service_account_key", "very-secret-key")]).contains("service account"));
    assert!(failed("s3://bucket", &[("aws_allow_http", "very-secret-key")]).contains("failed to set up"));
}

#[test]
fn each_provider_accepts_its_own_options() {
    let new = |url: &str, pairs: &[(&str, &str)]| ObjectStoreSink::new(url, ObjectFormat::Parquet, &options(pairs));
    new("s3://bucket/prefix", &[("aws_region", "eu-central-1"), ("timeout", "10s")]).unwrap();
    new("gs://bucket/prefix", &[("google_skip_signature", "true")]).unwrap();
    let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "key");
    new("az://container/prefix", &[("azure_storage_account_name", "name"), ("azure_storage_account_key", &key)])
        .unwrap();
}

#[tokio::test]
async fn a_batch_is_written_below_the_prefix_with_its_media_type() {
    let server = MockServer::start().await;
    let lines = |request: &Request| {
        let text = String::from_utf8(request.body.clone()).unwrap();
        ResponseTemplate::new(if text.lines().count() == 2 { 200 } else { 400 }).insert_header("etag", "\"e\"")
    };
    Mock::given(method("PUT"))
        .and(path("/bucket/a/b/77%252F/x.jsonl"))
        .and(header("content-type", "application/x-ndjson"))
        .respond_with(lines)
        .expect(1)
        .mount(&server)
        .await;
    bucket_sink(&server.uri()).put("77%2F/x", &[event("s1"), event("s2")]).await.unwrap();
}

#[tokio::test]
async fn google_and_azure_are_written_to_as_well() {
    let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "very-secret-key");
    for (url, status, word) in [("gs://bucket/a", 403, "AccessDenied"), ("az://bucket/a", 404, "ContainerNotFound")] {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(201).insert_header("etag", "\"e\"");
        Mock::given(method("PUT"))
            .and(path_regex("/bucket/a(/|%2F)x(\\.|%2E)parquet$"))
            .respond_with(answer)
            .mount(&server)
            .await;
        let body = format!("<Error><Code>{word}</Code><Message>said by a customer</Message></Error>");
        let refusal = ResponseTemplate::new(status).set_body_string(body);
        Mock::given(method("PUT")).respond_with(refusal).with_priority(9).mount(&server).await;
        let uri = server.uri();
        let pairs: &[(&str, &str)] = match url.starts_with("gs") {
            true => &[("google_base_url", &uri), ("google_bearer_token", "very-secret-key"), ("allow_http", "true")],
            false => &[
                ("azure_endpoint", &uri),
                ("azure_storage_account_name", "name"),
                ("azure_storage_account_key", &key),
                ("azure_allow_http", "true"),
            ],
        };
        let sink = ObjectStoreSink::new(url, ObjectFormat::Parquet, &options(pairs)).unwrap();
        sink.put("x", &[event("s")]).await.unwrap();
        let message = checked_message(sink.put("elsewhere/x", &[event("s")]).await.unwrap_err());
        assert!(message.contains(&format!("({status} {word})")), "{message}");
    }
}

#[tokio::test]
async fn a_refusal_is_reported_with_the_stores_error_code_only() {
    let cases = [
        (403, "AccessDenied", "the credentials do not permit it (403 AccessDenied)"),
        (403, "SignatureDoesNotMatch", "it does not accept the credentials (403 SignatureDoesNotMatch)"),
        (400, "ExpiredToken", "it does not accept the credentials (400 ExpiredToken)"),
        (404, "NoSuchBucket", "it does not exist (404 NoSuchBucket)"),
        (403, "RequestTimeTooSkewed", "clock is wrong (403 RequestTimeTooSkewed)"),
        (400, "AuthorizationHeaderMalformed", "another region (400 AuthorizationHeaderMalformed)"),
        (400, "KeyTooLongError", "it refused (400 KeyTooLongError)"),
    ];
    for (status, word, expected) in cases {
        let body = format!("<Error><Code>{word}</Code><Message>X-Amz said by a customer</Message></Error>");
        let server = server_answering(status, &body).await;
        let error = bucket_sink(&server.uri()).put("x", &[event("s")]).await.unwrap_err();
        assert_eq!(error.status, Some(status));
        let message = checked_message(error);
        assert!(message.starts_with("failed to write to s3://bucket: ") && message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn a_failing_store_is_retried_a_few_times_only() {
    let server = server_answering(503, "<Error><Code>SlowDown</Code></Error>").await;
    let error = bucket_sink(&server.uri()).put("x", &[event("s")]).await.unwrap_err();
    assert!(checked_message(error).contains("it is busy (503 SlowDown)"));
    assert_eq!(server.received_requests().await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_unreachable_store_is_reported_as_such() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = format!("http://127.0.0.1:{port}");
    let message = checked_message(bucket_sink(&gone).put("x", &[event("s")]).await.unwrap_err());
    assert!(message.contains("it cannot be reached"), "{message}");
    let mut no_keys = options(&[("aws_metadata_endpoint", &gone), ("aws_allow_http", "true"), ("aws_endpoint", &gone)]);
    no_keys.insert("aws_region".to_owned(), SecretString::from("x"));
    let sink = ObjectStoreSink::new("s3://bucket", ObjectFormat::Jsonl, &no_keys).unwrap();
    let message = checked_message(sink.put("x", &[event("s")]).await.unwrap_err());
    assert!(message.contains("there are no credentials for it"), "{message}");
}
