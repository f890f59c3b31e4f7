//! The daemon's own HTTP server against those who mean harm, through the real binary: clients that are slow, large or many,
//! other sites' pages, other names for this machine. Whatever they do, the others are answered and the daemon's work goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::sim::SECRET_MARK;
use support::daemon::{PATIENCE, Place, Plan, Rig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

crate::e2e! {
    slow_large_and_many_clients_hold_up_nobody_for_long,
    what_another_site_makes_a_browser_send_is_refused,
}

/// More than the server has places for.
const MANY: usize = 300;

struct Server {
    rig: Rig,
    address: String,
}

async fn server(place: Place) -> Server {
    let plan = Plan::history().set("http.listen", "127.0.0.1:0").set("http.token", format!("{SECRET_MARK}-http-token"));
    let rig = Rig::started(place, plan).await;
    let address = rig.dashboard().await;
    Server { address: address.trim_start_matches("http://").trim_end_matches('/').to_owned(), rig }
}

impl Server {
    /// What is answered to these bytes, up to the end of the connection.
    async fn answer(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        // It may hang up before it has read all.
        let _ = stream.write_all(request).await;
        rest(&mut stream).await
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        self.answer(format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").as_bytes()).await
    }
}

/// All that comes until the other side hangs up, which it does.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well.
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("the server hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn slow_large_and_many_clients_hold_up_nobody_for_long(place: Place) {
    let mut server = server(place).await;
    // More clients than there are places begin a request and never end it; one of them keeps dripping.
    let mut idle = Vec::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: loc").await;
        idle.push(stream);
    }
    let mut slow = JoinSet::new();
    for request in [
        "GET /healthz HTTP/1.1\r\nx: ".to_owned(),
        "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\ncontent-type: application/x-www-form-urlencoded\r\n\r\n"
            .to_owned(),
    ] {
        let address = server.address.clone();
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
                } => unreachable!("it waits for ever"),
            }
        });
    }
    // Others wait for a place, and get one: those who hold them are shown the door.
    let honest = server.get("/healthz", "host: localhost\r\n").await;
    assert!(honest.starts_with("HTTP/1.1 200 "), "{honest}");
    while let Some(answer) = slow.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    for stream in &mut idle {
        let answer = rest(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    // Too large a path, a header, a number of headers, a form: refused, not read to the end.
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
        let answer = server.answer(request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    server.rig.settled().await;
    let peak = server.rig.peak_memory();
    assert!(peak < 200 * 1024, "{peak} kB at its peak");
    server.rig.stop().await;
}

async fn what_another_site_makes_a_browser_send_is_refused(place: Place) {
    let mut server = server(place).await;
    // A site that points its own name at this machine.
    for path in ["/", "/events", "/api/status", "/search", "/conversation", "/login"] {
        let answer = server.get(path, "host: evil.example\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
        let answer = server.get(path, "host: localhost.evil.example\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
    }
    // A page that sends a form, or asks for something from a script.
    let token = format!("token={SECRET_MARK}-http-token");
    let form = |headers: &str| {
        format!(
            "POST /login HTTP/1.1\r\nhost: localhost\r\n{headers}content-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{token}",
            token.len()
        )
    };
    for headers in ["origin: http://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"] {
        let answer = server.answer(form(headers).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("set-cookie"), "{headers}: {answer}");
    }
    let own = server.answer(form("origin: http://localhost\r\nsec-fetch-site: same-origin\r\n").as_bytes()).await;
    assert!(own.starts_with("HTTP/1.1 303 "), "{own}");
    let cookie = own.lines().find(|line| line.starts_with("set-cookie: ")).unwrap().to_owned();
    for word in ["HttpOnly", "SameSite=Strict"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(!cookie.contains(SECRET_MARK), "{cookie}");
    let preflight = server
        .answer(b"OPTIONS /api/status HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\naccess-control-request-method: GET\r\nconnection: close\r\n\r\n")
        .await;
    assert!(preflight.starts_with("HTTP/1.1 405 "), "{preflight}");
    let session = cookie.trim_start_matches("set-cookie: ").split(';').next().unwrap();
    let pages = ["/", "/api/status", "/search?q=parcel", "/login", "/metrics", "/readyz", "/healthz", "/nothing"];
    for path in pages {
        let headers = format!("host: localhost\r\norigin: http://evil.example\r\ncookie: {session}\r\n");
        let answer = server.get(path, &headers).await.to_lowercase();
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
    server.rig.settled().await;
    server.rig.stop().await;
}
