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
