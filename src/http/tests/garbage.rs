//! What no client should send: the server answers, or closes, and goes on answering others.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Anything from noise to what is nearly a request.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let line = "(GET|POST|HEAD|get|\\x00) (/|/metrics|/events|/%ff|/account/[^ ]{0,20}|\\PC{0,20}|http://x/)(\\?\\PC{0,20})? HTTP/(1\\.1|1\\.0|9)\r\n";
    let headers = "((Host|Authorization|Cookie|Content-Length|Transfer-Encoding|\\PC{0,9}): ?(localhost|-1|chunked|Bearer \\PC{0,9}|\\PC{0,30})\r\n){0,4}";
    let end = "(\r\n){0,2}\\PC{0,20}";
    prop_oneof![
        any::<Vec<u8>>(),
        (line, headers, end).prop_map(|(line, headers, end)| format!("{line}{headers}{end}").into_bytes()),
    ]
}

#[tokio::test]
async fn whatever_is_sent_the_server_goes_on_answering() {
    let server = Server::start().await;
    server.work().await;
    let mut runner = TestRunner::default();
    for _ in 0..200 {
        let sent = anything().new_tree(&mut runner).unwrap().current();
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        // Half of them go away without waiting for what comes.
        let _ = connection.write_all(&sent).await;
        let _ = connection.shutdown().await;
        if sent.len().is_multiple_of(2) {
            let mut answer = vec![0; 512];
            let read = tokio::time::timeout(Duration::from_secs(5), connection.read(&mut answer)).await;
            let length = read.expect("it answers or closes").unwrap_or(0);
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(length == 0 || answer.starts_with("HTTP/1."), "{answer}");
            assert!(!answer.contains("planted"), "{answer}");
        }
    }
    assert_eq!(server.get("/healthz").await.status, 200);
    server.end().await;
}

/// What may stand in a field: words, operators, markup, times, and whatever else.
fn field() -> impl Strategy<Value = String> {
    let part =
        "[a-z]{1,8}|refund\\*|-|OR|NOT|NEAR|AND|\"|'|\\(|\\)|\\*|:|;|\\^|\\{|\\}|<x>|&|--|2026-11-20|one|\\PC{0,8}| ";
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// As a form would send it, or, where `raw`, only as far as a request's first line can hold it.
fn written(text: &str, raw: bool) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || (raw && byte.is_ascii_graphic() && byte != b'&');
    text.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }).collect()
}

#[tokio::test]
async fn whatever_those_who_know_the_token_ask_for_is_answered_and_never_comes_back_as_markup() {
    const FIELDS: [&str; 9] = ["q", "from", "to", "account", "agent", "channel", "newest", "segment", "other"];
    let server = Server::start().await;
    server.work().await;
    let mut runner = TestRunner::default();
    let asked = prop::collection::vec((prop::sample::select(&FIELDS[..]), field(), any::<bool>()), 0..5);
    let asked = (prop::sample::select(vec!["/search", "/conversation", "/login"]), field(), asked);
    let mut found = 0;
    for _ in 0..300 {
        let (path, words, fields) = asked.new_tree(&mut runner).unwrap().current();
        let fields = fields.iter().map(|(name, text, raw)| format!("&{name}={}", written(text, *raw)));
        let fields = format!("q={}{}", written(&words, false), fields.collect::<String>());
        let request = format!(
            "GET {path}?{fields} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer planted-token\r\nConnection: close\r\n\r\n"
        );
        let answer = ask(server.address, request.as_bytes()).await;
        assert!(matches!(answer.status, 200 | 303 | 400 | 404), "{} to {request}", answer.status);
        // A first line that is none is refused before anybody looks at it.
        let unread = answer.status == 400 && answer.body.is_empty();
        assert!(unread || answer.header("content-security-policy").is_some(), "{request}");
        assert!(!answer.body.contains("<x>") && !answer.body.contains("planted"), "{request}: {}", answer.body);
        found += u32::from(path == "/search" && answer.status == 200);
    }
    assert!(found > 10, "only {found} searches were understood");
    server.end().await;
}
