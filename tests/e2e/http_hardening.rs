//! Hardening of the daemon's HTTP server, through the real binary: slow, large and numerous clients, pages of other sites, and
//! foreign host names. Other clients are answered meanwhile, and the daemon's work continues.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::sim::SECRET_MARK;
use support::test_env::{Scenario, TempDatabase, TestEnv, WAIT_TIMEOUT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

crate::e2e! {
    slow_large_and_many_clients_hold_up_nobody_for_long,
    what_another_site_makes_a_browser_send_is_refused,
}

/// More clients than the server has connections for.
const CLIENT_COUNT: usize = 300;

struct DaemonUnderTest {
    env: TestEnv,
    address: String,
}

async fn start_daemon(database: TempDatabase) -> DaemonUnderTest {
    let scenario =
        Scenario::history().set("http.listen", "127.0.0.1:0").set("http.token", format!("{SECRET_MARK}-http-token"));
    let env = TestEnv::with_daemon(database, scenario).await;
    let address = env.dashboard_url().await;
    DaemonUnderTest { address: address.trim_start_matches("http://").trim_end_matches('/').to_owned(), env }
}

impl DaemonUnderTest {
    /// Sends these bytes; returns everything received until the connection ends.
    async fn send_raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(request).await;
        read_to_end(&mut stream).await
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        self.send_raw(format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").as_bytes()).await
    }
}

/// Everything received until the other side closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset also ends the connection.
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(WAIT_TIMEOUT, read).await.expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn slow_large_and_many_clients_hold_up_nobody_for_long(database: TempDatabase) {
    let mut daemon = start_daemon(database).await;
    // More clients than connections start a request and never end it. Two more send a byte at a time.
    let mut idle = Vec::new();
    for _ in 0..CLIENT_COUNT {
        let mut stream = TcpStream::connect(&daemon.address).await.unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: loc").await;
        idle.push(stream);
    }
    let mut slow = JoinSet::new();
    for request in [
        "GET /healthz HTTP/1.1\r\nx: ".to_owned(),
        "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\ncontent-type: application/x-www-form-urlencoded\r\n\r\n"
            .to_owned(),
    ] {
        let address = daemon.address.clone();
        slow.spawn(async move {
            let (mut reader, mut writer) = TcpStream::connect(&address).await.unwrap().into_split();
            writer.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 200];
            tokio::select! {
                read = reader.read(&mut answer) => {
                    let read = read.unwrap_or(0);
                    String::from_utf8_lossy(&answer[..read]).into_owned()
                }
                () = async {
                    while writer.write_all(b"x").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    std::future::pending().await
                } => unreachable!("the writer never ends"),
            }
        });
    }
    // Another client gets a connection, because the slow ones time out.
    let honest = daemon.get("/healthz", "host: localhost\r\n").await;
    assert!(honest.starts_with("HTTP/1.1 200 "), "{honest}");
    while let Some(answer) = slow.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    for stream in &mut idle {
        let answer = read_to_end(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    // A path, a header, a number of headers and a form that are too large are refused without being read to the end.
    let long = "a".repeat(1 << 20);
    let many = (0..1000).map(|number| format!("x-{number}: 1\r\n")).collect::<String>();
    let requests = [
        format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"),
        format!(
            "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: 8388608\r\n\r\ntoken={}",
            long.repeat(8)
        ),
    ];
    for request in requests {
        let answer = daemon.send_raw(request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    daemon.env.expect_complete_archive().await;
    let peak = daemon.env.peak_memory_kb();
    assert!(peak < 200 * 1024, "{peak} kB at its peak");
    daemon.env.stop().await;
}

async fn what_another_site_makes_a_browser_send_is_refused(database: TempDatabase) {
    let mut daemon = start_daemon(database).await;
    // DNS rebinding: a site whose name resolves to this machine.
    for path in ["/", "/events", "/api/status", "/search", "/conversation", "/login"] {
        let answer = daemon.get(path, "host: evil.example\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
        let answer = daemon.get(path, "host: localhost.evil.example\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
    }
    // Cross-site requests: a form, and a script's request.
    let token = format!("token={SECRET_MARK}-http-token");
    let form = |headers: &str| {
        format!(
            "POST /login HTTP/1.1\r\nhost: localhost\r\n{headers}content-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{token}",
            token.len()
        )
    };
    for headers in ["origin: http://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"] {
        let answer = daemon.send_raw(form(headers).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("set-cookie"), "{headers}: {answer}");
    }
    let own = daemon.send_raw(form("origin: http://localhost\r\nsec-fetch-site: same-origin\r\n").as_bytes()).await;
    assert!(own.starts_with("HTTP/1.1 303 "), "{own}");
    let cookie = own.lines().find(|line| line.starts_with("set-cookie: ")).unwrap().to_owned();
    for word in ["HttpOnly", "SameSite=Strict"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(!cookie.contains(SECRET_MARK), "{cookie}");
    let preflight = daemon
        .send_raw(b"OPTIONS /api/status HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\naccess-control-request-method: GET\r\nconnection: close\r\n\r\n")
        .await;
    assert!(preflight.starts_with("HTTP/1.1 405 "), "{preflight}");
    let session = cookie.trim_start_matches("set-cookie: ").split(';').next().unwrap();
    let pages = ["/", "/api/status", "/search?q=parcel", "/login", "/metrics", "/readyz", "/healthz", "/nothing"];
    for path in pages {
        let headers = format!("host: localhost\r\norigin: http://evil.example\r\ncookie: {session}\r\n");
        let answer = daemon.get(path, &headers).await.to_lowercase();
        let head = answer.split("\r\n\r\n").next().unwrap();
        for held in [
            "content-security-policy: default-src 'none'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            assert!(head.contains(held), "{path} has no {held}: {head}");
        }
        let policy = head.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
        assert!(!policy.contains("unsafe-") && !policy.contains("http:") && !policy.contains('*'), "{path}: {policy}");
        assert!(!head.contains("access-control-"), "{path}: {head}");
    }
    daemon.env.expect_complete_archive().await;
    daemon.env.stop().await;
}
