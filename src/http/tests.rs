//! The server as a client sees it, on a port of its own, with a real database.

mod client;
mod garbage;
mod inside;
mod look;

use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::account::{Account, Live, PauseLog};
use crate::clock::{Clock, Time};
use crate::db::{Access, Db, PauseRow};
use crate::fetch::committer::Storage;
use crate::model::{AccountId, Endpoint};
use crate::ringcx::limits::Pacer;
use client::{Answer, ask, get, stream};

const NOW: Time = Time(1_800_000_000_000);

/// A server with two accounts.
struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

const SETTINGS: &str = r#"
[api]
platform_url = "http://127.0.0.1:1"
ringcx_url = "http://127.0.0.1:1"
summary_url = "http://127.0.0.1:1"
[auth]
api_token = "planted-secret"
[[accounts]]
rc_account_id = "1"
sub_account_id = "one"
name = "Support <b>EMEA</b>"
[[accounts]]
rc_account_id = "1"
sub_account_id = "two"
[http]
listen = "127.0.0.1:0"
token = "planted-token"
[database]
instance = "host-1"
"#;

impl Server {
    async fn start() -> Server {
        Server::with(SETTINGS).await
    }

    async fn with(settings: &str) -> Server {
        Server::showing(settings, async |_, _| {}).await
    }

