//! Malformed requests: the server answers or closes the connection, and continues to answer others.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Anything from random bytes to an almost valid request.
fn raw_request() -> impl Strategy<Value = Vec<u8>> {
    let line = "(GET|POST|HEAD|get|\\x00) (/|/metrics|/events|/%ff|/account/[^ ]{0,20}|\\PC{0,20}|http://x/)(\\?\\PC{0,20})? HTTP/(1\\.1|1\\.0|9)\r\n";
    let headers = "((Host|Authorization|Cookie|Content-Length|Transfer-Encoding|\\PC{0,9}): ?(localhost|-1|chunked|Bearer \\PC{0,9}|\\PC{0,30})\r\n){0,4}";
    let end = "(\r\n){0,2}\\PC{0,20}";
    prop_oneof![
        any::<Vec<u8>>(),
        (line, headers, end).prop_map(|(line, headers, end)| format!("{line}{headers}{end}").into_bytes()),
    ]
}

#[tokio::test]
async fn the_server_keeps_answering_whatever_is_sent() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    let mut runner = TestRunner::default();
    for _ in 0..200 {
        let sent = raw_request().new_tree(&mut runner).unwrap().current();
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        // Half of the clients disconnect without reading the response.
        let _ = connection.write_all(&sent).await;
        let _ = connection.shutdown().await;
        if sent.len().is_multiple_of(2) {
            let mut response = vec![0; 512];
            let read = tokio::time::timeout(Duration::from_secs(5), connection.read(&mut response)).await;
            let length = read.expect("the server answers or closes").unwrap_or(0);
            let response = String::from_utf8_lossy(&response[..length]);
            assert!(length == 0 || response.starts_with("HTTP/1."), "{response}");
            assert!(!response.contains("sentinel"), "{response}");
        }
    }
    assert_eq!(server.get("/healthz").await.status, 200);
    server.shut_down().await;
}

/// Possible field values: words, operators, markup, times, and arbitrary text.
fn field_text() -> impl Strategy<Value = String> {
    let part =
        "[a-z]{1,8}|refund\\*|-|OR|NOT|NEAR|AND|\"|'|\\(|\\)|\\*|:|;|\\^|\\{|\\}|<x>|&|--|2026-11-20|one|\\PC{0,8}| ";
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Percent-encodes as a form would, or, where `raw`, only what a request line cannot contain.
fn percent_encode(text: &str, raw: bool) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || (raw && byte.is_ascii_graphic() && byte != b'&');
    text.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }).collect()
}

#[tokio::test]
async fn every_query_with_the_token_is_answered_and_never_echoed_as_markup() {
    const FIELDS: [&str; 12] =
        ["q", "from", "to", "account", "agent", "channel", "sort", "segment", "has", "cursor", "state", "other"];
    let server = Server::start().await;
    server.own_both_accounts().await;
    let mut runner = TestRunner::default();
    let request_strategy =
        prop::collection::vec((prop::sample::select(&FIELDS[..]), field_text(), any::<bool>()), 0..5);
    let request_strategy = (
        prop::sample::select(vec![
            "/search",
            "/search",
            "/search",
            "/conversation",
            "/login",
            "/dialogs/x",
            "/queue",
            "/completeness",
        ]),
        field_text(),
        request_strategy,
    );
    let mut found = 0;
    for _ in 0..300 {
        let (path, words, fields) = request_strategy.new_tree(&mut runner).unwrap().current();
        let fields = fields.iter().map(|(name, text, raw)| format!("&{name}={}", percent_encode(text, *raw)));
        let fields = format!("q={}{}", percent_encode(&words, false), fields.collect::<String>());
        let request = format!(
            "GET {path}?{fields} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sentinel-token\r\nConnection: close\r\n\r\n"
        );
        let response = send_request(server.address, request.as_bytes()).await;
        assert!(matches!(response.status, 200 | 303 | 400 | 404), "{} to {request}", response.status);
        // An invalid request line is refused before any handler runs.
        let unread = response.status == 400 && response.body.is_empty();
        assert!(unread || response.header("content-security-policy").is_some(), "{request}");
        assert!(!response.body.contains("<x>") && !response.body.contains("sentinel"), "{request}: {}", response.body);
        found += u32::from(path == "/search" && response.status == 200);
    }
    assert!(found > 3, "only {found} searches were valid");
    server.shut_down().await;
}