    /// One whose database and history are prepared first.
    #[expect(clippy::disallowed_methods, reason = "a test's own task, joined by the test")]
    async fn showing(settings: &str, prepare: impl AsyncFnOnce(&Shared, &history::History)) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("local.toml");
        std::fs::write(&file, settings).unwrap();
        let settings = config::load(Some(&file), []).unwrap().settings;
        let db = Db::open_sqlite(&folder.path().join("test.db"), Access::Own).await.unwrap();
        let shared = Shared::new(settings, db, Clock::manual(NOW)).unwrap();
        let listener = bind(&shared.settings.http).await.unwrap().unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let site = Arc::new(Site::new(shared.clone(), stop.clone()));
        prepare(&shared, &site.history).await;
        let hosts = Hosts::of(address, None, None);
        let served = tokio::spawn(keep(listener, site, hosts, stop.clone()));
        Server { address, shared, stop, served, _folder: folder }
    }

    /// Has it work on both accounts.
    async fn work(&self) {
        let shared = &self.shared;
        let config::Accounts::Listed(listed) = &shared.settings.accounts else { panic!("listed") };
        let mut accounts = Vec::new();
        for listed in listed {
            let row = shared.db.enrol(&listed.id, listed.name.as_deref(), NOW).await.unwrap();
            shared.db.take(&[row.key], "host-1", Duration::from_secs(10), NOW).await.unwrap();
            accounts.push(Arc::new(Account {
                id: listed.id.clone(),
                name: listed.name.clone(),
                policy: listed.policy,
                retention_days: None,
                owned: crate::db::Owned { account: row.key, epoch: 1 },
                db: shared.db.clone(),
                api: shared.api.clone(),
                login: shared.login.clone(),
                pacer: Pacer::new(shared.settings.limits.requests_per_minute, shared.clock.clone()),
                budget: crate::daemon::shared::budget_name(&shared.settings.limits, &listed.id.sub),
                metadata: crate::daemon::shared::metadata_budget(
                    &shared.settings.limits,
                    "x",
                    &shared.db,
                    &shared.clock,
                ),
                clock: shared.clock.clone(),
                work: tokio::sync::Notify::new(),
                discover: tokio::sync::Notify::new(),
                findings: shared.findings.clone(),
                live: Live::default(),
                pauses: PauseLog::default(),
            }));
        }
        shared.set_accounts(accounts);
        shared.set_session(true);
    }

    async fn pause(&self, sub: &str, endpoint: Endpoint) {
        let db = &self.shared.db;
        let row = db.enrol(&AccountId::new("1", sub), None, NOW).await.unwrap();
        let owned = db.take(&[row.key], "host-1", Duration::from_secs(10), NOW).await.unwrap().remove(0);
        let pause = PauseRow {
            account: row.key,
            endpoint,
            since: NOW,
            until: NOW + Duration::from_secs(60),
            times: 1,
            status: Some(403),
            reason: "access.denied.exception".to_owned(),
        };
        db.pause(owned, &pause).await.unwrap();
    }

    async fn get(&self, path: &str) -> Answer {
        get(self.address, path).await
    }

    /// The first answer that is as it should be: what was looked at a moment ago may count for another.
    async fn until(&self, path: &str, good: impl Fn(&Answer) -> bool) -> Answer {
        let answers = async {
            loop {
                let answer = self.get(path).await;
                if good(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answers).await.expect("it comes to be so")
    }

    /// Ends it, and makes sure that this is quick.
    async fn end(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.served).await;
        ended.expect("it ends within two seconds").unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_every_path_with_what_belongs_there() {
    let server = Server::start().await;
    server.work().await;
    let health = server.get("/healthz").await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok"));
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)));
    let status = server.get("/api/status").await.json();
    assert_eq!((&status["instance"], &status["accounts"][0]["sub_account_id"]), (&"host-1".into(), &"one".into()));
    assert!(status["accounts"][0]["watermark"].is_null());
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.body.contains("\nringcx_database_up 1.0\n"), "{}", metrics.body);
    assert!(metrics.body.contains("\nringcx_search_index_lag_seconds 0.0\n"), "{}", metrics.body);
    assert!(metrics.body.contains("ringcx_request_limit{sub_account=\"two\"} 120"), "{}", metrics.body);
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("Support &lt;b&gt;EMEA&lt;/b&gt;") && !page.body.contains("<b>"));
    assert_eq!(server.get("/nothing").await.status, 404);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_marked_and_none_holds_a_secret() {
    let server = Server::start().await;
    server.work().await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/api/status", "/nothing"] {
        let answer = server.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none'"), "{path}");
        assert!(!answer.body.contains("planted"), "{path}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_and_other_hosts_are_refused() {
    let server = Server::start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"] {
        let request =
            format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let answer = ask(server.address, request.as_bytes()).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let head = ask(server.address, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let under = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for path in ["/", "/events", "/api/status"] {
        assert_eq!(ask(server.address, under(path, "evil.example:8480").as_bytes()).await.status, 421, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics", "/nothing"] {
        assert_eq!(ask(server.address, under(path, "evil.example").as_bytes()).await.status, 421, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let unnamed = format!("GET {path} HTTP/1.0\r\n\r\n");
        assert_eq!(ask(server.address, unnamed.as_bytes()).await.status, 200, "{path}");
    }
    let two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_ne!(ask(server.address, two).await.status, 200);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_too_large_a_head_is_refused() {
    let server = Server::start().await;
    let request = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(64 * 1024));
    assert!((400..500).contains(&ask(server.address, request.as_bytes()).await.status));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_while_the_database_takes_no_results() {
    let server = Server::start().await;
    server.work().await;
    server.shared.set_storage(Storage::Away("database or disk is full".to_owned()));
    let answer = server.get("/readyz").await;
    assert_eq!((answer.status, &answer.json()["reasons"][0]["what"]), (503, &"disk".into()));
    let page = server.get("/").await.body;
    assert!(page.contains("In trouble") && page.contains("database or disk is full"), "{page}");
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("\nringcx_database_up 0.0\n"), "{metrics}");
    server.shared.set_storage(Storage::Ok);
    assert_eq!(server.get("/readyz").await.status, 200);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_when_the_database_is_gone_and_still_shows_what_it_last_knew() {
    let server = Server::start().await;
    server.work().await;
    assert!(server.get("/").await.body.contains("data-key=\"one\""));
    server.shared.db.close().await;
    let answer = server.until("/readyz", |answer| answer.status == 503).await;
    assert_eq!(answer.json()["reasons"][0]["what"], "database");
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/api/status").await.status, 503);
    let page = server.get("/").await.body;
    assert!(page.contains("In trouble") && page.contains("data-key=\"one\""), "{page}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_when_every_account_is_paused() {
    let server = Server::start().await;
    server.work().await;
    server.pause("one", Endpoint::Metadata).await;
    // A machine under load may answer 503 in between: its database was slow.
    let one = server.until("/readyz", |answer| answer.status == 200 && !answer.json()["paused"][0].is_null()).await;
    assert_eq!(one.json()["paused"][0]["account"], "one");
    server.pause("two", Endpoint::Metadata).await;
    let all = server.until("/readyz", |answer| answer.status == 503).await;
    assert_eq!(all.json()["reasons"][0]["what"], "accounts");
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("ringcx_paused{sub_account=\"two\",endpoint=\"metadata\"} 1"), "{metrics}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_waits_for_its_turn_is_ready() {
    let server = Server::start().await;
    let answer = server.get("/readyz").await;
    let reasons = answer.json()["reasons"].as_array().cloned().unwrap();
    assert!(answer.status == 200 && reasons.iter().any(|reason| reason["what"] == "leases"), "{reasons:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stop_ends_streams_and_idle_connections() {
    let server = Server::start().await;
    server.work().await;
    let mut watching = stream(server.address, "/events").await;
    let first = watching.event().await.unwrap();
    assert_eq!((first["full"].as_bool(), first["rows"].as_object().unwrap().len()), (Some(true), 2));
    let idle = tokio::net::TcpStream::connect(server.address).await.unwrap();
    server.end().await;
    assert_eq!(watching.event().await, None);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_can_watch_and_a_seat_is_free_again_when_one_leaves() {
    let server = Server::start().await;
    let mut watching = Vec::new();
    for _ in 0..site::VIEWERS {
        watching.push(stream(server.address, "/events").await);
    }
    let refused = server.get("/events").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    watching.pop();
    // The server notices when it next writes.
    while server.get("/events?probe").await.status == 503 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(watching);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a test's own task, joined by the test")]
async fn a_connection_that_waits_gets_the_place_of_one_that_becomes_idle_later() {
    const PLACES: usize = 2;
    let (asked, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (begun, ends) = (asked.clone(), release.clone());
    let slow = async move || {
        begun.add_permits(1);
        let _permit = ends.acquire().await;
        "slow"
    };
    let router =
        Router::new().route("/slow", axum::routing::get(slow)).route("/fast", axum::routing::get(async || "fast"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let until = stop.clone();
    let served = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        accept(&listener, PLACES, router, &mut connections, &until).await;
    });
    let request = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let held = [request("/slow").await, request("/slow").await];
    let _begun = asked.acquire_many(PLACES as u32).await.unwrap();
    let mut late = request("/fast").await;
    // So that it waits for a place by then, on a machine that is not too busy.
    tokio::time::sleep(Duration::from_millis(50)).await;
    release.add_permits(PLACES);
    let mut answer = [0; 12];
    let answered = tokio::time::timeout(Duration::from_secs(5), late.read_exact(&mut answer)).await;
    answered.expect("a place").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(held);
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let error = bind(&config::Http { listen: Some(listen.clone()), token: None }).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(&format!("http.listen = \"{listen}\"")) && message.contains("hint: another program"),
        "{message}"
    );
    assert!(bind(&config::Http { listen: None, token: None }).await.unwrap().is_none());
}
